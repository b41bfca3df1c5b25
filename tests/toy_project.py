"""A toy pipeline under DVC and git: its files, and what a test may ask of it; tests/conftest.py makes one."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

TOY_STAGES = ("data/raw.txt.dvc", "data/demo/dvc.yaml:demo", "ingest", "index", "apply", "fit", "evaluate")

TOY_PIPELINE = """\
stages:
  ingest:
    cmd: python step.py ingest
    deps: [step.py, data/raw.txt, data/demo/seed.txt]
    outs: [data/ingest/items.txt]
  index:
    cmd: python step.py index
    params: [index]
    deps: [step.py, data/ingest/items.txt]
    outs: [data/index/index.txt]
    meta: {prefect: {tags: [big]}}
  apply:
    cmd: python step.py apply
    params: [apply]
    deps: [step.py, data/ingest/items.txt]
    outs: [data/apply/votes.txt]
  fit:
    cmd: python step.py fit
    params: [fit]
    deps: [step.py, data/index/index.txt, data/apply/votes.txt]
    outs: [data/fit/labels.txt]
  evaluate:
    cmd: python step.py evaluate
    deps: [step.py, data/fit/labels.txt]
    outs: [data/evaluate/summary.md, data/evaluate/lf_report.csv]
    metrics: [data/evaluate/metrics.json: {cache: false}]
"""

TOY_DEMO = """\
stages:
  demo:
    wdir: ../..
    cmd: python step.py demo
    deps: [step.py]
    outs: [data/demo/seed.txt]
"""

# Each step writes its inputs and its param, joined; what it does beyond that is told by the environment, which is in
# no cache key: SLEEP_apply=3, HOLD_apply=FILE, FAIL_fit=4, PROGRESS_fit=1. Every start and end is noted in $TOY_LOG.
TOY_STEP = """\
import json, os, pathlib, subprocess, sys, time
name = sys.argv[1]
reads = {
    "demo": [], "ingest": ["data/raw.txt", "data/demo/seed.txt"], "index": ["data/ingest/items.txt"],
    "apply": ["data/ingest/items.txt"], "fit": ["data/index/index.txt", "data/apply/votes.txt"],
    "evaluate": ["data/fit/labels.txt"],
}[name]
writes = {
    "demo": "seed.txt", "ingest": "items.txt", "index": "index.txt", "apply": "votes.txt", "fit": "labels.txt",
    "evaluate": "summary.md",
}[name]

def note(what, pid=os.getpid()):
    with open(os.environ["TOY_LOG"], "a") as log:
        log.write(f"{what} {name} {pid}\\n")

note("start")
print(f"{name} reads {len(reads)} files", flush=True)
folder = pathlib.Path("data", name)
folder.mkdir(exist_ok=True)
part = folder / f".{writes}.abc.part"
part.write_text("half")
if "SLEEP_" + name in os.environ:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note("child", child.pid)
    time.sleep(float(os.environ["SLEEP_" + name]))
    child.kill()
    child.wait()
while "HOLD_" + name in os.environ and not os.path.exists(os.environ["HOLD_" + name]):
    time.sleep(0.05)
if "PROGRESS_" + name in os.environ:
    for done in range(5):
        print("@progress " + json.dumps({"what": "counting", "done": done, "total": 4}), file=sys.stderr, flush=True)
if "FAIL_" + name in os.environ:
    part.unlink()
    print("error: " + os.environ.get("MESSAGE", f"{name} cannot go on"), file=sys.stderr)
    sys.exit(int(os.environ["FAIL_" + name]))
params = [line.split(": ")[1] for line in open("params.yaml").read().splitlines() if line.startswith(name + ":")]
part.write_text(" ".join([name, *params, *(pathlib.Path(read).read_text() for read in reads)]))
part.rename(folder / writes)
if name == "evaluate":
    pathlib.Path("data/evaluate/lf_report.csv").write_text("lf,precision\\nloops,0.75\\n")
    pathlib.Path("data/evaluate/metrics.json").write_text('{"accuracy": 0.5}')
note("end")
"""


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A toy project; `log` is where its steps note what they do."""

    root: Path
    log: Path

    def read_log(self, what: str = "start") -> list[str]:
        """The names of the steps that noted `what`, in that order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split()[1] for line in lines if line.split()[0] == what]

    def read_pids(self) -> list[int]:
        """The process ids of all steps that started and of the children they started."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [int(pid) for what, _, pid in lines if what in ("start", "child")]

    def clear_log(self) -> None:
        """Forget what the steps have done so far."""
        self.log.unlink(missing_ok=True)

    def set_params(self, **values: str) -> None:
        """Write params.yaml with `values` in place of the ones given at first."""
        defaults = {"index": "i1", "apply": "a1", "fit": "f1"}
        lines = [f"{name}: {value}\n" for name, value in {**defaults, **values}.items()]
        (self.root / "params.yaml").write_text("".join(lines))

    def read_outputs(self) -> dict[str, bytes]:
        """The bytes of every output, by path."""
        files = [path for path in sorted((self.root / "data").rglob("*")) if path.is_file()]
        ours = [path for path in files if path.name not in (".gitignore", "dvc.yaml", "dvc.lock")]
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in ours}

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """What `command` gave in the project's root, in this interpreter's environment."""
        return subprocess.run(command, cwd=self.root, check=check, capture_output=True, text=True)

    def commit(self, message: str) -> None:
        """Commit everything that git sees."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", message)
