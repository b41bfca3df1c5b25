"""tasks.readers.encoder with an encoder that counts: every text is encoded once, whatever runs, breaks or is added between."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from tasks.cache.code import PROJECT
from tasks.cache.store import FOLDER
from tasks.errors import DataError, EpoxyError, ParamsError
from tasks.params import EncoderParams
from tasks.readers import encoder, sentence_encoder

PARAMS = EncoderParams(model="fake", batch_size=2)


class FakeEncoder:
    """Vectors of length and first letter; remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def load(self, root: Path, params: EncoderParams) -> "FakeEncoder":
        return self

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        self.batches.append(list(texts))
        return np.array([vector(text) for text in texts])

    @property
    def texts(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


def vector(text: str) -> list[float]:
    return [float(len(text)), float(ord(text[:1] or " ")), 0.5]


def run(root: Path, texts: list[str], params: EncoderParams = PARAMS) -> FakeEncoder:
    """The encoder after `texts` were encoded, each found to have its own vector."""
    fake = FakeEncoder()
    encoded = encoder.encode_texts(root, pl.Series(texts), params, fake.load)
    assert encoded.matrix.dtype == np.float32
    assert encoded.matrix[encoded.rows].tolist() == [vector(text) for text in texts]
    return fake


def test_each_distinct_text_is_encoded_once_in_batches(tmp_path: Path) -> None:
    fake = run(tmp_path, ["bb", "a", "bb", "", "cccc", "a"])
    assert sorted(fake.texts) == ["", "a", "bb", "cccc"]
    assert [len(batch) for batch in fake.batches] == [2, 2]


def test_only_new_texts_are_encoded_again(tmp_path: Path) -> None:
    run(tmp_path, ["a", "bb", "ccc"])
    assert run(tmp_path, ["bb", "new", "a", "ccc"]).texts == ["new"]

    def refuse(root: Path, params: EncoderParams) -> encoder.Encoder:
        raise AssertionError("nothing is left to encode")

    encoder.encode_texts(tmp_path, pl.Series(["new", "bb"]), PARAMS, refuse)


def test_another_version_of_the_packages_encodes_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from pathlib import Path; import polars as pl; from tasks.params import EncoderParams\n"
        "from tasks.readers.encoder import encode_texts\n"
        "def load(root, params):\n    print('loaded')\n    return lambda texts: [[1.0]] * len(texts)\n"
        "encode_texts(Path(sys.argv[1]), pl.Series(['a', 'b']), EncoderParams(model='fake'), load)\n"
    )

    def is_loaded(version: str) -> bool:
        (tmp_path / version / f"sentence_transformers-{version}.dist-info").mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"PYTHONPATH": f"{tmp_path / version}:{PROJECT}"}
        command = [sys.executable, str(script), str(tmp_path)]
        return bool(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    assert [is_loaded(version) for version in ("3.0", "3.0", "3.1", "3.0")] == [True, False, True, False]


def test_batches_do_not_depend_on_the_order_of_items(tmp_path: Path) -> None:
    texts = ["dddd", "a", "ccc", "bb", "e"]
    assert run(tmp_path / "one", texts).batches == run(tmp_path / "two", texts[::-1]).batches


def test_a_stopped_run_keeps_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.readers.encoder.CHUNK", 2)

    class Stops(FakeEncoder):
        def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().__call__(texts)

    stops = Stops()
    with pytest.raises(KeyboardInterrupt):
        encoder.encode_texts(tmp_path, pl.Series(["a", "bb", "ccc", "dddd", "eeeee"]), PARAMS, stops.load)
    assert run(tmp_path, ["a", "bb", "ccc", "dddd", "eeeee"]).texts == ["eeeee"]


def test_a_damaged_memo_is_not_believed(tmp_path: Path) -> None:
    run(tmp_path, ["a", "bb"])
    (entry,) = (tmp_path / FOLDER / encoder.CACHE_KIND).iterdir()
    content = entry.read_bytes()
    entry.write_bytes(content[:-30] + bytes([255 - content[-30]]) + content[-29:])
    assert run(tmp_path, ["a", "bb"]).texts == ["a", "bb"]
    assert run(tmp_path, ["a", "bb"]).texts == []


def test_another_model_has_its_own_cache(tmp_path: Path) -> None:
    run(tmp_path, ["a"])
    assert run(tmp_path, ["a"], EncoderParams(model="other")).texts == ["a"]


def test_a_model_in_the_project_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "model.safetensors").write_bytes(b"one")
    run(tmp_path, ["a"])
    assert run(tmp_path, ["a"]).texts == []
    (tmp_path / "fake" / "model.safetensors").write_bytes(b"two")
    assert run(tmp_path, ["a"]).texts == ["a"]


@pytest.mark.parametrize("shape", [(2,), (1, 3), (2, 3, 1)])
def test_an_encoder_that_gives_something_else_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    def load(root: Path, params: EncoderParams) -> encoder.Encoder:
        return lambda texts: np.ones(shape)

    with pytest.raises(DataError, match="for 2 texts; expected one vector per text"):
        encoder.encode_texts(tmp_path, pl.Series(["a", "b"]), PARAMS, load)
    assert not (tmp_path / FOLDER / encoder.CACHE_KIND).exists()


def test_an_encoder_that_changes_its_width_is_refused(tmp_path: Path) -> None:
    run(tmp_path, ["a"])

    def load(root: Path, params: EncoderParams) -> encoder.Encoder:
        return lambda texts: np.ones((len(texts), 7))

    with pytest.raises(DataError, match="gives vectors of length 7, and 3 before"):
        encoder.encode_texts(tmp_path, pl.Series(["a", "b"]), PARAMS, load)


@pytest.mark.parametrize("model", ["../model", "/model"])
def test_a_model_outside_the_project_is_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(ParamsError, match="leads out of the project"):
        run(tmp_path, ["a"], EncoderParams(model=model))


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(EpoxyError, match=r"pip install 'epoxy-flow\[text\]'"):
        encoder.encode_texts(tmp_path, pl.Series(["a"]), PARAMS, sentence_encoder.load_encoder)
