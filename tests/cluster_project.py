"""A project with labeling functions of every kind, to be run on this machine and on the workers of clusters."""

import shutil

import numpy as np
import polars as pl
from extension_data import write_neighbors, write_project

from tasks import apply
from tasks.cache import store
from tasks.params import ApplyParams, Metric
from tasks.tables import schemas
from tasks.tables.parquet import write_table
from tasks.tables.paths import ITEMS, NEIGHBORS, RECALL, VALID_GOLD


def name(shard):
    return f"shard {shard}"


LFS = """
import time
from pathlib import Path
import polars as pl
from tasks.labeling import *
from lfs.helper import choose

words = (Path(__file__).parent / "words.txt").read_text().split()
by_word = [keyword_lf("word_" + word, column="text", keywords=[word], label="SPAM") for word in words]
by_regex = regex_lf("by_regex", column="text", pattern=r"(?<!x)4[02]$", label="HAM")

@vectorized_labeling_function
def by_length(items):
    return pl.when(pl.col("text").str.len_chars() > 7).then(pl.lit("HAM"))

@vectorized_labeling_function(on_error="abstain", error_budget=0.2)
def odd(items):
    return items["text"].str.ends_with("13").replace_strict({True: "OTHER", False: "HAM"})

@labeling_function(on_error="abstain", error_budget=0.5)
def by_helper(item):
    return choose(item.text)

@labeling_function(timeout=1, on_timeout="abstain", error_budget=0.5)
def timed(item):
    if item.item_id == 77:
        time.sleep(5)
    return "HAM"
"""
HELPER = """
def choose(text):
    if text.endswith("99"):
        raise ValueError(f"cannot read {text}")
    return "SPAM" if "7" in text else None
"""


def make_items(root, n, lfs=LFS):
    ids = list(range(n))
    items = pl.DataFrame({"item_id": ids, "split": ["train"] * n, "text": [f"item {number}" for number in ids]})
    write_table(root / ITEMS, items, schemas.ITEMS)
    gold = pl.DataFrame({"item_id": [0, 1], "gold": pl.Series([0, 1], dtype=pl.Int8)})
    write_table(root / VALID_GOLD, gold, schemas.gold(2))
    (root / "lfs").mkdir()
    (root / "lfs" / "mine.py").write_text(lfs)
    (root / "lfs" / "__init__.py").touch()
    (root / "lfs" / "helper.py").write_text(HELPER)
    (root / "lfs" / "words.txt").write_text("5 55")


def run_apply(root):
    """Everything that apply writes, without help of the cache."""
    shutil.rmtree(root / store.FOLDER, ignore_errors=True)
    apply.run(root, ("HAM", "SPAM"), ApplyParams(source="lfs/mine.py"))
    return {path.name: path.read_bytes() for path in (root / "data/apply").iterdir()}


def make_search_task(root):
    """A project whose embeddings lie in groups, with three LFs: one rare."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5000, 6)) + 4 * rng.standard_normal((10, 6))[rng.integers(0, 10, 5000)]
    votes = np.where(rng.random((5000, 3)) < [0.3, 0.02, 0.5], rng.integers(0, 2, (5000, 3)), -1)
    write_project(root, vectors=vectors, votes=votes, splits=["train", "valid"] * 2500)


def run_search(root, kind):
    """Everything that search writes, without help of the cache."""
    shutil.rmtree(root / store.FOLDER, ignore_errors=True)
    write_neighbors(root, metric=Metric.L2, kind=kind)
    return [(root / path).read_bytes() for path in (NEIGHBORS, RECALL)]
