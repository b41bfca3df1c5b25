"""Pictures of items for the pages: bytes of an image, a square of numbers, or the file that an image's path names."""

import base64
import functools
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.readers.image_decoder import UnreadableImageError, decode_image, read_capped
from tasks.readers.images import MOST_BYTES
from tasks.report.pictures import draw_square
from tasks.tables.image_digests import DIGEST

_SIDE = 256
"""Pixels of the longer side of what is shown of an image file: a page shows dozens."""

_STARTS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


def draw(value: object) -> str | None:
    """Return the address of a picture of `value`: bytes of an image, or a square of at least 16 numbers; None of others.

    >>> draw("text") is None, draw([0] * 15) is None
    (True, True)
    """
    if isinstance(value, bytes):
        kind = next((kind for start, kind in _STARTS.items() if value.startswith(start)), None)
        return None if kind is None else f"data:image/{kind};base64,{base64.b64encode(value).decode()}"
    square = draw_square(value)
    if square is None:
        return None
    svg = square.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def draw_file(root: Path, row: Mapping[str, Any], name: str) -> str | None:
    """Return the address of a small copy of the image that column `name` of an item names; None where it names none.

    It is read only if it lies inside the project at `root` and is still what ingest read, by the digest beside its path. What
    is shown is made of its pixels anew: nothing else of the file reaches the page.
    """
    path, digest = row.get(name), row.get(DIGEST.format(name))
    if not isinstance(path, str) or not isinstance(digest, str):
        return None
    file = (root / path).resolve()
    return _draw_file(file, digest) if file.is_relative_to(root.resolve()) else None


@functools.lru_cache(maxsize=512)
def _draw_file(file: Path, digest: str) -> str | None:
    try:
        content = read_capped(file, MOST_BYTES)
        if hashlib.sha256(content).hexdigest() != digest:
            return None
        small = decode_image(content)
    except (UnreadableImageError, ImportError):
        return None
    small.thumbnail((_SIDE, _SIDE))
    packed = io.BytesIO()
    small.save(packed, "PNG")
    return f"data:image/png;base64,{base64.b64encode(packed.getvalue()).decode()}"
