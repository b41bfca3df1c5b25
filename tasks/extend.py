"""extend: give abstaining LFs the votes of near neighbors, and record where each extended vote comes from."""

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
from tasks.tables.muted import mute, read_muted
from tasks.tables.neighbor_columns import find_neighbor_columns, to_neighbors
from tasks.tables.parquet import count_rows, read_batches, read_schema, write_batches
from tasks.tables.paths import EXTENDED_VOTES, NEIGHBORS, PROVENANCE, THRESHOLDS, VOTES
from tasks.tables.thresholds import Thresholds, read_thresholds
from tasks.tables.validation import require_same_items

_SCOPES = {Scope.CELLS: find_abstaining_entries, Scope.ROWS: find_abstaining_rows}


@dataclass(frozen=True, kw_only=True)
class Extension:
    """The extension of some items' votes."""

    nearest_votes: NearestVotes
    extended: npt.NDArray[np.bool_]
    """(n, m): the entries that take the vote of their nearest neighbor."""
    votes: pl.DataFrame
    """The items' votes, with these entries filled in."""


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
    muted = read_muted(root)
    found = read_thresholds(root / THRESHOLDS, lfs)
    closed = [lf for lf, threshold in found.thresholds.items() if threshold is None]
    names = find_neighbor_columns(root / NEIGHBORS, lfs, {*muted, *closed})

    def blocks(what: str, neighbor_columns: tuple[str, ...]) -> Iterator[tuple[Extension, pl.DataFrame]]:
        needed = [ITEM_ID, *names.similarity, *neighbor_columns]
        schema = schemas.neighbors(needed, columns[ITEM_ID])
        with Progress(what, total=count_rows(root / VOTES)) as progress:
            for votes, neighbors in zip(
                read_batches(root / VOTES, schemas.votes(k, columns)),
                read_batches(root / NEIGHBORS, schema, needed),
                strict=False,  # tables of different lengths have different items, which is reported below
            ):
                require_same_items(root / VOTES, votes, root / NEIGHBORS, neighbors)
                yield extend_items(mute(votes, muted), to_neighbors(neighbors, names), found, params), neighbors
                progress.advance(votes.height)

    votes = (extension.votes for extension, _ in blocks("extending", ()))
    write_batches(root / EXTENDED_VOTES, votes, schemas.votes(k, columns))
    provenance = (_explain(*block, lfs, names.neighbor) for block in blocks("writing provenance", names.neighbor))
    write_batches(root / PROVENANCE, provenance, schemas.provenance(k, columns[ITEM_ID]))


def extend_items(votes: pl.DataFrame, neighbors: Neighbors, found: Thresholds, params: ExtendParams) -> Extension:
    """Return the extension of `votes` (item_id and a column per LF) under the thresholds `found`."""
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
    """Return a row per extended vote: item, LF, vote, and the neighbor that lent it, with its similarity."""
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
