"""Where a project and its results are; imports nothing slow."""

import contextlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path

from tasks.errors import ParamsError, require_sound_environment
from tasks.tables.paths import END_MODEL_SUMMARY, METRICS, REPORT, SHIPPED_LABELS

PIPELINE = "dvc.yaml"
"""The pipeline's definition, in the project's root."""


def find_root(start: Path) -> Path:
    """The DVC project that `start` lies in.

    Raises
    ------
    ParamsError
        There is none, or it has no dvc.yaml.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / ".dvc").is_dir():
            if not (folder / PIPELINE).is_file():
                raise ParamsError(f"{folder}: no {PIPELINE} there; expected the pipeline's definition beside .dvc/")
            return folder
    raise ParamsError(f"{start.resolve()}: not inside a DVC project; go to the folder that holds {PIPELINE} and .dvc/")


@contextlib.contextmanager
def in_project() -> Iterator[Path]:
    """The root of the project that the current folder lies in; it is the working directory meanwhile.

    Raises
    ------
    ParamsError
        As `find_root` and `require_sound_environment`.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise ParamsError("the current folder no longer exists; go to the project's root") from None
    require_sound_environment()
    root = find_root(here)
    with contextlib.chdir(root):
        yield root


def describe_end(root: Path, outdated: Collection[Path] = ()) -> str:
    """How a run ends: where the results are, and by how many labels the other answer would differ if gold could not tell."""
    other = _find_alternative(root)
    return describe_results(root, outdated) + (f"\n\n{other}" if other else "")


def _find_alternative(root: Path) -> str | None:
    """The sentence of `train` on the labels that could be shipped as well, None where gold decided."""
    try:
        found = json.loads((root / END_MODEL_SUMMARY).read_text(encoding="utf-8"))["alternative"]
        return None if found is None else str(found["summary"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # of an earlier version, or damaged, which the next stage that needs it tells


def find_results(root: Path) -> dict[str, Path]:
    """The results that exist below `root`, by what they are."""
    results = {"labels": SHIPPED_LABELS, "metrics": METRICS, "report": REPORT}
    return {what: path for what, path in results.items() if (root / path).is_file()}


def describe_results(root: Path, outdated: Collection[Path] = ()) -> str:
    """A line per result that exists: what it is and where, and that it is not up to date if it is in `outdated`."""
    lines = []
    for what, path in find_results(root).items():
        note = "  not up to date: 'epoxy run' renews it" if root / path in outdated else ""
        lines.append(f"{what:<8} {path}{note}")
    return "\n".join(lines)
