"""Whether a Prefect server answers, what else does, and when to give up on a silent server."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from flows.server_access import Server, ServerError, hide_passwords, open_client

ANSWER_SECONDS = 20.0
"""For an answer of the configured server; a server with SQLite under load takes some seconds."""

_LISTEN_SECONDS = 3.0
"""Between two questions to the server of a run whether it is there."""

_SILENT_SECONDS = 60.0
"""After which it is gone rather than being restarted; as long as Prefect repeats a request."""

_CLOUD = "https://api.prefect.cloud/"


def is_answering(server: Server) -> bool:
    """Return whether a Prefect server, and not another program, answers."""
    return find_fault(server, seconds=2.0) is None


def find_fault(server: Server, *, seconds: float) -> str | None:
    """Return why `server` is not the API of a Prefect server, as the end of a sentence; None if it is.

    A server says which version it is, and whether it is in order; any program may answer 200.
    """
    try:
        with open_client(server.api_url, timeout=seconds, auth=server.find_auth()) as client:
            for path, expected in (("health", r"true"), ("admin/version", r'"\d+\.\d+.*"')):
                answer = client.get(f"/{path}")
                if answer.status_code != httpx.codes.OK:
                    return f"answers {answer.status_code} {answer.reason_phrase}".strip()
                if not re.fullmatch(expected, answer.text.strip()):
                    return "answers, but is not a Prefect server's API"
    except httpx.TimeoutException:
        return f"does not answer within {seconds:g} seconds"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return f"cannot be reached ({hide_passwords(str(error))})"
    return None


def check_server(server: Server) -> None:
    """Return if a Prefect server answers.

    Raises
    ------
    ServerError
        It does not, and why.
    """
    if server.api_url.startswith(_CLOUD):
        return  # it has no such pages, and says itself what is wrong
    if fault := find_fault(server, seconds=ANSWER_SECONDS):
        raise ServerError(
            f"the Prefect server at {hide_passwords(server.api_url)} {fault}. Start it, correct or unset PREFECT_API_URL, "
            "or switch the Prefect profile; without an address, a run starts a temporary server"
        )


@contextmanager
def limit_patience(server: Server) -> Iterator[None]:
    """While the block runs, Prefect stops repeating requests once the server has been silent for a minute.

    Its client repeats each of them for a minute by itself, one after another, which adds up to minutes after the last
    stage has ended. A server that is back is believed again.
    """
    from prefect.settings import get_current_settings

    client, is_over = get_current_settings().client, threading.Event()

    def watch() -> None:
        usual, heard = client.max_retries, None
        while not is_over.wait(_LISTEN_SECONDS):
            if is_answering(server):
                client.max_retries, heard = usual, time.monotonic()
            elif heard is not None and time.monotonic() - heard > _SILENT_SECONDS:
                client.max_retries = 0

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
