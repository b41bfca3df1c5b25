"""The extend stage: neighbors and thresholds to extended votes, each with its provenance."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks import schemas
from tasks.artifacts import (
    EXTENDED_VOTES,
    NEIGHBORS,
    PROVENANCE,
    THRESHOLDS,
    VOTES,
    count_rows,
    read_batches,
    read_schema,
    require_same_items,
    write_batches,
)
from tasks.core.extension import (
    Offers,
    extend_votes,
    find_abstaining_cells,
    find_abstaining_rows,
    find_offers,
    to_similarity,
)
from tasks.extension_tables import find_pair_columns, read_thresholds, to_matrix, to_neighbors
from tasks.params import ExtendParams, Scope
from tasks.progress import Progress
from tasks.schemas import ITEM_ID

_SCOPES = {Scope.CELLS: find_abstaining_cells, Scope.ROWS: find_abstaining_rows}


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some items of the stage's input, and what extension does to them."""

    votes: pl.DataFrame
    neighbors: pl.DataFrame
    L: npt.NDArray[np.int8]
    offers: Offers
    extended: npt.NDArray[np.bool_]
    """(n, m) the cells that take the offered vote."""


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
    pairs = find_pair_columns(root / NEIGHBORS, lfs)
    found = read_thresholds(root / THRESHOLDS, lfs)
    given = np.array([np.nan if value is None else value for value in found.thresholds.values()], np.float64)
    thresholds = to_similarity(given, found.metric.value)

    def blocks(what: str, neighbor_columns: tuple[str, ...]) -> Iterator[Block]:
        needed = [ITEM_ID, *pairs.similarity, *neighbor_columns]
        schema = schemas.neighbors(needed, columns[ITEM_ID])
        with Progress(what, total=count_rows(root / VOTES)) as progress:
            for votes, neighbors in zip(
                read_batches(root / VOTES, schemas.votes(k, columns)),
                read_batches(root / NEIGHBORS, schema, needed),
                strict=False,  # tables that differ in length differ in items, which is said below
            ):
                require_same_items(root / VOTES, votes, root / NEIGHBORS, neighbors)
                L, offers = to_matrix(votes), find_offers(to_neighbors(neighbors, pairs), len(lfs))
                extended = extend_votes(offers, _SCOPES[params.scope](L), thresholds)
                yield Block(votes=votes, neighbors=neighbors, L=L, offers=offers, extended=extended)
                progress.advance(votes.height)

    votes = (_fill(block, lfs) for block in blocks("extending", ()))
    write_batches(root / EXTENDED_VOTES, votes, schemas.votes(k, columns))
    provenance = (_explain(block, lfs, pairs.neighbor) for block in blocks("writing provenance", pairs.neighbor))
    write_batches(root / PROVENANCE, provenance, schemas.provenance(k, columns[ITEM_ID]))


def _fill(block: Block, lfs: list[str]) -> pl.DataFrame:
    """The votes with extended cells filled."""
    filled = np.where(block.extended, block.offers.vote, block.L)
    return block.votes.with_columns(pl.Series(lf, filled[:, place]) for place, lf in enumerate(lfs))


def _explain(block: Block, lfs: list[str], neighbor_columns: tuple[str, ...]) -> pl.DataFrame:
    """One row per extended cell: whose vote it is, and how near."""
    item, lf = np.nonzero(block.extended)
    ids = block.votes[ITEM_ID]
    lenders = pl.concat([ids[:0], *(block.neighbors[name].alias(ITEM_ID) for name in neighbor_columns)])
    return pl.DataFrame(
        {
            ITEM_ID: ids.gather(item),
            "lf": pl.Series(lfs, dtype=pl.String).gather(lf),
            "vote": pl.Series(block.offers.vote[item, lf], dtype=pl.Int8),
            "neighbor": lenders.gather(block.offers.pair[item, lf] * len(ids) + item),
            "similarity": pl.Series(block.offers.similarity[item, lf], dtype=pl.Float32),
        }
    )
