"""Neither the order of labeling functions nor exact copies of one change thresholds or labels, from votes to releases."""

import shutil

import numpy as np
import polars as pl
import pytest
import small_project
from hypothesis import given, settings
from hypothesis import strategies as st
from small_project import CLASSES, LFS, write_params, write_raw
from test_label_new import run_to_the_end

from tasks import apply, extend, fit, tune
from tasks.__main__ import STAGES, run_stage
from tasks.label_new import label_rows
from tasks.params import ApplyParams, FitParams, LabelModelKind
from tasks.params_file import read_params
from tasks.tables.files import read_json
from tasks.tables.paths import (
    LABEL_MODEL,
    LABEL_MODEL_LABELS,
    LABEL_MODEL_PREDICTIONS,
    SHIPPED_LABELS,
    THRESHOLDS,
    VOTES,
)

COPIES = 10


def lay_out(root, source, *, gold=True):
    """A small project whose votes come from `source` below lfs/, without Git and DVC."""
    write_raw(root / "data" / "raw", 300)
    if not gold:
        items = root / "data" / "raw" / "items.parquet"
        pl.read_parquet(items).with_columns(gold=pl.lit(None, pl.String)).write_parquet(items)
    write_params(root, apply={"source": source})
    (root / "lfs").mkdir()
    return root


def draw_votes():
    """Votes of six LFs of mixed worth on the items of `lay_out`."""
    chosen = np.random.default_rng(0)
    ids = [f"i{row:05}" for row in range(300)]
    truth = np.random.default_rng(0).integers(0, 2, 300)
    columns = {}
    for lf, precision in zip("fcadbe", (0.9, 0.55, 0.8, 0.7, 0.6, 0.95), strict=True):
        right = np.where(chosen.random(300) < precision, truth, 1 - truth)
        columns[lf] = np.where(chosen.random(300) < 0.35, right, -1).astype(np.int8)
    return pl.DataFrame({"item_id": ids, **columns})


def run_all(root, stages=STAGES):
    for stage in stages:
        run_stage(root, stage)
    return small_project.hash_outputs(root, stages)


def reverse_module(text):
    """The module's definitions in reverse order, after its imports."""
    head, *definitions = text.split("\n\n\n")
    imports, first, second = head.partition("\noffer")
    return (
        "\n\n\n".join([imports, *reversed(definitions), "\n".join(reversed((first + second).strip().split("\n")))])
        + "\n"
    )


def test_a_module_in_another_order_gives_the_same_bytes_everywhere(tmp_path):
    outputs = []
    for name, text in (("one", LFS), ("other", reverse_module(LFS))):
        root = lay_out(tmp_path / name, "lfs/small.py")
        (root / "lfs" / "small.py").write_text(text)
        outputs.append(run_all(root))
    assert outputs[0] == outputs[1]
    assert pl.read_parquet(tmp_path / "one" / VOTES).columns == ["item_id", "greeting", "hello", "long", "offer"]


@pytest.fixture(scope="module")
def with_items(tmp_path_factory):
    """A project of which ingest, gold and index have run."""
    root = lay_out(tmp_path_factory.mktemp("order") / "project", "lfs/votes.parquet")
    run_all(root, ("ingest", "gold", "index"))
    return root


@settings(max_examples=15, deadline=None)
@given(order=st.permutations("abcdef"), suffix=st.sampled_from(["parquet", "csv"]))
def test_a_table_of_votes_in_another_order_gives_the_same_bytes(with_items, order, suffix):
    table = draw_votes().select("item_id", *order)
    path = with_items / "lfs" / f"votes.{suffix}"
    table.write_parquet(path) if suffix == "parquet" else table.write_csv(path)
    apply.run(with_items, CLASSES, ApplyParams(source=f"lfs/votes.{suffix}"))
    assert pl.read_parquet(with_items / VOTES).equals(draw_votes().select("item_id", *"abcdef"))


@pytest.fixture(scope="module", params=["gold", "no gold"])
def copied(request, tmp_path_factory):
    """A project of six LFs, and one in which one of them is there eleven times; all stages have run."""
    roots = []
    for name in ("once", "copied"):
        root = lay_out(tmp_path_factory.mktemp(name) / "p", "lfs/votes.parquet", gold=request.param == "gold")
        votes = draw_votes()
        if name == "copied":
            votes = votes.with_columns(pl.col("c").alias(f"c_{number}") for number in range(COPIES))
        votes.write_parquet(root / "lfs" / "votes.parquet")
        run_all(root)
        roots.append(root)
    return roots


def test_copies_change_no_threshold_and_have_the_same(copied):
    once, several = (read_json(root / THRESHOLDS)["thresholds"] for root in copied)
    assert several == {**once, **dict.fromkeys((f"c_{number}" for number in range(COPIES)), once["c"])}
    assert any(value is not None for value in once.values())


@pytest.mark.parametrize("kind", sorted(set(LabelModelKind) - {LabelModelKind.MAJORITY_VOTE, LabelModelKind.AUTO}))
def test_copies_change_no_label_of_fit(copied, kind):
    labels, predictions = [], []
    for root in copied:
        fit.run(root, CLASSES, FitParams(label_model=kind))
        labels.append(pl.read_parquet(root / LABEL_MODEL_LABELS)["label"])
        predictions.append(pl.read_parquet(root / LABEL_MODEL_PREDICTIONS))
    assert labels[0].equals(labels[1])
    methods = [name for name in predictions[0].columns if name.startswith(("liger/", "epoxy/", "label_model"))]
    for name in methods:
        assert predictions[1][name].to_numpy() == pytest.approx(predictions[0][name].to_numpy(), abs=1e-5), name


def test_copies_change_no_shipped_label(copied):
    once, several = (pl.read_parquet(root / SHIPPED_LABELS)["label"] for root in copied)
    assert once.equals(several)


def test_majority_vote_says_that_it_counts_every_copy(copied):
    fit.run(copied[1], CLASSES, FitParams(label_model=LabelModelKind.MAJORITY_VOTE))
    (found,) = [text for text in read_json(copied[1] / LABEL_MODEL)["findings"] if "identical" in text]
    assert found.endswith("cast identical votes, and majority vote counts each of them")


def test_only_copies_that_are_free_alike_share_a_threshold(copied):
    root, params = copied[1], read_params(copied[1]).tune
    tune.run(root, CLASSES, params.model_copy(update={"thresholds": {"c_3": 0.5}}))
    found = read_json(root / THRESHOLDS)["thresholds"]
    assert found["c_3"] == 0.5
    assert len({found[name] for name in found if name.startswith("c") and name != "c_3"}) == 1
    tune.run(root, CLASSES, params)
    extend.run(root, CLASSES, read_params(root).extend)


def test_new_rows_are_labeled_by_a_release_with_its_lfs_in_another_order(tmp_path):
    release, params = run_to_the_end(tmp_path)
    before = label_rows(tmp_path, release, "r1", params)
    votes = pl.read_parquet(tmp_path / VOTES)
    turned = votes.select("item_id", *reversed(votes.columns[1:]))
    shutil.copy(tmp_path / VOTES, tmp_path / "kept.parquet")
    turned.write_parquet(tmp_path / VOTES)
    after = label_rows(tmp_path, release, "r1", params)
    assert after.labels.equals(before.labels)
    assert after.votes.equals(before.votes)
