"""Votes from the workers of a Dask cluster, which receive the folder lfs/ and shards of items.

Workers give the same votes and failures as this machine.
"""

import faulthandler
import os
import platform
import stat
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from tasks.cache.store import identify
from tasks.compute import engine
from tasks.compute.engine import Cluster, ShardLostError
from tasks.core.types import ITEM_ID
from tasks.errors import LabelingFunctionError, StageError
from tasks.hash_seed import HASH_SEED, are_hashes_fixed
from tasks.lf.asking import Asking
from tasks.lf.clocks import uses_hash
from tasks.lf.functions import LabelingFunction, RowwiseLF, VectorizedLF
from tasks.lf.loading import load_lfs
from tasks.lf.monitor import Monitor
from tasks.lf.voting import ColumnVotes
from tasks.lf.workers import ChunkVotes
from tasks.progress import Progress

ROWS = 2048
"""Items per shard for row-wise LFs."""


@dataclass(frozen=True, kw_only=True)
class Module:
    """The LF module `source` together with all files of lfs/, so that workers need no copy of the project."""

    source: str
    files: dict[str, bytes]
    """Content by path relative to the project's folder."""
    classes: Sequence[str]
    digest: str


@dataclass(frozen=True, kw_only=True)
class VoteShard:
    """Names of LFs, and the items to ask them about."""

    lfs: Sequence[str]
    items: pl.DataFrame


def read_module(root: Path, source: str, classes: Sequence[str]) -> Module:
    """The module `source` with the files of lfs/ in the project at `root`."""
    paths = sorted(path for path in (root / "lfs").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    digest = identify({name: content.hex() for name, content in files.items()})
    return Module(source=source, files=files, classes=classes, digest=digest)


def vote_on_cluster(
    cluster: Cluster,
    module: Module,
    lfs: Sequence[LabelingFunction],
    batches: Iterable[pl.DataFrame],
    progress: Progress,
) -> Iterator[ChunkVotes]:
    """The votes of `lfs` (all row-wise, or all vectorized) on the items of `batches`, in their order.

    Vectorized LFs see each batch as it is; row-wise ones get at most `ROWS` items at a time.

    Raises
    ------
    LabelingFunctionError
        An LF ended the interpreter of every worker that asked it.
    StageError
        The cluster is lost.
    """
    if lfs and isinstance(lfs[0], RowwiseLF):
        batches = (part for batch in batches for part in batch.iter_slices(ROWS))
    shards = (VoteShard(lfs=[lf.name for lf in lfs], items=batch) for batch in batches)
    vote = partial(vote_shard, module)
    for shard, columns in cluster.spread(
        vote, shards, name=_describe, rescue=partial(_ask_one_by_one, cluster, module)
    ):
        progress.advance(shard.items.height * len(columns))
        yield ChunkVotes(ids=shard.items[ITEM_ID], columns=columns)


def vote_shard(module: Module, shard: VoteShard) -> dict[str, ColumnVotes]:
    """The votes of the LFs of `shard`; runs on a worker."""
    loaded = _load(module)
    by_name = {lf.name: lf for lf in loaded.lfs}
    lfs = [by_name[name] for name in shard.lfs]
    require_fixed_hashes(lfs, module.source)
    vectorized = [lf for lf in lfs if isinstance(lf, VectorizedLF)]
    rowwise = [lf for lf in lfs if isinstance(lf, RowwiseLF)]
    with Monitor(module.source, shard.lfs) as monitor:
        asking = Asking(root=Path(loaded.folder.name), source=module.source, classes=module.classes, monitor=monitor)
        votes = asking.ask_vectorized(vectorized, shard.items) if vectorized else {}
        return votes | (asking.ask_all_rowwise(rowwise, shard.items) if rowwise else {})


def require_fixed_hashes(lfs: Sequence[LabelingFunction], source: str) -> None:
    """Check that this worker hashes texts as the stages do, or that no LF asks it to.

    Raises
    ------
    LabelingFunctionError
        An LF calls hash(), and the worker was started with another seed.
    """
    if not are_hashes_fixed() and (named := [lf.name for lf in lfs if uses_hash(lf)]):
        raise LabelingFunctionError(
            f"labeling function '{named[0]}' ({source}) calls hash(), which differs on a worker on {platform.node()}: it was started "
            f"without PYTHONHASHSEED={HASH_SEED}, which Dask's nannies set. Start it with that, or use hashlib."
        )


def _ask_one_by_one(cluster: Cluster, module: Module, shard: VoteShard) -> dict[str, ColumnVotes]:
    """The same as `vote_shard`, LF by LF, so that an error can name an LF that ends workers."""
    columns: dict[str, ColumnVotes] = {}
    for lf in shard.lfs:
        alone = replace(shard, lfs=[lf])
        try:
            for _, found in cluster.spread(partial(vote_shard, module), [alone], name=_describe):
                columns |= found
        except ShardLostError:
            raise LabelingFunctionError(
                f"labeling function '{lf}' ({module.source}) ended the Python interpreter of every worker that asked "
                f"it about {_name_items(shard)}. No policy can turn that into an abstain: correct the LF, or what it "
                "calls; it may also want more memory than a worker has."
            ) from None
    return columns


def _describe(shard: VoteShard) -> str:
    """The shard's name in errors and progress."""
    return f"labeling functions {', '.join(shard.lfs)} on {_name_items(shard)}"


def _name_items(shard: VoteShard) -> str:
    """The shard's items as text: their number, first id and last id."""
    ids = shard.items[ITEM_ID]
    return f"the {len(ids):,} items from {ITEM_ID} {ids[0]!r} to {ids[-1]!r}"


def require_closed(scratch: Path) -> None:
    """Check that no other user can change files in a worker's folder `scratch`, whose code the worker will run.

    Dask uses an existing folder in /tmp no matter who owns it.
    """
    for folder in (scratch, scratch.parent):
        found = folder.stat()
        is_open = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
        if is_open or found.st_uid not in (os.getuid(), 0):
            raise StageError(
                f"a worker on {platform.node()} works in {folder}, where other users could change the labeling "
                "functions that it runs. Start it with '--local-directory' and a folder of its user."
            )


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """The LFs of a module, and the temporary folder of its files, which must exist as long as they are used."""

    digest: str
    folder: TemporaryDirectory[str]
    lfs: list[LabelingFunction]


_loading = threading.Lock()
_loaded: _Loaded | None = None


def _load(module: Module) -> _Loaded:
    """The LFs of `module`, loaded at the first call; a worker keeps a single version of lfs/ at a time."""
    global _loaded
    with _loading:
        if _loaded is None or _loaded.digest != module.digest:
            if engine.scratch is not None:
                require_closed(engine.scratch)
            folder = TemporaryDirectory(dir=engine.scratch)
            for name, content in module.files.items():
                path = Path(folder.name, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            faulthandler.enable()  # if an LF crashes the interpreter, the worker's log has its traceback
            lfs = load_lfs(Path(folder.name), module.source)
            # Imports from lfs/ while an LF votes must come from the same version.
            for name in [name for name in sys.modules if name.partition(".")[0] == "lfs"]:
                del sys.modules[name]
            if _loaded is not None:
                sys.path.remove(_loaded.folder.name)
            sys.path.insert(0, folder.name)
            _loaded = _Loaded(digest=module.digest, folder=folder, lfs=lfs)
        return _loaded
