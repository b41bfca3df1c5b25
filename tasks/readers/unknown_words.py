"""Texts of which an ONNX model's tokenizer knows hardly a word: in another script, say, than the model was trained on.

Their tokens are nearly all the same "unknown", and so are their vectors, whatever they say.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.readers.onnx_encoder import SUFFIX, find_model_folder

SAMPLE = 1_000
"""Texts that are looked at."""

MOSTLY = 0.5
"""Share of unknown tokens from which on a text is as good as unread."""

OFTEN = 0.1
"""Share of unread items that is worth a warning: a few odd texts are everywhere."""


def find_unread(root: Path, model: str, texts: Sequence[str]) -> list[str]:
    """Return those of `texts` whose tokens are mostly unknown to `model`, a file below `root`.

    None are where the model is no .onnx file, where its tokenizer reads everything (as those of bytes do), and where the
    extra is missing that brings tokenizers, since vectors that lie in the cache do without.
    """
    if not model.endswith(SUFFIX):
        return []
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return []
    path = find_model_folder(root / model) / "tokenizer.json"
    unknown = _find_unknown(json.loads(path.read_text(encoding="utf-8"))["model"])
    if unknown is None:
        return []
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    number = tokenizer.token_to_id(unknown)
    if number is None:
        return []
    unread = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if ids and ids.count(number) >= MOSTLY * len(ids):
            unread.append(text)
    return unread


def describe_unread(root: Path, model: str, texts: pl.Series) -> str | None:
    """Return a sentence on items' `texts` if `model` knows hardly a word of many of them, else None."""
    drawn = np.random.default_rng(0).permutation(len(texts))[:SAMPLE]
    unread = find_unread(root, model, texts.gather(np.sort(drawn)).to_list())
    if len(unread) <= OFTEN * len(drawn):
        return None
    return (
        f"'{model}' knows at most half of the words of {len(unread):,} of {len(drawn):,} items that were looked at, such as "
        f"{unread[0][:40]!r}: to it they are much the same. Take a model that was trained on texts like them"
    )


def _find_unknown(model: dict[str, Any]) -> str | None:
    """The token that stands for what is not known, of the `model` in a tokenizer.json."""
    if model.get("unk_id") is not None:  # of Unigram, a position in its vocabulary
        return str(model["vocab"][model["unk_id"]][0])
    token = model.get("unk_token")
    return None if token is None else str(token)
