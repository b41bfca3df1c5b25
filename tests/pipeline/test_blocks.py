"""ingest.blocks: embeddings side by side, the same bytes whatever the order, the threads and the batch; mistakes say the block."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from extension_data import write_neighbors, write_project

from tasks import ingest, tune
from tasks.cache.code import PROJECT
from tasks.core.tfidf import fit_tfidf
from tasks.errors import DataError, EpoxyError
from tasks.params import IngestParams, TuneParams
from tasks.readers import blocks
from tasks.readers.embeddings import Embeddings
from tasks.readers.items import Items
from tasks.readers.quarantine import Quarantine
from tasks.report.facts import describe_fitness
from tasks.tables.block_layout import BlockLayout, read_layout, write_layout
from tasks.tables.parquet import find_shards
from tasks.tables.paths import BLOCKS, EMBEDDING_FITNESS, EMBEDDINGS, ENCODER, ITEMS, QUARANTINE
from tasks.tables.saved_encoder import read_encoder

CLASSES = ("ham", "spam")
WORDS = ("hello", "dear", "meeting", "tomorrow", "offer", "win", "prize", "now", "naïve", "東京")
N = 40
CHANCE = np.random.default_rng(0)
TEXTS = [" ".join(CHANCE.choice(WORDS, 4)) for _ in range(N)]
VECTORS = CHANCE.normal(size=(N, 3)).astype(np.float32)
IDS = [f"i{row:02}" for row in range(N)]

OWN = {"embeddings": "own.npy", "embedding_ids": "items.parquet"}
WORDS_BLOCK = {"encoder": {"model": "tfidf", "dimensions": 8}}
BOTH = {"own": {**OWN, "weight": 3}, "words": WORDS_BLOCK}


def write(root: Path, vectors: npt.NDArray[np.floating] = VECTORS, order: npt.NDArray[np.int64] | None = None) -> Path:
    order = np.arange(N) if order is None else order
    (root / "raw").mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"item_id": IDS, "text": TEXTS})[order].write_parquet(root / "raw" / "items.parquet")
    np.save(root / "raw" / "own.npy", vectors[order] if len(vectors) == N else vectors)
    return root


def run(root: Path, given: object = BOTH) -> npt.NDArray[np.float32]:
    params = IngestParams.model_validate({"source": "raw", "items": "items.parquet", "blocks": given})
    ingest.run(root, CLASSES, params)
    return pl.read_parquet(root / EMBEDDINGS)["embedding"].to_numpy()


def read_bytes(root: Path) -> list[bytes]:
    paths = [*find_shards(root / EMBEDDINGS), *sorted((root / BLOCKS).iterdir()), root / ENCODER]
    return [path.read_bytes() for path in paths]


def to_units(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)


def test_the_cosine_of_two_items_is_the_mean_of_the_blocks_cosines(tmp_path: Path) -> None:
    found = run(write(tmp_path))
    parts = [to_units(VECTORS), to_units(fit_tfidf(TEXTS, 8)(TEXTS))]
    own, words = (part @ part.T for part in parts)
    assert found.shape == (N, 3 + 8)
    assert found @ found.T == pytest.approx(3 / 4 * own + 1 / 4 * words, abs=1e-6)


def test_the_layout_says_which_columns_are_whose_and_keeps_the_fitted_encoder(tmp_path: Path) -> None:
    found = run(write(tmp_path))
    own, words = read_layout(tmp_path)
    assert (own.name, own.start, own.stop, own.share, own.model) == ("own", 0, 3, 3 / 4, "")
    assert (words.name, words.start, words.stop, words.share, words.model) == ("words", 3, 11, 1 / 4, "tfidf")
    assert [path.name for path in sorted((tmp_path / BLOCKS).iterdir())] == ["layout.json", "words.parquet"]
    again = read_encoder(tmp_path / BLOCKS / "words.parquet")(TEXTS)
    assert found[:, 3:] == pytest.approx(np.sqrt(1 / 4) * again, abs=1e-7)
    assert pl.read_parquet(tmp_path / ENCODER).is_empty()


def test_only_proportions_of_weights_count(tmp_path: Path) -> None:
    one = run(write(tmp_path / "one"), {"own": {**OWN, "weight": 0.3}, "words": {**WORDS_BLOCK, "weight": 0.1}})
    other = run(write(tmp_path / "other"), {"own": {**OWN, "weight": 30}, "words": {**WORDS_BLOCK, "weight": 10}})
    assert one == pytest.approx(other, abs=1e-7)


def test_neither_the_order_of_rows_nor_the_batch_changes_a_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(write(tmp_path / "one"))
    run(write(tmp_path / "two", order=np.random.default_rng(1).permutation(N)))
    monkeypatch.setattr(blocks, "ROW_GROUP", 7)
    run(write(tmp_path / "three"))
    assert read_bytes(tmp_path / "one") == read_bytes(tmp_path / "two") == read_bytes(tmp_path / "three")


def test_the_number_of_threads_changes_no_byte(tmp_path: Path) -> None:
    """In processes of their own, which is where libraries read how many threads they may have."""
    write(tmp_path)
    found = []
    for threads in ("1", "4"):
        program = (
            "from pathlib import Path; from tasks import ingest; from tasks.params import IngestParams\n"
            "given = {'source': 'raw', 'items': 'items.parquet', 'blocks': " + repr(BOTH) + "}\n"
            "ingest.run(Path(), ('ham', 'spam'), IngestParams.model_validate(given))"
        )
        threads_of = {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "POLARS_MAX_THREADS": threads}
        environment = os.environ | threads_of | {"PYTHONPATH": str(PROJECT)}
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, capture_output=True)
        found.append(read_bytes(tmp_path))
    assert found[0] == found[1]


def test_a_new_row_changes_no_other_vector_while_encoders_are_kept(tmp_path: Path) -> None:
    run(write(tmp_path))
    (tmp_path / "raw" / "words.parquet").write_bytes((tmp_path / BLOCKS / "words.parquet").read_bytes())
    kept = {"own": {**OWN, "weight": 3}, "words": {"encoder": {"model": "words.parquet"}}}
    before = run(tmp_path, kept)
    layout = read_bytes(tmp_path)[-3:]
    items = pl.read_parquet(tmp_path / "raw" / "items.parquet")
    new = pl.DataFrame({"item_id": ["a"], "text": ["other words"]})
    pl.concat([items, new]).write_parquet(tmp_path / "raw" / "items.parquet")
    np.save(tmp_path / "raw" / "own.npy", np.vstack([VECTORS, [[1, 0, 0]]]).astype(np.float32))
    assert run(tmp_path, kept)[1:].tobytes() == before.tobytes()
    assert read_bytes(tmp_path)[-3:] == layout


def test_other_blocks_leave_nothing_of_the_former(tmp_path: Path) -> None:
    run(write(tmp_path))
    run(tmp_path, {"own": OWN})
    assert [path.name for path in (tmp_path / BLOCKS).iterdir()] == ["layout.json"]


def test_blocks_are_joined_without_copies_of_the_whole(tmp_path: Path) -> None:
    """A row group of vectors is up to some hundred MiB; what is held beside it is a block at a time."""
    n, width = 1000, 256
    ids = pl.Series("item_id", np.arange(n))
    rng = np.random.default_rng(0)
    kinds = tuple(
        blocks.Block(
            name=name,
            found=Embeddings(ids=ids, matrix=rng.standard_normal((n, width), np.float32), rows=np.arange(n)),
            rows=np.arange(n), share=0.25, model=None,
        )
        for name in "abcd"
    )  # fmt: skip
    items = Items(table=ids.to_frame(), gold=pl.Series("gold", [None] * n), remarks=(), losses=(), ids_by_file={})
    quarantine = Quarantine(tmp_path, None)
    tracemalloc.start()
    try:
        (table,) = blocks.join_blocks(blocks.MatchedBlocks(ids=ids, blocks=kinds), items, quarantine)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert table["embedding"].to_numpy().shape == (n, 4 * width)
    # The whole, a block as it is read, and a byte per number for checks: with copies of the whole it was three times the whole.
    assert peak < 2 * 4 * n * 4 * width


def spoil(row: int, value: float | list[float]) -> npt.NDArray[np.float32]:
    vectors = VECTORS.copy()
    vectors[row] = value
    return vectors


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (spoil(7, [1, np.nan, 0]), r"ingest.blocks.own: 1 embeddings have NaN or infinity .* first ids 'i07'"),
        (spoil(7, [1, np.inf, 0]), r"ingest.blocks.own: 1 embeddings have NaN or infinity"),
        (spoil(9, 0), r"ingest.blocks.own: 1 embeddings are zero vectors, first ids 'i09'"),
        (VECTORS[:-1], r"ingest.blocks.own: raw/own.npy: 39 rows, but 40 ids in items.parquet"),
        (VECTORS[:, :0], r"ingest.blocks.own: .*own.npy: embeddings are float32 of shape \(40, 0\)"),
    ],
)
def test_bad_vectors_are_named_with_their_block(tmp_path: Path, vectors: npt.NDArray[np.float32], said: str) -> None:
    with pytest.raises(DataError, match=said):
        run(write(tmp_path, vectors))
    assert not (tmp_path / BLOCKS).exists()


def test_a_block_of_other_items_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    np.savez(tmp_path / "raw" / "own.npz", ids=np.array([*IDS[:-1], "other"]), embeddings=VECTORS)
    with pytest.raises(DataError, match=r"(?s)ingest.blocks.own: raw/own.npz: 1 items .* have no embedding.*'other'"):
        run(tmp_path, {"own": {"embeddings": "own.npz"}, "words": WORDS_BLOCK})


def test_the_same_vectors_under_two_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    np.savez(tmp_path / "raw" / "copy.npz", ids=np.array(IDS), embeddings=VECTORS)
    with pytest.raises(DataError, match=r"'copy' and 'own' hold the same vectors\. Remove one"):
        run(tmp_path, {"own": OWN, "copy": {"embeddings": "copy.npz"}})
    np.savez(tmp_path / "raw" / "copy.npz", ids=np.array(IDS), embeddings=spoil(N - 1, [1, 2, 3]))
    run(tmp_path, {"own": OWN, "copy": {"embeddings": "copy.npz"}})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"own": {**OWN, "weight": 0}}, "greater than 0"),
        ({"own": {**OWN, "weight": -1}}, "greater than 0"),
        ({"own": {**OWN, "weight": float("nan")}}, "weight"),
        ({"own": {**OWN, "weight": float("inf")}}, "weight"),
        ({"own": {}}, "give either `embeddings`"),
        ({"own": {**OWN, "encoder": "tfidf"}}, "give either `embeddings`"),
        ({"own": OWN, "again": {**OWN, "weight": 2}}, "'own' and 'again' are the same"),
        ({"../own": OWN}, "the name '../own' must be letters"),
        ({"": OWN}, "the name '' must be letters"),
        ({"own": {**OWN, "wieght": 2}}, "wieght"),
        ({}, "give either"),
    ],
)
def test_params_that_mean_nothing_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IngestParams.model_validate({"source": "raw", "embeddings": None, "blocks": given})


@pytest.mark.parametrize("other", [{"embeddings": "own.npy"}, {"encoder": "tfidf"}, {"embedding_ids": "items.parquet"}])
def test_blocks_are_instead_of_other_embeddings(other: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"give either|belongs to the block"):
        IngestParams.model_validate({"source": "raw", "blocks": BOTH, **other})


@pytest.mark.parametrize("content", ["", "[]", '{"blocks": [{"name": "own"}]}', '{"blocks": [], "more": 1}'])
def test_a_damaged_layout_is_named(tmp_path: Path, content: str) -> None:
    run(write(tmp_path))
    (tmp_path / BLOCKS / "layout.json").write_text(content)
    with pytest.raises(EpoxyError, match=r"layout.json.*[Rr]un 'dvc "):
        read_layout(tmp_path)


def test_tune_judges_each_block_and_the_whole(tmp_path: Path) -> None:
    """Votes and gold follow the block `own`, and the other block is noise."""
    chance = np.random.default_rng(3)
    truth = chance.integers(0, 2, 400)
    own = np.eye(2)[truth] + 0.05 * chance.normal(size=(400, 2))
    vectors = np.hstack([to_units(own), to_units(chance.normal(size=(400, 6)))]) * np.sqrt(1 / 2)
    votes = np.where(chance.random((400, 3)) < 0.5, truth[:, None], -1)
    splits = ["valid" if row % 4 == 0 else "train" for row in range(400)]
    write_project(tmp_path, vectors=vectors, votes=votes, splits=splits)
    layout = [
        BlockLayout(name="own", start=0, stop=2, share=0.5, model="", column=""),
        BlockLayout(name="noise", start=2, stop=8, share=0.5, model="tfidf", column="text"),
    ]
    write_layout(tmp_path, layout, {"noise": fit_tfidf(TEXTS, 6)})
    write_neighbors(tmp_path)
    tune.run(tmp_path, CLASSES, TuneParams())
    found = json.loads((tmp_path / EMBEDDING_FITNESS).read_text())
    assert found["carries"]["majority vote"] == "yes"
    assert [block["carries"]["majority vote"] for block in found["blocks"]] == ["yes", "no"]
    assert [(block["block"], block["dimensions"], block["weight"]) for block in found["blocks"]] == [
        ("own", 2, 0.5), ("noise", 6, 0.5),
    ]  # fmt: skip
    assert found["blocks"][0]["agreement"][0]["neighbors"][0]["agreement"] == 1
    assert (
        "'own' (2 dimensions of a file, weight 0.50), 'noise' (6 dimensions of tfidf, weight 0.50)"
        in found["sentences"][-1]
    )
    shown = describe_fitness(found)
    assert [row.labels for row in shown.rows if "vote" in row.labels] == [
        "majority vote", "majority vote, own alone", "majority vote, noise alone",
    ]  # fmt: skip
    assert shown.blocks == "own 0.50 (2 dimensions), noise 0.50 (6 dimensions)"


def test_an_item_that_lacks_a_kind_is_set_aside_once(tmp_path: Path) -> None:
    """i03 has no vector in `other`, i05 NaN in `own`, i07 a zero vector in both: the rest is as it would be without them."""
    bad = [3, 5, 7]
    good = [row for row in range(N) if row not in bad]
    own, other = VECTORS.copy(), VECTORS[:, ::-1].copy()
    own[5], own[7], other[7] = np.nan, 0, 0
    write(tmp_path, own)
    np.savez(
        tmp_path / "raw" / "other.npz", ids=np.array(IDS)[np.arange(N) != 3], embeddings=np.delete(other, 3, axis=0)
    )
    given = {"own": OWN, "other": {"embeddings": "other.npz"}}
    kept = {"source": "raw", "items": "items.parquet", "quarantine": {"rows": 3}, "blocks": given}
    ingest.run(tmp_path, CLASSES, IngestParams.model_validate(kept))
    found = pl.read_parquet(tmp_path / EMBEDDINGS)
    assert found["item_id"].to_list() == [IDS[row] for row in good]
    parts = [np.sqrt(1 / 2) * to_units(vectors[good]) for vectors in (own, other)]
    assert found["embedding"].to_numpy() == pytest.approx(np.hstack(parts), abs=1e-6)
    assert pl.read_parquet(tmp_path / QUARANTINE).select("item_id", "reason", "file").rows() == [
        ("i03", "no embedding", "items.parquet"),
        ("i05", "bad embedding", "own.npy"),
        ("i07", "bad embedding", "own.npy"),
    ]
    assert pl.read_parquet(tmp_path / ITEMS)["item_id"].to_list() == found["item_id"].to_list()
