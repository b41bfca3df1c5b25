"""The end model: a student of the weak labels and, given gold, a pool of four experts.

`fit_end_model` trains a student on the weak labels of every row and, given gold rows, pools four cross-fitted experts
log-linearly: gold alone, gold on top of the student and the votes, the label model, and the student.
`fit_gold_baseline` is the alternative without weak supervision.

Fitting is transductive: embeddings and votes of every split are inputs, while gold comes only from the rows that the
caller passes (valid). `predict_end_model` applies what was fitted to later rows, and learns nothing from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from tasks.core.classifiers.folds import GOLD_FOLDS, assign_folds, is_enough_gold
from tasks.core.classifiers.gold_experts import (
    GOLD_PENALTIES,
    VoteCode,
    center_scores,
    fit_gold_expert,
    fit_vote_code,
    predict_stacked,
    stack_fused,
)
from tasks.core.classifiers.pool import EXPERTS, Leader, fit_pool_weights, weigh_experts
from tasks.core.classifiers.softmax import (
    SoftmaxRegression,
    fit_softmax_regression,
    normalize_scores,
    predict_log_proba,
    score_rows,
)
from tasks.core.classifiers.student import STUDENT_FOLDS, STUDENT_PENALTIES, Student, fit_student
from tasks.core.progress_callback import WHOLE, Advance, ignore_progress
from tasks.core.types import Bool, Float32, Float64, GoldRows, Votes

END_WORK = (1 + STUDENT_FOLDS * len(STUDENT_PENALTIES) + 2 * (len(GOLD_PENALTIES) * GOLD_FOLDS + 1)) * WHOLE
"""The work that `fit_end_model` reports to its `advance` in all, with enough gold."""


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
        alone = fit_gold_expert([features], gold, fold, n_classes, advance)
        centered = center_scores(raw)
        norm = max(float(np.sqrt((centered**2).sum(axis=1).mean())), 1e-12)
        code = fit_vote_code(votes, n_classes)
        blocks = stack_fused(features, centered, norm, votes, code)
        fused = fit_gold_expert(blocks, gold, fold, n_classes, advance)
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
