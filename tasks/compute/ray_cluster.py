"""Work on an existing Ray cluster, of which this machine is a node.

As tasks, not as a dataset of `ray.data`: blocks of that would be cut and ordered by Ray, where what a stage writes depends on
neither.

Ray pickles what travels and asks nobody for a password, unless its own authentication by token is on (RAY_AUTH_MODE=token):
use a private network.
"""

import functools
import importlib
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from tasks.compute import engine
from tasks.compute.engine import Environment, Result, Shard, Workers, describe_environment, perform
from tasks.errors import StageError

ENVIRONMENT = "EPOXY_RAY"
"""The head node's address, such as host:6379, or auto: that of the cluster to which this machine belongs. Unset or empty:
work stays on this machine."""

RETRIES = 3
"""How often a shard is tried again after it ended a worker."""


class RayCluster(Workers):
    """The workers of a connected cluster."""

    kind, environment = "Ray cluster", ENVIRONMENT

    def __init__(self, ray: Any, address: str) -> None:
        super().__init__(address)
        self._ray = ray

    def spread(
        self,
        function: Callable[..., Result],
        shards: Iterable[Shard],
        *,
        name: Callable[[Shard], str],
        shared: Sequence[object] = (),
        rescue: Callable[[Shard], Result] | None = None,
    ) -> Iterator[tuple[Shard, Result]]:
        """As `Cluster.spread`. A shard kills `RETRIES` workers and one more."""
        ends = _import_ray("ray.exceptions")
        source, held, digest = iter(shards), self._ray.put(tuple(shared)), engine.describe_environment().digest
        submit = self._ray.remote(num_cpus=1, max_retries=RETRIES)(perform).remote
        waiting: deque[tuple[Shard, Any]] = deque()
        while True:
            most = engine.AHEAD * self.find_threads(name(waiting[0][0]) if waiting else "nothing yet")
            room = max(0, most - len(waiting))
            waiting.extend((shard, submit(digest, function, held, shard)) for shard in islice(source, room))
            if not waiting:
                return
            shard, reference = waiting.popleft()
            try:
                self.wait(functools.partial(self._is_done, reference), name(shard))
                result: Result = self._ray.get(reference)
            except ends.RayTaskError as error:
                raise error.cause from None
            except (ends.WorkerCrashedError, ends.NodeDiedError, ends.OutOfMemoryError) as error:
                if rescue is None:
                    raise self.lose_shard(name(shard), type(error).__name__) from None
                result = rescue(shard)
            yield shard, result

    def require_same_environment(self) -> None:
        """Check that all nodes have the code and packages of this process, and say how many there are."""
        strategies = _import_ray("ray.util.scheduling_strategies")
        threads = self.find_threads("nothing yet")
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        ask, found = self._ray.remote(num_cpus=1)(_describe), {}
        for node in nodes:
            where = f"node {node['NodeID'][:8]} at {node['NodeManagerAddress']}"
            strategy = strategies.NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            try:
                found[where] = self._ray.get(ask.options(scheduling_strategy=strategy).remote())
            except Exception as error:  # whatever importing meets there
                found[where] = error
        engine.require_same_environment(found, f"{self.kind} at {self.address}")
        print(f"on {len(nodes)} nodes, {threads} threads, at {self.address}", file=sys.stderr)

    def _is_done(self, reference: Any) -> bool:
        """Whether the task of `reference` is done within a second."""
        return bool(self._ray.wait([reference], timeout=1)[0])

    def count_threads(self) -> int:
        """The number of processors of all nodes."""
        return int(self._ray.cluster_resources().get("CPU", 0))


def _describe() -> Environment:
    """`describe_environment`, which is an object that Ray takes for no function."""
    return describe_environment()


@contextmanager
def connect(address: str) -> Iterator[RayCluster]:
    """The cluster whose head node is at `address`; a process joins it once, in some seconds, and leaves it at its end.

    Raises
    ------
    StageError
        Ray is not installed, the cluster does not answer in time, or its code or packages are not those of the stage.
    """
    yield _join(address)


def _import_ray(module: str) -> Any:
    """`module`, imported by name: where Ray is not installed its version is unknown, and keys of caches would name every package."""
    return importlib.import_module(module)


@functools.lru_cache(maxsize=1)
def _join(address: str) -> RayCluster:
    try:
        ray = _import_ray("ray")
    except ImportError:
        raise RayCluster.miss("Ray", address) from None
    seed = {"PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "random")}  # labeling functions may use hash()
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=engine.CONNECT_SECONDS).close()
        ray.shutdown()  # of another address
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": seed})
    # Ray ends the process where something else listens.
    except (Exception, SystemExit) as error:
        first = "what listens there is no head node" if isinstance(error, SystemExit) else str(error)
        reason = next(iter(first.strip().splitlines()), type(error).__name__)
        raise StageError(
            f"no Ray cluster answers at {address} ({ENVIRONMENT}): {reason}. Join one on this machine ('ray start "
            f"--address HOST:6379'; '--head' on the first), correct the address, or unset {ENVIRONMENT} to work on this machine."
        ) from None
    cluster = RayCluster(ray, address)
    cluster.require_same_environment()
    return cluster
