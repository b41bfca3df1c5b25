"""Each form of embeddings with each odd input: the vectors that must come out, or the words of the error."""

from pathlib import Path

import numpy as np
import pyarrow as arrow
import pytest
from raw_data import (
    FOUND,
    IDENTIFIED,
    IDS,
    VECTORS,
    Write,
    complain,
    read_vectors,
    run,
    together,
    write_csv,
    write_npy,
    write_parquet,
)

from tasks import ingest

BIG = [1234567890123456789, 1234567890123456790, 9223372036854775807]


def lists(
    vectors: list[list[float]], kind: arrow.DataType | None = None, name: str = "e.parquet", ids: list[str] = IDS
) -> Write:
    column = arrow.array(vectors, arrow.list_(arrow.float32()) if kind is None else kind)
    return write_parquet({"item_id": ids, "embedding": column}, name)


TWO_YEARS = together(
    IDENTIFIED,
    write_parquet({"item_id": ["a"]}, "ids/2025/1.parquet"),
    write_parquet({"item_id": ["b", "c"]}, "ids/2026/1.parquet"),
    write_npy("e/2025/1.npy", VECTORS[:1]),
    write_npy("e/2026/1.npy", VECTORS[1:]),
)
"""Files of the same name in two folders."""


def write_parts(pattern: str) -> Write:
    """Ids or embeddings of a, b and c in files 1, 2 and 10, an order that their names may not have."""
    if pattern.endswith(".npy"):
        return together(*(write_npy(pattern.format(n), VECTORS[[row]]) for row, n in enumerate((1, 2, 10))))
    parts = zip(IDS, (1, 2, 10), strict=True)
    return together(*(write_parquet({"item_id": [name]}, pattern.format(n)) for name, n in parts))


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
            write_parts("ids/part-{}.parquet"),
            write_parts("e/part-{:02}.npy"),
        ),
        {"embeddings": "e", "embedding_ids": "ids"},
        "3 files of embeddings and 3 of ids cannot be paired by their names, first part-01, part-02, part-1, part-2",
    ),
    "npy: part-1, 2, 10 of both": (
        together(
            IDENTIFIED,
            write_parts("ids/part-{}.parquet"),
            write_parts("e/part-{}.npy"),
        ),
        {"embeddings": "e", "embedding_ids": "ids"},
        FOUND,
    ),
    "npy: the same name in two folders": (
        TWO_YEARS,
        {"embeddings": "e", "embedding_ids": "ids"},
        FOUND,
    ),
    "npy: the same name in two folders, by a glob": (
        TWO_YEARS,
        {"embeddings": "e/*/*.npy", "embedding_ids": "ids/*/*.parquet"},
        "2 files of embeddings and 2 of ids cannot be paired by their names, first 1, 1",
    ),
    "npy: part-1, 2, 10 and the ids in one file": (
        together(IDENTIFIED, write_parts("e/part-{}.npy")),
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


def test_items_that_name_the_rows_are_read_once(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced in between by the same ids in another order, the second reading would give the vectors to other items."""
    IDENTIFIED(raw)
    np.save(raw / "e.npy", VECTORS)
    read = ingest.read_items

    def read_and_replace(*arguments: object) -> object:
        found = read(*arguments)
        write_parquet({"item_id": IDS[::-1]})(raw)
        return found

    monkeypatch.setattr(ingest, "read_items", read_and_replace)
    run(raw, embeddings="e.npy", embedding_ids="items.parquet")
    assert read_vectors(raw) == FOUND
