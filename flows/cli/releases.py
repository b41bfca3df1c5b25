"""`epoxy releases`: list releases, compare them, and look after them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.tables import make_printable
from flows.runner.project import in_project
from tasks.errors import DataError

if TYPE_CHECKING:
    from flows.releases.policy import Policy


@click.group("releases", invoke_without_command=True)
@click.pass_context
def releases_command(context: click.Context) -> None:
    """List releases, compare them, and look after them.

    Without a command, they are listed. A RELEASE is an id, its first characters (at least four), or `current`.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_command)


@releases_command.command("list")
def list_command() -> None:
    """List all releases, oldest first."""
    from flows.releases.store import describe_releases, list_releases

    with in_project() as root:
        click.echo("\n".join(map(make_printable, describe_releases(list_releases(root)).splitlines())))


@releases_command.command("show")
@click.argument("release", default="current")
def show_command(release: str) -> None:
    """Show what a release is made of and from, as JSON.

    With the run record that made it. By default the current release.
    """
    from flows.releases.store import find_release, list_releases, verify_release

    with in_project() as root:
        manifest = verify_release(root, find_release(root, release)).manifest
        (record,) = (listed.made for listed in list_releases(root) if listed.id == manifest.id)
        shown = manifest.model_dump(mode="json") | {"record": record.model_dump(mode="json") if record else None}
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))


@releases_command.command("diff")
@click.argument("before")
@click.argument("after", default="current")
@click.option("--all", "is_whole", is_flag=True, help="The figures of other methods, LFs and models as well.")
@click.option("--json", "as_json", is_flag=True, help="Everything, with each flipped label, as JSON.")
def diff_command(before: str, after: str, is_whole: bool, as_json: bool) -> None:
    """Show what differs between two releases.

    From release BEFORE to release AFTER, by default the current one: the metrics of the shipped labels, flipped items with
    their text where the last run has them, class balance and params.
    """
    from flows.releases.diff import compare_releases, describe_difference, read_texts, tabulate_difference

    with in_project() as root:
        difference = compare_releases(root, before, after)
        if as_json:
            click.echo(json.dumps(tabulate_difference(difference), indent=2, ensure_ascii=False))
        else:
            click.echo(describe_difference(difference, is_whole=is_whole, texts=read_texts(root, difference)))


@releases_command.command("trace")
@click.argument("item")
@click.option("--release", default="current", show_default=True, help="The release to ask.")
def trace_command(item: str, release: str) -> None:
    """Show how the label of an item came about.

    Votes, neighbors, sources and runs.
    """
    from flows.releases.diff import describe_trace, trace_label

    with in_project() as root:
        click.echo(describe_trace(trace_label(root, release, item)))


@releases_command.command("verify")
def verify_command() -> None:
    """Compare every byte of every release with what was released."""
    from flows.releases.store import list_releases, verify_all

    with in_project() as root:
        if problems := verify_all(root):
            raise DataError("\n".join(problems))
        here = sum(listed.is_here for listed in list_releases(root))
        click.echo(f"{here} {'release is' if here == 1 else 'releases are'} whole")


@releases_command.command("prune")
@click.option("--keep", type=click.IntRange(min=1), help="How many to keep; by default what release.yaml says.")
def prune_command(keep: int | None) -> None:
    """Remove all releases but the newest and the current."""
    from flows.releases.prune import prune_releases
    from flows.releases.publish import check_git, push_releases

    with in_project() as root:
        policy = _read_policy(root)
        check_git(root, policy)
        count = keep or policy.keep
        removed = () if count is None else prune_releases(root, count, reason=f"keep {count}")
        click.echo(f"removed {', '.join(removed)}" if removed else "nothing to remove")
        if removed:
            push_releases(root, policy, f"Remove {len(removed)} old releases")


@releases_command.command("push")
def push_command() -> None:
    """Carry releases on as release.yaml says.

    For after a remote was out of reach.
    """
    from flows.releases.publish import push_releases

    with in_project() as root:
        policy = _read_policy(root)
        push_releases(root, policy, "Update releases")
        click.echo(f"carried on: bytes {policy.carry}, git {policy.git}")


def _read_policy(root: Path) -> "Policy":
    """What release.yaml says; a note goes to standard error where it says nothing."""
    from flows.releases.policy import describe_defaults, read_policy

    if defaults := describe_defaults(root):
        click.echo(f"note: {defaults}", err=True)
    return read_policy(root)
