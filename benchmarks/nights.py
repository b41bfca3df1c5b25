"""`python -m benchmarks nights`: a year of nights on small data. Are the releases right, are disk and time bounded?

Items are the demo's digits with its labeling functions: a window of --items over them that moves on by --new a night,
so that every night as many items are new as are gone. By chance, a night also has a corrected item; a run that is
killed in the middle of a stage, or a release in the middle, and repeated; embeddings that a broken job gave to the
wrong items, which the gates have to refuse; a person who rolls back. Every 40 nights an LF is edited, every --collect
nights `dvc gc` removes what neither a release nor a current file needs.

A night is what `dvc repro` does, and a release. To have a year in minutes, the command of a stage runs in a process
forked from one that has imported everything, and Prefect, which would only start the same, takes no part. After each
night every release is verified. At the end the last labels are compared, byte for byte, with those of a project that
has no cache of either kind and runs once.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from flows.releases.create import RefusedError
from flows.releases.gates import GateVerdict
from flows.releases.publish import publish_release, publish_rollback
from flows.releases.store import list_releases, read_release, verify_all
from flows.runner.dvc_graph import read_stages
from flows.runner.dvc_patches import Command
from flows.runner.dvc_run import run_stage
from flows.runner.dvc_status import find_changes
from flows.runner.leftovers import remove_leftovers
from tasks.__main__ import STAGES
from tasks.demo import RAW
from tasks.errors import EpoxyError
from tasks.tables.paths import SHIPPED_LABELS

_ROOT = Path(__file__).resolve().parents[1]

_PLACES = {"dvc cache": ".dvc/cache", "cache": "data/.cache", "releases": "releases", "git": ".git"}
"""What grows."""

_STAGE_SECONDS, _RELEASE_SECONDS = 0.5, 2.0
"""Within which a victim is killed: about as long as it takes at this size, so that most die at work."""

_LF = ("(middle < 0.1)", "(middle < 0.15)")
"""A threshold in the demo's `hollow_middle`, and what it is edited to."""

_PROCESSES = multiprocessing.get_context("forkserver")
# With what stages import where they compute, and labeling functions.
_PROCESSES.set_forkserver_preload(
    [
        *("flows.releases.publish", "tasks.labeling", *(f"tasks.{stage}" for stage in STAGES)),
        *("scipy.optimize", "scipy.sparse.csgraph", "scipy.special", "sklearn.cluster", "sklearn.metrics"),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Night:
    """What happens in a night, as drawn beforehand."""

    number: int
    lf: int
    is_corrected: bool
    is_broken: bool
    victim: str | None
    is_rolled_back: bool


def draw_nights(count: int, chance: random.Random) -> list[Night]:
    """A year, or less. The first nights are quiet: gates need a release to compare with."""
    return [
        Night(
            number=number,
            lf=number // 40 % 2,
            is_corrected=chance.random() < 0.2,
            is_broken=chance.random() < 0.04 and number > 2,
            victim=chance.choices([None, "stage", "release"], [0.8, 0.1, 0.1])[0],
            is_rolled_back=chance.random() < 0.02 and number > 2,
        )
        for number in range(count)
    ]


def main(arguments: list[str]) -> int:
    """0 if every check held, after printing a table and writing JSON; 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks nights", description=__doc__)
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--items", type=int, default=600, help="items in the window")
    parser.add_argument("--new", type=int, default=3, help="new items, and items that go, a night")
    parser.add_argument("--collect", type=int, default=30, help="nights from one `dvc gc` to the next")
    parser.add_argument("--seed", type=int, default=0, help="of everything that happens by chance")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = live(Path(folder), options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(_tabulate(result))
    return int(bool(result["mistakes"]))


def live(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What was seen in each night, and every check that did not hold."""
    chance = random.Random(options.seed)
    nights = draw_nights(options.nights, chance)
    digits = _Digits(folder / "digits", options)
    seen: list[dict[str, Any]] = []
    mistakes: list[str] = []
    last: tuple[Night, bytes] | None = None
    root = _make_project(folder / "project")
    with contextlib.chdir(root):
        for night in nights:
            digits.write(root, night)
            try:
                one = _live(root, night, chance, options.collect)
            except KeyboardInterrupt:
                break  # so many nights, then
            mistakes += [f"night {night.number}: {mistake}" for mistake in one["mistakes"]]
            if "released" in one["what"]:
                last = night, (root / SHIPPED_LABELS).read_bytes()
            seen.append(asdict(night) | one)
            print(f"{night.number}: {one['seconds']:.1f} s, {', '.join(one['what'])}", file=sys.stderr, flush=True)
            for mistake in one["mistakes"]:
                print(f"   MISTAKE {mistake}", file=sys.stderr, flush=True)
    if last:
        scratch = _make_project(folder / "scratch")
        with contextlib.chdir(scratch):
            digits.write(scratch, last[0])
            _run_pipeline(scratch)
            if (scratch / SHIPPED_LABELS).read_bytes() != last[1]:
                mistakes.append("the last labels released are not those of a run from scratch")
    given = {key: value for key, value in vars(options).items() if key != "json"}
    return {"options": given, "cores": os.cpu_count(), "nights": seen, "mistakes": mistakes}


class _Digits:
    """The demo's raw data, in an order drawn by chance."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        subprocess.run(
            [sys.executable, "-c", "from pathlib import Path; from tasks.demo import run; run(Path())"],
            cwd=_make_empty(folder),
            env=os.environ | {"PYTHONPATH": str(_ROOT)},
            check=True,
        )
        order = np.random.default_rng(options.seed).permutation(1797)
        self._items = pl.read_parquet(folder / RAW / "items.parquet")[order]
        self._embeddings = np.load(folder / RAW / "embeddings.npy")[order]
        self._size, self._step = options.items, options.new
        if options.items + options.new * options.nights > len(order):
            raise SystemExit(f"--items + --new * --nights may be {len(order):,} at most: so many digits there are")

    def write(self, root: Path, night: Night) -> None:
        """Write the raw data and the LFs of `night` into the project at `root`."""
        chance = np.random.default_rng(night.number)
        start = night.number * self._step
        items = self._items[start : start + self._size]
        embeddings = self._embeddings[start : start + self._size]
        if night.is_corrected:  # its gold and picture stay; what a scanner would send twice
            embeddings = embeddings.copy()
            embeddings[chance.integers(len(items))] *= 0.9
        if night.is_broken:
            embeddings = chance.permutation(embeddings)
        raw = _make_empty(root / "data/raw")
        items.write_parquet(raw / "items.parquet")
        np.save(raw / "embeddings.npy", embeddings)
        source = (_ROOT / "lfs/digits.py").read_text()
        if _LF[0] not in source:
            raise SystemExit(f"lfs/digits.py has no {_LF[0]!r} any more; name another threshold to edit")
        (root / "lfs/digits.py").write_text(source.replace(_LF[0], _LF[night.lf]))


def _make_empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _make_project(root: Path) -> Path:
    """A repository like this one that reads data/raw and commits its releases."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=_ROOT, check=True, capture_output=True).stdout.decode()
    for name in listed.split("\0"):
        if (_ROOT / name).is_file() and not name.startswith(("tests/", "benchmarks/")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(_ROOT / name, root / name)
    for name, section, key, value in (
        ("params.yaml", "ingest", "source", "data/raw"),
        ("params.yaml", "evaluate", "bootstrap", 100),  # of no interest here, and most of a night's work
        ("release.yaml", None, "git", "commit"),
    ):
        written = yaml.safe_load((root / name).read_text())
        (written[section] if section else written)[key] = value
        (root / name).write_text(yaml.safe_dump(written, sort_keys=False))
    for arguments in (
        ["init", "-q"],
        ["config", "user.name", "nights"],
        ["config", "user.email", "nights@example.org"],
        ["add", "-A"],
        ["commit", "-qm", "The project"],
    ):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    return root


def _live(root: Path, night: Night, chance: random.Random, collect: int) -> dict[str, Any]:
    """What one night did, in how many seconds, and how large everything is after it."""
    before = _find_current(root)
    what: list[str] = []
    mistakes: list[str] = []
    began = time.perf_counter()
    if night.victim == "stage":
        what.append(f"killed in {_run_until_killed(root, chance)}")
    outcomes = _run_pipeline(root)
    ran = time.perf_counter()
    if night.victim == "release":
        _kill_within(chance.random() * _RELEASE_SECONDS, _release, str(root))
        what.append("killed in a release")
        mistakes += [f"after a killed release: {one}" for one in verify_all(root)]
    try:
        publish_release(root, reason=f"night {night.number}")
        what.append("released")
    except RefusedError as error:
        failed = [one.gate for one in error.results if one.verdict is GateVerdict.FAILED]
        what.append(f"refused by {', '.join(failed)}")
        if _find_current(root) != before:
            mistakes.append("a refused night moved the current release")
    ended = time.perf_counter()
    if "released" in what:
        if night.is_broken:
            mistakes.append("embeddings of a broken job were released")
        labels = read_release(root).path.resolve() / SHIPPED_LABELS.name
        if labels.read_bytes() != (root / SHIPPED_LABELS).read_bytes():
            mistakes.append("the current release has other labels than data/")
        if night.is_rolled_back:
            publish_rollback(root, reason=f"night {night.number}")
            what.append("rolled back")
    if night.number % collect == collect - 1:
        subprocess.run([sys.executable, "-m", "dvc", "gc", "--workspace", "--force", "--quiet"], cwd=root, check=True)
        what.append("collected")
    mistakes += verify_all(root)
    if changes := find_changes(root):
        mistakes.append(f"not up to date after the night: {changes}")
    return {
        "what": what,
        "mistakes": mistakes,
        "seconds": round(ended - began, 3),
        "pipeline_seconds": round(ran - began, 3),
        "release_seconds": round(ended - ran, 3),
        "outcomes": dict(Counter(outcomes)),
        "releases": len(list_releases(root)),
        "bytes": {name: _measure(root / path) for name, path in _PLACES.items()},
    }


def _find_current(root: Path) -> str | None:
    link = root / "releases/current"
    return str(link.readlink()) if link.is_symlink() else None


def _measure(path: Path) -> int:
    """Bytes on disk of all files below `path`."""
    return sum(file.lstat().st_blocks * 512 for file in path.rglob("*") if not file.is_dir())


def _run_pipeline(root: Path) -> list[str]:
    """What became of each stage."""

    def spawn(command: Command) -> None:
        process = _PROCESSES.Process(target=_run_command, args=(command.text, str(command.cwd)))
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{command.text} ended with {process.exitcode}")

    stages = read_stages(root)
    remove_leftovers(root, stages)
    return [run_stage(root, stage.name, spawn).value for stage in stages]


class _KilledError(Exception):
    """The command of a stage was killed, as the night wanted."""


def _run_until_killed(root: Path, chance: random.Random) -> str:
    """The stage that was killed at work: the first of several that chance lets pass."""
    passes = chance.randrange(len(STAGES))
    stage_now = ""

    def spawn(command: Command) -> None:
        nonlocal passes
        passes -= 1
        seconds = chance.random() * _STAGE_SECONDS if passes < 0 else 600.0
        if _kill_within(seconds, _run_command, command.text, str(command.cwd)):
            raise _KilledError

    for stage in read_stages(root):
        stage_now = stage.name
        try:
            run_stage(root, stage.name, spawn)
        except _KilledError:
            return stage_now
    return "no stage"


def _kill_within(seconds: float, target: Callable[..., None], *arguments: str) -> bool:
    """Whether `target`, called in a process of its own, was killed, with its children, because it took longer."""
    process = _PROCESSES.Process(target=target, args=arguments)
    process.start()
    process.join(seconds)
    if process.exitcode is not None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    return True


def _run_command(text: str, folder: str) -> None:
    """The command of a stage, `python -m tasks STAGE`, in a forked process."""
    from tasks.__main__ import main as run_task

    os.setpgid(0, 0)
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(run_task(text.split()[3:]))


def _release(root: str) -> None:
    os.setpgid(0, 0)
    os.chdir(root)
    with contextlib.suppress(EpoxyError):
        publish_release(Path(root), reason="about to be killed")


def _tabulate(result: dict[str, Any]) -> str:
    nights, mistakes = result["nights"], result["mistakes"]
    what = Counter(word for night in nights for word in night["what"])
    lines = [f"{len(nights)} nights, {result['options']['items']:,} items, {result['options']['new']} new a night"]
    lines += [f"{count:5}  {word}" for word, count in what.most_common()]
    lines.append(f"{'':22} {'first quarter':>14} {'last quarter':>14}")
    quarter = max(1, len(nights) // 4)
    ordinary = [night for night in nights if night["victim"] is None]
    for name in ("pipeline_seconds", "release_seconds"):
        first, last = (
            statistics.median(night[name] for night in part) for part in (ordinary[:quarter], ordinary[-quarter:])
        )
        lines.append(f"{name.replace('_', ' '):22} {first:14.2f} {last:14.2f}")
    for name in _PLACES:
        first, last = (max(night["bytes"][name] for night in part) for part in (nights[:quarter], nights[-quarter:]))
        lines.append(f"{name + ', most MiB':22} {first / 2**20:14.1f} {last / 2**20:14.1f}")
    lines.append(f"releases kept: {nights[-1]['releases']}")
    lines += [f"MISTAKE {mistake}" for mistake in mistakes] or ["every check held"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
