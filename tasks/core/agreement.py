"""How far people agree who label the same items: Cohen's kappa of two of them, Krippendorff's alpha of all.

Everywhere D is the matrix of decisions, int8 of shape (n, a): what each of a annotators says of each item, a class
0..k-1, or -1 where one has said nothing.
"""

from dataclasses import dataclass

import numpy as np

from tasks.core.types import ABSTAIN, Int64, Votes

MOST_PAIRS = 100
"""Pairs of annotators that are compared: a crowd of a thousand has half a million, which nobody reads."""


@dataclass(frozen=True, kw_only=True)
class PairAgreement:
    """Two annotators (columns of D), on how many items both decided, and Cohen's kappa; None where it is undefined."""

    first: int
    second: int
    items: int
    kappa: float | None


def count_decisions(D: Votes, k: int) -> Int64:
    """Return how many annotators gave each item each class, (n, k).

    >>> count_decisions(np.array([[0, 1, 1], [-1, 0, -1]], dtype=np.int8), k=2).tolist()
    [[1, 2], [1, 0]]
    """
    return np.stack([np.equal(D, label).sum(axis=1) for label in range(k)], axis=1).astype(np.int64)


def measure_alpha(counts: Int64) -> float | None:
    """Return Krippendorff's alpha for classes without an order from the decisions `counts` (n, k); at most 1, 0 is chance.

    Items that fewer than two annotators have decided on do not count. None where it is undefined: no such items, or
    nothing but one class on them.

    >>> measure_alpha(np.array([[2, 0], [0, 2]])), measure_alpha(np.array([[2, 0], [2, 0]]))
    (1.0, None)

    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011, section C. (The package that computes it is
    under the GPL, which this project is not.)
    """
    paired = counts[counts.sum(axis=1) > 1].astype(np.float64)
    per_item, per_class = paired.sum(axis=1), paired.sum(axis=0)
    total = per_item.sum()
    expected = total**2 - (per_class**2).sum()
    if not expected:
        return None
    observed = ((per_item**2 - (paired**2).sum(axis=1)) / (per_item - 1)).sum()
    return float(1 - (total - 1) * observed / expected)


def measure_pairs(D: Votes) -> tuple[PairAgreement, ...]:
    """Return the agreement of annotators two by two: of those `MOST_PAIRS` that share most items, the most first."""
    decided = (D != ABSTAIN).astype(np.int64)
    shared = np.triu(decided.T @ decided, k=1)
    if not shared.any():
        return ()
    # Imported here: scikit-learn takes a second to import, which only gold of several annotators should pay.
    from sklearn.metrics import cohen_kappa_score

    first, second = np.nonzero(shared)
    order = np.argsort(-shared[first, second], kind="stable")[:MOST_PAIRS]
    pairs = []
    for a, b in zip(first[order].tolist(), second[order].tolist(), strict=True):
        both = (D[:, a] != ABSTAIN) & (D[:, b] != ABSTAIN)
        left, right = D[both, a], D[both, b]
        # Nothing but one class leaves nothing to agree on by chance.
        is_defined = len(np.unique(np.concatenate([left, right]))) > 1
        kappa = float(cohen_kappa_score(left, right)) if is_defined else None
        pairs.append(PairAgreement(first=a, second=b, items=int(both.sum()), kappa=kappa))
    return tuple(pairs)
