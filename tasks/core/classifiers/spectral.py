"""Features on which a ridge penalty accounts for how the embeddings vary.

With C the covariance of all embeddings (no labels), a linear model with weight prior N(0, C^t) prefers directions along
which items actually vary; t = 0 is plain ridge, t = 1 is the two-step random-walk kernel x'Cx'' of semi-supervised
learning. The map uses the mean of the three kernels t = 0, 1/2 and 1, each of unit trace, with nothing to choose. Its
eigenvectors are those of a d x d matrix or, where items are fewer than dimensions, of an n x n one.

Source: Chapelle, Weston and Schoelkopf, "Cluster Kernels for Semi-Supervised Learning", NIPS 2002.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.core.classifiers.folds import TRAINING_ROWS, draw_rows
from tasks.core.classifiers.softmax import SoftmaxRegression
from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.slices import cut_slices
from tasks.core.threads import one_thread
from tasks.core.types import Float32, Float64, Int64

SPECTRAL_POWERS = (0.0, 0.5, 1.0)
"""Plain ridge, and a half and a full step of the random walk; averaged, not chosen among."""


@dataclass(frozen=True, kw_only=True)
class SpectralMap:
    """A linear map from embeddings to features of unit mean squared norm.

    mean: (d,) float64. projection: (d, r) float64. If there are at least as many items as dimensions, it is symmetric with
    r = d, so that eigenvector signs cannot matter; else it has a column for each of the r < n directions in which they vary.
    """

    mean: Float64
    projection: Float64


def fit_spectral_map(embeddings: Float32, advance: Advance = ignore_progress) -> SpectralMap:
    """Return the map whose plain ridge penalty equals the averaged spectral kernel on these embeddings.

    Parameters
    ----------
    embeddings
        (n, d) float32, finite, of all items of all splits.
    advance
        Receives a single piece of work.

    Notes
    -----
    With eigenvalues v of the covariance the scale of each direction is sqrt(mean_t v^t / sum(v^(t+1))), t over
    `SPECTRAL_POWERS`; every kernel has unit trace, so the mean squared norm of a feature row is 1. O(n d min(n, d)).
    Constant embeddings map to zeros. With fewer items than dimensions the directions along which nothing varies are left
    out: a penalized linear model has no weight there.

    Raises
    ------
    ValueError
        No rows, or not finite.
    """
    n, d = embeddings.shape
    if n == 0:
        raise ValueError("embeddings: got 0 rows; expected at least 1")
    drawn = draw_rows(np.arange(n), TRAINING_ROWS, 0)
    with one_thread(), count_steps(advance, len(cut_slices(n)) + len(cut_slices(len(drawn)))) as step:
        total = np.zeros(d)
        for block in cut_slices(n):
            total += embeddings[block].sum(axis=0, dtype=np.float64)
            step(1)
        mean = total / n
        if not np.isfinite(mean).all():
            raise ValueError("embeddings: got NaN or infinity; expected finite values")
        if n < d:
            return SpectralMap(mean=mean, projection=_project_few(embeddings, mean, step))
        covariance = np.zeros((d, d))
        for block in cut_slices(len(drawn)):
            centered = embeddings[drawn[block]].astype(np.float64) - mean
            covariance += centered.T @ centered
            step(1)
        values, vectors = np.linalg.eigh(covariance / len(drawn))
        values = np.maximum(values, 0.0)
        if values.max(initial=0.0) <= 0.0:
            return SpectralMap(mean=mean, projection=np.zeros((d, d)))
        return SpectralMap(mean=mean, projection=(vectors * _scale_directions(values)) @ vectors.T)


def _project_few(embeddings: Float32, mean: Float64, step: Advance) -> Float64:
    """Return the projection (d, r) for n < d rows, from the eigenvectors of their n x n products."""
    n = len(embeddings)
    centered = embeddings.astype(np.float64) - mean
    step(len(cut_slices(n)))
    values, vectors = np.linalg.eigh(centered @ centered.T / n)
    varies = values > values.max(initial=0.0) * n * np.finfo(np.float64).eps
    if not varies.any():
        return np.zeros((centered.shape[1], 1))
    values = values[varies]
    directions = centered.T @ (vectors[:, varies] / np.sqrt(n * values))
    return np.asarray(directions * _scale_directions(values))


def _scale_directions(values: Float64) -> Float64:
    """Return the scale (r,) of directions along which the variances are `values` (r,), not all 0."""
    square = np.zeros(len(values))
    for power in SPECTRAL_POWERS:
        square += values**power / (values ** (power + 1)).sum() / len(SPECTRAL_POWERS)
    return np.asarray(np.sqrt(square))


@dataclass(frozen=True, kw_only=True)
class SpectralFeatures:
    """The features (n, r) of `embeddings` (n, d) float32, made for the rows that are asked for.

    A classifier of all rows needs none of them: it is folded into one of embeddings, which spares n d r multiplications and a
    second matrix as large as the embeddings.
    """

    spectral_map: SpectralMap
    embeddings: Float32

    @property
    def shape(self) -> tuple[int, int]:
        """(n, r)."""
        return len(self.embeddings), self.spectral_map.projection.shape[1]

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: slice | Int64) -> Float32:
        taken = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        return apply_spectral_map(self.spectral_map, self.embeddings, taken)

    def take(self, rows: slice | Int64) -> SpectralFeatures:
        """Return those of some rows, not made yet."""
        return SpectralFeatures(spectral_map=self.spectral_map, embeddings=self.embeddings[rows])

    def fold(self, model: SoftmaxRegression) -> tuple[Float32, SoftmaxRegression]:
        """Return the embeddings, and the regression on them that gives the scores of `model` on the features, up to rounding."""
        coef = self.spectral_map.projection @ model.coef
        return self.embeddings, SoftmaxRegression(coef=coef, intercept=model.intercept - self.spectral_map.mean @ coef)


Features = Float32 | SpectralFeatures


def apply_spectral_map(spectral_map: SpectralMap, embeddings: Float32, rows: Int64 | None = None) -> Float32:
    """Return the features (q, r) float32 of all `embeddings`, or of those at `rows` (q,): (embeddings - mean) @ projection.

    Products are of float32: no direction is scaled up over others that vary more, so that their rounding stays small beside the features.
    """
    mean, projection = spectral_map.mean.astype(np.float32), spectral_map.projection.astype(np.float32)
    count = len(embeddings) if rows is None else len(rows)
    features = np.empty((count, projection.shape[1]), dtype=np.float32)
    with one_thread():
        for block in cut_slices(count):
            features[block] = (embeddings[block if rows is None else rows[block]] - mean) @ projection
    return features
