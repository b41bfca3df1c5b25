"""What stands for the content of rows: 24 bytes for each, by which rows are found again among those of another day.

The first word of a key is a hash of the row's id and only says where to look. The other two are the first 128 bits of
SHA-256 over the row, its id included, in an encoding that no two different rows of one table's columns share. Among
10^7 rows, two different rows have equal bits with a probability of some 10^-25, and to make up two such rows takes 2^64
attempts.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from itertools import repeat

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.types import ITEM_ID, Int64

Keys = npt.NDArray[np.uint64]
"""(n, 3): the id's word, then the row's two."""

VERSION = f"1 {pl.__version__}"
"""Keys of another version are not to be compared with: Polars may hash ids in another way."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """Where n rows are among earlier rows, and how many rows of both are new, gone or changed."""

    earlier: Int64
    """(n,) the earlier row with the same content; -1 where there is none."""
    new: int
    """Rows whose id was not there."""
    changed: int
    """Rows whose id was there, with another content."""
    gone: int
    """Earlier rows whose id is no longer there."""

    def describe(self) -> str:
        """The counts in a line.

        >>> Match(earlier=np.array([0, -1]), new=1, changed=0, gone=3).describe()
        '1 new, 0 changed, 3 gone, 1 as before'
        """
        same = len(self.earlier) - self.new - self.changed
        return f"{self.new:,} new, {self.changed:,} changed, {self.gone:,} gone, {same:,} as before"


def hash_items(items: pl.DataFrame) -> Keys:
    """The keys of rows by the values of all columns, `item_id` among them; names and types of columns are not in them.

    Floats count by their bits, NaN aside: 0 and -0 differ. About a microsecond a row, and a nanosecond a byte.
    """
    texts: list[pl.Series] = []
    heads: list[npt.NDArray[np.uint8]] = []
    for column in items:
        if column.dtype in _FIXED:
            heads += [_view_bytes(column.is_not_null().to_numpy()), _view_bytes(_fill(column).to_numpy())]
        else:
            text = _to_text(column)
            # With their lengths in front, texts can follow each other without marks.
            heads.append(_view_bytes(text.str.len_bytes().cast(pl.Int64).fill_null(-1).to_numpy()))
            texts.append(text)
    tails: Iterable[bytes] = repeat(b"")
    if texts:
        named = [text.alias(str(number)) for number, text in enumerate(texts)]
        tails = pl.DataFrame(named).select(pl.concat_str(pl.all(), ignore_nulls=True).cast(pl.Binary)).to_series()
    return _hash(items[ITEM_ID], np.concatenate(heads, axis=1), tails)


def hash_vectors(ids: pl.Series, vectors: npt.NDArray[np.float32]) -> Keys:
    """The keys of rows by `ids` (n,) and the bits of `vectors` (n, d)."""
    numbers = ids if ids.dtype == pl.Int64 else ids.str.len_bytes().cast(pl.Int64)
    heads = np.concatenate([_view_bytes(numbers.to_numpy()), _view_bytes(vectors)], axis=1)
    tails: Iterable[bytes] = repeat(b"") if ids.dtype == pl.Int64 else ids.cast(pl.Binary)
    return _hash(ids, heads, tails)


def match_rows(earlier: Keys, now: Keys) -> Match:
    """Which of the rows with the keys `now` are among the `earlier` ones; ids are unique in both."""
    if not len(earlier):
        return Match(earlier=np.full(len(now), -1), new=len(now), changed=0, gone=0)
    order = np.argsort(earlier[:, 0])
    index = np.searchsorted(earlier[order, 0], now[:, 0])
    found = order[np.minimum(index, len(earlier) - 1)]
    has_id = earlier[found, 0] == now[:, 0]
    # If two ids share a word, the second is not found here and counts as changed: its row is computed again.
    is_same = has_id & (earlier[found, 1:] == now[:, 1:]).all(axis=1)
    return Match(
        earlier=np.where(is_same, found, -1),
        new=int((~has_id).sum()),
        changed=int((has_id & ~is_same).sum()),
        gone=len(earlier) - int(has_id.sum()),
    )


_FIXED = (
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64),
    *(pl.Boolean, pl.Date, pl.Datetime, pl.Duration, pl.Time),
)
"""Types of a fixed width; what they cannot tell apart, their column's null mask does."""


def _fill(column: pl.Series) -> pl.Series:
    physical = column.to_physical()
    return physical.fill_null(False) if physical.dtype == pl.Boolean else physical.fill_null(0)


def _to_text(column: pl.Series) -> pl.Series:
    """The values as text, different for different values."""
    if column.dtype == pl.String:
        return column
    # Lists, structs, decimals, bytes: rare, and Python writes them so that they could be read back.
    return pl.Series(column.name, [repr(value) for value in column.to_list()], dtype=pl.String)


def _view_bytes(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """The bytes (n, any) of `values` (n,) or (n, d)."""
    width = values.itemsize * math.prod(values.shape[1:])
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), width)


def _hash(ids: pl.Series, heads: npt.NDArray[np.uint8], tails: Iterable[bytes]) -> Keys:
    n, width = heads.shape
    starts: list[bytes] = np.ascontiguousarray(heads).view(f"V{width}").reshape(n).tolist()
    # Without texts, tails are endless.
    digests = [sha256(start + tail).digest() for start, tail in zip(starts, tails, strict=False)]
    keys = np.empty((n, 3), np.uint64)
    keys[:, 0] = ids.hash(0).to_numpy()
    keys[:, 1:] = np.frombuffer(b"".join(digests), np.uint64).reshape(n, 4)[:, :2]
    return keys
