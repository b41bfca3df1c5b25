"""Sentence embeddings by an ONNX file, on the processor and without torch.

A model is what sentence-transformers publishes as ONNX: `model.onnx` (by itself or in a folder `onnx`), and beside that
`tokenizer.json`, and where there are, `sentence_bert_config.json`, `1_Pooling/config.json` and `modules.json`.

Texts go through the model one by one. On a processor that takes no longer than in batches, which pad every text to the
longest (60 texts of six tasks, all-MiniLM-L6-v2, one thread: 5.3 s against 8.5 s), and no bit of a vector can depend on
what else is encoded.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tasks.core.types import Float32
from tasks.errors import EpoxyError

SUFFIX = ".onnx"

LONGEST = 512
"""Tokens of a text that are read where the model does not say: what BERT and its kin can take."""

_OUTPUTS = ("sentence_embedding", "text_embeds")
"""Outputs that are the embedding of a text (the latter of CLIP's text half); of a model without them the first output is taken."""

_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


class ModelChoice(Protocol):
    """What has to be known to load a model, as `EncoderParams` has it."""

    @property
    def model(self) -> str:
        """A file that ends in .onnx, inside the project."""


class OnnxEncoder:
    """Turns texts into unit vectors, each by itself."""

    def __init__(self, session: Any, tokenizer: Any, settings: "_Settings") -> None:
        self._session, self._tokenizer, self._settings = session, tokenizer, settings
        self._inputs = [field.name for field in session.get_inputs()]
        outputs = [field.name for field in session.get_outputs()]
        self._output = next((name for name in _OUTPUTS if name in outputs), outputs[0])

    def __call__(self, texts: Sequence[str]) -> Float32:
        """Return the vectors of `texts`, (n, d)."""
        return np.stack([self._encode(text) for text in texts])

    def count_tokens(self, text: str) -> int:
        """Return the tokens of `text`, those beyond `longest` among them."""
        self._tokenizer.no_truncation()
        count = len(self._tokenizer.encode(text).ids)
        self._tokenizer.enable_truncation(self.longest)
        return count

    @property
    def longest(self) -> int:
        """The tokens of a text that are read; those beyond do not count."""
        return self._settings.longest

    def _encode(self, text: str) -> Float32:
        found = self._tokenizer.encode(text)
        tokens = np.array([found.ids], np.int64)
        known = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "token_type_ids": np.array([found.type_ids], np.int64),
        }
        (output,) = self._session.run([self._output], {name: known[name] for name in self._inputs})
        states = output[0].astype(np.float64)
        if states.ndim == 2:
            states = states.mean(axis=0) if self._settings.pooling == "mean" else states[0]
        norm = float(np.sqrt((states**2).sum())) if self._settings.is_normalized else 0.0
        vector: Float32 = (states / norm if norm else states).astype(np.float32)
        return vector


class _Settings:
    """What the files beside a model say of it."""

    def __init__(self, folder: Path) -> None:
        self.longest = int(_read(folder / "sentence_bert_config.json").get("max_seq_length") or 0)
        pooling = _read(folder / "1_Pooling" / "config.json")
        modes = sorted(mode for mode, value in pooling.items() if mode.startswith("pooling_mode") and value is True)
        if len(modes) > 1 or (modes and modes[0] not in _POOLINGS):
            raise ValueError(f"1_Pooling/config.json asks for {', '.join(modes)}; known are {', '.join(_POOLINGS)}")
        self.pooling = _POOLINGS[modes[0]] if modes else "mean"
        modules = _read(folder / "modules.json", [])
        kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
        if other := sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"}):
            raise ValueError(f"modules.json asks for {', '.join(other)}, which is not in the ONNX file")
        self.is_normalized = not modules or "Normalize" in kinds


def find_model_folder(file: Path) -> Path:
    """The folder of a model whose .onnx file is `file`: beside it, or above its folder `onnx`, is what was published with it."""
    return file.parent.parent if file.parent.name == "onnx" else file.parent


def open_session(file: Path) -> Any:
    """A session of ONNX Runtime with the model in `file`, without what is optimized otherwise on each processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; warnings are about how a graph was exported
    # Further optimization picks other kernels for other processors, and with them other last bits.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def load_encoder(root: Path, params: ModelChoice) -> OnnxEncoder:
    """Return the encoder in the file `params.model` below `root`.

    Raises
    ------
    EpoxyError
        ONNX Runtime or tokenizers is not installed, or the model or its tokenizer is missing or cannot be loaded.
    """
    try:
        import onnxruntime  # noqa: F401, opened by `open_session`
        import tokenizers
    except ImportError as missing:
        raise EpoxyError(
            f"ingest.encoder: '{params.model}' needs {missing.name}. Install it: pip install 'epoxy-flow[onnx]'"
        ) from None
    file = root / params.model
    folder = find_model_folder(file)
    for needed in (file, folder / "tokenizer.json"):
        if not needed.is_file():
            raise EpoxyError(
                f"ingest.encoder: '{params.model}' needs {needed.relative_to(root)}, which is missing. A model is its "
                ".onnx file with the tokenizer.json that was published with it."
            )
    try:
        settings = _Settings(folder)
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()
        settings.longest = settings.longest or int((tokenizer.truncation or {}).get("max_length", LONGEST))
        tokenizer.enable_truncation(settings.longest)
        session = open_session(file)
    except Exception as error:  # tokenizers raises Exception itself, ONNX Runtime classes of its own
        raise EpoxyError(f"ingest.encoder: '{params.model}' cannot be loaded: {error}") from None
    return OnnxEncoder(session, tokenizer, settings)


def _read(path: Path, default: Any = None) -> Any:
    """The JSON in the file at `path`; `default`, or an empty mapping, where there is none."""
    if not path.is_file():
        return {} if default is None else default
    return json.loads(path.read_text(encoding="utf-8"))
