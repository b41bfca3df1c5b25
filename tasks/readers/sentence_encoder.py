"""Sentence embeddings by a sentence-transformers model, which brings torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.errors import EpoxyError
from tasks.readers.encoder import Encoder, ModelChoice


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

    def encode(texts: Sequence[str]) -> npt.NDArray[np.floating]:
        vectors: npt.NDArray[np.floating] = model.encode(
            list(texts), batch_size=params.batch_size, show_progress_bar=False, convert_to_numpy=True
        )
        return vectors

    return encode
