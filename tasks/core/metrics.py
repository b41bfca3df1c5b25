"""How good probabilities are against gold: point values, calibration and bootstrap intervals.

Every function takes probabilities P, float (n, k), rows that sum to one, and gold, integer (n,), 0..k-1. A statistic
that the data leave undefined is NaN, never 0.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.slices import cut_slices
from tasks.core.ties import TIE, share_labels
from tasks.core.types import Allocate, Float64

GoldClasses = npt.NDArray[np.integer]

FLOOR = 1e-15
"""Log loss takes the probability of the gold class as at least this: one confident mistake costs 34.5, not infinity."""

BINS = 10
"""Calibration bins, at most: enough to show a shape."""

ROWS_PER_BIN = 10
"""Calibration bins hold at least about this many rows each: below, a bin shows its own luck."""

ENTRIES = 4_000_000
"""Entries of a block of bootstrap weights: 32 MB."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Confidence against accuracy in bins of about equal mass, in ascending confidence.

    confidence, accuracy: float64 (bins,), means of the bin in [0, 1]; count: int64 (bins,), rows, none of them 0.
    """

    confidence: Float64
    accuracy: Float64
    count: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How good one method's probabilities are on n rows with gold.

    confusion: float64 (k, k), rows are gold, columns are labels; a tied row is split evenly over its columns.
    support: int64 (k,), rows of each class. precision, recall, f1: float64 (k,); precision is NaN for a class that is
    never the label, recall and f1 for a class without gold. macro_f1 is the mean f1 over classes with gold. brier, in
    [0, 2], sums the squared errors of all classes. calibration_error is the expected calibration error, in [0, 1].
    """

    n: int
    accuracy: float
    macro_f1: float
    log_loss: float
    brier: float
    calibration_error: float
    confusion: Float64
    support: npt.NDArray[np.int64]
    precision: Float64
    recall: Float64
    f1: Float64


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """Statistics of M methods on the same B bootstrap resamples: float64 (M, B) each."""

    accuracy: Float64
    macro_f1: Float64
    log_loss: Float64
    brier: Float64


def score(P: Float64, gold: GoldClasses) -> Scores:
    """Return all scores of probabilities `P` against `gold`; with no row at all, everything but n and counts is NaN."""
    n, k = P.shape
    shares = share_labels(P) if n else np.zeros((0, k))
    confusion = _one_hot(gold, k).T @ shares
    hits, support, predicted = np.diag(confusion), np.bincount(gold, minlength=k), confusion.sum(axis=0)
    f1 = _f1(hits, predicted, support)
    return Scores(
        n=n,
        accuracy=float(_ratio(hits.sum(), n)),
        macro_f1=float(_mean_defined(f1)),
        log_loss=float(_ratio(_log_losses(P, gold).sum(), n)),
        brier=float(_ratio(_brier_losses(P, gold).sum(), n)),
        calibration_error=calibration_error(reliability(P, gold)),
        confusion=confusion,
        support=support,
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=f1,
    )


def reliability(P: Float64, gold: GoldClasses) -> Reliability:
    """Return the mean confidence (the highest probability) and accuracy per bin; no bins without rows.

    At most BINS bins of about equal mass. Rows of equal confidence stay in one bin, by the middle of their ranks, so
    that neither row order nor a vote pattern that many items share can split them; a bin may thus stay empty and is
    left out.
    """
    n = len(P)
    if n == 0:
        return Reliability(confidence=np.zeros(0), accuracy=np.zeros(0), count=np.zeros(0, np.int64))
    confidence = P.max(axis=1)
    correct = share_labels(P)[np.arange(n), gold]
    # Rounded to TIE, so that rows which differ by rounding noise alone are one group here too.
    _, group, size = np.unique(np.round(confidence / TIE), return_inverse=True, return_counts=True)
    middle = (np.cumsum(size) - size / 2) / n
    bins = max(1, min(BINS, n // ROWS_PER_BIN))
    bin_of_row = np.minimum((middle * bins).astype(np.int64), bins - 1)[group]
    count = np.bincount(bin_of_row, minlength=bins)
    filled = count > 0
    return Reliability(
        confidence=np.bincount(bin_of_row, confidence, bins)[filled] / count[filled],
        accuracy=np.bincount(bin_of_row, correct, bins)[filled] / count[filled],
        count=count[filled].astype(np.int64),
    )


def calibration_error(curve: Reliability) -> float:
    """Return the expected calibration error in [0, 1]: the mean over rows of |accuracy - confidence| of their bin.

    Source: Naeini, Cooper and Hauskrecht 2015, with bins of equal mass; NaN without rows.
    """
    gap = np.abs(curve.accuracy - curve.confidence)
    return float(_ratio((gap * curve.count).sum(), curve.count.sum()))


def resample(
    probabilities: list[Float64],
    gold: GoldClasses,
    *,
    resamples: int,
    seed: int,
    advance: Advance = ignore_progress,
    allocate: Allocate = np.zeros,
) -> Resampled:
    """Return statistics of several methods on the same `resamples` bootstrap samples of the rows (at least one row).

    `probabilities` holds M arrays (n, k) over the same rows; sharing the samples is what makes differences between
    methods paired. Row statistics are summed with the multinomial weights of a block of resamples at a time, so the
    cost is one matrix product per block and method, and memory does not grow with `resamples`. `advance` is told of one
    piece of work, block by block. `allocate` makes an array (n, 2 k + 2) for each method.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    n, k = probabilities[0].shape
    rows = [_row_statistics(P, gold, allocate) for P in probabilities]
    truth = _one_hot(gold, k)
    generator = np.random.default_rng(seed)
    accuracy, macro_f1, log_loss, brier = np.empty((4, len(rows), resamples))
    step = max(1, ENTRIES // n)
    with count_steps(advance, resamples) as count:
        for block in cut_slices(resamples, step):
            weights = _weights(generator, n, block.stop - block.start)
            support = weights @ truth
            for method, statistics in enumerate(rows):
                sums = weights @ statistics
                hits, predicted = sums[:, :k], sums[:, k : 2 * k]
                accuracy[method, block] = hits.sum(axis=1) / n
                macro_f1[method, block] = _mean_defined(_f1(hits, predicted, support))
                log_loss[method, block] = sums[:, 2 * k] / n
                brier[method, block] = sums[:, 2 * k + 1] / n
            count(block.stop - block.start)
    return Resampled(accuracy=accuracy, macro_f1=macro_f1, log_loss=log_loss, brier=brier)


def percentile_interval(samples: Float64, confidence: float) -> Float64:
    """Return the lower and upper end of the central `confidence` share of samples: float64 (..., 2) from (..., B).

    Source: the percentile method of Efron and Tibshirani 1993, chapter 13. NaN without samples.
    """
    if samples.shape[-1] == 0:
        return np.full((*samples.shape[:-1], 2), np.nan)
    tail = (1 - confidence) / 2
    return np.moveaxis(np.quantile(samples, [tail, 1 - tail], axis=-1), 0, -1)


def _row_statistics(P: Float64, gold: GoldClasses, allocate: Allocate) -> Float64:
    """Return what each row adds to the sums behind every statistic: hits per class, labels per class, log loss, Brier."""
    n, k = P.shape
    shares, index = share_labels(P), np.arange(n)
    statistics = allocate((n, 2 * k + 2), np.float64)
    statistics[index, gold] = shares[index, gold]
    statistics[:, k : 2 * k] = shares
    statistics[:, 2 * k] = _log_losses(P, gold)
    statistics[:, 2 * k + 1] = _brier_losses(P, gold)
    return statistics


def _weights(generator: np.random.Generator, n: int, resamples: int) -> Float64:
    """Return how often each of n rows is drawn in each resample: float64 (resamples, n), rows sum to n."""
    draws = generator.integers(0, n, size=(resamples, n))
    draws += np.arange(resamples)[:, None] * n
    return np.bincount(draws.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def _one_hot(gold: GoldClasses, k: int) -> Float64:
    truth = np.zeros((len(gold), k))
    truth[np.arange(len(gold)), gold] = 1
    return truth


def _log_losses(P: Float64, gold: GoldClasses) -> Float64:
    losses: Float64 = -np.log(np.maximum(P[np.arange(len(P)), gold], FLOOR))
    return losses


def _brier_losses(P: Float64, gold: GoldClasses) -> Float64:
    errors = P.astype(np.float64)
    errors[np.arange(len(P)), gold] -= 1
    losses: Float64 = np.square(errors).sum(axis=1)
    return losses


def _f1(hits: Float64, predicted: Float64, support: npt.ArrayLike) -> Float64:
    """Return 2 hits / (predicted + support) where there is support, else NaN."""
    size = np.asarray(support, np.float64)
    return np.where(size > 0, _ratio(2 * hits, predicted + size), np.nan)


def _mean_defined(values: Float64) -> Float64:
    """Return the mean over the last axis of what is not NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Float64:
    """Return part / whole as float64, NaN where whole is 0."""
    over, under = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    shape = np.broadcast_shapes(over.shape, under.shape)
    quotient: Float64 = np.divide(over, under, out=np.full(shape, np.nan), where=under > 0)
    return quotient
