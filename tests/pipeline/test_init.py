"""`epoxy init`: a project around somebody's table, without the tool's code, that knows which code its results are from."""

import contextlib
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import yaml
from click.testing import CliRunner
from small_project import make_environment

import tasks.__main__ as command
from flows.cli.init import init_command
from flows.cli.main import main
from flows.init.create import create_project
from flows.init.pipeline import compose_pipeline, plan_upgrade, upgrade
from flows.init.sample import Columns, Sample, choose_salt, find_telling_words, read_sample
from flows.runner.dvc_graph import read_stages
from flows.runner.dvc_status import find_changes
from tasks.__main__ import STAGES, run_stage
from tasks.cache.stage_code import NOTES
from tasks.errors import DataError, ParamsError, StageError
from tasks.gold import is_dealt_to_valid
from tasks.params import GoldParams
from tasks.params_file import read_params
from tasks.tables import schemas
from tasks.tables.files import read_json
from tasks.tables.parquet import read_table
from tasks.tables.paths import COLUMN_GOLD, GOLD_SUMMARY, ITEMS, LF_SUMMARY, METRICS, QUARANTINE, SHIPPED_LABELS, VOTES

REPOSITORY = Path(__file__).resolve().parents[2]
HAM, SPAM = "dear friend the meeting is tomorrow", "win this offer now for a prize"


def write_table(folder: Path, **columns: list[object]) -> Path:
    pl.DataFrame(columns).write_csv(folder / "messages.csv")
    return folder / "messages.csv"


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    """Forty texts of two kinds, half of them with gold, without ids or splits."""
    texts = [f"{SPAM if row % 2 else HAM} {row % 7}" for row in range(40)]
    gold = [["ham", "spam"][row % 2] if row < 20 else None for row in range(40)]
    return write_table(tmp_path, body=texts, label=gold)


def test_columns_and_classes_are_guessed(tmp_path: Path) -> None:
    path = write_table(
        tmp_path,
        ID=["a", "b", "c"],
        title=["x", "y", "z"],
        Category=["no", "yes", None],
        split=["train", "valid", "test"],
    )
    sample = read_sample(path, Columns())
    assert sample.columns == Columns(item_id="ID", text="title", split="split", gold="Category")
    assert sample.classes == ("no", "yes")
    # What is called like an id, a split or gold, and is none, is none.
    path = write_table(tmp_path, id=["a", "a"], fold=["1", "2"], words=["a longer text", "and one more"], x=["1", "2"])
    assert read_sample(path, Columns()).columns == Columns(text="words")
    assert read_sample(path, Columns(item_id="x", gold="fold"), ["1", "2"]).columns.gold == "fold"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (Columns(text="txt"), "no column 'txt'; it has item_id, text, n"),
        (Columns(text="n"), "no column of text|its first line"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, named: Columns, said: str) -> None:
    pl.DataFrame({"item_id": ["a"], "text": ["b"], "n": [1]}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(DataError, match=said):
        read_sample(tmp_path / "items.parquet", named)


ODD = {
    "semicolons, and a BOM": ("csv", "utf-8-sig", 'Ticket;Message;Topic\nm1;one, two;a\nm2;"x; y";b\n', "Ticket", ";"),
    "tabs": ("tsv", "utf-8", "ticket\tmessage\ttopic\nm1\tone, two\ta\nm2\tx; y\tb\n", "ticket", "\t"),
    "commas, and an id is missing": ("csv", "utf-8", 'ticket,message,topic\nm1,"one, two",a\n,x; y,b\n', None, None),
    "other letters": ("csv", "utf-8", 'id,message,topic\n一,"one, two",a\n二,x; y,b\n', "id", None),
}


@pytest.mark.parametrize("name", ODD)
def test_tables_of_spreadsheets_are_read(tmp_path: Path, name: str) -> None:
    suffix, encoding, text, item_id, separator = ODD[name]
    path = tmp_path / f"in.{suffix}"
    path.write_bytes(text.encode(encoding))
    sample = read_sample(path, Columns())
    assert (sample.columns.item_id, sample.separator, sample.classes) == (item_id, separator, ("a", "b"))
    assert sample.columns.text is not None and sample.table[sample.columns.text].to_list() == ["one, two", "x; y"]
    said = "\n".join(create_project(tmp_path / "project", sample))
    assert ("with commas in place of" in said) == (separator is not None)
    (items,) = (tmp_path / "project/data/raw").iterdir()
    assert items.name == "items.csv"
    assert pl.read_csv(items)[sample.columns.text].to_list() == ["one, two", "x; y"]


@pytest.mark.parametrize(
    "content",
    [
        '[{"message": "one, two", "topic": "a"},\n {"topic": "b", "message": "x; y"}]',
        '\ufeff[{"message": "one, two", "topic": "a"}, {"topic": "b", "message": "x; y"}]',
        '{"message": "one, two", "topic": "a"}\n{"topic": "b", "message": "x; y"}\n',
    ],
)
def test_a_list_of_json_objects_becomes_lines(tmp_path: Path, content: str) -> None:
    path = tmp_path / "in.json"
    path.write_text(content, encoding="utf-8")
    sample = read_sample(path, Columns())
    said = "\n".join(create_project(tmp_path / "project", sample))
    assert "items   2 of in.json" in said and "an object in each line" in said
    (items,) = (tmp_path / "project/data/raw").iterdir()
    assert items.name == "items.jsonl"
    assert pl.read_ndjson(items).select("message", "topic").rows() == [("one, two", "a"), ("x; y", "b")]
    assert read_params(tmp_path / "project").ingest.items == "items.jsonl"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"text": "a"}, 3]', "element 2 of the list is no object"),
        ('[{"text": "a"}', "is no JSON: "),
        ('{"data": [\n{"text": "a"}\n]}', "A .json file holds a list of objects, or an object in each line"),
    ],
)
def test_other_json_says_what_is_expected(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "in.json").write_text(content)
    with pytest.raises(DataError, match=rf"in\.json.*{said}"):
        read_sample(tmp_path / "in.json", Columns())


def test_a_column_of_images_is_told_from_texts(tmp_path: Path) -> None:
    path = write_table(tmp_path, id=["a", "b"], picture=["x/1.png", "x/2.JPG"], label=["no", "yes"])
    said = "\n".join(create_project(tmp_path / "project", read_sample(path, Columns())))
    assert "names image files" in said and "encoder: {model: pixels, column: picture}" in said


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("id,text,label", "{at},word {at},{gold}"),
        (" Text ,Label ,x", "word {at},{gold},{at}"),
        (",text,label", "{at},word {at},{gold}"),
    ],
)
def test_what_spreadsheets_and_pandas_leave_in_a_csv_is_no_obstacle(tmp_path: Path, head: str, row: str) -> None:
    lines = [row.format(at=at, gold=("no", "yes", "")[at % 3]) for at in range(9)]
    empty = row.replace("word {at}", "").format(at=9, gold="no")
    (tmp_path / "in.csv").write_text("\n".join([head, *lines, "", empty, "", ""]))
    root = tmp_path / "project"
    said = "\n".join(create_project(root, read_sample(tmp_path / "in.csv", Columns())))
    assert "items   10 of in.csv" in said and "without 2 blank rows" in said and "empty   1 rows have no text" in said
    assert ("ids     column 'id'" in said) == head.startswith("id")
    run_stage(root, "ingest")
    assert read_table(root / ITEMS, schemas.ITEMS).height == 9
    assert read_table(root / QUARANTINE, schemas.QUARANTINE)["reason"].to_list() == ["no text"]


def test_a_class_that_looks_like_a_missing_value_is_asked_about(tmp_path: Path) -> None:
    path = write_table(tmp_path, text=["a b", "c d", "e f"], label=["no", "yes", "NaN"])
    with pytest.raises(DataError, match="has 1 rows of class 'NaN', which looks like a value that is missing"):
        read_sample(path, Columns())
    assert read_sample(path, Columns(), ["NaN", "no", "yes"]).classes == ("NaN", "no", "yes")


def test_a_table_in_another_encoding_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes("id;text\n1;Straße\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"in\.csv is not UTF-8\. Save it as UTF-8"):
        read_sample(path, Columns())


def test_columns_that_could_have_the_classes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,day,text,kind\n" + "".join(f"{n},{n % 3},text {n},{'ab'[n % 2]}\n" for n in range(12)))
    with pytest.raises(ParamsError, match=r"no column of gold was recognized.*--gold kind \(or day\), or the classes"):
        create_project(tmp_path / "project", read_sample(path, Columns()))


def test_names_of_columns_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    path = write_table(tmp_path, body=["a b", "c d", "e f", "g h"] * 2, **{"Topic / class?": ["x", "y"] * 4})
    with pytest.raises(ParamsError, match=r"--gold 'Topic / class\?'"):
        create_project(tmp_path / "new", read_sample(path, Columns()))


@pytest.mark.parametrize(
    ("ids", "said"),
    [(["a", "b", "a"], "has 1 values twice or more, such as 'a'"), (["a", None, "b"], "has 1 empty values")],
)
@pytest.mark.parametrize("name", ["item_id", "number"])
def test_ids_that_cannot_be_are_refused(tmp_path: Path, ids: list[object], said: str, name: str) -> None:
    path = write_table(tmp_path, body=["x", "y", "z"], **{name: ids})
    with pytest.raises(DataError, match=rf"messages.csv: column '{name}' {said}; expected an id for each row"):
        read_sample(path, Columns(item_id=None if name == "item_id" else name), ["ham", "spam"])


@pytest.mark.parametrize(
    ("ids", "told"), [([*"abcdefghijk", "a"], True), ([*"abcdefghijkl"], False), ([*"ab"] * 6, False)]
)
def test_ids_that_repeat_are_told(tmp_path: Path, ids: list[object], told: bool) -> None:
    path = write_table(tmp_path, ticket=ids, body=[f"{SPAM if row % 2 else HAM} {row}" for row in range(12)])
    lines = create_project(tmp_path / "new", read_sample(path, Columns(), ["ham", "spam"]))
    note = "note    column 'ticket' would be ids, were not some values there twice or more, such as 'a'"
    assert (note in lines) == told


def test_numbers_are_classes_only_if_they_are_positions(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a", "b"], "label": [0, 1]}).write_parquet(tmp_path / "items.parquet")
    assert read_sample(tmp_path / "items.parquet", Columns()).classes == ("0", "1")
    pl.DataFrame({"text": ["a", "b"], "label": [1, 2]}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(DataError, match="could be names or positions"):
        read_sample(tmp_path / "items.parquet", Columns())


@pytest.mark.parametrize(
    ("label", "classes", "found"),
    [
        ([1, 2, None], "a,b,c", ["b", "c", None]),  # positions
        ([0.0, 1.0, float("nan")], "", ["0", "1", None]),  # as pandas writes 0, 1 and nothing
        (pl.Series(["a", "b", None], dtype=pl.Categorical), "", ["a", "b", None]),
        (["a", "b", " "], "", ["a", "b", None]),
    ],
)
def test_gold_is_read_as_ingest_reads_it(
    tmp_path: Path, label: list[object], classes: str, found: list[object]
) -> None:
    path = tmp_path / "items.parquet"
    pl.DataFrame({"id": ["x", "y", "z"], "text": ["one", "two", "three"], "label": label}).write_parquet(path)
    sample = read_sample(path, Columns(), tuple(filter(None, classes.split(","))))
    assert sample.gold is not None and sample.gold.to_list() == found
    assert sample.classes == (tuple(classes.split(",")) if classes else tuple(filter(None, found)))
    create_project(tmp_path / "project", sample)
    run_stage(tmp_path / "project", "ingest")
    table = pl.read_parquet(tmp_path / "project" / COLUMN_GOLD)
    read = dict(zip(table["item_id"], table["gold"], strict=True))
    assert [None if (place := read.get(item)) is None else sample.classes[place] for item in "xyz"] == found


@pytest.mark.parametrize(
    ("columns", "classes", "said"),
    [
        ({"label": [1, 2, 2]}, "a,b", "numbers from 1 to 2; as positions in the 2 --classes they would be 0 to 1"),
        ({"label": ["a", "b", "eggs"]}, "a,b", "'eggs', which is none of --classes a,b"),
        ({"label": ["a", "a ", "b"]}, "", "classes 'a' and 'a ' differ in blanks"),
        ({"label": ["caf\u00e9", "cafe\u0301", "b"]}, "", "'cafe\\u0301' and 'caf\\xe9' differ in blanks or in the form of Unicode"),
        ({"label": ["a", "b", "b"], "split": ["train", "Valid", "test"]}, "", "'split' has a value that is 'Valid'"),
        ({"label": ["a", "b", "b"], "split": ["train", None, "test"]}, "", "'split' has a value that is missing"),
    ],
)  # fmt: skip
def test_what_ingest_would_refuse_makes_no_project(
    tmp_path: Path, columns: dict[str, list[object]], classes: str, said: str
) -> None:
    path = tmp_path / "items.parquet"
    pl.DataFrame({"id": ["x", "y", "z"], "text": ["one", "two", "three"], **columns}).write_parquet(path)
    with pytest.raises(DataError, match=re.escape(said)):
        read_sample(path, Columns(), tuple(filter(None, classes.split(","))))


def test_a_class_without_a_word_has_no_labeling_function(tmp_path: Path) -> None:
    path = write_table(tmp_path, text=["hello"] * 4, label=["a", "b", "a", "b"])
    lines = create_project(tmp_path / "project", read_sample(path, Columns()))
    module = (tmp_path / "project" / "lfs" / "first.py").read_text(encoding="utf-8")
    assert module.count("keyword_lf(") == 1 and "keywords=[]" not in module
    assert lines[-1].startswith("one labeling function is")


def test_names_of_classes_reach_no_terminal_as_commands(tmp_path: Path) -> None:
    path = write_table(tmp_path, text=["one", "two"], label=["\x1b[31mred", "two\nlines"])
    result = CliRunner().invoke(main, ["init", str(tmp_path / "p"), "--items", str(path)], color=True)
    assert "classes \\x1b[31mred, two lines" in result.output.splitlines() and "\x1b" not in result.output


def test_words_come_from_valid_gold_and_not_from_test(tmp_path: Path) -> None:
    ids = [f"i{row}" for row in range(40)]
    # What test gold would say is the opposite of what valid gold says.
    valid = [is_dealt_to_valid(item, 0.5) for item in ids]
    texts = ["prize" if row % 2 else "dear" for row in range(40)]
    gold = [("spam" if (text == "prize") == kept else "ham") for text, kept in zip(texts, valid, strict=True)]
    sample = read_sample(write_table(tmp_path, item_id=ids, text=texts, gold=gold), Columns())
    assert find_telling_words(sample, sample.table["item_id"]) == {"ham": ["dear"], "spam": ["prize"]}


def test_each_class_has_a_labeling_function_if_gold_tells_a_word_of_it(tmp_path: Path) -> None:
    kinds = {"bill": "invoice", "parcel": "courier", "fault": "broken", "none": ""}
    texts = [f"{word} text {row}" for row in range(12) for word in kinds.values()]
    sample = read_sample(write_table(tmp_path, text=texts, label=[*kinds] * 12), Columns())
    said = create_project(tmp_path / "project", sample)
    assert said[-1].startswith("three labeling functions are in ")
    source = (tmp_path / "project/lfs/first.py").read_text()
    assert all(f'"{word}"' in source for word in kinds.values() if word)


def test_words_of_scripts_without_blanks_are_parts_of_texts(tmp_path: Path) -> None:
    texts = [f"{row}番の{['請求書が二重です', '電源が入りません'][row % 2]}" for row in range(12)]
    sample = read_sample(write_table(tmp_path, text=texts, label=["bill", "fault"] * 6), Columns())
    words = find_telling_words(sample, pl.Series([f"i{row}" for row in range(12)]))
    assert set(words["bill"]) <= {text[i : i + 2] for text in texts[::2] for i in range(len(text))}
    create_project(tmp_path / "project", sample)
    assert "whole_words=False" in (tmp_path / "project/lfs/first.py").read_text(encoding="utf-8")


def test_gold_is_split_evenly_class_by_class_and_stays_where_it_is() -> None:
    # Four rare rows fall all on one side by every eighth hash.
    ids = pl.Series("item_id", [f"i{row}" for row in range(60)])
    gold = ["rare"] * 4 + ["common"] * 46 + [None] * 10
    columns = Columns(item_id="item_id", text="text", gold="gold")
    table = pl.DataFrame({"item_id": ids, "text": ids, "gold": gold})
    sample = Sample(
        path=Path("items.csv"), table=table, columns=columns, classes=("common", "rare"), gold=table["gold"]
    )
    salt = choose_salt(sample, ids)
    params = GoldParams(salt=salt)
    valid = {item for item in ids if is_dealt_to_valid(item, params.valid_share, params.salt)}
    assert len(valid & {*ids[:4]}) == 2 and len(valid & {*ids[4:50]}) == 23
    # Without a salt, ids are hashed as they ever were.
    assert {item for item in ids if is_dealt_to_valid(item, 0.5)} != valid
    assert choose_salt(replace(sample, columns=Columns(gold="gold", split="split")), ids) == 0
    assert choose_salt(replace(sample, gold=None), ids) == 0


def test_a_table_becomes_labels(messages: Path, tmp_path: Path) -> None:
    root = tmp_path / "labels"
    lines = create_project(root, read_sample(messages, Columns()))
    assert "gold    column 'label': ham 10, spam 10" in lines
    assert not list(root.rglob("tasks")) and not list(root.rglob("flows"))
    with contextlib.chdir(root):
        for stage in STAGES:
            run_stage(Path(), stage)
        gold = read_json(GOLD_SUMMARY)["gold"]
        assert gold == {"train": 0, "valid": 10, "test": 10}
        summary = pl.read_csv(LF_SUMMARY)
        assert summary.height == 2 and (summary["coverage"] > 0.4).all()
        labels = pl.read_parquet(SHIPPED_LABELS)
        assert labels.height == 40 and set(labels["label"]) == {"ham", "spam"}
        assert read_json(METRICS)["test"]["end_model"]["accuracy"] > 0.9
    # The same texts have the same ids, so that more rows leave the others in their split.
    again = tmp_path / "again"
    create_project(again, read_sample(messages, Columns()))
    assert (again / "data/raw/items.csv").read_bytes() == (root / "data/raw/items.csv").read_bytes()
    ids = pl.read_csv(again / "data/raw/items.csv")["item_id"]
    assert ids.n_unique() == 40


def test_a_sentence_for_each_class_is_a_labeling_function(messages: Path, tmp_path: Path) -> None:
    root = tmp_path / "labels"
    pl.read_csv(messages).select("body").write_csv(messages)
    described = ["--describe", "ham=a friend writes about the meeting tomorrow", "--describe", "spam=win a prize: now"]
    found = CliRunner().invoke(init_command, [str(root), "--items", str(messages), *described])
    assert found.exit_code == 0, found.output
    with contextlib.chdir(root):
        for stage in ("ingest", "gold", "apply"):
            run_stage(Path(), stage)
        votes = pl.read_parquet(VOTES)["description"].to_numpy()
        items = pl.read_parquet(ITEMS)["body"].str.starts_with("win").to_numpy()
    assert (votes != -1).any() and (votes == items)[votes != -1].all()


def test_more_classes_than_there_can_be_make_no_project(tmp_path: Path) -> None:
    source = tmp_path / "many.csv"
    pl.DataFrame(
        {"body": [f"word {i % 128}" for i in range(256)], "kind": [f"c{i % 128}" for i in range(256)]}
    ).write_csv(source)
    found = CliRunner().invoke(init_command, [str(tmp_path / "new"), "--items", str(source), "--gold", "kind"])
    assert found.exit_code != 0
    assert "column 'kind' has 128 classes" in str(found.exception) + found.output and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (["ham"], "expected a class, '='"),
        (["eggs=breakfast"], "'eggs' is none of the classes ham, spam"),
        (["ham=the same", "spam=The same "], "'ham' and 'spam' have the same description; say how they differ"),
    ],
)
def test_a_sentence_that_tells_no_class_is_refused(
    messages: Path, tmp_path: Path, described: list[str], said: str
) -> None:
    arguments = [str(tmp_path / "labels"), "--items", str(messages), *(f"--describe={text}" for text in described)]
    found = CliRunner().invoke(init_command, arguments)
    assert found.exit_code and said in f"{found.output} {found.exception}"
    assert not (tmp_path / "labels").exists()


def test_at_a_terminal_each_class_is_asked_for_until_it_differs(
    messages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.cli.init.sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    columns = ["", "", "", "", "ham,spam,other"]
    answers = [*columns, "a friend writes", " A friend  writes", "an advertisement", ""]
    arguments = [str(tmp_path / "labels"), "--items", str(messages)]
    found = CliRunner().invoke(init_command, arguments, input="\n".join([*answers, ""]))
    assert found.exit_code == 0, found.output
    assert "That is what 'ham' means; say how they differ." in found.output
    params = yaml.safe_load((tmp_path / "labels/params.yaml").read_text(encoding="utf-8"))
    assert params["apply"]["describe"]["classes"] == {"ham": "a friend writes", "spam": "an advertisement"}


def test_several_sentences_for_a_class_are_all_kept(messages: Path, tmp_path: Path) -> None:
    said = ["--describe", "spam=win a prize", "--describe", 'spam=a "free" offer', "--describe", "ham=tomorrow"]
    found = CliRunner().invoke(init_command, [str(tmp_path / "labels"), "--items", str(messages), *said])
    assert found.exit_code == 0, found.output
    params = yaml.safe_load((tmp_path / "labels/params.yaml").read_text(encoding="utf-8"))
    assert params["apply"]["describe"]["classes"] == {"spam": ["win a prize", 'a "free" offer'], "ham": "tomorrow"}


def test_columns_that_a_table_has_stay_as_they_are(tmp_path: Path) -> None:
    path = write_table(tmp_path, key=["a", "b"], text=["one", "two"], partition=["train", "test"], label=["no", "yes"])
    create_project(tmp_path / "p", read_sample(path, Columns()))
    params = yaml.safe_load((tmp_path / "p/params.yaml").read_text())
    assert (tmp_path / "p/data/raw/items.csv").read_bytes() == path.read_bytes()
    assert params["ingest"] | {"encoder": None} == {
        "source": "data/raw", "items": "items.csv", "item_id": "key", "split": "partition", "gold": "label", "encoder": None,
    }  # fmt: skip
    assert params["gold"]["column"] == "measure"


def test_the_command_says_what_it_cannot_do(messages: Path, tmp_path: Path) -> None:
    def init(*more: str) -> str:
        result = CliRunner().invoke(main, ["init", str(tmp_path / "p"), "--items", str(messages), *more])
        return result.output if result.exit_code == 0 else f"{result.exit_code}: {result.output}"

    assert "--classes ham,spam" in init("--gold", "body", "--classes", "one")
    assert not (tmp_path / "p").exists()
    assert "classes ham, spam" in init()
    assert init().startswith("2: ") and "is not empty" in init()
    result = CliRunner().invoke(main, ["init", str(tmp_path / "q")])
    assert result.exit_code == 2 and "--items" in result.output


@pytest.fixture
def project(messages: Path, tmp_path: Path) -> Path:
    create_project(tmp_path / "labels", read_sample(messages, Columns()))
    return tmp_path / "labels"


def test_the_pipeline_is_this_one_with_a_note_for_the_code(project: Path) -> None:
    ours = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
    thin = yaml.safe_load((project / "dvc.yaml").read_text())
    for stage, definition in ours["stages"].items():
        data = [dep for dep in definition["deps"] if not dep.startswith("tasks/")]
        assert thin["stages"][stage] == definition | {"deps": [*data, f".epoxy/code/{stage}"]}
        assert (project / NOTES / stage).is_file()
    assert thin["plots"] == ours["plots"]


def test_a_stage_with_other_code_than_noted_stops(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / NOTES / "gold").write_text("of another version\n")
    with contextlib.chdir(project):
        assert command.main(["ingest"]) == 0
        assert command.main(["gold"]) == StageError.exit_code
        assert "runs other code in gold" in capsys.readouterr().err
        assert not Path("data/gold").exists()
        for ask in (read_stages, find_changes):
            with pytest.raises(StageError, match="epoxy upgrade"):
                ask(project)


@pytest.mark.slow
def test_dvc_by_hand_serves_nothing_that_other_code_made(project: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    shutil.copytree(REPOSITORY / "tasks", installed / "tasks", ignore=shutil.ignore_patterns("__pycache__"))

    def repro() -> tuple[int, str]:
        environment = make_environment(project, PYTHONPATH=str(installed))
        command = [sys.executable, "-m", "dvc", "repro", "ingest"]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    code, said = repro()
    assert code == 0 and "Running stage 'ingest'" in said, said
    lock = (project / "dvc.lock").read_bytes()
    code, said = repro()
    assert code == 0 and "Stage 'ingest' didn't change, skipping" in said, said
    # The tool is upgraded in place: by another file of the same stage.
    with (installed / "tasks/readers/ids.py").open("a") as file:
        file.write("# Another version.\n")
    code, said = repro()
    assert code != 0 and "runs other code in ingest" in said and "epoxy upgrade" in said, said
    assert "skipping" not in said and (project / "dvc.lock").read_bytes() == lock
    # The stage that compares is for DVC alone.
    with contextlib.chdir(project):
        assert {stage.name for stage in read_stages(project)} == {*STAGES}
        assert {*find_changes(project)} == {*STAGES} - {"ingest"}


@pytest.mark.parametrize(
    ("stage", "again", "may_change"), [("fit", ["fit", "evaluate"], False), ("train", ["train", "evaluate"], True)]
)
def test_an_upgrade_shows_what_runs_again(project: Path, stage: str, again: list[str], may_change: bool) -> None:
    (project / NOTES / stage).write_text("of another version\n")
    planned = plan_upgrade(project)
    assert (list(planned.changed), list(planned.again), planned.may_change_labels) == ([stage], again, may_change)
    assert upgrade(project) == planned
    assert upgrade(project).changed == ()
    with contextlib.chdir(project):
        assert len(read_stages(project)) == len(STAGES)


def test_another_lock_asks_labeling_functions_again(project: Path) -> None:
    (project / "requirements.lock").write_text("polars==1.0\n")
    planned = plan_upgrade(project)
    assert planned.changed == ("apply",) and "train" in planned.again
    assert upgrade(project) == planned and upgrade(project).changed == ()


def test_an_upgrade_brings_new_stages_and_leaves_an_edited_pipeline_alone(project: Path) -> None:
    pipeline = project / "dvc.yaml"
    older = (
        compose_pipeline()
        .replace("      - data/recall.json\n", "")
        .replace("timeout_seconds: 3600", "timeout_seconds: 60")
    )
    pipeline.write_text(older)
    found = upgrade(project)
    assert found.kept == ("dvc.yaml",) and pipeline.read_text() == older
    assert (project / "dvc.yaml.new").read_text() == compose_pipeline()
    pipeline.write_text(compose_pipeline())
    assert upgrade(project).kept == ()


def test_a_project_with_the_tools_code_is_upgraded_by_git(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="holds the tool's code"):
        plan_upgrade(tmp_path)


def test_deployments_run_flows_of_the_installed_tool(project: Path) -> None:
    deployments = yaml.safe_load((project / "prefect.yaml").read_text())["deployments"]
    assert {one["entrypoint"] for one in deployments} == {
        "flows.relabel.relabel", "flows.label_new.label_new", "flows.release_flow.release", "flows.release_flow.rollback",
    }  # fmt: skip
