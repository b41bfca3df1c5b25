"""Liger: a FlyingSquid and a class balance for each part of the embedding space, after a global extension.

An LF may be right on some kinds of item and wrong on others. A part with too few items for an estimate uses the model
of the whole space, and class balances of parts are shrunk towards the global one.

Source: Chen et al., "Shoring Up the Foundations: Fusing Model Embeddings and Weak Supervision", UAI 2022,
arXiv 2203.13270. The number of parts is chosen on valid gold by cross-fitting, never on test.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.core.label_models.base import JointVotes, VoteTable, count_joint_votes
from tasks.core.label_models.choice import FEWEST_GOLD, FOLDS, count_class_balance
from tasks.core.label_models.partitions import assign_parts, fit_partition, thin_rows
from tasks.core.label_models.triplets import solve_flyingsquid
from tasks.core.patterns import count_votes_alike
from tasks.core.progress_callback import WHOLE, Advance, count_steps, ignore_progress
from tasks.core.ties import score_labels
from tasks.core.types import ABSTAIN, Float64, GoldRows, Int8, Votes

PARTS = (1, 2, 4, 8, 16)
"""The numbers of parts to try; with a single part, Liger is Epoxy."""

LIGER_WORK = (2 + len(PARTS)) * WHOLE
"""The work that `fit_liger` reports to its `advance` in all, with enough gold to choose: the partitions, who is in which part, and a
piece for each of `PARTS`."""

FEWEST_OVERLAPS = 100
"""Fewest items with two or more votes in a part with its own model: with fewer, moments have standard errors above .1."""

BALANCE_ROWS = 20.0
"""The weight of the global class balance, in gold rows of a part."""

_BLOCK = 1 << 17
"""Rows whose votes are counted at a time."""


@dataclass(frozen=True, kw_only=True)
class Liger:
    """Liger, fitted. home: (n,) the part of each item; models: that of each part; own_model: the number of parts with enough items
    for their own. accuracy: by number of parts, on held-out gold rows, ties split evenly; None if there was too little gold to
    choose, in which case there is a single part.
    """

    home: Int8
    models: tuple[VoteTable, ...]
    own_model: int
    accuracy: dict[int, float] | None

    @property
    def parts(self) -> int:
        """The chosen number of parts."""
        return len(self.models)

    def predict_proba(self, votes: Votes, rows: slice | npt.NDArray[np.intp]) -> Float64:
        """Return the posterior (b, k) of the items at `rows`, from their extended `votes` (b, m); rows sum to 1."""
        return _answer(votes, self.home[rows], self.models)


@dataclass(frozen=True, kw_only=True)
class _Space:
    """The parts of the space, and the votes on the reference rows of each."""

    home: Int8
    """(n,): the part of each row."""
    counts: tuple[JointVotes | None, ...]
    """By part; None if there are too few votes for a model."""


def fit_liger(
    votes: Votes,
    embeddings: npt.NDArray[np.float32],
    reference: npt.NDArray[np.intp],
    class_balance: Float64 | None,
    k: int,
    gold: GoldRows,
    *,
    advance: Advance = ignore_progress,
) -> Liger:
    """Return Liger on the extended `votes`.

    Votes are counted once per part for all folds, since gold changes class balances only.

    Parameters
    ----------
    votes
        (n, m) int8, extended, -1 abstains; possibly memory-mapped, and read a part of the rows at a time.
    embeddings
        (n, d) float32, likewise; parts are found on `thin_rows` of the `reference` rows, and every item belongs to its nearest
        centroid.
    reference
        Rows on whose votes the models are fitted.
    class_balance
        (k,) float64, the same for every part; or None: counted on gold and, within a part, shrunk towards the global count.
    gold
        Gold rows (positions in `votes`) that may choose the number of parts and count class balances; may be empty.
    advance
        Receives `LIGER_WORK` in all, or nothing with too little gold.
    """
    alike = count_votes_alike(votes[rows] for rows in _cut(reference))
    overall = count_joint_votes(alike.votes, k, alike.items)
    best = _Space(home=np.zeros(len(votes), np.int8), counts=(None,))
    accuracy: dict[int, float] = {}
    if len(gold.rows) >= FEWEST_GOLD:
        fold = np.empty(len(gold.rows), dtype=np.intp)
        fold[np.argsort(gold.classes, kind="stable")] = np.arange(len(gold.rows)) % FOLDS
        homes = _partition(embeddings, reference, advance)
        for parts in PARTS:
            right = 0.0
            with count_steps(advance, parts + FOLDS) as step:
                space = _divide(votes, homes[parts], reference, overall, parts, k, step)
                for held in range(FOLDS):
                    kept = GoldRows(rows=gold.rows[fold != held], classes=gold.classes[fold != held])
                    asked = gold.rows[fold == held]
                    models = _fit_models(space, overall, class_balance, k, kept)
                    posterior = _answer(votes[asked], space.home[asked], models)
                    right += score_labels(posterior, gold.classes[fold == held]).sum()
                    step(1)
            accuracy[parts] = float(right / len(gold.rows))
            # On a tie the fewest parts win.
            if accuracy[parts] > max((other for count, other in accuracy.items() if count != parts), default=-1.0):
                best = space
    return Liger(
        home=best.home,
        models=_fit_models(best, overall, class_balance, k, gold),
        own_model=sum(counts is not None for counts in best.counts),
        accuracy=accuracy or None,
    )


def _partition(
    embeddings: npt.NDArray[np.float32], reference: npt.NDArray[np.intp], advance: Advance
) -> dict[int, Int8]:
    """Return the part (n,) of each row by number of parts, found on some of the `reference` rows."""
    sample, several = embeddings[thin_rows(reference)], [parts for parts in PARTS if parts > 1]
    partitions = []
    with count_steps(advance, len(several)) as step:
        for parts in several:
            partitions.append(fit_partition(sample, parts))
            step(1)
    homes = assign_parts(partitions, embeddings, advance)
    return {1: np.zeros(len(embeddings), np.int8), **dict(zip(several, homes, strict=True))}


def _divide(
    votes: Votes,
    home: Int8,
    reference: npt.NDArray[np.intp],
    overall: JointVotes,
    parts: int,
    k: int,
    step: Advance,
) -> _Space:
    """Return the partition `home` into `parts` parts, with the votes of each part that has enough overlaps."""
    originals = np.unique(overall.first)  # an LF and its copy do not overlap
    if parts == 1:
        step(1)
        return _Space(home=home, counts=(None,))
    counts: list[JointVotes | None] = []
    for part in range(parts):
        alike = count_votes_alike(votes[rows[home[rows] == part]] for rows in _cut(reference))
        overlaps = (alike.votes[:, originals] != ABSTAIN).sum(axis=1) > 1
        has_own_model = alike.items[overlaps].sum() >= FEWEST_OVERLAPS
        counts.append(count_joint_votes(alike.votes, k, alike.items) if has_own_model else None)
        step(1)
    return _Space(home=home, counts=tuple(counts))


def _cut(rows: npt.NDArray[np.intp]) -> Iterator[npt.NDArray[np.intp]]:
    """Yield `rows` a part at a time, at least one part."""
    for start in range(0, max(len(rows), 1), _BLOCK):
        yield rows[start : start + _BLOCK]


def _fit_models(
    space: _Space, overall: JointVotes, class_balance: Float64 | None, k: int, gold: GoldRows
) -> tuple[VoteTable, ...]:
    """Return the model of each part."""
    whole = count_class_balance(gold.classes, k) if class_balance is None else class_balance
    everywhere = solve_flyingsquid(overall, whole)
    return tuple(
        everywhere
        if counts is None
        else solve_flyingsquid(counts, _draw_balance(whole, space.home, part, k, gold, class_balance))
        for part, counts in enumerate(space.counts)
    )


def _answer(votes: Votes, home: Int8, models: tuple[VoteTable, ...]) -> Float64:
    """Return the posterior (b, k) of items with these `votes` (b, m), in the parts `home` (b,)."""
    posterior = np.empty((len(votes), len(models[0].bias)))
    for part, model in enumerate(models):
        at = np.flatnonzero(home == part)
        posterior[at] = model.predict_proba(votes[at])
    return posterior


def _draw_balance(
    whole: Float64, home: Int8, part: int, k: int, gold: GoldRows, class_balance: Float64 | None
) -> Float64:
    """Return the class balance of a part, (k,): `class_balance` if given, else its count on gold shrunk towards `whole`."""
    if class_balance is not None:
        return class_balance
    counts = np.bincount(gold.classes[home[gold.rows] == part], minlength=k)
    balance: Float64 = (counts + BALANCE_ROWS * whole) / (counts.sum() + BALANCE_ROWS)
    return balance
