"""Spectral features: scales counted by hand, unit norm, and nothing but the shape of the embeddings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.classifiers import spectral
from tasks.core.classifiers.softmax import SoftmaxRegression, score_rows
from tasks.core.classifiers.spectral import SpectralFeatures, apply_spectral_map, fit_spectral_map


def test_one_dimension_is_standardized():
    values = np.float32([[1], [2], [6]])
    found = apply_spectral_map(fit_spectral_map(values), values)
    assert found == pytest.approx((values - 3) / np.sqrt(14 / 3), abs=1e-6)


def test_scales_of_two_directions_by_hand():
    # Variances 4 and 1, along the axes. Kernels of unit trace: (1, 1) / 5, (2, 1) / 9, (4, 1) / 17.
    points = np.float32([[2, 1], [2, -1], [-2, 1], [-2, -1]])
    square = (np.array([1, 1]) / 5 + np.array([2, 1]) / 9 + np.array([4, 1]) / 17) / 3
    found = apply_spectral_map(fit_spectral_map(points), points)
    assert found == pytest.approx(points * np.sqrt(square), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_features_have_unit_norm_on_average_and_turn_with_the_embeddings(seed):
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(40, 5)) * rng.uniform(0.1, 3, 5)).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0].astype(np.float32)
    one, other = (apply_spectral_map(fit_spectral_map(x), x) for x in (points, points @ turn + 3))
    assert (one**2).sum(axis=1).mean() == pytest.approx(1, abs=1e-4)
    assert other @ other.T == pytest.approx(one @ one.T, abs=1e-3)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (1, 4)])
def test_constant_embeddings_have_no_features(shape):
    points = np.full(shape, 7, np.float32)
    assert not apply_spectral_map(fit_spectral_map(points), points).any()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 12), d=st.integers(13, 40))
def test_fewer_items_than_dimensions_have_the_kernel_of_the_definition(seed, n, d):
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(n, d)) * rng.uniform(0.1, 3, d)).astype(np.float32)
    centered = points - points.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centered.T @ centered / n)
    values = np.maximum(values, 0)
    square = np.mean([values**t / (values ** (t + 1)).sum() for t in (0, 0.5, 1)], axis=0)
    found = fit_spectral_map(points)
    features = apply_spectral_map(found, points)
    assert found.projection.shape == (d, n - 1), "one direction less than items, since their mean is taken off"
    assert features @ features.T == pytest.approx((centered @ vectors * square) @ (centered @ vectors).T, abs=1e-4)


@pytest.mark.parametrize(("points", "message"), [(np.empty((0, 3)), "0 rows"), ([[1.0, np.nan]], "finite")])
def test_embeddings_that_cannot_be_used(points, message):
    with pytest.raises(ValueError, match=message):
        fit_spectral_map(np.asarray(points, np.float32))


def test_of_many_items_a_part_tells_how_they_vary(monkeypatch):
    points = (np.random.default_rng(0).normal(size=(3000, 6)) * [3, 2, 1, 1, 1, 0.1]).astype(np.float32)
    whole = fit_spectral_map(points)
    monkeypatch.setattr(spectral, "TRAINING_ROWS", 1000)
    drawn = fit_spectral_map(points)
    assert np.array_equal(drawn.mean, whole.mean)
    assert not np.array_equal(drawn.projection, whole.projection)
    assert drawn.projection == pytest.approx(whole.projection, abs=0.05 * np.abs(whole.projection).max())
    assert (apply_spectral_map(drawn, points) ** 2).sum(axis=1).mean() == pytest.approx(1, rel=0.05)


def test_features_are_those_of_double_precision_within_single():
    rng = np.random.default_rng(0)
    points = (5 + rng.normal(size=(500, 40)) * np.geomspace(1, 1e-3, 40)).astype(np.float32)
    fitted = fit_spectral_map(points)
    exact = (points.astype(np.float64) - fitted.mean) @ fitted.projection
    assert np.abs(apply_spectral_map(fitted, points) - exact).max() < 1e-5


@pytest.mark.parametrize("n", [40, 9000])
def test_a_classifier_folded_into_embeddings_gives_the_scores_of_one_on_features(n):
    rng = np.random.default_rng(n)
    points = (rng.standard_normal((n, 60)) * np.geomspace(1, 0.01, 60) + 0.3).astype(np.float32)
    lazy = SpectralFeatures(spectral_map=fit_spectral_map(points), embeddings=points)
    made = apply_spectral_map(lazy.spectral_map, points)
    assert lazy.shape == made.shape
    model = SoftmaxRegression(coef=rng.standard_normal((made.shape[1], 3)), intercept=np.array([0.5, -2, -np.inf]))
    expected = score_rows(model, made)
    np.testing.assert_allclose(score_rows(model, lazy), expected, atol=2e-5 * np.abs(expected[:, :2]).max())
    rows = np.array([3, 17, 39])
    assert lazy[rows] == pytest.approx(made[rows], abs=1e-5)
    assert score_rows(model, lazy.take(rows)) == pytest.approx(expected[rows], abs=1e-3)
