"""Files of a JSON object per line that only grow, also if the process that writes is killed.

Nothing is ever rewritten. Lines are written by one call and brought to disk before anybody is told that they are there, so
that a killed process leaves at most half a line at the end: readers pass it over, and the next writer removes it.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.tables.files import sync_folder

_BLOCK = 65_536
"""Bytes read at a time from the end, to find the last line."""


class FileInUseError(Exception):
    """Another process has opened the file to append to it."""


@contextmanager
def open_to_append(path: Path, *, waits: bool = True) -> Iterator[int]:
    """A descriptor of the file at `path`, made if need be, for `append_lines`; others who want to append wait meanwhile.

    Raises
    ------
    FileInUseError
        Somebody else appends, and `waits` is false.
    OSError
        The file may not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileInUseError(str(path)) from None
        yield descriptor
    finally:
        os.close(descriptor)
    if is_new:
        sync_folder(path.parent)


def append_lines(path: Path, descriptor: int, lines: str) -> str | None:
    """A word on half a line that was found at the end and removed, else None; `lines`, all or none, are on disk by then.

    Raises
    ------
    OSError
        The disk is full; the file is as it was.
    """
    content = lines.encode()
    tail = find_tail(descriptor)
    size = os.fstat(descriptor).st_size
    note = None
    if tail and is_torn(tail):
        size -= len(tail)
        os.ftruncate(descriptor, size)
        note = f"{path}: half a line at the end, from a process that was stopped, is removed: {tail[:60]!r}"
    elif tail:
        content = b"\n" + content  # an editor left the last line without its end
    try:
        written = os.write(descriptor, content)
        if written < len(content):
            raise OSError(f"{path}: {written:,} of {len(content):,} bytes could be written")
        os.fsync(descriptor)
    except BaseException:
        os.ftruncate(descriptor, size)
        raise
    return note


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
