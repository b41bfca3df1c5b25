"""`python -m benchmarks new_rows`: processor seconds of each stage in a night with a few new rows, against those of a full run.

Items are those of `python -m benchmarks pipeline`: 20 LFs of 5 % coverage and two classes. The full run begins without a cache. Then
--new of the rows come (ids grow, or with --scattered fall anywhere among the others), as many are changed as --changed
says and as many deleted as --deleted says, and every stage runs again, as after any night.

With --keep-centers, the centers that the full run found for an approximate index are kept (`ingest.centers`) before the rows come.

At the end the stages run once more without a cache, and every artifact has to have the same bytes as after the night
(--no-check leaves that out: it costs another full run).
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from benchmarks.memory import Size
from benchmarks.pipeline import run_stage, write_project
from tasks.__main__ import STAGES
from tasks.cache.store import FOLDER
from tasks.core.search import kernels
from tasks.tables.index_file import hash_file
from tasks.tables.paths import CENTERS, EXTENDED_VOTES, INDEX_DESCRIPTION, NEIGHBORS, SHIPPED_LABELS, VOTES

_TABLES = (VOTES, NEIGHBORS, EXTENDED_VOTES, SHIPPED_LABELS)
"""Of which the rows are compared before and after the night: what stays could be a file that is neither written nor stored again."""

Measured = dict[str, dict[str, Any]]
"""By stage."""


def main(arguments: list[str]) -> int:
    """0 after printing a table; 1 if a stage failed, or a night left other bytes than a run from scratch."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks new_rows", description=__doc__)
    parser.add_argument("--n", type=int, default=20_000, help="items before the night")
    parser.add_argument("--d", type=int, default=384, help="dimensions")
    parser.add_argument("--lfs", type=int, default=20, help="number of labeling functions")
    parser.add_argument("--index", choices=["auto", "flat", "ivf"], default="auto", help="index.kind")
    parser.add_argument("--keep-centers", action="store_true", help="of an approximate index, before the night")
    parser.add_argument("--new", type=float, default=0.01, help="rows that come, as a share of --n")
    parser.add_argument("--changed", type=float, default=0.0, help="rows with another embedding, as a share of --n")
    parser.add_argument("--deleted", type=float, default=0.0, help="rows that go, as a share of --n")
    parser.add_argument("--scattered", action="store_true", help="ids of new rows fall among the others")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to run")
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--folder", type=Path, help="where to work (needs 20 n d bytes); default: the system's")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args(arguments)
    stages = STAGES[: STAGES.index(options.until) + 1]
    _compile(stages, options)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        root = Path(name)
        raw = _Raw(root, options)
        size = Size(n=raw.height, d=options.d, m=options.lfs, k=2)
        raw.write_before()
        full = _run(root, stages, size)
        before = _read_tables(root)
        if options.keep_centers:
            _keep_centers(root)
        raw.write_after()
        night = _run(root, stages, size)
        kept = _count_kept(before, _read_tables(root))
        hashes = _hash_outputs(root)
        differing: list[str] = []
        if options.check:
            shutil.rmtree(root / FOLDER)
            _run(root, stages, size)
            again = _hash_outputs(root)
            differing = sorted(path for path in hashes.keys() | again.keys() if hashes.get(path) != again.get(path))
        kind = json.loads((root / INDEX_DESCRIPTION).read_text(encoding="utf-8"))["kind"]
    given = {key: value for key, value in vars(options).items() if key not in ("json", "folder")}
    result = {
        "options": given,
        "cores": os.cpu_count(),
        "kind": kind,
        "full": full,
        "night": night,
        "kept": kept,
        "differing": differing,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(_tabulate(options, kind, full, night))
    print("\n".join(f"{path}: {share:.3f} of the rows stay as they were" for path, share in kept.items()))
    print(
        "\n".join(f"DIFFERENT BYTES {path}" for path in differing)
        or ("the bytes of a run from scratch" if options.check else "")
    )
    return int(bool(differing) or any(one["exit_code"] for run in (full, night) for one in run.values()))


def _compile(stages: tuple[str, ...], options: argparse.Namespace) -> None:
    """Run `stages` on a few items if this checkout has no compiled kernels yet: to make them is no part of a full run."""
    if any((Path(kernels.__file__).parent / "__pycache__").glob("*.nbi")):
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        write_project(Path(name), "clustered", 500, options.d, options.lfs, "float32")
        _run(Path(name), stages, Size(n=500, d=options.d, m=options.lfs, k=2))


class _Raw:
    """Raw data of a project, before and after a night."""

    def __init__(self, root: Path, options: argparse.Namespace) -> None:
        self._root, n, new = root, options.n, round(options.n * options.new)
        self.height = n + new
        write_project(root, "clustered", self.height, options.d, options.lfs, "float32")
        params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
        params["index"]["kind"] = options.index
        (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        self._items = pl.read_parquet(root / "data/raw/items.parquet")
        self._votes = pl.read_parquet(root / "lfs/votes.parquet")
        self._embeddings = np.load(root / "data/raw/embeddings.npy")
        chance = np.random.default_rng(7)
        is_new = np.arange(self.height) >= n
        if options.scattered:
            is_new = chance.permutation(is_new)
        self._old, self._new = np.flatnonzero(~is_new), np.flatnonzero(is_new)
        touched = chance.permutation(self._old)
        changed, deleted = round(n * options.changed), round(n * options.deleted)
        self._changed, self._deleted = touched[:changed], touched[changed : changed + deleted]

    def write_before(self) -> None:
        self._write(self._old, self._embeddings)

    def write_after(self) -> None:
        embeddings = self._embeddings.copy()
        embeddings[self._changed] = embeddings[self._changed][:, ::-1]
        self._write(np.setdiff1d(np.arange(self.height), self._deleted), embeddings)

    def _write(
        self, rows: np.ndarray[Any, np.dtype[np.int64]], embeddings: np.ndarray[Any, np.dtype[np.float32]]
    ) -> None:
        self._items[rows].write_parquet(self._root / "data/raw/items.parquet")
        self._votes[rows].write_parquet(self._root / "lfs/votes.parquet")
        np.save(self._root / "data/raw/embeddings.npy", embeddings[rows])


def _run(root: Path, stages: tuple[str, ...], size: Size) -> Measured:
    found = {}
    for stage in stages:
        found[stage] = run_stage(root, stage, size, None)
        print(f"{stage}: {found[stage]['processor_seconds']} s of processors", file=sys.stderr, flush=True)
        if found[stage]["exit_code"]:
            raise SystemExit((root / f"{stage}.log").read_text(encoding="utf-8"))
    return found


def _keep_centers(root: Path) -> None:
    shutil.copy(root / CENTERS, root / "data/raw/centers.parquet")
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    params["ingest"]["centers"] = "centers.parquet"
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def _read_tables(root: Path) -> dict[str, pl.DataFrame]:
    return {str(path): pl.read_parquet(root / path) for path in _TABLES if (root / path).exists()}


def _count_kept(before: dict[str, pl.DataFrame], after: dict[str, pl.DataFrame]) -> dict[str, float]:
    """By table, the share of the rows of `before` that are the same `after`."""
    kept = {}
    for path, table in before.items():
        same = table.join(after[path], on=table.columns, how="semi", nulls_equal=True)
        kept[path] = round(same.height / max(table.height, 1), 4)
    return kept


def _hash_outputs(root: Path) -> dict[str, str]:
    """The hash of each artifact, by path."""
    files = (path for path in (root / "data").rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hash_file(path)
        for path in files
        if not path.is_relative_to(root / FOLDER) and not path.is_relative_to(root / "data/raw")
    }


def _tabulate(options: argparse.Namespace, kind: str, full: Measured, night: Measured) -> str:
    rows = f"{options.new:.1%} new, {options.changed:.1%} changed, {options.deleted:.1%} deleted"
    kind += " with kept centers" if options.keep_centers else ""
    lines = [f"n = {options.n:,}, d = {options.d}, {options.lfs} LFs, index {kind}; {rows}; processor seconds"]
    lines.append(f"{'stage':10} {'full':>8} {'night':>8} {'night / full':>13}")
    for stage in full:
        lines.append(_describe(stage, full[stage]["processor_seconds"], night[stage]["processor_seconds"]))
    lines.append(_describe("all", *(sum(one["processor_seconds"] for one in run.values()) for run in (full, night))))
    return "\n".join(lines)


def _describe(name: str, full: float, night: float) -> str:
    return f"{name:10} {full:8.1f} {night:8.1f} {night / full:13.2f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
