"""Work on an existing Dask cluster whose address the environment gives: shards go out, results come back in order.

The address is in the environment, since where work is done changes no result and must not change a cache key. Shards
and results travel through Dask; workers share no folder with the stage, only its code and packages, which is checked.

Dask pickles what travels, so that scheduler and workers must trust each other: use a private network, or TLS (an address
tls://..., with certificates in Dask's configuration).
"""

import contextlib
import functools
import os
import platform
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from tasks.cache.store import identify, identify_file
from tasks.errors import StageError
from tasks.progress import WARNING

ENVIRONMENT = "EPOXY_DASK"
"""The scheduler's address, such as tcp://host:8786; unset or empty: work stays on this machine."""

CONNECT_SECONDS = 10
"""How long scheduler and first worker may take to answer before a run gives up."""

PATIENCE_SECONDS = 60
"""How long a run waits once all workers are gone: a nanny restarts a worker within seconds, a job scheduler takes longer."""

SLOW_SECONDS = 60
"""After so long the shard that all others wait for is named: most take seconds, and a shard that hangs says nothing."""

_LIVES = 5
"""How often in a row the cluster may lose what it was sent, without finishing a shard, before the run gives up."""

_AHEAD = 3
"""Shards in flight per thread: a shard in work, the next in the queue, and a finished shard that waits to be collected."""

_SHOWN = 3
"""How many differences an error names."""

Shard = TypeVar("Shard")
Result = TypeVar("Result")


class ShardLostError(StageError):
    """A shard killed every worker that tried it."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What decides whether a worker computes what the stage would."""

    parts: Mapping[str, str]
    """Version of Python and of each package, and SHA-256 of each file below tasks/, by a name that a person knows."""
    digest: str


@functools.cache
def describe_environment() -> Environment:
    """The environment of this process, as it was when first asked: code once loaded does not follow later edits."""
    folder = Path(__file__).resolve().parents[1]
    parts = {"Python": platform.python_version()}
    # A package's folder of metadata is named by package and version; of several, the first on the path is imported.
    for entry in reversed(sys.path):
        for found in Path(entry).glob("*.dist-info"):
            name, _, version = found.stem.partition("-")
            parts[name.lower()] = version
    for path in folder.rglob("*.py"):
        parts[f"tasks/{path.relative_to(folder).as_posix()}"] = identify_file(path)
    return Environment(parts=parts, digest=identify(parts))


class Cluster:
    """The workers of a connected cluster."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address

    def spread(
        self,
        function: Callable[..., Result],
        shards: Iterable[Shard],
        *,
        name: Callable[[Shard], str],
        shared: Sequence[object] = (),
        rescue: Callable[[Shard], Result] | None = None,
    ) -> Iterator[tuple[Shard, Result]]:
        """Each of `shards` with what `function(*shared, shard)` gives on some worker, in the order of `shards`.

        `function` is defined at the top of a module and depends on its arguments alone. `shared` is sent to each worker
        once. Shards are taken as workers become free, so that only a few per worker are in memory here. If a worker
        dies, others do its shards; a shard that kills every worker goes to `rescue`, while no other shard is in flight.

        Raises
        ------
        ShardLostError
            A shard, which has a `name`, killed every worker that tried it (one more than Dask's setting
            distributed.scheduler.allowed-failures, 3 by default), and there is no `rescue`.
        StageError
            No worker is left, or the connection is lost.
        Exception
            Whatever `function` raises.
        """
        from distributed import CancelledError, KilledWorker

        source, held, losses = iter(shards), self._share(shared), 0
        waiting: deque[tuple[Shard, Any]] = deque()
        while True:
            most = _AHEAD * self._find_workers(name(waiting[0][0]) if waiting else "nothing yet")
            while len(waiting) < most:
                try:
                    shard = next(source)
                except StopIteration:
                    break
                waiting.append((shard, self._submit(function, held, shard)))
            if not waiting:
                return
            shard, future = waiting[0]
            try:
                self._wait(future, name(shard))
                result: Result = future.result()
            except KilledWorker:
                if rescue is None:
                    raise ShardLostError(
                        f"{name(shard)}: every worker of the Dask cluster at {self._address} that tried it died. Perhaps it "
                        "wants more memory than a worker has; the workers' logs tell."
                    ) from None
                # Dask blames everything that a worker had when it died. Alone, a shard can only blame itself.
                for _, other in waiting:
                    other.cancel()
                result = rescue(shard)
                waiting = deque((each, self._submit(function, held, each)) for each, _ in waiting)
            except CancelledError:
                # Nobody has `shared` any more: the workers that had it died. What is done stays done.
                losses += 1
                if losses > _LIVES or self._client.status != "running":
                    raise self._lose(f"lost its work again and again. Under way was {name(shard)}") from None
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
            self._find_workers("to send what all shards need")
            with contextlib.suppress(TimeoutError):  # the last worker went meanwhile
                # A list of a single object: Dask would unpack a bare tuple. hash=False: never taken for a lost copy.
                return self._ask(lambda: self._client.scatter([tuple(shared)], broadcast=True, hash=False)[0])

    def _submit(self, function: Callable[..., Any], held: Any, shard: object) -> Any:
        digest = describe_environment().digest
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
            raise self._lose(f"does not answer: {error}") from None

    def _wait(self, future: Any, doing: str) -> None:
        """Wait for the end of `future`, as long as there are workers; say once when that takes long."""
        began, is_told = time.monotonic(), False
        while not future.done():
            if not is_told and time.monotonic() - began > SLOW_SECONDS:
                is_told = True
                print(
                    f"{WARNING}on the Dask cluster, {doing} has taken more than {SLOW_SECONDS} s; what the worker is at "
                    "is in its log",
                    file=sys.stderr,
                    flush=True,
                )
            try:
                future.exception(timeout=1)  # gives it; what is raised is of the waiting
            except TimeoutError:
                self._find_workers(doing)

    def _find_workers(self, doing: str) -> int:
        """The number of threads of all workers; where there are none, waits for some, which have `doing` to do."""
        began = time.monotonic()
        while True:
            if self._client.status != "running":
                raise self._lose("closed the connection")
            threads: dict[str, int] = self._ask(self._client.nthreads)
            if threads:
                return sum(threads.values())
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise self._lose(f"has had no worker for {PATIENCE_SECONDS} s. Under way was {doing}")
            time.sleep(0.2)

    def _lose(self, what: str) -> StageError:
        return StageError(
            f"the Dask cluster at {self._address} {what}. Look after it, then run 'dvc repro' again; or unset "
            f"{ENVIRONMENT} to work on this machine."
        )


@contextmanager
def open_cluster() -> Iterator[Cluster | None]:
    """The cluster that the environment names, connected; None where it names none.

    Raises
    ------
    StageError
        Dask is not installed, the cluster does not answer in time, or its code or packages are not those of the stage.
    """
    address = os.environ.get(ENVIRONMENT, "").strip()
    if not address:
        yield None
        return
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise StageError(
            f"{ENVIRONMENT} is {address}, but Dask is not installed. Install it: pip install 'epoxy-flow[dask]'; or unset "
            f"{ENVIRONMENT} to work on this machine."
        ) from None
    # Shards hold their data, and are meant to.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}):
        client = _connect(Client, address)
        with client:
            try:
                client.wait_for_workers(1, timeout=CONNECT_SECONDS)
            except TimeoutError:
                raise StageError(
                    f"the Dask scheduler at {address} ({ENVIRONMENT}) has no worker. Start some, in this project's "
                    f"environment: 'dask worker {address} --nthreads 1 --nworkers auto'."
                ) from None
            _require_same_environment(client, address)
            threads = client.nthreads()
            print(f"on {len(threads)} workers, {sum(threads.values())} threads, at {address}", file=sys.stderr)
            yield Cluster(client, address)


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
            client.__init__(address, timeout=CONNECT_SECONDS, set_as_default=False)
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
        found = answers.get(timeout=CONNECT_SECONDS + 1)
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


def _require_same_environment(client: Any, address: str) -> None:
    """Check that scheduler and workers have the code and packages of this process."""
    found = client.run(describe_environment, on_error="return")
    try:
        found["the scheduler"] = client.run_on_scheduler(describe_environment)
    except Exception as error:  # whatever unpickling meets there
        found["the scheduler"] = error
    ours = describe_environment().parts
    lines = []
    for machine, theirs in sorted(found.items()):
        if isinstance(theirs, Environment):
            differences = _find_differences(ours, theirs.parts)
            shown = "; ".join(differences[:_SHOWN])
            more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
            lines += [f"{machine}: {shown}{more}."] if differences else []
        else:
            lines.append(f"{machine}: cannot import this project's code: {theirs}.")
    if lines:
        more = f"\n... and {len(lines) - _SHOWN} more of them." if len(lines) > _SHOWN else ""
        raise StageError(
            f"the Dask cluster at {address} does not run the code of this stage:\n"
            + "\n".join(lines[:_SHOWN])
            + f"{more}\nGive all of them the same checkout and the packages of requirements.lock, and restart them: a "
            "running worker keeps the code that it has loaded."
        )


def _find_differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """How `theirs` differ from `ours`, item by item; a package that is only theirs does not matter."""
    found = []
    for name, value in ours.items():
        other = theirs.get(name)
        if other != value:
            is_code = name.startswith("tasks/")
            found.append(
                f"{name} {'differs' if other else 'is missing'}"
                if is_code
                else f"{name} is {other or 'missing'}, here {value}"
            )
    found += [f"{name} is not here" for name in theirs if name.startswith("tasks/") and name not in ours]
    return found


def _perform(digest: str, function: Callable[..., Result], shared: Sequence[object], shard: object) -> Result:
    """What `function(*shared, shard)` gives; in a worker, which may have come after the others were checked."""
    if describe_environment().digest != digest:
        raise StageError(
            f"a Dask worker on {platform.node()} that joined during the run has other code or packages than the stage. "
            "Run 'dvc repro' again, and read what differs."
        )
    return function(*shared, shard)
