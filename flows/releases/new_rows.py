"""Rows that the current release does not know, labeled with its model and not released yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.releases.dvc_lock import Pipeline, read_pipeline, require_same_params
from flows.releases.files import digest_file
from flows.releases.store import Release, read_release, verify_release
from tasks.cache.store import hash_as_dvc
from tasks.errors import DataError
from tasks.label_new import LabeledRows, label_rows
from tasks.lf.observation import find_lf_files
from tasks.params_file import FILE, read_params
from tasks.tables.block_layout import read_layout
from tasks.tables.parquet import count_rows
from tasks.tables.paths import BLOCKS, EMBEDDINGS, ENCODER, ITEMS, VALID_GOLD, VOTES

STAGES = ("ingest", "gold", "apply")
"""The stages that have to be up to date before new rows are labeled."""


@dataclass(frozen=True, kw_only=True)
class NewRows:
    """New rows, labeled and not released yet. inputs: DVC's hashes of what STAGES read and wrote."""

    labeled: LabeledRows
    inputs: Mapping[str, str]


def label_new_rows(root: Path) -> NewRows:
    """The rows below `root` that the current release does not know, labeled with its model.

    Raises
    ------
    DataError
        There is no release, it is damaged, or what labels rows changed since it was made.
    """
    base = verify_release(root, read_base(root).id)
    pipeline = read_pipeline(root, STAGES)
    _require_same_encoder(root, base, pipeline)
    require_same_params(base.path / FILE, pipeline)
    labeled = label_rows(root, base.path, base.id, read_params(base.path))
    return NewRows(labeled=labeled, inputs=pipeline.hashes)


def read_base(root: Path) -> Release:
    """The current release, if the labeling functions below `root` are those that its model knows.

    Raises
    ------
    DataError
        There is no release, it is damaged, or labeling functions or params changed since it was made.
    """
    base = read_release(root)
    sources = hash_lfs(root)
    known = base.manifest.lf_sources
    changed = sorted(path for path in {*sources, *known} if sources.get(path) != known.get(path))
    now, then = read_params(root), read_params(base.path)
    changed += [f"params.yaml: {name}" for name in ("classes", "apply") if getattr(now, name) != getattr(then, name)]
    if changed:
        raise DataError(
            f"{', '.join(changed)} changed since release {base.id}, whose model would not know what the votes mean. Run "
            "'epoxy run', then 'epoxy release'."
        )
    return base


def _require_same_encoder(root: Path, base: Release, pipeline: Pipeline) -> None:
    """Check that new rows are encoded as those of `base` were: an encoder that was fitted anew has other dimensions."""
    before, now = (hashes.get(str(ENCODER)) for hashes in (base.manifest.inputs, pipeline.hashes))
    if before is not None and before != now and count_rows(root / ENCODER):
        raise DataError(
            f"{ENCODER} was fitted on other texts than for release {base.id}, whose model would not know its dimensions. Run "
            "'epoxy run' and 'epoxy release'; to label later rows without a refit, first copy the encoder below "
            "ingest.source and name the copy in ingest.encoder.model."
        )
    before, now = (hashes.get(str(BLOCKS)) for hashes in (base.manifest.inputs, pipeline.hashes))
    if before != now and (before is not None or read_layout(root)):
        raise DataError(
            f"{BLOCKS}: the blocks of embeddings have other encoders or weights than for release {base.id}, whose model would "
            "not know their dimensions. Run 'epoxy run' and 'epoxy release'; to label later rows without a refit where a block "
            "is tfidf, first copy its encoder below ingest.source and name the copy in its encoder.model."
        )


def require_unchanged(root: Path, new_rows: NewRows, pipeline: Pipeline) -> None:
    """Check that what `new_rows` were labeled from is still there.

    Raises
    ------
    DataError
        A table that tells the rows has changed since.
    """
    paths = (ITEMS, EMBEDDINGS, VOTES, VALID_GOLD)
    for path in paths:
        if pipeline.hashes != new_rows.inputs or pipeline.hashes.get(str(path)) != hash_as_dvc(root / path):
            raise DataError(f"{path} changed while its new rows were labeled. Wait for the run to end, then repeat.")


def hash_lfs(root: Path) -> dict[str, str]:
    """The SHA-256 of each file of labeling functions, by its path below `root`: code, and whatever lies beside it and may be read,
    such as lists of words and answers of language models.
    """
    files = [path for path in find_lf_files(root) if path.suffix != ".dvc" and path.name != ".gitignore"]
    return {path.relative_to(root).as_posix(): digest_file(path).sha256 for path in files}
