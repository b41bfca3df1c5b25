"""Data that DVC imports from elsewhere: updated when asked for, and whatever the source does, what was there stays."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from dvc.repo import Repo
from processes import find_children
from toy_project import Toy

from flows.runner.dvc_graph import read_stages
from flows.runner.failure import StageFailedError, StageTimeoutError
from flows.runner.leftovers import remove_leftovers
from flows.runner.listener import TerminalListener
from flows.runner.process import Commands
from flows.runner.report import Report
from flows.runner.stage import ask_for_updates, execute_stage

NAME = "data/raw.txt.dvc"
META = "meta: {prefect: {retries: 1, retry_delay_seconds: 0.1, timeout_seconds: 60}}\n"


@pytest.fixture
def source(toy: Toy, tmp_path: Path) -> Path:
    """The file that the toy's raw data are imported from; every stage is up to date."""
    source = tmp_path / "elsewhere" / "raw.txt"
    source.parent.mkdir()
    source.write_text("raw1")
    import_from(toy, str(source))
    return source


def import_from(toy: Toy, address: str) -> None:
    (toy.root / NAME).unlink()
    (toy.root / "data/raw.txt").unlink()
    with Repo() as repo:
        repo.imp_url(address, "data/raw.txt")
    with (toy.root / NAME).open("a") as file:
        file.write(META)


def execute(toy: Toy, *, update: bool = True, timeout_seconds: float | None = None) -> Report:
    """What became of the import."""
    if timeout_seconds:
        text = (toy.root / NAME).read_text().replace("timeout_seconds: 60", f"timeout_seconds: {timeout_seconds}")
        (toy.root / NAME).write_text(text)
    stages = read_stages(toy.root)
    stages = ask_for_updates(stages) if update else stages
    (stage,) = [stage for stage in stages if stage.name == NAME]
    assert stage.is_import and stage.is_to_update == update
    return execute_stage(stage, root=toy.root, commands=Commands(), listener=TerminalListener(NAME))


def read(toy: Toy) -> str:
    return (toy.root / "data/raw.txt").read_text()


def test_an_import_is_updated_when_asked_for_and_never_else(toy: Toy, source: Path) -> None:
    assert execute(toy).outcome == "Cached"
    source.write_text("raw2", encoding="utf-8")
    assert execute(toy, update=False).outcome == "Cached" and read(toy) == "raw1"
    assert execute(toy).outcome == "Completed" and read(toy) == "raw2"
    assert META.strip() in (toy.root / NAME).read_text()  # DVC keeps the options


def test_what_was_there_stays_when_the_source_is_gone(toy: Toy, source: Path) -> None:
    source.unlink()
    with pytest.raises(
        StageFailedError, match=r"import data/raw.txt.dvc: .*elsewhere/raw.txt' does not exist"
    ) as error:
        execute(toy)
    assert error.value.is_transient and error.value.exit_code == 5
    assert "in place again" in str(error.value) and f"dvc update {NAME}" in str(error.value)
    assert read(toy) == "raw1"
    assert execute(toy, update=False).outcome == "Cached"


class _Server(ThreadingHTTPServer):
    daemon_threads = True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[_Server]:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "raw.txt").write_text("raw1")
    server = _Server(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "web")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_web_server_that_answers_404_then_hangs(toy: Toy, server: _Server, tmp_path: Path) -> None:
    port = server.server_address[1]
    import_from(toy, f"http://127.0.0.1:{port}/raw.txt")
    (tmp_path / "web" / "raw.txt").unlink()
    with pytest.raises(StageFailedError, match="does not exist"):
        execute(toy)
    assert read(toy) == "raw1"
    server.shutdown()
    server.server_close()
    mute = socket.create_server(("127.0.0.1", port))  # takes connections, and says nothing
    with mute, pytest.raises(StageTimeoutError, match=r"did not give its data in 3 seconds .* in place again"):
        execute(toy, timeout_seconds=3)
    assert read(toy) == "raw1"
    assert find_children("dvc") == []


_FLOW = """
from pathlib import Path
from flows.runner.dvc_graph import read_stages
from flows.runner.leftovers import remove_leftovers
from flows.runner.stage import TerminalListener, ask_for_updates, execute_stage
from flows.runner.process import Commands
(stage,) = [stage for stage in ask_for_updates(read_stages(Path.cwd())) if stage.is_import]
execute_stage(stage, root=Path.cwd(), commands=Commands(), listener=TerminalListener(stage.name))
"""


def test_an_update_that_was_killed_is_undone_by_the_next_run(toy: Toy, server: _Server) -> None:
    port = server.server_address[1]
    import_from(toy, f"http://127.0.0.1:{port}/raw.txt")
    server.shutdown()
    server.server_close()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with socket.create_server(("127.0.0.1", port)) as mute:
        mute.settimeout(60)
        flow = subprocess.Popen([sys.executable, "-c", _FLOW], cwd=toy.root, env=environment)
        connection, _ = mute.accept()
        flow.kill()
        flow.wait()
        connection.close()
    (toy.root / "data/raw.txt").write_text("ra")  # as much as had come
    remove_leftovers(toy.root, read_stages(toy.root))  # as every flow does: DVC's list of locks may be torn
    assert execute(toy, update=False).outcome == "Cached"
    assert read(toy) == "raw1"


@pytest.mark.slow
def test_the_flow_updates_first_tries_again_and_fails_without_harm(
    toy: Toy, source: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import relabel

    relabel.run()
    source.write_text("raw2", encoding="utf-8")
    outcomes = {report.name: report.outcome for report in relabel.run(update=True).reports}
    assert outcomes[NAME] == outcomes["ingest"] == outcomes["evaluate"] == "Completed"
    before = toy.read_outputs()
    source.unlink()
    lines: list[str] = []
    monkeypatch.setattr("flows.relabel.RunListener.say", lambda self, text: lines.append(text))
    summary = relabel.run(update=True)
    assert "import data/raw.txt.dvc" in str(summary.error) and "ingest" in summary.skipped
    assert lines.count(f"> dvc update {NAME}") == 2
    assert toy.read_outputs() == before
