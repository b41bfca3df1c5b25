"""Class weights under which evidence meets a class balance."""

from __future__ import annotations

import numpy as np

from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.slices import WIDE, cut_slices
from tasks.core.types import Allocate, Float64

BALANCE_ROUNDS = 500
"""Most rounds of the iteration that meets a class balance."""

BALANCE_FACTOR = 1000.0
"""The largest factor between a weight and the weights' geometric mean. It allows any plausible class balance, and 10 to
1,000,000 gave the same accuracies within .001 on tasks of 20, 40 and 77 classes."""


def fit_balance(
    evidence: Float64, class_balance: Float64, advance: Advance = ignore_progress, allocate: Allocate = np.zeros
) -> Float64:
    """Return the weights w (k,), nonnegative, sum 1, for which the mean of `apply_balance` is the class balance.

    Parameters
    ----------
    evidence
        (n, k) float64, nonnegative.
    class_balance
        (k,) float64, sum 1.
    advance
        Receives a single piece of work, round by round.
    allocate
        Makes an array (n, k), which is gone after it.

    Notes
    -----
    Rows without evidence are ignored. A class without evidence anywhere gets 0 and the others share its part; without any
    evidence all weights are 0. If too many rows have evidence of a single class, no w meets the balance, and a weight
    would tend to 0, as if these rows had no evidence; so w stays within `BALANCE_FACTOR` of its geometric mean. The
    iteration stops when the balance is met within 1e-9, when w no longer changes, or after `BALANCE_ROUNDS`.

    >>> weights = fit_balance(np.array([[1.0, 1.0], [1.0, 3.0]]), np.array([0.5, 0.5]))
    >>> apply_balance(np.array([[1.0, 1.0], [1.0, 3.0]]), weights, np.array([0.5, 0.5])).round(3).tolist()
    [[0.634, 0.366], [0.366, 0.634]]

    Raises
    ------
    ValueError
        The balance is negative or does not sum to one.
    """
    if (class_balance < 0).any() or abs(class_balance.sum() - 1.0) > 1e-6:
        raise ValueError(f"class_balance: got {class_balance.tolist()}; expected nonnegative numbers that sum to 1")
    shares, known = allocate(evidence.shape, np.float64), 0  # rows without evidence come last and are cut off
    has_any = np.zeros(len(class_balance), dtype=np.bool_)
    for part in cut_slices(len(evidence), WIDE):
        rows = evidence[part][evidence[part].sum(axis=1) > 0]
        has_any |= (rows > 0).any(axis=0)
        shares[known : known + len(rows)] = rows / rows.sum(axis=1, keepdims=True)
        known += len(rows)
    target = np.where(has_any, class_balance, 0.0)
    if target.sum() <= 0:
        return np.zeros_like(class_balance)
    target = target / target.sum()
    weights = np.where(target > 0, 1.0, 0.0)
    with count_steps(advance, BALANCE_ROUNDS) as step:
        for _ in range(BALANCE_ROUNDS):
            total = np.zeros(len(target))
            for part in cut_slices(known, WIDE):
                total += _weigh(shares[part], weights, target).sum(axis=0)
            mean = total / known
            if np.abs(mean - target).max() < 1e-9:
                break
            moved = _bound_weights(weights * np.where(mean > 0, target / np.where(mean > 0, mean, 1.0), 0.0))
            if np.array_equal(moved, weights):
                break
            weights = moved
            step(1)
    return weights


def _bound_weights(weights: Float64) -> Float64:
    """Return `weights` (k,) with sum 1, those above 0 within `BALANCE_FACTOR` of their geometric mean."""
    bounded = np.zeros_like(weights)
    positive = weights > 0
    if positive.any():
        logs = np.log(weights[positive])
        bounded[positive] = np.exp(np.clip(logs - logs.mean(), -np.log(BALANCE_FACTOR), np.log(BALANCE_FACTOR)))
        bounded /= bounded.sum()
    return bounded


def apply_balance(
    evidence: Float64, weights: Float64, class_balance: Float64, allocate: Allocate = np.zeros
) -> Float64:
    """Return the posterior (q, k) float64 proportional to weights * evidence; class_balance for rows without evidence.

    `allocate` makes the array of the posterior.
    """
    target = np.where(weights > 0, class_balance, 0.0)
    posterior = allocate(evidence.shape, np.float64)
    posterior[:] = class_balance
    for block in cut_slices(len(evidence) if target.sum() > 0 else 0):
        known = evidence[block].sum(axis=1) > 0
        rows = evidence[block][known]
        rows /= rows.sum(axis=1, keepdims=True)
        posterior[block][known] = _weigh(rows, weights, target / target.sum())
    return posterior


def _weigh(rows: Float64, weights: Float64, target: Float64) -> Float64:
    """Return rows times weights, normalized; `target` for rows that become all zeros."""
    scaled = rows * weights
    total = scaled.sum(axis=1, keepdims=True)
    is_some = total > 0
    scaled /= np.where(is_some, total, 1.0)
    np.copyto(scaled, target, where=~is_some)
    return np.asarray(scaled)
