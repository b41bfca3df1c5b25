"""Labels for rows that a release does not have, from its model and support; nothing is fitted.

A new row's label depends only on the release's run and on the row, not on other new rows: only rows labeled by the run
itself lend votes. Differences from a refit:

- the run's estimates are kept: features, vote head, reliabilities, bandwidth, class balance, weights, thresholds;
- for a row with votes, the vote head predicts as fitted, where the fit used predictions held out from the row's votes;
- a row is certified from the run's lowest certified probability on, which was determined for rows like the run's;
- neighbors are found by exact search, whatever the index, among support items that are unchanged since the run;
- nearest items, whose labels have a say, are rows of the run that have not changed since, with the labels of the release;
- extended votes and their provenance follow from these neighbors and the release's thresholds.

Cost: reading and hashing all n rows, and q s d operations for q new rows and a support of s rows, which are all rows of the run
where nearest items have a say. Memory: the votes and labels of all rows, and 4 (s + q) d bytes of embeddings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.certificate import find_certified
from tasks.core.classifiers.end_model import predict_end_model
from tasks.core.classifiers.nearest_items import choose_reference, extend_labels, find_nearest_items
from tasks.core.classifiers.softmax import predict_log_proba
from tasks.core.classifiers.spectral import apply_spectral_map
from tasks.core.descriptions import DescribedLF, guess, vote
from tasks.core.extension import (
    Neighbors,
    extend_votes,
    find_abstaining_entries,
    find_abstaining_rows,
    find_nearest_votes,
    to_similarity,
)
from tasks.core.label_models.gold_similarity import measure_similarity_to_gold
from tasks.core.label_models.nearvote import LFColumn, pool_votes, predict_nearvote, predict_weak_labels
from tasks.core.search.exact import QUERIES, Nearest, find_neighbors
from tasks.core.search.plan import plan_searches
from tasks.core.search.support import Support, build_queries, build_support
from tasks.core.similarity import to_cosine
from tasks.core.slices import cut_slices
from tasks.core.ties import pick_labels
from tasks.core.types import ABSTAIN, ITEM_ID, NOBODY, Float32, Float64, Int8
from tasks.core.unit_vectors import to_index_vectors
from tasks.errors import DataError
from tasks.params import Params, Scope
from tasks.progress import Progress
from tasks.tables import schemas
from tasks.tables.embeddings_file import read_vectors
from tasks.tables.label_matrix import to_matrix
from tasks.tables.muted import mute
from tasks.tables.parquet import read_table, read_votes
from tasks.tables.paths import EMBEDDINGS, ITEMS, VOTES
from tasks.tables.release_rows import RowChanges, compare_rows, find_known, hash_rows
from tasks.tables.saved_model import SavedModel, read_model
from tasks.tables.scaled_embeddings import place_vectors
from tasks.tables.schemas import probability_column
from tasks.tables.thresholds import read_thresholds
from tasks.tables.validation import require_same_items


@dataclass(frozen=True, kw_only=True)
class LabeledRows:
    """The tables of the next release: those of release `base` without deleted rows, and with new and changed rows labeled.

    centroid: (d,) float64, the mean embedding (unit vectors for cosine) of the newly labeled rows.
    similarity: (q,) float32, the similarity of newly labeled rows to their nearest support item, of rows that have neighbors.
    """

    base: str
    counts: RowChanges
    labels: pl.DataFrame
    votes: pl.DataFrame
    provenance: pl.DataFrame
    rows: pl.DataFrame
    centroid: Float64
    similarity: Float32


def label_rows(root: Path, release: Path, base: str, params: Params) -> LabeledRows:
    """Return the rows below `root` with the labels that the release in folder `release`, whose id is `base`, gives them.

    `params` are those of the release. Ingest and apply must be up to date.

    Raises
    ------
    DataError
        A table is missing or damaged, or the votes or embeddings do not fit the model.
    """
    classes = params.classes
    model = read_model(release / "model.parquet")
    before = read_table(release / "rows.parquet", schemas.ROWS)
    rows = hash_rows(root)
    is_known = find_known(rows, before)
    votes = read_votes(root / VOTES, len(classes))
    require_same_items(root / ITEMS, rows, root / VOTES, votes)
    _require_same_lfs(root, votes, model)
    votes = votes.select(ITEM_ID, *model.lfs)
    new = np.flatnonzero(~is_known)
    if model.described is not None:
        known = read_votes(release / "votes.parquet", len(classes))
        votes = _describe(root, rows, votes, new, model.described, known, params.apply.mute)
    labeled = _label(root, rows, before, mute(votes, params.apply.mute), new, model, release, params)
    kept = rows.filter(is_known).select(ITEM_ID)

    def join(name: str, schema: schemas.TableSchema, fresh: pl.DataFrame, *by: str) -> pl.DataFrame:
        old = read_table(release / name, schema)
        if kept.schema[ITEM_ID] != old.schema[ITEM_ID]:
            return fresh
        old = old.join(kept, on=ITEM_ID, how="semi", maintain_order="left")
        if "is_certified" in fresh.columns and "is_certified" not in old.columns:
            old = old.with_columns(is_certified=False)  # a release of before there were certificates
        return pl.concat([old, fresh]).sort(ITEM_ID, *by)

    id_type = rows.schema[ITEM_ID]
    position = {lf: number for number, lf in enumerate(model.lfs)}
    provenance = join("provenance.parquet", schemas.provenance(len(classes), id_type), labeled.provenance)
    order = provenance["lf"].replace_strict(position, return_dtype=pl.Int64)
    fresh_rows = (
        rows[new]
        .drop("split")
        .with_columns(pl.Series("similarity", labeled.similarity).fill_nan(None), base=pl.lit(base, pl.String))
    )
    return LabeledRows(
        base=base,
        counts=compare_rows(before, rows),
        labels=join("labels.parquet", schemas.end_labels(classes), labeled.labels),
        votes=join("votes.parquet", schemas.votes(len(classes), votes.columns), votes[new]),
        provenance=provenance.with_columns(order=order).sort(ITEM_ID, "order").drop("order"),
        rows=join("rows.parquet", schemas.ROWS, fresh_rows),
        centroid=labeled.centroid,
        similarity=labeled.similarity[~np.isnan(labeled.similarity)],
    )


def _describe(
    root: Path,
    rows: pl.DataFrame,
    votes: pl.DataFrame,
    new: npt.NDArray[np.int64],
    described: DescribedLF,
    before: pl.DataFrame,
    muted: tuple[str, ...],
) -> pl.DataFrame:
    """Return `votes`, those of the description LF by the release's vectors and cuts: apply has fitted them to new rows, too."""
    name, L = votes.columns[1 + described.lf], to_matrix(mute(votes, muted))
    voter = described.voter
    guesses = guess(read_vectors(root, rows, new), voter.scores, len(voter.cuts))
    others = np.delete(L[new], described.lf, axis=1)
    known = votes.select(ITEM_ID)
    if before.schema[ITEM_ID] == votes.schema[ITEM_ID]:
        known = known.join(before.select(ITEM_ID, name), on=ITEM_ID, how="left", maintain_order="left")
    else:
        known = known.with_columns(pl.lit(None, pl.Int8).alias(name))
    column = known[name].fill_null(ABSTAIN).to_numpy().copy()
    column[new] = vote(guesses, voter.cuts, voter.is_filling, (others != ABSTAIN).any(axis=1))
    return votes.with_columns(pl.Series(name, column))


@dataclass(frozen=True, kw_only=True)
class _Labeled:
    """The part of `LabeledRows` for new rows; similarity: (q,) float32, NaN for rows without neighbors."""

    labels: pl.DataFrame
    provenance: pl.DataFrame
    similarity: Float32
    centroid: Float64


def _label(
    root: Path,
    rows: pl.DataFrame,
    before: pl.DataFrame,
    votes: pl.DataFrame,
    new: npt.NDArray[np.int64],
    model: SavedModel,
    release: Path,
    params: Params,
) -> _Labeled:
    L = to_matrix(votes)
    of_run = _find_run_rows(rows, before)
    of_run[new] = False
    lends = (
        of_run
        & (L != ABSTAIN).any(axis=1)
        & rows["split"].is_in([str(split) for split in params.search.reference]).to_numpy()
    )
    reference = np.flatnonzero(lends)
    has_nearest = model.shipped == "end_model" and model.end.neighborhood > 0
    settled = np.flatnonzero(of_run) if has_nearest else np.empty(0, np.int64)
    needed = np.union1d(np.concatenate([reference, settled]), new)
    vectors = read_vectors(root, rows, needed)
    if vectors.shape[1] != len(model.center):
        raise DataError(
            f"{root / EMBEDDINGS}: embeddings have {vectors.shape[1]} dimensions; the release's model knows "
            f"{len(model.center)}. Run 'epoxy run' and 'epoxy release'."
        )
    vectors = to_index_vectors(vectors, model.metric.value)
    queries = vectors[np.searchsorted(needed, new)]
    lenders_at = np.searchsorted(needed, reference)
    support = build_support(L[reference], lenders_at, vectors, metric=model.metric.value)
    nearest = _search(support, queries, L[new] == ABSTAIN)
    points = place_vectors(queries, model.metric, model.center, model.scale)
    posterior = predict_labels(model, points, list(_cut_columns(model, L[new], support, nearest)), L[new])
    if len(settled):
        posterior = _ask_nearest(
            posterior,
            points,
            place_vectors(vectors[np.searchsorted(needed, settled)], model.metric, model.center, model.scale),
            rows[settled].select(ITEM_ID),
            release,
            model,
        )
    fresh = rows[new].select(ITEM_ID)
    names = np.array(model.classes)
    labels = fresh.with_columns(
        pl.Series("label", names[pick_labels(posterior, model.nearvote.class_balance)], dtype=pl.String),
        *(
            pl.Series(probability_column(name), np.ascontiguousarray(posterior[:, c]))
            for c, name in enumerate(model.classes)
        ),
        pl.Series("original_votes", (L[new] != ABSTAIN).sum(axis=1, dtype=np.int32)),
        pl.Series("is_certified", find_certified(posterior, model.certified_from)),
    )
    lenders = rows[ITEM_ID].gather(needed)
    found = nearest.similarity
    with_any = np.fmax.reduce(found, axis=0) if len(found) else np.full(len(new), np.nan, np.float32)
    directions = queries.astype(np.float64)
    return _Labeled(
        labels=labels,
        provenance=_extend(fresh[ITEM_ID], L[new], support, nearest, lenders, model, release, params),
        similarity=with_any,
        centroid=directions.mean(axis=0) if len(new) else np.zeros(vectors.shape[1]),
    )


def _ask_nearest(
    own: Float64, points: Float32, run_points: Float32, run_rows: pl.DataFrame, release: Path, model: SavedModel
) -> Float64:
    """Return the posterior (q, k) of new rows at `points`: `own` (q, k), with the say of the nearest rows of the run."""
    names = [probability_column(name) for name in model.classes]
    labels = read_table(release / "labels.parquet", schemas.end_labels(model.classes))
    probabilities = run_rows.join(labels, on=ITEM_ID, how="left", maintain_order="left").select(names).to_numpy()
    reference = choose_reference(run_points, model.end.cut)
    found = find_nearest_items(points, reference, run_points[reference.rows])
    return extend_labels(own, found.nearest, probabilities[reference.rows], model.end.neighborhood)


def predict_labels(model: SavedModel, points: Float32, columns: list[LFColumn], votes: Int8) -> Float64:
    """Return the posterior (q, k) of `points` (q, d) before nearest items have a say, given the votes on them and the similarity to
    each LF's support.
    """
    features = apply_spectral_map(model.spectral_map, points)
    head = np.exp(predict_log_proba(model.head, features))
    pooled = pool_votes(columns, model.reliability, model.bandwidth)
    k = len(model.classes)
    near = None
    if model.end.gold is not None:
        near = measure_similarity_to_gold(points, model.gold_vectors, model.gold_classes, k, model.metric.value)
    nearvote = predict_nearvote(model.nearvote, pooled, head, near)
    if model.shipped == "nearvote":
        return nearvote
    tiny = np.finfo(np.float64).tiny
    weak = predict_weak_labels(model.nearvote, pooled, head)
    return predict_end_model(model.end, features, votes, np.log(np.maximum(nearvote, tiny)), weak)


def _find_run_rows(rows: pl.DataFrame, before: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Return whether each row was labeled by the model's run, (n,)."""
    if rows.schema[ITEM_ID] != before.schema[ITEM_ID]:
        return np.zeros(rows.height, bool)
    of_run = before.filter(pl.col("base").is_null()).select(ITEM_ID, of_run=pl.lit(True))
    joined = rows.join(of_run, on=ITEM_ID, how="left", maintain_order="left")
    return joined["of_run"].fill_null(False).to_numpy().copy()


def _require_same_lfs(root: Path, votes: pl.DataFrame, model: SavedModel) -> None:
    lfs = {name for name in votes.columns if name != ITEM_ID}
    if other := sorted(lfs ^ {*model.lfs}):
        raise DataError(
            f"{root / VOTES}: its labeling functions are not those of the release's model; they differ in {other[:5]}. "
            "Run 'epoxy run' and 'epoxy release'."
        )


def _search(support: Support, vectors: Float32, abstains: npt.NDArray[np.bool_]) -> Nearest:
    """Return the neighbors of all new rows, searched a block at a time."""
    q = len(vectors)
    similarity = np.full((len(support.lf_classes), q), np.nan, np.float32)
    position = np.full((len(support.lf_classes), q), NOBODY, np.int64)
    plans = plan_searches(support.lf_classes, abstains.sum(axis=0), q, support.factors.shape[1])
    with Progress("searching", total=q) as progress:
        for part in cut_slices(q, QUERIES):
            queries = build_queries(support.geometry, vectors[part])
            found = find_neighbors(support, plans, queries, abstains[part])
            similarity[:, part], position[:, part] = found.similarity, found.position
            progress.advance(part.stop - part.start)
    return Nearest(similarity=similarity, position=position)


def _cut_columns(model: SavedModel, L: Int8, support: Support, nearest: Nearest) -> Iterator[LFColumn]:
    """Return each LF's votes on the new rows and the similarity to its support."""
    for lf in range(len(model.lfs)):
        similarity = np.full((len(L), len(model.classes)), np.nan, np.float32)
        for row, lf_class in enumerate(support.lf_classes):
            if lf_class.lf == lf:
                similarity[:, lf_class.label] = to_cosine(nearest.similarity[row], model.metric.value, model.scale)
        yield LFColumn(votes=np.ascontiguousarray(L[:, lf]), similarity=similarity)


def _extend(
    ids: pl.Series,
    L: Int8,
    support: Support,
    nearest: Nearest,
    lenders: pl.Series,
    model: SavedModel,
    release: Path,
    params: Params,
) -> pl.DataFrame:
    """Return a row per extended vote on the new rows, in the form of the extend stage's provenance."""
    found = read_thresholds(release / "thresholds.json", list(model.lfs))
    given = np.array([np.nan if value is None else value for value in found.thresholds.values()], np.float64)
    neighbors = Neighbors(
        lf=np.array([lf_class.lf for lf_class in support.lf_classes], np.int64),
        label=np.array([lf_class.label for lf_class in support.lf_classes], np.int8),
        similarity=nearest.similarity,
    )
    nearest_votes = find_nearest_votes(neighbors, len(model.lfs))
    scope = find_abstaining_entries(L) if params.extend.scope is Scope.CELLS else find_abstaining_rows(L)
    item, lf = np.nonzero(extend_votes(nearest_votes, scope, to_similarity(given, found.metric.value)))
    return pl.DataFrame(
        {
            ITEM_ID: ids.gather(item),
            "lf": pl.Series(model.lfs, dtype=pl.String).gather(lf),
            "vote": pl.Series(nearest_votes.vote[item, lf], dtype=pl.Int8),
            "neighbor": lenders.gather(nearest.position[nearest_votes.lf_class[item, lf], item]),
            "similarity": pl.Series(nearest_votes.similarity[item, lf], dtype=pl.Float32),
        }
    )
