"""Correlation and conflicts of labeling functions, for the report's heat maps."""

from collections.abc import Sequence

import numpy as np

from tasks.core.lf_analysis import count_conflicts
from tasks.core.lf_pairs import correlate_votes, count_pairs
from tasks.core.types import Votes
from tasks.report.evaluation import LFPairs

MOST = 30
"""LFs that a heat map shows, those with most conflicts: names of more are too small to be read."""


def compare_pairs(lfs: Sequence[str], L: Votes, k: int) -> LFPairs | None:
    """Return how the LFs with most conflicts among `L` (n, m) go together, in the order of LFs; None with fewer than two."""
    if len(lfs) < 2 or not len(L):
        return None
    kept = np.sort(np.argsort(-count_conflicts(L), kind="stable")[:MOST])
    both, same = count_pairs(L, k, kept)
    each = np.diag(both)
    fewer = np.minimum.outer(each, each)
    conflicts = np.where(both > 0, (both - same) / np.maximum(fewer, 1), np.nan)
    return LFPairs(lfs=tuple(lfs[j] for j in kept), correlation=correlate_votes(same, len(L), k), conflicts=conflicts)
