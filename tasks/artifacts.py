"""Every artifact is written and read here: validated both ways, atomic, and the same bytes for the same content."""

import itertools
import json
import mmap
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandera.errors
import polars as pl
import pyarrow as arrow
import pyarrow.parquet as parquet

from tasks import schemas
from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.schemas import TableSchema

# Where each stage's artifacts are, below the project's root; dvc.yaml names the same paths (a test compares them).
ITEMS = Path("data/ingest/items.parquet")
VALID_GOLD = Path("data/ingest/valid_gold.parquet")
WITHHELD_GOLD = Path("data/ingest/withheld_gold.parquet")
EMBEDDINGS = Path("data/ingest/embeddings")
INDEX = Path("data/index/index.faiss")
INDEX_DESCRIPTION = Path("data/index/index.json")
CELLS = Path("data/index/cells.parquet")
VOTES = Path("data/apply/votes.parquet")
LF_SUMMARY = Path("data/apply/lf_summary.csv")
LF_FAILURES = Path("data/apply/lf_failures.parquet")
NEIGHBORS = Path("data/search/neighbors.parquet")
RECALL = Path("data/search/recall.json")
THRESHOLDS = Path("data/tune/thresholds.json")
THRESHOLD_CURVES = Path("data/tune/threshold_curves.csv")
EMBEDDING_FITNESS = Path("data/tune/embedding_fitness.json")
EMBEDDING_FITNESS_CURVES = Path("data/tune/embedding_fitness.csv")
EXTENDED_VOTES = Path("data/extend/votes.parquet")
PROVENANCE = Path("data/extend/provenance.parquet")
LABEL_MODEL = Path("data/fit/label_model.json")
LABELS = Path("data/fit/labels.parquet")
PREDICTIONS = Path("data/fit/predictions.parquet")
END_MODEL = Path("data/train/end_model.json")
MODEL = Path("data/train/model.parquet")
END_LABELS = Path("data/train/labels.parquet")
END_PREDICTIONS = Path("data/train/predictions.parquet")
METRICS = Path("data/evaluate/metrics.json")
REPORT = Path("data/evaluate/report.html")
REPORT_SUMMARY = Path("data/evaluate/summary.md")
LF_REPORT = Path("data/evaluate/lf_report.csv")
PLOTS = Path("data/evaluate/plots")
PLOTS_TEMPLATE = Path("data/evaluate/plots_template.html")

ROW_GROUP = 16_384
"""Rows per Parquet row group: 24 MiB of 384-d float32 embeddings, small enough to stream, large enough to scan fast."""

SHARD = 131_072
"""Rows of a shard on average (d = 384: 192 MiB): what a remote is sent again when one row of it changes."""

_LARGEST_SHARD = 4
"""A shard has at most this times `SHARD` rows."""

_SHARD_NAME = re.compile(r"part-(\d{5})-of-(\d{5})\.parquet")

_SHOWN = 5
"""How many offending rows an error names."""

_WIDTH = 60
"""How much of an offending value an error shows."""


@contextmanager
def open_atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends well and removed when it does not.

    The move is the last step, after the bytes are on disk, so that a reader sees the old file or the new one, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o644)
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def _open_atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place when the block ends well and goes when it does not.

    Where there was a folder before, a reader may for a moment see none, but never files of both.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part, former = (
        Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent)) for _ in range(2)
    )
    try:
        yield part
        part.chmod(0o755)
        _sync_folder(part)
        if folder.exists():
            folder.replace(former / folder.name)
        try:
            part.replace(folder)
        except OSError:
            (former / folder.name).replace(folder)
            raise
    finally:
        for path in (part, former):
            shutil.rmtree(path, ignore_errors=True)
    _sync_folder(folder.parent)


def open_scratch(folder: Path, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A float32 array of zeros on disk below `folder`, for what may not fit memory; gone when nobody holds it.

    The file has no name: even a killed process leaves nothing behind.
    """
    if 0 in shape:
        return np.zeros(shape, np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        # Reserved, since a mapped file on a full disk would end the process where an error could be told.
        os.posix_fallocate(file.fileno(), 0, 4 * shape[0] * shape[1])
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def expect_scattered_reads(array: npt.NDArray[Any]) -> None:
    """Tell the system that rows of `array`, if it is a mapped file, are wanted here and there.

    It then reads from disk what is asked for, and not the 128 KiB around it, for which others would have to leave memory.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_RANDOM)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_table(path: Path, table: pl.DataFrame, schema: TableSchema) -> None:
    """Write `table`, checked against `schema`, to Parquet at `path`.

    Raises
    ------
    DataError
        The table breaks its schema; nothing is written.
    """
    write_batches(path, [table], schema)


def write_batches(path: Path, batches: Iterable[pl.DataFrame], schema: TableSchema) -> None:
    """Write `batches` (at least one, all with the same columns) as one Parquet table, never holding more than two.

    The bytes depend on the rows alone, not on how they were cut into batches. `item_id` must ascend across batches
    wherever the schema asks for it within one.

    Raises
    ------
    DataError
        A batch breaks the schema, or ids do not ascend from one batch to the next; nothing is written.
    """
    _write_file(path, _validate_batches(path, batches, schema))


def write_shards(folder: Path, batches: Iterable[pl.DataFrame], schema: TableSchema) -> None:
    """Write `batches`, as for `write_batches`, as one table of several files below `folder`, its shards.

    A shard, part-00002-of-00007.parquet, ends with a row whose id says so, or with 4 `SHARD` rows. One more row, or one
    less, therefore changes the shard that it is in, and mostly no other: DVC stores and sends that one alone.

    Raises
    ------
    DataError
        As for `write_batches`; nothing is written.
    """
    with _open_atomic_folder(folder) as part:
        tables = _cut_shards(_validate_batches(folder, batches, schema))
        for number, shard in itertools.groupby(tables, key=itemgetter(0)):
            _write_file(part / f"{number:05}", (table for _, table in shard))
        files = sorted(part.iterdir())
        for number, file in enumerate(files):
            file.rename(part / f"part-{number:05}-of-{len(files):05}.parquet")


def _cut_shards(tables: Iterable[pl.DataFrame]) -> Iterator[tuple[int, pl.DataFrame]]:
    """The `tables` cut where shards end, each piece with the number of its shard; an empty table is one empty piece."""
    shard, rows, largest = 0, 0, _LARGEST_SHARD * SHARD
    for number, table in enumerate(tables):
        ends = {row for row, item in enumerate(table[ITEM_ID].to_list(), start=1) if _ends_shard(item)}
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


def _ends_shard(item: int | str) -> bool:
    return int.from_bytes(sha256(str(item).encode()).digest()[:8]) % SHARD == 0


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
                        part, encoded.schema, compression="zstd", version="2.6", write_page_checksum=True
                    )
                writer.write_table(encoded, row_group_size=ROW_GROUP)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise AssertionError(f"{path}: no batch to write")


def find_shards(path: Path) -> tuple[Path, ...]:
    """The files of the table at `path`, in their order: its shards, or itself where it is one file.

    Raises
    ------
    DataError
        A shard is missing, or there is a file that is none.
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


def read_table(path: Path, schema: TableSchema, columns: Sequence[str] | None = None) -> pl.DataFrame:
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


def read_batches(
    path: Path, schema: TableSchema, columns: Sequence[str] | None = None, *, size: int = 0, beside: int = 0
) -> Iterator[pl.DataFrame]:
    """The table at `path`, row group by row group (at least one, maybe empty), each checked against `schema`.

    Parameters
    ----------
    size
        Row groups come together until they have this many bytes; to check a table takes milliseconds, however short.
    beside
        Bytes that a row takes in the caller's hands, to be counted with its own.

    Raises
    ------
    DataError
        As for `read_table`; also when ids do not ascend from one row group to the next.
    """
    if columns is not None:
        schema = restrict_schema(schema, columns)
    stored = itertools.chain.from_iterable(_stored_batches(file, columns) for file in find_shards(path))
    yield from _validate_batches(path, _join(stored, size, beside), schema)


def _join(batches: Iterable[pl.DataFrame], size: int, beside: int) -> Iterator[pl.DataFrame]:
    """The same rows in fewer batches, of `size` bytes or more with `beside` bytes for each row; only the last is less."""
    held: list[pl.DataFrame] = []
    for batch in batches:
        held.append(batch)
        if sum(part.estimated_size() + beside * part.height for part in held) >= size:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)


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
    return read_table(path, schemas.votes(k, read_schema(path)))


def write_csv(path: Path, table: pl.DataFrame) -> None:
    """Write a small result as CSV."""
    with open_atomic(path) as part:
        table.write_csv(part)


def read_csv(path: Path, columns: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    """The small result at `path`: these columns with these types, in this order; other columns are passed over.

    Raises
    ------
    DataError
        The file is missing or damaged, or lacks a column.
    """
    with explain_read_errors(path):
        table = pl.read_csv(path, schema_overrides=columns)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(f"{path}: column '{missing[0]}' is missing. Check what wrote {path}, then run 'dvc repro'.")
    return table.select(list(columns))


def write_json(path: Path, value: Any) -> None:
    """Write a small result as JSON: indented, keys in the order given, no NaN (use None for the undefined)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8."""
    with open_atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """The JSON value at `path`.

    Raises
    ------
    DataError
        The file is missing or is not JSON.
    """
    with explain_read_errors(path):
        return json.loads(path.read_text(encoding="utf-8"))


def require_same_items(path: Path, table: pl.DataFrame, other_path: Path, other: pl.DataFrame) -> None:
    """Check that two tables hold the same items in the same (ascending) order, which makes their rows joined by id.

    Raises
    ------
    DataError
        An item is in one table only; names how many and the first of them.
    """
    ids, other_ids = table[ITEM_ID], other[ITEM_ID]
    if ids.dtype != other_ids.dtype:
        raise DataError(f"{path}: item_id is {ids.dtype}, but {other_ids.dtype} in {other_path}. Run 'dvc repro'.")
    if ids.equals(other_ids):
        return
    for one, one_path, two, two_path in ((ids, path, other_ids, other_path), (other_ids, other_path, ids, path)):
        missing = one.filter(~one.is_in(two.implode()))
        if len(missing):
            raise DataError(
                f"{two_path}: {len(missing):,} items of {one_path} are missing, first {name_first(missing)}. Run 'dvc repro'."
            )
    raise DataError(f"{path} and {other_path}: the same items in a different order. Run 'dvc repro'.")


def _to_arrow(table: pl.DataFrame) -> arrow.Table:
    """The table with plain Arrow types, so that the stored schema does not depend on Polars' internal string type."""
    encoded = table.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    fields = [
        arrow.field(field.name, arrow.string() if arrow.types.is_large_string(field.type) else field.type)
        for field in encoded.schema
    ]
    return encoded.cast(arrow.schema(fields))


def _regroup(batches: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same rows in batches of a multiple of ROW_GROUP, the last one smaller; always at least one batch."""
    held: pl.DataFrame | None = None
    wrote = False
    for batch in batches:
        held = batch if held is None else pl.concat([held, batch])
        whole = held.height // ROW_GROUP * ROW_GROUP
        if whole:
            yield held[:whole]
            held, wrote = held[whole:], True
    if held is not None and (held.height or not wrote):
        yield held


def _stored_batches(path: Path, columns: Sequence[str] | None) -> Iterator[pl.DataFrame]:
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
    return parquet.ParquetFile(path, page_checksum_verification=True)


def _from_arrow(stored: arrow.Table, columns: Sequence[str] | None) -> pl.DataFrame:
    stored.validate(full=True)  # Polars would trust text that is not UTF-8, and lengths beyond the column
    table = pl.from_arrow(stored)
    assert isinstance(table, pl.DataFrame)
    return table if columns is None else table.select(columns)


def _validate_batches(path: Path, batches: Iterable[pl.DataFrame], schema: TableSchema) -> Iterator[pl.DataFrame]:
    ascending = any(check.name == schemas.ASCENDS for check in schema.checks)
    last: Any = None
    for batch in batches:
        table = validate_table(path, batch, schema)
        if ascending and table.height:
            first = table[ITEM_ID][0]
            if last is not None and first <= last:
                raise DataError(f"{path}: item_id {first!r} comes after {last!r}; ids must ascend. Run 'dvc repro'.")
            last = table[ITEM_ID][-1]
        yield table


def validate_table(path: Path, table: pl.DataFrame, schema: TableSchema) -> pl.DataFrame:
    if _is_valid(table, schema):
        return table
    try:
        try:
            return schema.validate(table, lazy=True)
        except pl.exceptions.PolarsError:
            # pandera 0.35 cannot stack failures of different types; then the first one alone is reported.
            return schema.validate(table)
    except (pandera.errors.SchemaErrors, pandera.errors.SchemaError) as error:
        raise DataError(_describe(path, table, error)) from None


def _is_valid(table: pl.DataFrame, schema: TableSchema) -> bool:
    """Whether `table` fits `schema`; what breaks it, and where, is found by asking about each column.

    pandera takes more than a millisecond for a column, however short, and LFs come by the hundred: columns that are to
    be alike are laid end to end, and checked as one.
    """
    alike: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for name, column in schema.columns.items():
        alike[(column.dtype, column.nullable, column.unique and name, *column.checks)].append(name)
    kept = {first: schema.columns[first] for first, *_ in alike.values()}
    try:
        others = [(first, rest) for first, *rest in alike.values() if rest]
        narrow = table.drop([name for _, rest in others for name in rest])
        TableSchema(kept, checks=schema.checks, strict=bool(schema.strict)).validate(narrow)
        for first, rest in others:
            whole = pl.concat([table[name].alias(first) for name in rest], rechunk=False)
            TableSchema({first: kept[first]}).validate(whole.to_frame())
    except (pandera.errors.SchemaError, pl.exceptions.PolarsError):
        return False
    return True


def _describe(path: Path, table: pl.DataFrame, error: Any) -> str:
    """What pandera found, one line per column and check: count, first values, first ids, what to do."""
    cases = getattr(error, "failure_cases", None)
    if not isinstance(cases, pl.DataFrame) or cases.is_empty():
        return f"{path}: breaks its schema: {error}. Run 'dvc repro'."
    lines = []
    for (column, check), found in cases.group_by("column", "check", maintain_order=True):
        values = ", ".join(str(value)[:_WIDTH] for value in found["failure_case"].head(_SHOWN))
        rows = [row for row in found["index"].drop_nulls().head(_SHOWN) if row < table.height]
        ids = f" at {ITEM_ID} {name_first(table[ITEM_ID].gather(rows))}" if rows and ITEM_ID in table.columns else ""
        place = f"column '{column}'" if column in table.columns else "table"
        lines.append(f"{path}: {place}: {len(found):,} failed '{check}': {values}{ids}.")
    return "\n".join([*lines, f"Check what wrote {path}, then run 'dvc repro'."])


def name_first(ids: pl.Series) -> str:
    return ", ".join(repr(value) for value in ids.head(_SHOWN))


def restrict_schema(schema: TableSchema, columns: Sequence[str]) -> TableSchema:
    """`schema` for these columns alone; table-wide checks stay where item_id is among them."""
    kept = {name: column for name, column in schema.columns.items() if name in columns}
    return TableSchema(kept, checks=schema.checks if ITEM_ID in columns else [], strict=bool(schema.strict))


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Turns a reader's error into one that says which file and what to do."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} is missing. Run 'dvc repro' (or 'dvc pull').") from None
    except (
        OSError,
        ValueError,
        RecursionError,
        arrow.ArrowException,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
    ) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{path} cannot be read: {reason}. It may be damaged: run 'dvc checkout {path}' or 'dvc repro'."
        ) from None
