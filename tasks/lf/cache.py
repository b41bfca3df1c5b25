"""What labeling functions voted on earlier days, row by row: an LF is asked about rows that it has not seen as they are.

An entry of the memo is one LF's votes on one day's items; beside it, once for all LFs, are the keys of these items'
rows (see tasks.cache.row_keys). What an LF can see is all in its digest (see tasks.lf.fingerprint) and the row.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.cache import row_keys
from tasks.cache.row_keys import Keys, Match, hash_items, match_rows
from tasks.cache.store import Memo, identify, identify_file
from tasks.core.types import ABSTAIN
from tasks.lf.voting import ColumnVotes, Failure
from tasks.tables import schemas
from tasks.tables.parquet import count_rows, read_batches, read_schema
from tasks.tables.paths import ITEMS

MEMO = "votes"
"""The kind of the memo's entries."""

_DAYS = 3
"""Days that are kept of an LF: today's, the last one's, and one more for those who go back and forth."""


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """What is known of an LF's votes on today's items."""

    column: ColumnVotes
    """Abstains on rows that are missing."""
    missing: npt.NDArray[np.int64]
    """The rows that the LF is to be asked about, ascending; of LFs with the same ones, it is the same array."""
    match: Match | None
    """How today's items are among those of the day recalled; None: they are the same."""


class VoteMemory:
    """Votes on the items of the project at `root`, in `kept`; `lf` is an LF's digest, and a vote one of `classes`."""

    def __init__(self, root: Path, kept: Memo, classes: Sequence[str]) -> None:
        self._root, self._kept = root, kept
        self._n = count_rows(root / ITEMS)
        self._today = identify(row_keys.VERSION, identify_file(root / ITEMS))
        self._rows = f"rows-{self._today}"
        columns = [[name, str(kind)] for name, kind in read_schema(root / ITEMS).items()]
        self._base = identify(columns, classes)
        self._keys: Keys | None = None
        self._matches: dict[str, Match | None] = {}
        self._missing: dict[str, npt.NDArray[np.int64]] = {self._today: np.empty(0, np.int64)}

    def recall(self, lf: str) -> Recalled | None:
        """The votes of `lf` on as many of today's rows as can be had from one day; None: on none."""
        lf = self._identify(lf)
        column = self._read(lf, self._today)
        if column is not None:
            return Recalled(column=column, missing=self._missing[self._today], match=None)
        days = [key.rpartition("-")[2] for key in self._kept.find(f"{lf}-")]
        matches = {day: match for day in days if (match := self._match(day)) is not None}
        for day, match in sorted(matches.items(), key=lambda one: len(self._missing[one[0]])):
            before = self._read(lf, day) if len(self._missing[day]) < self._n else None
            if before is not None and not before.is_by_batch:
                return Recalled(column=_carry_over(before, match), missing=self._missing[day], match=match)
        return None

    def keep(self, lf: str, column: ColumnVotes) -> None:
        """Remember the votes of `lf` on today's items."""
        self._kept.write(f"{self._identify(lf)}-{self._today}", _pack(column))
        self._kept.keep_latest(f"{self._identify(lf)}-", _DAYS)
        if not self._kept.find(self._rows):
            self._kept.write(self._rows, self._hash().tobytes())
            self._kept.keep_latest("rows-", _DAYS)

    def watch(self, batches: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The `batches` of all of today's items as they are; their rows' keys are made meanwhile, if nobody has them."""
        if self._keys is not None or self._kept.find(self._rows):
            yield from batches
            return
        keys = []
        for items in batches:
            keys.append(hash_items(items))
            yield items
        self._keys = np.concatenate(keys)

    def _read(self, lf: str, day: str) -> ColumnVotes | None:
        entry = self._kept.read(f"{lf}-{day}")
        return None if entry is None else _unpack(entry)

    def _identify(self, lf: str) -> str:
        return identify(self._base, lf)

    def _hash(self) -> Keys:
        """The keys of today's rows, made when they are first needed."""
        if self._keys is None:
            batches = read_batches(self._root / ITEMS, schemas.ITEMS)
            self._keys = np.concatenate([hash_items(items) for items in batches])
        return self._keys

    def _match(self, day: str) -> Match | None:
        """Where today's rows are among those of another day; None where these are forgotten."""
        if day not in self._matches:
            stored = self._kept.read(f"rows-{day}")
            self._matches[day] = None
            if stored is not None:
                match = match_rows(np.frombuffer(stored, np.uint64).reshape(-1, 3), self._hash())
                self._matches[day], self._missing[day] = match, np.flatnonzero(match.earlier < 0)
        return self._matches[day]


def _carry_over(before: ColumnVotes, match: Match) -> ColumnVotes:
    """An LF's votes and failures of another day, on the rows of today that were there."""
    votes = np.where(match.earlier < 0, np.int8(ABSTAIN), before.votes[match.earlier])
    errors = {failure.row: failure.error for failure in before.failures}
    rows = np.flatnonzero(np.isin(match.earlier, list(errors))).tolist() if errors else []
    return ColumnVotes(votes=votes, failures=[Failure(row=row, error=errors[int(match.earlier[row])]) for row in rows])


def _pack(column: ColumnVotes) -> bytes:
    """A column as an entry of the memo."""
    failures = sorted((failure.row, failure.error) for failure in column.failures)
    head = json.dumps({"n": len(column.votes), "is_by_batch": column.is_by_batch, "failures": failures}).encode()
    # Level 1: votes are mostly runs of abstains, and no level makes much of the rest.
    return head + b"\n" + zlib.compress(column.votes.tobytes(), 1)


def _unpack(entry: bytes) -> ColumnVotes:
    """The column in an entry of the memo, which has checked that the entry is what `_pack` gave."""
    end = entry.index(b"\n")
    head = json.loads(entry[:end])
    failures = [Failure(row=row, error=error) for row, error in head["failures"]]
    votes = np.frombuffer(zlib.decompress(memoryview(entry)[end + 1 :], bufsize=max(head["n"], 1)), dtype=np.int8)
    return ColumnVotes(votes=votes, failures=failures, is_by_batch=head["is_by_batch"])
