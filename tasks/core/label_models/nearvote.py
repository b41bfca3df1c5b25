"""Nearvote: a label model that reads similarity as evidence.

Epoxy copies a neighbor's vote at full weight when it is nearer than a threshold, and drops it otherwise. Nearvote keeps
every neighbor's vote and lets its weight fall with distance, so there is no threshold to guess.

*Local evidence.* An LF's votes mark a region of the embedding space for a class. The density of that region at an item
is estimated by the kernel of its nearest point, exp(b (s - 1)), with s the cosine to the nearest support item of LF j
with class c; for unit vectors this is the Gaussian exp(-b ||x - x'||^2 / 2). An LF's own vote has distance 0 and weight
1, and then the LF's neighbors are ignored. LFs are pooled by adding, as in a linear opinion pool (Stone, "The Opinion
Pool", 1961): own_ic = sum over {j: L_ij = c} of r_jc, near_ic = sum_j r_jc exp(b (s_ijc - 1)). Adding rather than
multiplying limits the effect of correlated LFs, but does not remove it: c copies of an LF multiply its share of the pool
by c, which is less than multiplying its log odds, but enough to outvote the others. So copies, and in part near-copies,
share their weight (`weigh_copies`), which is included in r_jc.

*Class balance.* The posterior proportional to w_c (own_ic + near_ic), with w chosen so that its mean over items is the
class balance, is the pool's closest distribution in relative entropy with those margins (Deming and Stephan, 1940;
iterative proportional fitting).

*Bandwidth.* b follows the median heuristic: an item at the median distance to its nearest support item has weight
exp(-5). It depends on the embeddings and votes only. Accuracy after the end model hardly depends on the constant: 3, 5
and 8 gave means of .840, .841 and .840 over 23 tasks without gold.

*Global evidence.* The nearest neighbor is local; its global counterpart is the vote head, a calibrated linear classifier
of votes, which also estimates each LF's reliability r_jc, the weight of its votes and neighbors in the pool. Without
gold the two are combined as a geometric mean: `NearvoteLabels.weak`.

*Gold.* With gold rows the weights of own votes, neighbors, head and nearest gold row are learned: a conditional logit
p(c | i) proportional to exp(a_c + sum_f w_f log e_icf), one weight per source shared by all classes (McFadden, 1974).
w says how reliability falls with distance: near^w is again an exponential kernel, with the slope that gold supports. The
priors are the weights used without gold, so a few gold rows change little and many decide. With four weights and k
offsets it cannot overfit 100 rows. A gold row is influenced only by *other* gold rows.

Cost: a pass over the LF columns for b and another for the pool, each over the classes that an LF votes for, a part of the items at
a time; memory n k, where the caller wants it. There is no n x n matrix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # whose parts are imported where they are used: together they take .3 s

from tasks.core.classifiers.folds import GOLD_FOLDS, assign_folds, is_enough_gold
from tasks.core.classifiers.softmax import LOG_FLOOR
from tasks.core.classifiers.vote_head import VoteHead
from tasks.core.label_models.balancing import apply_balance, fit_balance
from tasks.core.progress_callback import WHOLE, Advance, ignore_progress
from tasks.core.slices import cut_slices
from tasks.core.threads import one_thread
from tasks.core.types import Allocate, Float32, Float64, GoldRows, Int64, Votes

MEDIAN_EXPONENT = 5.0
"""An item at the median distance has weight exp(-5); see the module's docstring."""

SMALLEST_DISTANCE = 0.01
"""A lower bound of the median distance, for data in which most items are copies of support items: b is at most 500."""

SOURCES = ("own votes", "neighbors", "vote head", "nearest gold")
PRIOR_WEIGHTS = (0.25, 0.25, 0.5, 0.3)
"""The weights without gold (local 1/2, global 1/2), and a mild one for gold."""

WEIGHT_SPREAD = np.sqrt(0.1)
"""Prior standard deviation of a source's weight."""

OFFSET_SPREAD = np.sqrt(10.0)
"""Prior standard deviation of a class offset: nearly free."""

OWN_FLOOR = 0.1
"""Added to counts, relative to their mean, before the log: the absence of votes is weak evidence against a class."""

NEAR_FLOOR = 1e-3
"""Likewise for kernel sums."""

LABEL_WORK = 2 * WHOLE
"""The work that `fit_nearvote` reports to its `advance` in all."""


@dataclass(frozen=True, kw_only=True)
class LFColumn:
    """An LF's votes and neighbors.

    votes: (n,) int8, -1 abstains. similarity: (n, c) float32, the cosine (or 1 - distance^2 / 2) to the nearest reference
    item on which this LF votes for a class; NaN if there is none and, by convention, where the LF itself votes on the item
    (such entries are ignored). Ties between classes need no rule, since both count. classes: (c,) the distinct classes of
    the columns of similarity, or None for all classes in order; with many classes, an LF mostly votes for a few.
    """

    votes: Votes
    similarity: Float32
    classes: Int64 | None = None


@dataclass(frozen=True, kw_only=True)
class PooledVotes:
    """Evidence pooled over LFs, from votes on an item itself (own) and from neighbors (near): (n, k) float64, nonnegative;
    bandwidth: b, per unit of cosine.
    """

    own: Float64
    near: Float64
    bandwidth: float

    def take(self, rows: Int64 | slice) -> PooledVotes:
        """Return the evidence of these rows."""
        return PooledVotes(own=self.own[rows], near=self.near[rows], bandwidth=self.bandwidth)


@dataclass(frozen=True, kw_only=True)
class NearvoteParameters:
    """What `predict_nearvote` needs beside the arguments of `pool_votes`.

    class_balance: (k,) float64. local, both: (k,) float64, the w of `fit_balance` for neighbors alone and together with
    the vote head. means: (3,) float64, of own votes, neighbors and nearest gold over all items and classes (the last NaN
    without gold). weights, offsets: as in `NearvoteLabels`, None without enough gold.
    """

    class_balance: Float64
    local: Float64
    both: Float64
    means: Float64
    weights: Float64 | None
    offsets: Float64 | None


@dataclass(frozen=True, kw_only=True)
class NearvoteLabels:
    """Nearvote's result for every item.

    posterior: (n, k) float64, rows sum to 1; with learned weights if there is enough gold, else `weak`.
    weak: (n, k) float64, rows sum to 1; neighbors and vote head in equal parts. Gold affects it through the class balance
    only, so it may be a feature of gold rows.
    held_out: (g, k) float64, posterior of gold rows from weights fitted without their fold (empty without enough gold).
    weights: (4,) float64 in the order of `SOURCES` (NaN without enough gold); offsets: (k,) float64 likewise. folds: both, of
    the logit fitted without each fold, (folds, 4 + k), empty without enough gold.
    parameters: what was fitted.
    """

    posterior: Float64
    weak: Float64
    held_out: Float64
    weights: Float64
    offsets: Float64
    folds: Float64
    parameters: NearvoteParameters


def find_largest_similarity(columns: Iterable[LFColumn]) -> Float32:
    """Return each item's similarity to the nearest support item of an LF that abstains on it, (n,); NaN where there is none."""
    nearest: Float32 | None = None
    for column in columns:
        s = np.where((column.votes < 0)[:, None], column.similarity, np.float32(np.nan))
        best = np.fmax.reduce(s, axis=1, initial=np.float32(np.nan))
        nearest = best if nearest is None else np.fmax(nearest, best)
    return np.empty(0, np.float32) if nearest is None else nearest


def choose_bandwidth(similarity: Float32) -> float:
    """Return b = 5 / median distance, where an item's distance is 1 less its `find_largest_similarity` (n,).

    Items without neighbors are left out. If no item has neighbors, b does not matter and is 5.
    """
    known = similarity[~np.isnan(similarity)]
    if not len(known):
        return MEDIAN_EXPONENT
    half = (len(known) - 1) // 2, len(known) // 2
    known.partition(half)
    distance = float(np.mean([1.0 - float(known[at]) for at in half]))
    return MEDIAN_EXPONENT / max(distance, SMALLEST_DISTANCE)


def weigh_similarity(similarity: Float32, bandwidth: float) -> Float64:
    """Return exp(b (s - 1)), float64 in [0, 1]; s is clipped to [-1, 1]; 0 where s is NaN.

    >>> weigh_similarity(np.array([1.0, 0.5, np.nan], dtype=np.float32), 2.0).round(3).tolist()
    [1.0, 0.368, 0.0]
    """
    s = np.clip(similarity.astype(np.float64), -1.0, 1.0)
    return np.where(np.isnan(s), 0.0, np.exp(bandwidth * (s - 1.0)))


def pool_votes(
    columns: Iterable[LFColumn],
    reliability: Float64,
    bandwidth: float,
) -> PooledVotes:
    """Return the sums over LFs of votes and of weighted neighbors, both times r_jc, added in LF order.

    Parameters
    ----------
    columns
        A column per LF.
    reliability
        (m, k) float64 from `fit_vote_head`, or ones; NaN (the LF never votes for the class) counts as 0.
    bandwidth
        b, positive.

    Raises
    ------
    ValueError
        There are no columns, or not as many as rows of reliabilities; a vote is outside -1..k-1; a similarity has the
        wrong shape; or b is not positive.
    """
    n_classes = reliability.shape[1]
    r = np.nan_to_num(reliability)
    if not bandwidth > 0:
        raise ValueError(f"bandwidth: got {bandwidth}; expected a positive number")
    own: Float64 | None = None
    near: Float64 | None = None
    j = -1
    for j, column in enumerate(columns):
        if j >= len(r):
            raise ValueError(f"reliability: got {len(r)} rows; expected one per LF, and there are more LFs")
        classes = np.arange(n_classes) if column.classes is None else column.classes
        shape = (len(column.votes), n_classes)
        if column.similarity.shape != (shape[0], len(classes)):
            expected = shape[0], len(classes)
            raise ValueError(f"similarity of LF {j}: got shape {column.similarity.shape}; expected {expected}")
        if len(column.votes) and (column.votes.min() < -1 or column.votes.max() >= n_classes):
            got = column.votes[(column.votes < -1) | (column.votes >= n_classes)][0]
            raise ValueError(f"votes of LF {j}: got {got}; expected -1 or 0..{n_classes - 1}")
        if own is None or near is None:
            own, near = np.zeros(shape), np.zeros(shape)
        voted = column.votes >= 0
        own[voted, column.votes[voted]] += r[j, column.votes[voted]]
        silent = np.flatnonzero(~voted)
        for c, similarity in zip(classes.tolist(), column.similarity.T, strict=True):
            near[silent, c] += r[j, c] * weigh_similarity(similarity[silent], bandwidth)
    if own is None or near is None:
        raise ValueError("columns: got no LF; expected at least 1")
    if j + 1 < len(r):
        raise ValueError(f"reliability: got {len(r)} rows; expected one per LF, {j + 1}")
    return PooledVotes(own=own, near=near, bandwidth=bandwidth)


def fit_nearvote(
    evidence: PooledVotes,
    head: VoteHead,
    class_balance: Float64,
    gold: GoldRows | None,
    gold_similarity: Float32 | None,
    seed: int = 0,
    advance: Advance = ignore_progress,
    allocate: Allocate = np.zeros,
) -> NearvoteLabels:
    """Return soft labels of every item from votes, neighbors, the vote head and, if given, gold rows.

    Parameters
    ----------
    evidence
        From `pool_votes`.
    head
        From `fit_vote_head`.
    class_balance
        (k,) float64, sum 1, given by the user or from `estimate_class_balance`.
    gold, gold_similarity
        Gold rows, and the similarity (n, k) float32 of every item to the nearest other one of each class; or None. Fewer than 20
        rows or a single class count as no gold (`is_enough_gold`).
    seed
        Seed of the fold assignment; the folds are the same as the end model's.
    advance
        Receives `LABEL_WORK` in all.
    allocate
        Makes the arrays (n, k) of the result, and two as large for a while.

    Raises
    ------
    ValueError
        Gold without gold_similarity; a class balance that does not sum to one.
    """
    n_classes = head.proba.shape[1]
    pooled = allocate(head.proba.shape, np.float64)
    np.add(evidence.own, evidence.near, out=pooled)
    local = fit_balance(pooled, class_balance, advance, allocate)
    together = apply_balance(pooled, local, class_balance, allocate)
    del pooled
    together *= head.proba
    np.sqrt(together, out=together)
    both = fit_balance(together, class_balance, advance, allocate)
    weak = apply_balance(together, both, class_balance, allocate)
    means = np.array([evidence.own.mean(), evidence.near.mean(), np.nan])
    if gold is None or not is_enough_gold(gold):
        return NearvoteLabels(
            posterior=weak,
            weak=weak,
            held_out=np.empty((0, n_classes)),
            weights=np.full(len(SOURCES), np.nan),
            offsets=np.full(n_classes, np.nan),
            folds=np.empty((0, len(SOURCES) + n_classes)),
            parameters=NearvoteParameters(
                class_balance=class_balance, local=local, both=both, means=means, weights=None, offsets=None
            ),
        )
    if gold_similarity is None:
        raise ValueError("gold_similarity: got None; expected an array, since gold is given")
    near_gold = together  # which is not needed any more
    for block in cut_slices(len(weak)):
        near_gold[block] = weigh_similarity(gold_similarity[block], evidence.bandwidth)
    means[2] = near_gold.mean()

    def stack_rows(rows: Int64 | slice) -> Float64:
        """Return the logs (r, k, 4) of the evidence of `rows`."""
        return stack_evidence(evidence.take(rows), head.proba[rows], near_gold[rows], means)

    at_gold = stack_rows(gold.rows)
    fold = assign_folds(gold.classes, GOLD_FOLDS, seed)
    held_out = np.zeros((len(gold.rows), n_classes))
    with one_thread():
        folds = np.stack(
            [_fit_conditional_logit(at_gold[fold != f], gold.classes[fold != f]) for f in range(GOLD_FOLDS)]
        )
        for f in range(GOLD_FOLDS):
            held_out[fold == f] = _posterior(at_gold[fold == f], folds[f])
        fitted = _fit_conditional_logit(at_gold, gold.classes)
        posterior = allocate(weak.shape, np.float64)
        for block in cut_slices(len(posterior)):
            posterior[block] = _posterior(stack_rows(block), fitted)
    weights, offsets = fitted[: len(SOURCES)], fitted[len(SOURCES) :]
    return NearvoteLabels(
        posterior=posterior,
        weak=weak,
        held_out=held_out,
        weights=weights,
        offsets=offsets,
        folds=folds,
        parameters=NearvoteParameters(
            class_balance=class_balance, local=local, both=both, means=means, weights=weights, offsets=offsets
        ),
    )


def predict_nearvote(
    parameters: NearvoteParameters, evidence: PooledVotes, head_proba: Float64, gold_similarity: Float32 | None
) -> Float64:
    """Return the posterior (q, k) float64 of any rows, fitted on or not, each by itself.

    Parameters
    ----------
    evidence
        From `pool_votes`, with the reliability and bandwidth that were fitted.
    head_proba
        (q, k) float64 from the vote head.
    gold_similarity
        (q, k) float32; needed if weights were learned, else ignored.

    Notes
    -----
    `fit_nearvote` uses held-out predictions of the head for rows with votes, and compares a gold row with other gold rows
    only. With the same two arguments, this function returns its posterior, up to BLAS's rounding.

    Raises
    ------
    ValueError
        Learned weights without gold_similarity.
    """
    if parameters.weights is None or parameters.offsets is None:
        return predict_weak_labels(parameters, evidence, head_proba)
    if gold_similarity is None:
        raise ValueError("gold_similarity: got None; expected an array, since weights were learned from gold")
    near_gold = weigh_similarity(gold_similarity, evidence.bandwidth)
    with one_thread():
        stacked = stack_evidence(evidence, head_proba, near_gold, parameters.means)
        return _posterior(stacked, np.r_[parameters.weights, parameters.offsets])


def predict_without_fold(
    labels: NearvoteLabels, fold: int, evidence: PooledVotes, head_proba: Float64, gold_similarity: Float32
) -> Float64:
    """Return the log posterior (q, k) of any rows by the logit that learned nothing from gold rows of `fold`.

    The arguments are those of `predict_nearvote`; gold_similarity: to gold rows of other folds.
    """
    near_gold = weigh_similarity(gold_similarity, evidence.bandwidth)
    with one_thread():
        stacked = stack_evidence(evidence, head_proba, near_gold, labels.parameters.means)
        return np.log(np.maximum(_posterior(stacked, labels.folds[fold]), np.finfo(np.float64).tiny))


def predict_weak_labels(parameters: NearvoteParameters, evidence: PooledVotes, head_proba: Float64) -> Float64:
    """Return the weak labels (q, k) of any rows, fitted on or not: neighbors and vote head in equal parts.

    The parameters are those of `predict_nearvote`.
    """
    balance = parameters.class_balance
    neighbors_only = apply_balance(evidence.own + evidence.near, parameters.local, balance)
    return apply_balance(np.sqrt(neighbors_only * head_proba), parameters.both, balance)


def stack_evidence(evidence: PooledVotes, head_proba: Float64, near_gold: Float64, means: Float64) -> Float64:
    """Return the logs (n, k, 4) float64 of the evidence in the order of `SOURCES`."""
    return np.stack(
        [
            _log_relative(evidence.own, means[0], OWN_FLOOR),
            _log_relative(evidence.near, means[1], NEAR_FLOOR),
            np.log(head_proba + LOG_FLOOR),
            _log_relative(near_gold, means[2], NEAR_FLOOR),
        ],
        axis=2,
    )


def _log_relative(values: Float64, mean: float, floor: float) -> Float64:
    """Return log(values / mean + floor), or zeros if the mean is 0."""
    if not mean > 0:
        return np.zeros_like(values)
    return np.asarray(np.log(values / mean + floor))


def _posterior(log_evidence: Float64, fitted: Float64) -> Float64:
    """Return the posterior (n, k) float64 of a fitted conditional logit."""
    scores = log_evidence @ fitted[: len(SOURCES)] + fitted[len(SOURCES) :]
    return np.asarray(np.exp(scores - scipy.special.logsumexp(scores, axis=1, keepdims=True)))


def _fit_conditional_logit(log_evidence: Float64, classes: npt.NDArray[np.int64]) -> Float64:
    """Return weights and offsets, (4 + k,) float64: penalized maximum likelihood, convex.

    log_evidence: (g, k, 4) float64. classes: (g,) int64.
    """
    g, k, p = log_evidence.shape
    rows = np.arange(g)
    prior = np.asarray(PRIOR_WEIGHTS)

    def objective(v: Float64) -> tuple[float, Float64]:
        """Return penalized log loss and its gradient."""
        scores = log_evidence @ v[:p] + v[p:]
        log_p = scores - scipy.special.logsumexp(scores, axis=1, keepdims=True)
        residual = np.exp(log_p)
        residual[rows, classes] -= 1.0
        shift = (v[:p] - prior) / WEIGHT_SPREAD**2
        value = -float(log_p[rows, classes].sum()) + 0.5 * float(shift @ (v[:p] - prior))
        value += 0.5 * float(v[p:] @ v[p:]) / OFFSET_SPREAD**2
        gradient = np.r_[
            np.einsum("gk,gkp->p", residual, log_evidence) + shift, residual.sum(axis=0) + v[p:] / OFFSET_SPREAD**2
        ]
        return value, gradient

    return np.asarray(scipy.optimize.minimize(objective, np.r_[prior, np.zeros(k)], jac=True, method="L-BFGS-B").x)
