"""The raw files that params.yaml names, in their order, and errors for unreadable ones."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from tasks.errors import DataError, EpoxyError, ParamsError
from tasks.tables.validation import SHOWN

UNTYPED = {".csv", ".txt"}
"""Suffixes of formats without types: every value is text."""

_MAY_BE_EMPTY = {".csv", ".jsonl", ".ndjson"}
"""Suffixes of files that Spark writes with zero bytes for a partition without rows."""

_WRITERS_OWN = re.compile(r"\..*|_SUCCESS|_metadata|_common_metadata|_(started|committed)_.*")
"""Files that are not data: hidden files, and what Spark, Dask and Arrow write beside the data."""

_WRITERS_FOLDERS = re.compile(r"\..*|_temporary|_delta_log|_spark_metadata")
"""Folders that hold no data, likewise."""

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""What Hive and Spark write for null in a folder's name."""


def find_files(source: Path, pattern: str, key: str) -> list[Path]:
    """The files below `source` that `pattern` names (a file, a folder or a glob), in the order of their paths.

    Raises
    ------
    ParamsError
        `pattern` leads out of `source` or cannot be a path.
    DataError
        No file matches, or a file or folder is unreadable or is a link that is not followed.
    """
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ParamsError(
            f"params.yaml: 'ingest.{key}': {pattern!r} leads out of ingest.source. Give a path below it: ingest reads "
            "nothing that the stage does not depend on."
        )
    if not source.is_dir():
        raise DataError(f"{source} is not a folder. Correct ingest.source in params.yaml, or run 'dvc repro'.")
    named = source / pattern
    try:
        is_file, is_folder = named.is_file(), named.is_dir()
    except OSError as error:
        raise ParamsError(f"params.yaml: 'ingest.{key}': {pattern!r} cannot be looked at: {error.strerror}.") from None
    files = [named] if is_file else sorted(walk(named)) if is_folder else _glob(source, pattern, key)
    if not files:
        held = sorted(str(file.relative_to(source)) for file in source.rglob("*") if file.is_file())
        shown = ", ".join(held[:SHOWN]) + (", ..." if len(held) > SHOWN else "")
        raise DataError(
            f"{source}: no file is called {pattern!r} (ingest.{key} in params.yaml); the folder holds {shown or 'none'}."
            + (" Embeddings can also be computed from a text column: ingest.encoder." if key == "embeddings" else "")
        )
    for file in files:
        if not file.resolve().is_relative_to(source.resolve()):
            raise DataError(
                f"{file} is a link that leads out of {source}. Put a copy there: ingest reads nothing else."
            )
    return files


def walk(folder: Path) -> Iterator[Path]:
    """The data files below `folder`; an error for whatever would silently hide some of them.

    Raises
    ------
    DataError
        A folder cannot be read, or is a link, or a link leads nowhere.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}. What it holds would be missing: permit it, or remove it."
        )

    for name, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [found for found in folders if not _WRITERS_FOLDERS.fullmatch(found)]
        paths = [Path(name, file) for file in files if not _WRITERS_OWN.fullmatch(file)]
        for path in (*(Path(name, found) for found in folders), *paths):
            if path.is_symlink() and not path.is_file():
                raise DataError(
                    f"{path} is a link to {'a folder' if path.is_dir() else 'nothing'}, which is not followed. Put "
                    "a copy there, or remove it."
                )
        yield from (path for path in paths if path.is_file())


def _glob(source: Path, pattern: str, key: str) -> list[Path]:
    """The data files that the glob `pattern` matches."""
    parts = Path(pattern).parts
    fixed = list(takewhile(lambda part: not re.search(r"[*?[]", part), parts))
    if len(parts) - len(fixed) > 1 and source.joinpath(*fixed).is_dir():
        for _ in walk(source.joinpath(*fixed)):  # the glob, too, passes over links and unreadable folders in silence
            pass
    try:
        found = sorted(source.glob(pattern))
    except (ValueError, NotImplementedError, re.error) as error:
        raise ParamsError(f"params.yaml: 'ingest.{key}': {pattern!r} is neither a path nor a glob: {error}.") from None
    folders = [file.relative_to(source).parts[:-1] for file in found]
    return [
        file
        for file, above in zip(found, folders, strict=True)
        if file.is_file()
        and not _WRITERS_OWN.fullmatch(file.name)
        and not any(_WRITERS_FOLDERS.fullmatch(folder) for folder in above)
    ]


def name_in_pattern(source: Path, pattern: str, file: Path) -> str:
    """The part of the path of `file` that sets it apart from the other matches of `pattern`, without its suffix."""
    folder = source / pattern
    return str(file.relative_to(folder).with_suffix("")) if folder.is_dir() else file.stem


def require_one_order(files: Sequence[Path], why: str) -> None:
    """Check that sorting the paths as text also sorts the numbers in them; `why` tells the user why order matters.

    Raises
    ------
    DataError
        The orders differ, as for part-10 and part-2: the files' writer may have meant the other order.
    """

    def number(file: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", str(file))]

    for file, meant in zip(files, sorted(files, key=number), strict=True):
        if file != meant:
            raise DataError(
                f"{files[0].parent}: {why}, but {file.name} comes before {meant.name} by name and after it by number. "
                "Give the numbers in their names leading zeros."
            )


def require_one_suffix(files: Sequence[Path]) -> str:
    """The suffix that all `files` have, in lower case."""
    suffixes = sorted({file.suffix.lower() for file in files})
    if len(suffixes) > 1:
        raise DataError(
            f"{files[0].parent}: files of several kinds are named at once: {', '.join(suffixes)}. Name one."
        )
    return suffixes[0]


def drop_empty(files: Sequence[Path]) -> list[Path]:
    """The `files` without those that are legitimately empty; all of them if nothing would be left."""
    kept = [file for file in files if file.suffix.lower() not in _MAY_BE_EMPTY or file.stat().st_size]
    return kept or list(files)


def read_hive_columns(source: Path, file: Path) -> dict[str, str | None]:
    """The columns in the names of folders, value by column name, as in split=valid/part-0.parquet.

    >>> read_hive_columns(Path("raw"), Path("raw/items/split=valid/day=2026-11-28/part-0.parquet"))
    {'split': 'valid', 'day': '2026-11-28'}
    """
    columns: dict[str, str | None] = {}
    for folder in file.relative_to(source).parts[:-1]:
        name, equals, value = folder.partition("=")
        if name and equals:
            columns[unquote(name)] = None if value == _NO_VALUE else unquote(value)
    return columns


@contextmanager
def explain_foreign_errors(path: Path) -> Iterator[None]:
    """Within the block, turn whatever a library raises while reading the user's file into an error that names it.

    No library documents everything it may raise: NumPy raises anything from zlib.error to TokenError, and a panic of
    Polars is not even an Exception.
    """
    try:
        yield
    except EpoxyError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path} cannot be read: {reason}") from None
