"""What end_model.json says: what taught the labels, the weight of each source of evidence, and which other answer there was."""

from typing import Any

import numpy as np

from tasks.core.classifiers.class_balance import estimate_class_balance
from tasks.core.classifiers.folds import is_enough_gold
from tasks.core.classifiers.pool import EXPERTS
from tasks.core.classifiers.vote_head import LEAST_SKILL, VoteHead, measure_skill
from tasks.core.copies import group_copies
from tasks.core.label_models.nearvote import SOURCES
from tasks.core.types import Float64, GoldRows, Int64, Votes
from tasks.params import TrainParams
from tasks.report.formatting import format_share
from tasks.tables.saved_model import Method

DIGITS = 6
"""Digits of the numbers in end_model.json, which explain the labels and are not read back."""

_SHOWN = 5
"""Most near-copies that a sentence names."""

_NAMES: dict[Method, str] = {"end_model": "the end model", "nearvote": "nearvote"}


def tabulate_end_model(
    shipped: Method,
    gold: GoldRows | None,
    votes: Votes,
    lfs: tuple[str, ...],
    classes: tuple[str, ...],
    params: TrainParams,
    *,
    head: VoteHead,
    balance: Float64,
    bandwidth: float,
    nearvote_weights: Float64,
    end_model_weights: Float64,
    neighborhood: float,
) -> dict[str, Any]:
    """Return the content of end_model.json without certificate and alternative.

    votes: (n, m); balance: (k,), that of the labels; the weights: in the order of `SOURCES` and of `EXPERTS`, said where gold
    taught them; neighborhood: the say of the nearest items.
    """
    gold_rows = 0 if gold is None else len(gold.rows)
    is_used = gold is not None and is_enough_gold(gold)
    summary = _describe_teachers(gold, is_used)
    if shipped == "nearvote":
        summary += (
            " WARNING: a classifier on the embeddings does not foretell votes that were held out, so the labels are "
            "nearvote's, not the end model's. Check that embeddings and items belong together, or try another encoder."
        )
    copies = group_copies(votes, len(classes))
    for group in copies:
        names = [lfs[lf] for lf in group.lfs]
        listed = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        summary += f" {len(names)} labeling functions say much the same and count as {group.worth:.1f}: {listed}."
    is_updated = not np.array_equal(balance, estimate_class_balance(head, votes, None))
    return {
        "summary": summary,
        "shipped": shipped,
        "near_copies": [
            {"lfs": [lfs[lf] for lf in group.lfs], "count_as": round(group.worth, DIGITS)} for group in copies
        ],
        "gold_rows": gold_rows,
        "class_balance": dict(zip(classes, balance.tolist(), strict=True)),
        "class_balance_source": _name_balance(params, gold_rows, is_updated),
        "bandwidth": round(bandwidth, DIGITS),
        "nearvote_weights": _name_numbers(SOURCES, nearvote_weights) if is_used else None,
        "end_model_weights": _name_numbers(EXPERTS, end_model_weights) if is_used else None,
        "neighborhood": round(neighborhood, DIGITS),
    }


def tabulate_alternative(
    shipped: Method, labels: Int64, other_labels: Int64, votes: Votes, head: VoteHead
) -> dict[str, Any]:
    """Return what end_model.json says of the labels that are not shipped, where no gold tells which are better.

    labels, other_labels: (n,) class positions, of the method `shipped` and of the other.
    """
    other: Method = "nearvote" if shipped == "end_model" else "end_model"
    differ, skill = int((labels != other_labels).sum()), measure_skill(votes, head.proba)
    why = "how well embeddings foretell held-out votes could not be measured"
    if not np.isnan(skill):
        why = f"embeddings foretell held-out votes with a skill of {skill:.2f}, and from {LEAST_SKILL:.2f} on it is the end model"
    return {
        "method": other,
        "labels_that_differ": differ,
        "summary": f"Gold cannot tell which of two answers is better. Shipped are the labels of {_NAMES[shipped]}: {why}. "
        f"Those of {_NAMES[other]} would differ on {differ:,} of {len(labels):,} items ({format_share(differ / len(labels))}).",
    }


def _describe_teachers(gold: GoldRows | None, is_used: bool) -> str:
    if gold is None:
        return "no gold: nearvote alone teaches the end model, and nothing here could check it."
    rows = f"{len(gold.rows):,} gold rows of valid"
    if is_used:
        return f"nearvote and {rows} teach the end model."
    why = "of one class" if len(np.unique(gold.classes)) == 1 else "too few to learn from"
    return f"{rows} are {why}: they only count in the class balance."


def _name_balance(params: TrainParams, gold_rows: int, is_updated: bool) -> str:
    if params.class_balance != "estimated":
        return "uniform, as params.yaml asks" if params.class_balance == "uniform" else "given in params.yaml"
    if is_updated:
        return f"estimated from {gold_rows:,} gold rows of valid, which refute that of the votes"
    return "estimated from the votes" + (
        f", with which {gold_rows:,} gold rows of valid accord" if gold_rows else " alone"
    )


def _name_numbers(names: tuple[str, ...], numbers: Float64) -> dict[str, float]:
    return {name: round(float(number), DIGITS) for name, number in zip(names, numbers, strict=True)}
