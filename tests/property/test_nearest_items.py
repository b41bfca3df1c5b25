"""Nearest items: who they are, against all pairs sorted, and what their labels say."""

import numpy as np
import pytest
from classifier_data import gold_of, task
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from tasks.core.classifiers import nearest_items
from tasks.core.classifiers.end_model import fit_end_model
from tasks.core.classifiers.nearest_items import (
    NEAREST,
    choose_reference,
    choose_weight,
    extend_labels,
    find_nearest_items,
    follow_steps,
    measure_agreement,
    smooth_labels,
)


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


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 4), st.booleans())
def test_they_are_those_that_a_search_of_all_pairs_finds(seed, n, d, is_coarse):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, d)).astype(np.float32)
    if is_coarse:  # so that items are copies, or equally near
        points = np.round(points)
    found = search(points)
    assert len(np.unique(points[found.reference.rows] + 0.0, axis=0)) == len(np.unique(points + 0.0, axis=0))
    if not is_coarse:
        assert np.array_equal(found.nearest, search_slowly(points, found.reference.rows))


def test_many_points_are_searched_as_few(monkeypatch):
    points = np.random.default_rng(0).normal(size=(700, 8)).astype(np.float32)
    found = search(points)
    assert np.array_equal(found.nearest, search_slowly(points, found.reference.rows))
    monkeypatch.setattr(nearest_items, "_PRODUCTS", 5_000)
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
    assert measure_agreement(np.array([0, 1]), alike, 2) == 0


def test_agreement_is_one_in_clusters_and_none_at_random():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    points = (np.eye(4)[labels] + 0.05 * rng.normal(size=(200, 4))).astype(np.float32)
    found = search(points)
    assert measure_agreement(labels, found, 2) == pytest.approx(1)
    assert measure_agreement(rng.permutation(labels), found, 2) < 0.1
    assert measure_agreement(np.zeros(200, np.int64), found, 2) == 0


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
