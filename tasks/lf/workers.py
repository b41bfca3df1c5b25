"""Row-wise labeling functions, in this process or, where that saves time, in processes of their own.

A worker is a new interpreter that imports the LF module itself: a fork of a process with Polars' threads may hang, and
an LF need not be picklable. It gets some items at a time and gives back votes and failures, which do not depend on who
computed them. It ends with the process that started it, however that ends.
"""

import io
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any

import polars as pl

from tasks.core.types import ITEM_ID
from tasks.errors import EpoxyError, LabelingFunctionError, StageError
from tasks.lf.functions import Item, RowwiseLF
from tasks.lf.loading import load_lfs
from tasks.lf.voting import Advances, ColumnVotes, apply_rowwise
from tasks.progress import Progress

PAYS = 8.0
"""Seconds of work left from which on workers are started: each takes about two to import Polars and the LF module."""

_FIRST = 32
"""Items voted on here before the first estimate; then twice as many, and so on."""

_CHUNK = 2048
"""Items a worker gets at a time: enough to make the exchange cheap, few enough to keep all workers busy to the end."""

_START = "from tasks.lf.workers import serve; serve()"


@dataclass(frozen=True, kw_only=True)
class RowwiseJob:
    """The row-wise LFs `lfs` of the module `source` in the project at `root`, to be asked about `n` items."""

    root: Path
    source: str
    lfs: Sequence[RowwiseLF]
    classes: Sequence[str]
    n: int


@dataclass(frozen=True, kw_only=True)
class ChunkVotes:
    """The votes on some items, by LF."""

    ids: pl.Series
    columns: dict[str, ColumnVotes]


def vote_rowwise(job: RowwiseJob, batches: Iterable[pl.DataFrame], progress: Progress) -> Iterator[ChunkVotes]:
    """The votes of all LFs on the items of `batches`, in their order.

    Raises
    ------
    LabelingFunctionError
        An LF ended the interpreter of a worker.
    StageError
        Something else ended a worker, such as want of memory.
    """
    with ExitStack() as stack:
        workers: _Workers | None = None
        spent, voted = 0.0, 0
        for chunk in _cut(batches):
            if workers is None and voted and spent / voted * (job.n - voted) > PAYS and count_cores() > 1:
                workers = stack.enter_context(_Workers(job, min(count_cores(), -(-(job.n - voted) // _CHUNK))))
            if workers is None:
                began = time.perf_counter()
                yield ChunkVotes(ids=chunk[ITEM_ID], columns=_vote(job, chunk, progress))
                spent, voted = spent + time.perf_counter() - began, voted + chunk.height
            else:
                workers.submit(chunk)
                if workers.are_supplied:
                    yield workers.collect(progress)
        while workers is not None and workers.are_busy:
            yield workers.collect(progress)


def count_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cut(batches: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The rows of `batches` in small tables: a few rows first, to see what an LF costs, then more."""
    size = _FIRST
    for batch in batches:
        start = 0
        while start < batch.height:
            yield batch[start : start + size]
            start, size = start + size, min(2 * size, _CHUNK)


def _vote(job: RowwiseJob, items: pl.DataFrame, progress: Advances) -> dict[str, ColumnVotes]:
    rows = [Item(values) for values in items.iter_rows(named=True)]
    return {lf.name: apply_rowwise(lf, rows, job.classes, progress) for lf in job.lfs}


# In the process of the stage.


@dataclass(kw_only=True)
class _Worker:
    """A process, the way to talk with it, where it says how far it is, and the chunk that it has."""

    process: "subprocess.Popen[bytes]"
    connection: Connection
    position: mmap.mmap
    chunk: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """What a worker has to know before the first chunk."""

    path: Sequence[str]
    root: Path
    source: str
    lfs: Sequence[str]
    classes: Sequence[str]
    n: int


class _Workers:
    """`count` processes that vote; chunks come back in the order in which they were given. Leaving the block ends all."""

    def __init__(self, job: RowwiseJob, count: int) -> None:
        self._job = job
        self._workers: list[_Worker] = []
        self._waiting: deque[int] = deque()
        self._chunks: dict[int, pl.DataFrame] = {}
        self._results: dict[int, dict[str, ColumnVotes]] = {}
        self._given = self._taken = 0
        self._count = count
        self._previous: Any = None

    def __enter__(self) -> "_Workers":
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            # By default, SIGTERM ends a process without a chance to end others.
            self._previous = signal.signal(signal.SIGTERM, _exit)
        try:
            for _ in range(self._count):
                self._workers.append(self._start())
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def are_supplied(self) -> bool:
        """Whether every worker has a chunk, and another one waits for it."""
        return len(self._chunks) >= 2 * len(self._workers)

    @property
    def are_busy(self) -> bool:
        """Whether there are chunks that were not collected."""
        return self._taken < self._given

    def submit(self, items: pl.DataFrame) -> None:
        """Have `items` voted on."""
        self._chunks[self._given] = items
        self._waiting.append(self._given)
        self._given += 1
        self._supply()

    def collect(self, progress: Progress) -> ChunkVotes:
        """The votes on the chunk that was submitted first of those not yet collected."""
        while self._taken not in self._results:
            busy = {worker.connection: worker for worker in self._workers if worker.chunk is not None}
            for ready in wait(list(busy)):
                worker = busy[ready]  # type: ignore[index]
                chunk = worker.chunk
                assert chunk is not None
                columns = self._receive(worker)
                worker.chunk = None
                self._results[chunk] = columns
                progress.advance(self._chunks[chunk].height * len(columns))
            self._supply()
        ids = self._chunks.pop(self._taken)[ITEM_ID]
        columns = self._results.pop(self._taken)
        self._taken += 1
        return ChunkVotes(ids=ids, columns=columns)

    def _start(self) -> _Worker:
        ours, theirs = Pipe()
        job = self._job
        with theirs, tempfile.TemporaryFile() as file:
            file.truncate(mmap.PAGESIZE)
            position = mmap.mmap(file.fileno(), mmap.PAGESIZE)
            package = str(Path(__file__).resolve().parents[2])
            process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno()), str(file.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno(), file.fileno()],
                # A worker does its own work on one thread; Polars only unpacks items there.
                env=os.environ | {"PYTHONPATH": package, "POLARS_MAX_THREADS": "1"},
            )
        setup = _Setup(
            path=sys.path,
            root=job.root.resolve(),
            source=job.source,
            lfs=[lf.name for lf in job.lfs],
            classes=job.classes,
            n=job.n,
        )
        worker = _Worker(process=process, connection=ours, position=position)
        self._send(worker, pickle.dumps(setup))
        return worker

    def _supply(self) -> None:
        for worker in self._workers:
            if worker.chunk is None and self._waiting:
                worker.chunk = self._waiting.popleft()
                packed = io.BytesIO()
                self._chunks[worker.chunk].write_ipc(packed, compression="uncompressed")
                worker.position[:16] = bytes(16)
                self._send(worker, packed.getvalue())

    def _send(self, worker: _Worker, message: bytes) -> None:
        try:
            worker.connection.send_bytes(message)
        except OSError:
            raise self._explain_end(worker) from None

    def _receive(self, worker: _Worker) -> dict[str, ColumnVotes]:
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            raise self._explain_end(worker) from None
        if isinstance(answer, BaseException):
            raise answer
        columns: dict[str, ColumnVotes] = answer
        return columns

    def _explain_end(self, worker: _Worker) -> EpoxyError:
        """What the end of a worker is the fault of, by where it was."""
        code = worker.process.wait()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        if code == -signal.SIGKILL:
            return StageError(f"apply: a worker was ended by {how}, perhaps for want of memory. Run 'dvc repro' again.")
        lf, row = _read_position(worker.position)
        if worker.chunk is None or not lf:
            return StageError(f"apply: a worker ended with {how} before it voted on an item.")
        item = self._chunks[worker.chunk][ITEM_ID][row]
        return LabelingFunctionError(
            f"labeling function '{self._job.lfs[lf - 1].name}' ({self._job.source}) ended the Python interpreter "
            f"({how}) on {ITEM_ID} {item!r}. No policy can turn that into an abstain: correct the LF, or what it calls."
        )

    def _close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            worker.connection.close()
            worker.position.close()
            if worker.process.stdin is not None:
                worker.process.stdin.close()
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _read_position(position: mmap.mmap) -> tuple[int, int]:
    """Number of the LF, from 1 on (0: none yet), and the row at which a worker is."""
    return int.from_bytes(position[:8], sys.byteorder), int.from_bytes(position[8:16], sys.byteorder)


# In the process of a worker.


@dataclass(kw_only=True)
class _Position:
    """Says, in memory that the stage can read, which LF is at which row."""

    cells: memoryview
    rows: int = field(default=0)

    def begin(self, lf: int) -> None:
        """The LF with this number is asked about the first row."""
        self.rows = 0
        self.cells[1] = 0
        self.cells[0] = lf

    def advance(self, by: int = 1) -> None:
        """`by` more rows are done."""
        self.rows += by
        self.cells[1] = self.rows


def serve() -> None:
    """Vote on what comes through the connection that the command line names, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the stage ends its workers
    threading.Thread(target=_end_with, args=(sys.stdin.buffer,), daemon=True).start()
    connection = Connection(int(sys.argv[1]))
    position = _Position(cells=memoryview(mmap.mmap(int(sys.argv[2]), mmap.PAGESIZE)).cast("q"))
    try:
        setup: _Setup = pickle.loads(connection.recv_bytes())
        sys.path[:] = setup.path
        sys.argv[:] = [""]
        by_name = {lf.name: lf for lf in load_lfs(setup.root, setup.source) if isinstance(lf, RowwiseLF)}
        lfs = [by_name[name] for name in setup.lfs]
        while True:
            items = pl.read_ipc(connection.recv_bytes())
            rows = [Item(values) for values in items.iter_rows(named=True)]
            columns = {}
            for number, lf in enumerate(lfs, start=1):
                position.begin(number)
                columns[lf.name] = apply_rowwise(lf, rows, setup.classes, position)
            connection.send(columns)
    except (EOFError, OSError):
        return
    except EpoxyError as error:
        connection.send(error)


def _end_with(stage: IO[bytes]) -> None:
    """End this process, whatever it is doing, once the stage no longer holds the other end of `stage`."""
    stage.read()
    os._exit(1)
