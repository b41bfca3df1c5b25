"""Reports which labeling function is at which item when it takes long or has ended the stage's process.

A second, small process reads the stage's position from shared memory, so it can report even while a regular expression
holds the interpreter lock, or after a crash.
"""

import faulthandler
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Protocol

import polars as pl

from tasks.core.types import ITEM_ID
from tasks.progress import WARNING

PATIENCE = 10.0
"""Seconds at the same item after which the LF is reported."""


class Counter(Protocol):
    """Counts the items that an LF has voted on."""

    def advance(self, by: int = 1) -> None:
        """Count `by` more items."""


@dataclass(kw_only=True)
class Position:
    """Publishes in shared memory which LF (numbered from 1; 0: none) is at which row; `progress` counts rows."""

    words: memoryview
    progress: Counter | None = None
    rows: int = field(default=0)

    def begin(self, lf: int) -> None:
        """Record that the LF with this number is at the first row."""
        self.rows = 0
        self.words[1] = 0
        self.words[0] = lf

    def advance(self, by: int = 1) -> None:
        """Record that `by` more rows are done."""
        self.rows += by
        self.words[1] = self.rows
        if self.progress is not None:
            self.progress.advance(by)


def open_position(file: IO[bytes]) -> memoryview:
    """The shared memory, backed by `file`, in which a position is published."""
    file.truncate(mmap.PAGESIZE)
    return memoryview(mmap.mmap(file.fileno(), mmap.PAGESIZE)).cast("q")


@dataclass(kw_only=True)
class Patience:
    """Since when a position has not changed, and whether that was reported."""

    seen: tuple[int, int, int] = (0, 0, 0)
    since: float = field(default_factory=time.monotonic)
    is_told: bool = False

    def is_lost(self, position: tuple[int, int, int]) -> bool:
        """Whether the LF at `position` (chunk, LF, row) has just run out of patience; True once per position."""
        if position != self.seen:
            self.seen, self.since, self.is_told = position, time.monotonic(), False
        if position[1] == 0 or self.is_told or time.monotonic() - self.since < PATIENCE:
            return False
        self.is_told = True
        return True


def describe_wait(lf: str, source: str, item: str) -> str:
    """The warning about an LF that has been at the same item for long."""
    return f"{WARNING}labeling function '{lf}' ({source}) has been at {item} for more than {PATIENCE:g} s"


def name_item(ids: pl.Series, row: int) -> str:
    """The item in `row`, or the whole batch if `row` is beyond it, as text."""
    if row < len(ids):
        return f"{ITEM_ID} {ids[row]!r}"
    return f"the items from {ITEM_ID} {ids[0]!r} to {ids[-1]!r}" if len(ids) else "no item"


_WATCH = """
import json, mmap, os, select, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
position, chunk, trace = map(int, sys.argv[1:4])
patience, warning = float(sys.argv[4]), sys.argv[5]
words = memoryview(mmap.mmap(position, mmap.PAGESIZE)).cast("q")

def describe():
    said = json.loads(os.pread(chunk, os.fstat(chunk).st_size, 0))
    lf, row = words[0], words[1]
    item = said["items"][row] if row < len(said["items"]) else said["batch"]
    return f"labeling function '{said['lfs'][lf - 1]}' ({said['source']})", item

seen, since, told = None, time.monotonic(), False
while True:
    if select.select([0], [], [], 0.5)[0]:
        if not os.read(0, 1) and words[0]:
            lf, item = describe()
            lines = os.pread(trace, 1 << 16, 0).decode(errors="replace").splitlines()
            frames = [line for line in lines if line.startswith("  File ")][:5]
            if frames:
                cause = lines[0].removeprefix("Fatal Python error: ")
                said = "error: %s ended the Python interpreter at %s (%s): correct it, or what it calls. It was in"
                print("\\n".join([said % (lf, item, cause), *frames]), file=sys.stderr, flush=True)
            else:
                print("%sthe process ended while %s was at %s" % (warning, lf, item), file=sys.stderr, flush=True)
        break
    now = (words[0], words[1], words[2])
    if now != seen:
        seen, since, told = now, time.monotonic(), False
    elif words[0] and not told and time.monotonic() - since >= patience:
        said = (warning, *describe(), patience)
        print("%s%s has been at %s for more than %g s" % said, file=sys.stderr, flush=True)
        told = True
"""
"""The program of the second process. It imports nothing of the project, and so starts in some 20 ms. It outlives the
stage, however that ends, just long enough to say where the stage was."""


class Monitor:
    """Watches the LFs `lfs` of the module `source` from another process, until the block ends."""

    def __init__(self, source: str, lfs: Sequence[str]) -> None:
        self._source = source
        self._number = {lf: number for number, lf in enumerate(lfs, start=1)}
        self._items: list[str] = []
        self._batch = ""

    def __enter__(self) -> "Monitor":
        self._chunk, self._trace = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        # What the interpreter writes when it crashes is kept here, and shown below the name of the LF that crashed it.
        faulthandler.enable(file=self._trace)
        with tempfile.TemporaryFile() as file:
            self._words = open_position(file)
            files = [file.fileno(), self._chunk.fileno(), self._trace.fileno()]
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", _WATCH, *map(str, files), str(PATIENCE), WARNING],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=files,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._words[0] = 0
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b".")
            self._process.stdin.close()
        except OSError:
            pass  # the monitor's process is already gone
        self._process.wait()
        faulthandler.enable()
        self._chunk.close()
        self._trace.close()

    def begin_chunk(self, ids: pl.Series, *, is_rowwise: bool) -> None:
        """Record that LFs are now asked about the items with these `ids`, one by one or all at once."""
        self._words[0] = 0
        self._items = [f"{ITEM_ID} {item!r}" for item in ids.to_list()] if is_rowwise else []
        self._batch = name_item(ids, len(ids))
        self._write()
        self._words[2] += 1

    def _write(self) -> None:
        said = {"lfs": [*self._number], "source": self._source, "items": self._items, "batch": self._batch}
        text = json.dumps(said).encode()
        os.ftruncate(self._chunk.fileno(), len(text))
        os.pwrite(self._chunk.fileno(), text, 0)

    def begin_lf(self, lf: str, progress: Counter | None = None) -> Position:
        """Record that `lf` (or several LFs asked together) is now asked; returns the counter for its items."""
        if lf not in self._number:
            self._number[lf] = len(self._number) + 1
            self._write()
        position = Position(words=self._words, progress=progress)
        position.begin(self._number[lf])
        return position

    def end_lf(self) -> None:
        """Record that no LF is being asked."""
        self._words[0] = 0
