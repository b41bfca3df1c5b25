"""tasks.gold: the items' column and people's tables become one gold, and labeling more never leaks into test."""

import itertools
import json
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_project import write_params

from flows.cli.gold import add_decision, print_rows
from flows.gold_import import Columns, import_decisions
from tasks import gold
from tasks.core.agreement import count_decisions, measure_alpha, measure_pairs
from tasks.errors import DataError
from tasks.params import GoldParams
from tasks.tables import schemas
from tasks.tables.files import read_json
from tasks.tables.gold_table import Decision, append_decision, append_decisions
from tasks.tables.parquet import read_table, write_table
from tasks.tables.paths import COLUMN_GOLD, GOLD_CONFLICTS, GOLD_SUMMARY, ITEMS, VALID_GOLD, WITHHELD_GOLD

CLASSES = ("ham", "spam")

ALPHA_EXAMPLE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]
"""Four observers, twelve units, 0 for no value: the example of Krippendorff's text of 2011, section C."""


def write(root: Path, splits: str, known: dict[str, int] | None = None) -> Path:
    """Items a, b, c ... of the splits that the letters t (train), v (valid) and e (test) say, with the gold column."""
    ids = [chr(ord("a") + row) for row in range(len(splits))]
    names = [{"t": "train", "v": "valid", "e": "test"}[letter] for letter in splits]
    write_table(root / ITEMS, pl.DataFrame({"item_id": ids, "split": names}), schemas.ITEMS)
    column = pl.DataFrame({"item_id": list(known or {}), "gold": list((known or {}).values())}, schema={"item_id": pl.String, "gold": pl.Int8})  # fmt: skip
    write_table(root / COLUMN_GOLD, column.sort("item_id"), schemas.gold(2))
    (root / "gold").mkdir(exist_ok=True)
    return root


def run(root: Path, **params: object) -> dict[str, tuple[str, int]]:
    """Split and class of each item with gold."""
    gold.run(root, CLASSES, GoldParams.model_validate(params))
    valid = read_table(root / VALID_GOLD, schemas.gold(2))
    withheld = read_table(root / WITHHELD_GOLD, schemas.withheld_gold(2))
    assert not set(valid["item_id"]) & set(withheld["item_id"])
    found = {item: ("valid", label) for item, label in valid.rows()}
    return found | {item: (split, label) for item, label, split in withheld.rows()}


def decide(root: Path, *decisions: tuple[str, str | None, str], **more: object) -> None:
    """Append decisions (item, label, annotator)."""
    for item, label, annotator in decisions:
        append_decision(root / "gold/decisions.jsonl", Decision(item_id=item, label=label, annotator=annotator, **more))


def test_the_column_alone_stays_as_it_is(tmp_path: Path) -> None:
    """Gold of train items, too: it judges train, as it always did."""
    assert run(write(tmp_path, "tvev", {"a": 0, "b": 1, "c": 1})) == {
        "a": ("train", 0),
        "b": ("valid", 1),
        "c": ("test", 1),
    }
    (tmp_path / "gold").rmdir()
    assert len(run(tmp_path)) == 3


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_every_form_of_a_table_says_the_same(tmp_path: Path, form: str) -> None:
    write(tmp_path, "vve")
    table = pl.DataFrame(
        {"item_id": ["c", "a", "b"], "label": ["spam", "ham", None], "annotator": ["ann", "ann", "ben"]}
    )
    path = tmp_path / f"gold/mine.{form}"
    {"parquet": table.write_parquet, "csv": table.write_csv, "jsonl": table.write_ndjson}[form](path)
    assert run(tmp_path) == {"a": ("valid", 0), "c": ("test", 1)}
    positions = table.with_columns(label=pl.Series([1, 0, None]))
    {"parquet": positions.write_parquet, "csv": positions.write_csv, "jsonl": positions.write_ndjson}[form](path)
    assert run(tmp_path) == {"a": ("valid", 0), "c": ("test", 1)}


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_what_is_blank_is_unknown_and_no_decision_that_was_known(tmp_path: Path, form: str) -> None:
    write_params(write(tmp_path, "vvvv"))
    blank = {"item_id": list("abcd"), "label": ["ham", "", "  ", None], "annotator": [" ", "ann", "ann", ""]}
    table = pl.DataFrame(blank)
    path = tmp_path / f"mine.{form}"
    {"parquet": table.write_parquet, "csv": table.write_csv, "jsonl": table.write_ndjson}[form](path)
    columns = Columns(item_id="item_id", label="label", annotator=None, by="ben")
    for told in (
        "1 decisions added to gold/decisions.jsonl, 0 were known",
        "0 decisions added to gold/decisions.jsonl, 1 were known",
    ):
        (said,) = import_decisions(tmp_path, path, columns, "decisions.jsonl")
        assert said == f"{told}, 3 rows are without a label"
    path.rename(tmp_path / "gold" / path.name)
    assert run(tmp_path) == {"a": ("valid", 0)}
    assert json.loads((tmp_path / "gold/decisions.jsonl").read_text())["annotator"] == "ben"


def test_ids_that_are_integers_are_read_from_csv(tmp_path: Path) -> None:
    write_table(tmp_path / ITEMS, pl.DataFrame({"item_id": [7, 8], "split": ["valid"] * 2}), schemas.ITEMS)
    write_table(tmp_path / COLUMN_GOLD, pl.DataFrame(schema={"item_id": pl.Int64, "gold": pl.Int8}), schemas.gold(2))
    (tmp_path / "gold").mkdir()
    (tmp_path / "gold/mine.csv").write_text("item_id,label\n8,spam\n")
    assert run(tmp_path) == {8: ("valid", 1)}
    (tmp_path / "gold/mine.csv").write_text("item_id,label\neight,spam\n")
    with pytest.raises(DataError, match="item_id is text, but ids of items are integers"):
        run(tmp_path)


def test_new_gold_of_train_is_dealt_by_id_and_more_of_it_moves_none(tmp_path: Path) -> None:
    n = 400
    ids = [f"i{row:03}" for row in range(n)]
    write_table(tmp_path / ITEMS, pl.DataFrame({"item_id": ids, "split": ["train"] * n}), schemas.ITEMS)
    write_table(tmp_path / COLUMN_GOLD, pl.DataFrame(schema={"item_id": pl.String, "gold": pl.Int8}), schemas.gold(2))
    path = tmp_path / "gold/decisions.jsonl"
    before: dict[str, tuple[str, int]] = {}
    for some in (
        itertools.batched(ids, 100) if sys.version_info >= (3, 12) else (ids[at : at + 100] for at in range(0, n, 100))
    ):
        append_decisions(path, [Decision(item_id=item, label="spam", annotator="ann") for item in some])
        found = run(tmp_path, valid_share=0.3)
        assert before.items() <= found.items()
        before = found
    valid = sum(split == "valid" for split, _ in before.values())
    # Four standard deviations of a draw with .3.
    assert len(before) == n and abs(valid - 0.3 * n) < 4 * (n * 0.3 * 0.7) ** 0.5
    with pytest.raises(DataError, match=r"400 items of the split train have gold, first ids 'i000'"):
        run(tmp_path, train="refuse")


def test_a_table_may_say_the_split_of_train_items_and_moves_no_other(tmp_path: Path) -> None:
    write(tmp_path, "ttvt")
    decide(tmp_path, ("a", "ham", "ann"), ("c", "ham", "ann"), split="valid")
    decide(tmp_path, ("b", "spam", "ann"), ("d", "spam", "ann"), split="test")
    decide(tmp_path, ("d", "spam", "ben"), split="valid")  # who says test is heard first
    assert run(tmp_path, train="refuse") == {
        "a": ("valid", 0),
        "b": ("test", 1),
        "c": ("valid", 0),
        "d": ("test", 1),
    }
    decide(tmp_path, ("c", "ham", "ben"), split="test")
    with pytest.raises(DataError, match=r"1 items are of one split .* first 'c': valid and test"):
        run(tmp_path)


def test_the_last_decision_of_a_person_counts_and_none_is_ever_rewritten(tmp_path: Path) -> None:
    write(tmp_path, "vv")
    path = tmp_path / "gold/decisions.jsonl"
    decide(tmp_path, ("a", "ham", "ann"), ("b", "ham", "ann"))
    first = path.read_bytes()
    decide(tmp_path, ("a", "spam", "ann"), ("b", None, "ann"))
    assert path.read_bytes().startswith(first)
    assert run(tmp_path) == {"a": ("valid", 1)}
    # What was decided earlier does not count, though it was written later.
    decide(tmp_path, ("a", "ham", "ann"), time=datetime(2020, 1, 1, tzinfo=UTC))
    assert run(tmp_path) == {"a": ("valid", 1)}


def test_a_wrong_class_is_named_until_it_is_taken_back(tmp_path: Path) -> None:
    write(tmp_path, "vv")
    decide(tmp_path, ("a", "sapm", "ann"))
    with pytest.raises(DataError, match=r"decisions.jsonl: column 'label': 1 items are of an unknown class: 'sapm'"):
        run(tmp_path)
    decide(tmp_path, ("a", None, "ann"))
    assert run(tmp_path) == {}


def test_majority_decides_ties_have_no_gold_and_conflicts_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "vvee", {"a": 0, "d": 1})
    decide(
        tmp_path,
        ("a", "spam", "ann"),
        ("a", "spam", "ben"),
        ("b", "ham", "ann"),
        ("c", "ham", "ann"),
        ("c", "spam", "ben"),
    )
    assert run(tmp_path) == {"a": ("valid", 1), "b": ("valid", 0), "d": ("test", 1)}
    assert read_table(tmp_path / GOLD_CONFLICTS, schemas.gold_conflicts(CLASSES)).rows() == [
        ("a", "valid", "spam", "ann: spam; ben: spam; gold column of the items: ham"),
        ("c", "test", None, "ann: ham; ben: spam"),
    ]
    summary = read_json(tmp_path / GOLD_SUMMARY)
    assert summary["gold"] == {"train": 0, "valid": 2, "test": 1}
    assert (summary["conflicts"], summary["unresolved"], summary["agreement"]["items"]) == (2, 1, 2)
    said = capsys.readouterr().err
    assert "disagree on 2 items, of which 1 have no gold" in said
    decide(tmp_path, ("c", "spam", "cyd"))
    assert run(tmp_path)["c"] == ("test", 1)


def test_dawid_skene_learns_whom_to_believe(tmp_path: Path) -> None:
    """Three who guess outvote two who know; on half of the items, so that majority can be told from EM."""
    chance = np.random.default_rng(0)
    n = 200
    ids = [f"i{row:03}" for row in range(n)]
    truth = chance.integers(0, 2, n)
    write_table(tmp_path / ITEMS, pl.DataFrame({"item_id": ids, "split": ["valid"] * n}), schemas.ITEMS)
    write_table(tmp_path / COLUMN_GOLD, pl.DataFrame(schema={"item_id": pl.String, "gold": pl.Int8}), schemas.gold(2))
    decisions = [
        Decision(item_id=item, label=CLASSES[label if chance.random() < right else 1 - label], annotator=name)
        for name, right in (("ann", 0.95), ("ben", 0.95), ("cyd", 0.55), ("dan", 0.55), ("eve", 0.55))
        for item, label in zip(ids, truth.tolist(), strict=True)
    ]
    append_decisions(tmp_path / "gold/decisions.jsonl", decisions)

    def count_right(**params: object) -> int:
        found = run(tmp_path, **params)
        return sum(found.get(item, ("", -1))[1] == label for item, label in zip(ids, truth.tolist(), strict=True))

    assert count_right(resolve="dawid_skene") > count_right() + n // 20


def test_what_is_said_of_test_items_changes_no_gold_of_valid(tmp_path: Path) -> None:
    write(tmp_path, "vvvveeee")
    people = ("ann", "ben", "cyd")
    for row, item in enumerate("abcdefgh"):
        decide(tmp_path, *((item, CLASSES[(row + (who == "cyd") * (row % 3 == 0)) % 2], who) for who in people))
    run(tmp_path, resolve="dawid_skene")
    before = (tmp_path / VALID_GOLD).read_bytes()
    decide(tmp_path, *((item, "spam", who) for item in "efgh" for who in people[:2]))
    run(tmp_path, resolve="dawid_skene")
    assert (tmp_path / VALID_GOLD).read_bytes() == before


def test_ids_of_no_item_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "v")
    decide(tmp_path, ("z", "ham", "ann"))
    assert run(tmp_path) == {}
    assert "1 ids in gold are of no item and say nothing, first 'z'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("mine.xlsx", "", "expected a table of gold in .parquet, .csv or .jsonl"),
        ("mine.csv", "id,label\na,ham\n", "no column 'item_id'; it has id, label"),
        ("mine.csv", "item_id,gold\na,ham\n", "no column 'label'"),
        ("mine.csv", "item_id,label,time\na,ham,yesterday\n", "column 'time', row 0 .*'yesterday' is no time"),
        ("mine.csv", "item_id,label,split\na,ham,dev\n", "column 'split': 'dev'; expected train, valid, test"),
        ("mine.jsonl", '{"item_id": "a", "label": "ham"}\n{"item_id"\n', "line 2 is not JSON"),
        ("mine.jsonl", '{"item_id": "a", "label": ["ham"]}\n', "is List"),
        ("mine.csv", "item_id,label,label\na,ham,spam\n", "more than one column is called 'label'"),
        ("mine.csv", "item_id,label,Annotator\na,ham,ann\n", "column 'Annotator' is almost called 'annotator'"),
        ("mine.csv", "item_id,label,Split\na,ham,test\n", "column 'Split' is almost called 'split'"),
        ("mine.csv", "item_id, label\na,ham\n", "no column 'label'; it has item_id,  label"),
        ("mine.csv", "item_id,label\na,HAM\n", "unknown class: 'HAM'"),
        ("mine.csv", "item_id,label\na,1\nb,ham\n", "unknown class: '1'"),
        ("mine.csv", "item_id,label,time\na,ham,03/04/2026\n", "'03/04/2026' is no time"),
        ("mine.csv", "item_id,label,time\na,ham,1764300000\n", "'1764300000' is no time"),
        ("mine.csv", "item_id,label,time\na,ham,0001-01-01T00:00:00+05:30\n", "is no time"),
        ("mine.csv", "item_id;label\na;ham\n", "no comma but ';'"),
        ("mine.csv", "item_id,label\na,ham,what\n", "a row of 3 columns; the header has 2"),
        ("mine.parquet", "no table", "cannot be read"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    (write(tmp_path, "v") / "gold" / name).write_text(text)
    with pytest.raises(DataError, match=said) as error:
        run(tmp_path)
    assert f"gold/{name}" in str(error.value)


def test_gold_that_would_be_passed_over_in_silence_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path, "v") / "gold"
    (tmp_path / "elsewhere").mkdir()
    (folder / "theirs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="gold/theirs is a link to a folder, which is not followed"):
        run(tmp_path)
    (folder / "theirs").unlink()
    (folder / "mine.csv").symlink_to("nothing")
    with pytest.raises(DataError, match=r"mine[.]csv is a link to nothing"):
        run(tmp_path)
    (folder / "mine.csv").unlink()
    folder.rmdir()
    for make in (lambda: folder.touch(), lambda: folder.symlink_to("nothing")):
        make()
        with pytest.raises(DataError, match="gold is no folder"):
            run(tmp_path)
        folder.unlink()
    assert run(tmp_path) == {}


def test_names_of_people_that_only_case_or_blanks_tell_apart_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\ufeffitem_id,label,annotator\na,ham,Ann\na,spam,ann\na,ham, ann\n"
    (write(tmp_path, "v") / "gold/mine.csv").write_text(text, encoding="utf-8")
    assert run(tmp_path) == {"a": ("valid", 0)}
    said = capsys.readouterr().err
    assert "annotators ' ann', 'Ann', 'ann' count as 3 people, though only case or blanks tell them apart" in said


def test_a_list_has_a_line_for_each_item_whatever_ids_hold(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([["new\nline", "ta\tb", "\x1b[31mred", "\u202eback"], ["a", "b", "c", "d"]])
    assert capsys.readouterr().out == "new line\tta b\t\\x1b[31mred\t\\u202eback\na\tb\tc\td\n"


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\tb"])
def test_nobody_decides_without_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="expected a name"):
        append_decision(tmp_path / "decisions.jsonl", Decision(item_id="a", label="ham", annotator=name))
    assert list(tmp_path.iterdir()) == []


def test_what_would_stop_every_later_run_is_refused_when_it_is_added(tmp_path: Path) -> None:
    """A table only grows: a decision with another split than its item's could not be taken out again."""
    write(tmp_path, "vt")
    write_params(tmp_path)
    with pytest.raises(DataError, match="first 'a': valid and test"):
        add_decision(root=tmp_path, item="a", label="ham", annotator="ann", split="test")
    (tmp_path / "export.csv").write_text("item_id,label,split\nb,ham,test\na,ham,test\n")
    columns = Columns(item_id="item_id", label="label", annotator=None, by="ann")
    with pytest.raises(DataError, match="first 'a': valid and test"):
        list(import_decisions(tmp_path, tmp_path / "export.csv", columns, "decisions.jsonl"))
    assert run(tmp_path) == {}
    add_decision(root=tmp_path, item="b", label="ham", annotator="ann", split="test")
    assert run(tmp_path) == {"b": ("test", 0)}


@pytest.mark.parametrize("name", ["../out.jsonl", "/tmp/out.jsonl", ".hidden.jsonl", "sub/dir.jsonl", "mine.csv"])
def test_decisions_are_brought_to_no_file_that_is_not_read(tmp_path: Path, name: str) -> None:
    write_params(write(tmp_path, "v"))
    (tmp_path / "export.csv").write_text("id,what\na,ham\n")
    columns = Columns(item_id="id", label="what", annotator=None, by="ann")
    with pytest.raises(DataError, match=r"expected the name of a table|in \.jsonl alone"):
        list(import_decisions(tmp_path, tmp_path / "export.csv", columns, name))
    assert not (tmp_path / "gold" / name).exists()


def test_columns_of_an_export_that_look_meant_are_told(tmp_path: Path) -> None:
    write_params(write(tmp_path, "v"))
    (tmp_path / "export.csv").write_text("item_id,label,Annotator\na,ham,bob\n")
    columns = Columns(item_id="item_id", label="label", annotator=None, by="ann")
    told = list(import_decisions(tmp_path, tmp_path / "export.csv", columns, "decisions.jsonl"))
    assert told[0] == "note: column 'Annotator' is not read; call it annotator if it is meant"
    with pytest.raises(DataError, match="name a column each; got label, label"):
        list(import_decisions(tmp_path, tmp_path / "export.csv", replace(columns, item_id="label"), "decisions.jsonl"))


def test_what_may_lie_beside_tables_is_passed_over(tmp_path: Path) -> None:
    for name in ("README.md", ".gitignore", "mine.parquet.dvc", "empty.csv"):
        (write(tmp_path, "v") / "gold" / name).touch()
    assert run(tmp_path) == {}


def test_half_a_line_is_passed_over_and_then_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "vvv")
    path = tmp_path / "gold/decisions.jsonl"
    decide(tmp_path, ("a", "ham", "ann"), ("b", "ham", "ann"))
    whole = path.read_bytes()
    for end in range(len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert run(tmp_path).keys() <= {"a", "b"}
    assert "half a line at the end" in capsys.readouterr().err
    note = append_decision(path, Decision(item_id="c", label="spam", annotator="ann"))
    assert note is not None and "half a line" in note
    assert run(tmp_path) == {"a": ("valid", 0), "c": ("valid", 1)}
    # A whole line whose end an editor left out is kept.
    path.write_bytes(whole.removesuffix(b"\n"))
    assert append_decision(path, Decision(item_id="c", label="spam", annotator="ann")) is None
    assert len(run(tmp_path)) == 3


def test_a_killed_writer_loses_nothing_that_it_had_confirmed(tmp_path: Path) -> None:
    write(tmp_path, "v" * 26)
    program = """
import itertools, sys
from pathlib import Path
from tasks.tables.gold_table import Decision, append_decision
for number in itertools.count():
    append_decision(Path("gold/decisions.jsonl"), Decision(item_id="a", label="ham", annotator=f"p{number}" + "x" * 5000))
    print(number, flush=True)
"""
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.05)
        writer.kill()
        confirmed = 1 + len(writer.stdout.read().split())
        writer.wait()
        run(tmp_path)
        found = sum(count > 0 for count in read_json(tmp_path / GOLD_SUMMARY)["decisions"].values())
        assert found >= confirmed
        (tmp_path / "gold/decisions.jsonl").unlink()


def test_a_decision_that_would_not_count_since_the_clock_was_set_back_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "vv")
    path = tmp_path / "gold/decisions.jsonl"
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    decide(tmp_path, ("a", "ham", "ann"), time=tomorrow)
    before = path.read_bytes()
    with pytest.raises(
        DataError, match=r"ann said something of 'a' at .*: a decision of now would not count. Set the clock"
    ):
        decide(tmp_path, ("a", "spam", "ann"))
    assert path.read_bytes() == before
    decide(tmp_path, ("b", "spam", "ann"), ("a", "ham", "ben"))
    decide(tmp_path, ("a", "spam", "ann"), time=tomorrow + timedelta(days=1))
    assert run(tmp_path) == {"b": ("valid", 1)}, "on a, what ann said last is not what ben said"


def append_many(path: Path, who: str) -> None:
    for number in range(50):
        append_decision(path, Decision(item_id=f"{who}{number}", label="ham", annotator=who * 3000))


def test_several_writers_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    with ThreadPoolExecutor() as pool:
        list(pool.map(append_many, [path] * 3, "abc"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["item_id"] for line in lines}) == len(lines) == 150


def test_a_full_disk_leaves_the_table_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    append_decision(path, Decision(item_id="a", label="ham", annotator="ann"))
    whole = path.read_bytes()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, before[1]))
    try:
        with pytest.raises(OSError, match="20 of"):
            append_decision(path, Decision(item_id="b", label="ham", annotator="ann"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    assert path.read_bytes() == whole
    assert [found.name for found in tmp_path.iterdir()] == ["decisions.jsonl"]


def test_agreement_is_what_the_books_say() -> None:
    D = (np.array(ALPHA_EXAMPLE, dtype=np.int8) - 1).T
    counts = count_decisions(D, 5)
    assert measure_alpha(counts) == pytest.approx(0.743, abs=0.0005)
    assert measure_alpha(counts[:0]) is None
    # 3 of 4 are alike; by chance it would be 2/4 x 1/4 + 2/4 x 3/4.
    left, right = np.array([[0, 0], [0, 1], [1, 1], [1, 1]], dtype=np.int8), np.array([[0, 0], [0, 0]], dtype=np.int8)
    (pair,) = measure_pairs(left)
    assert (pair.items, pair.kappa) == (4, pytest.approx((3 / 4 - 1 / 2) / (1 - 1 / 2)))
    assert measure_pairs(right)[0].kappa is None


def test_gold_of_train_in_the_column_is_dealt_where_params_say_so(tmp_path: Path) -> None:
    write(tmp_path, "tttv", {"a": 0, "b": 1, "d": 1})
    dealt = {item: "valid" if gold.is_dealt_to_valid(item, 0.5) else "test" for item in "ab"}
    assert run(tmp_path, column="deal") == {"a": (dealt["a"], 0), "b": (dealt["b"], 1), "d": ("valid", 1)}
    with pytest.raises(DataError, match="2 items of the split train have gold"):
        run(tmp_path, column="deal", train="refuse")
