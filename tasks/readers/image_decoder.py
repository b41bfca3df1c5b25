"""Images as arrays of pixels, from the bytes of a file that nobody has vetted."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import EpoxyError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is read. Pillow knows others, some of which start a program (EPS) or ask for what is not in the file."""

MOST_PIXELS = 64_000_000
"""Pixels of an image that is unpacked: 192 MB of memory, and more than a camera's. A file of a kilobyte can claim billions."""

_DEEP = {"I;16", "I;16B", "I;16L", "I;16N"}
"""What Pillow calls grays of 16 bits."""

_ORIENTATION = 0x0112
"""The tag of EXIF by which a camera says how it was held."""


class UnreadableImageError(Exception):
    """Bytes that are no image, or none that can be read; the message says why."""


def require_pillow(model: str) -> None:
    """Check that Pillow is installed.

    Raises
    ------
    EpoxyError
        It is not; `model` is what needs it.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise EpoxyError(
            f"ingest.encoder: '{model}' needs Pillow to read images. Install it: pip install 'epoxy-flow[onnx]'"
        ) from None


def decode_image(content: bytes) -> "Picture":
    """Return the image in `content` as RGB, upright, on white where it is transparent; of several frames the first.

    Raises
    ------
    UnreadableImageError
        The bytes are none of `FORMATS`, end early, are damaged, or unpack to more than `MOST_PIXELS`.
    """
    from PIL import Image, ImageOps

    try:
        picture: Picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise UnreadableImageError(_describe_bomb(None)) from None
    except Exception:  # Pillow raises OSError, ValueError, SyntaxError, struct.error and others for damaged heads
        raise UnreadableImageError(f"is none of {', '.join(FORMATS)}, or its head is damaged") from None
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise UnreadableImageError(_describe_bomb((width, height)))
    try:
        picture.load()
        if picture.getexif().get(_ORIENTATION, 1) != 1:
            picture = ImageOps.exif_transpose(picture)
        return _to_rgb(picture)
    except Exception as error:
        raise UnreadableImageError(f"ends early or is damaged ({str(error) or type(error).__name__})") from None


def _describe_bomb(size: tuple[int, int] | None) -> str:
    claimed = f"{size[0]:,} by {size[1]:,}" if size else "far more"
    return f"unpacks to {claimed} pixels, of which {MOST_PIXELS:,} are the most that are read"


def _to_rgb(picture: "Picture") -> "Picture":
    from PIL import Image

    if picture.mode in _DEEP or picture.mode == "I":
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        over = picture.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        white.alpha_composite(over)
        picture = white
    return picture.convert("RGB")


def read_capped(path: Path, most: int) -> bytes:
    """Return the bytes of the file at `path`.

    Raises
    ------
    UnreadableImageError
        It cannot be read, or has more than `most` bytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UnreadableImageError(f"cannot be read: {error.strerror}") from None
    if len(content) > most:
        raise UnreadableImageError(f"has more than {most:,} bytes")
    return content
