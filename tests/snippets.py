"""The fenced blocks of a page, and what the mark above each says is done with it.

A mark is an HTML comment on the line above the fence, so that no reader sees it:

    <!-- run -->                     a shell command or Python code, run in the page's project
    <!-- prints -->                  what the block before it prints; `...` stands for anything
    <!-- write: lfs/mine.py -->      a file of the project
    <!-- edit: params.yaml -->       keys of a YAML file of the project
    <!-- tested by: FILE::TEST -->   a server, a cloud or another machine is needed; that test does the same

Two more stand alone: `<!-- project: released -->` at the top of a page names the project it works on (`small`, which has
run, is the default; `released`; `empty`, without data and labeling functions), and `<!-- let: <ID>: COMMAND -->` says
that in later blocks `<ID>` stands for what COMMAND prints.
"""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = (
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs" / "tutorial").glob("*.md")),
    *sorted((REPOSITORY / "docs" / "how-to").glob("*.md")),
)
"""Where every block has a mark."""

KINDS = ("run", "prints", "write", "edit", "tested by")


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """A block of a page; kind and argument are those of its mark, line is that of its fence. Of `let`, text is the command."""

    line: int
    kind: str
    argument: str
    language: str
    text: str


def read_snippets(page: Path) -> list[Snippet]:
    """All blocks and `let` marks of `page`, in their order.

    Raises
    ------
    ValueError
        A fence has no mark above it, or a mark no fence below.
    """
    found: list[Snippet] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    number, mark = 0, None
    while number < len(lines):
        line = lines[number].strip()
        comment = re.fullmatch(r"<!-- (run|prints|write|edit|tested by|let|project)(?:: (.*))? -->", line)
        if comment and comment[1] == "let":
            name, _, command = comment[2].partition(": ")
            found.append(Snippet(line=number + 1, kind="let", argument=name, language="", text=command))
        elif comment and comment[1] != "project":
            mark = comment
        elif line.startswith("```"):
            end = next(place for place in range(number + 1, len(lines)) if lines[place].strip() == "```")
            if mark is None:
                raise ValueError(f"{page.name}:{number + 1}: the block has no mark; expected one of {', '.join(KINDS)}")
            text = textwrap.dedent("\n".join(lines[number + 1 : end])) + "\n"
            found.append(Snippet(line=number + 1, kind=mark[1], argument=mark[2] or "", language=line[3:], text=text))
            number, mark = end, None
        elif mark is not None:
            raise ValueError(f"{page.name}:{number + 1}: a mark without a block below it")
        number += 1
    return found


def read_project(page: Path) -> str:
    """The name of the project that the page works on."""
    found = re.search(r"^<!-- project: (\w+) -->$", page.read_text(encoding="utf-8"), flags=re.M)
    return found[1] if found else "small"
