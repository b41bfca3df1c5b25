"""A server in a thread that answers as an OpenAI-compatible API does, and fails in every way that servers do."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = dict[str, Any]


class Handler(BaseHTTPRequestHandler):
    """Gives each request to the server's `react`."""

    protocol_version = "HTTP/1.1"
    server: "FakeModel"

    def do_POST(self) -> None:
        """Read the request, note it, and react."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.headers.append(dict(self.headers))
            number = len(self.server.requests) - 1
        with suppress(BrokenPipeError, ConnectionResetError):
            self.server.choose(number, body)(self, body)

    do_GET = do_POST

    def send(self, content: bytes, *, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        """Answer with `content`."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


Reaction = Callable[[Handler, Request], None]


class FakeModel(ThreadingHTTPServer):
    """The server. requests, headers: of each call so far; choose: what to do with a call, by its number and body."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, choose: Callable[[int, Request], Reaction]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.choose = choose
        self.requests: list[Request] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        """The address of the API."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients go away on purpose here."""


def write_reply(content: str, **more: Any) -> bytes:
    """The body of an answer."""
    value = {
        "model": "fake-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105},
    }
    return json.dumps(value | more).encode()


def say(content: str, **more: Any) -> Reaction:
    """Answer with `content` as what the model said."""
    return lambda handler, request: handler.send(write_reply(content, **more))


def fail(status: int, text: str = "no", kind: str = "text/plain", **headers: str) -> Reaction:
    """Answer with an error."""
    return lambda handler, request: handler.send(text.encode(), status=status, kind=kind, **headers)


def send(content: bytes, kind: str = "application/json") -> Reaction:
    """Answer with these bytes."""
    return lambda handler, request: handler.send(content, kind=kind)


def sleep(seconds: float) -> Reaction:
    """Answer late."""

    def react(handler: Handler, request: Request) -> None:
        time.sleep(seconds)
        handler.send(write_reply('{"class": "ham"}'))

    return react


def drip(seconds: float) -> Reaction:
    """Answer a byte at a time, each in time, for so long."""

    def react(handler: Handler, request: Request) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
        handler.close_connection = True

    return react


def cut(handler: Handler, request: Request) -> None:
    """Promise a whole answer, send half, and close."""
    body = write_reply('{"class": "ham"}')
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


def hang_up(handler: Handler, request: Request) -> None:
    """Close the connection without a word."""
    handler.close_connection = True
    handler.connection.close()


def judge(handler: Handler, request: Request) -> None:
    """Answer as a model that understands: 'spam' where the text of the item has a word of offers, else 'ham'."""
    text = json.loads(request["messages"][1]["content"])["text"]
    is_spam = any(word in text for word in ("offer", "price", "win"))
    handler.send(write_reply(json.dumps({"class": "spam" if is_spam else "ham"})))


def first(*reactions: Reaction) -> Callable[[int, Request], Reaction]:
    """These reactions one after another, then a model that understands."""
    return lambda number, request: reactions[number] if number < len(reactions) else judge


@contextmanager
def serve(choose: Callable[[int, Request], Reaction] | Sequence[Reaction] = ()) -> Iterator[FakeModel]:
    """A server that reacts as `choose` says, or in turn as listed and then as a model that understands."""
    server = FakeModel(choose if callable(choose) else first(*choose))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
