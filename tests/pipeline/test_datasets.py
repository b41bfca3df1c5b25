"""Real tasks, as a user would bring them: a folder of raw files, a votes table, params; the same pipeline."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from shared_datasets import DATASETS, needs_datasets

from tasks.__main__ import STAGES, run_stage
from tasks.errors import EpoxyError
from tasks.tables import schemas
from tasks.tables.files import read_json
from tasks.tables.parquet import read_table, read_votes
from tasks.tables.paths import LABEL_MODEL_LABELS, METRICS, REPORT, VOTES

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    needs_datasets,
]

MAJORITY_VOTE = {"spam": 0.818, "sms": 0.676, "agnews": 0.588}
"""Test accuracy with ties split evenly, from the data sets' own README."""


def bring(name: str, root: Path) -> Path:
    """A project folder with the data set's files where the README tells a user to put them."""
    source = DATASETS / name
    (root / "data/raw").mkdir(parents=True)
    (root / "lfs").mkdir()
    for file in ("items.parquet", "embeddings.npy"):
        if (source / file).is_file():
            shutil.copy(source / file, root / "data/raw" / file)
    shutil.copy(source / "votes.parquet", root / "lfs/votes.parquet")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["classes"] = json.loads((source / "dataset.json").read_text())["classes"]
    params["ingest"]["source"] = "data/raw"
    params["apply"]["source"] = "lfs/votes.parquet"
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return root


@pytest.mark.parametrize("name", list(MAJORITY_VOTE))
def test_a_real_task_goes_from_raw_files_to_a_report(name, tmp_path):
    root = bring(name, tmp_path)
    for stage in STAGES:
        run_stage(root, stage)
    metrics = read_json(root / METRICS)
    assert metrics["test"]["majority_vote"]["accuracy"] == pytest.approx(MAJORITY_VOTE[name], abs=0.0005)
    items = pl.read_parquet(DATASETS / name / "items.parquet")
    classes = yaml.safe_load((root / "params.yaml").read_text())["classes"]
    labels = read_table(root / LABEL_MODEL_LABELS, schemas.labels(classes))
    assert sorted(labels["item_id"]) == sorted(items["item_id"])
    probabilities = labels.select(pl.col("^p_.*$")).to_numpy()
    assert np.allclose(probabilities.sum(axis=1), 1)
    votes = pl.read_parquet(DATASETS / name / "votes.parquet")
    mine = read_votes(root / VOTES, len(classes))
    assert mine.equals(votes.sort("item_id").select(mine.columns))
    assert "<html" in (root / REPORT).read_text()


def test_a_task_without_embeddings_says_what_is_missing(tmp_path):
    root = bring("tennis", tmp_path)
    with pytest.raises(EpoxyError, match=r"embeddings\.npy"):
        run_stage(root, "ingest")
