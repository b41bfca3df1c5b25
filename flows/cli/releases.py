"""The part of the `epoxy` command that is about releases; flows/cli/main.py adds it to the rest."""

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.runner.project import find_root
from tasks.errors import DataError

if TYPE_CHECKING:
    from flows.releases.store import Released

# What a command needs is imported when it runs, as in flows/cli/main.py.

_REASON = click.option("--reason", default="", help="Why; kept in the run record.")


@click.command("release")
@_REASON
@click.option("--accept", metavar="REASON", help="Release even if gates fail; the reason is recorded with the figures.")
def release_command(reason: str, accept: str | None) -> None:
    """Release the labels of the last run, if the gates of release.yaml let them pass.

    Consumers read releases/current, which changes in one step, last of all. A failed gate leaves it alone, shows the
    figures and ends with exit code 6.
    """
    with _in_project() as root:
        from flows.releases.gates import describe_gates
        from flows.releases.publish import publish_release

        made = publish_release(root, reason=reason, accept=accept)
        click.echo(describe_gates(made.gates))
        _tell(made)


@click.command("label-new")
@click.option("--update", is_flag=True, help="First ask the sources of imports what is new.")
@_REASON
@click.option("--accept", metavar="REASON", help="Release even if gates fail; the reason is recorded with the figures.")
def label_new_command(update: bool, reason: str, accept: str | None) -> None:
    """Label rows that the current release does not know, with its model and support, and release them with the rest.

    Nothing is fitted, and rows that the release knows keep their labels. Ingest and apply are brought up to date first;
    the next `epoxy run` learns from the new rows.
    """
    with _in_project() as root:
        from flows.releases.gates import describe_gates
        from flows.releases.publish import publish_new_rows
        from flows.releases.store import read_base

        read_base(root)  # what cannot end well is told before anything runs
        run_stages(root=root, target="apply", update=update)
        made = publish_new_rows(root, reason=reason, accept=accept)
        if made is None:
            click.echo("nothing to do: no new, changed or deleted rows")
            return
        click.echo(describe_gates(made.gates))
        _tell(made)


def run_stages(*, root: Path, target: str, update: bool) -> None:
    """Bring stage `target` and all that it needs up to date, without Prefect; output goes to standard error.

    Raises
    ------
    EpoxyError
        There is no such stage, or one of them failed.
    """
    from flows.runner.dvc_repo import read_stages, remove_leftovers
    from flows.runner.process import Commands
    from flows.runner.stage import TerminalListener, ask_for_updates, execute_stage, show_stages_in_terminal

    stages = read_stages(root, [target])
    remove_leftovers(root, stages)
    show_stages_in_terminal()
    for stage in ask_for_updates(stages) if update else stages:
        execute_stage(stage, root=root, commands=Commands(), listener=TerminalListener(stage.name))


@click.command("rollback")
@click.argument("release", required=False)
@_REASON
def rollback_command(release: str | None, reason: str) -> None:
    """Make RELEASE current again; by default the one made before the current one.

    The labels left this way are not released again unless somebody accepts them.
    """
    with _in_project() as root:
        from flows.releases.publish import publish_rollback

        _tell(publish_rollback(root, release, reason=reason))


@click.group("releases", invoke_without_command=True)
@click.pass_context
def releases_command(context: click.Context) -> None:
    """List releases, compare them, and look after them; without a command, list them.

    A RELEASE is an id, its first characters (at least four), or `current`.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_command)


@releases_command.command("list")
def list_command() -> None:
    """List all releases, oldest first."""
    with _in_project() as root:
        from flows.releases.store import describe_list, list_releases

        click.echo(describe_list(list_releases(root)))


@releases_command.command("show")
@click.argument("release", default="current")
def show_command(release: str) -> None:
    """Show what RELEASE (by default the current one) is made of and from, and the run record that made it, as JSON."""
    with _in_project() as root:
        from flows.releases.store import find_release, list_releases, verify_release

        manifest = verify_release(root, find_release(root, release)).manifest
        (record,) = (one.made for one in list_releases(root) if one.id == manifest.id)
        shown = manifest.model_dump(mode="json") | {"record": record.model_dump(mode="json") if record else None}
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))


@releases_command.command("diff")
@click.argument("before")
@click.argument("after", default="current")
@click.option("--json", "as_json", is_flag=True, help="Everything, with each flipped label, as JSON.")
def diff_command(before: str, after: str, as_json: bool) -> None:
    """Show what differs from release BEFORE to release AFTER (by default the current one)."""
    with _in_project() as root:
        from flows.releases.diff import compare_releases, describe_difference, tabulate_difference

        difference = compare_releases(root, before, after)
        if as_json:
            click.echo(json.dumps(tabulate_difference(difference), indent=2, ensure_ascii=False))
        else:
            click.echo(describe_difference(difference))


@releases_command.command("trace")
@click.argument("item")
@click.option("--release", default="current", show_default=True, help="The release to ask.")
def trace_command(item: str, release: str) -> None:
    """Show how the label of ITEM came about: votes, neighbors, sources, runs."""
    with _in_project() as root:
        from flows.releases.diff import describe_trace, trace_label

        click.echo(describe_trace(trace_label(root, release, item)))


@releases_command.command("verify")
def verify_command() -> None:
    """Compare every byte of every release with what was released."""
    with _in_project() as root:
        from flows.releases.store import list_releases, verify_all

        if problems := verify_all(root):
            raise DataError("\n".join(problems))
        here = sum(one.is_here for one in list_releases(root))
        click.echo(f"{here} {'release is' if here == 1 else 'releases are'} whole")


@releases_command.command("prune")
@click.option("--keep", type=click.IntRange(min=1), help="How many to keep; by default what release.yaml says.")
def prune_command(keep: int | None) -> None:
    """Remove all but the newest releases and the current one."""
    with _in_project() as root:
        from flows.releases.policy import read_policy
        from flows.releases.publish import push_releases
        from flows.releases.store import prune_releases

        policy = read_policy(root)
        count = keep or policy.keep
        removed = () if count is None else prune_releases(root, count, reason=f"keep {count}")
        click.echo(f"removed {', '.join(removed)}" if removed else "nothing to remove")
        if removed:
            push_releases(root, policy, f"Remove {len(removed)} old releases")


@releases_command.command("push")
def push_command() -> None:
    """Carry releases on as release.yaml says; for after a remote was out of reach."""
    with _in_project() as root:
        from flows.releases.policy import read_policy
        from flows.releases.publish import push_releases

        policy = read_policy(root)
        push_releases(root, policy, "Update releases")
        click.echo(f"carried on: bytes {policy.carry}, git {policy.git}")


def _tell(made: "Released") -> None:
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    if made.rows:
        click.echo(f"rows: {made.rows.describe()}")
    before = f" (before: {made.previous})" if made.previous and made.previous != made.id else ""
    click.echo(f"release {made.id} is current{before}: {made.path.relative_to(Path.cwd())}")


@contextmanager
def _in_project() -> Iterator[Path]:
    """Work in the root of the project that the current folder lies in."""
    with contextlib.chdir(find_root(Path.cwd())):
        yield Path.cwd()
