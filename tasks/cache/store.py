"""A cache of what was slow to compute: one file per entry below data/.cache/<kind>, addressed by what determines it.

DVC removes a stage's outputs before it runs the stage, so that what one run may reuse of another has to be elsewhere.
Nothing here says whether a stage is done: the folder may be deleted at any time, every entry is checked before it is
believed, and a stage without its cache writes the same bytes, later.
"""

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

FOLDER = Path("data/.cache")

_FORMER = Path("data/.memo")
"""What the folder was called; nothing in it is of use any more, and it may be large."""

BUDGET = 8 * 2**30
"""Bytes per kind: some eight thousand columns of votes on a million items, or five million 384-d embeddings."""

_STALE = 24 * 3600
"""Seconds after which a half-written file is certain to have lost its writer."""

_CLOCK_NS = 10_000_000
"""Nanoseconds by which a file's time may lie before that of the clock: the kernel keeps it by a timer of 4 ms or more."""

_DIGEST = hashlib.sha256().digest_size

Part = str | int | float | bool | None | Sequence["Part"] | Mapping[str, "Part"]


def identify(*parts: Part) -> str:
    """The key of what `parts` determine: SHA-256, 64 hexadecimal digits, of their canonical JSON.

    >>> identify("votes", {"b": 1, "a": 2}) == identify("votes", {"a": 2, "b": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def identify_file(path: Path) -> str:
    """SHA-256 of the file's content, 64 hexadecimal digits."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def hash_as_dvc(path: Path) -> str:
    """What dvc.lock says of the file or folder at `path` where DVC wrote it."""
    if path.is_dir():
        files = [{"md5": hash_as_dvc(file), "relpath": file.name} for file in sorted(path.iterdir())]
        return hashlib.md5(json.dumps(files, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"
    with path.open("rb") as stored:
        return hashlib.file_digest(stored, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


class Cache:
    """The entries of one kind in the project at `root`; leaving its `with` block holds them to `budget` bytes.

    What goes is what was not used for the longest time. Any number of processes may use the same cache: an entry appears
    whole or not at all, and an entry that vanishes meanwhile counts as never written. A disk that cannot take an entry
    costs that entry only.
    """

    def __init__(self, root: Path, kind: str, *, budget: int = BUDGET) -> None:
        self._folder = root / FOLDER / kind
        self._budget = budget

    def __enter__(self) -> "Cache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._trim()

    def read(self, key: str) -> bytes | None:
        """The value of `key`; None where there is no entry, or a damaged entry, which is removed."""
        value = self.map(key)
        return None if value is None else bytes(value)

    def map(self, key: str) -> memoryview | None:
        """As `read`, but the value is a mapped file, which the system drops from memory when it is needed elsewhere.

        An entry is never written in place, so that it stays as it was checked for as long as somebody holds it.
        """
        path = self._folder / key
        try:
            with path.open("rb") as file:
                stored = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError:
            return None
        except ValueError:  # an empty file cannot be mapped
            stored = memoryview(b"")
        value = stored[_DIGEST:]
        is_sound = stored[:_DIGEST] == _check(key, [value])
        with contextlib.suppress(OSError):
            if is_sound:
                os.utime(path)
            else:
                path.unlink()
        return value if is_sound else None

    def read_all(self, prefix: str = "") -> Iterator[bytes]:
        """The values of all sound entries whose key begins with `prefix`, by key."""
        for path in sorted(self._folder.glob(f"{prefix}*")):
            value = self.read(path.name)
            if value is not None:
                yield value

    def find(self, prefix: str) -> list[str]:
        """The keys that begin with `prefix`, last written or read first; some may be of damaged entries."""
        found: list[tuple[int, str]] = []
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith(prefix):
                    with contextlib.suppress(OSError):
                        found.append((-entry.stat().st_mtime_ns, entry.name))
        return [name for _, name in sorted(found)]

    def keep_latest(self, prefix: str, count: int) -> None:
        """Remove the entries whose key begins with `prefix`, all but the `count` used last."""
        for key in self.find(prefix)[count:]:
            with contextlib.suppress(OSError):
                (self._folder / key).unlink(missing_ok=True)

    def write(self, key: str, *value: bytes | memoryview) -> None:
        """Keep the parts of `value`, one after the other, under `key` (letters, digits and '-')."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{key}.", suffix=".part", dir=self._folder)
            try:
                with os.fdopen(handle, "wb") as part:
                    part.write(_check(key, value))
                    part.writelines(value)
                # Not synced: after a power cut, the check tells what did not reach the disk.
                Path(name).replace(self._folder / key)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def _trim(self) -> None:
        """Remove the entries used longest ago until the rest fit the budget, and what killed processes left."""
        shutil.rmtree(self._folder.parents[2] / _FORMER, ignore_errors=True)
        entries: list[tuple[float, int, str]] = []
        with contextlib.suppress(OSError), os.scandir(self._folder) as found:
            for entry in found:
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    if not entry.name.startswith("."):
                        entries.append((status.st_mtime, status.st_size, entry.name))
                    elif time.time() - status.st_mtime > _STALE:
                        (self._folder / entry.name).unlink()
        total = sum(size for _, size, _ in entries)
        for _, size, name in sorted(entries):
            if total <= self._budget:
                break
            with contextlib.suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)
            total -= size


def forget_since(root: Path, began_ns: int) -> None:
    """Remove the entries of all kinds written or read since `began_ns`, of a computation that cannot be trusted."""
    for path in (root / FOLDER).glob("*/*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime_ns >= began_ns - _CLOCK_NS:
                path.unlink()


def _check(key: str, value: Iterable[bytes | memoryview]) -> bytes:
    """The head of an entry; it covers the key, too, so that a renamed entry is not believed."""
    digest = hashlib.sha256(key.encode())
    for part in value:
        digest.update(part)
    return digest.digest()
