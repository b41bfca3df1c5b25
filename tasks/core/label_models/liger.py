"""Liger: one FlyingSquid and one class balance per part of the embedding space, after a global extension.

An LF may be right on one kind of item and wrong on another. Where a part has too few items to estimate anything, the
model of the whole space speaks for it, and its class balance is drawn towards the global one.

Source: Chen et al., "Shoring Up the Foundations: Fusing Model Embeddings and Weak Supervision", UAI 2022,
arXiv 2203.13270. The number of parts is chosen on valid gold by cross-fitting, never on test.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.core.label_models.base import JointVotes, count_joint_votes
from tasks.core.label_models.choice import FEWEST_GOLD, FOLDS, count_class_balance
from tasks.core.label_models.partitions import fit_partition, thin_rows
from tasks.core.label_models.triplets import solve_flyingsquid
from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.ties import score_labels
from tasks.core.types import ABSTAIN, Float64, GoldRows, Votes

PARTS = (1, 2, 4, 8, 16)
"""Numbers of parts that are tried; one part is Epoxy."""

FEWEST_OVERLAPS = 100
"""Items with two votes or more that a part needs: a moment of fewer has a standard error above a tenth."""

BALANCE_ROWS = 20.0
"""The global class balance counts like so many gold rows of a part."""


@dataclass(frozen=True, kw_only=True)
class Liger:
    """Liger's answer for every item.

    posterior: (n, k) float64, rows sum to one. parts: how many parts were chosen; own_model: how many of them had
    items enough for a model of their own. accuracy: by number of parts, on held-out gold rows, ties split evenly; None
    where there was too little gold to choose with, and then there is one part.
    """

    posterior: Float64
    parts: int
    own_model: int
    accuracy: dict[int, float] | None


@dataclass(frozen=True, kw_only=True)
class _Space:
    """The space in parts, and what the reference rows of each part voted."""

    home: npt.NDArray[np.int64]
    """(n,): the part of each row."""
    counts: tuple[JointVotes | None, ...]
    """By part; None where there is too little to estimate a model from."""


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
    """Return Liger's posterior for every row of the extended `votes`.

    Votes are counted once per part, whatever the folds: gold changes class balances alone.

    Parameters
    ----------
    votes
        (n, m) int8, extended, -1 abstains.
    embeddings
        (n, d) float32, may be a mapped file; parts are found on `thin_rows` of the `reference` rows and every item
        belongs to the nearest centroid.
    reference
        Rows whose votes the models are fitted on.
    class_balance
        (k,) float64, the same for every part, or None: counted on gold, drawn towards the global count within a part.
    gold
        Gold rows (positions in `votes`) that may choose the number of parts and count class balances; may be empty.
    advance
        Is told of each of `PARTS`, a piece of work: its partition, the counts of its parts, and the folds.
    """
    overall = count_joint_votes(votes[reference], k)
    everyone = np.arange(len(votes))
    best = _Space(home=np.zeros(len(votes), np.int64), counts=(None,))
    accuracy: dict[int, float] = {}
    if len(gold.rows) >= FEWEST_GOLD:
        fold = np.empty(len(gold.rows), dtype=np.intp)
        fold[np.argsort(gold.classes, kind="stable")] = np.arange(len(gold.rows)) % FOLDS
        sample = embeddings[thin_rows(reference)]
        for parts in PARTS:
            right = 0.0
            with count_steps(advance, 1 + parts + FOLDS) as step:
                space = _divide(votes, embeddings, sample, reference, overall, parts, k, step)
                for held in range(FOLDS):
                    kept = GoldRows(rows=gold.rows[fold != held], classes=gold.classes[fold != held])
                    asked = gold.rows[fold == held]
                    posterior = _answer(votes, asked, space, overall, class_balance, k, kept)
                    right += score_labels(posterior, gold.classes[fold == held]).sum()
                    step(1)
            accuracy[parts] = float(right / len(gold.rows))
            # Of equals the first: the fewest parts.
            if accuracy[parts] > max((other for count, other in accuracy.items() if count != parts), default=-1.0):
                best = space
    return Liger(
        posterior=_answer(votes, everyone, best, overall, class_balance, k, gold),
        parts=len(best.counts),
        own_model=sum(counts is not None for counts in best.counts),
        accuracy=accuracy or None,
    )


def _divide(
    votes: Votes,
    embeddings: npt.NDArray[np.float32],
    sample: npt.NDArray[np.float32],
    reference: npt.NDArray[np.intp],
    overall: JointVotes,
    parts: int,
    k: int,
    step: Advance,
) -> _Space:
    """Return the space in `parts` parts, found on a `sample` of it, and the votes of each that has enough overlaps."""
    originals = np.unique(overall.first)  # an LF and its copy do not overlap
    home = fit_partition(sample, parts).assign(embeddings)
    step(1)
    counts: list[JointVotes | None] = []
    for part in range(parts):
        cast = votes[reference[home[reference] == part]]
        has_own_model = (
            parts > 1 and np.count_nonzero((cast[:, originals] != ABSTAIN).sum(axis=1) > 1) >= FEWEST_OVERLAPS
        )
        counts.append(count_joint_votes(cast, k) if has_own_model else None)
        step(1)
    return _Space(home=home, counts=tuple(counts))


def _answer(
    votes: Votes,
    asked: npt.NDArray[np.intp],
    space: _Space,
    overall: JointVotes,
    class_balance: Float64 | None,
    k: int,
    gold: GoldRows,
) -> Float64:
    """Return Liger's posterior for the rows `asked`."""
    whole = count_class_balance(gold.classes, k) if class_balance is None else class_balance
    everywhere = solve_flyingsquid(overall, whole)
    posterior = np.empty((len(asked), k))
    for part, counts in enumerate(space.counts):
        at = np.flatnonzero(space.home[asked] == part)
        model = everywhere
        if counts is not None:
            model = solve_flyingsquid(counts, _draw_balance(whole, space.home, part, k, gold, class_balance))
        posterior[at] = model.predict_proba(votes[asked[at]])
    return posterior


def _draw_balance(
    whole: Float64, home: npt.NDArray[np.int64], part: int, k: int, gold: GoldRows, class_balance: Float64 | None
) -> Float64:
    """Return the class balance of a part, counted on its gold rows and drawn towards the whole, (k,); or the given one."""
    if class_balance is not None:
        return class_balance
    counts = np.bincount(gold.classes[home[gold.rows] == part], minlength=k)
    balance: Float64 = (counts + BALANCE_ROWS * whole) / (counts.sum() + BALANCE_ROWS)
    return balance
