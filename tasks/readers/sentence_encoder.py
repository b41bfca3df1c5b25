"""Sentence embeddings by a sentence-transformers model, which brings torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import EpoxyError
from tasks.readers.encoder import Encoder, ModelChoice


class _SentenceEncoder:
    """Turns texts into vectors, batch by batch."""

    def __init__(self, model: Any, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.floating]:
        """Return the vectors of `texts`, (n, d)."""
        vectors: npt.NDArray[np.floating] = self._model.encode(
            list(texts), batch_size=self._batch_size, show_progress_bar=False, convert_to_numpy=True
        )
        return vectors

    def count_tokens(self, text: str) -> int:
        """Return the tokens of `text`, those beyond `longest` among them."""
        return len(self._model.tokenizer(text, truncation=False)["input_ids"])

    @property
    def longest(self) -> int:
        """The tokens of a text that are read."""
        return int(self._model.max_seq_length)


def load_encoder(root: Path, params: ModelChoice) -> Encoder:
    """The sentence-transformers model `params.model`, from safetensors weights alone; code shipped with it is not run.

    Raises
    ------
    EpoxyError
        sentence-transformers is not installed, or the model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise EpoxyError(
            f"ingest.encoder: '{params.model}' needs sentence-transformers. Install it: pip install 'epoxy-flow[text]'"
        ) from None
    folder = root / params.model
    try:
        model = SentenceTransformer(
            str(folder) if folder.is_dir() else params.model,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError) as error:
        raise EpoxyError(f"ingest.encoder: '{params.model}' cannot be loaded: {error}") from None

    return _SentenceEncoder(model, params.batch_size)
