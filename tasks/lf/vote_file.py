"""The votes of a run as they arrive: in a temporary file, LF by LF, with the failures of each LF."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.types import ITEM_ID
from tasks.lf.observation import SideInputs
from tasks.lf.voting import ColumnVotes, Failure
from tasks.tables import schemas
from tasks.tables.parquet import read_batches, read_schema
from tasks.tables.paths import ITEMS

BATCH_BYTES = 8 * 2**20
"""Bytes of votes that are checked and written at a time, and bytes of items (with votes) searched for patterns at a time."""


class VoteFile:
    """Votes of the LFs named `lfs` on `n` items, and the items on which each failed; leaving the block removes the file.

    Votes arrive in pieces and are read by LF or by item; on disk, neither order needs all of them in memory.
    """

    def __init__(self, lfs: Sequence[str], n: int, folder: Path) -> None:
        self.lfs, self.n = lfs, n
        self.failures: dict[str, list[Failure]] = {lf: [] for lf in lfs}
        self.side_inputs = {lf: SideInputs() for lf in lfs}
        self._is_by_batch = dict.fromkeys(lfs, False)
        self._is_late = dict.fromkeys(lfs, False)
        self._offset = {lf: number * n for number, lf in enumerate(lfs)}
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by __exit__

    def __enter__(self) -> "VoteFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, lf: str, rows: npt.NDArray[np.int64], column: ColumnVotes) -> None:
        """Write the votes of `lf` on the items at `rows` (ascending), and its failures, whose rows index `rows`.

        If `rows` has gaps, votes on all items up to its last must already have been written.
        """
        votes = column.votes
        if len(rows) and rows[-1] - rows[0] + 1 > len(rows):
            votes = self.read(lf, int(rows[0]), int(rows[-1] - rows[0]) + 1).copy()
            votes[rows - rows[0]] = column.votes
        self._file.seek(self._offset[lf] + int(rows[0] if len(rows) else 0))
        self._file.write(np.ascontiguousarray(votes).data)
        self.failures[lf] += [Failure(row=int(rows[failure.row]), error=failure.error) for failure in column.failures]
        self._is_by_batch[lf] |= column.is_by_batch
        self._is_late[lf] |= any(failure.is_late for failure in column.failures)
        self.side_inputs[lf].add(column.side_inputs)

    def clear_failures(self, lf: str) -> None:
        """Forget the failures of `lf`, before its votes are written again."""
        self.failures[lf] = []

    def read(self, lf: str, start: int, count: int) -> npt.NDArray[np.int8]:
        """The votes of `lf` on `count` items, beginning at item `start`."""
        self._file.seek(self._offset[lf] + start)
        return np.frombuffer(self._file.read(count), dtype=np.int8)

    def is_reusable(self, lf: str) -> bool:
        """Whether `lf` would vote the same again: it read nothing but items, and never timed out."""
        return not self.side_inputs[lf] and not self._is_late[lf]

    def read_column(self, lf: str) -> ColumnVotes:
        """All votes of `lf`, and its failures."""
        return ColumnVotes(
            votes=self.read(lf, 0, self.n), failures=self.failures[lf], is_by_batch=self._is_by_batch[lf]
        )

    def read_batches(self, root: Path) -> Iterator[pl.DataFrame]:
        """The table of votes (item_id and an int8 column per LF), a few row groups at a time."""
        start = 0
        ids = read_batches(root / ITEMS, schemas.ITEMS, columns=[ITEM_ID], size=BATCH_BYTES, beside=len(self.lfs))
        for items in ids:
            yield items.with_columns(pl.Series(lf, self.read(lf, start, items.height)) for lf in self.lfs)
            start += items.height

    def tabulate_failures(self, root: Path) -> pl.DataFrame:
        """One row per failure: item_id, lf, error; by item, then in the order of the LFs."""
        if not any(self.failures.values()):
            return make_no_failures(read_schema(root / ITEMS)[ITEM_ID])
        found = pl.DataFrame(
            [(failure.row, lf, failure.error) for lf in self.lfs for failure in self.failures[lf]],
            schema={"row": pl.Int64, "lf": pl.String, "error": pl.String},
            orient="row",
        ).sort("row", maintain_order=True)
        tables, start = [], 0
        for items in read_batches(root / ITEMS, schemas.ITEMS, columns=[ITEM_ID]):
            here = found.filter(pl.col("row").is_between(start, start + items.height, closed="left"))
            tables.append(here.select(items[ITEM_ID].gather(here["row"] - start), "lf", "error"))
            start += items.height
        return pl.concat(tables)


def make_no_failures(id_type: pl.DataType) -> pl.DataFrame:
    """An empty table of failures, for items whose ids are of `id_type`."""
    return pl.DataFrame(schema={ITEM_ID: id_type, "lf": pl.String, "error": pl.String})
