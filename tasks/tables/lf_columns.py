"""Each LF's votes and the similarities to its support, read from neighbors.parquet a part of the items at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.label_models.nearvote import LFColumn
from tasks.core.similarity import to_cosine
from tasks.core.types import ITEM_ID, Votes
from tasks.params import Metric
from tasks.tables import schemas
from tasks.tables.neighbor_columns import NeighborColumnNames
from tasks.tables.parquet import read_of_items
from tasks.tables.paths import NEIGHBORS


@dataclass(frozen=True, kw_only=True)
class StoredColumns:
    """The columns of all LFs, read from disk a part of the items at a time, in each iteration. votes: (n, m) of `items`; scale: of the
    embeddings.
    """

    root: Path
    items: pl.DataFrame
    votes: Votes
    pairs: NeighborColumnNames
    metric: Metric
    scale: float

    def __iter__(self) -> Iterator[tuple[slice, list[LFColumn]]]:
        """Yield rows, and a column of each LF for them.

        Raises
        ------
        DataError
            The neighbors are damaged, or belong to other items.
        """
        m = self.votes.shape[1]
        starts = np.searchsorted(self.pairs.lf, np.arange(m + 1))
        names = [ITEM_ID, *self.pairs.similarity]
        schema = schemas.neighbors(names, self.items.schema[ITEM_ID])
        for rows, table in read_of_items(self.root, self.items, NEIGHBORS, schema, names):
            similarity = np.empty((table.height, len(names) - 1), dtype=np.float32, order="F")
            for number, name in enumerate(self.pairs.similarity):
                found = table[name].fill_null(np.nan).to_numpy()
                similarity[:, number] = to_cosine(found, self.metric.value, self.scale)
            votes = self.votes[rows]
            yield (
                rows,
                [
                    LFColumn(
                        votes=np.ascontiguousarray(votes[:, lf]),
                        similarity=similarity[:, starts[lf] : starts[lf + 1]],
                        classes=self.pairs.label[starts[lf] : starts[lf + 1]].astype(np.int64),
                    )
                    for lf in range(m)
                ],
            )
