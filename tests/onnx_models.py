"""Encoders of sentences and images as ONNX files of some hundred bytes, so that the real runtime is tested without a download.

The protocol's own words: a field is its number and kind in one number, then a number or counted bytes.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

WORDS = ("[UNK]", "war", "vote", "goal", "team", "shares", "profit", "phone", "code", "the")


def _number(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return _number(number << 3) + _number(value)
    content = value.encode() if isinstance(value, str) else value
    return _number(number << 3 | 2) + _number(len(content)) + content


def _tensor(name: str, array: npt.NDArray[np.float32]) -> bytes:
    return (
        b"".join(_field(1, size) for size in array.shape) + _field(2, 1) + _field(8, name) + _field(9, array.tobytes())
    )


def _value(name: str, kind: int, *sizes: str | int) -> bytes:
    shape = b"".join(_field(1, _field(1, size) if isinstance(size, int) else _field(2, size)) for size in sizes)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, shape)))


def write_model(folder: Path, vectors: npt.NDArray[np.float32], longest: int = 8) -> Path:
    """The model.onnx below `folder` that gives the word `WORDS[i]` the vector `vectors[i]`, and a text the mean of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    node = _field(1, "vectors") + _field(1, "input_ids") + _field(2, "last_hidden_state") + _field(4, "Gather")
    graph = (
        _field(1, node)
        + _field(2, "words")
        + _field(5, _tensor("vectors", vectors.astype(np.float32)))
        + _field(11, _value("input_ids", 7, "texts", "tokens"))
        + _field(12, _value("last_hidden_state", 1, "texts", "tokens", vectors.shape[1]))
    )
    model = _field(1, 8) + _field(7, graph) + _field(8, _field(2, 17))
    (folder / "model.onnx").write_bytes(model)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "sentence_bert_config.json").write_text(f'{{"max_seq_length": {longest}}}')
    return folder / "model.onnx"


def write_image_model(path: Path) -> None:
    """The model at `path` whose embedding of an image is the mean of each of its three channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    node = _field(1, "pixel_values") + _field(2, "pooler_output") + _field(4, "GlobalAveragePool")
    graph = (
        _field(1, node)
        + _field(2, "means")
        + _field(11, _value("pixel_values", 1, "images", 3, "height", "width"))
        + _field(12, _value("pooler_output", 1, "images", 3, 1, 1))
    )
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(2, 17)))
