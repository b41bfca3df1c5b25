"""`epoxy server`: a Prefect server, a worker and the project's deployments."""

import click

from flows.runner.project import in_project


@click.command("server")
@click.option("--port", default=4200, show_default=True, help="Port on this machine; nobody else can reach it.")
def server_command(port: int) -> None:
    """Run a Prefect server, a worker and the deployments of prefect.yaml, until Ctrl-C.

    A server that already answers on the port is used and left running.
    """
    from flows.server import serve

    with in_project() as root:
        serve(root=root, port=port)
