"""A release as questions need it: the files they read, compared with its manifest."""

from pathlib import Path

from flows.releases.manifest import FOLDER
from flows.releases.store import CURRENT, check_file, find_release, read_current, read_release
from tasks.queries.project_data import ReleaseData

_ASKED = ("labels.parquet", "votes.parquet", "provenance.parquet", "thresholds.json", "model.parquet", "rows.parquet")


def open_release(root: Path, name: str = CURRENT) -> ReleaseData:
    """Return release `name` (`current`, an id, or its first characters), the bytes of what questions read checked.

    Raises
    ------
    DataError
        There is no such release here, or it is damaged.
    """
    release = read_release(root, find_release(root, name))
    for file in _ASKED:
        check_file(release, file)
    return ReleaseData(name=release.id, path=release.path, classes=tuple(release.manifest.classes))


def open_current(root: Path) -> ReleaseData | None:
    """Return the current release, None where there is none.

    Raises
    ------
    DataError
        It is damaged.
    """
    folder = root / FOLDER
    return open_release(root) if folder.is_dir() and read_current(folder) is not None else None
