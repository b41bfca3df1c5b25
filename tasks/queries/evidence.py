"""The evidence behind the labels of some items, in the last run or a release, and the decomposition of their log-odds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from tasks.cache.row_keys import hash_vectors
from tasks.core.classifiers.spectral import apply_spectral_map
from tasks.core.label_models.gold_similarity import measure_similarity_to_gold
from tasks.core.label_models.nearvote import LFColumn, PooledVotes, pool_votes
from tasks.core.label_models.parts import (
    Contest,
    Part,
    add_nearest,
    take_apart_pool,
    take_apart_weak_labels,
    take_apart_without_gold,
)
from tasks.core.similarity import to_cosine
from tasks.core.types import ABSTAIN, ITEM_ID, Bool, Float32, Float64, Int64, Votes
from tasks.core.unit_vectors import to_index_vectors
from tasks.errors import DataError, QueryError
from tasks.queries.project_data import ProjectData, ReleaseData, read_provenance, to_positions
from tasks.tables import schemas
from tasks.tables.files import explain_read_errors
from tasks.tables.muted import mute
from tasks.tables.saved_model import SavedModel
from tasks.tables.scaled_embeddings import place_vectors
from tasks.tables.schemas import probability_column, similarity_column
from tasks.tables.thresholds import read_thresholds
from tasks.tables.validation import validate_table


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The evidence behind the labels of q items.

    labels: (q,) positions. probabilities: (q, k). own: (q, k), those before nearest items had a say, None if not kept. original: (q, m) votes. lent: a row per extended vote, as in
    provenance. near: the items' rows of neighbors, None if neighbors are not kept. vectors: (q, d) embeddings, None if the
    embedding has changed since. gold: (q,) of valid, -1 if unknown. lacks: sentences on what is not known.
    """

    model: SavedModel
    ids: pl.Series
    labels: Votes
    probabilities: Float64
    own: Float64 | None
    original: Votes
    lent: pl.DataFrame
    near: pl.DataFrame | None
    vectors: Float32 | None
    gold: Votes
    thresholds: dict[str, float | None]
    lacks: tuple[str, ...] = ()

    def rank(self) -> Contest:
        """Return each item's label against the most probable other class."""
        rows = np.arange(len(self.labels))
        label = self.labels.astype(np.int64)
        others = self.probabilities.copy()
        others[rows, label] = -1.0
        logs = take_logs(self.probabilities)
        other = others.argmax(axis=1)
        return Contest(label=label, other=other, log_odds=logs[rows, label] - logs[rows, other])

    def list_columns(self) -> list[LFColumn] | None:
        """Return each LF's votes on the items and the similarity to its support, None if neighbors are not kept."""
        if self.near is None:
            return None
        columns = []
        for j, lf in enumerate(self.model.lfs):
            similarity = np.full((len(self.labels), len(self.model.classes)), np.nan, dtype=np.float32)
            for c in range(len(self.model.classes)):
                name = similarity_column(lf, c)
                if name in self.near.columns:
                    similarity[:, c] = self.near[name].fill_null(np.nan).to_numpy()
            cosine = to_cosine(similarity, self.model.metric.value, self.model.scale)
            columns.append(LFColumn(votes=np.ascontiguousarray(self.original[:, j]), similarity=cosine))
        return columns


def take_logs(probabilities: Float64) -> Float64:
    """Return the logs of `probabilities`, 0 as the smallest number there is."""
    return np.asarray(np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)))


@dataclass(frozen=True, kw_only=True)
class TakenApart:
    """The parts of an item's log-odds, and sentences on what is not known about them."""

    parts: tuple[Part, ...]
    lacks: tuple[str, ...] = ()


def read_run(data: ProjectData, rows: Int64) -> Evidence:
    """Return the evidence in the last run for the items in these `rows` (q,).

    Raises
    ------
    DataError
        An artifact is missing or damaged, or they are of different runs.
    """
    votes, model, ids = data.votes(), data.model(), data.ids().gather(rows)
    if model.lfs != votes.lfs or model.classes != data.classes:
        raise DataError("data/train/model.parquet: of other labeling functions or classes. Run 'epoxy run'.")
    return Evidence(
        model=model,
        ids=ids,
        labels=data.label_positions()[rows],
        probabilities=data.probabilities()[rows],
        own=data.own_probabilities()[rows],
        original=votes.original[rows],
        lent=read_provenance(data, ids),
        near=data.neighbors_of(rows),
        vectors=data.embeddings_of(rows),
        gold=data.gold()[rows],
        thresholds=votes.thresholds,
        lacks=_name_muted(votes.muted),
    )


def read_release(data: ProjectData, release: ReleaseData, item: str | int, row: int | None) -> Evidence:
    """Return the evidence in `release` for `item`, whose row in the project is `row` (None: it is no longer there).

    The embedding is the project's, if it has not changed since the release.

    Raises
    ------
    QueryError
        The release has no such item.
    DataError
        A file of the release, or the project's embeddings, are missing or damaged.
    """
    model, k = release.model(), len(release.classes)
    label = _read_row(release, "labels.parquet", schemas.end_labels(release.classes), item)
    voted = mute(_read_row(release, "votes.parquet", schemas.votes(k, [ITEM_ID, *model.lfs]), item), release.muted())
    content = _read_row(release, "rows.parquet", schemas.ROWS, item)
    lacks = [
        "a release keeps no neighbors but those that lent a vote: next votes are unknown, and neighbors and vote head "
        "are one part",
        *_name_muted(release.muted()),
    ]
    vectors = None
    if row is not None:
        vectors = data.embeddings_of(np.array([row]))
        if hash_vectors(data.ids()[row : row + 1], vectors)[0, 1] != content["embedding"].item():
            vectors = None
    if vectors is None:
        lacks.append("the project no longer has the embedding that was released: the label is not taken apart")
    if (base := content["base"].item()) is not None:
        lacks.append(f"labeled by 'epoxy label-new' with model and support of release {base}")
    names = [probability_column(name) for name in model.classes]
    has_nearest = model.shipped == "end_model" and model.end.neighborhood > 0
    probabilities = label.select(names).to_numpy()
    return Evidence(
        model=model,
        ids=label[ITEM_ID],
        labels=to_positions(label["label"], model.classes),
        probabilities=probabilities,
        own=None if has_nearest else probabilities,
        original=voted.select(model.lfs).to_numpy().astype(np.int8),
        lent=release.provenance().filter(pl.col(ITEM_ID).is_in(label[ITEM_ID].implode())),
        near=None,
        vectors=vectors,
        gold=np.array([ABSTAIN if row is None else data.gold()[row]], dtype=np.int8),
        thresholds=dict(read_thresholds(release.path / "thresholds.json", list(model.lfs)).thresholds),
        lacks=tuple(lacks),
    )


def _name_muted(muted: tuple[str, ...]) -> tuple[str, ...]:
    return (f"muted by apply.mute, so that their votes do not count: {', '.join(muted)}",) if muted else ()


def take_apart(evidence: Evidence) -> list[TakenApart]:
    """Return for each item the parts of the log-odds of its label against the next class, which add up to the whole."""
    model, contest = evidence.model, evidence.rank()
    rows = np.arange(len(contest.label))
    learned = model.end.gold
    is_possible = evidence.probabilities[rows, contest.other] > 0
    has_gold = is_possible if learned is None else learned.has_gold[contest.label] & learned.has_gold[contest.other]
    can = is_possible & has_gold
    taken: dict[int, TakenApart] = {}
    for row in np.flatnonzero(~can):
        names = [model.classes[c] for c in (contest.label[row], contest.other[row])]
        taken[int(row)] = _leave_whole(model, float(contest.log_odds[row]), names, bool(is_possible[row]))
    note: tuple[str, ...] = ()
    if learned is None and model.shipped == "end_model" and not model.end.without_gold[0]:
        note = ("without gold the end model sees an item's embedding alone; votes reach it through what it learned",)
    own = contest.log_odds if evidence.own is None else contest.subtract(take_logs(evidence.own))
    has_nearest = evidence.own is not None and model.shipped == "end_model" and model.end.neighborhood > 0
    before = Contest(label=contest.label, other=contest.other, log_odds=own)
    for row, parts in zip(np.flatnonzero(can), _take_apart_all(evidence, before, can), strict=True):
        if has_nearest:
            parts = add_nearest(parts, float(own[row]), float(contest.log_odds[row]))
        taken[int(row)] = TakenApart(parts=parts, lacks=note)
    return [taken[int(row)] for row in rows]


def _leave_whole(model: SavedModel, log_odds: float, names: Sequence[str], is_possible: bool) -> TakenApart:
    """A single part for the whole log-odds, and why it is not taken apart."""
    learned = model.end.gold
    if not is_possible:
        note, of = f"nothing at all speaks for {names[1]!r}: its probability is 0", str(model.shipped)
    else:
        assert learned is not None
        missing = [name for name in names if not learned.has_gold[model.classes.index(name)]]
        note = f"no gold item is of class {', '.join(missing)}: such a class keeps the probability of the weak labels"
        of = "weak labels"
    return TakenApart(parts=(Part(of=of, source="not taken apart", log_odds=log_odds),), lacks=(note,))


def _take_apart_all(evidence: Evidence, contest: Contest, rows: Bool) -> list[tuple[Part, ...]]:
    """The parts of the items in these `rows` (q,), both of whose classes can be compared."""
    model, columns = evidence.model, evidence.list_columns()
    contest = Contest(label=contest.label[rows], other=contest.other[rows], log_odds=contest.log_odds[rows])
    pooled = None
    if columns is not None:
        kept = (LFColumn(votes=column.votes[rows], similarity=column.similarity[rows]) for column in columns)
        pooled = pool_votes(kept, model.reliability, model.bandwidth)
    if model.shipped == "nearvote":
        return take_apart_weak_labels(model.nearvote, pooled, contest)
    if evidence.vectors is None:
        return [(Part(of="end_model", source="not taken apart", log_odds=float(whole)),) for whole in contest.log_odds]
    original = evidence.original[rows]
    points = place_vectors(
        to_index_vectors(evidence.vectors[rows], model.metric.value), model.metric, model.center, model.scale
    )
    if model.end.gold is None:
        return take_apart_without_gold(
            model.end,
            model.nearvote,
            contest,
            features=apply_spectral_map(model.spectral_map, points),
            evidence=pooled,
            knows_own=evidence.own is not None,
        )
    return take_apart_pool(
        model.end,
        model.nearvote,
        contest,
        features=apply_spectral_map(model.spectral_map, points),
        votes=original,
        lfs=model.lfs,
        evidence=pooled or _pool_original_votes(model, original),
        knows_neighbors=pooled is not None,
        knows_own=evidence.own is not None,
        gold_similarity=_measure_gold_similarity(model, points, evidence.gold[rows]),
    )


def _pool_original_votes(model: SavedModel, original: Votes) -> PooledVotes:
    """The pool of the items' original votes (q, m), without neighbors."""
    nothing = np.full((len(original), len(model.classes)), np.nan, dtype=np.float32)
    columns = (LFColumn(votes=np.ascontiguousarray(column), similarity=nothing) for column in original.T)
    return pool_votes(columns, model.reliability, model.bandwidth)


def _measure_gold_similarity(model: SavedModel, points: Float32, gold: Votes) -> Float32:
    """The similarity (q, k) to the nearest gold row of each class, except the item itself."""
    itself = np.full(len(points), -1, dtype=np.int64)
    for row in np.flatnonzero(gold != ABSTAIN):
        # A copy of the item is as near as the item itself, so leaving out either gives the same result.
        same = (model.gold_vectors == points[row]).all(axis=1) & (model.gold_classes == gold[row])
        itself[row] = same.argmax() if same.any() else -1
    k = len(model.classes)
    return measure_similarity_to_gold(points, model.gold_vectors, model.gold_classes, k, model.metric.value, itself)


def _read_row(release: ReleaseData, name: str, schema: schemas.TableSchema, item: str | int) -> pl.DataFrame:
    """The row of `item` in table `name` of the release."""
    path = release.path / name
    with explain_read_errors(path):
        found = pl.scan_parquet(path).filter(pl.col(ITEM_ID).cast(pl.String) == str(item)).collect()
    if found.is_empty():
        raise QueryError(f"release {release.name}: no item {str(item)[:64]!r}. Check the id.")
    return validate_table(path, found, schema)
