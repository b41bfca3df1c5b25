"""WRENCH's folders: a JSON object per split with weak labels, and the names of the classes.

As `wrench.dataset` 1.1 reads them: `train.json`, `valid.json` and `test.json` hold `{"0": {"label": 1, "weak_labels": [-1, 1],
"data": {"text": ...}}, ...}`, and `label.json` holds `{"0": "HAM", "1": "SPAM"}`. -1 abstains.
"""

from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.types import ABSTAIN, ITEM_ID
from tasks.errors import DataError
from tasks.exchange.contents import Brought, Field, Labeled, read_json_file, refuse, require_object, tabulate, to_plain
from tasks.params import Split
from tasks.tables.files import write_json

_REMEDY = "Expected a folder as WRENCH has it, with label.json and train.json, valid.json or test.json."


def write_wrench(folder: Path, labeled: Labeled) -> None:
    """Write a file per split, label.json, and lf_names.json with the order of the weak labels (which WRENCH does not read).

    `label` is gold, -1 where it is unknown; the shipped label and its probabilities are in `data`.
    """
    text = labeled.require_text()
    lfs = [name for name in labeled.votes.columns if name != ITEM_ID]
    votes = labeled.votes.select(lfs).rows()
    position = {name: number for number, name in enumerate(labeled.classes)}
    parts: dict[str, dict[str, Any]] = {str(split): {} for split in Split}
    for row, cast in zip(labeled.table.iter_rows(named=True), votes, strict=True):
        part = parts[row["split"]]
        data = {ITEM_ID: row[ITEM_ID], "text": row[text]} | {
            name: row[name] for name in labeled.columns if name != text
        }
        data |= {"shipped_label": row["label"], "shipped_probabilities": [row[name] for name in labeled.probabilities]}
        label = ABSTAIN if row["gold"] is None else position[row["gold"]]
        part[str(len(part))] = {"label": label, "weak_labels": list(cast), "data": to_plain(data)}
    write_json(folder / "label.json", {str(number): name for number, name in enumerate(labeled.classes)})
    write_json(folder / "lf_names.json", lfs)
    for split, part in parts.items():
        write_json(folder / f"{split}.json", part)


def read_wrench(folder: Path) -> Brought:
    """Items with splits and gold, and the votes of labeling functions called as lf_names.json says, else lf_0, lf_1 ...

    Raises
    ------
    DataError
        A file is missing or not of this form; names file, row and field.
    """
    named = require_object(
        folder / "label.json", "the file", "label", read_json_file(folder / "label.json", _REMEDY), _REMEDY
    )
    if sorted(named) != sorted(map(str, range(len(named)))):
        raise refuse(
            folder / "label.json", "the file", "keys", got=sorted(named), expected="0 to k - 1", remedy="Correct it."
        )
    classes = tuple(str(named[str(number)]) for number in range(len(named)))
    rows: list[dict[str, Any]] = []
    votes: list[list[int]] = []
    for split in Split:
        path = folder / f"{split}.json"
        if path.is_file():
            for key, row in require_object(
                path, "the file", str(split), read_json_file(path, _REMEDY), _REMEDY
            ).items():
                found, cast = _read_row(path, f"row {key}", row, len(classes), len(votes[0]) if votes else None)
                label = found.pop("gold")
                gold = None if label == ABSTAIN else classes[label]
                rows.append({ITEM_ID: f"{split}-{key}", "split": str(split), "gold": gold, **found})
                votes.append(cast)
    if not rows:
        raise DataError(f"{folder}: no rows in train.json, valid.json or test.json. {_REMEDY}")
    items, mixed = tabulate(rows)
    lfs = _name_lfs(folder, len(votes[0]))
    columns = [name for name in items.columns if name not in (ITEM_ID, "split", "gold")]
    return Brought(
        items=items.with_columns(pl.col("gold").cast(pl.String)),
        votes=pl.DataFrame(
            [items[ITEM_ID], *(pl.Series(lf, [row[at] for row in votes], pl.Int8) for at, lf in enumerate(lfs))]
        ),
        classes=classes,
        fields=(
            Field(name="keys", became=f"{ITEM_ID}, with the split before them"),
            Field(name="label", became="column gold; -1: none"),
            Field(
                name="weak_labels",
                became=f"votes of {len(lfs)} labeling functions, {lfs[0]} to {lfs[-1]}" if lfs else "no votes",
            ),
            *(
                Field(name=f"data.{name}", became=f"column {name}" + (" (JSON in text)" if name in mixed else ""))
                for name in columns
            ),
        ),
    )


def _read_row(path: Path, where: str, row: object, k: int, m: int | None) -> tuple[dict[str, Any], list[int]]:
    """The columns of a row, with gold as a class position, and its votes."""
    found = require_object(path, where, "row", row, _REMEDY)
    data = require_object(path, where, "data", found.get("data"), "It holds what is labeled, such as text.")
    label = found.get("label", ABSTAIN)
    label = ABSTAIN if label is None else label
    if not _is_class(label, k):
        raise refuse(path, where, "label", got=label, expected=f"-1 or 0..{k - 1}", remedy="Correct it, or label.json.")
    cast = found.get("weak_labels", [])
    if not isinstance(cast, list) or not all(_is_class(vote, k) for vote in cast):
        raise refuse(
            path,
            where,
            "weak_labels",
            got=cast,
            expected=f"a list of -1 or 0..{k - 1}",
            remedy="Correct it, or label.json.",
        )
    if m is not None and len(cast) != m:
        raise refuse(
            path, where, "weak_labels", got=f"{len(cast)} votes", expected=f"{m}, as in the rows before",
            remedy="Each row has a vote of each labeling function.",
        )  # fmt: skip
    taken = {ITEM_ID, "split", "gold"}
    return {"gold": label} | {
        f"{name} (wrench)" if name in taken else name: value for name, value in data.items()
    }, cast


def _is_class(value: object, k: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and ABSTAIN <= value < k


def _name_lfs(folder: Path, m: int) -> list[str]:
    """The names of the labeling functions."""
    path = folder / "lf_names.json"
    if not path.is_file():
        return [f"lf_{number}" for number in range(m)]
    names = read_json_file(path, "Correct or remove it.")
    if not isinstance(names, list) or len(names) != m or not all(isinstance(name, str) for name in names):
        raise refuse(path, "the file", "names", got=names, expected=f"{m} names", remedy="Correct or remove it.")
    return names
