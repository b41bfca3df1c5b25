"""One pandera schema per table. Columns that depend on params (one per LF, one per class) are functions of them.

Conventions: `item_id` is text or a 64-bit integer, the same in every table, unique and ascending; votes are int8, -1
abstains and 0..k-1 is the class at that position of `classes`; a probability column is named `p_<class>`.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from tasks.core.types import ABSTAIN, ITEM_ID, LF_NAME
from tasks.params import Split
from tasks.tables.lean_pandera import pandas_left_out

with pandas_left_out():
    import pandera.polars as pa

ASCENDS = "each item_id once, ascending"
"""The name of the check that also holds from one batch of a table to the next."""

TableSchema = pa.DataFrameSchema


def similarity_column(lf: str, label: int) -> str:
    """The column of `neighbors` with the similarity of LF `lf`'s nearest support item of class `label`."""
    return f"{lf}/{label}/similarity"


def neighbor_column(lf: str, label: int) -> str:
    """The column of `neighbors` with the id of LF `lf`'s nearest support item of class `label`."""
    return f"{lf}/{label}/neighbor"


def probability_column(name: str) -> str:
    """The column with the probability of class `name`."""
    return f"p_{name}"


def _table(columns: dict[str, pa.Column], *, sorted_by_id: bool = True) -> TableSchema:
    """The schema of item_id and `columns`, and of no other column."""
    checks = [_ids_are_text_or_integer(), *([_ids_ascend()] if sorted_by_id else [])]
    return pa.DataFrameSchema({ITEM_ID: pa.Column(nullable=False), **columns}, checks=checks, strict=True)


def _ids_are_text_or_integer() -> pa.Check:
    """The check of the type of item_id."""
    return pa.Check(
        lambda data: data.lazyframe.collect_schema()[ITEM_ID] in (pl.String, pl.Int64),
        name="item_id is text or int64",
        error="item_id is text or int64",
    )


def _ids_ascend() -> pa.Check:
    """The check of the order of item_id."""

    def ascend(data: Any) -> pl.LazyFrame:
        ids = pl.col(ITEM_ID)
        frame: pl.LazyFrame = data.lazyframe
        return frame.select((ids > ids.shift(1)).fill_null(True))

    return pa.Check(ascend, name=ASCENDS, error=ASCENDS)


ITEMS = pa.DataFrameSchema(
    {
        ITEM_ID: pa.Column(nullable=False),
        "split": pa.Column(pl.String, pa.Check.isin([str(split) for split in Split])),
    },
    checks=[_ids_are_text_or_integer(), _ids_ascend()],
    strict=False,
)
"""item_id, split, and every other raw column as it came; never gold."""


QUARANTINE = pa.DataFrameSchema(
    {
        ITEM_ID: pa.Column(nullable=True),
        "reason": pa.Column(pl.String),
        "file": pa.Column(pl.String),
        "row": pa.Column(pl.Int64, pa.Check.ge(1)),
        "found": pa.Column(pl.String),
    },
    checks=[_ids_are_text_or_integer()],
    strict=True,
)
"""Rows that failed and are no items: their id (null if they have none), the file below `ingest.source`, the line of text or
the row of another file, counted from 1, and what was found; sorted by file and row."""


def gold(k: int) -> TableSchema:
    """item_id and gold, the class position; only items that have gold."""
    return _table({"gold": pa.Column(pl.Int8, pa.Check.in_range(0, k - 1))})


def withheld_gold(k: int) -> TableSchema:
    """item_id, gold, and the split that it judges, `train` or `test`; only items that have gold."""
    return _table(
        {
            "gold": pa.Column(pl.Int8, pa.Check.in_range(0, k - 1)),
            "split": pa.Column(pl.String, pa.Check.isin([str(Split.TRAIN), str(Split.TEST)])),
        }
    )


def gold_conflicts(classes: Sequence[str]) -> TableSchema:
    """Items on which people disagree: their split, gold (null where nobody prevails), and who said what."""
    return _table(
        {
            "split": pa.Column(pl.String, pa.Check.isin([str(split) for split in Split])),
            "gold": pa.Column(pl.String, pa.Check.isin(list(classes)), nullable=True),
            "decisions": pa.Column(pl.String),
        }
    )


def encoder(d: int) -> TableSchema:
    """A fitted TF-IDF encoder: n-grams of words and letters, their weights, and of each a vector of width `d`.

    A row of kind `fallback` has the vector of a text without any of them. Of another encoder the rows `model` and `column`
    have its name and what it encoded, and `images` is there if that were images; no row at all: embeddings come from elsewhere.
    """
    return pa.DataFrameSchema(
        {
            "kind": pa.Column(pl.String, pa.Check.isin(["word", "char", "fallback", "model", "column", "images"])),
            "ngram": pa.Column(pl.String),
            "idf": pa.Column(pl.Float64, pa.Check.ge(0)),
            "vector": pa.Column(pl.Array(pl.Float32, d)),
        },
        strict=True,
    )


def embeddings(d: int) -> TableSchema:
    """item_id and embedding, float32 of width `d`, finite."""
    return _table({"embedding": pa.Column(pl.Array(pl.Float32, d), _all_finite())})


def _all_finite() -> pa.Check:
    """The check that every number of a column of arrays is finite."""

    def are_finite(data: Any) -> pl.LazyFrame | bool:
        vectors: pl.LazyFrame = data.lazyframe.select(data.key)
        # NumPy asks all numbers at once, and takes a null for NaN; which rows have one is asked only then.
        return bool(np.isfinite(vectors.collect(engine="in-memory")[data.key].to_numpy()).all()) or vectors.select(
            pl.col(data.key).arr.eval(pl.element().is_finite()).arr.all()
        )

    return pa.Check(are_finite, name="all finite", error="all finite")


def centers(d: int) -> TableSchema:
    """A cell of the embedding space a row: its number from 0 on, its center of width `d`, and its items when that was found."""
    return pa.DataFrameSchema(
        {
            "cell": pa.Column(pl.Int32, _counts_up()),
            "center": pa.Column(pl.Array(pl.Float32, d), _all_finite()),
            "items": pa.Column(pl.Int64, pa.Check.ge(0)),
        },
        strict=True,
    )


def _counts_up() -> pa.Check:
    """The check that a column has 0, 1, 2 and so on."""
    return pa.Check(
        lambda data: data.lazyframe.select(pl.col(data.key) == pl.int_range(pl.len(), dtype=pl.Int32)),
        name="0, 1, 2, ...",
        error="0, 1, 2, ...",
    )


def descriptions(d: int) -> TableSchema:
    """A description a row: its class and text; the vector of width `d` whose product with an item at length one, less `offset`,
    is the item's score; the least margin with which the class votes (null: never). `fills`: votes only where no other LF does.
    """
    return pa.DataFrameSchema(
        {
            "lf": pa.Column(pl.String),
            "class": pa.Column(pl.String),
            "text": pa.Column(pl.String, nullable=True),
            "vector": pa.Column(pl.Array(pl.Float32, d)),
            "offset": pa.Column(pl.Float64),
            "cut": pa.Column(pl.Float64, nullable=True),
            "fills": pa.Column(pl.Boolean),
        },
        strict=True,
    )


CELLS = _table({"cell": pa.Column(pl.Int32, pa.Check.ge(0))})
"""item_id and the cell of the embedding space that approximate search finds it in; 0 everywhere in a flat index."""


def votes(k: int, lfs: Iterable[str]) -> TableSchema:
    """item_id and one int8 column, -1..k-1, for each of `lfs` (column names; `item_id` among them is ignored)."""
    return _table(
        {
            lf: pa.Column(pl.Int8, pa.Check.in_range(ABSTAIN, k - 1))
            for lf in lfs
            if re.fullmatch(LF_NAME, lf) and lf != ITEM_ID
        }
    )


def neighbors(columns: Iterable[str], id_type: pl.DataType | type[pl.DataType]) -> TableSchema:
    """Per LF and class in its support: nearest support item and its similarity; null where the LF votes itself.

    Similarity is the cosine, in [-1, 1], or minus the Euclidean distance, at most 0.
    """
    kinds = {
        "similarity": pa.Column(pl.Float32, pa.Check.le(1), nullable=True),
        "neighbor": pa.Column(id_type, nullable=True),
    }
    return _table(
        {
            name: kinds[name.split("/")[2]]
            for name in columns
            if re.fullmatch(rf"{LF_NAME}/\d+/(similarity|neighbor)", name)
        }
    )


def provenance(k: int, id_type: pl.DataType | type[pl.DataType]) -> TableSchema:
    """One row per extended vote: the neighbor it comes from and their similarity; sorted by item, then LF."""
    return _table(
        {
            "lf": pa.Column(pl.String),
            "vote": pa.Column(pl.Int8, pa.Check.in_range(0, k - 1)),
            "neighbor": pa.Column(id_type),
            "similarity": pa.Column(pl.Float32, pa.Check.le(1)),
        },
        sorted_by_id=False,
    )


def labels(classes: Sequence[str], counts: Sequence[str] = ("original_votes", "extended_votes")) -> TableSchema:
    """item_id, label (a class name), one probability per class, and numbers of votes."""
    return _table(
        {
            "label": pa.Column(pl.String, pa.Check.isin(list(classes))),
            **{probability_column(name): _probability() for name in classes},
            **{name: pa.Column(pl.Int32, pa.Check.ge(0)) for name in counts},
        }
    )


def end_labels(classes: Sequence[str]) -> TableSchema:
    """As `labels`, with the number of original votes alone, since similarities are read, and with `is_certified`.

    Releases of earlier versions have no `is_certified`.
    """
    return labels(classes, counts=("original_votes",)).add_columns(
        {"is_certified": pa.Column(pl.Boolean, required=False)}
    )


def predictions(k: int, columns: Iterable[str]) -> TableSchema:
    """Per method, one probability column `<method>/<class position>` a class; what evaluate compares side by side."""
    return _table(
        {
            name: _probability()
            for name in columns
            if re.fullmatch(r"[a-z0-9_]+/\d+", name) and int(name.split("/")[1]) < k
        }
    )


def _probability() -> pa.Column:
    """A column of probabilities."""
    return pa.Column(pl.Float64, pa.Check.in_range(0, 1))


ROWS = _table(
    {
        "item": pa.Column(pl.UInt64),
        "embedding": pa.Column(pl.UInt64),
        "similarity": pa.Column(pl.Float32, pa.Check.le(1), nullable=True),
        "base": pa.Column(pl.String, nullable=True),
    }
)
"""Per released item hashes of the content that was labeled, and which release labeled it (tasks/tables/release_rows.py)."""


MODEL = pa.DataFrameSchema(
    {
        "name": pa.Column(pl.String, unique=True),
        "shape": pa.Column(pl.List(pl.Int64)),
        "numbers": pa.Column(pl.List(pl.Float64)),
        "texts": pa.Column(pl.List(pl.String)),
    },
    strict=True,
)
"""One row per part of a saved model: an array, flat with its shape, or a list of texts."""


FAILURES = _table(
    {"lf": pa.Column(pl.String), "error": pa.Column(pl.String)},
    sorted_by_id=False,
)
"""Items on which an LF failed and its error policy turned the failure into an abstain."""
