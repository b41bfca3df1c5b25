"""The decomposition of a shipped posterior: the log-odds of its class against another, as a sum over sources of evidence.

The end model adds the weighted log probabilities of its experts, and Nearvote those of its sources, so the log-odds of
two classes are a sum over experts; the label model's part is a sum over its sources, and that of the linear expert on
student and votes a sum over the embedding, the student and each LF's vote. The vote head's held-out predictions cannot be
computed from what is stored, so its part is the remainder of the log-odds; the parts add up except for one rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.core.classifiers.end_model import EndParameters
from tasks.core.classifiers.gold_experts import predict_stacked, stack_fused
from tasks.core.classifiers.pool import EXPERTS
from tasks.core.classifiers.softmax import normalize_scores, score_rows
from tasks.core.label_models.nearvote import SOURCES, NearvoteParameters, PooledVotes, stack_evidence, weigh_similarity
from tasks.core.threads import one_thread
from tasks.core.types import Float32, Float64, Int64, Votes

NEAREST = "nearest items"
"""The source that stands for the labels of the items nearest to the item, voted on or not."""

REST = "vote head"
"""The source whose part is the remainder of the log-odds of a pool or of weak labels."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What `source`, within `of` (an expert of the pool, or a model), adds to the log-odds; lf: the LF if it is a vote."""

    of: str
    source: str
    log_odds: float
    lf: str | None = None


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The classes compared on each of q items: label and other, (q,) positions; log_odds: (q,) of label against other."""

    label: Int64
    other: Int64
    log_odds: Float64

    def subtract(self, scores: Float64) -> Float64:
        """Return the scores (q, k) of the labels minus those of the other classes, (q,)."""
        rows = np.arange(len(self.label))
        return np.asarray(scores[rows, self.label] - scores[rows, self.other])


def take_apart_pool(
    parameters: EndParameters,
    nearvote: NearvoteParameters,
    contest: Contest,
    *,
    features: Float32,
    votes: Votes,
    lfs: Sequence[str],
    evidence: PooledVotes,
    knows_neighbors: bool,
    knows_own: bool,
    gold_similarity: Float32,
) -> list[tuple[Part, ...]]:
    """Return the parts of each item's log-odds, for parameters learned from gold and classes with gold.

    Parameters
    ----------
    features, votes
        (q, d) float32 and (q, m) int8 of the items.
    evidence
        From `pool_votes`; if `knows_neighbors` is false, its `near` is ignored, and neighbors and vote head are a single
        part.
    knows_own
        The log-odds are those before nearest items had a say; if not, they are part of the remainder as well.
    gold_similarity
        (q, k) float32, the similarity to the nearest other gold row of each class.
    """
    learned, weights, offsets = parameters.gold, nearvote.weights, nearvote.offsets
    assert learned is not None and weights is not None and offsets is not None
    alone, fused, label_model, student = learned.pool_weights.tolist()
    with one_thread():
        raw = normalize_scores(score_rows(parameters.student, features))
        blocks = stack_fused(features, raw, learned.student_norm, votes, learned.vote_code)
        gold_alone = predict_stacked(learned.alone, [features])
        ends = np.cumsum([block.shape[1] for block in blocks])[:-1]
        of_embedding, of_student, _ = (
            block[:].astype(np.float64) @ coef
            for block, coef in zip(blocks, np.split(learned.fused.coef, ends), strict=True)
        )
    fused_name, label_name = EXPERTS[1], EXPERTS[2]
    columns: list[tuple[str, str, Float64]] = [
        (EXPERTS[0], "embedding", alone * contest.subtract(gold_alone)),
        (fused_name, "embedding", fused * contest.subtract(of_embedding + learned.fused.intercept)),
        (fused_name, "student", fused * contest.subtract(of_student)),
        (EXPERTS[3], "embedding", student * contest.subtract(parameters.confidence * raw)),
    ]
    near_gold = weigh_similarity(gold_similarity, evidence.bandwidth)
    logs = stack_evidence(evidence, np.ones_like(evidence.own), near_gold, nearvote.means)
    for number, source in enumerate(SOURCES):
        if source != REST and (knows_neighbors or source != "neighbors"):
            columns.append((label_name, source, label_model * weights[number] * contest.subtract(logs[:, :, number])))
    shift = np.broadcast_to(offsets, (len(features), len(offsets)))
    columns.append((label_name, "class offsets", label_model * contest.subtract(shift)))
    rest = _name_rest(knows_neighbors, knows_own)
    coef = dict(
        zip(map(tuple, np.argwhere(learned.vote_code.heights > 0)), learned.fused.coef[ends[-1] :], strict=True)
    )
    height = learned.vote_code.scale * learned.vote_code.heights
    taken = []
    for row, (a, b) in enumerate(zip(contest.label, contest.other, strict=True)):
        parts = [Part(of=of, source=source, log_odds=float(values[row])) for of, source, values in columns]
        for j in np.flatnonzero(votes[row] >= 0):
            vote = votes[row, j]
            if height[j, vote] > 0:
                added = np.float32(height[j, vote]) * (coef[j, vote][a] - coef[j, vote][b])
                parts.append(Part(of=fused_name, source="vote", log_odds=fused * float(added), lf=lfs[int(j)]))
        taken.append(_complete(parts, label_name, rest, float(contest.log_odds[row])))
    return taken


def take_apart_without_gold(
    parameters: EndParameters,
    nearvote: NearvoteParameters,
    contest: Contest,
    *,
    features: Float32,
    evidence: PooledVotes | None,
    knows_own: bool,
) -> list[tuple[Part, ...]]:
    """Return the parts of each item's log-odds, for parameters learned without gold: those of the student and of the weak labels.

    The arguments are those of `take_apart_pool`; evidence: None if neighbors are not known.
    """
    label_model, student = parameters.without_gold.tolist()
    shift = parameters.confidence * parameters.student.intercept
    with one_thread():
        raw = normalize_scores(score_rows(parameters.student, features))
    offsets = student * contest.subtract(np.broadcast_to(shift, (len(contest.label), len(shift))))
    by_student = student * contest.subtract(parameters.confidence * raw)
    name, taken = EXPERTS[3], []
    rest = Contest(label=contest.label, other=contest.other, log_odds=contest.log_odds - by_student)
    others = take_apart_weak_labels(nearvote, evidence, rest, share=label_model, knows_own=knows_own)
    for offset, whole, more in zip(offsets, by_student, others, strict=True):
        taken.append(
            (
                Part(of=name, source="class offsets", log_odds=float(offset)),
                Part(of=name, source="embedding", log_odds=float(whole - offset)),
                *(more if label_model > 0 else ()),
            )
        )
    return taken


def take_apart_weak_labels(
    nearvote: NearvoteParameters,
    evidence: PooledVotes | None,
    contest: Contest,
    *,
    share: float = 1.0,
    knows_own: bool = True,
) -> list[tuple[Part, ...]]:
    """Return the parts of Nearvote without gold: votes and neighbors together count one half, the vote head the other.

    Without `evidence` (neighbors are not known) there is a single part. share: the weight of Nearvote where it is one of several
    experts.
    """
    name, whole = "nearvote", contest.log_odds
    if evidence is None:
        return [_complete([], name, f"own votes, {_name_rest(False, knows_own)}", float(value)) for value in whole]
    tiny = np.finfo(np.float64).tiny
    pooled = evidence.own + evidence.near
    has_any = pooled.sum(axis=1) > 0
    balance = np.where(
        has_any[:, None],
        np.log(np.maximum(nearvote.local, tiny)),
        np.log(np.maximum(nearvote.class_balance, tiny)),
    )
    balanced = contest.subtract(np.log(np.maximum(nearvote.both, tiny)) + balance / 2)
    local = np.where(has_any, contest.subtract(np.log(np.maximum(pooled, tiny)) / 2), 0.0)
    return [
        _complete(
            [
                Part(of=name, source="own votes and neighbors", log_odds=share * float(local[row])),
                Part(of=name, source="class balance", log_odds=share * float(balanced[row])),
            ],
            name,
            _name_rest(True, knows_own),
            float(value),
        )
        for row, value in enumerate(whole)
    ]


def add_nearest(parts: Sequence[Part], own: float, whole: float) -> tuple[Part, ...]:
    """Return `parts` of the log-odds `own`, and what nearest items add to them, so that they come to `whole`."""
    return (*parts, Part(of="end_model", source=NEAREST, log_odds=whole - own))


def _name_rest(knows_neighbors: bool, knows_own: bool) -> str:
    parts = [*([] if knows_neighbors else ["neighbors"]), *([] if knows_own else [NEAREST]), REST]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _complete(parts: list[Part], of: str, source: str, log_odds: float) -> tuple[Part, ...]:
    """Return `parts` plus a part of `source`, the remainder of `log_odds`."""
    return (*parts, Part(of=of, source=source, log_odds=log_odds - sum(part.log_odds for part in parts)))
