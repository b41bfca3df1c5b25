"""`epoxy rollback`: make an earlier release current again."""

import click

from flows.cli.release import REASON, show_released
from flows.runner.project import in_project


@click.command("rollback")
@click.argument("release", required=False)
@REASON
def rollback_command(release: str | None, reason: str) -> None:
    """Make an earlier release current again.

    By default the one made before the current one. The labels that were current until now are not released again unless somebody accepts them.
    """
    from flows.releases.publish import publish_rollback

    with in_project() as root:
        show_released(publish_rollback(root, release, reason=reason), root=root)
