"""Whatever is edited, killed or restored at whatever moment, what counts as up to date is what a run from scratch gives.

A Hypothesis state machine over both doors: `dvc repro`, and the runner behind `epoxy run`. Three small stages run through
the command that the real ones run through, so that a step takes a second. At chosen moments, while its stage runs, a
command edits what it depends on, as a person with an editor would, or dies.

In the suite it makes some forty steps; EPOXY_STEPS sets their number.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from dvc.exceptions import DvcException
from dvc.repo import Repo
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from flows.runner.dvc_graph import read_stages
from flows.runner.dvc_status import find_changes
from flows.runner.stage import run_stages
from tasks.errors import EpoxyError

STEPS = int(os.environ.get("EPOXY_STEPS", "40"))
STEPS_PER_PROJECT = 10

REPOSITORY = Path(__file__).resolve().parents[2]

SOURCES = {
    "code.py": "# {}\n",
    "data/raw/items.txt": "{}",
    "lfs/mine.py": "{}",
    "lfs/words.txt": "{}",
    "apply.limit": "{}",
    "fit.seed": "{}",
}
"""What a person edits: files, and keys of params.yaml; always to one of `VALUES`, so that earlier states return."""
VALUES = "ABC"

READS = {
    "ingest": ("code.py", "data/raw/items.txt"),
    "apply": ("code.py", "data/ingest/items.txt", "lfs/mine.py", "lfs/words.txt"),
    "fit": ("code.py", "data/apply/votes.txt"),
}
KEYS = {"apply": "apply.limit", "fit": "fit.seed"}
WRITES = {"ingest": "data/ingest/items.txt", "apply": "data/apply/votes.txt", "fit": "data/fit/labels.txt"}

PIPELINE = """\
stages:
  ingest:
    cmd: python step.py ingest
    deps: [code.py, data/raw]
    outs: [data/ingest/items.txt]
  apply:
    cmd: python step.py apply
    params: [apply]
    deps: [code.py, data/ingest/items.txt, lfs]
    outs: [data/apply/votes.txt]
  fit:
    cmd: python step.py fit
    params: [fit]
    deps: [code.py, data/apply/votes.txt]
    outs: [data/fit/labels.txt]
"""

STEP = f"""\
import json, os, pathlib, sys, time
import tasks.__main__ as pipeline

READS, KEYS, WRITES = {READS}, {KEYS}, {WRITES}
stage, moments = sys.argv[1], pathlib.Path(os.environ["MOMENTS"])

def at(moment):
    events = json.loads(moments.read_text())
    now = [event for event in events if event["stage"] == stage and event["moment"] == moment]
    moments.write_text(json.dumps([event for event in events if event not in now]))
    for event in now:
        if "path" in event:
            pathlib.Path(event["path"]).write_text(event["content"])
        elif event["kill"] == "stage":
            os.kill(os.getpid(), 9)
        else:
            moments.with_name("reached").write_text(str(os.getpid()))
            time.sleep(60)

def run_stage(root, stage):
    at("begun")
    import yaml
    parts = [stage]
    if stage in KEYS:
        section, key = KEYS[stage].split(".")
        parts.append(yaml.safe_load((root / "params.yaml").read_text())[section][key])
    for number, name in enumerate(READS[stage]):
        parts.append((root / name).read_text())
        at(f"read {{number}}")
    (root / WRITES[stage]).parent.mkdir(parents=True, exist_ok=True)
    (root / WRITES[stage]).write_text("(" + " ".join(parts) + ")")
    at("written")

pipeline.run_stage = run_stage
pipeline.die_with_parent()
at("started")
code = pipeline.main([stage])
at("ended")
sys.exit(code)
"""

MOMENTS = ("started", "begun", "read 0", "read 1", "read 2", "read 3", "written", "ended")
"""Before the command identifies what it depends on; before it reads; after it has read; before it compares; after that."""

BACK = "back"
"""An edit to the value from before the run."""

EDITS = st.tuples(st.sampled_from(sorted(SOURCES)), st.sampled_from(VALUES))
KILLS = st.tuples(st.sampled_from(sorted(READS)), st.sampled_from(MOMENTS[:-1]))
SEVERAL = st.lists(st.tuples(st.sampled_from(sorted(READS)), st.sampled_from(MOMENTS), EDITS), max_size=3)
BACK_AND_FORTH = st.builds(
    lambda stage, source, value: [(stage, "begun", (source, value)), (stage, "written", (source, BACK))],
    st.sampled_from(sorted(READS)),
    # Keys aside: the real stages compare those they have read, which these do not.
    st.sampled_from([name for name in sorted(SOURCES) if Path(name).suffix in (".py", ".txt")]),
    st.sampled_from(VALUES),
)
EVENTS = st.one_of(SEVERAL, SEVERAL, BACK_AND_FORTH)


class Project(RuleBasedStateMachine):
    """A project that is edited, run, killed and restored."""

    template: Path
    count = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="any-moment-")).resolve()
        self.root = self.folder / "project"
        shutil.copytree(self.template, self.root)
        self.moments = self.folder / "moments"
        self.values = dict.fromkeys(SOURCES, "A")
        self.saved: dict[str, str] | None = None
        self.is_settled = False
        self.patch = pytest.MonkeyPatch()
        self.patch.chdir(self.root)
        for name, value in (("MOMENTS", self.moments), ("DVC_SITE_CACHE_DIR", self.folder / "site")):
            self.patch.setenv(name, str(value))

    def teardown(self) -> None:
        """Leave nothing."""
        self.patch.undo()
        shutil.rmtree(self.folder)

    # What a person does.

    @rule(edit=EDITS)
    def edit(self, edit: tuple[str, str]) -> None:
        """Edit a file or a key."""
        event = self._make_edit(*edit)
        Path(event["path"]).write_text(event["content"], encoding="utf-8")

    @rule(name=st.sampled_from(sorted(WRITES.values())))
    def remove(self, name: str) -> None:
        """Remove an output."""
        Path(name).unlink(missing_ok=True)

    @rule(name=st.sampled_from(sorted(WRITES.values())))
    def overwrite(self, name: str) -> None:
        """Edit an output by hand."""
        if Path(name).exists():
            Path(name).unlink()
            Path(name).write_text("by hand", encoding="utf-8")

    @rule()
    def save(self) -> None:
        """Commit, as Git does: what is edited, and what DVC has recorded."""
        self.saved = {
            name: Path(name).read_text(encoding="utf-8")
            for name in (*self._list_edited_files(), "dvc.lock")
            if Path(name).exists()
        }

    @rule()
    def go_back(self) -> None:
        """Check out what was committed, and the outputs that belong to it."""
        if self.saved is None:
            return
        Path("dvc.lock").unlink(missing_ok=True)
        for name, content in self.saved.items():
            Path(name).unlink(missing_ok=True)
            Path(name).write_text(content, encoding="utf-8")
        self._read_values()
        with contextlib.suppress(DvcException), Repo(".") as repo:
            repo.checkout(force=True)

    @rule()
    def checkout(self) -> None:
        """Bring back outputs from DVC's cache."""
        with contextlib.suppress(DvcException), Repo(".") as repo:
            repo.checkout(force=True)

    @rule(events=EVENTS, kill=st.none() | KILLS)
    def run_dvc_repro(self, events: list[Any], kill: tuple[str, str] | None) -> None:
        """Run `dvc repro`, while edits are made and perhaps a stage dies."""
        # After the command has compared, DVC itself would have to look: `dvc repro` is known not to.
        events = [event for event in events if event[1] != "ended"]
        self._plan(events, kill, "stage")
        try:
            with Repo(".") as repo:
                repo.reproduce()
        except DvcException:
            assert events or kill
        else:
            self.is_settled = not events and not kill
        self._read_values()

    @rule(events=EVENTS, kill=st.none() | KILLS)
    def run_epoxy(self, events: list[Any], kill: tuple[str, str] | None) -> None:
        """Run the stages as `epoxy run` does, while edits are made and perhaps a stage dies."""
        self._plan(events, kill, "stage")
        try:
            run_stages(self.root, read_stages(self.root))
        except EpoxyError:
            assert events or kill
        else:
            self.is_settled = not events and not kill
        self._read_values()

    @rule(
        door=st.sampled_from(["dvc", "epoxy"]),
        events=EVENTS,
        kill=KILLS,
    )
    def kill_door(self, door: str, events: list[Any], kill: tuple[str, str]) -> None:
        """Run by either door, and kill it while a stage runs."""
        self._plan([event for event in events if event[1] != "ended"], kill, "door")
        code = "from pathlib import Path; from flows.runner.dvc_graph import read_stages as r;"
        code += "from flows.runner.stage import run_stages; run_stages(Path.cwd(), r(Path.cwd()))"
        command = ["-m", "dvc", "repro"] if door == "dvc" else ["-c", code]
        reached = self.moments.with_name("reached")
        reached.unlink(missing_ok=True)
        with subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None and not (reached.exists() and reached.read_text()):
                time.sleep(0.01)
            process.kill()
        if reached.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(reached.read_text()), signal.SIGKILL)
        self._read_values()

    # What has to hold.

    @invariant()
    def what_is_up_to_date_is_right(self) -> None:
        """Each stage that DVC calls up to date has the outputs of a run from scratch on what is there now."""
        Project.count += 1
        stale = find_changes(self.root)
        for stage in READS:
            if stage not in stale:
                assert Path(WRITES[stage]).read_text(encoding="utf-8") == self._compute(stage), (
                    f"{stage} is said to be up to date"
                )
        if self.is_settled:
            assert not stale
            self.is_settled = False

    def _compute(self, stage: str) -> str:
        section, _, key = KEYS.get(stage, "").partition(".")
        params = [self._read_params()[section][key]] if key else []
        return (
            "(" + " ".join([stage, *params, *(Path(name).read_text(encoding="utf-8") for name in READS[stage])]) + ")"
        )

    def _read_params(self) -> dict[str, dict[str, str]]:
        import yaml

        found: dict[str, dict[str, str]] = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        return found

    def _make_edit(self, source: str, value: str) -> dict[str, str]:
        self.values[source] = value
        if source.endswith((".py", ".txt")):
            return {"path": source, "content": SOURCES[source].format(value)}
        return {"path": "params.yaml", "content": write_params(self.values)}

    def _plan(self, events: list[Any], kill: tuple[str, str] | None, victim: str) -> None:
        before = dict(self.values)
        events = [(*when, (source, before[source] if value == BACK else value)) for *when, (source, value) in events]
        plan = [{"stage": stage, "moment": moment, **self._make_edit(*edit)} for stage, moment, edit in events]
        if kill:
            plan.append({"stage": kill[0], "moment": kill[1], "kill": victim})
        self.moments.write_text(json.dumps(plan))
        self.values = before

    def _read_values(self) -> None:
        params = self._read_params()
        for source in SOURCES:
            section, _, key = source.partition(".")
            self.values[source] = (
                params[section][key] if section in params else Path(source).read_text(encoding="utf-8").strip("# \n")
            )

    def _list_edited_files(self) -> list[str]:
        return [*(name for name in SOURCES if Path(name).suffix in (".py", ".txt")), "params.yaml"]


def write_params(values: dict[str, str]) -> str:
    return f"apply: {{limit: {values['apply.limit']}}}\nfit: {{seed: {values['fit.seed']}}}\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "project"
    for name, form in SOURCES.items():
        if Path(name).suffix in (".py", ".txt"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(form.format("A"))
    (root / "params.yaml").write_text(write_params(dict.fromkeys(SOURCES, "A")))
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "step.py").write_text(STEP)
    (root / ".dvcignore").write_text("__pycache__/\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root.parent / "site"))
        patch.chdir(root)
        with Repo.init(".", no_scm=True) as repo, repo.config.edit("repo") as config:
            config["core"].update(analytics=False, check_update=False)
            config["cache"]["type"] = "reflink,copy"
    return root


@pytest.mark.timeout(60 + 6 * STEPS)
def test_what_is_up_to_date_is_what_a_run_from_scratch_gives(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Project, "template", template, raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    run_state_machine_as_test(
        Project,
        settings=settings(
            max_examples=max(1, STEPS // STEPS_PER_PROJECT),
            stateful_step_count=STEPS_PER_PROJECT,
            deadline=None,
            # To shrink a sequence takes minutes, and it is short as it is.
            phases=[phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)],
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{Project.count} states compared")
