"""`encoder: tfidf`: the same bytes whatever the order, the threads and the batch; the same vectors once it is read back."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasks import ingest
from tasks.cache.code import PROJECT
from tasks.core.tfidf import TfidfEncoder, fit_tfidf
from tasks.errors import DataError
from tasks.params import EncoderParams, IngestParams
from tasks.readers import embeddings
from tasks.tables import schemas
from tasks.tables.parquet import read_table
from tasks.tables.paths import EMBEDDINGS, ENCODER
from tasks.tables.saved_encoder import read_encoder

CLASSES = ("ham", "spam")
WORDS = ("hello", "dear", "meeting", "tomorrow", "offer", "win", "prize", "now", "naïve", "東京")


def make_texts(n: int, seed: int = 0) -> list[str]:
    chosen = np.random.default_rng(seed)
    return [" ".join(chosen.choice(WORDS, chosen.integers(1, 6))) for _ in range(n)]


def write(root: Path, texts: list[str], order: list[int] | None = None) -> Path:
    """Items i000, i001 ... of train but for each fifth, which is of test."""
    items = pl.DataFrame(
        {
            "item_id": [f"i{row:03}" for row in range(len(texts))],
            "split": ["test" if row % 5 == 4 else "train" for row in range(len(texts))],
            "text": texts,
        }
    )
    (root / "raw").mkdir(parents=True, exist_ok=True)
    (items if order is None else items[order]).write_parquet(root / "raw" / "items.parquet")
    return root


def run(root: Path, **encoder: object) -> pl.DataFrame:
    given = {"source": "raw", "encoder": {"model": "tfidf", **encoder} if encoder else "tfidf"}
    ingest.run(root, CLASSES, IngestParams.model_validate(given))
    d = pl.read_parquet_schema(next((root / EMBEDDINGS).iterdir()))["embedding"].size  # type: ignore[union-attr]
    return read_table(root / EMBEDDINGS, schemas.embeddings(d))


def read_bytes(root: Path) -> list[bytes]:
    return [path.read_bytes() for path in (root / ENCODER, *sorted((root / EMBEDDINGS).iterdir()))]


def test_neither_the_order_of_rows_nor_the_batch_changes_a_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = make_texts(60)
    run(write(tmp_path / "one", texts))
    run(write(tmp_path / "two", texts, np.random.default_rng(1).permutation(60).tolist()))
    monkeypatch.setattr(embeddings, "ROW_GROUP", 7)
    run(write(tmp_path / "three", texts))
    assert read_bytes(tmp_path / "one") == read_bytes(tmp_path / "two") == read_bytes(tmp_path / "three")


def test_the_number_of_threads_changes_no_byte(tmp_path: Path) -> None:
    """In processes of their own, which is where libraries read how many threads they may have."""
    write(tmp_path, make_texts(400))
    found = []
    for threads in ("1", "4"):
        program = (
            "from pathlib import Path; from tasks import ingest; from tasks.params import IngestParams\n"
            "ingest.run(Path(), ('ham', 'spam'), IngestParams(source='raw', encoder='tfidf'))"
        )
        environment = os.environ | {
            "OPENBLAS_NUM_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "PYTHONPATH": str(PROJECT),
        }
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, capture_output=True)
        found.append(read_bytes(tmp_path))
    assert found[0] == found[1]


def test_only_texts_of_train_are_learned_from(tmp_path: Path) -> None:
    texts = make_texts(50)
    run(write(tmp_path, texts))
    fitted = (tmp_path / ENCODER).read_bytes()
    changed = ["other words" if row % 5 == 4 else text for row, text in enumerate(texts)]
    run(write(tmp_path, changed))
    assert (tmp_path / ENCODER).read_bytes() == fitted
    changed[0] = "other words"
    run(write(tmp_path, changed))
    assert (tmp_path / ENCODER).read_bytes() != fitted


def test_a_saved_encoder_gives_later_texts_the_vectors_that_it_would_have_given(tmp_path: Path) -> None:
    texts = make_texts(50)
    before = run(write(tmp_path, texts))
    fitted = read_encoder(tmp_path / ENCODER)
    assert np.array_equal(fitted(texts), before["embedding"].to_numpy())
    (tmp_path / "raw/frozen.parquet").write_bytes((tmp_path / ENCODER).read_bytes())
    more = [*texts, *make_texts(20, seed=1)]
    write(tmp_path, more)
    given = {"source": "raw", "items": "items.parquet", "encoder": {"model": "frozen.parquet"}}
    ingest.run(tmp_path, CLASSES, IngestParams.model_validate(given))
    after = read_table(tmp_path / EMBEDDINGS, schemas.embeddings(before["embedding"].dtype.size))  # type: ignore[attr-defined]
    assert after[:50].equals(before)
    assert np.array_equal(after["embedding"].to_numpy(), fitted(more))
    assert (tmp_path / ENCODER).read_bytes() == (tmp_path / "raw/frozen.parquet").read_bytes()


def test_near_texts_are_near_and_a_text_of_unknown_letters_has_a_direction() -> None:
    texts = [*make_texts(80), "the offer of a prize", "the offers of prizes", "a meeting tomorrow"]
    encode = fit_tfidf(texts, 16)
    vectors = encode([*texts, "ψψψ", ""])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    offer, offers, meeting = vectors[80:83]
    assert offer @ offers > offer @ meeting
    assert np.array_equal(vectors[-1], encode.fallback) and np.array_equal(vectors[-2], encode.fallback)


@pytest.mark.parametrize("texts", [["one"], ["one", "two"], [""], ["?!", "-"], ["same", "same"]])
def test_few_texts_have_few_dimensions(tmp_path: Path, texts: list[str]) -> None:
    table = run(write(tmp_path, texts))
    assert table.height == len(texts) and np.isfinite(table["embedding"].to_numpy()).all()
    assert isinstance(read_encoder(tmp_path / ENCODER), TfidfEncoder)


def test_dimensions_are_as_many_as_asked(tmp_path: Path) -> None:
    assert run(write(tmp_path, make_texts(60)), dimensions=9)["embedding"].to_numpy().shape == (60, 9)


def test_an_encoder_that_is_none_is_refused(tmp_path: Path) -> None:
    write(tmp_path, make_texts(20))
    np.save(tmp_path / "raw/e.npy", np.ones((20, 2)))
    given = {"source": "raw", "embeddings": "e.npy", "embedding_ids": "items.parquet"}
    ingest.run(tmp_path, CLASSES, IngestParams.model_validate(given))
    (tmp_path / "raw/frozen.parquet").write_bytes((tmp_path / ENCODER).read_bytes())
    with pytest.raises(DataError, match=r"frozen.parquet: holds no encoder"):
        ingest.run(tmp_path, CLASSES, IngestParams(source="raw", items="items.parquet", encoder=EncoderParams(model="frozen.parquet")))  # fmt: skip


def test_without_items_of_train_nothing_can_be_learned(tmp_path: Path) -> None:
    write(tmp_path, make_texts(10))
    items = pl.read_parquet(tmp_path / "raw/items.parquet").with_columns(split=pl.lit("test"))
    items.write_parquet(tmp_path / "raw/items.parquet")
    with pytest.raises(DataError, match="no item is of train"):
        run(tmp_path)


def test_either_embeddings_or_an_encoder() -> None:
    assert IngestParams.model_validate({"source": "raw", "encoder": "tfidf"}).embeddings is None
    with pytest.raises(ValueError, match="give either"):
        IngestParams.model_validate({"source": "raw", "encoder": "tfidf", "embeddings": "e.npy"})
