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
from tasks.readers.embeddings import (
    Embeddings,
    Matched,
    encode_items,
    match_rows,
    note_vectors,
    read_embeddings,
    to_float32,
)
from tasks.readers.items import Items, read_items
from tasks.readers.quarantine import Quarantine, Reason
from tasks.tables import schemas
from tasks.tables.parquet import ROW_GROUP, write_shards, write_table
from tasks.tables.paths import COLUMN_GOLD, EMBEDDINGS, ENCODER, ITEMS, QUARANTINE
from tasks.tables.quarantine import describe_quarantine
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
    quarantine = Quarantine(source, params.quarantine)
    with Progress("reading items", total=1) as progress:
        items = read_items(source, classes, params, quarantine)
        progress.advance()
    ids = items.table[ITEM_ID]
    if params.encoder is not None:
        found = encode_items(root, source, items.table, params.encoder, load_encoder)
    else:
        found = read_embeddings(root, source, ids.dtype, params, items.ids_by_file, quarantine)
    with Progress("matching embeddings with items", total=1) as progress:
        matched = match_rows(ids, found, params, items.ids_by_file, quarantine)
        progress.advance()
    quarantine.require_few(len(matched.ids))
    d = found.matrix.shape[1]
    blocks = _cut_embeddings(matched, found, items, quarantine)
    write_shards(root / EMBEDDINGS, blocks, schemas.embeddings(d))
    failed = quarantine.tabulate(ids.dtype)
    write_table(root / QUARANTINE, failed, schemas.QUARANTINE)
    if not failed.is_empty():
        items = items.drop(quarantine.ids)
    named = params.encoder
    name = None if named is None else EncoderName(model=named.model, column=named.column)
    write_encoder(root / ENCODER, found.encoder, name)
    write_table(root / ITEMS, items.table, schemas.ITEMS)
    gold = items.table.select(ITEM_ID).with_columns(items.gold).drop_nulls("gold")
    write_table(root / COLUMN_GOLD, gold, schemas.gold(len(classes)))
    print(_summarize(items, d))
    if remark := describe_quarantine(failed):
        print(f"{WARNING}{remark}", file=sys.stderr)
    for loss in items.losses:
        print(f"{WARNING}{loss}.", file=sys.stderr)


def _cut_embeddings(
    matched: Matched, found: Embeddings, items: Items, quarantine: Quarantine
) -> Iterator[pl.DataFrame]:
    """The table of embeddings in blocks; invalid rows do not stop it, so that all of them are counted.

    Raises
    ------
    DataError
        An embedding is not finite or has no direction, and may not or too many of them.
    """
    ids, rows, matrix = matched.ids, matched.rows, found.matrix
    kind = pl.Array(pl.Float32, matrix.shape[1])
    infinite: list[pl.Series] = []
    zero: list[pl.Series] = []
    kept = 0
    if (np.diff(rows) < 0).any():
        expect_scattered_reads(matrix)
    with Progress("writing embeddings", total=len(ids)) as progress:
        for start in range(0, len(ids), ROW_GROUP):
            part = ids[start : start + ROW_GROUP]
            block = to_float32(matrix[rows[start : start + ROW_GROUP]])
            is_infinite, is_zero = ~np.isfinite(block).all(axis=1), ~block.any(axis=1)
            is_good = ~(is_infinite | is_zero)
            kept += int(is_good.sum())
            if quarantine.is_on:
                yield pl.DataFrame(
                    [part.filter(pl.Series(is_good)), pl.Series("embedding", block[is_good], dtype=kind)]
                )
                for mask, what in (
                    (is_infinite, f"NaN, infinity or not {matrix.shape[1]} numbers"),
                    (is_zero, "a zero vector"),
                ):
                    bad = part.filter(pl.Series(mask))
                    _note(rows[start : start + len(part)][mask], bad, what, found, items, quarantine)
            else:
                infinite.append(part.filter(pl.Series(is_infinite)))
                zero.append(part.filter(pl.Series(is_zero)))
                if is_good.all():
                    yield pl.DataFrame([part, pl.Series("embedding", block, dtype=kind)])
            progress.advance(len(part))
    quarantine.require_few(kept)
    for parts, what, remedy in (
        (infinite, "have NaN or infinity (in float32)", "Compute them again, or leave the items out."),
        (zero, "are zero vectors", "They have no direction: compute them again, or leave the items out."),
    ):
        bad = pl.concat(parts) if parts else ids[:0]
        if len(bad):
            raise DataError(f"{len(bad):,} embeddings {what}, first ids {name_first(bad)}. {remedy}")


def _note(
    rows: npt.NDArray[np.int64], ids: pl.Series, what: str, found: Embeddings, items: Items, quarantine: Quarantine
) -> None:
    """Take note of bad vectors, `rows` of the matrix: in their file, or if they were computed, in that of the item."""
    if found.files:
        note_vectors(found, rows, ids, Reason.BAD_EMBEDDING, [what] * len(ids), quarantine)
    else:
        quarantine.add_items(ids, Reason.BAD_EMBEDDING, [what] * len(ids), items.ids_by_file)


def _summarize(items: Items, d: int) -> str:
    """The stage's summary: a line of counts, then the remarks."""
    splits = items.table["split"]
    parts = []
    for split in Split:
        is_in = splits == split
        parts.append(f"{split} {is_in.sum():,} ({items.gold.filter(is_in).count():,} with gold)")
    head = f"{len(splits):,} items: {', '.join(parts)}; embeddings of dimension {d}"
    return "\n".join(f"ingest: {line}." for line in (head, *items.remarks))
