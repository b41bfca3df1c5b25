"""What a previous search, of other items and votes, tells about the current neighbors: which are valid, and what is open.

An item that abstained before and abstains now, with the same embedding, keeps its neighbor if that neighbor still lends
the same vote: what has left the support since was farther away, or as near and later in the order of ids. Only members
that the support has gained can then be nearer (or as near and earlier). An item whose neighbor is gone, or that did not
ask before, has to be searched among the whole support. What comes out is equal to a search of everything.

In an approximate search it holds as well for what is nearby: an item keeps its neighbor if it still looks there (`ivf.find_lost`),
and is compared with what the cells that it looked in have gained, and with all of those that it did not look in.

Items are ordered by their ids in both runs, so that the earlier of two items is the same item in both.
"""

from dataclasses import dataclass

import numpy as np

from tasks.core.search.exact import NOBODY
from tasks.core.types import ABSTAIN, Bool, Float32, Int32, Int64, Votes


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
    similarity: Float32
    """(c, n) NaN where nothing is known."""
    position: Int32
    """(c, n) among the current items; NOBODY where nothing is known."""
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
    similarity, position = np.full((len(labels), n), np.nan, np.float32), np.full((len(labels), n), NOBODY, np.int32)
    asks = support == ABSTAIN
    if previous is None or row is None:
        return ReusedNeighbors(
            labels=labels, similarity=similarity, position=position, is_open=asks, is_added=np.zeros(n, bool)
        )
    was_there = row >= 0
    before = np.where(was_there, previous.support[row], np.int8(-2)) if len(previous.support) else np.full(n, -2)
    is_known = asks & (before == ABSTAIN)
    now = np.full(len(previous.support), NOBODY, np.int32)
    now[row[was_there]] = np.flatnonzero(was_there)
    known = np.flatnonzero(is_known)
    is_open = asks & ~is_known
    for index, label in enumerate(labels):
        if label not in previous.labels:
            continue  # whoever lends it now is new
        source = previous.labels.index(label)
        neighbor = now[previous.position[source, row[known]]]
        holds = (neighbor != NOBODY) & (support[neighbor] == label)
        is_open[known[~holds]] = True
        similarity[index, known] = previous.similarity[source, row[known]]
        position[index, known] = neighbor
    similarity[:, is_open], position[:, is_open] = np.nan, NOBODY
    return ReusedNeighbors(
        labels=labels,
        similarity=similarity,
        position=position,
        is_open=is_open,
        is_added=(support >= 0) & (before != support),
    )
