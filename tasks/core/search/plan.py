"""Plans of searches, which say what support vectors meet what queries: a search per LF, or a single search for all LFs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.core.search.support import LFClass
from tasks.core.slices import cut_slices
from tasks.core.types import Bool, Int64

TILE = 1024
"""Support vectors per matrix product: with `QUERIES`, 8 MiB of products."""

_MEMBER_COST = 15
"""Multiply-adds in the time that reading a member's product takes (.2 ns, measured on a single core at d = 384)."""

_QUERY_COST = 64
"""Members in whose products' time a query is got ready for a search: copied, and put in 8 bits (.4 us at d = 384)."""

_SEEN = 64
"""Members of an LF class after which the best product is so good that later members rarely reach it."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """At most `TILE` support vectors that are multiplied together, and the LF classes that they are members of."""

    rows: Int64
    """(r,) rows of the support, ascending."""
    starts: Int64
    """(r + 1,) where in `lf_classes` each row's memberships begin, and their number s."""
    lf_classes: Int64
    """(s,) indices of LF classes into `Search.lf_classes`."""
    positions: Int64
    """(s,) item positions, as in `LFClass`."""
    is_new: Bool
    """(lf_classes,) True where few members of the LF class are in earlier tiles."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A pass of queries over part of the support that finds the neighbors of one LF class or of many LF classes."""

    lf_classes: tuple[int, ...]
    """Indices into `Support.lf_classes`."""
    tiles: tuple[Tile, ...]
    lf: int | None
    """The LF whose abstaining items are the queries; None: every item is a query."""


def plan_per_lf(lf_classes: Sequence[LFClass]) -> tuple[Search, ...]:
    """Return a search for each LF: the items on which it abstains are compared with its support."""
    lfs = sorted({lf_class.lf for lf_class in lf_classes if len(lf_class.members)})
    return tuple(
        _plan(lf_classes, tuple(index for index, lf_class in enumerate(lf_classes) if lf_class.lf == lf), lf)
        for lf in lfs
    )


def plan_union(lf_classes: Sequence[LFClass]) -> tuple[Search, ...]:
    """Return a single search for all LFs: every item is compared with the union of their supports."""
    chosen = tuple(index for index, lf_class in enumerate(lf_classes) if len(lf_class.members))
    return (_plan(lf_classes, chosen, None),) if chosen else ()


def plan_searches(lf_classes: Sequence[LFClass], abstaining: Int64, n: int, width: int) -> tuple[Search, ...]:
    """Return the cheaper of `plan_per_lf` and `plan_union` by predicted multiply-adds; both give the same result.

    `lf_classes` are those of a support, or the same with fewer members. The support's factors have `width` columns;
    `abstaining` (m,) counts the items, among `n`, on which each LF abstains.
    """
    ready = _QUERY_COST * width
    per_lf = sum(abstaining[lf_class.lf] * len(lf_class.members) * (width + _MEMBER_COST) for lf_class in lf_classes)
    per_lf += sum(abstaining[lf] for lf in {lf_class.lf for lf_class in lf_classes if len(lf_class.members)}) * ready
    rows = _unite([lf_class.members for lf_class in lf_classes])
    union = n * (len(rows) * width + sum(len(lf_class.members) for lf_class in lf_classes) * _MEMBER_COST + ready)
    return plan_per_lf(lf_classes) if per_lf <= union else plan_union(lf_classes)


def _plan(lf_classes: Sequence[LFClass], chosen: tuple[int, ...], lf: int | None) -> Search:
    """Return the search for the LF classes at the indices `chosen`, cut into tiles."""
    sizes = [len(lf_classes[index].members) for index in chosen]
    members = np.concatenate([lf_classes[index].members for index in chosen])
    order = np.argsort(members, kind="stable")
    members = members[order]
    class_of_member = np.repeat(np.arange(len(chosen)), sizes)[order]
    positions = np.concatenate([lf_classes[index].positions for index in chosen])[order]
    starts = np.flatnonzero(np.concatenate([[True], members[1:] != members[:-1]]))
    rows = members[starts]
    starts = np.append(starts, len(members))
    tiles, seen = [], np.zeros(len(chosen), np.int64)
    for part in cut_slices(len(rows), TILE):
        bounds = starts[part.start : part.stop + 1]
        memberships = slice(bounds[0], bounds[-1])
        tiles.append(
            Tile(
                rows=rows[part],
                starts=bounds - bounds[0],
                lf_classes=class_of_member[memberships],
                positions=positions[memberships],
                is_new=seen < _SEEN,
            )
        )
        seen += np.bincount(class_of_member[memberships], minlength=len(chosen))
    return Search(lf_classes=chosen, tiles=tuple(tiles), lf=lf)


def _unite(members: Sequence[Int64]) -> Int64:
    """Return the distinct rows among `members`, ascending."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *members]))
