"""Plain files of releases: read without following links, written once and for good."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pydantic

from flows.releases.figures import Frozen
from tasks.errors import DataError

_CHUNK = 1 << 20
"""Bytes that are read at a time."""

_LARGEST_DOCUMENT = 64 << 20
"""No JSON or YAML file of a release is larger; a larger one is not read into memory."""


class FileEntry(Frozen):
    """Hash and size of a file."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class CopiedFile:
    """Content of a copied file, by both the hash of releases and DVC's."""

    entry: FileEntry
    md5: str


def copy_file(source: Path, target: Path) -> CopiedFile:
    """What was copied from `source` to the new read-only file `target`, which is on disk when this returns.

    Raises
    ------
    DataError
        There is no file at `source`.
    """
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    try:
        opened = source.open("rb")
    except FileNotFoundError:
        raise DataError(f"{source} is missing. Run 'epoxy run' first.") from None
    with opened as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
            writer.write(chunk)
            size += len(chunk)
        _finish(writer)
    return CopiedFile(entry=FileEntry(sha256=sha256.hexdigest(), size=size), md5=md5.hexdigest())


def write_file(path: Path, content: bytes) -> None:
    """Write a new read-only file, which is on disk when this returns."""
    with path.open("xb") as writer:
        writer.write(content)
        _finish(writer)


def _finish(writer: IO[bytes]) -> None:
    writer.flush()
    os.fchmod(writer.fileno(), 0o444)
    os.fsync(writer.fileno())


def digest_file(path: Path) -> FileEntry:
    """The size and hash of the plain file at `path`.

    Raises
    ------
    OSError, ValueError
        It cannot be read, or is no plain file.
    """
    digest, size = hashlib.sha256(), 0
    with _open_plain(path) as reader:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(sha256=digest.hexdigest(), size=size)


def read_small_file(path: Path) -> bytes:
    """The bytes of the plain JSON or YAML file at `path`.

    Raises
    ------
    OSError, ValueError
        It cannot be read, is no plain file, or is too large for what it should be.
    """
    with _open_plain(path) as reader:
        content = reader.read(_LARGEST_DOCUMENT + 1)
    if len(content) > _LARGEST_DOCUMENT:
        raise ValueError(f"larger than {_LARGEST_DOCUMENT:,} bytes")
    return content


def _open_plain(path: Path) -> IO[bytes]:
    """A reader of the file at `path`, which is no link, pipe or device: those would lead out of the releases or hang."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("not a plain file")
    return os.fdopen(descriptor, "rb")


def is_folder(path: Path) -> bool:
    """Whether there is a folder at `path`, and not a link to a folder."""
    return path.is_dir() and not path.is_symlink()


def describe_error(error: BaseException) -> str:
    """What went wrong, in a line: of a validation error the first field, of others the message's first line."""
    text = str(error).strip()
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return text.splitlines()[0] if text else type(error).__name__
