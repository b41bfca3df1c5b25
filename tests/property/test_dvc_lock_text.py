"""dvc.lock, read and written entry by entry, is what DVC reads and writes."""

import string
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from dvc.fs import LocalFileSystem
from dvc.utils.serialize import dumps_yaml, modify_yaml, parse_yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flows.runner.dvc_lock_text import NAME, modify_lock, parse_lock

ODD = st.sampled_from(
    ["yes", "1", "1e3", "null", "~", "", " a", "a: b", "a\nb", "it's", '"', "-", "[", "{}", "é", "x" * 90]
)
TEXT = st.one_of(ODD, st.text(string.ascii_letters + " /_.:'\"\n-", max_size=100), st.text(max_size=8))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**6), 10**6).map(lambda number: number / 1000) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAMES = st.one_of(st.sampled_from(["fit", "tune", "yes", "null", "no-1", "a.b", "1", "é"]), TEXT)
STAGES = st.dictionaries(NAMES, st.dictionaries(TEXT, VALUES, min_size=1, max_size=3), min_size=1, max_size=4)

Modify = Callable[[str], AbstractContextManager[dict[str, Any]]]


def modify_ours(path: str) -> AbstractContextManager[dict[str, Any]]:
    def refuse(*_: object, **__: object) -> AbstractContextManager[Any]:
        return modify_yaml(path)

    return modify_lock(path, LocalFileSystem(), parse_yaml, refuse)


def write(path: Path, modify: Modify, text: str, changes: dict[str, Any]) -> bytes:
    path.write_text(text, encoding="utf-8", newline="")
    with modify(str(path)) as data:
        data["stages"] = data.get("stages", {})
        data["stages"].update(changes)
    return path.read_bytes()


@given(STAGES, STAGES)
@example({"fit": {"cmd": "a"}}, {"fit": {"cmd": "b"}})
@example({"fit": {"params": {"share": 1}}}, {"fit": {"params": {"share": 1.0}}})
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_read_and_written_is_what_dvc_reads_and_writes(
    tmp_path: Path, stages: dict[str, Any], changes: dict[str, Any]
) -> None:
    text = dumps_yaml({"schema": "2.0", "stages": stages})
    found = parse_lock(text, NAME, parse_yaml)
    assert found is None or found == parse_yaml(text, NAME)
    path = tmp_path / NAME
    assert write(path, modify_ours, text, changes) == write(path, modify_yaml, text, changes)


def test_what_is_invisible_or_ends_a_line_is_written_as_dvc_writes_it(tmp_path: Path) -> None:
    odd = [char for char in map(chr, range(0xD800)) if unicodedata.category(char) in {"Cc", "Cf", "Zl", "Zp", "Zs"}]
    path, changes = tmp_path / NAME, {"tune": {"cmd": "b"}}
    for char in [*odd, "\ufeff"]:
        text = dumps_yaml({"schema": "2.0", "stages": {"fit": {f"a{char}b": char, char: [f"{char}a"]}}})
        ours, theirs = (write(path, modify, text, changes) for modify in (modify_ours, modify_yaml))
        assert ours == theirs, f"U+{ord(char):04X}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "schema: '2.0'\n",
        "schema: '2.0'\nstages:\n",
        "schema: '2.0'\nstages:\n  fit: {cmd: a}  # by hand\n",
        "schema: '2.0'\nstages:\n  fit: &x\n    cmd: a\n  tune: *x\n",
        "schema: '2.0'\nstages:\n  fit:\n    cmd: 'a\n  b: c'\n",
        "schema: '2.0'\nstages:\n  fit:\n    cmd: a\n  fit:\n    cmd: b\n",
        "schema: '2.0'\nstages:\n  fit:\n    cmd: a\ndatasets: []\n",
        "schema: '2.0'\nstages:\n  fit:\n    cmd: a\n   tune: b\n",
        "stages:\n  fit:\n    cmd: a\nschema: '2.0'\n",
    ],
)
def test_what_dvc_does_not_write_is_left_to_dvc(text: str) -> None:
    assert parse_lock(text, NAME, parse_yaml) is None


def test_a_stage_that_did_not_change_keeps_its_text_and_callers_may_change_what_they_get(tmp_path: Path) -> None:
    path = tmp_path / NAME
    text = "schema: '2.0'\nstages:\n  fit:\n    cmd:   a\n  tune:\n    cmd: b\n"
    for _ in range(2):
        assert write(path, modify_ours, text, {"tune": {"cmd": "c"}}).decode() == text.replace("cmd: b", "cmd: c")
        found = parse_lock(text, NAME, parse_yaml)
        assert found is not None
        found["stages"]["fit"]["cmd"] = "changed"
