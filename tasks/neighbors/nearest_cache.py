"""The items and the gold nearest to each item, found again among those of an earlier run: see `tasks.core.classifiers.known_nearest`.

An entry of the cache holds the keys of the items of one run and their embeddings (`tasks.cache.row_keys`), who of them was in
the reference, and the nearest of each. Gold is remembered as the `search` stage remembers an LF.
"""

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl

from tasks.cache import row_keys
from tasks.cache.code import identify_code
from tasks.cache.row_keys import Keys, hash_vectors, match_rows
from tasks.cache.store import Cache, identify
from tasks.core.classifiers.known_nearest import REMEMBERED, EarlierNearest, recall_nearest_items
from tasks.core.classifiers.nearest_items import NearestItems, choose_reference
from tasks.core.label_models.gold_similarity import measure_similarity_to_gold
from tasks.core.progress_callback import Advance
from tasks.core.similarity import to_cosine
from tasks.core.slices import cut_slices
from tasks.core.types import ABSTAIN, Float32, GoldRows, Int32, Int64, MetricName
from tasks.neighbors.cache import CurrentRun, NeighborCache
from tasks.neighbors.columns import NeighborColumns
from tasks.tables.scratch import open_scratch

CACHE_KIND = "nearest"
"""The kind of the cache's entries."""

FEW_PAIRS = 1 << 26
"""Pairs of an item and a gold row that are compared anew each time, within a second."""

_GOLD = "gold"
"""The LF that votes on gold rows."""

_RUNS = 2
"""Runs kept: the last one, and one more for who switches between two inputs."""

_BLOCK = 16_384
"""Items hashed at a time."""

_KEY, _WORD = 24, 4
"""Bytes of an item's key, and of a position or a similarity."""

T = TypeVar("T")


class KnownItems:
    """Items, and what is nearest to them, remembered in the project at `root`."""

    def __init__(self, root: Path, ids: pl.Series, points: Float32, metric: MetricName, folder: Path) -> None:
        """`ids` (n,) of the items ascend; `points` (n, d); scratch files are below `folder`."""
        self._root, self._points, self._metric, self._folder = root, points, metric, folder
        self._keys: Keys = open_scratch(folder, (len(ids), _KEY // 8), np.uint64)
        for part in cut_slices(len(ids), _BLOCK):
            self._keys[part] = hash_vectors(ids[part], points[part])

    def find_nearest_items(self, advance: Advance) -> NearestItems:
        """Return the items nearest to each; `advance` receives a single piece of work."""
        reference = choose_reference(self._points)
        others = self._points if len(reference.rows) == len(self._points) else self._points[reference.rows]
        base = identify(identify_code("tasks.core.classifiers.known_nearest"), row_keys.VERSION) + "-"
        with Cache(self._root, CACHE_KIND) as cache:
            earlier = _read_first(cache, base, lambda stored: _read_nearest(stored, self._keys, reference.rows))
            nearest, remembered = recall_nearest_items(
                self._points, reference, others, earlier, advance, partial(open_scratch, self._folder)
            )
            self._write(cache, base, reference.rows.astype("<i4"), remembered)
        return nearest

    def measure_gold_similarity(self, gold: GoldRows, k: int) -> Float32:
        """Return the similarity of each item to the nearest *other* gold row of each class, (n, k) float32, NaN if none."""
        rows = np.arange(len(gold.rows))
        if len(self._points) * len(rows) <= FEW_PAIRS:
            itself = np.full(len(self._points), -1)
            itself[gold.rows] = rows
            return self._compare_with_gold(slice(None), gold, k, itself)
        similarity = open_scratch(self._folder, (len(self._points), k), np.float32)
        similarity[:] = np.nan
        found = self._search_gold(gold)
        for c, near in zip(found.labels, found.similarity, strict=True):
            similarity[:, c] = to_cosine(near, self._metric)
        similarity[gold.rows] = self._compare_with_gold(gold.rows, gold, k, rows)
        return similarity

    def _search_gold(self, gold: GoldRows) -> NeighborColumns:
        """Return the neighbors of an LF that votes on the gold rows: the nearest gold of each other item."""
        from tasks.neighbors.exactly import Space, search_exactly  # Numba, which little gold need not wait for

        votes, lends = np.full((len(self._points), 1), ABSTAIN, np.int8), np.ones(len(self._points), bool)
        votes[gold.rows, 0] = gold.classes
        run = CurrentRun(
            base=[identify_code("tasks.neighbors.exactly"), self._metric],
            content=sha256(self._keys.data).hexdigest(),
            lends=lends,
            hash_rows=lambda: self._keys,
        )
        with Cache(self._root, CACHE_KIND) as entries:
            cache = NeighborCache(entries, run)
            known = cache.recall(votes[:, 0])
            if known is not None:
                return known
            space = Space(vectors=self._points, metric=self._metric, lends=lends, cells=None, scratch=self._folder)
            titles = "comparing with gold", "comparing with new gold"
            (found,) = search_exactly(space, votes, [_GOLD], cache, titles, is_spread=False).columns
            cache.keep_rows()
            cache.keep(_GOLD, votes[:, 0], found)
        return found

    def _compare_with_gold(self, rows: Int64 | slice, gold: GoldRows, k: int, itself: Int64) -> Float32:
        points, metric = self._points, self._metric
        return measure_similarity_to_gold(points[rows], points[gold.rows], gold.classes, k, metric, itself)

    def _write(self, cache: Cache, base: str, members: Int32, nearest: Int32) -> None:
        """Keep who is `nearest` to each item, and who the `members` were."""
        digest = sha256(self._keys.data)
        digest.update(members.data)
        count, found = len(self._keys).to_bytes(8, "little"), nearest.astype("<i4", copy=False)
        cache.write(base + digest.hexdigest(), count, self._keys.data, found.data, members.data)
        cache.keep_latest(base, _RUNS)


def _read_first(cache: Cache, base: str, read: Callable[[memoryview], T]) -> T | None:
    """Return what `read` makes of the newest sound entry; None where there is none."""
    stored = next((stored for name in cache.find(base) if (stored := cache.map(name)) is not None), None)
    return None if stored is None else read(stored)


def _read_nearest(stored: memoryview, keys: Keys, reference: Int64) -> EarlierNearest:
    """Return what an entry says of the items with these `keys`, of which the rows `reference` may be near others."""
    n = int.from_bytes(stored[:8], "little")
    row = match_rows(np.frombuffer(stored, np.uint64, 3 * n, 8).reshape(n, 3), keys).earlier
    at = 8 + _KEY * n
    nearest = np.frombuffer(stored, "<i4", REMEMBERED * n, at).reshape(n, REMEMBERED)
    return _follow(nearest, row, np.frombuffer(stored, "<i4", -1, at + _WORD * REMEMBERED * n), reference)


def _follow(nearest: Int32, row: Int64, before: Int32, after: Int64) -> EarlierNearest:
    """Return what was found where the items in the rows `before` were near others, for those in the rows `after` now.

    Both ascend, and so do the ids of the items.
    """
    position = np.full(len(nearest), -1, np.int32)
    position[before] = np.arange(len(before))
    was = row[after]
    found = np.where(was >= 0, position[was], -1)
    now = np.full(len(before), -1, np.int32)
    now[found[found >= 0]] = np.flatnonzero(found >= 0)
    return EarlierNearest(nearest=nearest, row=row, now=now, is_new=found < 0)
