"""A table of gold that only grows: a JSON object per line, which says what somebody decided about an item, and when.

Who changes their mind adds a decision, which counts instead of the one before; who takes it back adds one without a label.
How a line gets to disk is in tasks.tables.json_lines.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.errors import DataError
from tasks.tables.json_lines import append_lines, open_to_append

FOLDER = Path("gold")
"""Where a project's tables of gold are, unless `gold.source` in params.yaml says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What `annotator` says of an item: a class name as `label`, or None: nothing, any more.

    time: None for now. split: `valid` or `test` where it is to be said and not left to the hash of the id.
    """

    item_id: str | int
    label: str | None
    annotator: str
    time: datetime | None = None
    split: str | None = None


def append_decision(path: Path, decision: Decision) -> str | None:
    """Append a single decision, as `append_decisions` does several."""
    return append_decisions(path, [decision])


def append_decisions(path: Path, decisions: Sequence[Decision]) -> str | None:
    """A word on half a line that was found at the end and removed, else None; the decisions are on disk by then.

    All of them are there afterwards, or none. Several processes may append to one table.

    Raises
    ------
    DataError
        The file is not a table of JSON lines, a name is none, or the clock is behind a decision that it would replace.
    OSError
        The disk is full, or the file may not be written; the table is as it was.
    """
    if path.suffix != ".jsonl":
        raise DataError(f"{path}: decisions are appended to tables in .jsonl alone. Name such a table.")
    for name in {decision.annotator for decision in decisions}:
        require_name(name)
    if not decisions:
        return None
    now = datetime.now(UTC)
    with open_to_append(path) as descriptor:
        _require_later(path, decisions, now)
        return append_lines(path, descriptor, "".join(_write_line(decision, now) for decision in decisions))


def require_name(annotator: str) -> None:
    """Check that `annotator` is a name that a person would recognize in a line of a list.

    Raises
    ------
    DataError
        It is empty or blank, or has control characters, such as the end of a line.
    """
    if not annotator.strip() or any(unicodedata.category(letter) == "Cc" for letter in annotator):
        raise DataError(f"annotator {annotator!r}: expected a name in one line. Name who decides.")


def _require_later(path: Path, decisions: Sequence[Decision], now: datetime) -> None:
    """Check that what is decided `now` is later than what the same person said of the same item in the table at `path`."""
    asked = {(str(decision.item_id), decision.annotator) for decision in decisions if decision.time is None}
    text, said_now = path.read_bytes(), _write_time(now)
    if not asked or max(_TIME.findall(text), default=b"") <= said_now.encode():
        return  # a clock that is set back is rare
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue  # half a line
        key = (str(found.get("item_id")), found.get("annotator")) if isinstance(found, dict) else None
        if key in asked and str(found.get("time")) > said_now:
            raise DataError(
                f"{path}: {key[1]} said something of {key[0]!r} at {found['time']}, and it is {said_now} by this machine's clock: a "
                "decision of now would not count. Set the clock."
            )


_TIME = re.compile(rb'"time": "([^"]*)"')
"""The time of a line, written as `_write_time` does; times in this form are in the order of their letters."""


def _write_time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write_line(decision: Decision, now: datetime) -> str:
    """The decision as JSON, without keys that say nothing."""
    line = {
        "item_id": decision.item_id,
        "label": decision.label,
        "annotator": decision.annotator,
        "time": _write_time(decision.time or now),
    }
    if decision.split is not None:
        line["split"] = decision.split
    return json.dumps(line, ensure_ascii=False) + "\n"
