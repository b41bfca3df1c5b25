"""Progress: core tells of the whole of each work, whatever way it takes; a stage is never silent for long."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from classifier_data import compare_with_gold
from hypothesis import given
from hypothesis import strategies as st

from tasks import ingest, progress
from tasks.core.classifiers.end_model import END_WORK, fit_end_model
from tasks.core.classifiers.spectral import apply_spectral_map, fit_spectral_map
from tasks.core.classifiers.vote_head import HEAD_WORK, fit_vote_head
from tasks.core.fitness import measure_fitness
from tasks.core.label_models.choice import CANDIDATES, TRIALS, Options, choose_kind, fit_label_model
from tasks.core.label_models.liger import LIGER_WORK, fit_liger
from tasks.core.label_models.nearvote import LABEL_WORK, LFColumn, fit_nearvote, pool_votes
from tasks.core.metrics import resample
from tasks.core.progress_callback import WHOLE, count_steps
from tasks.core.types import GoldRows
from tasks.params import IngestParams
from tasks.progress import ENVIRONMENT, MARK, Progress


@given(most=st.integers(0, 300), steps=st.lists(st.integers(0, 7), max_size=60))
def test_a_work_is_whole_at_its_end_and_never_more(most, steps):
    told = []
    with count_steps(told.append, most) as step:
        for by in steps:
            step(by)
            assert sum(told) == min(WHOLE * sum(steps[: len(told)]) // max(most, 1), WHOLE)
    assert sum(told) == WHOLE and min(told) >= 0


def make_votes(k=2):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, k, 300)
    votes = np.where(rng.random((300, 5)) < 0.7, truth[:, None], rng.integers(0, k, (300, 5)))
    vectors = (truth[:, None] + rng.normal(0, 0.5, (300, 3))).astype(np.float32)
    return np.where(rng.random((300, 5)) < 0.6, votes, -1).astype(np.int8), truth, vectors


OPTIONS = {
    "mean": Options(),
    "median": Options(estimate="median"),
    "reference": Options(mode="reference", estimate="median"),
    "dependencies": Options(dependencies=((0, 1),)),
}
FITS = [(kind, "mean", 2) for kind in CANDIDATES if "majority" not in kind]
FITS += [("flyingsquid", "median", 3), ("flyingsquid", "reference", 2), ("flyingsquid", "reference", 3)]
FITS += [("flyingsquid", "dependencies", 2)]


@pytest.mark.parametrize(("kind", "options", "k"), FITS)
def test_a_label_model_tells_of_its_whole_fit(kind, options, k):
    """Majority votes are counted at once, and tell nothing."""
    votes, _, _ = make_votes(k)
    told = []
    watched = fit_label_model(kind, votes, np.full(k, 1 / k), options=OPTIONS[options], advance=told.append)
    alone = fit_label_model(kind, votes, np.full(k, 1 / k), options=OPTIONS[options])
    assert sum(told) == WHOLE
    assert watched.to_json() == alone.to_json()


def test_a_choice_and_liger_tell_of_all_their_fits():
    votes, truth, vectors = make_votes()
    gold = GoldRows(rows=np.arange(100), classes=truth[:100])
    told = []
    choose_kind(votes, None, 2, gold=gold, options=Options(), advance=told.append)
    assert sum(told) == TRIALS * WHOLE
    told.clear()
    fit_liger(votes, vectors, np.arange(300), None, 2, gold, advance=told.append)
    assert sum(told) == LIGER_WORK


def test_the_parts_of_the_end_model_tell_of_all_their_fits():
    votes, truth, vectors = make_votes()
    told = {name: [] for name in ("map", "head", "labels", "end", "fitness", "resample")}
    spectral_map = fit_spectral_map(vectors, told["map"].append)
    features = apply_spectral_map(spectral_map, vectors)
    head = fit_vote_head(features, votes, 2, advance=told["head"].append)
    gold = GoldRows(rows=np.arange(60), classes=truth[:60])
    silent = np.zeros((300, 2), np.float32)
    columns = [LFColumn(votes=votes[:, lf], similarity=silent) for lf in range(5)]
    pooled = pool_votes(columns, head.reliability, 2.0)
    near = compare_with_gold(vectors, gold, 2)
    even = np.full(2, 0.5)
    labels = fit_nearvote(pooled, head, even, gold, near, advance=told["labels"].append)
    logs = np.log(labels.posterior), np.log(labels.held_out)
    fit_end_model(features, votes, labels.weak, gold, *logs, advance=told["end"].append)
    measure_fitness(vectors, truth.astype(np.int8), "l2", told["fitness"].append)
    resample([labels.posterior], truth, resamples=10, seed=0, advance=told["resample"].append)
    works = {"head": HEAD_WORK, "labels": LABEL_WORK, "end": END_WORK}
    assert {name: sum(parts) for name, parts in told.items()} == dict.fromkeys(told, WHOLE) | works


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes only as it is told to, and no stage yet."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Progress, "last_line_at", None)
    monkeypatch.setenv(ENVIRONMENT, "marked")
    return now


def work(clock, seconds, units):
    with Progress("work", total=units) as one:
        for _ in range(units):
            clock[0] += seconds
            one.advance()


def read_done(capsys):
    lines = capsys.readouterr().err.splitlines()
    return [json.loads(line.removeprefix(MARK))["done"] for line in lines]


def test_a_line_every_two_seconds_and_one_at_the_end(clock, capsys):
    work(clock, 0.5, 9)
    assert read_done(capsys) == [4, 8, 9]


def test_outside_of_a_stage_short_works_are_silent(clock, capsys):
    for _ in range(5):
        work(clock, 0.5, 3)
    assert read_done(capsys) == []


def test_short_works_of_a_stage_add_up(clock, capsys):
    Progress.begin_stage()
    for _ in range(5):
        work(clock, 0.5, 3)
    assert read_done(capsys) == [1, 3, 1, 3]


def test_the_rest_is_expected_to_go_as_fast_as_what_is_done(clock, capsys):
    work(clock, 2.5, 4)
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line.removeprefix(MARK))["seconds_left"] for line in lines] == [7.5, 5.0, 2.5, None, None]


@pytest.mark.parametrize("files", [1, 3])
def test_reading_items_tells_of_each_file_and_matching_of_each_step(files, tmp_path, capfd, monkeypatch):
    raw = tmp_path / "data/raw"
    for number in range(files):
        (raw / "items").mkdir(parents=True, exist_ok=True)
        (raw / "items" / f"{number}.csv").write_text(f"item_id,split\na{number},train\nb{number},train\n")
    np.save(raw / "vectors.npy", np.ones((2 * files, 2), np.float32))
    monkeypatch.setenv(ENVIRONMENT, "marked")
    monkeypatch.setattr(Progress, "last_line_at", None)  # another test may have run a stage in this process
    monkeypatch.setattr(
        progress, "time", SimpleNamespace(monotonic=itertools.count(step=3).__next__)
    )  # every step takes long
    params = IngestParams(source="data/raw", items="items", embeddings="vectors.npy", embedding_ids="items")
    ingest.run(tmp_path, ("0", "1"), params)
    told = [json.loads(line.removeprefix(MARK)) for line in capfd.readouterr().err.splitlines() if MARK in line]
    for what, total in (("reading items", files + 3), ("matching embeddings with items", 3)):
        done = [line["done"] for line in told if line["what"] == what]
        assert sorted(set(done)) == [*range(done[0], total + 1)] and done[0] <= 1
