"""What a previous search, of other items and votes, tells about the current neighbors: which are valid, and what is open.

An item that abstained before and abstains now, with the same embedding, keeps its neighbor if that neighbor still lends
the same vote: what has left the support since was farther away, or as near and later in the order of ids. Only members
that the support has gained can then be nearer (or as near and earlier). An item whose neighbor is gone, or that did not
ask before, has to be searched among the whole support. What comes out is equal to a search of everything.

In an approximate search it holds as well for what is nearby: an item keeps its neighbor if it still looks there (`ivf.find_lost`),
and is compared with what the cells that it looked in have gained, and with all of those that it did not look in.

Items are ordered by their ids in both runs, so that the earlier of two items is the same item in both.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tasks.core.types import ABSTAIN, NOBODY, Bool, Float32, Int32, Int64, Votes


@dataclass(frozen=True, kw_only=True)
class PreviousNeighbors:
    """One LF's neighbors of the items of a previous run."""

    support: Votes
    """(n,) as `mark_support` gives it."""
    labels: tuple[int, ...]
    """The c classes in the support, ascending."""
    similarity: Float32
    """(c, n)"""
    position: Int32
    """(c, n) among the items of that run; NOBODY where the LF votes on the item itself."""


@dataclass(frozen=True, kw_only=True)
class ReusedNeighbors:
    """One LF's neighbors as far as they are known, of n items, for each of the c classes in its support."""

    labels: tuple[int, ...]
    """The classes, ascending."""
    of_label: Callable[[int], tuple[Float32, Int32]]
    """Returns similarity and position among the current items, (n,) each, for a class; NaN and NOBODY where nothing is known."""
    is_open: Bool
    """(n,) the items to be searched among the whole support."""
    is_added: Bool
    """(n,) the members that the support has gained: all other abstaining items are to be compared with these."""


def mark_support(votes: Votes, lends: Bool) -> Votes:
    """Per item (n,) the class for which it lends its vote, -1 where the LF abstains, -2 where it votes but lends not."""
    marked: Votes = np.where((votes == ABSTAIN) | lends, votes, np.int8(-2))
    return marked


def reuse_neighbors(
    previous: PreviousNeighbors | None, row: Int64 | None, support: Votes, labels: tuple[int, ...]
) -> ReusedNeighbors:
    """What `previous` (None: nothing) tells about the current items.

    Parameters
    ----------
    row
        (n,) the row of each current item in the previous run, with the same id and embedding; -1: it has none.
    support
        (n,) of the current items, as `mark_support` gives it.
    labels
        The classes in it, ascending.
    """
    n = len(support)
    asks = support == ABSTAIN
    if previous is None or row is None:
        return ReusedNeighbors(
            labels=labels, of_label=lambda _: _know_nothing(n), is_open=asks, is_added=np.zeros(n, bool)
        )
    was_there = row >= 0
    lent = previous.support if len(previous.support) else np.full(1, -2, np.int8)
    before = np.where(was_there, lent[row], np.int8(-2))
    is_known = asks & (before == ABSTAIN)
    now = np.full(len(previous.support), NOBODY, np.int32)
    now[row[was_there]] = np.flatnonzero(was_there)
    known = np.flatnonzero(is_known)
    is_open = asks & ~is_known
    for label in labels:
        if label in previous.labels:  # else whoever lends it now is new
            neighbor = now[previous.position[previous.labels.index(label), row[known]]]
            holds = (neighbor != NOBODY) & (support[neighbor] == label)
            is_open[known[~holds]] = True
    known = np.flatnonzero(is_known & ~is_open)

    def take(label: int) -> tuple[Float32, Int32]:
        similarity, position = _know_nothing(n)
        if label in previous.labels:
            source = previous.labels.index(label)
            similarity[known] = previous.similarity[source, row[known]]
            position[known] = now[previous.position[source, row[known]]]
        return similarity, position

    return ReusedNeighbors(
        labels=labels,
        of_label=take,
        is_open=is_open,
        is_added=(support >= 0) & (before != support),
    )


def _know_nothing(n: int) -> tuple[Float32, Int32]:
    return np.full(n, np.nan, np.float32), np.full(n, NOBODY, np.int32)
