"""What a run would do, told before it runs: stages with reasons and seconds, votes to be asked for, labels that flip."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result
from finished_runs import run_small
from small_project import write_params
from toy_project import Toy

from flows.cli.items import list_items
from flows.cli.main import main
from flows.flip_preview import preview_flips, write_flips
from flows.plan import plan
from flows.releases.figures import Flips, compare_labels
from tasks.__main__ import run_stage
from tasks.cache.code import PROJECT
from tasks.params_file import read_params
from tasks.queries.items import ItemQuery
from tasks.queries.pending import find_pending_lfs
from tasks.tables import schemas
from tasks.tables.parquet import read_table, write_table
from tasks.tables.paths import ITEMS, LABEL_MODEL_LABELS

pytestmark = pytest.mark.slow


def epoxy(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "100"}).invoke(main, arguments)


def test_stages_are_planned_with_reason_and_seconds(toy: Toy) -> None:
    first = plan(toy.root).stages
    assert "ingest" in first["stage"].to_list() and first["seconds"].null_count() == first.height
    assert "no stage has run here yet" in epoxy("plan").stdout
    toy.run("dvc", "repro")
    assert plan(toy.root).stages.is_empty()
    assert epoxy("plan").stdout == "nothing to do: everything is up to date\n"
    toy.set_params(fit="f2")
    rows = {row["stage"]: row for row in plan(toy.root).stages.to_dicts()}
    assert list(rows) == ["fit", "evaluate"]
    assert rows["fit"]["reason"] == "params.yaml: fit (modified)" and rows["fit"]["is_certain"]
    assert rows["evaluate"]["reason"] == "if fit changes what it reads" and not rows["evaluate"]["is_certain"]
    shown = epoxy("plan").stdout
    assert "params.yaml: fit (modified)" in shown
    assert toy.read_log().count("fit") == 1  # to plan runs nothing


def test_seconds_are_those_of_the_last_run(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLEEP_demo", "0.3")
    assert epoxy("stage", "data/demo/dvc.yaml:demo").exit_code == 0
    monkeypatch.delenv("SLEEP_demo")
    (toy.root / "step.py").write_text((toy.root / "step.py").read_text() + "# edited\n")
    rows = {row["stage"]: row["seconds"] for row in plan(toy.root).stages.to_dicts()}
    assert 0.3 <= rows["data/demo/dvc.yaml:demo"] < 60 and rows["ingest"] is None
    answer = json.loads(epoxy("plan", "--json").stdout)
    assert answer["seconds"] == rows["data/demo/dvc.yaml:demo"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_small(tmp_path_factory.mktemp("plan") / "project", n=150)


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "project"))


def test_votes_to_be_asked_for(project: Path) -> None:
    params = read_params(project)
    assert find_pending_lfs(project, params).is_empty()
    module = project / "lfs" / "small.py"
    module.write_text(module.read_text().replace('keywords=["offer"]', 'keywords=["offer", "price"]'))
    assert find_pending_lfs(project, params).rows() == [("offer", 150, 150)]
    items = read_table(project / ITEMS, schemas.ITEMS)
    new = items.with_columns(text=pl.when(pl.col("item_id") == "i00007").then(pl.lit("new")).otherwise("text"))
    write_table(project / ITEMS, new, schemas.ITEMS)
    found = dict(find_pending_lfs(project, params).select("lf", "items").rows())
    assert found == {"greeting": 1, "hello": 1, "long": 1, "offer": 150}


def test_what_checks_tables_is_not_loaded_to_plan() -> None:
    """pandera, and pandas behind it, take .7 s of processor time, a third of what `epoxy plan` may take."""
    script = (
        "import sys, flows.cli.main, flows.plan, tasks.queries.pending; print({'pandera', 'pandas'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_flips_are_those_of_the_run_that_follows(project: Path) -> None:
    before = read_table(project / LABEL_MODEL_LABELS, schemas.labels(("ham", "spam")))
    with contextlib.chdir(project):
        assert preview_flips(Path()).flipped.is_empty()
        assert list_items(root=Path(), query=ItemQuery(), flipped_since="edit").total == 0
        module = project / "lfs" / "small.py"
        module.write_text(
            module.read_text().replace('keywords=["hello"], label="ham"', 'keywords=["win"], label="spam"')
        )
        write_params(project, fit={"class_balance": [0.1, 0.9]}, tune={"method": "fixed", "default": 0.99})
        flips = preview_flips(Path())
        assert list_items(root=Path(), query=ItemQuery(limit=0), flipped_since="edit").total == flips.flipped.height
        one = str(flips.flipped["item_id"][0])
        asked = ItemQuery(ids=(one,))
        assert list_items(root=Path(), query=asked, flipped_since="edit").rows["item_id"].to_list() == [one]
        for stage in ("apply", "search", "tune", "extend", "fit"):
            run_stage(Path(), stage)
    after = read_table(project / LABEL_MODEL_LABELS, schemas.labels(("ham", "spam")))
    assert flips.flipped.equals(compare_labels(before, after).flipped) and flips.flipped.height > 3
    text = write_flips(flips)
    assert text.startswith(f"{flips.flipped.height} of 150 labels of the label model flip")
    lines = text.split("\n\n")[1].splitlines()
    assert lines[0] == "| from | to | items | first |"
    assert sum(int(line.split(" | ")[2]) for line in lines[2:]) == flips.flipped.height
    assert write_flips(flips, 1).splitlines()[:5] == text.splitlines()[:5]
    assert len(write_flips(flips, 0).splitlines()) == 4


def test_a_plan_is_told_for_programs(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = plan(toy.root).stages
    told = epoxy("plan", "--csv").stdout.splitlines()
    assert told[0] == ",".join(stages.columns) and len(told) == 1 + stages.height > 1
    flipped = pl.DataFrame({"item_id": ["a", "b"], "before": "ham", "after": "spam"})
    monkeypatch.setattr(
        "flows.flip_preview.preview_flips", lambda root: Flips(common=3, new=0, deleted=0, flipped=flipped)
    )
    assert epoxy("plan", "--flips", "--csv", "--limit", "1").stdout == "item_id,before,after\na,ham,spam\n"
    assert len(json.loads(epoxy("plan", "--flips", "--json").stdout)["flips"]) == 2
