"""Suggested labeling functions: precise where they say so, found by what they add, and source that votes as it was judged."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from finished_runs import run_all
from small_project import CLASSES, REPOSITORY, write_params

from flows.cli.main import main
from tasks.__main__ import STAGES
from tasks.core.lf_analysis import GoldCounts, wilson_interval
from tasks.core.types import ABSTAIN
from tasks.errors import LabelingFunctionError
from tasks.lf.loading import load_lfs
from tasks.queries.items import measure_items
from tasks.queries.project_data import ProjectData
from tasks.queries.suggest import EXAMPLES, UNCERTAIN, append_lf, suggest_lfs
from tasks.queries.try_lf import choose_rows, try_lf
from tasks.tables import schemas
from tasks.tables.files import write_json
from tasks.tables.parquet import read_table, write_table
from tasks.tables.paths import DESCRIPTIONS_SUMMARY, ITEMS

pytestmark = pytest.mark.slow

MODULE = '''\
"""Two labeling functions that leave most items to others."""

from tasks.labeling import keyword_lf

rare = keyword_lf("rare", column="text", keywords=["rare"], label="spam")
odd = keyword_lf("odd", column="text", keywords=["odd"], label="ham")
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spam says 'prize', or 'free' together with 'now'; ham is long, or in the file of letters."""
    root = tmp_path_factory.mktemp("suggest") / "project"
    shutil.copytree(REPOSITORY / "lfs", root / "lfs", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "lfs" / "small.py").write_text(MODULE)
    chosen, n = np.random.default_rng(0), 600
    kind = chosen.integers(0, 2, n)
    texts, lengths, sources = [], [], []
    for spam in kind:
        words = [*chosen.choice(["we", "you", "today", "house", "free" if chosen.random() < 0.5 else "now"], 3)]
        if spam:
            words += ["prize!"] if chosen.random() < 0.4 else ["free", "NOW"]
        words += [str(chosen.choice(["rare", "odd"]))] if chosen.random() < 0.05 else []
        texts.append(" ".join(words))
        lengths.append(int(chosen.integers(0, 50) if spam else chosen.integers(30, 100)))
        sources.append("chat" if spam or chosen.random() < 0.5 else "letters")
    splits = chosen.choice(["train", "valid", "test"], n, p=[0.5, 0.4, 0.1])
    items = {
        "item_id": [f"i{row:05}" for row in range(n)],
        "split": splits,
        "gold": [CLASSES[one] if split != "train" else None for one, split in zip(kind, splits, strict=True)],
        "text": texts,
        "length": lengths,
        "source": sources,
    }
    (root / "data" / "raw").mkdir(parents=True)
    pl.DataFrame(items, schema_overrides={"gold": pl.String}).write_parquet(root / "data" / "raw" / "items.parquet")
    vectors = chosen.normal(size=(n, 4)) + 1.5 * kind[:, None]
    np.save(root / "data" / "raw" / "embeddings.npy", vectors.astype(np.float32))
    write_params(root, tune={"method": "fixed", "default": None})
    (root / ".dvc").mkdir()
    shutil.copy2(REPOSITORY / "dvc.yaml", root / "dvc.yaml")
    return run_all(root, STAGES)


def test_what_is_planted_is_found_and_is_as_precise_as_it_says(project: Path) -> None:
    data = ProjectData(project)
    found = suggest_lfs(data, count=20)
    rules = found.rows["rule"].to_list()
    assert any("prize" in rule for rule in rules)
    assert any("length >=" in rule for rule in rules) or any("source is 'letters'" in rule for rule in rules)
    assert {"ham", "spam"} == set(found.rows["label"])
    assert found.sampled == found.items == 600
    covered = (data.votes().extended != ABSTAIN).any(axis=1)
    assert found.in_need >= (~covered).sum() > 400
    gains = found.rows["new_items"]
    assert gains.is_sorted(descending=True) and gains.sum() <= found.in_need
    examples = found.rows["examples"].explode()  # new ones: no item is named twice
    assert examples.is_unique().all() and found.rows["examples"].list.len().is_between(1, EXAMPLES).all()
    assert not data.items().filter(pl.col("item_id").is_in(examples.implode()) & (pl.col("split") == "test")).height
    for row in found.rows.to_dicts():
        right = round(row["precision"] * row["n"])
        low, _ = wilson_interval(GoldCounts(votes=np.array([row["n"]]), correct=np.array([right])))
        assert row["low"] == pytest.approx(low[0]) and row["low"] >= 0.8


def test_pairs_of_words_are_found_where_no_word_is_enough(project: Path) -> None:
    rows = suggest_lfs(ProjectData(project), count=50, label="spam").rows
    assert set(rows["label"]) == {"spam"}
    assert any("'free' and 'now'" in rule or "'now' and 'free'" in rule for rule in rows["rule"])
    assert not set(rows["rule"]) & {"text has 'free'", "text has 'now'", "text has 'we'"}


def test_source_votes_as_it_was_judged(project: Path, tmp_path: Path) -> None:
    """Each suggestion, appended to the module, loads, and votes on the items that were counted."""
    data = ProjectData(project)
    rows = suggest_lfs(data, count=12).rows.to_dicts()
    assert {row["source"].startswith("@vectorized_labeling_function\ndef ") for row in rows} == {True, False}
    shutil.copytree(project / "lfs", tmp_path / "lfs")
    for row in rows:
        append_lf(tmp_path, "lfs/small.py", row)
    text = (tmp_path / "lfs" / "small.py").read_text()
    imports = [ast.unparse(node) for node in ast.parse(text).body if isinstance(node, ast.ImportFrom | ast.Import)]
    assert imports == [
        "import polars as pl",
        "from tasks.labeling import keyword_lf, vectorized_labeling_function, vote_where",
    ]
    assert text.startswith(MODULE.split("\n\n")[0]) and MODULE.split("\n\n")[-1] in text
    lfs = {lf.name: lf for lf in load_lfs(tmp_path, "lfs/small.py")}
    assert set(lfs) == {"rare", "odd", *(row["name"] for row in rows)}
    for row in rows:
        tried = try_lf(data, lfs[row["name"]], choose_rows(data))
        assert (tried.votes, tried.failures.height) == (row["items"], 0), row["rule"]
        voted = tried.rows.filter(pl.col("vote").is_not_null())
        assert set(voted["vote"]) == {row["label"]} and set(row["examples"]) <= set(voted["item_id"])
        if row["judged_on"] == "gold":
            assert (tried.with_gold, tried.right) == (row["n"], round(row["precision"] * row["n"]))
    with pytest.raises(LabelingFunctionError, match="already"):
        append_lf(tmp_path, "lfs/small.py", rows[0])
    (tmp_path / "lfs" / "small.py").write_text("def broken(:\n")
    with pytest.raises(LabelingFunctionError, match=r"lfs/small\.py cannot be added to"):
        append_lf(tmp_path, "lfs/small.py", rows[0])
    assert (tmp_path / "lfs" / "small.py").read_text() == "def broken(:\n"


def test_without_gold_shipped_labels_judge(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "project")
    gold = tmp_path / "project" / "data" / "gold" / "valid.parquet"
    pl.read_parquet(gold)[:0].write_parquet(gold)
    rows = suggest_lfs(ProjectData(tmp_path / "project"), count=5, least_precision=0.6).rows
    assert rows.height and set(rows["judged_on"]) == {"labels"}


def test_items_on_which_classes_are_only_described_are_in_need_of_an_lf(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "project")
    data = ProjectData(tmp_path / "project")
    found, votes = suggest_lfs(data, count=0), data.votes()
    before = found.in_need
    assert "classes mean" not in found.describe_need()
    write_json(data.root / DESCRIPTIONS_SUMMARY, {"lf": "odd"})
    rare, odd = (votes.extended[:, votes.lfs.index(lf)] != ABSTAIN for lf in ("rare", "odd"))
    alone = odd & ~rare & (measure_items(data)["margin"].to_numpy() >= UNCERTAIN)
    found = suggest_lfs(data, count=0)
    assert found.in_need == before + alone.sum() > before
    assert "or no vote but by what classes mean" in found.describe_need()


def test_that_no_rule_can_be_made_is_told_apart_from_rules_that_are_not_precise_enough(
    project: Path, tmp_path: Path
) -> None:
    shutil.copytree(project, tmp_path / "project")
    found = suggest_lfs(ProjectData(tmp_path / "project"), least_precision=1.0)
    assert found.rows.is_empty() and found.tried
    assert "try a lower bound of precision" in found.describe_lack()
    items = read_table(tmp_path / "project" / ITEMS, schemas.ITEMS).select("item_id", "split")
    images = items.with_columns(image=pl.lit([0.0, 1.0], dtype=pl.List(pl.Float64)))
    write_table(tmp_path / "project" / ITEMS, images, schemas.ITEMS)
    assert "rules are made of texts" in suggest_lfs(ProjectData(tmp_path / "project")).describe_lack()


def test_the_command_shows_and_appends(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(project, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")

    def epoxy(*arguments: str):
        return CliRunner(env={"COLUMNS": "100"}).invoke(main, ["suggest", *arguments])

    shown = epoxy("--limit", "3").stdout
    answer = json.loads(epoxy("--limit", "3", "--json").stdout)
    assert [row["rule"] in shown for row in answer["suggestions"]] == [True] * 3
    assert answer["suggestions"][0]["source"].split("\n")[0] in shown
    appended = epoxy("--append", "2").stdout
    assert appended.startswith("appended to lfs/small.py:") and answer["suggestions"][1]["source"] in appended
    assert answer["suggestions"][1]["source"] in (tmp_path / "project" / "lfs" / "small.py").read_text()
    refused = epoxy("--append", "99")
    assert refused.exit_code == 2 and "no number 99" in refused.stderr
    assert "no class 'span'. Did you mean spam?" in epoxy("--label", "span").stderr


@pytest.mark.parametrize(
    "start", ["", '"""What it is for."""\n', "import re\n\nx = 1\n", "from tasks.labeling import keyword_lf as k\n"]
)
def test_a_module_of_any_form_is_added_to(tmp_path: Path, start: str) -> None:
    (tmp_path / "lfs").mkdir()
    (tmp_path / "lfs" / "mine.py").write_text(start)
    word = {
        "name": "says_a",
        "needs": ["keyword_lf"],
        "source": 'says_a = keyword_lf("says_a", column="t", keywords=["a"], label="x")',
    }
    rule = {
        "name": "big",
        "needs": ["vectorized_labeling_function", "vote_where"],
        "source": '@vectorized_labeling_function\ndef big(items):\n    return vote_where(pl.col("n") >= 3, "x")',
    }
    for row in (word, rule):
        append_lf(tmp_path, "lfs/mine.py", row)
    assert {lf.name for lf in load_lfs(tmp_path, "lfs/mine.py")} == {"says_a", "big"}
    assert (
        (tmp_path / "lfs" / "mine.py")
        .read_text()
        .startswith(start.split("\n")[0] if "tasks" not in start else "import polars")
    )
