"""Shards by way of an object store: the stage writes what they need, workers read it and write what they found.

A request travels through the cluster as before, and in it, instead of each large part (an array, a table), the name
of an object. Objects that go out are named by their SHA-256, so that nothing is written twice: not what all shards or
two passes share, and not what a stage that was ended, or another run, has left. Whoever reads checks the digest, which came
with the request, before anything is unpickled: writing to the bucket is not enough to make a worker or a stage run code.

An object that is not there, or is damaged, is written again and its shard done again. So a stage may remove what others
might still use: at its end, its results, and whatever is older than `KEEP`.
"""

import contextlib
import datetime
import hashlib
import importlib
import os
import pickle
import platform
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tasks.compute.engine import Cluster, Result, Shard
from tasks.errors import StageError
from tasks.progress import WARNING

ENVIRONMENT = "EPOXY_SHARDS"
"""The folder of an object store, such as s3://bucket/prefix or file:///shared/folder, through which large parts of shards
and results go to the workers of a cluster and back. Credentials are those that fsspec finds. Unset or empty: all goes
through the cluster. Without a cluster it changes nothing."""

FOLDER = "epoxy-shards"
"""What holds the objects, below the address; nothing beside it is touched."""

LARGE = 2**18
"""Bytes from which on a part becomes an object: fewer travel faster than a store answers."""

KEEP = datetime.timedelta(days=1)
"""After so long an object is removed by any stage that ends."""

_ATTEMPTS = 3
"""How often a shard is done again because an object was not there."""

_OURS = re.compile(r"([0-9a-f]{32}-)?[0-9a-f]{64}(\.[0-9a-f]{32})?")
"""The name of an object: perhaps the run whose result it is; a digest; perhaps what marks it as half-written."""


class AbsentError(Exception):
    """An object is not in the store, or is not what was written."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A pickle whose large parts are objects in the store."""

    head: bytes | str
    """The pickle without its large arrays; the name of an object, where that is still large."""
    buffers: tuple[str, ...]
    """Names of objects, an array each."""


class Store:
    """The objects below `url`, parts of `large` bytes and more.

    Raises
    ------
    StageError
        The address is none that fsspec knows, a package for it is missing, or a local folder is not there.
    """

    def __init__(self, url: str, large: int) -> None:
        self._large = large
        self.name = re.sub(r"://[^/@]*@", "://", url)  # without a password
        with self._explain("use"):
            self._files, path = importlib.import_module("fsspec.core").url_to_fs(url)
            self._folder = f"{path.rstrip('/')}/{FOLDER}"
            self._is_local = type(self._files).__name__ == "LocalFileSystem"
            if self._is_local:
                if not self._files.isdir(path):
                    raise FileNotFoundError(f"there is no folder {path}")
                self._files.makedirs(self._folder, exist_ok=True)

    def pack(self, value: object, run: str = "", *, is_sure: bool = True) -> Packed:
        """`value` once its large parts are in the store, under names that begin with `run`; those that are there already are
        not written, unless nobody `is_sure` of them.
        """

        def put(content: bytes) -> str:
            name = run + hashlib.sha256(content).hexdigest()
            if not (is_sure and self._holds(name, len(content))):
                self._write(name, content)
            return name

        def divert(buffer: pickle.PickleBuffer) -> bool:
            if is_large := buffer.raw().nbytes >= self._large:
                buffers.append(put(buffer.raw().tobytes()))
            return not is_large  # what is small stays in the pickle

        buffers: list[str] = []
        head = pickle.dumps(value, protocol=5, buffer_callback=divert)
        return Packed(head=put(head) if len(head) >= self._large else head, buffers=tuple(buffers))

    def unpack(self, packed: Packed) -> Any:
        """What was packed; arrays among it cannot be written.

        Raises
        ------
        AbsentError
            A part is not there, or damaged.
        """
        head = packed.head if isinstance(packed.head, bytes) else self._read(packed.head)
        return pickle.loads(head, buffers=map(self._read, packed.buffers))  # noqa: S301 - checked by a digest from the cluster

    def clean(self, run: str) -> None:
        """Remove what `run` has written as results, and all that is older than `KEEP`; where that fails, say so."""
        old = datetime.datetime.now(datetime.UTC) - KEEP
        try:
            paths = self._files.ls(self._folder, detail=False, refresh=True)
            ours = [path for path in paths if _OURS.fullmatch(path.rpartition("/")[2])]
            gone = [path for path in ours if f"/{run}" in path or self._files.modified(path) <= old]
            for path in gone[:1]:
                self._files.rm_file(path)  # alone: s3fs says nothing of those among many that it may not remove
            if gone[1:]:
                self._files.rm(gone[1:])
        except FileNotFoundError:
            pass  # nothing was written, or another stage was quicker
        except Exception as error:  # of whatever library the store needs
            print(
                f"{WARNING}objects below {self.name}/{FOLDER} cannot be removed: {_describe(error)}. They hold items and results; "
                "let a rule of the bucket remove what is older than a day.",
                file=sys.stderr,
            )

    def _holds(self, name: str, size: int) -> bool:
        with contextlib.suppress(Exception):  # without permission to list, a store refuses to say that there is nothing
            return bool(self._files.info(f"{self._folder}/{name}")["size"] == size)
        return False

    def _write(self, name: str, content: bytes) -> None:
        path = f"{self._folder}/{name}"
        with self._explain("write to"):
            if self._is_local:  # where, unlike in object stores, others see the half of it
                half = f"{path}.{uuid4().hex}"
                self._files.pipe_file(half, content)
                self._files.mv(half, path)
            else:
                self._files.pipe_file(path, content)

    def _read(self, name: str) -> bytes:
        path = f"{self._folder}/{name}"
        with self._explain("read"):
            try:
                content = bytes(self._files.cat_file(path))
            except FileNotFoundError:
                raise AbsentError(f"{platform.node()} finds no object {name} below {self.name}/{FOLDER}") from None
        if (found := hashlib.sha256(content).hexdigest()) != name[-len(found) :]:
            raise AbsentError(
                f"the object {name} below {self.name}/{FOLDER} is damaged: {platform.node()} read {len(content):,} bytes with the "
                f"SHA-256 {found}"
            )
        return content

    @contextlib.contextmanager
    def _explain(self, verb: str) -> Iterator[None]:
        try:
            yield
        except AbsentError:
            raise
        except Exception as error:  # of whatever library the store needs
            raise StageError(
                f"{platform.node()} cannot {verb} {self.name} ({ENVIRONMENT}): {_describe(error)}. The stage and every worker need "
                "this folder, its credentials in their environment, and its package: pip install 'dvc[s3]' for s3://, as for "
                f"a remote of DVC. Or unset {ENVIRONMENT}, and all goes through the cluster."
            ) from None


class StoringCluster:
    """The workers of `cluster`, with large parts by way of the store at `url`."""

    def __init__(self, cluster: Cluster, url: str) -> None:
        self._cluster, self._url, self._store, self._run = cluster, url, Store(url, LARGE), f"{uuid4().hex}-"

    def spread(
        self,
        function: Callable[..., Result],
        shards: Iterable[Shard],
        *,
        name: Callable[[Shard], str],
        shared: Sequence[object] = (),
        rescue: Callable[[Shard], Result] | None = None,
    ) -> Iterator[tuple[Shard, Result]]:
        """As `Cluster.spread`."""

        def ask(shards: Iterable[Shard], *, is_sure: bool) -> Iterator[tuple["_Sent", Any]]:
            common = self._store.pack((function, tuple(shared)), is_sure=is_sure)
            task = _Task(url=self._url, large=LARGE, run=self._run, common=common)
            packed = (_Sent(shard, self._store.pack(shard, is_sure=is_sure)) for shard in shards)
            saved = None if rescue is None else (lambda sent: rescue(sent.shard))
            yield from self._cluster.spread(
                perform_stored, packed, name=lambda sent: name(sent.shard), shared=[task], rescue=saved
            )

        for sent, answer in ask(shards, is_sure=True):
            for attempt in range(_ATTEMPTS + 1):
                try:
                    result = self._unpack(answer)
                    break
                except AbsentError as error:
                    if attempt == _ATTEMPTS:
                        raise StageError(
                            f"{name(sent.shard)}: {error}, each of {attempt + 1} times that it was written. All machines need the "
                            f"same folder, in which nothing else removes or changes objects. Look after {ENVIRONMENT}, or unset it."
                        ) from None
                ((_, answer),) = ask([sent.shard], is_sure=False)
            yield sent.shard, result

    def _unpack(self, answer: Any) -> Any:
        """The result that `answer` stands for."""
        if isinstance(answer, AbsentError):
            raise answer
        return self._store.unpack(answer) if isinstance(answer, Packed) else answer  # what `rescue` gave

    def close(self) -> None:
        """Remove what nobody needs any more."""
        self._store.clean(self._run)


@contextlib.contextmanager
def carry_by_store(cluster: Cluster) -> Iterator[Cluster]:
    """`cluster`, with large parts by way of the store that the environment names, if it names any."""
    url = os.environ.get(ENVIRONMENT, "").strip()
    if not url:
        yield cluster
        return
    with contextlib.closing(StoringCluster(cluster, url)) as storing:
        yield storing


class _Sent:
    """A shard, of which `packed` alone travels."""

    def __init__(self, shard: Any, packed: Packed) -> None:
        self.shard, self.packed = shard, packed

    def __reduce__(self) -> tuple[Any, ...]:
        return _Sent, (None, self.packed)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What workers have to know of all shards."""

    url: str
    large: int
    run: str
    """What names of results begin with."""
    common: Packed
    """The function and what shards share."""


def perform_stored(task: _Task, sent: _Sent) -> Packed | AbsentError:
    """What the function of `task` gives for the shard that was `sent`, or that an object is not there; runs on a worker."""
    store = Store(task.url, task.large)
    try:
        function, shared = _load_common(store, task.common)
        shard = store.unpack(sent.packed)
    except AbsentError as error:
        return error
    return store.pack(function(*shared, shard), task.run, is_sure=False)


def _load_common(store: Store, common: Packed) -> Any:
    global _common
    with _loading:
        if _common is None or _common[0] != common:
            _common = None  # room for the next
            _common = common, store.unpack(common)
        return _common[1]


_loading = threading.Lock()
_common: tuple[Packed, Any] | None = None
"""What this worker has loaded of what shards share: the last."""


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": .")
