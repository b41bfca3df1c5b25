"""Names that every layer shares: array types, gold rows, and the constants of all tables of votes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

Allocate = Callable[[tuple[int, int], type[np.generic]], npt.NDArray[Any]]
"""Makes an array of zeros of a shape and type, in memory or on disk: what is held of every item goes there."""

Votes = Int8
"""-1 abstains; 0..k-1 is the class at that position of `classes` in params.yaml."""

MetricName = Literal["cosine", "l2"]
"""How similar two embeddings are: the inner product of unit vectors, or minus the Euclidean distance."""

ABSTAIN = -1
"""The vote of an LF that does not vote."""

NOBODY = -1
"""The position of a neighbor that does not exist."""

ITEM_ID = "item_id"
"""The column by which the rows of all tables are joined."""

LF_NAME = r"[A-Za-z_][A-Za-z0-9_.\-]*"
"""What an LF may be called (and not `item_id`); a column of votes is called like its LF."""


@dataclass(frozen=True, kw_only=True)
class GoldRows:
    """Items, or rows of a label matrix, whose gold class may be used."""

    rows: Int64
    """(g,) positions, each at most once."""
    classes: Int64
    """(g,) 0..k-1."""
