"""Which support vectors are multiplied with which queries: one search for each LF, or one for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.core.search.support import LFClass, cut_slices
from tasks.core.types import Bool, Int64

TILE = 1024
"""Support vectors per matrix product: with `QUERIES`, 8 MiB of products."""

_MEMBER_COST = 15
"""Multiply-adds in the time it takes to look at one product of a member (measured at d = 384 on one core: .2 ns)."""

_SEEN = 64
"""Members after which an LF class's best product is good enough that later ones rarely reach it."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Support vectors that are multiplied together, at most `TILE`, and whose members they are."""

    rows: Int64
    """(r,) rows of the support, ascending."""
    starts: Int64
    """(r + 1,) where in `lf_classes` each row's memberships begin, and their number s."""
    lf_classes: Int64
    """(s,) places of LF classes within the search."""
    positions: Int64
    """(s,) item positions, as in `LFClass`."""
    is_new: Bool
    """(lf_classes,) of which few members are in earlier tiles."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """One pass of queries over some of the support, which answers one LF class or many."""

    lf_classes: tuple[int, ...]
    """Places in `Support.lf_classes`."""
    tiles: tuple[Tile, ...]
    lf: int | None
    """The LF whose abstaining items alone are queries; None: every item is one."""


def plan_per_lf(lf_classes: Sequence[LFClass]) -> tuple[Search, ...]:
    """One search for each LF, over its own support, by the items on which it abstains."""
    lfs = sorted({lf_class.lf for lf_class in lf_classes if len(lf_class.members)})
    return tuple(
        _plan(lf_classes, tuple(place for place, lf_class in enumerate(lf_classes) if lf_class.lf == lf), lf)
        for lf in lfs
    )


def plan_union(lf_classes: Sequence[LFClass]) -> tuple[Search, ...]:
    """One search for all LFs, over the union of their supports, by every item."""
    places = tuple(place for place, lf_class in enumerate(lf_classes) if len(lf_class.members))
    return (_plan(lf_classes, places, None),) if places else ()


def plan_searches(lf_classes: Sequence[LFClass], abstaining: Int64, n: int, width: int) -> tuple[Search, ...]:
    """The cheaper of `plan_per_lf` and `plan_union` by predicted multiply-adds; both give the same result.

    `lf_classes` are those of a support, or the same with fewer members, whose factors have `width` columns; `abstaining`
    (m,) counts the items on which each LF abstains, among `n`.
    """
    per_lf = sum(abstaining[lf_class.lf] * len(lf_class.members) * (width + _MEMBER_COST) for lf_class in lf_classes)
    rows = _unite([lf_class.members for lf_class in lf_classes])
    union = n * (len(rows) * width + sum(len(lf_class.members) for lf_class in lf_classes) * _MEMBER_COST)
    return plan_per_lf(lf_classes) if per_lf <= union else plan_union(lf_classes)


def _plan(lf_classes: Sequence[LFClass], places: tuple[int, ...], lf: int | None) -> Search:
    """A search for the LF classes at `places`, its tiles cut and whose members are in them."""
    sizes = [len(lf_classes[place].members) for place in places]
    members = np.concatenate([lf_classes[place].members for place in places])
    order = np.argsort(members, kind="stable")
    members = members[order]
    whose = np.repeat(np.arange(len(places)), sizes)[order]
    positions = np.concatenate([lf_classes[place].positions for place in places])[order]
    starts = np.flatnonzero(np.concatenate([[True], members[1:] != members[:-1]]))
    rows = members[starts]
    starts = np.append(starts, len(members))
    tiles, seen = [], np.zeros(len(places), np.int64)
    for part in cut_slices(len(rows), TILE):
        bounds = starts[part.start : part.stop + 1]
        own = slice(bounds[0], bounds[-1])
        tiles.append(
            Tile(
                rows=rows[part],
                starts=bounds - bounds[0],
                lf_classes=whose[own],
                positions=positions[own],
                is_new=seen < _SEEN,
            )
        )
        seen += np.bincount(whose[own], minlength=len(places))
    return Search(lf_classes=places, tiles=tuple(tiles), lf=lf)


def _unite(members: Sequence[Int64]) -> Int64:
    """The distinct rows among `members`, ascending."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *members]))
