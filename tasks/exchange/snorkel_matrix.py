"""Label matrices as Snorkel 0.9 and later have them: a row per item, a column per labeling function, -1 abstains.

From .npy, .npz with a single array, or CSV with the names of the labeling functions in its first line. (Up to 0.7, Snorkel had
sparse matrices in which 0 abstains: `L.toarray() - 1` makes the present form of them.)
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.types import ABSTAIN, ITEM_ID
from tasks.errors import DataError
from tasks.exchange.contents import Brought, Field, refuse
from tasks.readers.raw_tables import read_raw_table
from tasks.tables.files import explain_read_errors


def read_label_matrix(path: Path, *, classes: Sequence[str], ids: pl.Series | None = None) -> Brought:
    """The votes of the labeling functions on the items with these `ids`, in this order; without them, row numbers are ids.

    Raises
    ------
    DataError
        The file holds no such matrix, or the number of ids is another; names row and column.
    """
    if not classes:
        raise DataError(
            f"{path}: a label matrix does not say what its numbers mean. Name the classes in their order: --classes ham,spam"
        )
    lfs, L = _read_csv(path) if path.suffix.lower() == ".csv" else _read_array(path)
    n, m = L.shape
    if ids is not None and len(ids) != n:
        raise refuse(
            path,
            f"{n:,} rows",
            ITEM_ID,
            got=f"{len(ids):,} ids",
            expected="an id per row",
            remedy="Name the items of this matrix with --ids.",
        )
    wrong = np.argwhere((L < ABSTAIN) | (len(classes) - 1 < L))
    if len(wrong):
        row, column = wrong[0]
        raise refuse(
            path, f"row {row:,} (counted from 0)", lfs[column], got=int(L[row, column]), expected=f"-1 or 0..{len(classes) - 1}",
            remedy="Name all classes; where 0 abstains (Snorkel before 0.9), subtract 1.",
        )  # fmt: skip
    found = pl.Series(ITEM_ID, [str(row) for row in range(n)]) if ids is None else ids.alias(ITEM_ID)
    return Brought(
        votes=pl.DataFrame([found, *(pl.Series(lf, L[:, at].astype(np.int8)) for at, lf in enumerate(lfs))]),
        classes=tuple(classes),
        fields=(
            Field(
                name="rows",
                became=f"{ITEM_ID}: numbers from 0" if ids is None else f"{ITEM_ID}, in the order of the ids",
            ),
            Field(
                name="columns", became=f"votes of {m} labeling functions" + (f", {lfs[0]} to {lfs[-1]}" if lfs else "")
            ),
        ),
    )


def _read_csv(path: Path) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The names of the columns, and the matrix."""
    table = read_raw_table(path.parent, path).table
    for name in table.columns:
        numbers = table[name].str.strip_chars().cast(pl.Int64, strict=False)
        if numbers.has_nulls():
            row = int(numbers.is_null().arg_true()[0])
            raise refuse(
                path, f"row {row:,} (counted from 0)", name, got=table[name][row], expected="-1 or the position of a class",
                remedy="Write votes as numbers, and the names of labeling functions in the first line.",
            )  # fmt: skip
    return table.columns, table.select(pl.all().str.strip_chars().cast(pl.Int64)).to_numpy()


def _read_array(path: Path) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Names made for the columns, and the matrix."""
    if not path.is_file():
        raise DataError(f"{path} is missing. Expected a label matrix in .npy, .npz or .csv.")
    try:
        with explain_read_errors(path):
            stored = np.load(path, allow_pickle=False)
    except zipfile.BadZipFile:
        raise DataError(f"{path} is no .npz file. Save the matrix again with np.savez.") from None
    if isinstance(stored, np.lib.npyio.NpzFile):
        with stored:
            names = stored.files
            if len(names) != 1:
                raise refuse(
                    path,
                    "the file",
                    "arrays",
                    got=names,
                    expected="a single array",
                    remedy="Save the dense matrix alone: np.savez(path, L=L).",
                )
            stored = stored[names[0]]
    if stored.ndim != 2 or not np.issubdtype(stored.dtype, np.integer):
        raise refuse(
            path, "the file", "array", got=f"{stored.dtype}, shape {stored.shape}", expected="integers in rows and columns",
            remedy="Save what LFApplier.apply returned.",
        )  # fmt: skip
    return [f"lf_{number}" for number in range(stored.shape[1])], stored.astype(np.int64)
