"""Liger: partitions help where an LF is right here and wrong there, and cost nothing where they cannot help."""

import numpy as np

from tasks.core.label_models import liger
from tasks.core.label_models.liger import fit_liger
from tasks.core.label_models.triplets import fit_flyingsquid
from tasks.core.types import ABSTAIN, GoldRows


def two_worlds(n: int):
    """Two far clusters; three LFs are nine times in ten right in the first and guess in the second, three the reverse."""
    generator = np.random.default_rng(0)
    world = np.arange(n) % 2
    truth = generator.integers(0, 2, n)
    precision = np.where(np.arange(6)[None, :] // 3 == world[:, None], 0.9, 0.5)
    votes = np.where(generator.random((n, 6)) < precision, truth[:, None], 1 - truth[:, None]).astype(np.int8)
    vectors = np.stack([world * 10.0, generator.normal(size=n)], axis=1).astype(np.float32)
    return votes, vectors, truth


def test_parts_learn_whom_to_trust_where():
    votes, vectors, truth = two_worlds(4000)
    reference, gold = np.arange(2000), np.arange(2000, 2400)
    found = fit_liger(votes, vectors, reference, None, 2, GoldRows(rows=gold, classes=truth[gold]))
    assert found.parts >= 2 and found.own_model >= 2
    assert found.accuracy is not None and found.accuracy[found.parts] > found.accuracy[1] + 0.03
    posterior = found.predict_proba(votes, slice(None))
    assert (posterior.argmax(axis=1) == truth)[2400:].mean() > found.accuracy[1]
    assert np.allclose(posterior.sum(axis=1), 1)
    assert np.array_equal(found.predict_proba(votes[7:30], slice(7, 30)), posterior[7:30])


def test_without_gold_there_is_one_part_and_it_is_flyingsquid():
    votes, vectors, _ = two_worlds(400)
    nothing = GoldRows(rows=np.empty(0, np.intp), classes=np.empty(0, np.int64))
    found = fit_liger(votes, vectors, np.arange(400), np.array([0.5, 0.5]), 2, nothing)
    expected = fit_flyingsquid(votes, np.array([0.5, 0.5])).predict_proba(votes)
    assert found.parts == 1 and found.accuracy is None
    assert np.array_equal(found.predict_proba(votes, slice(None)), expected)


def test_parts_too_small_to_estimate_use_the_model_of_the_whole():
    votes, vectors, truth = two_worlds(120)
    gold = GoldRows(rows=np.arange(60), classes=truth[:60])
    balance = np.array([0.5, 0.5])
    found = fit_liger(votes, vectors, np.arange(120), balance, 2, gold)
    assert found.own_model == 0
    assert np.array_equal(found.predict_proba(votes, slice(None)), fit_flyingsquid(votes, balance).predict_proba(votes))


def test_the_same_input_gives_the_same_answer():
    votes, vectors, truth = two_worlds(1000)
    gold = np.arange(200)
    found = fit_liger(votes, vectors, np.arange(1000), None, 2, GoldRows(rows=gold, classes=truth[gold]))
    again = fit_liger(votes.copy(), vectors.copy(), np.arange(1000), None, 2, GoldRows(rows=gold, classes=truth[gold]))
    assert found.parts == again.parts
    assert np.array_equal(*(one.predict_proba(votes, slice(None)) for one in (found, again)))


def test_all_abstain():
    votes = np.full((300, 3), ABSTAIN, dtype=np.int8)
    vectors = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    gold = GoldRows(rows=np.arange(50), classes=np.arange(50) % 2)
    found = fit_liger(votes, vectors, np.arange(300), None, 2, gold)
    assert np.allclose(found.predict_proba(votes, slice(None)), 0.5)


def test_embeddings_are_looked_at_in_two_parts_or_more(monkeypatch):
    """All items are of the one part, whatever their embeddings."""
    votes, vectors, truth = two_worlds(1000)
    asked = []
    fit = liger.fit_partition
    monkeypatch.setattr(liger, "fit_partition", lambda sample, parts: asked.append(parts) or fit(sample, parts))
    gold = GoldRows(rows=np.arange(200), classes=truth[:200])
    found = fit_liger(votes, vectors, np.arange(1000), None, 2, gold)
    assert asked == [2, 4, 8, 16] and found.accuracy is not None and list(found.accuracy) == [1, *asked]
