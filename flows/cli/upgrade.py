"""`epoxy upgrade`: let a project know the code of the tool that is installed now."""

import click

from flows.runner.project import in_project


@click.command("upgrade")
@click.option("--dry-run", is_flag=True, help="Show what would run again, and change nothing.")
def upgrade_command(dry_run: bool) -> None:
    """Bring the project to the installed version of the tool.

    For projects that `epoxy init` made. Shows what will run again; stages whose code did not change stay up to date.
    """
    from flows.init.pipeline import plan_upgrade, upgrade

    with in_project() as root:
        made = (plan_upgrade if dry_run else upgrade)(root)
        if not made.changed:
            click.echo("nothing to do: the project knows the code that is installed")
            return
        click.echo(f"other code    {', '.join(made.changed)}")
        click.echo(f"will run      {', '.join(made.again)}")
        click.echo(f"labels        {'may change' if made.may_change_labels else 'stay as they are'}")
        for name in made.kept:
            click.echo(f"{name} was edited here and is left alone; what the tool would write is in {name}.new")
