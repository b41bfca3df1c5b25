"""The experts that learn from gold: on features alone, and on the student and the votes as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.core.classifiers.folds import GOLD_FOLDS
from tasks.core.classifiers.softmax import (
    LOG_FLOOR,
    SoftmaxRegression,
    fit_softmax,
    normalize_scores,
    score_rows,
)
from tasks.core.classifiers.spectral import Features
from tasks.core.classifiers.vote_head import has_votes, sum_votes
from tasks.core.copies import weigh_copies
from tasks.core.progress_callback import WHOLE, Advance
from tasks.core.slices import WIDE, cut_slices
from tasks.core.types import Float32, Float64, GoldRows, Int64, Votes

GOLD_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Inverse penalties of the experts that learn from gold, half decades; cross-fitted log loss chooses."""

VOTE_BLOCK_NORM = 0.5
"""Root mean square norm of the block of one-hot votes, beside features of norm 1."""


@dataclass(frozen=True, kw_only=True)
class GoldExpert:
    """A classifier fitted on gold rows.

    regression: on the blocks of features side by side. held_out: (g, k) float64 for the gold rows, each from folds
    without it, by the regression in `folds` of that fold. penalty: the inverse penalty that won; loss: its mean held-out log
    loss in nats.
    """

    regression: SoftmaxRegression
    held_out: Float64
    folds: tuple[SoftmaxRegression, ...]
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
class VoteColumns:
    """Votes as the columns of a code, (n, V), made for the rows that are asked for: all together take 4 V bytes a row.

    votes: (n, m) int8, -1 abstains; those without a column are ignored.
    """

    votes: Votes
    code: VoteCode

    @property
    def shape(self) -> tuple[int, int]:
        """(n, V)."""
        return len(self.votes), int((self.code.heights > 0).sum())

    def __len__(self) -> int:
        return len(self.votes)

    def __getitem__(self, rows: slice | Int64) -> Float32:
        votes, heights = self.votes[rows], self.code.heights
        columns = [
            (votes[:, j] == c).astype(np.float32) * np.float32(self.code.scale * heights[j, c])
            for j, c in np.argwhere(heights > 0)
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((len(votes), 0), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class ScoreColumns:
    """A classifier's log probabilities (n, k), centered and over `norm`, as columns, made for the rows that are asked for."""

    log_proba: Float64
    norm: float

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k)."""
        return self.log_proba.shape[0], self.log_proba.shape[1]

    def __len__(self) -> int:
        return len(self.log_proba)

    def __getitem__(self, rows: slice | Int64) -> Float32:
        return (center_scores(self.log_proba[rows]) / self.norm).astype(np.float32)


FeatureBlock = Features | ScoreColumns | VoteColumns
"""Columns of features of all rows."""


def fit_gold_expert(
    blocks: Sequence[FeatureBlock], gold: GoldRows, fold: Int64, n_classes: int, advance: Advance
) -> GoldExpert:
    """Return the expert on stacked feature blocks, its penalty chosen by cross-fitted log loss (ties: the smaller)."""
    x = np.hstack([block[gold.rows] for block in blocks])
    targets = np.eye(n_classes)[gold.classes]
    rows = np.arange(len(x))
    starts: list[SoftmaxRegression | None] = [None] * GOLD_FOLDS
    best: tuple[float, float, Float64, tuple[SoftmaxRegression, ...]] | None = None
    for number, penalty in enumerate(GOLD_PENALTIES, start=1):
        held_out = np.zeros((len(x), n_classes))
        for f in range(GOLD_FOLDS):
            rest = fold != f
            model = fit_softmax(x[rest], targets[rest], np.ones(int(rest.sum())), penalty, starts[f], advance)
            held_out[~rest] = normalize_scores(score_rows(model, x[~rest]))
            starts[f] = model
        loss = -float(held_out[rows, gold.classes].mean())
        if best is None or loss < best[0]:
            best = (loss, penalty, held_out, tuple(model for model in starts if model is not None))
        elif loss > 1.1 * best[0]:  # well past the minimum of a smooth curve
            advance((len(GOLD_PENALTIES) - number) * GOLD_FOLDS * WHOLE)
            break
    assert best is not None
    model = fit_softmax(x, targets, np.ones(len(x)), best[1], None, advance)
    return GoldExpert(regression=model, held_out=best[2], folds=best[3], penalty=best[1], loss=best[0])


def predict_stacked(model: SoftmaxRegression, blocks: Sequence[FeatureBlock]) -> Float64:
    """Return log class probabilities (n, k) float64 for features given as blocks of columns."""
    scores = np.tile(model.intercept, (len(blocks[0]), 1))
    at = 0
    for block in blocks:
        part = SoftmaxRegression(coef=model.coef[at : at + block.shape[1]], intercept=np.zeros_like(model.intercept))
        scores += score_rows(part, block)
        at += block.shape[1]
    return normalize_scores(scores)


def stack_fused(
    features: Features, log_proba: Float64, norm: float, votes: Votes, code: VoteCode
) -> list[FeatureBlock]:
    """Return the blocks of features for the expert that also sees the student's `log_proba` (n, k) and the votes."""
    return [features, ScoreColumns(log_proba=log_proba, norm=norm), VoteColumns(votes=votes, code=code)]


def center_scores(log_proba: Float64) -> Float64:
    """Return log probabilities, floored at `LOG_FLOOR`, minus their mean over classes."""
    kept = np.maximum(log_proba, np.log(LOG_FLOOR))
    return np.asarray(kept - kept.mean(axis=1, keepdims=True))


def measure_norm(log_proba: Float64) -> float:
    """Return the root mean square norm of the rows of `center_scores`, positive."""
    squares = np.empty(len(log_proba))
    for block in cut_slices(len(log_proba)):
        squares[block] = (center_scores(log_proba[block]) ** 2).sum(axis=1)
    return max(float(np.sqrt(squares.mean())), 1e-12)


def fit_vote_code(votes: Votes, n_classes: int) -> VoteCode:
    """Return the code with a column per LF and class it votes for, and rows of root mean square norm `VOTE_BLOCK_NORM`."""
    heights = np.where(has_votes(votes, n_classes), np.sqrt(weigh_copies(votes, n_classes)), 0.0)
    parts = cut_slices(len(votes), WIDE)
    mean = sum(sum_votes(votes[part], heights**2).sum(axis=1).sum() for part in parts) / max(len(votes), 1)
    return VoteCode(heights=heights, scale=float(VOTE_BLOCK_NORM / np.sqrt(mean)) if heights.any() else 0.0)
