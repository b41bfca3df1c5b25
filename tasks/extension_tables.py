"""What tune and extend share: neighbors.parquet as arrays, and thresholds.json."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.artifacts import read_json, read_schema
from tasks.core.extension import Neighbors
from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.params import Metric, Threshold


@dataclass(frozen=True, kw_only=True)
class PairColumns:
    """The column pairs of neighbors.parquet, one for each LF and class in its support."""

    lf: npt.NDArray[np.int64]
    """(p,) position of the LF among the columns of votes, ascending."""
    label: npt.NDArray[np.int8]
    """(p,) the class."""
    similarity: tuple[str, ...]
    neighbor: tuple[str, ...]


class Thresholds(BaseModel):
    """thresholds.json: what extension needs, and how it came about."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: Metric
    """What the thresholds are in: a cosine, or a plain distance."""
    method: str
    objective: str | None
    """What was maximized; null where nothing was."""
    chosen_on: str
    curve_metric: str
    """What the metric in threshold_curves.csv is, and on what."""
    thresholds: dict[str, Threshold | None]
    """By LF, in the order of votes; null: do not extend."""


def find_pair_columns(path: Path, lfs: list[str]) -> PairColumns:
    """The column pairs of the neighbors at `path`, in the order of `lfs`, then classes.

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
        pairs.append((lfs.index(lf), int(label), name))
    pairs.sort()
    return PairColumns(
        lf=np.array([lf for lf, _, _ in pairs], np.int64),
        label=np.array([label for _, label, _ in pairs], np.int8),
        similarity=tuple(f"{name}/similarity" for _, _, name in pairs),
        neighbor=tuple(f"{name}/neighbor" for _, _, name in pairs),
    )


def to_neighbors(batch: pl.DataFrame, columns: PairColumns) -> Neighbors:
    """The similarities of a batch of the neighbors table."""
    similarity = np.empty((len(columns.similarity), batch.height), np.float32)
    for place, name in enumerate(columns.similarity):
        similarity[place] = batch[name].fill_null(float("nan")).to_numpy()
    return Neighbors(lf=columns.lf, label=columns.label, similarity=similarity)


def to_matrix(votes: pl.DataFrame) -> npt.NDArray[np.int8]:
    """The label matrix (n, m) of a table of votes."""
    lfs = [name for name in votes.columns if name != ITEM_ID]
    L = np.empty((votes.height, len(lfs)), np.int8, order="F")
    for place, lf in enumerate(lfs):
        L[:, place] = votes[lf].to_numpy()
    return L


def read_thresholds(path: Path, lfs: list[str]) -> Thresholds:
    """The checked contents of thresholds.json, for exactly these LFs.

    Raises
    ------
    DataError
        The file is missing or damaged, or is about other LFs.
    """
    try:
        found = Thresholds.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise DataError(f"{path}: '{place}': {first['msg']}. Run 'dvc repro tune'.") from None
    if list(found.thresholds) != lfs:
        other = sorted(set(found.thresholds) ^ set(lfs)) or lfs
        raise DataError(
            f"{path}: its LFs are not those of the votes; they differ in {other[:5]}. Run 'dvc repro tune'."
        )
    return found
