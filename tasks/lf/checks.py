"""Checks of labeling functions before they vote on all items: their definitions, and their votes on a sample."""

import time
from collections.abc import Sequence

import numpy as np
import polars as pl

from tasks.core.types import ABSTAIN, ITEM_ID
from tasks.errors import LabelingFunctionError
from tasks.lf import workers
from tasks.lf.asking import Asking
from tasks.lf.functions import LabelingFunction, PatternLF, RowwiseLF, VectorizedLF
from tasks.lf.voting import UnknownVoteError, to_position

SAMPLE = 100
"""Items on which vectorized LFs vote twice: an LF that is random on an item in twenty is almost always caught."""

SECONDS = 2.0
"""Time limit for all row-wise LFs together; a slow LF votes twice on a single item only."""

_ALONE = 64
"""Items on which vectorized LFs vote one at a time."""


def require_fitting_patterns(
    lfs: Sequence[LabelingFunction], schema: pl.Schema, classes: Sequence[str], source: str
) -> None:
    """Check that keyword and regex LFs search a text column and vote for a class.

    Raises
    ------
    LabelingFunctionError
        An LF's label or column does not exist, or its column is not text.
    """
    for lf in lfs:
        if not isinstance(lf, PatternLF):
            continue
        subject = f"labeling function '{lf.name}' ({source})"
        try:
            to_position(lf.label, classes)
        except UnknownVoteError as unknown:
            raise LabelingFunctionError(f"{subject}: label {str(unknown).removeprefix('voted ')}.") from None
        if lf.column not in schema:
            raise LabelingFunctionError(f"{subject}: items have no column '{lf.column}', but {', '.join(schema)}.")
        if schema[lf.column] != pl.String:
            raise LabelingFunctionError(
                f"{subject}: column '{lf.column}' is {schema[lf.column]}; keywords and patterns are looked for in text. "
                "Make it text in the raw data, or vote with vectorized_labeling_function."
            )


def require_stable_votes(asking: Asking, lfs: Sequence[LabelingFunction], items: pl.DataFrame) -> None:
    """Check on a sample of `items` that each vote depends on its item alone and is the same every time.

    Raises
    ------
    LabelingFunctionError
        A vote does not; the message names LF and item.
    """
    rows = np.unique(np.linspace(0, items.height - 1, min(SAMPLE, items.height)).astype(np.int64))
    sample = items[rows]
    _require_votes_by_row(
        asking, [lf for lf in lfs if isinstance(lf, VectorizedLF) and not isinstance(lf, PatternLF)], sample
    )
    # The first items, which the stage asks about anyway: on later ones an LF may end the process or take hours.
    first_items = items.head(workers.FIRST_CHUNK)
    until = time.monotonic() + SECONDS
    for lf in (lf for lf in lfs if isinstance(lf, RowwiseLF)):
        start, size = 0, 1
        while start < first_items.height and (start == 0 or time.monotonic() < until):
            part = first_items[start : start + size]
            first, second = (asking.ask_rowwise(lf, part) for _ in range(2))
            if not first.failures and not second.failures:
                _require_same(lf, part[ITEM_ID], first.votes, second.votes, asking.source, _RANDOM)
            start, size = start + size, 2 * size


def _require_votes_by_row(asking: Asking, lfs: Sequence[VectorizedLF], sample: pl.DataFrame) -> None:
    """Check that votes on all of `sample` are the same when repeated, on every second item, and on single items."""
    if not lfs:
        return
    together = asking.ask_vectorized(lfs, sample)
    again = asking.ask_vectorized(lfs, sample)
    half = asking.ask_vectorized(lfs, sample.gather_every(2))
    alone: set[int] = set()
    for lf in lfs:
        votes = together[lf.name].votes
        if together[lf.name].failures:
            continue
        for other, step, reason in ((again, 1, _RANDOM), (half, 2, _BATCH)):
            if not other[lf.name].failures:
                _require_same(lf, sample[ITEM_ID][::step], votes[::step], other[lf.name].votes, asking.source, reason)
        # An LF that votes on the largest item of its batch, say, gives a different vote on an item asked alone.
        for found in (np.flatnonzero(votes != ABSTAIN), np.flatnonzero(votes == ABSTAIN)):
            alone |= {int(row) for row in found[:1]}
    for row in sorted(alone)[:_ALONE]:
        single = asking.ask_vectorized(lfs, sample[row : row + 1])
        for lf in lfs:
            if not together[lf.name].failures and not single[lf.name].failures:
                votes = together[lf.name].votes[row : row + 1]
                _require_same(lf, sample[ITEM_ID][row : row + 1], votes, single[lf.name].votes, asking.source, _BATCH)


_RANDOM = (
    "is not the same when it is asked twice. A vote must depend on its item alone: use no randomness, no clock and no "
    "counter, or a seed that is derived from the item."
)
_BATCH = (
    "changes with the other items of the batch. A vote must depend on its own item alone: compute means, ranks and the "
    "like beforehand, as a column of the items, and use no randomness."
)


def _require_same(
    lf: LabelingFunction,
    ids: pl.Series,
    votes: "np.ndarray[tuple[int], np.dtype[np.int8]]",
    others: "np.ndarray[tuple[int], np.dtype[np.int8]]",
    source: str,
    reason: str,
) -> None:
    """Check that `votes` and `others` on the items with these `ids` are equal."""
    differs = np.flatnonzero(votes != others)
    if differs.size:
        raise LabelingFunctionError(
            f"labeling function '{lf.name}' ({source}): its vote on {ITEM_ID} {ids[int(differs[0])]!r} {reason}"
        )
