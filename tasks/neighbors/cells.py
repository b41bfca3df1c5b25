"""The cells of an approximate index: their centers, found by k-means or kept from another day, and which item is in which."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.core.search.faiss_index import ROUNDS, FlatIndex, count_cells, find_centers, find_scale
from tasks.core.search.ivf import walk_centers
from tasks.core.search.support import build_support
from tasks.core.types import Float32, Int32, MetricName
from tasks.errors import DataError
from tasks.neighbors.passes import plan_exact_pass, search_pass
from tasks.neighbors.table import NeighborTable
from tasks.progress import Progress
from tasks.tables.centers import Centers
from tasks.tables.paths import KEPT_CENTERS

_UNIT_ERROR = 1e-3
"""How far from 1 the length of a center may be for cosine."""

_MISFIT = 1.5
"""How much more imbalance than when they were found makes kept centers unfit."""

_OUTGROWN = 2
"""How many times more cells must suit the items, which are then four times as many, before kept centers are unfit."""

_RENEW = "To find others, remove ingest.centers from params.yaml, run, and copy data/index/centers.parquet to its place again."


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Items by cell."""

    centers: Centers
    of_item: Int32
    """(n,) the cell of each item."""
    imbalance: float
    """How many items share an item's cell on average, in proportion to cells of equal size."""
    misfit: str | None
    """Why kept centers no longer fit, as sentences; None where they do."""


def group_by_cell(index: FlatIndex, kept: Centers, scratch: Path) -> Grouping:
    """The items of `index` by the nearest of the centers that are `kept`, or, if there are none, of as many as suit them.

    A mapped file without a name is made in the folder `scratch`.

    Raises
    ------
    DataError
        The kept centers are those of another metric.
    """
    is_kept = len(kept.vectors) > 0
    if is_kept:
        _require_metric(kept, index.metric)
    vectors = kept.vectors if is_kept else _find(index)
    of_item = _assign(index, vectors, scratch)
    sizes = np.bincount(of_item, minlength=len(vectors))
    return Grouping(
        centers=kept if is_kept else Centers(vectors=vectors, items=sizes),
        of_item=of_item,
        imbalance=_measure_imbalance(sizes),
        misfit=_describe_misfit(sizes, kept) if is_kept else None,
    )


def _find(index: FlatIndex) -> Float32:
    """As many centers as suit the items of `index`, or fewer; near ones follow each other."""
    scale = find_scale(index.vectors)
    count = count_cells(len(index.vectors))
    with Progress("finding cells", total=ROUNDS) as progress:
        rounds = progress.follow(range(ROUNDS))
        found = find_centers(index.vectors, cells=count, metric=index.metric, rounds=rounds, scale=scale)
    if index.metric == "cosine":
        # The mean of opposite vectors has no direction; nor have the items that are left any that suits them better than another.
        found = found[found.any(axis=1)] if found.any() else index.vectors[:1] * np.float32(scale)
    centers: Float32 = found[walk_centers(found.astype(np.float64), index.metric)] / np.float32(scale)  # a power of two
    return centers


def _require_metric(kept: Centers, metric: MetricName) -> None:
    lengths = np.sqrt((kept.vectors.astype(np.float64) ** 2).sum(axis=1))
    is_wrong = np.abs(lengths - 1) > _UNIT_ERROR
    if metric == "cosine" and is_wrong.any():
        raise DataError(
            f"{KEPT_CENTERS}: a center has length {lengths[is_wrong][0]:.4g}, expected 1: these are no centers for "
            f"index.metric: cosine. {_RENEW}"
        )


def _assign(index: FlatIndex, centers: Float32, scratch: Path) -> Int32:
    """The nearest of `centers`, and of equally near ones the first: by exact search, so that equal vectors share a cell."""
    n = len(index.vectors)
    votes = np.zeros((len(centers), 1), np.int8)
    support = build_support(votes, np.arange(len(centers)), centers, metric=index.metric)
    table = NeighborTable([(0, 0)], n, scratch)
    work = plan_exact_pass(support, support.lf_classes, np.ones((n, 1), bool), "assigning items to cells")
    search_pass(work, index.vectors, table, np.zeros(1, np.int64), is_spread=False)
    of_item: Int32 = table.position[0].copy()
    return of_item


def _measure_imbalance(sizes: npt.NDArray[np.int64]) -> float:
    """How many items share an item's cell on average, in proportion to cells of equal size; `sizes` (cells,).

    >>> _measure_imbalance(np.array([5, 5])), _measure_imbalance(np.array([9, 1]))
    (1.0, 1.64)
    """
    n = int(sizes.sum())
    return round(float(len(sizes) * (sizes / n) @ (sizes / n)), 4) if n else 1.0


def _describe_misfit(sizes: npt.NDArray[np.int64], kept: Centers) -> str | None:
    """Why cells of these `sizes` (cells,) no longer fit, as sentences; None where the `kept` ones do."""
    now, then = _measure_imbalance(sizes), _measure_imbalance(kept.items)
    n, before = int(sizes.sum()), int(kept.items.sum())
    if now > _MISFIT * then:
        reason = f"their imbalance is {now:.2f}, where it was {then:.2f} when they were found"
    elif count_cells(n) >= _OUTGROWN * len(sizes):
        reason = f"{n:,} items are in {len(sizes):,} cells, found for {before:,}; {count_cells(n):,} suit them"
    else:
        return None
    return f"the centers that ingest.centers names no longer fit: {reason}. Search stays right, but slower. {_RENEW}"
