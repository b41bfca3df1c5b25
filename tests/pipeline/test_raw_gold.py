"""Each form of gold with each odd input: the classes that must come out, or the words of the error."""

from pathlib import Path

import pyarrow as arrow
import pytest
from raw_data import (
    CLASSES,
    IDS,
    Write,
    complain,
    read_gold,
    run,
    together,
    write_csv,
    write_parquet,
)

GOLD_CASES: dict[str, tuple[Write, tuple[str, ...], dict[str, object], dict[str, int] | str]] = {
    "floats that are class names elsewhere": (
        write_parquet({"item_id": IDS, "gold": [1.0, 2.0, None]}),
        ("1.0", "2.0", "3.0"),
        {},
        "has numbers, which are class positions, but class '1.0' is at position 0: which is meant?",
    ),
    "the same as text": (
        write_csv("item_id,gold\na,1.0\nb,3.0\nc,\n"),
        ("1.0", "2.0", "3.0"),
        {"items": "items.csv"},
        {"a": 0, "b": 2},
    ),
    "integers where names have zeros": (
        write_parquet({"item_id": IDS, "gold": [1, 2, None]}),
        ("01", "02", "03"),
        {},
        "class '01' is at position 0: which is meant?",
    ),
    "csv: integers where names have zeros": (
        write_csv("item_id,gold\na,1\nb,2\nc,\n"),
        ("01", "02", "03"),
        {"items": "items.csv"},
        "2 items are of an unknown class: '1', '2'; expected one of 01, 02, 03",
    ),
    "csv: positions": (
        write_csv("item_id,gold\na,1\nb,0\nc,\n"),
        CLASSES,
        {"items": "items.csv"},
        {"a": 1, "b": 0},
    ),
    "csv: blank, with and without quotes": (
        write_csv('item_id,gold\na,"ham"\nb,""\nc,  \n'),
        CLASSES,
        {"items": "items.csv"},
        {"a": 0},
    ),
    "csv: positions among blanks": (
        write_csv('item_id,gold\na,"1"\nb,""\nc,\n'),
        CLASSES,
        {"items": "items.csv"},
        {"a": 1},
    ),
    "blank": (write_parquet({"item_id": IDS, "gold": ["ham", "", " "]}), CLASSES, {}, {"a": 0}),
    "csv: names and numbers": (
        write_csv("item_id,gold\na,1\nb,ham\nc,\n"),
        CLASSES,
        {"items": "items.csv"},
        "1 items are of an unknown class: '1'",
    ),
    "integers in one file, text in another": (
        together(
            write_parquet({"item_id": ["a"], "gold": [1]}, "parts/0.parquet"),
            write_parquet({"item_id": ["b", "c"], "gold": ["1", "2"]}, "parts/1.parquet"),
        ),
        ("1", "2"),
        {"items": "parts"},
        "raw/parts: 'gold' is text in one file and integers in another. Write all alike.",
    ),
    "infinity": (
        write_parquet({"item_id": IDS, "gold": [float("inf"), 1e30, None]}),
        CLASSES,
        {},
        "2 items are of an unknown class: 1e+30, inf",
    ),
    "positions as floats with gaps": (
        write_parquet({"item_id": IDS, "gold": [1.0, float("nan"), None]}),
        CLASSES,
        {},
        {"a": 1},
    ),
    "beyond 64 bits": (
        write_parquet({"item_id": IDS, "gold": arrow.array([2**64 - 1, 1, None], arrow.uint64())}),
        CLASSES,
        {},
        "1 items are of an unknown class: 18446744073709551615",
    ),
    "a list": (
        write_parquet({"item_id": IDS, "gold": [["ham"], None, None]}),
        CLASSES,
        {},
        "column 'gold' is List(String); expected class names (text) or class positions (integers).",
    ),
    "folders of Hive": (
        together(
            write_parquet({"item_id": ["a"]}, "parts/gold=1/0.parquet"),
            write_parquet({"item_id": ["b", "c"]}, "parts/gold=0/0.parquet"),
        ),
        CLASSES,
        {"items": "parts"},
        {"a": 1, "b": 0, "c": 0},
    ),
}


@pytest.mark.parametrize("name", GOLD_CASES)
def test_gold(raw: Path, name: str) -> None:
    write, classes, changes, expected = GOLD_CASES[name]
    write(raw)
    if isinstance(expected, str):
        assert expected in complain(raw, classes, **changes)
    else:
        run(raw, classes, **changes)
        assert read_gold(raw) == expected
