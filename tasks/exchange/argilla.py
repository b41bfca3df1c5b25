"""Argilla's data sets on disk (2.x): records with the shipped label as a suggestion out, records with responses in.

Out, a folder that `rg.Dataset.from_disk` takes: `records.json`, `.argilla/settings.json` and `.argilla/dataset.json`. In, such
a folder as `dataset.to_disk` writes it, the file that `dataset.records(with_responses=True).to_json` writes, or the data set of
`dataset.records(with_responses=True).to_datasets()`, saved to disk. Only the last says which answers are drafts.
"""

from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.types import ITEM_ID
from tasks.exchange.contents import (
    DECISIONS,
    Brought,
    Field,
    Labeled,
    read_json_file,
    refuse,
    require_object,
    tabulate,
    to_plain,
)
from tasks.exchange.hugging_face import read_split
from tasks.tables.files import write_json

QUESTION = "label"
"""What the question for the class is called."""

_REMEDY = "Export it with dataset.to_disk(folder), or dataset.records(with_responses=True).to_json(file)."

_ANSWERS = ".responses"
"""How the name of a column of answers ends, where records are the rows of a data set."""

_PARTS = ("", ".users", ".status")
"""How the names of columns on answers go on: what, by whom, and whether it was submitted."""

_WITH_STATUS = "dataset.records(with_responses=True).to_datasets().save_to_disk(folder) says which are drafts"


def write_records(folder: Path, labeled: Labeled) -> None:
    """Write a record per item, whose id is the item's, and settings with a question for the class."""
    text, records = labeled.require_text(), []
    for row in labeled.table.iter_rows(named=True):
        suggestion = {
            "value": row["label"],
            "score": row[labeled.probabilities[labeled.classes.index(row["label"])]],
            "agent": f"epoxy-flow {labeled.source}",
        }
        metadata = {name: row[name] for name in labeled.columns if name != text and row[name] is not None}
        record: dict[str, Any] = {
            "id": str(row[ITEM_ID]),
            "fields": {"text": str(row[text] or "")},
            "metadata": to_plain(metadata),
        }
        record |= {
            "suggestions": {QUESTION: suggestion},
            "responses": {},
            "vectors": {},
            "status": "pending",
            "_server_id": None,
        }
        records.append(record)
    write_json(folder / "records.json", records)
    options = [{"text": name, "value": name} for name in labeled.classes]
    field = {"name": "text", "title": "text", "required": True, "settings": {"type": "text", "use_markdown": False}}
    asked: dict[str, Any] = {"name": QUESTION, "title": QUESTION, "required": True}
    asked |= {"settings": {"type": "label_selection", "options": options, "visible_options": None}}
    settings: dict[str, Any] = {
        "guidelines": None,
        "fields": [field],
        "questions": [asked],
        "vectors": [],
        "metadata": [],
    }
    settings |= {
        "allow_extra_metadata": True,
        "distribution": {"strategy": "overlap", "min_submitted": 1},
        "mapping": None,
    }
    write_json(folder / ".argilla" / "settings.json", settings)
    write_json(folder / ".argilla" / "dataset.json", {"name": labeled.name, "allow_extra_metadata": True})


def read_records(path: Path, *, question: str | None = None) -> Brought:
    """Items, whose ids are those of the records, and what each user answered to `question`, by default the only one.

    Raises
    ------
    DataError
        The file holds no records, or answers are no single classes.
    """
    least = _read_least_answers(path)
    if (path / "state.json").is_file():
        records: Any = _read_flat_records(path)
    else:
        path = path / "records.json" if path.is_dir() else path
        records = read_json_file(path, _REMEDY)
    if not isinstance(records, list) or not records:
        raise refuse(path, "the file", "records", got=records, expected="a list of records", remedy=_REMEDY)
    found = [require_object(path, f"record {number}", "record", one, _REMEDY) for number, one in enumerate(records)]
    asked = _find_question(path, found, question)
    rows, decisions = [], []
    drafts = doubtful = surplus = 0
    for number, record in enumerate(found):
        item = record.get("id")
        where = f"record {number if item is None else item}"
        if not isinstance(item, str | int):
            raise refuse(path, where, "id", got=item, expected="the item's id", remedy="Give each record an id.")
        parts = {
            kind: require_object(path, where, kind, record.get(kind) or {}, _REMEDY)
            for kind in ("fields", "metadata", "responses")
        }
        data = parts["metadata"] | parts["fields"]
        rows.append({ITEM_ID: str(item)} | {name: value for name, value in data.items() if name != ITEM_ID})
        answers = parts["responses"].get(asked) or []
        if not isinstance(answers, list):
            raise refuse(path, where, f"responses.{asked}", got=answers, expected="a list of answers", remedy=_REMEDY)
        said_by_all = [require_object(path, where, f"responses.{asked}", answer, _REMEDY) for answer in answers]
        if record.get("status") == "completed":
            # As many answers as complete a record were submitted; which ones, only a status would say.
            unclear = sum(said.get("value") is not None and "status" not in said for said in said_by_all)
            surplus += max(unclear - (least or 1), 0)
        for said in said_by_all:
            if said.get("value") is None:
                continue
            is_pending = "status" not in said and record.get("status") == "pending"
            if said.get("status") in ("draft", "discarded") or (is_pending and least == 1):
                drafts += 1
                continue
            doubtful += is_pending
            if not isinstance(said["value"], str):
                raise refuse(
                    path, where, f"responses.{asked}.value", got=said["value"], expected="the name of a class",
                    remedy="Ask with a LabelQuestion, or name another question with --label.",
                )  # fmt: skip
            user = said.get("user_id")
            decisions.append(
                {ITEM_ID: str(item), "label": said["value"], "annotator": None if user is None else str(user)}
            )
    table, mixed = tabulate(rows)
    remarks = [f"{drafts:,} answers that nobody submitted (drafts, or discarded) are left out"] if drafts else []
    if doubtful:
        remarks.append(
            f"{doubtful:,} answers are to records that are still pending, and may be drafts, which this form does not say: "
            f"{_WITH_STATUS}"
        )
    if surplus:
        remarks.append(
            f"{surplus:,} answers to completed records are more than complete them, and may be drafts, which this form does not "
            f"say: {_WITH_STATUS}"
        )
    return Brought(
        items=table,
        decisions=pl.DataFrame([decision | {"time": None} for decision in decisions], schema=DECISIONS),
        fields=(
            Field(name="id", became=ITEM_ID),
            *(
                Field(
                    name=f"fields or metadata, {name}",
                    became=f"column {name}" + (" (JSON in text)" if name in mixed else ""),
                )
                for name in table.columns
                if name != ITEM_ID
            ),
            Field(name=f"responses.{asked}", became=f"{len(decisions):,} decisions; user_id is the annotator"),
            Field(name="suggestions, vectors, status", became="left out"),
        ),
        remarks=tuple(remarks),
    )


def _read_least_answers(folder: Path) -> int | None:
    """How many answers a record needs in order not to be pending; None where no settings lie beside the records."""
    path = folder / ".argilla" / "settings.json"
    if not path.is_file():
        return None
    settings = read_json_file(path, _REMEDY)
    given = settings.get("distribution") if isinstance(settings, dict) else None
    least = given.get("min_submitted") if isinstance(given, dict) else None
    return least if isinstance(least, int) else None


def _read_flat_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a data set whose columns are `<question>.responses`, `.responses.users` and `.responses.status`."""
    table, _, _ = read_split(folder)
    questions = [name.removesuffix(_ANSWERS) for name in table.columns if name.endswith(_ANSWERS)]
    needed = [f"{name}{_ANSWERS}{part}" for name in questions or [QUESTION] for part in _PARTS]
    if absent := [name for name in needed if name not in table.columns]:
        raise refuse(
            folder, "the features", absent[0], got=table.columns, expected="answers, users and statuses",
            remedy="Export it with dataset.records(with_responses=True).to_datasets().save_to_disk(folder).",
        )  # fmt: skip
    fields = [name for name in table.columns if "." not in name and name not in ("id", "status", "_server_id")]
    records = []
    for number, row in enumerate(table.iter_rows(named=True)):
        responses = {}
        for question in questions:
            parts = [row[f"{question}{_ANSWERS}{part}"] or [] for part in _PARTS]
            if len({len(part) for part in parts}) > 1:
                raise refuse(
                    folder, f"record {number}", f"{question}{_ANSWERS}", got=parts, expected="a user and a status per answer",
                    remedy=_REMEDY,
                )  # fmt: skip
            responses[question] = [
                {"value": value, "user_id": user, "status": status} for value, user, status in zip(*parts, strict=True)
            ]
        records.append({"id": row.get("id"), "fields": {name: row[name] for name in fields}, "responses": responses})
    return records


def _find_question(path: Path, records: list[dict[str, Any]], question: str | None) -> str:
    """The question whose answers count."""
    names = sorted(
        {
            name
            for record in records
            for name in (record.get("responses") or {})
            if isinstance(record.get("responses"), dict)
        }
    )
    chosen = question or (QUESTION if QUESTION in names or not names else names[0])
    if (names and chosen not in names) or (question is None and chosen != QUESTION and len(names) > 1):
        raise refuse(
            path, "the file", "responses", got=names, expected="answers to a question", remedy="Name it with --label."
        )
    return chosen
