"""The items and the gold nearest to each item, found again among those of an earlier run: see `tasks.core.classifiers.known_nearest`.

An entry of the cache holds the keys of the items of one run and their embeddings (`tasks.cache.row_keys`), who of them was in
the reference, and the nearest of each. Gold is remembered as the `search` stage remembers an LF that votes on gold rows; what these
have with each other, as long as they are the same.
"""

from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.cache import row_keys
from tasks.cache.code import identify_code
from tasks.cache.row_keys import Keys, hash_vectors, match_rows
from tasks.cache.store import Cache, identify
from tasks.core.classifiers.known_nearest import REMEMBERED, EarlierNearest, recall_nearest_items
from tasks.core.classifiers.nearest_items import NearestItems, choose_reference
from tasks.core.label_models.gold_similarity import measure_similarity_to_gold
from tasks.core.mapped_rows import fetch_rows
from tasks.core.progress_callback import WHOLE, Advance
from tasks.core.similarity import to_cosine
from tasks.core.slices import WIDE, cut_slices
from tasks.core.types import ABSTAIN, Float32, GoldRows, Int32, Int64, MetricName
from tasks.neighbors.cache import CurrentRun, NeighborCache
from tasks.neighbors.columns import NeighborColumns
from tasks.progress import Progress
from tasks.tables.scratch import open_scratch

CACHE_KIND = "nearest"
"""The kind of the cache's entries."""

FEW_PAIRS = 1 << 26
"""Pairs of an item and a gold row that are compared anew each time: at d = 384 within a second of a core."""

_GOLD = "gold"
"""The LF that votes on gold rows."""

_RUNS = 2
"""Runs kept: the last one, and one more for who switches between two inputs."""

_BLOCK = 16_384
"""Items hashed at a time."""

_KEY, _WORD = 24, 4
"""Bytes of an item's key, and of a position."""


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
        base = _name_entries("items")
        with Cache(self._root, CACHE_KIND) as cache:
            stored = next((found for name in cache.find(base) if (found := cache.map(name)) is not None), None)
            earlier = None if stored is None else _read_nearest(stored, self._keys, reference.rows)
            nearest, remembered = recall_nearest_items(
                self._points, reference, others, earlier, advance, partial(open_scratch, self._folder)
            )
            count, members = len(self._keys).to_bytes(8, "little"), reference.rows.astype("<i4")
            parts = count, self._keys.data, remembered.astype("<i4", copy=False).data, members.data
            cache.write(base + _digest(self._keys, members), *parts)
            cache.keep_latest(base, _RUNS)
        return nearest

    def measure_gold_similarity(self, gold: GoldRows, k: int) -> Float32:
        """Return the similarity of each item to the nearest *other* gold row of each class, (n, k) float32, NaN if none."""
        n, g = len(self._points), len(gold.rows)
        if n * g <= FEW_PAIRS:
            itself, others = np.full(n, -1), fetch_rows(self._points, gold.rows)
            itself[gold.rows] = np.arange(g)
            return measure_similarity_to_gold(self._points, others, gold.classes, k, self._metric, itself)
        similarity = open_scratch(self._folder, (n, k), np.float32)
        found = self._search_gold(gold)
        for part in cut_slices(n, WIDE):
            similarity[part] = np.nan
            for c, near in zip(found.labels, found.similarity, strict=True):
                similarity[part, c] = to_cosine(near[part], self._metric)
        similarity[gold.rows] = self._compare_gold(gold, k)
        return similarity

    def _search_gold(self, gold: GoldRows) -> NeighborColumns:
        """Return the neighbors of an LF that votes on the gold rows: the nearest gold of each other item."""
        from tasks.neighbors.exactly import Space, search_exactly  # Numba, which little gold need not wait for

        votes, lends = np.full((len(self._points), 1), ABSTAIN, np.int8), np.ones(len(self._points), bool)
        votes[gold.rows, 0] = gold.classes
        run = CurrentRun(
            base=[_name_entries("neighbors"), self._metric],
            content=_digest(self._keys),
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

    def _compare_gold(self, gold: GoldRows, k: int) -> Float32:
        """Return the similarity (g, k) of gold rows to the nearest other one of each class, known if they are the same as before."""
        g, base = len(gold.rows), _name_entries(f"gold {self._metric}")
        with Cache(self._root, CACHE_KIND) as cache:
            name = base + _digest(self._keys[gold.rows], gold.classes, np.array([k]))
            stored = cache.map(name)
            if stored is not None:
                return np.frombuffer(stored, "<f4").reshape(g, k)
            points = fetch_rows(self._points, gold.rows)
            with Progress("comparing gold", total=WHOLE) as progress:
                similarity = measure_similarity_to_gold(
                    points, points, gold.classes, k, self._metric, np.arange(g), progress.advance
                )
            cache.write(name, similarity.astype("<f4", copy=False).data)
            cache.keep_latest(base, _RUNS)
        return similarity


def _name_entries(what: str) -> str:
    """Return how the names of entries begin: by code, and how rows are told apart."""
    return identify(identify_code("tasks.neighbors.nearest_cache"), row_keys.VERSION, what) + "-"


def _digest(*arrays: npt.NDArray[Any]) -> str:
    digest = sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


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
