"""Labeling without a refit: what train said of a row is said of it again, whatever else comes that night."""

import shutil

import numpy as np
import polars as pl
import pytest
import yaml
from test_train import CLASSES, ROOT, write_project

from tasks import extend, train, tune
from tasks.errors import DataError
from tasks.label_new import LabeledRows, label_rows
from tasks.params import CertifyParams, Metric, Params
from tasks.tables import schemas
from tasks.tables.parquet import write_table
from tasks.tables.paths import EMBEDDINGS, END_MODEL, ITEMS, PROVENANCE, SHIPPED_LABELS, THRESHOLDS, VALID_GOLD, VOTES
from tasks.tables.release_rows import RowChanges, read_rows

FILES = {
    "labels.parquet": SHIPPED_LABELS,
    "votes.parquet": VOTES,
    "provenance.parquet": PROVENANCE,
    "thresholds.json": THRESHOLDS,
    "model.parquet": END_MODEL,
}


def make_params(classes=CLASSES, metric=Metric.COSINE):
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text())
    shipped |= {"classes": list(classes), "index": {"metric": str(metric)}}
    return Params.model_validate(shipped)


def run_to_the_end(root, classes=CLASSES, metric=Metric.COSINE, error_rate=0.05, **options):
    """A project on which the stages have run; the folder of a release of it, and params."""
    write_project(root, classes=classes, metric=metric, **options)
    params = make_params(classes, metric)
    certify = CertifyParams(error_rate=error_rate)
    params = params.model_copy(update={"train": params.train.model_copy(update={"certify": certify})})
    tune.run(root, classes, params.tune)
    extend.run(root, classes, params.extend)
    train.run(root, classes, params.train)
    release = root / "release"
    release.mkdir()
    for name, source in FILES.items():
        shutil.copy(root / source, release / name)
    write_table(release / "rows.parquet", read_rows(root), schemas.ROWS)
    return release, params


def forget(release, gone):
    """Let a release not know the items `gone`."""
    for name in ("labels.parquet", "votes.parquet", "provenance.parquet", "rows.parquet"):
        table = pl.read_parquet(release / name)
        table.filter(~pl.col("item_id").is_in(gone)).write_parquet(release / name)


def take_over(release, labeled: LabeledRows):
    """Make what was labeled the contents of a release."""
    for name in ("labels", "votes", "provenance", "rows"):
        getattr(labeled, name).write_parquet(release / f"{name}.parquet")


def held_back(root, share=3):
    """Some items of valid and test: they lend no votes, so that nobody else's neighbors depend on them."""
    items = pl.read_parquet(root / ITEMS)
    return items.filter(pl.col("split") != "train")["item_id"].gather_every(share).to_list()


def label_alone(root, release, run, item, params):
    """The probabilities of an item that alone is new to a release, whose tables `run` has."""
    for name, table in run.items():
        table.write_parquet(release / f"{name}.parquet")
    forget(release, [item])
    return probabilities(label_rows(root, release, "0" * 12, params).labels, [item])


def probabilities(table, ids):
    return table.filter(pl.col("item_id").is_in(ids)).select("^p_.*$").to_numpy()


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("classes", [CLASSES, tuple("abcd")])
@pytest.mark.parametrize("gold_rows", [0, 40])
def test_rows_of_the_run_get_the_labels_of_the_run(tmp_path, metric, classes, gold_rows):
    release, params = run_to_the_end(tmp_path, classes, metric, gold_rows=gold_rows)
    run = {name: pl.read_parquet(release / f"{name}.parquet") for name in ("labels", "votes", "provenance", "rows")}
    gold = pl.read_parquet(tmp_path / VALID_GOLD)["item_id"].to_list()
    gone = [one for one in held_back(tmp_path) if one not in gold]
    forget(release, gone)
    labeled = label_rows(tmp_path, release, "0" * 12, params)
    assert labeled.counts == RowChanges(kept=240 - len(gone), new=len(gone), changed=0, deleted=0)
    # All that is exact is as it was: votes, whose votes were lent and how near they are.
    assert labeled.votes.equals(run["votes"]) and labeled.provenance.equals(run["provenance"])
    assert labeled.rows.drop("base").equals(run["rows"].drop("base"))
    assert labeled.rows.filter(pl.col("base").is_not_null())["item_id"].to_list() == gone
    is_gone = pl.col("item_id").is_in(gone)
    assert labeled.labels.filter(~is_gone).equals(run["labels"].filter(~is_gone))
    # One by one, since who is new has no say in the labels of others that are; half of them, as each takes .1 s.
    alone = gone[::2]
    found = np.concatenate([label_alone(tmp_path, release, run, item, params) for item in alone])
    expected = probabilities(run["labels"], alone)
    silent = (labeled.labels.filter(pl.col("item_id").is_in(alone))["original_votes"] == 0).to_numpy()
    assert 0 < silent.sum() < len(alone)
    assert found[silent] == pytest.approx(expected[silent], abs=2e-5)
    # The fit held the vote head of the others out.
    assert np.abs(found - expected).max() < 0.25 and np.abs(found - expected).mean() < 0.02
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95


@pytest.mark.parametrize("metric", list(Metric))
def test_a_label_does_not_depend_on_what_else_comes_that_night_or_the_night_before(tmp_path, metric):
    release, params = run_to_the_end(tmp_path, metric=metric)
    gone = held_back(tmp_path) + pl.read_parquet(tmp_path / ITEMS)["item_id"][:5].to_list()
    forget(release, gone)
    together = label_rows(tmp_path, release, "0" * 12, params)
    files = (ITEMS, EMBEDDINGS, VOTES)
    tonight = {path: pl.read_parquet(tmp_path / path) for path in files}
    for night in range(3):
        late = [one for one in gone if gone.index(one) % 3 > night]
        for path, table in tonight.items():
            table.filter(~pl.col("item_id").is_in(late)).write_parquet(tmp_path / path)
        take_over(release, label_rows(tmp_path, release, str(night) * 12, params))
    apart = {name: pl.read_parquet(release / f"{name}.parquet") for name in ("labels", "votes", "provenance", "rows")}
    assert apart["votes"].equals(together.votes) and apart["provenance"].equals(together.provenance)
    assert apart["rows"].drop("base").equals(together.rows.drop("base"))
    assert sorted(apart["rows"]["base"].drop_nulls().unique()) == ["0" * 12, "1" * 12, "2" * 12]
    assert apart["labels"]["label"].equals(together.labels["label"])
    assert probabilities(apart["labels"], gone) == pytest.approx(probabilities(together.labels, gone), abs=2e-5)


def test_changed_rows_are_labeled_anew_and_deleted_ones_are_gone(tmp_path):
    release, params = run_to_the_end(tmp_path)
    before = pl.read_parquet(release / "labels.parquet")
    ids = before["item_id"]
    swapped, deleted, renamed = ids[7], ids[8], ids[9]
    embeddings = pl.read_parquet(tmp_path / EMBEDDINGS)
    vectors = embeddings["embedding"].to_numpy().copy()
    vectors[7] = -vectors[7]
    changes = {
        EMBEDDINGS: embeddings.with_columns(pl.Series("embedding", vectors, dtype=pl.Array(pl.Float32, 8))),
        ITEMS: pl.read_parquet(tmp_path / ITEMS),
        VOTES: pl.read_parquet(tmp_path / VOTES),
    }
    for path, table in changes.items():
        table = table.filter(pl.col("item_id") != deleted)
        table.with_columns(pl.col("item_id").replace(renamed, f"{renamed}x")).write_parquet(tmp_path / path)
    labeled = label_rows(tmp_path, release, "0" * 12, params)
    assert labeled.counts == RowChanges(kept=237, new=1, changed=1, deleted=2)
    assert labeled.labels["item_id"].to_list() == [
        f"{one}x" if one == renamed else one for one in ids if one != deleted
    ]
    assert labeled.rows.filter(pl.col("base").is_not_null())["item_id"].to_list() == [swapped, f"{renamed}x"]
    # Whoever is gone or changed lends no vote to new rows.
    lenders = labeled.provenance.filter(pl.col("item_id").is_in([swapped, f"{renamed}x"]))["neighbor"]
    assert not set(lenders) & {swapped, deleted, renamed}


def test_nothing_new_is_nothing_changed(tmp_path):
    release, params = run_to_the_end(tmp_path)
    labeled = label_rows(tmp_path, release, "0" * 12, params)
    assert labeled.counts == RowChanges(kept=240, new=0, changed=0, deleted=0)
    for name in ("labels", "votes", "provenance", "rows"):
        assert getattr(labeled, name).equals(pl.read_parquet(release / f"{name}.parquet"))


def test_without_any_support_left_rows_are_still_labeled(tmp_path):
    release, params = run_to_the_end(tmp_path)
    forget(release, pl.read_parquet(release / "labels.parquet")["item_id"].to_list())
    labeled = label_rows(tmp_path, release, "0" * 12, params)
    assert labeled.counts == RowChanges(kept=0, new=240, changed=0, deleted=0)
    assert labeled.provenance.is_empty() and not len(labeled.similarity)
    assert np.isfinite(probabilities(labeled.labels, labeled.labels["item_id"].to_list())).all()


def test_other_labeling_functions_or_embeddings_are_refused(tmp_path):
    release, params = run_to_the_end(tmp_path)
    votes = pl.read_parquet(tmp_path / VOTES)
    votes.rename({"lf_0": "other"}).write_parquet(tmp_path / VOTES)
    with pytest.raises(DataError, match=r"differ in .'lf_0', 'other'"):
        label_rows(tmp_path, release, "0" * 12, params)
    votes.write_parquet(tmp_path / VOTES)
    embeddings = pl.read_parquet(tmp_path / EMBEDDINGS)
    narrow = pl.Series("embedding", embeddings["embedding"].to_numpy()[:, :5], dtype=pl.Array(pl.Float32, 5))
    embeddings.with_columns(narrow).write_parquet(tmp_path / EMBEDDINGS)
    with pytest.raises(DataError, match="5 dimensions; the release's model knows 8"):
        label_rows(tmp_path, release, "0" * 12, params)


def test_new_rows_are_certified_as_the_run_certified_them(tmp_path):
    release, params = run_to_the_end(tmp_path, n=480, gold_rows=100, error_rate=0.1)
    run = pl.read_parquet(release / "labels.parquet")
    gold = pl.read_parquet(tmp_path / VALID_GOLD)["item_id"].to_list()
    gone = [item for item in held_back(tmp_path) if item not in gold]
    forget(release, gone)
    found = label_rows(tmp_path, release, "0" * 12, params).labels
    again, before = (table.filter(pl.col("item_id").is_in(gone))["is_certified"] for table in (found, run))
    assert again.sum() > 10 and (again == before).mean() > 0.9
    assert found.filter(~pl.col("item_id").is_in(gone))["is_certified"].equals(
        run.filter(~pl.col("item_id").is_in(gone))["is_certified"]
    )
    # A release of before there were certificates: nothing is certified, and that is said of every row.
    pl.read_parquet(release / "labels.parquet").drop("is_certified").write_parquet(release / "labels.parquet")
    older = label_rows(tmp_path, release, "0" * 12, params).labels
    assert not older.filter(~pl.col("item_id").is_in(gone))["is_certified"].any()
