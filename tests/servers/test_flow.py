"""The flow and `dvc repro` are two doors to one pipeline, and no way of ending the flow leaves anything behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import is_alive
from toy_project import TOY_STAGES, Toy

from tasks.errors import StageError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _server(prefect_server: str) -> Iterator[None]:
    yield


def run(**arguments: object) -> dict[str, str]:
    """What became of each stage."""
    from flows import relabel

    summary = relabel.run(**arguments)  # type: ignore[arg-type]
    return {report.name: report.outcome for report in summary.reports}


ALL_CACHED = dict.fromkeys(TOY_STAGES, "Cached")
FIRST_RUN = {**dict.fromkeys(TOY_STAGES, "Completed"), "data/raw.txt.dvc": "Cached"}


def start_flow(toy: Toy, server: str, **environment: str) -> "subprocess.Popen[str]":
    """A flow in a process of its own, against the session's server."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.relabel"],
        cwd=toy.root,
        env={**os.environ, "PREFECT_API_URL": server, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def find_parts(toy: Toy) -> list[Path]:
    return list((toy.root / "data").rglob("*.part"))


# --- the cache matrix


def test_flow_after_repro_runs_nothing(toy: Toy) -> None:
    toy.run("dvc", "repro")
    toy.clear_log()
    assert run() == ALL_CACHED
    assert toy.read_log() == []


def test_repro_after_flow_runs_nothing_and_both_wrote_the_same_bytes(toy: Toy) -> None:
    assert run() == FIRST_RUN
    outputs, lock = toy.read_outputs(), (toy.root / "dvc.lock").read_bytes()
    toy.clear_log()
    assert "up to date" in toy.run("dvc", "repro").stdout
    assert toy.read_log() == []
    toy.run("dvc", "repro", "--force")
    assert toy.read_log() != []
    assert (toy.read_outputs(), (toy.root / "dvc.lock").read_bytes()) == (outputs, lock)


def test_older_revision_is_restored_without_running_anything(toy: Toy) -> None:
    run()
    toy.commit("results")
    first = toy.read_outputs()
    toy.set_params(apply="a2")
    assert run() == {**ALL_CACHED, **dict.fromkeys(("apply", "fit", "evaluate"), "Completed")}
    toy.commit("another apply")
    toy.run("git", "checkout", "-q", "HEAD~1")
    toy.clear_log()
    assert run() == {**ALL_CACHED, **dict.fromkeys(("apply", "fit", "evaluate"), "Restored")}
    assert toy.read_log() == []
    assert toy.read_outputs() == first


def test_deleted_output_is_restored(toy: Toy) -> None:
    run()
    (toy.root / "data/fit/labels.txt").unlink()
    toy.clear_log()
    assert run() == {**ALL_CACHED, "fit": "Restored"}
    assert toy.read_log() == []


def test_edited_raw_file_reruns_what_depends_on_it(toy: Toy) -> None:
    run()
    (toy.root / "data/raw.txt").write_text("raw2")
    toy.clear_log()
    assert run() == {**FIRST_RUN, "data/raw.txt.dvc": "Completed", "data/demo/dvc.yaml:demo": "Cached"}
    assert sorted(toy.read_log()) == ["apply", "evaluate", "fit", "index", "ingest"]


def test_targets_limit_the_run_to_what_they_need(toy: Toy) -> None:
    assert run(targets=["index"]) == {name: FIRST_RUN[name] for name in (*TOY_STAGES[:3], "index")}


def test_independent_stages_run_side_by_side(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLEEP_index", "6")
    monkeypatch.setenv("SLEEP_apply", "6")
    run()
    events = [line.split()[:2] for line in toy.log.read_text().splitlines() if line.split()[0] in ("start", "end")]
    between = events[events.index(["end", "ingest"]) + 1 : events.index(["start", "fit"])]
    assert [what for what, _ in between] == ["start", "start", "end", "end"]


# --- what goes wrong


def test_failure_is_told_in_the_stages_own_words_and_stops_what_needs_it(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows import relabel

    monkeypatch.setenv("FAIL_apply", "3")
    monkeypatch.setenv("MESSAGE", "votes.parquet: column 'loops' has value 7")
    assert relabel.main([]) == 3
    captured = capsys.readouterr()
    assert "error: stage apply: exit code 3: votes.parquet: column 'loops' has value 7" in captured.err
    assert captured.err.count("column 'loops'") == 1
    assert "not run: fit, evaluate" in captured.out
    assert "Traceback" not in captured.err
    monkeypatch.delenv("FAIL_apply")
    toy.clear_log()
    outcomes = run()
    assert outcomes["index"] == "Cached"
    assert sorted(toy.read_log()) == ["apply", "evaluate", "fit"]


def set_options(toy: Toy, stage: str, options: str) -> None:
    path = toy.root / "dvc.yaml"
    text = path.read_text()
    path.write_text(text.replace(f"    cmd: python step.py {stage}\n", f"    cmd: python step.py {stage}\n{options}\n"))


def test_timeout_ends_the_stage_and_its_children(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import relabel

    set_options(toy, "fit", "    meta: {prefect: {timeout_seconds: 1, retries: 3}}")
    monkeypatch.setenv("SLEEP_fit", "600")
    summary = relabel.run()
    outcomes = {report.name: report.outcome for report in summary.reports}
    assert outcomes["fit"] == "TimedOut"
    assert summary.skipped == ("evaluate",)
    assert isinstance(summary.error, TimeoutError)
    assert toy.read_log().count("fit") == 1
    assert not any(is_alive(pid) for pid in toy.read_pids())
    monkeypatch.delenv("SLEEP_fit")
    assert run() == {**ALL_CACHED, "fit": "Completed", "evaluate": "Completed"}
    assert find_parts(toy) == []


@pytest.mark.parametrize(
    ("message", "tries"),
    [("\nOSError: [Errno 5] Input/output error", 3), ("\nValueError: labels of one class", 1)],
)
def test_only_transient_errors_are_retried(
    message: str, tries: int, toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows import relabel

    set_options(toy, "fit", "    meta: {prefect: {retries: 2}}")
    monkeypatch.setenv("FAIL_fit", "1")
    monkeypatch.setenv("MESSAGE", message)
    assert relabel.main([]) == 1
    assert toy.read_log().count("fit") == tries
    told = capsys.readouterr().err
    assert told.count("once more: stage fit") == tries - 1
    assert told.count("error: stage fit") == 1


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_killed_flow_leaves_no_process_and_the_next_run_continues(
    end: signal.Signals, toy: Toy, prefect_server: str
) -> None:
    flow = start_flow(toy, prefect_server, SLEEP_fit="600")
    try:
        wait_for(lambda: any(name == "fit" for name in toy.read_log("child")), flow)
        flow.send_signal(end)
        _, error = flow.communicate(timeout=60)
    finally:
        flow.kill()
    assert flow.returncode == (130 if end is signal.SIGINT else -end), error
    wait_for(lambda: not any(is_alive(pid) for pid in toy.read_pids()))
    toy.clear_log()
    assert run() == {**ALL_CACHED, "fit": "Completed", "evaluate": "Completed"}
    assert toy.read_log() == ["fit", "evaluate"]
    assert find_parts(toy) == []
    assert "up to date" in toy.run("dvc", "status").stdout


def test_second_flow_waits_names_the_first_and_runs_nothing_twice(
    toy: Toy, prefect_server: str, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    first = start_flow(toy, prefect_server, HOLD_ingest=str(go))
    second = None
    try:
        wait_for(lambda: "ingest" in toy.read_log(), first)
        second = start_flow(toy, prefect_server, HOLD_ingest=str(go))
        assert second.stderr is not None
        waiting = next(line for line in second.stderr if "waiting: " in line)
        assert f"(PID {first.pid})" in waiting
        assert "(stage ingest)" in waiting
        go.touch()
        outputs = [flow.communicate(timeout=120) for flow in (first, second)]
    finally:
        first.kill()
        if second:
            second.kill()
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert sorted(toy.read_log()) == ["apply", "demo", "evaluate", "fit", "index", "ingest"]
    assert "up to date" in toy.run("dvc", "status").stdout


# --- what a person sees


def test_terminal_shows_lines_outcomes_and_where_results_are(toy: Toy, prefect_server: str) -> None:
    out, error = start_flow(toy, prefect_server).communicate(timeout=60)
    assert "ingest | ingest reads 2 files" in error.splitlines()
    assert "metrics  data/evaluate/metrics.json" in out.splitlines()
    assert [line.split()[:2] for line in out.splitlines()[:7]] == [
        [name, FIRST_RUN[name]] for name in [line.split()[0] for line in out.splitlines()[:7]]
    ]
    out, error = start_flow(toy, prefect_server).communicate(timeout=60)
    assert "nothing to do: everything is up to date" in out.splitlines()
    assert error == ""


def test_server_shows_states_lines_progress_and_artifacts(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, LogFilter, TaskRunFilter
    from prefect.client.schemas.sorting import LogSort

    from flows.relabel import relabel
    from flows.report_links import name_artifact

    monkeypatch.setenv("PROGRESS_fit", "1")
    run()
    state = relabel(return_state=True)
    run_id = state.state_details.flow_run_id
    assert state.message == "7 Cached"
    with get_client(sync_client=True) as client:
        only = FlowRunFilter.model_validate({"id": {"any_": [str(run_id)]}})

        def read_states() -> dict[str, str | None]:
            tasks = client.read_task_runs(flow_run_filter=only, task_run_filter=TaskRunFilter())
            return {task.name: task.state_name for task in tasks}

        wait_for(lambda: read_states() == ALL_CACHED)  # the server records states a moment later
        artifacts = {artifact.key: artifact for artifact in client.read_latest_artifacts()}
        project = name_artifact(toy.root, "")
        artifacts = {
            key.removeprefix(project): found for key, found in artifacts.items() if key and key.startswith(project)
        }
        assert artifacts["progress-fit"].data == 100.0
        assert "evaluate f1" not in str(artifacts["report-summary"].data)
        assert str(artifacts["report-summary"].data).startswith("evaluate fit f1")
        assert '"loops"' in str(artifacts["labeling-functions"].data)
        assert "data/evaluate/metrics.json" in str(artifacts["results"].data)

        def read_messages() -> list[str]:
            return [log.message for log in client.read_logs(LogFilter(), limit=200, sort=LogSort.TIMESTAMP_DESC)]

        wait_for(lambda: "fit reads 2 files" in read_messages())
        assert not any(message.startswith("@progress") for message in read_messages())


def test_a_run_of_some_stages_links_no_result_that_is_outdated(toy: Toy) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter

    from flows.relabel import relabel
    from flows.report_links import name_artifact

    def read_artifacts(target: str) -> dict[str, str]:
        """The artifacts of a run of `target`, by key without the project's name."""
        run_id = relabel([target], return_state=True).state_details.flow_run_id
        with get_client(sync_client=True) as client:
            only = ArtifactFilter.model_validate({"flow_run_id": {"any_": [str(run_id)]}})
            artifacts = client.read_artifacts(artifact_filter=only)
        return {str(found.key).removeprefix(name_artifact(toy.root, "")): str(found.data) for found in artifacts}

    run()
    params = toy.root / "params.yaml"
    params.write_text(params.read_text().replace("a1", "a2"))
    found = read_artifacts("apply")
    assert set(found) == {"results"}
    assert "- metrics: `data/evaluate/metrics.json`, not up to date" in found["results"]
    found = read_artifacts("evaluate")
    assert {"results", "report-summary", "labeling-functions"} <= set(found)
    assert "- metrics: `data/evaluate/metrics.json`\n" in f"{found['results']}\n"


def test_failed_and_timed_out_stages_are_so_named_on_the_server(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, LogFilter

    from flows.relabel import relabel

    set_options(toy, "index", "    # a comment")
    path = toy.root / "dvc.yaml"
    path.write_text(path.read_text().replace("tags: [big]", "tags: [big], timeout_seconds: 1"))
    monkeypatch.setenv("SLEEP_index", "600")
    monkeypatch.setenv("FAIL_apply", "4")
    state = relabel(return_state=True)
    assert state.is_failed()
    assert state.message is not None
    assert "stage index: ended after 1 seconds" in state.message and "apply cannot go on" in state.message
    only = FlowRunFilter.model_validate({"id": {"any_": [str(state.state_details.flow_run_id)]}})
    with get_client(sync_client=True) as client:

        def read_states() -> dict[str, str | None]:
            return {task.name: task.state_name for task in client.read_task_runs(flow_run_filter=only)}

        expected = {name: FIRST_RUN[name] for name in TOY_STAGES[:3]}
        wait_for(lambda: read_states() == {**expected, "index": "TimedOut", "apply": "Failed"})
        logs = LogFilter.model_validate({"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}})
        wait_for(lambda: "error: apply cannot go on" in [log.message for log in client.read_logs(logs, limit=200)])
        (tagged,) = [task for task in client.read_task_runs(flow_run_filter=only) if task.name == "index"]
        assert "big" in tagged.tags


def test_epoxy_run_ends_with_where_the_results_are(toy: Toy) -> None:
    from click.testing import CliRunner

    from flows.cli.main import main

    result = CliRunner().invoke(main, ["run", "--quiet"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "metrics  data/evaluate/metrics.json"
    assert CliRunner().invoke(main, ["run", "fit"]).stdout.count("Cached") == 6
    toy.set_params(index="i2")
    result = CliRunner().invoke(main, ["run", "--quiet", "index"])
    assert (
        result.stdout.splitlines()[-1] == "metrics  data/evaluate/metrics.json  not up to date: 'epoxy run' renews it"
    )


def test_a_run_that_finds_nothing_to_do_starts_no_server(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from flows import relabel, run_head
    from flows.cli.main import main
    from flows.server_access import ServerError

    def refuse() -> None:
        raise ServerError("a server is started")

    run()
    for module in ("flows.server", "flows.relabel"):
        monkeypatch.setattr(f"{module}.find_server", lambda: None)
    monkeypatch.setattr(relabel, "start_temporary_server", refuse)
    monkeypatch.setattr(run_head, "begin_temporary_server", refuse)
    result = CliRunner().invoke(main, ["run"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    cached = {line.split()[0] for line in lines if line.split()[1:2] == ["Cached"]}
    assert cached == {*ALL_CACHED, *FIRST_RUN}
    assert lines[-3:] == ["nothing to do: everything is up to date", "", "metrics  data/evaluate/metrics.json"]
    assert CliRunner().invoke(main, ["run", "fit"]).stdout.count("Cached") == 6
    # What a run would do, restore or be asked for does need one.
    assert CliRunner().invoke(main, ["run", "--update"]).exit_code == ServerError.exit_code
    (toy.root / "data/fit/labels.txt").unlink()
    assert CliRunner().invoke(main, ["run", "index"]).exit_code == 0
    assert CliRunner().invoke(main, ["run"]).exit_code == ServerError.exit_code


class LateServer:
    """Stands for a temporary server: the session's, which answers when a stage has begun; or Ctrl-C comes then."""

    def __init__(self, toy: Toy, stage: str, *, is_interrupted: bool = False) -> None:
        self._toy, self._stage, self.is_interrupted = toy, stage, is_interrupted

    def wait(self) -> object:
        from flows.server import find_server

        deadline = time.monotonic() + 120
        while self._stage not in self._toy.read_log():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if self.is_interrupted:
            raise KeyboardInterrupt
        return find_server()


def run_early(toy: Toy, monkeypatch: pytest.MonkeyPatch, server: LateServer) -> int:
    from flows import relabel, run_head

    monkeypatch.setattr(relabel, "find_server", lambda: None)
    monkeypatch.setattr(run_head, "begin_temporary_server", lambda: server)
    return relabel.main([])


def test_stages_run_while_the_server_starts_and_none_twice(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_early(toy, monkeypatch, LateServer(toy, "ingest")) == 0
    words = capfd.readouterr()
    assert sorted(toy.read_log()) == sorted(["demo", "ingest", "index", "apply", "fit", "evaluate"])
    assert len(re.findall(r"Completed", words.out)) == 6 and "ingest | ingest reads 2 files" in words.err
    assert run() == ALL_CACHED


def test_a_stage_that_fails_before_the_server_is_there_fails_the_run(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAIL_ingest", "4")
    assert run_early(toy, monkeypatch, LateServer(toy, "ingest")) == 4
    words = capfd.readouterr()
    assert "ingest cannot go on" in words.err and re.search(r"^ingest +Failed", words.out, re.M)
    assert toy.read_log() == ["demo", "ingest"]


def test_ctrl_c_while_the_server_starts_ends_the_stage(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLEEP_ingest", "600")
    server = LateServer(toy, "ingest", is_interrupted=True)
    assert run_early(toy, monkeypatch, server) == 130
    assert toy.read_log() == ["demo", "ingest"] and not any(map(is_alive, toy.read_pids()))
    server.is_interrupted = False
    monkeypatch.delenv("SLEEP_ingest")
    assert run()["ingest"] == "Completed"


def test_a_python_user_runs_stages_and_is_told_of_a_failure(
    toy: Toy, prefect_server: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from epoxy_flow import open_project

    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    project = open_project(toy.root)
    project.run("ingest")
    assert re.search(r"^ingest +Completed", capfd.readouterr().out, re.M)
    assert toy.read_log() == ["demo", "ingest"]
    monkeypatch.setenv("FAIL_index", "4")
    with pytest.raises(StageError, match=r"^'epoxy run' ended with \d+; its last lines say why"):
        project.run("index")
    assert re.search(r"^index +Failed", capfd.readouterr().out, re.M)
