"""The end model: a pool of experts, and what the nearest items add to it.

`fit_end_model` trains a student on the weak labels of every row and pools it with the label model; given gold rows, with two
cross-fitted experts more: gold alone, and gold on top of the student and the votes. Then nearest items have a say
(`tasks.core.classifiers.nearest_items`).
`fit_gold_baseline` is the alternative without weak supervision.

Fitting is transductive: embeddings and votes of every split are inputs, while gold comes only from the rows that the
caller passes (valid). `predict_end_model` applies what was fitted to later rows, and learns nothing from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.core.classifiers.folds import GOLD_FOLDS, assign_folds, is_enough_gold
from tasks.core.classifiers.gold_experts import (
    GOLD_PENALTIES,
    FeatureBlock,
    GoldExpert,
    VoteCode,
    fit_gold_expert,
    fit_vote_code,
    measure_norm,
    predict_stacked,
    stack_fused,
)
from tasks.core.classifiers.nearest_items import (
    NearestItems,
    choose_weight,
    find_usual_say,
    follow_steps,
    smooth_labels,
)
from tasks.core.classifiers.pool import EXPERTS, Leader, fit_pool_weights, weigh_experts
from tasks.core.classifiers.softmax import (
    LOG_FLOOR,
    Rows,
    SoftmaxRegression,
    fit_softmax_regression,
    normalize_scores,
    score_rows,
)
from tasks.core.classifiers.spectral import Features, SpectralFeatures
from tasks.core.classifiers.student import STUDENT_FOLDS, STUDENT_PENALTIES, Student, fit_student
from tasks.core.progress_callback import WHOLE, Advance, ignore_progress
from tasks.core.slices import cut_slices
from tasks.core.threads import one_thread
from tasks.core.types import Allocate, Bool, Float32, Float64, GoldRows, Int64, Votes

END_WORK = (1 + STUDENT_FOLDS * len(STUDENT_PENALTIES) + 2 * (len(GOLD_PENALTIES) * GOLD_FOLDS + 1)) * WHOLE
"""The work that `fit_end_model` reports to its `advance` in all, with enough gold."""


PredictFold = Callable[[int, Int64], Float64]
"""Returns log probabilities (r, k) of `rows` (r,), from gold of all folds but `fold`."""


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
class EndParameters:
    """What `predict_end_model` needs.

    confidence: the student's inverse temperature. without_gold: (2,) float64, the weights of label model and student without
    gold. gold: None without gold. neighborhood: the say of the nearest items. cut: that of their reference.
    """

    student: SoftmaxRegression
    confidence: float
    without_gold: Float64
    gold: GoldParameters | None
    neighborhood: float = 0.0
    cut: float = 1.0


@dataclass(frozen=True, kw_only=True)
class EndModel:
    """The end model's result for every item.

    posterior: (n, k) float64, rows sum to 1. own: (n, k) float64, what it would be without nearest items. held_out: (g, k) float64, the
    posterior of gold rows from folds without them, pooling weights and the say of nearest items included (empty without gold).
    pool_weights: (4,) float64, in the order of `EXPERTS` (NaN without gold).
    parameters: what was fitted.
    """

    posterior: Float64
    own: Float64
    held_out: Float64
    pool_weights: Float64
    parameters: EndParameters


def fit_gold_baseline(
    embeddings: Float32, gold: GoldRows, n_classes: int, penalty: float = 10.0, advance: Advance = ignore_progress
) -> SoftmaxRegression:
    """Return logistic regression on the raw `embeddings` (n, d) of the gold rows alone.

    This is the alternative to weak supervision for a user with gold. The default penalty is C = 10; a class without gold
    gets a probability near 0.
    """
    targets = np.eye(n_classes)[gold.classes]
    return fit_softmax_regression(embeddings[gold.rows], targets, np.ones(len(gold.rows)), penalty, advance)


def fit_end_model(
    features: Features,
    votes: Votes,
    weak_labels: Float64,
    gold: GoldRows | None,
    label_log_proba: Rows | None,
    label_held_out: Float64 | None,
    seed: int = 0,
    advance: Advance = ignore_progress,
    allocate: Allocate = np.zeros,
    *,
    leader: Leader = "student",
    student: Student | None = None,
    nearest: NearestItems | None = None,
    predict_fold: PredictFold | None = None,
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
        The label model's log posterior (n, k), read by slices of rows, and that of the gold rows from folds without them (g, k). Both needed
        with gold; ignored without.
    seed
        Seed of the fold assignment.
    advance
        Receives `END_WORK` in all; without enough gold, only the student's part.
    allocate
        Makes the arrays (n, k) of the result and of the student, and two as large for a while.
    leader
        The expert whose labels are shipped without gold; it leads the pool while gold is scarce (`weigh_experts`).
    student
        The result of `fit_student` on the same features, votes and weak labels, if the caller has it.
    nearest
        The nearest items of each row; None: they have no say.
    predict_fold
        The label model's log posterior of some rows, from gold of all folds but one; needed with gold and `nearest`.

    Notes
    -----
    Without gold the pool is that of label model and student at the mean of their prior, a quarter and three quarters; the label
    model is the weak labels then. With gold four experts are pooled, log p = sum_e w_e log
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
    n_classes = weak_labels.shape[1]
    without_gold = weigh_experts(0, n_classes, leader).mean[2:]
    fitted = fit_student(features, votes, weak_labels, seed, advance, allocate) if student is None else student
    with one_thread():
        own = allocate(weak_labels.shape, np.float64)
        for rows in cut_slices(len(own)):
            own[rows] = _pool_without_gold(fitted.predict(rows), weak_labels[rows], without_gold)
        usual = 0.0 if nearest is None else find_usual_say(own, nearest)
        if gold is None or not is_enough_gold(gold):
            return EndModel(
                posterior=own if nearest is None else smooth_labels(own, nearest, usual, allocate),
                own=own,
                held_out=np.empty((0, n_classes)),
                pool_weights=np.full(len(EXPERTS), np.nan),
                parameters=EndParameters(
                    student=fitted.regression,
                    confidence=fitted.confidence,
                    without_gold=without_gold,
                    gold=None,
                    neighborhood=usual,
                    cut=1.0 if nearest is None else nearest.reference.cut,
                ),
            )
        if label_log_proba is None or label_held_out is None:
            raise ValueError("label_log_proba, label_held_out: got None; expected arrays, since gold is given")
        fold = assign_folds(gold.classes, GOLD_FOLDS, seed)
        alone = fit_gold_expert([features], gold, fold, n_classes, advance)
        norm = measure_norm(fitted.raw)
        code = fit_vote_code(votes, n_classes)
        blocks = stack_fused(features, fitted.raw, norm, votes, code)
        fused = fit_gold_expert(blocks, gold, fold, n_classes, advance)
        # the student never saw a gold row's class, so all its rows are held out
        held_out = np.stack([alone.held_out, fused.held_out, label_held_out, fitted.predict(gold.rows)], axis=2)
        has_gold = np.isin(np.arange(n_classes), gold.classes)
        prior = weigh_experts(len(gold.rows), n_classes, leader)
        weights = fit_pool_weights(held_out, gold.classes, prior)
        pooled = np.empty((len(gold.rows), n_classes))
        without_fold = [
            fit_pool_weights(held_out[fold != f], gold.classes[fold != f], prior) for f in range(GOLD_FOLDS)
        ]
        for f in range(GOLD_FOLDS):
            pooled[fold == f] = held_out[fold == f] @ without_fold[f]
        regressions = alone.regression, fused.regression
        for rows in cut_slices(len(own)):
            scores = _pool_experts(
                regressions, _take(blocks, rows), label_log_proba[rows], fitted.predict(rows), weights
            )
            own[rows] = _restore_classes(scores, weak_labels[rows], has_gold)
        pooled = _restore_classes(pooled, weak_labels[gold.rows], has_gold)
        posterior, say = own, 0.0
        if nearest is not None:
            if predict_fold is None:
                raise ValueError("predict_fold: got None; expected a function, since nearest items have a say")
            reference = nearest.reference.rows
            followed = []
            for f in range(GOLD_FOLDS):
                mine = gold.rows[fold == f]
                both = np.union1d(reference, mine)
                scores = _pool_without_fold(f, both, (alone, fused), blocks, predict_fold, fitted, without_fold[f])
                there = _restore_classes(scores, weak_labels[both], has_gold)
                at = np.searchsorted(both, reference), np.searchsorted(both, mine)
                followed.append(
                    follow_steps(there[at[0]], pooled[fold == f], nearest.nearest[reference], nearest.nearest[mine])
                )
            choice = choose_weight(followed, gold, fold, usual)
            posterior = smooth_labels(own, nearest, choice.weight, allocate)
            pooled, say = choice.held_out, choice.weight
        parameters = EndParameters(
            student=fitted.regression,
            confidence=fitted.confidence,
            without_gold=without_gold,
            neighborhood=say,
            cut=1.0 if nearest is None else nearest.reference.cut,
            gold=GoldParameters(
                alone=alone.regression,
                fused=fused.regression,
                student_norm=norm,
                vote_code=code,
                pool_weights=weights,
                has_gold=has_gold,
            ),
        )
    return EndModel(
        posterior=posterior,
        own=own,
        held_out=pooled,
        pool_weights=weights,
        parameters=parameters,
    )


def predict_end_model(
    parameters: EndParameters,
    features: Float32,
    votes: Votes,
    label_log_proba: Float64 | None,
    weak_labels: Float64,
) -> Float64:
    """Return the end model's posterior (q, k) float64 of any rows before nearest items have a say, fitted on or not.

    Parameters
    ----------
    features
        (q, d) float32 from the spectral map that was fitted.
    votes
        (q, m) int8 by the same LFs, -1 abstains.
    label_log_proba
        The label model's log posterior (q, k); needed with gold, ignored without.
    weak_labels
        (q, k) float64.

    Notes
    -----
    On the rows of `fit_end_model` this equals `EndModel.own` up to the rounding of float32 products, which depends on how
    many rows are multiplied at once.

    Raises
    ------
    ValueError
        Parameters learned from gold without the label model's posterior.
    """
    with one_thread():
        raw = normalize_scores(score_rows(parameters.student, features))
        student = normalize_scores(parameters.confidence * raw)
        fitted = parameters.gold
        if fitted is None:
            return _pool_without_gold(student, weak_labels, parameters.without_gold)
        if label_log_proba is None:
            raise ValueError("label_log_proba: got None; expected an array, since gold taught the end model")
        blocks = stack_fused(features, raw, fitted.student_norm, votes, fitted.vote_code)
        pooled = _pool_experts((fitted.alone, fitted.fused), blocks, label_log_proba, student, fitted.pool_weights)
        return _restore_classes(pooled, weak_labels, fitted.has_gold)


def _pool_without_gold(student: Float64, weak_labels: Float64, weights: Float64) -> Float64:
    """Return the pool (q, k) of the student's log probabilities and the weak labels, which may be nought and then are not final."""
    said = np.log(np.maximum(weak_labels, LOG_FLOOR))
    return np.asarray(np.exp(normalize_scores(weights[0] * said + weights[1] * student)))


def _take(blocks: Sequence[FeatureBlock], rows: slice | Int64) -> list[FeatureBlock]:
    """Return the features of `rows`."""
    return [block.take(rows) if isinstance(block, SpectralFeatures) else block[rows] for block in blocks]


def _pool_experts(
    experts: tuple[SoftmaxRegression, SoftmaxRegression],
    blocks: Sequence[FeatureBlock],
    label_model: Float64,
    student: Float64,
    weights: Float64,
) -> Float64:
    """Return the pool's scores (q, k) of the rows whose features are `blocks`."""
    alone, fused = predict_stacked(experts[0], blocks[:1]), predict_stacked(experts[1], blocks)
    return np.asarray(np.stack([alone, fused, label_model, student], axis=2) @ weights)


def _pool_without_fold(
    fold: int,
    rows: Int64,
    experts: tuple[GoldExpert, GoldExpert],
    blocks: Sequence[FeatureBlock],
    predict_fold: PredictFold,
    student: Student,
    weights: Float64,
) -> Float64:
    """Return the pool's scores (r, k) of `rows` by experts and weights that learned nothing from gold rows of `fold`."""
    label_model = predict_fold(fold, rows)
    scores = np.empty_like(label_model)
    alone, fused = (expert.folds[fold] for expert in experts)
    for block in cut_slices(len(rows)):
        part = _take(blocks, rows[block])
        scores[block] = _pool_experts((alone, fused), part, label_model[block], student.predict(rows[block]), weights)
    return scores


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
