"""Nearest items: who they are, against all pairs sorted, and what their labels say."""

import numpy as np
import polars as pl
import pytest
from classifier_data import compare_with_gold, gold_of, task
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from tasks.cache.store import FOLDER
from tasks.core.classifiers import known_nearest, nearest_items
from tasks.core.classifiers.end_model import fit_end_model
from tasks.core.classifiers.known_nearest import EarlierNearest, recall_nearest_items
from tasks.core.classifiers.nearest_items import (
    NEAREST,
    choose_reference,
    choose_weight,
    extend_labels,
    find_nearest_items,
    follow_steps,
    measure_agreement,
    rank_reference,
    smooth_labels,
)
from tasks.core.label_models import gold_similarity
from tasks.core.label_models.gold_similarity import measure_similarity_to_gold, thin_gold
from tasks.core.similarity import compute_similarity
from tasks.core.unit_vectors import normalize
from tasks.neighbors import exactly, nearest_cache
from tasks.neighbors.nearest_cache import CACHE_KIND, FEW_PAIRS, KnownItems
from tasks.neighbors.passes import search_pass


def search(points, **options):
    reference = choose_reference(points, **options)
    return find_nearest_items(points, reference, points[reference.rows])


def search_slowly(points, rows):
    """Of each point, the positions in `rows` of the ten nearest with another embedding, by distance, then position."""
    found = np.full((len(points), NEAREST), -1)
    for item, point in enumerate(points):
        distance = ((points[rows].astype(np.float64) - point) ** 2).sum(axis=1)
        others = [at for at in np.argsort(distance, kind="stable") if (points[rows[at]] != point).any()][:NEAREST]
        found[item, : len(others)] = others
    return found


@given(
    st.integers(0, 2**32),
    st.integers(1, 60),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([1.0, 1e-20, 3e-22, 1e-23, 1e15]),  # squares of the small ones are no more than multiples of 2^-149
)
def test_they_are_those_that_a_search_of_all_pairs_finds(seed, n, d, is_coarse, scale):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, d))
    if is_coarse:  # so that items are copies, or equally near
        points = np.round(points)
    points = (scale * points).astype(np.float32)
    found = search(points)
    assert len(np.unique(points[found.reference.rows] + 0.0, axis=0)) == len(np.unique(points + 0.0, axis=0))
    if not is_coarse:
        assert np.array_equal(found.nearest, search_slowly(points, found.reference.rows))


def test_many_points_are_searched_as_few(monkeypatch):
    points = np.random.default_rng(0).normal(size=(700, 8)).astype(np.float32)
    with threadpool_limits(limits=2):
        found = search(points)
    assert np.array_equal(found.nearest, search_slowly(points, found.reference.rows))
    monkeypatch.setattr(nearest_items, "PRODUCTS", 5_000)
    with threadpool_limits(limits=1):
        assert np.array_equal(search(points).nearest, found.nearest)


def test_copies_have_the_same_neighbors_and_are_none_of_each_other():
    points = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    points[[10, 20, 30]] = points[5]
    found = search(points)
    assert 5 in found.reference.rows and not np.isin([10, 20, 30], found.reference.rows).any()
    assert (found.nearest[[10, 20, 30]] == found.nearest[5]).all()
    assert 5 not in found.reference.rows[found.nearest[10]]


def test_a_part_of_very_many_items_is_drawn_by_their_embeddings_alone(monkeypatch):
    monkeypatch.setattr(nearest_items, "FEWEST", 10)
    points = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    reference = choose_reference(points, pairs=400 * 100)
    assert len(reference.rows) == 100
    order = np.random.default_rng(1).permutation(400)
    turned = choose_reference(points[order], pairs=400 * 100)
    assert set(order[turned.rows]) == set(reference.rows.tolist())
    assert np.array_equal(choose_reference(points, reference.cut).rows, reference.rows)
    fewer = choose_reference(points[:300], reference.cut)
    assert set(fewer.rows.tolist()) == {row for row in reference.rows.tolist() if row < 300}


@given(st.integers(0, 2**32), st.integers(1, 120), st.booleans(), st.sampled_from([1 << 30, 1000]))
def test_nights_find_what_a_search_of_all_finds(seed, n, is_coarse, pairs):
    rng = np.random.default_rng(seed)

    def draw(count):
        points = rng.normal(size=(count, 3)).astype(np.float32)
        return np.round(points) if is_coarse else points  # coarse: copies and equally near ones are the rule

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_items, "FEWEST", 25)
        ids, points, before, remembered = np.arange(n) * 10, draw(n), None, None
        for _ in range(4):
            reference = choose_reference(points, pairs=pairs)
            if before is None:
                earlier = None
            else:
                row = match(before[0], before[1], ids, points)
                now = match(ids[reference.rows], points[reference.rows], before[0][before[2]], before[1][before[2]])
                is_new = ~np.isin(np.arange(len(reference.rows)), now)
                earlier = EarlierNearest(nearest=remembered, row=row, now=now.astype(np.int32), is_new=is_new)
            others = points[reference.rows]
            found, remembered = recall_nearest_items(points, reference, others, earlier)
            assert np.array_equal(found.nearest, find_nearest_items(points, reference, others).nearest)
            before = ids, points, reference.rows
            kept = np.flatnonzero(rng.random(len(ids)) > rng.choice([0, 0.05, 0.4]))
            points = np.where((rng.random(len(ids)) < 0.05)[:, None], draw(len(ids)), points)[kept]
            late = np.setdiff1d(rng.integers(0, 2000, 10), ids)
            order = np.argsort(np.concatenate([ids[kept], late]))
            ids, points = np.concatenate([ids[kept], late])[order], np.concatenate([points, draw(len(late))])[order]


def match(earlier_ids, earlier_points, ids, points):
    """Where each of the items is among the earlier ones, with the same point; -1: nowhere."""
    at = {
        (int(one), *point): number
        for number, (one, point) in enumerate(zip(earlier_ids, earlier_points.tolist(), strict=True))
    }
    return np.array(
        [at.get((int(one), *point), -1) for one, point in zip(ids, points.tolist(), strict=True)], dtype=np.int64
    )


def test_a_cache_of_nearest_items_is_asked_and_believed_only_where_it_is_sound(tmp_path, monkeypatch):
    compared = []

    def count(points, *rest, **options):
        compared.append(len(points))
        return rank_reference(points, *rest, **options)

    monkeypatch.setattr(known_nearest, "rank_reference", count)

    def find(ids, points):
        compared.clear()
        reference = choose_reference(points)
        found = KnownItems(tmp_path, pl.Series("item_id", ids), points, "l2", tmp_path).find_nearest_items(
            lambda _: None
        )
        assert np.array_equal(found.nearest, find_nearest_items(points, reference, points[reference.rows]).nearest)
        return sum(compared)

    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 4)).astype(np.float32)
    ids = [f"item {number:03}" for number in range(300)]
    assert find(ids[:290], points[:290]) == 290
    assert find(ids[:290], points[:290]) == 0, "an edit of a labeling function"
    assert find(ids, points) == 10, "a night"
    assert find(ids[5:], points[5:]) < 20, "five are gone"
    for entry in (tmp_path / FOLDER / CACHE_KIND).iterdir():
        entry.write_bytes(entry.read_bytes()[:-1] + b"x")
    assert find(ids, points) == 300


def compare_slowly(points, gold, k, metric):
    """Of each item the similarity (n, k) to the nearest other gold row of each class."""
    found = np.full((len(points), k), np.nan, np.float32)
    for item in range(len(points)):
        near = compute_similarity(points[[item] * len(gold.rows)], points[gold.rows], metric)
        for c in range(k):
            others = near[(gold.classes == c) & (gold.rows != item)]
            if len(others):
                found[item, c] = others.max() if metric == "cosine" else 1 - others.max() * others.max() / 2
    return found


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@given(st.integers(0, 2**32), st.integers(1, 80), st.integers(2, 12), st.booleans())
def test_nights_find_the_gold_that_a_comparison_with_all_finds(tmp_path_factory, metric, seed, n, d, is_coarse):
    root, rng = tmp_path_factory.mktemp("nights"), np.random.default_rng(seed)

    def draw(count):
        points = rng.normal(size=(count, d)).astype(np.float32)
        if is_coarse:  # copies and equally near ones are the rule
            points = np.round(points)
        return points if metric == "l2" else normalize(points + (points == 0).all(axis=1, keepdims=True))

    ids, points, classes = np.arange(n) * 10, draw(n), rng.integers(-1, 3, n)  # -1: no gold; class 3 never has any
    for _ in range(4):
        gold = gold_of(np.flatnonzero(classes >= 0), classes[classes >= 0])
        expected = compare_slowly(points, gold, 4, metric)
        for few in (0, FEW_PAIRS):  # remembered, and compared anew
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(nearest_cache, "FEW_PAIRS", few)
                known = KnownItems(root, pl.Series("item_id", ids), points, metric, root)
                assert np.array_equal(known.measure_gold_similarity(gold, 4), expected, equal_nan=True)
        kept = np.flatnonzero(rng.random(len(ids)) > rng.choice([0, 0.05, 0.4]))
        points = np.where((rng.random(len(ids)) < 0.05)[:, None], draw(len(ids)), points)[kept]
        classes = np.where(rng.random(len(ids)) < rng.choice([0, 0.2]), rng.integers(-1, 3, len(ids)), classes)[kept]
        late = np.setdiff1d(rng.integers(0, 2000, 10), ids)
        ids, points = np.concatenate([ids[kept], late]), np.concatenate([points, draw(len(late))])
        classes = np.concatenate([classes, rng.integers(-1, 3, len(late))])
        order = np.argsort(ids)
        ids, points, classes = ids[order], points[order], classes[order]


def test_a_cache_of_nearest_gold_is_asked_and_believed_only_where_it_is_sound(tmp_path, monkeypatch):
    asked = []

    def count(work, *rest, **options):
        asked.append((work.title, work.total))
        return search_pass(work, *rest, **options)

    def count_gold(points, *rest):
        asked.append(("gold", len(points)))
        return measure_similarity_to_gold(points, *rest)

    monkeypatch.setattr(exactly, "search_pass", count)
    monkeypatch.setattr(nearest_cache, "measure_similarity_to_gold", count_gold)
    monkeypatch.setattr(nearest_cache, "FEW_PAIRS", 0)
    points = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    ids = pl.Series("item_id", [f"item {number:03}" for number in range(300)])
    whole = gold_of(range(0, 300, 3), np.arange(100) % 2)

    def compare(n, gold):
        asked.clear()
        near = KnownItems(tmp_path, ids[:n], points[:n], "l2", tmp_path).measure_gold_similarity(gold, 2)
        assert np.array_equal(near, compare_with_gold(points[:n], gold, 2))
        return dict(asked)

    first = gold_of(whole.rows[:95], whole.classes[:95])
    assert compare(290, first) == {"comparing with gold": 195, "gold": 95}
    assert compare(290, first) == {}
    assert compare(300, first) == {"comparing with gold": 10}, "a night"
    assert compare(300, whole) == {"comparing with new gold": 200, "gold": 100}
    fewer = gold_of(whole.rows[1:], whole.classes[1:])
    again = compare(300, fewer)
    assert again.keys() == {"comparing with gold", "gold"}
    assert 1 < again["comparing with gold"] < 30, (
        "the gold row that is none any more, and those to whom it was the nearest"
    )
    for entry in (tmp_path / FOLDER / CACHE_KIND).iterdir():
        entry.write_bytes(entry.read_bytes()[:-1] + b"x")
    assert compare(300, fewer) == {"comparing with gold": 201, "gold": 99}


def test_a_part_of_much_gold_is_drawn_by_embeddings_and_mostly_stays(monkeypatch):
    monkeypatch.setattr(gold_similarity, "GOLD_PAIRS", 1000 * 100)
    monkeypatch.setattr(gold_similarity, "FEWEST", 10)
    points = np.random.default_rng(0).normal(size=(1010, 4)).astype(np.float32)
    gold = gold_of(range(0, 1000, 2), np.arange(500) % 3)
    kept = thin_gold(gold, points[:1000])
    assert len(kept.rows) == 100
    assert kept.classes.tolist() == (kept.rows // 2 % 3).tolist()
    night = thin_gold(gold_of(range(0, 1010, 2), np.arange(505) % 3), points)
    assert len(np.intersect1d(night.rows, kept.rows)) >= 95
    order = np.random.default_rng(1).permutation(1000)
    at = np.argsort(order)[gold.rows]
    turned = thin_gold(gold_of(np.sort(at), gold.classes[np.argsort(at)]), points[order])
    assert set(order[turned.rows]) == set(kept.rows.tolist())


def test_who_is_as_near_as_the_last_known_one_within_float32_is_not_remembered_before_those_between(tmp_path):
    """A new item that is far away makes float32 products so coarse that each new item is a candidate for all others."""
    first = [0, *range(1, 16)]  # 14 are remembered of item 0: 1 to 14, but not 15
    gone = [0, 1, 2, 3, 4, *range(6, 17), 10_000]  # 16 is no candidate before 15, who is not known
    gone_again = [position for position in gone if position not in (1, 2, 3, 4)]
    for positions in (first, gone, gone_again):
        points = np.array(positions, dtype=np.float32)[:, None]
        ids = pl.Series("item_id", [f"item {position:05}" for position in positions])
        reference = choose_reference(points)
        found = KnownItems(tmp_path, ids, points, "l2", tmp_path).find_nearest_items(lambda _: None)
        assert np.array_equal(found.nearest, find_nearest_items(points, reference, points[reference.rows]).nearest)


def test_labels_settle_where_each_is_its_own_and_its_neighbors_mean():
    rng = np.random.default_rng(0)
    points, own = rng.normal(size=(80, 3)).astype(np.float32), rng.dirichlet(np.ones(3), 80)
    found = search(points)
    smoothed = smooth_labels(own, found, 0.5)
    near = smoothed[found.reference.rows[found.nearest]].mean(axis=1)
    assert smoothed == pytest.approx(0.5 * near + 0.5 * own)
    assert smoothed.sum(axis=1) == pytest.approx(1)
    late = extend_labels(own[:5], found.nearest[:5], smoothed[found.reference.rows], 0.5)
    assert late == pytest.approx(smoothed[:5]), "a later row gets what it would have had"


def test_without_neighbors_nothing_changes():
    own = np.array([[0.9, 0.1], [0.2, 0.8]])
    alike = search(np.ones((2, 3), np.float32))
    assert np.array_equal(smooth_labels(own, alike, 0.7), own)
    assert measure_agreement(own, alike) == 0


def test_agreement_is_one_in_clusters_and_none_at_random():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    points = (np.eye(4)[labels] + 0.05 * rng.normal(size=(200, 4))).astype(np.float32)
    found = search(points)
    own = np.eye(2)
    assert measure_agreement(own[labels], found) == pytest.approx(1)
    assert measure_agreement(own[rng.permutation(labels)], found) < 0.1
    assert measure_agreement(own[np.zeros(200, np.int64)], found) == 0


def follow(own, found, gold, fold):
    nearest, rows = found.nearest[found.reference.rows], found.reference.rows
    mine = [gold.rows[fold == f] for f in range(5)]
    return [follow_steps(own[rows], own[some], nearest, found.nearest[some]) for some in mine]


@pytest.mark.parametrize("helps", [True, False])
def test_gold_tells_whether_neighbors_help(helps):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 600)
    where = truth if helps else rng.integers(0, 2, 600)
    points = (np.eye(4)[where] + 0.1 * rng.normal(size=(600, 4))).astype(np.float32)
    said = np.where(rng.random(600) < 0.75, truth, 1 - truth)
    own, found = np.where(np.eye(2)[said] > 0, 0.75, 0.25), search(points)
    gold, fold = gold_of(range(300), truth[:300]), np.arange(300) % 5
    choice = choose_weight(follow(own, found, gold, fold), gold, fold, 0.3)
    right = (choice.held_out.argmax(axis=1) == gold.classes).mean()
    assert (choice.weight >= 0.5 and right > 0.95) if helps else (choice.weight <= 0.1 and right > 0.7)


@pytest.mark.parametrize("gold_rows", [0, 60])
def test_the_end_model_lets_neighbors_mend_what_votes_get_wrong(gold_rows):
    features, votes, truth = task(n=400, noise=0.3)
    found = search(features)
    rng = np.random.default_rng(0)
    weak = np.where(np.eye(2)[np.where(rng.random(400) < 0.8, truth, 1 - truth)] > 0, 0.8, 0.2)
    gold = gold_of(range(gold_rows), truth[:gold_rows]) if gold_rows else None
    logs = (np.log(weak), np.log(weak[:gold_rows])) if gold_rows else (None, None)
    fitted = fit_end_model(
        features, votes, weak, gold, *logs, nearest=found, predict_fold=lambda fold, rows: np.log(weak[rows])
    )
    assert fitted.posterior == pytest.approx(smooth_labels(fitted.own, found, fitted.parameters.neighborhood))
    right, alone = ((said.argmax(axis=1) == truth).mean() for said in (fitted.posterior, fitted.own))
    assert right >= alone
    assert len(fitted.held_out) == gold_rows
