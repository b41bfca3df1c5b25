"""How near an item is to what a class means: cosines with descriptions, weighed by how items lie between them.

A cosine alone knows neither how wide a class is nor how common: of two classes of which one has every eighth item, the nearest
sentence gives each half of the items. So the cosines of reference items are taken for a mixture of normal distributions, one for
each description, with a covariance in common, and fitted by expectation-maximization that begins with the nearest description
and keeps the centers half-way to that beginning. What separates two such distributions is a line, so what comes of it is again
a vector and an offset for each description.

Source: linear discriminant analysis with unlabeled items (Hastie, Tibshirani and Friedman, The Elements of Statistical
Learning, 2009, sections 4.3 and 8.5).
"""

from dataclasses import dataclass

import numpy as np

from tasks.core.types import Float32, Float64, Int64

ROUNDS = 10
"""Of expectation-maximization; from 5 on, nothing of what was measured changes."""

HELD = 0.5
"""How far centers are held at where they were in the first round."""

LEAST = 10
"""Reference items for each description below which nothing is fitted."""

SHRINKAGE = 0.1
"""Share of the covariance that is the same in all directions: cosines with similar descriptions hardly differ."""

NOTHING = 1e-12
"""Mean variance of cosines from which they do not differ: the square of what float32 can tell."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DescriptionScores:
    """By description the vector (v, d) whose product with an item at length one is its score, less the offset (v,); and its
    class (v,).
    """

    vectors: Float32
    offsets: Float64
    classes: Int64

    def score_classes(self, X: Float32, k: int) -> Float64:
        """Return the score (n, k) of each class for the rows of X (n, d), the best of its descriptions; -inf without any.

        A row's scores do not depend on the other rows, to the last bit, which a matrix product would not promise.
        """
        found = np.einsum("nd,vd->nv", to_units(X).astype(np.float64), self.vectors.astype(np.float64)) - self.offsets
        scores = np.full((len(X), k), -np.inf)
        for c in np.unique(self.classes).tolist():
            scores[:, c] = found[:, self.classes == c].max(axis=1)
        return scores


def to_units(vectors: Float32) -> Float32:
    """Return `vectors` (n, d) at length one."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    units: Float32 = (vectors / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32)
    return units


def fit_scores(X: Float32, vectors: Float32, classes: Int64) -> DescriptionScores:
    """Return the scores of descriptions with `vectors` (v, d) of `classes` (v,), by reference items X (n, d).

    They are logarithms of odds as far as the mixture is true, but for a part that all have in common. Of a single description, and of fewer than `LEAST`
    items for each, they are the cosine less its mean over reference items.
    """
    V = to_units(vectors).astype(np.float64)
    cosines = np.einsum("nd,vd->nv", to_units(X).astype(np.float64), V)
    means = cosines.mean(axis=0)
    if len(V) == 1 or len(X) < LEAST * len(V):
        return DescriptionScores(vectors=V.astype(np.float32), offsets=means, classes=classes)
    directions, offsets = _separate(cosines - means)
    return DescriptionScores(
        vectors=(directions.T @ V).astype(np.float32), offsets=means @ directions - offsets, classes=classes
    )


def _separate(scores: Float64) -> tuple[Float64, Float64]:
    """The directions (v, v) and offsets (v,) by which scores (n, v) become logarithms of odds: scores @ directions + offsets."""
    n, v = scores.shape
    scores = scores - scores.mean(axis=1, keepdims=True)
    shares = np.eye(v)[scores.argmax(axis=1)]
    empty = np.flatnonzero(~shares.any(axis=0))
    shares[scores[:, empty].argmax(axis=0)] = np.eye(v)[empty]
    squares = scores.T @ scores
    first: Float64 | None = None
    for _ in range(ROUNDS):
        counts = shares.sum(axis=0)
        sums = shares.T @ scores
        centers = sums / np.maximum(counts, np.finfo(np.float64).tiny)[:, None]
        first = centers if first is None else first
        centers = HELD * first + (1 - HELD) * centers
        across = centers.T @ sums
        covariance = (squares - across - across.T + (centers.T * counts) @ centers) / n
        mean = max(float(np.trace(covariance)) / v, NOTHING)
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * mean * np.eye(v)
        directions = np.linalg.solve(covariance, centers.T)
        offsets = np.log((counts + 1) / (n + v)) - 0.5 * np.einsum("cv,vc->c", centers, directions)
        odds = scores @ directions + offsets
        shares = np.exp(odds - odds.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
    # Scores were taken from their row's mean, which the directions take over.
    return directions - directions.mean(axis=0), offsets
