"""Writers of raw data in each format, and what ingest makes of it, for tests of readers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from tasks import ingest
from tasks.errors import DataError, EpoxyError, ParamsError
from tasks.params import IngestParams
from tasks.tables.paths import COLUMN_GOLD, EMBEDDINGS, ITEMS

CLASSES = ("ham", "spam")
IDS = ["a", "b", "c"]
VECTORS = np.array([[1, 0], [2, 0], [3, 0]], dtype=np.float32)
"""Of a, b and c."""

FOUND = {"a": [1.0, 0.0], "b": [2.0, 0.0], "c": [3.0, 0.0]}
"""VECTORS as they are read back."""

TRAIN = "train"

Write = Callable[[Path], object]
"""Writes a file or several of them below a folder of raw data."""


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


IDENTIFIED = write_parquet({"item_id": IDS})
"""Items of which embeddings are the matter."""

SPARK_PARTS = together(
    write_csv("item_id,n\na,1\nb,2\n", "parts/part-00000.csv"),
    write_csv("", "parts/part-00001.csv"),
    write_csv("item_id,n\nc,3\n", "parts/part-00002.csv"),
    write_csv("", "parts/_SUCCESS"),
)
"""What Spark writes where a partition has no rows."""
