"""Asking the labeling functions of a module about all items; votes that are known are not asked for.

An LF votes on a row only once: later votes on rows with the same content come from the cache (see tasks.lf.cache), and
the outputs are those of a run without a cache. Peak memory beyond the imports, for n items of b bytes and m LFs, with W
workers for row-wise LFs:

    128 MiB + 8 G (b + m) + 16 V + 34 n + 4 W c b

where G = 16,384 rows are a row group, V = 8 MiB of votes are written at a time (patterns are looked for in as many
bytes of items and votes, if that is more than a row group), and c = 2,048 rows are a worker's chunk. 128 MiB are for
compiled patterns and what allocators keep; 8 and 16 are for the copies that reading, checking and matching make, and
for the tables that are read ahead; 34 n are the keys of rows (24), the rows to ask about (8), and one LF's column on
its way to or from the cache; while rows are compared with those of an earlier run, it is 100 n more. The votes
themselves, n m bytes, wait in a temporary file. Not counted: what the LFs' code holds, a worker's interpreter (as much
as the stage's imports), and failures that an LF's policy allows. `python -m benchmarks votes` compares this with what
it measures.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.cache.store import Cache
from tasks.compute.cluster import open_cluster
from tasks.compute.engine import Cluster
from tasks.compute.read_ahead import read_ahead
from tasks.core.types import ITEM_ID
from tasks.errors import LabelingFunctionError
from tasks.lf.asking import Asking
from tasks.lf.cache import CACHE_KIND, VoteCache
from tasks.lf.checks import require_fitting_patterns, require_stable_votes
from tasks.lf.clocks import find_clocks, find_clocks_at_import
from tasks.lf.fingerprint import Fingerprints
from tasks.lf.functions import LabelingFunction, OnError, PatternLF, RowwiseLF, VectorizedLF
from tasks.lf.language_model import ModelLF, describe_answers
from tasks.lf.libraries import unchanged_libraries
from tasks.lf.loading import LFModule, list_imported
from tasks.lf.monitor import Monitor
from tasks.lf.packages import PINS, require_pinned
from tasks.lf.shards import read_module, vote_on_cluster
from tasks.lf.vote_file import BATCH_BYTES, VoteFile
from tasks.lf.voting import Failure
from tasks.lf.workers import ChunkVotes, RowwiseJob, vote_rowwise
from tasks.progress import WARNING, Progress
from tasks.tables import schemas
from tasks.tables.parquet import (
    ROW_GROUP,
    count_rows,
    read_batches,
    read_schema,
)
from tasks.tables.paths import (
    ITEMS,
    VOTES,
)


def ask_all(
    root: Path, classes: Sequence[str], source: str, module: LFModule, write: Callable[[VoteFile], None]
) -> pl.DataFrame:
    """Call `write` with the votes of the LFs of `module`, asking only for those that are not cached; their failures.

    Raises
    ------
    LabelingFunctionError
        An LF fails, or fails more often than its error budget allows.
    DataError
        Items are missing or damaged.
    """
    lfs = module.lfs
    if unpinned := require_pinned(root, list_imported(root)):
        print(
            f"{WARNING}{source} needs packages whose versions no stage depends on: a new one reruns nothing. Write them into "
            f"{PINS}: {', '.join(unpinned)}.",
            file=sys.stderr,
        )
    require_fitting_patterns(lfs, read_schema(root / ITEMS), classes, source)
    n = count_rows(root / ITEMS)
    fingerprints = Fingerprints(root, module)
    clocks = {lf.name: find_clocks(lf) for lf in lfs}
    digests = {lf.name: None if clocks[lf.name] else fingerprints.identify_lf(lf) for lf in lfs}
    with Cache(root, CACHE_KIND) as entries, VoteFile([lf.name for lf in lfs], n, root / VOTES.parent) as votes:
        cache = VoteCache(root, entries, classes)
        all_rows = np.arange(n)
        changes: str | None = None
        # LFs with the same missing rows (the same array) are asked together.
        questions: dict[int, _Question] = {}
        for lf in lfs:
            digest = digests[lf.name]
            recalled = None if digest is None else cache.recall(digest)
            rows = all_rows
            # If the error budget has been lowered, the LF is asked again, so that the error shows its traceback.
            if recalled is not None and len(recalled.column.failures) <= lf.error_budget * n:
                votes.write(lf.name, all_rows, recalled.column)
                rows = recalled.missing
                changes = recalled.match.describe() if recalled.match else changes
            if len(rows):
                questions.setdefault(id(rows), _Question(lfs=[], rows=rows)).lfs.append(lf)
        _report_work(questions.values(), n * len(lfs), changes)
        # An LF that failed on a whole batch is asked about all rows, as it would be without a cache.
        asked = [lf for question in questions.values() for lf in question.lfs]
        if asked:
            with Monitor(source, [lf.name for lf in asked]) as monitor, unchanged_libraries(source):
                asking = Asking(root=root, source=source, classes=classes, monitor=monitor)
                again = [lf for question in questions.values() for lf in _ask(asking, question, votes, cache)]
                for lf in again:
                    votes.clear_failures(lf.name)
                _ask(asking, _Question(lfs=again, rows=all_rows), votes, cache)
        _report_side_inputs(root, source, module, lfs, votes)
        _report_clocks(root, source, clocks)
        _report_answers(lfs)
        for lf in asked:
            digest = digests[lf.name]
            if digest is not None and votes.is_reusable(lf.name):
                cache.keep(digest, votes.read_column(lf.name))
        write(votes)
        return votes.tabulate_failures(root)


@dataclass(frozen=True, kw_only=True)
class _Question:
    """LFs to ask about the same rows, which are in ascending order."""

    lfs: list[LabelingFunction]
    rows: npt.NDArray[np.int64]


def _report_work(questions: Iterable[_Question], total: int, changes: str | None) -> None:
    """Print how many of `total` votes are computed, and `changes`, how the items differ from those of an earlier run."""
    if changes:
        print(f"apply: items since they were last voted on: {changes}", file=sys.stderr)
    asked = sum(len(question.rows) * len(question.lfs) for question in questions)
    print(f"apply: {asked:,} of {total:,} votes are asked for, the others are known", file=sys.stderr)


def _report_side_inputs(
    root: Path, source: str, module: LFModule, lfs: Sequence[LabelingFunction], votes: VoteFile
) -> None:
    """Print what LFs read that can change without causing a rerun."""
    readers = {source: module.side_inputs}
    readers |= {f"labeling function '{lf.name}' ({source})": votes.side_inputs[lf.name] for lf in lfs}
    for reader, side_inputs in readers.items():
        for found in side_inputs.describe(root):
            print(
                f"apply: {reader} reads {found}, which no stage depends on: a change of it reruns nothing. Put what it "
                "holds into lfs/.",
                file=sys.stderr,
            )


def _report_clocks(root: Path, source: str, clocks: Mapping[str, tuple[str, ...]]) -> None:
    """Print which LFs, and which modules at import, use clocks or randomness."""
    askers = {
        str(path.relative_to(root.resolve())): find_clocks_at_import(path, values)
        for path, values in list_imported(root).items()
    }
    askers |= {f"labeling function '{name}' ({source})": found for name, found in clocks.items()}
    for asker, found in askers.items():
        if found:
            change = "changes" if len(found) == 1 else "change"
            print(
                f"{WARNING}{asker} asks {', '.join(found)}, which {change} from one moment to the next: its votes are those of "
                "the moment when apply ran, and a later day reruns nothing. Take what it needs from a column of the items.",
                file=sys.stderr,
            )


def _report_answers(lfs: Iterable[LabelingFunction]) -> None:
    """Print by how many answers of language models LFs vote."""
    for lf in lfs:
        if isinstance(lf, ModelLF):
            said, is_warning = describe_answers(lf)
            print(f"{WARNING if is_warning else 'apply: '}{said}.", file=sys.stderr)


def _ask(asking: Asking, question: _Question, votes: VoteFile, cache: VoteCache) -> list[LabelingFunction]:
    """Write the votes of the LFs, batch by batch; the LFs that failed on a whole batch of some of the rows, whose votes are
    not written.
    """
    again: list[LabelingFunction] = []
    if not question.lfs:
        return again
    root, source, rows = asking.root, asking.source, question.rows
    patterns = [lf for lf in question.lfs if isinstance(lf, PatternLF)]
    rowwise = [lf for lf in question.lfs if isinstance(lf, RowwiseLF)]
    others = [lf for lf in question.lfs if isinstance(lf, VectorizedLF) and not isinstance(lf, PatternLF)]
    for items in itertools.islice(_read_rows(root, rows), 1 if others or rowwise else 0):
        require_stable_votes(asking, [*others, *rowwise], items)
    timed = [lf for lf in rowwise if lf.timeout is not None]
    untimed = [lf for lf in rowwise if lf.timeout is None]
    with Progress("apply", total=len(rows) * len(question.lfs)) as progress, open_cluster() as cluster:
        kinds: list[list[LabelingFunction]] = [[*patterns], [*others], [*rowwise]]
        if cluster is not None and timed:
            # Only the main thread of a process can be interrupted, and workers of a cluster may use other threads.
            names = ", ".join(lf.name for lf in timed)
            print(f"apply: asked on this machine, since they have a timeout: {names}", file=sys.stderr)
            kinds = [[*patterns], [*others], [*untimed], [*timed]]
        for lfs in filter(None, kinds):
            start = 0
            # Polars recompiles most patterns for every table, so tables for patterns are large. Other LFs may fail on a
            # whole table, so their tables must not depend on what else is asked.
            size = BATCH_BYTES if isinstance(lfs[0], PatternLF) and cluster is None else 0
            batches = read_ahead(_read_rows(root, rows, size=size, beside=len(lfs)))
            if len(rows) == votes.n:
                batches = read_ahead(cache.hash_batches(batches))
            for chunk in _vote(asking, lfs, len(rows), batches, cluster, progress):
                for lf in lfs:
                    column = chunk.columns[lf.name]
                    if column.is_by_batch and len(rows) < votes.n:
                        again.append(lf)
                        continue
                    column.side_inputs.require_declared(root, f"labeling function '{lf.name}' ({source})")
                    votes.write(lf.name, rows[start : start + len(chunk.ids)], column)
                    _require_within_budget(lf, column.failures, chunk.ids, votes, source)
                lfs[:] = [lf for lf in lfs if lf not in again]
                start += len(chunk.ids)
    return again


def _vote(
    asking: Asking,
    lfs: Sequence[LabelingFunction],
    n: int,
    batches: Iterator[pl.DataFrame],
    cluster: Cluster | None,
    progress: Progress,
) -> Iterator[ChunkVotes]:
    """The votes of `lfs`, either all vectorized or all row-wise, on the `n` items of `batches`, in their order.

    The caller may remove vectorized LFs from `lfs` during iteration; they are then no longer asked.
    """
    rowwise = [lf for lf in lfs if isinstance(lf, RowwiseLF)]
    if cluster is not None and all(lf.timeout is None for lf in rowwise):
        module = read_module(asking.root, asking.source, asking.classes)
        yield from vote_on_cluster(cluster, module, lfs, batches, progress)
    elif rowwise:
        yield from vote_rowwise(RowwiseJob(asking=asking, lfs=rowwise, n=n), batches, progress)
    else:
        for items in batches:
            columns = asking.ask_vectorized([lf for lf in lfs if isinstance(lf, VectorizedLF)], items)
            yield ChunkVotes(ids=items[ITEM_ID], columns=columns)
            progress.advance(items.height * len(lfs))


def _read_rows(root: Path, rows: npt.NDArray[np.int64], *, size: int = 0, beside: int = 0) -> Iterator[pl.DataFrame]:
    """The items at `rows` (ascending) in tables of at most a row group; if these are all items, as `read_batches` reads them."""
    start, waiting = 0, 0
    parts: list[pl.DataFrame] = []
    for items in read_batches(root / ITEMS, schemas.ITEMS, size=size, beside=beside):
        here = rows[slice(*np.searchsorted(rows, [start, start + items.height]))] - start
        start += items.height
        if waiting and waiting + len(here) > ROW_GROUP:
            yield pl.concat(parts)
            waiting = 0
            parts.clear()
        if len(here):
            parts.append(items if len(here) == items.height else items[here])
            waiting += len(here)
    if waiting:
        yield pl.concat(parts)


def _find_policy(lf: LabelingFunction, failure: Failure) -> OnError:
    """The policy of `lf` for `failure`."""
    return lf.on_timeout if failure.is_late and isinstance(lf, RowwiseLF) else lf.on_error


def _require_within_budget(
    lf: LabelingFunction, failed: Sequence[Failure], ids: pl.Series, votes: VoteFile, source: str
) -> None:
    """Check that the failures of `lf`, on the batch with these `ids` and in total so far, are within its policy."""
    if not failed:
        return
    stops = [failure for failure in failed if _find_policy(lf, failure) is OnError.RAISE]
    first, count, n = (*stops, *failed)[0], len(votes.failures[lf.name]), votes.n
    subject = f"labeling function '{lf.name}' ({source})"
    example = f"on {ITEM_ID} {ids[first.row]!r}: {first.error}\n{first.trace}".rstrip()
    if stops:
        policy = "on_timeout" if first.is_late else "on_error"
        raise LabelingFunctionError(
            f"{subject} failed {example}\nCorrect it, or let it abstain on failures: "
            f"{policy}='abstain' with an error_budget, a share of all items."
        )
    if count > lf.error_budget * n:
        raise LabelingFunctionError(
            f"{subject} failed on {count:,} of {n:,} items (so far), more than its error_budget of {lf.error_budget:g}; "
            f"first {example}\nCorrect it, or raise its error_budget."
        )
