"""Liger: one FlyingSquid and one class balance per part of the embedding space, after a global extension.

An LF may be right on one kind of item and wrong on another. Where a part has too few items to estimate anything, the
model of the whole space speaks for it, and its class balance is drawn towards the global one.

Source: Chen et al., "Shoring Up the Foundations: Fusing Model Embeddings and Weak Supervision", UAI 2022,
arXiv 2203.13270. The number of parts is chosen on valid gold by cross-fitting, never on test.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.core.decisions import score_labels
from tasks.core.label_models import ABSTAIN, Float, Gold, Votes
from tasks.core.model_choice import FEWEST_GOLD, FOLDS, count_class_balance
from tasks.core.partitions import fit_partition
from tasks.core.triplets import fit_flyingsquid

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

    posterior: Float
    parts: int
    own_model: int
    accuracy: dict[int, float] | None


def fit_liger(
    votes: Votes,
    embeddings: npt.NDArray[np.float32],
    reference: npt.NDArray[np.intp],
    class_balance: Float | None,
    k: int,
    gold: Gold,
) -> Liger:
    """Liger's posterior for every row of the extended `votes`.

    Parameters
    ----------
    votes
        (n, m) int8, extended, -1 abstains.
    embeddings
        (n, d) float32; parts are found on the `reference` rows and every item belongs to the nearest centroid.
    reference
        Rows whose votes the models are fitted on.
    class_balance
        (k,) float64, the same for every part, or None: counted on gold, drawn towards the global count within a part.
    gold
        Gold rows (positions in `votes`) that may choose the number of parts and count class balances; may be empty.
    """
    everyone = np.arange(len(votes))
    if len(gold.rows) < FEWEST_GOLD:
        return _answer(votes, everyone, np.zeros(len(votes), np.int64), 1, reference, class_balance, k, gold, None)
    fold = np.empty(len(gold.rows), dtype=np.intp)
    fold[np.argsort(gold.classes, kind="stable")] = np.arange(len(gold.rows)) % FOLDS
    accuracy: dict[int, float] = {}
    homes: dict[int, npt.NDArray[np.int64]] = {}
    for parts in PARTS:
        homes[parts] = fit_partition(embeddings[reference], parts).assign(embeddings)
        right = 0.0
        for held in range(FOLDS):
            kept = Gold(rows=gold.rows[fold != held], classes=gold.classes[fold != held])
            asked = gold.rows[fold == held]
            found = _answer(votes, asked, homes[parts], parts, reference, class_balance, k, kept, None)
            right += score_labels(found.posterior, gold.classes[fold == held]).sum()
        accuracy[parts] = float(right / len(gold.rows))
    chosen = max(PARTS, key=lambda parts: accuracy[parts])  # of equals the first: the fewest parts
    return _answer(votes, everyone, homes[chosen], chosen, reference, class_balance, k, gold, accuracy)


def _answer(
    votes: Votes,
    asked: npt.NDArray[np.intp],
    home: npt.NDArray[np.int64],
    parts: int,
    reference: npt.NDArray[np.intp],
    class_balance: Float | None,
    k: int,
    gold: Gold,
    accuracy: dict[int, float] | None,
) -> Liger:
    """Liger with a given partition, for the rows `asked`."""
    whole = count_class_balance(gold.classes, k) if class_balance is None else class_balance
    overall = fit_flyingsquid(votes[reference], whole)
    posterior = np.empty((len(asked), k))
    own_model = 0
    for part in range(parts):
        at = np.flatnonzero(home[asked] == part)
        fitted = reference[home[reference] == part]
        overlaps = np.count_nonzero((votes[fitted] != ABSTAIN).sum(axis=1) > 1)
        model = overall
        if parts > 1 and overlaps >= FEWEST_OVERLAPS:
            model = fit_flyingsquid(votes[fitted], _draw_balance(whole, home, part, k, gold, class_balance))
            own_model += 1
        posterior[at] = model.predict_proba(votes[asked[at]])
    return Liger(posterior=posterior, parts=parts, own_model=own_model, accuracy=accuracy)


def _draw_balance(
    whole: Float, home: npt.NDArray[np.int64], part: int, k: int, gold: Gold, class_balance: Float | None
) -> Float:
    """(k,): the class balance of a part, counted on its gold rows and drawn towards the whole; or the given one."""
    if class_balance is not None:
        return class_balance
    counts = np.bincount(gold.classes[home[gold.rows] == part], minlength=k)
    balance: Float = (counts + BALANCE_ROWS * whole) / (counts.sum() + BALANCE_ROWS)
    return balance
