"""Work on an existing Dask cluster.

Dask pickles what travels, so that scheduler and workers must trust each other: use a private network, or TLS (an address
tls://..., with certificates in Dask's configuration).
"""

import contextlib
import functools
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from tasks.compute import engine
from tasks.compute.engine import Result, Shard, Workers, describe_environment
from tasks.errors import StageError

ENVIRONMENT = "EPOXY_DASK"
"""The scheduler's address, such as tcp://host:8786; unset or empty: work stays on this machine."""

_LIVES = 5
"""How often in a row the cluster may lose what it was sent, without finishing a shard, before the run gives up."""


class DaskCluster(Workers):
    """The workers of a connected cluster."""

    kind, environment = "Dask cluster", ENVIRONMENT

    def __init__(self, client: Any, address: str) -> None:
        super().__init__(address)
        self._client = client

    def spread(
        self,
        function: Callable[..., Result],
        shards: Iterable[Shard],
        *,
        name: Callable[[Shard], str],
        shared: Sequence[object] = (),
        rescue: Callable[[Shard], Result] | None = None,
    ) -> Iterator[tuple[Shard, Result]]:
        """As `Cluster.spread`. A shard kills as many workers as Dask's setting distributed.scheduler.allowed-failures says,
        3 by default, and one more; while it is with `rescue`, no other is in flight.
        """
        from distributed import CancelledError, KilledWorker

        source, held, losses = iter(shards), self._share(shared), 0
        waiting: deque[tuple[Shard, Any]] = deque()
        while True:
            most = engine.AHEAD * self.find_threads(name(waiting[0][0]) if waiting else "nothing yet")
            room = max(0, most - len(waiting))
            waiting.extend((shard, self._submit(function, held, shard)) for shard in islice(source, room))
            if not waiting:
                return
            shard, future = waiting[0]
            try:
                self.wait(functools.partial(_is_done, future), name(shard))
                result: Result = future.result()
            except KilledWorker:
                if rescue is None:
                    raise self.lose_shard(name(shard)) from None
                # Dask blames everything that a worker had when it died. Alone, a shard can only blame itself.
                for _, other in waiting:
                    other.cancel()
                result = rescue(shard)
                waiting = deque((each, self._submit(function, held, each)) for each, _ in waiting)
            except CancelledError:
                # Nobody has `shared` any more: the workers that had it died. What is done stays done.
                losses += 1
                if losses > _LIVES or self._client.status != "running":
                    raise self.lose(f"lost its work again and again. Under way was {name(shard)}") from None
                held = self._share(shared)
                waiting = deque((each, self._submit(function, held, each)) for each, _ in waiting)
                continue
            losses = 0
            waiting.popleft()
            yield shard, result

    def _share(self, shared: Sequence[object]) -> Any:
        """What stands for `shared` in a task."""
        if not shared:
            return ()
        while True:
            self.find_threads("to send what all shards need")
            with contextlib.suppress(TimeoutError):  # the last worker went meanwhile
                # A list of a single object: Dask would unpack a bare tuple. hash=False: never taken for a lost copy.
                return self._ask(lambda: self._client.scatter([tuple(shared)], broadcast=True, hash=False)[0])

    def _submit(self, function: Callable[..., Any], held: Any, shard: object) -> Any:
        digest = engine.describe_environment().digest
        named = function.func if isinstance(function, functools.partial) else function
        key = f"{named.__name__}-{uuid4().hex}"  # Dask's dashboard groups by what is before the hyphen
        return self._ask(lambda: self._client.submit(_perform, digest, function, held, shard, key=key, pure=False))

    def _ask(self, call: Callable[[], Any]) -> Any:
        """What `call`, a question to the scheduler, gives."""
        try:
            return call()
        except TimeoutError:
            raise
        except (OSError, RuntimeError) as error:
            raise self.lose(f"does not answer: {error}") from None

    def count_threads(self) -> int:
        """The number of threads of all workers."""
        if self._client.status != "running":
            raise self.lose("closed the connection")
        threads: dict[str, int] = self._ask(self._client.nthreads)
        return sum(threads.values())


def _is_done(future: Any) -> bool:
    """Whether `future` is done within a second."""
    if not future.done():
        with contextlib.suppress(TimeoutError):
            future.exception(timeout=1)  # gives it; what is raised is of the waiting
    return bool(future.done())


@contextmanager
def connect(address: str) -> Iterator[DaskCluster]:
    """The cluster of the scheduler at `address`.

    Raises
    ------
    StageError
        Dask is not installed, the cluster does not answer in time, or its code or packages are not those of the stage.
    """
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise DaskCluster.miss("Dask", address) from None
    # Shards hold their data, and are meant to.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}):
        client = _connect(Client, address)
        with client:
            try:
                client.wait_for_workers(1, timeout=engine.CONNECT_SECONDS)
            except TimeoutError:
                raise StageError(
                    f"the Dask scheduler at {address} ({ENVIRONMENT}) has no worker. Start some, in this project's "
                    f"environment: 'dask worker {address} --nthreads 1 --nworkers auto'."
                ) from None
            found = client.run(describe_environment, on_error="return")
            try:
                found["the scheduler"] = client.run_on_scheduler(describe_environment)
            except Exception as error:  # whatever unpickling meets there
                found["the scheduler"] = error
            engine.require_same_environment(found, f"Dask cluster at {address}")
            threads = client.nthreads()
            print(f"on {len(threads)} workers, {sum(threads.values())} threads, at {address}", file=sys.stderr)
            yield DaskCluster(client, address)


def _connect(kind: Any, address: str) -> Any:
    """Return a client of the class `kind`, connected in a separate thread: Dask waits for ever for a port that accepts and is mute.

    A client that failed is closed here. Left to the garbage collector, which may come by while some other client or
    cluster starts, it would ask for the lock that this start holds, and all in this process would wait for ever.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    is_given_up = threading.Event()

    def answer() -> None:
        client = kind.__new__(kind)  # to have it in hand where __init__ raises
        try:
            client.__init__(address, timeout=engine.CONNECT_SECONDS, set_as_default=False)
        except (
            Exception
        ) as error:  # whatever a strange answer leads to, such as a message that claims to be an exabyte long
            with contextlib.suppress(Exception):  # half-built, it may lack what closing needs
                client.close()
            answers.put(error)
        else:
            if is_given_up.is_set():
                client.close()
            answers.put(client)

    threading.Thread(target=answer, daemon=True).start()
    try:
        found = answers.get(timeout=engine.CONNECT_SECONDS + 1)
    except queue.Empty:
        is_given_up.set()
        found = TimeoutError("what listens there does not answer")
    if isinstance(found, Exception):
        reason = next(iter(str(found).strip().splitlines()), type(found).__name__)
        raise StageError(
            f"no Dask scheduler answers at {address} ({ENVIRONMENT}): {reason}. Start one ('dask scheduler'), correct the "
            f"address, or unset {ENVIRONMENT} to work on this machine."
        )
    return found


def _perform(digest: str, function: Callable[..., Result], shared: Sequence[object], shard: object) -> Result:
    """`engine.perform` in a worker, in whose folder files may lie: Dask removes it even if the worker was killed."""
    from distributed import get_worker

    engine.scratch = Path(get_worker().local_directory)
    return engine.perform(digest, function, shared, shard)
