"""Tables are checked all at once, and pandera, asked column by column, always says the same."""

import math
from pathlib import Path

import pandera.errors
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.errors import DataError
from tasks.tables import schemas
from tasks.tables.validation import validate_table

IDS = [1, 2, 3, 4]
GOOD = {
    "items": (schemas.ITEMS, {"split": ["train", "valid", "test", "train"], "anything": [None, 1.5, math.nan, 2.0]}),
    "quarantine": (
        schemas.QUARANTINE,
        {"reason": list("abcd"), "file": list("abcd"), "row": IDS, "found": list("abcd")},
    ),
    "gold": (schemas.gold(3), {"gold": pl.Series([0, 2, 1, 0], dtype=pl.Int8)}),
    "conflicts": (
        schemas.gold_conflicts(["a", "b"]),
        {"split": ["train"] * 4, "gold": ["a", None, "b", "a"], "decisions": list("abcd")},
    ),
    "embeddings": (schemas.embeddings(2), {"embedding": pl.Series([[1.0, 2.0]] * 4, dtype=pl.Array(pl.Float32, 2))}),
    "cells": (schemas.CELLS, {"cell": pl.Series([0, 1, 2, 3], dtype=pl.Int32)}),
    "centers": (
        schemas.centers(2),
        {
            "cell": pl.Series([0, 1, 2, 3], dtype=pl.Int32),
            "center": pl.Series([[1.0, 2.0]] * 4, dtype=pl.Array(pl.Float32, 2)),
            "items": [0, 5, 1, 2],
        },
    ),
    "votes": (
        schemas.votes(2, ["a", "b", "c"]),
        {lf: pl.Series([-1, 0, 1, -1], dtype=pl.Int8) for lf in ("a", "b", "c")},
    ),
    "neighbors": (
        schemas.neighbors(["a/0/similarity", "a/0/neighbor", "b/1/similarity", "b/1/neighbor"], pl.Int64),
        {
            f"{name}/{what}": pl.Series(values, dtype=dtype)
            for name in ("a/0", "b/1")
            for what, values, dtype in (
                ("similarity", [0.5, None, 1.0, -3.0], pl.Float32),
                ("neighbor", [1, None, 2, 3], pl.Int64),
            )
        },
    ),
    "labels": (
        schemas.end_labels(["a", "b"]),
        {
            "label": ["a", "b", "a", "b"],
            "p_a": [0.0, 0.5, 1.0, 0.25],
            "p_b": [1.0, 0.5, 0.0, 0.75],
            "original_votes": pl.Series([0, 1, 2, 3], dtype=pl.Int32),
        },
    ),
    "descriptions": (
        schemas.descriptions(2),
        {
            "lf": list("abcd"),
            "class": list("abcd"),
            "text": ["a", None, "b", "c"],
            "vector": pl.Series([[1.0, 2.0]] * 4, dtype=pl.Array(pl.Float32, 2)),
            "offset": [0.0, 0.5, -1.0, 2.0],
            "cut": [0.5, None, 1.0, 0.0],
            "fills": [True, False, True, False],
        },
    ),
    "model": (
        schemas.MODEL,
        {
            "name": list("abcd"),
            "shape": pl.Series([[1]] * 4, dtype=pl.List(pl.Int64)),
            "numbers": [[1.0]] * 4,
            "texts": [["a"]] * 4,
        },
    ),
}
"""Of each kind a schema and the columns, but for ids of items, of a table that fits it."""

FLOATS = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 0.5, 1.0, 1.0000001, -0.1, 7.0])
VALUES = {
    pl.Int8: st.integers(-3, 4),
    pl.Int32: st.integers(-3, 4),
    pl.Int64: st.integers(-3, 5),
    pl.Float32: FLOATS,
    pl.Float64: FLOATS,
    pl.String: st.sampled_from(["a", "b", "train", "test", "", "other"]),
    pl.Boolean: st.booleans(),
    pl.List: st.lists(st.sampled_from([1, 2]), max_size=2),
    pl.Array: st.lists(FLOATS, min_size=2, max_size=2),
}


def make_table(kind):
    """A table that fits the schema of `kind`."""
    schema, columns = GOOD[kind]
    table = pl.DataFrame(columns)
    return table.select(pl.Series("item_id", IDS), pl.all()) if "item_id" in schema.columns else table


@st.composite
def draw_tables(draw, kind):
    """A table like that of `kind`, with a few things changed: values, types, columns, rows, their order."""
    table = make_table(kind)
    for _ in range(draw(st.integers(0, 2))):
        if not table.width:
            break
        name = draw(st.sampled_from(table.columns))
        change = draw(st.sampled_from(["value", "value", "null", "drop", "add", "type", "order", "twice", "no rows"]))
        dtype = table.schema[name]
        row = draw(st.integers(0, max(table.height - 1, 0)))
        if change in ("value", "null") and table.height and dtype.base_type() in VALUES:
            values = table[name].to_list()
            values[row] = None if change == "null" else draw(VALUES[dtype.base_type()])
            if dtype == pl.List(pl.String) and values[row] is not None:
                values[row] = [str(value) for value in values[row]]
            table = table.with_columns(pl.Series(name, values, dtype=dtype, strict=False))
        elif change == "drop":
            table = table.drop(name)
        elif change == "add":
            table = table.with_columns(pl.lit(1).alias(draw(st.sampled_from(["more", "is_certified", "d"]))))
        elif change == "type":
            other = draw(st.sampled_from([pl.Int64, pl.Float32, pl.Float64, pl.String, pl.Int8, pl.Boolean]))
            if not dtype.is_nested() and (dtype, other) != (pl.String, pl.Boolean):
                table = table.with_columns(pl.col(name).cast(other, strict=False))
        elif change == "order":
            table = table.reverse()
        elif change == "twice" and table.height:
            table = pl.concat([table[: row + 1], table[row:]])
        elif change == "no rows":
            table = table.clear()
    return table


@pytest.mark.parametrize("kind", GOOD)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_asked_at_once_is_what_pandera_asks(kind, data):
    schema, table = GOOD[kind][0], data.draw(draw_tables(kind))
    try:
        schema.validate(table)
        fits = True
    except (pandera.errors.SchemaError, pl.exceptions.PolarsError):
        fits = False
    try:
        assert validate_table(Path("x"), table, schema) is table
        assert fits
    except DataError:
        assert not fits


@pytest.mark.parametrize("kind", GOOD)
def test_a_table_that_fits_is_not_asked_about_column_by_column(kind, monkeypatch):
    schema = GOOD[kind][0]
    monkeypatch.setattr(type(schema), "validate", None)
    table = make_table(kind)
    assert validate_table(Path("x"), table, schema) is table
