"""What each labeling function adds to majority vote: how it would vote without it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.core.types import ABSTAIN, Bool, Float64, Int64, Votes


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """Per LF (m,): decided, items on which majority vote is another without it; gain, what it adds to its accuracy.

    A tie becoming a decision, or an item losing its only vote, counts as another vote. gain is NaN without gold.
    """

    decided: Int64
    gain: Float64


def leave_out_each(L: Votes, gold: npt.NDArray[np.integer], k: int) -> LeaveOneOut:
    """Return what becomes of majority vote on `L` (n, m) without each LF; `gold` (n,) is -1 where it is unknown.

    Ties count as the expectation over breaking them at random, items without a vote as a tie of all classes.

    >>> found = leave_out_each(np.array([[0, 0], [0, -1], [1, 0]], dtype=np.int8), np.array([0, 0, -1]), k=2)
    >>> found.decided.tolist(), found.gain.tolist()
    ([2, 1], [0.25, 0.0])
    """
    n, m = L.shape
    counts = np.zeros((n, k), np.int32)
    for votes in L.T:
        voted = np.flatnonzero(votes != ABSTAIN)
        counts[voted, votes[voted]] += 1
    judged = int((gold != ABSTAIN).sum())
    decided, gain = np.zeros(m, np.int64), np.full(m, np.nan)
    for j, votes in enumerate(L.T):
        rows = np.flatnonzero(votes != ABSTAIN)
        before = counts[rows]
        after = before.copy()
        after[np.arange(len(rows)), votes[rows]] -= 1
        won, wins = _find_winners(before), _find_winners(after)
        decided[j] = int((won != wins).any(axis=1).sum())
        if judged:
            known = gold[rows] != ABSTAIN
            truth = gold[rows][known].astype(np.int64)
            gain[j] = (_share(won[known], truth) - _share(wins[known], truth)).sum() / judged
    return LeaveOneOut(decided=decided, gain=gain)


def _find_winners(counts: npt.NDArray[np.int32]) -> Bool:
    """The classes with most votes of each row, (r, k)."""
    winners: Bool = counts == counts.max(axis=1, keepdims=True, initial=0)
    return winners


def _share(winners: Bool, truth: Int64) -> Float64:
    """The chance that a winner drawn at random is right, (r,)."""
    shares: Float64 = winners[np.arange(len(truth)), truth] / winners.sum(axis=1)
    return shares
