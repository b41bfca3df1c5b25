"""Items to label next: without gold, never of test, no near copies, each with a reason that holds, some at random."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from finished_runs import run_small
from small_project import REPOSITORY

from flows.cli.main import main
from tasks.core.types import ABSTAIN
from tasks.errors import QueryError
from tasks.queries.next_items import NEAR_COPY, choose_next
from tasks.queries.project_data import ProjectData

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ProjectData:
    root = run_small(tmp_path_factory.mktemp("next") / "project", n=400)
    (root / ".dvc").mkdir()
    (root / "dvc.yaml").write_text((REPOSITORY / "dvc.yaml").read_text())
    return ProjectData(root)


@pytest.mark.parametrize("strategy", ["random", "mixed"])
def test_proposed_items_have_no_gold_and_are_no_copies(data: ProjectData, strategy: str) -> None:
    found = choose_next(data, count=24, strategy=strategy, seed=3)
    rows = data.find_rows(found.rows["item_id"])
    assert 10 < len(rows) == len(set(rows)) <= 24
    assert (data.gold()[rows] == ABSTAIN).all()
    assert "test" not in found.rows["split"].to_list() and found.rows["gold"].null_count() == len(rows)
    vectors = data.embeddings_of(rows)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = units @ units.T - np.eye(len(rows))
    assert cosine.max() < NEAR_COPY + 1e-5
    again = choose_next(data, count=24, strategy=strategy, seed=3)
    assert again.rows.equals(found.rows)
    assert not choose_next(data, count=24, strategy=strategy, seed=4).rows.equals(found.rows)
    others = choose_next(data, count=5, strategy=strategy, seed=3, exclude=frozenset(found.rows["item_id"]))
    assert not set(others.rows["item_id"]) & set(found.rows["item_id"])


def test_reasons_hold_and_a_quarter_is_drawn_at_random(data: ProjectData) -> None:
    rows = choose_next(data, count=20, strategy="mixed").rows
    reasons = rows["reason"].to_list()
    assert 4 <= reasons.count("drawn at random") <= 7
    assert len(set(reasons)) >= 4
    for row in rows.to_dicts():
        cast = {vote["vote"] for vote in row["votes"]}
        if row["reason"] == "labeling functions disagree":
            assert len(cast) > 1
        if row["reason"] == "no vote, among many alike":
            assert not cast
    assert set(choose_next(data, count=20).rows["reason"]) == {"drawn at random"}
    with pytest.raises(QueryError, match="no strategy 'best'"):
        choose_next(data, strategy="best")


def test_the_command_proposes_what_the_function_chooses(data: ProjectData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(data.root))
    expected = choose_next(data, count=6, strategy="mixed").rows
    asked = ["next", "--by", "mixed", "--limit", "6"]
    answer = json.loads(CliRunner().invoke(main, [*asked, "--json"]).stdout)
    assert [item["item_id"] for item in answer["items"]] == expected["item_id"].to_list()
    shown = CliRunner(env={"COLUMNS": "100"}).invoke(main, asked).stdout
    assert all(item in shown for item in expected["item_id"])
