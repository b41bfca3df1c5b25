"""Rows drawn for training, and folds of gold rows for cross-fitting."""

from __future__ import annotations

import numpy as np

from tasks.core.types import GoldRows, Int64

GOLD_FOLDS = 5
LEAST_GOLD = 20
"""Gold rows from which a classifier may learn. From 10 rows one that fits all of them is no rarity, however wrong: on two
of six tasks single draws of 10 then cost 7 to 16 points, and of 20 one point at most."""

TRAINING_ROWS = 100_000
"""That the vote head and the student learn from at most: over a hundred per coefficient of 384 dimensions and two
classes, over ten of 768 and ten; time and memory of both stay those of so many rows."""


def draw_rows(rows: Int64, most: int, seed: int) -> Int64:
    """Return `rows`, or a random `most` of them if they are more, ascending if `rows` are."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))]


def is_enough_gold(gold: GoldRows) -> bool:
    """Return whether gold can be cross-fitted: at least `LEAST_GOLD` rows, of two classes."""
    return len(gold.rows) >= LEAST_GOLD and len(np.unique(gold.classes)) >= 2


def assign_folds(classes: Int64, n_folds: int, seed: int) -> Int64:
    """Return a fold 0..n_folds-1 for each row (g,) int64: a seeded shuffle, then dealt class by class.

    Every class is spread over the folds as evenly as it can be.
    """
    # scikit-learn's StratifiedKFold deals alike, but warns of rare classes, refuses where all of them are rare, and
    # gives other folds for the same seed, so that all labels with gold would change.
    order = np.random.default_rng(seed).permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    fold = np.empty(len(classes), dtype=np.int64)
    fold[order] = np.arange(len(classes)) % n_folds
    return fold
