"""Since when rows have been in quarantine: the first release made of data in which they were."""

from pathlib import Path

import polars as pl

from flows.releases.manifest import QUARANTINED
from flows.releases.store import check_file, list_releases, read_release
from tasks.core.types import ITEM_ID
from tasks.tables import schemas
from tasks.tables.parquet import read_table

_BY_ID = (ITEM_ID, "reason")
_BY_ROW = ("file", "row", "reason", "found")
"""What tells rows without an id apart."""


def find_first_seen(root: Path, rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` of a quarantine with the columns `first_seen`, a release that is here, and `since`, its time; null: in none.

    A row with an id is the same in another release if it has the same reason there, wherever it stands; one without is if
    file, row and what was found are the same.

    Raises
    ------
    DataError
        A release is damaged.
    """
    seen: dict[tuple[object, ...], tuple[str, str | None]] = {}
    for listed in list_releases(root):
        if listed.is_here:
            release = read_release(root, listed.id)
            if QUARANTINED in release.manifest.files:
                time = f"{listed.made.time[:19]}Z" if listed.made else None
                for key in _name_rows(read_table(check_file(release, QUARANTINED), schemas.QUARANTINE)):
                    seen.setdefault(key, (listed.id, time))
    found = [seen.get(key, (None, None)) for key in _name_rows(rows)]
    return rows.with_columns(
        pl.Series("first_seen", [release for release, _ in found], dtype=pl.String),
        pl.Series("since", [time for _, time in found], dtype=pl.String),
    )


def _name_rows(rows: pl.DataFrame) -> list[tuple[object, ...]]:
    """What tells each row from others."""
    return [
        tuple(row[name] for name in (_BY_ROW if row[ITEM_ID] is None else _BY_ID)) for row in rows.iter_rows(named=True)
    ]
