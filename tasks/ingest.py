"""ingest: join raw items and embeddings by id, check them, and write them in a uniform form, sorted by id."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.params import IngestParams, Split
from tasks.progress import WARNING, Progress
from tasks.readers import encoder
from tasks.readers.embeddings import encode_items, match_rows, read_embeddings, to_float32
from tasks.readers.items import Items, read_items
from tasks.tables import schemas
from tasks.tables.parquet import ROW_GROUP, write_shards, write_table
from tasks.tables.paths import COLUMN_GOLD, EMBEDDINGS, ENCODER, ITEMS
from tasks.tables.saved_encoder import EncoderName, write_encoder
from tasks.tables.scratch import expect_scattered_reads
from tasks.tables.validation import name_first


def run(
    root: Path,
    classes: tuple[str, ...],
    params: IngestParams,
    load_encoder: encoder.LoadEncoder | None = None,
) -> None:
    """Write items, gold and embeddings of the project at `root`, each sorted by item_id.

    Raises
    ------
    ParamsError
        A file named in `params` leads out of `params.source`.
    DataError
        A file is missing or unreadable, or some items or embeddings are invalid; the message has their number and the
        first few.
    """
    source = root / params.source
    with Progress("reading items", total=1) as progress:
        items = read_items(source, classes, params)
        progress.advance()
    ids = items.table[ITEM_ID]
    if params.encoder is not None:
        found = encode_items(root, source, items.table, params.encoder, load_encoder)
    else:
        found = read_embeddings(root, source, ids.dtype, params, items.ids_by_file)
    with Progress("matching embeddings with items", total=1) as progress:
        rows = match_rows(ids, found, params)
        progress.advance()
    d = found.matrix.shape[1]
    write_shards(root / EMBEDDINGS, _cut_embeddings(ids, found.matrix, rows), schemas.embeddings(d))
    named = params.encoder
    name = None if named is None else EncoderName(model=named.model, column=named.column)
    write_encoder(root / ENCODER, found.encoder, name)
    write_table(root / ITEMS, items.table, schemas.ITEMS)
    gold = items.table.select(ITEM_ID).with_columns(items.gold).drop_nulls("gold")
    write_table(root / COLUMN_GOLD, gold, schemas.gold(len(classes)))
    print(_summarize(items, d))
    for loss in items.losses:
        print(f"{WARNING}{loss}.", file=sys.stderr)


def _cut_embeddings(
    ids: pl.Series, matrix: npt.NDArray[np.floating], rows: npt.NDArray[np.int64]
) -> Iterator[pl.DataFrame]:
    """The table of embeddings in blocks; invalid rows do not stop it, so that all of them are counted.

    Raises
    ------
    DataError
        An embedding is not finite or has no direction.
    """
    kind = pl.Array(pl.Float32, matrix.shape[1])
    infinite: list[pl.Series] = []
    zero: list[pl.Series] = []
    if (np.diff(rows) < 0).any():
        expect_scattered_reads(matrix)
    with Progress("writing embeddings", total=len(ids)) as progress:
        for start in range(0, len(ids), ROW_GROUP):
            part = ids[start : start + ROW_GROUP]
            block = to_float32(matrix[rows[start : start + ROW_GROUP]])
            infinite.append(part.filter(pl.Series(~np.isfinite(block).all(axis=1))))
            zero.append(part.filter(pl.Series(~block.any(axis=1))))
            if not len(infinite[-1]) and not len(zero[-1]):
                yield pl.DataFrame([part, pl.Series("embedding", block, dtype=kind)])
            progress.advance(len(part))
    for parts, what, remedy in (
        (infinite, "have NaN or infinity (in float32)", "Compute them again, or leave the items out."),
        (zero, "are zero vectors", "They have no direction: compute them again, or leave the items out."),
    ):
        bad = pl.concat(parts)
        if len(bad):
            raise DataError(f"{len(bad):,} embeddings {what}, first ids {name_first(bad)}. {remedy}")


def _summarize(items: Items, d: int) -> str:
    """The stage's summary: a line of counts, then the remarks."""
    splits = items.table["split"]
    parts = []
    for split in Split:
        is_in = splits == split
        parts.append(f"{split} {is_in.sum():,} ({items.gold.filter(is_in).count():,} with gold)")
    head = f"{len(splits):,} items: {', '.join(parts)}; embeddings of dimension {d}"
    return "\n".join(f"ingest: {line}." for line in (head, *items.remarks))
