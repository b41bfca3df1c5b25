"""`python -m flows.runner.code_deps`: write into dvc.yaml which code each stage imports, as tests/contract checks it."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.__main__ import STAGES
from tasks.cache.code import PROJECT
from tasks.cache.stage_code import list_code

PIPELINES = ("dvc.yaml", "data/demo/dvc.yaml")
"""The files that define stages, below the project's root."""

_STAGE = re.compile(r"^  ([a-z_]+):$", flags=re.MULTILINE)
_CODE = re.compile(r"^      - tasks/\S+\n", flags=re.MULTILINE)


def write_code_deps(text: str) -> str:
    """A pipeline's definition `text` with the code of each stage as it is now; everything else stays as it is."""
    return replace_code_deps(text, list_code)


def replace_code_deps(text: str, list_deps: Callable[[str], Sequence[str]]) -> str:
    """A pipeline's definition `text` in which each stage depends on what `list_deps` gives instead of the tool's code."""
    starts = [(match.start(), match[1]) for match in _STAGE.finditer(text) if match[1] in (*STAGES, "demo")]
    for start, stage in reversed(starts):
        following = [other for other, _ in starts if other > start]
        end = min(following, default=len(text))
        block = text[start:end]
        first = _CODE.search(block)
        if first is None:
            raise ValueError(f"stage '{stage}' lists no code in its deps; expected at least one line '- tasks/...'")
        lines = "".join(f"      - {name}\n" for name in list_deps(stage))
        rest = _CODE.sub("", block[first.start() :])
        text = text[:start] + block[: first.start()] + lines + rest + text[end:]
    return text


def main() -> int:
    """Write both files, and say which of them changed."""
    for name in PIPELINES:
        path = PROJECT / name
        before = path.read_text(encoding="utf-8")
        after = write_code_deps(before)
        if after != before:
            Path(path).write_text(after, encoding="utf-8")
            print(f"{name}: code of stages written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
