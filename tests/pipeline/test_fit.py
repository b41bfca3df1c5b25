"""The fit stage on small projects written by hand, and on the shared data sets as a user would bring them."""

import json

import numpy as np
import polars as pl
import pytest
from shared_datasets import DATASETS, needs_datasets

from tasks import fit, index
from tasks.core.label_models.choice import from_json
from tasks.core.label_models.dawid_skene import fit_dawid_skene
from tasks.core.ties import score_labels
from tasks.errors import DataError, ParamsError
from tasks.params import FitParams, IndexParams
from tasks.tables import schemas
from tasks.tables.centers import Centers, write_centers
from tasks.tables.files import read_json
from tasks.tables.muted import write_muted
from tasks.tables.parquet import write_table
from tasks.tables.paths import (
    EMBEDDINGS,
    EXTENDED_VOTES,
    INDEX,
    ITEMS,
    KEPT_CENTERS,
    LABEL_MODEL,
    LABEL_MODEL_LABELS,
    LABEL_MODEL_PREDICTIONS,
    VALID_GOLD,
    VOTES,
)

CLASSES = ("ham", "spam")


def write_project(root, split, votes, gold=None, extended=None, classes=CLASSES, ids=None):
    """A project whose item i has split[i], votes[i], and gold[i] if that is not None and its split is valid."""
    ids = ids or [f"item-{i:03d}" for i in range(len(split))]
    lfs = [f"lf_{j}" for j in range(len(votes[0]))]
    k = len(classes)
    items = pl.DataFrame({"item_id": ids, "split": list(split)})
    write_table(root / ITEMS, items, schemas.ITEMS)
    known = [
        (i, c) for i, s, c in zip(ids, split, gold or [None] * len(ids), strict=True) if s == "valid" and c is not None
    ]
    table = pl.DataFrame(known, schema={"item_id": pl.String, "gold": pl.Int8}, orient="row")
    write_table(root / VALID_GOLD, table, schemas.gold(k))
    for path, matrix in ((VOTES, votes), (EXTENDED_VOTES, votes if extended is None else extended)):
        columns = np.array(matrix, dtype=np.int8)
        table = pl.DataFrame({"item_id": ids, **{lf: columns[:, j] for j, lf in enumerate(lfs)}})
        write_table(root / path, table, schemas.votes(k, table.columns))
    write_muted(root, (), lfs)
    write_embeddings(root, ids, np.random.default_rng(0).normal(size=(len(ids), 2)).astype(np.float32), classes)


def write_embeddings(root, ids, vectors, classes):
    d = vectors.shape[1]
    table = pl.DataFrame({"item_id": ids, "embedding": pl.Series(vectors, dtype=pl.Array(pl.Float32, d))})
    write_table(root / EMBEDDINGS, table, schemas.embeddings(d))
    write_centers(root / KEPT_CENTERS, Centers.none())
    index.run(root, classes, IndexParams())


def read_results(root):
    labels = pl.read_parquet(root / LABEL_MODEL_LABELS)
    predictions = pl.read_parquet(root / LABEL_MODEL_PREDICTIONS)
    return labels, predictions, read_json(root / LABEL_MODEL)


def probabilities(table, method, k=2):
    return table.select(f"{method}/{c}" for c in range(k)).to_numpy()


SPLIT = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2
TOY_VOTES = [
    [0, 0, -1],
    [0, -1, 0],
    [1, 1, 1],
    [1, -1, -1],
    [0, 1, 1],
    [-1, -1, -1],
    [0, 0, 0],
    [1, 1, -1],
    [1, 0, -1],
    [0, 0, 1],
]


def test_majority_vote_by_hand(tmp_path):
    extended = [row.copy() for row in TOY_VOTES]
    extended[3] = [1, 0, 0]
    extended[5] = [-1, 1, -1]
    write_project(tmp_path, SPLIT, TOY_VOTES, [None] * 6 + [0, 1, None, None], extended)
    fit.run(tmp_path, CLASSES, FitParams(label_model="majority_vote"))
    labels, predictions, model = read_results(tmp_path)
    # Balance: one of each on valid, one added to each. Row 8 ties, and the balance ties too: the first class.
    assert model["class_balance"] == {"ham": 2 / 4, "spam": 2 / 4}
    assert labels["label"].to_list() == ["ham", "ham", "spam", "ham", "spam", "spam", "ham", "spam", "ham", "ham"]
    assert labels["p_spam"].to_list() == [0, 0, 1, 0, 1, 1, 0, 1, 0.5, 0]
    assert labels["original_votes"].to_list() == [2, 2, 3, 1, 3, 0, 3, 2, 2, 3]
    assert labels["extended_votes"].to_list() == [0, 0, 0, 2, 0, 1, 0, 0, 0, 0]
    raw = probabilities(predictions, "majority_vote")
    assert raw[3].tolist() == [0, 1]
    assert raw[5].tolist() == [0.5, 0.5]
    assert np.array_equal(probabilities(predictions, "label_model_raw"), raw)
    shipped = labels.select("p_ham", "p_spam").to_numpy()
    assert np.array_equal(probabilities(predictions, "label_model_extended"), shipped)
    assert np.array_equal(probabilities(predictions, "majority_vote_extended"), shipped)


def plant_project(root, n=400, precisions=(0.9, 0.8, 0.8, 0.7), seed=0, train=0.5):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 2, n)
    right = rng.random((n, len(precisions))) < precisions
    votes = np.where(rng.random(right.shape) < 0.7, np.where(right, gold[:, None], 1 - gold[:, None]), -1)
    split = np.where(np.arange(n) < train * n, "train", np.where(np.arange(n) % 2, "valid", "test"))
    write_project(root, split.tolist(), votes.tolist(), gold.tolist())
    return gold, votes, split


@pytest.mark.parametrize("kind", ["auto", "majority_vote", "weighted_majority_vote", "flyingsquid", "dawid_skene"])
def test_a_second_run_writes_the_same_bytes_and_the_saved_model_says_the_same(tmp_path, kind):
    _, votes, _ = plant_project(tmp_path)
    written = []
    for _ in range(2):
        fit.run(tmp_path, CLASSES, FitParams(label_model=kind))
        written.append(
            [(tmp_path / path).read_bytes() for path in (LABEL_MODEL_LABELS, LABEL_MODEL_PREDICTIONS, LABEL_MODEL)]
        )
    assert written[0] == written[1]
    labels, _, described = read_results(tmp_path)
    again = from_json(described["model"]).predict_proba(votes.astype(np.int8))
    assert np.array_equal(again, labels.select("p_ham", "p_spam").to_numpy())


def test_label_model_json_says_what_was_learned_and_from_how_much_gold(tmp_path):
    plant_project(tmp_path)
    fit.run(tmp_path, CLASSES, FitParams())
    described = read_results(tmp_path)[2]
    assert described["label_model"] == "flyingsquid"
    assert described["options"]["mode"] == "corrected"
    # 200 train rows, and 100 valid rows with gold that anchor the precisions.
    assert (described["fitted_rows"], described["gold_rows"]) == (300, 100)
    assert "100 valid items" in described["class_balance_source"]
    assert described["precision"]["lf_0"]["ham"] > described["precision"]["lf_3"]["ham"]
    assert described["on_original_votes"]["label_model"] == "flyingsquid"


def test_reference_mode_uses_no_gold_beyond_the_class_balance(tmp_path):
    plant_project(tmp_path)
    fit.run(tmp_path, CLASSES, FitParams(flyingsquid={"mode": "reference"}))
    described = read_results(tmp_path)[2]
    assert (described["fitted_rows"], described["gold_rows"]) == (200, 0)


def test_auto_reports_held_out_accuracy(tmp_path):
    plant_project(tmp_path, precisions=(1.0, 0.5, 0.5, 0.5))
    fit.run(tmp_path, CLASSES, FitParams(label_model="auto"))
    described = read_results(tmp_path)[2]
    assert described["chosen_by"] == "auto"
    accuracy = described["held_out_accuracy"]
    assert described["label_model"] == max(accuracy, key=accuracy.get) != "majority_vote"


def test_auto_without_gold_takes_the_default_and_says_what_it_could_not_check(tmp_path):
    write_project(tmp_path, SPLIT, TOY_VOTES)
    fit.run(tmp_path, CLASSES, FitParams(label_model="auto"))
    described = read_results(tmp_path)[2]
    assert described["label_model"] == "flyingsquid"
    assert described["held_out_accuracy"] is None
    assert any("could not check" in finding for finding in described["findings"])


@pytest.mark.parametrize(("known", "are_read"), [(19, False), (20, True)])
def test_embeddings_are_read_if_there_is_gold_to_choose_parts_by(tmp_path, known, are_read):
    votes = [[i % 2, i % 2] for i in range(40)]
    write_project(
        tmp_path, ["train"] * 20 + ["valid"] * 20, votes, [i % 2 if i < 20 + known else None for i in range(40)]
    )
    (tmp_path / INDEX).unlink()
    if are_read:
        with pytest.raises(DataError, match=r"data/index/index\.faiss is missing\. Run 'dvc repro index'"):
            fit.run(tmp_path, CLASSES, FitParams())
    else:
        fit.run(tmp_path, CLASSES, FitParams())
        assert read_results(tmp_path)[2]["liger"]["parts"] == 1


def test_without_valid_gold_the_class_balance_is_uniform_and_says_so(tmp_path):
    write_project(tmp_path, SPLIT, TOY_VOTES)
    fit.run(tmp_path, CLASSES, FitParams())
    described = read_results(tmp_path)[2]
    assert described["class_balance"] == {"ham": 0.5, "spam": 0.5}
    assert "no valid item has gold" in described["class_balance_source"]


def test_valid_gold_of_one_class_keeps_the_other_possible_and_says_so(tmp_path):
    write_project(tmp_path, SPLIT, TOY_VOTES, [None] * 6 + [1, 1, None, None])
    for kind in ("auto", "weighted_majority_vote", "flyingsquid", "dawid_skene"):
        fit.run(tmp_path, CLASSES, FitParams(label_model=kind))
        described = read_results(tmp_path)[2]
        assert described["class_balance"] == {"ham": 1 / 4, "spam": 3 / 4}
        assert described["class_balance_source"].endswith("none of them is of class 'ham'")


def test_a_given_class_balance_is_used(tmp_path):
    write_project(tmp_path, SPLIT, TOY_VOTES, [None] * 6 + [1, 1, None, None])
    fit.run(tmp_path, CLASSES, FitParams(class_balance=(0.3, 0.7), label_model="majority_vote"))
    labels, _, described = read_results(tmp_path)
    assert described["class_balance"] == pytest.approx({"ham": 0.3, "spam": 0.7})
    assert labels.row(5)[1:4] == ("spam", pytest.approx(0.3), pytest.approx(0.7))
    # A tie goes to the larger class.
    assert labels.row(8)[1] == "spam"


def test_findings_name_labeling_functions_and_classes(tmp_path):
    votes = [[row[0], row[0], min(row[1], 0), -1] for row in TOY_VOTES]
    write_project(tmp_path, SPLIT, votes, classes=("ham", "spam", "scam"))
    fit.run(tmp_path, ("ham", "spam", "scam"), FitParams())
    findings = read_results(tmp_path)[2]["findings"]
    assert "lf_3: never votes on the items the model is fitted on" in findings
    assert "lf_0, lf_1: cast identical votes, so they count as one" in findings
    assert "no labeling function votes for class scam" in findings
    assert any(finding.startswith("fewer than three different labeling functions") for finding in findings)


def test_votes_on_no_item_at_all_are_an_error(tmp_path):
    write_project(tmp_path, SPLIT, [[-1, -1, -1]] * 10)
    with pytest.raises(DataError, match="none of the 3 labeling functions votes on any of the 10 items"):
        fit.run(tmp_path, CLASSES, FitParams())
    assert not (tmp_path / LABEL_MODEL_LABELS).exists()


@pytest.mark.parametrize("kind", ["auto", "majority_vote", "weighted_majority_vote", "flyingsquid", "dawid_skene"])
def test_extension_may_be_the_first_to_vote(tmp_path, kind):
    write_project(tmp_path, SPLIT, [[-1, -1, -1]] * 10, [None] * 6 + [0, 1, None, None], TOY_VOTES)
    fit.run(tmp_path, CLASSES, FitParams(label_model=kind))
    _, predictions, _ = read_results(tmp_path)
    assert probabilities(predictions, "label_model_raw") == pytest.approx(np.full((10, 2), 0.5))


def test_without_votes_on_train_every_item_is_fitted_on(tmp_path):
    votes = [[-1, -1, -1]] * 6 + TOY_VOTES[6:]
    write_project(tmp_path, SPLIT, votes, [None] * 6 + [0, 1, None, None])
    fit.run(tmp_path, CLASSES, FitParams())
    described = read_results(tmp_path)[2]
    assert described["fitted_rows"] == 10
    assert any("fitted on all items" in finding for finding in described["findings"])


def test_tables_of_different_items_are_an_error(tmp_path):
    write_project(tmp_path, SPLIT, TOY_VOTES)
    short = pl.read_parquet(tmp_path / VOTES)[:-1]
    write_table(tmp_path / VOTES, short, schemas.votes(2, short.columns))
    with pytest.raises(DataError, match=r"1 items .* are missing, first 'item-009'"):
        fit.run(tmp_path, CLASSES, FitParams())


def test_tables_of_different_labeling_functions_are_an_error(tmp_path):
    write_project(tmp_path, SPLIT, TOY_VOTES)
    fewer = pl.read_parquet(tmp_path / EXTENDED_VOTES).drop("lf_1")
    write_table(tmp_path / EXTENDED_VOTES, fewer, schemas.votes(2, fewer.columns))
    with pytest.raises(DataError, match="lf_1"):
        fit.run(tmp_path, CLASSES, FitParams())


def test_an_unknown_dependency_is_named(tmp_path):
    write_project(tmp_path, SPLIT, TOY_VOTES)
    with pytest.raises(ParamsError, match="'lf_9', which is not a labeling function"):
        fit.run(tmp_path, CLASSES, FitParams(flyingsquid={"dependencies": [["lf_0", "lf_9"]]}))


def test_too_many_dependencies_say_why_they_cannot_be_solved(tmp_path):
    write_project(tmp_path, SPLIT, TOY_VOTES)
    with pytest.raises(ParamsError, match="2 groups of labeling functions"):
        fit.run(tmp_path, CLASSES, FitParams(flyingsquid={"dependencies": [["lf_0", "lf_1"]]}))


def test_dependencies_and_sequences_reach_the_label_model(tmp_path):
    plant_project(tmp_path)
    for options in ({"dependencies": [["lf_0", "lf_3"]]}, {"sequence_length": 3}):
        fit.run(tmp_path, CLASSES, FitParams(flyingsquid=options))
        labels, _, described = read_results(tmp_path)
        assert described["model"]["form"] == "sequence"
        assert labels.height == 400


def test_a_sequence_does_not_run_from_one_split_into_another(tmp_path):
    # The last train item is alone in its sequence; the test item after it must not inform it.
    _, votes, split = plant_project(tmp_path, n=200, train=0.5)
    params = FitParams(flyingsquid={"sequence_length": 3}, class_balance=(0.5, 0.5))
    fit.run(tmp_path, CLASSES, params)
    before = read_results(tmp_path)[0]["p_spam"].to_numpy()
    votes[split == "test"] = -1
    write_project(tmp_path, split.tolist(), votes.tolist())
    fit.run(tmp_path, CLASSES, params)
    after = read_results(tmp_path)[0]["p_spam"].to_numpy()
    assert np.array_equal(before[split != "test"], after[split != "test"])
    assert not np.array_equal(before[split == "test"], after[split == "test"])


def test_many_classes(tmp_path):
    rng = np.random.default_rng(0)
    classes = tuple("abcde")
    gold = rng.integers(0, 5, 600)
    right = rng.random((600, 6)) < 0.8
    votes = np.where(rng.random((600, 6)) < 0.6, np.where(right, gold[:, None], rng.integers(0, 5, (600, 6))), -1)
    split = ["train"] * 300 + ["valid"] * 100 + ["test"] * 200
    write_project(tmp_path, split, votes.tolist(), gold.tolist(), classes=classes)
    for options in (
        {},
        {"flyingsquid": {"mode": "reference"}},
        {"label_model": "dawid_skene"},
        {"label_model": "auto"},
    ):
        fit.run(tmp_path, classes, FitParams(**options))
        labels, predictions, _ = read_results(tmp_path)
        assert probabilities(predictions, "epoxy", 5).sum(axis=1) == pytest.approx(np.ones(600))
        assert (labels["label"].to_numpy() == np.array(classes)[gold]).mean() > 0.85


def bring_dataset(root, name):
    """The shared data set as this pipeline's own tables; the gold of its test items, and where they are."""
    classes = tuple(json.loads((DATASETS / name / "dataset.json").read_text())["classes"])
    items = pl.read_parquet(DATASETS / name / "items.parquet").sort("item_id")
    votes = pl.read_parquet(DATASETS / name / "votes.parquet").sort("item_id")
    gold = items.filter((pl.col("split") == "valid") & pl.col("gold").is_not_null()).select("item_id", "gold")
    write_table(root / ITEMS, items.select("item_id", "split"), schemas.ITEMS)
    write_table(root / VALID_GOLD, gold, schemas.gold(len(classes)))
    for path in (VOTES, EXTENDED_VOTES):
        write_table(root / path, votes, schemas.votes(len(classes), votes.columns))
    order = pl.read_parquet(DATASETS / name / "items.parquet")["item_id"].arg_sort().to_numpy()
    write_muted(root, (), votes.columns[1:])
    write_embeddings(root, items["item_id"], np.load(DATASETS / name / "embeddings.npy")[order], classes)
    test = (items["split"] == "test").to_numpy()
    return classes, test, items["gold"].fill_null(-1).to_numpy().astype(np.int64)[test]


@needs_datasets
@pytest.mark.parametrize(("name", "expected"), [("spam", 0.818), ("sms", 0.676), ("agnews", 0.588)])
def test_majority_vote_has_the_published_accuracy_on_real_tasks(tmp_path, name, expected):
    classes, test, gold = bring_dataset(tmp_path, name)
    fit.run(tmp_path, classes, FitParams(class_balance="uniform", label_model="majority_vote"))
    given = probabilities(read_results(tmp_path)[1], "majority_vote", len(classes))[test]
    assert round(score_labels(given, gold).mean(), 3) == expected


@needs_datasets
def test_reference_reproduces_the_spam_tutorial_without_extension(tmp_path):
    classes, test, gold = bring_dataset(tmp_path, "spam")
    params = FitParams(class_balance=(0.4, 0.6), flyingsquid={"mode": "reference", "estimate": "median"})
    fit.run(tmp_path, classes, params)
    spam = (read_results(tmp_path)[0]["label"] == "SPAM").to_numpy()[test]
    assert (spam == gold).mean() == 0.836
    assert (spam & (gold == 1)).sum() / spam.sum() == pytest.approx(0.8667, abs=5e-5)
    assert (spam & (gold == 1)).sum() / (gold == 1).sum() == pytest.approx(0.7712, abs=5e-5)


@needs_datasets
@pytest.mark.parametrize("name", ["spam", "sms", "agnews"])
def test_the_default_label_model_is_not_worse_than_majority_vote_on_real_tasks(tmp_path, name):
    classes, test, gold = bring_dataset(tmp_path, name)
    fit.run(tmp_path, classes, FitParams())
    predictions = read_results(tmp_path)[1]
    right = {
        method: score_labels(probabilities(predictions, method, len(classes))[test], gold)
        for method in ("majority_vote", "label_model_raw")
    }
    difference = right["label_model_raw"] - right["majority_vote"]
    assert difference.mean() > -2 * difference.std() / np.sqrt(len(gold))


def test_published_label_models_are_rows_and_dawid_skene_is_left_out_where_it_takes_minutes(
    tmp_path, capsys, monkeypatch
):
    _, votes, split = plant_project(tmp_path)
    fit.run(tmp_path, CLASSES, FitParams())
    predictions = read_results(tmp_path)[1]
    balance = np.array(list(read_results(tmp_path)[2]["class_balance"].values()))
    expected = fit_dawid_skene(votes[split == "train"].astype(np.int8), balance).predict_proba(votes.astype(np.int8))
    assert np.array_equal(predictions.select("^dawid_skene/.*$").to_numpy(), expected)
    assert predictions.select("^generative/.*$").width == 2
    monkeypatch.setattr(fit, "DAWID_SKENE_WORK", 0)
    fit.run(tmp_path, CLASSES, FitParams())
    assert not read_results(tmp_path)[1].select("^dawid_skene/.*$").width
    assert "Dawid-Skene is left out" in capsys.readouterr().err
