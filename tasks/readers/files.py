"""The raw files that params name, tables among them, and errors for what cannot be read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from tasks.errors import DataError, EpoxyError, ParamsError
from tasks.tables.validation import SHOWN

UNTYPED = {".csv", ".txt"}
"""Suffixes of files in which everything is text; their ids are integers where each looks like an integer."""


def find_files(source: Path, pattern: str, key: str) -> list[Path]:
    """The files below `source` that `pattern` names, in the order of their names."""
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ParamsError(
            f"params.yaml: 'ingest.{key}': {pattern!r} leads out of ingest.source. Give a path below it: ingest reads "
            "nothing that the stage does not depend on."
        )
    if not source.is_dir():
        raise DataError(f"{source} is not a folder. Correct ingest.source in params.yaml, or run 'dvc repro'.")
    named = source / pattern
    found = named.rglob("*") if named.is_dir() else source.glob(pattern)
    # Hidden files are those of tools, such as Git's.
    several = sorted(file for file in found if file.is_file() and not file.name.startswith("."))
    files = [named] if named.is_file() else several
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


def require_one_suffix(files: Sequence[Path]) -> str:
    """The one suffix of `files`, in lower case."""
    suffixes = sorted({file.suffix.lower() for file in files})
    if len(suffixes) > 1:
        raise DataError(
            f"{files[0].parent}: files of several kinds are named at once: {', '.join(suffixes)}. Name one."
        )
    return suffixes[0]


def read_raw_table(path: Path, text: Sequence[str]) -> pl.DataFrame:
    """A raw table; in CSV, the columns `text` stay the text that they are."""
    with explain_foreign_errors(path):
        match path.suffix.lower():
            case ".parquet":
                return pl.read_parquet(path, memory_map=False)
            case ".csv":
                return pl.read_csv(path, infer_schema_length=None, schema_overrides=dict.fromkeys(text, pl.String))
            case ".jsonl" | ".ndjson":
                return pl.read_ndjson(path, infer_schema_length=None)
    raise DataError(f"{path}: expected a table in .parquet, .csv or .jsonl.")


@contextmanager
def explain_foreign_errors(path: Path) -> Iterator[None]:
    """Turns whatever a library raises at the user's bytes into an error that names the file.

    No library lists what it may raise: NumPy from zlib.error to TokenError, and Polars panics, which are no Exception.
    """
    try:
        yield
    except EpoxyError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path} cannot be read: {reason}") from None
