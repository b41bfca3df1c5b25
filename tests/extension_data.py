"""Small projects on disk for the tests of index, search, tune and extend."""

import numpy as np
import polars as pl

from tasks import index, search
from tasks.params import IndexKind, IndexParams, Metric, SearchParams
from tasks.tables import schemas
from tasks.tables.block_layout import write_layout
from tasks.tables.centers import Centers, write_centers
from tasks.tables.muted import write_muted
from tasks.tables.parquet import write_table
from tasks.tables.paths import EMBEDDINGS, ITEMS, KEPT_CENTERS, NEIGHBORS, VALID_GOLD, VOTES
from tasks.tables.saved_descriptions import write_no_descriptions


def write_project(root, *, vectors, votes, splits, ids=None, gold=None, k=2, centers=None):
    """Write items, embeddings, votes (n, m) of LFs lf0, lf1, ... and valid gold ({row: class}); returns the ids.

    centers: (cells, d) that the user keeps.
    """
    vectors, votes = np.asarray(vectors, np.float32), np.asarray(votes, np.int8)
    n, d = vectors.shape
    ids = pl.Series("item_id", list(range(n)) if ids is None else ids, dtype=None if n else pl.Int64)
    write_table(root / ITEMS, pl.DataFrame([ids, pl.Series("split", splits, dtype=pl.String)]), schemas.ITEMS)
    embedding = (
        pl.Series("embedding", vectors, dtype=pl.Array(pl.Float32, d))
        if n
        else pl.Series("embedding", [], dtype=pl.Array(pl.Float32, d))
    )
    write_table(root / EMBEDDINGS, pl.DataFrame([ids, embedding]), schemas.embeddings(d))
    write_layout(root, (), {})
    kept = Centers.none()
    if centers is not None:
        kept = Centers(vectors=np.asarray(centers, np.float32), items=np.full(len(centers), n // len(centers)))
    write_centers(root / KEPT_CENTERS, kept)
    table = pl.DataFrame([ids, *(pl.Series(f"lf{j}", votes[:, j], dtype=pl.Int8) for j in range(votes.shape[1]))])
    write_table(root / VOTES, table, schemas.votes(k, table.columns))
    write_no_descriptions(root)
    write_muted(root, (), table.columns[1:])
    rows = sorted(gold or {})
    known = pl.DataFrame([ids.gather(rows), pl.Series("gold", [(gold or {})[row] for row in rows], dtype=pl.Int8)])
    write_table(root / VALID_GOLD, known, schemas.gold(k))
    return ids


def write_neighbors(root, *, metric=Metric.COSINE, classes=("no", "yes"), kind=IndexKind.FLAT):
    """Run index and search on what `write_project` wrote; returns the table of neighbors."""
    index.run(root, classes, IndexParams(metric=metric, kind=kind))
    search.run(root, classes, SearchParams())
    return pl.read_parquet(root / NEIGHBORS)
