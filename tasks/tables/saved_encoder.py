"""The encoder of the items as a table, so that later texts become vectors of the same space; numbers and texts alone.

A fitted TF-IDF encoder is all there; of another its name is.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.tfidf import NGRAMS, TextBlock, TfidfEncoder
from tasks.errors import DataError
from tasks.tables import schemas
from tasks.tables.parquet import read_schema, read_table, write_table

_FALLBACK = "fallback"
_MODEL, _COLUMN, _IMAGES = "model", "column", "images"


@dataclass(frozen=True, kw_only=True)
class EncoderName:
    """The encoder of the items' column `column`, a model that is not written down here; empty: none encoded them.

    is_of_images: whether the column holds images, not texts.
    """

    model: str = ""
    column: str = "text"
    is_of_images: bool = False


def write_encoder(path: Path, encoder: TfidfEncoder | None, name: EncoderName | None = None) -> None:
    """Write the `encoder` to `path`, or the `name` of another; None, where embeddings come from elsewhere, has no rows."""
    d = 1 if encoder is None else encoder.components.shape[1]
    blocks = () if encoder is None else encoder.blocks
    kinds: list[str] = [block.kind for block in blocks for _ in block.ngrams]
    ngrams = [ngram for block in blocks for ngram in block.ngrams]
    idf = np.concatenate([block.idf for block in blocks]) if blocks else np.empty(0)
    vectors = np.empty((0, d), np.float32)
    if encoder is not None:
        kinds, ngrams, idf = [*kinds, _FALLBACK], [*ngrams, ""], np.append(idf, 0.0)
        vectors = np.concatenate([encoder.components, encoder.fallback[None]])
    elif name is not None:
        kinds, ngrams = [_MODEL, _COLUMN], [name.model, name.column]
        if name.is_of_images:
            kinds, ngrams = [*kinds, _IMAGES], [*ngrams, ""]
        idf, vectors = np.zeros(len(kinds)), np.zeros((len(kinds), d), np.float32)
    table = pl.DataFrame(
        {
            "kind": pl.Series(kinds, dtype=pl.String),
            "ngram": pl.Series(ngrams, dtype=pl.String),
            "idf": idf,
            "vector": pl.Series(vectors, dtype=pl.Array(pl.Float32, d)),
        }
    )
    write_table(path, table, schemas.encoder(d))


def read_encoder(path: Path) -> TfidfEncoder:
    """The encoder at `path`.

    Raises
    ------
    DataError
        The file is missing or damaged, or holds none.
    """
    kind = read_schema(path).get("vector")
    if not isinstance(kind, pl.Array):
        raise DataError(f"{path}: column 'vector' is {kind}; expected arrays of float32. Write the encoder again.")
    table = read_table(path, schemas.encoder(kind.size))
    if table.filter(pl.col("kind") == _FALLBACK).height != 1:
        raise DataError(f"{path}: holds no encoder. Only an ingest with 'encoder: tfidf' writes one.")
    parts = {name: table.filter(pl.col("kind") == name) for name in (*NGRAMS, _FALLBACK)}
    blocks = tuple(
        TextBlock(kind=name, ngrams=tuple(parts[name]["ngram"]), idf=parts[name]["idf"].to_numpy())
        for name in NGRAMS
        if parts[name].height
    )
    vectors = [parts[name]["vector"].to_numpy().reshape(-1, kind.size) for name in NGRAMS]
    return TfidfEncoder(
        blocks=blocks,
        components=np.ascontiguousarray(np.concatenate(vectors)),
        fallback=parts[_FALLBACK]["vector"].to_numpy()[0],
    )


def read_encoder_name(path: Path) -> EncoderName | None:
    """The name of the encoder at `path`; None of one that is all there, and empty where none encoded the items.

    Raises
    ------
    DataError
        The file is missing or damaged.
    """
    kind = read_schema(path).get("vector")
    table = read_table(path, schemas.encoder(kind.size if isinstance(kind, pl.Array) else 1))
    found = dict(table.select("kind", "ngram").rows())
    if _MODEL in found:
        return EncoderName(model=found[_MODEL], column=found.get(_COLUMN, "text"), is_of_images=_IMAGES in found)
    return None if _FALLBACK in found else EncoderName()
