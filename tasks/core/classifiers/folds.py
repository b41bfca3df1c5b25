"""Rows drawn for training, and folds of gold rows for cross-fitting."""

from __future__ import annotations

import numpy as np

from tasks.core.types import GoldRows, Int64

GOLD_FOLDS = 5
LEAST_GOLD = 20
"""Fewest gold rows from which a classifier may learn. With 10, a classifier that fits them all is often wrong: on two of
six tasks single draws of 10 cost 7 to 16 points, and single draws of 20 at most one point."""

TRAINING_ROWS = 100_000
"""Most rows from which the vote head and the student learn, which bounds their time and memory: over a hundred rows per
coefficient for 384 dimensions and two classes, over ten for 768 dimensions and ten classes."""


def draw_rows(rows: Int64, most: int, seed: int) -> Int64:
    """Return `rows`, or a random `most` of them if there are more, in the order of `rows`."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))]


def is_enough_gold(gold: GoldRows) -> bool:
    """Return whether there is enough gold for cross-fitting: at least `LEAST_GOLD` rows, of at least two classes."""
    return len(gold.rows) >= LEAST_GOLD and len(np.unique(gold.classes)) >= 2


def assign_folds(classes: Int64, n_folds: int, seed: int) -> Int64:
    """Return a fold 0..n_folds-1 for each row, (g,) int64; every class is spread over the folds as evenly as possible.

    Rows are shuffled by `seed`, then dealt class by class.
    """
    # scikit-learn's StratifiedKFold does the same, but warns about rare classes, fails if all are rare, and gives other
    # folds for the same seed, which would change every label made with gold.
    order = np.random.default_rng(seed).permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    fold = np.empty(len(classes), dtype=np.int64)
    fold[order] = np.arange(len(classes)) % n_folds
    return fold
