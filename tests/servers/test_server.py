"""prefect.yaml says only what Prefect reads, and a schedule really runs the pipeline."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pydantic
import pytest
import yaml
from toy_project import Toy

from flows.runner.process import end_tree
from flows.server import ServerError, end_dead_runs, find_api_url, is_answering, make_api_url, notify, serve

ROOT = Path(__file__).resolve().parents[2]


def read_deployments() -> list[dict[str, Any]]:
    return list(yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"])


def find_unknown_keys(value: object, model: type[pydantic.BaseModel], where: str = "") -> list[str]:
    """The keys in `value` that `model` does not have, with their paths."""
    if not isinstance(value, dict):
        return []
    known = {field.alias or name: field for name, field in model.model_fields.items()} | dict(model.model_fields)
    return [f"{where}{key}" for key in value if key not in known]


def test_prefect_yaml_has_no_key_that_prefect_ignores() -> None:
    from prefect.cli.deploy import _models as models

    document = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    unknown = find_unknown_keys(document, models.PrefectYamlModel)
    for deployment in document["deployments"]:
        unknown += find_unknown_keys(deployment, models.DeploymentConfig, "deployments.")
        unknown += find_unknown_keys(deployment["work_pool"], models.WorkPoolConfig, "work_pool.")
        unknown += find_unknown_keys(deployment["concurrency_limit"], models.ConcurrencyLimitSpec, "concurrency_limit.")
        for schedule in deployment["schedules"]:
            unknown += find_unknown_keys(schedule, models.RawScheduleConfig, "schedules.")
    assert unknown == []
    typo = find_unknown_keys({"entry_point": "x"}, models.DeploymentConfig, "deployments.")
    assert typo == ["deployments.entry_point"]


DEPLOYED = {
    "relabel/nightly": True,
    "label-new/new-rows": False,
    "relabel/retune": False,
    "release/by-hand": None,
    "rollback/by-hand": None,
}
"""Whether the schedule of each deployment is on; None where there is none."""


def test_deployments_are_what_the_readme_says_and_their_parameters_are_those_of_their_flows() -> None:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.exceptions import SignatureMismatchError
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    found: dict[str, bool | None] = {}
    for deployment in read_deployments():
        path, _, name = deployment["entrypoint"].partition(":")
        flow = load_flow_from_entrypoint(f"{ROOT / path}:{name}")
        flow.validate_parameters(deployment.get("parameters", {}))
        with pytest.raises(SignatureMismatchError):
            flow.validate_parameters({"reson": "a typo"})
        for parameter, shown in parameter_schema(flow.fn).properties.items():
            assert shown.get("description"), f"the run form says nothing of {flow.name}'s {parameter}"
        is_on = None
        for schedule in deployment["schedules"]:
            is_on = schedule.pop("active", True)
            DeploymentScheduleCreate(schedule=CronSchedule(**schedule))
        found[f"{flow.name}/{deployment['name']}"] = is_on
        limit = deployment["concurrency_limit"]
        assert limit["limit"] == 1 and limit["collision_strategy"] in [one.value for one in ConcurrencyLimitStrategy]
    assert found == DEPLOYED


_SERVE = """
import contextlib
from pathlib import Path
from flows import server

@contextlib.contextmanager
def running(*arguments, **options):
    try:
        yield type("Guard", (), {"poll": lambda self: None})()
    finally:
        print("the worker is ended", flush=True)

server._running = running
server.is_answering = lambda url: True
server._read_pool = lambda root: "epoxy"
server._wait_for_pool = server._limit_pool = lambda *arguments: None
server.deploy = server.notify = lambda **options: None
server.serve(root=Path.cwd())
"""


def test_sigterm_ends_the_server_in_order_and_without_an_error() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", _SERVE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as served:
        assert served.stdout is not None
        while "Ctrl-C ends everything" not in served.stdout.readline():
            assert served.poll() is None
        served.send_signal(signal.SIGTERM)
        assert served.stdout.read() == "the worker is ended\n" and served.wait() == 0


@pytest.mark.slow
def test_runs_that_died_with_their_worker_are_crashed_and_others_left_alone(prefect_server: str) -> None:
    def post(path: str, **content: Any) -> Any:
        return httpx.post(f"{prefect_server}/{path}", json=content, timeout=60).raise_for_status().json()

    flow = post("flows/", name="died")["id"]
    for pool in ("died", "other"):
        post("work_pools/", name=pool, type="process")
    running = {"type": "RUNNING", "name": "Running"}
    dead, alive = (post("flow_runs/", flow_id=flow, state=running, work_pool_name=one) for one in ("died", "other"))
    assert end_dead_runs(prefect_server, "died") == (dead["name"],)
    read = [httpx.get(f"{prefect_server}/flow_runs/{one['id']}", timeout=60).json() for one in (dead, alive)]
    assert [one["state"]["type"] for one in read] == ["CRASHED", "RUNNING"]
    assert end_dead_runs(prefect_server, "died") == () == end_dead_runs(prefect_server, "unknown")


def test_nothing_answers_where_nothing_runs() -> None:
    assert not is_answering(make_api_url(find_free_port()))


def test_a_missing_or_mixed_prefect_yaml_is_told(toy: Toy) -> None:
    with pytest.raises(ServerError, match=r"prefect\.yaml is missing"):
        serve(root=toy.root, port=find_free_port())
    (toy.root / "prefect.yaml").write_text("deployments: [{work_pool: {name: a}}, {work_pool: {name: b}}]")
    with pytest.raises(ServerError, match="one work_pool"):
        serve(root=toy.root, port=find_free_port())


def test_the_configured_server_comes_first() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        assert find_api_url() == "http://127.0.0.1:1/api"


def find_free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_runs(api_url: str, state: str, count: int, server: "subprocess.Popen[bytes]") -> list[dict[str, Any]]:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert server.poll() is None
        if is_answering(api_url):
            body = {"flow_runs": {"state": {"name": {"any_": [state]}}}}
            runs = httpx.post(f"{api_url}/flow_runs/filter", json=body, timeout=30).json()
            if len(runs) >= count:
                return list(runs)
        time.sleep(0.5)
    raise AssertionError(f"no {count} {state} runs in time")


class Receiver(HTTPServer):
    """A webhook on this machine that keeps what is posted to it; its address holds a secret."""

    secret = "a6f1c2b4"

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                assert handler.path == f"/{self.secret}"
                assert handler.headers["Content-Type"] == "application/json"
                self.posted.append(json.loads(handler.rfile.read(int(handler.headers["Content-Length"]))))
                handler.send_response(204)
                handler.end_headers()

            def log_message(handler, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.secret}"

    def wait_for(self, outcome: str, server: "subprocess.Popen[bytes]") -> dict[str, Any]:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            assert server.poll() is None
            for body in self.posted:
                if body["outcome"] == outcome:
                    return body
            time.sleep(0.2)
        raise AssertionError(f"nothing {outcome} was posted in time: {self.posted}")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.shutdown()
    receiver.server_close()


def refuse(api_url: str) -> None:
    """A run of a flow called `release` that ends as one does whose gates failed, with a message that needs quoting."""
    from prefect import flow
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.states import Failed

    from flows.release_flow import REFUSED

    @flow(name="release")
    def end() -> Any:
        return Failed(name=REFUSED, message='coverage\n"0.4"  {{ limit }}')

    with temporary_settings({PREFECT_API_URL: api_url}):
        assert end(return_state=True).name == REFUSED


def start_by_hand(api_url: str, deployment: str) -> dict[str, Any]:
    """The run that a click in the UI starts, with the schedule paused.

    Prefect holds back by up to 15 minutes the events of runs that were scheduled less than five before they start: the
    first one refers to an event that nobody sends.
    """
    deployments = f"{api_url}/deployments/{deployment}"
    insist("PATCH", deployments, {"paused": True})
    busy = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}}}
    while insist("POST", f"{api_url}/flow_runs/count", busy).json():
        time.sleep(0.5)  # a run that overlaps another one is cancelled
    return dict(insist("POST", f"{deployments}/create_flow_run", {}).json())


def insist(method: str, url: str, body: dict[str, Any]) -> httpx.Response:
    """The answer of a server that may be busy: SQLite lets one write at a time."""
    deadline = time.monotonic() + 120
    while True:
        answer = httpx.request(method, url, json=body, timeout=60)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
            return answer.raise_for_status()
        time.sleep(1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_scheduled_run_really_completes_and_how_runs_end_is_posted(
    toy: Toy, tmp_path: Path, receiver: Receiver
) -> None:
    nightly = read_deployments()[0]
    nightly |= {"schedules": [{"interval": 10}], "parameters": {}}
    nightly["entrypoint"] = "flows.relabel.relabel"
    (toy.root / "prefect.yaml").write_text(yaml.safe_dump({"name": "toy", "deployments": [nightly]}))
    port = find_free_port()
    environment = {
        **os.environ,
        "EPOXY_NOTIFY_URL": receiver.url,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    }
    log = (tmp_path / "server.log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "server", "--port", str(port)],
        cwd=toy.root,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        runs = wait_for_runs(make_api_url(port), "Completed", 1, server)
        assert all(run["auto_scheduled"] for run in runs)
        assert sorted(toy.read_log()) == ["apply", "demo", "evaluate", "fit", "index", "ingest"]
        body = {"flow_runs": {"id": {"any_": [min(runs, key=lambda run: run["start_time"])["id"]]}}}
        tasks = httpx.post(f"{make_api_url(port)}/task_runs/filter", json=body, timeout=30).json()
        assert {task["name"]: task["state_name"] for task in tasks}["evaluate"] == "Completed"
        ask = start_by_hand(make_api_url(port), runs[0]["deployment_id"])
        told = receiver.wait_for("completed", server)
        assert (told["flow"], told["run"], told["state"]) == ("relabel", ask["name"], "Completed")
        assert told["url"].startswith(f"http://127.0.0.1:{port}/runs/flow-run/")
        refuse(make_api_url(port))
        told = receiver.wait_for("refused", server)
        assert told["message"] == 'coverage\n"0.4"  {{ limit }}' and "Refused" in told["text"]
        pool = httpx.get(f"{make_api_url(port)}/work_pools/{nightly['work_pool']['name']}", timeout=30).json()
        assert pool["concurrency_limit"] == 1
        (toy.root / "dvc.yaml").write_text("stages: 3")
        ask = start_by_hand(make_api_url(port), runs[0]["deployment_id"])
        told = receiver.wait_for("failed", server)
        assert (told["flow"], told["run"]) == ("relabel", ask["name"]) and "dvc.yaml" in told["message"]
        events = httpx.post(f"{make_api_url(port)}/events/filter", json={"limit": 50}, timeout=30).text
        assert "prefect.automation.action.executed" in events and receiver.secret not in events
        settings = httpx.get(f"http://127.0.0.1:{port}/ui-settings", timeout=30).json()
        assert settings["api_url"] == make_api_url(port)
        server.send_signal(signal.SIGINT)
        log_text = (tmp_path / "server.log").read_text()
        assert server.wait(60) == 130, log_text
        assert receiver.secret not in log_text
        assert not is_answering(make_api_url(port))
    finally:
        if server.poll() is None:
            end_tree(server.pid, grace_seconds=5)
            server.kill()
        log.close()


# Addresses that are not a Prefect server's.


class _Other(BaseHTTPRequestHandler):
    """Another program: what it answers is in its server's `answer`; None is silence."""

    def do_GET(self) -> None:
        answer = self.server.answer  # type: ignore[attr-defined]
        if answer is None:
            time.sleep(5)
            return
        status, text = answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def other() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), _Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


OTHERS: dict[str, tuple[tuple[int, str] | None, str]] = {
    "404": ((404, "no such page"), "answers 404 Not Found"),
    "500": ((500, ""), "answers 500 Internal Server Error"),
    "HTML": ((200, "<html>welcome</html>"), "is not a Prefect server's API"),
    "always true": ((200, "true"), "is not a Prefect server's API"),
    "silence": (None, "does not answer within 1 seconds"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_prefect_server_is_told_without_its_password(
    name: str, other: HTTPServer, toy: Toy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import relabel

    other.answer, expected = OTHERS[name]  # type: ignore[attr-defined]
    monkeypatch.setattr("flows.server._ANSWER_SECONDS", 1.0)
    assert not is_answering(make_api_url(other.server_port))
    with temporary_settings({PREFECT_API_URL: f"http://me:s3cret@127.0.0.1:{other.server_port}/api"}):
        assert relabel.main([]) == 7
    words = capfd.readouterr().err
    assert f"error: the Prefect server at http://***@127.0.0.1:{other.server_port}/api" in words
    assert expected in words and "s3cret" not in words and words.count("\n") == 1


def test_a_server_that_is_not_there_is_told(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import relabel

    monkeypatch.setenv("EPOXY_NOTIFY_URL", "https://hooks.example.org/s3cret")
    with pytest.raises(ServerError, match=r"http://\*\*\*@127\.0\.0\.1:\d+/api cannot be reached"):
        notify(api_url=f"http://me:s3cret@127.0.0.1:{find_free_port()}/api")
    for address in (f"http://me:s3cret@127.0.0.1:{find_free_port()}/api", "nonsense"):
        with temporary_settings({PREFECT_API_URL: address}):
            assert relabel.main([]) == 7
        words = capfd.readouterr().err
        assert "cannot be reached" in words and "s3cret" not in words and words.count("\n") == 1


def test_another_program_on_the_port_is_told(toy: Toy, other: HTTPServer) -> None:
    (toy.root / "prefect.yaml").write_text("deployments: [{work_pool: {name: a}}]")
    other.answer = (200, "hello")  # type: ignore[attr-defined]
    with pytest.raises(ServerError, match=f"port {other.server_port} is taken by a program that is not a Prefect"):
        serve(root=toy.root, port=other.server_port)


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    from prefect.settings import PREFECT_HOME, temporary_settings

    from flows.server import start_temporary_server

    (tmp_path / "file").write_text("")
    with (
        temporary_settings({PREFECT_HOME: tmp_path / "file" / "prefect"}),
        pytest.raises(ServerError, match=r"Prefect cannot write its database there.*PREFECT_HOME"),
    ):
        start_temporary_server()
