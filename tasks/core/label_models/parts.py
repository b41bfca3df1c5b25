"""A shipped posterior taken apart: the log-odds of its class against another as a sum over sources of evidence.

The end model pools experts by adding their weighted log probabilities, and Nearvote its sources likewise, so that the
log-odds of two classes are a sum: over experts, of the label model over its sources, and of the expert that gold taught
with student and votes, which is linear, over the embedding, the student and each LF's vote. What the votes of a row
itself hold back cannot be computed again from what is stored: the vote head is asked without them. Its part is what the
others leave of the log-odds, and the parts add up to the last bit but for one rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from tasks.core.classifiers.end_model import EXPERTS, EndParameters, center_scores, predict_stacked, stack_fused
from tasks.core.classifiers.softmax import normalize_scores, score_rows
from tasks.core.label_models.nearvote import SOURCES, NearvoteParameters, PooledVotes, stack_evidence, weigh_similarity
from tasks.core.types import Float32, Float64, Int64, Votes

REST = "vote head"
"""The source of the part that is what the others leave of the log-odds of a pool or of weak labels."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What `source`, as part of `of` (an expert of the pool, or a model), adds to the log-odds; lf: whose vote it is."""

    of: str
    source: str
    log_odds: float
    lf: str | None = None


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Which classes are compared on each of q items: label and other, (q,) positions, and log_odds (q,) of the first."""

    label: Int64
    other: Int64
    log_odds: Float64

    def subtract(self, scores: Float64) -> Float64:
        """Return by how much the scores (q, k) of the labels are above those of the others, (q,)."""
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
    gold_similarity: Float32,
) -> list[tuple[Part, ...]]:
    """Return the parts of each item's log-odds, for parameters that gold taught and classes that have gold.

    Parameters
    ----------
    features, votes
        (q, d) float32 and (q, m) int8 of the items.
    evidence
        From `pool_votes`; where `knows_neighbors` is false its `near` is not looked at, and neighbors and vote head are
        one part.
    gold_similarity
        (q, k) float32, to the nearest other gold row of each class.
    """
    learned, weights, offsets = parameters.gold, nearvote.weights, nearvote.offsets
    assert learned is not None and weights is not None and offsets is not None
    alone, fused, label_model, student = learned.pool_weights.tolist()
    with threadpool_limits(limits=1):
        raw = normalize_scores(score_rows(parameters.student, features))
        blocks = stack_fused(features, center_scores(raw), learned.student_norm, votes, learned.vote_code)
        gold_alone = predict_stacked(learned.alone, [features])
        ends = np.cumsum([block.shape[1] for block in blocks])[:-1]
        of_embedding, of_student, _ = (
            block.astype(np.float64) @ coef
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
    rest = REST if knows_neighbors else f"neighbors and {REST}"
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


def take_apart_student(parameters: EndParameters, contest: Contest) -> list[tuple[Part, ...]]:
    """Return the parts where the student alone speaks: its offset, and what it sees in the embedding."""
    name, shift = EXPERTS[3], parameters.confidence * parameters.student.intercept
    offsets = contest.subtract(np.broadcast_to(shift, (len(contest.label), len(shift))))
    return [
        _complete([Part(of=name, source="class offsets", log_odds=float(offset))], name, "embedding", float(whole))
        for offset, whole in zip(offsets, contest.log_odds, strict=True)
    ]


def take_apart_weak_labels(
    nearvote: NearvoteParameters, evidence: PooledVotes | None, contest: Contest
) -> list[tuple[Part, ...]]:
    """Return the parts of Nearvote without gold: votes and neighbors have half a say, the vote head has the other.

    Without `evidence`, where neighbors are not known, there is one part.
    """
    name, whole = "nearvote", contest.log_odds
    if evidence is None:
        return [_complete([], name, f"own votes, neighbors and {REST}", float(value)) for value in whole]
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
                Part(of=name, source="own votes and neighbors", log_odds=float(local[row])),
                Part(of=name, source="class balance", log_odds=float(balanced[row])),
            ],
            name,
            REST,
            float(value),
        )
        for row, value in enumerate(whole)
    ]


def _complete(parts: list[Part], of: str, source: str, log_odds: float) -> tuple[Part, ...]:
    """`parts`, and `source` as what they leave of `log_odds`."""
    return (*parts, Part(of=of, source=source, log_odds=log_odds - sum(part.log_odds for part in parts)))
