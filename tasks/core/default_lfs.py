"""Default LFs, which say "otherwise this class": no evidence about an item, but about what is usual."""

import numpy as np

from tasks.core.copies import group_copies
from tasks.core.types import ABSTAIN, Int64, Votes

DEFAULT_COVERAGE = 0.5
"""Coverage above which an LF that votes for a single class may be a default."""

DEFAULT_CONFLICTS = 0.05
"""Largest share of a default's votes that others may contradict: it was written to vote where no other LF does."""


def find_default_lfs(votes: Votes) -> Int64:
    """Return the default LFs ("otherwise this class"), which vote for a single class on over half of the items and are
    hardly ever contradicted, except by near-copies of themselves: their positions, ascending.

    >>> find_default_lfs(np.array([[0, -1], [0, -1], [0, -1], [-1, 1]], dtype=np.int8)).tolist()
    [0]
    """
    found = []
    copies: dict[int, tuple[int, ...]] | None = None
    for lf in range(votes.shape[1]):
        rows = votes[:, lf] != ABSTAIN
        classes = np.unique(votes[rows, lf])
        if len(classes) == 1 and rows.mean() > DEFAULT_COVERAGE:
            if copies is None:
                copies = {one: group.lfs for group in group_copies(votes, int(votes.max()) + 1) for one in group.lfs}
            others = np.delete(votes[rows], copies.get(lf, lf), axis=1)
            if ((others != ABSTAIN) & (others != classes[0])).any(axis=1).mean() < DEFAULT_CONFLICTS:
                found.append(lf)
    return np.array(found, dtype=np.int64)
