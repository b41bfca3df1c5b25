"""The choice of a label model: the requested kind, or the best on held-out gold, with majority vote as the floor."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tasks.core.label_models.base import LabelModel, VoteTable
from tasks.core.label_models.dawid_skene import fit_dawid_skene
from tasks.core.label_models.flyingsquid import Mode, SequenceModel, fit_sequence_model
from tasks.core.label_models.flyingsquid_published import OneVsRest, fit_flyingsquid_reference
from tasks.core.label_models.majority import MajorityVote, fit_majority_vote, fit_weighted_majority_vote
from tasks.core.label_models.triplets import Estimate, fit_flyingsquid
from tasks.core.progress_callback import WHOLE, Advance, count_steps, ignore_progress
from tasks.core.ties import TIE, score_labels
from tasks.core.types import Float64, GoldRows, Int64, Votes

Kind = Literal["majority_vote", "weighted_majority_vote", "flyingsquid", "dawid_skene"]

CANDIDATES: tuple[Kind, ...] = ("majority_vote", "weighted_majority_vote", "flyingsquid", "dawid_skene")
"""The kinds that `choose_kind` tries; on a tie the first wins, so majority vote is the floor."""

DEFAULT: Kind = "flyingsquid"
"""The kind if there is too little gold to choose: it needs none, and a lone vote decides, as in majority vote."""

FOLDS = 5
"""Folds of the gold rows, each held out once: four fifths are left to learn from, at five fits per candidate."""

TRIALS = FOLDS * len(CANDIDATES)
"""The number of fits in a choice."""

FEWEST_GOLD = 20
"""Fewest gold rows for a choice: with fewer, a single item changes an accuracy by over five points."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """FlyingSquid's settings."""

    mode: Mode = "corrected"
    estimate: Estimate = "mean"
    dependencies: tuple[tuple[int, int], ...] = ()
    """Pairs of LFs (as positions) that depend on each other, given the class."""
    length: int = 1
    """The number of items in a sequence."""
    sequence_balance: Float64 | None = None
    """(2^T,): see `fit_sequence_model`."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The outcome of cross-fitting."""

    kind: Kind
    accuracy: dict[Kind, float] | None
    """Accuracy on held-out gold rows, ties split evenly; None if there was too little gold."""


def count_class_balance(classes: npt.NDArray[np.int64], k: int) -> Float64:
    """Return the share of each class among `classes`, (k,), with an item of each added so that none is impossible."""
    counts = np.bincount(classes, minlength=k) + 1.0
    balance: Float64 = counts / counts.sum()
    return balance


def uses_gold(kind: Kind, options: Options) -> bool:
    """Return whether the model learns from gold rows beyond the class balance."""
    plain = options.mode == "corrected" and options.length == 1 and not options.dependencies
    return kind in {"weighted_majority_vote", "dawid_skene"} or (kind == "flyingsquid" and plain)


def fit_label_model(
    kind: Kind,
    votes: Votes,
    class_balance: Float64,
    *,
    gold: GoldRows | None = None,
    options: Options | None = None,
    items: Int64 | None = None,
    advance: Advance = ignore_progress,
) -> LabelModel:
    """Return the label model of this kind, fitted on `votes`; kinds that learn nothing from gold ignore the gold rows.

    A gold row stands for a single item, whatever `items` (n,) says of the others.

    `advance` receives a single piece of work from kinds that may take long: all but majority votes.

    Raises
    ------
    ValueError
        Dependencies or sequences that FlyingSquid cannot solve; see `fit_sequence_model`.
    """
    options = options or Options()
    if gold is not None and not uses_gold(kind, options) and len(gold.rows) < len(votes):
        votes = np.delete(votes, gold.rows, axis=0)
        items = None if items is None else np.delete(items, gold.rows)
    if kind == "majority_vote":
        return fit_majority_vote(votes, class_balance, items)
    if kind == "weighted_majority_vote":
        return fit_weighted_majority_vote(votes, class_balance, gold, items)
    if kind == "dawid_skene":
        return fit_dawid_skene(votes, class_balance, gold, items=items, advance=advance)
    if options.length > 1 or options.dependencies:
        return fit_sequence_model(
            votes,
            class_balance,
            length=options.length,
            dependencies=options.dependencies,
            sequence_balance=options.sequence_balance,
            estimate=options.estimate,
            mode=options.mode,
            items=items,
            advance=advance,
        )
    if options.mode == "reference":
        return fit_flyingsquid_reference(votes, class_balance, estimate=options.estimate, items=items, advance=advance)
    return fit_flyingsquid(votes, class_balance, estimate=options.estimate, gold=gold, items=items, advance=advance)


def choose_kind(
    votes: Votes,
    class_balance: Float64 | None,
    k: int,
    *,
    gold: GoldRows,
    options: Options,
    items: Int64 | None = None,
    advance: Advance = ignore_progress,
) -> Choice:
    """Return the kind that labels held-out gold rows best: majority vote, unless another is strictly better.

    Each fold of the gold rows is left out of `votes`, of the gold to learn from and, if `class_balance` is None, of the
    class balance counted on gold. The gold rows of each class are dealt to the folds in turn, in the order of `gold`.
    A gold row stands for a single item, whatever `items` (n,) says of the others. Each of the `TRIALS` is a piece of work.
    """
    if len(gold.rows) < FEWEST_GOLD:
        return Choice(kind=DEFAULT, accuracy=None)
    fold = np.empty(len(gold.rows), dtype=np.intp)
    fold[np.argsort(gold.classes, kind="stable")] = np.arange(len(gold.rows)) % FOLDS
    right = dict.fromkeys(CANDIDATES, 0.0)
    for held in range(FOLDS):
        out, kept = fold == held, fold != held
        balance = count_class_balance(gold.classes[kept], k) if class_balance is None else class_balance
        remaining = np.setdiff1d(np.arange(len(votes)), gold.rows[out])
        anchors = GoldRows(rows=np.searchsorted(remaining, gold.rows[kept]), classes=gold.classes[kept])
        for kind in CANDIDATES:
            with count_steps(advance, WHOLE) as step:
                model = fit_label_model(
                    kind,
                    votes[remaining],
                    balance,
                    gold=anchors,
                    options=options,
                    items=None if items is None else items[remaining],
                    advance=step,
                )
            right[kind] += score_labels(model.predict_proba(votes[gold.rows[out]]), gold.classes[out]).sum()
    accuracy = {kind: float(total / len(gold.rows)) for kind, total in right.items()}
    best = max(accuracy.values())
    return Choice(kind=next(kind for kind in CANDIDATES if accuracy[kind] >= best - TIE), accuracy=accuracy)


def from_json(value: dict[str, Any]) -> LabelModel:
    """Return the label model from the `to_json` of any kind.

    Raises
    ------
    KeyError
        `value` is not such a description.
    """
    forms: dict[str, type[MajorityVote] | type[VoteTable] | type[OneVsRest] | type[SequenceModel]] = {
        "majority": MajorityVote,
        "vote_table": VoteTable,
        "one_vs_rest": OneVsRest,
        "sequence": SequenceModel,
    }
    return forms[value["form"]].from_json(value)
