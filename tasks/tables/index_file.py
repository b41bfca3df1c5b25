"""The index, index.json, which describes it, and how a stale or damaged index is recognized."""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.core.search.faiss_index import FlatIndex, read_index
from tasks.errors import DataError
from tasks.params import Metric
from tasks.tables import schemas
from tasks.tables.centers import Centers, read_centers
from tasks.tables.files import read_json
from tasks.tables.parquet import read_table
from tasks.tables.paths import CELLS, CENTERS, INDEX, INDEX_DESCRIPTION, ITEMS
from tasks.tables.validation import require_same_items


class IndexDescription(BaseModel):
    """index.json: everything a reader of the index must know, and nothing that changes between equal runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["flat", "ivf"]
    """How neighbors are searched; never `auto`, which has been resolved."""
    chosen_because: str
    metric: Metric
    n: int = Field(ge=0)
    d: int = Field(ge=1)
    content: str
    """SHA-256 of item ids and embeddings in their order, see `ContentHash`."""
    sha256: str
    """SHA-256 of the index file."""
    cells: int = Field(ge=1)
    """Of the embedding space; 1 in a flat index."""
    cells_sha256: str
    """SHA-256 of the file that says which item is in which cell."""
    centers_sha256: str
    """SHA-256 of the file of the cells' centers."""
    are_centers_kept: bool
    """Whether the centers are those that `ingest.centers` names."""
    imbalance: float = Field(ge=1)
    """The mean number of items in an item's cell, divided by that in cells of equal size (1): search costs in proportion."""


class ContentHash:
    """A running SHA-256 of item ids and embeddings; it depends on the rows, not on how they were cut into batches.

    >>> ids, vectors = pl.Series("item_id", [1, 2]), np.ones((2, 3), np.float32)
    >>> whole, parts = ContentHash(), ContentHash()
    >>> whole.update(ids, vectors)
    >>> for row in (0, 1):
    ...     parts.update(ids[row : row + 1], vectors[row : row + 1])
    >>> whole.hexdigest() == parts.hexdigest()
    True
    """

    def __init__(self) -> None:
        self._ids, self._vectors = hashlib.sha256(), hashlib.sha256()

    def update(self, ids: pl.Series, vectors: npt.NDArray[np.float32]) -> None:
        """Add rows: `ids` (rows,) and their `vectors` (rows, d)."""
        if ids.dtype == pl.String:
            # NUL ends each id, so that "ab", "c" and "a", "bc" differ.
            self._ids.update("".join(f"{item_id}\0" for item_id in ids).encode())
        else:
            self._ids.update(ids.to_numpy().astype("<i8").tobytes())
        self._vectors.update(np.ascontiguousarray(vectors, dtype="<f4").data)

    def hexdigest(self) -> str:
        """The hash of everything added so far."""
        return hashlib.sha256(self._ids.digest() + self._vectors.digest()).hexdigest()


def read_description(root: Path) -> IndexDescription:
    """The checked contents of index.json.

    Raises
    ------
    DataError
        The file is missing, damaged, or not a description of an index.
    """
    path = root / INDEX_DESCRIPTION
    try:
        return IndexDescription.model_validate(read_json(path))
    except ValidationError as error:
        found = error.errors()[0]
        field = ".".join(map(str, found["loc"])) or "file"
        raise DataError(f"{path}: '{field}': {found['msg']}. Run 'dvc repro index'.") from None


def open_index(root: Path, description: IndexDescription) -> FlatIndex:
    """The index below `root`, mapped, if it is the one that `description` is about.

    Raises
    ------
    DataError
        The file is missing, damaged, or another index.
    """
    path = root / INDEX
    if hash_file(path) != description.sha256:
        raise DataError(
            f"{path} is not the file that {INDEX_DESCRIPTION} describes; it is damaged or from another run. "
            "Run 'dvc repro index'."
        )
    try:
        index = read_index(path)
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}. Run 'dvc repro -f index'.") from None
    found = (index.metric, *index.vectors.shape)
    if found != (description.metric.value, description.n, description.d):
        raise DataError(
            f"{path}: got metric, items, dimensions {found}, expected "
            f"{(description.metric.value, description.n, description.d)} as {INDEX_DESCRIPTION} says. "
            "Run 'dvc repro -f index'."
        )
    return index


def read_cells(root: Path, items: pl.DataFrame, description: IndexDescription) -> pl.Series:
    """The cell (n,) of each of `items`, which are those of the index, in its order.

    Raises
    ------
    DataError
        The table is missing, damaged, that of another index, or about other items.
    """
    path = root / CELLS
    _require_described(root, CELLS, description.cells_sha256)
    table = read_table(path, schemas.CELLS)
    require_same_items(root / ITEMS, items, path, table)
    return table["cell"]


def read_index_centers(root: Path, description: IndexDescription) -> Centers:
    """The centers of the index's cells.

    Raises
    ------
    DataError
        The table is missing, damaged or that of another index.
    """
    _require_described(root, CENTERS, description.centers_sha256)
    return read_centers(root / CENTERS)


def _require_described(root: Path, name: Path, sha256: str) -> None:
    """Refuse a file of the index, `name` below `root`, with another hash than `sha256`."""
    if hash_file(root / name) != sha256:
        raise DataError(
            f"{root / name} is not the file that {INDEX_DESCRIPTION} describes. "
            f"Run 'dvc checkout {name}' or 'dvc repro -f index'."
        )


def hash_file(path: Path) -> str:
    """SHA-256 of the file at `path`, read in pieces.

    Raises
    ------
    DataError
        The file is missing.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise DataError(f"{path} is missing. Run 'dvc repro index'.") from None
