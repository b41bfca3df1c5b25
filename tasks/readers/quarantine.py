"""Rows that fail: without `ingest.quarantine` the first kind of them is an error, with it they are left out and listed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.params import QuarantineParams
from tasks.readers.bad_lines import Record
from tasks.readers.raw_tables import TEXT, RawTable, read_records
from tasks.tables.quarantine import count_reasons
from tasks.tables.validation import SHOWN

_WIDTH = 60
"""How many characters of a bad value the table has."""

_WIDTH_OF_REASON = 240
"""How many it has of what says why an image cannot be read, a path among them."""


class Reason(StrEnum):
    """What is wrong with a row."""

    UNREADABLE = "unreadable"
    NO_ID = "no id"
    DOUBLED_ID = "doubled id"
    BAD_VALUE = "value of another type"
    BAD_SPLIT = "unknown split"
    BAD_GOLD = "unknown class"
    NO_TEXT = "no text"
    BAD_IMAGE = "bad image"
    BAD_EMBEDDING = "bad embedding"
    NO_EMBEDDING = "no embedding"
    NO_ITEM = "embedding of no item"


Note = Callable[[pl.Series, Reason, pl.Series], None]
"""Takes note of rows that fail instead of an error: at which rows (a mask), why, and their values."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row that failed: row number `at` (from 0, unreadable rows counted) of `file`, or line `line` of it (from 1)."""

    file: Path
    at: int
    line: int | None
    item: str | int | None
    reason: Reason
    found: str


class Quarantine:
    """The rows of the files below `source` that failed, within what `params` allow; with None, every one is an error."""

    def __init__(self, source: Path, params: QuarantineParams | None) -> None:
        self._source = source
        self._params = params
        self._rows: list[_Row] = []

    @property
    def is_on(self) -> bool:
        """Whether rows may fail."""
        return self._params is not None

    @property
    def ids(self) -> set[str | int]:
        """The ids of items that failed."""
        return {row.item for row in self._rows if row.item is not None}

    def add_unreadable(self, file: Path, records: Sequence[Record]) -> None:
        """Take note of those of the `records` of `file` that cannot be read, line by line: a quote may have swallowed rows."""
        for at, record in enumerate(records):
            if record.problem:
                for line in range(record.first, record.last + 1):
                    self._add(file, at, line, None, Reason.UNREADABLE, record.problem)

    def add(
        self, file: Path, rows: Sequence[int], ids: Sequence[str | int | None], reason: Reason, found: Sequence[object]
    ) -> None:
        """Take note of the `rows` of `file`, of these ids."""
        for at, item, value in zip(rows, ids, found, strict=True):
            self._add(file, at, None, item, reason, "" if value is None else str(value))

    def add_items(
        self, ids: pl.Series, reason: Reason, found: Sequence[object], among: Mapping[Path, pl.Series]
    ) -> None:
        """Take note of the items `ids`, each at its last row `among` the ids of files, unless they have failed before."""
        before = self.ids
        values = {item: value for item, value in zip(ids.to_list(), found, strict=True) if item not in before}
        where: dict[str | int, tuple[Path, int]] = {}
        for file, known in among.items():
            at = known.is_in(list(values)).arg_true() if known.dtype == ids.dtype else pl.Series([], dtype=pl.UInt32)
            where.update((known[row], (file, row)) for row in at.to_list())
        for item, value in values.items():
            file, row = where[item]
            self.add(file, [row], [item], reason, [value])

    def note_rows(self, file: Path) -> Note | None:
        """What takes note of rows of `file` without an id; None if they are an error."""
        if not self.is_on:
            return None
        return lambda bad, reason, values: self.add(
            file, rows := bad.arg_true().to_list(), [None] * len(rows), reason, values.filter(bad).to_list()
        )

    def _add(self, file: Path, at: int, line: int | None, item: str | int | None, reason: Reason, found: str) -> None:
        width = _WIDTH_OF_REASON if reason is Reason.BAD_IMAGE else _WIDTH
        shown = found if len(found) <= width else f"{found[:width]}…"
        self._rows.append(_Row(file=file, at=at, line=line, item=item, reason=reason, found=shown))

    def require_few(self, kept: int) -> None:
        """Check that no more rows failed than may, beside `kept` items.

        Raises
        ------
        DataError
            They are more; the message has the counts and the first few of each kind.
        """
        if self._params is None or not self._rows:
            return
        n, share = len(self._rows), len(self._rows) / (len(self._rows) + kept)
        limits = []
        if self._params.rows is not None and n > self._params.rows:
            limits.append(f"{self._params.rows:,} rows")
        if self._params.share is not None and share > self._params.share:
            limits.append(f"a share of {self._params.share:g}")
        if not limits:
            return
        table = self.tabulate(pl.String())
        lines = [
            f"{self._source}: {n:,} rows failed, a share of {share:.4g}; ingest.quarantine in params.yaml allows "
            f"{' and '.join(limits)}."
        ]
        for reason, count in count_reasons(table):
            examples = [
                f"{row['file']}:{row['row']}" + (f", {row[ITEM_ID]!r}" if row[ITEM_ID] else "")
                + (f": {row['found']}" if row["found"] else "")
                for row in table.filter(pl.col("reason") == reason).head(SHOWN).iter_rows(named=True)
            ]  # fmt: skip
            lines.append(f"  {count:,} {reason}: {'; '.join(examples)}")
        raise DataError("\n".join([*lines, "Correct the files, or allow more."]))

    def tabulate(self, id_type: pl.DataType) -> pl.DataFrame:
        """The rows that failed, as `schemas.QUARANTINE` has them, sorted by file and row."""
        numbers = _number(self._rows)
        rows = [
            (row.file.relative_to(self._source).as_posix(), number, str(row.reason), row.item, row.found)
            for row, number in zip(self._rows, numbers, strict=True)
        ]
        rows.sort(key=lambda row: row[:3])
        kind = pl.String() if id_type != pl.Int64 else pl.Int64()
        table = pl.DataFrame(
            rows,
            schema={"file": pl.String, "row": pl.Int64, "reason": pl.String, ITEM_ID: kind, "found": pl.String},
            orient="row",
        )
        return table.select(ITEM_ID, "reason", "file", "row", "found")


def name_rows(
    source: Path, ids: pl.Series, reason: Reason, found: Sequence[object], among: Mapping[Path, pl.Series]
) -> list[str]:
    """Lines for an error about the items `ids`, each with its file below `source`, its row there, and what was `found`."""
    notes = Quarantine(source, None)
    notes.add_items(ids, reason, found, among)
    return [
        f"{row['file']}:{row['row']}, {row[ITEM_ID]!r}: {row['found']}"
        for row in notes.tabulate(ids.dtype).iter_rows(named=True)
    ]


def _number(rows: Sequence[_Row]) -> list[int]:
    """The number of each row in its file, counted from 1: of text the line, of other files the row."""
    lines: dict[Path, list[Record]] = {}
    numbers = []
    for row in rows:
        if row.line is not None:
            numbers.append(row.line)
            continue
        if row.file.suffix.lower() not in TEXT:
            numbers.append(row.at + 1)
            continue
        if row.file not in lines:
            lines[row.file] = read_records(row.file)
        numbers.append(lines[row.file][row.at].first)
    return numbers


def _count_rows(part: RawTable) -> npt.NDArray[np.int64]:
    """The number of each row of the table in its file, counted from 0 with those that cannot be read, int64 of shape (n,)."""
    if not part.records:
        return np.arange(part.table.height)
    return np.flatnonzero([record.problem is None for record in part.records])


class RowNotes:
    """Rows of the table that several files make together which have failed; `note` is what checks of columns call."""

    def __init__(self, quarantine: Quarantine, parts: Sequence[RawTable]) -> None:
        self._quarantine = quarantine
        self._files = [part.path for part in parts]
        self._file = np.repeat(np.arange(len(parts)), [part.table.height for part in parts])
        self._at = np.concatenate([_count_rows(part) for part in parts])
        self._found: dict[int, tuple[Reason, object]] = {}
        for part in parts:
            quarantine.add_unreadable(part.path, part.records)

    def note(self, bad: pl.Series, reason: Reason, values: pl.Series) -> None:
        """Take note of the rows at which `bad` is true; of several reasons the first counts."""
        for row in bad.arg_true().to_list():
            self._found.setdefault(row, (reason, values[row]))

    def drop(self, ids: pl.Series, kept: pl.Series) -> pl.Series:
        """Hand what was noted over to the quarantine; the rows that stay: those `kept` that have not failed, as a mask."""
        for row, (reason, value) in sorted(self._found.items()):
            if kept[row]:
                file = self._files[self._file[row]]
                self._quarantine.add(file, [int(self._at[row])], [ids[row]], reason, [value])
        stay = kept.to_numpy().copy()
        stay[list(self._found)] = False
        self._file, self._at, self._found = self._file[stay], self._at[stay], {}
        return pl.Series(stay)
