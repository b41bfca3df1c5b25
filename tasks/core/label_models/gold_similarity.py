"""The similarity of items to the nearest gold row of each class.

It is that of `tasks.core.similarity`, as points see it: the cosine, or 1 - |x - y|^2 / 2. Products only select candidates, so
that batches and threads cannot change the result.
"""

import numpy as np

from tasks.core.classifiers.nearest_items import PRODUCTS, Scorer, find_reaching, hash_points
from tasks.core.mapped_rows import fetch_rows
from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.similarity import compare_pairs, to_cosine
from tasks.core.slices import cut_slices
from tasks.core.threads import map_in_threads
from tasks.core.types import Float32, GoldRows, Int64, MetricName

GOLD_PAIRS = 1 << 32
"""Most comparisons of an item with a gold row: at d = 384 some 14 s of a core with 8-bit products, 40 s without."""

FEWEST = 1_000
"""Gold rows that are kept for comparison however many items there are."""


def thin_gold(gold: GoldRows, points: Float32) -> GoldRows:
    """Return the gold rows with which the items at `points` (n, d) are compared: all, or a part if that would take too long.

    Those with the smallest hashes of their embeddings are drawn, so that a few rows more or less draw nearly the same.
    """
    most = max(GOLD_PAIRS // max(len(points), 1), FEWEST)
    if len(gold.rows) <= most:
        return gold
    kept = np.sort(np.argsort(hash_points(points[gold.rows]), kind="stable")[:most])
    return GoldRows(rows=gold.rows[kept], classes=gold.classes[kept])


def measure_similarity_to_gold(
    points: Float32,
    gold_points: Float32,
    classes: Int64,
    k: int,
    metric: MetricName,
    itself: Int64 | None = None,
    advance: Advance = ignore_progress,
) -> Float32:
    """Return the similarity (q, k) float32 of items to the nearest gold row of each class, NaN where there is none. O(q g d).

    Parameters
    ----------
    points
        (q, d) float32, as in `tasks.tables.scaled_embeddings`: unit vectors for cosine.
    gold_points
        (g, d) float32, likewise.
    classes
        (g,) of the gold rows.
    itself
        (q,) positions of items among the gold rows, so that an item is not compared with itself; -1 for items that are
        not gold rows. None if no item is a gold row.
    advance
        Receives a single piece of work.
    """
    similarity = np.full((len(points), k), np.nan, np.float32)
    order = np.argsort(classes, kind="stable")
    scorer, bounds = Scorer(gold_points[order]), np.searchsorted(classes[order], np.arange(k + 1))
    own = np.full(len(points), -1, dtype=np.int64)
    if itself is not None and len(order):
        own = np.where(itself >= 0, np.argsort(order)[itself], -1)
    parts = cut_slices(len(points), max(PRODUCTS // max(len(order), 1), 1))

    def compare(part: slice) -> None:
        block = fetch_rows(points, part)
        scores, margin = scorer.score(block, own[part])
        for c in np.flatnonzero(np.diff(bounds)):
            of_class = scores[:, bounds[c] : bounds[c + 1]]
            row, column = find_reaching(of_class, of_class.max(axis=1) - margin)
            near = compare_pairs(block, row, scorer.others, bounds[c] + column, metric)
            first = np.flatnonzero(np.diff(row, prepend=-1))
            if len(first):
                similarity[part.start + row[first], c] = to_cosine(np.maximum.reduceat(near, first), metric)

    with count_steps(advance, len(parts)) as step:
        for _ in map_in_threads(compare, parts):
            step(1)
    return similarity
