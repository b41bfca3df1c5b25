"""The student: softmax regression on the weak labels of every row, calibrated on the votes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from tasks.core.classifiers.folds import TRAINING_ROWS, draw_rows
from tasks.core.classifiers.softmax import (
    SoftmaxRegression,
    fit_softmax,
    fit_temperature,
    normalize_scores,
    score_rows,
    write_log_proba,
)
from tasks.core.classifiers.spectral import Features
from tasks.core.classifiers.vote_head import sum_votes
from tasks.core.copies import weigh_copies
from tasks.core.progress_callback import WHOLE, Advance, ignore_progress
from tasks.core.slices import WIDE, cut_slices
from tasks.core.threads import one_thread
from tasks.core.types import Allocate, Float64, Int64, Votes

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


@dataclass(frozen=True, kw_only=True)
class Student:
    """The model trained on weak labels. raw: (n, k) float64, its log probabilities. confidence: the inverse temperature
    by which they are multiplied.
    """

    regression: SoftmaxRegression
    raw: Float64
    confidence: float

    def predict(self, rows: slice | Int64) -> Float64:
        """Return its calibrated log probabilities (r, k) of `rows`."""
        return normalize_scores(self.confidence * self.raw[rows])


def fit_student(
    features: Features,
    votes: Votes,
    weak_labels: Float64,
    seed: int = 0,
    advance: Advance = ignore_progress,
    allocate: Allocate = np.zeros,
) -> Student:
    """Return softmax regression on the `weak_labels` (n, k) of all rows, or of a random `TRAINING_ROWS` of them.

    Soft targets and the penalty (`choose_student_penalty`) leave it underconfident, so a temperature is fitted on the
    votes of all rows with votes, weighted to the weak labels' class balance; it changes no hard label. `allocate` makes the array of
    `Student.raw`, and two as large for a while. The other parameters are those of `fit_end_model`.
    """
    with one_thread():
        rows = draw_rows(np.arange(len(features)), TRAINING_ROWS, seed)
        penalty = choose_student_penalty(features, weak_labels, seed, advance)
        model = fit_softmax(features[rows], weak_labels[rows], np.ones(len(rows)), penalty, None, advance)
        raw = allocate(weak_labels.shape, np.float64)
        write_log_proba(model, features, raw)
        confidence = _measure_confidence(raw, votes, weak_labels.mean(axis=0), allocate)
        return Student(regression=model, raw=raw, confidence=confidence)


def choose_student_penalty(
    features: Features, weak_labels: Float64, seed: int = 0, advance: Advance = ignore_progress
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
    mean. From each penalty to the next weaker one it explains less and less more, and then less: where that settles the choice,
    weaker ones are not fitted. At most `PENALTY_ROWS` random rows are used. With fewer rows than folds the answer is the
    strongest penalty, since nothing can be left out.
    """
    rows = draw_rows(np.arange(len(features)), PENALTY_ROWS, seed)
    if len(rows) < STUDENT_FOLDS:
        advance(STUDENT_FOLDS * len(STUDENT_PENALTIES) * WHOLE)
        return STUDENT_PENALTIES[0]
    drawn = min(len(features), TRAINING_ROWS)
    fold = np.random.default_rng(seed).permutation(len(rows)) % STUDENT_FOLDS
    learned, targets = features[rows], weak_labels[rows]
    entropy = scipy.special.entr(targets.mean(axis=0)).sum()
    models: list[SoftmaxRegression | None] = [None] * STUDENT_FOLDS
    explained: list[float] = []
    with one_thread():
        for penalty in STUDENT_PENALTIES:
            loss = 0.0
            for held in range(STUDENT_FOLDS):
                kept = fold != held
                # A fold has fewer rows than the whole: the same penalty per row.
                strength = penalty * drawn / kept.sum()
                model = fit_softmax(
                    learned[kept], targets[kept], np.ones(int(kept.sum())), strength, models[held], advance
                )
                loss -= float((targets[~kept] * normalize_scores(score_rows(model, learned[~kept]))).sum())
                models[held] = model
            explained.append(float(entropy - loss / len(rows)))
            if _is_decided(explained):
                advance((len(STUDENT_PENALTIES) - len(explained)) * STUDENT_FOLDS * WHOLE)
                break
    return STUDENT_PENALTIES[_choose_first(explained, max(explained))]


def _choose_first(explained: list[float], most: float) -> int:
    """Return the position of the first that is `STUDENT_SHARE` of `most`; 0, the strongest penalty, if none explains anything."""
    return int(np.argmax(np.array(explained) >= STUDENT_SHARE * max(most, 0.0)))


def _is_decided(explained: list[float]) -> bool:
    """Return whether no weaker penalty can change the choice, if each explains at most as much more as the last one did."""
    if len(explained) < 2:
        return False
    left = len(STUDENT_PENALTIES) - len(explained)
    most = max(explained) + left * max(explained[-1] - explained[-2], 0.0)
    return explained[_choose_first(explained, max(explained))] >= STUDENT_SHARE * max(most, 0.0)


def _measure_confidence(log_proba: Float64, votes: Votes, class_balance: Float64, allocate: Allocate) -> float:
    """Return the inverse temperature, in [1/e, e^3], at which the student best predicts the votes; 1 without votes."""
    weights = weigh_copies(votes, len(class_balance))
    # Rows without votes come last and are cut off.
    share, said = allocate(log_proba.shape, np.float64), allocate(log_proba.shape, np.float64)
    total, rows = np.zeros(len(class_balance)), 0
    for part in cut_slices(len(votes), WIDE):
        counts = sum_votes(votes[part], weights)
        is_covered = counts.sum(axis=1) > 0
        end = rows + int(is_covered.sum())
        share[rows:end] = counts[is_covered] / counts[is_covered].sum(axis=1, keepdims=True)
        said[rows:end] = log_proba[part][is_covered]
        total += share[rows:end].sum(axis=0)
        rows = end
    if not rows:
        return 1.0
    mean = total / rows
    for part in cut_slices(rows):
        share[part] *= np.where(mean > 0, class_balance / np.where(mean > 0, mean, 1.0), 0.0)
    return float(fit_temperature(said[:rows], share[:rows])[0])
