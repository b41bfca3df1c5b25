"""FlyingSquid against its own package, and what makes the package usable: dependencies, sequences, no side effects."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shared_datasets import DATASETS, needs_datasets

from tasks.core.label_models.choice import from_json
from tasks.core.label_models.flyingsquid import count_sequences, fit_sequence_model
from tasks.core.label_models.flyingsquid_published import fit_flyingsquid_reference

ROOT = Path(__file__).resolve().parents[2]

CLOSE = 1e-10


def package_model(*arguments, **options):
    import pgmpy.models

    if not hasattr(pgmpy.models, "MarkovModel"):
        pgmpy.models.MarkovModel = pgmpy.models.DiscreteMarkovNetwork
    from flyingsquid.label_model import LabelModel

    return LabelModel(*arguments, **options)


def to_signs(votes):
    """The package's convention: 0 abstains, -1 and +1 are the classes."""
    return np.where(votes < 0, 0, 2 * votes.astype(np.int64) - 1)


def read_dataset(name):
    items = pl.read_parquet(DATASETS / name / "items.parquet")
    votes = pl.read_parquet(DATASETS / name / "votes.parquet")
    assert items["item_id"].equals(votes["item_id"])
    split = items["split"].to_numpy()
    gold = items["gold"].fill_null(-1).cast(pl.Int64).to_numpy()
    return votes.drop("item_id").to_numpy().astype(np.int8), split, gold


def random_votes(seed, n, m, coverage):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 2, n)
    right = rng.random((n, m)) < rng.uniform(0.5, 0.95, m)
    cast = rng.random((n, m)) < coverage
    return np.where(cast, np.where(right, classes[:, None], 1 - classes[:, None]), -1).astype(np.int8)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(20, 300),
    m=st.integers(3, 9),
    coverage=st.floats(0.2, 1.0),
    positive=st.floats(0.05, 0.95),
    estimate=st.sampled_from(["mean", "median"]),
)
def test_reference_is_the_package_on_random_votes(seed, n, m, coverage, positive, estimate):
    votes, balance = random_votes(seed, n, m, coverage), np.array([1 - positive, positive])
    ours = fit_flyingsquid_reference(votes, balance, estimate=estimate)
    # A joint probability that is zero but for rounding makes the package's answer a ratio of rounding errors.
    cast = np.stack([(votes == value).any(axis=0) for value in (-1, 0, 1)], axis=1)
    assume((ours.scores[cast] > np.log(1e-9)).all())
    theirs = package_model(m)
    theirs.fit(to_signs(votes), class_balance=balance, solve_method=f"triplet_{estimate}")
    assert np.abs(ours.predict_proba(votes) - theirs.predict_proba(to_signs(votes))).max() < CLOSE


@needs_datasets
@pytest.mark.parametrize("estimate", ["mean", "median"])
@pytest.mark.parametrize("name", ["spam", "tennis"])
def test_reference_is_the_package_on_real_votes(name, estimate):
    votes, split, _ = read_dataset(name)
    train, other = votes[split == "train"], votes[split != "train"]
    balance = np.array([0.4, 0.6])
    theirs = package_model(votes.shape[1])
    theirs.fit(to_signs(train), class_balance=balance, solve_method=f"triplet_{estimate}")
    ours = fit_flyingsquid_reference(train, balance, estimate=estimate)
    assert np.abs(ours.predict_proba(other) - theirs.predict_proba(to_signs(other))).max() < CLOSE


def test_reference_counts_the_class_balance_twice():
    votes = random_votes(0, 300, 5, 0.6)
    posterior = fit_flyingsquid_reference(votes, np.array([0.2, 0.8])).predict_proba(np.full((1, 5), -1, dtype=np.int8))
    assert posterior[0, 1] == pytest.approx(0.8**2 / (0.8**2 + 0.2**2))


def test_reference_sets_each_of_many_classes_against_the_rest():
    rng = np.random.default_rng(0)
    votes = rng.integers(-1, 3, (400, 5)).astype(np.int8)
    balance = np.array([0.2, 0.3, 0.5])
    own = np.empty((400, 3))
    for c in range(3):
        against = np.where(votes < 0, 0, np.where(votes == c, 1, -1))
        theirs = package_model(5)
        theirs.fit(against, class_balance=np.array([1 - balance[c], balance[c]]))
        own[:, c] = theirs.predict_proba(against)[:, 1]
    expected = own / own.sum(axis=1, keepdims=True)
    assert np.abs(fit_flyingsquid_reference(votes, balance).predict_proba(votes) - expected).max() < CLOSE


@pytest.mark.parametrize(
    ("length", "dependencies"), [(1, [(0, 1)]), (1, [(0, 1), (1, 2)]), (2, []), (3, []), (2, [(0, 1)])]
)
def test_graphs_in_reference_mode_are_the_package(length, dependencies):
    votes, m = random_votes(3, 240, 5, 0.7), 5
    gold = np.random.default_rng(0).integers(0, 2, 60)
    balance = count_sequences(gold, length)
    ours = fit_sequence_model(
        votes,
        np.array([0.5, 0.5]),
        length=length,
        dependencies=dependencies,
        sequence_balance=balance,
        mode="reference",
    )
    theirs = package_model(
        m * length,
        v=length,
        y_edges=[(t, t + 1) for t in range(length - 1)],
        lambda_y_edges=[(t * m + j, t) for t in range(length) for j in range(m)],
        lambda_edges=[(t * m + i, t * m + j) for t in range(length) for i, j in dependencies],
    )
    sequences = to_signs(votes).reshape(-1, length * m)
    theirs.fit(sequences, class_balance=balance)
    expected = theirs.predict_proba_marginalized(sequences)
    assert np.abs(ours.predict_proba(votes)[:, 1] - expected).max() < CLOSE


@needs_datasets
@pytest.mark.parametrize("mode", ["reference", "corrected"])
def test_sequences_of_three_frames_reproduce_the_video_tutorial_and_lose_no_frame(mode):
    votes, split, gold = read_dataset("tennis")
    valid = split == "valid"
    balance = np.bincount(gold[valid]) / valid.sum()
    model = fit_sequence_model(
        votes[split == "train"], balance, length=3, sequence_balance=count_sequences(gold[valid], 3), mode=mode
    )
    posterior = model.predict_proba(votes[valid])
    assert len(posterior) == 746
    right = posterior.argmax(axis=1) == gold[valid]
    # The tutorial drops the two frames after the 248th sequence.
    assert right[:744].mean() == 660 / 744
    assert round(660 / 744, 4) == 0.8871


def test_rows_after_the_last_whole_sequence_count_like_a_sequence_that_falls_silent():
    votes = random_votes(5, 301, 4, 0.8)
    model = fit_sequence_model(votes, np.array([0.5, 0.5]), length=3)
    padded = np.concatenate([votes, np.full((2, 4), -1, dtype=np.int8)])
    assert np.array_equal(model.predict_proba(votes), model.predict_proba(padded)[:301])


def test_items_of_a_sequence_inform_each_other():
    votes = random_votes(5, 3000, 4, 0.8)
    steady = count_sequences(np.repeat([0, 1], 300), 3)
    model = fit_sequence_model(votes, np.array([0.5, 0.5]), length=3, sequence_balance=steady)
    between = np.array([[1] * 4, [-1] * 4, [1] * 4], dtype=np.int8)
    assert model.predict_proba(between)[1, 1] > 0.9


def test_corrected_counts_the_class_balance_once_in_a_graph():
    votes = random_votes(2, 500, 5, 0.6)
    silent = np.full((1, 5), -1, dtype=np.int8)
    given = fit_sequence_model(votes, np.array([0.2, 0.8]), dependencies=[(0, 1), (1, 2)]).predict_proba(silent)
    assert given[0] == pytest.approx([0.2, 0.8], abs=0.02)


def test_a_declared_copy_stops_counting_twice():
    votes = random_votes(7, 4000, 4, 1.0)
    copied = np.concatenate([votes, votes[:, :1]], axis=1)
    copied[:200, 4] = 1 - copied[:200, 4]
    said = np.array([[1, -1, -1, -1, 1]], dtype=np.int8)
    alone = np.array([[1, -1, -1, -1, -1]], dtype=np.int8)
    blind = fit_sequence_model(copied, np.array([0.5, 0.5]))
    told = fit_sequence_model(copied, np.array([0.5, 0.5]), dependencies=[(0, 4)])
    assert blind.predict_proba(said)[0, 1] > blind.predict_proba(alone)[0, 1] + 0.02
    assert told.predict_proba(said)[0, 1] < blind.predict_proba(said)[0, 1]


def test_sequence_balance_counts_whole_known_sequences():
    gold = np.array([0, 0, 0, 1, -1, 1, 1, 1, 0])
    # Known pairs: (0, 0), (0, 1), (1, 1); the last row has no partner. One pair more is spread over all four.
    assert count_sequences(gold, 2).tolist() == [1.25 / 4, 1.25 / 4, 0.25 / 4, 1.25 / 4]
    assert count_sequences(np.array([-1, 0, 1, -1]), 2) is None


def test_a_sequence_model_survives_json_exactly():
    votes = random_votes(1, 300, 5, 0.6)
    model = fit_sequence_model(votes, np.array([0.3, 0.7]), length=2, dependencies=[(1, 3)])
    again = from_json(json.loads(json.dumps(model.to_json(), allow_nan=False)))
    assert np.array_equal(again.predict_proba(votes), model.predict_proba(votes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 11}, "1 to 10 items"),
        ({"length": 0}, "1 to 10 items"),
        ({"dependencies": [(0, 0)]}, "joins two of the 4"),
        ({"dependencies": [(0, 7)]}, "joins two of the 4"),
        ({"dependencies": [(0, 1), (2, 3)]}, "2 groups"),
    ],
)
def test_graphs_that_cannot_be_solved_say_why(options, message):
    with pytest.raises(ValueError, match=message):
        fit_sequence_model(random_votes(0, 60, 4, 1.0), np.array([0.5, 0.5]), **options)


def test_sequences_know_two_classes_only():
    with pytest.raises(ValueError, match="two classes"):
        fit_sequence_model(random_votes(0, 60, 4, 1.0), np.full(3, 1 / 3), length=2)


def test_the_package_leaves_the_global_generator_alone(tmp_path):
    """In a process of its own: threads that other tests leave behind draw from the generator, too."""
    np.save(tmp_path / "votes.npy", random_votes(0, 60, 4, 1.0))
    code = (
        "import random, sys, numpy as np\n"
        "from tasks.core.label_models.flyingsquid import fit_sequence_model\n"
        "random.seed(5)\n"
        "before = random.getstate()\n"
        "fit_sequence_model(np.load(sys.argv[1]), np.array([0.5, 0.5]), length=2)\n"
        "sys.exit(int(random.getstate() != before))"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "votes.npy"], cwd=ROOT).returncode == 0


def test_the_default_path_never_imports_the_package():
    code = (
        "import sys, numpy as np, tasks.fit\n"
        "from tasks.core.label_models.choice import CANDIDATES, fit_label_model\n"
        "for kind in CANDIDATES: fit_label_model(kind, np.eye(4, dtype=np.int8), np.array([.5, .5]))\n"
        "sys.exit(int(bool({'pgmpy', 'flyingsquid'} & set(sys.modules))))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
