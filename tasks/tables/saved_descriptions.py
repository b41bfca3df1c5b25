"""What classes mean, as `apply` leaves it: the table that votes, and what there is to say of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.core.description_scores import DescriptionScores
from tasks.core.descriptions import DescribedLF, Voter
from tasks.errors import DataError
from tasks.tables import schemas
from tasks.tables.files import write_json
from tasks.tables.parquet import read_schema, read_table, write_table
from tasks.tables.paths import DESCRIPTIONS, DESCRIPTIONS_SUMMARY


def write_descriptions(root: Path, table: pl.DataFrame, summary: Mapping[str, Any]) -> None:
    """Write the `table` (`schemas.descriptions`) and its `summary`."""
    kind = table.schema["vector"]
    assert isinstance(kind, pl.Array), "vectors are arrays"
    write_table(root / DESCRIPTIONS, table, schemas.descriptions(kind.size))
    write_json(root / DESCRIPTIONS_SUMMARY, summary)


def write_no_descriptions(root: Path) -> None:
    """Write that no class is described."""
    schema: dict[str, Any] = {"lf": pl.String, "class": pl.String, "text": pl.String, "vector": pl.Array(pl.Float32, 1)}
    schema |= {"offset": pl.Float64, "cut": pl.Float64, "fills": pl.Boolean}
    write_descriptions(root, pl.DataFrame(schema=schema), {"lf": None})


def read_descriptions(root: Path, classes: Sequence[str], lfs: Sequence[str]) -> DescribedLF | None:
    """Return the LF that votes by descriptions, and its place among `lfs`; None where no class is described.

    Raises
    ------
    DataError
        The table is missing or damaged, or of other classes or LFs.
    """
    path = root / DESCRIPTIONS
    kind = read_schema(path).get("vector")
    table = read_table(path, schemas.descriptions(kind.size if isinstance(kind, pl.Array) else 1))
    if table.is_empty():
        return None
    name = table["lf"][0]
    if name not in lfs or (unknown := sorted({*table["class"]} - {*classes})):
        what = f"class {unknown[0]!r}" if name in lfs else f"labeling function '{name}'"
        raise DataError(f"{path}: {what} is not of this run. Run 'dvc repro apply'.")
    labels = np.array([classes.index(label) for label in table["class"]], np.int64)
    cuts = np.full(len(classes), np.inf)
    cuts[labels] = table["cut"].fill_null(np.inf).to_numpy()
    vectors = np.ascontiguousarray(table["vector"].to_numpy()).reshape(table.height, -1)
    scores = DescriptionScores(vectors=vectors, offsets=table["offset"].to_numpy(), classes=labels)
    voter = Voter(scores=scores, cuts=cuts, is_filling=bool(table["fills"][0]))
    return DescribedLF(lf=list(lfs).index(name), voter=voter)
