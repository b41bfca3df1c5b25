"""The demo: the same bytes every time, stratified, embedded without a label; and its labeling functions at work."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasks import apply, demo, gold, ingest
from tasks.params import Split
from tasks.params_file import read_params
from tasks.tables.parquet import read_votes
from tasks.tables.paths import LF_SUMMARY, VOTES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    demo.run(root)
    return root / demo.RAW


def test_the_same_bytes_every_time(raw: Path, tmp_path: Path) -> None:
    demo.run(tmp_path)
    assert sorted(file.name for file in raw.iterdir()) == ["embeddings.npy", "items.parquet"]
    for file in raw.iterdir():
        assert (tmp_path / demo.RAW / file.name).read_bytes() == file.read_bytes()


def test_splits_have_their_size_and_about_the_same_share_of_each_class(raw: Path) -> None:
    items = pl.read_parquet(raw / "items.parquet")
    assert items.columns == ["item_id", "split", "image", "gold"]
    assert dict(items.group_by("split").len().rows()) == {"train": 1297, "valid": 200, "test": 300}
    for split in Split:
        part = items.filter(pl.col("split") == split)["gold"]
        for digit in range(10):
            expected = (items["gold"] == digit).sum() * len(part) / 1797
            assert abs((part == digit).sum() - expected) < 2


def test_embeddings_are_a_function_of_the_pixels(raw: Path) -> None:
    items = pl.read_parquet(raw / "items.parquet")
    embeddings = np.load(raw / "embeddings.npy")
    images, is_train = items["image"].to_numpy(), (items["split"] == "train").to_numpy()
    assert embeddings.dtype == np.float32 and embeddings.shape == (1797, 64)
    expected = (images / 16 - (images[is_train] / 16).mean(axis=0)).astype(np.float32)
    assert np.array_equal(embeddings, expected)


def test_the_labeling_functions_are_partial_and_better_than_chance(raw: Path) -> None:
    root = raw.parents[2]
    (root / "lfs").symlink_to(ROOT / "lfs")
    params = read_params(ROOT)
    ingest.run(root, params.classes, params.ingest.model_copy(update={"source": str(demo.RAW)}))
    gold.run(root, params.classes, params.gold)
    apply.run(root, params.classes, params.apply.model_copy(update={"source": "lfs/digits.py"}))
    summary = pl.read_csv(root / LF_SUMMARY, schema_overrides={"polarity": pl.String})
    assert summary.height >= 12
    assert set(summary["polarity"]) == set("0123456789")
    assert (summary["coverage"] < 0.2).all()
    # One in ten is chance.
    assert (summary["precision"] > 0.5).all() and (summary["precision_low"] > 0.2).all()
    votes = read_votes(root / VOTES, k=10)
    covered = votes.select(pl.any_horizontal(pl.exclude("item_id") >= 0)).to_series().mean()
    assert 0.5 < covered < 0.9
