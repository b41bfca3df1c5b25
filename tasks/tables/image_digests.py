"""The columns of the items beside paths of images that say what each file held when ingest read it."""

from pathlib import Path

import polars as pl

from tasks.tables.parquet import read_schema
from tasks.tables.paths import ITEMS

DIGEST = "{}_sha256"
"""The column beside a column of paths: with it an edited image is an edited item."""


def read_image_digests(root: Path) -> dict[Path, str]:
    """Return the SHA-256 of each image file that the items of the project at `root` name, by its absolute path."""
    schema = read_schema(root / ITEMS)
    found: dict[Path, str] = {}
    for name in schema:
        digest = DIGEST.format(name)
        if schema.get(digest) == pl.String and schema[name] == pl.String:
            rows = pl.read_parquet(root / ITEMS, columns=[name, digest]).drop_nulls().iter_rows()
            found |= {(root / path).resolve(): said for path, said in rows}
    return found
