"""The items and the gold nearest to each item, found again among those of an earlier run: see `tasks.core.classifiers.known_nearest`.

An entry of the cache holds the keys of the items of one run and their embeddings (`tasks.cache.row_keys`), who of them was in
the reference, or gold of which class, and the nearest of each.
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
from tasks.core.label_models.gold_similarity import EarlierGold, recall_nearest_gold
from tasks.core.progress_callback import Advance
from tasks.core.types import Float32, GoldRows, Int32, Int64
from tasks.tables.scratch import open_scratch

CACHE_KIND = "nearest"
"""The kind of the cache's entries."""

_RUNS = 2
"""Runs kept: the last one, and one more for who switches between two inputs."""

_BLOCK = 16_384
"""Items hashed at a time."""

_KEY, _WORD = 24, 4
"""Bytes of an item's key, and of a position or a similarity."""

T = TypeVar("T")


class KnownItems:
    """Items, and what is nearest to them, remembered in the project at `root`."""

    def __init__(self, root: Path, ids: pl.Series, points: Float32, folder: Path) -> None:
        """`ids` (n,) of the items ascend; `points` (n, d); scratch files are below `folder`."""
        self._root, self._points = root, points
        self._allocate = partial(open_scratch, folder)
        self._keys: Keys = self._allocate((len(ids), _KEY // 8), np.uint64)
        for start in range(0, len(ids), _BLOCK):
            part = slice(start, start + _BLOCK)
            self._keys[part] = hash_vectors(ids[part], points[part])

    def find_nearest_items(self, advance: Advance) -> NearestItems:
        """Return the items nearest to each; `advance` receives a single piece of work."""
        reference = choose_reference(self._points)
        others = self._points if len(reference.rows) == len(self._points) else self._points[reference.rows]
        base = identify(identify_code("tasks.core.classifiers.known_nearest"), row_keys.VERSION) + "-"
        with Cache(self._root, CACHE_KIND) as cache:
            earlier = _read_first(cache, base, lambda stored: _read_nearest(stored, self._keys, reference.rows))
            nearest, remembered = recall_nearest_items(
                self._points, reference, others, earlier, advance, self._allocate
            )
            self._write(cache, base, reference.rows.astype("<i4"), remembered)
        return nearest

    def measure_gold_similarity(self, gold: GoldRows, k: int, advance: Advance) -> Float32:
        """Return what `tasks.core.label_models.gold_similarity.measure_gold_similarity` does."""
        base = identify(identify_code("tasks.core.label_models.gold_similarity"), row_keys.VERSION, k) + "-"
        with Cache(self._root, CACHE_KIND) as cache:
            earlier = _read_first(cache, base, lambda stored: _read_gold(stored, self._keys, gold, k))
            found = recall_nearest_gold(self._points, gold, k, earlier, advance, self._allocate)
            told = np.stack([gold.rows, gold.classes]).astype("<i4")
            self._write(cache, base, told, found.nearest, found.similarity)
        return found.similarity

    def _write(self, cache: Cache, base: str, members: Int32, *found: Int32 | Float32) -> None:
        """Keep what was `found` of each item, and who the `members` were."""
        digest = sha256(self._keys.data)
        digest.update(members.data)
        parts = (array.astype(array.dtype.newbyteorder("<"), copy=False).data for array in found)
        cache.write(
            base + digest.hexdigest(), len(self._keys).to_bytes(8, "little"), self._keys.data, *parts, members.data
        )
        cache.keep_latest(base, _RUNS)


def _read_first(cache: Cache, base: str, read: Callable[[memoryview], T]) -> T | None:
    """Return what `read` makes of the newest sound entry; None where there is none."""
    stored = next((stored for name in cache.find(base) if (stored := cache.map(name)) is not None), None)
    return None if stored is None else read(stored)


def _read_nearest(stored: memoryview, keys: Keys, reference: Int64) -> EarlierNearest:
    """Return what an entry says of the items with these `keys`, of which the rows `reference` may be near others."""
    n, at, row = _read_rows(stored, keys)
    nearest = np.frombuffer(stored, "<i4", REMEMBERED * n, at).reshape(n, REMEMBERED)
    return _follow(nearest, row, np.frombuffer(stored, "<i4", -1, at + _WORD * REMEMBERED * n), reference)


def _read_gold(stored: memoryview, keys: Keys, gold: GoldRows, k: int) -> EarlierGold:
    """Return what an entry says of the items with these `keys`, of which the rows `gold` may be near others."""
    n, at, row = _read_rows(stored, keys)
    nearest = np.frombuffer(stored, "<i4", k * n, at).reshape(n, k)
    similarity = np.frombuffer(stored, "<f4", k * n, at + _WORD * k * n).reshape(n, k)
    rows, classes = np.frombuffer(stored, "<i4", -1, at + 2 * _WORD * k * n).reshape(2, -1)
    return EarlierGold(
        of_class=tuple(
            _follow(nearest[:, c : c + 1], row, rows[classes == c], gold.rows[gold.classes == c]) for c in range(k)
        ),
        similarity=similarity,
    )


def _read_rows(stored: memoryview, keys: Keys) -> tuple[int, int, Int64]:
    """Return how many items an entry has, where their keys end, and where among them those with these `keys` are."""
    n = int.from_bytes(stored[:8], "little")
    return n, 8 + _KEY * n, match_rows(np.frombuffer(stored, np.uint64, 3 * n, 8).reshape(n, 3), keys).earlier


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
