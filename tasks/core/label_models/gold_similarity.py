"""The similarity of each item to the nearest gold row of each class.

Who is nearest is found as in `tasks.core.classifiers.nearest_items`, and the similarity to it is computed in float64: batches, threads
and what is taken from an earlier run cannot change the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.core.classifiers.known_nearest import EarlierNearest, Finder
from tasks.core.classifiers.nearest_items import hash_points, measure_pairs
from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.types import Allocate, Float32, GoldRows, Int32, Int64

GOLD_PAIRS = 1 << 32
"""Most comparisons of an item with a gold row: a minute on one core at d = 384."""

FEWEST = 1_000
"""Gold rows that are kept for comparison however many items there are."""


@dataclass(frozen=True, kw_only=True)
class NearestGold:
    """The nearest gold of each item.

    similarity: (n, k) float32, NaN where a class has no (other) gold row. nearest: (n, k) its position among the gold rows of the
    class, -1 where there is none.
    """

    similarity: Float32
    nearest: Int32


@dataclass(frozen=True, kw_only=True)
class EarlierGold:
    """What an earlier run found. of_class: (k) the nearest gold rows of each class; similarity: (n', k)."""

    of_class: tuple[EarlierNearest, ...]
    similarity: Float32


def thin_gold(gold: GoldRows, points: Float32) -> GoldRows:
    """Return the gold rows with which the items at `points` (n, d) are compared: all, or a part if that would take too long.

    Those with the smallest hashes of their embeddings are drawn, so that a few rows more or less draw nearly the same.
    """
    most = max(GOLD_PAIRS // max(len(points), 1), FEWEST)
    if len(gold.rows) <= most:
        return gold
    kept = np.sort(np.argsort(hash_points(points[gold.rows]), kind="stable")[:most])
    return GoldRows(rows=gold.rows[kept], classes=gold.classes[kept])


def measure_gold_similarity(
    embeddings: Float32, gold: GoldRows, n_classes: int, advance: Advance = ignore_progress
) -> Float32:
    """Return the similarity of each item to the nearest *other* gold row of each class, (n, k) float32, NaN if none.

    Parameters
    ----------
    embeddings
        (n, d) float32, scaled so that 1 - |x - y|^2 / 2 is their similarity: the cosine for unit vectors. O(n g d), in
        blocks of rows.
    advance
        Receives a single piece of work, block by block.
    """
    return recall_nearest_gold(embeddings, gold, n_classes, None, advance).similarity


def recall_nearest_gold(
    embeddings: Float32,
    gold: GoldRows,
    n_classes: int,
    earlier: EarlierGold | None = None,
    advance: Advance = ignore_progress,
    allocate: Allocate = np.zeros,
) -> NearestGold:
    """Return what `measure_gold_similarity` does, and who is nearest, from what an `earlier` run found as far as it holds.

    `allocate` makes the arrays of both.
    """
    position = np.full(len(embeddings), -1, dtype=np.int32)
    position[gold.rows] = np.arange(len(gold.rows))
    return _find_nearest(
        embeddings, embeddings[gold.rows], gold.classes, position, n_classes, earlier, advance, allocate
    )


def measure_similarity_to_gold(
    embeddings: Float32,
    gold_embeddings: Float32,
    classes: npt.NDArray[np.int64],
    k: int,
    itself: Int64 | None = None,
) -> Float32:
    """Return the similarity (q, k) float32 of items to the nearest gold row of each class.

    Parameters
    ----------
    embeddings
        (q, d) float32, as for `measure_gold_similarity`.
    gold_embeddings
        (g, d) float32, likewise.
    classes
        (g,) of the gold rows.
    itself
        (q,) positions of items among the gold rows, so that an item is not compared with itself; -1 for items that are
        not gold rows. None if no item is a gold row.
    """
    position = np.full(len(embeddings), -1, dtype=np.int64) if itself is None else itself
    return _find_nearest(embeddings, gold_embeddings, classes, position, k, None, ignore_progress, np.zeros).similarity


def _find_nearest(
    embeddings: Float32,
    gold_embeddings: Float32,
    classes: Int64,
    position: Int32 | Int64,
    n_classes: int,
    earlier: EarlierGold | None,
    advance: Advance,
    allocate: Allocate,
) -> NearestGold:
    """Return `recall_nearest_gold`, where position (n,) is an item's own row among the gold rows, -1 if it has none."""
    n = len(embeddings)
    similarity = allocate((n, n_classes), np.float32)
    nearest = allocate((n, n_classes), np.int32)
    similarity[:], nearest[:] = np.nan, -1
    within = np.full(len(classes), -1, dtype=np.int64)  # position among the gold rows of the same class
    others, finders = {}, {}
    for c in np.unique(classes).tolist():
        rows = np.flatnonzero(classes == c)
        within[rows] = np.arange(len(rows))
        others[c] = gold_embeddings[rows]
        finders[c] = Finder(others[c], 1, 1, None if earlier is None else earlier.of_class[c])
    size = min((finder.size for finder in finders.values()), default=max(n, 1))
    parts = [slice(at, min(at + size, n)) for at in range(0, n, size)]
    with count_steps(advance, len(parts)) as step:
        for part in parts:
            block, own = embeddings[part], position[part]
            is_gold = np.flatnonzero(own >= 0)
            for c, finder in finders.items():
                itself = np.full(len(block), -1, dtype=np.int64)
                mine = is_gold[classes[own[is_gold]] == c]
                itself[mine] = within[own[mine]]
                found = finder.find(block, itself, part)[:, 0]
                nearest[part, c] = found
                is_unknown = found >= 0
                if earlier is not None:
                    is_known = is_unknown & (finder.recall(part)[:, 0] == found)
                    known = part.start + np.flatnonzero(is_known)
                    similarity[known, c] = earlier.similarity[earlier.of_class[c].row[known], c]
                    is_unknown &= ~is_known
                rows = np.flatnonzero(is_unknown)
                similarity[part.start + rows, c] = (
                    1 - measure_pairs(block, rows, others[c], found[rows].astype(np.int64)) / 2
                )
            step(1)
    return NearestGold(similarity=similarity, nearest=nearest)
