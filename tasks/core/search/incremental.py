"""What an earlier search, of other items and votes, tells about today's neighbors: which still hold, and what is open.

An item that abstained before and abstains now, with the same embedding, keeps its neighbor if that neighbor still lends
the same vote: what has left the support since was farther away, or as near and later in the order of ids. Only members
that the support has gained can then be nearer (or as near and earlier). An item whose neighbor is gone, or that did not
ask before, has to be searched among the whole support. What comes out is equal to a search of everything.

Items are ordered by their ids on both days, so that the earlier of two items is the same one on both.
"""

from dataclasses import dataclass

import numpy as np

from tasks.core.search.exact import NOBODY
from tasks.core.types import ABSTAIN, Bool, Float32, Int32, Int64, Votes


@dataclass(frozen=True, kw_only=True)
class PreviousNeighbors:
    """One LF's neighbors of the items of an earlier day, as they were found then."""

    support: Votes
    """(n,) as `mark_support` gives it."""
    labels: tuple[int, ...]
    """The c classes in the support, ascending."""
    similarity: Float32
    """(c, n)"""
    position: Int32
    """(c, n) among the items of that day; NOBODY where the LF votes on the item itself."""


@dataclass(frozen=True, kw_only=True)
class ReusedNeighbors:
    """One LF's neighbors as far as they are known today, of n items, for each of the c classes in its support today."""

    similarity: Float32
    """(c, n) NaN where nothing is known."""
    position: Int32
    """(c, n) among today's items; NOBODY where nothing is known."""
    is_open: Bool
    """(n,) the items to be searched among the whole support."""
    is_added: Bool
    """(n,) the members that the support has gained: all other abstaining items are to be compared with these."""


def mark_support(votes: Votes, lends: Bool) -> Votes:
    """Per item (n,) the class for which it lends its vote, -1 where the LF abstains, -2 where it votes but lends not."""
    marked: Votes = np.where((votes == ABSTAIN) | lends, votes, np.int8(-2))
    return marked


def reuse_neighbors(
    earlier: PreviousNeighbors | None, place: Int64 | None, support: Votes, labels: tuple[int, ...]
) -> ReusedNeighbors:
    """What `earlier` (None: nothing) tells about today's items.

    Parameters
    ----------
    place
        (n,) where each of today's items was among the earlier ones, with the same id and embedding; -1: nowhere.
    support
        (n,) of today, as `mark_support` gives it.
    labels
        The classes in it, ascending.
    """
    n = len(support)
    similarity, position = np.full((len(labels), n), np.nan, np.float32), np.full((len(labels), n), NOBODY, np.int32)
    asks = support == ABSTAIN
    if earlier is None or place is None:
        return ReusedNeighbors(similarity=similarity, position=position, is_open=asks, is_added=np.zeros(n, bool))
    was_there = place >= 0
    before = np.where(was_there, earlier.support[place], np.int8(-2)) if len(earlier.support) else np.full(n, -2)
    is_known = asks & (before == ABSTAIN)
    now = np.full(len(earlier.support), NOBODY, np.int32)
    now[place[was_there]] = np.flatnonzero(was_there)
    known = np.flatnonzero(is_known)
    is_open = asks & ~is_known
    for row, label in enumerate(labels):
        if label not in earlier.labels:
            continue  # whoever lends it now is new
        source = earlier.labels.index(label)
        neighbor = now[earlier.position[source, place[known]]]
        holds = (neighbor != NOBODY) & (support[neighbor] == label)
        is_open[known[~holds]] = True
        similarity[row, known] = earlier.similarity[source, place[known]]
        position[row, known] = neighbor
    similarity[:, is_open], position[:, is_open] = np.nan, NOBODY
    return ReusedNeighbors(
        similarity=similarity, position=position, is_open=is_open, is_added=(support >= 0) & (before != support)
    )
