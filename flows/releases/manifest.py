"""manifest.json: what a release is made of and from, and the id that follows from both."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from flows.releases.figures import Frozen
from flows.releases.files import FileEntry
from tasks.params_file import FILE
from tasks.tables.paths import (
    END_MODEL,
    END_MODEL_SUMMARY,
    LABEL_MODEL,
    METRICS,
    PROVENANCE,
    REPORT,
    SHIPPED_LABELS,
    THRESHOLDS,
    VOTES,
)
from tasks.tables.release_rows import RowChanges

FOLDER = Path("releases")
"""Where releases are, below the project's root."""

MANIFEST = "manifest.json"
FIGURES = "figures.json"
ROWS = "rows.parquet"
QUARANTINED = "quarantine.parquet"
"""The rows that ingest left out; in releases of data of which it left some out."""

CONTENTS: Mapping[str, Path] = {
    "labels.parquet": SHIPPED_LABELS,
    "model.parquet": END_MODEL,
    "end_model.json": END_MODEL_SUMMARY,
    "label_model.json": LABEL_MODEL,
    "thresholds.json": THRESHOLDS,
    "metrics.json": METRICS,
    "report.html": REPORT,
    "votes.parquet": VOTES,
    "provenance.parquet": PROVENANCE,
    "params.yaml": Path(FILE),
}
"""What a release holds, and where it comes from. The votes and where extended ones came from make each label
explainable for as long as the release exists, whatever becomes of the cache; model and thresholds label new rows."""

TABLES = ("labels", "votes", "provenance", "rows")
"""The tables that a release of new rows has anew; all its other files are those of its base."""


class CertifiedLabels(Frozen):
    """Which labels of a release are certified: with `confidence` at most a share `error_rate` of them are wrong.

    labels: their number by class; none where gold could not tell.
    """

    error_rate: float
    confidence: float
    items: int
    labels: dict[str, int]


class Manifest(Frozen):
    """manifest.json: what a release is made of and from.

    mode: `run`, the pipeline ran on all rows; `label-new`, rows that release `base` did not know were labeled with its
    model, and `rows` counts them. files: by name. inputs: DVC's hash of everything the pipeline read and wrote, by
    path, code included (label-new: the base's, and what tells the new rows). lf_sources: SHA-256 of each file below
    lfs/. certified: None in releases of earlier versions. sequence: when it was first made, counted, not timed. checksum: of the rest.
    """

    format: Literal[2]
    id: str
    sequence: int
    mode: Literal["run", "label-new"]
    base: str | None
    rows: RowChanges | None
    classes: tuple[str, ...]
    items: int
    labels: dict[str, int]
    certified: CertifiedLabels | None = None
    files: dict[str, FileEntry]
    inputs: dict[str, str]
    lf_sources: dict[str, str]
    packages: dict[str, str]
    python: str
    commit: str | None
    dirty: bool | None
    checksum: str


def compute_id(files: Mapping[str, FileEntry], inputs: Mapping[str, str]) -> str:
    """The id of a release, twelve hexadecimal digits of a hash of its files and of what they were made from."""
    # Figures follow from the rest, and their last digit may depend on the processor.
    contents = {name: entry.sha256 for name, entry in files.items() if name != FIGURES}
    return _hash({"files": contents, "inputs": dict(inputs)})[:12]


def compute_checksum(manifest: Manifest) -> str:
    """The hash of `manifest` without its checksum."""
    # A release of before there were certificates has a checksum without them.
    unknown = {"certified"} if manifest.certified is None else set()
    return _hash(json.loads(manifest.model_dump_json(exclude={"checksum"} | unknown)))


def encode_json(value: Frozen) -> bytes:
    """The bytes of `value` in a file of a release."""
    return value.model_dump_json(indent=2).encode() + b"\n"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
