"""The pipeline of a project without the tool's code: the files that the tool writes, and rewrites in an upgrade."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.runner.code_deps import replace_code_deps
from tasks.__main__ import STAGES
from tasks.cache.stage_code import CHECK, NOTES, describe_code, read_note
from tasks.errors import ParamsError
from tasks.fast_yaml import load_yaml
from tasks.lf.packages import LOCK
from tasks.tables.files import write_text
from tasks.tables.paths import SHIPPED_LABELS

TEMPLATE = Path(__file__).resolve().parent / "template"
"""Files of this repository that a project begins with; links here, files where the tool is installed. One called dvc.yaml
would be a pipeline to DVC."""

_DIGEST = Path(".epoxy/dvc.yaml.sha256")
"""The digest of dvc.yaml as the tool wrote it; a file that was edited since is not overwritten."""

_CODE_PIPELINE = Path(".epoxy/dvc.yaml")
"""Where the stage is that compares the notes with the code."""

_HEAD = "# The pipeline, written by Epoxy Flow; 'epoxy upgrade' writes it anew. Settings are in params.yaml.\n"


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """The effects of another version of the tool: stages with changed code, all stages that will rerun, and files kept."""

    changed: tuple[str, ...]
    again: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def may_change_labels(self) -> bool:
        """Whether the stage that writes the labels runs again."""
        return SHIPPED_LABELS.parts[1] in self.again


def compose_pipeline() -> str:
    """The text of dvc.yaml for a project without the tool's code."""
    text = (TEMPLATE / "pipeline.yaml").read_text(encoding="utf-8")
    body = text[text.index("stages:") :]
    return _HEAD + replace_code_deps(body, lambda stage: [(NOTES / stage).as_posix()])


def compose_code_pipeline() -> str:
    """.epoxy/dvc.yaml: a stage that DVC runs every time, and that fails where the code is another than the notes say.

    The notes are its outputs, so that every other stage comes after it. It leaves them as they are: nothing runs again
    because of it.
    """
    head = "# Fails where other code is installed than the project knows; 'epoxy upgrade' writes it anew.\n"
    outs = "".join(f"      - {NOTES}/{stage}: {{cache: false, persist: true}}\n" for stage in STAGES)
    stage = f"    cmd: python -m tasks {CHECK}\n    wdir: ..\n    always_changed: true\n    outs:\n{outs}"
    return f"{head}stages:\n  {CHECK}:\n{stage}"


def write_pipeline(root: Path) -> None:
    """Write dvc.yaml, the lock, and the notes on each stage's code."""
    text = compose_pipeline()
    write_text(root / "dvc.yaml", text)
    write_text(root / _DIGEST, f"{_digest(text)}\n")
    _write_notes(root)


def _write_notes(root: Path) -> None:
    """Write the notes, the stage that compares them, and the lock of the packages that the tool is installed with."""
    write_text(root / _CODE_PIPELINE, compose_code_pipeline())
    write_text(root / LOCK, (TEMPLATE / LOCK).read_text(encoding="utf-8"))
    for stage in STAGES:
        write_text(root / NOTES / stage, describe_code(stage))


def plan_upgrade(root: Path) -> Upgrade:
    """The effects that `upgrade` would have on the project at `root`.

    Raises
    ------
    ParamsError
        The project has no notes: it holds the tool's code, which Git upgrades.
    """
    if not (root / NOTES).is_dir():
        raise ParamsError(
            f"{root}: no {NOTES}, so this project holds the tool's code. Upgrade it with Git and 'make env'."
        )
    text = compose_pipeline()
    before = (root / "dvc.yaml").read_text(encoding="utf-8")
    is_edited = _digest(before) != (root / _DIGEST).read_text(encoding="utf-8").strip()
    old, new = (load_yaml(content)["stages"] for content in (before, before if is_edited else text))
    changed = [
        stage
        for stage in new
        if old.get(stage) != new[stage]
        or (stage in STAGES and read_note(root, stage) != describe_code(stage))
        or (str(LOCK) in new[stage]["deps"] and not _has_same_lock(root))
    ]
    return Upgrade(
        changed=tuple(changed),
        again=tuple(_follow(new, changed)),
        kept=("dvc.yaml",) if is_edited and before != text else (),
    )


def upgrade(root: Path) -> Upgrade:
    """Bring the project at `root` up to date with the installed tool; what was changed."""
    planned = plan_upgrade(root)
    if planned.kept:
        write_text(root / "dvc.yaml.new", compose_pipeline())
        _write_notes(root)
    else:
        write_pipeline(root)
    return planned


def _has_same_lock(root: Path) -> bool:
    """Whether the project has the lock of the installed tool."""
    try:
        return (root / LOCK).read_bytes() == (TEMPLATE / LOCK).read_bytes()
    except FileNotFoundError:
        return False


def _follow(stages: dict[str, dict[str, list[object]]], changed: list[str]) -> list[str]:
    """The stages in `changed` and all that depend on them, in the order of the pipeline."""
    again: list[str] = []
    written: set[str] = set()
    for stage, definition in stages.items():
        if stage in changed or written & {str(dep) for dep in definition["deps"]}:
            again.append(stage)
            written |= set(list_outs(definition))
    return again


def list_outs(definition: Mapping[str, Any]) -> list[str]:
    """The paths that a stage of dvc.yaml writes, metrics included."""
    outs = [out for kind in ("outs", "metrics") for out in definition.get(kind, ())]
    return [next(iter(out)) if isinstance(out, dict) else str(out) for out in outs]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
