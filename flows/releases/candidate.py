"""The candidate: all files of a release to be, checked, before the gates decide on it."""

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import polars as pl

from flows.releases.dvc_lock import Pipeline, read_pipeline, require_same_params
from flows.releases.figures import measure_figures
from flows.releases.files import FileEntry, copy_file, digest_file, write_file
from flows.releases.lineage import read_log
from flows.releases.manifest import (
    CONTENTS,
    FIGURES,
    MANIFEST,
    QUARANTINED,
    ROWS,
    TABLES,
    CertifiedLabels,
    Manifest,
    compute_checksum,
    compute_id,
    encode_json,
)
from flows.releases.new_rows import STAGES, NewRows, hash_lfs, require_unchanged
from flows.releases.records import next_sequence, read_commit
from flows.releases.store import LOG, Release, check_file, read_release, validate_contents
from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.params import Params
from tasks.params_file import FILE, read_params
from tasks.tables import schemas
from tasks.tables.files import mask_mode, sync_folder
from tasks.tables.parquet import count_rows, read_table, write_table
from tasks.tables.paths import QUARANTINE
from tasks.tables.release_rows import read_rows

_PACKAGES = ("epoxy-flow", "numpy", "polars", "pyarrow", "faiss-cpu", "flyingsquid", "pgmpy", "scikit-learn", "dvc")
"""Whose versions can change a label."""


def assemble_candidate(root: Path, part: Path, new_rows: NewRows | None) -> Manifest:
    """The manifest of the candidate, after all its files are in folder `part`, checked.

    Raises
    ------
    DataError, ParamsError
        An artifact is missing, damaged, not of the last complete run, or changes meanwhile.
    """
    part.chmod(mask_mode(0o777))  # mkdtemp makes folders that only their maker may enter
    base = read_release(root, new_rows.labeled.base) if new_rows else None
    pipeline = read_pipeline(root, STAGES if new_rows else None)
    files = _copy_base(part, base) if base else _copy_run(root, part, pipeline)
    checked = read_params(part)
    if new_rows:
        require_unchanged(root, new_rows, pipeline)
        for name, schema in _schemas(checked.classes, new_rows.labeled.votes).items():
            _write_table(part / f"{name}.parquet", getattr(new_rows.labeled, name), schema)
    else:
        require_same_params(part / FILE, pipeline)
        _write_table(part / ROWS, read_rows(root), schemas.ROWS)
    if (root / QUARANTINE).exists() and count_rows(root / QUARANTINE):
        files[QUARANTINED] = _copy_recorded(root, part, QUARANTINED, QUARANTINE, pipeline)
    validate_contents(part, checked.classes)
    figures = measure_figures(root, part, checked)
    write_file(part / FIGURES, encode_json(figures))
    for path in part.iterdir():
        if path.name not in files:
            files[path.name] = digest_file(path)
    lf_sources = hash_lfs(root)
    if read_pipeline(root, STAGES if new_rows else None).hashes != pipeline.hashes:
        raise DataError("dvc.lock changed while it was being released. Wait for the run to end, then release.")
    commit = read_commit(root)
    inputs = {**base.manifest.inputs, **pipeline.hashes} if base else pipeline.hashes
    manifest = Manifest(
        format=2,
        id=compute_id(files, inputs),
        sequence=next_sequence(part.parent, read_log(part.parent / LOG)),
        mode="label-new" if new_rows else "run",
        base=base.id if base else None,
        rows=new_rows.labeled.counts if new_rows else None,
        classes=checked.classes,
        items=figures.items,
        labels=figures.labels,
        certified=_count_certified(part, checked),
        files=dict(sorted(files.items())),
        inputs=dict(sorted(inputs.items())),
        lf_sources=lf_sources,
        packages=_read_versions(),
        python=".".join(str(number) for number in sys.version_info[:3]),
        commit=commit.id,
        dirty=commit.is_dirty,
        checksum="",
    )
    manifest = manifest.model_copy(update={"checksum": compute_checksum(manifest)})
    write_file(part / MANIFEST, encode_json(manifest))
    sync_folder(part)
    return manifest


def _copy_run(root: Path, part: Path, pipeline: Pipeline) -> dict[str, FileEntry]:
    """The files of the last run, copied to `part`."""
    return {name: _copy_recorded(root, part, name, source, pipeline) for name, source in CONTENTS.items()}


def _copy_recorded(root: Path, part: Path, name: str, source: Path, pipeline: Pipeline) -> FileEntry:
    """The file `name` in folder `part`, a copy of `source`, which is as dvc.lock knows it."""
    copied = copy_file(root / source, part / name)
    known = pipeline.hashes.get(str(source))
    if known is not None and known != copied.md5:
        # DVC takes a file of equal size and modification time for unchanged, so that a run alone repairs nothing.
        raise DataError(
            f"{source} is not the one in dvc.lock. Run 'rm {source}', then 'epoxy run', which brings it back, then release."
        )
    return copied.entry


def _copy_base(part: Path, base: Release) -> dict[str, FileEntry]:
    """The files of `base` that labeling new rows leaves as they are, copied to `part`."""
    files = {}
    for name in CONTENTS:
        if name.removesuffix(".parquet") not in TABLES:
            files[name] = copy_file(check_file(base, name), part / name).entry
    return files


def _count_certified(part: Path, params: Params) -> CertifiedLabels | None:
    """Which labels in folder `part` are certified; None where they are of a version that had no certificates."""
    labels = read_table(part / "labels.parquet", schemas.end_labels(params.classes))
    if "is_certified" not in labels.columns:
        return None
    certified = labels.filter("is_certified")
    counts = dict(certified["label"].value_counts().iter_rows())
    return CertifiedLabels(
        error_rate=params.train.certify.error_rate,
        confidence=params.train.certify.confidence,
        items=certified.height,
        labels={name: counts.get(name, 0) for name in params.classes},
    )


def _schemas(classes: Sequence[str], votes: pl.DataFrame) -> dict[str, schemas.TableSchema]:
    """The schemas of TABLES."""
    k = len(classes)
    return {
        "labels": schemas.end_labels(classes),
        "votes": schemas.votes(k, votes.columns),
        "provenance": schemas.provenance(k, votes.schema[ITEM_ID]),
        "rows": schemas.ROWS,
    }


def _write_table(path: Path, table: pl.DataFrame, schema: schemas.TableSchema) -> None:
    write_table(path, table, schema)
    path.chmod(0o444)


def _read_versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
