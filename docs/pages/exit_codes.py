"""reference/exit-codes.md: the kinds of errors by exit code."""

import importlib
import re

from docs.pages.markdown import NOTE, ROOT, first_sentence, table
from tasks.errors import EpoxyError


def find_errors() -> list[type[EpoxyError]]:
    """Every kind of error, by exit code."""
    for package in ("tasks", "flows"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if re.search(r"^class \w+\(\w*Error\):", path.read_text(), flags=re.M):
                importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found: set[type[EpoxyError]] = set()
    todo: list[type[EpoxyError]] = [EpoxyError]
    while todo:
        kind = todo.pop()
        found.add(kind)
        todo += kind.__subclasses__()
    return sorted(found, key=lambda kind: (kind.exit_code, kind.__name__))


def write_exit_codes() -> str:
    """reference/exit-codes.md."""
    by_code: dict[int, list[str]] = {}
    for kind in find_errors():
        by_code.setdefault(kind.exit_code, []).append(first_sentence(kind.__doc__))
    by_code[2].append("The command line is not understood.")
    by_code[130].append("After Ctrl-C the next run continues where this run stopped.")
    rows = [("0", "All went well."), *((str(code), "<br>".join(texts)) for code, texts in sorted(by_code.items()))]
    return (
        "# Exit codes\n\n"
        + NOTE
        + "The same of `epoxy`, of `python -m tasks <stage>`, and of a flow's stages. An error is shown without a traceback: "
        + "what is wrong, where, what was found against what was expected, and what to do.\n\n"
        + table(("code", "meaning"), rows)
    )
