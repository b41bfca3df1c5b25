"""`epoxy export` and `epoxy import` on a project that has run, and annotations that come back as gold."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from finished_runs import run_small

from flows.cli.main import main
from tasks.exchange.hugging_face import read_data_set
from tasks.exchange.wrench import read_wrench
from tasks.tables.paths import ITEMS, SHIPPED_LABELS, VOTES, WITHHELD_GOLD

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = run_small(tmp_path_factory.mktemp("exchange") / "project", n=100)
    (root / ".dvc").mkdir()
    (root / "dvc.yaml").write_text("stages: {}\n")
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def epoxy(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code in (2, 3), result.output
    return result.output


def test_labels_are_joined_by_id(project: Path) -> None:
    said = epoxy("export", "parquet", "out.parquet")
    assert "100 items with the labels of the last run" in said and "--test-gold" in said
    table = pl.read_parquet("out.parquet")
    labels, items = pl.read_parquet(project / SHIPPED_LABELS), pl.read_parquet(project / ITEMS)
    for row in table.sample(10, seed=0).iter_rows(named=True):
        assert row["label"] == labels.filter(item_id=row["item_id"])["label"].item()
        assert row["text"] == items.filter(item_id=row["item_id"])["text"].item()
    withheld = pl.read_parquet(project / WITHHELD_GOLD)["item_id"]
    assert table.filter(pl.col("item_id").is_in(withheld.implode()))["gold"].null_count() == len(withheld)
    assert "exists. Name another path, or add --replace" in refused("export", "parquet", "out.parquet")
    epoxy("export", "parquet", "out.parquet", "--test-gold", "--replace")
    assert pl.read_parquet("out.parquet").filter(pl.col("item_id").is_in(withheld.implode()))["gold"].null_count() == 0
    assert "--spreadsheet changes cells of CSV alone" in refused("export", "jsonl", "x.jsonl", "--spreadsheet")
    assert "no column 'body' of text; there are: text" in refused("export", "csv", "x.csv", "--text", "body")


def test_folders_hold_all_items(project: Path) -> None:
    epoxy("export", "hugging-face", "set")
    found = read_data_set(Path("set")).items
    assert found is not None and found.height == 100
    assert "the last run" in Path("set/README.md").read_text(encoding="utf-8")
    epoxy("export", "wrench", "bench", "--test-gold")
    brought = read_wrench(Path("bench"))
    assert brought.items is not None and brought.votes is not None
    ids = brought.items.select("item_id", there=pl.col("item_id (wrench)"))
    cast = brought.votes.join(ids, on="item_id").drop("item_id").rename({"there": "item_id"}).sort("item_id")
    assert cast.select(pl.read_parquet(project / VOTES).columns).equals(pl.read_parquet(project / VOTES))


@pytest.mark.parametrize("tool", ["label-studio", "argilla"])
def test_annotations_come_back_as_gold(tool: str, project: Path) -> None:
    epoxy("export", tool, "asked", "--next", "5")
    proposed = json.loads(epoxy("next", "--limit", "5", "--json"))["items"]
    if tool == "label-studio":
        tasks = json.loads(Path("asked/tasks.json").read_text(encoding="utf-8"))
        for number, task in enumerate(tasks):
            result = [{"type": "choices", "from_name": "label", "to_name": "text", "value": {"choices": ["spam"]}}]
            task |= {"id": number, "annotations": [{"completed_by": {"email": "ann"}, "result": result}]}
        Path("back.json").write_text(json.dumps(tasks), encoding="utf-8")
        back, by = "back.json", "ann"
    else:
        records = json.loads(Path("asked/records.json").read_text(encoding="utf-8"))
        for record in records:
            record |= {"responses": {"label": [{"value": "spam", "user_id": "u1"}]}, "status": "completed"}
        Path("asked/records.json").write_text(json.dumps(records), encoding="utf-8")
        back, by = "asked", "u1"
    assert "5 decisions added" in epoxy("gold", "import", back, "--format", tool)
    assert "0 decisions added to gold/decisions.jsonl, 5 were known" in epoxy("gold", "import", back, "--format", tool)
    lines = [json.loads(line) for line in Path("gold/decisions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {(line["item_id"], line["label"], line["annotator"]) for line in lines} == {
        (item["item_id"], "spam", by) for item in proposed
    }
    gold = dict(line.split("\t")[::2] for line in epoxy("gold", "list").splitlines())
    assert all(gold[line["item_id"]] == "spam" for line in lines)
    # And as items of a project of their own.
    said = epoxy("import", tool, back)
    assert "5 rows in imported/items.parquet" in said and f"5 rows in imported/gold/{tool}.parquet" in said


def test_what_comes_in_is_a_project(project: Path) -> None:
    epoxy("export", "hugging-face", "set", "--test-gold")
    said = epoxy("import", "hugging-face", "set", "--label", "gold")
    assert "gold: column gold, by names of classes" in said and "items: epoxy init" in said
    assert "there already" in refused("import", "hugging-face", "set")
    epoxy("init", "new", "--items", "imported/items.parquet")
    assert Path("new/data/raw/items.parquet").is_file()
    Path("L.csv").write_text("offer,hello\n" + "-1,0\n" * 100, encoding="utf-8")
    said = epoxy(
        "import", "snorkel", "L.csv", "--classes", "ham,spam", "--ids", "imported/items.parquet", "--to", "more"
    )
    assert "votes: copy votes.parquet into lfs/" in said and "classes: [ham, spam]" in said
    assert pl.read_parquet("more/votes.parquet")["item_id"].to_list() == found_ids()
    assert "Name the classes" in refused("import", "snorkel", "L.csv", "--to", "again")


def found_ids() -> list[str]:
    return pl.read_parquet("imported/items.parquet")["item_id"].to_list()
