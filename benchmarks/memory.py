"""How much memory each stage may take, as a formula, and how much a process takes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.core.classifiers.folds import TRAINING_ROWS
from tasks.core.label_models.partitions import KMEANS_ROWS
from tasks.core.search.faiss_index import count_cells
from tasks.core.slices import WIDE
from tasks.tables.parquet import ROW_GROUP

MIB = 2**20

_PAUSE = 0.02
"""Seconds between two looks at a process: what is taken for less may be missed."""

_CHILDREN = 1.0
"""Seconds between two looks for children, which takes as long as a look at every process of the machine."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a project: items, dimensions, LFs and classes."""

    n: int
    d: int
    m: int
    k: int


UNITS: dict[str, Callable[[Size], float]] = {
    "MiB": lambda size: MIB,
    "n": lambda size: size.n,
    "n m": lambda size: size.n * size.m,
    "n k": lambda size: size.n * size.k,
    "G d": lambda size: ROW_GROUP * size.d,
    "G m": lambda size: ROW_GROUP * size.m,
    "S d": lambda size: min(size.n, KMEANS_ROWS) * size.d,
    "R d": lambda size: min(size.n, TRAINING_ROWS) * size.d,
    "W k": lambda size: min(size.n, WIDE) * size.k,
    "C d": lambda size: 64 * count_cells(size.n) * size.d,
}
"""What memory grows with: G, the rows of a row group; S, the rows that k-means sees at most; R, those that a model learns
from at most; W, those that are added up at a time; C, the vectors that cells are found on. Text in the items, which ingest and apply hold for a while, is not counted: here there is none."""

FORMULAS: dict[str, dict[str, float]] = {
    "ingest": {"MiB": 180, "n": 110, "G d": 32},
    "index": {"MiB": 140, "n": 60, "G d": 36, "C d": 8},
    "gold": {"MiB": 165, "n": 150},
    "apply": {"MiB": 130, "n": 60, "n m": 10},
    "search": {"MiB": 420, "n": 170, "n m": 8},
    "tune": {"MiB": 310, "n": 20, "n m": 0.5, "G d": 22},
    "extend": {"MiB": 165, "n": 50, "G m": 60},
    "fit": {"MiB": 220, "n": 40, "n m": 1, "S d": 15},
    "train": {"MiB": 300, "n": 70, "G m": 70, "R d": 4, "W k": 60},
    "evaluate": {"MiB": 290, "n": 80, "n m": 0.5},
}
"""Bytes (MiB: mebibytes) of each unit that a stage takes at most."""


@dataclass(kw_only=True)
class Peak:
    """The most that a process and its children took at a time, in bytes."""

    anonymous: int = 0
    """What must be in memory."""
    resident: int = 0
    """With the pages of mapped files, which the system can drop."""


def predict_memory(stage: str, size: Size) -> int:
    """The bytes that `stage` takes at most, mapped files not counted: the sum of what `FORMULAS` says."""
    return int(sum(factor * UNITS[unit](size) for unit, factor in FORMULAS[stage].items()))


@contextmanager
def watch_memory(pid: int) -> Iterator[Peak]:
    """The peak of the process `pid` and its children while the block runs."""
    peak = Peak()
    is_over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(pid, peak, is_over))
    watcher.start()
    try:
        yield peak
    finally:
        is_over.set()
        watcher.join()


def _watch(pid: int, peak: Peak, is_over: threading.Event) -> None:
    children: list[int] = []
    looked = 0.0
    while not is_over.wait(_PAUSE):
        if time.monotonic() - looked > _CHILDREN:
            children, looked = _find_children(pid), time.monotonic()
        found = [_read_memory(one) for one in (pid, *children)]
        peak.anonymous = max(peak.anonymous, sum(one.anonymous for one in found))
        peak.resident = max(peak.resident, sum(one.resident for one in found))


def _find_children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _read_memory(pid: int) -> Peak:
    """What a process takes now; nothing if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return Peak()
    sizes = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in lines)
        if name.startswith(("Vm", "Rss"))
    }
    anonymous = sizes.get("RssAnon", 0)
    return Peak(anonymous=anonymous, resident=sizes.get("VmRSS", 0))
