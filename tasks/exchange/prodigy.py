"""Prodigy's JSON lines (`prodigy db-out`, 1.11 and later): tasks of textcat.manual and of binary text classification."""

from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.types import ITEM_ID
from tasks.exchange.contents import DECISIONS, Brought, Field, read_json_lines, refuse, tabulate

_REMEDY = "Export the data set with 'prodigy db-out'."

_OWN = {
    "answer", "accept", "label", "options", "meta", "tokens", "spans", "config", "priority", "score",
}  # fmt: skip
"""What Prodigy writes beside the data; keys with _ before them are its, too."""


def read_tasks(path: Path) -> Brought:
    """Items, and what was accepted of each; the id is item_id in the task or its meta, else _input_hash.

    A task with options has one of them in `accept`; a task with `label` and the answer `accept` is of that class. What was
    rejected or ignored says what an item is not, or nothing, and is left out.

    Raises
    ------
    DataError
        A line is no JSON object, or no single class was accepted.
    """
    items: dict[object, dict[str, Any]] = {}
    decisions: list[dict[str, Any]] = []
    left_out = {"reject": 0, "ignore": 0}
    for number, task in read_json_lines(path, _REMEDY):
        where = f"line {number}"
        given = task.get("meta")
        meta = given if isinstance(given, dict) else {}
        item = next(
            (one for one in (task.get(ITEM_ID), meta.get(ITEM_ID), task.get("_input_hash")) if one is not None), None
        )
        if not isinstance(item, str | int):
            raise refuse(path, where, ITEM_ID, got=item, expected="an id, or Prodigy's _input_hash", remedy=_REMEDY)
        data = {name: value for name, value in task.items() if name not in _OWN and not name.startswith("_")}
        items[item] = {ITEM_ID: str(item)} | {name: value for name, value in (meta | data).items() if name != ITEM_ID}
        answer = task.get("answer")
        if answer in left_out:
            left_out[answer] += 1
            continue
        if answer != "accept":
            raise refuse(path, where, "answer", got=answer, expected="accept, reject or ignore", remedy=_REMEDY)
        accepted = task.get("accept", [task["label"]] if "label" in task else [])
        if not isinstance(accepted, list) or len(accepted) != 1 or not isinstance(accepted[0], str):
            raise refuse(
                path, where, "accept", got=accepted, expected="a single class",
                remedy="Label with textcat.manual --exclusive, or correct the task.",
            )  # fmt: skip
        person = task.get("_annotator_id") or task.get("_session_id")
        decisions.append(
            {ITEM_ID: str(item), "label": accepted[0], "annotator": None if person is None else str(person)}
        )
    table, mixed = tabulate(list(items.values()))
    remarks = tuple(f"{count:,} tasks with answer {answer} are left out" for answer, count in left_out.items() if count)
    return Brought(
        items=table,
        decisions=pl.DataFrame([decision | {"time": None} for decision in decisions], schema=DECISIONS),
        fields=(
            Field(name="item_id, meta.item_id, else _input_hash", became=ITEM_ID),
            *(
                Field(name=name, became=f"column {name}" + (" (JSON in text)" if name in mixed else ""))
                for name in table.columns
                if name != ITEM_ID
            ),
            Field(name="accept, or label", became=f"{len(decisions):,} decisions"),
            Field(name="_annotator_id, else _session_id", became="annotator"),
            Field(name="tokens, spans, options and other keys with _", became="left out"),
        ),
        remarks=remarks,
    )
