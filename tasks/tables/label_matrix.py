"""Tables as arrays whose rows are those of items: votes as the label matrix, and gold by item."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.types import ABSTAIN, ITEM_ID, Bool, GoldRows, Int8, Votes
from tasks.errors import DataError
from tasks.params import Split
from tasks.tables import schemas
from tasks.tables.muted import read_muted_of
from tasks.tables.parquet import read_of_items, read_schema, read_table
from tasks.tables.paths import ITEMS, VALID_GOLD, VOTES, WITHHELD_GOLD
from tasks.tables.scratch import open_scratch

_SPLITS = pl.Enum([split.value for split in Split])


def to_matrix(votes: pl.DataFrame) -> Votes:
    """Return the label matrix (n, m) of a table of votes, column by column in memory."""
    lfs = [name for name in votes.columns if name != ITEM_ID]
    L = np.empty((votes.height, len(lfs)), np.int8, order="F")
    for position, lf in enumerate(lfs):
        L[:, position] = votes[lf].to_numpy()
    return L


@dataclass(frozen=True, kw_only=True)
class VoteMatrix:
    """The votes (n, m) of items, column by column in a mapped file, by the LFs of these names."""

    lfs: tuple[str, ...]
    votes: Votes


def read_vote_matrix(
    root: Path, items: pl.DataFrame, path: Path, k: int, folder: Path, lfs: Sequence[str] | None = None
) -> VoteMatrix:
    """Return the votes of `items` at `path` below `root`, of all LFs or of `lfs` in their order, in a file below `folder`.

    Raises
    ------
    DataError
        The table is missing or damaged, or holds other items.
    """
    stored = read_schema(root / path)
    names = tuple(name for name in stored if name != ITEM_ID) if lfs is None else tuple(lfs)
    columns = open_scratch(folder, (len(names), items.height), np.int8)
    for part, batch in read_of_items(root, items, path, schemas.votes(k, stored), [ITEM_ID, *names]):
        for column, lf in zip(columns, names, strict=True):
            column[part] = batch[lf].to_numpy()
    return VoteMatrix(lfs=names, votes=columns.T)


def read_counted_votes(root: Path, items: pl.DataFrame, k: int, folder: Path) -> VoteMatrix:
    """Return the votes of `items` as they count after apply, with muted LFs abstaining, in a file below `folder`.

    Raises
    ------
    DataError
        A file is missing or damaged, or the table holds other items.
    """
    found = read_vote_matrix(root, items, VOTES, k, folder)
    for name in read_muted_of(root, found.lfs):
        found.votes[:, found.lfs.index(name)] = ABSTAIN
    return found


def find_covered(votes: Votes) -> Bool:
    """Return whether any LF votes on each row of `votes` (n, m), (n,)."""
    covered = np.zeros(len(votes), np.bool_)
    for column in votes.T:
        covered |= column != ABSTAIN
    return covered


def join_gold(ids: pl.DataFrame, gold: pl.DataFrame) -> Votes:
    """Return the gold class (n,) of each row of `ids` from the table `gold`; ABSTAIN where it has none."""
    joined = ids.select(ITEM_ID).join(gold, on=ITEM_ID, how="left", maintain_order="left", validate="m:1")
    return joined["gold"].fill_null(ABSTAIN).to_numpy()


def read_gold(root: Path, items: pl.DataFrame, k: int) -> Votes:
    """Return the class (n,) that valid gold says each of `items` is of; ABSTAIN where it says nothing.

    Raises
    ------
    DataError
        The table is missing or damaged, or has gold of items that are not there.
    """
    gold = read_table(root / VALID_GOLD, schemas.gold(k))
    labels = join_gold(items, gold)
    _require_gold_of_items(root / VALID_GOLD, gold, root / ITEMS, labels)
    return labels


def encode_split(split: Split) -> int:
    """Return the number that stands for `split`, its position among `Split`: names of ten million items take 200 MB."""
    return list(Split).index(split)


def encode_splits(splits: pl.Series) -> Int8:
    """Return `encode_split` of each name in `splits` (n,)."""
    return splits.cast(_SPLITS).to_physical().cast(pl.Int8).to_numpy()


@dataclass(frozen=True, kw_only=True)
class AllGold:
    """Gold of all splits: classes (n,) of items, ABSTAIN where unknown, and splits (n,) by `encode_split`: where there is gold, the
    split that it judges.
    """

    classes: Votes
    splits: Int8


def read_all_gold(root: Path, items: pl.DataFrame, k: int) -> AllGold:
    """Return what is known of `items` (item_id, split), test included.

    Raises
    ------
    DataError
        As `read_gold`.
    """
    withheld = read_table(root / WITHHELD_GOLD, schemas.withheld_gold(k))
    labels = join_gold(items, withheld)
    _require_gold_of_items(root / WITHHELD_GOLD, withheld, root / ITEMS, labels)
    valid = read_gold(root, items, k)
    own = items.select(ITEM_ID, pl.col("split").cast(_SPLITS))
    judging = withheld.select(ITEM_ID, judges=pl.col("split").cast(_SPLITS))
    judged = own.join(judging, on=ITEM_ID, how="left", maintain_order="left")
    found = encode_splits(judged.select(pl.coalesce("judges", "split")).to_series())
    is_valid = valid != ABSTAIN
    return AllGold(
        classes=np.where(is_valid, valid, labels),
        splits=np.where(is_valid, np.int8(encode_split(Split.VALID)), found),
    )


def _require_gold_of_items(path: Path, gold: pl.DataFrame, items_path: Path, labels: Votes) -> None:
    """Check that the items of the table `gold`, at `path`, are among those that it was joined with, giving `labels` (n,).

    Raises
    ------
    DataError
        Some are not.
    """
    if (lost := gold.height - np.count_nonzero(labels != ABSTAIN)) > 0:
        raise DataError(f"{path}: {lost:,} items with gold are not in {items_path}. Run 'dvc repro gold'.")


def find_gold_rows(labels: Votes) -> GoldRows:
    """Return the rows of `labels` (n,) that are not ABSTAIN, and their classes."""
    rows = np.flatnonzero(labels != ABSTAIN)
    return GoldRows(rows=rows, classes=labels[rows].astype(np.int64))
