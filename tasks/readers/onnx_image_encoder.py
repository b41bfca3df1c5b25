"""Embeddings of images by an ONNX file, on the processor and without torch.

A model is what transformers and Optimum export of an image model: a `.onnx` file (by itself or in a folder `onnx`), and beside
that `preprocessor_config.json`, which says how large its images are and how they are scaled. Of CLIP and its kin it is the file of
the image half.

Images go through the model one by one, so that no bit of a vector can depend on what else is encoded.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core.types import Float32
from tasks.errors import EpoxyError
from tasks.readers.encoder import ModelChoice
from tasks.readers.image_decoder import UnreadableImageError, decode_image, require_pillow
from tasks.readers.onnx_encoder import find_model_folder, open_session

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

CONFIG = "preprocessor_config.json"

_OUTPUTS = ("image_embeds", "pooler_output")
"""Outputs that are the embedding of an image, the best first; of a model that has none of them the first output is taken."""

_LARGEST = 4096
"""Pixels of a side that a configuration may ask for."""


class OnnxImageEncoder:
    """Turns the bytes of image files into vectors, each by itself."""

    def __init__(self, session: Any, settings: "Settings") -> None:
        self._session, self._settings = session, settings
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] in (1, 4):
            shown = ", ".join(f"{field.name} {field.shape}" for field in inputs)
            raise ValueError(
                f"it reads {shown}; expected a single input of images, (n, 3, height, width). Of a model of texts and images "
                "export the image half"
            )
        self._input = inputs[0].name
        names = [field.name for field in session.get_outputs()]
        self._output = next((name for name in _OUTPUTS if name in names), names[0])
        self._width = len(self._run(np.zeros((3, *settings.shape), np.float32)))

    def __call__(self, contents: Sequence[bytes]) -> Float32:
        """Return the vectors (n, d) of image files; NaN of those that cannot be read."""
        return np.stack([self._encode(content) for content in contents])

    def _encode(self, content: bytes) -> Float32:
        try:
            return self._run(self._settings.prepare(decode_image(content)))
        except UnreadableImageError:
            return np.full(self._width, np.nan, np.float32)

    def _run(self, pixels: Float32) -> Float32:
        (output,) = self._session.run([self._output], {self._input: pixels[None]})
        state = np.asarray(output[0], np.float64)
        if state.ndim == 2:  # a vector for the image, then one for each patch of it
            state = state[0]
        elif state.ndim == 3:  # (d, height, width)
            state = state.mean(axis=(1, 2))
        return state.astype(np.float32)


class Settings:
    """What the file beside a model says of how an image becomes its input."""

    def __init__(self, found: dict[str, Any]) -> None:
        size = found.get("size", 224) if found.get("do_resize", True) else None
        self.shortest = size if isinstance(size, int) else (size or {}).get("shortest_edge")
        self.exact = _read_shape("size", size) if size is not None and self.shortest is None else None
        crop = found.get("crop_size", 224) if found.get("do_center_crop", self.exact is None) else None
        self.crop = None if crop is None else _read_shape("crop_size", crop)
        shape = self.crop or self.exact
        if shape is None:
            raise ValueError(f"{CONFIG} gives neither a crop_size nor a size of height and width")
        self.shape: tuple[int, int] = shape
        for side in (*self.shape, *(self.exact or ()), self.shortest or 1):
            if not isinstance(side, int) or not 1 <= side <= _LARGEST:
                raise ValueError(f"{CONFIG} asks for {side!r} pixels; expected 1 to {_LARGEST:,}")
        self.resample = int(found.get("resample", 2))
        if self.resample not in range(6):
            raise ValueError(f"{CONFIG}: resample is {self.resample}; expected 0 to 5, as Pillow counts its filters")
        self.factor = float(found.get("rescale_factor", 1 / 255)) if found.get("do_rescale", True) else 1.0
        is_scaled = found.get("do_normalize", True)
        self.mean = np.array(found.get("image_mean", [0.485, 0.456, 0.406]) if is_scaled else [0.0] * 3, np.float64)
        self.deviation = np.array(found.get("image_std", [0.229, 0.224, 0.225]) if is_scaled else [1.0] * 3, np.float64)
        if self.mean.shape != (3,) or self.deviation.shape != (3,) or not (self.deviation > 0).all():
            raise ValueError(f"{CONFIG}: image_mean and image_std are three numbers each, the latter above zero")
        self.is_reversed = bool(found.get("do_flip_channel_order", False))

    def prepare(self, picture: "Picture") -> Float32:
        """Return the input of the model, (3, height, width)."""
        from PIL.Image import Resampling

        filter_ = Resampling(self.resample)
        if self.exact is not None:
            picture = picture.resize((self.exact[1], self.exact[0]), filter_)
        elif self.shortest is not None:
            width, height = picture.size
            least = min(width, height)
            most = int(self.shortest * max(width, height) / least)
            if most > _LARGEST * 16:
                raise UnreadableImageError("is too long and thin")
            picture = picture.resize((self.shortest, most) if width <= height else (most, self.shortest), filter_)
        if self.crop is not None:
            left, top = (picture.width - self.crop[1]) // 2, (picture.height - self.crop[0]) // 2
            picture = picture.crop((left, top, left + self.crop[1], top + self.crop[0]))
        pixels = (np.asarray(picture, np.float64) * self.factor - self.mean) / self.deviation
        if self.is_reversed:
            pixels = pixels[:, :, ::-1]
        return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)


def _read_shape(key: str, value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if not isinstance(value, dict) or not {"height", "width"} <= value.keys():
        raise ValueError(f"{CONFIG}: {key} is {value!r}; expected a number, or height and width")
    return value["height"], value["width"]


def load_encoder(root: Path, params: ModelChoice) -> OnnxImageEncoder:
    """Return the encoder in the file `params.model` below `root`.

    Raises
    ------
    EpoxyError
        ONNX Runtime or Pillow is not installed, or the model or its configuration is missing or cannot be used.
    """
    try:
        import onnxruntime  # noqa: F401, opened by `open_session`
    except ImportError:
        raise EpoxyError(
            f"ingest.encoder: '{params.model}' needs onnxruntime. Install it: pip install 'epoxy-flow[onnx]'"
        ) from None
    require_pillow(params.model)
    file = root / params.model
    folder = find_model_folder(file)
    for needed in (file, folder / CONFIG):
        if not needed.is_file():
            raise EpoxyError(
                f"ingest.encoder: '{params.model}' needs {needed.relative_to(root)}, which is missing. A model is its .onnx "
                f"file with the {CONFIG} that was published with it, or one that you write: "
                '{"size": 256, "crop_size": 224} and, if they differ from ImageNet\'s, image_mean and image_std.'
            )
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{CONFIG} holds no object of settings")
        session = open_session(file)
        return OnnxImageEncoder(session, Settings(found))
    except Exception as error:  # ONNX Runtime raises classes of its own
        raise EpoxyError(f"ingest.encoder: '{params.model}' cannot be loaded: {error}") from None
