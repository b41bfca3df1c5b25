"""fit: turn votes into labels with a label model; write the model, its labels, and the predictions of other methods.

Label models learn from how often each row of votes occurs, which is counted a part of the items at a time, and answer a part
at a time as tables are written. So what is held of each item is its split and its gold.
"""

import sys
from collections.abc import Mapping
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
from tasks.core.label_models.liger import LIGER_WORK, Liger, fit_liger
from tasks.core.label_models.majority import MajorityVote
from tasks.core.patterns import CountedVotes, count_votes_alike, find_patterns
from tasks.core.progress_callback import WHOLE
from tasks.core.ties import pick_labels
from tasks.core.types import ABSTAIN, ITEM_ID, Bool, Float64, GoldRows, Int8, Int64, Votes
from tasks.errors import DataError, ParamsError
from tasks.params import FitParams, LabelModelKind, Split
from tasks.progress import Progress
from tasks.tables import schemas
from tasks.tables.files import write_json
from tasks.tables.label_matrix import (
    encode_split,
    encode_splits,
    find_covered,
    find_gold_rows,
    read_counted_votes,
    read_gold,
    read_vote_matrix,
)
from tasks.tables.parquet import cut_rows, read_table, write_batches
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
    """Both (n, m), and read a part of the rows at a time: they may be mapped files."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A label model and the votes that it reads. posterior: (n, k) where an item's depends on others, those of its sequence."""

    model: LabelModel
    is_extended: bool
    posterior: Float64 | None = None


@dataclass(frozen=True, kw_only=True)
class Balance:
    """The class balance, its source, and the value that params fix (None if it is counted)."""

    values: Float64
    source: str
    given: Float64 | None


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted label model, and the numbers of items that it is fitted on."""

    kind: Kind
    method: Method
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
    methods = collect_methods(inputs, labeled) | _fit_baselines(inputs, balance)
    names = [*methods, "liger"]
    if "epoxy" not in methods:
        epoxy = params.model_copy(update={"label_model": LabelModelKind.FLYINGSQUID})
        options = _make_options(inputs, balance, params)
        methods["epoxy"] = _fit(inputs, balance, options, classes, epoxy, is_extended=True).method
        names.append("epoxy")
    tables = (tabulate_labels(inputs, labeled, classes, rows) for rows in cut_rows(inputs.items.height))
    write_batches(root / LABEL_MODEL_LABELS, tables, schemas.labels(classes))

    def predict(rows: slice) -> dict[str, Float64]:
        """Return the probabilities (b, k) by method."""
        found = predict_rows(inputs, methods, rows) | {"liger": liger.predict_proba(inputs.extended[rows], rows)}
        return {name: found[name] for name in names}

    write_predictions(root / LABEL_MODEL_PREDICTIONS, inputs.items, k, names, predict)
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
    scratch = (root / LABEL_MODEL).parent
    raw = read_counted_votes(root, items, len(classes), scratch)
    extended = read_vote_matrix(root, items, EXTENDED_VOTES, len(classes), scratch)
    if raw.lfs != extended.lfs:
        raise DataError(
            f"{EXTENDED_VOTES}: has the labeling functions {list(extended.lfs)}, but {VOTES} has {list(raw.lfs)}. "
            "Run 'dvc repro'."
        )
    return make_inputs(items, gold, raw.lfs, raw.votes, extended.votes)


def make_inputs(items: pl.DataFrame, gold: Votes, lfs: tuple[str, ...], raw: Votes, extended: Votes) -> Inputs:
    """Return the inputs from a table of items (item_id, split), and their valid gold (n,), votes and extended votes (n, m) of `lfs`.

    Raises
    ------
    DataError
        No LF votes on any item.
    """
    if not find_covered(extended).any():
        raise DataError(
            f"{EXTENDED_VOTES}: none of the {len(lfs)} labeling functions votes on any of the {items.height:,} items, "
            "so there is nothing to learn from. Check the labeling functions, then run 'dvc repro apply'."
        )
    return Inputs(
        items=items.select(ITEM_ID),
        splits=encode_splits(items["split"]),
        gold=gold,
        lfs=lfs,
        raw=raw,
        extended=extended,
    )


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
    raw = _fit(inputs, balance, options, classes, params, is_extended=False)
    extended = _fit(inputs, balance, options, classes, params, is_extended=True)
    return Labeled(balance=balance, raw=raw, extended=extended)


def collect_methods(inputs: Inputs, labeled: Labeled) -> dict[str, Method]:
    """Return majority votes and the label models by name."""
    k = len(labeled.balance.values)
    # Plain majority vote uses no class balance, so a row without votes is a tie of all classes.
    plain = MajorityVote(class_balance=np.full(k, 1 / k), lfs=len(inputs.lfs))
    balanced = MajorityVote(class_balance=labeled.balance.values, lfs=len(inputs.lfs))
    extended = "epoxy" if labeled.extended.kind == "flyingsquid" else "label_model_extended"
    return {
        "majority_vote": Method(model=plain, is_extended=False),
        "majority_vote_balance": Method(model=balanced, is_extended=False),
        "majority_vote_extended": Method(model=plain, is_extended=True),
        "label_model_raw": labeled.raw.method,
        extended: labeled.extended.method,
    }


def predict_rows(inputs: Inputs, methods: Mapping[str, Method], rows: slice | Int64) -> dict[str, Float64]:
    """Return the probabilities (b, k) of the items at `rows` by method, each computed once per distinct row of votes."""
    patterns = {
        is_extended: find_patterns((inputs.extended if is_extended else inputs.raw)[rows])
        for is_extended in {method.is_extended for method in methods.values()}
    }
    found = {}
    for name, method in methods.items():
        if method.posterior is not None:
            found[name] = method.posterior[rows]
        else:
            alike = patterns[method.is_extended]
            found[name] = np.take(method.model.predict_proba(alike.votes.T), alike.inverse, axis=0)
    return found


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


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Rows of votes that a label model may learn from, and for how many items each stands. is_train: (r,), whether each is a train
    item; the others, with gold, are for models that learn from gold.
    """

    votes: Votes
    items: Int64 | None
    is_train: Bool
    gold: GoldRows

    def drop_gold(self) -> "_Sample":
        """Return the train items alone, as without their gold."""
        items = None if self.items is None else self.items[self.is_train]
        nothing = GoldRows(rows=np.empty(0, np.int64), classes=np.empty(0, np.int64))
        return _Sample(
            votes=self.votes[self.is_train], items=items, is_train=self.is_train[self.is_train], gold=nothing
        )

    def count(self) -> int:
        """Return the number of items."""
        return len(self.votes) if self.items is None else int(self.items.sum())


def _draw_sample(inputs: Inputs, is_extended: bool, is_train: Bool, is_sequence: bool) -> _Sample:
    """Return the items that are `is_train` (n,), counted but for those with gold, and not at all where they are in sequences."""
    votes = inputs.extended if is_extended else inputs.raw
    is_known = inputs.gold != ABSTAIN
    if is_sequence:
        rows = np.flatnonzero(is_train | is_known)
        return _Sample(votes=votes[rows], items=None, is_train=is_train[rows], gold=find_gold_rows(inputs.gold[rows]))
    alike = _count_rows(votes, is_train & ~is_known)
    gold = find_gold_rows(inputs.gold)
    at = len(alike.items) + np.arange(len(gold.rows))
    return _Sample(
        votes=np.concatenate([alike.votes, votes[gold.rows]]),
        items=np.concatenate([alike.items, np.ones(len(at), np.int64)]),
        is_train=np.concatenate([np.ones(len(alike.items), np.bool_), is_train[gold.rows]]),
        gold=GoldRows(rows=at, classes=gold.classes),
    )


def _count_rows(votes: Votes, is_used: Bool) -> CountedVotes:
    """Return the distinct rows of `votes` (n, m) that are `is_used` (n,), and how many items each stands for."""
    return count_votes_alike(votes[part][is_used[part]] for part in cut_rows(len(votes)))


def _fit(
    inputs: Inputs,
    balance: Balance,
    options: Options,
    classes: tuple[str, ...],
    params: FitParams,
    *,
    is_extended: bool,
) -> Fitted:
    """Return the label model that `params` asks for, fitted on train and, if it can learn from gold, on valid gold."""
    notes = []
    is_train = inputs.splits == encode_split(Split.TRAIN)
    sample = _draw_sample(inputs, is_extended, is_train, options.length > 1)
    if not (sample.votes[sample.is_train] != ABSTAIN).any():
        notes.append("no labeling function votes on a train item: the label model is fitted on all items")
        sample = _draw_sample(inputs, is_extended, np.ones(len(is_train), np.bool_), options.length > 1)
    choice = None
    if params.label_model is LabelModelKind.AUTO:
        with Progress("choosing a label model", total=TRIALS * WHOLE) as progress:
            choice = choose_kind(
                sample.votes,
                balance.given,
                len(classes),
                gold=sample.gold,
                options=options,
                items=sample.items,
                advance=progress.advance,
            )
        kind = choice.kind
        if choice.accuracy is None:
            notes.append(
                f"auto: {len(sample.gold.rows)} valid items with gold are too few to choose with; took {kind}, and could "
                "not check that it beats majority vote"
            )
    else:
        kind = cast(Kind, params.label_model.value)
    if not uses_gold(kind, options) or not len(sample.gold.rows):
        sample = sample.drop_gold()
    try:
        with Progress(f"fitting {kind}", total=WHOLE) as progress:
            model = fit_label_model(
                kind,
                sample.votes,
                balance.values,
                gold=sample.gold,
                options=options,
                items=sample.items,
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
        method=Method(model=model, is_extended=is_extended, posterior=_predict_sequences(model, inputs, is_extended)),
        rows=sample.count(),
        gold_rows=len(sample.gold.rows),
        choice=choice,
        notes=tuple(notes),
    )


def _fit_baselines(inputs: Inputs, balance: Balance) -> dict[str, Method]:
    """Return published label models, fitted to original votes and the class balance alone."""
    alike = _count_rows(inputs.raw, inputs.splits == encode_split(Split.TRAIN))
    if not (alike.votes != ABSTAIN).any():
        alike = _count_rows(inputs.raw, np.ones(len(inputs.raw), np.bool_))
    with Progress("fitting a generative label model", total=WHOLE) as progress:
        generative = fit_generative(alike.votes, balance.values, items=alike.items, advance=progress.advance)
    methods = {"generative": Method(model=generative, is_extended=False)}
    work = (len(alike.items) + DAWID_SKENE_START) * alike.votes.shape[1] * len(balance.values)
    if work > DAWID_SKENE_WORK:
        print(
            f"fit: Dawid-Skene is left out of the report: {alike.votes.shape[1]:,} labeling functions and "
            f"{len(balance.values)} classes would take minutes",
            file=sys.stderr,
        )
        return methods
    with Progress("fitting Dawid-Skene", total=WHOLE) as progress:
        confusion = fit_dawid_skene(alike.votes, balance.values, items=alike.items, advance=progress.advance)
    return {"dawid_skene": Method(model=confusion, is_extended=False)} | methods


def _fit_liger(root: Path, inputs: Inputs, balance: Balance, k: int) -> Liger:
    """Return Liger on the extended votes, in partitions of the embeddings.

    With too little gold to choose a partition by, it is a single part, and no embedding is read.
    """
    is_train = inputs.splits == encode_split(Split.TRAIN)
    has_votes = (find_covered(inputs.extended) & is_train).any()
    reference = np.flatnonzero(is_train) if has_votes else np.arange(len(is_train))
    gold = find_gold_rows(inputs.gold)
    vectors = np.empty((inputs.items.height, 0), np.float32)
    if len(gold.rows) >= FEWEST_GOLD:
        vectors = read_scaled_embeddings(root, inputs.items, (root / LABEL_MODEL).parent).vectors
    with Progress("fitting Liger", total=LIGER_WORK) as progress:
        return fit_liger(inputs.extended, vectors, reference, balance.given, k, gold, advance=progress.advance)


def _describe_liger(liger: Liger) -> dict[str, Any]:
    accuracy = None if liger.accuracy is None else {str(parts): value for parts, value in liger.accuracy.items()}
    return {"parts": liger.parts, "parts_with_own_model": liger.own_model, "held_out_accuracy": accuracy}


def _predict_sequences(model: LabelModel, inputs: Inputs, is_extended: bool) -> Float64 | None:
    """Return the posterior (n, k) of a model of sequences, which do not cross from one split into another; None for any other."""
    if not isinstance(model, SequenceModel) or model.length == 1:
        return None
    votes = inputs.extended if is_extended else inputs.raw
    posterior = np.empty((len(votes), 2))
    for name in Split:
        rows = inputs.splits == encode_split(name)
        posterior[rows] = model.predict_proba(votes[rows])
    return posterior


def tabulate_labels(
    inputs: Inputs, labeled: Labeled, classes: tuple[str, ...], rows: slice = slice(None)
) -> pl.DataFrame:
    """Return the table of labels that the label model gives for the extended votes of the items in `rows`."""
    probabilities = predict_rows(inputs, {"labels": labeled.extended.method}, rows)["labels"]
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
        for row in fitted.method.model.precision
    ]
    return {
        "chosen_by": "params.yaml" if fitted.choice is None else "auto",
        "held_out_accuracy": None if fitted.choice is None else fitted.choice.accuracy,
        "fitted_rows": fitted.rows,
        "gold_rows": fitted.gold_rows,
        "findings": list(fitted.notes),
        "precision": dict(zip(inputs.lfs, precision, strict=True)),
        "model": fitted.method.model.to_json(),
    }
