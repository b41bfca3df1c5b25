"""Work on an existing cluster whose address the environment gives: shards go out, results come back in order.

The address is in the environment, since where work is done changes no result and must not change a cache key. Shards
and results travel through the cluster, or by way of an object store; workers share no folder with the stage, only its code
and packages, which is checked.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tasks.compute import dask_cluster, ray_cluster
from tasks.compute.engine import Cluster
from tasks.compute.object_store import carry_by_store
from tasks.errors import StageError

ENGINES: dict[str, Callable[[str], AbstractContextManager[Cluster]]] = {
    dask_cluster.ENVIRONMENT: dask_cluster.connect,
    ray_cluster.ENVIRONMENT: ray_cluster.connect,
}
"""What connects, by the variable that holds the address."""


@contextmanager
def open_cluster() -> Iterator[Cluster | None]:
    """The cluster that the environment names, connected; None where it names none.

    Raises
    ------
    StageError
        Two variables name a cluster, the engine is not installed, the cluster does not answer in time, or its code or
        packages are not those of the stage; or the object store that the environment names cannot be used.
    """
    addresses = {name: address for name in ENGINES if (address := os.environ.get(name, "").strip())}
    if len(addresses) > 1:
        given = " and ".join(f"{name}={address}" for name, address in addresses.items())
        raise StageError(f"{given} are set, but a stage works on one cluster. Unset one of them.")
    for name, address in addresses.items():
        with ENGINES[name](address) as cluster, carry_by_store(cluster) as carrying:
            yield carrying
        return
    yield None
