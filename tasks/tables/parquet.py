"""Tables as Parquet: validated on write and on read, atomic, the same bytes for the same rows."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as arrow
import pyarrow.parquet as parquet

from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.tables.files import explain_read_errors, open_atomic, open_atomic_folder
from tasks.tables.paths import ITEMS
from tasks.tables.validation import require_same_items, restrict_schema, validate_batches, validate_table

if TYPE_CHECKING:
    from tasks.tables.schemas import TableSchema

ROW_GROUP = 16_384
"""Rows per Parquet row group: 24 MiB of 384-d float32 embeddings, small enough to stream, large enough to scan fast."""

AT_ONCE = 8 * ROW_GROUP
"""Most rows that are encoded, or tabulated from arrays, at a time: while they are, there are three copies of them."""

BYTES_AT_ONCE = 1 << 24
"""Bytes of a table that are read at a time by whoever passes through it: to check a part takes milliseconds, however short."""

SHARD = 131_072
"""Mean rows of a shard (192 MiB at d = 384): what DVC sends to a remote again when any row of it changes."""

_LARGEST_SHARD = 4
"""A shard has at most this times `SHARD` rows."""

_SHARD_NAME = re.compile(r"part-(\d{5})-of-(\d{5})\.parquet")


def write_table(path: Path, table: pl.DataFrame, schema: "TableSchema") -> None:
    """Write `table`, checked against `schema`, to Parquet at `path`.

    Raises
    ------
    DataError
        The table breaks its schema; nothing is written.
    """
    write_batches(path, [table], schema)


def write_batches(path: Path, batches: Iterable[pl.DataFrame], schema: "TableSchema") -> None:
    """Write `batches` (at least one, all with the same columns) as one Parquet table, never holding more than two.

    The bytes depend on the rows alone, not on how they were cut into batches. `item_id` must ascend across batches
    wherever the schema asks for it within a batch.

    Raises
    ------
    DataError
        A batch breaks the schema, or ids do not ascend from one batch to the next; nothing is written.
    """
    _write_file(path, validate_batches(path, batches, schema))


def write_shards(folder: Path, batches: Iterable[pl.DataFrame], schema: "TableSchema") -> None:
    """Write `batches`, as for `write_batches`, as one table of several files below `folder`, its shards.

    A shard, part-00002-of-00007.parquet, ends with a row whose id says so, or with 4 `SHARD` rows. A row more or less
    therefore changes the shard that it is in, and mostly no other: DVC stores and sends that shard alone.

    Raises
    ------
    DataError
        As for `write_batches`; nothing is written.
    """
    with open_atomic_folder(folder) as part:
        tables = _cut_shards(validate_batches(folder, batches, schema))
        for number, shard in itertools.groupby(tables, key=itemgetter(0)):
            _write_file(part / f"{number:05}", (table for _, table in shard))
        files = sorted(part.iterdir())
        for number, file in enumerate(files):
            file.rename(part / f"part-{number:05}-of-{len(files):05}.parquet")


def _cut_shards(tables: Iterable[pl.DataFrame]) -> Iterator[tuple[int, pl.DataFrame]]:
    """The `tables` cut where shards end, each piece with the number of its shard; an empty table is an empty piece."""
    shard, rows, largest = 0, 0, _LARGEST_SHARD * SHARD
    for number, table in enumerate(tables):
        ends = _find_ends(table[ITEM_ID])
        start = 0
        for end in sorted({*ends, table.height}):
            while start < end:
                stop = min(end, start + largest - rows)
                yield shard, table[start:stop]
                rows += stop - start
                start = stop
                if rows == largest or start in ends:
                    shard, rows = shard + 1, 0
        if not table.height and not number:
            yield shard, table


def _find_ends(ids: pl.Series) -> set[int]:
    """How many of the `ids` there are up to and with each whose row is the last of its shard."""
    digests = b"".join([sha256(item.encode()).digest()[:8] for item in ids.cast(pl.String).to_list()])
    return set((np.flatnonzero(np.frombuffer(digests, ">u8") % SHARD == 0) + 1).tolist())


def cut_rows(n: int) -> Iterator[slice]:
    """Slices of `AT_ONCE` rows that cover n rows in order, at least one of them."""
    for start in range(0, max(n, 1), AT_ONCE):
        yield slice(start, min(start + AT_ONCE, n))


def _write_file(path: Path, tables: Iterable[pl.DataFrame]) -> None:
    """Write valid `tables`, at least one, as one Parquet file at `path`."""
    with open_atomic(path) as part:
        writer: parquet.ParquetWriter | None = None
        try:
            for table in _regroup(tables):
                encoded = _to_arrow(table)
                if writer is None:
                    # A flipped bit mostly unpacks to other values, all of them valid; checksums tell.
                    writer = parquet.ParquetWriter(
                        part,
                        encoded.schema,
                        compression="zstd",
                        version="2.6",
                        write_page_checksum=True,
                        **_choose_encodings(encoded.schema),
                    )
                writer.write_table(encoded, row_group_size=ROW_GROUP)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise AssertionError(f"{path}: no batch to write")


def _choose_encodings(schema: arrow.Schema) -> dict[str, Any]:
    """Options of `ParquetWriter`: float32 has its bytes sorted by their place, and anything else its distinct values listed.

    Embeddings and similarities hardly repeat, but their signs and exponents do: files of embeddings are 7 to 27 % smaller, of
    neighbors 26 %, and most are written faster. Float64, which is probabilities, repeats where votes do.
    """
    leaves = [leaf for field in schema for leaf in _find_leaves(field.name, field.type)]
    # Two columns may have one name: the field `x` of a struct `s`, and `s.x`.
    wide = {name for name, kind in leaves if not arrow.types.is_float32(kind)}
    return {"use_byte_stream_split": sorted({name for name, _ in leaves} - wide), "use_dictionary": sorted(wide)}


def _find_leaves(name: str, kind: arrow.DataType) -> Iterator[tuple[str, arrow.DataType]]:
    """The columns in which Parquet stores a field, with what each holds."""
    if arrow.types.is_list(kind) or arrow.types.is_large_list(kind) or arrow.types.is_fixed_size_list(kind):
        yield from _find_leaves(f"{name}.list.element", kind.value_type)
    elif arrow.types.is_struct(kind):
        for field in kind:
            yield from _find_leaves(f"{name}.{field.name}", field.type)
    else:
        yield name, kind


def find_shards(path: Path) -> tuple[Path, ...]:
    """The files of the table at `path`, in their order: its shards, or itself where it is one file.

    Raises
    ------
    DataError
        A shard is missing, or the folder holds a file that is not a shard.
    """
    if not path.is_dir():
        return (path,)
    names = sorted(file.name for file in path.iterdir())
    match = _SHARD_NAME.fullmatch(names[0]) if names else None
    count = int(match[2]) if match else 1
    expected = [f"part-{number:05}-of-{count:05}.parquet" for number in range(count)]
    for name in expected:
        if name not in names:
            raise DataError(f"{path / name} is missing. Run 'dvc checkout {path}' or 'dvc repro'.")
    for name in names:
        if name not in expected:
            raise DataError(f"{path / name} is no shard of {count:,}. Remove it, or run 'dvc checkout {path}'.")
    return tuple(path / name for name in names)


def read_table(path: Path, schema: "TableSchema", columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The table at `path`, checked against `schema`; with `columns`, only these (in this order), still checked.

    Raises
    ------
    DataError
        The file is missing or damaged, or breaks its schema.
    """
    if columns is not None:
        schema = restrict_schema(schema, columns)
    tables = []
    for file in find_shards(path):
        with explain_read_errors(file), _open(file) as stored:
            tables.append(_from_arrow(stored.read(columns=None if columns is None else list(columns)), columns))
    return validate_table(path, tables[0] if len(tables) == 1 else pl.concat(tables), schema)


def read_rows(path: Path, schema: "TableSchema", ids: pl.Series) -> pl.DataFrame:
    """The rows of a few items, with every column, of the table at `path`, by ascending id and checked against `schema`.

    Raises
    ------
    DataError
        The file is missing or damaged, or these rows break its schema.
    """
    with explain_read_errors(path):
        files = list(find_shards(path))
        found = pl.scan_parquet(files).filter(pl.col(ITEM_ID).is_in(ids.implode())).collect()
    return validate_table(path, found, schema)


def read_batches(
    path: Path, schema: "TableSchema", columns: Sequence[str] | None = None, *, size: int = 0, beside: int = 0
) -> Iterator[pl.DataFrame]:
    """The table at `path`, row group by row group (at least one, maybe empty), each checked against `schema`.

    Parameters
    ----------
    size
        Row groups come together until they have this many bytes; to check a table takes milliseconds, however short.
    beside
        Bytes per row that the caller adds, counted in `size`.

    Raises
    ------
    DataError
        As for `read_table`; also when ids do not ascend from one row group to the next.
    """
    if columns is not None:
        schema = restrict_schema(schema, columns)
    stored = itertools.chain.from_iterable(_stored_batches(file, columns) for file in find_shards(path))
    yield from validate_batches(path, _join(stored, size, beside), schema)


def read_of_items(
    root: Path, items: pl.DataFrame, path: Path, schema: "TableSchema", columns: Sequence[str] | None = None
) -> Iterator[tuple[slice, pl.DataFrame]]:
    """The table at `path` below `root` part by part, each with its rows among `items`, which it holds exactly and in their order.

    Raises
    ------
    DataError
        As for `read_batches`; or the table holds other items, which is said at its end at the latest.
    """
    ids, start = items[ITEM_ID], 0
    for batch in read_batches(root / path, schema, columns, size=BYTES_AT_ONCE):
        part = slice(start, start + batch.height)
        if not batch[ITEM_ID].equals(ids[part]):
            break
        yield part, batch
        start = part.stop
    else:
        if start == len(ids):
            return
    require_same_items(root / ITEMS, items, root / path, read_table(root / path, schema, [ITEM_ID]))


def pair_batches(
    one: Iterable[pl.DataFrame], other: Iterable[pl.DataFrame]
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """The rows at the same positions of two tables, each of at least one batch, until either ends.

    A table of several files begins a row group with each, so that batches of two tables seldom have the same rows.
    """
    batches, others = iter(one), iter(other)
    left, right = next(batches, None), next(others, None)
    while left is not None and right is not None:
        n = min(left.height, right.height)
        yield left[:n], right[:n]
        left = left[n:] if left.height > n else next(batches, None)
        right = right[n:] if right.height > n else next(others, None)


def _join(batches: Iterable[pl.DataFrame], size: int, beside: int) -> Iterator[pl.DataFrame]:
    """The same rows in fewer batches, each of at least `size` bytes (the last may be smaller), `beside` bytes a row included."""
    held: list[pl.DataFrame] = []
    for batch in batches:
        held.append(batch)
        if sum(part.estimated_size() + beside * part.height for part in held) >= size:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)


def check_table(path: Path, schema: "TableSchema") -> pl.DataFrame:
    """The item ids of the table at `path`, all of which was read part by part and checked against `schema`.

    Raises
    ------
    DataError
        As for `read_batches`.
    """
    return pl.concat([batch.select(ITEM_ID) for batch in read_batches(path, schema, size=BYTES_AT_ONCE)])


def read_schema(path: Path) -> pl.Schema:
    """Column names and types of the table at `path`, without reading a row."""
    file = find_shards(path)[0]
    with explain_read_errors(file):
        return pl.Schema(pl.read_parquet_schema(file))


def count_rows(path: Path) -> int:
    """The number of rows of the table at `path`, without reading one.

    Raises
    ------
    DataError
        The file is missing or damaged.
    """
    rows = 0
    for file in find_shards(path):
        with explain_read_errors(file), parquet.ParquetFile(file) as stored:
            rows += int(stored.metadata.num_rows)
    return rows


def read_votes(path: Path, k: int) -> pl.DataFrame:
    """The table of votes at `path`: item_id and one int8 column per LF.

    Raises
    ------
    DataError
        As for `read_table`.
    """
    from tasks.tables import schemas  # most of a second, which readers of other parts of a file need not wait for

    return read_table(path, schemas.votes(k, read_schema(path)))


def _to_arrow(table: pl.DataFrame) -> arrow.Table:
    """The table with plain Arrow types, so that the stored schema does not depend on Polars' internal string type."""
    encoded = table.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    fields = [
        arrow.field(field.name, arrow.string() if arrow.types.is_large_string(field.type) else field.type)
        for field in encoded.schema
    ]
    return encoded.cast(arrow.schema(fields))


def _regroup(batches: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same rows in batches of a multiple of ROW_GROUP, the last smaller; always at least one batch."""
    held: pl.DataFrame | None = None
    wrote = False
    for batch in batches:
        held = batch if held is None else pl.concat([held, batch])
        whole = held.height // ROW_GROUP * ROW_GROUP
        if whole:
            for part in cut_rows(whole):
                yield held[part]
            held, wrote = held[whole:], True
    if held is not None and (held.height or not wrote):
        yield held


def _stored_batches(path: Path, columns: Sequence[str] | None) -> Iterator[pl.DataFrame]:
    """The row groups of the file at `path`, at least one, unchecked."""
    with explain_read_errors(path):
        stored = _open(path)
    with stored:
        for group in range(stored.num_row_groups):
            with explain_read_errors(path):
                batch = stored.read_row_group(group, columns=None if columns is None else list(columns))
                table = _from_arrow(batch, columns)
            yield table
        if stored.num_row_groups == 0:
            with explain_read_errors(path):
                table = _from_arrow(stored.schema_arrow.empty_table(), columns)
            yield table


def _open(path: Path) -> parquet.ParquetFile:
    """The Parquet file at `path`, whose pages are compared with their checksums."""
    return parquet.ParquetFile(path, page_checksum_verification=True)


def _from_arrow(stored: arrow.Table, columns: Sequence[str] | None) -> pl.DataFrame:
    """The table in Polars, its `columns` in the order asked for."""
    stored.validate(full=True)  # Polars would trust text that is not UTF-8, and lengths beyond the column
    table = pl.from_arrow(stored)
    assert isinstance(table, pl.DataFrame)
    return table if columns is None else table.select(columns)
