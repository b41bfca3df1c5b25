"""Neighbors that earlier runs found, by what determines them, and which of them are valid in this run.

An entry of the cache holds what one LF found among one snapshot of the items; beside it, once for all LFs, are the keys
of these items and their embeddings (see tasks.cache.row_keys). An LF's name only says where to look: the votes and keys
in an entry tell what of it is valid.
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

_SNAPSHOTS = 3
"""Snapshots kept of an LF: the current one, the last one, and one more for who switches between two inputs."""


@dataclass(frozen=True, kw_only=True)
class CurrentRun:
    """What determines the neighbors of an LF in this run, beside its votes."""

    base: Part
    """What a neighbor is: code, metric, the centers of cells if the index is approximate."""
    content: Part
    """What neighbors are searched among: the items, their embeddings, and what an approximate index makes of them."""
    lends: Bool
    """(n,) whether an item is a reference."""
    hash_rows: Callable[[], Keys]
    """The keys of items and their embeddings; not asked for unless they are needed."""


@dataclass(frozen=True, kw_only=True)
class PreviousEntry:
    """An entry of another snapshot, or of other votes."""

    entry: Entry
    row: Int64
    """(n,) the row of each current item in that snapshot, with the same embedding; -1: it has none."""


class NeighborCache:
    """Cached neighbors, in `entries`, of LFs that are given by name and votes, int8 of shape (n,)."""

    def __init__(self, entries: Cache, run: CurrentRun) -> None:
        self._entries, self._run = entries, run
        self._snapshot = identify(row_keys.VERSION, run.content)
        self._n = len(run.lends)
        self._keys: Keys | None = None
        self._matches: dict[str, Match | None] = {}
        self._names = entries.find("")

    def recall(self, votes: Votes) -> NeighborColumns | None:
        """What an LF with these votes found, under whatever name, among the same items."""
        state = self._identify(votes)
        for name in self._names:
            if name.endswith(state):
                stored = self._entries.map(name)
                if stored is not None:
                    return unpack(stored).columns
        return None

    def recall_previous(self, lf: str) -> PreviousEntry | None:
        """What the LF of this name found last, with other votes or among other items."""
        for name in self._entries.find(self._name(lf)):
            stored = self._entries.map(name)
            entry = None if stored is None else unpack(stored)
            match = None if entry is None else self._match(entry.snapshot)
            if entry is not None and match is not None:
                return PreviousEntry(entry=entry, row=match.earlier)
        return None

    def keep(self, lf: str, votes: Votes, columns: NeighborColumns) -> None:
        """Store what an LF with these votes found among the current items."""
        entry = Entry(columns=columns, snapshot=self._snapshot, support=mark_support(votes, self._run.lends))
        self._entries.write(self._name(lf) + self._identify(votes), *pack(entry))
        self._entries.keep_latest(self._name(lf), _SNAPSHOTS)

    def keep_rows(self) -> None:
        """Store the keys of the current items, without which a later run cannot tell what of an entry is valid."""
        if not self._entries.find(f"rows-{self._snapshot}"):
            self._entries.write(f"rows-{self._snapshot}", self.keys.data)
            self._entries.keep_latest("rows-", _SNAPSHOTS)

    @property
    def keys(self) -> Keys:
        """The keys of the current items (n, 3)."""
        if self._keys is None:
            self._keys = self._run.hash_rows()
        return self._keys

    def describe_changes(self) -> str | None:
        """How the current items differ from those of the snapshot that was used; None where they are the same."""
        matches = [
            match for snapshot, match in self._matches.items() if match is not None and snapshot != self._snapshot
        ]
        return matches[0].describe() if matches else None

    def _name(self, lf: str) -> str:
        return identify(self._run.base, lf) + "-"

    def _identify(self, votes: Votes) -> str:
        digests = [hashlib.sha256(part.tobytes()).hexdigest() for part in (self._run.lends, votes)]
        return identify(self._run.base, self._snapshot, digests)

    def _match(self, snapshot: str) -> Match | None:
        """Where the current items are among those of `snapshot`; None where its keys are no longer stored."""
        if snapshot == self._snapshot:
            return Match(earlier=np.arange(self._n), new=0, changed=0, gone=0)
        if snapshot not in self._matches:
            stored = self._entries.map(f"rows-{snapshot}")
            rows = None if stored is None else np.frombuffer(stored, np.uint64).reshape(-1, 3)
            self._matches[snapshot] = None if rows is None else match_rows(rows, self.keys)
        return self._matches[snapshot]
