"""A project of a hundred items on which every stage takes a fraction of a second, with real DVC and Git around it."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from tasks.__main__ import STAGES, run_stage
from tasks.report.plots import render_plots_template

REPOSITORY = Path(__file__).resolve().parents[1]

CLASSES = ("ham", "spam")

LFS = '''\
"""Labeling functions of each kind."""

import polars as pl

from tasks.labeling import ABSTAIN, keyword_lf, labeling_function, vectorized_labeling_function, vote_where

offer = keyword_lf("offer", column="text", keywords=["offer"], label="spam")
hello = keyword_lf("hello", column="text", keywords=["hello"], label="ham")


@vectorized_labeling_function
def long(items):
    return vote_where(pl.col("text").str.len_chars() > 30, "spam")


@labeling_function
def greeting(item):
    return "ham" if "dear" in item.text else ABSTAIN
'''

CODE = ("tasks", "lfs", "flows", "epoxy_flow")
"""Folders of Python code."""

_PROJECT = (
    *CODE,
    "gold",
    "dvc.yaml",
    "params.yaml",
    "release.yaml",
    "pyproject.toml",
    "requirements.lock",
    ".dvc",
    ".dvcignore",
)
_GIT = (".gitignore", ".gitattributes")


def write_raw(folder: Path, n: int, *, d: int = 6, seed: int = 0) -> None:
    """Write items.parquet and embeddings.npy of `n` items in `d` dimensions: two blobs with words that fit them."""
    chosen = np.random.default_rng(seed)
    kind = chosen.integers(0, 2, n)
    words = np.array(["hello", "dear", "you", "meeting", "offer", "price", "win", "now", "at last something longer"])
    texts = [
        " ".join(chosen.choice(words[:4] if one == 0 else words[4:], 2)) + (" now" if chosen.random() < 0.3 else "")
        for one in kind
    ]
    splits = chosen.choice(["train", "valid", "test"], n, p=[0.6, 0.2, 0.2])
    gold = [CLASSES[one] if split != "train" else None for one, split in zip(kind, splits, strict=True)]
    items = pl.DataFrame(
        {"item_id": [f"i{row:05}" for row in range(n)], "split": splits, "gold": gold, "text": texts},
        schema_overrides={"gold": pl.String},
    )
    folder.mkdir(parents=True, exist_ok=True)
    items.write_parquet(folder / "items.parquet")
    centers = np.zeros((2, d))
    centers[:, 0] = [2, -2]
    np.save(folder / "embeddings.npy", (centers[kind] + chosen.normal(size=(n, d))).astype(np.float32))


def write_params(root: Path, *, classes: Sequence[str] = CLASSES, **changes: dict[str, object]) -> None:
    """Write params.yaml: the shipped one for the small data, with `changes` by section."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["classes"] = list(classes)
    params["ingest"] |= {"source": "data/raw"}
    params["apply"] |= {"source": "lfs/small.py"}
    params["evaluate"] |= {"bootstrap": 20}
    for section, values in changes.items():
        params[section] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def make_project(root: Path, *, n: int = 100, d: int = 6) -> Path:
    """A project at `root` with this code, small data and LFs, under Git and DVC, nothing run yet."""
    root.mkdir(parents=True)
    for name in (*_PROJECT, *_GIT):
        source = REPOSITORY / name
        if source.is_dir():
            left_out = ("cache", "tmp") if name == ".dvc" else ("__pycache__",)
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns(*left_out))
        else:
            shutil.copy2(source, root / name)
    copy_compiled_code(root)
    (root / "lfs" / "small.py").write_text(LFS)
    write_raw(root / "data" / "raw", n, d=d)
    write_params(root)
    for command in (
        ["init", "-q", "-b", "main"],
        ["config", "user.name", "Small"],
        ["config", "user.email", "small@example.org"],
        ["add", "-A"],
        ["commit", "-qm", "small project"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def copy_compiled_code(root: Path) -> None:
    """Give the copy of this code at `root` the machine code of its compiled loops, Python's byte-code and the script of plots.

    The first takes 5 s of a processor to make, and Numba keeps it beside the source: each copy would make it anew. The
    second takes .12 s of the .95 that the imports of a stage take. Both of them are not used where the source differs. The
    script, which `evaluate` bundles once in a project, takes 1.4 s, and is kept by this process.
    """
    render_plots_template(root)
    kept = Path("tasks", "core", "search", "__pycache__")
    if not any((REPOSITORY / kept).glob("*.nbi")):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            write_raw(Path("data", "raw"), 100)
            write_params(Path())
            Path("lfs").mkdir()
            Path("lfs", "small.py").write_text(LFS, encoding="utf-8")
            for stage in ("ingest", "gold", "index", "apply", "search"):
                run_stage(Path(), stage)
    found = (file for name in CODE if (root / name).is_dir() for file in (REPOSITORY / name).rglob("*.pyc"))
    for file in (*(REPOSITORY / kept).glob("*.nb[ci]"), *found):
        copy = root / file.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)


def make_environment(root: Path, **more: str) -> dict[str, str]:
    """The environment in which commands work on the project at `root` with its own code."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(root.parent / "site"),
        "PYTHONPATH": str(root),
        **more,
    }


def run(root: Path, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What `command` gave in the project at `root`."""
    return subprocess.run(
        command, cwd=root, env=make_environment(root, **environment), capture_output=True, text=True, timeout=280
    )


def hash_outputs(root: Path, stages: Sequence[str] = STAGES) -> dict[str, str]:
    """The content of every file below the folders of `stages`; half-written ones are listed, too."""
    files = sorted(path for stage in stages for path in (root / "data" / stage).rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != ".gitignore"
    }
