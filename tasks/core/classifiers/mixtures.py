"""Which weights for blocks of embeddings foretell classes best: judged by gold, or by the votes of labeling functions held out.

The judge is logistic regression on the blocks side by side, each of its vectors as long as the root of its weight. With gold, its
mean log loss on gold held out by cross-fitting. Without, LFs are held out in turn, a group at a time: the classifier learns the
majority vote of the others on half of the items, and foretells the votes of the group on the other half. An LF that was held
out whole cannot be found again by the words that it looks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tasks.core.classifiers.folds import GOLD_FOLDS, assign_folds
from tasks.core.classifiers.gold_experts import fit_gold_expert
from tasks.core.classifiers.softmax import fit_softmax_regression, predict_log_proba
from tasks.core.copies import find_originals
from tasks.core.fitness import find_majority
from tasks.core.progress_callback import Advance, ignore_progress
from tasks.core.types import ABSTAIN, Float32, Float64, GoldRows, Int64, Votes

STEPS = 4
"""Weights are multiples of a quarter: on six tasks finer ones would not have been told apart."""

_GROUPS = 8
"""Groups of LFs that are held out in turn, where there are as many LFs."""

_PENALTY = 1.0
"""Inverse penalty of the classifier that learns from votes."""

_WORST = 9.0
"""Largest log loss of a vote, that of a probability of .0001: a class that only the held-out LFs vote for is no one's fault."""


@dataclass(frozen=True, kw_only=True)
class JudgedMixtures:
    """Mixtures of b blocks: weights (c, b), rows sum to 1; loss (c,), mean log loss in nats; error (c,), the standard error of
    its difference from the best's; best: the least loss, of equal ones the most even. rows: of gold, or votes, that judged.
    """

    weights: Float64
    loss: Float64
    error: Float64
    best: int
    rows: int


def list_mixtures(blocks: int) -> Float64:
    """Return all weights (c, blocks) in steps of a quarter that sum to 1, zeros among them.

    >>> list_mixtures(2).tolist()
    [[0.0, 1.0], [0.25, 0.75], [0.5, 0.5], [0.75, 0.25], [1.0, 0.0]]
    """
    bars = combinations(range(STEPS + blocks - 1), blocks - 1)
    parts = [np.diff([-1, *bar, STEPS + blocks - 1]) - 1 for bar in bars]
    return np.array(parts, np.float64) / STEPS


def judge_by_gold(blocks: Sequence[Float32], gold: Int64, k: int, advance: Advance = ignore_progress) -> JudgedMixtures:
    """Return the mixtures judged by `gold` (g,), classes of the items whose unit vectors are the rows of `blocks`."""
    mixtures, losses = list_mixtures(len(blocks)), []
    rows = np.arange(len(gold))
    known, fold = GoldRows(rows=rows, classes=gold), assign_folds(gold, GOLD_FOLDS, 0)
    for weights in mixtures:
        expert = fit_gold_expert([mix_blocks(blocks, weights)], known, fold, k, ignore_progress)
        losses.append(-expert.held_out[rows, gold])
        advance(1)
    return _rank(mixtures, np.array(losses))


def judge_by_votes(
    blocks: Sequence[Float32], L: Votes, k: int, advance: Advance = ignore_progress
) -> JudgedMixtures | None:
    """Return the mixtures judged by the votes `L` (n, m) on the items whose unit vectors are the rows of `blocks`.

    Copies of an LF count once. None if no group of LFs leaves others that vote for two classes.
    """
    L = L[:, np.unique(find_originals(L))]
    m = L.shape[1]
    groups = np.empty(m, np.int64)
    groups[np.argsort(-(L != ABSTAIN).sum(axis=0), kind="stable")] = np.arange(m) % max(min(m, _GROUPS), 1)
    mixtures = list_mixtures(len(blocks))
    losses: list[Float64] = []
    for weights in mixtures:
        x, found = mix_blocks(blocks, weights), [np.empty(0)]
        for group in range(groups.max(initial=-1) + 1):
            held_out = L[:, groups == group]
            majority = find_majority(L[:, groups != group], k) if m > 1 else np.full(len(L), ABSTAIN, np.int8)
            for half in (0, 1):
                learned = np.flatnonzero((majority != ABSTAIN) & (np.arange(len(L)) % 2 == half))
                judged = np.flatnonzero((held_out != ABSTAIN).any(axis=1) & (np.arange(len(L)) % 2 != half))
                if len(np.unique(majority[learned])) < 2 or not len(judged):
                    continue
                targets = np.eye(k)[majority[learned]]
                model = fit_softmax_regression(x[learned], targets, np.ones(len(learned)), _PENALTY)
                log_p = predict_log_proba(model, x[judged])
                row, lf = np.nonzero(held_out[judged] != ABSTAIN)
                found.append(np.minimum(-log_p[row, held_out[judged][row, lf]], _WORST))
        losses.append(np.concatenate(found))
        advance(1)
    return _rank(mixtures, np.array(losses)) if len(losses[0]) else None


def mix_blocks(blocks: Sequence[Float32], weights: Float64) -> Float32:
    """Return the unit vectors of `blocks` side by side, as long as the roots of `weights`; blocks of weight 0 are left out."""
    parts = [np.sqrt(weight) * block for weight, block in zip(weights, blocks, strict=True) if weight]
    return np.hstack(parts).astype(np.float32)


def _rank(mixtures: Float64, losses: Float64) -> JudgedMixtures:
    """The mixtures (c, b) with their losses (c, r), one for each row that judged."""
    loss = losses.mean(axis=1)
    unevenness = ((mixtures - 1 / mixtures.shape[1]) ** 2).sum(axis=1)
    best = int(np.lexsort((unevenness, loss))[0])
    difference = losses - losses[best]
    error = (
        difference.std(axis=1, ddof=1) / np.sqrt(losses.shape[1]) if losses.shape[1] > 1 else np.full(len(loss), np.nan)
    )
    return JudgedMixtures(weights=mixtures, loss=loss, error=error, best=best, rows=losses.shape[1])
