"""`python -m benchmarks pipeline --n 100000`: seconds and peak memory of every stage, from raw files to the report.

Items are those of benchmarks/spaces.py, with 20 LFs of 5 % coverage and two classes, read from a .npy file and a table of
votes as a user would bring them: 80 % train, 2 % valid (with gold), the rest test. Each stage is a process of its own,
as under DVC. Give several sizes to see how time grows.

Memory is that of the process and its children, looked at fifty times a second: `memory` is what must be there (anonymous
pages), compared with the formula of benchmarks/memory.py; `peak` also counts pages of mapped files, which the system can
drop. After each stage the results are written to --json, and with --keep the project stays, so that the same command
goes on after the last stage that ended well.

With --made-up, `search` writes neighbors that nobody has searched, and the run ends there: what it takes then is what is left
of it beside a GPU.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from benchmarks.memory import MIB, Peak, Size, predict_memory, watch_memory
from benchmarks.spaces import Kind, draw_space, draw_votes
from tasks.__main__ import STAGES
from tasks.tables.paths import INDEX_DESCRIPTION, METRICS, RECALL

_ROOT = Path(__file__).resolve().parents[1]

Result = dict[str, Any]


def main(arguments: list[str]) -> int:
    """0 after printing a table and writing JSON; 1 if a stage failed or took more memory than its formula."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks pipeline", description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[100_000], help="numbers of items")
    parser.add_argument("--d", type=int, default=384, help="dimensions")
    parser.add_argument("--lfs", type=int, default=20, help="number of labeling functions")
    parser.add_argument("--space", choices=["clustered", "uniform"], default="clustered")
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float32", help="of the embeddings on disk")
    parser.add_argument("--index", choices=["auto", "flat", "ivf"], default="auto", help="index.kind of new projects")
    parser.add_argument("--folder", type=Path, help="where to work (needs 16 n d bytes); default: the system's")
    parser.add_argument("--keep", type=Path, help="where to work and leave the project; stages it has are not repeated")
    parser.add_argument("--limit", type=float, help="MiB of data (RLIMIT_DATA) that a stage may allocate")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to run")
    parser.add_argument("--made-up", action="store_true", help="multiply nothing in search, which ends the run")
    options = parser.parse_args(arguments)
    if options.made_up and options.keep:
        parser.error("--made-up and --keep: got both; expected one, since made-up neighbors are not to be gone on with")
    until = min(options.until, "search", key=STAGES.index) if options.made_up else options.until
    results: list[Result] = []
    for n in options.n:
        size = Size(n=n, d=options.d, m=options.lfs, k=2)
        result = {"n": n, "d": size.d, "lfs": size.m, "space": options.space, "cores": os.cpu_count()}
        results.append(result | {"dtype": options.dtype, "limit_mib": options.limit, "stages": []})

        def save() -> None:
            if options.json:
                options.json.write_text(json.dumps(results, indent=2) + "\n")

        with _open_project(options.keep, options.folder, size) as root:
            if not (root / "params.yaml").is_file():
                _make_project(root, options.space, size, options.dtype, options.index)
            named = STAGES[: STAGES.index(until) + 1]
            _measure(root, size, results[-1], named, options.limit, save, made_up=options.made_up)
        print(_tabulate(results[-1]), flush=True)
    stages = [stage for result in results for stage in result["stages"]]
    return int(any(stage["exit_code"] or stage["memory_mib"] > stage["formula_mib"] for stage in stages))


def measure_pipeline(n: int, d: int, m: int, kind: Kind, until: str) -> Result:
    """What was measured of every stage up to `until`, and what the run says about itself; also printed."""
    size = Size(n=n, d=d, m=m, k=2)
    result: Result = {"n": n, "d": d, "lfs": m, "space": kind, "cores": os.cpu_count(), "stages": []}
    with _open_project(None, None, size) as root:
        _make_project(root, kind, size, "float32")
        _measure(root, size, result, STAGES[: STAGES.index(until) + 1], None, lambda: None)
    print(_tabulate(result), flush=True)
    return result


@contextmanager
def _open_project(keep: Path | None, folder: Path | None, size: Size) -> Iterator[Path]:
    """The folder of a project: one that stays, or one that is gone in the end."""
    if keep is not None:
        root = keep / f"n{size.n}-d{size.d}-m{size.m}"
        root.mkdir(parents=True, exist_ok=True)
        yield root.resolve()
        return
    with tempfile.TemporaryDirectory(dir=folder) as name:
        yield Path(name)


def _make_project(root: Path, kind: Kind, size: Size, dtype: str, index: str = "auto") -> None:
    # In a process of its own, so that its memory is given back before a stage is measured.
    arguments = (root, kind, size.n, size.d, size.m, dtype, index)
    maker = multiprocessing.get_context("spawn").Process(target=write_project, args=arguments)
    maker.start()
    maker.join()
    if maker.exitcode:
        raise RuntimeError(f"the items could not be made: exit code {maker.exitcode}")


def write_project(root: Path, kind: Kind, n: int, d: int, m: int, dtype: str, index: str = "auto") -> None:
    """Write raw items, embeddings and votes of m LFs, and params last."""
    space = draw_space(kind, n, d)
    rng = np.random.default_rng(5)
    ids = np.arange(space.n)
    split = rng.choice(["train", "valid", "test"], space.n, p=[0.8, 0.02, 0.18])
    names = np.array(["no", "yes"])
    (root / "data/raw").mkdir(parents=True, exist_ok=True)
    items = pl.DataFrame({"item_id": ids, "split": split, "gold": names[space.gold]})
    items.with_columns(gold=pl.when(pl.col("split") == "train").then(None).otherwise("gold")).write_parquet(
        root / "data/raw/items.parquet"
    )
    matrix = np.lib.format.open_memmap(root / "data/raw/embeddings.npy", "w+", np.dtype(dtype), (space.n, space.d))
    start = 0
    for batch in space.draw_batches():
        matrix[start : start + len(batch)] = batch
        start += len(batch)
    del matrix
    (root / "lfs").mkdir(exist_ok=True)
    L = draw_votes(space, m, 0.05, 2)
    pl.DataFrame({"item_id": ids, **{f"lf{lf:03}": L[:, lf] for lf in range(m)}}).write_parquet(
        root / "lfs/votes.parquet"
    )
    params = yaml.safe_load((_ROOT / "params.yaml").read_text())
    params["classes"] = names.tolist()
    params["ingest"] |= {"source": "data/raw", "embeddings": "embeddings.npy", "embedding_ids": "items.parquet"}
    params["apply"]["source"] = "lfs/votes.parquet"
    params["index"]["kind"] = index
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def _measure(
    root: Path,
    size: Size,
    result: Result,
    stages: tuple[str, ...],
    limit: float | None,
    save: Callable[[], None],
    *,
    made_up: bool = False,
) -> None:
    """Fill `result` stage by stage, and `save` it after each; stages that the project has already are not repeated."""
    kept = root / "measured.json"
    done = {one["stage"]: one for one in json.loads(kept.read_text())} if kept.is_file() else {}
    for stage in stages:
        command = ["benchmarks.made_up"] if made_up and stage == "search" else None
        found = done.get(stage) or run_stage(root, stage, size, limit, command)
        result["stages"].append(found)
        result |= _read_outcome(root)
        save()
        if found["exit_code"]:
            print((root / f"{stage}.log").read_text(), file=sys.stderr)
            return
        kept.write_text(json.dumps(result["stages"]))
        print(f"{stage}: {found['seconds']} s, {found['memory_mib']} MiB", file=sys.stderr, flush=True)


def run_stage(
    root: Path, stage: str, size: Size, limit: float | None, command: list[str] | None = None
) -> dict[str, Any]:
    """Seconds, processor seconds and peak memory of one stage; `command`: a module in its place, and its arguments."""

    def bound() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (int(limit * MIB), int(limit * MIB)))

    before = os.getloadavg()[0]
    began = time.perf_counter()
    with (root / f"{stage}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *(command or ["tasks", stage])],
            cwd=root,
            preexec_fn=bound,
            env=os.environ | {"PYTHONPATH": str(_ROOT)},
            stderr=log,
        )
        with watch_memory(process.pid) as peak:
            # wait4 tells of this process alone; RUSAGE_CHILDREN would add up all so far.
            _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "stage": stage,
        "seconds": round(time.perf_counter() - began, 2),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "load_before": round(before, 1),
        "exit_code": process.returncode,
        **_describe_memory(peak, stage, size),
    }


def _describe_memory(peak: Peak, stage: str, size: Size) -> dict[str, Any]:
    return {
        "memory_mib": round(peak.anonymous / MIB, 1),
        "formula_mib": round(predict_memory(stage, size) / MIB, 1),
        "peak_gib": round(peak.resident / 2**30, 3),
    }


def _read_outcome(root: Path) -> dict[str, Any]:
    """What the run says about itself."""
    outcome: dict[str, Any] = {}
    for name, path in (("index", INDEX_DESCRIPTION), ("recall", RECALL), ("metrics", METRICS)):
        if (root / path).is_file():
            outcome[name] = json.loads((root / path).read_text())
    return outcome


def _tabulate(result: Result) -> str:
    stages = result["stages"]
    lines = [f"n = {result['n']:,}, d = {result['d']}, {result['lfs']} LFs, {result['space']}"]
    lines.append(f"{'stage':10} {'seconds':>9} {'processor':>10} {'memory MiB':>11} {'formula':>8} {'peak GiB':>9}")
    for one in stages:
        verdict = "" if one["memory_mib"] <= one["formula_mib"] else "  MORE THAN ITS FORMULA"
        lines.append(
            f"{one['stage']:10} {one['seconds']:9.1f} {one['processor_seconds']:10.1f} {one['memory_mib']:11.0f} "
            f"{one['formula_mib']:8.0f} {one['peak_gib']:9.2f}{verdict}"
        )
    total, processor = (sum(one[what] for one in stages) for what in ("seconds", "processor_seconds"))
    peak = max(one["peak_gib"] for one in stages)
    lines.append(f"{'all':10} {total:9.1f} {processor:10.1f} {'':11} {'':8} {peak:9.2f}")
    recall = result.get("recall")
    if recall:
        lines.append(f"search: {recall['kind']}, recall {recall['recall']}, target {recall['target_recall']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
