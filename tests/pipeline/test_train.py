"""The train stage: shipped labels from votes, similarities and gold, and what it does where there is little of each."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from flows.runner.project import describe_end
from tasks import index, search, train
from tasks.core.unit_vectors import to_index_vectors
from tasks.errors import DataError, ParamsError
from tasks.params import CertifyParams, IndexParams, Metric, SearchParams, TrainParams
from tasks.params_file import read_params
from tasks.tables import schemas
from tasks.tables.block_layout import write_layout
from tasks.tables.centers import Centers, write_centers
from tasks.tables.files import read_json, write_json
from tasks.tables.muted import write_muted
from tasks.tables.parquet import read_table, write_table
from tasks.tables.paths import (
    CELLS,
    EMBEDDINGS,
    END_MODEL,
    END_MODEL_PREDICTIONS,
    END_MODEL_SUMMARY,
    INDEX,
    ITEMS,
    KEPT_CENTERS,
    METRICS,
    SHIPPED_LABELS,
    VALID_GOLD,
    VOTES,
)
from tasks.tables.saved_descriptions import write_no_descriptions
from tasks.tables.saved_model import read_model, write_model
from tasks.tables.scaled_embeddings import place_vectors, read_scaled_embeddings

ROOT = Path(__file__).resolve().parents[2]

CLASSES = ("ham", "spam")
PATHS = (SHIPPED_LABELS, END_MODEL_PREDICTIONS, END_MODEL_SUMMARY, END_MODEL)


def write_project(root, n=240, classes=CLASSES, metric=Metric.COSINE, gold_rows=40, scale=1.0, votes=None, d=8):
    """Items in as many clusters as classes, LFs right nine times in ten on a third of them; returns the true class."""
    rng = np.random.default_rng(0)
    k = len(classes)
    truth = rng.integers(0, k, n)
    centers = rng.normal(size=(k, 8))
    vectors = np.zeros((n, d), np.float32)
    vectors[:, :8] = scale * (centers[truth] + 0.4 * rng.normal(size=(n, 8)))
    ids = [f"i{row:04d}" for row in range(n)]
    split = np.where(np.arange(n) < n // 2, "train", np.where(np.arange(n) % 2, "valid", "test"))
    if votes is None:
        right = np.where(rng.random((n, 4)) < 0.9, truth[:, None], rng.integers(0, k, (n, 4)))
        votes = np.where(rng.random((n, 4)) < 0.33, right, -1)
    known = np.flatnonzero(split == "valid")[:gold_rows]
    tables = {
        ITEMS: (pl.DataFrame({"item_id": ids, "split": split.tolist()}), schemas.ITEMS),
        VALID_GOLD: (
            pl.DataFrame(
                {"item_id": [ids[row] for row in known], "gold": pl.Series(truth[known], dtype=pl.Int8)},
                schema_overrides={"item_id": pl.String},
            ),
            schemas.gold(k),
        ),
        EMBEDDINGS: (
            pl.DataFrame({"item_id": ids, "embedding": pl.Series(vectors, dtype=pl.Array(pl.Float32, d))}),
            schemas.embeddings(d),
        ),
    }
    table = pl.DataFrame({"item_id": ids, **{f"lf_{j}": votes[:, j].astype(np.int8) for j in range(votes.shape[1])}})
    tables[VOTES] = (table, schemas.votes(k, table.columns))
    for path, (table, schema) in tables.items():
        write_table(root / path, table, schema)
    write_centers(root / KEPT_CENTERS, Centers.none())
    write_no_descriptions(root)
    write_layout(root, (), {})
    write_muted(root, (), [])
    index.run(root, classes, IndexParams(metric=metric))
    search.run(root, classes, SearchParams())
    return truth


def read_labels(root, classes=CLASSES):
    return read_table(root / SHIPPED_LABELS, schemas.end_labels(classes))


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("classes", [CLASSES, tuple("abcde")])
@pytest.mark.parametrize("gold_rows", [0, 3, 40])
def test_clusters_are_labeled_with_and_without_gold(tmp_path, metric, classes, gold_rows):
    truth = write_project(tmp_path, classes=classes, metric=metric, gold_rows=gold_rows)
    train.run(tmp_path, classes, TrainParams())
    labels = read_labels(tmp_path, classes)
    assert (labels["label"].to_numpy() == np.array(classes)[truth]).mean() > 0.85
    assert np.allclose(labels.select("^p_.*$").to_numpy().sum(axis=1), 1)
    predictions = pl.read_parquet(tmp_path / END_MODEL_PREDICTIONS)
    methods = {name.split("/")[0] for name in predictions.columns} - {"item_id"}
    assert methods == {"nearvote", "end_model"} | ({"gold_only"} if gold_rows else set())
    described = read_json(tmp_path / END_MODEL_SUMMARY)
    assert described["gold_rows"] == gold_rows
    assert (described["end_model_weights"] is not None) == (gold_rows == 40)


def test_a_second_run_writes_the_same_bytes(tmp_path):
    write_project(tmp_path)
    written = []
    for _ in range(2):
        train.run(tmp_path, CLASSES, TrainParams())
        written.append([(tmp_path / path).read_bytes() for path in PATHS])
    assert written[0] == written[1]


def test_the_scale_of_l2_embeddings_does_not_matter(tmp_path):
    for name, scale in (("one", 1.0), ("other", 64.0)):
        write_project(tmp_path / name, metric=Metric.L2, scale=scale)
        train.run(tmp_path / name, CLASSES, TrainParams())
    one, other = (read_labels(tmp_path / name).select("^p_.*$").to_numpy() for name in ("one", "other"))
    assert np.abs(one - other).max() < 1e-4


def test_gold_is_left_alone_where_params_say_so(tmp_path):
    write_project(tmp_path / "none", gold_rows=0)
    write_project(tmp_path / "some", gold_rows=40)
    for name in ("none", "some"):
        train.run(tmp_path / name, CLASSES, TrainParams(gold="none"))
    assert read_labels(tmp_path / "none").equals(read_labels(tmp_path / "some"))


@pytest.mark.parametrize(
    ("balance", "expected"), [("uniform", [0.5, 0.5]), ((0.2, 0.8), [0.2, 0.8]), ((0.3, 0.7), [0.3, 0.7])]
)
def test_the_class_balance_of_params_is_used(tmp_path, balance, expected):
    write_project(tmp_path, gold_rows=0)
    train.run(tmp_path, CLASSES, TrainParams(class_balance=balance))
    assert list(read_json(tmp_path / END_MODEL_SUMMARY)["class_balance"].values()) == expected
    nearvote = pl.read_parquet(tmp_path / END_MODEL_PREDICTIONS).select("^nearvote/.*$").to_numpy()
    assert nearvote.mean(axis=0) == pytest.approx(expected, abs=1e-6)


def test_all_abstaining_is_an_error_that_says_what_to_do(tmp_path):
    write_project(tmp_path, votes=np.full((240, 4), -1))
    with pytest.raises(DataError, match="none of the 4 labeling functions votes"):
        train.run(tmp_path, CLASSES, TrainParams())
    assert not (tmp_path / SHIPPED_LABELS).exists()


ODD_VOTES = {
    "one LF": np.where(np.arange(240)[:, None] % 3 == 0, np.arange(240)[:, None] % 2, -1),
    "one class": np.where(np.arange(240)[:, None] % 3 == np.arange(4), 0, -1),
    "identical LFs": np.repeat(np.arange(240)[:, None] % 3 - 1, 4, axis=1),
    "a silent LF": np.stack([np.arange(240) % 2, np.full(240, -1)], axis=1),
    "one vote": np.where(np.arange(240)[:, None] == 5, np.array([[1, -1]]), -1),
    "votes outside train": np.where(np.arange(240)[:, None] >= 120, np.arange(240)[:, None] % 2, -1),
}


def test_valid_gold_of_one_class_counts_in_the_class_balance_alone_and_says_so(tmp_path, capsys):
    write_project(tmp_path, gold_rows=40)
    gold = pl.read_parquet(tmp_path / VALID_GOLD).with_columns(gold=pl.lit(1, pl.Int8))
    write_table(tmp_path / VALID_GOLD, gold, schemas.gold(2))
    train.run(tmp_path, CLASSES, TrainParams())
    described = read_json(tmp_path / END_MODEL_SUMMARY)
    assert described["end_model_weights"] is None
    assert described["class_balance"]["spam"] > 40 / 42  # the votes' half counts as two rows
    assert "40 gold rows of valid are of one class" in capsys.readouterr().err


@pytest.mark.parametrize(("gold_rows", "shipped"), [(0, "nearvote"), (3, "nearvote"), (40, "end_model")])
def test_random_embeddings_do_not_ruin_what_the_votes_know(tmp_path, capsys, gold_rows, shipped):
    rng = np.random.default_rng(7)
    # What `write_project` draws first is the truth; these votes are right nine times in ten, on nearly all items.
    truth = np.random.default_rng(0).integers(0, 2, 240)
    right = np.where(rng.random((240, 5)) < 0.9, truth[:, None], 1 - truth[:, None])
    votes = np.where(rng.random((240, 5)) < 0.7, right, -1)
    assert np.array_equal(write_project(tmp_path, votes=votes, gold_rows=gold_rows), truth)
    noise = pl.Series("embedding", rng.normal(size=(240, 8)).astype(np.float32), dtype=pl.Array(pl.Float32, 8))
    table = pl.read_parquet(tmp_path / EMBEDDINGS).with_columns(noise)
    write_table(tmp_path / EMBEDDINGS, table, schemas.embeddings(8))
    index.run(tmp_path, CLASSES, IndexParams())
    search.run(tmp_path, CLASSES, SearchParams())
    train.run(tmp_path, CLASSES, TrainParams())
    labels = read_labels(tmp_path)
    assert (labels["label"].to_numpy() == np.array(CLASSES)[truth]).mean() > 0.9
    predictions = pl.read_parquet(tmp_path / END_MODEL_PREDICTIONS)
    train_rows = slice(0, 120)
    assert labels.select("^p_.*$")[train_rows].rows() == predictions.select(f"^{shipped}/.*$")[train_rows].rows()
    described = read_json(tmp_path / END_MODEL_SUMMARY)
    assert described["shipped"] == shipped
    assert ("WARNING" in capsys.readouterr().err) == (shipped == "nearvote")


def test_gold_rows_are_judged_on_what_was_learned_without_them(tmp_path):
    """Embeddings of noise: whoever has seen an item's gold can repeat it, whoever has not can only guess."""
    write_project(tmp_path, n=240, gold_rows=60, votes=np.random.default_rng(1).integers(-1, 2, (240, 3)))
    noise = np.random.default_rng(2).normal(size=(240, 400)).astype(np.float32)
    table = pl.read_parquet(tmp_path / EMBEDDINGS).with_columns(
        pl.Series("embedding", noise, dtype=pl.Array(pl.Float32, 400))
    )
    write_table(tmp_path / EMBEDDINGS, table, schemas.embeddings(400))
    index.run(tmp_path, CLASSES, IndexParams())
    search.run(tmp_path, CLASSES, SearchParams())
    train.run(tmp_path, CLASSES, TrainParams())
    gold = pl.read_parquet(tmp_path / VALID_GOLD)
    judged = gold.join(pl.read_parquet(tmp_path / END_MODEL_PREDICTIONS), on="item_id", maintain_order="left")
    for method in ("gold_only", "end_model", "nearvote"):
        right = ((judged[f"{method}/1"] > 0.5).cast(pl.Int8) == judged["gold"]).mean()
        assert right < 0.75, method


def test_a_class_that_no_lf_votes_for_is_found_by_gold(tmp_path):
    truth = write_project(tmp_path, classes=tuple("abc"), gold_rows=60)
    votes = pl.read_parquet(tmp_path / VOTES)
    silenced = votes.with_columns(pl.col("^lf_.*$").replace(2, -1))
    write_table(tmp_path / VOTES, silenced, schemas.votes(3, silenced.columns))
    search.run(tmp_path, tuple("abc"), SearchParams())
    train.run(tmp_path, tuple("abc"), TrainParams())
    labels = read_labels(tmp_path, tuple("abc"))["label"].to_numpy()
    assert (labels == np.array(list("abc"))[truth]).mean() > 0.8


@pytest.mark.parametrize("section", ["fit", "train"])
def test_a_class_balance_must_sum_to_one(tmp_path, section):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["classes"] = list(CLASSES)
    params[section]["class_balance"] = [0.5, 0.6]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ParamsError, match=rf"{section}\.class_balance.*sums to 1\.1; a class balance sums to 1"):
        read_params(tmp_path)


@pytest.mark.parametrize("gold_rows", [0, 40])
@pytest.mark.parametrize("name", ODD_VOTES)
def test_odd_votes_still_give_labels_for_every_item(tmp_path, name, gold_rows):
    write_project(tmp_path, votes=ODD_VOTES[name], gold_rows=gold_rows)
    train.run(tmp_path, CLASSES, TrainParams())
    probabilities = read_labels(tmp_path).select("^p_.*$").to_numpy()
    assert probabilities.shape == (240, 2)
    assert np.isfinite(probabilities).all()


def test_an_index_of_other_items_is_refused(tmp_path):
    write_project(tmp_path)
    table = pl.read_parquet(tmp_path / EMBEDDINGS).with_columns(item_id="x" + pl.col("item_id"))
    write_table(tmp_path / EMBEDDINGS, table, schemas.embeddings(8))
    index.run(tmp_path, CLASSES, IndexParams())
    with pytest.raises(DataError, match=r"data/index/cells\.parquet"):
        train.run(tmp_path, CLASSES, TrainParams())


@pytest.mark.parametrize("part", [INDEX, CELLS])
def test_half_an_index_is_refused(tmp_path, part):
    """The file of the index, or that of its items, is from another run."""
    write_project(tmp_path)
    own = (tmp_path / part).read_bytes()
    table = pl.read_parquet(tmp_path / EMBEDDINGS)
    other = table[:-1] if part == CELLS else table.with_columns(embedding=table["embedding"].reverse())
    write_table(tmp_path / EMBEDDINGS, other, schemas.embeddings(8))
    index.run(tmp_path, CLASSES, IndexParams())
    (tmp_path / part).write_bytes(own)
    with pytest.raises(DataError, match=rf"{part.name} is not the file that data/index/index\.json describes"):
        train.run(tmp_path, CLASSES, TrainParams())


@pytest.mark.parametrize("metric", list(Metric))
def test_points_are_the_same_whether_all_or_some_are_made(tmp_path, metric):
    write_project(tmp_path, metric=metric, scale=3.0)
    vectors = pl.read_parquet(tmp_path / EMBEDDINGS)["embedding"].to_numpy()
    points = read_scaled_embeddings(tmp_path, pl.read_parquet(tmp_path / ITEMS), tmp_path)
    some = place_vectors(to_index_vectors(vectors[5:9], metric.value), metric, points.center, points.scale)
    np.testing.assert_array_equal(some, points.vectors[5:9])
    norms = np.square(points.vectors.astype(np.float64)).sum(axis=1)
    assert np.isclose(norms if metric is Metric.COSINE else norms.mean(), 1, atol=1e-6).all()


# The saved model.


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("gold_rows", [0, 40])
def test_the_saved_model_is_read_back_as_it_was_and_written_as_the_same_bytes(tmp_path, metric, gold_rows):
    write_project(tmp_path, metric=metric, gold_rows=gold_rows)
    train.run(tmp_path, CLASSES, TrainParams())
    model = read_model(tmp_path / END_MODEL)
    assert (model.classes, model.lfs, model.metric) == (CLASSES, ("lf_0", "lf_1", "lf_2", "lf_3"), metric)
    assert (model.end.gold is not None) == (len(model.gold_classes) > 0) == (gold_rows > 0)
    write_model(tmp_path / "again.parquet", model)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / END_MODEL).read_bytes()


@pytest.mark.parametrize("gold_rows", [0, 20])
def test_dimensions_that_are_all_zero_change_no_label_though_they_outnumber_the_items(tmp_path, gold_rows):
    models, labels = [], []
    for d in (8, 100):
        write_project(tmp_path / str(d), n=80, gold_rows=gold_rows, d=d)
        train.run(tmp_path / str(d), CLASSES, TrainParams())
        models.append(read_model(tmp_path / str(d) / END_MODEL))
        labels.append(read_labels(tmp_path / str(d)))
    assert [model.spectral_map.projection.shape for model in models] == [(8, 8), (100, 8)]
    assert labels[0]["label"].equals(labels[1]["label"])
    found, expected = (table.select("^p_.*$").to_numpy() for table in labels)
    assert found == pytest.approx(expected, abs=1e-3)


def spoil(table, of, **values):
    """The table of a model with values of one of its rows replaced."""
    return pl.DataFrame(
        [{**row, **values} if row["name"] == of else row for row in table.to_dicts()], schema=table.schema
    )


NONSENSE = {
    "a number too few": lambda table: spoil(table, "bandwidth", numbers=[]),
    "not finite": lambda table: spoil(table, "bandwidth", numbers=[float("inf")]),
    "not positive": lambda table: spoil(table, "bandwidth", numbers=[0.0]),
    "another shape": lambda table: spoil(table, "student/intercept", shape=[1, 2]),
    "a shape without end": lambda table: spoil(table, "student/intercept", shape=[2**62, 2**62]),
    "no shape": lambda table: spoil(table, "student/coef", shape=[], numbers=[1.0]),
    "a negative size": lambda table: spoil(table, "student/intercept", shape=[-1, -2]),
    "an unknown metric": lambda table: spoil(table, "metric", texts=["taxicab"]),
    "one class": lambda table: spoil(table, "classes", texts=["ham"]),
    "no LFs": lambda table: table.filter(pl.col("name") != "lfs"),
    "an array missing": lambda table: table.filter(pl.col("name") != "head/coef"),
    "an array twice": lambda table: pl.concat([table, table[-1:]]),
    "an unknown array": lambda table: spoil(table, "bandwidth", name="band"),
    "a balance that is none": lambda table: spoil(table, "evidence/class_balance", numbers=[0.5, 0.6]),
    "gold of no class": lambda table: spoil(table, "gold/classes", numbers=[7.0] * 40),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_model_that_says_nonsense_is_refused(tmp_path, name):
    write_project(tmp_path)
    train.run(tmp_path, CLASSES, TrainParams())
    path = tmp_path / END_MODEL
    NONSENSE[name](pl.read_parquet(path)).write_parquet(path)
    with pytest.raises(DataError, match=r"model\.parquet"):
        read_model(path)


def test_certified_labels_are_marked_told_and_certified_again_by_the_saved_model(tmp_path, capsys):
    truth = write_project(tmp_path, n=600, gold_rows=140)
    train.run(tmp_path, CLASSES, TrainParams(certify=CertifyParams(error_rate=0.1)))
    labels, entry = read_labels(tmp_path), read_json(tmp_path / END_MODEL_SUMMARY)["certificate"]
    certified = labels["is_certified"].to_numpy()
    assert entry["items"] == certified.sum() > 300 and entry["share"] == pytest.approx(certified.mean(), abs=1e-6)
    assert (labels["label"].to_numpy() == np.array(CLASSES)[truth])[certified].mean() > 0.9
    top = labels.select(pl.max_horizontal("^p_.*$")).to_series().to_numpy()
    assert top[certified].min() == entry["least_probability"] == read_model(tmp_path / END_MODEL).certified_from
    for name in CLASSES:
        of_class = certified[(labels["label"] == name).to_numpy()]
        assert entry["share_by_class"][name] == pytest.approx(of_class.mean(), abs=1e-6)
    assert entry["summary"] in capsys.readouterr().err


@pytest.mark.parametrize(("gold_rows", "missing"), [(0, 45), (40, 5)])
def test_without_enough_gold_no_label_is_certified_and_how_much_is_missing_is_told(tmp_path, gold_rows, missing):
    write_project(tmp_path, gold_rows=gold_rows)
    train.run(tmp_path, CLASSES, TrainParams())
    entry = read_json(tmp_path / END_MODEL_SUMMARY)["certificate"]
    assert not read_labels(tmp_path)["is_certified"].any() and entry["gold_rows_missing"] == missing
    assert f"at least {missing} more gold rows are needed" in entry["summary"]
    assert read_model(tmp_path / END_MODEL).certified_from is None


def test_gold_that_may_not_teach_certifies_all_the_same(tmp_path):
    write_project(tmp_path, gold_rows=60)
    train.run(tmp_path, CLASSES, TrainParams(gold="none", certify=CertifyParams(error_rate=0.2)))
    assert read_json(tmp_path / END_MODEL_SUMMARY)["certificate"]["gold_rows"] == 60
    assert read_labels(tmp_path)["is_certified"].any()


@pytest.mark.parametrize(("gold_rows", "is_told"), [(0, True), (3, True), (40, False)])
def test_where_gold_cannot_tell_the_other_answer_is_told(tmp_path, gold_rows, is_told):
    write_project(tmp_path, classes=tuple("abcde"), gold_rows=gold_rows)
    train.run(tmp_path, tuple("abcde"), TrainParams())
    found = read_json(tmp_path / END_MODEL_SUMMARY)["alternative"]
    assert (found is not None) == is_told
    if found is not None:
        predictions = pl.read_parquet(tmp_path / END_MODEL_PREDICTIONS)
        labels = [predictions.select(f"^{name}/.*$").to_numpy().argmax(axis=1) for name in ("nearvote", "end_model")]
        assert found["method"] == "nearvote" and found["labels_that_differ"] == (labels[0] != labels[1]).sum() > 0
        assert f"would differ on {found['labels_that_differ']} of 240 items" in found["summary"]


def test_a_run_ends_with_the_other_answer(tmp_path):
    write_json(tmp_path / END_MODEL_SUMMARY, {"alternative": {"summary": "Gold cannot tell."}})
    (tmp_path / METRICS).parent.mkdir(parents=True)
    (tmp_path / METRICS).write_text("{}")
    assert describe_end(tmp_path).splitlines() == [f"metrics  {METRICS}", "", "Gold cannot tell."]
    for value in ({"alternative": None}, {}, []):
        write_json(tmp_path / END_MODEL_SUMMARY, value)
        assert describe_end(tmp_path) == f"metrics  {METRICS}"
