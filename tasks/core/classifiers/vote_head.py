"""The vote head, which generalizes votes over the embeddings and estimates the reliability of each LF.

A class-balanced, temperature-calibrated classifier of "which class would an LF vote here", cross-fitted over the rows
with votes. Each LF's reliability on a class is how far above chance the head's held-out probability of that class lies
where the LF votes it; the head is then fitted once more with votes so weighted: one round of Raykar et al., "Learning
from Crowds", JMLR 2010. Its mean over all rows is the class balance when there is no gold: one step of EM from the
uniform balance, so that two classes which the embeddings cannot separate stay near uniform instead of running to a
corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.core.classifiers.folds import TRAINING_ROWS, draw_rows
from tasks.core.classifiers.softmax import (
    LOG_FLOOR,
    SoftmaxRegression,
    fit_softmax,
    fit_temperature,
    normalize_scores,
    score_rows,
    write_log_proba,
)
from tasks.core.classifiers.spectral import Features
from tasks.core.copies import count_votes, find_originals, weigh_copies
from tasks.core.progress_callback import WHOLE, Advance, ignore_progress
from tasks.core.slices import WIDE, cut_slices
from tasks.core.threads import one_thread
from tasks.core.types import Allocate, Float64, Votes

HEAD_PENALTY = 0.3
"""Inverse penalty of the vote head; .1 to 1 gave the same end accuracy within .002 on 23 tasks."""

HEAD_FOLDS = 4
RELIABILITY_VOTES = 2.0
"""An LF's reliability is smoothed by this many votes at chance."""

RELIABILITY_FLOOR = 0.02
"""The weight that votes at or below chance keep, since the head may be wrong about an LF."""

LEAST_SKILL = 0.1
"""A `measure_skill` below this means that embeddings do not carry votes: 0 for random ones, .21 to .84 on 21 tasks."""


HEAD_WORK = 2 * HEAD_FOLDS * WHOLE
"""The work that `fit_vote_head` reports to its `advance` in all, a whole piece per fit."""


@dataclass(frozen=True, kw_only=True)
class VoteHead:
    """A fitted vote head.

    proba: (n, k) float64, rows sum to 1: the class an LF would vote for under a uniform class balance, held out on rows
    with votes. reliability: (m, k) float64 in [0, 1], the weight of LF j's vote for class c: precision above chance (1 is
    always right, 0 is chance) times its share among near-copies; NaN where LF j never votes c. regression: the classifier
    behind `proba` for rows without votes and for later rows.
    """

    proba: Float64
    reliability: Float64
    regression: SoftmaxRegression


def fit_vote_head(
    features: Features,
    votes: Votes,
    n_classes: int,
    seed: int = 0,
    advance: Advance = ignore_progress,
    allocate: Allocate = np.zeros,
) -> VoteHead:
    """Return the vote head: P(class an LF would vote | item) under a uniform class balance, and LF reliabilities.

    Parameters
    ----------
    features
        (n, d) float32 from the spectral map.
    votes
        (n, m) int8, -1 abstains.
    seed
        Seed of the fold assignment, the only randomness.
    advance
        Receives `HEAD_WORK` in all.
    allocate
        Makes the array of `VoteHead.proba`.

    Notes
    -----
    There are two rounds: votes are weighted by `weigh_copies`, then also by their reliability (`measure_reliability`)
    under the first round's head.
    Targets are an item's averaged votes; weights give the votes of each class the same sum. At most `TRAINING_ROWS` random
    rows with votes are used. Each is predicted by folds without it, and a temperature and k offsets are fitted on these
    held-out rows. All other rows, from which no fold learned, get the mean of the folds' scores. With fewer than 8 rows
    with votes, or votes for a single class, the result is uniform over the classes with votes (over all classes if there
    are no votes). A class without votes has probability 0.
    """
    shares = weigh_copies(votes, n_classes)
    proba = allocate((len(votes), n_classes), np.float64)
    _fit_votes(features, votes, shares, seed, advance, proba)
    reliability = measure_reliability(votes, proba) * shares
    regression = _fit_votes(features, votes, reliability, seed, advance, proba)
    return VoteHead(proba=proba, reliability=reliability, regression=regression)


def measure_reliability(votes: Votes, proba: Float64) -> Float64:
    """Return each LF's precision above chance by class, (m, k) float64, NaN where LF j never votes c.

    Parameters
    ----------
    votes
        (n, m) int8, -1 abstains.
    proba
        (n, k) float64 under a uniform class balance, held out on rows with votes.

    Notes
    -----
    (mean of proba_c where LF j votes c, with two votes at chance, - 1/k) / (1 - 1/k), at least .02 / (1 - 1/k). It uses
    no gold, and so is relative to what the LFs together generalize to.
    """
    n_classes = proba.shape[1]
    chance = 1.0 / n_classes
    reliability = np.full((votes.shape[1], n_classes), np.nan)
    for j in range(votes.shape[1]):
        cast = np.ascontiguousarray(votes[:, j])
        for c in np.unique(cast[cast >= 0]).tolist():
            rows = np.flatnonzero(cast == c)
            total = float(proba[rows, c].sum()) + RELIABILITY_VOTES * chance
            above = total / (len(rows) + RELIABILITY_VOTES) - chance
            reliability[j, c] = max(above, RELIABILITY_FLOOR) / (1.0 - chance)
    return reliability


def measure_skill(votes: Votes, proba: Float64) -> float:
    """Return how well the vote head predicts held-out votes, at most 1: 0 is guessing, 1 is always certain and right.

    Parameters
    ----------
    votes
        (n, m) int8, -1 abstains.
    proba
        (n, k) float64 of `fit_vote_head`.

    Notes
    -----
    One minus the ratio of its log loss to that of guessing among the classes with votes, all weighted equally. LFs with
    identical votes count once. NaN if fewer than two classes have votes.
    """
    originals = np.unique(find_originals(votes))
    k = proba.shape[1]
    gained, cast = np.zeros(k), np.zeros(k)
    for part in cut_slices(len(votes), WIDE):
        said = sum_votes(votes[part, originals], np.ones((len(originals), k)))
        gained += (said * np.log(np.maximum(proba[part], LOG_FLOOR))).sum(axis=0)
        cast += said.sum(axis=0)
    gains = gained[cast > 0] / cast[cast > 0]
    return 1.0 + float(np.mean(gains)) / np.log(len(gains)) if len(gains) > 1 else float("nan")


def _fit_votes(
    features: Features, votes: Votes, weights: Float64, seed: int, advance: Advance, proba: Float64
) -> SoftmaxRegression:
    """Return the classifier of a round of `fit_vote_head`, by votes that weigh `weights` (m, k); write what it says to `proba` (n, k)."""
    n_classes = proba.shape[1]
    is_covered, voted = np.zeros(len(votes), np.bool_), np.zeros(n_classes, np.bool_)
    for part in cut_slices(len(votes), WIDE):
        counts = sum_votes(votes[part], weights)
        is_covered[part] = counts.sum(axis=1) > 0
        voted |= (counts > 0).any(axis=0)
    covered = draw_rows(np.flatnonzero(is_covered), TRAINING_ROWS, seed)
    if voted.sum() < 2 or len(covered) < 2 * HEAD_FOLDS:
        head = np.where(voted, 1.0, 0.0) if voted.any() else np.ones(n_classes)
        head /= head.sum()
        with np.errstate(divide="ignore"):
            constant = SoftmaxRegression(coef=np.zeros((features.shape[1], n_classes)), intercept=np.log(head))
        proba[:] = head
        return constant
    share = sum_votes(votes[covered], weights)[:, voted]
    share /= share.sum(axis=1, keepdims=True)
    balanced = share / share.mean(axis=0)
    mass = balanced.sum(axis=1)
    targets = balanced / mass[:, None]
    mass = mass / mass.mean()
    fold = np.random.default_rng(seed).permutation(len(covered)) % HEAD_FOLDS
    models: list[SoftmaxRegression] = []
    held_out = np.zeros_like(targets)
    learned = features[covered]
    with one_thread():
        for f in range(HEAD_FOLDS):
            out = fold == f
            start = models[-1] if models else None
            # a weight of 0 leaves a fold out without a copy of the others
            model = fit_softmax(learned, targets, np.where(out, 0.0, mass), HEAD_PENALTY, start, advance)
            held_out[out] = score_rows(model, learned[out])
            models.append(model)
        calibrated = fit_temperature(held_out, targets * mass[:, None])
        coef, intercept = np.zeros((features.shape[1], n_classes)), np.full(n_classes, -np.inf)
        # Scores are linear, so the mean of the folds' scores is the score of their mean model.
        coef[:, voted] = calibrated[0] * np.mean([model.coef for model in models], axis=0)
        mean_intercept = np.mean([model.intercept for model in models], axis=0)
        intercept[voted] = calibrated[0] * mean_intercept + calibrated[1:]
        regression = SoftmaxRegression(coef=coef, intercept=intercept)
        write_log_proba(regression, features, proba)
    for part in cut_slices(len(proba)):
        np.exp(proba[part], out=proba[part])
    proba[np.ix_(covered, voted)] = np.exp(normalize_scores(calibrated[0] * held_out + calibrated[1:]))
    return regression


def has_votes(votes: Votes, n_classes: int) -> npt.NDArray[np.bool_]:
    """Return whether LF j votes for class c anywhere, bool of shape (m, k)."""
    return count_votes(votes, n_classes) > 0


def sum_votes(votes: Votes, weights: Float64) -> Float64:
    """Return the sum of the `weights` (m, k) of an item's votes for each class, (n, k) float64, added in LF order."""
    counts = np.zeros((len(votes), weights.shape[1]))
    for j in range(votes.shape[1]):
        rows = np.flatnonzero(votes[:, j] >= 0)
        counts[rows, votes[rows, j]] += weights[j, votes[rows, j]]
    return counts
