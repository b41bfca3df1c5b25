"""The pool of experts: prior and fit of its log-linear weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy

from tasks.core.classifiers.softmax import normalize_scores
from tasks.core.types import Float64, Int64

EXPERTS = ("gold alone", "gold on student and votes", "label model", "student")

Leader = Literal["label model", "student"]

POOL_SPREAD = 0.4
"""Prior standard deviation of a pooling weight, given plenty of gold."""

POOL_ROWS = 20.0
"""Gold rows per class at which the prior's standard deviation reaches half its final value; see `weigh_experts`."""


@dataclass(frozen=True, kw_only=True)
class PoolPrior:
    """The normal prior of the pooling weights: mean (e,) float64, and the standard deviation of each."""

    mean: Float64
    spread: float


def trust_gold(gold_rows: int, n_classes: int) -> float:
    """Return t, from 0 without gold to 1 with plenty."""
    return (gold_rows / (gold_rows + POOL_ROWS * n_classes)) ** 2


def weigh_experts(gold_rows: int, n_classes: int, leader: Leader) -> PoolPrior:
    """Return the prior of the pooling weights, under which the labels without gold change only as gold accumulates.

    With t = (g / (g + 20 k))^2 for g gold rows and k classes, the means are t / 4 for both experts that learn from gold,
    1/4 for label model and student, plus what is left to 1 for the `leader`; the standard deviation is .4 sqrt(t). For two
    classes, 20 rows give t = .11, 100 give .51, a thousand .93.

    >>> weigh_experts(40, 2, "student").mean.tolist()
    [0.0625, 0.0625, 0.25, 0.625]
    """
    trust = trust_gold(gold_rows, n_classes)
    mean = np.array([trust / 4, trust / 4, 0.25, 0.25])
    mean[EXPERTS.index(leader)] += 0.5 - trust / 2
    return PoolPrior(mean=mean, spread=POOL_SPREAD * float(np.sqrt(trust)))


def fit_pool_weights(held_out: Float64, classes: Int64, prior: PoolPrior) -> Float64:
    """Return nonnegative log-linear pooling weights (e,) float64 of e experts.

    Parameters
    ----------
    held_out
        (g, k, e) float64 log probabilities.
    classes
        (g,) int64 gold.
    prior
        Of the weights.

    Notes
    -----
    They minimize the log loss of softmax(sum_e w_e log p_e) with a normal prior on each weight, a convex problem. Their
    sum is free, and so sets the temperature of the pool.
    """
    g, _, e = held_out.shape
    rows = np.arange(g)
    strength = 1.0 / prior.spread**2

    def objective(w: Float64) -> tuple[float, Float64]:
        """Return penalized log loss and its gradient."""
        log_p = normalize_scores(held_out @ w)
        residual = np.exp(log_p)
        residual[rows, classes] -= 1.0
        offset = w - prior.mean
        value = -float(log_p[rows, classes].sum()) + 0.5 * strength * float(offset @ offset)
        return value, np.einsum("gk,gke->e", residual, held_out) + strength * offset

    fitted = scipy.optimize.minimize(objective, prior.mean, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * e)
    return np.asarray(fitted.x, dtype=np.float64)
