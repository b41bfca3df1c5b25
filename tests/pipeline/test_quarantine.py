"""Rows that may fail: which are left out of what odd inputs, what is said of each, and when they are too many."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from raw_data import (
    CLASSES,
    IDS,
    VECTORS,
    Write,
    complain,
    read_items,
    read_vectors,
    run,
    together,
    write_csv,
    write_npy,
)
from raw_data import write_parquet as parquet
from test_raw_embeddings import EMBEDDING_CASES
from test_raw_gold import GOLD_CASES
from test_raw_items import ITEM_CASES

from tasks.errors import EpoxyError
from tasks.params import IngestParams
from tasks.tables import schemas
from tasks.tables.parquet import find_shards, read_table
from tasks.tables.paths import COLUMN_GOLD, EMBEDDINGS, ITEMS, QUARANTINE
from tasks.tables.quarantine import read_quarantine

ALL = {"share": 1.0}

Rows = list[tuple[object, ...]]

ODD: dict[str, tuple[Write, dict[str, Any], tuple[str, ...], dict[str, object], Rows | str]] = {
    **{f"items: {name}": (write, changes, CLASSES, {}, "") for name, (write, changes, _) in ITEM_CASES.items()},
    **{f"embeddings: {name}": (write, changes, CLASSES, {}, "") for name, (write, changes, _) in EMBEDDING_CASES.items()},
    **{f"gold: {name}": (write, changes, classes, {}, "") for name, (write, classes, changes, _) in GOLD_CASES.items()},
}  # fmt: skip
"""What the tests of readers make of readers: whether rows may fail changes nothing but the cases in FAILED."""

FAILED: dict[str, tuple[Sequence[str], Rows]] = {
    "items: csv: a value that is not of its type": ("ac", [("b", "value of another type", "items.csv", 3, "K1A")]),
    "items: csv: an integer beyond 64 bits": (
        "bc",
        [("a", "value of another type", "items.csv", 2, "99999999999999999999")],
    ),
    "items: csv: Latin-1": (
        "a",
        [
            ("b", "embedding of no item", "e.npz", 2, ""),
            ("c", "embedding of no item", "e.npz", 3, ""),
            (None, "unreadable", "items.csv", 3, "not UTF-8"),
        ],
    ),
    "items: csv: a row with more columns than the header": (
        "a",
        [
            ("b", "embedding of no item", "e.npz", 2, ""),
            ("c", "embedding of no item", "e.npz", 3, ""),
            (None, "unreadable", "items.csv", 4, "3 columns; the header has 2"),
        ],
    ),
    "items: csv: a row that ends too early": (
        "ac",
        [
            ("b", "embedding of no item", "e.npz", 2, ""),
            (None, "unreadable", "items.csv", 3, "2 columns; the header has 3"),
        ],
    ),
    "items: jsonl: NaN": (
        "a",
        [
            ("b", "embedding of no item", "e.npz", 2, ""),
            ("c", "embedding of no item", "e.npz", 3, ""),
            (None, "unreadable", "items.jsonl", 2, "has NaN, which is not JSON; write null instead"),
        ],
    ),
    "items: jsonl: a key twice": (
        "a",
        [
            ("b", "embedding of no item", "e.npz", 2, ""),
            ("c", "embedding of no item", "e.npz", 3, ""),
            (None, "unreadable", "items.jsonl", 2, "has the key 'x' more than once. Remove or rename the others."),
        ],
    ),
    "items: jsonl: no JSON": (
        "a",
        [
            ("b", "embedding of no item", "e.npz", 2, ""),
            ("c", "embedding of no item", "e.npz", 3, ""),
            (None, "unreadable", "items.jsonl", 3, "is not JSON: Expecting value: line 1 column 13 (char 12)"),
        ],
    ),
    "items: csv: a class that looks like another": ("ac", [("b", "unknown class", "items.csv", 3, "ham ")]),
    "items: jsonl: half a character": (
        "a",
        [
            ("b", "embedding of no item", "e.npz", 2, ""),
            ("c", "embedding of no item", "e.npz", 3, ""),
            (None, "unreadable", "items.jsonl", 2, "half a character"),
        ],
    ),
    "embeddings: parquet: a short first vector": (
        "bc",
        [("a", "bad embedding", "e.parquet", 1, "NaN, infinity or not 2 numbers")],
    ),
    "gold: csv: integers where names have zeros": (
        "c",
        [("a", "unknown class", "items.csv", 2, "1"), ("b", "unknown class", "items.csv", 3, "2")],
    ),
    "gold: csv: names and numbers": ("bc", [("a", "unknown class", "items.csv", 2, "1")]),
    "gold: infinity": (
        "c",
        [("a", "unknown class", "items.parquet", 1, "inf"), ("b", "unknown class", "items.parquet", 2, "1e+30")],
    ),
    "gold: beyond 64 bits": ("bc", [("a", "unknown class", "items.parquet", 1, "18446744073709551615")]),
}
"""Of inputs that are an error where no row may fail: the items that are left, and the rows that failed."""


def attempt(raw: Path, classes: tuple[str, ...], changes: dict[str, Any]) -> dict[str, bytes] | str:
    """The artifacts by path, or the words of the error."""
    try:
        run(raw, classes, **changes)
    except EpoxyError as error:
        return str(error)
    root = raw.parent
    return {str(file): file.read_bytes() for file in sorted((root / "data").rglob("*")) if file.is_file()}


@pytest.mark.parametrize("name", ODD)
def test_odd_inputs_with_rows_that_may_fail(raw: Path, name: str) -> None:
    write, changes, classes, *_ = ODD[name]
    write(raw)
    if name not in FAILED:
        strict = attempt(raw, classes, changes)
        assert attempt(raw, classes, {**changes, "quarantine": ALL}) == strict or "embeddings are of no" in str(strict)
        return
    items, rows = FAILED[name]
    run(raw, classes, **changes, quarantine=ALL)
    assert [item for item, *_ in read_items(raw)] == [*items]
    assert [*read_vectors(raw)] == [*items]
    assert read_quarantine(raw.parent).rows() == rows
    assert "ingest.quarantine in params.yaml allows 0 rows" in complain(raw, classes, **changes, quarantine={"rows": 0})


CSV: dict[str, object] = {"items": "items.csv"}

CASES: dict[str, tuple[Write, dict[str, object], Sequence[str], Rows]] = {
    "a doubled id: neither row is the item": (
        write_csv("item_id,text\na,one\nb,two\nc,three\nb,four\n"),
        CSV,
        "ac",
        [("b", "doubled id", "items.csv", 3, ""), ("b", "doubled id", "items.csv", 5, "")],
    ),
    "a doubled id, of which the last counts, and which is bad": (
        write_csv("item_id,split\na,train\nb,train\nc,train\nb,dev\n"),
        {**CSV, "duplicates": "last"},
        "ac",
        [("b", "unknown split", "items.csv", 5, "dev")],
    ),
    "a missing id, after text of two lines": (
        write_csv('item_id,text\na,"one\nand a half"\nb,two\n,three\nc,four\n'),
        CSV,
        "abc",
        [(None, "no id", "items.csv", 5, "")],
    ),
    "a blank line": (
        write_csv("item_id,text\na,one\n\nb,two\nc,three\n"),
        CSV,
        "abc",
        [(None, "no id", "items.csv", 3, "")],
    ),
    "a quote that swallows rows: each of its lines counts": (
        write_csv('item_id,text\na,one\nb,"two\nc,three\nd,"four\nb,five\nc,six\n'),
        CSV,
        "abc",
        [
            (None, "unreadable", "items.csv", 3, "not CSV: ',' expected after '\"'"),
            (None, "unreadable", "items.csv", 4, "not CSV: ',' expected after '\"'"),
            (None, "unreadable", "items.csv", 5, "not CSV: ',' expected after '\"'"),
        ],
    ),
    "ids that are to be integers": (
        together(
            write_csv("item_id\n1\n2\nx\n"),
            write_npy("ids.npy", np.array([2, 1])),
            write_npy("v.npy", VECTORS[:2]),
        ),
        {**CSV, "types": {"item_id": "integer"}, "embeddings": "v.npy", "embedding_ids": "ids.npy"},
        [1, 2],
        [(None, "value of another type", "items.csv", 4, "x")],
    ),
    "rows of .npy with ids in items, of which one cannot be read": (
        together(write_csv("item_id,text\na,one\nx,y,z\nb,two\n"), write_npy("v.npy", VECTORS)),
        {**CSV, "embeddings": "v.npy", "embedding_ids": "items.csv"},
        "ab",
        [(None, "unreadable", "items.csv", 3, "3 columns; the header has 2")],
    ),
    "rows of .npy with ids in items, of which some are doubled or bad": (
        together(
            write_csv("item_id,gold\na,ham\nb,ham\nb,ham\nc,eggs\n"),
            write_npy("v.npy", np.vstack([VECTORS, VECTORS[:1]])),
        ),
        {**CSV, "embeddings": "v.npy", "embedding_ids": "items.csv"},
        "a",
        [
            ("b", "doubled id", "items.csv", 3, ""),
            ("b", "doubled id", "items.csv", 4, ""),
            ("c", "unknown class", "items.csv", 5, "eggs"),
        ],
    ),
    "vectors that are no directions": (
        together(
            parquet({"item_id": IDS}),
            write_npy("v.npy", np.array([[np.nan, 0], [0, 0], [3, 0]], np.float32)),
        ),
        {"embeddings": "v.npy", "embedding_ids": "items.parquet"},
        "c",
        [
            ("a", "bad embedding", "v.npy", 1, "NaN, infinity or not 2 numbers"),
            ("b", "bad embedding", "v.npy", 2, "a zero vector"),
        ],
    ),
    "vectors in several files, of no item, doubled and without an id": (
        together(
            parquet({"item_id": IDS}),
            parquet({"item_id": ["a", None, "b"], "embedding": [[1.0, 0.0]] * 3}, "v/1.parquet"),
            parquet({"item_id": ["x", "b", "c"], "embedding": [[1.0, 0.0]] * 3}, "v/2.parquet"),
        ),
        {"embeddings": "v"},
        "ac",
        [
            (None, "no id", "v/1.parquet", 2, ""),
            ("b", "doubled id", "v/1.parquet", 3, ""),
            ("x", "embedding of no item", "v/2.parquet", 1, ""),
            ("b", "doubled id", "v/2.parquet", 2, ""),
        ],
    ),
    "items of several files": (
        together(
            parquet({"item_id": ["a", "a"], "split": ["train", "train"]}, "parts/1.parquet"),
            parquet({"item_id": ["b", "c", "d"], "split": ["valid", "none", "train"]}, "parts/2.parquet"),
        ),
        {"items": "parts"},
        "b",
        [
            ("a", "doubled id", "parts/1.parquet", 1, ""),
            ("a", "doubled id", "parts/1.parquet", 2, ""),
            ("c", "unknown split", "parts/2.parquet", 2, "none"),
            ("d", "no embedding", "parts/2.parquet", 3, ""),
        ],
    ),
    "no text to encode": (
        parquet({"item_id": IDS, "text": ["one two", None, "two three"]}),
        {"embeddings": None, "encoder": {"model": "tfidf", "dimensions": 1}},
        "ac",
        [("b", "no text", "items.parquet", 2, "")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rows_that_may_fail_are_left_out(raw: Path, name: str) -> None:
    write, changes, items, rows = CASES[name]
    write(raw)
    complain(raw, **changes)
    run(raw, **changes, quarantine={"rows": len(rows)})
    assert [item for item, *_ in read_items(raw)] == [*items]
    assert [*read_vectors(raw)] == [*items]
    assert read_quarantine(raw.parent).rows() == rows
    complain(raw, **changes, quarantine={"rows": len(rows) - 1})


def test_too_many_are_told_with_counts_and_examples(raw: Path) -> None:
    write_csv("item_id,gold\na,ham\n,ham\nb,eggs\nc,bacon\n")(raw)
    said = complain(raw, items="items.csv", quarantine={"rows": 2, "share": 0.6})
    assert "3 rows failed, a share of 0.75; ingest.quarantine in params.yaml allows 2 rows and a share of 0.6." in said
    assert "\n  2 unknown class: items.csv:4, 'b': eggs; items.csv:5, 'c': bacon\n  1 no id: items.csv:3\n" in said
    assert not (raw.parent / ITEMS).exists()


def test_bad_vectors_beyond_the_budget_leave_nothing_half_written(raw: Path) -> None:
    CASES["vectors that are no directions"][0](raw)
    changes = {"embeddings": "v.npy", "embedding_ids": "items.parquet", "quarantine": {"share": 0.5}}
    assert "2 rows failed, a share of 0.6667" in complain(raw, **changes)
    assert not (raw.parent / EMBEDDINGS).exists()


def test_that_every_row_failed_is_no_night(raw: Path) -> None:
    write_csv("item_id,gold\na,eggs\n")(raw)
    assert "every row failed; expected at least one item" in complain(raw, items="items.csv", quarantine=ALL)


def test_the_rest_is_as_if_the_rows_were_not_there(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("item_id,gold,text\na,ham,one\nb,eggs,two\nc,spam,three\nd,ham,x,y\n")(raw)
    run(raw, items="items.csv", quarantine=ALL)
    captured = capsys.readouterr()
    assert "ingest: 2 items: train 2 (2 with gold)" in captured.out
    assert captured.err.splitlines()[-1] == (
        "warning: 2 rows failed and were left out (1 unknown class, 1 unreadable); 'epoxy quarantine' lists them."
    )
    paths = (ITEMS, COLUMN_GOLD, *(EMBEDDINGS / file.name for file in find_shards(raw.parent / EMBEDDINGS)))
    made = [(raw.parent / path).read_bytes() for path in paths]
    write_csv("item_id,gold,text\na,ham,one\nc,spam,three\n")(raw)
    np.savez(raw / "e.npz", ids=np.array(["a", "c"]), embeddings=VECTORS[[0, 2]])
    run(raw, items="items.csv")
    assert [(raw.parent / path).read_bytes() for path in paths] == made
    assert read_table(raw.parent / QUARANTINE, schemas.QUARANTINE).is_empty()


def test_without_a_limit_there_is_no_quarantine() -> None:
    with pytest.raises(ValueError, match="give `rows`, `share` or both"):
        IngestParams.model_validate({"source": "raw", "quarantine": {}})


def test_a_block_of_nothing_but_bad_vectors(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.readers.blocks.ROW_GROUP", 1)
    CASES["vectors that are no directions"][0](raw)
    run(raw, embeddings="v.npy", embedding_ids="items.parquet", quarantine=ALL)
    assert pl.read_parquet(raw.parent / EMBEDDINGS)["item_id"].to_list() == ["c"]
