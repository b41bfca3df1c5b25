"""`epoxy server`: a Prefect server, a worker and the project's deployments."""

import click

from flows.runner.project import in_project


@click.command("server")
@click.option("--port", default=4200, show_default=True, help="Port on this machine; nobody else can reach it.")
@click.option("--new-password", is_flag=True, help="Change the password and end; restart a server that runs.")
def server_command(port: int, new_password: bool) -> None:
    """Run a Prefect server, a worker and the deployments.

    Until Ctrl-C. The deployments are in prefect.yaml. A server of yours that already answers on the port is used and left running. The page asks once for the password,
    which is in a file that only you can read.
    """
    from flows.server import serve
    from flows.server_access import write_password

    if new_password:
        click.echo(f"the new password is in {write_password(is_new=True)}; restart 'epoxy server' where it runs")
        return
    with in_project() as root:
        serve(root=root, port=port)
