"""apply: run the labeling functions on every item, or take a table of votes; write votes and a summary per LF.

An LF is asked about a row once: what it voted on a row of the same content is in the memo (see tasks.lf.cache), and
the votes written are those of a run without a memo. Peak memory beyond what the imports take, for n items of b bytes in
m LFs, with W workers for row-wise ones:

    128 MiB + 8 G (b + m) + 16 V + 34 n + 4 W c b

where G = 16,384 rows are a row group, V = 8 MiB of votes are written at a time (and that much of items and their votes
is looked through for patterns, if it is more than a row group), and c = 2,048 rows are a worker's chunk. 128 MiB are
for compiled patterns and what allocators keep; 8 and 16 are for the copies that reading, checking and matching make,
and for the tables that are made ready meanwhile; 34 n are the keys of rows (24), the rows to be asked about (8), and
one LF's column on its way to or from the memo; for a moment, when the rows are compared with those of another day, it
is 100 n more. The votes themselves, n m bytes, wait in a file without a name. Not counted: what the LFs' own code
holds, what a worker's interpreter takes (as much as the stage's imports), and failures that their policy lets pass.
`python -m benchmarks votes` compares this with what it measures.
"""

import faulthandler
import itertools
import re
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.cache.store import Memo
from tasks.compute.cluster import Cluster, open_cluster
from tasks.compute.read_ahead import read_ahead
from tasks.core import lf_analysis
from tasks.core.types import ABSTAIN, ITEM_ID
from tasks.errors import DataError, LabelingFunctionError
from tasks.lf.cache import MEMO, VoteMemory
from tasks.lf.fingerprint import Fingerprints
from tasks.lf.functions import LabelingFunction, OnError, PatternLF, RowwiseLF, VectorizedLF
from tasks.lf.loading import load_lfs
from tasks.lf.shards import read_module, vote_on_cluster
from tasks.lf.voting import ColumnVotes, Failure, apply_vectorized
from tasks.lf.workers import ChunkVotes, RowwiseJob, vote_rowwise
from tasks.params import ApplyParams
from tasks.progress import Progress
from tasks.tables import schemas
from tasks.tables.files import write_csv
from tasks.tables.parquet import (
    ROW_GROUP,
    count_rows,
    read_batches,
    read_schema,
    read_table,
    write_batches,
    write_table,
)
from tasks.tables.paths import ITEMS, LF_FAILURES, LF_SUMMARY, VALID_GOLD, VOTES

_SHOWN = 5
"""How many ids or values an error names."""

_AT_ONCE = 8 * 2**20
"""Bytes of votes that are checked and written at a time, and of rows with their votes in which patterns are looked for."""

_PROBED = 100
"""How many items a vectorized LF votes on a second time, alone: enough to notice a mean or a rank, at no cost."""


def run(root: Path, classes: tuple[str, ...], params: ApplyParams) -> None:
    """Write votes, LF summary and LF failures of the project at `root`.

    Raises
    ------
    LabelingFunctionError
        An LF cannot be loaded, fails, or fails more often than its error budget allows.
    DataError
        Items are missing or damaged, or a table of votes does not fit them.
    """
    summary = LFSummary(read_table(root / VALID_GOLD, schemas.gold(len(classes))), classes)
    write_votes = _write_computed if Path(params.source).suffix == ".py" else _write_given
    failures = write_votes(root, classes, params.source, summary)
    write_csv(root / LF_SUMMARY, summary.tabulate())
    write_table(root / LF_FAILURES, failures, schemas.FAILURES)


class LFSummary:
    """What votes say about their LFs, counted batch by batch; `gold` (item_id, gold; may be empty) is to judge on."""

    def __init__(self, gold: pl.DataFrame, classes: Sequence[str]) -> None:
        self._gold, self._classes = gold, classes
        self._lfs: list[str] = []
        self._counts: lf_analysis.VoteCounts | None = None

    def watch(self, batches: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The `batches` as they are (item_id and one int8 column per LF), each counted as it passes."""
        for votes in batches:
            self._lfs = votes.columns[1:]
            known = votes.select(ITEM_ID).join(self._gold, on=ITEM_ID, how="left", maintain_order="left")["gold"]
            L = votes.select(self._lfs).to_numpy()
            part = lf_analysis.count_all(L, known.fill_null(ABSTAIN).to_numpy(), len(self._classes))
            self._counts = part if self._counts is None else self._counts + part
            yield votes

    def tabulate(self) -> pl.DataFrame:
        """One row per LF: polarity, coverage, overlaps, conflicts, and its precision on the items with gold.

        Columns lf; polarity (the class names it votes, joined by '|'); coverage, overlaps, conflicts (shares of all
        items); n_valid (its votes on items with gold); precision, precision_low, precision_high (Wilson's 95 %
        interval), null where n_valid is 0.
        """
        counts = self._counts
        assert counts is not None, "no batch"
        low, high = lf_analysis.wilson_interval(counts.gold)
        return pl.DataFrame(
            {
                "lf": self._lfs,
                "polarity": ["|".join(itertools.compress(self._classes, row)) for row in counts.polarity],
                "coverage": counts.share(counts.votes),
                "overlaps": counts.share(counts.overlaps),
                "conflicts": counts.share(counts.conflicts),
                "n_valid": counts.gold.votes,
                "precision": lf_analysis.measure_precision(counts.gold),
                "precision_low": low,
                "precision_high": high,
            }
        ).with_columns(pl.selectors.float().fill_nan(None))


# Votes from labeling functions.


def _write_computed(root: Path, classes: Sequence[str], source: str, summary: LFSummary) -> pl.DataFrame:
    """Write the votes of the LFs in `source`; give back what they failed on."""
    # An LF that ends the interpreter, or the patience of whoever waits, at least leaves the line at which it did.
    faulthandler.enable()
    faulthandler.register(signal.SIGTERM, all_threads=False, chain=True)
    lfs = load_lfs(root, source)
    n = count_rows(root / ITEMS)
    known = Fingerprints(root)
    digests = {lf.name: known.identify_lf(lf) for lf in lfs}
    with Memo(root, MEMO) as kept, _Columns([lf.name for lf in lfs], n, root / VOTES.parent) as columns:
        memory = VoteMemory(root, kept, classes)
        everything = np.arange(n)
        changes: str | None = None
        # LFs that are to be asked about the same rows are asked together; by the array, which they then share.
        shares: dict[int, _Share] = {}
        for lf in lfs:
            digest = digests[lf.name]
            recalled = None if digest is None else memory.recall(digest)
            rows = everything
            # Failures beyond a budget that was lowered meanwhile are met again, and told with their traceback.
            if recalled is not None and len(recalled.column.failures) <= lf.error_budget * n:
                columns.write(lf.name, everything, recalled.column)
                rows = recalled.missing
                changes = recalled.match.describe() if recalled.match else changes
            if len(rows):
                shares.setdefault(id(rows), _Share(lfs=[], rows=rows)).lfs.append(lf)
        _say(shares.values(), n * len(lfs), changes)
        # What fails as a whole on some rows takes others along on all of them, as it would have without a memo.
        again = [lf for share in shares.values() for lf in _compute(root, source, share, classes, columns, memory)]
        for lf in again:
            columns.clear(lf.name)
        _compute(root, source, _Share(lfs=again, rows=everything), classes, columns, memory)
        for lf in (lf for share in shares.values() for lf in share.lfs):
            digest = digests[lf.name]
            if digest is not None:
                memory.keep(digest, columns.read_column(lf.name))
        _write_votes(root, columns.read_batches(root), n, classes, columns.lfs, summary)
        return columns.tabulate_failures(root)


def _write_votes(
    root: Path, batches: Iterable[pl.DataFrame], n: int, classes: Sequence[str], lfs: Sequence[str], summary: LFSummary
) -> None:
    """Write the votes in `batches`, of `n` items together."""
    with Progress("writing votes", total=n) as progress:

        def watched() -> Iterator[pl.DataFrame]:
            for votes in read_ahead(summary.watch(batches)):
                yield votes
                progress.advance(votes.height)

        write_batches(root / VOTES, watched(), schemas.votes(len(classes), lfs))


@dataclass(frozen=True, kw_only=True)
class _Share:
    """LFs that are to be asked about the same rows, which ascend."""

    lfs: list[LabelingFunction]
    rows: npt.NDArray[np.int64]


def _say(shares: Iterable[_Share], cells: int, changes: str | None) -> None:
    """Tell how much is to be done; `changes` is what became of the items since an earlier day."""
    if changes:
        print(f"apply: items since they were last voted on: {changes}", file=sys.stderr)
    asked = sum(len(share.rows) * len(share.lfs) for share in shares)
    print(f"apply: {asked:,} of {cells:,} votes are asked for, the others are known", file=sys.stderr)


def _compute(
    root: Path, source: str, share: _Share, classes: Sequence[str], columns: "_Columns", memory: VoteMemory
) -> list[LabelingFunction]:
    """Fill in what is missing, batch by batch; what one LF votes depends on nothing but that LF and the items.

    Gives back the LFs that failed as a whole on some of the rows when not all were asked for.
    """
    again: list[LabelingFunction] = []
    if not share.lfs:
        return again
    patterns = [lf for lf in share.lfs if isinstance(lf, PatternLF)]
    rowwise = [lf for lf in share.lfs if isinstance(lf, RowwiseLF)]
    others = [lf for lf in share.lfs if isinstance(lf, VectorizedLF) and not isinstance(lf, PatternLF)]
    for items in itertools.islice(_read_rows(root, share.rows), 1 if others else 0):
        _require_votes_by_row(others, items, classes, source)
    kinds: list[list[LabelingFunction]] = [[*patterns], [*others], [*rowwise]]
    with Progress("apply", total=len(share.rows) * len(share.lfs)) as progress, open_cluster() as cluster:
        for lfs in filter(None, kinds):
            at = 0
            # Polars compiles most patterns once more for every table. An LF of another kind may fail on a table as a
            # whole: its tables must not depend on what else is asked.
            size = _AT_ONCE if isinstance(lfs[0], PatternLF) and cluster is None else 0
            batches = read_ahead(_read_rows(root, share.rows, size=size, beside=len(lfs)))
            if len(share.rows) == columns.n:
                batches = read_ahead(memory.watch(batches))
            for chunk in _vote(root, source, lfs, len(share.rows), batches, classes, cluster, progress):
                rows = share.rows[at : at + len(chunk.ids)]
                for lf in lfs:
                    column = chunk.columns[lf.name]
                    if column.is_by_batch and len(share.rows) < columns.n:
                        again.append(lf)
                        continue
                    columns.write(lf.name, rows, column)
                    _require_within_budget(lf, column.failures, chunk.ids, columns, source)
                lfs[:] = [lf for lf in lfs if lf not in again]
                at += len(chunk.ids)
    return again


def _vote(
    root: Path,
    source: str,
    lfs: Sequence[LabelingFunction],
    n: int,
    batches: Iterator[pl.DataFrame],
    classes: Sequence[str],
    cluster: Cluster | None,
    progress: Progress,
) -> Iterator[ChunkVotes]:
    """The votes of `lfs`, all vectorized or all row-wise, on the `n` items in `batches`, in their order.

    Vectorized LFs that the caller takes out of `lfs` meanwhile are asked no more.
    """
    if cluster is not None:
        yield from vote_on_cluster(cluster, read_module(root, source, classes), lfs, batches, progress)
    elif rowwise := [lf for lf in lfs if isinstance(lf, RowwiseLF)]:
        job = RowwiseJob(root=root, source=source, lfs=rowwise, classes=classes, n=n)
        yield from vote_rowwise(job, batches, progress)
    else:
        for items in batches:
            votes = apply_vectorized([lf for lf in lfs if isinstance(lf, VectorizedLF)], items, classes)
            yield ChunkVotes(ids=items[ITEM_ID], columns=votes)
            progress.advance(items.height * len(lfs))


def _read_rows(root: Path, rows: npt.NDArray[np.int64], *, size: int = 0, beside: int = 0) -> Iterator[pl.DataFrame]:
    """The items at `rows` (ascending) in tables of at most a row group; all items as `read_batches` has them."""
    start, held = 0, 0
    parts: list[pl.DataFrame] = []
    for items in read_batches(root / ITEMS, schemas.ITEMS, size=size, beside=beside):
        own = rows[slice(*np.searchsorted(rows, [start, start + items.height]))] - start
        start += items.height
        if held and held + len(own) > ROW_GROUP:
            yield pl.concat(parts)
            held = 0
            parts.clear()
        if len(own):
            parts.append(items if len(own) == items.height else items[own])
            held += len(own)
    if held:
        yield pl.concat(parts)


class _Columns:
    """Votes on n items, LF by LF in a file without a name, and failures by LF."""

    def __init__(self, lfs: Sequence[str], n: int, folder: Path) -> None:
        self.lfs, self.n = lfs, n
        self.failures: dict[str, list[Failure]] = {lf: [] for lf in lfs}
        self._is_by_batch = dict.fromkeys(lfs, False)
        self._place = {lf: number * n for number, lf in enumerate(lfs)}
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by __exit__

    def __enter__(self) -> "_Columns":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, lf: str, rows: npt.NDArray[np.int64], column: ColumnVotes) -> None:
        """Keep the votes of `lf` on the items at `rows` (ascending), and its failures, whose rows are places in these.

        Of rows with gaps between them, everything before the last one was written before.
        """
        votes = column.votes
        if len(rows) and rows[-1] - rows[0] + 1 > len(rows):
            votes = self.read(lf, int(rows[0]), int(rows[-1] - rows[0]) + 1).copy()
            votes[rows - rows[0]] = column.votes
        self._file.seek(self._place[lf] + int(rows[0] if len(rows) else 0))
        self._file.write(np.ascontiguousarray(votes).data)
        self.failures[lf] += [Failure(row=int(rows[failure.row]), error=failure.error) for failure in column.failures]
        self._is_by_batch[lf] |= column.is_by_batch

    def clear(self, lf: str) -> None:
        """Forget what `lf` failed on; its votes are to be written anew."""
        self.failures[lf] = []

    def read(self, lf: str, start: int, count: int) -> npt.NDArray[np.int8]:
        """The votes of `lf` on `count` items from `start` on."""
        self._file.seek(self._place[lf] + start)
        return np.frombuffer(self._file.read(count), dtype=np.int8)

    def read_column(self, lf: str) -> ColumnVotes:
        """All votes of `lf`, and its failures."""
        return ColumnVotes(
            votes=self.read(lf, 0, self.n), failures=self.failures[lf], is_by_batch=self._is_by_batch[lf]
        )

    def read_batches(self, root: Path) -> Iterator[pl.DataFrame]:
        """The table of votes, in batches of some row groups."""
        start = 0
        for items in read_batches(root / ITEMS, schemas.ITEMS, columns=[ITEM_ID], size=_AT_ONCE, beside=len(self.lfs)):
            yield items.with_columns(pl.Series(lf, self.read(lf, start, items.height)) for lf in self.lfs)
            start += items.height

    def tabulate_failures(self, root: Path) -> pl.DataFrame:
        """One row per failure: item_id, lf, error; by item, then in the order of the LFs."""
        if not any(self.failures.values()):
            ids = read_schema(root / ITEMS)[ITEM_ID]
            return pl.DataFrame(schema={ITEM_ID: ids, "lf": pl.String, "error": pl.String})
        found = pl.DataFrame(
            [(failure.row, lf, failure.error) for lf in self.lfs for failure in self.failures[lf]],
            schema={"row": pl.Int64, "lf": pl.String, "error": pl.String},
            orient="row",
        ).sort("row", maintain_order=True)
        tables, start = [], 0
        for items in read_batches(root / ITEMS, schemas.ITEMS, columns=[ITEM_ID]):
            own = found.filter(pl.col("row").is_between(start, start + items.height, closed="left"))
            tables.append(own.select(items[ITEM_ID].gather(own["row"] - start), "lf", "error"))
            start += items.height
        return pl.concat(tables)


def _require_votes_by_row(
    lfs: Sequence[VectorizedLF], items: pl.DataFrame, classes: Sequence[str], source: str
) -> None:
    """Check, on every second of the first items, that a vectorized LF votes on a row by that row alone."""
    first = items.head(2 * _PROBED)
    together = apply_vectorized(lfs, first, classes)
    apart = apply_vectorized(lfs, first.gather_every(2), classes)
    for lf in lfs:
        failed = together[lf.name].failures or apart[lf.name].failures
        differs = np.flatnonzero(together[lf.name].votes[::2] != apart[lf.name].votes)
        if differs.size and not failed:
            raise LabelingFunctionError(
                f"labeling function '{lf.name}' ({source}): its vote on {ITEM_ID} {first[ITEM_ID][int(differs[0]) * 2]!r} "
                "changes with the other items of the batch. A vote must depend on its own item alone: compute means, "
                "ranks and the like beforehand, as a column of the items, and use no randomness."
            )


def _require_within_budget(
    lf: LabelingFunction, failed: Sequence[Failure], ids: pl.Series, columns: _Columns, source: str
) -> None:
    """Check what `lf` failed on, of a batch with these `ids` and so far."""
    if not failed:
        return
    first, count, n = failed[0], len(columns.failures[lf.name]), columns.n
    place = f"labeling function '{lf.name}' ({source})"
    example = f"on {ITEM_ID} {ids[first.row]!r}: {first.error}\n{first.trace}".rstrip()
    if lf.on_error is OnError.RAISE:
        raise LabelingFunctionError(
            f"{place} failed {example}\nCorrect it, or let it abstain on failures: "
            "on_error='abstain' with an error_budget, a share of all items."
        )
    if count > lf.error_budget * n:
        raise LabelingFunctionError(
            f"{place} failed on {count:,} of {n:,} items (so far), more than its error_budget of {lf.error_budget:g}; "
            f"first {example}\nCorrect it, or raise its error_budget."
        )


# Votes from a table.


def _write_given(root: Path, classes: Sequence[str], source: str, summary: LFSummary) -> pl.DataFrame:
    """Write the table of votes at `source`, in the order of the items; give back an empty table of failures."""
    ids = read_table(root / ITEMS, schemas.ITEMS, columns=[ITEM_ID])[ITEM_ID]
    raw = _read_raw_votes(root, source, ids.dtype)
    names = [name for name in raw.columns if name != ITEM_ID]
    if ITEM_ID not in raw.columns or not names:
        raise DataError(
            f"{source}: has columns {', '.join(raw.columns) or 'none'}; expected '{ITEM_ID}' and one column per LF."
        )
    bad = [name for name in names if not re.fullmatch(schemas.LF_NAME, name)]
    if bad:
        raise DataError(
            f"{source}: {bad[0]!r} cannot name a labeling function. Use letters, digits, '_', '.' and '-', a letter or "
            "'_' first."
        )
    own = raw[ITEM_ID]
    if own.dtype.is_integer() and ids.dtype == pl.Int64:
        own = own.cast(pl.Int64)
    _require_ids(source, own, ids)
    with Progress("checking votes", total=len(names)) as progress:
        checked = [_check_votes(source, raw[name], own, len(classes)) for name in progress.follow(names)]
    votes = raw.select(own, *checked).sort(ITEM_ID)
    batches = votes.iter_slices(ROW_GROUP) if len(votes) else [votes]
    _write_votes(root, batches, len(votes), classes, names, summary)
    return pl.DataFrame(schema={ITEM_ID: ids.dtype, "lf": pl.String, "error": pl.String})


def _read_raw_votes(root: Path, source: str, id_type: pl.DataType) -> pl.DataFrame:
    if not (root / source).resolve().is_relative_to((root / "lfs").resolve()):
        raise DataError(f"{source} leads out of lfs/, the folder that the apply stage depends on. Put a copy there.")
    try:
        if Path(source).suffix == ".csv":
            # Unlike Parquet, CSV has no types: its ids are of whatever kind the items' are.
            return pl.read_csv(root / source, schema_overrides={ITEM_ID: id_type}, infer_schema_length=None)
        return pl.read_parquet(root / source, memory_map=False)
    except FileNotFoundError:
        raise DataError(f"{source} not found. Correct apply.source in params.yaml.") from None
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"{source} cannot be read: {str(error).strip().splitlines()[0]}") from None


def _require_ids(source: str, own: pl.Series, ids: pl.Series) -> None:
    """Check that a table of votes has each item once and nothing else."""
    if own.dtype != ids.dtype:
        raise DataError(f"{source}: {ITEM_ID} is {own.dtype}, but {ids.dtype} in the items. Write both alike.")
    findings = {
        "rows have no item_id": pl.int_range(len(own), eager=True).filter(own.is_null()),
        "ids occur more than once": own.filter(own.is_duplicated() & own.is_not_null()).unique(maintain_order=True),
        "items have no votes": ids.filter(~ids.is_in(own.drop_nulls().implode())),
        "ids are no items": own.filter(~own.is_in(ids.implode())).drop_nulls(),
    }
    lines = [
        f"{source}: {len(found):,} {what}, first {_first(found)}." for what, found in findings.items() if len(found)
    ]
    if lines:
        raise DataError(
            "\n".join([*lines, f"It must have one row per item, with the ids that ingest read ({ITEM_ID})."])
        )


def _check_votes(source: str, column: pl.Series, ids: pl.Series, k: int) -> pl.Series:
    """The column as int8, every value looked at before it is cast."""
    if not column.dtype.is_numeric():
        raise DataError(
            f"{source}: column '{column.name}' is {column.dtype}; expected whole numbers, -1 (abstain) or 0..{k - 1}."
        )
    # Beyond int64 is beyond every class, too; unsigned types do not compare with -1.
    whole = column.cast(pl.Int64, strict=False)
    wrong = ~(whole.is_between(ABSTAIN, k - 1) & (whole == column)).fill_null(False)
    if wrong.any():
        found = column.filter(wrong).unique(maintain_order=True).head(_SHOWN)
        values = ", ".join("missing" if value is None else f"{value}" for value in found)
        raise DataError(
            f"{source}: column '{column.name}' has {wrong.sum():,} votes that are neither -1 (abstain) nor 0..{k - 1}: "
            f"{values}; first at {ITEM_ID} {_first(ids.filter(wrong))}."
        )
    return column.cast(pl.Int8)


def _first(values: pl.Series) -> str:
    return ", ".join(repr(value) for value in values.head(_SHOWN))
