"""The extend stage: neighbors and thresholds to extended votes, each with its provenance."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.extension import (
    NearestVotes,
    Neighbors,
    extend_votes,
    find_abstaining_entries,
    find_abstaining_rows,
    find_nearest_votes,
    to_similarity,
)
from tasks.core.types import ITEM_ID
from tasks.params import ExtendParams, Scope
from tasks.progress import Progress
from tasks.tables import schemas
from tasks.tables.label_matrix import to_matrix
from tasks.tables.neighbor_columns import find_neighbor_columns, to_neighbors
from tasks.tables.parquet import count_rows, read_batches, read_schema, write_batches
from tasks.tables.paths import EXTENDED_VOTES, NEIGHBORS, PROVENANCE, THRESHOLDS, VOTES
from tasks.tables.thresholds import Thresholds, read_thresholds
from tasks.tables.validation import require_same_items

_SCOPES = {Scope.CELLS: find_abstaining_entries, Scope.ROWS: find_abstaining_rows}


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What extension does to some items."""

    nearest_votes: NearestVotes
    extended: npt.NDArray[np.bool_]
    """(n, m) the entries that take the offered vote."""
    votes: pl.DataFrame
    """The items' votes with these entries filled."""


def run(root: Path, classes: tuple[str, ...], params: ExtendParams) -> None:
    """Extend the votes below `root`.

    Raises
    ------
    DataError
        A table is missing or damaged, or the tables are about different items or LFs.
    """
    k = len(classes)
    columns = read_schema(root / VOTES)
    lfs = [name for name in columns if name != ITEM_ID]
    names = find_neighbor_columns(root / NEIGHBORS, lfs)
    found = read_thresholds(root / THRESHOLDS, lfs)

    def blocks(what: str, neighbor_columns: tuple[str, ...]) -> Iterator[tuple[Extension, pl.DataFrame]]:
        needed = [ITEM_ID, *names.similarity, *neighbor_columns]
        schema = schemas.neighbors(needed, columns[ITEM_ID])
        with Progress(what, total=count_rows(root / VOTES)) as progress:
            for votes, neighbors in zip(
                read_batches(root / VOTES, schemas.votes(k, columns)),
                read_batches(root / NEIGHBORS, schema, needed),
                strict=False,  # tables that differ in length differ in items, which is said below
            ):
                require_same_items(root / VOTES, votes, root / NEIGHBORS, neighbors)
                yield extend_items(votes, to_neighbors(neighbors, names), found, params), neighbors
                progress.advance(votes.height)

    votes = (extension.votes for extension, _ in blocks("extending", ()))
    write_batches(root / EXTENDED_VOTES, votes, schemas.votes(k, columns))
    provenance = (_explain(*block, lfs, names.neighbor) for block in blocks("writing provenance", names.neighbor))
    write_batches(root / PROVENANCE, provenance, schemas.provenance(k, columns[ITEM_ID]))


def extend_items(votes: pl.DataFrame, neighbors: Neighbors, found: Thresholds, params: ExtendParams) -> Extension:
    """Return what thresholds `found` for the LFs of `votes` (item_id and one column per LF) do to these items."""
    L = to_matrix(votes)
    given = np.array([np.nan if value is None else value for value in found.thresholds.values()], np.float64)
    nearest_votes = find_nearest_votes(neighbors, L.shape[1])
    extended = extend_votes(nearest_votes, _SCOPES[params.scope](L), to_similarity(given, found.metric.value))
    filled = np.where(extended, nearest_votes.vote, L)
    columns = (pl.Series(lf, filled[:, position]) for position, lf in enumerate(found.thresholds))
    return Extension(nearest_votes=nearest_votes, extended=extended, votes=votes.with_columns(columns))


def _explain(
    extension: Extension, neighbors: pl.DataFrame, lfs: list[str], neighbor_columns: tuple[str, ...]
) -> pl.DataFrame:
    """Return one row per extended entry: whose vote it is, and how near."""
    item, lf = np.nonzero(extension.extended)
    ids, nearest_votes = neighbors[ITEM_ID], extension.nearest_votes
    lenders = pl.concat([ids[:0], *(neighbors[name].alias(ITEM_ID) for name in neighbor_columns)])
    return pl.DataFrame(
        {
            ITEM_ID: ids.gather(item),
            "lf": pl.Series(lfs, dtype=pl.String).gather(lf),
            "vote": pl.Series(nearest_votes.vote[item, lf], dtype=pl.Int8),
            "neighbor": lenders.gather(nearest_votes.lf_class[item, lf] * len(ids) + item),
            "similarity": pl.Series(nearest_votes.similarity[item, lf], dtype=pl.Float32),
        }
    )
