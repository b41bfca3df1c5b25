"""prefect.yaml says only what Prefect reads, and a schedule really runs the pipeline."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pydantic
import pytest
import yaml
from chromium import open_page
from prefect_api import ask, know_server
from processes import find_free_port
from toy_project import Toy

from flows.deployments import deploy
from flows.runner.process import end_tree
from flows.server import deploy_to_running, end_dead_runs, find_server, notify, serve
from flows.server_access import Server, ServerError, find_password, make_api_url, write_password
from flows.server_database import let_writers_wait
from flows.server_health import is_answering

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
    "release/release-by-hand": None,
    "rollback/rollback-by-hand": None,
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
from pathlib import Path
from flows import server
from flows.server_access import Server

class Worker:
    def poll(self):
        return None

Server.is_ours = lambda self: True
server.start_guarded = lambda *arguments, **options: Worker()
server.end_guarded = lambda guard: print("the worker is ended", flush=True)
server.set_up_pool = lambda *arguments: None
server.deploy = server.notify = lambda *arguments, **options: None
server.serve(root=Path.cwd())
"""


def test_sigterm_ends_the_server_in_order_and_without_an_error(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path)}
    (tmp_path / "prefect.yaml").write_text("deployments: [{name: nightly, work_pool: {name: epoxy}}]\n")
    command = [sys.executable, "-c", _SERVE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as served:
        assert served.stdout is not None
        while "Ctrl-C ends everything" not in served.stdout.readline():
            assert served.poll() is None
        served.send_signal(signal.SIGTERM)
        assert served.stdout.read() == "the worker is ended\n" and served.wait() == 0


@pytest.mark.slow
def test_runs_that_died_with_their_worker_are_crashed_and_others_left_alone(prefect_server: str) -> None:
    server = know_server(prefect_server)

    def post(path: str, **content: Any) -> Any:
        return ask(server, "POST", path, content).raise_for_status().json()

    flow = post("flows/", name="died")["id"]
    for pool in ("died", "other"):
        post("work_pools/", name=pool, type="process")
    running = {"type": "RUNNING", "name": "Running"}
    dead, alive = (post("flow_runs/", flow_id=flow, state=running, work_pool_name=one) for one in ("died", "other"))
    assert end_dead_runs(server, "died") == (dead["name"],)
    read = [ask(server, "GET", f"flow_runs/{one['id']}").json() for one in (dead, alive)]
    assert [one["state"]["type"] for one in read] == ["CRASHED", "RUNNING"]
    assert end_dead_runs(server, "died") == () == end_dead_runs(server, "unknown")


def test_nothing_answers_where_nothing_runs() -> None:
    assert not is_answering(Server(api_url=make_api_url(find_free_port())))


def test_a_missing_or_mixed_prefect_yaml_is_told(toy: Toy) -> None:
    with pytest.raises(ServerError, match=r"prefect\.yaml is missing"):
        serve(root=toy.root, port=find_free_port())
    (toy.root / "prefect.yaml").write_text(
        "deployments: [{name: x, work_pool: {name: a}}, {name: y, work_pool: {name: b}}]"
    )
    with pytest.raises(ServerError, match="one work_pool"):
        serve(root=toy.root, port=find_free_port())


def test_a_prefect_yaml_that_is_no_yaml_is_told_with_its_line(toy: Toy) -> None:
    (toy.root / "prefect.yaml").write_text("deployments:\n\t- a\n")
    with pytest.raises(ServerError, match=r"prefect\.yaml, line 2: not valid YAML: .*spaces, not with tabs"):
        serve(root=toy.root, port=find_free_port())
    (toy.root / "prefect.yaml").write_bytes(b"# Stra\xdfe\n")
    with pytest.raises(ServerError, match=r"prefect\.yaml, line 1: .* is not UTF-8"):
        serve(root=toy.root, port=find_free_port())


def test_where_the_password_is_follows_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_SERVER_API_AUTH_STRING, temporary_settings

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert find_password() == str(tmp_path / "epoxy-password")
    assert write_password(is_new=True) == tmp_path / "epoxy-password"
    with temporary_settings({PREFECT_SERVER_API_AUTH_STRING: "me:mine"}):
        assert "PREFECT_SERVER_API_AUTH_STRING" in find_password() and "mine" not in find_password()
        with pytest.raises(ServerError, match="PREFECT_SERVER_API_AUTH_STRING: change it there"):
            write_password(is_new=True)


def test_the_configured_server_comes_first() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        server = find_server()
    assert server is not None and server.api_url == "http://127.0.0.1:1/api"


def wait_for_runs(home: Path, port: int, state: str, count: int, process: "subprocess.Popen[bytes]") -> list[Any]:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None
        if (home / "epoxy-password").exists() and is_answering(server := know_server(make_api_url(port), home)):
            body = {"flow_runs": {"state": {"name": {"any_": [state]}}}}
            answer = ask(server, "POST", "flow_runs/filter", body)
            if answer.is_success and len(answer.json()) >= count:
                return list(answer.json())
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


def refuse(server: Server) -> None:
    """A run of a flow called `release` that ends as one does whose gates failed, with a message that needs quoting."""
    from prefect import flow
    from prefect.settings import temporary_settings
    from prefect.states import Failed

    from flows.release_flow import REFUSED

    @flow(name="release")
    def end() -> Any:
        return Failed(name=REFUSED, message='coverage\n"0.4"  {{ limit }}')

    with temporary_settings(server.settings()):
        assert end(return_state=True).name == REFUSED


def start_by_hand(server: Server, deployment: str) -> dict[str, Any]:
    """The run that a click in the UI starts, with the schedule paused.

    Prefect holds back by up to 15 minutes the events of runs that were scheduled less than five before they start: the
    first one refers to an event that nobody sends.

    A pause deletes runs of the future, but not those that are late, nor those that Prefect's scheduler chose before it
    and inserts after it. If one of them starts first, this one overlaps it and is cancelled.
    """
    left = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}}}}
    deadline = time.monotonic() + 240
    while True:
        insist(server, "PATCH", f"deployments/{deployment}", {"paused": True})
        if insist(server, "POST", "flow_runs/count", left).json():
            assert time.monotonic() < deadline
            time.sleep(0.5)
            continue
        run = dict(insist(server, "POST", f"deployments/{deployment}/create_flow_run", {}).json())
        if wait_while(server, run["id"], "SCHEDULED", "PENDING")["state_type"] != "CANCELLED":
            return run


def wait_while(server: Server, run: str, *types: str) -> dict[str, Any]:
    """The run once its state is of none of `types`."""
    deadline = time.monotonic() + 240
    while (found := insist(server, "GET", f"flow_runs/{run}").json())["state_type"] in types:
        assert time.monotonic() < deadline, found["state"]
        time.sleep(0.5)
    return dict(found)


def run_a_second_project(server: Server, toy: Toy, template: Path, environment: dict[str, str]) -> None:
    """Have the worker of the first project run the second, each in its own folder."""
    second = toy.root.with_name("second")
    shutil.copytree(template, second, symlinks=True)
    document = yaml.safe_load((toy.root / "prefect.yaml").read_text())
    document["deployments"][0]["schedules"] = []
    (second / "prefect.yaml").write_text(yaml.safe_dump(document))
    before = toy.read_outputs()
    port = str(httpx.URL(server.api_url).port)
    command = [sys.executable, "-m", "flows.cli", "server", "--deploy", "--port", port]
    subprocess.run(command, cwd=second, env=environment, check=True, capture_output=True)
    deployment = ask(server, "GET", "deployments/name/relabel/second-nightly").json()["id"]
    ended = wait_while(server, start_by_hand(server, deployment)["id"], "SCHEDULED", "PENDING", "RUNNING")
    assert ended["state_name"] == "Completed", ended["state"]["message"]
    workers = insist(server, "POST", f"work_pools/{ended['work_pool_name']}/workers/filter", {}).json()
    assert [worker["name"] for worker in workers] == ["epoxy"]
    assert toy.read_outputs() == before == Toy(root=second, log=toy.log).read_outputs()
    assert (second / "dvc.lock").is_file()


def insist(server: Server, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    """The answer of a server that may be busy: SQLite lets one write at a time."""
    deadline = time.monotonic() + 120
    while True:
        answer = ask(server, method, path, body)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
            return answer.raise_for_status()
        time.sleep(1)


def attack_in_every_way(server: Server, port: int, pool: str, deployment: str, trace: Path) -> None:
    """Others ask the server to run a command: a page of another origin, a foreign host name, somebody without password.

    Even its owner cannot have a run start another command, since a page that found a way in would be taken for them.
    """
    path = f"{server.api_url}/deployments/{deployment}/create_flow_run"
    wish = {"job_variables": {"command": f"touch {trace}", "env": {"PYTHONSTARTUP": str(trace)}}}
    evil = {"Origin": "https://evil.example"}
    assert httpx.post(path, json=wish, timeout=30).status_code in (401, 403)
    for headers in (evil, {"Origin": "null"}, {"Origin": f"http://127.0.0.1:{port + 1}"}, {"Host": "evil.example"}):
        for auth in (None, server.find_auth()):
            answer = httpx.post(path, json=wish, headers=headers, auth=auth, timeout=30)
            assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
            assert httpx.get(f"{server.api_url}/admin/settings", headers=headers, auth=auth).status_code == 403
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type", **evil}
    assert httpx.options(path, headers=asked, timeout=30).status_code == 403
    assert httpx.post(path, json=wish, auth=server.find_auth(), timeout=30).status_code == 403  # no CSRF token
    assert ask(server, "POST", f"deployments/{deployment}/create_flow_run", wish).status_code in (409, 422)
    template = ask(server, "GET", f"work_pools/{pool}").json()["base_job_template"]
    assert template["variables"]["properties"] == {} and "command" not in template["job_configuration"]
    assert not trace.exists()


def log_in_with_a_browser(server: Server, folder: Path) -> None:
    """The pages ask for what is in the file of the password, refuse anything else, and then open."""
    with open_page(server.api_url.removesuffix("/api"), folder) as page:
        page.wait_for("document.querySelector('input') && location.href.includes('login')")
        page.type("epoxy:wrong")
        page.wait_for("document.body.innerText.includes('Invalid credentials')")
        page.type(str(server.password))
        page.wait_for("!location.href.includes('login') && document.body.innerText.includes('Deployments')")


def register(server: Server, name: str, folder: Path, **content: Any) -> str:
    """The id of a deployment of the project in `folder`, as Prefect's command makes one."""
    flow = insist(server, "POST", "flows/", {"name": "relabel"}).json()["id"]
    step = {"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}
    body = {"flow_id": flow, "name": name, "pull_steps": [step], "tags": ["epoxy"], **content}
    return str(insist(server, "POST", "deployments/", body).json()["id"])


@pytest.mark.slow
def test_two_projects_on_a_server_keep_their_deployments_and_old_names_go_with_their_schedules(
    toy: Toy, prefect_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = know_server(prefect_server)
    nightly, *_, by_hand, _ = read_deployments()
    nightly["entrypoint"], by_hand["entrypoint"] = "flows.relabel.relabel", "flows.relabel.relabel"
    (toy.root / "prefect.yaml").write_text(yaml.safe_dump({"deployments": [nightly, by_hand]}))
    insist(server, "POST", "work_pools/", {"name": "epoxy", "type": "process"})
    other, gone = tmp_path / "other", tmp_path / "gone"
    other.mkdir()
    hourly = {"schedules": [{"active": True, "schedule": {"interval": 3600}}]}
    old = register(server, "nightly", toy.root, paused=True, **hourly)
    late = {"state": {"type": "SCHEDULED", "state_details": {"scheduled_time": "2040-01-01T00:00:00Z"}}}
    run = insist(server, "POST", f"deployments/{old}/create_flow_run", late).json()["id"]
    kept = [register(server, "other-nightly", other, **hourly), register(server, "mine", toy.root)]
    by_hand_once = register(server, "toy-by-hand", toy.root)
    register(server, "gone-nightly", gone)
    deploy_to_running(root=toy.root, port=int(httpx.URL(prefect_server).port or 0))
    said = capsys.readouterr().out
    assert "renamed  nightly is toy-nightly now" in said and "renamed  toy-by-hand is toy-release-by-hand now" in said
    assert f"left     gone-nightly: its project was in {gone}" in said and said.count("\n") == 4
    for path in (f"deployments/{old}", f"deployments/{by_hand_once}", f"flow_runs/{run}"):
        assert ask(server, "GET", path).status_code == 404
    assert [ask(server, "GET", f"deployments/{one}").status_code for one in kept] == [200, 200]
    made = ask(server, "GET", "deployments/name/relabel/toy-nightly").json()
    assert made["paused"] and made["pull_steps"][0]["prefect.deployments.steps.set_working_directory"] == {
        "directory": str(toy.root)
    }
    assert ask(server, "GET", "deployments/name/relabel/nightly").status_code == 404
    namesake = tmp_path / "elsewhere" / "toy"
    namesake.mkdir(parents=True)
    shutil.copy2(toy.root / "prefect.yaml", namesake)
    with pytest.raises(
        ServerError, match=f"'toy-.*' on this server is that of {toy.root}, and {namesake} has the same name"
    ):
        deploy(root=namesake, server=server)


def test_a_server_that_is_gone_or_refuses_is_an_error_without_traceback() -> None:
    nobody = Server(api_url="http://me:secret@127.0.0.1:1/api", password="me:secret")
    with (
        pytest.raises(ServerError, match=r"//\*\*\*@127\.0\.0\.1:1/api: the Prefect server does not answer"),
        nobody.open(),
    ):
        pass
    refusal = httpx.Response(409, request=httpx.Request("POST", nobody.api_url))
    with (
        patch.object(httpx.Client, "get", return_value=httpx.Response(404)),
        pytest.raises(ServerError, match=r"did not do what it was asked \(.*409 Conflict.*//\*\*\*@"),
        nobody.open(),
    ):
        refusal.raise_for_status()


def test_who_deploys_to_a_server_that_does_not_run_is_told(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (toy.root / "prefect.yaml").write_text("deployments: [{work_pool: {name: a}}]")
    with pytest.raises(ServerError, match="each with a name"):
        deploy_to_running(root=toy.root)
    (toy.root / "prefect.yaml").write_text("deployments: [{name: nightly, work_pool: {name: a}}]")
    with pytest.raises(ServerError, match="no server of yours answers on port"):
        deploy_to_running(root=toy.root, port=find_free_port())


async def read_then_write_while_another_writes(file: Path) -> list[int]:
    """What two transactions that add 1 to a number have read, the second begun after the first has read."""
    from prefect.server.database.configurations import AioSqliteConfiguration
    from sqlalchemy import text

    configuration = AioSqliteConfiguration(f"sqlite+aiosqlite:///{file}")
    engine = await configuration.engine()
    has_read, read = asyncio.Event(), []

    async def add() -> None:
        async with await configuration.session(engine) as session, configuration.begin_transaction(session):
            read.append((await session.execute(text("select n from t"))).scalar_one())
            has_read.set()
            await asyncio.sleep(0.2)
            await session.execute(text("update t set n = n + 1"))

    async with await configuration.session(engine) as session, configuration.begin_transaction(session):
        await session.execute(text("create table t as select 0 as n"))
    first = asyncio.create_task(add())
    await has_read.wait()
    await asyncio.gather(first, asyncio.create_task(add()))
    await engine.dispose()
    return read


def test_a_transaction_that_reads_first_is_not_refused_when_another_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.server.database.configurations import AioSqliteConfiguration
    from sqlalchemy.exc import OperationalError

    # Prefect as it comes: once this passes, the mend can go.
    with pytest.raises(OperationalError, match="database is locked"):
        asyncio.run(read_then_write_while_another_writes(tmp_path / "before.db"))
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction)
    let_writers_wait()
    assert asyncio.run(read_then_write_while_another_writes(tmp_path / "after.db")) == [0, 1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_scheduled_run_really_completes_and_how_runs_end_is_posted(
    toy: Toy, toy_template: Path, tmp_path: Path, receiver: Receiver
) -> None:
    nightly = read_deployments()[0]
    nightly |= {"schedules": [{"interval": 10}], "parameters": {}}
    nightly["entrypoint"] = "flows.relabel.relabel"
    (toy.root / "prefect.yaml").write_text(yaml.safe_dump({"name": "toy", "deployments": [nightly]}))
    port, home = find_free_port(), tmp_path / "prefect"
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PREFECT_API_AUTH_STRING"},
        "EPOXY_NOTIFY_URL": receiver.url,
        "PREFECT_HOME": str(home),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    }
    log = (tmp_path / "server.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "server", "--port", str(port)],
        cwd=toy.root,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        runs = wait_for_runs(home, port, "Completed", 1, process)
        server = know_server(make_api_url(port), home)
        assert all(run["auto_scheduled"] for run in runs)
        assert ask(server, "GET", "deployments/name/relabel/toy-nightly").json()["id"] == runs[0]["deployment_id"]
        assert sorted(toy.read_log()) == ["apply", "demo", "evaluate", "fit", "index", "ingest"]
        body = {"flow_runs": {"id": {"any_": [min(runs, key=lambda run: run["start_time"])["id"]]}}}
        tasks = ask(server, "POST", "task_runs/filter", body).json()
        assert {task["name"]: task["state_name"] for task in tasks}["evaluate"] == "Completed"
        started = start_by_hand(server, runs[0]["deployment_id"])
        told = receiver.wait_for("completed", process)
        assert (told["flow"], told["run"], told["state"]) == ("relabel", started["name"], "Completed")
        assert told["url"].startswith(f"http://127.0.0.1:{port}/runs/flow-run/")
        refuse(server)
        told = receiver.wait_for("refused", process)
        assert told["message"] == 'coverage\n"0.4"  {{ limit }}' and "Refused" in told["text"]
        run_a_second_project(server, toy, toy_template, environment)
        pool = ask(server, "GET", f"work_pools/{nightly['work_pool']['name']}").json()
        assert pool["concurrency_limit"] == 1
        (toy.root / "dvc.yaml").write_text("stages: 3")
        started = start_by_hand(server, runs[0]["deployment_id"])
        told = receiver.wait_for("failed", process)
        assert (told["flow"], told["run"]) == ("relabel", started["name"]) and "dvc.yaml" in told["message"]
        events = ask(server, "POST", "events/filter", {"limit": 50}).text
        assert "prefect.automation.action.executed" in events and receiver.secret not in events
        attack_in_every_way(server, port, str(pool["name"]), runs[0]["deployment_id"], tmp_path / "broken-in")
        settings = httpx.get(f"http://127.0.0.1:{port}/ui-settings", timeout=30).json()
        assert settings["api_url"] == make_api_url(port)
        if shutil.which("chromium"):
            log_in_with_a_browser(server, tmp_path / "chromium")
        process.send_signal(signal.SIGINT)
        log_text = (tmp_path / "server.log").read_text()
        assert process.wait(60) == 130, log_text
        assert receiver.secret not in log_text
        assert not is_answering(server)
    finally:
        if process.poll() is None:
            end_tree(process.pid, grace_seconds=5)
            process.kill()
        log.close()
        print((tmp_path / "server.log").read_text())  # shown of a test that failed


_PAGE = """<script>
const body = JSON.stringify({name: "planted"});
const asks = [
  fetch("API/flows/", {method: "POST", body, headers: {"Content-Type": "application/json"}}),
  fetch("API/flows/", {method: "POST", body, mode: "no-cors"}),
  fetch("API/admin/version"),
];
Promise.allSettled(asks).then(all => document.title = all.map(one => one.status + (one.value?.type ?? "")).join(" "));
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's package chromium")
def test_a_page_of_another_port_gets_nothing_done_in_a_browser(prefect_server: str, tmp_path: Path) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(_PAGE.replace("API", prefect_server).encode())

        def log_message(self, *_: object) -> None:
            pass

    page = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    address = f"http://127.0.0.1:{page.server_port}/"
    shown = subprocess.run(
        [*command, "--virtual-time-budget=20000", "--dump-dom", address], capture_output=True, text=True, timeout=120
    ).stdout
    page.shutdown()
    page.server_close()
    assert "<title>rejected fulfilledopaque rejected</title>" in shown
    flows = ask(know_server(prefect_server), "POST", "flows/filter", {}).json()
    assert "planted" not in {flow["name"] for flow in flows}


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
    monkeypatch.setattr("flows.server_health.ANSWER_SECONDS", 1.0)
    assert not is_answering(Server(api_url=make_api_url(other.server_port)))
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
        notify(Server(api_url=f"http://me:s3cret@127.0.0.1:{find_free_port()}/api"))
    for address in (f"http://me:s3cret@127.0.0.1:{find_free_port()}/api", "nonsense"):
        with temporary_settings({PREFECT_API_URL: address}):
            assert relabel.main([]) == 7
        words = capfd.readouterr().err
        assert "cannot be reached" in words and "s3cret" not in words and words.count("\n") == 1


def test_another_program_on_the_port_is_told(toy: Toy, other: HTTPServer) -> None:
    (toy.root / "prefect.yaml").write_text("deployments: [{name: nightly, work_pool: {name: a}}]")
    other.answer = (200, "hello")  # type: ignore[attr-defined]
    with pytest.raises(ServerError, match=f"port {other.server_port}: .*What listens there is no server of yours"):
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


def test_a_server_whose_port_was_taken_meanwhile_starts_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_HOME, temporary_settings

    from flows.server import start_temporary_server

    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], **_: object) -> "subprocess.Popen[bytes]":
        """A server that ends at once, as without its port, and then another that lives until its life line is cut."""
        started.append(subprocess.Popen(["cat"] if started else ["false"], stdin=subprocess.PIPE))
        return started[-1]

    monkeypatch.setattr("flows.server.start_guarded", start)
    monkeypatch.setattr(Server, "is_ours", lambda self: len(started) == 2)
    with temporary_settings({PREFECT_HOME: tmp_path / "prefect"}):
        start_temporary_server()
    first, second = started
    assert first.wait() == 1 and second.poll() is None
    assert second.stdin is not None
    second.stdin.close()
    second.wait()
