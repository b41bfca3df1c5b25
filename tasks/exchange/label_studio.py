"""Label Studio's tasks (1.x): pre-annotations out, annotations in, for one choice of a class per item.

Out, a list of tasks in Label Studio's JSON format, `{"data": {...}, "predictions": [...]}`, and the labeling interface that
fits it. In, the formats JSON (`annotations` of each task) and JSON_MIN (the chosen class in a field of the task).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

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
from tasks.tables.files import write_json, write_text

CONTROL = "label"
"""The name of the choice in the interface, and so of the field in JSON_MIN."""

_REMEDY = "Export the project from Label Studio as JSON or JSON_MIN."

_MIN_FIELDS = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"}
"""What JSON_MIN adds to the data of a task."""


def write_tasks(folder: Path, labeled: Labeled) -> None:
    """Write tasks.json, with the shipped label of each item as a prediction, and interface.xml."""
    text, tasks = labeled.require_text(), []
    for row in labeled.table.iter_rows(named=True):
        data = {ITEM_ID: row[ITEM_ID], "text": row[text]} | {
            name: row[name] for name in labeled.columns if name != text
        }
        choice = {
            "id": "epoxy", "from_name": CONTROL, "to_name": "text", "type": "choices", "value": {"choices": [row["label"]]},
        }  # fmt: skip
        score = row[labeled.probabilities[labeled.classes.index(row["label"])]]
        prediction = {"model_version": f"epoxy-flow {labeled.source}", "score": score, "result": [choice]}
        tasks.append({"data": to_plain(data), "predictions": [prediction]})
    write_json(folder / "tasks.json", tasks)
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in labeled.classes)
    write_text(
        folder / "interface.xml",
        f'<View>\n  <Text name="text" value="$text"/>\n  <Choices name="{CONTROL}" toName="text" choice="single" required="true">\n'
        f"{choices}  </Choices>\n</View>\n",
    )


def read_tasks(path: Path) -> Brought:
    """Items, and what each person decided; in JSON or JSON_MIN. The id of an item is item_id in its data, else that of the task.

    Raises
    ------
    DataError
        The file is no such export, or an annotation is no single choice.
    """
    tasks = read_json_file(path, _REMEDY)
    if not isinstance(tasks, list) or not tasks:
        raise refuse(path, "the file", "tasks", got=tasks, expected="a list of tasks", remedy=_REMEDY)
    items: dict[object, dict[str, Any]] = {}
    decisions: list[dict[str, Any]] = []
    is_full = all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks)
    cancelled = 0
    for number, found in enumerate(tasks):
        task = require_object(path, f"task {number}", "task", found, _REMEDY)
        where = f"task {task.get('id', number)}"
        if is_full:
            data = task["data"]
            item = data.get(ITEM_ID, task.get("id"))
            cancelled += sum(
                bool(one.get("was_cancelled")) for one in task.get("annotations") or [] if isinstance(one, dict)
            )
            decisions += [{ITEM_ID: item, **decision} for decision in _read_annotations(path, where, task)]
        else:
            data = {name: value for name, value in task.items() if name not in {*_MIN_FIELDS, CONTROL}}
            item = task.get(ITEM_ID, task.get("id"))
            if task.get(CONTROL) not in (None, ""):
                decisions.append({ITEM_ID: item, **_read_min(path, where, task)})
        if not isinstance(item, str | int):
            raise refuse(
                path, where, f"data.{ITEM_ID}", got=item, expected="the item's id", remedy="Import it with its data."
            )
        items[item] = {ITEM_ID: str(item)} | {name: value for name, value in data.items() if name != ITEM_ID}
    table, mixed = tabulate(list(items.values()))
    remarks = (f"{cancelled:,} skipped annotations are left out",) if cancelled else ()
    return Brought(
        items=table,
        decisions=_tabulate_decisions(decisions),
        fields=(
            Field(name=f"data.{ITEM_ID}, else id", became=ITEM_ID),
            *(
                Field(name=f"data.{name}", became=f"column {name}" + (" (JSON in text)" if name in mixed else ""))
                for name in table.columns
                if name != ITEM_ID
            ),
            Field(name="annotations" if is_full else CONTROL, became=f"{len(decisions):,} decisions"),
            Field(name="completed_by" if is_full else "annotator", became="annotator"),
            Field(name="updated_at, else created_at", became="time"),
            Field(name="predictions, and everything else", became="left out"),
        ),
        remarks=remarks,
    )


def _read_annotations(path: Path, where: str, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What each person said of a task."""
    annotations = task.get("annotations") or []
    if not isinstance(annotations, list):
        raise refuse(path, where, "annotations", got=annotations, expected="a list", remedy=_REMEDY)
    for annotation in annotations:
        found = require_object(path, where, "annotations", annotation, _REMEDY)
        results = found.get("result") or []
        if found.get("was_cancelled") or not results:
            continue
        chosen = [
            choice
            for result in results
            if isinstance(result, dict) and result.get("type") == "choices"
            for choice in (result.get("value") or {}).get("choices", [])
        ]
        if len(chosen) != 1 or not isinstance(chosen[0], str):
            raise refuse(
                path, where, "result", got=chosen or results, expected="a single choice of a class",
                remedy='Label with <Choices choice="single">, as in the interface that epoxy export writes.',
            )  # fmt: skip
        yield {"label": chosen[0], "annotator": _name(found.get("completed_by")), "time": _find_time(found)}


def _read_min(path: Path, where: str, task: dict[str, Any]) -> dict[str, Any]:
    """What the task says that somebody chose."""
    label = task[CONTROL]
    if not isinstance(label, str):
        raise refuse(
            path,
            where,
            CONTROL,
            got=label,
            expected="the name of a class",
            remedy='Label with <Choices choice="single">.',
        )
    return {"label": label, "annotator": _name(task.get("annotator")), "time": _find_time(task)}


def _name(person: object) -> str | None:
    """Who it was: the address of a user where it is known, else the number."""
    if isinstance(person, dict):
        person = person.get("email") or person.get("id")
    return None if person is None else str(person)


def _find_time(found: dict[str, Any]) -> str | None:
    time = found.get("updated_at") or found.get("created_at")
    return time if isinstance(time, str) else None


def _tabulate_decisions(decisions: list[dict[str, Any]]) -> pl.DataFrame:
    """The decisions with ids as text."""
    rows = [row | {ITEM_ID: str(row[ITEM_ID])} for row in decisions]
    return pl.DataFrame(rows, schema=DECISIONS)
