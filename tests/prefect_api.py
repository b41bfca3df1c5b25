"""Requests to a Prefect server that a test started, as its owner."""

import os
from pathlib import Path
from typing import Any

import httpx

from flows.server_access import Server


def know_server(api_url: str, home: Path | None = None) -> Server:
    """The server at `api_url` with its password: that of the Prefect home `home`, else the one of the whole session."""
    if home is None:
        return Server(api_url=api_url, password=os.environ.get("PREFECT_API_AUTH_STRING"))
    return Server(api_url=api_url, password=(home / "epoxy-password").read_text(encoding="utf-8").strip())


def ask(server: Server, method: str, path: str, body: Any = None) -> httpx.Response:
    """The answer of `server`, whatever it is."""
    with server.open() as client:
        return client.request(method, f"{server.api_url}/{path}", json=body)
