"""`epoxy notify`: have the Prefect server tell a webhook how runs end."""

import click

from tasks.errors import ParamsError


@click.command("notify")
def notify_command() -> None:
    """Have the Prefect server tell a webhook how runs end.

    EPOXY_NOTIFY_URL names the webhook. The server is what PREFECT_API_URL or your Prefect profile names, or that `epoxy server` started, which does
    the same by itself. Repeat after the address changed.
    """
    set_up()


def set_up() -> None:
    """Set the notifications up on the Prefect server that is found.

    Raises
    ------
    ServerError
        None answers, or it refused.
    ParamsError
        EPOXY_NOTIFY_URL is not set, or not an address.
    """
    from flows.server import find_server, notify
    from flows.server_access import ServerError

    server = find_server()
    if server is None:
        raise ServerError("no Prefect server answers; start a server with 'epoxy server', or set PREFECT_API_URL")
    if not notify(server):
        raise ParamsError("EPOXY_NOTIFY_URL is not set; expected the address of a webhook")
