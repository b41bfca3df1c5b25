"""Embeddings of several kinds side by side: each read or computed, matched with the items, and scaled."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.mapped_rows import fetch_rows
from tasks.core.types import ITEM_ID
from tasks.errors import DataError, EpoxyError
from tasks.params import IngestParams, Reads
from tasks.progress import Progress
from tasks.readers import encoder
from tasks.readers.embeddings import Embeddings, encode_items, match_rows, note_vectors, read_embeddings, to_float32
from tasks.readers.items import Items
from tasks.readers.quarantine import Quarantine, Reason
from tasks.tables.parquet import ROW_GROUP
from tasks.tables.saved_encoder import EncoderName
from tasks.tables.scratch import expect_scattered_reads
from tasks.tables.validation import name_first


@dataclass(frozen=True, kw_only=True)
class Block:
    """Embeddings of a kind: the item at position i has row `rows[i]` of `found.matrix`.

    share: the block's part in the cosine of two items; None for embeddings that are the only kind, which stay as they are.
    model: the name of what computed them; None for embeddings from a file.
    """

    name: str
    found: Embeddings
    rows: npt.NDArray[np.int64]
    share: float | None
    model: EncoderName | None

    @property
    def width(self) -> int:
        """The number of dimensions."""
        return int(self.found.matrix.shape[1])


@dataclass(frozen=True, kw_only=True)
class MatchedBlocks:
    """Items that have an embedding of every kind: `ids`, ascending, and the `blocks`, whose rows are in this order."""

    ids: pl.Series
    blocks: tuple[Block, ...]


def read_blocks(
    root: Path,
    source: Path,
    items: Items,
    params: IngestParams,
    quarantine: Quarantine,
    load: encoder.LoadEncoder | None = None,
) -> MatchedBlocks:
    """Return the embeddings of `items` that `params` name, in the order of `params.blocks`; without blocks a single one.

    `load` is that of `encode_items`. An item that lacks a kind is noted in `quarantine` and left out, if it may fail.

    Raises
    ------
    EpoxyError
        A file is missing, damaged or of other items, or an encoder cannot be loaded; of several blocks it says which.
    """
    total = sum(block.weight for block in params.blocks.values())
    parts: list[tuple[str, float | None, IngestParams]] = [
        (
            name,
            block.weight / total,
            params.model_copy(
                update={
                    "embeddings": block.embeddings,
                    "embedding_ids": block.embedding_ids,
                    "encoder": block.encoder,
                    "blocks": {},
                }
            ),
        )
        for name, block in params.blocks.items()
    ]
    ids = items.table[ITEM_ID]
    read: list[tuple[Block, pl.Series]] = []
    for name, share, alone in parts or [("", None, params)]:
        try:
            found = (
                encode_items(root, source, items.table, alone.encoder, items.ids_by_file, quarantine, load)
                if alone.encoder is not None
                else read_embeddings(root, source, ids.dtype, alone, items.ids_by_file, quarantine)
            )
            matched = match_rows(ids, found, alone, items.ids_by_file, quarantine)
        except EpoxyError as error:
            if share is None:
                raise
            raise type(error)(f"ingest.blocks.{name}: {error}") from None
        ids = matched.ids
        model = None
        if alone.encoder is not None:
            is_of_images = alone.encoder.reads is Reads.IMAGES
            model = EncoderName(model=alone.encoder.model, column=alone.encoder.column, is_of_images=is_of_images)
        read.append((Block(name=name, found=found, rows=matched.rows, share=share, model=model), matched.ids))
    blocks = [
        block if len(own) == len(ids) else replace(block, rows=block.rows[own.is_in(ids.implode()).to_numpy()])
        for block, own in read
    ]
    return MatchedBlocks(ids=ids, blocks=tuple(blocks))


def join_blocks(matched: MatchedBlocks, items: Items, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """Yield item_id and embedding, the blocks one after the other, in parts; invalid rows do not stop it, so that all count.

    A block of several is scaled: each of its vectors is as long as the square root of its share, so that the whole has length
    one and the cosine of two items is the mean of the blocks' cosines by their shares. A vector depends on its own row alone.

    Raises
    ------
    DataError
        An embedding is not finite or has no direction, and may not or too many of them, or two blocks are the same.
    """
    ids, blocks = matched.ids, matched.blocks
    kind = pl.Array(pl.Float32, sum(block.width for block in blocks))
    infinite: dict[str, list[pl.Series]] = {block.name: [] for block in blocks}
    zero: dict[str, list[pl.Series]] = {block.name: [] for block in blocks}
    twins = {(a.name, b.name) for a in blocks for b in blocks if a.name < b.name and a.width == b.width}
    kept = 0
    for block in blocks:
        if (np.diff(block.rows) < 0).any():
            expect_scattered_reads(block.found.matrix)
    with Progress("writing embeddings", total=len(ids)) as progress:
        for start in range(0, len(ids), ROW_GROUP):
            part = ids[start : start + ROW_GROUP]
            whole = np.empty((len(part), sum(block.width for block in blocks)), np.float32)
            pieces: dict[str, npt.NDArray[np.float32]] = {}
            scales: dict[str, npt.NDArray[np.float64]] = {}
            is_good = np.ones(len(part), np.bool_)
            for block, end in zip(blocks, np.cumsum([block.width for block in blocks]).tolist(), strict=True):
                rows = block.rows[start : start + len(part)]
                vectors = to_float32(fetch_rows(block.found.matrix, rows))
                is_infinite, is_zero = ~np.isfinite(vectors).all(axis=1), ~vectors.any(axis=1)
                if quarantine.is_on:
                    for mask, what in (
                        (is_infinite, f"NaN, infinity or not {block.width} numbers"),
                        (is_zero, "a zero vector"),
                    ):
                        new = mask & is_good  # a row is listed once, whatever else is wrong with it
                        _note(rows[new], part.filter(pl.Series(new)), what, block.found, items, quarantine)
                        is_good &= ~mask
                else:
                    infinite[block.name].append(part.filter(pl.Series(is_infinite)))
                    zero[block.name].append(part.filter(pl.Series(is_zero)))
                    is_good &= ~(is_infinite | is_zero)
                pieces[block.name] = whole[:, end - block.width : end]
                pieces[block.name][:] = vectors
                if block.share is not None:
                    scales[block.name] = _find_scales(vectors, block.share)
            twins = {(one, other) for one, other in twins if np.array_equal(pieces[one], pieces[other])}
            kept += int(is_good.sum())
            if quarantine.is_on or is_good.all():
                with np.errstate(invalid="ignore"):  # in rows that are left out
                    for name, scale in scales.items():
                        # In float64 and rounded at once, without a copy of the block.
                        np.multiply(pieces[name], scale[:, None], out=pieces[name], casting="same_kind")
                embedding = pl.Series("embedding", whole if is_good.all() else whole[is_good], dtype=kind)
                del whole, vectors  # while the part is written
                pieces.clear()
                yield pl.DataFrame([part.filter(pl.Series(is_good)), embedding])
            progress.advance(len(part))
    quarantine.require_few(kept)
    _require_none(infinite, "have NaN or infinity (in float32)", "Compute them again, or leave the items out.")
    remedy = "They have no direction: compute them again, or leave the items out."
    _require_none(zero, "are zero vectors", remedy)
    if twins:
        one, other = min(twins)
        raise DataError(
            f"ingest.blocks: '{one}' and '{other}' hold the same vectors. Remove one, and give the other the weight of both."
        )


def _note(
    rows: npt.NDArray[np.int64], ids: pl.Series, what: str, found: Embeddings, items: Items, quarantine: Quarantine
) -> None:
    """Take note of bad vectors, `rows` of the matrix: in their file, or if they were computed, in that of the item."""
    if found.files:
        note_vectors(found, rows, ids, Reason.BAD_EMBEDDING, [what] * len(ids), quarantine)
    else:
        quarantine.add_items(ids, Reason.BAD_EMBEDDING, [what] * len(ids), items.ids_by_file)


def _find_scales(vectors: npt.NDArray[np.float32], share: float) -> npt.NDArray[np.float64]:
    """What each of `vectors` is multiplied by to become as long as sqrt(`share`)."""
    with np.errstate(divide="ignore"):  # a zero vector, which is left out
        scales: npt.NDArray[np.float64] = np.sqrt(share) / np.sqrt(
            np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
        )
    return scales


def _require_none(found: Mapping[str, list[pl.Series]], what: str, remedy: str) -> None:
    """Check that no block has invalid rows."""
    for name, parts in found.items():
        bad = pl.concat(parts) if parts else pl.Series([])
        if len(bad):
            where = f"ingest.blocks.{name}: " if name else ""
            raise DataError(f"{where}{len(bad):,} embeddings {what}, first ids {name_first(bad)}. {remedy}")
