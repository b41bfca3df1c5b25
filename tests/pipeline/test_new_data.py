"""New, changed and deleted rows, and edited LFs: the stages do what is new, and write what a run from scratch writes."""

import contextlib
import os
import shutil
from collections import Counter

import numpy as np
import polars as pl
import pytest
from extension_data import write_project
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tasks import apply, index, ingest, search
from tasks.cache import store
from tasks.cache.row_keys import hash_items, hash_vectors, match_rows
from tasks.core.search.blocks import NearbyPlan
from tasks.core.search.incremental import mark_support
from tasks.core.unit_vectors import to_index_vectors
from tasks.neighbors.passes import search_pass
from tasks.neighbors.run import search_items
from tasks.params import ApplyParams, IndexKind, IndexParams, IngestParams, Metric, SearchParams
from tasks.tables import schemas
from tasks.tables.parquet import write_table
from tasks.tables.paths import CENTERS, ITEMS, LF_FAILURES, LF_SUMMARY, NEIGHBORS, RECALL, VOTES

CLASSES = ("HAM", "SPAM")
OUTPUTS = (
    VOTES,
    LF_SUMMARY,
    LF_FAILURES,
    NEIGHBORS,
    RECALL,
)
EXAMPLES = int(os.environ.get("EPOXY_NIGHTS", "8"))
"""Sequences of nights to try."""

PHASES = [phase for phase in Phase if phase != Phase.shrink]
"""To shrink sequences takes minutes, and a night is small as it is."""

# What an LF may be: {0} is edited. The first two note whom they are asked about.
LFS = (
    """
@labeling_function(on_error="abstain", error_budget=1)
def careless(item):
    note("careless{0}", item)
    return 1 // (item.number - {0}) if item.number < 2 else ABSTAIN
""",
    """
@labeling_function
def by_id(item):
    note("by_id{0}", item)
    return "SPAM" if str(item.item_id).endswith("{0}") or item.split == "valid" else None
""",
    """
@vectorized_labeling_function
def expression(items):
    return vote_where(pl.col("text").str.contains("{0}"), "HAM")
""",
    """
@vectorized_labeling_function(on_error="abstain", error_budget=1)
def all_or_nothing(items):
    if (items["text"] == "bad").any():
        raise ValueError("a bad text")
    return (items["number"] > {0}).cast(pl.Int8)
""",
    """
@vectorized_labeling_function(on_error="abstain", error_budget=1)
def unknown(items):
    return items["number"] - 1 - {0} % 2
""",
    "words{0} = keyword_lf('words', column='text', keywords=['w{0}'], label='SPAM')",
)
HEADER = """
import polars as pl
from tasks.labeling import ABSTAIN, keyword_lf, labeling_function, vectorized_labeling_function, vote_where

def note(lf, item):
    with open("log", "a") as log:
        log.write(f"{lf} {item.item_id} {item.split} {item.text} {item.number}\\n")
"""


class Project:
    """A project in which nights pass: `rows` by id (split, text, number, vector), and the edition of each LF."""

    def __init__(self, folder, metric, rng, centers=None):
        self.folder, self.metric, self.centers = folder, metric, centers
        self.rows = {str(number): make_row(rng) for number in range(10)}
        self.editions = [0] * len(LFS)
        self.ids = 10

    def pass_night(self, what, rng):
        """Change something."""
        some = rng.permutation(sorted(self.rows)).tolist()[: rng.integers(1, 4)]
        match what:
            case "add":
                for _ in some:
                    # Ids that come anywhere in the order, not only at its end.
                    self.rows[f"{rng.integers(0, 10)}{self.ids}"] = make_row(rng)
                    self.ids += 1
            case "change":
                self.rows |= {one: make_row(rng) for one in some}
            case "embed":
                self.rows |= {one: (*self.rows[one][:3], make_row(rng)[3]) for one in some}
            case "delete":
                for one in some[: len(self.rows) - 1]:
                    del self.rows[one]
            case "edit":
                self.editions[rng.integers(len(LFS))] = int(rng.integers(0, 3))
            case "damage":
                kept = sorted(path for path in (self.folder / "known" / store.FOLDER).rglob("*") if path.is_file())
                if kept:
                    damage(kept[rng.integers(len(kept))], rng)

    def run(self, name):
        """The outputs of all stages with the cache that is in the folder, and whom the LFs that keep a log asked."""
        root = self.folder / name
        ids = sorted(self.rows)
        split, text, number, vector = zip(*(self.rows[one] for one in ids), strict=True)
        votes = np.empty((len(ids), 0))
        write_project(root, vectors=vector, votes=votes, splits=split, ids=ids, gold={0: 1}, centers=self.centers)
        items = pl.DataFrame({"item_id": ids, "split": split, "text": text, "number": number})
        write_table(root / ITEMS, items, schemas.ITEMS)
        (root / "lfs").mkdir(exist_ok=True)
        module = HEADER + "".join(lf.format(edition) for lf, edition in zip(LFS, self.editions, strict=True))
        (root / "lfs" / "mine.py").write_text(module)
        (root / "log").write_text("")
        with contextlib.chdir(root):
            apply.run(root, CLASSES, ApplyParams(source="lfs/mine.py"))
        kind = IndexKind.FLAT if self.centers is None else IndexKind.IVF
        index.run(root, CLASSES, IndexParams(metric=self.metric, kind=kind))
        search.run(root, CLASSES, SearchParams())
        return [(root / path).read_bytes() for path in OUTPUTS], (root / "log").read_text().splitlines()


def make_row(rng):
    """Few different texts and vectors: duplicates and ties are the rule."""
    vector = rng.integers(-1, 2, 2)
    text = rng.choice(["w0", "w1 and w2", "2", "", "bad"], p=[0.3, 0.3, 0.2, 0.15, 0.05])
    split = rng.choice(["train", "valid", "test"], p=[0.7, 0.2, 0.1])
    return str(split), str(text), int(rng.integers(0, 4)), vector if vector.any() else np.ones(2)


def damage(path, rng):
    content = path.read_bytes()
    match rng.integers(3):
        case 0:
            path.unlink()
        case 1:
            path.write_bytes(content[: len(content) // 2])
        case 2:
            place = int(rng.integers(len(content)))
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


NIGHTS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["add", "change", "embed", "delete", "edit", "damage"]), max_size=3),
        st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=EXAMPLES, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])
@given(nights=NIGHTS, metric=st.sampled_from(Metric), seed=st.integers(0, 2**32 - 1))
@example(  # nights that take rows away ask nobody; the night that remembers them is forgotten meanwhile
    nights=[(["delete"], 383), ([], 459), (["change", "delete"], 26), (["delete"], 7876), (["edit"], 2196)],
    metric=Metric.L2,
    seed=3099685,
)
def test_whatever_changed_the_outputs_are_those_of_a_run_from_scratch(tmp_path_factory, nights, metric, seed):
    folder = tmp_path_factory.mktemp("nights")
    project = Project(folder, metric, np.random.default_rng(seed))
    before, editions, is_damaged = None, None, False
    for night in [None, *nights]:
        for what in night[0] if night else ():
            project.pass_night(what, np.random.default_rng(night[1]))
        outputs, asked = project.run("known")
        shutil.rmtree(folder / "scratch", ignore_errors=True)
        expected, everybody = project.run("scratch")
        assert outputs == expected
        # Once for the vote, and twice more on a sample, which shows whether an LF agrees with itself.
        assert set(asked) <= set(everybody) and max(Counter(asked).values(), default=1) <= 3
        is_damaged = is_damaged or (night is not None and "damage" in night[0])
        if before is not None and not is_damaged:
            # An LF that was not edited is not asked about a row that was there the night before.
            unchanged = [f"{name}{edition} " for name, edition in zip(("careless", "by_id"), editions, strict=True)]
            assert not {one for one in asked if one.startswith(tuple(unchanged))} & before
        before, editions = set(everybody), project.editions[:2]
    shutil.rmtree(folder)


def choose_any_effort(support, lf, *_):
    """Little of it, by the number of an LF's members alone, so that other members now and then make it another."""
    members = sum(len(lf_class.members) for lf_class in support.lf_classes if lf_class.lf == lf)
    return (1, None, 2, 1, None)[members % 5]


@settings(max_examples=EXAMPLES, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])
@given(nights=NIGHTS, metric=st.sampled_from(Metric), seed=st.integers(0, 2**32 - 1))
def test_so_they_are_where_the_cells_of_an_approximate_index_are_kept(tmp_path_factory, nights, metric, seed):
    folder = tmp_path_factory.mktemp("nights")
    centers = to_index_vectors(np.random.default_rng(seed).standard_normal((6, 2)), metric)
    project = Project(folder, metric, np.random.default_rng(seed), centers)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tasks.neighbors.run._choose_effort", choose_any_effort)
        patched.setattr("tasks.neighbors.run.require_recall", lambda recall: None)
        for night in [None, *nights]:
            for what in night[0] if night else ():
                project.pass_night(what, np.random.default_rng(night[1]))
            outputs, _ = project.run("known")
            shutil.rmtree(folder / "scratch", ignore_errors=True)
            assert outputs == project.run("scratch")[0]
    shutil.rmtree(folder)


# How much is done, in votes asked for and vectors compared.


def make_table(n, rng):
    votes = np.where(rng.random((n, 5)) < 0.2, rng.integers(0, 2, (n, 5)), -1)
    return pl.DataFrame({"item_id": np.arange(n)}), rng.standard_normal((n, 8)).astype(np.float32), votes


def search_night(root, ids, vectors, votes, metric):
    """What a night's search did; and, from scratch, what it writes."""
    project = {"vectors": vectors, "votes": votes, "splits": ["train"] * len(ids), "ids": ids}
    written = []
    for place in (root / "known", root / "scratch"):
        shutil.rmtree(root / "scratch" / store.FOLDER, ignore_errors=True)
        write_project(place, **project)
        index.run(place, CLASSES, IndexParams(metric=metric, kind=IndexKind.FLAT))
        params = SearchParams()
        found = search_items(place, search.read_inputs(place, 2, params), params)
        written.append(found)
    for lf, columns in written[1].columns.items():
        np.testing.assert_array_equal(columns.similarity, written[0].columns[lf].similarity)
        np.testing.assert_array_equal(columns.position, written[0].columns[lf].position)
    return written[0], written[1].compared


@pytest.mark.parametrize("metric", Metric)
def test_what_is_compared_is_proportional_to_what_is_new(tmp_path, metric):
    rng = np.random.default_rng(0)
    n = 3000
    _, vectors, votes = make_table(n, rng)
    ids = np.arange(0, 2 * n, 2)
    first, everything = search_night(tmp_path, ids.tolist(), vectors, votes, metric)
    assert first.compared == everything > 0 and first.changes is None
    again, _ = search_night(tmp_path, ids.tolist(), vectors, votes, metric)
    assert again.compared == 0 and again.searched == ()
    # 1 % new rows, anywhere in the order: they ask everybody, and everybody asks them.
    _, more, more_votes = make_table(n // 100, rng)
    places = np.sort(rng.choice(n, n // 100, replace=False))
    ids, vectors, votes = (
        np.insert(old, places, new, axis=0)
        for old, new in ((ids, ids[places] - 1), (vectors, more), (votes, more_votes))
    )
    added, everything = search_night(tmp_path, ids.tolist(), vectors, votes, metric)
    assert 0 < added.compared <= 0.03 * everything
    assert added.changes == "30 new, 0 changed, 0 gone, 3,000 as before"
    # 1 % gone: only those ask whose neighbor is gone, at most one in 50 for two classes, or a few more.
    kept = np.ones(len(ids), bool)
    kept[:: len(ids) // 30] = False
    ids, vectors, votes = ids[kept], vectors[kept], votes[kept]
    shrunk, everything = search_night(tmp_path, ids.tolist(), vectors, votes, metric)
    assert 0 < shrunk.compared <= 0.06 * everything
    # One in a hundred votes of one LF of five edited.
    votes[::100, 3] = np.where(votes[::100, 3] < 0, 1, -1)
    edited, everything = search_night(tmp_path, ids.tolist(), vectors, votes, metric)
    assert edited.searched == ("lf3",) and 0 < edited.compared <= 0.06 * everything / 5 * 2


@pytest.mark.parametrize("metric", Metric)
def test_cells_that_are_kept_are_searched_where_something_is_new(tmp_path, metric, monkeypatch):
    nearby = []

    def count(work, *given):
        compared = search_pass(work, *given)
        nearby.append(compared if isinstance(work.task.plan, NearbyPlan) else 0)
        return compared

    monkeypatch.setattr("tasks.neighbors.run.SAMPLE", 400)
    monkeypatch.setattr("tasks.neighbors.run.search_pass", count)
    rng = np.random.default_rng(0)
    n, places = 8000, np.sort(rng.choice(8000, 80, replace=False))
    vectors = rng.standard_normal((20, 6))[rng.integers(0, 20, n)] + 0.1 * rng.standard_normal((n, 6))
    votes = np.where(rng.random((n, 4)) < 0.2, rng.integers(0, 2, (n, 4)), -1)
    ids = np.arange(0, 2 * n, 2)

    def night(place, centers=None):
        raw = tmp_path / place / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        table = pl.DataFrame({"item_id": ids, "embedding": vectors.astype(np.float32)})
        table.select("item_id").write_parquet(raw / "items.parquet")
        table.write_parquet(raw / "embeddings.parquet")
        ingest.run(
            tmp_path / place, CLASSES, IngestParams(source="raw", embeddings="embeddings.parquet", centers=centers)
        )
        columns = {f"lf{lf}": pl.Series(votes[:, lf], dtype=pl.Int8) for lf in range(4)}
        write_table(tmp_path / place / VOTES, pl.DataFrame({"item_id": ids, **columns}), schemas.votes(2, columns))
        index.run(tmp_path / place, CLASSES, IndexParams(metric=metric, kind=IndexKind.IVF))
        params = SearchParams(target_recall=0.95)
        inputs = search.read_inputs(tmp_path / place, 2, params)
        nearby.clear()
        found = search_items(tmp_path / place, inputs, params)
        search.write_result(tmp_path / place, inputs, found)
        return found, sum(nearby)

    first, _ = night("known")
    assert all(columns.effort is not None for columns in first.columns.values())
    shutil.copy(tmp_path / "known" / CENTERS, tmp_path / "known/raw/centers.parquet")
    kept, _ = night("known", "centers.parquet")
    assert kept.compared == 0 and kept.searched == ()
    ids = np.insert(ids, places, ids[places] - 1)
    vectors = np.insert(vectors, places, vectors[places] + 0.05, axis=0)
    votes = np.insert(votes, places, votes[places][:, ::-1], axis=0)
    (tmp_path / "scratch/raw").mkdir(parents=True)
    shutil.copy(tmp_path / "known/raw/centers.parquet", tmp_path / "scratch/raw/centers.parquet")
    grown, pairs = night("known", "centers.parquet")
    _, everything = night("scratch", "centers.parquet")
    assert grown.changes == "80 new, 0 changed, 0 gone, 8,000 as before"
    for path in (NEIGHBORS, RECALL):
        assert (tmp_path / "known" / path).read_bytes() == (tmp_path / "scratch" / path).read_bytes()
    assert 0 < pairs < 0.1 * everything  # beside the samples, which are searched exactly every night


def test_a_new_name_of_an_lf_costs_nothing(tmp_path):
    _, vectors, votes = make_table(300, np.random.default_rng(0))
    search_night(tmp_path, list(range(300)), vectors, votes, Metric.COSINE)
    renamed, _ = search_night(tmp_path, list(range(300)), vectors, votes[:, ::-1], Metric.COSINE)
    assert renamed.searched == ()


def test_the_memo_does_not_grow_with_the_nights(tmp_path):
    rng = np.random.default_rng(0)
    project = Project(tmp_path, Metric.COSINE, rng)
    sizes = []
    for _ in range(12):
        project.pass_night("change", rng)
        project.run("known")
        files = [path for path in (tmp_path / "known" / store.FOLDER).rglob("*") if path.is_file()]
        sizes.append(len(files))
    assert sizes[-1] == sizes[4]  # three nights of each LF, and of the rows


# Rows.


VALUES = {
    "text": (pl.String, ["a", "b", "", None]),
    "number": (pl.Float64, [0.0, -0.0, 1.0, None, float("nan"), float("inf")]),
    "count": (pl.UInt8, [0, 255, None]),
    "is_it": (pl.Boolean, [True, False, None]),
    "day": (pl.Date, ["2026-01-01", "1969-12-31", None]),
    "many": (pl.List(pl.String), [[], ["a"], ["a", ""], [None], None]),
    "parts": (pl.Struct({"x": pl.Int64}), [{"x": 1}, {"x": 2}, None]),
    "raw": (pl.Binary, [b"", b"a", b"\xff", None]),
}


@pytest.mark.parametrize("kind", VALUES)
def test_every_value_of_a_column_makes_another_key(kind):
    dtype, values = VALUES[kind]
    column = (
        pl.Series(kind, values, dtype=pl.String).str.to_date() if dtype == pl.Date else pl.Series(kind, values, dtype)
    )
    keys = hash_items(pl.DataFrame({"item_id": [7] * len(values), kind: column}))
    assert len(np.unique(keys[:, 1:], axis=0)) == len(values)


def test_texts_do_not_run_into_each_other():
    table = pl.DataFrame({"item_id": ["a", "ab", "a"], "one": ["bc", "c", ""], "two": ["", "", "bc"]})
    assert len(np.unique(hash_items(table)[:, 1:], axis=0)) == 3


@given(
    before=st.dictionaries(st.integers(0, 9), st.integers(0, 2)),
    now=st.dictionaries(st.integers(0, 9), st.integers(0, 2)),
    is_text=st.booleans(),
)
def test_rows_are_matched_as_dictionaries_are(before, now, is_text):
    def hash_them(rows):
        ids = pl.Series("item_id", list(rows), dtype=pl.Int64)
        ids = ids.cast(pl.String) if is_text else ids
        vectors = np.array(list(rows.values()), np.float32).reshape(-1, 1)
        keys = hash_items(pl.DataFrame([ids, pl.Series("value", list(rows.values()), dtype=pl.Int64)]))
        assert len(np.unique(hash_vectors(ids, vectors), axis=0)) == len(rows)
        return keys

    match = match_rows(hash_them(before), hash_them(now))
    places = [list(before).index(one) if before.get(one) == now[one] else -1 for one in now]
    assert match.earlier.tolist() == places
    assert match.new == len(now.keys() - before.keys()) and match.gone == len(before.keys() - now.keys())
    assert match.changed == sum(before[one] != now[one] for one in before.keys() & now.keys())


def test_who_lends_is_told_from_who_votes_and_who_abstains():
    marked = mark_support(np.array([-1, -1, 0, 3, 3], np.int8), np.array([True, False, True, False, True]))
    assert marked.tolist() == [-1, -1, 0, -2, 3]
