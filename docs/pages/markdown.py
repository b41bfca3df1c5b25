"""What all generated pages share: text, tables, and what docstrings and the lines below fields and constants say."""

import ast
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

NOTE = "<!-- Written by `python -m docs.generate` from the code; edit that, not this page. -->\n\n"


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    return re.split(r"(?<=\.)\s", " ".join((text or "").split()))[0]


def join_lines(text: str | None) -> str:
    """A docstring as one paragraph."""
    return " ".join((text or "").split())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def document_fields(model: type) -> dict[str, str]:
    """What the text below each field of a class says, by field."""
    source = textwrap.dedent(inspect.getsource(model))
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    found: dict[str, str] = {}
    for field, below in itertools.pairwise(body):
        text = below.value if isinstance(below, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Constant):
            found[field.target.id] = join_lines(str(text.value))
    return found


def document_constants(path: Path) -> dict[str, tuple[object, str]]:
    """The constants of a module, by name: value and the text below."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    found: dict[str, tuple[object, str]] = {}
    for node, text in itertools.pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if (
            isinstance(target, ast.Name)
            and isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[target.id] = (node.value.value, join_lines(str(text.value.value)))
    return found
