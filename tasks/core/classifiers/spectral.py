"""Features whose ridge penalty knows how the embeddings vary.

With C the covariance of all embeddings (no labels), a linear model with weight prior N(0, C^t) prefers directions along
which items actually vary; t = 0 is plain ridge, t = 1 is the two-step random-walk kernel x'Cx'' of semi-supervised
learning. The map uses the mean of the three kernels t = 0, 1/2 and 1, each of unit trace: one d x d matrix, no n x n
one, nothing to choose.

Source: Chapelle, Weston and Schoelkopf, "Cluster Kernels for Semi-Supervised Learning", NIPS 2002.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from tasks.core.classifiers.softmax import cut_blocks
from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.types import Float32, Float64

SPECTRAL_POWERS = (0.0, 0.5, 1.0)
"""Plain ridge, half and full step of the random walk; averaged, not chosen."""


@dataclass(frozen=True, kw_only=True)
class SpectralMap:
    """A linear map from embeddings to features of unit mean squared norm.

    mean: (d,) float64. projection: (d, d) float64, symmetric, so that eigenvector signs cannot matter.
    """

    mean: Float64
    projection: Float64


def fit_spectral_map(embeddings: Float32, advance: Advance = ignore_progress) -> SpectralMap:
    """Return the map whose plain ridge penalty equals the averaged spectral kernel on these embeddings.

    Parameters
    ----------
    embeddings
        (n, d) float32, all items of all splits, no labels. Finite.
    advance
        Is told of one piece of work.

    Notes
    -----
    With eigenvalues v of the covariance the scale of each direction is sqrt(mean_t v^t / sum(v^(t+1))), t over
    `SPECTRAL_POWERS`; every kernel has unit trace, so the mean squared norm of a feature row is 1. O(n d^2 + d^3).
    Constant embeddings map to zeros.

    Raises
    ------
    ValueError
        No rows, or not finite.
    """
    n, d = embeddings.shape
    if n == 0:
        raise ValueError("embeddings: got 0 rows; expected at least 1")
    with threadpool_limits(limits=1), count_steps(advance, 2 * len(cut_blocks(n))) as step:
        total = np.zeros(d)
        for block in cut_blocks(n):
            total += embeddings[block].sum(axis=0, dtype=np.float64)
            step(1)
        mean = total / n
        if not np.isfinite(mean).all():
            raise ValueError("embeddings: got NaN or infinity; expected finite values")
        covariance = np.zeros((d, d))
        for block in cut_blocks(n):
            centered = embeddings[block].astype(np.float64) - mean
            covariance += centered.T @ centered
            step(1)
        values, vectors = np.linalg.eigh(covariance / n)
        values = np.maximum(values, 0.0)
        if values.max(initial=0.0) <= 0.0:
            return SpectralMap(mean=mean, projection=np.zeros((d, d)))
        square = np.zeros(d)
        for power in SPECTRAL_POWERS:
            square += values**power / (values ** (power + 1)).sum() / len(SPECTRAL_POWERS)
        return SpectralMap(mean=mean, projection=(vectors * np.sqrt(square)) @ vectors.T)


def apply_spectral_map(
    spectral_map: SpectralMap, embeddings: Float32, out: Float32 | None = None, advance: Advance = ignore_progress
) -> Float32:
    """Return features (n, d) float32, (embeddings - mean) @ projection, in `out` if given (such as a mapped file)."""
    features = np.empty(embeddings.shape, dtype=np.float32) if out is None else out
    blocks = cut_blocks(len(embeddings))
    with threadpool_limits(limits=1), count_steps(advance, len(blocks)) as step:
        for block in blocks:
            features[block] = (embeddings[block].astype(np.float64) - spectral_map.mean) @ spectral_map.projection
            step(1)
    return features
