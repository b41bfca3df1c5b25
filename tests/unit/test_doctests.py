"""The examples in docstrings of tasks and flows run, and print what they say; none is where doctest does not look."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.compile(r"^\s*>>> ", flags=re.M)


def count_examples(path: Path) -> int:
    return len(EXAMPLE.findall(path.read_text(encoding="utf-8")))


WITH_EXAMPLES = [
    path
    for package in ("tasks", "flows", "epoxy_flow")
    for path in sorted((ROOT / package).rglob("*.py"))
    if count_examples(path)
]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted >= count_examples(path), "an example is in a docstring that doctest does not see"
