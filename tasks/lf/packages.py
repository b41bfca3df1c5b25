"""Which versions of packages labeling functions import, held against the files that say which they should be.

DVC sees files alone: a package that is installed anew changes votes and no dependency of the stage. So the stage depends
on requirements.lock and on lfs/, and runs only where what LFs import is installed as one of these files says.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from tasks.cache.code import PACKAGES, find_imports, find_package, find_versions, normalize
from tasks.errors import LabelingFunctionError

LOCK = Path("requirements.lock")
"""The versions of the environment."""

PINS = Path("lfs/requirements.txt")
"""Versions of packages that LFs need besides, or instead; the LFs' author writes it."""

_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", flags=re.MULTILINE)


def require_pinned(root: Path, files: Iterable[Path]) -> list[str]:
    """Check the packages that the LFs' `files` import, and what these require; returns those that no file pins.

    Raises
    ------
    LabelingFunctionError
        A package is installed in another version than the project at `root` says; names it, who imports it, and the cure.
    """
    if not (root / LOCK).is_file():
        return []  # no project of DVC's, which would miss the file
    own = _read_pins(root / PINS)
    pins = {**_read_pins(root / LOCK), **own}
    unpinned: dict[str, None] = {}
    for file in sorted(files):
        for library in sorted({name.partition(".")[0] for name in find_imports(file)}):
            package = find_package(library) if _is_installed(library) else None
            if package is None:
                continue
            versions = find_versions(library)
            for name, version in versions.items():
                wanted = pins.get(name)
                if wanted is None:
                    if name == package:
                        unpinned.setdefault(f"{name}=={version}")
                # What stands behind a plus names a build of the same version.
                elif version.partition("+")[0] not in {pin.partition("+")[0] for pin in wanted}:
                    where = PINS if name in own else LOCK
                    raise LabelingFunctionError(
                        f"{file.relative_to(root.resolve())} imports {library}, for which {name} {version} is installed; "
                        f"{where} says {' or '.join(sorted(wanted))}, and votes would be recorded as made with that. Install "
                        f"that, or write '{name}=={version}' into {PINS}."
                    )
    return list(unpinned)


def _is_installed(library: str) -> bool:
    """Whether a top-level name is that of a module of a package, neither Python's nor the project's."""
    return bool(library) and library not in {*PACKAGES, *sys.stdlib_module_names}


def _read_pins(path: Path) -> dict[str, set[str]]:
    """The versions that a file of requirements gives to packages, by normalized name; several have conditions."""
    pins: dict[str, set[str]] = {}
    if path.is_file():
        for name, version in _PIN.findall(path.read_text(encoding="utf-8", errors="replace")):
            pins.setdefault(normalize(name), set()).add(version)
    return pins
