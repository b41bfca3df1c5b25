"""A table of what a language model answered: a JSON object per line, in a file below lfs/ that only grows.

It is data that was paid for. The first answer to a question about a text counts, so that the same file always gives the same
votes. How a line gets to disk is in tasks.tables.json_lines.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.errors import DataError, StageError
from tasks.tables.json_lines import FileInUseError, append_lines, is_torn, open_to_append

FOLDER = "answers"
"""Of the tables, beside the LF module."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answer about an item.

    question, text: what stands for the question and for what was shown of the item. item_id: the item that it was asked about.
    answer: the word that was chosen, None if what the model said is none; then `said` is how that begins. model: as the server
    calls it. input_tokens, output_tokens: as the server counts, None where it does not.
    """

    question: str
    text: str
    item_id: str | int
    answer: str | None
    said: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


def read_answers(path: Path) -> list[Answer]:
    """The answers in the table at `path`, the first of each question and text; none if there is no file.

    Half a line at the end, of a process that was killed, is passed over.

    Raises
    ------
    DataError
        The file is in DVC but not here, a line is no answer, or the file cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        for pointer in (path.with_name(f"{path.name}.dvc"), path.parent.with_name(f"{path.parent.name}.dvc")):
            if pointer.is_file():
                raise DataError(
                    f"{path} is not here, but {pointer.name} says that DVC has it. Run 'dvc pull {pointer}' before you pay for "
                    "the same answers again."
                ) from None
        return []
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if lines[-1] and is_torn(lines[-1]):
        lines.pop()
    found: dict[tuple[str, str], Answer] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            answer = _read_line(path, number, line)
            found.setdefault((answer.question, answer.text), answer)
    return list(found.values())


def _read_line(path: Path, number: int, line: bytes) -> Answer:
    try:
        value = json.loads(line)
        value.pop("time", None)
        answer = Answer(**value)
    except (ValueError, TypeError, AttributeError, RecursionError):
        answer = None
    kinds: dict[str, Any] = {
        "question": str,
        "text": str,
        "item_id": str | int,
        "answer": str | None,
        "said": str | None,
        "model": str | None,
        "input_tokens": int | None,
        "output_tokens": int | None,
    }
    if answer is None or not all(isinstance(getattr(answer, name), kind) for name, kind in kinds.items()):
        raise DataError(
            f"{path}, line {number}: {line[:60]!r} is no answer; expected a JSON object with {', '.join(kinds)}. Restore the "
            "file from Git or DVC, or remove the line: its item is then asked about again."
        )
    return answer


class AnswerWriter:
    """Appends answers to the table at `path`, one by one; see `open_answers`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def append(self, answer: Answer) -> None:
        """Bring the answer to disk.

        Raises
        ------
        OSError
            The disk is full; the table is as it was.
        """
        line: dict[str, Any] = {
            name: value for name, value in vars(answer).items() if name == "answer" or value is not None
        }
        line["time"] = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        append_lines(self._path, self._descriptor, json.dumps(line, ensure_ascii=False) + "\n")


@contextmanager
def open_answers(path: Path) -> Iterator[AnswerWriter]:
    """A writer of the table at `path`, which nobody else may append to meanwhile.

    Raises
    ------
    StageError
        Somebody else appends: two that ask would pay twice.
    OSError
        The file may not be written.
    """
    try:
        with open_to_append(path, waits=False) as descriptor:
            try:
                yield AnswerWriter(path, descriptor)
            finally:
                if not os.fstat(descriptor).st_size:
                    path.unlink()  # an empty file would be a change of lfs/, and rerun apply
    except FileInUseError:
        raise StageError(f"{path}: another process is asking. Wait until it ends, or stop it.") from None
