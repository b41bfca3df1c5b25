"""The centers of an approximate index's cells as a table: what the index stage finds, or a copy that the user keeps."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.types import Float32, Int64
from tasks.errors import DataError
from tasks.tables import schemas
from tasks.tables.parquet import read_schema, read_table, write_table


@dataclass(frozen=True, kw_only=True)
class Centers:
    """The centers of cells; without any, the index is flat."""

    vectors: Float32
    """(cells, d) for cosine of length 1; those with near numbers are near."""
    items: Int64
    """(cells,) how many items were in each cell when the centers were found."""

    @classmethod
    def none(cls) -> "Centers":
        """No centers."""
        return cls(vectors=np.empty((0, 1), np.float32), items=np.empty(0, np.int64))


def write_centers(path: Path, centers: Centers) -> None:
    """Write `centers` to `path`."""
    count, d = centers.vectors.shape
    table = pl.DataFrame(
        {
            "cell": np.arange(count, dtype=np.int32),
            "center": pl.Series(centers.vectors, dtype=pl.Array(pl.Float32, d)),
            "items": centers.items,
        }
    )
    write_table(path, table, schemas.centers(d))


def read_centers(path: Path) -> Centers:
    """The centers at `path`.

    Raises
    ------
    DataError
        The file is missing or damaged, or is no table of centers.
    """
    kind = read_schema(path).get("center")
    if not isinstance(kind, pl.Array) or kind.inner != pl.Float32 or len(kind.shape) != 1 or kind.size < 1:
        raise DataError(
            f"{path}: column 'center' is {kind}, expected arrays of float32. It should be a copy of data/index/centers.parquet."
        )
    table = read_table(path, schemas.centers(kind.size))
    return Centers(vectors=table["center"].to_numpy().reshape(-1, kind.size), items=table["items"].to_numpy())
