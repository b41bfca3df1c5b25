"""DVC's graph and verdicts, as the flow sees them; these tests notice a change in DVC's private names."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from _ruamel_yaml import CParser
from ruamel.yaml import YAML
from toy_project import TOY_STAGES, Toy

from flows.cli.show import describe_last_run
from flows.runner.dvc_graph import Options, read_stages
from flows.runner.dvc_locks import BusyError
from flows.runner.dvc_patches import Command
from flows.runner.dvc_run import run_stage
from flows.runner.dvc_status import find_changes, find_outdated
from flows.runner.failure import StageTimeoutError
from flows.runner.leftovers import remove_leftovers
from flows.runner.listener import StageProgress
from flows.runner.process import Commands
from flows.runner.report import Outcome
from flows.runner.stage import execute_stage
from tasks.errors import ParamsError, StageError


def spawn(command: Command) -> None:
    subprocess.run(command.argv, cwd=command.cwd, env=dict(command.env), check=True)


def refuse(command: Command) -> None:
    raise AssertionError(f"ran {command.text}")


def run_all(toy: Toy, spawn_: object = spawn) -> dict[str, str]:
    return {stage.name: run_stage(toy.root, stage.name, spawn_).value for stage in read_stages(toy.root)}  # type: ignore[arg-type]


def edit_pipeline(toy: Toy, old: str, new: str) -> None:
    text = (toy.root / "dvc.yaml").read_text()
    assert old in text
    (toy.root / "dvc.yaml").write_text(text.replace(old, new))


ALL_CACHED = dict.fromkeys(TOY_STAGES, "Cached")


def test_read_stages_gives_dvcs_graph_with_data_files_and_other_dvc_yaml_files(toy: Toy) -> None:
    stages = {stage.name: stage for stage in read_stages(toy.root)}
    assert set(stages) == set(TOY_STAGES)
    assert stages["ingest"].needs == ("data/demo/dvc.yaml:demo", "data/raw.txt.dvc")
    assert stages["fit"].needs == ("apply", "index")
    assert stages["index"].outputs == (toy.root / "data/index/index.txt",)
    order = list(stages)
    assert all(order.index(need) < order.index(stage.name) for stage in stages.values() for need in stage.needs)


def test_read_stages_leaves_out_what_nothing_needs(toy: Toy) -> None:
    edit_pipeline(toy, "data/raw.txt, data/demo/seed.txt]", "data/raw.txt]")
    assert next(stage.name for stage in read_stages(toy.root)) == "data/raw.txt.dvc"
    assert "data/demo/dvc.yaml:demo" not in {stage.name for stage in read_stages(toy.root)}


def test_read_stages_of_targets_gives_them_and_what_they_need(toy: Toy) -> None:
    names = {stage.name for stage in read_stages(toy.root, ["index"])}
    assert names == {"data/raw.txt.dvc", "data/demo/dvc.yaml:demo", "ingest", "index"}


def test_another_working_directory_is_refused(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match="not the project's root"):
        read_stages(toy.root)


def test_options_come_from_meta_and_mistakes_are_named(toy: Toy) -> None:
    stages = {stage.name: stage for stage in read_stages(toy.root)}
    assert stages["index"].options == Options(tags=("big",))
    assert stages["apply"].options == Options()
    edit_pipeline(toy, "tags: [big]", "timeout: 5")
    with pytest.raises(ParamsError, match=r"index.*'timeout'.*did you mean 'timeout_seconds'"):
        read_stages(toy.root)


def test_options_never_make_a_stage_run_again(toy: Toy) -> None:
    run_all(toy)
    edit_pipeline(toy, "tags: [big]", "retries: 3, timeout_seconds: 60")
    assert run_all(toy, refuse) == ALL_CACHED


def test_unknown_target_names_the_nearest(toy: Toy) -> None:
    with pytest.raises(ParamsError, match="no stage 'evalute'; did you mean 'evaluate'"):
        read_stages(toy.root, ["evalute"])


def test_broken_pipeline_is_told_as_an_error_of_the_user(toy: Toy) -> None:
    (toy.root / "dvc.yaml").write_text("stages: [")
    with pytest.raises(ParamsError, match=r"dvc\.yaml"):
        read_stages(toy.root)


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "a tab": ("dvc.yaml", b"stages:\n\ta: 1\n", "dvc.yaml, line 2: not valid YAML: found character that cannot start any token. Indent with spaces, not with tabs."),
    "a conflict": ("dvc.yaml", b"stages:\n<<<<<<< HEAD\n=======\n>>>>>>> b\n", "dvc.yaml, line 2: a merge of Git left both versions there."),
    "a bracket": ("dvc.yaml", b"stages: [\n", "dvc.yaml, line 2: not valid YAML: "),
    "Latin-1": ("dvc.yaml", b"# a\n# Stra\xdfe\n", r"dvc.yaml, line 2: b'\xdf' is not UTF-8. Save the file as UTF-8."),
    "a key": ("dvc.yaml", b"stages:\n  a:\n    command: b\n", "dvc.yaml: stages.a.command: extra keys not allowed; stages.a.cmd: required key not provided. Correct it."),
    "a name that params lack": ("dvc.yaml", b"stages:\n  a:\n    cmd: b\n    deps: ['${ingest.source}']\n", "dvc.yaml: stages.a.deps names ${ingest.source}, which params.yaml does not have. Add it there."),
    "raw files among outputs": ("dvc.yaml", b"stages:\n  ingest:\n    cmd: b\n    deps: [data]\n    outs: [data/x]\n", "ingest.source in params.yaml may not hold what stages write"),
    "nothing": ("dvc.yaml", b"", "dvc.yaml has no stages. Bring it back, as with 'git checkout dvc.yaml'."),
    "params with a tab": ("params.yaml", b"a:\n  b: 1\n\tc: 2\n", "params.yaml, line 3: not valid YAML: "),
    "params in Latin-1": ("params.yaml", b"a: Stra\xdfe\n", r"params.yaml, line 1: b'\xdf' is not UTF-8. Save the file as UTF-8."),
    "params that are a list": ("params.yaml", b"- a\n", "params.yaml: got list, expected a mapping with the keys classes, ingest"),
    "params with a day that is none": ("params.yaml", b"a: 2026-13-01\n", "params.yaml: not valid YAML: month must be in 1..12"),
    "a day that is none": ("dvc.yaml", b"stages: 2026-13-01\n", "dvc.yaml: month must be in 1..12"),
    "a lock with a conflict": ("dvc.lock", b"schema: '2.0'\n<<<<<<< HEAD\n", "dvc.lock, line 2: a merge of Git left both versions there. Choose between them, and remove its marks, or delete it, or bring it back from Git: DVC's cache still has what it names."),
    "a lock of another kind": ("dvc.lock", b"schema: '2.0'\nstages: 3\n", "or delete it, or bring it back from Git"),
    "settings": (".dvc/config", b"[core\nx", "Correct .dvc/config, .dvc/config.local"),
}  # fmt: skip


def test_dvc_parses_with_libyaml() -> None:
    """Once ruamel.yaml passes it over, it is no longer worth being installed."""
    assert YAML(typ="safe").Parser is CParser


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_dvc_cannot_read_is_told_with_its_line_and_a_cure(toy: Toy, name: str) -> None:
    file, content, words = BROKEN[name]
    (toy.root / file).write_bytes(content)
    for read in (read_stages, find_changes):
        with pytest.raises(ParamsError) as told:
            read(toy.root)
        assert words in str(told.value) and "\n" not in str(told.value)


def test_outcomes_of_a_first_run_a_second_and_one_with_changed_params(toy: Toy) -> None:
    assert run_all(toy) == {**dict.fromkeys(TOY_STAGES, "Completed"), "data/raw.txt.dvc": "Cached"}
    assert run_all(toy, refuse) == ALL_CACHED
    toy.set_params(apply="a2")
    assert run_all(toy) == {**ALL_CACHED, **dict.fromkeys(("apply", "fit", "evaluate"), "Completed")}
    toy.set_params()
    assert run_all(toy, refuse) == {**ALL_CACHED, **dict.fromkeys(("apply", "fit", "evaluate"), "Restored")}


def test_results_are_recorded_as_dvc_records_them(toy: Toy) -> None:
    run_all(toy)
    lock = (toy.root / "dvc.lock").read_bytes()
    assert "up to date" in toy.run("dvc", "status").stdout
    toy.run("dvc", "repro", "--force")
    assert (toy.root / "dvc.lock").read_bytes() == lock


def test_edited_data_file_is_taken_over_and_passed_on(toy: Toy) -> None:
    run_all(toy)
    (toy.root / "data/raw.txt").write_text("raw2")
    outcomes = run_all(toy)
    assert outcomes["data/raw.txt.dvc"] == "Completed"
    assert outcomes["data/demo/dvc.yaml:demo"] == "Cached"
    assert outcomes["evaluate"] == "Completed"
    assert b"raw2" in (toy.root / "data/fit/labels.txt").read_bytes()


def test_missing_data_file_says_how_to_get_it_back(toy: Toy) -> None:
    (toy.root / "data/raw.txt").unlink()
    with pytest.raises(StageError, match=r"raw\.txt.*dvc checkout"):
        run_stage(toy.root, "data/raw.txt.dvc", refuse)


def test_what_spawn_raises_comes_through(toy: Toy) -> None:
    class OwnError(Exception):
        pass

    def fail(_command: Command) -> None:
        raise OwnError("out of luck")

    with pytest.raises(OwnError, match="out of luck"):
        run_stage(toy.root, "data/demo/dvc.yaml:demo", fail)
    assert run_stage(toy.root, "data/demo/dvc.yaml:demo", spawn) is Outcome.COMPLETED


def test_outputs_of_the_last_run_are_in_place_again_after_a_failure(toy: Toy) -> None:
    run_all(toy)
    output = toy.root / "data/apply/votes.txt"
    before, lock = output.read_bytes(), (toy.root / "dvc.lock").read_bytes()
    toy.set_params(apply="a2")

    def fail(_command: Command) -> None:
        assert not output.exists()
        output.write_text("half of it")
        raise StageError("out of luck")

    with pytest.raises(StageError, match="out of luck"):
        run_stage(toy.root, "apply", fail)
    assert (output.read_bytes(), (toy.root / "dvc.lock").read_bytes()) == (before, lock)
    assert "params.yaml: apply (modified)" in find_changes(toy.root)["apply"]
    assert run_stage(toy.root, "apply", spawn) is Outcome.COMPLETED
    assert b"a2" in output.read_bytes()


def test_a_project_without_git_says_how_to_go_on(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy.root / ".git").rename(toy.root.parent / "git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(toy.root.parent))
    with pytest.raises(
        ParamsError, match=r"not a git repository; run 'git init' there, or 'dvc config --local core\.no_scm"
    ):
        read_stages(toy.root)
    (toy.root / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    assert run_all(toy)["evaluate"] == "Completed"


def test_an_output_that_dvc_may_not_remove_is_told_with_what_to_do() -> None:
    """Among users who share a project, one may find the output of another, which is in no cache that they may read."""
    from dvc.exceptions import ConfirmRemoveError

    from flows.runner.dvc_repo import explain_error

    text = explain_error(ConfirmRemoveError("data/fit/labels.txt"))
    assert text.startswith(
        "unable to remove 'data/fit/labels.txt': it is neither what DVC recorded nor in its cache here"
    )
    assert text.endswith("(umask 002)") and "-f" not in text


def test_a_dependency_outside_of_the_project_is_refused_before_dvc_reads_it(
    toy: Toy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "link").symlink_to("nowhere")  # which DVC cannot hash
    edit_pipeline(toy, "deps: [step.py, data/raw.txt,", f"deps: [step.py, {elsewhere}, data/raw.txt,")
    for ask in (read_stages, find_changes, lambda root: run_stage(root, "ingest", refuse)):
        with pytest.raises(ParamsError, match=rf"stage ingest depends on {elsewhere}, which is outside"):
            ask(toy.root)


def test_a_changed_bit_is_mended_by_removing_the_file(toy: Toy) -> None:
    run_all(toy)
    output = toy.root / "data/fit/labels.txt"
    before, status = output.read_bytes(), output.stat()
    output.write_bytes(bytes([before[0] ^ 1]) + before[1:])
    os.utime(output, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run_all(toy, refuse) == ALL_CACHED  # nothing that DVC could see
    output.unlink()
    assert run_all(toy, refuse) == {**ALL_CACHED, "fit": "Restored"}
    assert output.read_bytes() == before


def test_missing_output_is_told(toy: Toy) -> None:
    with pytest.raises(StageError, match=r"demo.*seed\.txt"):
        run_stage(toy.root, "data/demo/dvc.yaml:demo", lambda _command: None)


def test_command_is_what_dvc_would_spawn(toy: Toy) -> None:
    seen: list[Command] = []

    def see(command: Command) -> None:
        seen.append(command)
        spawn(command)

    run_stage(toy.root, "data/demo/dvc.yaml:demo", see)
    (command,) = seen
    assert command.text == "python step.py demo"
    assert command.argv[-1] == "python step.py demo"
    assert command.cwd == toy.root
    assert command.env["DVC_STAGE"].endswith("demo")


def test_the_user_of_a_service_needs_no_login_shell(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/sbin/nologin")
    assert run_stage(toy.root, "data/demo/dvc.yaml:demo", spawn) == Outcome.COMPLETED


def test_dvcs_files_are_parsed_once_until_their_bytes_change(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    import dvc.utils.strictyaml

    parse = dvc.utils.strictyaml.parse_yaml
    parsed: list[str] = []

    def count(text: str, path: str, typ: str = "safe") -> object:
        parsed.append(path)
        return parse(text, path, typ)

    run_all(toy)
    monkeypatch.setattr(dvc.utils.strictyaml, "parse_yaml", count)
    assert run_all(toy, refuse) == ALL_CACHED
    assert sorted({*parsed}) == sorted(parsed)
    parsed.clear()
    assert run_all(toy, refuse) == ALL_CACHED
    assert parsed == []
    edit_pipeline(toy, "python step.py fit", "python step.py fiX")  # as long as before, as soon as a clock can tell
    assert "fit" in find_changes(toy.root)


def test_other_uses_of_dvc_in_this_process_are_untouched(toy: Toy) -> None:
    from dvc.repo import Repo

    with Repo(str(toy.root)) as repo:
        repo.reproduce(["data/demo/dvc.yaml:demo"])
    assert toy.read_log() == ["demo"]


def test_commands_of_independent_stages_run_at_the_same_time(toy: Toy) -> None:
    for name in ("data/demo/dvc.yaml:demo", "ingest"):
        run_stage(toy.root, name, spawn)
    meeting = threading.Barrier(2, timeout=60)  # passed only if both commands are under way at once
    outcomes: dict[str, Outcome] = {}

    def meet(command: Command) -> None:
        meeting.wait()
        spawn(command)

    def run(name: str) -> None:
        outcomes[name] = run_stage(toy.root, name, meet)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("index", "apply")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {"index": Outcome.COMPLETED, "apply": Outcome.COMPLETED}
    assert run_all(toy) == {**ALL_CACHED, "fit": "Completed", "evaluate": "Completed"}


def test_a_stage_keeps_its_inputs_locked_when_a_neighbor_that_reads_them_too_ends(toy: Toy) -> None:
    for name in ("data/demo/dvc.yaml:demo", "ingest"):
        run_stage(toy.root, name, spawn)
    items = str(toy.root / "data/ingest/items.txt")
    readers: list[int] = []

    def count_readers() -> int:
        locks = json.loads((toy.root / ".dvc/tmp/rwlock").read_text())
        return len(locks.get("read", {}).get(items, []))

    def run_neighbor(command: Command) -> None:
        readers.append(count_readers())
        thread = threading.Thread(target=run_stage, args=(toy.root, "apply", spawn))
        thread.start()
        thread.join()
        readers.append(count_readers())
        spawn(command)

    run_stage(toy.root, "index", run_neighbor)
    assert readers == [1, 1]
    assert count_readers() == 0


def test_who_holds_a_stages_files_is_named(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLEEP_demo", "600")
    other = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "data/demo/dvc.yaml:demo"], cwd=toy.root)
    try:
        while "demo" not in toy.read_log():
            assert other.poll() is None
            threading.Event().wait(0.05)
        with pytest.raises(BusyError, match=rf"seed\.txt.*\(PID {other.pid}\): .*repro"):
            run_stage(toy.root, "data/demo/dvc.yaml:demo", refuse)
    finally:
        import psutil

        family = [*psutil.Process(other.pid).children(recursive=True), psutil.Process(other.pid)]
        for process in family:
            process.kill()
        other.wait()
    monkeypatch.delenv("SLEEP_demo")
    remove_leftovers(toy.root, read_stages(toy.root))
    assert run_stage(toy.root, "data/demo/dvc.yaml:demo", spawn) is Outcome.COMPLETED


def test_who_holds_the_project_is_named(toy: Toy) -> None:
    hold = "import sys; from dvc.repo import Repo, lock_repo\nwith Repo('.') as r, lock_repo(r): print(flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", hold], cwd=toy.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    other.stdout.readline()
    try:
        with pytest.raises(BusyError, match=f"process {other.pid} "):
            run_stage(toy.root, "data/demo/dvc.yaml:demo", refuse)
        assert remove_leftovers(toy.root, read_stages(toy.root)) == ()
    finally:
        other.communicate("\n")


def test_find_changes_names_what_changed(toy: Toy) -> None:
    run_all(toy)
    assert find_changes(toy.root) == {}
    toy.set_params(apply="a2")
    (toy.root / "data/fit/labels.txt").unlink()
    changes = find_changes(toy.root)
    assert changes["apply"] == ("params.yaml: apply (modified)",)
    assert "data/fit/labels.txt (deleted)" in changes["fit"]
    assert set(changes) == {"apply", "fit", "evaluate"}


def test_leftovers_of_dead_runs_are_removed_and_nothing_else(toy: Toy) -> None:
    run_all(toy)
    half = toy.root / "data/fit/.labels.txt.x1y2.part"
    others = [toy.root / "data/fit/.notes.part", toy.root / ".labels.txt.x.part", toy.root / "data/fit/labels.txt"]
    for path in [half, *others[:2]]:
        path.write_text("half")
    shards = toy.root / "data/fit/.labels.txt.z3.part"  # a folder of them
    shards.mkdir()
    (shards / "00000").write_text("half")
    assert remove_leftovers(toy.root, read_stages(toy.root)) == (half, shards)
    assert not half.exists() and not shards.exists()
    assert all(path.exists() for path in others)


def test_half_written_files_of_the_living_are_left_alone(toy: Toy) -> None:
    half = toy.root / "data/demo/.seed.txt.x1y2.part"
    half.write_text("half")
    lock = {"write": {str(toy.root / "data/demo/seed.txt"): {"pid": os.getpid(), "cmd": "dvc repro"}}, "read": {}}
    (toy.root / ".dvc/tmp").mkdir(exist_ok=True)
    (toy.root / ".dvc/tmp/rwlock").write_text(json.dumps(lock))
    assert remove_leftovers(toy.root, read_stages(toy.root)) == ()
    assert half.exists()


TORN = ['{"write": {"/da', "", '{"write": 3, "read": {}}', "[]", "\x00" * 40]


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_list_of_locks_is_repaired_by_whatever_comes_first(torn: str, toy: Toy) -> None:
    (toy.root / ".dvc/tmp").mkdir(exist_ok=True)
    locks = toy.root / ".dvc/tmp/rwlock"
    locks.write_text(torn)
    assert run_stage(toy.root, "data/demo/dvc.yaml:demo", spawn) is Outcome.COMPLETED
    locks.write_text(torn)
    assert "ingest" in find_changes(toy.root)
    locks.write_text(torn)
    assert remove_leftovers(toy.root, read_stages(toy.root)) == ()
    assert toy.run("dvc", "repro", "data/demo/dvc.yaml:demo").returncode == 0


def test_lock_file_torn_by_a_kill_is_named_and_nothing_is_lost_without_it(toy: Toy) -> None:
    run_all(toy)
    (toy.root / "dvc.lock").write_text("")
    with pytest.raises(ParamsError, match=r"dvc\.lock.*delete it"):
        read_stages(toy.root)
    (toy.root / "dvc.lock").unlink()
    expected = {**dict.fromkeys(TOY_STAGES, "Restored"), "data/raw.txt.dvc": "Cached"}
    assert run_all(toy, refuse) == {**expected, "data/demo/dvc.yaml:demo": "Cached"}


def test_dvc_draws_no_bar_on_a_terminal() -> None:
    import io

    from dvc.progress import Tqdm
    from dvc_data.callbacks import Tqdm as DataTqdm

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    for bar in (Tqdm, DataTqdm):
        screen = Screen()
        with bar(total=3, desc="Committing", file=screen) as drawn:
            drawn.update(3)
        assert screen.getvalue() == ""


def test_results_of_stages_that_a_partial_run_left_behind_are_named(toy: Toy) -> None:
    run_all(toy)
    metrics = "metrics  data/evaluate/metrics.json"
    shown, summary = (toy.root / "data/evaluate/summary.md").read_text(), describe_last_run(root=toy.root)
    assert re.fullmatch(
        re.escape(metrics) + r"\nof       \S+, evaluated \d{4}-\d\d-\d\d \d\d:\d\d UTC, [^\n]+\n\n" + re.escape(shown),
        summary,
    )
    toy.set_params(index="i2")
    outdated = {path.relative_to(toy.root).parts[1] for path in find_outdated(toy.root)}
    assert outdated == {"index", "fit", "evaluate"}  # DVC itself says it of index alone
    assert set(find_changes(toy.root)) == {"index"}
    run_stage(toy.root, "index", spawn)
    assert describe_last_run(root=toy.root).startswith(f"{metrics}  not up to date: 'epoxy run' renews it\nof  ")
    run_all(toy)
    assert find_outdated(toy.root) == frozenset()


def test_results_are_shown_where_dvc_cannot_tell_whether_they_are_up_to_date(toy: Toy) -> None:
    run_all(toy)
    (toy.root / "dvc.yaml").write_text("stages: [")
    shown = describe_last_run(root=toy.root)
    assert shown.startswith("metrics  data/evaluate/metrics.json\nwhether they are up to date is not known: ")


@dataclass
class Ears:
    """Keeps what a stage says."""

    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)

    def record(self, lines: Sequence[str]) -> None:
        self.recorded.extend(lines)

    def show(self, progress: StageProgress) -> None: ...


@pytest.mark.parametrize(
    ("end", "said", "recorded"),
    [
        ("exit 0", ["before", "error: first", "after it", "error: last", "of two lines"], []),
        ("exit 4", ["before", "error: first", "after it"], ["error: last", "of two lines"]),
        ("sleep 60", ["before", "error: first", "after it", "error: last", "of two lines"], []),
    ],
)
def test_the_error_that_ends_a_stage_is_left_to_whoever_runs_it(
    toy: Toy, end: str, said: list[str], recorded: list[str]
) -> None:
    lines = ("before", "error: first", "after it", "error: last", "of two lines")
    script = "; ".join([*(f"echo {line} >&2" for line in lines), end])
    edit_pipeline(toy, "cmd: python step.py index", f'cmd: "{script}"')
    edit_pipeline(toy, "{tags: [big]}", "{timeout_seconds: 3}")
    run_stage(toy.root, "data/demo/dvc.yaml:demo", spawn)
    run_stage(toy.root, "ingest", spawn)
    (stage,) = [stage for stage in read_stages(toy.root) if stage.name == "index"]
    ears = Ears()
    with contextlib.suppress(StageError):
        execute_stage(stage, root=toy.root, commands=Commands(), listener=ears)
    assert (ears.said[1:], ears.recorded) == (said, recorded)


def test_a_stage_that_runs_out_of_time_tells_its_last_warning(toy: Toy) -> None:
    edit_pipeline(
        toy, "cmd: python step.py index", "cmd: 'echo plain; echo \"warning: LF a is at item 3\" >&2; sleep 60'"
    )
    edit_pipeline(toy, "{tags: [big]}", "{timeout_seconds: 3}")
    run_stage(toy.root, "data/demo/dvc.yaml:demo", spawn)
    run_stage(toy.root, "ingest", spawn)
    (stage,) = [stage for stage in read_stages(toy.root) if stage.name == "index"]
    ears = Ears()
    with pytest.raises(StageTimeoutError, match="index: ended after 3 seconds: LF a is at item 3; make it faster"):
        execute_stage(stage, root=toy.root, commands=Commands(), listener=ears)
    assert "plain" in ears.said and ears.warned == ["warning: LF a is at item 3"]


def test_a_quiet_terminal_shows_warnings_alone() -> None:
    code = """if True:
        import logging
        from flows.runner.listener import TerminalListener, show_stages_in_terminal
        show_stages_in_terminal(least=logging.WARNING)
        TerminalListener("apply").say("a line")
        TerminalListener("apply").warn("warning: it hangs")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "apply | warning: it hangs\n"
