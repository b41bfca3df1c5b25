"""Each reader of items with each odd input: the rows that must come out, or the words of the error."""

import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pytest
from raw_data import (
    IDS,
    SPARK_PARTS,
    TRAIN,
    VECTORS,
    Write,
    complain,
    read_items,
    run,
    together,
    write_csv,
    write_npy,
    write_parquet,
)

TZ = arrow.timestamp("us", tz="+05:30")
MARS = arrow.timestamp("us", tz="Mars/Olympus")
NOON = datetime.datetime(2026, 1, 1, 12)

ITEM_CASES: dict[str, tuple[Write, dict[str, object], list[tuple[object, ...]] | str]] = {
    "csv: a zip code keeps its zeros": (
        write_csv("item_id,zip\na,00501\nb,10001\nc,90210\n"),
        {"items": "items.csv"},
        [("a", TRAIN, "00501"), ("b", TRAIN, "10001"), ("c", TRAIN, "90210")],
    ),
    "csv: true, 1.50 and 18 digits are text": (
        write_csv("item_id,x,y,z\na,true,1.50,123456789012345678\nb,false,2.00,1\nc,,,\n"),
        {"items": "items.csv"},
        [
            ("a", TRAIN, "true", "1.50", "123456789012345678"),
            ("b", TRAIN, "false", "2.00", "1"),
            ("c", TRAIN, None, None, None),
        ],
    ),
    "csv: types that params give": (
        write_csv("item_id,x,y,z\na,true,1.50,123456789012345678\nb,False,2,-1\nc,,,\n"),
        {"items": "items.csv", "types": {"x": "boolean", "y": "number", "z": "integer"}},
        [("a", TRAIN, True, 1.5, 123456789012345678), ("b", TRAIN, False, 2.0, -1), ("c", TRAIN, None, None, None)],
    ),
    "csv: a value that is not of its type": (
        write_csv("item_id,zip\na,501\nb,K1A\nc,7\n"),
        {"items": "items.csv", "types": {"zip": "integer"}},
        "raw/items.csv: column 'zip' has 1 values that are not of type integer (ingest.types in params.yaml): 'K1A'",
    ),
    "csv: an integer beyond 64 bits": (
        write_csv("item_id,n\na,99999999999999999999\nb,1\nc,2\n"),
        {"items": "items.csv", "types": {"n": "integer"}},
        "column 'n' has 1 values that are not of type integer (ingest.types in params.yaml): '99999999999999999999'",
    ),
    "csv: a type for no column": (
        write_csv("item_id,zip\na,1\nb,2\nc,3\n"),
        {"items": "items.csv", "types": {"zipp": "integer"}},
        "no column 'zipp', which ingest.types in params.yaml names. Did you mean 'zip'?",
    ),
    "csv: a BOM": (
        write_csv("\ufeffitem_id,n\na,1\nb,2\nc,3\n"),
        {"items": "items.csv"},
        [("a", TRAIN, "1"), ("b", TRAIN, "2"), ("c", TRAIN, "3")],
    ),
    "csv: lines that end as on old Macs": (
        write_csv("item_id,n\ra,1\rb,2\rc,3\r"),
        {"items": "items.csv"},
        "items.csv: its lines end in a carriage return alone, as on old Macs. Save it with line feeds.",
    ),
    "csv: a class that looks like another": (
        write_csv("item_id,gold\na,ham\nb,ham \nc,spam\n"),
        {"items": "items.csv"},
        "'ham ' differs from class 'ham' in blanks or in the form of Unicode alone. First ids 'b'.",
    ),
    "csv: UTF-16": (
        write_csv("item_id,n\na,1\n", encoding="utf-16"),
        {"items": "items.csv"},
        "items.csv is UTF-16; expected UTF-8. Save it as that.",
    ),
    "csv: Latin-1": (
        write_csv("item_id,text\na,hallo\nb,Stra\u00dfe\n", encoding="latin-1"),
        {"items": "items.csv"},
        r"items.csv cannot be read: line 3 is not UTF-8 (b'\xdf'). Save the file as UTF-8.",
    ),
    "csv: semicolons": (
        write_csv("\ufeffitem_id;text\na;one\n"),
        {"items": "items.csv"},
        "items.csv: its first line is 'item_id;text', which has no comma but ';'. Write the file with commas",
    ),
    "csv: a row with more columns than the header": (
        write_csv('item_id,text\na,"two\nlines"\nb,c,d\n'),
        {"items": "items.csv"},
        "items.csv cannot be read: line 4 ends a row of 3 columns; the header has 2. Correct the file.",
    ),
    "csv: a row that ends too early": (
        write_csv("item_id,n,text\na,1,one\nb,2\nc,3,\n"),
        {"items": "items.csv"},
        "items.csv cannot be read: line 3 ends a row of 2 columns; the header has 3. Correct the file.",
    ),
    "csv: nothing in the last column, and a long field": (
        write_csv(f"item_id,n,text\r\na,1,\r\nb,2,{'x' * 200_000}\r\nc,3,\r\n"),
        {"items": "items.csv"},
        [("a", TRAIN, "1", None), ("b", TRAIN, "2", "x" * 200_000), ("c", TRAIN, "3", None)],
    ),
    "csv: equal headers": (
        write_csv("item_id,text,text\na,1,2\nb,3,4\nc,5,6\n"),
        {"items": "items.csv"},
        "items.csv: more than one column is called 'text'. Rename or remove the others.",
    ),
    "csv: a blank before split": (
        write_csv("item_id, split, gold\na, valid, ham\n"),
        {"items": "items.csv"},
        "raw/items.csv: column ' split' is almost called 'split' (ingest.split in params.yaml). Rename it",
    ),
    "csv: Gold beside gold": (
        write_csv("item_id,gold,Gold\na,ham,ham\nb,,ham\nc,,spam\n"),
        {"items": "items.csv"},
        "column 'Gold' is almost called 'gold' (ingest.gold in params.yaml)",
    ),
    "csv: Gold beside a gold of another name": (
        write_csv("item_id,label,Gold\na,ham,ham\nb,,ham\nc,,spam\n"),
        {"items": "items.csv", "gold": "label"},
        "column 'Gold' is almost called 'label'",
    ),
    "csv: Spark's empty part": (
        SPARK_PARTS,
        {"items": "parts"},
        [("a", TRAIN, "1"), ("b", TRAIN, "2"), ("c", TRAIN, "3")],
    ),
    "csv: nothing at all": (write_csv(""), {"items": "items.csv"}, "items.csv cannot be read"),
    "jsonl: NaN": (
        write_csv('{"item_id": "a", "x": 1.5}\n{"item_id": "b", "x": NaN}\n', "items.jsonl"),
        {"items": "items.jsonl"},
        "items.jsonl cannot be read: line 2 has NaN, which is not JSON; write null instead",
    ),
    "jsonl: a key twice": (
        write_csv('{"item_id": "a", "x": 1}\n{"item_id": "b", "x": 1, "\\u0078": 2}\n', "items.jsonl"),
        {"items": "items.jsonl"},
        "items.jsonl cannot be read: line 2 has the key 'x' more than once. Remove or rename the others.",
    ),
    "jsonl: a key twice in an object within": (
        write_csv('{"item_id": "a", "m": [{"k": {"x": 1, "x": 1}}]}\n', "items.jsonl"),
        {"items": "items.jsonl"},
        "items.jsonl cannot be read: line 1 has the key 'x' more than once. Remove or rename the others.",
    ),
    "jsonl: no JSON": (
        write_csv('{"item_id": "a"}\n\n{"item_id": b}\n', "items.jsonl"),
        {"items": "items.jsonl"},
        "items.jsonl cannot be read: line 3 is not JSON: Expecting value",
    ),
    "jsonl: a BOM": (
        write_csv('\ufeff{"item_id": "a"}\n{"item_id": "b"}\n{"item_id": "c"}\n', "items.jsonl"),
        {"items": "items.jsonl"},
        [("a", TRAIN), ("b", TRAIN), ("c", TRAIN)],
    ),
    "jsonl: an integer beyond 64 bits": (
        write_csv(
            '{"item_id": "a", "n": 1}\n{"item_id": "b", "n": 123456789012345678901}\n{"item_id": "c"}\n', "items.jsonl"
        ),
        {"items": "items.jsonl"},
        "raw/items.jsonl: column 'n' has integers beyond 64 bits, such as 123456789012345678901. Write them as text.",
    ),
    "jsonl: an integer beyond 64 bits in a list": (
        write_csv('{"item_id": "a", "n": [123456789012345678901]}\n', "items.jsonl"),
        {"items": "items.jsonl", "embeddings": "one.npz"},
        "raw/items.jsonl: column 'n' is List(Int128), with integers beyond 64 bits. Write them as text.",
    ),
    "jsonl: an object without keys": (
        write_csv('{"item_id": "a", "n": {}}\n', "items.jsonl"),
        {"items": "items.jsonl", "embeddings": "one.npz"},
        "column 'n' is Struct({}), objects without any key. Leave it out.",
    ),
    "jsonl: half a character": (
        write_csv('{"item_id": "a", "n": "\\ud83d\\ude00"}\n{"item_id": "b", "n": "\\ud83d!"}\n', "items.jsonl"),
        {"items": "items.jsonl"},
        "items.jsonl cannot be read: line 2 has half a character (a surrogate without the other).",
    ),
    "jsonl: whole characters": (
        write_csv('{"item_id": "a", "n": "\\ud83d\\ude00 \\\\ud83d"}\n', "items.jsonl"),
        {"items": "items.jsonl", "embeddings": "one.npz"},
        [("a", TRAIN, "\N{GRINNING FACE} \\ud83d")],
    ),
    "jsonl: types that params give": (
        write_csv('{"item_id": "a", "n": 1}\n{"item_id": "b", "n": 2}\n{"item_id": "c", "n": null}\n', "items.jsonl"),
        {"items": "items.jsonl", "types": {"n": "text"}},
        [("a", TRAIN, "1"), ("b", TRAIN, "2"), ("c", TRAIN, None)],
    ),
    "jsonl: a type for a list": (
        write_csv('{"item_id": "a", "n": [1]}\n', "items.jsonl"),
        {"items": "items.jsonl", "types": {"n": "integer"}},
        "column 'n' is List(Int64); ingest.types in params.yaml is for single values.",
    ),
    "parquet: uint64 beside int64": (
        together(
            write_parquet({"item_id": ["a", "b"], "n": arrow.array([1, 2], arrow.uint64())}, "parts/0.parquet"),
            write_parquet({"item_id": ["c"], "n": arrow.array([-3], arrow.int64())}, "parts/1.parquet"),
        ),
        {"items": "parts"},
        [("a", TRAIN, 1), ("b", TRAIN, 2), ("c", TRAIN, -3)],
    ),
    "parquet: uint64 beyond int64, beside int64": (
        together(
            write_parquet({"item_id": ["a", "b"], "n": arrow.array([1, 2**63], arrow.uint64())}, "parts/0.parquet"),
            write_parquet({"item_id": ["c"], "n": arrow.array([-3], arrow.int64())}, "parts/1.parquet"),
        ),
        {"items": "parts"},
        "raw/parts: column 'n' has integers beyond 64 bits, such as 9223372036854775808. Write them as text.",
    ),
    "parquet: a time zone without a name": (
        write_parquet({"item_id": IDS, "t": arrow.array([NOON, NOON, None], TZ)}),
        {},
        [
            ("a", TRAIN, NOON.replace(tzinfo=datetime.UTC)),
            ("b", TRAIN, NOON.replace(tzinfo=datetime.UTC)),
            ("c", TRAIN, None),
        ],
    ),
    "parquet: a time zone that nobody knows, in an object": (
        write_parquet(
            {"item_id": IDS[:1], "t": arrow.array([{"at": [NOON]}], arrow.struct([("at", arrow.list_(MARS))]))}
        ),
        {"embeddings": "one.npz"},
        [("a", TRAIN, {"at": [NOON.replace(tzinfo=datetime.UTC)]})],
    ),
    "parquet: a decimal of 50 digits in a list": (
        write_parquet({"item_id": IDS, "n": arrow.array([[Decimal(1)]] * 3, arrow.list_(arrow.decimal256(50, 0)))}),
        {},
        "items.parquet: column 'n' is decimal256(50, 0), wider than 38 digits.",
    ),
    "parquet: a decimal of 50 digits": (
        write_parquet({"item_id": IDS, "n": arrow.array([Decimal(1)] * 3, arrow.decimal256(50, 0))}),
        {},
        "items.parquet: column 'n' is decimal256(50, 0), wider than 38 digits. Write it as text or as float64.",
    ),
    "parquet: a tensor": (
        write_parquet({"item_id": IDS, "v": arrow.FixedShapeTensorArray.from_numpy_ndarray(VECTORS)}),
        {},
        [("a", TRAIN, [1.0, 0.0]), ("b", TRAIN, [2.0, 0.0]), ("c", TRAIN, [3.0, 0.0])],
    ),
    "parquet: a split that is a list": (
        write_parquet({"item_id": IDS, "split": [["train"]] * 3}),
        {},
        "raw/items.parquet: column 'split' is List(String); expected text, one of train, valid, test.",
    ),
    "parquet: dictionary-encoded ids": (
        write_parquet({"item_id": arrow.array(IDS).dictionary_encode()}),
        {},
        [("a", TRAIN), ("b", TRAIN), ("c", TRAIN)],
    ),
    "parquet: types are its own": (
        write_parquet({"item_id": IDS, "n": [1, 2, 3]}),
        {"types": {"n": "text"}},
        "Parquet has types of its own; remove 'n' from ingest.types",
    ),
    "parquet: folders of Hive": (
        together(
            write_parquet({"item_id": ["a"], "n": [1]}, "parts/split=valid/day=1/0.parquet"),
            write_parquet(
                {"item_id": ["b", "c"], "n": [2, 3]}, "parts/split=train/day=__HIVE_DEFAULT_PARTITION__/0.parquet"
            ),
            write_csv("", "parts/_SUCCESS"),
            write_csv("?", "parts/_metadata"),
            write_csv("?", "parts/_temporary/0/part.parquet"),
        ),
        {"items": "parts", "types": {"day": "integer"}},
        [("a", "valid", 1, 1), ("b", "train", 2, None), ("c", "train", 3, None)],
    ),
    "parquet: a column in the file and in the folder": (
        write_parquet({"item_id": IDS, "split": ["test"] * 3}, "parts/split=valid/0.parquet"),
        {"items": "parts"},
        "column 'split' is in the file and in the name of its folder. Remove one of them.",
    ),
    "parquet: folders of Hive and none": (
        together(
            write_parquet({"item_id": ["a"]}, "parts/split=valid/0.parquet"),
            write_parquet({"item_id": ["b", "c"]}, "parts/0.parquet"),
        ),
        {"items": "parts"},
        "raw/parts: not every file has the column split.",
    ),
    "parquet: a part without rows": (
        together(
            write_parquet(
                {"item_id": arrow.array([], arrow.null()), "n": arrow.array([], arrow.null())}, "parts/0.parquet"
            ),
            write_parquet({"item_id": [1, 2, 3], "n": [4, 5, 6]}, "parts/1.parquet"),
            write_npy("ids.npy", np.array([1, 2, 3])),
            write_npy("e.npy", VECTORS),
        ),
        {"items": "parts", "embeddings": "e.npy", "embedding_ids": "ids.npy"},
        [(1, TRAIN, 4), (2, TRAIN, 5), (3, TRAIN, 6)],
    ),
    "parquet: the file that is named, not a pattern": (
        together(
            write_parquet({"item_id": IDS, "t": ["right"] * 3}, "items[1].parquet"),
            write_parquet({"item_id": IDS, "t": ["wrong"] * 3}, "items1.parquet"),
        ),
        {"items": "items[1].parquet"},
        [("a", TRAIN, "right"), ("b", TRAIN, "right"), ("c", TRAIN, "right")],
    ),
    "csv: the file that is named, not a pattern": (
        together(
            write_csv("item_id,t\na,right\nb,right\nc,right\n", "items?.csv"),
            write_csv("item_id,t\na,wrong\nb,wrong\nc,wrong\n", "items1.csv"),
        ),
        {"items": "items?.csv"},
        [("a", TRAIN, "right"), ("b", TRAIN, "right"), ("c", TRAIN, "right")],
    ),
    "jsonl: the file that is named, not a pattern": (
        together(
            write_csv("".join(f'{{"item_id": "{name}", "t": "right"}}\n' for name in IDS), "items*.jsonl"),
            write_csv("".join(f'{{"item_id": "{name}", "t": "wrong"}}\n' for name in IDS), "items1.jsonl"),
        ),
        {"items": "items*.jsonl"},
        [("a", TRAIN, "right"), ("b", TRAIN, "right"), ("c", TRAIN, "right")],
    ),
    "a folder that is named, not a pattern": (
        together(
            write_parquet({"item_id": IDS, "t": ["right"] * 3}, "[1]/items.parquet"),
            write_parquet({"item_id": IDS, "t": ["wrong"] * 3}, "1/items.parquet"),
        ),
        {"items": "[1]"},
        [("a", TRAIN, "right"), ("b", TRAIN, "right"), ("c", TRAIN, "right")],
    ),
    "a name that is too long": (
        write_parquet({"item_id": IDS}),
        {"items": "x" * 300},
        "cannot be looked at: File name too long.",
    ),
    "a pattern that is none": (
        write_parquet({"item_id": IDS}),
        {"items": "a**"},
        "'ingest.items': 'a**' is neither a path nor a glob",
    ),
    "rows of the last file, and no last file": (
        together(*(write_parquet({"item_id": IDS, "n": [n] * 3}, f"parts/{n}.parquet") for n in (2, 10))),
        {"items": "parts", "duplicates": "last"},
        "of rows with the same id that of the last file is kept, but 10.parquet comes before 2.parquet by name and after",
    ),
    "rows of the last file, with leading zeros": (
        together(*(write_parquet({"item_id": IDS, "n": [n] * 3}, f"parts/{n:02}.parquet") for n in (2, 10))),
        {"items": "parts", "duplicates": "last"},
        [("a", TRAIN, 10), ("b", TRAIN, 10), ("c", TRAIN, 10)],
    ),
}


@pytest.mark.parametrize("name", ITEM_CASES)
def test_items(raw: Path, name: str) -> None:
    write, changes, expected = ITEM_CASES[name]
    write(raw)
    if isinstance(expected, str):
        assert expected in complain(raw, **changes)
    else:
        run(raw, **changes)
        assert read_items(raw) == expected
