"""index: build a FAISS index of the embeddings, and its description. It reads no votes, so an LF edit never reruns it.

Embeddings are copied to the index file one row group at a time; the file is memory-mapped to find cells.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.search.faiss_index import (
    is_approximate_worth_it,
    predict_approximate_year,
    predict_exact_year,
    read_index,
    write_index,
)
from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.params import IndexKind, IndexParams
from tasks.progress import WARNING, Progress
from tasks.tables import schemas
from tasks.tables.centers import Centers, read_centers, write_centers
from tasks.tables.embeddings_file import read_width
from tasks.tables.files import open_atomic, write_json
from tasks.tables.index_file import ContentHash, IndexDescription, hash_file
from tasks.tables.parquet import count_rows, read_batches, write_table
from tasks.tables.paths import CELLS, CENTERS, EMBEDDINGS, INDEX, INDEX_DESCRIPTION, KEPT_CENTERS


def run(root: Path, classes: tuple[str, ...], params: IndexParams) -> None:
    """Index the embeddings below `root` and describe the index.

    Raises
    ------
    DataError
        The embeddings are missing, damaged or (for cosine) have a zero vector.
    """
    path = root / EMBEDDINGS
    d = read_width(root)
    n = count_rows(path)
    content = ContentHash()
    ids: list[pl.Series] = []

    def vectors() -> Iterator[npt.NDArray[np.float32]]:
        with Progress("indexing", total=n) as progress:
            for batch in read_batches(path, schemas.embeddings(d)):
                embeddings = batch["embedding"].to_numpy().reshape(batch.height, d)
                content.update(batch[ITEM_ID], embeddings)
                ids.append(batch[ITEM_ID])
                yield embeddings
                progress.advance(batch.height)

    kind = _choose(params.kind, n)
    kept = read_centers(root / KEPT_CENTERS)
    with open_atomic(root / INDEX) as part:
        try:
            write_index(vectors(), part, d=d, metric=params.metric.value)
        except ValueError as error:
            raise DataError(f"{path}: {error}. Remove such items, then run 'dvc repro ingest'.") from None
        centers, of_item, imbalance, misfit = Centers.none(), np.zeros(n, np.int32), 1.0, None
        index = read_index(part)
        if kind == "ivf" and n:
            from tasks.neighbors.cells import group_by_cell  # Numba, which a flat index need not wait for

            found = group_by_cell(index, kept, part.parent)
            centers, of_item, imbalance, misfit = found.centers, found.of_item, found.imbalance, found.misfit
        checksum = hash_file(part)
    write_centers(root / CENTERS, centers)
    write_table(root / CELLS, pl.DataFrame([pl.concat(ids), pl.Series("cell", of_item)]), schemas.CELLS)
    description = IndexDescription(
        kind=kind,
        chosen_because=_explain(params.kind, n),
        metric=params.metric,
        n=n,
        d=d,
        content=content.hexdigest(),
        sha256=checksum,
        cells=max(len(centers.vectors), 1),
        cells_sha256=hash_file(root / CELLS),
        centers_sha256=hash_file(root / CENTERS),
        are_centers_kept=kind == "ivf" and bool(len(kept.vectors)),
        imbalance=imbalance,
    )
    write_json(root / INDEX_DESCRIPTION, description.model_dump(mode="json"))
    origin = "kept " if description.are_centers_kept else ""
    shape = f", {description.cells:,} {origin}cells, imbalance {description.imbalance:.2f}" if kind == "ivf" else ""
    print(f"index: {kind} ({description.chosen_because}){shape}", file=sys.stderr)
    if kind == "flat" and len(kept.vectors):
        misfit = "ingest.centers names centers, which a flat index does without. Say index.kind: ivf, or remove ingest.centers."
    if misfit:
        print(f"{WARNING}{misfit}", file=sys.stderr)


def _choose(kind: IndexKind, n: int) -> Literal["flat", "ivf"]:
    """`kind`, or for `auto` the kind chosen by n alone, so that every machine chooses the same."""
    is_approximate = kind is IndexKind.IVF or (kind is IndexKind.AUTO and is_approximate_worth_it(n))
    return "ivf" if is_approximate else "flat"


def _explain(kind: IndexKind, n: int) -> str:
    """Why the index is of this kind, as text."""
    if kind is not IndexKind.AUTO:
        return "as params.yaml asks"
    return (
        f"auto: predicted comparisons per item in a year of nights: exact at most {predict_exact_year(n) // max(n, 1):,}, "
        f"approximate {predict_approximate_year(n) // max(n, 1):,}"
    )
