"""train: turn votes, similarities and embeddings into the shipped labels, with a classifier as the last step.

There are two steps. Nearvote (tasks/core/label_models/nearvote.py) counts every neighbor's vote as evidence that fades with
distance, so that no threshold is needed. The end model (tasks/core/classifiers/end_model.py) then learns from these soft
labels of all items, and
from gold of valid where there is any, what the embeddings say beyond votes. Where there is no gold to learn from and
the embeddings do not predict votes, the end model cannot learn anything, and Nearvote's labels are shipped.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.certificate import Certificate, certify, find_certified
from tasks.core.classifiers.class_balance import estimate_class_balance
from tasks.core.classifiers.end_model import END_WORK, EndModel, PredictFold, fit_end_model, fit_gold_baseline
from tasks.core.classifiers.folds import GOLD_FOLDS, assign_folds, is_enough_gold
from tasks.core.classifiers.lf_worth import WORTH_WORK, find_harmful, measure_worth
from tasks.core.classifiers.nearest_items import NearestItems
from tasks.core.classifiers.pool import Leader
from tasks.core.classifiers.softmax import predict_log_proba
from tasks.core.classifiers.spectral import SpectralFeatures, fit_spectral_map
from tasks.core.classifiers.student import Student
from tasks.core.classifiers.vote_head import HEAD_WORK, LEAST_SKILL, VoteHead, fit_vote_head, measure_skill
from tasks.core.label_models.gold_similarity import measure_similarity_to_gold, thin_gold
from tasks.core.label_models.nearvote import (
    LABEL_WORK,
    NearvoteLabels,
    PooledVotes,
    choose_bandwidth,
    find_largest_similarity,
    fit_nearvote,
    pool_votes,
    predict_without_fold,
)
from tasks.core.progress_callback import WHOLE
from tasks.core.ties import pick_labels
from tasks.core.types import ABSTAIN, ITEM_ID, Allocate, Float64, GoldRows, Int64
from tasks.errors import DataError
from tasks.neighbors.nearest_cache import KnownItems
from tasks.params import CertifyParams, TrainParams
from tasks.progress import Progress
from tasks.report.certificate import tabulate_certificate
from tasks.report.end_model import tabulate_alternative, tabulate_end_model
from tasks.report.lf_harm import describe_harm
from tasks.report.rounding import round_number
from tasks.tables import schemas
from tasks.tables.files import write_json
from tasks.tables.label_matrix import find_covered, find_gold_rows, read_counted_votes, read_gold
from tasks.tables.lf_columns import StoredColumns
from tasks.tables.muted import read_muted
from tasks.tables.neighbor_columns import find_neighbor_columns
from tasks.tables.parquet import cut_rows, read_table, write_batches
from tasks.tables.paths import (
    END_MODEL,
    END_MODEL_PREDICTIONS,
    END_MODEL_SUMMARY,
    ITEMS,
    NEIGHBORS,
    OWN_PROBABILITIES,
    SHIPPED_LABELS,
    VOTES,
)
from tasks.tables.predictions import HeldOut, write_predictions
from tasks.tables.saved_descriptions import read_descriptions
from tasks.tables.saved_model import Method, SavedModel, write_model
from tasks.tables.scaled_embeddings import ScaledEmbeddings, read_scaled_embeddings
from tasks.tables.schemas import probability_column
from tasks.tables.scratch import open_scratch


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of the stage; rows are those of items, by ascending id."""

    items: pl.DataFrame
    lfs: tuple[str, ...]
    muted: tuple[str, ...]
    votes: npt.NDArray[np.int8]
    """(n, m), with muted LFs abstaining."""
    points: ScaledEmbeddings
    gold: GoldRows | None
    """Gold of valid items, None if there is none or params forbid it."""
    judges: GoldRows | None
    """Gold of valid items, None where there is none."""
    allocate: Allocate
    """Makes arrays of all items, in files without a name."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The evidence of votes and embeddings, without gold."""

    features: SpectralFeatures
    head: VoteHead
    pooled: PooledVotes
    known: KnownItems
    nearest: NearestItems


@dataclass(frozen=True, kw_only=True)
class FittedLabels:
    """The models fitted to evidence and gold. lookout: the gold rows with which items are compared, None without gold."""

    balance: Float64
    lookout: GoldRows | None
    nearvote: NearvoteLabels
    end: EndModel
    shipped: Method

    @property
    def posterior(self) -> Float64:
        """That of the shipped labels, (n, k)."""
        return self.posteriors[self.shipped]

    @property
    def own(self) -> Float64:
        """That of the shipped labels before nearest items have a say, (n, k)."""
        return self.end.own if self.shipped == "end_model" else self.nearvote.posterior

    @property
    def posteriors(self) -> dict[Method, Float64]:
        """Those of both methods, (n, k) each."""
        return {"nearvote": self.nearvote.posterior, "end_model": self.end.posterior}

    def pick_labels(self, method: Method) -> Int64:
        """The class positions (n,) of the labels of `method`."""
        return pick_labels(self.posteriors[method], self.balance)


def run(root: Path, classes: tuple[str, ...], params: TrainParams) -> None:
    """Write labels, predictions and a description of the end model of the project at `root`.

    Raises
    ------
    DataError
        An input is missing or damaged, tables hold different items, or no labeling function votes on any item.
    """
    k = len(classes)
    inputs = read_inputs(root, k, params)
    evidence = gather_evidence(root, inputs, k, params)
    fitted = fit_labels(inputs, evidence, k, params)
    head, balance, nearvote, end, shipped = evidence.head, fitted.balance, fitted.nearvote, fitted.end, fitted.shipped
    vectors, bandwidth, spectral_map = inputs.points.vectors, evidence.pooled.bandwidth, evidence.features.spectral_map
    del evidence  # of ten million items it is most of a gigabyte
    methods: dict[str, Callable[[slice], Float64]] = {
        name: posterior.__getitem__ for name, posterior in fitted.posteriors.items()
    }
    if inputs.gold is not None:
        with Progress("fitting gold alone", total=WHOLE) as progress:
            gold_only = fit_gold_baseline(vectors, inputs.gold, k, advance=progress.advance)
        methods["gold_only"] = lambda rows: np.exp(predict_log_proba(gold_only, vectors[rows]))
    certificate = certify_labels(fitted, inputs.judges, params.certify)
    tables = (_tabulate_labels(inputs, fitted, certificate, classes, rows) for rows in cut_rows(inputs.items.height))
    held_out = _hold_out(inputs, nearvote, end, k, params.seed)
    write_batches(root / SHIPPED_LABELS, tables, schemas.end_labels(classes))
    write_predictions(root / OWN_PROBABILITIES, inputs.items, k, ["own"], lambda rows: {"own": fitted.own[rows]})
    write_predictions(
        root / END_MODEL_PREDICTIONS,
        inputs.items,
        k,
        list(methods),
        lambda rows: {name: predict(rows) for name, predict in methods.items()},
        held_out,
    )
    description = tabulate_end_model(
        shipped,
        inputs.gold,
        inputs.votes,
        inputs.lfs,
        classes,
        params,
        head=head,
        balance=balance,
        bandwidth=bandwidth,
        nearvote_weights=nearvote.weights,
        end_model_weights=end.pool_weights,
        neighborhood=end.parameters.neighborhood if shipped == "end_model" else 0.0,
    )
    description["certificate"] = tabulate_certificate(
        certificate,
        params.certify,
        is_certified=find_certified(fitted.posterior, certificate.threshold),
        labels=fitted.pick_labels(shipped),
        gold_rows=0 if inputs.judges is None else len(inputs.judges.rows),
        classes=classes,
    )
    with Progress("judging labeling functions", total=WORTH_WORK) as progress:
        worth = measure_worth(vectors, inputs.votes, k, params.seed, progress.advance, foretold=head.proba)
    description["lf_worth"] = {lf: round_number(value) for lf, value in zip(inputs.lfs, worth.values, strict=True)}
    harmful = find_harmful(worth, inputs.votes, k, inputs.judges).tolist()
    description["harmful_lfs"] = [inputs.lfs[lf] for lf in harmful]
    description["said_instead"] = {
        inputs.lfs[lf]: {
            classes[c]: classes[said] for c, said in enumerate(worth.said_instead[lf].tolist()) if said >= 0
        }
        for lf in harmful
    }
    other: Method = "nearvote" if shipped == "end_model" else "end_model"
    description["alternative"] = (
        None
        if _can_learn_from_gold(inputs)
        else tabulate_alternative(shipped, fitted.pick_labels(shipped), fitted.pick_labels(other), inputs.votes, head)
    )
    write_json(root / END_MODEL_SUMMARY, description)
    gold = fitted.lookout if _can_learn_from_gold(inputs) else None
    model = SavedModel(
        classes=classes,
        lfs=inputs.lfs,
        metric=inputs.points.metric,
        shipped=shipped,
        center=inputs.points.center,
        scale=inputs.points.scale,
        spectral_map=spectral_map,
        head=head.regression,
        reliability=head.reliability,
        bandwidth=bandwidth,
        nearvote=nearvote.parameters,
        end=end.parameters,
        gold_vectors=vectors[gold.rows] if gold else vectors[:0],
        gold_classes=gold.classes if gold else np.empty(0, np.int64),
        certified_from=certificate.threshold,
        described=read_descriptions(root, classes, inputs.lfs),
    )
    write_model(root / END_MODEL, model)
    print(f"train: {description['summary']}", file=sys.stderr)
    print(f"train: {description['certificate']['summary']}", file=sys.stderr)
    if harm := describe_harm(description["harmful_lfs"], inputs.muted, description["said_instead"]):
        print(f"train: {harm}", file=sys.stderr)


def gather_evidence(root: Path, inputs: Inputs, k: int, params: TrainParams) -> Evidence:
    """Return the evidence of the votes and embeddings of `inputs` and of the neighbors in the project at `root`.

    Raises
    ------
    DataError
        The neighbors are missing or damaged, or belong to other items.
    """
    vectors = inputs.points.vectors
    with Progress("finding features", total=WHOLE) as progress:
        spectral_map = fit_spectral_map(vectors, progress.advance)
    features = SpectralFeatures(spectral_map=spectral_map, embeddings=vectors)
    with Progress("learning from votes", total=HEAD_WORK) as progress:
        head = fit_vote_head(features, inputs.votes, k, params.seed, progress.advance, inputs.allocate)
    columns = StoredColumns(
        root=root,
        items=inputs.items,
        votes=inputs.votes,
        pairs=find_neighbor_columns(root / NEIGHBORS, list(inputs.lfs), inputs.muted),
        metric=inputs.points.metric,
        scale=inputs.points.scale,
    )
    n = len(inputs.votes)
    similarity = np.empty(n, np.float32)
    own, near = (inputs.allocate((n, k), np.float64) for _ in range(2))
    with Progress("weighing neighbors", total=2 * n) as progress:
        for rows, part in columns:
            similarity[rows] = find_largest_similarity(part)
            progress.advance(rows.stop - rows.start)
        bandwidth = choose_bandwidth(similarity)
        for rows, part in columns:
            found = pool_votes(part, head.reliability, bandwidth)
            own[rows], near[rows] = found.own, found.near
            progress.advance(rows.stop - rows.start)
    pooled = PooledVotes(own=own, near=near, bandwidth=bandwidth)
    with Progress("comparing items", total=WHOLE) as progress:
        known = KnownItems(
            root, inputs.items[ITEM_ID], vectors, inputs.points.metric.value, (root / END_MODEL_SUMMARY).parent
        )
        nearest = known.find_nearest_items(progress.advance)
    return Evidence(features=features, head=head, pooled=pooled, known=known, nearest=nearest)


def fit_labels(
    inputs: Inputs, evidence: Evidence, k: int, params: TrainParams, student: Student | None = None
) -> FittedLabels:
    """Return the labels from `evidence` and the gold of `inputs`; faster with a `student` that `fit_student` has fitted."""
    balance = find_balance(evidence.head, inputs, k, params)
    near_gold, lookout = None, None
    if inputs.gold is not None:
        lookout = thin_gold(inputs.gold, inputs.points.vectors)
        near_gold = evidence.known.measure_gold_similarity(lookout, k)
    with Progress("weighing evidence", total=LABEL_WORK) as progress:
        nearvote = fit_nearvote(
            evidence.pooled,
            evidence.head,
            balance,
            inputs.gold,
            near_gold,
            params.seed,
            progress.advance,
            inputs.allocate,
        )
    with Progress("fitting the end model", total=END_WORK) as progress:
        end = fit_end_model(
            evidence.features,
            inputs.votes,
            nearvote.weak,
            inputs.gold,
            None if inputs.gold is None else _Logs(nearvote.posterior),
            None if inputs.gold is None else _log(nearvote.held_out),
            params.seed,
            progress.advance,
            inputs.allocate,
            leader=_find_leader(inputs, evidence.head),
            student=student,
            nearest=evidence.nearest,
            predict_fold=None
            if lookout is None
            else _hold_out_label_model(inputs, evidence, nearvote, lookout, k, params),
        )
    return FittedLabels(
        balance=balance,
        lookout=lookout,
        nearvote=nearvote,
        end=end,
        shipped=_pick_shipped(inputs, evidence.head),
    )


def _hold_out_label_model(
    inputs: Inputs, evidence: Evidence, nearvote: NearvoteLabels, lookout: GoldRows, k: int, params: TrainParams
) -> PredictFold:
    """Return the label model as gold of all folds but one has taught it; `lookout` are the gold rows with which items are compared."""
    gold, vectors = inputs.gold, inputs.points.vectors
    assert gold is not None
    fold = assign_folds(gold.classes, GOLD_FOLDS, params.seed)[np.searchsorted(gold.rows, lookout.rows)]

    def predict(without: int, rows: Int64) -> Float64:
        """Return the log posterior of `rows`."""
        kept = GoldRows(rows=lookout.rows[fold != without], classes=lookout.classes[fold != without])
        itself = np.full(len(rows), -1, dtype=np.int64)
        at = np.searchsorted(kept.rows, rows)
        there = np.flatnonzero(at < len(kept.rows))
        there = there[kept.rows[at[there]] == rows[there]]
        itself[there] = at[there]
        near = measure_similarity_to_gold(
            vectors[rows], vectors[kept.rows], kept.classes, k, inputs.points.metric.value, itself
        )
        return predict_without_fold(nearvote, without, evidence.pooled.take(rows), evidence.head.proba[rows], near)

    return predict


def read_inputs(root: Path, k: int, params: TrainParams) -> Inputs:
    """Return items, votes, scaled embeddings and valid gold, with rows joined by id.

    Raises
    ------
    DataError
        A table is missing or damaged, tables hold different items, or no LF votes on any item.
    """
    items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID])
    scratch = (root / END_MODEL_SUMMARY).parent
    counted = read_counted_votes(root, items, k, scratch)
    votes = counted.votes
    if not find_covered(votes).any():
        raise DataError(
            f"{root / VOTES}: none of the {votes.shape[1]} labeling functions votes on any of the {len(votes):,} "
            "items, so there is nothing to learn from. Check the labeling functions, then run 'dvc repro apply'."
        )
    known = find_gold_rows(read_gold(root, items, k))
    judges = known if len(known.rows) else None
    return Inputs(
        items=items,
        lfs=counted.lfs,
        muted=read_muted(root),
        votes=votes,
        points=read_scaled_embeddings(root, items, scratch),
        gold=judges if params.gold == "valid" else None,
        judges=judges,
        allocate=partial(open_scratch, scratch),
    )


def certify_labels(fitted: FittedLabels, judges: GoldRows | None, params: CertifyParams) -> Certificate:
    """Return which of the labels `fitted` are certified by the gold rows `judges`, held out where they taught anything."""
    posterior = fitted.posterior
    rows, classes = (judges.rows, judges.classes) if judges is not None else (np.empty(0, np.int64),) * 2
    learned = fitted.shipped == "end_model" and len(fitted.end.held_out) > 0
    judged = fitted.end.held_out if learned else posterior[rows]
    return certify(
        judged.max(axis=1),
        pick_labels(judged, fitted.balance) != classes,
        posterior.max(axis=1),
        params.error_rate,
        params.confidence,
    )


def _can_learn_from_gold(inputs: Inputs) -> bool:
    return inputs.gold is not None and is_enough_gold(inputs.gold)


def _pick_shipped(inputs: Inputs, head: VoteHead) -> Method:
    """Return the method whose labels are shipped: the end model, unless there is no gold and embeddings do not carry votes.

    With gold the end model weighs embeddings against votes by itself; without gold it sees an item's embedding alone.
    """
    return "nearvote" if _find_leader(inputs, head) != "student" and not _can_learn_from_gold(inputs) else "end_model"


def _find_leader(inputs: Inputs, head: VoteHead) -> Leader:
    """Return the expert with the best labels without gold."""
    says_nothing = measure_skill(inputs.votes, head.proba) < LEAST_SKILL  # False for NaN
    return "label model" if says_nothing else "student"


def _hold_out(
    inputs: Inputs,
    nearvote: NearvoteLabels,
    end: EndModel,
    k: int,
    seed: int,
) -> HeldOut | None:
    """Return held-out predictions of all methods for gold rows, so that valid gold can judge them; None if no gold taught any."""
    if inputs.gold is None or not _can_learn_from_gold(inputs):
        return None
    gold, vectors = inputs.gold, inputs.points.vectors[inputs.gold.rows]
    fold = assign_folds(gold.classes, GOLD_FOLDS, seed)
    alone = np.empty((len(gold.rows), k))
    with Progress("holding out gold", total=GOLD_FOLDS * WHOLE) as progress:
        for held in range(GOLD_FOLDS):
            rest = GoldRows(rows=np.flatnonzero(fold != held), classes=gold.classes[fold != held])
            fitted = fit_gold_baseline(vectors, rest, k, advance=progress.advance)
            alone[fold == held] = np.exp(predict_log_proba(fitted, vectors))[fold == held]
    return HeldOut(
        rows=gold.rows,
        probabilities={"nearvote": nearvote.held_out, "end_model": end.held_out, "gold_only": alone},
    )


def find_balance(head: VoteHead, inputs: Inputs, k: int, params: TrainParams) -> Float64:
    """Return the class balance that `params` asks for; gold of train and test is never used."""
    if isinstance(params.class_balance, tuple):
        given: Float64 = np.array(params.class_balance, dtype=np.float64)
        return given / np.float64(given.sum())
    if params.class_balance == "uniform":
        return np.full(k, 1 / k)
    return estimate_class_balance(head, inputs.votes, inputs.gold)


@dataclass(frozen=True)
class _Logs:
    """The logs of probabilities (n, k), taken for the rows that are asked for."""

    probabilities: Float64

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, rows: slice) -> Float64:
        return _log(self.probabilities[rows])


def _log(probabilities: Float64) -> Float64:
    """Return the log of probabilities, with 0 replaced by the smallest positive number."""
    return np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))


def _tabulate_labels(
    inputs: Inputs, fitted: FittedLabels, certificate: Certificate, classes: tuple[str, ...], rows: slice
) -> pl.DataFrame:
    posterior = fitted.posterior[rows]
    columns: dict[str, Any] = {"label": np.array(classes)[pick_labels(posterior, fitted.balance)]}
    columns |= {probability_column(name): np.ascontiguousarray(posterior[:, c]) for c, name in enumerate(classes)}
    columns["original_votes"] = (inputs.votes[rows] != ABSTAIN).sum(axis=1, dtype=np.int32)
    columns["is_certified"] = find_certified(posterior, certificate.threshold)
    return inputs.items[rows].with_columns(pl.Series(name, values) for name, values in columns.items())
