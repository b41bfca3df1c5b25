"""The columns of neighbors.parquet as arrays."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.extension import Neighbors
from tasks.errors import DataError
from tasks.tables.parquet import read_schema


@dataclass(frozen=True, kw_only=True)
class NeighborColumnNames:
    """The column pairs of neighbors.parquet, one for each LF and class in its support."""

    lf: npt.NDArray[np.int64]
    """(p,) position of the LF among the columns of votes, ascending."""
    label: npt.NDArray[np.int8]
    """(p,) the class."""
    similarity: tuple[str, ...]
    neighbor: tuple[str, ...]


def find_neighbor_columns(path: Path, lfs: list[str], left_out: Collection[str]) -> NeighborColumnNames:
    """The column pairs of the neighbors at `path`, in the order of `lfs`, then classes, without those of LFs `left_out`.

    Raises
    ------
    DataError
        A column belongs to no LF of `lfs`, or the file is missing or damaged.
    """
    names = [name.removesuffix("/similarity") for name in read_schema(path) if name.endswith("/similarity")]
    pairs = []
    for name in names:
        lf, _, label = name.rpartition("/")
        if lf not in lfs or not label.isdigit():
            raise DataError(f"{path}: column '{name}/similarity' is of no LF in the votes. Run 'dvc repro search'.")
        if lf not in left_out:
            pairs.append((lfs.index(lf), int(label), name))
    pairs.sort()
    return NeighborColumnNames(
        lf=np.array([lf for lf, _, _ in pairs], np.int64),
        label=np.array([label for _, label, _ in pairs], np.int8),
        similarity=tuple(f"{name}/similarity" for _, _, name in pairs),
        neighbor=tuple(f"{name}/neighbor" for _, _, name in pairs),
    )


def to_neighbors(batch: pl.DataFrame, columns: NeighborColumnNames) -> Neighbors:
    """The similarities of a batch of the neighbors table."""
    similarity = np.empty((len(columns.similarity), batch.height), np.float32)
    for index, name in enumerate(columns.similarity):
        similarity[index] = batch[name].fill_null(float("nan")).to_numpy()
    return Neighbors(lf=columns.lf, label=columns.label, similarity=similarity)
