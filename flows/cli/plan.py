"""`epoxy plan`: what a run would do, and which labels an edit flips."""

import contextlib
import gc
from collections.abc import Iterator

import click

from flows.cli.tables import Column, output_options, print_csv, print_json, print_table
from flows.runner.project import in_project


@click.command("plan")
@click.option("--flips", is_flag=True, help="Also compute which labels flip, as a table in Markdown.")
@click.option(
    "--limit", type=click.IntRange(min=0), help="Largest number of labeling functions, and of flips, that are listed."
)
@output_options
def plan_command(flips: bool, limit: int | None, as_csv: bool, as_json: bool) -> None:
    """Show what a run would do now, and why.

    Lists the stages to run with the reason and the seconds of their last run here, the labeling functions that would
    be asked for votes, and the language models whose budget allows more calls than were made. With --flips, also the
    labels of the label model that edits to LFs, thresholds or other params would change; nothing is written except the
    cache of columns. --csv prints the stages, or with --flips the items whose label would change.
    """
    with in_project() as root:
        with _without_collector():
            from flows.plan import plan

            found = plan(root)
        changed, text = None, ""
        if flips:
            from flows.flip_preview import preview_flips, write_flips

            changed = preview_flips(root)
            text = write_flips(changed, limit)
        lfs = found.lfs if limit is None else found.lfs.head(limit)
        flipped = None if changed is None else changed.flipped if limit is None else changed.flipped.head(limit)
        if as_csv:
            print_csv(found.stages if flipped is None else flipped)
            return
        if as_json:
            more = {} if changed is None else {"flips": flipped, "common": changed.common, "table": text}
            print_json(stages=found.stages, lfs=lfs, models=found.models, seconds=found.seconds, **more)
            return
        if found.stages.is_empty():
            click.echo("nothing to do: everything is up to date")
        else:
            rows = found.stages.to_dicts()
            seconds = ["" if row["seconds"] is None else f"{row['seconds']:,.0f} s" for row in rows]
            print_table(
                [
                    Column(name="stage", cells=[row["stage"] for row in rows]),
                    Column(name="reason", cells=[row["reason"] for row in rows], is_wide=True),
                    Column(name="last took", cells=seconds, is_number=True),
                ]
            )
            known = found.stages["seconds"].is_not_null().sum()
            click.echo(
                f"\nabout {found.seconds:,.0f} s, as these took last" if known else "\nno stage has run here yet"
            )
        for row in lfs.to_dicts():
            what = "all items" if row["items"] == row["of"] else f"{row['items']:,} of {row['of']:,} items"
            click.echo(f"{row['lf']} is asked about {what}")
        if lfs.height < found.lfs.height:
            click.echo(f"{found.lfs.height - lfs.height:,} other labeling functions are asked")
        for row in found.models.to_dicts():
            click.echo(
                f"{row['lf']} has {row['answers']:,} answers of a budget of {row['budget']:,}; a run asks nobody: 'epoxy ask "
                f"{row['lf']}' asks about up to {row['budget'] - row['answers']:,} more items"
            )
        if changed is not None:
            click.echo(f"\n{text}")


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Within the block, nobody looks for garbage: what imports and DVC's graph make stays, and looking takes .2 s of 2."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
