"""What the search stage found for one LF, and of what: kept in the cache, so that only what is new is searched again."""

import json
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.core.search.incremental import PreviousNeighbors


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
    """In how many cells with members of a class's support an item looked; None: it was compared with all of them."""
    checked: int
    """How many neighbors were searched exactly as well."""
    right: int
    """How many of these are as near as those of exact search."""
    occupied: npt.NDArray[np.bool_]
    """(c, cells) in which cells each class's support is; no cells in a flat index."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of the cache."""

    columns: NeighborColumns
    snapshot: str
    """Names the items and their embeddings."""
    support: npt.NDArray[np.int8]
    """(n,) who lent which vote, as `incremental.mark_support` gives it."""

    def as_previous(self) -> PreviousNeighbors:
        """What the entry tells about other snapshots and votes."""
        columns = self.columns
        return PreviousNeighbors(
            support=self.support, labels=columns.labels, similarity=columns.similarity, position=columns.position
        )


_LONGEST_HEAD = 1 << 16
"""Bytes of an entry among which its head ends: a class takes six at most."""


def pack(entry: Entry) -> tuple[bytes | memoryview, ...]:
    """The parts of `entry`, as they are stored one after the other."""
    columns = entry.columns
    head = {
        "labels": columns.labels,
        "shape": columns.similarity.shape,
        "effort": columns.effort,
        "checked": columns.checked,
        "right": columns.right,
        "snapshot": entry.snapshot,
        "cells": columns.occupied.shape[1],
    }
    text = json.dumps(head).encode()
    # Arrays that are mapped have to begin at a multiple of their width.
    text += b" " * (-(len(text) + 1) % 8) + b"\n"
    similarity, position = (
        np.ascontiguousarray(columns.similarity, "<f4"),
        np.ascontiguousarray(columns.position, "<i4"),
    )
    rest = entry.support.tobytes() + np.packbits(columns.occupied, axis=1).tobytes()
    return text, similarity.data, position.data, zlib.compress(rest, 1)


def unpack(stored: memoryview) -> Entry:
    """The entry that the cache, which has checked it, holds as `stored`; its columns are views of it."""
    beginning = bytes(stored[:_LONGEST_HEAD])
    start = beginning.index(b"\n") + 1
    head = json.loads(beginning[:start])
    shape = tuple(head["shape"])
    half, end = start + 4 * shape[0] * shape[1], start + 8 * shape[0] * shape[1]
    rest, n = zlib.decompress(stored[end:]), shape[1]
    bits = np.frombuffer(rest[n:], np.uint8).reshape(shape[0], -(-head["cells"] // 8))
    columns = NeighborColumns(
        labels=tuple(head["labels"]),
        similarity=np.frombuffer(stored[start:half], "<f4").reshape(shape),
        position=np.frombuffer(stored[half:end], "<i4").reshape(shape),
        effort=head["effort"],
        checked=head["checked"],
        right=head["right"],
        occupied=np.unpackbits(bits, axis=1, count=head["cells"]).astype(bool),
    )
    return Entry(columns=columns, snapshot=head["snapshot"], support=np.frombuffer(rest[:n], np.int8))
