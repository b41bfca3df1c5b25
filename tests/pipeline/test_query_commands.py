"""The commands that look behind a number: what they print for people, for programs, and for a pipe that closes early."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result
from finished_runs import run_small
from small_project import REPOSITORY

from flows.cli.main import main
from tasks.queries.items import ItemQuery, VoteFilter, find_items
from tasks.queries.lfs import tabulate_lfs
from tasks.queries.project_data import ProjectData
from tasks.tables import schemas
from tasks.tables.parquet import read_table, write_table
from tasks.tables.paths import ITEMS

pytestmark = pytest.mark.slow

HOSTILE = "\x1b[31mred [bold]not bold[/bold] \u202eback\nline <script> **x**"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = run_small(tmp_path_factory.mktemp("commands") / "project", n=200)
    (root / ".dvc").mkdir()
    (root / "dvc.yaml").write_text((REPOSITORY / "dvc.yaml").read_text())
    items = read_table(root / ITEMS, schemas.ITEMS)
    texts = items["text"].to_list()
    texts[0], texts[1] = HOSTILE, "long " * 200_000
    write_table(root / ITEMS, items.with_columns(pl.Series("text", texts)), schemas.ITEMS)
    return root


@pytest.fixture
def epoxy(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project / "data")

    def call(*arguments: str, width: int = 100) -> Result:
        return CliRunner(env={"COLUMNS": str(width)}).invoke(main, arguments)

    return call


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize(
    "arguments",
    [("items",), ("lfs",), ("lfs", "--pairs"), ("lfs", "--matrix", "overlap"), ("explain", "i00003", "--all")],
    ids=" ".join,
)
def test_tables_fit_the_width(epoxy, arguments: tuple[str, ...], width: int) -> None:
    found = epoxy(*arguments, width=width)
    assert found.exit_code == 0
    rows = [line for line in found.stdout.splitlines() if "   " in line or "───" in line]
    assert rows and max(map(len, rows)) <= max(width, 60 if "explain" in arguments else 40)


def test_items_are_told_for_people(epoxy, project: Path) -> None:
    found = epoxy("items", "--own-vote", "offer=spam", "--limit", "3")
    query = ItemQuery(votes=(VoteFilter(lf="offer", vote="spam", source="original"),))
    total = find_items(ProjectData(project), query).total
    lines = found.stdout.splitlines()
    assert lines[0].split() == ["item_id", "split", "label", "p", "votes", "text"]
    assert all("offer=spam" in line for line in lines[2:5])
    assert lines[6].startswith(f"items 1 to 3 of {total} that fit, of 200 in all; gold of valid")
    assert lines[6].endswith("none of test or train")


def test_items_are_told_for_programs(epoxy, project: Path) -> None:
    asked = ("items", "--split", "valid", "--wrong", "--order", "uncertain", "--limit", "5")
    answer = json.loads(epoxy(*asked, "--json").stdout)
    query = ItemQuery(splits=("valid",), right=False, order="uncertain", limit=5)
    page = find_items(ProjectData(project), query)
    assert (answer["total"], answer["of"], answer["gold"]) == (page.total, 200, page.gold)
    assert [item["item_id"] for item in answer["items"]] == page.rows["item_id"].to_list()
    rows = list(csv.DictReader(io.StringIO(epoxy(*asked, "--csv").stdout)))
    assert [row["item_id"] for row in rows] == page.rows["item_id"].to_list()
    for row, votes in zip(rows, page.rows["votes"].to_list(), strict=True):
        assert json.loads(row["votes"]) == votes


def test_lfs_are_told_for_programs(epoxy, project: Path) -> None:
    expected = tabulate_lfs(ProjectData(project))
    answer = json.loads(epoxy("lfs", "--order", "-coverage", "--json").stdout)["lfs"]
    assert [row["lf"] for row in answer] == expected.sort("coverage", descending=True, maintain_order=True)[
        "lf"
    ].to_list()
    assert len(epoxy("lfs", "--csv", "--limit", "2").stdout.splitlines()) == 3


def test_test_gold_is_told_only_on_demand(epoxy) -> None:
    asked = ("items", "--split", "test", "--limit", "1", "--json")
    assert json.loads(epoxy(*asked).stdout)["items"][0]["gold"] is None
    named = json.loads(epoxy(*asked, "--test-gold").stdout)
    assert named["items"][0]["gold"] is not None and "as asked" in named["gold"]


def test_a_label_is_explained(epoxy) -> None:
    answer = json.loads(epoxy("explain", "i00003", "--json").stdout)
    assert sum(part["log_odds"] for part in answer["parts"]) == pytest.approx(answer["log_odds"], abs=1e-9)
    shown = epoxy("explain", "i00003", width=120).stdout
    assert f"log-odds {answer['log_odds']:+.3f}" in shown and answer["item"]["text"] in shown
    assert epoxy("explain", "i00003", "--csv").stdout.startswith("of,source,lf,log_odds\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("items", "--label", "span"), "no class 'span'. Did you mean spam?"),
        (("items", "--vote", "ofer"), "no labeling function 'ofer'. Did you mean offer?"),
        (("items", "--columns", "txt"), "Did you mean text"),
        (("explain", "nobody"), "no item 'nobody' among 200"),
        (("lfs", "--order", "-coverge"), "no column 'coverge'. Did you mean coverage"),
        (("lfs", "--since", "current"), "there is no release yet"),
    ],
)
def test_what_is_not_there_ends_in_a_sentence(epoxy, arguments: tuple[str, ...], message: str) -> None:
    found = epoxy(*arguments)
    assert found.exit_code in (2, 3)
    assert found.stderr.startswith("error: ") and message in found.stderr


def test_texts_are_shown_whatever_they_hold(epoxy) -> None:
    for command in (("items", "--limit", "3"), ("explain", "i00000"), ("explain", "i00001")):
        shown = epoxy(*command, width=200).stdout
        assert "\x1b" not in shown and "\u202e" not in shown
        assert len(shown) < 20_000
    assert r"\x1b[31mred [bold]not bold[/bold] \u202eback line <script> **x**" in epoxy("explain", "i00000").stdout
    items = json.loads(epoxy("items", "--limit", "1", "--json").stdout)["items"]
    assert items[0]["text"] == HOSTILE


def test_a_pipe_that_closes_early_ends_quietly(project: Path) -> None:
    command = f"{sys.executable} -m flows.cli items --limit 200 --csv | head -1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        cwd=project,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith("item_id,split") and done.stderr == ""
