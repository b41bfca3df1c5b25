"""A small project as a finished run leaves it, written without running the pipeline, and what tests of releases do to it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from flows.releases.create import create_release
from flows.releases.policy import GateLimits
from tasks.cache.store import hash_as_dvc
from tasks.core.classifiers.end_model import EndParameters
from tasks.core.classifiers.softmax import SoftmaxRegression
from tasks.core.classifiers.spectral import SpectralMap
from tasks.core.label_models.nearvote import NearvoteParameters
from tasks.params import Metric
from tasks.tables import schemas
from tasks.tables.centers import Centers, write_centers
from tasks.tables.files import write_json, write_text
from tasks.tables.muted import write_muted
from tasks.tables.parquet import write_table
from tasks.tables.paths import (
    ARTIFACTS,
    EMBEDDINGS,
    END_MODEL,
    END_MODEL_SUMMARY,
    ITEMS,
    KEPT_CENTERS,
    LABEL_MODEL,
    METRICS,
    NEIGHBORS,
    PROVENANCE,
    REPORT,
    SHIPPED_LABELS,
    THRESHOLDS,
    VALID_GOLD,
    VOTES,
)
from tasks.tables.saved_descriptions import write_no_descriptions
from tasks.tables.saved_model import SavedModel, write_model
from tasks.tables.thresholds import Thresholds

CLASSES = ("ham", "spam")

PARAMS = yaml.safe_load((Path(__file__).resolve().parents[1] / "params.yaml").read_text()) | {
    "classes": list(CLASSES),
    "ingest": {"source": "raw"},
    "apply": {"source": "lfs/spam.py"},
    "evaluate": {"bootstrap": 0},
}
"""The shipped params, so that a section added there is there, for two classes and another source."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run made: labels as class positions, votes per LF, extended votes as (item, LF, vote, neighbor).

    Items are called a, b, c ...; the first two are valid and have gold, the rest are train.
    """

    labels: Sequence[int] = (0, 1, 0, 1)
    votes: dict[str, Sequence[int]] = field(default_factory=lambda: {"offer": (-1, 1, -1, 1), "hello": (0, -1, -1, -1)})
    lent: Sequence[tuple[str, str, int, str]] = (("c", "hello", 0, "a"),)
    gold: Sequence[int] = (0, 1)
    embeddings: Sequence[tuple[float, float]] = ((1, 0), (0, 1), (1, 0), (0, 1))
    threshold: float = 0.5
    comment: str = ""
    balance: float = 0.5


A, B, C = Run(comment="a"), Run(comment="b"), Run(comment="c")
"""Runs that differ in their report alone."""

FLIPPED = Run(labels=(0, 1, 1, 1))
"""A run that labels c differently."""

DEFAULT = GateLimits.model_validate({})

OPEN = GateLimits.model_validate(
    {"minimum_coverage": None, "maximum_flipped": None, "maximum_balance_shift": None, "maximum_metric_drop": None}
)
"""Limits that let the runs above follow each other."""

SETTLED = OPEN.model_copy(update={"maximum_neighbor_shift": None, "maximum_centroid_shift": None})
"""Limits for releases of so few rows that each new row moves the whole."""


def write_run(root: Path, run: Run) -> None:
    """Write artifacts, params.yaml and dvc.lock of `run` below `root`."""
    n = len(run.labels)
    ids = [chr(ord("a") + row) for row in range(n)]
    item = pl.Series("item_id", ids)
    original = [sum(column[row] != -1 for column in run.votes.values()) for row in range(n)]
    P = [0.1 if label == 0 else 0.9 for label in run.labels]
    labels = pl.DataFrame(
        {
            "item_id": item,
            "label": [CLASSES[label] for label in run.labels],
            "p_ham": [1 - p for p in P],
            "p_spam": P,
            "original_votes": pl.Series(original, dtype=pl.Int32),
            "is_certified": [label == 0 for label in run.labels],
        }
    )
    write_table(root / SHIPPED_LABELS, labels, schemas.end_labels(CLASSES))
    votes = pl.DataFrame(
        {"item_id": item, **{lf: pl.Series(list(column), dtype=pl.Int8) for lf, column in run.votes.items()}}
    )
    write_table(root / VOTES, votes, schemas.votes(2, run.votes))
    write_no_descriptions(root)
    write_muted(root, (), [])
    provenance = pl.DataFrame(
        {
            "item_id": [lent[0] for lent in run.lent],
            "lf": [lent[1] for lent in run.lent],
            "vote": [lent[2] for lent in run.lent],
            "neighbor": [lent[3] for lent in run.lent],
            "similarity": [1.0] * len(run.lent),
        },
        schema={
            "item_id": pl.String,
            "lf": pl.String,
            "vote": pl.Int8,
            "neighbor": pl.String,
            "similarity": pl.Float32,
        },
    )
    write_table(root / PROVENANCE, provenance, schemas.provenance(2, pl.String))
    items = pl.DataFrame({"item_id": item, "split": ["valid"] * 2 + ["train"] * (n - 2)})
    write_table(root / ITEMS, items, schemas.ITEMS)
    gold = pl.DataFrame({"item_id": ids[: len(run.gold)], "gold": pl.Series(list(run.gold), dtype=pl.Int8)})
    write_table(root / VALID_GOLD, gold.cast({"item_id": pl.String}), schemas.gold(2))
    embeddings = pl.DataFrame(
        {"item_id": item, "embedding": pl.Series(list(run.embeddings), dtype=pl.Array(pl.Float32, 2))}
    )
    write_table(root / EMBEDDINGS, embeddings, schemas.embeddings(2))
    write_centers(root / KEPT_CENTERS, Centers.none())
    near = pl.DataFrame(
        {
            "item_id": item,
            "hello/0/similarity": pl.Series([None, 0.0, 1.0, 0.0][:n] + [0.0] * (n - 4), dtype=pl.Float32),
            "hello/0/neighbor": pl.Series([None] + ["a"] * (n - 1), dtype=pl.String),
        }
    )
    write_table(root / NEIGHBORS, near, schemas.neighbors(near.columns, pl.String))
    thresholds = Thresholds(
        metric=Metric.COSINE,
        method="fixed",
        objective=None,
        chosen_on="nothing",
        curve_metric="none",
        thresholds={lf: run.threshold if lf == "hello" else None for lf in run.votes},
    )
    write_json(root / THRESHOLDS, thresholds.model_dump(mode="json"))
    write_json(root / LABEL_MODEL, {"kind": "majority_vote", "class_balance": [run.balance, 1 - run.balance]})
    write_json(root / END_MODEL_SUMMARY, {"bandwidth": 0.5})
    write_model(root / END_MODEL, make_model(tuple(run.votes), run.balance))
    write_json(root / METRICS, {"valid": {"majority_vote": {"accuracy": 1.0}}})
    write_text(root / REPORT, f"<!doctype html>\n<!-- {run.comment} -->\n")
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False) + f"# {run.comment}\n")
    (root / "lfs").mkdir(exist_ok=True)
    (root / "lfs" / "spam.py").write_text("# labeling functions\n")
    write_lock(root)


def make_model(lfs: tuple[str, ...], balance: float = 0.5) -> SavedModel:
    """A model without gold that knows two classes in two dimensions: (1, 0) is ham, (0, 1) is spam."""
    pure = SoftmaxRegression(coef=np.eye(2), intercept=np.zeros(2))
    half = np.array([balance, 1 - balance])
    return SavedModel(
        classes=CLASSES,
        lfs=lfs,
        metric=Metric.COSINE,
        shipped="end_model",
        center=np.zeros(2, np.float32),
        scale=1.0,
        spectral_map=SpectralMap(mean=np.zeros(2), projection=np.eye(2)),
        head=pure,
        reliability=np.ones((len(lfs), 2)),
        bandwidth=0.5,
        nearvote=NearvoteParameters(
            class_balance=half, local=half, both=half, means=np.array([1, 1, np.nan]), weights=None, offsets=None
        ),
        end=EndParameters(student=pure, confidence=1.0, without_gold=np.array([0.0, 1.0]), gold=None),
        gold_vectors=np.empty((0, 2), np.float32),
        gold_classes=np.empty(0, np.int64),
    )


def write_lock(root: Path) -> None:
    """Write a dvc.lock that says that all artifacts there are come from params.yaml as it is."""
    made = [path for path in ARTIFACTS if (root / path).exists()]
    outs = [{"path": str(path), "hash": "md5", "md5": hash_as_dvc(root / path)} for path in sorted(made)]
    params = yaml.safe_load((root / "params.yaml").read_text())
    stages = {}
    of_stage = {
        "ingest": ["classes", "ingest"],
        "gold": ["classes"],
        "apply": ["classes", "apply"],
        "all": list(params),
    }
    for name, sections in of_stage.items():
        stages[name] = {
            "cmd": name,
            "deps": [{"path": "raw", "hash": "md5", "md5": "0" * 32 + ".dir"}],
            "params": {"params.yaml": {section: params[section] for section in sections}},
            "outs": [out for out in outs if name == "all" or f"/{name}/" in out["path"]],
        }
    plain = json.loads(json.dumps({"schema": "2.0", "stages": stages}))  # YAML would write what stages share only once
    (root / "dvc.lock").write_text(yaml.safe_dump(plain))


def add_rows(root: Path, rows: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Let ingest and apply have found `rows` of train as well, ids and embeddings; no LF votes on them."""
    ids = pl.Series("item_id", [item_id for item_id, _ in rows], dtype=pl.String)
    more = {
        ITEMS: (pl.DataFrame({"item_id": ids, "split": ["train"] * len(ids)}), schemas.ITEMS),
        EMBEDDINGS: (
            pl.DataFrame([ids, pl.Series("embedding", [vector for _, vector in rows], dtype=pl.Array(pl.Float32, 2))]),
            schemas.embeddings(2),
        ),
    }
    votes = pl.read_parquet(root / VOTES)
    silent = pl.DataFrame([ids, *(pl.Series(lf, [-1] * len(ids), dtype=pl.Int8) for lf in votes.columns[1:])])
    more[VOTES] = (silent, schemas.votes(2, votes.columns))
    for path, (table, schema) in more.items():
        write_table(root / path, pl.concat([pl.read_parquet(root / path), table]).sort("item_id"), schema)
    write_lock(root)


def release(root: Path, run: Run | None = None, limits: GateLimits = OPEN, **options: Any) -> str:
    """The id of a release of `run`, or of the run that the project holds."""
    if run is not None:
        write_run(root, run)
    return create_release(root, limits, **options).id


def hash_tree(folder: Path) -> dict[str, str]:
    """The hash of each file below `folder`, the lock apart, by path."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def flip_bit(path: Path, position: int) -> None:
    """Change a bit of the file at `path`, counted from its start and on from there past its end."""
    content = bytearray(path.read_bytes())
    content[(position // 8) % len(content)] ^= 1 << position % 8
    path.chmod(0o644)
    path.write_bytes(content)
