"""The similarity of each item to the nearest gold row of each class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from tasks.core.classifiers.folds import draw_rows
from tasks.core.label_models.nearvote import BLOCK, FEWEST_NEIGHBORS
from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.types import Float32, GoldRows

GOLD_PAIRS = 1 << 32
"""Most comparisons of an item with a gold row: a minute on one core at d = 384."""


def thin_gold(gold: GoldRows, n: int, seed: int = 0) -> GoldRows:
    """Return the gold rows with which n items are compared: all, or a random part if that would take too long."""
    kept = draw_rows(np.arange(len(gold.rows)), max(GOLD_PAIRS // max(n, 1), FEWEST_NEIGHBORS), seed)
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
    position = np.full(len(embeddings), -1, dtype=np.int64)
    position[gold.rows] = np.arange(len(gold.rows))
    return _measure_nearest(embeddings, embeddings[gold.rows], gold.classes, position, n_classes, advance)


def measure_similarity_to_gold(
    embeddings: Float32,
    gold_embeddings: Float32,
    classes: npt.NDArray[np.int64],
    k: int,
    itself: npt.NDArray[np.int64] | None = None,
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
    return _measure_nearest(embeddings, gold_embeddings, classes, position, k, ignore_progress)


def _measure_nearest(
    embeddings: Float32,
    gold_embeddings: Float32,
    classes: npt.NDArray[np.int64],
    position: npt.NDArray[np.int64],
    n_classes: int,
    advance: Advance,
) -> Float32:
    """Return `measure_gold_similarity`, where position (n,) is an item's own row among the gold rows, -1 if it has none."""
    nearest = np.full((len(embeddings), n_classes), np.nan, dtype=np.float32)
    squares = np.einsum("nd,nd->n", embeddings, embeddings)
    gold_squares = np.einsum("nd,nd->n", gold_embeddings, gold_embeddings)
    starts = range(0, len(embeddings), BLOCK)
    of_class = [np.flatnonzero(classes == c) for c in range(n_classes)]
    # A single thread, since the number of threads must not change a result.
    with threadpool_limits(limits=1), count_steps(advance, len(starts)) as step:
        for at in starts:
            # 1 - |x - y|^2 / 2 = xy + (1 - xx) / 2 + (1 - yy) / 2; the corrections vanish for unit vectors
            s = embeddings[at : at + BLOCK] @ gold_embeddings.T
            s += (1 - squares[at : at + BLOCK, None]) / 2 + (1 - gold_squares) / 2
            is_gold = np.flatnonzero(position[at : at + BLOCK] >= 0)
            s[is_gold, position[at + is_gold]] = np.nan
            for c, columns in enumerate(of_class):
                if len(columns):
                    nearest[at : at + BLOCK, c] = np.fmax.reduce(s.take(columns, axis=1), axis=1)
            step(1)
    return nearest
