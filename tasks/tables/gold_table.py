"""A table of gold that only grows: a JSON object per line, which says what somebody decided about an item, and when.

Nothing is ever rewritten. Who changes their mind adds a decision, which counts instead of the one before; who takes it
back adds one without a label. A line is written by one call and brought to disk before anybody is told that it is
there, so that a killed process leaves at most half a line at the end: readers pass it over, and the next writer removes
it.
"""

import fcntl
import json
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.errors import DataError
from tasks.tables.files import sync_folder

FOLDER = Path("gold")
"""Where a project's tables of gold are, unless `gold.source` in params.yaml says otherwise."""

_BLOCK = 65_536
"""Bytes read at a time from the end, to find the last line."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What `annotator` says of an item: a class name as `label`, or None: nothing, any more.

    time: None for now. split: `valid` or `test` where it is to be said and not left to the hash of the id.
    """

    item_id: str | int
    label: str | None
    annotator: str
    time: datetime | None = None
    split: str | None = None


def append_decision(path: Path, decision: Decision) -> str | None:
    """Append a single decision, as `append_decisions` does several."""
    return append_decisions(path, [decision])


def append_decisions(path: Path, decisions: Sequence[Decision]) -> str | None:
    """A word on half a line that was found at the end and removed, else None; the decisions are on disk by then.

    All of them are there afterwards, or none. Several processes may append to one table.

    Raises
    ------
    DataError
        The file is not a table of JSON lines, or a name is none.
    OSError
        The disk is full, or the file may not be written; the table is as it was.
    """
    if path.suffix != ".jsonl":
        raise DataError(f"{path}: decisions are appended to tables in .jsonl alone. Name such a table.")
    for name in {decision.annotator for decision in decisions}:
        require_name(name)
    if not decisions:
        return None
    lines = "".join(_write_line(decision) for decision in decisions).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        tail = find_tail(descriptor)
        size = os.fstat(descriptor).st_size
        note = None
        if tail and is_torn(tail):
            size -= len(tail)
            os.ftruncate(descriptor, size)
            note = f"{path}: half a line at the end, from a process that was stopped, is removed: {tail[:60]!r}"
        elif tail:
            lines = b"\n" + lines  # an editor left the last line without its end
        try:
            written = os.write(descriptor, lines)
            if written < len(lines):
                raise OSError(f"{path}: {written:,} of {len(lines):,} bytes could be written")
            os.fsync(descriptor)
        except BaseException:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if is_new:
        sync_folder(path.parent)
    return note


def require_name(annotator: str) -> None:
    """Check that `annotator` is a name that a person would recognize in a line of a list.

    Raises
    ------
    DataError
        It is empty or blank, or has control characters, such as the end of a line.
    """
    if not annotator.strip() or any(unicodedata.category(letter) == "Cc" for letter in annotator):
        raise DataError(f"annotator {annotator!r}: expected a name in one line. Name who decides.")


def is_torn(line: bytes) -> bool:
    """Whether a last line without its end is half of what was to be written.

    >>> is_torn(b'{"item_id": 7, "lab'), is_torn(b'{"item_id": 7}')
    (True, False)
    """
    try:
        return not isinstance(json.loads(line), dict)
    except ValueError:
        return True


def find_tail(descriptor: int) -> bytes:
    """What stands after the last end of a line in an open file; empty if that is the file's end."""
    end = os.fstat(descriptor).st_size
    tail = b""
    while end:
        start = max(0, end - _BLOCK)
        block = os.pread(descriptor, end - start, start)
        tail = block[block.rfind(b"\n") + 1 :] + tail
        if b"\n" in block:
            break
        end = start
    return tail


def _write_line(decision: Decision) -> str:
    """The decision as JSON, without keys that say nothing."""
    time = (decision.time or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="milliseconds")
    line = {
        "item_id": decision.item_id,
        "label": decision.label,
        "annotator": decision.annotator,
        "time": time.replace("+00:00", "Z"),
    }
    if decision.split is not None:
        line["split"] = decision.split
    return json.dumps(line, ensure_ascii=False) + "\n"
