"""dvc.lock, read and written entry by entry: of a pipeline's stages, a run changes one at a time.

DVC parses the whole file, slowly and with all comments, and writes it anew for each stage that has run: .4 s of processor time
each for the demo. Here an entry that was parsed before is not parsed again, and one that did not change is written as it
was. A file that holds more than DVC writes itself is left to DVC.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from dvc.fs import LocalFileSystem
from dvc.utils.serialize import dumps_yaml

NAME = "dvc.lock"

Parse = Callable[[str, str], Any]
"""The value of a text of YAML, given the path for messages."""

_HEAD = "schema: '2.0'\nstages:\n"
"""How DVC begins the file."""

_FOREIGN = frozenset("#&*!|>%\t\r\x85\u2028\u2029\N{REPLACEMENT CHARACTER}")
"""Comments, aliases, tags and blocks of text, with which an entry may not mean the same by itself; other ends of lines, which DVC
does not write as it has read them; and what is not UTF-8."""

_ENTRY = re.compile(r"^(?=  \S)", re.MULTILINE)

_NAMED = re.compile(r"  [A-Za-z_][\w@.-]*:\n")
"""How an entry begins: with the name of a stage that needs no quotes."""

_PARSED: dict[str, dict[str, Any]] = {}
"""By the text of an entry, its value, of which callers get copies, as they change what they get."""

_MOST = 4096
"""Entries that are remembered, some 5 kB each."""


def parse_lock(text: str, path: str, parse: Parse) -> dict[str, Any] | None:
    """What `parse` would make of the `text` of a dvc.lock; None where that is to be asked.

    >>> from dvc.utils.serialize import parse_yaml
    >>> parse_lock("schema: '2.0'\\nstages:\\n  fit:\\n    cmd: a\\n  tune:\\n    cmd: b\\n", "dvc.lock", parse_yaml)
    {'schema': '2.0', 'stages': {'fit': {'cmd': 'a'}, 'tune': {'cmd': 'b'}}}
    """
    entries = _split(text)
    if entries is None:
        return None
    stages: dict[str, Any] = {}
    for entry in entries:
        value = _parse_entry(entry, path, parse)
        if value is None or value.keys() & stages.keys():
            return None
        stages |= value
    return {"schema": "2.0", "stages": stages}


@contextmanager
def modify_lock(
    path: str, fs: Any, parse: Parse, modify: Callable[..., AbstractContextManager[Any]]
) -> Iterator[dict[str, Any]]:
    """The contents of the dvc.lock at `path`, written when the block ends; DVC's `modify` does it where it has to."""
    file = Path(path)
    is_local = file.name == NAME and isinstance(fs, LocalFileSystem) and file.is_file()
    text = file.read_bytes().decode(errors="replace") if is_local else ""
    entries, data = _split(text), parse_lock(text, path, parse)
    if entries is None or data is None:
        with modify(path, fs=fs) as found:
            yield found
        return
    kept = {name: (value, entry) for (name, value), entry in zip(data["stages"].items(), entries, strict=True)}
    yield data
    if list(data) != ["schema", "stages"] or data["schema"] != "2.0":
        written = dumps_yaml(data)
    else:
        written = _HEAD + "".join(_write_entry(name, value, kept) for name, value in data["stages"].items())
    with fs.open(path, "w", encoding="utf-8") as stream:
        stream.write(written)


def _split(text: str) -> list[str] | None:
    """The text of each entry in `text`; None where it may not be as DVC writes it."""
    if not text.startswith(_HEAD) or not text.endswith("\n") or not _FOREIGN.isdisjoint(text):
        return None
    first, *entries = _ENTRY.split(text.removeprefix(_HEAD))
    if first or not entries or not all(_NAMED.match(entry) for entry in entries):
        return None
    return entries


def _parse_entry(entry: str, path: str, parse: Parse) -> dict[str, Any] | None:
    if entry not in _PARSED:
        try:
            found = parse(f"stages:\n{entry}", path)
        except Exception:
            return None
        if not isinstance(found, dict) or list(found) != ["stages"] or not isinstance(found["stages"], dict):
            return None
        if len(found["stages"]) != 1:
            return None
        if len(_PARSED) >= _MOST:
            _PARSED.clear()
        _PARSED[entry] = found["stages"]
    return deepcopy(_PARSED[entry])


def _write_entry(name: str, value: Any, kept: dict[str, tuple[Any, str]]) -> str:
    """The entry of the stage `name`: as it was where nobody gave it another value."""
    known, entry = kept.get(name, (None, ""))
    if entry and known is value:
        return entry
    return str(dumps_yaml({"stages": {name: value}})).removeprefix("stages:\n")
