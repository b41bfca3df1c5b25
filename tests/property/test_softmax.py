"""Softmax regression: scikit-learn's model for hard targets, and the optimum of its stated objective."""

import numpy as np
import pytest
from classifier_data import soften, task
from scipy.optimize import approx_fprime
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from tasks.core.classifiers.softmax import fit_softmax_regression, normalize_scores, predict_log_proba


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_hard_targets_give_scikit_learns_model(k, penalty):
    features, _, truth = task(k=k)
    weights = np.random.default_rng(1).uniform(0.5, 2, 200)
    found = fit_softmax_regression(features, np.eye(k)[truth], weights, penalty)
    # With two classes scikit-learn penalizes the difference of the two vectors, here as if it were both of them.
    theirs = LogisticRegression(C=2 * penalty if k == 2 else penalty, tol=1e-8, max_iter=1000)
    expected = theirs.fit(features, truth, sample_weight=weights).predict_proba(features)
    assert np.exp(predict_log_proba(found, features)) == pytest.approx(expected, abs=2e-3)


def test_the_regression_is_where_its_stated_objective_has_no_slope():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 3)).astype(np.float32)
    targets, weights = rng.dirichlet(np.ones(3), 30), rng.uniform(0, 2, 30)
    found = fit_softmax_regression(features, targets, weights, 2.0)

    def objective(v):
        scores = features.astype(float) @ v[:9].reshape(3, 3) + v[9:]
        log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return -2.0 * (weights[:, None] * targets * log_p).sum() + (v[:9] ** 2).sum() / 2

    fitted = np.r_[found.coef.ravel(), found.intercept]
    assert np.abs(approx_fprime(fitted, objective)).max() < 0.05
    assert np.abs(approx_fprime(np.zeros(12), objective)).max() > 1


@pytest.mark.parametrize(("n", "k", "penalty"), [(5000, 2, 0.3), (1500, 3, 10.0), (6000, 9, 30.0)])
def test_features_of_very_different_spread_are_fitted_as_closely_as_equal_ones(n, k, penalty):
    """By the Newton decrement: how much lower the objective could still be, as its slope and curvature say."""
    rng = np.random.default_rng(n)
    features = (rng.standard_normal((n, 40)) * np.geomspace(1, 0.02, 40)).astype(np.float32)
    scores = 8 * features @ rng.standard_normal((40, k))
    targets = np.eye(k)[(scores + rng.gumbel(size=(n, k))).argmax(axis=1)]
    weights = rng.uniform(0, 2, n)
    found = fit_softmax_regression(features, targets, weights, penalty)
    log_p = predict_log_proba(found, features)
    x = np.column_stack([features, np.ones(n)]).astype(np.float64)
    ridge = np.diag(np.r_[np.ones(40), 0.0])
    slope = penalty * x.T @ (weights[:, None] * (np.exp(log_p) - targets))
    slope += ridge @ np.vstack([found.coef, found.intercept])
    p = np.exp(log_p)
    between = np.eye(k) * p[:, None, :] - p[:, :, None] * p[:, None, :]
    curvature = penalty * np.einsum("n,nd,ne,nab->adbe", weights, x, x, between, optimize=True)
    curvature += np.einsum("ab,de->adbe", np.eye(k), ridge)
    step = np.linalg.lstsq(curvature.reshape(41 * k, 41 * k), slope.T.ravel(), rcond=1e-12)[0]
    loss = -penalty * (weights[:, None] * targets * log_p).sum() + (found.coef**2).sum() / 2
    missed = float(slope.T.ravel() @ step) / 2
    assert missed < 2e-7 * loss


def test_a_soft_target_costs_what_its_hard_parts_cost():
    features, _, truth = task(n=60)
    soft = fit_softmax_regression(features, soften(truth, share=0.75), np.ones(60), 1.0)
    twice = np.vstack([features, features])
    hard = np.vstack([np.eye(2)[truth], np.eye(2)[1 - truth]])
    parts = fit_softmax_regression(twice, hard, np.r_[np.full(60, 0.75), np.full(60, 0.25)], 1.0)
    assert predict_log_proba(soft, features) == pytest.approx(predict_log_proba(parts, features), abs=1e-3)


@pytest.mark.parametrize("k", [2, 3, 8, 77])
def test_scores_are_normalized_as_scipy_does_to_the_last_digit(k):
    rng = np.random.default_rng(k)
    scores = rng.standard_normal((500, k)) * rng.choice([0.1, 1, 30, 800], (500, 1))
    scores[::3] = np.round(scores[::3])  # ties
    scores[7], scores[8, 0], scores[9] = 0, -np.inf, -np.inf
    with np.errstate(invalid="ignore"):  # a row without any finite score has no probabilities
        expected = scores - logsumexp(scores, axis=1, keepdims=True)
        np.testing.assert_array_equal(normalize_scores(scores), expected)
    is_possible = np.arange(500) != 9
    np.testing.assert_array_equal(normalize_scores(scores[is_possible]), expected[is_possible])
    scores[8, 0] = np.nan
    assert np.isnan(normalize_scores(scores[8:9])).all()
