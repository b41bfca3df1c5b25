"""ingest: join raw items and embeddings by id, check them, and write them in a uniform form, sorted by id."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.params import IngestParams, Split
from tasks.progress import WARNING
from tasks.readers import encoder
from tasks.readers.blocks import join_blocks, read_blocks
from tasks.readers.files import find_files
from tasks.readers.items import Items, read_items
from tasks.readers.quarantine import Quarantine
from tasks.readers.unknown_words import describe_unread
from tasks.tables import schemas
from tasks.tables.block_layout import BlockLayout, write_layout
from tasks.tables.centers import Centers, read_centers, write_centers
from tasks.tables.parquet import write_shards, write_table
from tasks.tables.paths import COLUMN_GOLD, EMBEDDINGS, ENCODER, ITEMS, KEPT_CENTERS, QUARANTINE
from tasks.tables.quarantine import describe_quarantine
from tasks.tables.saved_encoder import write_encoder


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
    items = read_items(source, classes, params, quarantine)
    ids = items.table[ITEM_ID]
    matched = read_blocks(root, source, items, params, quarantine, load_encoder)
    blocks = matched.blocks
    quarantine.require_few(len(matched.ids))
    widths = np.cumsum([0, *(block.width for block in blocks)]).tolist()
    centers = _read_kept_centers(source, params.centers, widths[-1])
    write_shards(root / EMBEDDINGS, join_blocks(matched, items, quarantine), schemas.embeddings(widths[-1]))
    write_centers(root / KEPT_CENTERS, centers)
    failed = quarantine.tabulate(ids.dtype)
    write_table(root / QUARANTINE, failed, schemas.QUARANTINE)
    items = items.replace_columns([column for block in blocks for column in block.found.columns])
    if not failed.is_empty():
        items = items.drop(quarantine.ids)
    layout = [
        BlockLayout(
            name=block.name,
            start=start,
            stop=start + block.width,
            share=block.share,
            model=block.model.model if block.model else "",
            column=block.model.column if block.model else "",
            is_of_images=block.model is not None and block.model.is_of_images,
        )
        for block, start in zip(blocks, widths, strict=False)
        if block.share is not None
    ]
    write_layout(root, layout, {block.name: block.found.encoder for block in blocks})
    only = blocks[0] if not layout else None
    write_encoder(root / ENCODER, only.found.encoder if only else None, only.model if only else None)
    write_table(root / ITEMS, items.table, schemas.ITEMS)
    gold = items.table.select(ITEM_ID).with_columns(items.gold).drop_nulls("gold")
    write_table(root / COLUMN_GOLD, gold, schemas.gold(len(classes)))
    print(_summarize(items, widths[-1], layout))
    if remark := describe_quarantine(failed):
        print(f"{WARNING}{remark}", file=sys.stderr)
    read = [block.model for block in blocks if block.model and not block.model.is_of_images]
    unread = [describe_unread(root, encoded.model, items.table[encoded.column]) for encoded in read]
    for loss in [*items.losses, *filter(None, unread)]:
        print(f"{WARNING}{loss}.", file=sys.stderr)


def _read_kept_centers(source: Path, pattern: str | None, d: int) -> Centers:
    """The centers of cells that the user keeps in the file `pattern`, for embeddings of `d` dimensions."""
    if pattern is None:
        return Centers.none()
    path = find_files(source, pattern, "centers")[0]
    centers = read_centers(path)
    got = f"{len(centers.vectors):,} centers of dimension {centers.vectors.shape[1]}"
    if not len(centers.vectors) or centers.vectors.shape[1] != d:
        raise DataError(
            f"{path}: got {got}, expected some of dimension {d}. Remove ingest.centers from params.yaml, let the index find "
            "others (index.kind: ivf), and copy data/index/centers.parquet there again."
        )
    return centers


def _summarize(items: Items, d: int, layout: Sequence[BlockLayout]) -> str:
    """The stage's summary: a line of counts, then the remarks."""
    splits = items.table["split"]
    parts = []
    for split in Split:
        is_in = splits == split
        parts.append(f"{split} {is_in.sum():,} ({items.gold.filter(is_in).count():,} with gold)")
    head = f"{len(splits):,} items: {', '.join(parts)}; embeddings of dimension {d}"
    if layout:
        head += f": {', '.join(block.describe() for block in layout)}"
    return "\n".join(f"ingest: {line}." for line in (head, *items.remarks))
