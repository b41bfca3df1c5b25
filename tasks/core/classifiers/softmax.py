"""Multinomial logistic regression (softmax) with L-BFGS, on soft targets.

Features are float32, the objective is float64. Fits run BLAS on a single thread, so that a result does not depend on
the number of threads.

Embeddings vary much more along some directions than along others, so that steps along the gradient are many: 50 to 80 on 75,000
rows of 384. A step in coordinates in which the objective is about as curved everywhere sees that: 5 or 6 then reach a lower
objective. The curvature is taken at equal class probabilities, where that of a class's log loss is (1 - 1/k) / k.

Source: D. Böhning, "Multinomial logistic regression algorithm", Annals of the Institute of Statistical Mathematics 44, 1992, for
a curvature that does not depend on the coefficients; J. Nocedal and S. Wright, "Numerical Optimization", 2006, section 5.1, for
such a change of coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy

from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.slices import WIDE, cut_slices
from tasks.core.threads import one_thread
from tasks.core.types import Float32, Float64

LOG_FLOOR = 1e-4
"""Smallest class probability in a feature that is a log probability."""

MOST_STEPS = 200
"""Most L-BFGS steps in a fit; with them and a tolerance of 1e-7, accuracies are the same as with 1e-9."""

SCALING_ROWS = 4096
"""Most rows, evenly spaced, of which the curvature is taken; how it is taken decides how many steps there are, not where they end."""

SCALING_COLUMNS = 2048
"""Most columns for which the curvature is taken: to invert it costs their number cubed, a second or two here."""

SCALING_LEAST = 4
"""Fewest rows per column for which it is taken: with 384 columns and 1,000 rows, it costs as much as the steps that it spares."""


class Rows(Protocol):
    """A matrix of features that is read by rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class SoftmaxRegression:
    """Multinomial logistic regression.

    coef: (d, k) float64; intercept: (k,) float64, minus infinity for a class of probability 0.
    """

    coef: Float64
    intercept: Float64


@runtime_checkable
class MappedRows(Protocol):
    """Features that are a linear map of other rows, and are made only when they are asked for."""

    def fold(self, model: SoftmaxRegression, /) -> tuple[Rows, SoftmaxRegression]:
        """Return those rows, and the regression on them that gives the scores of `model` on the features."""


def fit_softmax_regression(
    features: Float32, targets: Float64, weights: Float64, penalty: float, advance: Advance = ignore_progress
) -> SoftmaxRegression:
    """Return the minimizer of penalty * sum_i weights_i * cross-entropy(targets_i, softmax) + ||coef||^2 / 2.

    Parameters
    ----------
    features
        (n, d) float32.
    targets
        (n, k) float64, rows sum to 1.
    weights
        (n,) float64, nonnegative.
    penalty
        Inverse penalty, scikit-learn's C. The intercept is not penalized.
    advance
        Receives a single piece of work, step by step.

    Notes
    -----
    Soft targets cost no more than hard ones, since rows are not replicated. 13,000 x 384 x 4 takes less than a second.
    """
    with one_thread():
        return fit_softmax(features, targets, weights, penalty, None, advance)


def predict_log_proba(model: SoftmaxRegression, features: Rows) -> Float64:
    """Return log class probabilities (n, k) float64."""
    with one_thread():
        return normalize_scores(score_rows(model, features))


def fit_temperature(scores: Float64, targets: Float64) -> Float64:
    """Return the inverse temperature and k offsets, (1 + k,) float64, that minimize the log loss on weighted targets.

    scores, targets: (n, k) float64, read `WIDE` rows at a time; a row of targets sums to its weight. The inverse temperature is kept
    in [1/e, e^3], since separable votes would send it to infinity.
    """
    k = scores.shape[1]
    parts = cut_slices(len(scores), WIDE)
    total = sum(float(targets[part].sum(axis=1).sum()) for part in parts)

    def objective(v: Float64) -> tuple[float, Float64]:
        """Return log loss and its gradient at inverse temperature exp(v[0]) and offsets v[1:]."""
        value, gradient = 0.0, np.zeros(1 + k)
        for part in parts:
            log_p = normalize_scores(np.exp(v[0]) * scores[part] + v[1:])
            residual = targets[part].sum(axis=1, keepdims=True) * np.exp(log_p) - targets[part]
            gradient += np.r_[np.exp(v[0]) * (residual * scores[part]).sum(), residual.sum(axis=0)]
            value -= float((targets[part] * log_p).sum())
        return value / total, gradient / total

    v = scipy.optimize.minimize(
        objective, np.zeros(1 + k), jac=True, method="L-BFGS-B", bounds=[(-1.0, 3.0)] + [(-10.0, 10.0)] * k
    ).x
    return np.asarray(np.r_[np.exp(v[0]), v[1:]], dtype=np.float64)


def fit_softmax(
    features: Float32,
    targets: Float64,
    weights: Float64,
    penalty: float,
    start: SoftmaxRegression | None,
    advance: Advance,
) -> SoftmaxRegression:
    """Return the result of `fit_softmax_regression`, computed from a warm start if given."""
    d = features.shape[1]
    k = targets.shape[1]
    weighted = targets * weights[:, None]
    scaling = _find_scaling(features, weights, penalty * (1 - 1 / k) / k)

    def objective(v: Float64) -> tuple[float, Float64]:
        """Return objective and gradient at scaled coordinates v of coef and intercept, which are stacked as (d + 1, k)."""
        stacked = _unscale(v.reshape(d + 1, k), scaling)
        coef = stacked[:d].astype(np.float32)
        value = 0.0
        gradient = np.zeros((d + 1, k))
        for block in cut_slices(len(features)):
            x = features[block]
            log_p = (x @ coef).astype(np.float64)
            log_p += stacked[d]
            log_p -= _sum_exponentials(log_p)
            residual = np.exp(log_p)
            residual *= weights[block, None]
            residual -= weighted[block]
            log_p *= weighted[block]
            value -= float(log_p.sum())
            gradient[:d] += x.T @ residual.astype(np.float32)
            gradient[d] += residual.sum(axis=0)
        gradient *= penalty
        gradient[:d] += stacked[:d]
        if scaling is not None:
            gradient = scaling @ gradient
        return penalty * value + 0.5 * float((stacked[:d] ** 2).sum()), gradient.ravel()

    v0 = np.zeros((d + 1, k)) if start is None else np.vstack([start.coef, start.intercept])
    if start is not None and scaling is not None:
        v0 = np.linalg.solve(scaling.T, v0)
    options = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "ftol": 1e-7, "gtol": 1e-4}
    with count_steps(advance, MOST_STEPS) as step:
        found = scipy.optimize.minimize(
            objective, v0.ravel(), jac=True, method="L-BFGS-B", options=options, callback=lambda _: step(1)
        )
    stacked = _unscale(found.x.reshape(d + 1, k), scaling)
    return SoftmaxRegression(coef=stacked[:d], intercept=stacked[d])


def _find_scaling(features: Float32, weights: Float64, curvature: float) -> Float64 | None:
    """Return S (d + 1, d + 1) so that the objective is about as curved in all directions at coefficients S^T v.

    `curvature` is that of the log loss of a class by its score, times the penalty. None where there are so few rows that steps
    cost less than S.
    """
    n, d = features.shape
    if n < SCALING_LEAST * d or d > SCALING_COLUMNS:
        return None
    rows = slice(None, None, -(-n // SCALING_ROWS))
    shares = weights[rows] * (curvature * n / len(weights[rows]))
    x = np.column_stack([features[rows], np.ones(len(shares))])  # in float64, in which the sum is positive definite
    x *= np.sqrt(shares)[:, None]
    hessian = np.eye(d + 1) + x.T @ x  # of one array with itself, BLAS computes half
    return np.asarray(scipy.linalg.lapack.dtrtri(np.linalg.cholesky(hessian), lower=1)[0])


def _unscale(v: Float64, scaling: Float64 | None) -> Float64:
    """Return the coefficients at scaled coordinates v (d + 1, k)."""
    return v if scaling is None else np.asarray(scaling.T @ v)


def score_rows(model: SoftmaxRegression, features: Rows) -> Float64:
    """Return unnormalized log probabilities (n, k) float64."""
    scores = np.empty((len(features), len(model.intercept)))
    for block, found in _score_blocks(model, features):
        scores[block] = found
    return scores


def write_log_proba(model: SoftmaxRegression, features: Rows, into: Float64) -> None:
    """Write log class probabilities `into` an array (n, k), which may be on disk."""
    for block, found in _score_blocks(model, features):
        into[block] = normalize_scores(found)


def _score_blocks(model: SoftmaxRegression, features: Rows) -> Iterator[tuple[slice, Float64]]:
    """Yield unnormalized log probabilities (b, k) of `BLOCK` rows after the other."""
    if isinstance(features, MappedRows):
        features, model = features.fold(model)
    coef = model.coef.astype(np.float32)
    for block in cut_slices(len(features)):
        yield block, (features[block] @ coef).astype(np.float64) + model.intercept


def normalize_scores(scores: Float64) -> Float64:
    """Return scores minus their logsumexp over classes."""
    return np.asarray(scores - _sum_exponentials(scores))


def _sum_exponentials(scores: Float64) -> Float64:
    """Return the log of the sum of exponentials over classes, (n, 1), identical to scipy's `logsumexp` to the last digit.

    A fit with many classes spends most of its time here, and fewer copies halve it. (scipy's `log_softmax` rounds the
    last digit differently, which would change the bytes of labels.) With two classes, columns are added up: NumPy's loops over
    rows of two numbers take nine times as long.
    """
    top = np.maximum(scores[:, :1], scores[:, 1:]) if scores.shape[1] == 2 else scores.max(axis=1, keepdims=True)
    if not np.isfinite(top).all():
        return np.asarray(scipy.special.logsumexp(scores, axis=1, keepdims=True))
    if scores.shape[1] == 2:
        below = np.minimum(scores[:, :1], scores[:, 1:]) - top
        is_tie = below == 0
        np.log1p(np.exp(below, out=below), out=below)
        below[is_tie] = np.log(2.0)  # as SciPy has it; log1p(1) may differ in the last digit
        return np.asarray(below + top)
    below = scores - top
    is_top = below == 0
    np.exp(below, out=below)
    # Entries equal to the maximum are counted rather than summed, for precision.
    below[is_top] = 0.0
    ties = is_top.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.asarray(np.log1p(below.sum(axis=1, keepdims=True) / ties) + np.log(ties) + top)
