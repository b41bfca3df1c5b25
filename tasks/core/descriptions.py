"""Votes for the class whose description is nearest to an item, on the items where that is clear.

An item's score of a class is its cosine with the class's description, less that description's mean over reference items; of
several, the best counts. The margin is the best score less the second best. Of the items for which a class is best, the
description LF votes on those whose margin reaches the class's cut.

How far down the cut may lie is read from evidence, tenth by tenth of the reference items by margin: gold, or the votes of
other LFs, or whether near items have the same best class. All of them are noisy, so only their decline counts: tenths are
taken while agreement above chance keeps the share `KEPT` of what it is in the first tenth.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.core.description_scores import DescriptionScores, to_units
from tasks.core.types import ABSTAIN, Bool, Float32, Float64, Int8, Int64

Kind = Literal["gold", "votes", "neighbors"]

TENTHS = 10

KEPT: dict[Kind, float] = {"gold": 0.9, "votes": 0.9, "neighbors": 0.75}
"""Share of the first tenth's agreement above chance that a tenth must keep, by kind of evidence. Chosen on valid gold of
agnews, yelp and sms: beside other LFs .9 gave .845, .850, .968 and .75 gave .838, .850, .968; alone, .828, .742, .816 and
.831, .768, .824. An LF that is alone needs its weaker votes; beside others they are in the way."""

ENOUGH = 20
"""Items that evidence on a class must have, at least two a tenth."""

NEIGHBORS = 5
"""Nearest items whose best class is compared."""

EQUAL = 1e-6
"""Margin up to which no class is nearer than another: embeddings are float32, whose rounding moves a cosine by some 1e-7."""

LEAST_COMMON = 5
"""Common items below which an LF's agreement is not known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Voter:
    """What votes: the scores of the descriptions' classes, and by class (k,) the least margin, infinite where it never votes.

    is_filling: whether it votes on items alone on which no other LF does.
    """

    scores: DescriptionScores
    cuts: Float64
    is_filling: bool


@dataclass(frozen=True, kw_only=True)
class DescribedLF:
    """The LF at position `lf` that votes for the class whose description is nearest, and what it votes by."""

    lf: int
    voter: Voter


@dataclass(frozen=True, kw_only=True, eq=False)
class Guesses:
    """The best class (n,) of items, ABSTAIN where none is, and by how much it is better than the second (n,)."""

    classes: Int8
    margins: Float64


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """How far somebody agrees with the best class of some items: the classes (e,), margins (e,), agreement (e,) in [0, 1],
    and what it would be by chance, by class (k,).
    """

    kind: Kind
    classes: Int8
    margins: Float64
    agreement: Float64
    chance: Float64


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """Where a class stops voting. share: of the reference items for which it is best. curve: (10,) agreement by tenth,
    isotonic; NaN where nothing is known. evidence: its kind.
    """

    margin: float
    share: float
    curve: Float64
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement above chance (Cohen's kappa with the votes of others) on `items`, and its standard error."""

    kappa: float
    error: float
    items: int


def guess(X: Float32, scores: DescriptionScores, k: int) -> Guesses:
    """Return the best class of each row of X (n, d) and its margin; of a single described class, the score itself.

    No class is best where the margin is at most `EQUAL`: of equal scores the one that comes first would win.
    """
    by_class = scores.score_classes(X, k)
    best = by_class.argmax(axis=1)
    first = by_class[np.arange(len(X)), best]
    by_class[np.arange(len(X)), best] = -np.inf
    second = by_class.max(axis=1)
    margins = first - np.where(np.isfinite(second), second, 0)
    return Guesses(classes=np.where(np.abs(margins) > EQUAL, best, ABSTAIN).astype(np.int8), margins=margins)


def vote(guesses: Guesses, cuts: Float64, is_filling: bool, has_others: Bool) -> Int8:
    """Return the votes (n,); has_others (n,): whether another LF votes on the item."""
    votes = np.where(guesses.margins >= cuts[guesses.classes], guesses.classes, np.int8(ABSTAIN))
    return np.where(has_others & is_filling, np.int8(ABSTAIN), votes)


def choose_cut(label: int, margins: Float64, evidence: list[Evidence]) -> Cut:
    """Return where class `label` stops voting, `margins` being those of the reference items for which it is best.

    Of `evidence`, best first, the first kind with enough items counts; without any, the first tenth votes.
    """
    if not len(margins):
        return Cut(margin=np.inf, share=0.0, curve=np.full(TENTHS, np.nan), evidence="none")
    ordered = np.sort(margins)[::-1]
    ends = np.ceil(np.arange(1, TENTHS + 1) * len(ordered) / TENTHS).astype(np.int64)
    lowest = ordered[ends - 1]
    for found in evidence:
        here = found.classes == label
        if here.sum() < ENOUGH:
            continue
        tenth = np.minimum(np.searchsorted(-lowest, -found.margins[here]), TENTHS - 1)
        curve = _fit_falling(tenth, found.agreement[here])
        above = curve - found.chance[label]
        kept = int((above >= KEPT[found.kind] * above[0]).sum()) if above[0] > 0 else 1
        return Cut(margin=float(lowest[kept - 1]), share=kept / TENTHS, curve=curve, evidence=found.kind)
    return Cut(margin=float(lowest[0]), share=1 / TENTHS, curve=np.full(TENTHS, np.nan), evidence="none")


def _fit_falling(tenth: Int64, agreement: Float64) -> Float64:
    """The mean agreement by tenth, (10,), made to fall; a tenth without items has that of the one above it."""
    counts = np.bincount(tenth, minlength=TENTHS)
    known = np.flatnonzero(counts)
    means = np.bincount(tenth, weights=agreement, minlength=TENTHS)[known] / counts[known]
    from scipy.optimize import isotonic_regression  # A fifth of a second that a stage without descriptions saves.

    falling = isotonic_regression(means, weights=counts[known], increasing=False).x
    curve: Float64 = falling[np.maximum(np.searchsorted(known, np.arange(TENTHS), side="right") - 1, 0)]
    return curve


def compare_neighbors(X: Float32, guesses: Guesses, k: int) -> Evidence:
    """Return how many of each row's nearest rows of X (n, d) have the same best class."""
    units = to_units(X)
    count = min(NEIGHBORS, len(X) - 1)
    agreement = np.ones(len(X))
    for start in range(0, len(X) if count else 0, 1024):
        near = units[start : start + 1024] @ units.T
        near[np.arange(len(near)), start + np.arange(len(near))] = -np.inf
        nearest = np.argpartition(-near, count - 1, axis=1)[:, :count]
        same = guesses.classes[nearest] == guesses.classes[start : start + 1024, None]
        agreement[start : start + 1024] = same.mean(axis=1)
    chance = np.bincount(guesses.classes[guesses.classes != ABSTAIN], minlength=k) / max(len(X), 1)
    return Evidence(
        kind="neighbors", classes=guesses.classes, margins=guesses.margins, agreement=agreement, chance=chance
    )


def measure_agreement(agreement: Float64, classes: Int8, others: Float64) -> Agreement:
    """Return agreement above chance of votes for `classes` (n,), of which others share `agreement` (n,).

    others: (k,) the distribution of what others say. NaN below `LEAST_COMMON` items, and where chance alone agrees.
    """
    n = len(classes)
    shares = np.bincount(classes, minlength=len(others)) / max(n, 1)
    return compute_kappa(float(agreement.sum()), n, float(shares @ others))


def compute_kappa(agreed: float, n: int, expected: float) -> Agreement:
    """Return the kappa of n votes of which `agreed` are shared, `expected` being the share by chance."""
    if n < LEAST_COMMON or expected >= 1:
        return Agreement(kappa=float("nan"), error=float("nan"), items=n)
    mean = agreed / n
    error = np.sqrt(max(mean * (1 - mean), 0.0) / n) / (1 - expected)
    return Agreement(kappa=(mean - expected) / (1 - expected), error=float(error), items=n)
