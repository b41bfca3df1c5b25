"""The cache of votes by row: an LF is asked only about rows that are new or changed since its last run.

An entry holds an LF's votes on the items of one run (a snapshot); the keys of the snapshot's rows are stored once for
all LFs (see tasks.cache.row_keys). A vote depends only on the LF's digest (see tasks.lf.fingerprint) and the row.
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
from tasks.cache.store import Cache, identify, identify_file
from tasks.core.types import ABSTAIN
from tasks.lf.voting import ColumnVotes, Failure
from tasks.tables.parquet import count_rows, read_batches, read_schema
from tasks.tables.paths import ITEMS

CACHE_KIND = "votes"
"""The kind of the cache's entries."""

_SNAPSHOTS = 3
"""Snapshots kept per LF: the current one, the last one, and a third for users who switch between two inputs."""


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """An LF's cached votes on the current items."""

    column: ColumnVotes
    """Abstains on rows that are missing."""
    missing: npt.NDArray[np.int64]
    """Rows the LF has yet to vote on, ascending; LFs with the same missing rows share an array."""
    match: Match | None
    """Which current items the snapshot has; None if it has exactly these."""


class VoteCache:
    """Cached votes for the items of the project at `root`, in `entries`; `lf` is an LF's digest."""

    def __init__(self, root: Path, entries: Cache, classes: Sequence[str]) -> None:
        self._root, self._entries = root, entries
        self._n = count_rows(root / ITEMS)
        self._snapshot = identify(row_keys.VERSION, identify_file(root / ITEMS))
        self._rows = f"rows-{self._snapshot}"
        columns = [[name, str(kind)] for name, kind in read_schema(root / ITEMS).items()]
        self._base = identify(columns, classes)
        self._keys: Keys | None = None
        self._matches: dict[str, Match | None] = {}
        self._missing: dict[str, npt.NDArray[np.int64]] = {self._snapshot: np.empty(0, np.int64)}

    def recall(self, lf: str) -> Recalled | None:
        """The votes of `lf` on those current rows that a single snapshot has; None if no snapshot has any."""
        key = self._identify(lf)
        column = self._read(key, self._snapshot)
        if column is not None:
            return Recalled(column=column, missing=self._missing[self._snapshot], match=None)
        snapshots = [key.rpartition("-")[2] for key in self._entries.find(f"{key}-")]
        matches = {snapshot: match for snapshot in snapshots if (match := self._match(snapshot)) is not None}
        for snapshot, match in sorted(matches.items(), key=lambda found: len(self._missing[found[0]])):
            before = self._read(key, snapshot) if len(self._missing[snapshot]) < self._n else None
            if before is not None and not before.is_by_batch:
                found = Recalled(column=_carry_over(before, match), missing=self._missing[snapshot], match=match)
                if not len(found.missing):
                    # With no row missing, the LF is not asked and nothing else would store its votes for these rows;
                    # the keys of the older snapshot will soon be dropped.
                    self.keep(lf, found.column)
                return found
        return None

    def keep(self, lf: str, column: ColumnVotes) -> None:
        """Store the votes of `lf` on the current items."""
        self._entries.write(f"{self._identify(lf)}-{self._snapshot}", _pack(column))
        self._entries.keep_latest(f"{self._identify(lf)}-", _SNAPSHOTS)
        if not self._entries.find(self._rows):
            self._entries.write(self._rows, self._hash().tobytes())
            self._entries.keep_latest("rows-", _SNAPSHOTS)

    def hash_batches(self, batches: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The `batches` of all current items, unchanged; meanwhile the keys of their rows are computed, if needed."""
        if self._keys is not None or self._entries.find(self._rows):
            yield from batches
            return
        keys = []
        for items in batches:
            keys.append(hash_items(items))
            yield items
        self._keys = np.concatenate(keys)

    def _read(self, lf: str, snapshot: str) -> ColumnVotes | None:
        entry = self._entries.read(f"{lf}-{snapshot}")
        return None if entry is None else _unpack(entry)

    def _identify(self, lf: str) -> str:
        return identify(self._base, lf)

    def _hash(self) -> Keys:
        """The keys of the current rows, computed at the first call."""
        if self._keys is None:
            from tasks.tables import schemas  # most of a second, which `epoxy plan` need not wait for

            batches = read_batches(self._root / ITEMS, schemas.ITEMS)
            self._keys = np.concatenate([hash_items(items) for items in batches])
        return self._keys

    def _match(self, snapshot: str) -> Match | None:
        """Where the current rows are in `snapshot`; None if its keys are no longer stored."""
        if snapshot not in self._matches:
            stored = self._entries.read(f"rows-{snapshot}")
            self._matches[snapshot] = None
            if stored is not None:
                match = match_rows(np.frombuffer(stored, np.uint64).reshape(-1, 3), self._hash())
                self._matches[snapshot], self._missing[snapshot] = match, np.flatnonzero(match.earlier < 0)
        return self._matches[snapshot]


def _carry_over(before: ColumnVotes, match: Match) -> ColumnVotes:
    """An LF's votes and failures from an earlier run, on the current rows that were part of it."""
    votes = np.where(match.earlier < 0, np.int8(ABSTAIN), before.votes[match.earlier])
    errors = {failure.row: failure.error for failure in before.failures}
    rows = np.flatnonzero(np.isin(match.earlier, list(errors))).tolist() if errors else []
    return ColumnVotes(votes=votes, failures=[Failure(row=row, error=errors[int(match.earlier[row])]) for row in rows])


def _pack(column: ColumnVotes) -> bytes:
    """A column as a cache entry."""
    failures = sorted((failure.row, failure.error) for failure in column.failures)
    head = json.dumps({"n": len(column.votes), "is_by_batch": column.is_by_batch, "failures": failures}).encode()
    # Level 1: votes are mostly runs of abstains, and higher levels gain little on the rest.
    return head + b"\n" + zlib.compress(column.votes.tobytes(), 1)


def _unpack(entry: bytes) -> ColumnVotes:
    """The column in a cache entry (the store has checked that it is what `_pack` gave)."""
    end = entry.index(b"\n")
    head = json.loads(entry[:end])
    failures = [Failure(row=row, error=error) for row, error in head["failures"]]
    votes = np.frombuffer(zlib.decompress(memoryview(entry)[end + 1 :], bufsize=max(head["n"], 1)), dtype=np.int8)
    return ColumnVotes(votes=votes, failures=failures, is_by_batch=head["is_by_batch"])
