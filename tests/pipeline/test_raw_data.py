"""What ingest says of raw data: links, closed folders, types to add, empty files, and panics past all readers."""

import codecs
import json
import os
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as arrow
import pytest
import yaml
from raw_data import (
    IDS,
    SPARK_PARTS,
    TRAIN,
    complain,
    read_items,
    run,
    write_csv,
    write_parquet,
)

import tasks.__main__ as command
from tasks.errors import DataError
from tasks.params import ColumnType, IngestParams
from tasks.readers import files
from tasks.readers.items import describe_types
from tasks.tables.paths import COLUMN_GOLD, EMBEDDINGS, ITEMS

CLASSES = ("ham", "spam")
IDS = ["a", "b", "c"]
VECTORS = np.array([[1, 0], [2, 0], [3, 0]], dtype=np.float32)
"""Of a, b and c."""

Write = Callable[[Path], object]


def write_csv(text: str, name: str = "items.csv", encoding: str = "utf-8") -> Write:
    def write(raw: Path) -> None:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(text.encode(encoding))

    return write


def write_parquet(columns: dict[str, object], name: str = "items.parquet") -> Write:
    def write(raw: Path) -> None:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(arrow.table(columns), raw / name)

    return write


def write_npy(name: str, rows: npt.NDArray[np.generic]) -> Write:
    def write(raw: Path) -> None:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(raw / name, rows)

    return write


def together(*writes: Write) -> Write:
    def write(raw: Path) -> None:
        for each in writes:
            each(raw)

    return write


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with embeddings of a, b and c, and with those of a alone."""
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "e.npz", ids=np.array(IDS), embeddings=VECTORS)
    np.savez(tmp_path / "raw" / "one.npz", ids=np.array(IDS[:1]), embeddings=VECTORS[:1])
    return tmp_path / "raw"


def run(raw: Path, classes: tuple[str, ...] = CLASSES, **changes: object) -> None:
    given = {"source": "raw", "embeddings": "e.npz", **changes}
    ingest.run(raw.parent, classes, IngestParams.model_validate(given))


def complain(raw: Path, classes: tuple[str, ...] = CLASSES, **changes: object) -> str:
    with pytest.raises(EpoxyError) as error:
        run(raw, classes, **changes)
    assert isinstance(error.value, DataError | ParamsError)
    return str(error.value)


def read_items(raw: Path) -> list[tuple[object, ...]]:
    return pl.read_parquet(raw.parent / ITEMS).rows()


def read_gold(raw: Path) -> dict[str, int]:
    return dict(pl.read_parquet(raw.parent / COLUMN_GOLD).rows())


def read_vectors(raw: Path) -> dict[object, list[float]]:
    table = pl.read_parquet(raw.parent / EMBEDDINGS)
    return dict(zip(table["item_id"], table["embedding"].to_list(), strict=True))


TRAIN = "train"
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
        together(
            write_csv("item_id,n\na,1\nb,2\n", "parts/part-00000.csv"),
            write_csv("", "parts/part-00001.csv"),
            write_csv("item_id,n\nc,3\n", "parts/part-00002.csv"),
            write_csv("", "parts/_SUCCESS"),
        ),
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


BIG = [1234567890123456789, 1234567890123456790, 9223372036854775807]
FOUND = {"a": [1.0, 0.0], "b": [2.0, 0.0], "c": [3.0, 0.0]}
IDENTIFIED = write_parquet({"item_id": IDS})


def lists(
    vectors: list[list[float]], kind: arrow.DataType | None = None, name: str = "e.parquet", ids: list[str] = IDS
) -> Write:
    column = arrow.array(vectors, arrow.list_(arrow.float32()) if kind is None else kind)
    return write_parquet({"item_id": ids, "embedding": column}, name)


EMBEDDING_CASES: dict[str, tuple[Write, dict[str, object], dict[object, list[float]] | str]] = {
    "npy: ids in files of other names": (
        together(
            IDENTIFIED,
            write_parquet({"item_id": ["a"]}, "ids/jan.parquet"),
            write_parquet({"item_id": ["b", "c"]}, "ids/feb.parquet"),
            write_npy("e/1.npy", VECTORS[:1]),
            write_npy("e/2.npy", VECTORS[1:]),
        ),
        {"embeddings": "e", "embedding_ids": "ids"},
        "raw: 2 files of embeddings and 2 of ids cannot be paired by their names, first 1, 2, feb, jan",
    ),
    "npy: part-1, 2, 10 and part-01, 02, 10": (
        together(
            IDENTIFIED,
            *(
                write_parquet({"item_id": [name]}, f"ids/part-{n}.parquet")
                for name, n in zip(IDS, (1, 2, 10), strict=True)
            ),
            *(write_npy(f"e/part-{n:02}.npy", VECTORS[[row]]) for row, n in enumerate((1, 2, 10))),
        ),
        {"embeddings": "e", "embedding_ids": "ids"},
        "3 files of embeddings and 3 of ids cannot be paired by their names, first part-01, part-02, part-1, part-2",
    ),
    "npy: part-1, 2, 10 of both": (
        together(
            IDENTIFIED,
            *(
                write_parquet({"item_id": [name]}, f"ids/part-{n}.parquet")
                for name, n in zip(IDS, (1, 2, 10), strict=True)
            ),
            *(write_npy(f"e/part-{n}.npy", VECTORS[[row]]) for row, n in enumerate((1, 2, 10))),
        ),
        {"embeddings": "e", "embedding_ids": "ids"},
        FOUND,
    ),
    "npy: the same name in two folders": (
        together(
            IDENTIFIED,
            write_parquet({"item_id": ["a"]}, "ids/2025/1.parquet"),
            write_parquet({"item_id": ["b", "c"]}, "ids/2026/1.parquet"),
            write_npy("e/2025/1.npy", VECTORS[:1]),
            write_npy("e/2026/1.npy", VECTORS[1:]),
        ),
        {"embeddings": "e", "embedding_ids": "ids"},
        FOUND,
    ),
    "npy: the same name in two folders, by a glob": (
        together(
            IDENTIFIED,
            write_parquet({"item_id": ["a"]}, "ids/2025/1.parquet"),
            write_parquet({"item_id": ["b", "c"]}, "ids/2026/1.parquet"),
            write_npy("e/2025/1.npy", VECTORS[:1]),
            write_npy("e/2026/1.npy", VECTORS[1:]),
        ),
        {"embeddings": "e/*/*.npy", "embedding_ids": "ids/*/*.parquet"},
        "2 files of embeddings and 2 of ids cannot be paired by their names, first 1, 1",
    ),
    "npy: part-1, 2, 10 and the ids in one file": (
        together(IDENTIFIED, *(write_npy(f"e/part-{n}.npy", VECTORS[[row]]) for row, n in enumerate((1, 2, 10)))),
        {"embeddings": "e", "embedding_ids": "items.parquet"},
        "rows of embeddings have their ids by the order of files, but part-10.npy comes before part-2.npy by name",
    ),
    "npy: ids with a BOM, one a line": (
        together(IDENTIFIED, write_npy("e.npy", VECTORS), write_csv("\ufeffa\nb\nc\n", "ids.txt")),
        {"embeddings": "e.npy", "embedding_ids": "ids.txt"},
        FOUND,
    ),
    "csv: ids of 19 digits against int64": (
        together(
            write_csv("item_id\n" + "".join(f"{number}\n" for number in BIG)),
            write_npy("ids.npy", np.array(BIG)),
            write_npy("e.npy", VECTORS),
        ),
        {"items": "items.csv", "embeddings": "e.npy", "embedding_ids": "ids.npy"},
        "ids are Int64, but String in items.csv. CSV has no types: add 'types: {item_id: integer}' below ingest",
    ),
    "csv: ids of 19 digits that are integers": (
        together(
            write_csv("item_id\n" + "".join(f"{number}\n" for number in BIG)),
            write_npy("ids.npy", np.array(BIG)),
            write_npy("e.npy", VECTORS),
        ),
        {"items": "items.csv", "types": {"item_id": "integer"}, "embeddings": "e.npy", "embedding_ids": "ids.npy"},
        dict(zip(BIG, VECTORS.tolist(), strict=True)),
    ),
    "parquet: the file that is named, not a pattern": (
        together(
            IDENTIFIED,
            lists(VECTORS.tolist(), name="e[1].parquet"),
            lists(VECTORS.tolist(), name="e1.parquet", ids=IDS[::-1]),
        ),
        {"embeddings": "e[1].parquet"},
        FOUND,
    ),
    "parquet: a fixed-shape tensor": (
        together(
            IDENTIFIED,
            write_parquet({"item_id": IDS, "v": arrow.FixedShapeTensorArray.from_numpy_ndarray(VECTORS)}, "e.parquet"),
        ),
        {"embeddings": "e.parquet"},
        FOUND,
    ),
    "parquet: lists of integers": (
        together(IDENTIFIED, lists([[1, 0], [2, 0], [3, 0]], arrow.list_(arrow.int64()))),
        {"embeddings": "e.parquet"},
        "0 columns hold lists of float16, float32 or float64; it has item_id (string), embedding (list<element: int64>).",
    ),
    "parquet: text": (
        together(IDENTIFIED, write_parquet({"item_id": IDS, "embedding": ["[1, 0]"] * 3}, "e.parquet")),
        {"embeddings": "e.parquet"},
        "0 columns hold lists of float16, float32 or float64; it has item_id (string), embedding (string).",
    ),
    "parquet: a short first vector": (
        together(IDENTIFIED, lists([[1.0], [2.0, 0.0], [3.0, 0.0]])),
        {"embeddings": "e.parquet"},
        "raw/e.parquet: 1 embeddings are missing or of a dimension other than 2, first ids 'a'.",
    ),
    "parquet: dictionary-encoded ids": (
        together(
            IDENTIFIED,
            write_parquet(
                {
                    "item_id": arrow.array(IDS).dictionary_encode(),
                    "embedding": arrow.array(VECTORS.tolist(), arrow.list_(arrow.float32())),
                },
                "e.parquet",
            ),
        ),
        {"embeddings": "e.parquet"},
        FOUND,
    ),
    "parquet: a part without rows": (
        together(
            IDENTIFIED,
            lists(VECTORS.tolist(), name="e/0.parquet"),
            write_parquet(
                {
                    "item_id": arrow.array([], arrow.string()),
                    "embedding": arrow.array([], arrow.list_(arrow.float32())),
                },
                "e/1.parquet",
            ),
            write_csv("", "e/_SUCCESS"),
        ),
        {"embeddings": "e"},
        FOUND,
    ),
}


@pytest.mark.parametrize("name", EMBEDDING_CASES)
def test_embeddings(raw: Path, name: str) -> None:
    write, changes, expected = EMBEDDING_CASES[name]
    write(raw)
    if isinstance(expected, str):
        assert expected in complain(raw, **changes)
    else:
        run(raw, **changes)
        assert read_vectors(raw) == expected


@pytest.mark.parametrize("pattern", ["items", "items/**/*.parquet", "**/*.parquet"])
@pytest.mark.parametrize("target", ["a folder", "nothing"])
def test_a_link_that_is_not_followed_is_said(raw: Path, pattern: str, target: str) -> None:
    write_parquet({"item_id": IDS[:1]}, "items/0.parquet")(raw)
    write_parquet({"item_id": IDS[1:]}, "more/1.parquet")(raw)
    (raw / "items" / "link").symlink_to(raw / "more" if target == "a folder" else raw / "nowhere")
    assert f"items/link is a link to {target}, which ingest does not follow. Put a copy" in complain(raw, items=pattern)


def test_a_folder_that_cannot_be_read_is_said(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet({"item_id": IDS[:1]}, "items/0.parquet")(raw)
    write_parquet({"item_id": IDS[1:]}, "items/closed/1.parquet")(raw)
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(files.os, "scandir", refuse)  # root, as which tests may run, is permitted everything
    assert "items/closed cannot be read: Permission denied. What it holds would be missing" in complain(
        raw, items="items"
    )


def test_the_types_to_add_are_said_until_params_have_them(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("item_id,zip,n,x,is new,text\na,00501,1,1.5,true,one\nb,10001,2,-2,false,two\nc,K1A,3,,,3\n")(raw)
    run(raw, items="items.csv", types={"x": "number"})
    said = capsys.readouterr().out
    assert "n, is new in raw/items.csv are read as text." in said
    assert (
        "below ingest in params.yaml 'types: {x: number, n: integer, is new: boolean}'; type text ends this remark"
        in said
    )
    types = {"x": "number", "n": "integer", "is new": "text"}
    run(raw, items="items.csv", types=types)
    assert "types" not in capsys.readouterr().out
    assert pl.read_parquet(raw.parent / ITEMS).schema["is new"] == pl.String


def test_leading_zeros_that_a_type_drops_are_said(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("item_id,zip,n,m\na,00501,1,-07.5\nb,10001,0,2\nc,00010,3,\n")(raw)
    run(raw, items="items.csv", types={"zip": "integer", "n": "integer", "m": "number"})
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: 2 values of column 'zip' in raw/items.csv lose leading zeros to type integer, such as '00501'; if they are "
        "codes, write type text (ingest.types in params.yaml).",
        "warning: 1 values of column 'm' in raw/items.csv lose leading zeros to type number, such as '-07.5'; if they are "
        "codes, write type text (ingest.types in params.yaml).",
    ]
    assert pl.read_parquet(raw.parent / ITEMS)["zip"].to_list() == [501, 10001, 10]


def test_types_are_proposed_to_paste(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("item_id,zip,n,is new,x,gold,text\na,00501,1,true,1.5,0,one\nb,10001,2,false,2,1,two\n")(raw)
    params = IngestParams(source="raw", items="items.csv", types={"x": ColumnType.NUMBER})
    text = describe_types(raw, params)
    assert yaml.safe_load(text) == {"ingest": {"types": {"x": "number", "n": "integer", "is new": "boolean"}}}
    found = {name: ColumnType(kind) for name, kind in yaml.safe_load(text)["ingest"]["types"].items()}
    later = params.model_copy(update={"types": found})
    assert describe_types(raw, later).startswith("no column of raw/items.csv needs a type")


def test_empty_files_are_said(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SPARK_PARTS(raw)
    run(raw, items="parts")
    assert "1 files in raw/parts are empty" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ({"gold": "integer"}, "types: 'gold' has a type of its own"),
        ({"split": "text"}, "types: 'split' has a type of its own"),
        ({"item_id": "number"}, "types: 'item_id' is text or integer"),
        ({"zip": "date"}, "Input should be 'text', 'integer', 'number' or 'boolean'"),
    ],
)
def test_types_that_cannot_be(types: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IngestParams.model_validate({"source": "raw", "types": types})


def test_json_may_begin_with_what_its_writer_put_there(raw: Path) -> None:
    lines = "".join(json.dumps({"item_id": name, "meta": {"k": [1, None]}}) + "\n" for name in IDS)
    (raw / "items.jsonl").write_bytes(codecs.BOM_UTF8 + lines.encode())
    run(raw, items="items.jsonl")
    assert read_items(raw) == [(name, TRAIN, {"k": [1, None]}) for name in IDS]


def test_a_panic_past_all_readers_is_an_error_of_data(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def panic(*_: object) -> None:
        pl.from_arrow(arrow.array([Decimal(1)], arrow.decimal256(50, 0)))

    monkeypatch.setattr(command, "run_identified_stage", panic)
    assert command.main(["ingest"]) == DataError.exit_code
    assert "error: ingest: its data cannot be computed with: " in capsys.readouterr().err
