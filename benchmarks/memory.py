"""How much memory each stage may take, as a formula, and how much a process takes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

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


@dataclass(kw_only=True)
class Peak:
    """The most that a process and its children took at a time, in bytes."""

    anonymous: int = 0
    """What must be in memory."""
    resident: int = 0
    """With the pages of mapped files, which the system can drop."""


def predict_memory(stage: str, size: Size) -> int:
    """The bytes that `stage` takes at most, mapped files not counted: the sum of what `FORMULAS` says."""
    return int(sum(factor * _measure_unit(unit, size) for unit, factor in FORMULAS[stage].items()))


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
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return Peak()
    sizes = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in lines)
        if name.startswith(("Vm", "Rss"))
    }
    anonymous = sizes.get("RssAnon", 0)
    return Peak(anonymous=anonymous, resident=sizes.get("VmRSS", 0))


FORMULAS: dict[str, dict[str, float]] = {
    stage: {"MiB": 10_000}
    for stage in ("ingest", "index", "apply", "search", "tune", "extend", "fit", "train", "evaluate")
}


def _measure_unit(unit: str, size: Size) -> float:
    return {"MiB": MIB}[unit]
