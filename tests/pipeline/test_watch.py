"""The interactive loop: its tables are the stages' bytes, its cache spares `dvc repro` the search, and nothing ends it."""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest
import yaml
from processes import wait_until_dead
from small_project import copy_compiled_code
from toy_project import Toy

from flows.watch.loop import Loop, prepare_data
from flows.watch.page import JsonPage, TerminalPage
from flows.watch.session import Session
from flows.watch.view import StageView, View, view_result
from tasks import search
from tasks.__main__ import run_stage
from tasks.ask.choice import plan_asks
from tasks.lf.language_model import ModelLF
from tasks.lf.loading import load_module, project_lfs
from tasks.params import Split
from tasks.tables import schemas
from tasks.tables.files import write_json
from tasks.tables.parquet import write_table
from tasks.tables.paths import EXTENDED_VOTES, LABEL_MODEL_LABELS, NEIGHBORS, RECALL, THRESHOLDS, VOTES

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("no", "yes")

_LFS = """\
import polars as pl
from tasks.labeling import ABSTAIN, keyword_lf, labeling_function, vectorized_labeling_function, vote_where

good = keyword_lf("good", column="text", keywords=["good"], label="yes")
bad = keyword_lf("bad", column="text", keywords=["bad"], label="no")

@vectorized_labeling_function
def large(items):
    return vote_where(pl.col("size") > 1.2, "yes")

@labeling_function
def small(item):
    return "no" if item.size < -1.2 else ABSTAIN
"""


class Recorder:
    """A page that keeps what it is told."""

    def __init__(self) -> None:
        self.views: list[View] = []
        self.stages: list[StageView] = []
        self.errors: list[str] = []

    def say(self, text: str) -> None: ...

    def fail(self, message: str) -> None:
        self.errors.append(message)

    def show(self, view: View) -> None:
        self.views.append(view)

    def show_stage(self, view: StageView) -> None:
        self.stages.append(view)


def write_raw(root: Path, n: int = 300, seed: int = 0) -> None:
    """Raw items of two classes whose texts, sizes and embeddings tell them apart more often than not."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 2, n)
    center = np.where(gold == 1, 1.0, -1.0)
    words = np.where(rng.random(n) < 0.15, np.where(gold == 1, "good", "bad"), "plain")
    split = np.array(["train", "valid", "test"])[rng.choice(3, n, p=[0.7, 0.2, 0.1])]
    named = np.array(CLASSES)[gold]
    items = pl.DataFrame(
        {"item_id": np.arange(n), "split": split, "text": words, "size": rng.normal(center), "gold": named}
    )
    (root / "data/raw").mkdir(parents=True, exist_ok=True)
    items.write_parquet(root / "data/raw/items.parquet")
    vectors = rng.normal(size=(n, 8)).astype(np.float32)
    vectors[:, 0] += center
    np.save(root / "data/raw/embeddings.npy", vectors)


def write_params(root: Path, **changes: dict[str, object]) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["classes"] = list(CLASSES)
    params["ingest"] |= {"source": "data/raw"}
    params["apply"] = {"source": "lfs/mine.py"}
    for section, values in changes.items():
        params[section] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def write_lfs(root: Path, text: str = _LFS) -> None:
    (root / "lfs").mkdir(exist_ok=True)
    (root / "lfs/mine.py").write_text(text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with ingest and index run."""
    root = tmp_path / "project"
    write_raw(root)
    write_params(root)
    write_lfs(root)
    for stage in ("ingest", "gold", "index"):
        run_stage(root, stage)
    return root


@pytest.fixture
def session(project: Path, tmp_path: Path) -> Session:
    (tmp_path / "copy").mkdir()
    return Session(project, tmp_path / "copy")


def test_every_state_gives_the_bytes_of_the_stages_and_leaves_them_no_search(
    project: Path, session: Session, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edits = [
        lambda: None,
        lambda: write_params(project, tune={"thresholds": {"good": 0.3}}),
        lambda: write_lfs(project, _LFS.replace("1.2, ", "0.9, ")),
        lambda: write_lfs(project, _LFS + 'worse = keyword_lf("worse", column="text", keywords=["plain"], label=0)\n'),
        lambda: write_params(project, extend={"scope": "rows"}, tune={"method": "agreement"}),
        lambda: write_params(project, search={"reference": ["train", "valid"]}, fit={"label_model": "auto"}),
        lambda: write_params(project, tune={"method": "fixed", "default": 0.5}, fit={"label_model": "dawid_skene"}),
    ]
    mine = tmp_path / "mine"
    for edit in edits:
        edit()
        assert session.look()
        result = session.evaluate()
        write_table(mine / VOTES, result.votes, schemas.votes(2, result.votes.columns))
        search.write_result(mine, result.data.search, result.found)
        write_json(mine / THRESHOLDS, result.chosen.thresholds.model_dump(mode="json"))
        extended = result.extension.votes
        write_table(mine / EXTENDED_VOTES, extended, schemas.votes(2, extended.columns))
        write_table(mine / LABEL_MODEL_LABELS, result.labels, schemas.labels(CLASSES))
        capfd.readouterr()
        for stage in ("apply", "search", "tune", "extend", "fit"):
            run_stage(project, stage)
        assert f"search: 0 of {len(result.votes.columns) - 1} LFs searched" in capfd.readouterr().err
        for path in (VOTES, NEIGHBORS, RECALL, THRESHOLDS, EXTENDED_VOTES, LABEL_MODEL_LABELS):
            assert (mine / path).read_bytes() == (project / path).read_bytes(), path


def test_only_what_an_edit_touches_is_computed(project: Path, session: Session) -> None:
    def evaluate() -> set[str]:
        session.look()
        return set(session.evaluate().seconds)

    assert evaluate() == {"apply", "load", "search", "tune", "extend", "fit"}
    assert not session.look() and evaluate() == set()
    write_lfs(project, f"# a comment\n{_LFS}")
    assert evaluate() == {"apply"}
    write_params(project, tune={"thresholds": {"good": 0.3}})
    assert evaluate() == {"tune", "extend", "fit"}
    write_params(project, tune={"thresholds": {"good": 0.3}}, train={"seed": 1})
    assert evaluate() == set()
    write_lfs(project, _LFS.replace("1.2, ", "0.9, "))
    assert evaluate() == {"apply", "search", "tune", "extend", "fit"}
    assert session.evaluate().found.searched == ("large",)


def test_answers_of_a_language_model_are_an_edit_of_its_lf_alone(project: Path, session: Session) -> None:
    gpt = 'gpt = llm_lf("gpt", prompt="?", classes=["no", "yes"], model="m", budget=4)\n'
    write_lfs(project, _LFS + "from tasks.labeling import llm_lf\n" + gpt)
    session.look()
    assert set(session.evaluate().votes["gpt"]) == {-1}
    with project_lfs(project):
        (lf,) = [lf for lf in load_module(project, "lfs/mine.py").lfs if isinstance(lf, ModelLF)]
    ask = plan_asks(project, lf, [Split.TRAIN], limit=1).asks[0]
    line = {"question": lf.question.digest, "text": ask.digest, "item_id": ask.item_id, "answer": "yes"}
    (project / "lfs" / "answers").mkdir()
    (project / "lfs" / "answers" / "gpt.jsonl").write_text(json.dumps(line) + "\n")
    assert session.look()
    result = session.evaluate()
    row = result.votes["item_id"].to_list().index(ask.item_id)
    assert result.votes["gpt"][row] == 1 and result.found.searched == ("gpt",)


def test_new_data_is_taken_over(project: Path, session: Session) -> None:
    session.look()
    before = session.evaluate()
    write_raw(project, n=200, seed=1)
    for stage in ("ingest", "gold", "index"):
        run_stage(project, stage)
    assert session.look()
    after = session.evaluate()
    assert (before.labels.height, after.labels.height) == (300, 200)
    assert "load" in after.seconds


def test_what_flipped_is_counted_by_pair_with_its_first_items(project: Path, session: Session) -> None:
    from flows.releases.figures import compare_labels

    session.look()
    result = session.evaluate()
    flipped = result.labels.with_columns(
        pl.when(pl.col("item_id") < 7).then(pl.lit("yes")).otherwise(pl.lit("no")).alias("label")
    )
    view = view_result(result, compare_labels(result.labels, flipped), seconds=1.0, follows=())
    labels = result.labels["label"].to_list()
    expected = {
        ("no", "yes"): [item for item in range(7) if labels[item] == "no"],
        ("yes", "no"): [item for item in range(7, 300) if labels[item] == "yes"],
    }
    found = {(one.before, one.after): (one.count, list(one.first)) for one in view.flips}
    assert found == {pair: (len(items), items[:5]) for pair, items in expected.items() if items}
    assert view.flipped == sum(len(items) for items in expected.values())


def test_the_page_scores_valid_gold_alone(project: Path, session: Session) -> None:
    session.look()
    view = view_result(session.evaluate(), None, seconds=1.0, follows=())
    (project / "data/gold/withheld.parquet").unlink()
    write_params(project, tune={"candidates": 19})
    session.look()
    session.evaluate()  # needs nothing of test
    valid = pl.read_parquet(project / "data/gold/valid.parquet")
    assert view.valid_gold == valid.height
    methods = {score.method for score in view.scores}
    assert methods == {
        "majority_vote",
        "majority_vote_balance",
        "majority_vote_extended",
        "label_model_raw",
        "epoxy",
    }
    for page in (TerminalPage(), JsonPage()):
        page.show(view)
        page.show(view)


def run_loop(loop: Loop, until: float = 60.0, *, done: object) -> None:
    """Let the loop look until `done()`."""
    assert callable(done)
    deadline = time.monotonic() + until
    while not done():
        assert time.monotonic() < deadline
        loop.step()
        time.sleep(0.01)


BROKEN = {
    "syntax": (lambda root: write_lfs(root, _LFS + "def broken(:\n"), "lfs/mine.py"),
    "raises": (
        lambda root: write_lfs(root, _LFS + "@labeling_function\ndef broken(item):\n    return 1 / 0\n"),
        "labeling function 'broken' (lfs/mine.py) failed on item_id 0: ZeroDivisionError",
    ),
    "exits": (lambda root: write_lfs(root, _LFS + "import sys; sys.exit(3)\n"), "SystemExit: 3"),
    "cut off": (lambda root: write_lfs(root, ""), "lfs/mine.py holds no labeling function"),
    "gone": (lambda root: (root / "lfs/mine.py").unlink(), "lfs/mine.py not found"),
    "unknown key": (
        lambda root: write_params(root, extend={"scpoe": "rows"}),
        "params.yaml: unknown key 'extend.scpoe'. Did you mean 'scope'?",
    ),
    "unknown LF": (lambda root: write_params(root, tune={"thresholds": {"god": 0.5}}), "Did you mean 'good'?"),
    "no params": (lambda root: (root / "params.yaml").unlink(), "params.yaml not found in "),
    "no data": (lambda root: (root / "data/ingest/items.parquet").unlink(), "data/ingest/items.parquet is missing"),
    "damaged index": (
        lambda root: (root / "data/index/index.faiss").write_bytes(b"x"),
        "data/index/index.faiss is not",
    ),
}


def test_nothing_that_is_broken_ends_the_loop_and_the_last_good_state_stays(project: Path, tmp_path: Path) -> None:
    page = Recorder()
    (tmp_path / "copy").mkdir()
    loop = Loop(project, tmp_path / "copy", page, lambda: None)
    good = tmp_path / "good"
    shutil.copytree(project, good)
    try:
        loop.step()
        assert len(page.views) == 1 and page.errors == []
        for number, (name, (damage, message)) in enumerate(BROKEN.items(), start=1):
            damage(project)
            loop.step()
            assert len(page.errors) == number and message in page.errors[-1], (name, page.errors[-1])
            assert str(tmp_path / "copy") not in page.errors[-1]
            assert len(page.views) == number
            for path in ("params.yaml", "lfs/mine.py", "data/ingest/items.parquet", "data/index/index.faiss"):
                shutil.copyfile(good / path, tmp_path / "new")
                (tmp_path / "new").replace(project / path)  # as an editor does it
            loop.step()
            assert len(page.views) == number + 1, name
            assert page.views[-1].flipped == 0
            assert len(page.errors) == number
    finally:
        loop.close()


def test_what_takes_longer_follows_agrees_with_the_page_and_ends_with_the_next_edit(
    project: Path, tmp_path: Path
) -> None:
    page = Recorder()
    (tmp_path / "copy").mkdir()
    loop = Loop(project, tmp_path / "copy", page, lambda: None)
    me = psutil.Process()
    others = me.children(recursive=True)  # such as another test's server
    try:
        loop.step()
        assert page.views[-1].follows == ("search", "train", "tune", "extend", "fit")
        children = [child for child in me.children(recursive=True) if child not in others]
        assert children
        write_lfs(project, _LFS.replace("1.2, ", "0.9, "))
        loop.step()
        wait_until_dead(child.pid for child in children)
        run_loop(loop, done=lambda: len(page.stages) == 2)
        assert [one.stage for one in page.stages] == ["train", "fit"]
        assert {"nearvote", "end_model", "gold_only"} == {score.method for score in page.stages[0].scores}
        assert {"dawid_skene", "generative", "liger"} == {score.method for score in page.stages[1].scores}
        assert page.errors == []  # the stage fit gave the labels of the page
        write_params(project, tune={"thresholds": {"good": 0.3}})
        loop.step()
        assert page.views[-1].follows == ("tune", "extend", "fit")
    finally:
        loop.close()
    wait_until_dead([child.pid for child in me.children(recursive=True) if child not in others])


def test_what_dead_runs_left_beside_outputs_is_removed_first(toy: Toy) -> None:
    left = toy.root / "data/index/.index.txt.x1y2.part"
    left.parent.mkdir()
    left.write_text("half")
    prepare_data(toy.root)
    assert (toy.root / "data/index/index.txt").is_file()
    assert not left.exists()


@pytest.mark.slow
def test_the_command_brings_the_index_up_to_date_answers_edits_and_ends_tidily(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "project"
    for name in ("tasks", "flows", "gold"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    copy_compiled_code(root)
    for name in ("dvc.yaml", "requirements.lock"):
        shutil.copyfile(ROOT / name, root / name)
    write_raw(root)
    write_params(root)
    write_lfs(root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "tmp").mkdir()
    subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=root, check=True)
    command = [sys.executable, "-m", "flows.cli", "watch", "--json"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None

        def read(event: str) -> dict[str, object]:
            while True:
                assert select.select([process.stdout], [], [], 120)[0]
                assert process.stdout is not None
                line = json.loads(process.stdout.readline())
                assert line["event"] != "error", line
                if line["event"] == event:
                    return line

        assert read("result")["items"] == 300
        write_lfs(root, _LFS.replace("1.2, ", "0.9, "))
        edited = read("result")
        assert "apply" in edited["steps"] and edited["flipped"] is not None
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(2)
        assert process.wait(60) == 0
        wait_until_dead(child.pid for child in children)
        assert list((tmp_path / "tmp").glob("epoxy-*")) == []
    done = subprocess.run(["dvc", "repro", "search"], cwd=root, check=True, capture_output=True, text=True)
    assert "Stage 'index' didn't change, skipping" in done.stdout
    assert "search: 0 of 4 LFs searched" in done.stderr
