"""The doors to questions: what commands print for people, programs and pipes, and what the package `epoxy_flow` returns."""

import csv
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result
from finished_runs import run_small
from small_project import REPOSITORY
from snippets import read_snippets

from epoxy_flow import EpoxyError, VoteFilter, apply_lfs, lf_summary, open_project
from flows.cli.main import main
from flows.cli.tables import Column, print_square, print_table
from tasks.labeling import ABSTAIN, keyword_lf, labeling_function, vectorized_labeling_function, vote_where
from tasks.lf.functions import Item
from tasks.queries.items import ItemQuery, find_items
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
    assert [name for name in lines[0].split() if name != "gold"] == ["item_id", "split", "label", "p", "votes", "text"]
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
    # What a vote counts for is by another model than what `epoxy lfs` believes of the same LF.
    assert " weight " in shown and "weight: what an LF's vote counts for" in shown and "reliab" not in shown
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
        (("items", "--vote", "offer="), "no class ''. There are: ham, spam"),
        (("items", "--near-lf", "offer"), "say how near, too"),
        (("items", "--near-threshold", "-1"), "expected a gap of 0 or more"),
        (("items", "--near-threshold", "nan"), "expected a gap of 0 or more"),
        (("try", "offer", "--random", "-1"), "seed -1: expected 0 or more"),
        (("next", "--seed", "-5"), "seed -5: expected 0 or more"),
        (("suggest", "--least-precision", "nan"), "expected 0 to 1"),
    ],
)
def test_what_is_not_there_ends_in_a_sentence(epoxy, arguments: tuple[str, ...], message: str) -> None:
    found = epoxy(*arguments)
    assert found.exit_code in (2, 3)
    assert found.stderr.startswith("error: ") and message in found.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("items", "--csv", "--json"),
        ("next", "--json", "--csv"),
        ("lfs", "--pairs", "--matrix", "both"),
        ("lfs", "--pairs", "--since", "current"),
        ("try", "offer", "--code", "17"),
        ("try", "offer", "--id", "i00000", "--random", "3"),
    ],
)
def test_an_option_is_never_passed_over(epoxy, arguments: tuple[str, ...]) -> None:
    found = epoxy(*arguments)
    assert found.exit_code == 2 and found.stdout == "" and "Usage:" in found.stderr


@pytest.mark.parametrize(
    "command",
    [("items",), ("lfs",), ("explain", "i00003"), ("try", "offer"), ("suggest",), ("next",), ("gold", "list")],
)
def test_positions_of_other_classes_are_never_shown_as_those_of_now(
    epoxy, project: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Swap the classes in params.yaml: until the next run every vote and gold would be called by the other's name."""
    lock = project / "dvc.lock"
    lock.write_text("stages: {apply: {params: {params.yaml: {classes: [ham, spam]}}}}")
    params = (project / "params.yaml").read_text()
    try:
        assert epoxy(*command).exit_code == 0
        swapped = params.replace("- ham\n- spam", "- spam\n- ham")
        assert swapped != params
        (project / "params.yaml").write_text(swapped)
        found = epoxy(*command)
        assert found.exit_code == 3 and found.stdout == ""
        assert "data/apply is of the classes ham, spam, in this order, and params.yaml has spam, ham" in found.stderr
    finally:
        (project / "params.yaml").write_text(params)
        lock.unlink()


def test_a_square_that_is_too_wide_is_shown_in_parts_with_every_number_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    others = [Column(name=str(lf), cells=["12,345", str(lf)], is_number=True) for lf in range(1, 10)]
    print_square(Column(name="LF", cells=["a_name_that_is_too_long_for_it", "b"], is_wide=True), others)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 40
    assert shown.count("12,345") == 9 and shown.count("a_name_that_is") == shown.count("LF") > 2


def test_heads_of_columns_are_never_cut(epoxy) -> None:
    for arguments in (("lfs",), ("lfs", "--pairs"), ("items",)):
        assert "…" not in epoxy(*arguments, width=80).stdout.splitlines()[0]


def test_tables_are_shown_whatever_they_hold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_table([Column(name=HOSTILE, cells=[HOSTILE])], title=HOSTILE)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\u202e" not in shown and shown.count(r"\x1b[31mred") == 3


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


def test_an_lf_is_tried_as_it_is_on_disk(epoxy, project: Path) -> None:
    votes = ProjectData(project).votes()
    expected = int((votes.original[:150, votes.find_lf("offer")] != -1).sum())
    answer = json.loads(epoxy("try", "offer", "--items", "150", "--json").stdout)
    assert answer["votes"] == expected == sum(item["vote"] is not None for item in answer["items"])
    assert {item["matched"] for item in answer["items"] if item["vote"]} == {"offer"}
    assert all(item["before"] == item["vote"] for item in answer["items"])
    judged = [item for item in answer["items"] if item["vote"] and item["gold"]]
    assert answer["with_gold"] == len(judged) > 0
    assert answer["right"] == sum(item["vote"] == item["gold"] for item in judged)
    module = project / "lfs" / "small.py"
    before = module.read_text()
    try:
        module.write_text(before.replace('keywords=["offer"]', 'keywords=["price"]'))
        edited = json.loads(epoxy("try", "offer", "--json").stdout)["items"]
    finally:
        module.write_text(before)
    assert {item["matched"] for item in edited if item["vote"]} == {"price"}
    assert any(item["before"] != item["vote"] for item in edited)


@pytest.mark.parametrize(
    "code",
    [
        'keyword_lf("new", column="text", keywords=["Price", "win"], label="spam")',
        r'regex_lf("new", column="text", pattern=r"\b(price|win)\b", label="spam")',
        r'regex_lf("new", column="text", pattern=r"(?<!x)\b(?:price|win)\b", label="spam")',
        'lambda item: "spam" if {"price", "win"} & set(item.text.split()) else ABSTAIN',
        'vote_where(pl.col("text").str.split(" ").list.eval(pl.element().is_in(["price", "win"])).list.any(), "spam")',
        '@labeling_function\ndef new(item):\n    return "spam" if {"price", "win"} & set(item["text"].split()) else None\n',
    ],
)
def test_an_lf_is_tried_before_it_is_in_the_module(epoxy, project: Path, code: str) -> None:
    items = read_table(project / ITEMS, schemas.ITEMS)
    expected = [
        item for item, text in zip(items["item_id"], items["text"], strict=True) if {"price", "win"} & {*text.split()}
    ]
    answer = json.loads(epoxy("try", "--code", code, "--json").stdout)
    found = [item for item in answer["items"] if item["vote"] == "spam"]
    assert [item["item_id"] for item in found] == expected and answer["votes"] == len(expected) > 20
    matched = {item["matched"] for item in found}
    assert matched == ({"price", "win"} if "column=" in code else {None})


@pytest.mark.parametrize(
    "flags", [("--covered", "--uncovered"), ("--extended-only", "--covered"), ("--right", "--wrong"), ("--with-gold", "--without-gold")]
)  # fmt: skip
def test_flags_that_exclude_each_other_are_refused(epoxy, flags: tuple[str, str]) -> None:
    found = epoxy("items", *flags)
    assert found.exit_code == 2 and f"{flags[0]} and {flags[1]} exclude each other" in found.stderr
    assert epoxy("items", flags[0], flags[0]).exit_code == 0


def test_an_lf_that_would_end_the_process_is_told(epoxy) -> None:
    found = epoxy("try", "--code", "lambda item: __import__('os')._exit(3)", "--items", "5")
    assert (
        "failed on 5 items" in found.stdout and "calls os._exit(3), which would end the whole process" in found.stdout
    )


@pytest.mark.parametrize("command", [("items",), ("lfs",), ("explain", "i00003"), ("next",)], ids=" ".join)
def test_who_asks_about_a_run_before_the_last_edit_is_told(epoxy, project: Path, command: tuple[str, ...]) -> None:
    note = (
        "note: params.yaml (tune) changed since the last run, of which this tells; 'epoxy run' brings it up to date\n"
    )
    assert "note:" not in epoxy(*command).stderr
    lock = project / "dvc.lock"
    lock.write_text("stages: {tune: {params: {params.yaml: {tune: edited}}}}\n")
    try:
        assert epoxy(*command).stderr.endswith(note)
        assert not [form for form in ("--json", "--csv") if "note:" in epoxy(*command, form).stderr]
    finally:
        lock.unlink()


def test_what_fails_is_told_with_item_and_traceback(epoxy, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def shout(item):\n    return 'ham' if 'dear' in item.text else item.nothing\n\n\nshout = labeling_function(shout)\n"
    )
    found = epoxy("try", "--file", str(file), "--items", "30", "--limit", "2")
    assert found.exit_code == 0
    assert "no column 'nothing'; items have item_id, split, text" in found.stdout
    assert f'File "{file}", line 2, in shout' in found.stdout
    answer = json.loads(epoxy("try", "--file", str(file), "--items", "30", "--json").stdout)
    assert len(answer["failures"]) + answer["votes"] == 30
    odd = epoxy("try", "--code", 'lambda item: "hem"', "--id", "i00004")
    assert "failed on 1 items, first on 'i00004': voted 'hem'; expected a class (ham, spam)" in odd.stdout


def test_items_drawn_at_random_are_the_same_for_a_seed(epoxy) -> None:
    drawn = [
        [
            item["item_id"]
            for item in json.loads(epoxy("try", "offer", "--items", "20", *more, "--json").stdout)["items"]
        ]
        for more in (("--random", "1"), ("--random", "1"), ("--random", "2"), ())
    ]
    assert drawn[0] == drawn[1] != drawn[2] and drawn[3] == [f"i{row:05}" for row in range(20)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("offr",), 2, "no labeling function in lfs/small.py 'offr'. Did you mean offer?"),
        (("--code", "1 +"), 4, "SyntaxError"),
        (("--code", "unknown(1)"), 4, "name 'unknown' is not defined"),
        (("--code", "17"), 4, "makes no labeling function"),
        (("--code", "keyword_lf('a', column='text', keywords=['x'], label='eggs')"), 4, "label 'eggs'; expected a class"),
        (("--code", "keyword_lf('a', column='txt', keywords=['x'], label='ham')"), 4, "no column 'txt', but item_id"),
        (("--code", "a = keyword_lf('a', column='text', keywords=['x'], label='ham')\nb = regex_lf('b', column='text', pattern='y', label='ham')\n"), 4, "makes a, b; name one of them"),
        ((), 2, "name an LF of the module"),
    ],
)  # fmt: skip
def test_what_makes_no_lf_is_told(epoxy, arguments: tuple[str, ...], code: int, message: str) -> None:
    found = epoxy("try", *arguments)
    assert found.exit_code == code and message in found.stderr


def test_the_package_answers_as_the_commands_do(epoxy, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_project()  # from a folder below the root
    assert opened.root == project and opened.classes == ("ham", "spam")
    asked = ("items", "--extended-vote", "hello=ham", "--order", "-confidence", "--limit", "9", "--json")
    ids = [item["item_id"] for item in json.loads(epoxy(*asked).stdout)["items"]]
    vote = VoteFilter(lf="hello", vote="ham", source="extended")
    assert opened.items(votes=[vote], order="-confidence", limit=9)["item_id"].to_list() == ids
    assert opened.items(votes=["hello"], text="HELLO").height == opened.items(text="hello").height > 0
    assert opened.items().height == opened.labels().height == 200
    assert opened.lfs().equals(tabulate_lfs(ProjectData(project)))
    assert opened.lf_matrix("both").height == 4 and opened.lf_pairs().columns[:2] == ["lf", "other"]
    found = opened.explain("i00003")
    assert found.parts["log_odds"].sum() == pytest.approx(found.log_odds, abs=1e-9)
    assert opened.releases().is_empty() and opened.releases().columns[0] == "id"
    with pytest.raises(EpoxyError, match="there is no release yet"):
        opened.labels(release="current")
    with pytest.raises(EpoxyError, match="not inside a DVC project"):
        open_project(project.parent)
    offer = keyword_lf("offer", column="text", keywords=["offer"], label="spam")
    tried = [
        opened.try_lf(lf, count=100) for lf in (offer, "offer", 'lambda item: "spam" if "offer" in item.text else -1')
    ]
    assert tried[0].votes == tried[1].votes == tried[2].votes > 10
    assert tried[0].rows.equals(tried[1].rows)


@labeling_function
def short(item):
    return "ham" if len(item.text) < 6 else ABSTAIN


@vectorized_labeling_function
def by_length(items):
    return vote_where(pl.col("text").str.len_chars() < 6, "ham")


@vectorized_labeling_function
def by_array(items):
    return np.where(items["text"].str.len_chars().to_numpy() < 6, 0, ABSTAIN)


@pytest.mark.parametrize(("lf", "ham"), [(short, "ham"), (by_length, "ham"), (by_array, 0)])
def test_an_lf_is_called_on_an_item_a_dictionary_or_a_frame(lf, ham: object) -> None:
    frame = pl.DataFrame({"item_id": [1, 2], "text": ["hello", "hello there"]})
    assert lf(frame).to_list() == [ham, None] and lf(frame).name == lf.name
    assert lf({"text": "hello"}) == ham and lf({"text": "hello there"}) == ABSTAIN
    assert lf(Item({"text": "hello"})) == ham
    assert lf(frame[1:]).to_list() == [None]


def test_lfs_on_a_frame_without_a_project() -> None:
    frame = pl.DataFrame({"text": ["hello", "hello there", "an offer", "offer"]})
    offer = keyword_lf("offer", column="text", keywords=["offer"], label="spam")
    votes = apply_lfs(frame, [short, by_array, offer], ["ham", "spam"])
    assert votes.to_dict(as_series=False) == {
        "short": ["ham", None, None, "ham"],
        "by_array": ["ham", None, None, "ham"],
        "offer": [None, None, "spam", "spam"],
    }
    summary = lf_summary(votes, ["ham", "spam"], pl.Series(["ham", "ham", "spam", None]))
    assert summary["coverage"].to_list() == [1 / 2] * 3
    assert summary["conflicts"].to_list() == [1 / 4] * 3
    assert summary["n"].to_list() == [1, 1, 1] and summary["precision"].to_list() == [1.0] * 3
    assert summary["polarity"].to_list() == ["ham", "ham", "spam"]
    assert "precision" not in lf_summary(votes, ["ham", "spam"]).columns
    broken = labeling_function(name="broken")(lambda item: item.nothing)
    with pytest.raises(EpoxyError, match="labeling function 'broken', row 0: AttributeError: no column 'nothing'"):
        apply_lfs(frame, [broken], ["ham", "spam"])
    with pytest.raises(TypeError, match="got list; expected a Polars or pandas DataFrame"):
        apply_lfs([1], [offer], ["ham", "spam"])


def test_frames_of_pandas_are_taken() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["hello", "hello there"]})
    assert apply_lfs(frame, [short, by_length], ["ham"]).rows() == [("ham", "ham"), (None, None)]
    assert short(frame).to_list() == by_length(frame).to_list() == ["ham", None]


GUIDE = REPOSITORY / "docs" / "how-to" / "look-behind-a-number.md"


def test_what_the_guide_says_can_be_typed(epoxy) -> None:
    blocks = [snippet for snippet in read_snippets(GUIDE) if "test_query_doors" in snippet.argument]
    lines = [line for block in blocks for line in block.text.splitlines()]
    assert len(blocks) == 4 and len(lines) > 15
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        found = epoxy(*arguments)
        assert program == "epoxy" and found.exit_code == 0 and found.stdout, line
