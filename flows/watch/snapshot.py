"""A copy of what a user edits, taken at once when it changes.

The votes of an LF thus belong to the text that was copied, even if an editor writes while LFs run.
"""

import contextlib
import time
from pathlib import Path

from tasks.cache.store import identify_file
from tasks.lf.observation import find_lf_files
from tasks.params_file import FILE
from tasks.tables.paths import CELLS, EMBEDDINGS, INDEX, INDEX_DESCRIPTION, ITEMS, VALID_GOLD

INPUTS = (ITEMS, VALID_GOLD, EMBEDDINGS, INDEX, INDEX_DESCRIPTION, CELLS)
"""What ingest, gold and index write and a session reads; gold of the test split is not among it."""

_SETTLED_NS = 100_000_000
"""A file written less than a tenth of a second ago is read again: times are too coarse to tell two writes apart."""

Stamp = tuple[int, int, int]


class Snapshot:
    """params.yaml and lfs/ of the project at `root` as of the last update, copied into the folder `copy`.

    contents: hashes of the copied files by name, relative to the root. inputs: see `INPUTS`; what changes with each
    file, None where there is none.
    """

    def __init__(self, root: Path, copy: Path) -> None:
        self._root, self._copy = root, copy
        self._stamps: dict[Path, Stamp] = {}
        self.contents: dict[str, str] = {}
        self.inputs: tuple[Stamp | None, ...] = ()

    def update(self) -> bool:
        """Whether params, LFs or what ingest, gold and index wrote changed since the last update; takes over what did."""
        stamps, contents = {}, {}
        for path in (self._root / FILE, *find_lf_files(self._root)):
            stamp, name = _stamp(path), path.relative_to(self._root).as_posix()
            with contextlib.suppress(FileNotFoundError):  # replaced at this moment: the next update will see by what
                is_known = stamp is not None and self._stamps.get(path) == stamp
                contents[name] = self.contents[name] if is_known else self._take(path, name)
                if stamp is not None and time.time_ns() - stamp[0] > _SETTLED_NS:
                    stamps[path] = stamp
        for name in set(self.contents) - set(contents):
            (self._copy / name).unlink()
        inputs = tuple(_stamp(self._root / name) for name in INPUTS)
        is_changed = contents != self.contents or inputs != self.inputs
        self._stamps, self.contents, self.inputs = stamps, contents, inputs
        return is_changed

    def _take(self, path: Path, name: str) -> str:
        """The hash of a file's content, after copying it."""
        content = path.read_bytes()
        (self._copy / name).parent.mkdir(parents=True, exist_ok=True)
        (self._copy / name).write_bytes(content)
        return identify_file(self._copy / name)


def _stamp(path: Path) -> Stamp | None:
    """What changes when the file does, without reading it; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
