"""How long each stage took when it last ran on this machine: a file per stage, so that no two processes share one."""

import contextlib
from pathlib import Path
from urllib.parse import quote

_FOLDER = Path(".dvc", "tmp", "epoxy-seconds")


def note_seconds(root: Path, stage: str, seconds: float) -> None:
    """Remember that `stage` took so many seconds; where that cannot be written, nobody misses it."""
    path = root / _FOLDER / quote(stage, safe="")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{seconds:.1f}\n", encoding="utf-8")


def read_seconds(root: Path, stage: str) -> float | None:
    """How long `stage` took when it last ran here, None where nobody knows."""
    with contextlib.suppress(OSError, ValueError):
        return float((root / _FOLDER / quote(stage, safe="")).read_text(encoding="utf-8"))
    return None
