"""What was found for labeling functions on earlier days, by what determines it, and which of it still holds today.

An entry of the cache is what one LF found among one day's items; beside it, once for all LFs, are the keys of these
items and their embeddings (see tasks.cache.row_keys). An LF's name only says where to look: what holds of an entry is told by
the votes and keys in it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tasks.cache import row_keys
from tasks.cache.row_keys import Keys, Match, match_rows
from tasks.cache.store import Cache, Part, identify
from tasks.core.search.incremental import mark_support
from tasks.core.types import Bool, Int64, Votes
from tasks.neighbors.columns import Entry, NeighborColumns, pack, unpack

CACHE_KIND = "search"
"""The kind of the cache's entries."""

_KEPT = 3
"""Entries that are kept of an LF: of today, of the last day, and one more for those who go back and forth."""


@dataclass(frozen=True, kw_only=True)
class CurrentRun:
    """What neighbors are searched for."""

    base: Part
    """What they are: code, metric, whether exact."""
    content: Part
    """Among what they are searched: names the items, their embeddings, and what an approximate index makes of them."""
    lends: Bool
    """(n,) whether an item is a reference."""
    hash_rows: Callable[[], Keys]
    """The keys of items and their embeddings; not asked for unless they are needed."""


@dataclass(frozen=True, kw_only=True)
class PreviousEntry:
    """An entry of another day, or of other votes."""

    entry: Entry
    place: Int64
    """(n,) where each of today's items was then, with the same embedding; -1: nowhere."""


class NeighborCache:
    """The neighbors in `kept` of LFs given by name and votes, int8 of shape (n,)."""

    def __init__(self, kept: Cache, today: CurrentRun) -> None:
        self._kept, self._today = kept, today
        self._day = identify(row_keys.VERSION, today.content)
        self._n = len(today.lends)
        self._keys: Keys | None = None
        self._matches: dict[str, Match | None] = {}
        self._names = kept.find("")

    def recall(self, votes: Votes) -> NeighborColumns | None:
        """What an LF with these votes found, under whatever name, among the same items."""
        state = self._identify(votes)
        for name in self._names:
            if name.endswith(state):
                stored = self._kept.read(name)
                if stored is not None:
                    return unpack(stored).columns
        return None

    def recall_previous(self, lf: str) -> PreviousEntry | None:
        """What the LF of this name found last, with other votes or among other items."""
        for name in self._kept.find(self._name(lf)):
            stored = self._kept.read(name)
            entry = None if stored is None else unpack(stored)
            match = None if entry is None else self._match(entry.day)
            if entry is not None and match is not None:
                return PreviousEntry(entry=entry, place=match.earlier)
        return None

    def keep(self, lf: str, votes: Votes, columns: NeighborColumns) -> None:
        """Remember what was found today."""
        entry = Entry(columns=columns, day=self._day, support=mark_support(votes, self._today.lends))
        self._kept.write(self._name(lf) + self._identify(votes), pack(entry))
        self._kept.keep_latest(self._name(lf), _KEPT)

    def keep_rows(self) -> None:
        """Remember today's items and embeddings, without which a later day can make nothing of what is kept."""
        if not self._kept.find(f"rows-{self._day}"):
            self._kept.write(f"rows-{self._day}", self._hash().tobytes())
            self._kept.keep_latest("rows-", _KEPT)

    def describe_changes(self) -> str | None:
        """What became of the items since the day that was recalled; None where that is today."""
        matches = [match for day, match in self._matches.items() if match is not None and day != self._day]
        return matches[0].describe() if matches else None

    def _name(self, lf: str) -> str:
        return identify(self._today.base, lf) + "-"

    def _identify(self, votes: Votes) -> str:
        digests = [hashlib.sha256(part.tobytes()).hexdigest() for part in (self._today.lends, votes)]
        return identify(self._today.base, self._day, digests)

    def _hash(self) -> Keys:
        if self._keys is None:
            self._keys = self._today.hash_rows()
        return self._keys

    def _match(self, day: str) -> Match | None:
        """Where today's items are among those of another day; None where these are forgotten."""
        if day == self._day:
            return Match(earlier=np.arange(self._n), new=0, changed=0, gone=0)
        if day not in self._matches:
            stored = self._kept.read(f"rows-{day}")
            rows = None if stored is None else np.frombuffer(stored, np.uint64).reshape(-1, 3)
            self._matches[day] = None if rows is None else match_rows(rows, self._hash())
        return self._matches[day]
