"""The neighbors found so far: a row for each LF class, a column for each item; those of all items lie in mapped files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.core.search.exact import Nearest
from tasks.core.search.incremental import ReusedNeighbors
from tasks.core.types import NOBODY, Bool, Float32, Int32, Int64
from tasks.neighbors.columns import NeighborColumns
from tasks.tables.scratch import open_scratch

LFClassKey = tuple[int, int]
"""The position of an LF among the LFs searched, and a class that it votes for."""


class NeighborTable:
    """The neighbors of n items, or of some of them, for some LF classes; improved in any order.

    Items that are searched together should have columns side by side: what is found of them then goes to a few pages of the
    files, where it would go to as many as there are items, all of them read and written for four bytes.

    Attributes
    ----------
    similarity
        (LF classes, columns) NaN where there is no neighbor yet.
    position
        (LF classes, columns) of the neighbor among all items; NOBODY where there is none yet.
    """

    def __init__(self, lf_classes: Sequence[LFClassKey], n: int, scratch: Path, of: Int64 | None = None) -> None:
        """Begin with nobody; mapped files without a name are made in the folder `scratch`.

        Each column is of one of the items `of`, whatever their order; None: of all n in theirs.
        """
        self._lf_classes, self._of = lf_classes, of
        self._column: Int32 | None = None
        if of is not None:
            self._column = np.full(n, -1, np.int32)
            self._column[of] = np.arange(len(of), dtype=np.int32)
        shape = len(lf_classes), n if of is None else len(of)
        self.similarity: Float32 = open_scratch(scratch, shape, np.float32)
        self.position: Int32 = open_scratch(scratch, shape, np.int32)
        for row in range(len(lf_classes)):
            self.similarity[row], self.position[row] = np.nan, NOBODY

    def put(self, lf: int, reused: ReusedNeighbors) -> None:
        """Begin with what is known of one LF."""
        of, rows = slice(None) if self._of is None else self._of, self.find_rows(lf)
        for row, label in zip(range(rows.start, rows.stop), reused.labels, strict=True):
            similarity, position = reused.of_label(label)
            self.similarity[row], self.position[row] = similarity[of], position[of]

    def forget(self, lf: int, items: Bool) -> None:
        """Begin anew with some of the `items` (n,) for one LF."""
        rows, columns = self.find_rows(lf), items if self._of is None else items[self._of]
        self.similarity[rows, columns], self.position[rows, columns] = np.nan, NOBODY

    def improve(self, items: Int64, nearest: Nearest, rows: Int64) -> None:
        """Take over each of `nearest`, whose LF classes have these `rows`, that is nearer, or as near and earlier."""
        columns = self._find_columns(items)
        for lf_class in np.flatnonzero((nearest.position != NOBODY).any(axis=1)):
            similarity, position = self.similarity[rows[lf_class]], self.position[rows[lf_class]]
            new_similarity, new = nearest.similarity[lf_class], nearest.position[lf_class]
            old_similarity, old = similarity[columns], position[columns]
            is_nearer = (new_similarity > old_similarity) | ((new_similarity == old_similarity) & (new < old))
            wins = (new != NOBODY) & ((old == NOBODY) | is_nearer)
            similarity[columns[wins]], position[columns[wins]] = new_similarity[wins], new[wins]

    def look_up(self, items: Int64, rows: Int64) -> Float32:
        """How near the neighbors of `items` so far are, (rows, q), NaN where there is none."""
        columns = self._find_columns(items)
        return np.stack([self.similarity[row, columns] for row in rows.tolist()])

    def sort(self) -> None:
        """Bring the columns into the order of the items; all of them have one."""
        if self._column is not None:
            for of_items in (*self.similarity, *self.position):
                of_items[:] = of_items[self._column]
        self._of = self._column = None

    def _find_columns(self, items: Int64) -> Int64 | Int32:
        return items if self._column is None else self._column[items]

    def index_rows(self, lf_classes: Sequence[LFClassKey]) -> Int64:
        """The row of each of `lf_classes`."""
        return np.array([self._lf_classes.index(lf_class) for lf_class in lf_classes], np.int64)

    def find_rows(self, lf: int) -> slice:
        """The rows of one LF."""
        rows = [row for row, (other, _) in enumerate(self._lf_classes) if other == lf]
        return slice(rows[0], rows[-1] + 1) if rows else slice(0, 0)

    def take(
        self, lf: int, occupied: Bool, effort: int | None = None, checked: int = 0, right: int = 0
    ) -> NeighborColumns:
        """The columns of one LF, with what is to be said about how they were found, and `occupied` (LF classes, cells)."""
        rows = self.find_rows(lf)
        return NeighborColumns(
            labels=tuple(label for _, label in self._lf_classes[rows]),
            similarity=self.similarity[rows],
            position=self.position[rows],
            effort=effort,
            checked=checked,
            right=right,
            occupied=occupied[rows],
        )
