"""Rows of CSV and lines of JSONL that cannot be read: the first of them in words, or all of them to be left out."""

import codecs
import csv
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

_LONE_SURROGATE = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..)"
)
"""Half a surrogate pair in JSON, which Polars would read as a different character."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A row of a text file: its lines, `first` to `last`, counted from 1, and why it cannot be read, None if it can."""

    first: int
    last: int
    problem: str | None


def list_records(content: bytes, suffix: str) -> list[Record]:
    """The rows of a CSV or JSONL file, in their order, a CSV's header apart."""
    return list(_list_csv(content) if suffix == ".csv" else _list_jsonl(content))


def drop_records(content: bytes, suffix: str, records: list[Record]) -> bytes:
    """`content` without the lines of those of its `records` that cannot be read."""
    bad = {line for record in records if record.problem for line in range(record.first, record.last + 1)}
    if suffix == ".csv":
        with _open(content) as text:
            lines = [line.encode("utf-8", "surrogateescape") for line in text]
    else:
        lines = [line + b"\n" for line in content.split(b"\n")]
    return b"".join(line for number, line in enumerate(lines, start=1) if number not in bad)


def _list_csv(content: bytes) -> Iterator[Record]:
    """The rows of a CSV file."""
    usual = csv.field_size_limit(sys.maxsize)
    try:
        with _open(content) as text:
            rows = csv.reader(text, strict=True)
            width = len(next(rows, []))
            last = rows.line_num
            while True:
                problem = None
                try:
                    row = next(rows)
                    if row and len(row) != width:
                        problem = f"{len(row)} columns; the header has {width}"
                    elif any(map(_has_foreign_bytes, row)):
                        problem = "not UTF-8"
                except StopIteration:
                    return
                except csv.Error as error:
                    problem = f"not CSV: {error}"
                first, last = last + 1, rows.line_num
                yield Record(first=first, last=last, problem=problem)
    finally:
        csv.field_size_limit(usual)


def _open(content: bytes) -> TextIOWrapper:
    """`content` as text, with what is not UTF-8 in code points that no text has, so that it can be written back."""
    return TextIOWrapper(BytesIO(content), encoding="utf-8-sig", errors="surrogateescape", newline="")


def _has_foreign_bytes(value: str) -> bool:
    return any("\udc80" <= letter <= "\udcff" for letter in value)


def _list_jsonl(content: bytes) -> Iterator[Record]:
    """The lines of a JSONL file that are not blank."""
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if line.strip():
            problem = "half a character" if _LONE_SURROGATE.search(line) else None
            problem = problem or find_bad_line(line) or find_doubled_key(line)
            yield Record(first=number, last=number, problem=problem and problem.removeprefix("line 1 "))


def find_lone_surrogate(content: bytes) -> str | None:
    """What is wrong with the first line of JSONL that has half a character, else None."""
    if half := _LONE_SURROGATE.search(content):
        line = content.count(b"\n", 0, half.start()) + 1
        return f"line {line:,} has half a character (a surrogate without the other). Remove it, or write the text again as UTF-8."
    return None


def find_bad_row(path: Path) -> str | None:
    """What is wrong with the first row that is not UTF-8 or has more or fewer columns than the header, else None."""
    usual = csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows = csv.reader(text)
            width = len(next(rows, []))
            for row in rows:
                if row and len(row) != width:
                    return f"line {rows.line_num:,} ends a row of {len(row)} columns; the header has {width}. Correct the file."
    except UnicodeDecodeError:
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"line {number:,} is not UTF-8 ({line[error.start : error.end]!r}). Save the file as UTF-8."
    except csv.Error:
        pass  # Python's reader refuses more than Polars does, and Polars decides
    finally:
        csv.field_size_limit(usual)
    return None


class _DoubledKeyError(Exception):
    """A JSON object has the key `args[0]` more than once."""


def find_doubled_key(content: bytes) -> str | None:
    """What is wrong with the first line in which an object has a key twice (Polars would ignore one of them), else None.

    This takes one and a half times as long as Polars takes to read the lines.
    """

    def refuse(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        if len({*names}) < len(names):
            raise _DoubledKeyError(next(name for name in names if names.count(name) > 1))

    decoder = json.JSONDecoder(object_pairs_hook=refuse)
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            decoder.decode(line.decode("utf-8"))
        except _DoubledKeyError as error:
            return f"line {number:,} has the key {error.args[0]!r} more than once. Remove or rename the others."
        except (ValueError, RecursionError):
            continue  # blank, or left to Polars to accept or refuse
    return None


def find_bad_line(content: bytes) -> str | None:
    """What is wrong with the first line that is not a JSON object, else None."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"has {constant}, which is not JSON; write null instead")

    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            try:
                if not isinstance(json.loads(line, parse_constant=refuse), dict):
                    return f"line {number:,} is not a JSON object, which begins with {{"
            except (ValueError, RecursionError) as error:
                reason = str(error)
                return f"line {number:,} {reason if reason.startswith('has') else f'is not JSON: {reason}'}"
    return None
