"""reference/environment.md: the variables that the code reads."""

import re
from collections.abc import Callable

from docs.pages.markdown import NOTE, ROOT, document_constants, table

OTHERS = {
    "PREFECT_API_URL": "The Prefect server to report to. Without it, the one that `epoxy server` started, or a temporary one.",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "Where Prefect's server keeps its records, as "
    "`postgresql+asyncpg://user:password@host/database`; SQLite without it.",
    "PREFECT_HOME": "Where Prefect keeps its records and settings; `~/.prefect` without it.",
}
"""Variables of Prefect that matter here."""

TERMINAL_VARIABLES = {
    "NO_COLOR": "Set to anything: no color, also on a terminal. A pipe or file never gets any.",
    "COLUMNS": "The width of the terminal, where it does not tell.",
}

FOR_TESTS = {
    "EPOXY_KILLS": "How many processes the tests of faults kill, and that the longest tests run.",
    "EPOXY_SEED": "Which random moments they choose.",
    "EPOXY_FUZZ": "How many random files each reader is given.",
    "EPOXY_NIGHTS": "How many series of nights are compared with runs from scratch.",
}


def find_variables() -> dict[str, str]:
    """What each of the project's environment variables does, from the text below the constant that names it."""
    found: dict[str, str] = {}
    for package in ("tasks", "flows"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for value, text in document_constants(path).values():
                if isinstance(value, str) and re.fullmatch(r"EPOXY_[A-Z_]+", value):
                    found[value] = text
    return dict(sorted(found.items()))


def write_environment() -> str:
    """reference/environment.md."""
    row: Callable[[tuple[str, str]], tuple[str, str]] = lambda pair: (f"`{pair[0]}`", pair[1])  # noqa: E731
    return (
        "# Environment variables\n\n"
        + NOTE
        + "What is of one machine, or secret, is in the environment and not in `params.yaml`: it must not change a cache key, "
        + "and is in no file, log line or release.\n\n"
        + table(("variable", "meaning"), map(row, find_variables().items()))
        + "\n## Of Prefect\n\n"
        + table(("variable", "meaning"), map(row, OTHERS.items()))
        + "\n## Of the terminal\n\n"
        + table(("variable", "meaning"), map(row, TERMINAL_VARIABLES.items()))
        + "\n## For the tests\n\n"
        + table(("variable", "meaning"), map(row, FOR_TESTS.items()))
    )
