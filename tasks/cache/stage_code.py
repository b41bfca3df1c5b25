"""The code of a stage: which files it runs, and in a project without the tool's code, the note that stands for them.

Such a project has `.epoxy/code/STAGE`, a dependency of the stage, so that DVC runs it again when the note changes.
`epoxy upgrade` writes the notes. A stage that finds other code than its note says stops: DVC would record its results as
those of the code before. Under `dvc repro`, which asks only the stages that it runs, a stage `code` has the notes as its
outputs: it runs every time, writes nothing, and fails where a note is another, so that no stage after it is passed over.
"""

import hashlib
from pathlib import Path

from tasks.cache.code import PROJECT, find_code
from tasks.errors import StageError

NOTES = Path(".epoxy/code")
"""Where the notes are, below the project's root."""

CHECK = "code"
"""What `python -m tasks` calls the comparison of all notes with the code that is installed."""

_BESIDE = {"apply": ("tasks.labeling",)}
"""What a stage runs without importing it: LF modules do."""


def list_code(stage: str) -> tuple[str, ...]:
    """The files that `python -m tasks STAGE` runs, relative to the folder of the packages, ascending."""
    files = find_code(f"tasks.{stage}", "tasks.__main__", *_BESIDE.get(stage, ()))
    return tuple(path.relative_to(PROJECT).as_posix() for path in files)


def describe_code(stage: str) -> str:
    """What a note says: one line, the digest of the stage's files and of their names."""
    digest = hashlib.sha256()
    for name in list_code(stage):
        digest.update(f"{name}\n{hashlib.sha256((PROJECT / name).read_bytes()).hexdigest()}\n".encode())
    return f"{digest.hexdigest()}\n"


def read_note(root: Path, stage: str) -> str | None:
    """The note of `stage` in the project at `root`; None where there is none, as in a project with the tool's code."""
    try:
        return (root / NOTES / stage).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def require_noted_code(root: Path, *stages: str) -> None:
    """Return if the code of each of `stages` is what its note says.

    Raises
    ------
    StageError
        It is not.
    """
    other = [stage for stage in stages if (note := read_note(root, stage)) is not None and note != describe_code(stage)]
    if other:
        raise StageError(
            f"the installed Epoxy Flow runs other code in {', '.join(other)} than {NOTES} of this project says. Run 'epoxy "
            "upgrade', which shows what will run again, or install the version from before."
        )
