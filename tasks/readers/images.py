"""A column of images, as paths or bytes: where each file is, what it holds, and why one cannot be used.

A path is looked up from the folder of its items' file, then from that of the project. The file must lie below `ingest.source`,
on which the stage depends as a whole: so an edited image runs ingest again, and nothing else on the machine is read.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.types import ITEM_ID, Float32
from tasks.errors import DataError
from tasks.progress import Progress
from tasks.readers.encoder import LoadEncoder, ModelChoice, encode_distinct
from tasks.readers.image_decoder import UnreadableImageError, decode_image, read_capped, require_pillow
from tasks.tables.validation import SHOWN

MOST_BYTES = 64 * 2**20
"""The size of an image file that is read; each is held in memory whole."""

CHUNK = 256
"""Images that are in memory at once, at some hundred kilobytes each, and that an entry of the cache holds."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images of n items: the SHA-256 of each, None where `problems` (by row) says why there is none.

    files: by row, None where the column holds the bytes themselves, which are `contents` then.
    """

    digests: list[bytes | None]
    files: list[Path | None]
    contents: pl.Series | None
    problems: dict[int, str]

    def fetch(self, row: int) -> bytes:
        """Return the bytes of the image of `row`.

        Raises
        ------
        DataError
            Its file changed since its digest was taken.
        """
        file = self.files[row]
        if file is None:
            assert self.contents is not None
            return bytes(self.contents[row])
        try:
            content = read_capped(file, MOST_BYTES)
        except UnreadableImageError as error:
            raise DataError(f"{file} changed while it was read: it {error}. Run again.") from None
        if hashlib.sha256(content).digest() != self.digests[row]:
            raise DataError(f"{file} changed while it was read. Run again when it is whole.")
        return content


def find_images(root: Path, source: Path, items: pl.DataFrame, column: str, known: Mapping[Path, pl.Series]) -> Images:
    """Return the images in `column` of `items`; `known`: ids by file of items.

    Raises
    ------
    DataError
        The column is missing, or holds neither paths nor bytes.
    """
    kind = items.schema.get(column)
    if kind not in (pl.String, pl.Binary):
        others = [
            name for name, of in items.schema.items() if of in (pl.String, pl.Binary) and name not in (ITEM_ID, "split")
        ]
        raise DataError(
            f"ingest.encoder.column: '{column}' holds {'nothing' if kind is None else kind}; expected paths of images, or bytes. Columns of "
            f"text or bytes are {', '.join(others) or 'none'}."
        )
    values = items[column]
    digests: list[bytes | None] = []
    files: list[Path | None] = []
    problems: dict[int, str] = {}
    folders = _find_folders(items[ITEM_ID], known) if kind == pl.String else []
    with Progress("reading images", total=len(values)) as progress:
        for row, value in enumerate(values):
            file, digest = None, None
            try:
                if value is None or not value:
                    raise UnreadableImageError("is empty")
                if kind == pl.String:
                    file = _find_file(root, source, folders[row], value)
                    digest = hashlib.sha256(read_capped(file, MOST_BYTES)).digest()
                elif len(value) > MOST_BYTES:
                    raise UnreadableImageError(f"has more than {MOST_BYTES:,} bytes")
                else:
                    digest = hashlib.sha256(value).digest()
            except UnreadableImageError as error:
                problems[row] = f"{value!r} {error}" if kind == pl.String and value else f"{column} {error}"
            files.append(file)
            digests.append(digest)
            progress.advance()
    return Images(digests=digests, files=files, contents=None if kind == pl.String else values, problems=problems)


def _find_folders(ids: pl.Series, known: Mapping[Path, pl.Series]) -> list[Path]:
    """The folder of the file that each item is from: the last that has it, as where ids occur twice."""
    of = {item: file.parent for file, own in known.items() for item in own.to_list()}
    return [of[item] for item in ids.to_list()]


def _find_file(root: Path, source: Path, folder: Path, value: str) -> Path:
    """The file that `value` names.

    Raises
    ------
    UnreadableImageError
        There is none, or it is where DVC does not look.
    """
    if "\0" in value or "://" in value:
        raise UnreadableImageError("is no path of a file; download images into the folder of ingest.source")
    try:
        found = next((path for path in (folder / value, root / value) if path.is_file()), None)
    except OSError as error:  # a name that is too long
        raise UnreadableImageError(f"cannot be looked at: {error.strerror}") from None
    if found is None:
        shown = folder.relative_to(root) if folder.is_relative_to(root) else folder
        raise UnreadableImageError(f"is no file, neither from {shown} nor from the project's folder")
    real, inside = found.resolve(), source.resolve()
    if not real.is_relative_to(inside):
        raise UnreadableImageError(
            "lies outside ingest.source, so that nothing would notice when it changes; put it there"
        )
    within = real.relative_to(inside)
    if any(part.startswith((".", "#")) or part.endswith("~") for part in within.parts):
        raise UnreadableImageError("has a hidden name, which DVC passes over; rename it")
    return source / within


@dataclass(frozen=True, kw_only=True)
class EncodedImages:
    """Vectors of the images that can be read: item `items[i]` (a position) has row `rows[i]` of `matrix`; and of each other item why not."""

    matrix: Float32
    items: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    problems: dict[int, str]


def encode_images(root: Path, images: Images, params: ModelChoice, load: LoadEncoder) -> EncodedImages:
    """Return the vectors of `images`, from the cache where possible, else from the encoder.

    Raises
    ------
    EpoxyError
        As for `encode_distinct`; Pillow is missing; or there is no image at all.
    """
    require_pillow(params.model)
    first: dict[bytes, int] = {}
    for row, digest in enumerate(images.digests):
        if digest is not None:
            first.setdefault(digest, row)
    if not first:
        reasons = "; ".join(list(images.problems.values())[:SHOWN])
        raise DataError(f"ingest.encoder: no item has an image that can be read: {reasons}.")
    keys = sorted(first)

    def fetch(rows: list[int]) -> pl.Series:
        return pl.Series([images.fetch(first[keys[row]]) for row in rows], dtype=pl.Binary)

    matrix = encode_distinct(root, keys, fetch, params, load, CHUNK)
    failed: dict[bytes, str] = {}
    for at in np.flatnonzero(np.isnan(matrix[:, 0])).tolist():
        try:
            decode_image(images.fetch(first[keys[at]]))
        except UnreadableImageError as error:
            failed[keys[at]] = str(error)
    position = {key: at for at, key in enumerate(keys)}
    problems, items, rows = dict(images.problems), [], []
    for row, digest in enumerate(images.digests):
        if digest is None:
            continue
        if digest in failed:
            file = images.files[row]
            shown = "the image" if file is None else str(file.relative_to(root) if file.is_relative_to(root) else file)
            problems[row] = f"{shown} {failed[digest]}"
        else:
            items.append(row)
            rows.append(position[digest])
    return EncodedImages(
        matrix=matrix,
        items=np.array(items, np.int64),
        rows=np.array(rows, np.int64),
        problems=dict(sorted(problems.items())),
    )
