"""rows.parquet of a release: the content each row was labeled by, so that a later run knows which rows are new.

item, embedding: 64 bits of the hash of the row's item and of its embedding. similarity: of the nearest support item of
any LF, null where there is none. base: null where the run that made the model labeled the row; else the release whose
model and support labeled it later.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tasks.cache.row_keys import hash_items, hash_vectors
from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.progress import Progress
from tasks.tables import schemas
from tasks.tables.embeddings_file import read_width
from tasks.tables.parquet import count_rows, pair_batches, read_batches, read_schema
from tasks.tables.paths import EMBEDDINGS, ITEMS, NEIGHBORS
from tasks.tables.validation import require_same_items


@dataclass(frozen=True, kw_only=True)
class RowChanges:
    """How many rows are unchanged since a release, have a new id, have changed content, or are gone.

    A row's content is its item (every column but gold) and its embedding.
    """

    kept: int
    new: int
    changed: int
    deleted: int

    def describe(self) -> str:
        """The counts in a line.

        >>> RowChanges(kept=1000, new=20, changed=0, deleted=3).describe()
        '20 new, 0 changed, 3 deleted, 1,000 kept'
        """
        return f"{self.new:,} new, {self.changed:,} changed, {self.deleted:,} deleted, {self.kept:,} kept"


def hash_rows(root: Path) -> pl.DataFrame:
    """item_id, split and content hashes of every item that ingest wrote below `root`, read row group by row group.

    Raises
    ------
    DataError
        A table is missing or damaged, or they do not hold the same items.
    """
    d = read_width(root)
    parts = []
    with Progress("reading rows", total=count_rows(root / ITEMS)) as progress:
        for items, batch in pair_batches(  # tables that differ in length differ in items, which is said below
            read_batches(root / ITEMS, schemas.ITEMS), read_batches(root / EMBEDDINGS, schemas.embeddings(d))
        ):
            require_same_items(root / ITEMS, items, root / EMBEDDINGS, batch)
            vectors = batch["embedding"].to_numpy().reshape(batch.height, d)
            parts.append(
                items.select(ITEM_ID, "split").with_columns(
                    item=pl.Series(hash_items(items)[:, 1], dtype=pl.UInt64),
                    embedding=pl.Series(hash_vectors(batch[ITEM_ID], vectors)[:, 1], dtype=pl.UInt64),
                )
            )
            progress.advance(batch.height)
    rows = pl.concat(parts)
    if rows.height < count_rows(root / ITEMS) or rows.height < count_rows(root / EMBEDDINGS):
        raise DataError(f"{root / ITEMS} and {root / EMBEDDINGS} hold different items. Run 'dvc repro'.")
    return rows


def read_rows(root: Path) -> pl.DataFrame:
    """rows.parquet for what the last run below `root` labeled.

    Raises
    ------
    DataError
        A table is missing or damaged, or they do not hold the same items.
    """
    rows = hash_rows(root).drop("split")
    stored = read_schema(root / NEIGHBORS)
    columns = [name for name in stored if name.endswith("/similarity")]
    schema = schemas.neighbors(stored, stored[ITEM_ID])
    most_similar = pl.max_horizontal(columns) if columns else pl.lit(None, pl.Float32)
    parts = []
    with Progress("reading neighbors", total=rows.height) as progress:
        for batch in read_batches(root / NEIGHBORS, schema, [ITEM_ID, *columns]):
            parts.append(batch.select(ITEM_ID, similarity=most_similar))
            progress.advance(batch.height)
    nearest = pl.concat(parts)
    require_same_items(root / ITEMS, rows, root / NEIGHBORS, nearest)
    return rows.with_columns(nearest["similarity"], base=pl.lit(None, pl.String))


def find_known(rows: pl.DataFrame, released: pl.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(n,) whether each of `rows` (of `hash_rows`) was `released` with the same content."""
    if rows.schema[ITEM_ID] != released.schema[ITEM_ID]:
        return np.zeros(rows.height, bool)
    key = [ITEM_ID, "item", "embedding"]
    known = released.select(key).with_columns(known=pl.lit(True))
    joined = rows.select(key).join(known, on=key, how="left", maintain_order="left")
    return joined["known"].fill_null(False).to_numpy()


def compare_rows(before: pl.DataFrame, after: pl.DataFrame) -> RowChanges:
    """The changes from the rows `before` to those `after`; both have item_id, item and embedding, as `hash_rows` gives them.

    >>> before = pl.DataFrame({"item_id": ["a", "b", "c"], "item": [1, 2, 3], "embedding": [1, 2, 3]})
    >>> after = pl.DataFrame({"item_id": ["b", "c", "d"], "item": [2, 3, 4], "embedding": [2, 9, 4]})
    >>> compare_rows(before, after).describe()
    '1 new, 1 changed, 1 deleted, 1 kept'
    """
    if before.schema[ITEM_ID] != after.schema[ITEM_ID]:
        return RowChanges(kept=0, new=after.height, changed=0, deleted=before.height)
    common = after.select(ITEM_ID).join(before.select(ITEM_ID), on=ITEM_ID, how="semi").height
    kept = int(find_known(after, before).sum())
    return RowChanges(kept=kept, new=after.height - common, changed=common - kept, deleted=before.height - common)
