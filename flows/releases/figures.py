"""What is kept of a release so that the next can be compared with it: shares, scores and drift statistics."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
import pydantic

from tasks.core import metrics
from tasks.core.types import ABSTAIN, ITEM_ID
from tasks.params import Metric, Params
from tasks.tables import schemas
from tasks.tables.files import read_json
from tasks.tables.muted import mute
from tasks.tables.parquet import BYTES_AT_ONCE, read_batches, read_schema, read_table, read_votes
from tasks.tables.paths import EMBEDDINGS, ITEMS, SHIPPED_LABELS, VALID_GOLD, VOTES
from tasks.tables.validation import require_same_items

if TYPE_CHECKING:  # it imports search and models, a second of a processor for whoever only reads a release
    from tasks.label_new import LabeledRows

DECIMALS = 6
"""Of every figure: hides the order of summation, which processors may differ in, and no gate asks for more."""

_QUANTILES = np.linspace(0, 1, 101)
"""Where the distribution of similarities is kept; their mean distance to another's is close to the area between."""


class Frozen(pydantic.BaseModel):
    """A part of a stored file: frozen, every key known, nothing converted, no NaN."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class LfFigures(Frozen):
    """One LF: its votes, the share of items they cover before and after extension, and how often the label agrees.

    agreement: share of the LF's original votes that equal the item's label; None without votes. threshold: None where it
    is not extended.
    """

    votes: int
    coverage: float
    coverage_extended: float
    agreement: float | None
    threshold: float | None


class EmbeddingFigures(Frozen):
    """Where the embeddings lie: their mean and the root mean square distance to it; unit vectors under cosine."""

    metric: str
    width: int
    centroid: tuple[float, ...]
    spread: float


class SimilarityFigures(Frozen):
    """Per item with an abstaining LF, the similarity of the nearest support item of any LF: quantiles, deviation."""

    quantiles: tuple[float, ...]
    deviation: float


class ValidScores(Frozen):
    """How good the labels are on the gold of valid."""

    gold: int
    accuracy: float
    macro_f1: float


class Figures(Frozen):
    """All that gates compare, apart from the labels themselves.

    coverage: share of items with a vote, original or extended; coverage_original: with an original vote. columns: type by column of labels and items. None
    where there is nothing to measure.
    """

    items: int
    coverage: float
    coverage_original: float
    labels: dict[str, int]
    valid: ValidScores | None
    lfs: dict[str, LfFigures]
    embeddings: EmbeddingFigures | None
    similarity: SimilarityFigures | None
    columns: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class NewRowFigures:
    """Where rows lie that were labeled without a refit. similarity: None where none of them has a neighbor."""

    rows: int
    embeddings: EmbeddingFigures
    similarity: SimilarityFigures | None


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Two releases' labels joined by item id.

    common: items of both. flipped: item_id, before, after; ascending. new, deleted: items of a single release.
    """

    common: int
    flipped: pl.DataFrame
    new: int
    deleted: int

    @property
    def share(self) -> float | None:
        """Share of common items that flipped; None without any."""
        return self.flipped.height / self.common if self.common else None


def compare_labels(before: pl.DataFrame, after: pl.DataFrame) -> Flips:
    """Which items of two tables of labels have another label; ids of different types have nothing in common.

    >>> old = pl.DataFrame({"item_id": [1, 2, 3], "label": ["a", "a", "b"]})
    >>> compare_labels(old, pl.DataFrame({"item_id": [2, 3, 4], "label": ["b", "b", "b"]})).flipped.rows()
    [(2, 'a', 'b')]
    """
    if before.schema[ITEM_ID] != after.schema[ITEM_ID]:
        nothing = pl.DataFrame(schema={ITEM_ID: after.schema[ITEM_ID], "before": pl.String, "after": pl.String})
        return Flips(common=0, flipped=nothing, new=after.height, deleted=before.height)
    old = before.select(ITEM_ID, before=pl.col("label"))
    new = after.select(ITEM_ID, after=pl.col("label"))
    both = old.join(new, on=ITEM_ID, how="inner", maintain_order="left")
    return Flips(
        common=both.height,
        flipped=both.filter(pl.col("before") != pl.col("after")),
        new=new.height - both.height,
        deleted=old.height - both.height,
    )


def measure_figures(root: Path, files: Path, params: Params) -> Figures:
    """The figures of the release whose files lie in `files`, made in the project at `root`.

    The embeddings are read from data/, a row group at a time: they are no part of a release.

    Raises
    ------
    DataError
        A table is missing or damaged, or tables do not hold the same items.
    """
    labels = read_table(files / "labels.parquet", schemas.end_labels(params.classes))
    votes = mute(read_votes(files / "votes.parquet", len(params.classes)), params.apply.mute)
    require_same_items(SHIPPED_LABELS, labels, VOTES, votes)
    lent = schemas.provenance(len(params.classes), votes.schema[ITEM_ID])
    extended = _count_extended(files / "provenance.parquet", lent, labels)
    rows = read_table(files / "rows.parquet", schemas.ROWS, [ITEM_ID, "similarity"])
    thresholds = read_json(files / "thresholds.json")["thresholds"]
    n = max(labels.height, 1)
    by_label = dict(labels["label"].value_counts().iter_rows())
    return Figures(
        items=labels.height,
        coverage=_plain(extended.reached / n),
        coverage_original=_plain(int((labels["original_votes"] > 0).sum()) / n),
        labels={name: by_label.get(name, 0) for name in params.classes},
        valid=_score(root / VALID_GOLD, labels, params.classes),
        lfs=_measure_lfs(votes, extended.by_lf, labels, params.classes, thresholds),
        embeddings=_measure_embeddings(root / EMBEDDINGS, params.index.metric),
        similarity=_measure_similarity(rows["similarity"].drop_nulls().to_numpy()),
        columns={
            # Always there since there are certificates; a change of version is no change of the data.
            **{f"labels.{name}": str(kind) for name, kind in labels.schema.items() if name != "is_certified"},
            **{f"items.{name}": str(kind) for name, kind in read_schema(root / ITEMS).items()},
        },
    )


@dataclass(frozen=True, kw_only=True)
class _Extended:
    """Extended votes of each LF, and how many items have a vote of any kind."""

    by_lf: Mapping[str, int]
    reached: int


def _count_extended(path: Path, schema: schemas.TableSchema, labels: pl.DataFrame) -> _Extended:
    """The extended votes at `path`, read part by part: there may be ten times as many as items, which are those of `labels`."""
    by_lf: Counter[str] = Counter()
    ids, is_reached = labels[ITEM_ID], (labels["original_votes"] > 0).to_numpy().copy()
    for batch in read_batches(path, schema, [ITEM_ID, "lf"], size=BYTES_AT_ONCE):
        by_lf.update(dict(batch["lf"].value_counts().iter_rows()))
        is_reached[ids.search_sorted(batch[ITEM_ID].unique()).to_numpy()] = True
    return _Extended(by_lf=by_lf, reached=int(is_reached.sum()))


def _score(path: Path, labels: pl.DataFrame, classes: tuple[str, ...]) -> ValidScores | None:
    gold = read_table(path, schemas.gold(len(classes)))
    if gold.is_empty():
        return None
    labeled = labels.join(gold, on=ITEM_ID, how="semi", maintain_order="left")
    require_same_items(path, gold, SHIPPED_LABELS, labeled)
    P = labeled.select(schemas.probability_column(name) for name in classes).to_numpy()
    scores = metrics.score(P, gold["gold"].to_numpy())
    return ValidScores(gold=gold.height, accuracy=_plain(scores.accuracy), macro_f1=_plain(scores.macro_f1))


def _measure_lfs(
    votes: pl.DataFrame,
    extended: Mapping[str, int],
    labels: pl.DataFrame,
    classes: tuple[str, ...],
    thresholds: Mapping[str, float | None],
) -> dict[str, LfFigures]:
    position = {name: index for index, name in enumerate(classes)}
    label = labels["label"].replace_strict(position, return_dtype=pl.Int8)
    n = max(labels.height, 1)
    lfs = {}
    for column in votes.drop(ITEM_ID).iter_columns():
        count = int((column != ABSTAIN).sum())
        threshold = thresholds.get(column.name)
        lfs[column.name] = LfFigures(
            votes=count,
            coverage=_plain(count / n),
            coverage_extended=_plain((count + extended.get(column.name, 0)) / n),
            agreement=_plain(int((column == label).sum()) / count) if count else None,
            threshold=None if threshold is None else float(threshold),
        )
    return lfs


def _measure_embeddings(path: Path, metric: Metric) -> EmbeddingFigures | None:
    stored = read_schema(path)["embedding"]
    assert isinstance(stored, pl.Array)
    width = int(stored.shape[0])
    n, total, squares = 0, np.zeros(width), 0.0
    for X in _embedding_batches(path, width):
        if metric is Metric.COSINE:
            X = X / np.linalg.norm(X, axis=1, keepdims=True)
        n += len(X)
        total += X.sum(axis=0)
        squares += float(np.einsum("ij,ij->", X, X))
    if n == 0:
        return None
    centroid = total / n
    # Rounding may leave a hair less than nothing where all rows are equal.
    variance = max(squares / n - float(centroid @ centroid), 0.0)
    return EmbeddingFigures(
        metric=str(metric), width=width, centroid=_plain_all(centroid), spread=_plain(float(np.sqrt(variance)))
    )


def _embedding_batches(path: Path, width: int) -> Iterator[npt.NDArray[np.float64]]:
    for batch in read_batches(path, schemas.embeddings(width)):
        yield batch["embedding"].to_numpy().astype(np.float64)


def measure_new_rows(labeled: "LabeledRows", last: Figures) -> NewRowFigures:
    """Where the rows that were labeled now lie, to be compared with all rows of the `last` release."""
    counts, centroid = labeled.counts, labeled.centroid
    metric = last.embeddings.metric if last.embeddings else ""
    return NewRowFigures(
        rows=counts.new + counts.changed,
        embeddings=EmbeddingFigures(metric=metric, width=len(centroid), centroid=_plain_all(centroid), spread=0.0),
        similarity=_measure_similarity(labeled.similarity),
    )


def _measure_similarity(similarity: npt.NDArray[np.float32]) -> SimilarityFigures | None:
    values = similarity.astype(np.float64)
    if not len(values):
        return None
    return SimilarityFigures(
        quantiles=_plain_all(np.quantile(values, _QUANTILES)), deviation=_plain(float(values.std()))
    )


def _plain_all(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(_plain(float(value)) for value in values)


def _plain(value: float) -> float:
    return round(float(value), DECIMALS)
