"""fit: turn votes into labels with a label model; write the model, its labels, and the predictions of other methods."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from tasks.core.label_models.base import LabelModel
from tasks.core.label_models.choice import (
    FEWEST_GOLD,
    TRIALS,
    Choice,
    Kind,
    Options,
    choose_kind,
    count_class_balance,
    fit_label_model,
    uses_gold,
)
from tasks.core.label_models.dawid_skene import fit_dawid_skene
from tasks.core.label_models.flyingsquid import SequenceModel, count_sequences
from tasks.core.label_models.generative import fit_generative
from tasks.core.label_models.liger import PARTS, Liger, fit_liger
from tasks.core.label_models.majority import MajorityVote
from tasks.core.patterns import find_patterns
from tasks.core.progress_callback import WHOLE
from tasks.core.ties import pick_labels
from tasks.core.types import ABSTAIN, ITEM_ID, Float64, Int8, Votes
from tasks.errors import DataError, ParamsError
from tasks.params import FitParams, LabelModelKind, Split
from tasks.progress import Progress
from tasks.tables import schemas
from tasks.tables.files import write_json
from tasks.tables.label_matrix import encode_split, encode_splits, find_gold_rows, read_gold, to_matrix
from tasks.tables.muted import read_counted_votes
from tasks.tables.parquet import cut_rows, read_table, read_votes, write_batches
from tasks.tables.paths import (
    EXTENDED_VOTES,
    ITEMS,
    LABEL_MODEL,
    LABEL_MODEL_LABELS,
    LABEL_MODEL_PREDICTIONS,
    VOTES,
)
from tasks.tables.predictions import write_predictions
from tasks.tables.scaled_embeddings import read_scaled_embeddings
from tasks.tables.schemas import probability_column
from tasks.tables.validation import require_same_items

DAWID_SKENE_WORK = 4_000_000
"""Distinct rows times LFs times classes up to which Dawid-Skene is a row of the report: 500 rounds take some 10 s then."""

DAWID_SKENE_START = 2_000
"""Distinct rows that cost as much as to begin with an LF and a class."""

DIGITS = 6
"""Digits of the precisions in label_model.json's summary; the model itself keeps every digit."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of the stage; rows are those of items, by ascending id."""

    items: pl.DataFrame
    splits: Int8
    """By `encode_split`."""
    gold: Votes
    """The classes of valid items with gold, -1 elsewhere."""
    lfs: tuple[str, ...]
    raw: Votes
    extended: Votes


@dataclass(frozen=True, kw_only=True)
class Balance:
    """The class balance, its source, and the value that params fix (None if it is counted)."""

    values: Float64
    source: str
    given: Float64 | None


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted label model and its probabilities for every item."""

    kind: Kind
    model: LabelModel
    probabilities: Float64
    rows: int
    gold_rows: int
    choice: Choice | None
    notes: tuple[str, ...]
    """Findings as sentences, with the names of LFs and classes."""


@dataclass(frozen=True, kw_only=True)
class Labeled:
    """The same kind of label model on original and on extended votes."""

    balance: Balance
    raw: Fitted
    extended: Fitted


def run(root: Path, classes: tuple[str, ...], params: FitParams) -> None:
    """Write label model, labels and predictions of the project at `root`.

    Raises
    ------
    DataError
        An input is missing or damaged, tables hold different items, or no labeling function votes on any item.
    ParamsError
        `dependencies` names an unknown labeling function, or leaves too few that are independent.
    """
    inputs = read_inputs(root, classes)
    labeled = label_items(inputs, classes, params)
    raw, extended, balance = labeled.raw, labeled.extended, labeled.balance
    for note in extended.notes:
        print(f"fit: {note}", file=sys.stderr)
    k = len(classes)
    liger = _fit_liger(root, inputs, balance, k)
    methods = collect_methods(inputs, labeled) | _fit_baselines(inputs, balance) | {"liger": liger.posterior}
    if "epoxy" not in methods:
        epoxy = params.model_copy(update={"label_model": LabelModelKind.FLYINGSQUID})
        options = _make_options(inputs, balance, params)
        methods["epoxy"] = _fit(inputs.extended, inputs, balance, options, classes, epoxy).probabilities
    tables = (tabulate_labels(inputs, labeled, classes, rows) for rows in cut_rows(inputs.items.height))
    write_batches(root / LABEL_MODEL_LABELS, tables, schemas.labels(classes))
    write_predictions(root / LABEL_MODEL_PREDICTIONS, inputs.items, methods)
    described = _describe(inputs, raw, extended, balance, classes, params)
    write_json(root / LABEL_MODEL, described | {"liger": _describe_liger(liger)})


def read_inputs(root: Path, classes: tuple[str, ...]) -> Inputs:
    """Return items, valid gold, and original and extended votes of the project at `root`, with rows joined by id.

    Raises
    ------
    DataError
        A table is missing or damaged, tables hold different items or LFs, or no LF votes on any item.
    """
    items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID, "split"])
    gold = read_gold(root, items, len(classes))
    raw = read_counted_votes(root, len(classes))
    return join_inputs(items, gold, raw, read_votes(root / EXTENDED_VOTES, len(classes)))


def join_inputs(items: pl.DataFrame, gold: Votes, raw: pl.DataFrame, extended: pl.DataFrame) -> Inputs:
    """Return the inputs from tables of items (item_id, split), votes and extended votes, joined by id, and valid gold (n,).

    Raises
    ------
    DataError
        Tables hold different items or LFs, or no LF votes on any item.
    """
    for path, table in ((VOTES, raw), (EXTENDED_VOTES, extended)):
        require_same_items(ITEMS, items, path, table)
    if raw.columns != extended.columns:
        raise DataError(
            f"{EXTENDED_VOTES}: has the labeling functions {extended.columns[1:]}, but {VOTES} has {raw.columns[1:]}. "
            "Run 'dvc repro'."
        )
    lfs = tuple(raw.columns[1:])
    inputs = Inputs(
        items=items.select(ITEM_ID),
        splits=encode_splits(items["split"]),
        gold=gold,
        lfs=lfs,
        raw=np.ascontiguousarray(to_matrix(raw)),
        extended=np.ascontiguousarray(to_matrix(extended)),
    )
    if not (inputs.extended != ABSTAIN).any():
        raise DataError(
            f"{EXTENDED_VOTES}: none of the {len(lfs)} labeling functions votes on any of the {items.height:,} items, "
            "so there is nothing to learn from. Check the labeling functions, then run 'dvc repro apply'."
        )
    return inputs


def find_balance(inputs: Inputs, classes: tuple[str, ...], params: FitParams) -> Balance:
    """Return the class balance that `params` asks for: given, uniform, or counted on valid gold plus one item per class.

    Without valid gold it is uniform. Gold of train and test is never used.
    """
    k = len(classes)
    if isinstance(params.class_balance, tuple):
        values = np.array(params.class_balance, dtype=np.float64)
        return Balance(values=values / values.sum(), source="given in params.yaml", given=values / values.sum())
    uniform = np.full(k, 1 / k)
    known = inputs.gold[inputs.gold != ABSTAIN]
    if params.class_balance == "uniform":
        return Balance(values=uniform, source="uniform, as params.yaml asks", given=uniform)
    if not len(known):
        return Balance(
            values=uniform,
            source="uniform, since no valid item has gold; set fit.class_balance if known",
            given=uniform,
        )
    missing = [name for c, name in enumerate(classes) if c not in known]
    source = f"counted on {len(known):,} valid items with gold, one added per class"
    if missing:
        source += f"; none of them is of class {', '.join(repr(name) for name in missing)}"
    return Balance(values=count_class_balance(known, k), source=source, given=None)


def label_items(inputs: Inputs, classes: tuple[str, ...], params: FitParams) -> Labeled:
    """Return the label model that `params` asks for, on original and on extended votes.

    Raises
    ------
    ParamsError
        `dependencies` names an unknown labeling function, or leaves too few that are independent.
    """
    balance = find_balance(inputs, classes, params)
    options = _make_options(inputs, balance, params)
    raw = _fit(inputs.raw, inputs, balance, options, classes, params)
    extended = _fit(inputs.extended, inputs, balance, options, classes, params)
    return Labeled(balance=balance, raw=raw, extended=extended)


def collect_methods(inputs: Inputs, labeled: Labeled) -> dict[str, Float64]:
    """Return the probabilities of majority votes and the label models for every item: (n, k) by method."""
    k = len(labeled.balance.values)
    # Plain majority vote uses no class balance, so a row without votes is a tie of all classes.
    plain = MajorityVote(class_balance=np.full(k, 1 / k), lfs=len(inputs.lfs))
    balanced = MajorityVote(class_balance=labeled.balance.values, lfs=len(inputs.lfs))
    extended = "epoxy" if labeled.extended.kind == "flyingsquid" else "label_model_extended"
    return {
        "majority_vote": plain.predict_proba(inputs.raw),
        "majority_vote_balance": balanced.predict_proba(inputs.raw),
        "majority_vote_extended": plain.predict_proba(inputs.extended),
        "label_model_raw": labeled.raw.probabilities,
        extended: labeled.extended.probabilities,
    }


def _make_options(inputs: Inputs, balance: Balance, params: FitParams) -> Options:
    asked = params.flyingsquid
    unknown = [lf for pair in asked.dependencies for lf in pair if lf not in inputs.lfs]
    if unknown:
        raise ParamsError(
            f"params.yaml: 'fit.flyingsquid.dependencies' names {unknown[0]!r}, which is not a labeling function. "
            f"There are: {', '.join(inputs.lfs)}."
        )
    counted = None
    if asked.sequence_length > 1 and balance.given is None:
        counted = count_sequences(inputs.gold[inputs.splits == encode_split(Split.VALID)], asked.sequence_length)
    return Options(
        mode=asked.mode,
        estimate=asked.estimate,
        dependencies=tuple((inputs.lfs.index(lf), inputs.lfs.index(other)) for lf, other in asked.dependencies),
        length=asked.sequence_length,
        sequence_balance=counted,
    )


def _fit(
    votes: Votes, inputs: Inputs, balance: Balance, options: Options, classes: tuple[str, ...], params: FitParams
) -> Fitted:
    """Return the label model that `params` asks for, fitted on train and, if it can learn from gold, on valid gold."""
    notes = []
    train = inputs.splits == encode_split(Split.TRAIN)
    known = inputs.gold != ABSTAIN
    if not (votes[train] != ABSTAIN).any():
        notes.append("no labeling function votes on a train item: the label model is fitted on all items")
        train = np.ones(len(votes), dtype=bool)
    rows = np.flatnonzero(train | known)
    anchors = find_gold_rows(inputs.gold[rows])
    choice = None
    if params.label_model is LabelModelKind.AUTO:
        with Progress("choosing a label model", total=TRIALS * WHOLE) as progress:
            choice = choose_kind(
                votes[rows],
                balance.given,
                len(classes),
                gold=anchors,
                options=options,
                advance=progress.advance,
            )
        kind = choice.kind
        if choice.accuracy is None:
            notes.append(
                f"auto: {len(anchors.rows)} valid items with gold are too few to choose with; took {kind}, and could "
                "not check that it beats majority vote"
            )
    else:
        kind = cast(Kind, params.label_model.value)
    anchored = uses_gold(kind, options) and len(anchors.rows) > 0
    fitted_rows = rows if anchored else np.flatnonzero(train)
    try:
        with Progress(f"fitting {kind}", total=WHOLE) as progress:
            model = fit_label_model(
                kind,
                votes[fitted_rows],
                balance.values,
                gold=anchors if anchored else None,
                options=options,
                advance=progress.advance,
            )
    except ValueError as error:
        raise ParamsError(f"params.yaml: 'fit.flyingsquid': {error}.") from None
    if options.length > 1 and options.sequence_balance is None:
        notes.append("no sequence of valid items is all gold: the items of a sequence are taken to be independent")
    for finding in model.findings:
        names = ", ".join(inputs.lfs[j] for j in finding.lfs)
        notes.append(f"{names}: {finding.message.format(*classes)}" if names else finding.message.format(*classes))
    return Fitted(
        kind=kind,
        model=model,
        probabilities=_predict(model, votes, inputs.splits),
        rows=len(fitted_rows),
        gold_rows=len(anchors.rows) if anchored else 0,
        choice=choice,
        notes=tuple(notes),
    )


def _fit_baselines(inputs: Inputs, balance: Balance) -> dict[str, Float64]:
    """Return what published label models say of every item (n, k), from original votes and the class balance alone."""
    train = inputs.splits == encode_split(Split.TRAIN)
    votes = inputs.raw[train] if (inputs.raw[train] != ABSTAIN).any() else inputs.raw
    with Progress("fitting a generative label model", total=WHOLE) as progress:
        generative = fit_generative(votes, balance.values, advance=progress.advance)
    methods = {"generative": generative.predict_proba(inputs.raw)}
    work = (len(find_patterns(votes).counts) + DAWID_SKENE_START) * votes.shape[1] * len(balance.values)
    if work > DAWID_SKENE_WORK:
        print(
            f"fit: Dawid-Skene is left out of the report: {votes.shape[1]:,} labeling functions and "
            f"{len(balance.values)} classes would take minutes",
            file=sys.stderr,
        )
        return methods
    with Progress("fitting Dawid-Skene", total=WHOLE) as progress:
        confusion = fit_dawid_skene(votes, balance.values, advance=progress.advance)
    return {"dawid_skene": confusion.predict_proba(inputs.raw)} | methods


def _fit_liger(root: Path, inputs: Inputs, balance: Balance, k: int) -> Liger:
    """Return Liger on the extended votes, in partitions of the embeddings.

    With too little gold to choose a partition by, it is a single part, and no embedding is read.
    """
    train = np.flatnonzero(inputs.splits == encode_split(Split.TRAIN))
    reference = train if (inputs.extended[train] != ABSTAIN).any() else np.arange(len(inputs.splits))
    gold = find_gold_rows(inputs.gold)
    vectors = np.empty((inputs.items.height, 0), np.float32)
    if len(gold.rows) >= FEWEST_GOLD:
        vectors = read_scaled_embeddings(root, inputs.items, (root / LABEL_MODEL).parent).vectors
    with Progress("fitting Liger", total=len(PARTS) * WHOLE) as progress:
        return fit_liger(inputs.extended, vectors, reference, balance.given, k, gold, advance=progress.advance)


def _describe_liger(liger: Liger) -> dict[str, Any]:
    accuracy = None if liger.accuracy is None else {str(parts): value for parts, value in liger.accuracy.items()}
    return {"parts": liger.parts, "parts_with_own_model": liger.own_model, "held_out_accuracy": accuracy}


def _predict(model: LabelModel, votes: Votes, splits: Int8) -> Float64:
    """Return the model's posterior, (n, k); sequences do not cross from one split into another."""
    if not isinstance(model, SequenceModel):
        return model.predict_proba(votes)
    probabilities = np.empty((len(votes), 2))
    for name in Split:
        rows = splits == encode_split(name)
        probabilities[rows] = model.predict_proba(votes[rows])
    return probabilities


def tabulate_labels(
    inputs: Inputs, labeled: Labeled, classes: tuple[str, ...], rows: slice = slice(None)
) -> pl.DataFrame:
    """Return the table of labels that the label model gives for the extended votes of the items in `rows`."""
    probabilities = labeled.extended.probabilities[rows]
    columns: dict[str, Any] = {"label": np.array(classes)[pick_labels(probabilities, labeled.balance.values)]}
    columns |= {probability_column(name): probabilities[:, c] for c, name in enumerate(classes)}
    original = inputs.raw[rows] != ABSTAIN
    columns["original_votes"] = original.sum(axis=1, dtype=np.int32)
    columns["extended_votes"] = ((inputs.extended[rows] != ABSTAIN) & ~original).sum(axis=1, dtype=np.int32)
    return inputs.items[rows].select(ITEM_ID).with_columns(pl.Series(name, values) for name, values in columns.items())


def _describe(
    inputs: Inputs, raw: Fitted, extended: Fitted, balance: Balance, classes: tuple[str, ...], params: FitParams
) -> dict[str, Any]:
    """Return label_model.json: the model on extended votes first, then the same kind on original votes."""
    return {
        "label_model": extended.kind,
        "options": params.flyingsquid.model_dump(mode="json") if extended.kind == "flyingsquid" else {},
        "class_balance": dict(zip(classes, balance.values.tolist(), strict=True)),
        "class_balance_source": balance.source,
        **_describe_fit(inputs, extended, classes),
        "on_original_votes": {"label_model": raw.kind, **_describe_fit(inputs, raw, classes)},
    }


def _describe_fit(inputs: Inputs, fitted: Fitted, classes: tuple[str, ...]) -> dict[str, Any]:
    precision = [
        {
            name: round(float(value), DIGITS) if np.isfinite(value) else None
            for name, value in zip(classes, row, strict=True)
        }
        for row in fitted.model.precision
    ]
    return {
        "chosen_by": "params.yaml" if fitted.choice is None else "auto",
        "held_out_accuracy": None if fitted.choice is None else fitted.choice.accuracy,
        "fitted_rows": fitted.rows,
        "gold_rows": fitted.gold_rows,
        "findings": list(fitted.notes),
        "precision": dict(zip(inputs.lfs, precision, strict=True)),
        "model": fitted.model.to_json(),
    }
