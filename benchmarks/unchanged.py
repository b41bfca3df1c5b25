"""`python -m benchmarks unchanged --n 1000000`: seconds until DVC and `epoxy` say that nothing is to do, with files of that size.

The project is this repository's, with files as large as those of `python -m benchmarks pipeline` with n items, 384 dimensions and
20 LFs of 5 %, whose content is zeros: they take no room, but as DVC copies what it keeps, its cache does, some 2.7 kB an item. They are
committed, which hashes all of them once; `dvc` and `epoxy` keep their notes of what is hashed in one folder here. Then each command is
run three times, and the shortest is printed.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import yaml

from flows.init.pipeline import list_outs

_ROOT = Path(__file__).resolve().parents[1]

_BYTES = {
    "data/ingest/items.parquet": 3,
    "data/index/index.faiss": 1536,
    "data/index/cells.parquet": 5,
    "data/apply/votes.parquet": 5,
    "data/search/neighbors.parquet": 335,
    "data/extend/votes.parquet": 6,
    "data/extend/provenance.parquet": 96,
    "data/fit/labels.parquet": 16,
    "data/fit/predictions.parquet": 41,
    "data/train/labels.parquet": 22,
    "data/train/own.parquet": 21,
    "data/train/predictions.parquet": 58,
}
"""Bytes an item of each artifact that grows, as measured with 1,000,000; embeddings apart."""

_EMBEDDING, _RAW = 700, 768
"""Bytes of an embedding as ingest stores it, in float16 before, and rows of a shard."""

_SHARD = 131_072

_COMMANDS = (("dvc", "status"), ("epoxy", "status"), ("epoxy", "run"))


def main(arguments: list[str]) -> int:
    """0 after printing a table; 1 if something is to do."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks unchanged", description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000, help="items")
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        root = Path(name)
        size = _make_project(root, options.n)
        _run(root, "git", "init", "-q")
        began = time.perf_counter()
        _run(root, "dvc", "commit", "-f")
        print(f"{options.n:,} items, {size / 2**30:.1f} GiB: hashed and kept in {time.perf_counter() - began:.1f} s")
        is_unchanged = True
        for command in _COMMANDS:
            seconds = []
            for _ in range(3):
                began = time.perf_counter()
                said = _run(root, *command)
                seconds.append(time.perf_counter() - began)
            print(f"{' '.join(command):14} {min(seconds):6.2f} s")
            is_unchanged &= "up to date" in said
    return int(not is_unchanged)


def _make_project(root: Path, n: int) -> int:
    """The bytes of the data files of a project at `root` with n items."""
    packed = subprocess.run(["git", "archive", "HEAD"], cwd=_ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(root, filter="data")
    (root / "dvc.lock").unlink(missing_ok=True)
    shutil.rmtree(root / "data", ignore_errors=True)
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    params["ingest"] |= {"source": "data/raw", "embeddings": "embeddings.npy", "embedding_ids": "items.parquet"}
    params["apply"]["source"] = "lfs/votes.parquet"
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (root / params["gold"]["source"]).mkdir(exist_ok=True)
    sizes = {"data/raw/embeddings.npy": _RAW * n, "data/raw/items.parquet": n, "lfs/votes.parquet": 5 * n}
    for stage in yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values():
        for out in list_outs(stage):
            if out == "data/ingest/embeddings":
                shards = max(n // _SHARD, 1)
                sizes |= {f"{out}/part-{i:05}-of-{shards:05}.parquet": _EMBEDDING * n // shards for i in range(shards)}
            elif Path(out).suffix:
                sizes[out] = _BYTES.get(out, 0) * n
            else:
                sizes[f"{out}/only"] = 0
    for path, size in sizes.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        with (root / path).open("wb") as file:
            file.write(b"{}" if path.endswith(".json") else path.encode())
            file.truncate(max(size, file.tell()))
    return sum(sizes.values())


def _run(root: Path, *command: str) -> str:
    """What a command printed."""
    environment = os.environ | {"PYTHONPATH": str(root), "DVC_SITE_CACHE_DIR": str(root / ".dvc" / "tmp" / "notes")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
