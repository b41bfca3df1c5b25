"""Files and folders written atomically, and small results as text, JSON and CSV."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as arrow

from tasks.errors import DataError


@contextmanager
def open_atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends well and removed when it does not.

    The move is the last step, after the bytes are on disk, so that a reader sees the whole old file or the whole new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(mask_mode(0o666))  # mkstemp makes files for their maker alone
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def open_atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which replaces it when the block ends well and is removed when it does not.

    Where there was a folder before, a reader may for a moment see none, but never files of both.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part, former = (
        Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent)) for _ in range(2)
    )
    try:
        yield part
        part.chmod(mask_mode(0o777))
        sync_folder(part)
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
    sync_folder(folder.parent)


def mask_mode(mode: int) -> int:
    """`mode` without what this process takes from new files: with umask 002, those of a shared project stay the group's."""
    try:
        found = re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return mode & ~(int(found[1], 8) if found else 0o022)  # os.umask tells it only by changing it under other threads


def sync_folder(folder: Path) -> None:
    """Bring the entries of `folder`, as new or renamed files, to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_csv(path: Path, table: pl.DataFrame) -> None:
    """Write a small result as CSV."""
    with open_atomic(path) as part:
        table.write_csv(part)


def read_csv(path: Path, columns: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    """The small result at `path`: these columns with these types, in this order; other columns are ignored.

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
    """Write a result as JSON: indented, keys in the order given, no NaN (use None for the undefined)."""
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


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """A context in which an error of reading an artifact becomes a `DataError` that says which file and what to do."""
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
