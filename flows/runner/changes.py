"""Why a stage is out of date, in a line."""

import re
from collections.abc import Sequence
from itertools import groupby

_FILE = re.compile(r"(?P<folder>[^/:]+)/.* \((?P<verdict>\w+)\)")
"""A file in a folder, as `find_changes` names it; params have a colon."""


def summarize_changes(changes: Sequence[str]) -> str:
    """What changed for a stage, in a line: params and labeling functions first, files of one folder counted.

    >>> summarize_changes(["tasks/tune.py (modified)", "tasks/errors.py (modified)", "params.yaml: tune (modified)"])
    'params.yaml: tune (modified), 2 files in tasks/ (modified)'
    """
    found = {change: _FILE.fullmatch(change) for change in changes}
    parts = [change for change, match in found.items() if match is None]
    files = sorted((match["folder"], match["verdict"], change) for change, match in found.items() if match)
    for (folder, verdict), group in groupby(files, key=lambda file: file[:2]):
        names = [change for _, _, change in group]
        parts.append(names[0] if len(names) == 1 else f"{len(names)} files in {folder}/ ({verdict})")
    return ", ".join(parts)
