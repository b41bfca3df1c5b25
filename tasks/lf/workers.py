"""Votes of row-wise labeling functions, in this process or, where that saves time, in worker processes.

A worker is a new interpreter that imports the LF module itself, since a fork of a process with Polars' threads may hang
and an LF may not be picklable. It receives chunks of items and returns votes and failures, the same as this process
would compute. It ends when the process that started it ends, in whatever way.
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
from tasks.lf.asking import Asking
from tasks.lf.functions import RowwiseLF, read_items
from tasks.lf.loading import load_module, project_lfs
from tasks.lf.monitor import Patience, Position, describe_wait, name_item
from tasks.lf.observation import allow_exit
from tasks.lf.voting import ColumnVotes, apply_rowwise
from tasks.progress import Progress

PAYS = 8.0
"""Seconds of remaining work above which workers are started; a worker takes about two to import Polars and the LFs."""

FIRST_CHUNK = 32
"""Items in the first chunk, which is timed to estimate the rest; each further chunk is twice as large."""

LARGEST_CHUNK = 2048
"""Most items in a chunk: enough to make sending it cheap, few enough to keep all workers busy until the end."""

_START = "from tasks.lf.workers import serve; serve()"


@dataclass(frozen=True, kw_only=True)
class RowwiseJob:
    """A request for the votes of the row-wise LFs `lfs` on `n` items; `asking` says how to ask."""

    asking: Asking
    lfs: Sequence[RowwiseLF]
    n: int


@dataclass(frozen=True, kw_only=True)
class ChunkVotes:
    """Votes on a chunk of items, by LF."""

    ids: pl.Series
    columns: dict[str, ColumnVotes]


def vote_rowwise(job: RowwiseJob, batches: Iterable[pl.DataFrame], progress: Progress) -> Iterator[ChunkVotes]:
    """The votes of all LFs on the items of `batches`, in their order.

    Raises
    ------
    LabelingFunctionError
        An LF ended a worker's interpreter.
    StageError
        A worker ended for another reason, such as a lack of memory.
    """
    with ExitStack() as stack:
        workers: _Workers | None = None
        spent, voted = 0.0, 0
        for chunk in _cut(batches):
            if workers is None and voted and spent / voted * (job.n - voted) > PAYS and count_cores() > 1:
                workers = stack.enter_context(_Workers(job, min(count_cores(), -(-(job.n - voted) // LARGEST_CHUNK))))
            if workers is None:
                began = time.perf_counter()
                columns = job.asking.ask_all_rowwise(job.lfs, chunk, progress)
                yield ChunkVotes(ids=chunk[ITEM_ID], columns=columns)
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
    """The rows of `batches` in chunks of growing size, since the first chunks show what an LF costs."""
    size = FIRST_CHUNK
    for batch in batches:
        start = 0
        while start < batch.height:
            yield batch[start : start + size]
            start, size = start + size, min(2 * size, LARGEST_CHUNK)


# In the stage's process.


@dataclass(kw_only=True)
class _Worker:
    """A worker process: its connection, its position in shared memory, and the number of its current chunk."""

    process: "subprocess.Popen[bytes]"
    connection: Connection
    position: mmap.mmap
    chunk: int | None = None
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """What a worker receives before its first chunk."""

    path: Sequence[str]
    root: Path
    source: str
    lfs: Sequence[str]
    classes: Sequence[str]
    n: int


class _Workers:
    """`count` worker processes; results come in the order of submission. Leaving the block ends the workers."""

    def __init__(self, job: RowwiseJob, count: int) -> None:
        self._job = job
        self._workers: list[_Worker] = []
        self._waiting: deque[int] = deque()
        self._chunks: dict[int, pl.DataFrame] = {}
        self._results: dict[int, dict[str, ColumnVotes]] = {}
        self._submitted = self._collected = 0
        self._count = count
        self._previous: Any = None

    def __enter__(self) -> "_Workers":
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            # By default, SIGTERM would end this process but not its workers.
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
        """Whether every worker has a chunk and another is queued for it."""
        return len(self._chunks) >= 2 * len(self._workers)

    @property
    def are_busy(self) -> bool:
        """Whether some chunks have not been collected."""
        return self._collected < self._submitted

    def submit(self, items: pl.DataFrame) -> None:
        """Queue `items` as the next chunk."""
        self._chunks[self._submitted] = items
        self._waiting.append(self._submitted)
        self._submitted += 1
        self._supply()

    def collect(self, progress: Progress) -> ChunkVotes:
        """The votes on the oldest uncollected chunk."""
        while self._collected not in self._results:
            busy = {worker.connection: worker for worker in self._workers if worker.chunk is not None}
            for ready in wait(list(busy), timeout=1):
                worker = busy[ready]  # type: ignore[index]
                chunk = worker.chunk
                assert chunk is not None
                columns = self._receive(worker)
                worker.chunk = None
                self._results[chunk] = columns
                progress.advance(self._chunks[chunk].height * len(columns))
            self._supply()
            self._report_slow()
        ids = self._chunks.pop(self._collected)[ITEM_ID]
        columns = self._results.pop(self._collected)
        self._collected += 1
        return ChunkVotes(ids=ids, columns=columns)

    def _report_slow(self) -> None:
        """Warn about LFs that have been at the same item for long."""
        for worker in self._workers:
            lf, row = _read_position(worker.position)
            if worker.chunk is not None and worker.patience.is_lost((worker.chunk, lf, row)):
                item = name_item(self._chunks[worker.chunk][ITEM_ID], row)
                print(
                    describe_wait(self._job.lfs[lf - 1].name, self._job.asking.source, item),
                    file=sys.stderr,
                    flush=True,
                )

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
                # A worker is single-threaded: all that Polars does there is to unpack items.
                env=os.environ | {"PYTHONPATH": package, "POLARS_MAX_THREADS": "1"},
            )
        setup = _Setup(
            path=sys.path,
            root=job.asking.root.resolve(),
            source=job.asking.source,
            lfs=[lf.name for lf in job.lfs],
            classes=job.asking.classes,
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
        """The error that says why a worker ended, from its exit status and the LF and item it was at."""
        code = worker.process.wait()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        lf, row = _read_position(worker.position)
        is_voting = worker.chunk is not None and lf > 0
        item = name_item(self._chunks[worker.chunk][ITEM_ID], row) if worker.chunk is not None else ""
        subject = f"labeling function '{self._job.lfs[lf - 1].name}' ({self._job.asking.source})"
        if code == -signal.SIGKILL:
            where = f" while {subject} was at {item}" if is_voting else ""
            return StageError(
                f"apply: a worker was ended by {how}, perhaps for want of memory{where}. Run 'dvc repro' again."
            )
        if not is_voting:
            return StageError(f"apply: a worker ended with {how} before it voted on an item.")
        return LabelingFunctionError(
            f"{subject} ended the Python interpreter ({how}) on {item}. No policy can turn that into an abstain: correct "
            "the LF, or what it calls."
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
    """A worker's position: the number of the LF (from 1; 0: none yet) and the row."""
    return int.from_bytes(position[:8], sys.byteorder), int.from_bytes(position[8:16], sys.byteorder)


# In a worker's process.


def serve() -> None:
    """Vote on chunks from the connection that the command line names, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the stage ends its workers
    threading.Thread(target=_end_with, args=(sys.stdin.buffer,), daemon=True).start()
    connection = Connection(int(sys.argv[1]))
    position = Position(words=memoryview(mmap.mmap(int(sys.argv[2]), mmap.PAGESIZE)).cast("q"))
    try:
        setup: _Setup = pickle.loads(connection.recv_bytes())  # noqa: S301, from the stage that started this process
        sys.path[:] = setup.path
        sys.argv[:] = [""]
        allow_exit()
        with project_lfs(setup.root):
            module = load_module(setup.root, setup.source)
            by_name = {lf.name: lf for lf in module.lfs if isinstance(lf, RowwiseLF)}
            lfs = [by_name[name] for name in setup.lfs]
            while True:
                items = pl.read_ipc(connection.recv_bytes())
                rows = read_items(items)
                columns = {}
                for number, lf in enumerate(lfs, start=1):
                    position.begin(number)
                    columns[lf.name] = apply_rowwise(setup.root, lf, rows, setup.classes, position)
                position.begin(0)
                connection.send(columns)
    except (EOFError, OSError):
        return
    except EpoxyError as error:
        connection.send(error)


def _end_with(stage: IO[bytes]) -> None:
    """End this process, whatever it is doing, as soon as the stage closes its end of `stage`."""
    stage.read()
    os._exit(1)
