"""Questions about a finished run: the rows behind a number, compared with what a few plain lines say."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from finished_runs import run_demo, run_small

from tasks.core.classifiers.softmax import LOG_FLOOR
from tasks.core.classifiers.spectral import apply_spectral_map
from tasks.core.classifiers.vote_head import fit_vote_head
from tasks.core.ties import find_top
from tasks.core.types import ABSTAIN
from tasks.errors import DataError, QueryError
from tasks.params_file import read_params
from tasks.queries.explain import explain_item, take_apart_items
from tasks.queries.items import ItemQuery, VoteFilter, find_items
from tasks.queries.lfs import compare_lfs, tabulate_lfs, tabulate_matrix
from tasks.queries.project_data import ProjectData, ReleaseData
from tasks.tables import schemas
from tasks.tables.files import read_json, write_json
from tasks.tables.parquet import write_table
from tasks.tables.paths import (
    EXTENDED_VOTES,
    ITEMS,
    LF_REPORT,
    METRICS,
    PROVENANCE,
    SHIPPED_LABELS,
    THRESHOLDS,
    VALID_GOLD,
    VOTES,
    WITHHELD_GOLD,
)
from tasks.tables.release_rows import read_rows
from tasks.tables.scaled_embeddings import read_scaled_embeddings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> ProjectData:
    return ProjectData(run_demo(tmp_path_factory.mktemp("queries") / "demo"))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> ProjectData:
    return ProjectData(run_small(tmp_path_factory.mktemp("queries") / "small"))


@pytest.fixture(scope="session")
def joined(demo: ProjectData) -> list[dict[str, object]]:
    """All that is known of each item of the demo, joined by hand from the files."""
    table = pl.read_parquet(demo.root / ITEMS).drop("image")
    for path, end in ((VOTES, "/own"), (EXTENDED_VOTES, "/all")):
        votes = pl.read_parquet(demo.root / path)
        table = table.join(votes.rename({lf: lf + end for lf in votes.columns[1:]}), on="item_id")
    labels = pl.read_parquet(demo.root / SHIPPED_LABELS).select("item_id", "label")
    gold = pl.read_parquet(demo.root / VALID_GOLD)
    withheld = pl.concat([gold, pl.read_parquet(demo.root / WITHHELD_GOLD).drop("split")]).rename({"gold": "all_gold"})
    return (
        table.join(labels, on="item_id")
        .join(gold, on="item_id", how="left")
        .join(withheld, on="item_id")
        .sort("item_id")
        .to_dicts()
    )


def ask(data: ProjectData, **query: object) -> list[str]:
    """The ids of all items that fit."""
    page = find_items(data, ItemQuery(limit=10**6, **query))
    assert page.total == page.rows.height
    return page.rows["item_id"].to_list()


def test_items_are_those_that_a_join_by_hand_finds(demo: ProjectData, joined: list[dict[str, object]]) -> None:
    lfs, classes = demo.votes().lfs, demo.classes

    def expect(condition) -> list[str]:
        found = [row["item_id"] for row in joined if condition(row)]
        assert 0 < len(found) < len(joined)
        return found

    def names(row, end: str) -> dict[str, int]:
        return {lf: row[lf + end] for lf in lfs if row[lf + end] != ABSTAIN}

    assert ask(demo, splits=("test", "valid")) == expect(lambda row: row["split"] != "train")
    assert ask(demo, labels=("3", "7")) == expect(lambda row: row["label"] in ("3", "7"))
    assert ask(demo, gold=("4",)) == expect(lambda row: row["gold"] == 4)
    assert ask(demo, gold=("4",), withheld_gold=True) == expect(lambda row: row["all_gold"] == 4)
    assert ask(demo, has_gold=False) == expect(lambda row: row["gold"] is None)
    wrong = expect(lambda row: row["gold"] is not None and classes[row["gold"]] != row["label"])
    assert ask(demo, right=False) == wrong
    assert ask(demo, right=True) == expect(lambda row: row["gold"] is not None and row["item_id"] not in wrong)
    flag = VoteFilter(lf="low_hole", source="extended")
    assert ask(demo, votes=(flag,)) == expect(lambda row: row["low_hole/own"] == -1 and row["low_hole/all"] == 6)
    own = VoteFilter(lf="low_hole", vote="6", source="original")
    assert ask(demo, votes=(own,)) == expect(lambda row: row["low_hole/own"] == 6)
    both = (VoteFilter(lf="low_hole"), VoteFilter(lf="flag"))
    assert ask(demo, votes=both) == expect(lambda row: {"low_hole", "flag"} <= names(row, "/all").keys())
    assert ask(demo, wrong_lf="long_foot") == expect(
        lambda row: row["gold"] is not None and row["long_foot/all"] not in (-1, row["gold"])
    )
    assert ask(demo, conflict=("flag", "low_hole")) == expect(
        lambda row: {"flag", "low_hole"} <= names(row, "/all").keys()
    )
    assert ask(demo, covered="nothing") == expect(lambda row: not names(row, "/all"))
    assert ask(demo, covered="extension only") == expect(lambda row: names(row, "/all") and not names(row, "/own"))
    assert ask(demo, covered="labeling functions") == expect(lambda row: names(row, "/own"))
    assert ask(demo, covered="nothing", labels=("1",)) == expect(
        lambda row: not names(row, "/all") and row["label"] == "1"
    )


def test_each_method_is_right_as_often_as_the_report_says(demo: ProjectData) -> None:
    metrics, known = read_json(demo.root / METRICS)["valid"], demo.gold() != ABSTAIN
    sure = []
    for method in demo.methods()[1:]:
        right, wrong = (len(ask(demo, right=value, method=method)) for value in (True, False))
        assert right + wrong == 200
        # The report counts a half where two classes tie.
        ties = np.count_nonzero(find_top(demo.predict(method)[known]).sum(axis=1) > 1)
        assert right <= metrics[method]["accuracy"] * 200 + 1e-3 <= right + ties / 2 + 2e-3
        sure += [method] if not ties else []
    assert {"end_model", "nearvote", "gold_only"} <= set(sure)


def test_a_page_has_everything_of_its_items(demo: ProjectData, joined: list[dict[str, object]]) -> None:
    page = find_items(demo, ItemQuery(order="-confidence", limit=7, offset=3))
    table = demo.labels().with_columns(top=pl.max_horizontal(f"p_{name}" for name in demo.classes))
    expected = table.sort("top", descending=True, maintain_order=True)["item_id"][3:10]
    assert page.rows["item_id"].to_list() == expected.to_list()
    assert (page.total, page.items) == (1797, 1797)
    by_id = {row["item_id"]: row for row in joined}
    for row in page.rows.to_dicts():
        known = by_id[row["item_id"]]
        assert row["label"] == known["label"] and row["split"] == known["split"]
        assert row["gold"] == (None if known["gold"] is None else demo.classes[known["gold"]])
        assert row["right"] is (None if row["gold"] is None else row["gold"] == row["label"])
        cast = {lf: known[f"{lf}/all"] for lf in demo.votes().lfs if known[f"{lf}/all"] != ABSTAIN}
        assert {vote["lf"]: demo.classes.index(vote["vote"]) for vote in row["votes"]} == cast
        assert {vote["lf"] for vote in row["votes"] if vote["is_extended"]} == {
            lf for lf in cast if known[f"{lf}/own"] == ABSTAIN
        }
        assert row["original_votes"] + row["extended_votes"] == len(cast)
        assert len(row["image"]) == 64
    assert find_items(demo, ItemQuery(limit=0)).rows.is_empty()


def test_test_gold_takes_part_only_where_it_is_asked_for(demo: ProjectData) -> None:
    assert find_items(demo, ItemQuery()).gold == "gold of valid 200 items; none of test or train"
    named = find_items(demo, ItemQuery(splits=("test",), withheld_gold=True, limit=5))
    assert "test 300" in named.gold and "as asked" in named.gold
    assert named.rows["gold"].null_count() == 0
    assert find_items(demo, ItemQuery(splits=("test",), limit=5)).rows["gold"].null_count() == 5


def test_items_near_a_threshold(demo: ProjectData) -> None:
    page = find_items(demo, ItemQuery(near_threshold=0.01, order="threshold_gap", limit=10**6))
    gaps = page.rows["threshold_gap"]
    assert page.total > 10 and gaps.is_sorted() and gaps.max() <= 0.01
    provenance = pl.read_parquet(demo.root / PROVENANCE)
    thresholds = read_json(demo.root / THRESHOLDS)["thresholds"]
    above = provenance.with_columns(gap=pl.col("similarity") - pl.col("lf").replace_strict(thresholds))
    barely = set(above.filter(pl.col("gap") <= 0.01)["item_id"])
    assert barely and barely <= set(page.rows["item_id"])
    lf = "long_foot"
    mine = above.filter((pl.col("lf") == lf) & (pl.col("gap") <= 0.01))["item_id"]
    found = ask(demo, near_threshold=0.01, near_threshold_lf=lf)
    extended = ask(demo, near_threshold=0.01, near_threshold_lf=lf, votes=(VoteFilter(lf=lf, source="extended"),))
    assert extended == sorted(mine) and set(extended) < set(found)


def test_items_that_flipped(demo: ProjectData) -> None:
    labels = demo.labels().select("item_id", "label")
    before = labels.with_columns(
        label=pl.when(pl.col("item_id").is_in(["digit-0003", "digit-0007"])).then(pl.lit("0")).otherwise("label")
    )[5:]
    page = find_items(demo, ItemQuery(flipped=True), before=before)
    assert page.rows["item_id"].to_list() == ["digit-0007"]
    assert page.rows["label_before"].to_list() == ["0"]
    with pytest.raises(QueryError, match="nothing to compare with"):
        find_items(demo, ItemQuery(flipped=True))


def test_text_is_found_whatever_its_case_and_signs(small: ProjectData) -> None:
    texts = small.items()
    expected = texts.filter(pl.col("text").str.contains("offer"))["item_id"].to_list()
    assert expected and ask(small, text="OFFER") == expected
    assert ask(small, text="of.er") == []
    assert ask(small, text="i00007") == ["i00007"]


def test_items_are_ordered_by_any_column(small: ProjectData) -> None:
    items = small.items()
    assert ask(small, order="text") == items.sort("text", maintain_order=True)["item_id"].to_list()
    assert ask(small, order="-text") == items.sort("text", descending=True, maintain_order=True)["item_id"].to_list()
    gold = find_items(small, ItemQuery(order="gold", limit=10**6)).rows["gold"]
    assert gold.null_count() and gold.drop_nulls().is_sorted() and gold[-1] is None
    for order in ("uncertain", "offer", "p_ham", "split", "original_votes", "right"):
        assert sorted(ask(small, order=order)) == items["item_id"].to_list()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (ItemQuery(labels=("9x",)), "no class '9x'"),
        (ItemQuery(order="lable"), "no column 'lable'"),
        (ItemQuery(wrong_lf="long_fot"), "Did you mean long_foot"),
        (ItemQuery(method="end_modle", right=True), "Did you mean end_model"),
        (ItemQuery(splits=("tset",)), "Did you mean test"),
        (ItemQuery(ids=("nobody",)), "no item 'nobody' among 1,797"),
        (ItemQuery(order="image"), "cannot be ordered"),
        (ItemQuery(limit=-1), "expected 0 or more"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(demo: ProjectData, query: ItemQuery, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        find_items(demo, query)


def test_lfs_are_measured_as_the_report_measures_them(demo: ProjectData) -> None:
    ours = tabulate_lfs(demo)
    report = pl.read_csv(demo.root / LF_REPORT)
    assert ours["lf"].to_list() == report["lf"].to_list()
    for mine, theirs in (
        ("votes", "votes"),
        ("votes_added", "votes_added"),
        ("coverage", "coverage"),
        ("coverage_extended", "coverage_extended"),
        ("overlaps", "overlaps"),
        ("conflicts", "conflicts"),
        ("threshold", "threshold"),
        ("original_n", "valid_original_n"),
        ("original_precision", "valid_original_precision"),
        ("added_precision", "valid_added_precision"),
        ("all_low", "valid_all_low"),
        ("all_high", "valid_all_high"),
    ):
        assert ours[mine].to_list() == pytest.approx(report[theirs].to_list(), abs=1e-4, nan_ok=True), mine


def test_what_an_lf_decides_and_adds_to_majority_vote(demo: ProjectData) -> None:
    L, gold, k = demo.votes().extended, demo.gold(), len(demo.classes)

    def vote(L: np.ndarray) -> np.ndarray:
        counts = (L[:, :, None] == np.arange(k)).sum(axis=1)
        winners = counts == counts.max(axis=1, keepdims=True)
        return winners / winners.sum(axis=1, keepdims=True)

    whole, known = vote(L), np.flatnonzero(gold != ABSTAIN)
    ours = tabulate_lfs(demo)
    for j, row in enumerate(ours.to_dicts()):
        without = vote(np.delete(L, j, axis=1))
        assert row["decides"] == (whole != without).any(axis=1).sum()
        lost = whole[known, gold[known]].mean() - without[known, gold[known]].mean()
        assert row["adds"] == pytest.approx(lost, abs=1e-12)
    assert ours["adds"].max() > 0 and ours["decides"].min() >= 0


def test_what_an_lf_adds_is_what_goes_without_it(demo: ProjectData) -> None:
    ours = tabulate_lfs(demo)
    for votes, column in ((demo.votes().original, "only"), (demo.votes().extended, "only_extended")):
        covered = (votes != ABSTAIN).any(axis=1).sum()
        for j, only in enumerate(ours[column]):
            assert only == covered - (np.delete(votes, j, axis=1) != ABSTAIN).any(axis=1).sum()


def test_pairs_of_lfs_are_counted(demo: ProjectData) -> None:
    votes, pairs = demo.votes(), compare_lfs(demo)
    seen = 0
    for i, lf in enumerate(votes.lfs):
        for j in range(i + 1, len(votes.lfs)):
            a, b = votes.extended[:, i], votes.extended[:, j]
            both = (a != -1) & (b != -1)
            row = pairs.filter((pl.col("lf") == lf) & (pl.col("other") == votes.lfs[j]))
            assert row.height == both.any()
            if row.height:
                seen += 1
                assert row["both"].item() == both.sum()
                assert row["agreement"].item() == (a == b)[both].mean()
                assert row["overlap"].item() == both.sum() / ((a != -1) | (b != -1)).sum()
    assert seen == pairs.height > 20
    square = tabulate_matrix(demo, "conflicts")
    assert square.columns == ["lf", *votes.lfs]
    assert square.filter(pl.col("lf") == "flag")["low_hole"].item() == len(ask(demo, conflict=("flag", "low_hole")))


def test_the_parts_add_up_on_every_item(demo: ProjectData) -> None:
    n = len(demo.ids())
    parts = take_apart_items(demo, np.arange(n))
    sums = parts.group_by("item_id", maintain_order=True).agg(pl.col("log_odds").sum(), pl.first("label", "runner_up"))
    assert sums.height == n
    P = {name: demo.labels()[f"p_{name}"].to_list() for name in demo.classes}
    expected = [
        np.log(P[label][row]) - np.log(P[other][row])
        for row, (label, other) in enumerate(zip(sums["label"], sums["runner_up"], strict=True))
    ]
    assert sums["label"].to_list() == demo.labels()["label"].to_list()
    assert np.allclose(sums["log_odds"], expected, rtol=0, atol=1e-9)
    assert parts["log_odds"].is_finite().all()


def test_what_the_other_parts_leave_is_the_vote_head(demo: ProjectData) -> None:
    """Learned once more, with the votes of each item held out: then every other part must be right to the digit, too."""
    parts = take_apart_items(demo, np.arange(len(demo.ids()))).filter(pl.col("source") == "vote head")
    model, votes = demo.model(), demo.votes()
    items = demo.items().select("item_id", "split")
    points = read_scaled_embeddings(demo.root, items, demo.root)
    features = apply_spectral_map(model.spectral_map, points.vectors)
    head = fit_vote_head(features, votes.original, len(demo.classes), read_params(demo.root).train.seed).proba
    logs = np.log(head + LOG_FLOOR)
    weight = model.end.gold.pool_weights[2] * model.nearvote.weights[2]
    label, other = (parts[name].cast(pl.Int64).to_numpy() for name in ("label", "runner_up"))
    rows = np.arange(len(label))
    assert weight > 0.01
    assert np.allclose(parts["log_odds"], weight * (logs[rows, label] - logs[rows, other]), rtol=0, atol=2e-3)


def test_votes_are_told_with_the_neighbor_they_are_from(demo: ProjectData) -> None:
    provenance = pl.read_parquet(demo.root / PROVENANCE)
    item = provenance.group_by("item_id").len().sort("len", "item_id", descending=True)["item_id"][0]
    found = explain_item(demo, item)
    lent = provenance.filter(pl.col("item_id") == item)
    told = found.votes.filter(pl.col("from") == "neighbor")
    assert told["lf"].to_list() == lent["lf"].to_list()
    assert told["neighbor"].to_list() == lent["neighbor"].to_list()
    assert told["similarity"].to_list() == lent["similarity"].to_list()
    assert told["vote"].to_list() == [demo.classes[vote] for vote in lent["vote"]]
    assert (told["similarity"] > told["threshold"]).all()
    own = demo.votes().original[demo.find_rows([item])[0]]
    itself = found.votes.filter(pl.col("from") == "itself")["lf"].to_list()
    assert itself == [lf for lf, vote in zip(demo.votes().lfs, own, strict=True) if vote != ABSTAIN]
    assert set(lent["neighbor"]) <= set(found.neighbors["item_id"])
    assert "image" in found.neighbors.columns and len(found.item["image"]) == 64
    assert found.methods.filter(pl.col("method") == "shipped")["label"].item() == found.label
    silent = found.votes.filter(pl.col("from").is_null() & pl.col("threshold").is_not_null())
    assert (silent["similarity"] <= silent["threshold"]).all()


def test_gold_of_an_item_is_told_like_that_of_all(demo: ProjectData) -> None:
    item = ask(demo, splits=("test",))[0]
    assert explain_item(demo, item).gold is None
    assert explain_item(demo, item, withheld_gold=True).gold is not None
    with pytest.raises(QueryError, match="no item 'digit-9999'"):
        explain_item(demo, "digit-9999")


def make_release(data: ProjectData, folder: Path) -> ReleaseData:
    """What a release of the last run holds, as far as questions go."""
    folder.mkdir()
    for path in (SHIPPED_LABELS, PROVENANCE, THRESHOLDS, VOTES, "data/train/model.parquet", "params.yaml"):
        shutil.copy2(data.root / path, folder / Path(path).name)
    write_table(folder / "rows.parquet", read_rows(data.root), schemas.ROWS)
    return ReleaseData(name="0123456789ab", path=folder, classes=data.classes)


def test_a_release_is_explained_as_far_as_it_goes(demo: ProjectData, tmp_path: Path) -> None:
    release = make_release(demo, tmp_path / "release")
    for item in ("digit-0001", "digit-0005", "digit-1114"):
        now, then = explain_item(demo, item), explain_item(demo, item, release=release)
        assert (then.label, then.log_odds, then.release) == (now.label, now.log_odds, "0123456789ab")
        assert then.parts["log_odds"].sum() == pytest.approx(then.log_odds, abs=1e-12)
        both = now.parts.join(then.parts, on=["of", "source", "lf"], nulls_equal=True)
        assert both.height == then.parts.height - 1
        assert np.allclose(both["log_odds"], both["log_odds_right"], rtol=0, atol=1e-12)
        assert then.votes.select("lf", "vote", "from").equals(now.votes.select("lf", "vote", "from"))
        assert any("next votes are unknown" in sentence for sentence in then.lacks)
    with pytest.raises(QueryError, match="0123456789ab: no item"):
        explain_item(demo, "digit-9999", release=release)


def test_without_the_released_embedding_a_label_stays_whole(demo: ProjectData, tmp_path: Path) -> None:
    release = make_release(demo, tmp_path / "release")
    rows = pl.read_parquet(release.path / "rows.parquet").with_columns(embedding=pl.col("embedding") ^ 1)
    write_table(release.path / "rows.parquet", rows, schemas.ROWS)
    found = explain_item(demo, "digit-0001", release=release)
    assert found.parts["source"].to_list() == ["not taken apart"]
    assert found.parts["log_odds"].sum() == found.log_odds
    assert any("no longer has the embedding" in sentence for sentence in found.lacks)


def test_lfs_against_a_release_say_why_they_moved(demo: ProjectData, tmp_path: Path) -> None:
    release = make_release(demo, tmp_path / "release")
    same = tabulate_lfs(demo, before=release)
    assert set(same["moved"]) == {"unchanged"} and same["votes_changed"].sum() == 0
    assert same["coverage_extended"].to_list() == same["coverage_extended_before"].to_list()
    assert same["all_precision"].to_list() == same["all_precision_before"].to_list()
    votes = pl.read_parquet(release.path / "votes.parquet")
    edited = votes.with_columns(flag=pl.lit(-1, pl.Int8)).drop("two_holes")
    write_table(release.path / "votes.parquet", edited, schemas.votes(10, edited.columns))
    found = read_json(release.path / "thresholds.json")
    del found["thresholds"]["two_holes"]
    found["thresholds"]["low_hole"] = 0.9
    write_json(release.path / "thresholds.json", found)
    moved = {row["lf"]: row for row in tabulate_lfs(demo, before=release).to_dicts()}
    assert moved["flag"]["moved"] == "236 of its own votes changed" and moved["flag"]["coverage_before"] == 0
    assert moved["two_holes"]["moved"] == "new" and moved["two_holes"]["coverage_before"] is None
    assert moved["low_hole"]["moved"].startswith("its own votes did not change; threshold 0.9 to 0.674")
    assert moved["low_hole"]["votes_changed"] == 0


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_without_gold_labels_are_taken_apart_too(tmp_path: Path, metric: str) -> None:
    (tmp_path / "small").mkdir()
    root = run_small(tmp_path / "small", n=60, train={"gold": "none"}, index={"metric": metric})
    data = ProjectData(root)
    parts = take_apart_items(data, np.arange(60))
    sums = parts.group_by("item_id", maintain_order=True).agg(pl.col("log_odds").sum())["log_odds"]
    P = np.sort(data.probabilities(), axis=1)
    assert np.allclose(sums, np.log(P[:, 1]) - np.log(P[:, 0]), rtol=0, atol=1e-9)
    assert {"student", "nearvote"} <= set(parts["of"]) <= {"student", "nearvote", "end_model"}


def test_files_that_change_are_read_again_and_of_another_run_refused(tmp_path: Path, small: ProjectData) -> None:
    root = tmp_path / "project"
    shutil.copytree(small.root, root)
    data = ProjectData(root)
    first = find_items(data, ItemQuery(labels=("ham",))).total
    labels = pl.read_parquet(root / SHIPPED_LABELS)
    swapped = labels.with_columns(label=pl.when(pl.col("label") == "ham").then(pl.lit("spam")).otherwise(pl.lit("ham")))
    write_table(root / SHIPPED_LABELS, swapped, schemas.end_labels(("ham", "spam")))
    assert find_items(data, ItemQuery(labels=("ham",))).total == labels.height - first
    write_table(root / SHIPPED_LABELS, labels[1:], schemas.end_labels(("ham", "spam")))
    with pytest.raises(DataError, match=r"items of .* are missing"):
        find_items(data, ItemQuery(labels=("ham",)))
    (root / SHIPPED_LABELS).unlink()
    with pytest.raises(DataError, match="missing"):
        find_items(data, ItemQuery(labels=("ham",)))
