"""Tables as arrays whose rows are those of items: votes as the label matrix, and gold by item."""

from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.types import ABSTAIN, ITEM_ID, GoldRows, Votes
from tasks.errors import DataError
from tasks.tables import schemas
from tasks.tables.parquet import read_table
from tasks.tables.paths import ITEMS, VALID_GOLD


def to_matrix(votes: pl.DataFrame) -> Votes:
    """Return the label matrix (n, m) of a table of votes, column by column in memory."""
    lfs = [name for name in votes.columns if name != ITEM_ID]
    L = np.empty((votes.height, len(lfs)), np.int8, order="F")
    for position, lf in enumerate(lfs):
        L[:, position] = votes[lf].to_numpy()
    return L


def join_gold(ids: pl.DataFrame, gold: pl.DataFrame) -> Votes:
    """Return the gold class (n,) of each row of `ids` from the table `gold`; ABSTAIN where it has none."""
    joined = ids.select(ITEM_ID).join(gold, on=ITEM_ID, how="left", maintain_order="left", validate="m:1")
    return joined["gold"].fill_null(ABSTAIN).to_numpy()


def read_gold(root: Path, items: pl.DataFrame, k: int, *, paths: tuple[Path, ...] = (VALID_GOLD,)) -> Votes:
    """Return the gold class (n,) of each of `items` from the tables at `paths`; ABSTAIN where they have none.

    Raises
    ------
    DataError
        A table is missing or damaged, or has gold of items that are not there.
    """
    gold = pl.concat(read_table(root / path, schemas.gold(k)) for path in paths)
    labels = join_gold(items, gold)
    if (lost := gold.height - np.count_nonzero(labels != ABSTAIN)) > 0:
        names = ", ".join(str(root / path) for path in paths)
        raise DataError(f"{names}: {lost:,} items with gold are not in {root / ITEMS}. Run 'dvc repro ingest'.")
    return labels


def find_gold_rows(labels: Votes) -> GoldRows:
    """Return the rows of `labels` (n,) that are not ABSTAIN, and their classes."""
    rows = np.flatnonzero(labels != ABSTAIN)
    return GoldRows(rows=rows, classes=labels[rows].astype(np.int64))
