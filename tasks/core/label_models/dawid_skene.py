"""Dawid-Skene: a confusion matrix per LF, learned by EM.

Source: Dawid and Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", Applied
Statistics 28(1), 1979.
"""

import numpy as np
import numpy.typing as npt

from tasks.core.label_models.base import (
    PRIOR_VOTES,
    Finding,
    VoteTable,
    add_scores,
    count_joint_votes,
    inspect_votes,
    normalize_logs,
)
from tasks.core.label_models.majority import share_majority
from tasks.core.patterns import Patterns
from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.types import Float64, GoldRows, Int64, Votes

TOLERANCE = 1e-6
"""EM has converged when no posterior changes by more than this: too little to change a label, far more than rounding."""

MOST_ROUNDS = 500
"""Most rounds of EM. On 73 sparse LFs (sms) it has not converged by then, but no label differs from those after 5,000
rounds; after 100 rounds, 30 do."""


def fit_dawid_skene(
    votes: Votes,
    class_balance: Float64,
    gold: GoldRows | None = None,
    *,
    items: Int64 | None = None,
    advance: Advance = ignore_progress,
) -> VoteTable:
    """Return Dawid-Skene with a given class balance: P(vote of LF j | Y) by EM from majority vote, with gold rows fixed.

    For an LF that does not vote for all classes, an abstain is a vote like any other, since its silence is informative.
    For an LF that votes for all of them, abstaining is assumed to be independent of the class, so that EM does not model
    coverage instead of classes. Each confusion column is smoothed by `PRIOR_VOTES` rows at the LF's overall rates, so that
    an LF is uninformative until rows say otherwise. Identical LFs share a vote. The cost is O(distinct rows x m x k) per
    round; `advance` receives the rounds.
    """
    k, m = len(class_balance), votes.shape[1]
    counts = count_joint_votes(votes, k, items)
    patterns, seen = counts.patterns, counts.seen
    silence_speaks: npt.NDArray[np.bool_] = np.logical_not(seen.all(axis=1))
    weight = np.where(seen.any(axis=1), counts.share, 0.0)
    known = _count_known(patterns, gold, k)
    unknown = patterns.counts - known.sum(axis=1)
    rates = _count_confusion(patterns, np.stack([patterns.counts] * k, axis=1).astype(np.float64))
    bias = np.log(class_balance)
    posterior = share_majority(patterns.votes[counts.first == np.arange(m)], class_balance)
    scores = np.zeros((m, k + 1, k))
    findings = list(inspect_votes(counts))
    with count_steps(advance, MOST_ROUNDS) as step:
        for _ in range(MOST_ROUNDS):
            confusion = _count_confusion(patterns, unknown[:, None] * posterior + known)
            scores = weight[:, None, None] * _smooth(confusion, rates, silence_speaks)
            moved = normalize_logs(add_scores(bias, scores, patterns))
            change = float(np.abs(moved - posterior).max(initial=0.0))
            posterior = moved
            step(1)
            if change < TOLERANCE:
                break
        else:
            findings.append(Finding(message=f"Dawid-Skene had not settled after {MOST_ROUNDS} rounds of EM"))
    cast = _count_confusion(patterns, unknown[:, None] * posterior + known)[:, 1:]
    totals = cast.sum(axis=2)
    precision = np.divide(cast[:, np.arange(k), np.arange(k)], totals, out=np.full((m, k), np.nan), where=totals > 0)
    return VoteTable(bias=bias, scores=scores, precision=precision, findings=tuple(findings))


def _count_known(patterns: Patterns, gold: GoldRows | None, k: int) -> Float64:
    """Return the number of rows of each pattern with gold of each class, (u, k)."""
    known = np.zeros((len(patterns.counts), k))
    if gold is not None:
        np.add.at(known, (patterns.inverse[gold.rows], gold.classes), 1.0)
    return known


def _count_confusion(patterns: Patterns, weights: Float64) -> Float64:
    """Return by LF, vote (0 is abstain) and class the sum of the `weights` (u, k) of patterns with that vote, (m, k + 1, k)."""
    m, k = len(patterns.votes), weights.shape[1]
    confusion = np.empty((m, k + 1, k))
    columns = np.ascontiguousarray(weights.T)
    for j, votes in enumerate(patterns.votes):
        cast = votes.astype(np.intp) + 1
        for c in range(k):
            confusion[j, :, c] = np.bincount(cast, columns[c], minlength=k + 1)
    return confusion


def _smooth(confusion: Float64, rates: Float64, silence_speaks: npt.NDArray[np.bool_]) -> Float64:
    """Return log P(vote | Y) relative to the LF's rate of that vote, (m, k + 1, k); 0 where the vote is uninformative."""
    base = rates.copy()
    counts = confusion.copy()
    base[~silence_speaks, 0] = counts[~silence_speaks, 0] = 0.0
    totals = base.sum(axis=1, keepdims=True)
    base = np.divide(base, totals, out=np.zeros_like(base), where=totals > 0)
    counts += PRIOR_VOTES * base
    conditional = counts / np.maximum(counts.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    logs: Float64 = np.zeros(conditional.shape)
    spoken = base > 0
    logs[spoken] = np.log(conditional[spoken]) - np.log(base[spoken])
    return logs
