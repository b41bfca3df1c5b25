"""What every engine of a cluster does alike: the class that hands out shards, and the check that workers run this code."""

import functools
import platform
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from tasks.cache.store import identify, identify_file
from tasks.errors import StageError
from tasks.progress import WARNING

CONNECT_SECONDS = 10
"""How long scheduler and first worker may take to answer before a run gives up."""

PATIENCE_SECONDS = 60
"""How long a run waits once all workers are gone: a nanny restarts a worker within seconds, a job scheduler takes longer."""

SLOW_SECONDS = 60
"""After so long the shard that all others wait for is named: most take seconds, and a shard that hangs says nothing."""

AHEAD = 3
"""Shards in flight per thread: a shard in work, the next in the queue, and a finished shard that waits to be collected."""

_SHOWN = 3
"""How many differences an error names."""

Shard = TypeVar("Shard")
Result = TypeVar("Result")


scratch: Path | None = None
"""In a worker, the folder that its engine removes when the worker has ended; None: the system's for temporary files."""


class ShardLostError(StageError):
    """A shard killed every worker that tried it."""


class Cluster(Protocol):
    """The workers of a connected cluster, of whatever engine."""

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
        dies, others do its shards; a shard that kills every worker goes to `rescue`.

        Raises
        ------
        ShardLostError
            A shard, which has a `name`, killed every worker that tried it, and there is no `rescue`.
        StageError
            No worker is left, or the connection is lost.
        Exception
            Whatever `function` raises.
        """
        ...


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


def require_same_environment(found: Mapping[str, object], cluster: str) -> None:
    """Check what machines of `cluster` answered to `describe_environment`, an exception where they could not, by machine.

    Raises
    ------
    StageError
        One of them has other code or packages than this process.
    """
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
            f"the {cluster} does not run the code of this stage:\n"
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


class Workers(ABC):
    """What the clusters of all engines do alike: they wait for workers, and say what became of them."""

    kind: ClassVar[str]
    """What the cluster is called, such as "Dask cluster"."""
    environment: ClassVar[str]
    """The variable that names it."""

    def __init__(self, address: str) -> None:
        self.address = address

    @abstractmethod
    def count_threads(self) -> int:
        """The number of threads of all workers there are."""

    def find_threads(self, doing: str) -> int:
        """The number of threads of all workers; where there are none, waits for some, which have `doing` to do."""
        began = time.monotonic()
        while not (threads := self.count_threads()):
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise self.lose(f"has had no worker for {PATIENCE_SECONDS} s. Under way was {doing}")
            time.sleep(0.2)
        return threads

    def wait(self, ends: Callable[[], bool], doing: str) -> None:
        """Wait until `ends`, which looks for a second, as long as there are workers; say once when `doing` takes long."""
        began, is_told = time.monotonic(), False
        while not ends():
            if not is_told and time.monotonic() - began > SLOW_SECONDS:
                is_told = True
                print(
                    f"{WARNING}on the {self.kind}, {doing} has taken more than {SLOW_SECONDS} s; what the worker is at is in "
                    "its log",
                    file=sys.stderr,
                    flush=True,
                )
            self.find_threads(doing)

    def lose(self, what: str) -> StageError:
        """The error that the cluster does not go on, with `what` it does."""
        return StageError(
            f"the {self.kind} at {self.address} {what}. Look after it, then run 'dvc repro' again; or unset "
            f"{self.environment} to work on this machine."
        )

    def lose_shard(self, name: str, how: str = "") -> ShardLostError:
        """The error that no worker has survived the shard of this `name`, and `how` the last one ended, where that is known."""
        return ShardLostError(
            f"{name}: every worker of the {self.kind} at {self.address} that tried it died{how and f' ({how})'}. Perhaps it wants "
            "more memory than a worker has; the workers' logs tell."
        )

    @classmethod
    def miss(cls, package: str, address: str) -> StageError:
        """The error that the engine's `package` is not installed."""
        return StageError(
            f"{cls.environment} is {address}, but {package} is not installed. Install it: pip install "
            f"'epoxy-flow[{package.lower()}]'; or unset {cls.environment} to work on this machine."
        )


def perform(digest: str, function: Callable[..., Result], shared: Sequence[object], shard: object) -> Result:
    """What `function(*shared, shard)` gives; in a worker, which may have come after the others were checked."""
    if describe_environment().digest != digest:
        raise StageError(
            f"a worker on {platform.node()} that joined during the run has other code or packages than the stage. "
            "Run 'dvc repro' again, and read what differs."
        )
    return function(*shared, shard)
