"""reference/python.md: the names of the package `epoxy_flow`, with signatures and docstrings."""

import ast
import inspect
import textwrap

import epoxy_flow

_OF_CLASSES = ("Project",)
"""Classes whose methods are listed; the others are data, and their docstring names what they hold."""


def write_python(note: str) -> str:
    """Return the page, with `note` below its heading."""
    package = inspect.getdoc(epoxy_flow) or ""
    first, _, rest = package.partition("\n\n")
    example = "\n".join(line.removeprefix("    ") for line in rest.splitlines() if line.startswith("    ") or not line)
    parts = [f"# Python\n\n{note}\n\n{first}\n\n```python\n{example.strip()}\n```\n\n"]
    parts.append(
        "All frames are Polars frames; `.to_pandas()` gives one of pandas, where pandas is installed. A labeling function "
        "can be called on one item, a dictionary or a frame. [Look behind a number](../how-to/look-behind-a-number.md) has "
        "examples.\n\n"
    )
    for name in sorted(epoxy_flow.__all__, key=lambda name: (not name[0].islower(), name)):
        value = getattr(epoxy_flow, name)
        parts.append(_describe(f"epoxy_flow.{name}", value))
        if name in _OF_CLASSES:
            members = [(key, member) for key, member in vars(value).items() if not key.startswith("_")]
            parts += [_describe(f"{name}.{key}", member, level="###") for key, member in members]
    return "".join(parts).rstrip() + "\n"


def _describe(name: str, value: object, level: str = "##") -> str:
    """The section of a function, method, property or class."""
    text = inspect.getdoc(value.fget if isinstance(value, property) else value) or ""
    head = f"{level} {name}\n\n"
    signature = _read_signature(value)
    if signature:
        head += f"```python\n{signature}\n```\n\n"
    return head + _lay_out(text) + "\n\n"


def _read_signature(value: object) -> str:
    """The `def` of a function as its source has it, without the body; nothing of other values."""
    if not inspect.isfunction(value):
        return ""
    source = textwrap.dedent(inspect.getsource(value))
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    node.body = [ast.Pass()]
    return ast.unparse(node).rsplit("\n", 1)[0]


def _lay_out(text: str) -> str:
    """A docstring as Markdown: sections of NumPy style in bold, doctests as code."""
    lines: list[str] = []
    section, code = "", False
    rows = text.splitlines()
    for number, line in enumerate(rows):
        follows = rows[number + 1] if number + 1 < len(rows) else ""
        if set(follows) == {"-"} and line:
            section = line
            lines += [f"**{line}**", ""]
        elif set(line) == {"-"}:
            continue
        elif line.startswith(">>>") and not code:
            code = True
            lines += ["```pycon", line]
        elif code and not line:
            code = False
            lines += ["```", ""]
        elif section and not code and line and not line.startswith(" "):
            lines.append(f"- `{line}`:")
        else:
            lines.append(line)
    return "\n".join([*lines, "```"] if code else lines)
