"""`epoxy stage`: run a single stage, without Prefect."""

from pathlib import Path

import click

from flows.runner.project import in_project


@click.command("stage")
@click.argument("name")
def stage_command(name: str) -> None:
    """Run one stage alone, without Prefect.

    What stage NAME needs is not run. The same as `dvc repro --single-item NAME`: if nothing changed, nothing runs.
    """
    with in_project() as root:
        click.echo(run_stage(root=root, name=name))


def run_stage(*, root: Path, name: str) -> str:
    """A line that tells what became of stage `name`, run alone; its output goes to standard error as it comes.

    Raises
    ------
    EpoxyError
        There is no such stage, or it failed.
    """
    from flows.runner.dvc_graph import read_stages
    from flows.runner.report import describe_reports
    from flows.runner.stage import run_stages

    return describe_reports(run_stages(root, [stage for stage in read_stages(root, [name]) if stage.name == name]))
