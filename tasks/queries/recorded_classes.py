"""The classes whose positions the artifacts hold: those that params.yaml had when their stages ran."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import DataError
from tasks.fast_yaml import load_yaml

LOCK = "dvc.lock"


def require_recorded_classes(root: Path, classes: Sequence[str]) -> None:
    """Check that position c in the artifacts below `root` means `classes[c]`, as far as dvc.lock says.

    Further classes at the end are no harm, since they move none.

    Raises
    ------
    DataError
        A stage ran with other classes, or in another order.
    """
    recorded = {stage: params.get("classes") for stage, params in read_recorded_params(read_lock(root)).items()}
    for stage, known in recorded.items():
        if isinstance(known, list) and list(classes[: len(known)]) != known:
            raise DataError(
                f"data/{stage} is of the classes {', '.join(map(str, known))}, in this order, and params.yaml has "
                f"{', '.join(classes)}. Run 'epoxy run', which computes everything of the classes that are there now."
            )


def read_lock(root: Path) -> dict[str, dict[str, Any]]:
    """Return the stages of dvc.lock below `root`, none where nothing has run or the file is damaged, which DVC tells."""
    try:
        stages = load_yaml((root / LOCK).read_bytes())["stages"]
        return {name: noted for name, noted in stages.items() if isinstance(noted, dict)}
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def read_recorded_params(stages: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by stage the sections of params.yaml with which it ran."""
    found = {}
    for name, noted in stages.items():
        files = noted.get("params")
        params = files.get("params.yaml") if isinstance(files, dict) else None
        found[name] = params if isinstance(params, dict) else {}
    return found
