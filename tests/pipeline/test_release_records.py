"""Run records: posted where the environment says, and without secrets."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from release_project import (
    DEFAULT,
)

from flows.releases import lineage
from flows.releases.create import create_release
from flows.releases.store import (
    find_release,
)

# Run records


def test_run_records_are_posted_where_the_environment_says(root, monkeypatch):
    seen: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(lineage.URL_VARIABLE, f"http://127.0.0.1:{server.server_port}/api/v1/lineage")
    made = create_release(root, DEFAULT, run_id="5e7b5c52-7f66-4d3e-8f0a-3a4a5f2a9b11")
    server.shutdown()
    server.server_close()
    assert made.notes == ()
    (event,) = seen
    assert event == json.loads((root / "releases/log.jsonl").read_text())
    # What OpenLineage 2-0-2 requires of a RunEvent and of its datasets and facets.
    assert {"eventTime", "run", "job", "producer", "schemaURL"} <= event.keys()
    assert event["eventType"] == "COMPLETE" and event["run"]["runId"] == "5e7b5c52-7f66-4d3e-8f0a-3a4a5f2a9b11"
    assert [one["name"] for one in event["outputs"]] == [f"releases/{made.id}"]
    assert [one["name"] for one in event["inputs"]] == ["raw"]
    for facet in [*event["run"]["facets"].values(), *event["outputs"][0]["facets"].values()]:
        assert {"_producer", "_schemaURL"} <= facet.keys()


@pytest.mark.parametrize(
    "address", ["http://secret:password@127.0.0.1:1/", "file:///etc/passwd", "http://[::", "nonsense"]
)
def test_a_receiver_that_does_not_answer_is_a_note_without_its_address(root, monkeypatch, address):
    monkeypatch.setenv(lineage.URL_VARIABLE, address)
    made = create_release(root, DEFAULT)
    assert len(made.notes) == 1 and lineage.URL_VARIABLE in made.notes[0]
    assert address not in made.notes[0] and "secret" not in made.notes[0]
    assert find_release(root, "current") == made.id
