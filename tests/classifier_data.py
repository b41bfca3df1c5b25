"""Features, votes and gold of small problems, for tests of the classifiers."""

import numpy as np

from tasks.core.classifiers.end_model import fit_end_model
from tasks.core.classifiers.softmax import SoftmaxRegression
from tasks.core.classifiers.spectral import apply_spectral_map, fit_spectral_map
from tasks.core.classifiers.vote_head import VoteHead
from tasks.core.label_models.gold_similarity import measure_similarity_to_gold
from tasks.core.types import GoldRows


def gold_of(rows, classes):
    return GoldRows(rows=np.array(rows, np.int64), classes=np.array(classes, np.int64))


def compare_with_gold(points, gold, k, metric="l2"):
    """The similarity of each item to the nearest other gold row of each class."""
    itself = np.full(len(points), -1)
    itself[gold.rows] = np.arange(len(gold.rows))
    return measure_similarity_to_gold(points, points[gold.rows], gold.classes, k, metric, itself)


def task(seed=0, n=200, k=2, m=4, d=6, noise=0.5):
    """Features in as many clusters as classes, votes right nine times in ten on a third of the items, the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    points = (np.eye(d)[truth] + noise * rng.normal(size=(n, d))).astype(np.float32)
    right = np.where(rng.random((n, m)) < 0.9, truth[:, None], rng.integers(0, k, (n, m)))
    votes = np.where(rng.random((n, m)) < 0.33, right, -1).astype(np.int8)
    return apply_spectral_map(fit_spectral_map(points), points), votes, truth


def soften(truth, k=2, share=0.8):
    """Weak labels that give the true class `share`."""
    return np.where(np.eye(k)[truth] > 0, share, (1 - share) / (k - 1))


def end(features, votes, weak, gold=None, label=None, seed=0):
    """The end model beside a label model that knows `label` (n, k), or nothing."""
    if gold is None:
        return fit_end_model(features, votes, weak, None, None, None, seed)
    label = np.full_like(weak, 1 / weak.shape[1]) if label is None else label
    return fit_end_model(features, votes, weak, gold, np.log(label), np.log(label[gold.rows]), seed)


def head_of(proba):
    """A vote head that says `proba`; its regression, which nothing here asks, is of no features."""
    nothing = SoftmaxRegression(coef=np.zeros((0, 2)), intercept=np.zeros(2))
    return VoteHead(proba=proba, reliability=np.ones((1, 2)), regression=nothing)
