"""Items to look at, with their content: wrong, in conflict, uncovered, and wrong by extension; never one of test.

Whoever mends labeling functions by test items can no longer judge by them. Wrong is said on gold of valid alone.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.slices import cut_slices
from tasks.core.types import ABSTAIN, ITEM_ID, Bool, Float64, Int8, Int64, Votes
from tasks.params import Split
from tasks.report.evaluation import Example, ExampleGroup
from tasks.tables import schemas
from tasks.tables.label_matrix import encode_split
from tasks.tables.parquet import read_rows
from tasks.tables.paths import ITEMS

LONGEST = 400
"""Characters that are shown of a text."""

MOST_VOTES = 12
"""Votes that are spelled out for an item."""

_BLOCK = 1 << 16
"""Rows whose votes are compared at a time."""


@dataclass(frozen=True, kw_only=True)
class Labeled:
    """What examples are chosen from, rows in the order of items.

    splits: by `encode_split`. label, confidence: (n,) the most probable class of what ships, held out on gold of valid, and its
    probability.
    """

    ids: pl.Series
    splits: Int8
    gold: Votes
    original: Votes
    extended: Votes
    label: Int8
    confidence: Float64

    def is_of(self, split: Split) -> Bool:
        """Whether each item is of `split`, (n,)."""
        found: Bool = self.splits == encode_split(split)
        return found


def find_examples(
    root: Path, labeled: Labeled, lfs: tuple[str, ...], classes: tuple[str, ...], count: int
) -> tuple[ExampleGroup, ...]:
    """Return up to `count` items of each kind that there is, the most telling first.

    Raises
    ------
    DataError
        The items below `root` are damaged.
    """
    kinds = [kind for kind in _list_kinds(labeled) if len(kind[2])] if count else []
    chosen = np.unique(np.concatenate([rows[:count] for *_, rows in kinds])) if kinds else np.empty(0, np.int64)
    table = read_rows(root / ITEMS, schemas.ITEMS, labeled.ids.gather(chosen)) if len(chosen) else pl.DataFrame()
    content = dict(zip(chosen.tolist(), table.iter_rows(named=True), strict=True))
    return tuple(
        ExampleGroup(
            title=title,
            note=note,
            count=len(rows),
            examples=tuple(_describe(labeled, row, content[row], lfs, classes) for row in rows[:count].tolist()),
        )
        for title, note, rows in kinds
    )


def _list_kinds(labeled: Labeled) -> list[tuple[str, str, Int64]]:
    """Title, note and rows of each kind, the most telling first."""
    may_be_read = ~labeled.is_of(Split.TEST)
    judged = labeled.is_of(Split.VALID) & (labeled.gold != ABSTAIN)
    label, confidence = labeled.label, labeled.confidence
    n = len(label)
    against, astray = np.zeros(n, np.int32), np.zeros(n, np.int32)
    is_disputed, is_uncovered = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    for part in cut_slices(n, _BLOCK):
        original, extended = labeled.original[part], labeled.extended[part]
        voted = original != ABSTAIN
        added = (extended != ABSTAIN) & ~voted
        against[part] = (voted & (original != label[part, None])).sum(axis=1)
        highest = np.where(voted, original, -1).max(axis=1)
        is_disputed[part] = np.where(voted, original, np.iinfo(np.int8).max).min(axis=1) < highest
        is_uncovered[part] = ~voted.any(axis=1) & ~added.any(axis=1)
        astray[part] = (added & (extended != labeled.gold[part, None])).sum(axis=1)
    return [
        (
            "Wrong",
            "On valid the label is not the gold class, the most confident first. Such a label is predicted without the "
            "item's gold.",
            _order(judged & (label != labeled.gold), -confidence),
        ),
        (
            "In conflict",
            "Labeling functions vote for several classes, first where most are against the label.",
            _order(may_be_read & is_disputed, -against),
        ),
        (
            "Uncovered",
            "No labeling function votes, not even by extension, the least certain first.",
            _order(may_be_read & is_uncovered, confidence),
        ),
        (
            "Wrong by extension",
            "On valid a neighbor lends a vote that is not the gold class, first where most do.",
            _order(judged & (astray > 0), -astray),
        ),
    ]


def _order(rows: Bool, key: npt.NDArray[np.number]) -> Int64:
    """The positions of `rows` by ascending `key`; equal ones by their position."""
    found = np.flatnonzero(rows)
    return found[np.argsort(key[found], kind="stable")]


def _describe(
    labeled: Labeled, row: int, content: dict[str, object], lfs: tuple[str, ...], classes: tuple[str, ...]
) -> Example:
    votes = [
        f"{lf}: {classes[vote]}{' (extended)' if labeled.original[row, j] == ABSTAIN else ''}"
        for j, lf in enumerate(lfs)
        if (vote := int(labeled.extended[row, j])) != ABSTAIN
    ]
    more = [f"{len(votes) - MOST_VOTES} more"] if len(votes) > MOST_VOTES else []
    gold = int(labeled.gold[row]) if labeled.splits[row] == encode_split(Split.VALID) else ABSTAIN
    return Example(
        item=str(content[ITEM_ID]),
        content=tuple(
            (name, _cut(value))
            for name, value in content.items()
            if name not in (ITEM_ID, "split") and value is not None
        ),
        label=classes[labeled.label[row]],
        confidence=float(labeled.confidence[row]),
        gold=None if gold == ABSTAIN else classes[gold],
        votes=(*votes[:MOST_VOTES], *more),
    )


def _cut(value: object) -> object:
    return f"{value[:LONGEST]} …" if isinstance(value, str) and len(value) > LONGEST else value
