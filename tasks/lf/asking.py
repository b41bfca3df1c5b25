"""Votes of labeling functions asked in this process, under the eye of a monitor."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.core.types import ITEM_ID
from tasks.lf.functions import RowwiseLF, VectorizedLF, read_items
from tasks.lf.monitor import Counter, Monitor
from tasks.lf.voting import ColumnVotes, apply_rowwise, apply_vectorized


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What it takes to ask the LFs of the module `source`, in the project at `root`, for votes among `classes`."""

    root: Path
    source: str
    classes: Sequence[str]
    monitor: Monitor

    def ask_rowwise(self, lf: RowwiseLF, items: pl.DataFrame, progress: Counter | None = None) -> ColumnVotes:
        """The votes of one row-wise LF on `items`."""
        return self.ask_all_rowwise([lf], items, progress)[lf.name]

    def ask_all_rowwise(
        self, lfs: Sequence[RowwiseLF], items: pl.DataFrame, progress: Counter | None = None
    ) -> dict[str, ColumnVotes]:
        """The votes of row-wise LFs on `items`, by LF."""
        self.monitor.begin_chunk(items[ITEM_ID], is_rowwise=True)
        rows = read_items(items)
        columns = {}
        for lf in lfs:
            position = self.monitor.begin_lf(lf.name, progress)
            columns[lf.name] = apply_rowwise(self.root, lf, rows, self.classes, position)
        self.monitor.end_lf()
        return columns

    def ask_vectorized(self, lfs: Sequence[VectorizedLF], items: pl.DataFrame) -> dict[str, ColumnVotes]:
        """The votes of vectorized LFs on `items`, by LF."""
        self.monitor.begin_chunk(items[ITEM_ID], is_rowwise=False)
        columns = apply_vectorized(self.root, lfs, items, self.classes, begin=self.monitor.begin_lf)
        self.monitor.end_lf()
        return columns
