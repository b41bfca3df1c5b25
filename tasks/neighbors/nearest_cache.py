"""The items nearest to each item, found again among those of an earlier run: see `tasks.core.classifiers.known_nearest`.

An entry of the cache holds the keys of the items of one run and their embeddings (`tasks.cache.row_keys`), who of them was in
the reference, and the nearest of each.
"""

from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl

from tasks.cache import row_keys
from tasks.cache.code import identify_code
from tasks.cache.row_keys import Keys, hash_vectors, match_rows
from tasks.cache.store import Cache, identify
from tasks.core.classifiers.known_nearest import REMEMBERED, EarlierNearest, recall_nearest_items
from tasks.core.classifiers.nearest_items import NearestItems, Reference, choose_reference
from tasks.core.progress_callback import Advance
from tasks.core.types import Float32, Int32

CACHE_KIND = "nearest"
"""The kind of the cache's entries."""

_RUNS = 2
"""Runs kept: the last one, and one more for who switches between two inputs."""

_BLOCK = 16_384
"""Items hashed at a time."""

_KEY, _ROW = 24, 4
"""Bytes of an item's key, and of a position."""


def find_nearest_items_again(root: Path, ids: pl.Series, points: Float32, advance: Advance) -> NearestItems:
    """Return the items nearest to each of `points` (n, d), whose `ids` (n,) ascend, and remember them below `root`.

    `advance` receives a single piece of work.
    """
    reference = choose_reference(points)
    others = points if len(reference.rows) == len(points) else points[reference.rows]
    keys = np.empty((len(ids), 3), np.uint64)
    for start in range(0, len(ids), _BLOCK):
        part = slice(start, start + _BLOCK)
        keys[part] = hash_vectors(ids[part], points[part])
    with Cache(root, CACHE_KIND) as cache:
        base = identify(identify_code("tasks.core.classifiers.known_nearest"), row_keys.VERSION) + "-"
        earlier = next(
            (found for name in cache.find(base) if (found := _read(cache, name, keys, reference)) is not None), None
        )
        nearest, remembered = recall_nearest_items(points, reference, others, earlier, advance)
        cache.write(base + sha256(keys.data).hexdigest(), *_pack(keys, reference, remembered))
        cache.keep_latest(base, _RUNS)
    return nearest


def _pack(keys: Keys, reference: Reference, remembered: Int32) -> tuple[bytes | memoryview, ...]:
    """Return the parts of an entry, as they are stored one after the other."""
    head = len(keys).to_bytes(8, "little")
    rows = reference.rows.astype("<i4")
    return head, keys.data, remembered.astype("<i4", copy=False).data, rows.data


def _read(cache: Cache, name: str, keys: Keys, reference: Reference) -> EarlierNearest | None:
    """Return what the entry `name` says of the items with these `keys`; None where it is damaged."""
    stored = cache.map(name)
    if stored is None:
        return None
    n = int.from_bytes(stored[:8], "little")
    middle = 8 + _KEY * n
    end = middle + _ROW * REMEMBERED * n
    row = match_rows(np.frombuffer(stored, np.uint64, 3 * n, 8).reshape(n, 3), keys).earlier
    nearest = np.frombuffer(stored, "<i4", REMEMBERED * n, middle).reshape(n, REMEMBERED)
    rows = np.frombuffer(stored, "<i4", -1, end)
    # Where the reference items of then are now: items in the order of their ids in both runs.
    position = np.full(n, -1, np.int32)
    position[rows] = np.arange(len(rows))
    was = row[reference.rows]
    before = np.where(was >= 0, position[was], -1)
    now = np.full(len(rows), -1, np.int32)
    now[before[before >= 0]] = np.flatnonzero(before >= 0)
    return EarlierNearest(nearest=nearest, row=row, now=now, is_new=before < 0)
