"""Each LF's votes and the similarities to its support, read from neighbors.parquet a few LFs at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.label_models.nearvote import LFColumn
from tasks.core.types import ITEM_ID, Votes
from tasks.params import Metric
from tasks.tables import schemas
from tasks.tables.neighbor_columns import NeighborColumnNames
from tasks.tables.parquet import read_table
from tasks.tables.paths import ITEMS, NEIGHBORS
from tasks.tables.scaled_embeddings import to_cosine
from tasks.tables.validation import require_same_items

BYTES_AT_ONCE = 1 << 24
"""Most bytes of neighbors' similarities to read at a time, but at least those of a single LF. Opening the file takes time
per column, so opening it for each LF would take time quadratic in the number of LFs."""


@dataclass(frozen=True, kw_only=True)
class StoredColumns:
    """The columns of the LFs, read from disk in each iteration. votes: (n, m) of `items`; scale: of the embeddings."""

    root: Path
    items: pl.DataFrame
    votes: Votes
    pairs: NeighborColumnNames
    metric: Metric
    scale: float

    def __iter__(self) -> Iterator[LFColumn]:
        """Yield a column per LF.

        Raises
        ------
        DataError
            The neighbors are damaged, or belong to other items.
        """
        path = self.root / NEIGHBORS
        n, m = self.votes.shape
        starts = np.searchsorted(self.pairs.lf, np.arange(m + 1))
        first = 0
        while first < m:
            room = starts[first] + BYTES_AT_ONCE // (4 * max(n, 1))
            end = max(first + 1, int(np.searchsorted(starts, room, side="right")) - 1)
            names = [ITEM_ID, *self.pairs.similarity[starts[first] : starts[end]]]
            table = read_table(path, schemas.neighbors(names, self.items.schema[ITEM_ID]), names)
            require_same_items(self.root / ITEMS, self.items, path, table)
            for lf in range(first, end):
                columns = range(starts[lf], starts[lf + 1])
                similarity = np.empty((n, len(columns)), dtype=np.float32, order="F")
                for number, pair in enumerate(columns):
                    found = table[self.pairs.similarity[pair]].fill_null(np.nan).to_numpy()
                    similarity[:, number] = to_cosine(found, self.metric, self.scale)
                yield LFColumn(
                    votes=np.ascontiguousarray(self.votes[:, lf]),
                    similarity=similarity,
                    classes=self.pairs.label[starts[lf] : starts[lf + 1]].astype(np.int64),
                )
            first = end
