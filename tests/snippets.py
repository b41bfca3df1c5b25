"""The fenced blocks of a page, and what the mark above each says is done with it.

A mark is an HTML comment on the line above the fence, so that no reader sees it:

    <!-- run -->                     a shell command or Python code, run in the page's project
    <!-- prints -->                  what the block before it prints; `...` stands for anything
    <!-- write: lfs/mine.py -->      a file of the project
    <!-- edit: params.yaml -->       keys of a YAML file of the project
    <!-- tested by: FILE::TEST -->   a server, a cloud or another machine is needed; that test does the same

Two others stand alone: `<!-- let: <ID>: COMMAND -->` says that in later blocks `<ID>` stands for what COMMAND prints, and
`<!-- in: FOLDER -->` that later blocks are meant in FOLDER. How-to guides work on a small project that has run and was released, README and tutorial on a fresh clone.
"""

import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from small_project import make_environment

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
    """All blocks, and marks that stand alone, of `page`, in their order.

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
        comment = re.fullmatch(r"<!-- (run|prints|write|edit|tested by|let|in)(?:: (.*))? -->", line)
        if comment and comment[1] == "let":
            name, _, command = comment[2].partition(": ")
            found.append(Snippet(line=number + 1, kind="let", argument=name, language="", text=command))
        elif comment and comment[1] == "in":
            found.append(Snippet(line=number + 1, kind="in", argument=comment[2], language="", text=""))
        elif comment:
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


def make_venv(root: Path) -> None:
    """`.venv/bin`, as `make env` leaves it, that leads to the environment of these tests."""
    (root / ".venv").mkdir()
    (root / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (root / ".venv" / "ready").touch()


def run_shell(root: Path, text: str, **environment: str) -> str:
    """What the shell commands `text` print in the project at `root`; they have to end well."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=root,
        env=make_environment(root, **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{text}ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def merge(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`before` with `changes`, section by section."""
    merged = dict(before)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def follow(snippet: Snippet, root: Path, names: dict[str, str], printed: str, environment: dict[str, str]) -> str:
    """Do what the mark of a block says; what was printed, by this block or before."""
    text = snippet.text
    for name, value in names.items():
        text = text.replace(name, value)
    if snippet.kind == "let":
        names[snippet.argument] = run_shell(root, text, **environment).strip()
    elif snippet.kind == "write":
        (root / snippet.argument).parent.mkdir(parents=True, exist_ok=True)
        (root / snippet.argument).write_text(text)
    elif snippet.kind == "edit":
        path = root / snippet.argument
        path.write_text(yaml.safe_dump(merge(yaml.safe_load(path.read_text()), yaml.safe_load(text)), sort_keys=False))
    elif snippet.kind == "run" and snippet.language == "python":
        (root.parent / "snippet.py").write_text(text)
        return run_shell(root, f"{sys.executable} {root.parent / 'snippet.py'}\n", **environment)
    elif snippet.kind == "run":
        return run_shell(root, text, **environment)
    elif snippet.kind == "prints":
        # Runs of spaces align columns, whose width depends on what is in them.
        pattern = re.sub(
            r"(\\ )+", r"\\s+", r".*".join(re.escape(part) for part in re.split(r" *\.\.\. *", text.strip()))
        )
        assert re.search(pattern, printed, flags=re.S), f"line {snippet.line}: got\n{printed}\nexpected\n{text}"
    return printed


def run_page(page: Path, root: Path, server: str | None = None) -> int:
    """Type what `page` says in the project at `root`, block by block; return how many blocks there were.

    Runs report to the Prefect server, if one is given.

    Raises
    ------
    AssertionError
        A command failed, or printed something else; names the line of the page.
    """
    environment = {"PREFECT_API_URL": server} if server else {}
    names: dict[str, str] = {}
    printed = ""
    snippets = read_snippets(page)
    for snippet in snippets:
        if snippet.kind == "in":
            root = (root / snippet.argument).resolve(strict=True)
        try:
            printed = follow(snippet, root, names, printed, environment)
        except AssertionError as error:
            raise AssertionError(f"{page.name}:{snippet.line}: {error}") from None
    return len(snippets)
