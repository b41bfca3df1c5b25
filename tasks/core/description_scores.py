"""How near an item is to what a class means: cosines with descriptions, each less its mean over reference items.

A description that is near to everything wins nothing. How common a class is, this does not know: of two classes each is the
nearest to about half of the items.
"""

from dataclasses import dataclass

import numpy as np

from tasks.core.types import Float32, Float64, Int64


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
    """Return the scores of descriptions with `vectors` (v, d) of `classes` (v,), whose means are those over reference items X."""
    units = to_units(vectors)
    means = np.einsum("nd,vd->nv", to_units(X).astype(np.float64), units.astype(np.float64)).mean(axis=0)
    return DescriptionScores(vectors=units, offsets=means, classes=classes)
