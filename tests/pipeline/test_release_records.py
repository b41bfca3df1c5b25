"""Run records: posted where the environment says, and without secrets."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from release_project import DEFAULT

from flows.releases import lineage
from flows.releases.create import create_release
from flows.releases.store import find_release

SECRET = "p@ss:w%rd/ü"
ENCODED_SECRET = "p%40ss:w%25rd%2F%C3%BC"


class Receiver(HTTPServer):
    """A receiver of run records on this machine that answers `status`; keeps what it was sent."""

    def __init__(self, status: int = 201) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.events: list[Any] = []
        self.requests: list[tuple[str, str | None]] = []

    def make_address(self, user: str = "") -> str:
        """The address that run records are posted to, by `user` (with `@`)."""
        return f"http://{user}127.0.0.1:{self.server_port}/api/v1/lineage"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self):
        self.server.events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        self.server.requests.append((f"{self.command} {self.path}", self.headers["Authorization"]))
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_run_records_are_posted_where_the_environment_says(root, monkeypatch, receiver):
    monkeypatch.setenv(lineage.URL_VARIABLE, receiver.make_address())
    made = create_release(root, DEFAULT, run_id="5e7b5c52-7f66-4d3e-8f0a-3a4a5f2a9b11")
    assert made.notes == ()
    (event,) = receiver.events
    assert receiver.requests == [("POST /api/v1/lineage", None)]
    assert event == json.loads((root / "releases/log.jsonl").read_text())
    # What OpenLineage 2-0-2 requires of a RunEvent and of its datasets and facets.
    assert {"eventTime", "run", "job", "producer", "schemaURL"} <= event.keys()
    assert event["eventType"] == "COMPLETE" and event["run"]["runId"] == "5e7b5c52-7f66-4d3e-8f0a-3a4a5f2a9b11"
    assert [dataset["name"] for dataset in event["outputs"]] == [f"releases/{made.id}"]
    assert [dataset["name"] for dataset in event["inputs"]] == ["raw"]
    for facet in [*event["run"]["facets"].values(), *event["outputs"][0]["facets"].values()]:
        assert {"_producer", "_schemaURL"} <= facet.keys()


@pytest.mark.parametrize(
    ("user", "expected"),
    [(f"me:{ENCODED_SECRET}@", f"me:{SECRET}"), ("me:plain@", "me:plain"), ("me@", "me:"), (":plain@", ":plain")],
)
def test_user_and_password_of_the_address_are_sent_as_basic_authentication(root, monkeypatch, receiver, user, expected):
    monkeypatch.setenv(lineage.URL_VARIABLE, receiver.make_address(user))
    made = create_release(root, DEFAULT)
    assert made.notes == () and len(receiver.events) == 1
    assert receiver.requests == [("POST /api/v1/lineage", f"Basic {base64.b64encode(expected.encode()).decode()}")]
    assert_not_written(root, "plain", SECRET, ENCODED_SECRET)


@pytest.mark.parametrize("status", [302, 401, 500])
def test_an_answer_that_is_no_receipt_is_a_note_without_the_password(root, monkeypatch, receiver, status):
    receiver.status = status
    monkeypatch.setenv(lineage.URL_VARIABLE, receiver.make_address(f"me:{ENCODED_SECRET}@"))
    made = create_release(root, DEFAULT)
    (note,) = made.notes
    assert (
        note == f"{lineage.URL_VARIABLE}: the run record could not be posted (HTTP status {status}); it is in the log"
    )
    assert [request for request, _ in receiver.requests] == ["POST /api/v1/lineage"]  # nor followed elsewhere
    assert_not_written(root, SECRET, ENCODED_SECRET)


def assert_not_written(root: Path, *secrets: str) -> None:
    """No file below `root` has any of `secrets` in it."""
    for path in root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in secrets), path


@pytest.mark.parametrize(
    "address",
    [
        "http://secret:password@127.0.0.1:1/",
        "http://secret:pass/word@127.0.0.1:1/",
        "http://secret:password@/",
        "http://secret:password@127.0.0.1:99999/",
        "http://sec\nret:password@127.0.0.1:1/",
        "file:///etc/passwd",
        "http://[::",
        "nonsense",
    ],
)
def test_a_receiver_that_does_not_answer_is_a_note_without_its_address(root, monkeypatch, address):
    monkeypatch.setenv(lineage.URL_VARIABLE, address)
    made = create_release(root, DEFAULT)
    assert len(made.notes) == 1 and lineage.URL_VARIABLE in made.notes[0]
    assert address not in made.notes[0] and "secret" not in made.notes[0] and "password" not in made.notes[0]
    assert find_release(root, "current") == made.id
