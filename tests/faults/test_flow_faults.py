"""Both doors at once, and a Prefect server that dies in mid-run: nothing runs twice, nothing is lost, the end is told."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import find_free_port
from toy_project import Toy

from flows.runner.process import end_tree
from flows.server_access import Server as Address
from flows.server_access import make_api_url
from flows.server_health import is_answering

pytestmark = pytest.mark.slow

STEPS = ["apply", "demo", "evaluate", "fit", "index", "ingest"]


def start(toy: Toy, *what: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        what,
        cwd=toy.root,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_flow(toy: Toy, server: str, **environment: str) -> "subprocess.Popen[str]":
    return start(toy, sys.executable, "-m", "flows.relabel", PREFECT_API_URL=server, **environment)


def wait_for(condition: Callable[[], Any], process: "subprocess.Popen[Any] | None" = None) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


# Two doors at once.


def test_dvc_repro_during_a_flow_names_it_and_changes_nothing(toy: Toy, prefect_server: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    flow = start_flow(toy, prefect_server, HOLD_ingest=str(go))
    try:
        wait_for(lambda: "ingest" in toy.read_log(), flow)
        refused = toy.run("dvc", "repro", check=False)
        assert refused.returncode != 0
        assert f"(PID {flow.pid})" in refused.stderr and "(stage ingest)" in refused.stderr
        go.touch()
        said = flow.communicate(timeout=120)
    finally:
        end(flow)
    assert flow.returncode == 0, said
    assert sorted(toy.read_log()) == STEPS
    assert "up to date" in toy.run("dvc", "repro").stdout


def test_a_flow_during_dvc_repro_waits_and_runs_nothing_twice(toy: Toy, prefect_server: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    repro = start(toy, "dvc", "repro", HOLD_ingest=str(go))
    flow = None
    try:
        wait_for(lambda: "ingest" in toy.read_log(), repro)
        flow = start_flow(toy, prefect_server)
        assert flow.stderr is not None
        assert f"(PID {repro.pid})" in next(line for line in flow.stderr if "waiting: " in line)
        go.touch()
        said = [one.communicate(timeout=120) for one in (repro, flow)]
        codes = [one.returncode for one in (repro, flow)]
    finally:
        for one in (repro, flow):
            if one:
                end(one)
    assert codes[1] == 0, said
    # DVC does not wait: where the flow has the next stage already, `dvc repro` says so and gives up.
    assert codes[0] == 0 or f"(PID {flow.pid})" in said[0][1], said
    assert sorted(toy.read_log()) == STEPS
    assert "up to date" in toy.run("dvc", "repro").stdout


# The server dies.


class Server:
    """A Prefect server with a database of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = find_free_port()
        self.url = make_api_url(self.port)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--no-ui"]
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port)],
            env={**os.environ, "PREFECT_HOME": str(self._folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: is_answering(Address(api_url=self.url)), self._process)

    def kill(self) -> None:
        """SIGKILL, and to its children, too."""
        if self._process:
            end_tree(self._process.pid, grace_seconds=0)
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.mark.timeout(600)
@pytest.mark.skipif("EPOXY_KILLS" not in os.environ, reason="waits for minutes: set EPOXY_KILLS to run long tests")
def test_the_end_of_a_server_ends_the_run_soon_after_its_stages(toy: Toy, tmp_path: Path) -> None:
    dvc_yaml = toy.root / "dvc.yaml"
    dvc_yaml.write_text(dvc_yaml.read_text().replace("    meta: {prefect: {tags: [big]}}\n", ""))
    server, go = Server(tmp_path / "prefect"), tmp_path / "go"
    flow = None
    try:
        server.start()
        flow = start_flow(toy, server.url, HOLD_apply=str(go))
        wait_for(lambda: "apply" in toy.read_log(), flow)
        time.sleep(5)  # the run has heard of the server
        server.kill()
        go.touch()
        began = time.monotonic()
        _, words = flow.communicate(timeout=400)
    finally:
        server.kill()
        if flow:
            end(flow)
    assert flow.returncode == 7, words
    assert "error: the Prefect server does not answer" in words and "Traceback" not in words
    assert time.monotonic() - began < 150  # 234 s were measured without a limit


@pytest.mark.timeout(1200)
@pytest.mark.skipif("EPOXY_KILLS" not in os.environ, reason="starts two servers: set EPOXY_KILLS to run long tests")
def test_a_server_that_dies_in_mid_run(toy: Toy, tmp_path: Path) -> None:
    """Back within a minute, it costs nothing; for good, the stages are done all the same, and the flow says what is up."""
    # A tag means a limit that the server keeps; without the server such a stage cannot start.
    dvc_yaml = toy.root / "dvc.yaml"
    dvc_yaml.write_text(dvc_yaml.read_text().replace("    meta: {prefect: {tags: [big]}}\n", ""))
    server, go = Server(tmp_path / "prefect"), tmp_path / "go"
    flow = None
    try:
        server.start()
        flow = start_flow(toy, server.url, HOLD_apply=str(go))
        wait_for(lambda: "apply" in toy.read_log(), flow)
        server.kill()
        go.touch()
        wait_for(lambda: "apply" in toy.read_log("end"), flow)  # while nobody answers
        server.start()
        said = flow.communicate(timeout=400)
        assert flow.returncode == 0, said
        assert sorted(toy.read_log()) == STEPS
        (recorded,) = httpx.post(f"{server.url}/flow_runs/filter", json={}, timeout=30).json()
        assert recorded["state"]["name"] == "Completed"

        go.unlink()
        toy.clear_log()
        toy.set_params(apply="a2")
        # By default Prefect's client asks again for about a minute.
        flow = start_flow(toy, server.url, HOLD_apply=str(go), PREFECT_CLIENT_MAX_RETRIES="1")
        wait_for(lambda: "apply" in toy.read_log(), flow)
        server.kill()
        go.touch()
        _, words = flow.communicate(timeout=400)
        assert flow.returncode == 7, words
        assert any(line.startswith("error: the Prefect server does not answer") for line in words.splitlines()), words
    finally:
        server.kill()
        if flow:
            end(flow)
    toy.clear_log()
    toy.run("dvc", "repro")
    assert set(toy.read_log()) <= {"fit", "evaluate"}
    assert "up to date" in toy.run("dvc", "status").stdout
