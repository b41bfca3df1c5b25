"""Forms of other tools: what goes out comes back the same, and bad files are refused by file, row, field and remedy."""

import csv
import json
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tasks.errors import DataError
from tasks.exchange import argilla, hugging_face, label_studio, plain_tables, prodigy, wrench
from tasks.exchange.contents import Brought, Labeled
from tasks.exchange.snorkel_matrix import read_label_matrix

CLASSES = ("ham", "spam")


@pytest.fixture
def labeled() -> Labeled:
    """Four items of three splits with columns of many kinds, gold of one of them."""
    columns: dict[str, Any] = {
        "body": ["=1+1", "hello, you", 'a <b> "c"\nd', None],
        "day": [date(2026, 1, day) for day in (1, 2, 3, 4)],
        "at": [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in range(4)],
        "tags": [["x"], [], ["y", "z"], None],
        "size": [1.5, float("nan"), 2.0, None],
        "who": [{"name": "ann"}, {"name": None}, None, {"name": "ben"}],
    }
    table = pl.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "split": ["train", "train", "valid", "test"],
            **columns,
            "gold": pl.Series([None, None, "spam", None], dtype=pl.String),
            "label": ["spam", "ham", "spam", "ham"],
            "p_ham": [0.25, 0.75, 0.125, 1.0],
            "p_spam": [0.75, 0.25, 0.875, 0.0],
            "original_votes": pl.Series([1, 1, 2, 0], dtype=pl.Int32),
        }
    )
    votes = {"offer": [1, -1, 1, -1], "hello": [-1, 0, 1, -1]}
    return Labeled(
        table=table,
        columns=tuple(columns),
        text="body",
        classes=CLASSES,
        votes=pl.DataFrame({"item_id": table["item_id"], **votes}, schema_overrides=dict.fromkeys(votes, pl.Int8)),
        name="mails",
        source="release 0123",
        metrics={"all": {"items": 4}, "valid": {"items": 1, "gold": 1, "end_model": {"accuracy": 1.0, "brier": None}}},
        lineage={"Git commit": "abc | def"},
    )


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_only_what_people_read_needs_a_column_of_text(labeled: Labeled, tmp_path: Path) -> None:
    """Items may be images or rows of numbers."""
    without = replace(labeled, text=None)
    plain_tables.write_csv(tmp_path / "t.csv", without)
    hugging_face.write_data_set(tmp_path / "set", without)
    assert len(read_csv(tmp_path / "t.csv")) == 1 + labeled.table.height
    for write in (argilla.write_records, label_studio.write_tasks, wrench.write_wrench):
        with pytest.raises(DataError, match="no column of text that people could read"):
            write(tmp_path / "folder", without)


def test_tables_hold_every_column(labeled: Labeled, tmp_path: Path) -> None:
    plain_tables.write_parquet(tmp_path / "t.parquet", labeled)
    assert pl.read_parquet(tmp_path / "t.parquet").equals(labeled.table)
    plain_tables.write_jsonl(tmp_path / "t.jsonl", labeled)
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert rows[1] == {
        "item_id": "b", "split": "train", "body": "hello, you", "day": "2026-01-02", "at": "2026-01-01 01:00:00+00:00",
        "tags": [], "size": None, "who": {"name": None}, "gold": None, "label": "ham", "p_ham": 0.75, "p_spam": 0.25,
        "original_votes": 1,
    }  # fmt: skip
    plain_tables.write_csv(tmp_path / "t.csv", labeled)
    head, *lines = read_csv(tmp_path / "t.csv")
    assert head == labeled.table.columns
    assert [line[2] for line in lines] == ["=1+1", "hello, you", 'a <b> "c"\nd', ""]
    assert [line[5] for line in lines] == ['["x"]', "[]", '["y", "z"]', ""]


def test_formulas_are_made_harmless_only_where_asked(labeled: Labeled, tmp_path: Path) -> None:
    plain_tables.write_csv(tmp_path / "t.csv", labeled, is_for_spreadsheet=True)
    assert [line[2] for line in read_csv(tmp_path / "t.csv")[1:]] == ["'=1+1", "hello, you", 'a <b> "c"\nd', ""]


def test_a_data_set_comes_back(labeled: Labeled, tmp_path: Path) -> None:
    hugging_face.write_data_set(tmp_path / "set", labeled)
    found = hugging_face.read_data_set(tmp_path / "set")
    assert found.items is not None and found.classes == CLASSES
    order = found.items.sort("item_id")
    assert order["split"].to_list() == ["train", "train", "valid", "test"]
    assert order["gold"].to_list() == [None, None, "spam", None]
    assert order["label"].to_list() == ["spam", "ham", "spam", "ham"]
    assert order["probabilities"].to_list() == [[0.25, 0.75], [0.75, 0.25], [0.125, 0.875], [1.0, 0.0]]
    for name in ("body", "day", "at", "tags"):
        assert order[name].to_list() == labeled.table[name].to_list()
    assert order["who"].to_list() == ['{"name": "ann"}', '{"name": null}', None, '{"name": "ben"}']
    card = (tmp_path / "set" / "README.md").read_text()
    assert "| 1 | spam | 2 |" in card and "| valid | 1 | 1.000 |" in card and "| Git commit | abc \\| def |" in card


def test_the_library_datasets_reads_what_is_written(labeled: Labeled, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed; the form is compared by hand")
    hugging_face.write_data_set(tmp_path / "set", labeled)
    found = datasets.load_from_disk(str(tmp_path / "set"))
    assert {name: part.num_rows for name, part in found.items()} == {"train": 2, "validation": 1, "test": 1}
    assert found["train"].features["label"].names == list(CLASSES)
    row = found["validation"][0]
    assert (row["item_id"], row["gold"], row["label"], row["probabilities"]) == ("c", 1, 1, [0.125, 0.875])
    assert row["at"] == datetime(2026, 1, 1, 2, tzinfo=UTC) and row["tags"] == ["y", "z"]
    # And what the library writes is read.
    features = datasets.Features(
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=["no", "yes"]),
        more=datasets.Array2D((1, 1), "int8"),
    )
    made = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 0], "more": [[[1]], [[2]]]}, features=features)
    made.save_to_disk(str(tmp_path / "made"))
    back = hugging_face.read_data_set(tmp_path / "made")
    assert back.items is not None
    assert back.items.rows() == [("train-0", "train", "x", "yes"), ("train-1", "train", "y", "no")]
    assert any(field.name == "more" and "left out" in field.became for field in back.fields)


def test_wrench_comes_back(labeled: Labeled, tmp_path: Path) -> None:
    wrench.write_wrench(tmp_path, labeled)
    stored = json.loads((tmp_path / "valid.json").read_text())
    assert stored["0"]["label"] == 1 and stored["0"]["weak_labels"] == [1, 1]
    found = wrench.read_wrench(tmp_path)
    assert found.items is not None and found.votes is not None and found.classes == CLASSES
    assert found.items["item_id"].to_list() == ["train-0", "train-1", "valid-0", "test-0"]
    assert found.items["gold"].to_list() == [None, None, "spam", None]
    assert found.items["text"].to_list() == labeled.table["body"].to_list()
    assert found.votes.select("offer", "hello").rows() == labeled.votes.select("offer", "hello").rows()
    (tmp_path / "lf_names.json").unlink()
    (tmp_path / "test.json").unlink()
    assert wrench.read_wrench(tmp_path).votes.columns == ["item_id", "lf_0", "lf_1"]  # type: ignore[union-attr]


def annotate(tasks: list[dict[str, Any]], chosen: str, person: object) -> list[dict[str, Any]]:
    """Tasks of Label Studio's as it exports them once `person` has chosen a class."""
    result = [{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [chosen]}}]
    annotation = {"id": 1, "completed_by": person, "result": result, "was_cancelled": False}
    annotation |= {"created_at": "2026-01-01T00:00:00.000000Z", "updated_at": "2026-01-02T00:00:00.000000Z"}
    skipped = {"completed_by": 9, "result": [], "was_cancelled": True}
    return [{"id": 100 + at, **task, "annotations": [annotation, skipped]} for at, task in enumerate(tasks)]


def list_decisions(found: Brought) -> list[tuple[Any, ...]]:
    assert found.decisions is not None
    return found.decisions.rows()


def test_label_studio_there_and_back(labeled: Labeled, tmp_path: Path) -> None:
    label_studio.write_tasks(tmp_path, labeled)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[0]["data"] | {"who": None} == {
        "item_id": "a", "text": "=1+1", "day": "2026-01-01", "at": "2026-01-01 00:00:00+00:00", "tags": ["x"],
        "size": 1.5, "who": None,
    }  # fmt: skip
    assert tasks[0]["predictions"][0]["score"] == 0.75
    assert tasks[0]["predictions"][0]["result"][0]["value"] == {"choices": ["spam"]}
    assert '<Choice value="spam"/>' in (tmp_path / "interface.xml").read_text()
    export = tmp_path / "export.json"
    export.write_text(json.dumps(annotate(tasks, "spam", {"id": 3, "email": "ann@example.org"})))
    found = label_studio.read_tasks(export)
    time = "2026-01-02T00:00:00.000000Z"
    assert list_decisions(found) == [(item, "spam", "ann@example.org", time) for item in "abcd"]
    assert found.remarks == ("4 skipped annotations are left out",)
    assert found.items is not None and found.items["text"].to_list() == labeled.table["body"].to_list()
    small = [
        {"item_id": "a", "id": 7, "text": "x", "label": "ham", "annotator": 3, "updated_at": time},
        {"id": 8, "text": "y"},
    ]
    export.write_text(json.dumps(small))
    assert list_decisions(label_studio.read_tasks(export)) == [("a", "ham", "3", time)]
    assert label_studio.read_tasks(export).items.rows() == [("a", "x"), ("8", "y")]  # type: ignore[union-attr]


def test_argilla_there_and_back(labeled: Labeled, tmp_path: Path) -> None:
    argilla.write_records(tmp_path, labeled)
    records = json.loads((tmp_path / "records.json").read_text())
    assert records[1]["id"] == "b" and records[1]["fields"] == {"text": "hello, you"}
    assert records[1]["suggestions"] == {"label": {"value": "ham", "score": 0.75, "agent": "epoxy-flow release 0123"}}
    settings = json.loads((tmp_path / ".argilla" / "settings.json").read_text())
    assert [option["value"] for option in settings["questions"][0]["settings"]["options"]] == list(CLASSES)
    # As the library writes them (2.8.0): without the status of an answer, with that of the record.
    for record in records[:3]:
        record["responses"] = {"label": [{"value": "spam", "user_id": "u1"}, {"value": None, "user_id": "u2"}]}
    for record in records[:2]:
        record["status"] = "completed"
    (tmp_path / "records.json").write_text(json.dumps(records))
    found = argilla.read_records(tmp_path)
    assert list_decisions(found) == [("a", "spam", "u1", None), ("b", "spam", "u1", None)]
    assert found.remarks == ("1 answers that nobody submitted (drafts, or discarded) are left out",)
    # Alone, the file does not say whether records are pending for want of answers.
    found = argilla.read_records(tmp_path / "records.json")
    assert [decision[0] for decision in list_decisions(found)] == ["a", "b", "c"]
    assert "1 answers are to records that are still pending, and may be drafts" in found.remarks[0]
    # A second answer to a completed record may be a draft, unless two complete it.
    records[0]["responses"]["label"][1]["value"] = "ham"
    (tmp_path / "records.json").write_text(json.dumps(records))
    for least, remarks in ((1, ["1 answers to completed records are more than complete them"]), (2, [])):
        settings["distribution"]["min_submitted"] = least
        (tmp_path / ".argilla" / "settings.json").write_text(json.dumps(settings))
        found = argilla.read_records(tmp_path)
        assert [remark[: remark.index(", and")] for remark in found.remarks if "completed" in remark] == remarks
        assert ("a", "ham", "u2", None) in list_decisions(found)


def test_argilla_says_which_answers_are_drafts_in_a_data_set(tmp_path: Path) -> None:
    answers = {
        "label.responses": ["spam", "ham"],
        "label.responses.users": ["u1", "u2"],
        "label.responses.status": ["submitted", "draft"],
    }
    rows = [
        {"id": "a", "status": "completed", "text": "x", **answers},
        {"id": "b", "status": "pending", "text": "y", **{name: [] for name in answers}},
    ]
    table = pl.DataFrame(rows).to_arrow()
    with pa.OSFile(str(tmp_path / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    text = {"dtype": "string", "_type": "Value"}
    features = {name: {"feature": text, "_type": "List"} if name in answers else text for name in rows[0]}
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}], "_split": None}))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": features}))
    found = argilla.read_records(tmp_path)
    assert list_decisions(found) == [("a", "spam", "u1", None)]
    assert found.items is not None and found.items.rows() == [("a", "x"), ("b", "y")]
    assert found.remarks == ("1 answers that nobody submitted (drafts, or discarded) are left out",)
    features.pop("label.responses.status")
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": features}))
    with pytest.raises(
        DataError, match=r"field 'label\.responses\.status': .*; expected answers, users and statuses\. Export it with"
    ):
        argilla.read_records(tmp_path)


def test_prodigy_of_both_kinds(tmp_path: Path) -> None:
    lines = [
        {
            "text": "x",
            "meta": {"item_id": "a"},
            "label": "spam",
            "answer": "accept",
            "_session_id": "ann",
            "_input_hash": 1,
        },
        {
            "text": "y",
            "options": [{"id": "ham"}],
            "accept": ["ham"],
            "answer": "accept",
            "_input_hash": 2,
            "_annotator_id": "b",
        },
        {"text": "z", "label": "spam", "answer": "reject", "_input_hash": 3},
    ]
    path = tmp_path / "out.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    found = prodigy.read_tasks(path)
    assert list_decisions(found) == [("a", "spam", "ann", None), ("2", "ham", "b", None)]
    assert found.items is not None and found.items.rows() == [("a", "x"), ("2", "y"), ("3", "z")]
    assert found.remarks == ("1 tasks with answer reject are left out",)


def test_label_matrices_of_each_file(tmp_path: Path) -> None:
    L = np.array([[-1, 1], [0, -1]])
    np.save(tmp_path / "L.npy", L)
    np.savez(tmp_path / "L.npz", L=L)
    (tmp_path / "L.csv").write_text("offer,hello\n-1,1\n0,-1\n")
    for name, lfs in (("L.npy", ["lf_0", "lf_1"]), ("L.npz", ["lf_0", "lf_1"]), ("L.csv", ["offer", "hello"])):
        votes = read_label_matrix(tmp_path / name, classes=CLASSES, ids=pl.Series(["a", "b"])).votes
        assert votes is not None and votes.columns == ["item_id", *lfs]
        assert votes.rows() == [("a", -1, 1), ("b", 0, -1)]
        assert set(votes.dtypes[1:]) == {pl.Int8}
    votes = read_label_matrix(tmp_path / "L.npy", classes=CLASSES).votes
    assert votes is not None and votes["item_id"].to_list() == ["0", "1"]


WRENCH = {"label.json": {"0": "ham", "1": "spam"}}
READERS = {
    "wrench": lambda root: wrench.read_wrench(root),
    "label studio": lambda root: label_studio.read_tasks(root / "in.json"),
    "argilla": lambda root: argilla.read_records(root / "in.json"),
    "prodigy": lambda root: prodigy.read_tasks(root / "in.jsonl"),
    "hugging face": lambda root: hugging_face.read_data_set(root),
    "snorkel": lambda root: read_label_matrix(root / "in.csv", classes=CLASSES, ids=pl.Series(["a"])),
}


@pytest.mark.parametrize(
    ("reader", "files", "said"),
    [
        ("wrench", {}, "label.json is missing. Expected a folder as WRENCH has it"),
        ("wrench", {"label.json": {"1": "spam"}}, "label.json: the file, field 'keys': ['1']; expected 0 to k - 1. Correct it."),
        ("wrench", WRENCH, "no rows in train.json, valid.json or test.json"),
        ("wrench", WRENCH | {"train.json": {"7": {"label": 2, "data": {}}}}, "train.json: row 7, field 'label': 2; expected -1 or 0..1. Correct it"),
        ("wrench", WRENCH | {"train.json": {"7": {"label": 0, "weak_labels": [5], "data": {}}}}, "train.json: row 7, field 'weak_labels': [5]; expected a list"),
        ("wrench", WRENCH | {"train.json": {"7": {"label": 0}}}, "train.json: row 7, field 'data': None; expected an object"),
        ("wrench", WRENCH | {"test.json": {"0": {"weak_labels": [0], "data": {}}, "1": {"weak_labels": [], "data": {}}}}, "test.json: row 1, field 'weak_labels': '0 votes'; expected 1"),
        ("label studio", {"in.json": {"a": 1}}, "in.json: the file, field 'tasks': {'a': 1}; expected a list of tasks. Export the project"),
        ("label studio", {"in.json": "not json"}, "in.json is not JSON: Expecting value: line 1 column 1 (char 0). Export the project"),
        ("label studio", {"in.json": [{"id": 3, "data": {}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["a", "b"]}}]}]}]}, "in.json: task 3, field 'result': ['a', 'b']; expected a single choice of a class. Label with <Choices"),
        ("label studio", {"in.json": [{"id": 3, "label": {"choices": ["a"]}}]}, "in.json: task 3, field 'label': {'choices': ['a']}; expected the name of a class."),
        ("argilla", {"in.json": []}, "in.json: the file, field 'records': []; expected a list of records. Export it with dataset.to_disk"),
        ("argilla", {"in.json": [{"fields": {"text": "x"}}]}, "in.json: record 0, field 'id': None; expected the item's id. Give each record an id."),
        ("argilla", {"in.json": [{"id": "a", "responses": {"label": [{"value": ["x", "y"]}]}}]}, "in.json: record a, field 'responses.label.value': ['x', 'y']; expected the name of a class. Ask with a LabelQuestion"),
        ("argilla", {"in.json": [{"id": "a", "responses": {"p": [], "q": []}}]}, "in.json: the file, field 'responses': ['p', 'q']; expected answers to a question. Name it with --label."),
        ("prodigy", {"in.jsonl": '{"a": 1}\n[]'}, "in.jsonl: line 2 is no JSON object"),
        ("prodigy", {"in.jsonl": '{"_input_hash": 1}'}, "in.jsonl: line 1, field 'answer': None; expected accept, reject or ignore. Export the data set"),
        ("prodigy", {"in.jsonl": '{"_input_hash": 1, "answer": "accept", "accept": []}'}, "in.jsonl: line 1, field 'accept': []; expected a single class. Label with"),
        ("hugging face", {}, "state.json is missing. Expected a folder that save_to_disk"),
        ("hugging face", {"state.json": {"_data_files": 1}}, "state.json: the file, field '_data_files': 1; expected names of files"),
        ("hugging face", {"state.json": {"_data_files": [{"filename": "x.arrow"}]}, "dataset_info.json": {"features": {}}}, "x.arrow is missing, though state.json names it"),
        ("hugging face", {"state.json": {"_data_files": [{"filename": "../x.arrow"}]}, "dataset_info.json": {"features": {}}}, "is missing, though state.json names it"),
        ("snorkel", {"in.csv": "offer\nspam\n"}, "in.csv: row 0 (counted from 0), field 'offer': 'spam'; expected -1 or the position of a class. Write votes as numbers"),
        ("snorkel", {"in.csv": "offer\n2\n"}, "in.csv: row 0 (counted from 0), field 'offer': 2; expected -1 or 0..1. Name all classes"),
        ("snorkel", {"in.csv": "offer\n1\n0\n"}, "in.csv: 2 rows, field 'item_id': '1 ids'; expected an id per row. Name the items"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(reader: str, files: dict[str, Any], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError) as caught:
        READERS[reader](tmp_path)
    assert said in str(caught.value) and str(tmp_path) in str(caught.value)


def test_arrays_that_are_no_label_matrices(tmp_path: Path) -> None:
    np.save(tmp_path / "L.npy", np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"field 'array': 'float64, shape \(2, 2\)'; expected integers"):
        read_label_matrix(tmp_path / "L.npy", classes=CLASSES)
    np.savez(tmp_path / "L.npz", a=np.zeros(1), b=np.zeros(1))
    with pytest.raises(DataError, match="expected a single array"):
        read_label_matrix(tmp_path / "L.npz", classes=CLASSES)
    (tmp_path / "no.npy").write_text("no array")
    with pytest.raises(DataError, match=r"no\.npy"):
        read_label_matrix(tmp_path / "no.npy", classes=CLASSES)
    with pytest.raises(DataError, match="--classes ham,spam"):
        read_label_matrix(tmp_path / "L.npy", classes=())


def test_a_damaged_stream_is_named(labeled: Labeled, tmp_path: Path) -> None:
    hugging_face.write_data_set(tmp_path / "set", labeled)
    stream = tmp_path / "set" / "train" / "data-00000-of-00001.arrow"
    stream.write_bytes(stream.read_bytes()[:100])
    with pytest.raises(DataError, match="data-00000-of-00001"):
        hugging_face.read_data_set(tmp_path / "set")
    with pytest.raises(
        DataError, match=r"field 'body': .*; expected a ClassLabel\. There are: gold, label; name another"
    ):
        hugging_face.write_data_set(tmp_path / "again", labeled)
        hugging_face.read_data_set(tmp_path / "again", label="body")
