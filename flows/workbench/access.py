"""Access to the workbench: only for its own pages, in a browser that was given its token."""

import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.runner.local_pages import find_foreign

PARAMETER = "token"
"""The query parameter with the token in the address that is printed at the start."""


@dataclass(frozen=True, kw_only=True)
class Door:
    """The port on which the workbench listens, and the token that it requires."""

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def cookie(self) -> str:
        """The name of the cookie: browsers send cookies to every port of a host, so that each workbench needs its name."""
        return f"epoxy-workbench-{self.port}"


_GONE = "No response returned."
"""What Starlette's middleware raises where a browser has left before the answer."""


async def _serve(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Have `app` answer; that nobody waits for the answer any more is no error, and would fill the terminal."""
    try:
        await app(scope, receive, send)
    except RuntimeError as error:
        if str(error) != _GONE:
            raise


class Guard:
    """A middleware that passes on requests of the workbench's own pages with the token, and refuses all others.

    The token is in the address once; from then on it is a cookie that scripts cannot read and other sites' requests do not
    carry, and the address is without it, so that a copied address or a screenshot gives nothing away.
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, admit, or pass on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        problem = find_foreign(headers, self._door.port)
        if problem is None and scope["type"] == "http" and self._has_token_in_address(scope):
            await self._admit(scope, receive, send)
            return
        if problem is None and not self._has_cookie(headers):
            problem = "open the address that 'epoxy workbench' printed: it holds the token of this workbench"
        if problem is None:
            await _serve(self._app, scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": problem})
        else:
            await PlainTextResponse(f"{problem}\n", status_code=403)(scope, receive, send)

    def _has_token_in_address(self, scope: Scope) -> bool:
        asked = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        return PARAMETER in asked and self._is_token(asked[PARAMETER])

    def _has_cookie(self, headers: Headers) -> bool:
        return self._is_token(cookie_parser(headers.get("cookie", "")).get(self._door.cookie, ""))

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode("utf-8", "replace"), self._door.token.encode())

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set the cookie, and redirect to the same address without the token."""
        rest = [pair for pair in parse_qsl(scope["query_string"].decode("latin-1")) if pair[0] != PARAMETER]
        path = "/" + scope["path"].lstrip("/\\")  # never another host, which two slashes would name
        response = RedirectResponse(path + (f"?{urlencode(rest)}" if rest else ""), status_code=303)
        response.set_cookie(self._door.cookie, self._door.token, httponly=True, samesite="strict")
        await response(scope, receive, send)
