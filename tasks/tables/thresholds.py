"""thresholds.json: what extension needs, and how it came about."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.errors import DataError
from tasks.params import Metric, Threshold
from tasks.tables.files import read_json


class Thresholds(BaseModel):
    """thresholds.json: what extension needs, and how it came about."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: Metric
    """What the thresholds are in: a cosine, or a plain distance."""
    method: str
    objective: str | None
    """What was maximized; null where nothing was."""
    chosen_on: str
    curve_metric: str
    """What the metric in threshold_curves.csv is, and on what."""
    thresholds: dict[str, Threshold | None]
    """By LF, in the order of votes; null: do not extend."""


def read_thresholds(path: Path, lfs: list[str]) -> Thresholds:
    """Return the checked contents of thresholds.json, for exactly these LFs.

    Raises
    ------
    DataError
        The file is missing or damaged, or is about other LFs.
    """
    try:
        found = Thresholds.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "file"
        raise DataError(f"{path}: '{key}': {first['msg']}. Run 'dvc repro tune'.") from None
    if list(found.thresholds) != lfs:
        other = sorted(set(found.thresholds) ^ set(lfs)) or lfs
        raise DataError(
            f"{path}: its LFs are not those of the votes; they differ in {other[:5]}. Run 'dvc repro tune'."
        )
    return found
