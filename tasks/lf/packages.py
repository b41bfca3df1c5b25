"""The versions of packages that labeling functions import, compared with the files that pin them.

DVC sees files only: another version of a package could change votes without changing any dependency of the stage. So
the stage depends on requirements.lock and lfs/, and runs only if what LFs import is installed in a version pinned there.
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
"""Further or different versions for LFs, written by the LFs' author."""

_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", flags=re.MULTILINE)


def require_pinned(root: Path, files: Iterable[Path]) -> list[str]:
    """The packages, among those that the LFs' `files` import and their requirements, that no file pins.

    Raises
    ------
    LabelingFunctionError
        The installed version of a package is not the one that the project at `root` pins.
    """
    if not (root / LOCK).is_file():
        return []  # not a DVC project, so that nothing depends on the file
    lf_pins = _read_pins(root / PINS)
    pins = {**_read_pins(root / LOCK), **lf_pins}
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
                # A plus sign begins the name of a build of the same version.
                elif version.partition("+")[0] not in {pin.partition("+")[0] for pin in wanted}:
                    where = PINS if name in lf_pins else LOCK
                    raise LabelingFunctionError(
                        f"{file.relative_to(root.resolve())} imports {library}, for which {name} {version} is installed; "
                        f"{where} says {' or '.join(sorted(wanted))}, and votes would be recorded as made with that. Install "
                        f"that, or write '{name}=={version}' into {PINS}."
                    )
    return list(unpinned)


def _is_installed(library: str) -> bool:
    """Whether a top-level module belongs to an installed package, and not to Python or the project."""
    return bool(library) and library not in {*PACKAGES, *sys.stdlib_module_names}


def _read_pins(path: Path) -> dict[str, set[str]]:
    """The versions in a requirements file, by normalized package name; a package may have several, under conditions."""
    pins: dict[str, set[str]] = {}
    if path.is_file():
        for name, version in _PIN.findall(path.read_text(encoding="utf-8", errors="replace")):
            pins.setdefault(normalize(name), set()).add(version)
    return pins
