"""What the search stage finds for one LF, whole: kept in the memo, so that an edited LF costs its own search only."""

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class NeighborColumns:
    """The neighbors of n items for one LF and each of the c classes in its support."""

    labels: tuple[int, ...]
    """The classes, ascending."""
    similarity: npt.NDArray[np.float32]
    """(c, n) larger is nearer; NaN where the LF votes on the item itself."""
    position: npt.NDArray[np.int32]
    """(c, n) position of the neighbor among all items; -1 where similarity is NaN."""
    effort: int | None
    """How many members of the support an item looked at, before it stopped with the cell at hand; None: at all."""
    checked: int
    """How many neighbors were searched exactly as well."""
    right: int
    """How many of these are as near as those of exact search."""


def pack(columns: NeighborColumns) -> bytes:
    """`columns` as an entry of the memo."""
    head = {
        "labels": columns.labels,
        "shape": columns.similarity.shape,
        "effort": columns.effort,
        "checked": columns.checked,
        "right": columns.right,
    }
    similarity, position = columns.similarity.astype("<f4", copy=False), columns.position.astype("<i4", copy=False)
    return b"\n".join([json.dumps(head).encode(), similarity.tobytes() + position.tobytes()])


def unpack(entry: bytes) -> NeighborColumns:
    """The columns of an entry of the memo, which has checked that the entry is what `pack` gave."""
    end = entry.index(b"\n")
    head = json.loads(entry[:end])
    shape = tuple(head["shape"])
    half = end + 1 + 4 * shape[0] * shape[1]
    return NeighborColumns(
        labels=tuple(head["labels"]),
        similarity=np.frombuffer(entry[end + 1 : half], "<f4").reshape(shape),
        position=np.frombuffer(entry[half:], "<i4").reshape(shape),
        effort=head["effort"],
        checked=head["checked"],
        right=head["right"],
    )
