"""encoder: pixels: images made small, without a model; near each other are those that look alike at a glance."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.core.types import Float32
from tasks.readers.encoder import Encoder, ModelChoice
from tasks.readers.image_decoder import UnreadableImageError, decode_image, require_pillow

SIDE = 16
"""Pixels of a side of the small image."""

WIDTH = 3 * SIDE * SIDE + 1
"""Dimensions of a vector."""


def encode_images(contents: Sequence[bytes]) -> Float32:
    """Return the vectors (n, WIDTH) of image files; NaN of those that cannot be read.

    A vector is what `SIDE` by `SIDE` pixels of three colors differ from their mean, and that mean less a half, by which an image
    of one color has a direction, too. With the mean left in, all bright images would be near each other.
    """
    return np.stack([_encode(content) for content in contents])


def _encode(content: bytes) -> Float32:
    from PIL.Image import Resampling

    try:
        picture = decode_image(content)
    except UnreadableImageError:
        return np.full(WIDTH, np.nan, np.float32)
    small = np.asarray(picture.resize((SIDE, SIDE), Resampling.BOX), np.float64).ravel() / 255
    mean = small.mean()
    return np.append(small - mean, mean - 0.5).astype(np.float32)


def load_encoder(root: Path, params: ModelChoice) -> Encoder:
    """Return the encoder, which needs nothing of the project at `root`.

    Raises
    ------
    EpoxyError
        Pillow is not installed.
    """
    require_pillow(params.model)
    return encode_images
