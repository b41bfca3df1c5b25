"""`python -m flows.server_app PORT`: Prefect's server on this machine, for its owner's programs and for the pages that it serves.

Prefect's settings, with the password in PREFECT_SERVER_API_AUTH_STRING, come from the environment (flows/server.py).
"""

import os
import sys
from urllib.parse import parse_qs

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.runner.local_pages import HOST, find_foreign
from flows.server_access import PROOF_PATH, prove


class OwnPages:
    """An application that serves requests to this machine's names, from pages that it served or from no page at all.

    Others are refused (`find_foreign`), WebSockets, to which no browser applies the rules of CORS, among them.
    """

    def __init__(self, app: ASGIApp, *, port: int, password: str) -> None:
        self._app, self._port, self._password = app, port, password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, prove, or pass on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif problem := find_foreign(Headers(scope=scope), self._port):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": problem})
            else:
                await PlainTextResponse(f"{problem}\n", status_code=403)(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == PROOF_PATH:
            nonce = parse_qs(scope["query_string"].decode("latin-1")).get("nonce", [""])[0]
            await PlainTextResponse(prove(self._password, nonce, self._port))(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def main(arguments: list[str]) -> None:
    """Serve until a signal ends it."""
    port = int(arguments[0])
    os.umask(0o077)  # the database holds passwords and addresses
    from prefect.server.api.server import create_app
    from prefect.settings import (
        PREFECT_SERVER_API_AUTH_STRING,
        PREFECT_SERVER_API_KEEPALIVE_TIMEOUT,
        PREFECT_SERVER_LOGGING_LEVEL,
    )

    app = OwnPages(create_app(final=True), port=port, password=str(PREFECT_SERVER_API_AUTH_STRING.value()))
    uvicorn.run(
        app,
        host=HOST,
        port=port,
        timeout_keep_alive=PREFECT_SERVER_API_KEEPALIVE_TIMEOUT.value(),
        log_level=PREFECT_SERVER_LOGGING_LEVEL.value().lower(),
        server_header=False,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
