"""Which requests to a server of this machine come from its pages, and not from other sites."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.datastructures import Headers

HOST = "127.0.0.1"
"""Loopback only: what goes over it is not encrypted."""

PORT = 4200
"""Of `epoxy server`; Prefect's own default."""

NAMES = (HOST, "localhost")
"""The names under which a browser on this machine, or at the other end of an SSH tunnel, may know the server."""


def find_foreign(headers: "Headers", port: int) -> str | None:
    """Return why a request with these `headers` to a server of this machine on `port` is not of its own pages, None if it is.

    A page of another origin, which a browser lets send requests to any address, is foreign, and so is another host name,
    under which such a page could pass for one of ours.
    """
    host = headers.get("host", "")
    if len(headers.getlist("host")) != 1 or (host.rpartition(":")[0] not in NAMES and host not in NAMES):
        return f"this server is for {' and '.join(NAMES)} alone"
    # A tunnel may have another port at the browser's end; then host and origin agree.
    known = {f"http://{host}", *(f"http://{name}:{port}" for name in NAMES)}
    if any(origin not in known for origin in headers.getlist("origin")):
        return "this server is for its own pages alone"
    return None
