"""The generative label model: its posterior by hand, what it learns, and the package that it stands for."""

import numpy as np
import pytest

from tasks.core.label_models.generative import fit_generative
from tasks.core.label_models.majority import fit_majority_vote
from tasks.core.ties import score_labels


def plant_votes(k, rates, *, n=3000, coverage=0.5, seed=0):
    """Votes of LFs that are right at these rates, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    right = rng.random((n, len(rates))) < np.array(rates)
    other = (truth[:, None] + rng.integers(1, k, (n, len(rates)))) % k
    votes = np.where(right, truth[:, None], other)
    return np.where(rng.random(votes.shape) < coverage, votes, -1).astype(np.int8), truth


def test_the_posterior_is_the_product_of_what_votes_say():
    votes, _ = plant_votes(3, [0.9, 0.7, 0.6, 0.6])
    balance = np.array([0.5, 0.3, 0.2])
    model = fit_generative(votes, balance)
    rate = np.exp(model.scores)
    row = np.array([[0, -1, 2, -1]], dtype=np.int8)
    expected = balance * rate[0, 1] * rate[2, 3]
    assert model.predict_proba(row)[0] == pytest.approx(expected / expected.sum())
    assert model.predict_proba(np.full((1, 4), -1, np.int8))[0] == pytest.approx(balance), "silence says nothing"


@pytest.mark.parametrize("k", [2, 4])
def test_better_labeling_functions_are_believed_more_and_gain_on_majority_vote(k):
    votes, truth = plant_votes(k, [0.95, 0.6, 0.6, 0.6, 0.6])
    balance = np.full(k, 1 / k)
    model = fit_generative(votes, balance)
    assert (model.precision[0] > model.precision[1:].max(axis=0)).all()
    learned, plain = (
        score_labels(found.predict_proba(votes), truth).mean() for found in (model, fit_majority_vote(votes, balance))
    )
    assert learned > plain + 0.01


def test_the_order_of_rows_changes_nothing():
    votes, _ = plant_votes(2, [0.9, 0.7, 0.6])
    shuffled = votes[np.random.default_rng(1).permutation(len(votes))]
    balance = np.array([0.5, 0.5])
    assert np.array_equal(fit_generative(votes, balance).scores, fit_generative(shuffled, balance).scores)


def test_votes_of_a_single_function_or_class_are_no_trouble():
    for votes in (np.array([[0], [1], [-1]]), np.array([[0, 0], [0, -1]]), np.full((4, 2), -1)):
        proba = fit_generative(votes.astype(np.int8), np.array([0.6, 0.4])).predict_proba(votes.astype(np.int8))
        assert np.isfinite(proba).all() and proba.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("k", [2, 4])
def test_labels_are_those_of_the_package(k):
    package = pytest.importorskip("snorkel.labeling.model", reason="snorkel, which needs PyTorch, is not installed")
    votes, _ = plant_votes(k, [0.9, 0.8, 0.7, 0.6, 0.6])
    theirs = package.LabelModel(cardinality=k, verbose=False)
    theirs.fit(votes.astype(np.int64), class_balance=[1 / k] * k, seed=0, progress_bar=False)
    ours = fit_generative(votes, np.full(k, 1 / k)).predict_proba(votes)
    covered = (votes >= 0).any(axis=1)
    assert (theirs.predict_proba(votes.astype(np.int64)).argmax(axis=1) == ours.argmax(axis=1))[covered].mean() > 0.97
