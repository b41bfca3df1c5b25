"""The classes whose positions the artifacts hold: those that params.yaml had when their stages ran."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from tasks.errors import DataError

LOCK = "dvc.lock"

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""A safe loader: that in C takes 30 ms for the file, that in Python ten times as long."""


def require_recorded_classes(root: Path, classes: Sequence[str]) -> None:
    """Check that position c in the artifacts below `root` means `classes[c]`, as far as dvc.lock says.

    Further classes at the end are no harm, since they move none.

    Raises
    ------
    DataError
        A stage ran with other classes, or in another order.
    """
    try:
        loader = _Loader((root / LOCK).read_bytes())
        try:
            stages = loader.get_single_data()["stages"]
        finally:
            loader.dispose()
        recorded = {
            stage: noted.get("params", {}).get("params.yaml", {}).get("classes") for stage, noted in stages.items()
        }
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError, RecursionError):
        return  # nothing has run, or DVC will say what is wrong with its file
    for stage, known in recorded.items():
        if isinstance(known, list) and list(classes[: len(known)]) != known:
            raise DataError(
                f"data/{stage} is of the classes {', '.join(map(str, known))}, in this order, and params.yaml has "
                f"{', '.join(classes)}. Run 'epoxy run', which computes everything of the classes that are there now."
            )
