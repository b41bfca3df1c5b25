"""encoder: a file that ends in .onnx; the real runtime and tokenizer with a model of ten words."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from onnx_models import WORDS, write_model

from tasks.cache.store import FOLDER
from tasks.errors import EpoxyError, ParamsError
from tasks.ingest import run
from tasks.params import EncoderParams, IngestParams
from tasks.readers.encoder import CACHE_KIND, EncodedTexts, encode_texts
from tasks.readers.onnx_encoder import OnnxEncoder, load_encoder
from tasks.readers.unknown_words import find_unread
from tasks.tables.parquet import read_table
from tasks.tables.paths import EMBEDDINGS
from tasks.tables.schemas import embeddings

MODEL = "models/words/model.onnx"
VECTORS = np.random.default_rng(0).normal(size=(len(WORDS), 16)).astype(np.float32)
TEXTS = ["war", "the war vote", "goal team the the the", "phone", "code phone", "nothing known"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_model(tmp_path / "models" / "words", VECTORS)
    return tmp_path


def load(root: Path) -> OnnxEncoder:
    return load_encoder(root, EncoderParams(model=MODEL))


def encode(root: Path, texts: list[str], batch_size: int = 64) -> EncodedTexts:
    return encode_texts(root, pl.Series(texts), EncoderParams(model=MODEL, batch_size=batch_size), load_encoder)


def test_a_text_is_the_mean_of_its_tokens_at_length_one(root: Path) -> None:
    (found,) = load(root)(["the war vote"])
    mean = VECTORS[[WORDS.index(word) for word in ("the", "war", "vote")]].mean(axis=0)
    assert found == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


class TwoOutputs:
    """A session of the text half of CLIP: states of tokens, and what lies beside the vectors of images."""

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="input_ids")]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="last_hidden_state"), SimpleNamespace(name="text_embeds")]

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        known = {"last_hidden_state": np.ones((1, 2, 3)), "text_embeds": np.array([[0.0, 2.0, 0.0]])}
        return [known[name] for name in outputs]


def test_of_clip_a_text_is_what_lies_beside_images(root: Path) -> None:
    plain = load(root)
    assert OnnxEncoder(TwoOutputs(), plain._tokenizer, plain._settings)(["war"]).tolist() == [[0, 1, 0]]


def test_the_models_own_files_choose_pooling_and_length(root: Path) -> None:
    folder = root / "models" / "words"
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "modules.json").write_text('[{"type": "st.models.Transformer"}, {"type": "st.models.Pooling"}]')
    assert load(root)(["war vote"])[0].tolist() == VECTORS[1].tolist()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}', "asks for pooling_mode_max_tokens; known are"),
        ("modules.json", '[{"type": "st.models.Dense"}]', "asks for Dense, which is not in the ONNX file"),
        ("tokenizer.json", "{", "cannot be loaded"),
        ("model.onnx", "nothing", "cannot be loaded"),
    ],
)
def test_a_model_that_is_not_understood_is_refused(root: Path, file: str, content: str, message: str) -> None:
    path = root / "models" / "words" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(EpoxyError, match=message):
        load(root)


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json"])
def test_a_missing_file_is_named(root: Path, file: str) -> None:
    (root / "models" / "words" / file).unlink()
    with pytest.raises(EpoxyError, match=f"needs models/words/{file}, which is missing"):
        load(root)


@pytest.mark.parametrize("package", ["onnxruntime", "tokenizers"])
def test_the_missing_extra_is_named(root: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EpoxyError, match=rf"needs {package}\. Install it: pip install 'epoxy-flow\[onnx\]'"):
        load(root)


def test_no_bit_of_a_vector_depends_on_the_batch(root: Path, tmp_path: Path) -> None:
    together = encode(root, TEXTS).matrix.tolist()
    for entry in (root / FOLDER / CACHE_KIND).iterdir():
        entry.unlink()
    assert encode(root, TEXTS, batch_size=1).matrix.tolist() == together
    assert load(root)(["code phone"])[0].tolist() in together


def test_another_tokenizer_encodes_again(root: Path) -> None:
    before = encode(root, ["war"]).matrix.tolist()
    tokenizer = root / "models" / "words" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"war"', '"peace"'))
    assert encode(root, ["war"]).matrix.tolist() != before


def test_a_file_outside_the_project_is_refused(root: Path) -> None:
    with pytest.raises(ParamsError, match="leads out of the project"):
        encode_texts(root, pl.Series(["a"]), EncoderParams(model="../model.onnx"), load_encoder)


def test_tokens_beyond_the_longest_do_not_count(root: Path) -> None:
    encoder = load(root)
    assert (encoder.longest, encoder.count_tokens("war " * 9)) == (8, 9)
    assert encoder(["war " * 8 + "code"]).tolist() == encoder(["war " * 8]).tolist()


@pytest.mark.parametrize(("strange", "is_told"), [(1, False), (2, True)])
def test_items_of_which_it_knows_hardly_a_word_are_told(
    root: Path, strange: int, is_told: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "data" / "raw").mkdir(parents=True)
    texts = ["the war"] * (10 - strange) + ["สงคราม เลือกตั้ง war"] * strange
    items = pl.DataFrame({"item_id": range(10), "text": texts})
    items.write_parquet(root / "data" / "raw" / "items.parquet")
    run(root, ("a", "b"), IngestParams.model_validate({"source": "data/raw", "encoder": {"model": MODEL}}))
    said = f"knows at most half of the words of {strange} of 10 items that were looked at, such as 'สงคราม"
    assert (said in capfd.readouterr().err) == is_told


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"type": "WordLevel", "vocab": {"[UNK]": 0, "war": 1}, "unk_token": "[UNK]"}, ["สงคราม"]),
        ({"type": "Unigram", "vocab": [["war", 0.0], ["<unk>", 0.0]], "unk_id": 1}, ["สงคราม"]),
        ({"type": "BPE", "vocab": {"war": 0}, "merges": [], "unk_token": None}, []),
    ],
)
def test_what_a_tokenizer_does_not_know(root: Path, model: dict, expected: list[str]) -> None:
    path = root / "models" / "words" / "tokenizer.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_id": 5, "pad_type_id": 0, "pad_token": "."}
    path.write_text(json.dumps(whole | {"model": model, "padding": padding}), encoding="utf-8")
    assert find_unread(root, "a-public-model", ["สงคราม"]) == []
    assert find_unread(root, MODEL, ["war", "สงคราม", ""]) == expected


def test_ingest_encodes_a_column_with_it(root: Path) -> None:
    (root / "data" / "raw").mkdir(parents=True)
    items = pl.DataFrame({"item_id": [1, 2], "text": ["war", "goal"]})
    items.write_parquet(root / "data" / "raw" / "items.parquet")
    run(root, ("a", "b"), IngestParams.model_validate({"source": "data/raw", "encoder": {"model": MODEL}}))
    written = read_table(root / EMBEDDINGS, embeddings(16))["embedding"].to_numpy()
    assert written.tolist() == load(root)(["war", "goal"]).tolist()
