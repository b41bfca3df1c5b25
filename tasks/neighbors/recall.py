"""recall.json: what approximate search missed."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.errors import DataError
from tasks.neighbors.columns import NeighborColumns

_SHOWN = 5
"""LFs that an error names."""


class LFRecall(BaseModel):
    """The recall of approximate search for one LF."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recall: float | None
    """The share of checked neighbors that are as near as those of exact search; null where none was checked."""
    checked_neighbors: int
    effort: int | None
    """In how many cells with members of a class's support an item looks; null: it is compared with all of them."""


class Recall(BaseModel):
    """The contents of recall.json, measured on sampled items that were searched exactly as well.

    A flat index is exact: there is nothing to measure, and target and recall are null.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["flat", "ivf"]
    target_recall: float | None
    recall: float | None
    checked_neighbors: int
    lfs: dict[str, LFRecall]


def describe_recall(kind: Literal["flat", "ivf"], columns: Mapping[str, NeighborColumns], target: float) -> Recall:
    """The recall that was measured while the `columns`, by LF, were searched in an index of this `kind`."""
    lfs = {}
    for name, found in columns.items():
        share = round(found.right / found.checked, 6) if found.checked else None
        lfs[name] = LFRecall(recall=share, checked_neighbors=found.checked, effort=found.effort)
    checked = sum(found.checked for found in columns.values())
    right = sum(found.right for found in columns.values())
    return Recall(
        kind=kind,
        target_recall=None if kind == "flat" else target,
        recall=round(right / checked, 6) if checked else None,
        checked_neighbors=checked,
        lfs=lfs,
    )


def require_recall(recall: Recall) -> None:
    """Refuse a recall below its target.

    Raises
    ------
    DataError
        The recall is below the target; the message names the worst LFs.
    """
    if recall.recall is None or recall.target_recall is None or recall.recall >= recall.target_recall:
        return
    worst = sorted((lf.recall, name) for name, lf in recall.lfs.items() if lf.recall is not None)[:_SHOWN]
    raise DataError(
        f"search: recall is {recall.recall:.4f} on {recall.checked_neighbors:,} neighbors of sampled items, expected at "
        f"least {recall.target_recall:g}. Lowest: {', '.join(f'{name} {share:.4f}' for share, name in worst)}. "
        "Raise search.target_recall (more effort is then chosen), or set index.kind to flat for exact search."
    )
