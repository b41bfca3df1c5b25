"""tasks.ingest: every form of input gives the same artifacts, and every kind of bad data is named."""

import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from shared_datasets import DATASETS, needs_datasets

from tasks import ingest
from tasks.errors import DataError, EpoxyError, ParamsError
from tasks.params import EncoderParams, IngestParams
from tasks.readers import blocks
from tasks.tables import schemas
from tasks.tables.centers import Centers, write_centers
from tasks.tables.parquet import find_shards, read_table
from tasks.tables.paths import BLOCKS, CENTERS, COLUMN_GOLD, EMBEDDINGS, ENCODER, ITEMS, KEPT_CENTERS, QUARANTINE

CLASSES = ("HAM", "SPAM")
OUTPUTS = (ITEMS, COLUMN_GOLD, EMBEDDINGS, ENCODER, QUARANTINE, KEPT_CENTERS)

RAW_ITEMS = pl.DataFrame(
    {
        "item_id": ["b", "a", "d", "c"],
        "split": ["valid", "train", "test", "train"],
        "text": ["two", "one", "four", "three"],
        "gold": pl.Series([1, 0, 1, None], dtype=pl.Int8),
    }
)
VECTORS = np.array([[2, 0, 0.5], [1, 1, 0], [4, 0, 1], [3, -3, 0]], dtype=np.float32)
"""Of b, a, d, c; all exact in float16."""


def write(root: Path, items: pl.DataFrame = RAW_ITEMS, vectors: npt.NDArray[np.floating] = VECTORS) -> Path:
    """Raw items and embeddings in root/raw."""
    (root / "raw").mkdir(parents=True, exist_ok=True)
    items.write_parquet(root / "raw" / "items.parquet")
    np.save(root / "raw" / "embeddings.npy", vectors)
    return root


def run(root: Path, classes: tuple[str, ...] = CLASSES, **changes: object) -> None:
    given = {"source": "raw", "embedding_ids": "items.parquet", **changes}
    ingest.run(root, classes, IngestParams.model_validate(given))


def read_outputs(root: Path) -> list[bytes]:
    return [file.read_bytes() for path in OUTPUTS for file in find_shards(root / path)]


@pytest.fixture
def expected(tmp_path: Path) -> list[bytes]:
    run(write(tmp_path / "expected"))
    return read_outputs(tmp_path / "expected")


def complaint(root: Path, **changes: object) -> str:
    with pytest.raises(EpoxyError) as error:
        run(root, **changes)
    assert not any((root / path).exists() for path in OUTPUTS)
    return str(error.value)


def test_tables_are_sorted_by_id_and_gold_is_kept_apart(tmp_path: Path) -> None:
    run(write(tmp_path))
    items, gold, embeddings, encoder, _, centers = (pl.read_parquet(tmp_path / path) for path in OUTPUTS)
    assert encoder.is_empty() and centers.is_empty()
    assert items.rows() == [
        ("a", "train", "one"),
        ("b", "valid", "two"),
        ("c", "train", "three"),
        ("d", "test", "four"),
    ]
    assert items.columns == ["item_id", "split", "text"]
    assert gold.rows() == [("a", 0), ("b", 1), ("d", 1)]
    assert embeddings["item_id"].to_list() == ["a", "b", "c", "d"]
    assert embeddings["embedding"].to_numpy().tolist() == VECTORS[[1, 0, 3, 2]].tolist()
    assert embeddings["embedding"].dtype == pl.Array(pl.Float32, 3)


def test_kept_centers_are_taken_over(tmp_path: Path) -> None:
    write_centers(
        write(tmp_path) / "raw/kept.parquet", Centers(vectors=np.eye(3, dtype=np.float32), items=np.arange(3))
    )
    run(tmp_path, centers="kept.parquet")
    assert (tmp_path / KEPT_CENTERS).read_bytes() == (tmp_path / "raw/kept.parquet").read_bytes()


def test_centers_that_cannot_be_those_of_the_index_are_refused(tmp_path: Path) -> None:
    kept = write(tmp_path) / "raw/kept.parquet"
    assert "no file is called 'kept.parquet' (ingest.centers" in complaint(tmp_path, centers="kept.parquet")
    write_centers(kept, Centers.none())
    assert "got 0 centers of dimension 1, expected some of dimension 3" in complaint(tmp_path, centers="kept.parquet")
    write_centers(kept, Centers(vectors=np.eye(4, dtype=np.float32), items=np.arange(4)))
    assert "got 4 centers of dimension 4, expected some of dimension 3" in complaint(tmp_path, centers="kept.parquet")
    assert "'ingest.centers': '../kept.parquet' leads out" in complaint(tmp_path, centers="../kept.parquet")
    assert f"copy of {CENTERS}" in complaint(tmp_path, centers="items.parquet")
    for column, value in (("center", [[0.0, 1, float("nan")]]), ("cell", [1]), ("items", [-1])):
        good = {"cell": [0], "center": [[0.0, 1, 0]], "items": [1]}
        table = pl.DataFrame(
            good | {column: value}, schema_overrides={"cell": pl.Int32, "center": pl.Array(pl.Float32, 3)}
        )
        table.write_parquet(kept)
        assert "kept.parquet" in (said := complaint(tmp_path, centers="kept.parquet")) and f"'{column}'" in said
    kept.write_bytes(kept.read_bytes()[:-20])
    assert "kept.parquet" in complaint(tmp_path, centers="kept.parquet")


def test_the_order_of_raw_rows_does_not_matter(tmp_path: Path, expected: list[bytes]) -> None:
    order = [3, 1, 0, 2]
    run(write(tmp_path, RAW_ITEMS[order], VECTORS[order]))
    assert read_outputs(tmp_path) == expected


def test_row_groups_do_not_matter(tmp_path: Path, expected: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ROW_GROUP", 3)
    run(write(tmp_path))
    assert read_outputs(tmp_path) == expected


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize(
    "form", ["npy", "npy in two files", "npz", "list", "large list", "fixed list", "two fixed lists"]
)
def test_every_form_of_embeddings_gives_the_same_artifacts(
    tmp_path: Path, expected: list[bytes], kind: npt.DTypeLike, form: str
) -> None:
    vectors = VECTORS.astype(kind)
    raw = write(tmp_path) / "raw"
    (raw / "embeddings.npy").unlink()
    ids = RAW_ITEMS["item_id"]
    native = vectors.astype(vectors.dtype.newbyteorder("="))
    value = arrow.from_numpy_dtype(native.dtype)
    match form:
        case "npy":
            np.save(raw / "embeddings.npy", np.asfortranarray(vectors))
            run(tmp_path)
        case "npy in two files":
            np.save(raw / "part-0.npy", vectors[:3])
            np.save(raw / "part-1.npy", vectors[3:])
            run(tmp_path, embeddings="part-*.npy")
        case "npz":
            np.savez(raw / "embeddings.npz", ids=ids.to_numpy().astype("U"), embeddings=vectors)
            run(tmp_path, embeddings="embeddings.npz", embedding_ids=None)
        case _:
            list_type = {
                "list": arrow.list_(value),
                "large list": arrow.large_list(value),
                "fixed list": arrow.list_(value, 3),
                "two fixed lists": arrow.list_(value, 3),
            }[form]
            column = arrow.array(list(native), type=list_type)
            table = arrow.table({"item_id": ids.to_list(), "vector": column})
            if form == "two fixed lists":
                table = table.append_column("embedding", column).drop_columns("vector").append_column("vector", column)
            (raw / "parts").mkdir()
            parquet.write_table(table[:1], raw / "parts" / "x-0.parquet")
            parquet.write_table(table[1:], raw / "parts" / "x-1.parquet")
            run(tmp_path, embeddings="parts/*.parquet", embedding_ids=None)
    assert read_outputs(tmp_path) == expected
    assert sorted(path.name for path in (tmp_path / "data" / "ingest").iterdir()) == sorted(
        path.name for path in (*OUTPUTS, BLOCKS)
    )


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet in two files"])
def test_every_form_of_items_gives_the_same_artifacts(tmp_path: Path, expected: list[bytes], form: str) -> None:
    raw = write(tmp_path) / "raw"
    (raw / "items.parquet").unlink()
    match form:
        case "csv":
            RAW_ITEMS.write_csv(raw / "items.csv")
            run(tmp_path, items="items.csv", embedding_ids="items.csv")
        case "jsonl":
            RAW_ITEMS.write_ndjson(raw / "items.jsonl")
            run(tmp_path, items="items.jsonl", embedding_ids="items.jsonl")
        case _:
            RAW_ITEMS[:3].write_parquet(raw / "items-0.parquet")
            RAW_ITEMS[3:].select(reversed(RAW_ITEMS.columns)).write_parquet(raw / "items-1.parquet")
            run(tmp_path, items="items-*.parquet", embedding_ids="items-*.parquet")
    assert read_outputs(tmp_path) == expected


def write_days(root: Path, days: Sequence[Sequence[int]]) -> Path:
    """Items and embeddings at these places of RAW_ITEMS, in a file of each for every day."""
    for folder in ("items", "embeddings"):
        (root / "raw" / folder).mkdir(parents=True)
        (root / "raw" / folder / ".gitignore").write_text("")
    for day, places in enumerate(days, start=21):
        RAW_ITEMS[list(places)].write_parquet(root / "raw" / "items" / f"2026-11-{day}.parquet")
        np.save(root / "raw" / "embeddings" / f"2026-11-{day}.npy", VECTORS[list(places)])
    return root


FOLDERS = {"items": "items", "embeddings": "embeddings", "embedding_ids": "items"}


def test_folders_of_files_give_the_same_artifacts_and_deleted_rows_are_gone(
    tmp_path: Path, expected: list[bytes]
) -> None:
    write_days(tmp_path, [[0, 3], [1], [2]])
    run(tmp_path, **FOLDERS)
    assert read_outputs(tmp_path) == expected
    for folder in ("items", "embeddings"):
        next((tmp_path / "raw" / folder).glob("2026-11-22.*")).unlink()
    run(tmp_path, **FOLDERS)
    assert pl.read_parquet(tmp_path / ITEMS)["item_id"].to_list() == ["b", "c", "d"]


def test_a_later_row_replaces_an_earlier_one_only_where_params_say_so(
    tmp_path: Path, expected: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    write_days(tmp_path, [[0, 1, 2], [3, 2, 0]])
    first = RAW_ITEMS[[0, 1, 2]].with_columns(text=pl.lit("as it was"))
    first.write_parquet(tmp_path / "raw" / "items" / "2026-11-21.parquet")
    RAW_ITEMS[[1]].write_parquet(tmp_path / "raw" / "items" / "2026-11-23.parquet")
    np.save(tmp_path / "raw" / "embeddings" / "2026-11-23.npy", VECTORS[[1]])
    np.save(tmp_path / "raw" / "embeddings" / "2026-11-21.npy", VECTORS[[0, 1, 2]] + 1)
    said = complaint(tmp_path, **FOLDERS)
    assert "raw/items: 3 ids occur more than once, first 'a', 'b', 'd'" in said and "ingest.duplicates to last" in said
    run(tmp_path, **FOLDERS, duplicates="last")
    assert read_outputs(tmp_path) == expected
    assert "3 rows in raw/items are replaced by later ones of the same id" in capsys.readouterr().out


def test_ids_and_rows_are_counted_file_by_file(tmp_path: Path) -> None:
    write_days(tmp_path, [[0, 3], [1, 2]])
    np.save(tmp_path / "raw" / "embeddings" / "2026-11-21.npy", VECTORS[[0]])
    np.save(tmp_path / "raw" / "embeddings" / "2026-11-22.npy", VECTORS[[3, 1, 2]])
    assert "2026-11-21.npy: 1 rows, but 2 ids in" in complaint(tmp_path, **FOLDERS)


@pytest.mark.parametrize("file", ["ids.npy", "ids.txt", "ids.csv"])
@pytest.mark.parametrize("ids", [["b", "a", "d", "c"], [20, 3, -1, 100], ["007", "7", "x", "-"]])
def test_ids_of_rows_beside_the_matrix(tmp_path: Path, file: str, ids: list[str | int]) -> None:
    items = RAW_ITEMS.with_columns(pl.Series("item_id", ids))
    raw = write(tmp_path, items) / "raw"
    np.save(raw / "ids.npy", np.array(ids))
    (raw / "ids.txt").write_text("".join(f"{one}\n" for one in ids))
    items.select("item_id").write_csv(raw / "ids.csv")
    run(tmp_path, embedding_ids=file)
    table = pl.read_parquet(tmp_path / EMBEDDINGS)
    assert table["item_id"].to_list() == sorted(ids)
    assert table["embedding"].to_numpy().tolist() == VECTORS[np.argsort(ids)].tolist()


def test_integers_become_int64_and_sort_as_numbers(tmp_path: Path) -> None:
    run(write(tmp_path, RAW_ITEMS.with_columns(item_id=pl.Series([10, 9, 2, 1], dtype=pl.UInt16))))
    table = pl.read_parquet(tmp_path / ITEMS)
    assert table["item_id"].dtype == pl.Int64 and table["item_id"].to_list() == [1, 2, 9, 10]


def test_leading_zeros_of_csv_ids_are_kept(tmp_path: Path) -> None:
    items = RAW_ITEMS.with_columns(pl.Series("item_id", ["01", "1", "02", "2"]))
    items.write_csv(write(tmp_path, items) / "raw" / "items.csv")
    run(tmp_path, items="items.csv", embedding_ids="items.csv")
    assert pl.read_parquet(tmp_path / ITEMS)["item_id"].to_list() == ["01", "02", "1", "2"]


def test_columns_may_be_called_otherwise(tmp_path: Path, expected: list[bytes]) -> None:
    renamed = RAW_ITEMS.rename({"item_id": "key", "split": "part", "gold": "label"})
    run(write(tmp_path, renamed), item_id="key", split="part", gold="label")
    assert read_outputs(tmp_path) == expected


@pytest.mark.parametrize(
    "gold",
    [
        pl.Series(["SPAM", "HAM", "SPAM", None]),
        pl.Series(["SPAM", "HAM", "SPAM", None], dtype=pl.Categorical),
        pl.Series([1.0, 0.0, 1.0, float("nan")]),
        pl.Series([1, 0, 1, None], dtype=pl.UInt64),
    ],
)
def test_gold_as_names_or_positions(tmp_path: Path, expected: list[bytes], gold: pl.Series) -> None:
    run(write(tmp_path, RAW_ITEMS.with_columns(gold.alias("gold"))))
    assert read_outputs(tmp_path) == expected


def test_the_codes_of_a_categorical_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    items = RAW_ITEMS.with_columns(pl.col("text").cast(pl.Categorical))
    run(write(tmp_path / "one", items))
    run(write(tmp_path / "two", RAW_ITEMS[::-1].with_columns(pl.col("text").cast(pl.Categorical)), VECTORS[::-1]))
    assert read_outputs(tmp_path / "one") == read_outputs(tmp_path / "two")


def test_no_split_and_no_gold_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(write(tmp_path, RAW_ITEMS.drop("split", "gold")))
    said = capsys.readouterr().out
    assert "train 4 (0 with gold), valid 0" in said
    assert "no column 'split' in raw/items.parquet: every item is in train" in said
    assert "no column 'gold' in raw/items.parquet: no item has gold" in said
    assert set(pl.read_parquet(tmp_path / ITEMS)["split"]) == {"train"}
    assert read_table(tmp_path / COLUMN_GOLD, schemas.gold(2)).is_empty()


def with_column(name: str, values: Sequence[object]) -> pl.DataFrame:
    return RAW_ITEMS.with_columns(pl.Series(name, values))


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (with_column("item_id", ["b", "a", "b", "a"]), "2 ids occur more than once, first 'a', 'b'"),
        (with_column("item_id", ["b", None, "", "a"]), "2 rows have no id in column 'item_id', first row 1, 2"),
        (
            with_column("item_id", [1.0, 2.0, 3.0, 4.0]),
            "column 'item_id' is Float64; expected ids that are text or int",
        ),
        (with_column("split", ["dev", "train", "test", None]), "2 items are in an unknown split: missing, 'dev'"),
        (with_column("gold", ["EGGS", "HAM", None, "ham"]), "2 items are of an unknown class: 'EGGS', 'ham'"),
        (with_column("gold", [-1, 0, 2, 1]), "2 items are of an unknown class: -1, 2; expected one of HAM, SPAM"),
        (with_column("gold", [0.5, 0, 1, 1]), "column 'gold' is Float64"),
        (with_column("gold", [True, False, True, True]), "column 'gold' is Boolean"),
        (RAW_ITEMS.drop("item_id"), "no column 'item_id' (ingest.item_id in params.yaml); it has split, text, gold"),
        (RAW_ITEMS[:0], "no items"),
    ],
)
def test_bad_items_are_named(tmp_path: Path, items: pl.DataFrame, said: str) -> None:
    assert said in complaint(write(tmp_path, items))


def test_integer_gold_for_classes_that_are_other_integers_is_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"class '1' is at position 0: which is meant\?"):
        run(write(tmp_path), classes=("1", "2"))
    run(write(tmp_path, with_column("gold", ["1", "2", "2", None])), classes=("1", "2"))
    assert pl.read_parquet(tmp_path / COLUMN_GOLD)["gold"].to_list() == [1, 0, 1]


def test_a_second_gold_cannot_slip_into_the_items(tmp_path: Path) -> None:
    items = RAW_ITEMS.with_columns(label=pl.col("gold"))
    assert "has a column 'gold', but ingest.gold in params.yaml names 'label'" in complaint(
        write(tmp_path, items), gold="label"
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.nan, "2 embeddings have NaN or infinity (in float32), first ids 'b', 'd'"),
        (-np.inf, "2 embeddings have NaN or infinity (in float32), first ids 'b', 'd'"),
        (1e300, "2 embeddings have NaN or infinity (in float32), first ids 'b', 'd'"),
        (0, "2 embeddings are zero vectors, first ids 'b', 'd'"),
        (1e-60, "2 embeddings are zero vectors, first ids 'b', 'd'"),
    ],
)
def test_bad_embeddings_are_all_counted(
    tmp_path: Path, value: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "ROW_GROUP", 2)  # b and d are in different blocks
    vectors = VECTORS.astype(np.float64)
    vectors[[0, 2]] = value
    assert said in complaint(write(tmp_path, vectors=vectors))


def test_items_without_embeddings_and_the_reverse(tmp_path: Path) -> None:
    raw = write(tmp_path) / "raw"
    (raw / "ids.txt").write_text("b\nx\ny\nc\n")
    said = complaint(tmp_path, embedding_ids="ids.txt")
    assert "2 items of items.parquet have no embedding, first ids 'a', 'd'" in said
    assert "2 embeddings are of no item of items.parquet, first ids 'x', 'y'" in said
    (raw / "ids.txt").write_text("b\nb\na\nc\n")
    assert "1 ids occur more than once, first 'b'" in complaint(tmp_path, embedding_ids="ids.txt")
    (raw / "ids.txt").write_text("b\na\n")
    assert "4 rows, but 2 ids in ids.txt" in complaint(tmp_path, embedding_ids="ids.txt")
    np.save(raw / "ids.npy", np.arange(4))
    assert "ids are Int64, but String in items.parquet" in complaint(tmp_path, embedding_ids="ids.npy")


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones((4,)), "float64 of shape (4,); expected float16, float32 or float64"),
        (np.ones((4, 0)), "shape (4, 0)"),
        (np.ones((4, 2), dtype=np.int64), "int64 of shape (4, 2)"),
        (np.ones((4, 2), dtype=complex), "complex128"),
        (np.array([[object()] * 2] * 4), "cannot be read"),
    ],
)
def test_arrays_that_are_no_embeddings(tmp_path: Path, array: npt.NDArray[np.generic], said: str) -> None:
    raw = write(tmp_path) / "raw"
    np.save(raw / "embeddings.npy", array)
    assert said in complaint(tmp_path)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, ("exploded",)


def test_no_pickle_is_ever_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raw = write(tmp_path) / "raw"
    bomb = np.array([_Bomb()] * 4)
    (raw / "embeddings.npy").write_bytes(pickle.dumps(_Bomb()))
    assert "cannot be read" in complaint(tmp_path)
    np.save(raw / "embeddings.npy", bomb)
    assert "cannot be read" in complaint(tmp_path)
    np.savez(raw / "embeddings.npz", ids=bomb, embeddings=VECTORS)
    assert "cannot be read" in complaint(tmp_path, embeddings="embeddings.npz", embedding_ids=None)
    np.save(raw / "embeddings.npy", VECTORS)
    np.save(raw / "ids.npy", bomb)
    assert "cannot be read" in complaint(tmp_path, embedding_ids="ids.npy")
    assert not (tmp_path / "exploded").exists()


def test_parquet_embeddings_of_wrong_dimension_are_named(tmp_path: Path) -> None:
    raw = write(tmp_path) / "raw"
    vectors = pl.Series([[1.0, 2.0], [1.0], None, [3.0, 4.0]], dtype=pl.List(pl.Float32))
    pl.DataFrame({"item_id": RAW_ITEMS["item_id"], "v": vectors}).write_parquet(raw / "e.parquet")
    said = complaint(tmp_path, embeddings="e.parquet", embedding_ids=None)
    assert "2 embeddings are missing or of a dimension other than 2, first ids 'a', 'd'" in said
    vectors = pl.Series([[1.0, 2.0], [1.0, None], [1.0, 1.0], [3.0, 4.0]], dtype=pl.List(pl.Float32))
    pl.DataFrame({"item_id": RAW_ITEMS["item_id"], "v": vectors}).write_parquet(raw / "e.parquet")
    assert "1 embeddings have NaN or infinity (in float32), first ids 'a'" in complaint(
        tmp_path, embeddings="e.parquet", embedding_ids=None
    )
    pl.DataFrame({"item_id": RAW_ITEMS["item_id"], "v": [1.0] * 4}).write_parquet(raw / "e.parquet")
    assert "0 columns hold lists" in complaint(tmp_path, embeddings="e.parquet", embedding_ids=None)
    vectors = pl.Series([[1.0, 2.0], None, [1.0, 1.0], [3.0, 4.0]], dtype=pl.Array(pl.Float32, 2))
    pl.DataFrame({"item_id": RAW_ITEMS["item_id"], "v": vectors}).write_parquet(raw / "e.parquet")
    assert "1 embeddings are missing or of a dimension other than 2, first ids 'a'" in complaint(
        tmp_path, embeddings="e.parquet", embedding_ids=None
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"items": "../items.parquet"}, "'ingest.items': '../items.parquet' leads out of ingest.source"),
        ({"items": "/etc/passwd"}, "leads out of ingest.source"),
        ({"embeddings": "sub/../../x.npy"}, "'ingest.embeddings'"),
        ({"embedding_ids": "../*.txt"}, "'ingest.embedding_ids'"),
        ({"embedding_ids": None}, "has no ids of its own"),
        ({"embeddings": "e.npz"}, "no file is called 'e.npz' (ingest.embeddings in params.yaml); the folder holds emb"),
        ({"embeddings": "*"}, "files of several kinds are named at once: .npy, .parquet"),
        ({"embeddings": "items.parquet"}, "'ingest.embedding_ids' is only for .npy"),
        ({"items": "embeddings.npy"}, "expected a table in .parquet, .csv or .jsonl"),
        ({"source": "nowhere"}, "is not a folder"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_meant(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    assert said in complaint(write(tmp_path), **changes)


def test_damaged_files_and_files_that_differ(tmp_path: Path) -> None:
    raw = write(tmp_path) / "raw"
    RAW_ITEMS[:2].drop("text").write_parquet(raw / "items2.parquet")
    assert "not every file has the column text" in complaint(tmp_path, items="items*.parquet")
    RAW_ITEMS[:2].with_columns(item_id=pl.Series([1, 2])).write_parquet(raw / "items2.parquet")
    assert "text in one file and integers in another" in complaint(tmp_path, items="items*.parquet")
    (raw / "items.parquet").write_bytes(b"PAR1 no more")
    assert "items.parquet cannot be read" in complaint(tmp_path)
    (raw / "items.jsonl").write_text(json.dumps({"item_id": 1}) + "\n{")
    assert "items.jsonl cannot be read" in complaint(tmp_path, items="items.jsonl")
    (raw / "items.csv").write_text("")
    assert "items.csv cannot be read" in complaint(tmp_path, items="items.csv")


def test_texts_are_encoded_where_there_is_no_file(tmp_path: Path) -> None:
    def load(root: Path, params: EncoderParams) -> object:
        return lambda texts: np.array([[len(text), ord(text[0])] for text in texts], dtype=np.float64)

    write(tmp_path)
    params = IngestParams(source="raw", embeddings=None, encoder=EncoderParams(model="fake"))
    ingest.run(tmp_path, CLASSES, params, load)
    table = pl.read_parquet(tmp_path / EMBEDDINGS)
    expected = [[len(text), ord(text[0])] for text in ("one", "two", "three", "four")]
    assert table["embedding"].to_numpy().tolist() == expected


def test_texts_that_are_not_there_are_named(tmp_path: Path) -> None:
    params = IngestParams(source="raw", embeddings=None, encoder=EncoderParams(model="fake"))
    with pytest.raises(DataError, match="2 items have no 'text', first ids 'a', 'd'"):
        ingest.run(write(tmp_path, with_column("text", ["x", None, None, "y"])), CLASSES, params)
    with pytest.raises(DataError, match="'text' is no text column of the items; text columns are none"):
        ingest.run(write(tmp_path, RAW_ITEMS.drop("text")), CLASSES, params)


@needs_datasets
@pytest.mark.parametrize(("name", "n", "known"), [("spam", 1936, 350), ("agnews", 13000, 5000)])
def test_real_tasks_as_a_user_brings_them(tmp_path: Path, name: str, n: int, known: int) -> None:
    classes = tuple(json.loads((DATASETS / name / "dataset.json").read_text())["classes"])
    (tmp_path / "raw").symlink_to(DATASETS / name)
    run(tmp_path, classes=classes)
    raw = pl.read_parquet(DATASETS / name / "items.parquet")
    vectors = np.load(DATASETS / name / "embeddings.npy")[raw["item_id"].arg_sort().to_numpy()]
    table = read_table(tmp_path / EMBEDDINGS, schemas.embeddings(384))
    assert table.height == n and np.array_equal(table["embedding"].to_numpy(), vectors)
    gold = read_table(tmp_path / COLUMN_GOLD, schemas.gold(len(classes)))
    assert gold.height == known
    assert gold.join(raw, on="item_id").select((pl.col("gold") == pl.col("gold_right")).all()).item()


@needs_datasets
def test_a_task_without_embeddings_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "raw").symlink_to(DATASETS / "tennis")
    with pytest.raises(DataError, match=r"no file is called 'embeddings.npy' .* ingest.encoder"):
        run(tmp_path)


def test_parameters_errors_have_their_own_exit_code(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as error:
        run(write(tmp_path), items="../x.parquet")
    assert error.value.exit_code == 2
