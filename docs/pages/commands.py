"""reference/commands.md: the help of every command, the targets of make and the benchmarks."""

import ast
import re
from collections.abc import Iterator

import click

from benchmarks.__main__ import list_names
from docs.pages.markdown import NOTE, ROOT, first_sentence, table
from flows.cli.main import main as epoxy
from tasks.__main__ import STAGES


def list_commands(group: click.Group, name: str = "epoxy") -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, a group before its own commands."""
    for word, command in group.commands.items():
        yield f"{name} {word}", command
        if isinstance(command, click.Group):
            yield from list_commands(command, f"{name} {word}")


def read_help(name: str, command: click.Command) -> str:
    """What `--help` prints."""
    context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100,
                            help_option_names=["-h", "--help"])  # fmt: skip
    return command.get_help(context)


def read_make_targets() -> dict[str, str]:
    """What each target of the Makefile does."""
    found = re.findall(r"^([a-z]+):[^#\n]*##\s*(.+)$", (ROOT / "Makefile").read_text(), flags=re.M)
    return dict(found)


def list_benchmarks() -> dict[str, str]:
    """What each benchmark measures, from the first sentence of its module."""
    files = [ROOT / "benchmarks" / f"{name}.py" for name in list_names()]
    return {path.stem: first_sentence(ast.get_docstring(ast.parse(path.read_text()))) for path in files}


def write_commands() -> str:
    """reference/commands.md."""
    commands = [("epoxy", epoxy), *list_commands(epoxy)]
    parts = ["# Commands\n\n" + NOTE]
    rows = [(f"[`{name}`](#{name.replace(' ', '-')})", first_sentence(command.help)) for name, command in commands[1:]]
    parts += [table(("command", "what it does"), rows), "\n"]
    for name, command in commands:
        parts.append(f"## {name}\n\n```text\n{read_help(name, command)}\n```\n\n")
    parts.append("## make\n\n")
    parts.append(
        table(("target", "what it does"), ((f"`make {name}`", text) for name, text in read_make_targets().items()))
    )
    parts.append("\n## python -m tasks\n\n`python -m tasks <stage>` runs one stage in the current folder; it is the command "
                 "that `dvc.yaml` gives to DVC. Stages: " + ", ".join(f"`{stage}`" for stage in STAGES) + "; `demo` writes "
                 "the demo's raw data.\n")  # fmt: skip
    parts.append("\n## python -m benchmarks\n\n")
    parts.append(table(("benchmark", "what it measures"),
                       ((f"`python -m benchmarks {name}`", text) for name, text in list_benchmarks().items())))  # fmt: skip
    return "".join(parts)
