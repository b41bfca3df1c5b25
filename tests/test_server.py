"""prefect.yaml says only what Prefect reads, and a schedule really runs the pipeline."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pydantic
import pytest
import yaml
from conftest import Toy

from flows.process import end_tree
from flows.server import ServerError, find_api_url, is_answering, make_api_url, serve

ROOT = Path(__file__).resolve().parents[1]


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


def test_the_nightly_deployment_is_what_the_readme_says() -> None:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.flows import load_flow_from_entrypoint

    (nightly,) = read_deployments()
    assert nightly["name"] == "nightly"
    assert nightly["concurrency_limit"] == {"limit": 1, "collision_strategy": ConcurrencyLimitStrategy.CANCEL_NEW.value}
    (schedule,) = nightly["schedules"]
    DeploymentScheduleCreate(schedule=CronSchedule(**schedule))
    path, _, name = nightly["entrypoint"].partition(":")
    assert load_flow_from_entrypoint(f"{ROOT / path}:{name}").name == "relabel"


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
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None
        if is_answering(api_url):
            body = {"flow_runs": {"state": {"name": {"any_": [state]}}}}
            runs = httpx.post(f"{api_url}/flow_runs/filter", json=body, timeout=30).json()
            if len(runs) >= count:
                return list(runs)
        time.sleep(0.5)
    raise AssertionError(f"no {count} {state} runs in time")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_scheduled_run_really_completes(toy: Toy, tmp_path: Path) -> None:
    (nightly,) = read_deployments()
    nightly["schedules"] = [{"interval": 5}]
    nightly["entrypoint"] = "flows.relabel.relabel"
    (toy.root / "prefect.yaml").write_text(yaml.safe_dump({"name": "toy", "deployments": [nightly]}))
    port = find_free_port()
    environment = {
        **os.environ,
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
        runs = wait_for_runs(make_api_url(port), "Completed", 2, server)
        assert all(run["auto_scheduled"] for run in runs)
        assert sorted(toy.read_log()) == ["apply", "demo", "evaluate", "fit", "index", "ingest"]
        body = {"flow_runs": {"id": {"any_": [min(runs, key=lambda run: run["start_time"])["id"]]}}}
        tasks = httpx.post(f"{make_api_url(port)}/task_runs/filter", json=body, timeout=30).json()
        assert {task["name"]: task["state_name"] for task in tasks}["evaluate"] == "Completed"
        settings = httpx.get(f"http://127.0.0.1:{port}/ui-settings", timeout=30).json()
        assert settings["api_url"] == make_api_url(port)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 130, (tmp_path / "server.log").read_text()
        assert not is_answering(make_api_url(port))
    finally:
        if server.poll() is None:
            end_tree(server.pid, grace_seconds=5)
            server.kill()
        log.close()
