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
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from tasks.compute import engine
from tasks.compute.engine import Environment, Result, Shard, ShardLostError, describe_environment, perform
from tasks.errors import StageError

ENVIRONMENT = "EPOXY_RAY"
"""The head node's address, such as host:6379, or auto: that of the cluster to which this machine belongs. Unset or empty:
work stays on this machine."""

RETRIES = 3
"""How often a shard is tried again after it ended a worker."""


class RayCluster:
    """The workers of a connected cluster."""

    def __init__(self, ray: Any, address: str) -> None:
        self._ray, self._address = ray, address

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
            most = engine.AHEAD * self._find_processors(name(waiting[0][0]) if waiting else "nothing yet")
            room = max(0, most - len(waiting))
            waiting.extend((shard, submit(digest, function, held, shard)) for shard in islice(source, room))
            if not waiting:
                return
            shard, reference = waiting.popleft()
            try:
                self._wait(reference, name(shard))
                result: Result = self._ray.get(reference)
            except ends.RayTaskError as error:
                raise error.cause from None
            except (ends.WorkerCrashedError, ends.NodeDiedError, ends.OutOfMemoryError) as error:
                if rescue is None:
                    raise ShardLostError(
                        f"{name(shard)}: every worker of the Ray cluster at {self._address} that tried it died "
                        f"({type(error).__name__}). Perhaps it wants more memory than a worker has; the workers' logs tell."
                    ) from None
                result = rescue(shard)
            yield shard, result

    def require_same_environment(self) -> None:
        """Check that all nodes have the code and packages of this process, and say how many there are."""
        strategies = _import_ray("ray.util.scheduling_strategies")
        processors = self._find_processors("nothing yet")
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        ask, found = self._ray.remote(num_cpus=1)(_describe), {}
        for node in nodes:
            where = f"node {node['NodeID'][:8]} at {node['NodeManagerAddress']}"
            strategy = strategies.NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            try:
                found[where] = self._ray.get(ask.options(scheduling_strategy=strategy).remote())
            except Exception as error:  # whatever importing meets there
                found[where] = error
        engine.require_same_environment(found, f"Ray cluster at {self._address}")
        print(f"on {len(nodes)} nodes, {processors} threads, at {self._address}", file=sys.stderr)

    def _wait(self, reference: Any, doing: str) -> None:
        """Wait for the end of the task of `reference`, as long as there are nodes; say once when that takes long."""
        began, is_told = time.monotonic(), False
        while not self._ray.wait([reference], timeout=1)[0]:
            if not is_told and time.monotonic() - began > engine.SLOW_SECONDS:
                is_told = True
                engine.tell_slow(doing, "Ray cluster")
            self._find_processors(doing)

    def _find_processors(self, doing: str) -> int:
        """The number of processors of all nodes; where there are none, waits for some, which have `doing` to do."""
        began = time.monotonic()
        while True:
            if processors := int(self._ray.cluster_resources().get("CPU", 0)):
                return processors
            if time.monotonic() - began > engine.PATIENCE_SECONDS:
                raise StageError(
                    f"the Ray cluster at {self._address} has had no processor for {engine.PATIENCE_SECONDS} s. Under way was "
                    f"{doing}. Look after it, then run 'dvc repro' again; or unset {ENVIRONMENT} to work on this machine."
                )
            time.sleep(0.2)


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
        raise StageError(
            f"{ENVIRONMENT} is {address}, but Ray is not installed. Install it: pip install 'epoxy-flow[ray]'; or unset "
            f"{ENVIRONMENT} to work on this machine."
        ) from None
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
