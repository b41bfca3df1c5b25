"""`python -m benchmarks pipeline --n 100000`: seconds and peak memory of every stage, from raw files to the report.

Items are those of benchmarks/spaces.py, with 20 LFs of 5 % coverage and two classes, read from a .npy file and a table of
votes as a user would bring them: 80 % train, 2 % valid (with gold), the rest test. Each stage is a process of its own,
as under DVC. Peak memory is what the system reports for the process (ru_maxrss); pages of mapped files count, though
the system can drop them. Give several sizes to see how time grows.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from benchmarks.spaces import Kind, draw_space, draw_votes
from tasks.__main__ import STAGES
from tasks.artifacts import INDEX_DESCRIPTION, METRICS, RECALL

_ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    """0 after printing a table and writing JSON; 1 if a stage failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks pipeline", description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[100_000], help="numbers of items")
    parser.add_argument("--d", type=int, default=384, help="dimensions")
    parser.add_argument("--lfs", type=int, default=20, help="number of labeling functions")
    parser.add_argument("--space", choices=["clustered", "uniform"], default="clustered")
    parser.add_argument("--folder", type=Path, help="where to work (needs 12 n d bytes); default: the system's")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to run")
    options = parser.parse_args(arguments)
    results = []
    for n in options.n:
        results.append(measure_pipeline(n, options.d, options.lfs, options.space, options.until, options.folder))
        if options.json:
            options.json.write_text(json.dumps(results, indent=2) + "\n")
    return int(any(stage["exit_code"] for result in results for stage in result["stages"]))


def measure_pipeline(n: int, d: int, m: int, kind: Kind, until: str, folder: Path | None = None) -> dict[str, Any]:
    """What was measured of every stage up to `until`, and what the run says about itself; also printed."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        # In a process of its own, since a stage's peak memory counts from that of the process which starts it.
        maker = multiprocessing.get_context("spawn").Process(target=write_project, args=(root, kind, n, d, m))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise RuntimeError(f"the items could not be made: exit code {maker.exitcode}")
        result: dict[str, Any] = {"n": n, "d": d, "lfs": m, "space": kind, "cores": os.cpu_count()}
        result["stages"] = run_stages(root, STAGES[: STAGES.index(until) + 1])
        result |= _read_outcome(root)
    print(_tabulate(result), flush=True)
    return result


def write_project(root: Path, kind: Kind, n: int, d: int, m: int) -> None:
    """Write params, raw items, embeddings and votes of m LFs."""
    space = draw_space(kind, n, d)
    rng = np.random.default_rng(5)
    ids = np.arange(space.n)
    split = rng.choice(["train", "valid", "test"], space.n, p=[0.8, 0.02, 0.18])
    names = np.array(["no", "yes"])
    (root / "data/raw").mkdir(parents=True)
    items = pl.DataFrame({"item_id": ids, "split": split, "gold": names[space.gold]})
    items.with_columns(gold=pl.when(pl.col("split") == "train").then(None).otherwise("gold")).write_parquet(
        root / "data/raw/items.parquet"
    )
    matrix = np.lib.format.open_memmap(root / "data/raw/embeddings.npy", "w+", np.float32, (space.n, space.d))
    start = 0
    for batch in space.draw_batches():
        matrix[start : start + len(batch)] = batch
        start += len(batch)
    del matrix
    (root / "lfs").mkdir()
    L = draw_votes(space, m, 0.05, 2)
    pl.DataFrame({"item_id": ids, **{f"lf{lf:03}": L[:, lf] for lf in range(m)}}).write_parquet(
        root / "lfs/votes.parquet"
    )
    params = yaml.safe_load((_ROOT / "params.yaml").read_text())
    params["classes"] = names.tolist()
    params["ingest"] |= {"source": "data/raw", "embeddings": "embeddings.npy", "embedding_ids": "items.parquet"}
    params["apply"]["source"] = "lfs/votes.parquet"
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def run_stages(root: Path, stages: tuple[str, ...]) -> list[dict[str, Any]]:
    """Seconds, processor seconds and peak resident memory of each stage, in their order, until one fails."""
    found: list[dict[str, Any]] = []
    for stage in stages:
        began = time.perf_counter()
        with (root / f"{stage}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tasks", stage],
                cwd=root,
                env=os.environ | {"PYTHONPATH": str(_ROOT)},
                stderr=log,
            )
            # wait4 tells of this process alone; RUSAGE_CHILDREN would give the largest of all so far.
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        found.append(
            {
                "stage": stage,
                "seconds": round(time.perf_counter() - began, 2),
                "processor_seconds": round(usage.ru_utime + usage.ru_stime, 2),
                "peak_gib": round(usage.ru_maxrss / 2**20, 3),
                "exit_code": process.returncode,
            }
        )
        print(f"{stage}: {found[-1]['seconds']} s, {found[-1]['peak_gib']} GiB", file=sys.stderr, flush=True)
        if process.returncode:
            print((root / f"{stage}.log").read_text(), file=sys.stderr)
            break
    return found


def _read_outcome(root: Path) -> dict[str, Any]:
    """What the run says about itself."""
    outcome: dict[str, Any] = {}
    for name, path in (("index", INDEX_DESCRIPTION), ("recall", RECALL), ("metrics", METRICS)):
        if (root / path).is_file():
            outcome[name] = json.loads((root / path).read_text())
    return outcome


def _tabulate(result: dict[str, Any]) -> str:
    stages = result["stages"]
    lines = [f"n = {result['n']:,}, d = {result['d']}, {result['lfs']} LFs, {result['space']}"]
    lines.append(f"{'stage':10} {'seconds':>9} {'processor':>10} {'peak GiB':>9}")
    for one in stages:
        lines.append(f"{one['stage']:10} {one['seconds']:9.1f} {one['processor_seconds']:10.1f} {one['peak_gib']:9.2f}")
    total, peak = sum(one["seconds"] for one in stages), max(one["peak_gib"] for one in stages)
    lines.append(f"{'all':10} {total:9.1f} {'':10} {peak:9.2f}")
    recall = result.get("recall")
    if recall:
        lines.append(f"search: {recall['kind']}, recall {recall['recall']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
