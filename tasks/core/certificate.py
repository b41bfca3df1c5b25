"""Which labels may be used unseen: the largest set of items whose error rate is at most a level, with stated confidence.

Items are ranked by the probability of their label. Gold rows, each judged by a model that had not learned from it, say how
often labels at or above a threshold are wrong. Thresholds are those that the top 2, 4, ... 100 % of all items reach, so that
no gold row's error has a part in them; of each, the errors among the gold rows above it are binomial, and an exact test asks whether
their rate may be above the level. Going down from a first threshold, tests stop at the first that fails, so that the chance
of a wrong set is that of one test and not of many. With much gold there are several first thresholds that share this chance: a high
one finds a small set where labels are poor, a low one is not stopped by a single error among few.

What this rests on: gold rows are drawn at random among the items, and a model that learned from a fifth less gold does not
rank items better than the one whose labels are shipped.

Source: B. L. Wiens, "A fixed sequence Bonferroni procedure for testing multiple endpoints", Pharmaceutical Statistics, 2003 (the sequence);
A. N. Angelopoulos, S. Bates, E. J. Candès, M. I. Jordan and L. Lei, "Learn then test", arXiv 2110.01052, 2021 (its use for
thresholds); C. J. Clopper and E. S. Pearson, Biometrika, 1934 (the test).
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy

from tasks.core.types import Bool, Float64, Int64

STEPS = 50
"""Thresholds; the set is found to within 2 % of the items."""

APART = 3
"""Of gold rows above a first threshold and above the next."""

DEEPEST = 0.6
"""Share of the gold rows that may be above the last first threshold. Of fifteen rules for first thresholds, tried on three tasks,
several were as good as this and none was better on all."""

MOST_ROWS = 5_000
"""Gold rows up to which it is foretold whether they give a set: who would label more will rather mend labels."""

GROWTH = 1.1
"""From one number of gold rows that is tried to the next."""

TENS = 10
"""To which foretold gold rows are rounded up."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What gold rows allow to be said.

    threshold: the least probability of its label with which an item is certified, None where no set is. judges: gold rows
    at or above it, errors: how many of them are wrong (0 and 0 without). missing: about how many more gold rows would
    give a set, 0 where there is one, None where more would not, the labels being as they are.
    """

    threshold: float | None
    judges: int
    errors: int
    missing: int | None


def count_fewest_rows(error_rate: float, confidence: float) -> int:
    """Return how many gold rows without an error show that the error rate is at most `error_rate`.

    >>> count_fewest_rows(0.05, 0.9)
    45
    """
    return math.ceil(math.log(1 - confidence) / math.log(1 - error_rate))


def find_certified(posterior: Float64, threshold: float | None) -> Bool:
    """Return which rows (n,) of a posterior (n, k) have a label of at least the `threshold` of a certificate."""
    if threshold is None:
        return np.zeros(len(posterior), dtype=np.bool_)
    return np.asarray(posterior.max(axis=1) >= threshold)


def certify(judged: Float64, is_wrong: Bool, everywhere: Float64, error_rate: float, confidence: float) -> Certificate:
    """Return the certificate for items whose labels have the probabilities `everywhere` (n,).

    Parameters
    ----------
    judged, is_wrong
        (g,) of gold rows, the probability of the label and whether it is wrong, from a model that had not learned from the row.
    everywhere
        (n,) of all items.
    error_rate, confidence
        In (0, 1): the set's error rate is at most the first, with the second as probability.

    Examples
    --------
    Fifty gold rows without an error certify everything; forty are five too few.

    >>> certify(np.linspace(0.5, 1, 50), np.zeros(50, bool), np.linspace(0.5, 1, 1000), 0.05, 0.9).threshold
    0.5
    >>> certify(np.linspace(0.5, 1, 40), np.zeros(40, bool), np.linspace(0.5, 1, 1000), 0.05, 0.9).missing
    5
    """
    fewest, n = count_fewest_rows(error_rate, confidence), len(everywhere)
    if len(judged) < fewest or n == 0:
        return Certificate(threshold=None, judges=0, errors=0, missing=max(fewest - len(judged), 0))
    share = np.arange(1, STEPS + 1) / STEPS
    thresholds = np.sort(everywhere)[::-1][np.ceil(share * n).astype(np.int64) - 1]
    order = np.argsort(-judged, kind="stable")
    rows = np.searchsorted(-judged[order], -thresholds, side="right")
    errors = np.r_[0, np.cumsum(is_wrong[order])][rows]
    found = _find_last(rows, errors, error_rate, 1 - confidence)
    if found is None:
        missing = _foretell(share, rows, errors, len(judged), error_rate, 1 - confidence)
        return Certificate(threshold=None, judges=0, errors=0, missing=missing)
    return Certificate(
        threshold=float(thresholds[found]), judges=int(rows[found]), errors=int(errors[found]), missing=0
    )


def _find_last(rows: Int64, errors: Int64, error_rate: float, chance: float) -> int | None:
    """Return the last threshold that passes, None where none does; (STEPS,) gold rows above each, and how many are wrong."""
    chances = scipy.special.bdtr(errors, rows, error_rate)
    found, carried = None, 0.0
    for step, given in enumerate(_share_chance(rows, error_rate, chance).tolist()):
        passes = carried + given > 0 and chances[step] <= carried + given
        found, carried = (step, carried + given) if passes else (found, 0.0)
    return found


def _share_chance(rows: Int64, error_rate: float, chance: float) -> Float64:
    """Return what each test has of the `chance` that the set is wrong, (STEPS,).

    Where the first tests are depends on the numbers of gold rows, not on their errors. That a threshold is the first with so many
    says that more of them than usual are just above it, where labels err most, which errs on the safe side.
    """
    starts: list[int] = []
    while True:
        fewest = count_fewest_rows(error_rate, 1 - chance / (len(starts) + 1))
        more = [fewest * APART**number for number in range(len(starts) + 1)]
        if starts and more[-1] > DEEPEST * rows[-1]:
            break
        starts = more
    given = np.zeros(len(rows))
    for start in starts:
        given[min(int(np.searchsorted(rows, start)), len(rows) - 1)] += chance / len(starts)
    return given


def _foretell(
    share: Float64, rows: Int64, errors: Int64, gold_rows: int, error_rate: float, chance: float
) -> int | None:
    """Return about how many more gold rows would give a set, if they went on to be wrong as often at each threshold."""
    rate = (errors + error_rate) / (rows + 1)
    total = float(gold_rows)
    while total < MOST_ROWS:
        total *= GROWTH
        expected = np.floor(share * total).astype(np.int64)
        if _find_last(expected, np.round(rate * expected).astype(np.int64), error_rate, chance) is not None:
            # What is foretold from few rows is not known to the row.
            return math.ceil((total - gold_rows) / TENS) * TENS
    return None
