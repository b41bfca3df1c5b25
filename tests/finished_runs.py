"""Projects whose stages have run, once per session: the demo, and a small one with texts; tests only read them."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from small_project import CLASSES, LFS, REPOSITORY, write_params, write_raw

from tasks.__main__ import STAGES, run_stage


def run_demo(root: Path) -> Path:
    """The demo at `root` after all its stages."""
    shutil.copytree(REPOSITORY / "lfs", root / "lfs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(REPOSITORY / "params.yaml", root / "params.yaml")
    return run_all(root, ("demo", *STAGES))


def run_small(root: Path, *, n: int = 300, classes: Sequence[str] = CLASSES, **changes: dict[str, object]) -> Path:
    """A project of `n` texts in two of `classes` at `root` after all its stages, with `changes` of params by section."""
    shutil.copytree(REPOSITORY / "lfs", root / "lfs", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "lfs" / "small.py").write_text(LFS)
    write_raw(root / "data" / "raw", n)
    write_params(root, classes=classes, **changes)
    return run_all(root, STAGES)


def run_all(root: Path, stages: tuple[str, ...]) -> Path:
    """The project at `root` after `stages`."""
    with contextlib.chdir(root):
        for stage in stages:
            run_stage(Path(), stage)
    return root
