"""What a terminal gets and a file does not: color, and lines that break between words."""

import os
import shutil
import textwrap
from enum import StrEnum
from typing import TextIO


class Color(StrEnum):
    """The parameter of ANSI's "select graphic rendition"."""

    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    CYAN = "36"


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads `stream` on a terminal; None is a stream that is closed."""
    return stream is not None and not stream.closed and stream.isatty()


def paint(text: str, color: Color, stream: TextIO | None) -> str:
    """`text` in `color` if `stream` is a terminal that has colors, and https://no-color.org is not asked for."""
    is_plain = not is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if is_plain else f"\x1b[{color}m{text}\x1b[0m"


def fold(text: str, stream: TextIO | None, *, indent: int) -> str:
    """`text` in lines that fit the terminal `stream`, all but the first indented; as it is where it fits, or in a file.

    Parameters
    ----------
    indent
        How many columns stand before the first line, and are left free before the others.
    """
    width = shutil.get_terminal_size().columns - indent
    if not is_terminal(stream) or len(text) <= width or width < 20:  # narrower columns are worse than broken words
        return text
    lines = [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
    ]
    return ("\n" + " " * indent).join(lines)


def describe_error(error: Exception, stream: TextIO | None) -> str:
    """`error` as a command ends with it, for `stream`."""
    return f"{paint('error:', Color.RED, stream)} {fold(str(error), stream, indent=len('error: '))}"
