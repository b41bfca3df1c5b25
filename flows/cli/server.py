"""`epoxy server`: a Prefect server, a worker and the project's deployments."""

import click

from flows.runner.project import in_project


@click.command("server")
@click.option("--port", default=4200, show_default=True, help="Port on this machine; nobody else can reach it.")
@click.option("--new-password", is_flag=True, help="Change the password and end; restart a server that runs.")
@click.option("--deploy", is_flag=True, help="Give an edited prefect.yaml to the server that runs, and end.")
def server_command(port: int, new_password: bool, deploy: bool) -> None:
    """Run a Prefect server, a worker and the deployments.

    Until Ctrl-C. The deployments are in prefect.yaml; on the server, their names begin with that of the project's folder. A server of
    yours that already answers on the port is used and left running. The page asks once for the password,
    which is in a file that only you can read.
    """
    from flows.server import deploy_to_running, serve
    from flows.server_access import write_password

    if new_password:
        click.echo(f"the new password is in {write_password(is_new=True)}; restart 'epoxy server' where it runs")
        return
    with in_project() as root:
        if deploy:
            deploy_to_running(root=root, port=port)
        else:
            serve(root=root, port=port)
