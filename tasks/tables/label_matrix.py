"""A table of votes as the label matrix."""

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.types import ITEM_ID


def to_matrix(votes: pl.DataFrame) -> npt.NDArray[np.int8]:
    """The label matrix (n, m) of a table of votes."""
    lfs = [name for name in votes.columns if name != ITEM_ID]
    L = np.empty((votes.height, len(lfs)), np.int8, order="F")
    for place, lf in enumerate(lfs):
        L[:, place] = votes[lf].to_numpy()
    return L
