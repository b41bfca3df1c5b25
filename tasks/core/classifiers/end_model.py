"""The end model: a student of the weak labels and, given gold, a pool of four experts.

`fit_end_model` trains a student on the weak labels of every row and, given gold rows, pools four cross-fitted experts
log-linearly: gold alone, gold on top of the student and the votes, the label model, and the student.
`fit_gold_baseline` is the alternative without weak supervision.

Fitting is transductive: embeddings and votes of every split are inputs, while gold comes only from the rows that the
caller passes (valid). `predict_end_model` applies what was fitted to later rows, and learns nothing from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import entr
from threadpoolctl import threadpool_limits

from tasks.core.classifiers.folds import GOLD_FOLDS, TRAINING_ROWS, assign_folds, draw_rows, is_enough_gold
from tasks.core.classifiers.softmax import (
    LOG_FLOOR,
    SoftmaxRegression,
    fit_softmax,
    fit_softmax_regression,
    fit_temperature,
    normalize_scores,
    predict_log_proba,
    score_rows,
)
from tasks.core.classifiers.vote_head import has_votes, sum_votes
from tasks.core.copies import weigh_copies
from tasks.core.progress_callback import WHOLE, Advance, ignore_progress
from tasks.core.types import Bool, Float32, Float64, GoldRows, Int64, Votes

STUDENT_PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Inverse penalties of the student, half decades; see `choose_student_penalty`."""

STUDENT_SHARE = 0.95
"""Share of what the embeddings explain of held-out weak labels that the student must explain. Weak labels err alike in a
region, held-out ones too, so that the best fit is too close. Judged on the test sets of six tasks without gold, .95,
.975 and 1 gave mean accuracies of .892, .890 and .889, the constant inverse penalty .1 gave .876."""

STUDENT_FOLDS = 3
PENALTY_ROWS = 5_000
"""Most rows on which the student's penalty is chosen; 10,000 rows chose the same penalty on five of six tasks, and one
half a decade stronger on the sixth."""

GOLD_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Inverse penalties of the experts that learn from gold, half decades; cross-fitted log loss chooses."""

EXPERTS = ("gold alone", "gold on student and votes", "label model", "student")
Leader = Literal["label model", "student"]
VOTE_BLOCK_NORM = 0.5
"""Root mean square norm of the block of one-hot votes, beside features of norm 1."""

POOL_SPREAD = 0.4
"""Prior standard deviation of a pooling weight, given plenty of gold."""

POOL_ROWS = 20.0
"""Gold rows per class at which the prior's standard deviation reaches half its final value; see `weigh_experts`."""

END_WORK = (1 + STUDENT_FOLDS * len(STUDENT_PENALTIES) + 2 * (len(GOLD_PENALTIES) * GOLD_FOLDS + 1)) * WHOLE
"""The work that `fit_end_model` reports to its `advance` in all, with enough gold."""


@dataclass(frozen=True, kw_only=True)
class GoldExpert:
    """A classifier fitted on gold rows.

    regression: on the blocks of features side by side. held_out: (g, k) float64 for the gold rows, each from folds
    without it. penalty: the inverse penalty that won; loss: its mean held-out log loss in nats.
    """

    regression: SoftmaxRegression
    held_out: Float64
    penalty: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class VoteCode:
    """The encoding of votes as features.

    heights: (m, k) float64, positive where LF j's vote for class c has a column: the root of its share among near-copies,
    so that exact copies together act as a single column. scale: the factor of all heights.
    """

    heights: Float64
    scale: float


@dataclass(frozen=True, kw_only=True)
class GoldParameters:
    """The end model's parameters that were learned from gold rows.

    alone: the expert on features. fused: the expert on features, the student's centered scores over `student_norm`, and
    votes. pool_weights: (4,) float64, in the order of `EXPERTS`. has_gold: (k,) bool, which classes have gold rows.
    """

    alone: SoftmaxRegression
    fused: SoftmaxRegression
    student_norm: float
    vote_code: VoteCode
    pool_weights: Float64
    has_gold: Bool


@dataclass(frozen=True, kw_only=True)
class Student:
    """The model trained on weak labels. raw: (n, k) float64, its log probabilities. confidence: the inverse temperature
    by which they are multiplied.
    """

    regression: SoftmaxRegression
    raw: Float64
    confidence: float


@dataclass(frozen=True, kw_only=True)
class PoolPrior:
    """The normal prior of the pooling weights: mean (e,) float64, and the standard deviation of each."""

    mean: Float64
    spread: float


@dataclass(frozen=True, kw_only=True)
class EndParameters:
    """What `predict_end_model` needs. confidence: the student's inverse temperature; gold: None without gold."""

    student: SoftmaxRegression
    confidence: float
    gold: GoldParameters | None


@dataclass(frozen=True, kw_only=True)
class EndModel:
    """The end model's result for every item.

    posterior: (n, k) float64, rows sum to 1. student: (n, k) float64, the model trained on weak labels alone.
    gold_alone: (n, k) float64, the gold-only expert (all NaN without gold). held_out: (g, k) float64, the pooled
    posterior of gold rows from folds without them, pooling weights included (empty without gold).
    pool_weights: (4,) float64, in the order of `EXPERTS` (NaN without gold).
    parameters: what was fitted.
    """

    posterior: Float64
    student: Float64
    gold_alone: Float64
    held_out: Float64
    pool_weights: Float64
    parameters: EndParameters


def fit_gold_baseline(
    embeddings: Float32, gold: GoldRows, n_classes: int, penalty: float = 10.0, advance: Advance = ignore_progress
) -> Float64:
    """Return log probabilities (n, k) float64 of logistic regression on the gold rows' raw embeddings alone.

    This is the alternative to weak supervision for a user with gold. The default penalty is C = 10; a class without gold
    gets a probability near 0.
    """
    targets = np.eye(n_classes)[gold.classes]
    model = fit_softmax_regression(embeddings[gold.rows], targets, np.ones(len(gold.rows)), penalty, advance)
    return predict_log_proba(model, embeddings)


def fit_end_model(
    features: Float32,
    votes: Votes,
    weak_labels: Float64,
    gold: GoldRows | None,
    label_log_proba: Float64 | None,
    label_held_out: Float64 | None,
    seed: int = 0,
    advance: Advance = ignore_progress,
    *,
    leader: Leader = "student",
    student: Student | None = None,
) -> EndModel:
    """Return the end model's posterior for every item.

    Parameters
    ----------
    features
        (n, d) float32 from the spectral map, all items of all splits.
    votes
        (n, m) int8, -1 abstains.
    weak_labels
        (n, k) float64, rows sum to 1, made without using any row's gold class (`NearvoteLabels.weak`).
    gold
        Gold rows that may be used, or None.
    label_log_proba, label_held_out
        The label model's log posterior (n, k), and that of the gold rows from folds without them (g, k). Both needed
        with gold; ignored without.
    seed
        Seed of the fold assignment.
    advance
        Receives `END_WORK` in all; without enough gold, only the student's part.
    leader
        The expert whose labels are shipped without gold; it leads the pool while gold is scarce (`weigh_experts`).
    student
        The result of `fit_student` on the same features, votes and weak labels, if the caller has it.

    Notes
    -----
    Without gold the student (`fit_student`) is the end model. With gold four experts are pooled, log p = sum_e w_e log
    p_e, normalized: gold alone; gold regression on [features, student's log posterior scaled to norm 1, one-hot votes
    scaled to norm 1/2], in which corrections of the student along its own axes cost little penalty and all others the
    full one; the label model; and the student. The w_e >= 0 minimize held-out log loss under the prior of
    `weigh_experts`: with few gold rows the labels stay close to those without gold, and with thousands the weights are
    free. Classes without gold keep the probability that `weak_labels` give them. Fewer than 20 gold rows, or gold of a
    single class, count as no gold here (but not in the class balance).

    Raises
    ------
    ValueError
        Gold without the label model's posteriors.
    """
    n, n_classes = weak_labels.shape
    fitted = fit_student(features, votes, weak_labels, seed, advance) if student is None else student
    with threadpool_limits(limits=1):
        raw = fitted.raw
        said = normalize_scores(fitted.confidence * raw)
        if gold is None or not is_enough_gold(gold):
            nothing = np.full((n, n_classes), np.nan)
            return EndModel(
                posterior=np.exp(said),
                student=np.exp(said),
                gold_alone=nothing,
                held_out=np.empty((0, n_classes)),
                pool_weights=np.full(len(EXPERTS), np.nan),
                parameters=EndParameters(student=fitted.regression, confidence=fitted.confidence, gold=None),
            )
        if label_log_proba is None or label_held_out is None:
            raise ValueError("label_log_proba, label_held_out: got None; expected arrays, since gold is given")
        fold = assign_folds(gold.classes, GOLD_FOLDS, seed)
        alone = _fit_gold_expert([features], gold, fold, n_classes, advance)
        centered = center_scores(raw)
        norm = max(float(np.sqrt((centered**2).sum(axis=1).mean())), 1e-12)
        code = _fit_vote_code(votes, n_classes)
        blocks = stack_fused(features, centered, norm, votes, code)
        fused = _fit_gold_expert(blocks, gold, fold, n_classes, advance)
        # the student never saw a gold row's class, so all its rows are held out
        held_out = np.stack([alone.held_out, fused.held_out, label_held_out, said[gold.rows]], axis=2)
        has_gold = np.isin(np.arange(n_classes), gold.classes)
        prior = weigh_experts(len(gold.rows), n_classes, leader)
        weights = fit_pool_weights(held_out, gold.classes, prior)
        pooled = np.empty((len(gold.rows), n_classes))
        for f in range(GOLD_FOLDS):
            rest = fold != f
            pooled[~rest] = held_out[~rest] @ fit_pool_weights(held_out[rest], gold.classes[rest], prior)
        parameters = EndParameters(
            student=fitted.regression,
            confidence=fitted.confidence,
            gold=GoldParameters(
                alone=alone.regression,
                fused=fused.regression,
                student_norm=norm,
                vote_code=code,
                pool_weights=weights,
                has_gold=has_gold,
            ),
        )
        gold_alone = predict_stacked(alone.regression, [features])
        everywhere = [gold_alone, predict_stacked(fused.regression, blocks), label_log_proba, said]
        posterior = _restore_classes(np.stack(everywhere, axis=2) @ weights, weak_labels, has_gold)
        pooled = _restore_classes(pooled, weak_labels[gold.rows], has_gold)
    return EndModel(
        posterior=posterior,
        student=np.exp(said),
        gold_alone=np.exp(gold_alone),
        held_out=pooled,
        pool_weights=weights,
        parameters=parameters,
    )


def fit_student(
    features: Float32, votes: Votes, weak_labels: Float64, seed: int = 0, advance: Advance = ignore_progress
) -> Student:
    """Return softmax regression on the `weak_labels` (n, k) of all rows, or of a random `TRAINING_ROWS` of them.

    Soft targets and the penalty (`choose_student_penalty`) leave it underconfident, so a temperature is fitted on the
    votes of all rows with votes, weighted to the weak labels' class balance; it changes no hard label. The other
    parameters are those of `fit_end_model`.
    """
    with threadpool_limits(limits=1):
        rows = draw_rows(np.arange(len(features)), TRAINING_ROWS, seed)
        penalty = choose_student_penalty(features, weak_labels, seed, advance)
        model = fit_softmax(features[rows], weak_labels[rows], np.ones(len(rows)), penalty, None, advance)
        raw = normalize_scores(score_rows(model, features))
        return Student(regression=model, raw=raw, confidence=_measure_confidence(raw, votes, weak_labels.mean(axis=0)))


def weigh_experts(gold_rows: int, n_classes: int, leader: Leader) -> PoolPrior:
    """Return the prior of the pooling weights, under which the labels without gold change only as gold accumulates.

    With t = (g / (g + 20 k))^2 for g gold rows and k classes, the means are t / 4 for both experts that learn from gold,
    1/4 for label model and student, plus what is left to 1 for the `leader`; the standard deviation is .4 sqrt(t). For two
    classes, 20 rows give t = .11, 100 give .51, a thousand .93.

    >>> weigh_experts(40, 2, "student").mean.tolist()
    [0.0625, 0.0625, 0.25, 0.625]
    """
    trust = (gold_rows / (gold_rows + POOL_ROWS * n_classes)) ** 2
    mean = np.array([trust / 4, trust / 4, 0.25, 0.25])
    mean[EXPERTS.index(leader)] += 0.5 - trust / 2
    return PoolPrior(mean=mean, spread=POOL_SPREAD * float(np.sqrt(trust)))


def predict_end_model(
    parameters: EndParameters,
    features: Float32,
    votes: Votes,
    label_log_proba: Float64 | None,
    weak_labels: Float64 | None,
) -> Float64:
    """Return the end model's posterior (q, k) float64 of any rows, fitted on or not, each by itself.

    Parameters
    ----------
    features
        (q, d) float32 from the spectral map that was fitted.
    votes
        (q, m) int8 by the same LFs, -1 abstains.
    label_log_proba
        The label model's log posterior (q, k); needed with gold, ignored without.
    weak_labels
        (q, k) float64, likewise.

    Notes
    -----
    On the rows of `fit_end_model` this equals its posterior up to the rounding of float32 products, which depends on how
    many rows are multiplied at once.

    Raises
    ------
    ValueError
        Parameters learned from gold without the label model's posterior.
    """
    with threadpool_limits(limits=1):
        raw = normalize_scores(score_rows(parameters.student, features))
        student = normalize_scores(parameters.confidence * raw)
        fitted = parameters.gold
        if fitted is None:
            return np.asarray(np.exp(student))
        if label_log_proba is None or weak_labels is None:
            raise ValueError("label_log_proba, weak_labels: got None; expected arrays, since gold taught the end model")
        blocks = stack_fused(features, center_scores(raw), fitted.student_norm, votes, fitted.vote_code)
        alone, fused = predict_stacked(fitted.alone, [features]), predict_stacked(fitted.fused, blocks)
        pooled = np.stack([alone, fused, label_log_proba, student], axis=2) @ fitted.pool_weights
        return _restore_classes(pooled, weak_labels, fitted.has_gold)


def choose_student_penalty(
    features: Float32, weak_labels: Float64, seed: int = 0, advance: Advance = ignore_progress
) -> float:
    """Return the smallest of `STUDENT_PENALTIES` that explains `STUDENT_SHARE` of what the best of them explains.

    Parameters
    ----------
    features
        (n, d) float32 from the spectral map.
    weak_labels
        (n, k) float64, rows sum to 1.
    seed
        Seed for drawing rows and folds.
    advance
        Receives a fit per penalty and fold.

    Notes
    -----
    A penalty explains as much as the cross-entropy on the weak labels of left-out rows lies below the entropy of their
    mean. At most `PENALTY_ROWS` random rows are used. With fewer rows than folds the answer is the strongest penalty,
    since nothing can be left out.
    """
    rows = draw_rows(np.arange(len(features)), PENALTY_ROWS, seed)
    if len(rows) < STUDENT_FOLDS:
        advance(STUDENT_FOLDS * len(STUDENT_PENALTIES) * WHOLE)
        return STUDENT_PENALTIES[0]
    drawn = min(len(features), TRAINING_ROWS)
    fold = np.random.default_rng(seed).permutation(len(rows)) % STUDENT_FOLDS
    losses = np.zeros(len(STUDENT_PENALTIES))
    with threadpool_limits(limits=1):
        for held in range(STUDENT_FOLDS):
            kept, out = rows[fold != held], rows[fold == held]
            model: SoftmaxRegression | None = None
            for number, penalty in enumerate(STUDENT_PENALTIES):
                # A fold has fewer rows than the whole: the same penalty per row.
                strength = penalty * drawn / len(kept)
                model = fit_softmax(features[kept], weak_labels[kept], np.ones(len(kept)), strength, model, advance)
                losses[number] -= (weak_labels[out] * normalize_scores(score_rows(model, features[out]))).sum()
    mean = weak_labels[rows].mean(axis=0)
    explained = entr(mean).sum() - losses / len(rows)
    # If none explains anything, the strongest penalty.
    return STUDENT_PENALTIES[int(np.argmax(explained >= STUDENT_SHARE * max(explained.max(), 0.0)))]


def _restore_classes(scores: Float64, weak_labels: Float64, has_gold: Bool) -> Float64:
    """Return the posterior (q, k) of pooled `scores` (q, k), in which classes without gold have their weak probability.

    To experts that learn from gold, a class without gold is impossible, whatever the votes say. The other classes share
    the rest of the probability in proportion to the pool.
    """
    posterior = np.exp(normalize_scores(scores))
    if has_gold.all():
        return posterior
    known = np.exp(normalize_scores(scores[:, has_gold]))
    posterior[:, ~has_gold] = weak_labels[:, ~has_gold]
    posterior[:, has_gold] = known * (1.0 - weak_labels[:, ~has_gold].sum(axis=1, keepdims=True))
    return np.asarray(posterior)


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

    fitted = minimize(objective, prior.mean, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * e)
    return np.asarray(fitted.x, dtype=np.float64)


def _measure_confidence(log_proba: Float64, votes: Votes, class_balance: Float64) -> float:
    """Return the inverse temperature, in [1/e, e^3], at which the student best predicts the votes; 1 without votes."""
    counts = sum_votes(votes, weigh_copies(votes, len(class_balance)))
    covered = counts.sum(axis=1) > 0
    if not covered.any():
        return 1.0
    share = counts[covered] / counts[covered].sum(axis=1, keepdims=True)
    mean = share.mean(axis=0)
    targets = share * np.where(mean > 0, class_balance / np.where(mean > 0, mean, 1.0), 0.0)
    return float(fit_temperature(log_proba[covered], targets)[0])


def _fit_gold_expert(
    blocks: Sequence[Float32], gold: GoldRows, fold: Int64, n_classes: int, advance: Advance
) -> GoldExpert:
    """Return the expert on stacked feature blocks, its penalty chosen by cross-fitted log loss (ties: the smaller)."""
    x = np.hstack([block[gold.rows] for block in blocks])
    targets = np.eye(n_classes)[gold.classes]
    rows = np.arange(len(x))
    starts: list[SoftmaxRegression | None] = [None] * GOLD_FOLDS
    best: tuple[float, float, Float64] | None = None
    for number, penalty in enumerate(GOLD_PENALTIES, start=1):
        held_out = np.zeros((len(x), n_classes))
        for f in range(GOLD_FOLDS):
            rest = fold != f
            model = fit_softmax(x[rest], targets[rest], np.ones(int(rest.sum())), penalty, starts[f], advance)
            held_out[~rest] = normalize_scores(score_rows(model, x[~rest]))
            starts[f] = model
        loss = -float(held_out[rows, gold.classes].mean())
        if best is None or loss < best[0]:
            best = (loss, penalty, held_out)
        elif loss > 1.1 * best[0]:  # well past the minimum of a smooth curve
            advance((len(GOLD_PENALTIES) - number) * GOLD_FOLDS * WHOLE)
            break
    assert best is not None
    model = fit_softmax(x, targets, np.ones(len(x)), best[1], None, advance)
    return GoldExpert(regression=model, held_out=best[2], penalty=best[1], loss=best[0])


def predict_stacked(model: SoftmaxRegression, blocks: Sequence[Float32]) -> Float64:
    """Return log class probabilities (n, k) float64 for features given as blocks of columns."""
    scores = np.tile(model.intercept, (len(blocks[0]), 1))
    at = 0
    for block in blocks:
        part = SoftmaxRegression(coef=model.coef[at : at + block.shape[1]], intercept=np.zeros_like(model.intercept))
        scores += score_rows(part, block)
        at += block.shape[1]
    return normalize_scores(scores)


def stack_fused(features: Float32, centered: Float64, norm: float, votes: Votes, code: VoteCode) -> list[Float32]:
    """Return the blocks of features for the expert that also sees the student and the votes."""
    return [features, (centered / norm).astype(np.float32), _encode_votes(votes, code)]


def center_scores(log_proba: Float64) -> Float64:
    """Return log probabilities, floored at `LOG_FLOOR`, minus their mean over classes."""
    kept = np.maximum(log_proba, np.log(LOG_FLOOR))
    return np.asarray(kept - kept.mean(axis=1, keepdims=True))


def _fit_vote_code(votes: Votes, n_classes: int) -> VoteCode:
    """Return the code with a column per LF and class it votes for, and rows of root mean square norm `VOTE_BLOCK_NORM`."""
    heights = np.where(has_votes(votes, n_classes), np.sqrt(weigh_copies(votes, n_classes)), 0.0)
    mean = sum_votes(votes, heights**2).sum(axis=1).mean()
    return VoteCode(heights=heights, scale=float(VOTE_BLOCK_NORM / np.sqrt(mean)) if heights.any() else 0.0)


def _encode_votes(votes: Votes, code: VoteCode) -> Float32:
    """Return the votes as the columns of `code`, (n, V) float32; votes without a column are ignored."""
    columns = [
        (votes[:, j] == c).astype(np.float32) * np.float32(code.scale * code.heights[j, c])
        for j, c in np.argwhere(code.heights > 0)
    ]
    return np.stack(columns, axis=1) if columns else np.zeros((len(votes), 0), dtype=np.float32)
