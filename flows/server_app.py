"""`python -m flows.server_app PORT`: Prefect's server on this machine, for its owner's programs and for the pages that it serves.

Prefect's settings, with the password in PREFECT_SERVER_API_AUTH_STRING, come from the environment (flows/server.py).
"""

import gc
import os
import sys
from urllib.parse import parse_qs

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.releases.last_run import describe_origin
from flows.report_links import HEADERS, PATH, find_report
from flows.runner.local_pages import HOST, find_foreign
from flows.server_access import PROOF_PATH, prove
from flows.server_database import let_writers_wait
from tasks.report.origin import add_origin
from tasks.tables.paths import REPORT


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
        elif scope["type"] == "http" and scope["path"] == PATH:
            await self._show_report(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _show_report(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the report that a signed address names."""
        path = find_report(self._password, scope["query_string"].decode("latin-1"))
        answer: Response = PlainTextResponse("this address is not signed by this server\n", status_code=403)
        if path is not None:
            answer = PlainTextResponse(f"{path} is not here any more\n", status_code=404)
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                root = path.parents[len(REPORT.parts) - 1]
                if path == root / REPORT:  # and not the copy in a release, whose record says when it was made
                    text = add_origin(text, describe_origin(root))
                answer = HTMLResponse(text, headers=HEADERS)
        await answer(scope, receive, send)


def main(arguments: list[str]) -> None:
    """Serve until a signal ends it."""
    port = int(arguments[0])
    gc.disable()  # collecting garbage while Prefect is imported finds none and takes .4 s of 4
    os.umask(0o077)  # the database holds passwords and addresses
    from prefect.server.api.server import create_app
    from prefect.settings import (
        PREFECT_SERVER_API_AUTH_STRING,
        PREFECT_SERVER_API_KEEPALIVE_TIMEOUT,
        PREFECT_SERVER_LOGGING_LEVEL,
    )

    let_writers_wait()
    app = OwnPages(create_app(final=True), port=port, password=str(PREFECT_SERVER_API_AUTH_STRING.value()))
    gc.freeze()
    gc.enable()
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
