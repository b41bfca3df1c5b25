"""What DVC refuses to work with, in words that name the file, the line, and what to do."""

import re
from collections.abc import Iterator
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.utils.serialize import ParseError
from dvc.utils.strictyaml import YAMLValidationError

from flows.runner.dvc_repo import explain_error
from flows.runner.project import PIPELINE
from tasks.errors import ParamsError
from tasks.params_file import FILE, read_sections
from tasks.strict_yaml import describe_yaml_error

LOCK = "dvc.lock"
"""What DVC has recorded of each stage."""

_LOCK_CURE = ", or delete it, or bring it back from Git: DVC's cache still has what it names."

_UNKNOWN_KEY = re.compile(r"failed to parse '(?P<where>[^']+)' in '[^']+':\s*Could not find '(?P<key>[^']+)'")
"""How DVC says that a value such as ${ingest.source} is nowhere."""


def describe_refusal(root: Path, error: DvcException | ValueError) -> str:
    """Why DVC cannot read the pipeline of the project at `root`, as its `error` says, and what to do."""
    causes = list(_list_causes(error))
    for cause in causes:
        if isinstance(cause, ParseError) and (root / cause.path).is_file():
            broken = next((found for found in causes if hasattr(found, "problem_mark")), cause)
            text = describe_yaml_error(cause.path, (root / cause.path).read_bytes(), broken)
            return text.removesuffix(".") + _LOCK_CURE if Path(cause.path).name == LOCK else text
        if isinstance(cause, YAMLValidationError):
            name = Path(cause.path).as_posix()
            mistakes = [f"{'.'.join(map(str, found.path))}: {found.error_message}" for found in cause.exc.errors]
            return f"{name}: {'; '.join(mistakes)}. Correct it{_LOCK_CURE if Path(name).name == LOCK else '.'}"
    text = explain_error(error)
    if FILE in text or "Could not find" in text or isinstance(error, ValueError):
        try:
            read_sections(root)  # what is wrong with params.yaml has better words
        except ParamsError as better:
            return str(better)
    if unknown := _UNKNOWN_KEY.search(text):
        return f"{PIPELINE}: {unknown['where']} names ${{{unknown['key']}}}, which {FILE} does not have. Add it there."
    if "both a dependency and an output in stage: ingest" in text:
        text += f" ingest.source in {FILE} may not hold what stages write: put raw files into a folder of their own."
    return f"{PIPELINE}: {text}"


def _list_causes(error: BaseException) -> Iterator[BaseException]:
    """`error`, what it was raised from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
