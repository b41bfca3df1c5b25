"""Majority vote, plain and weighted by the LFs' precision."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tasks.core.label_models.base import (
    PRIOR_VOTES,
    Finding,
    VoteTable,
    count_joint_votes,
    decode_findings,
    encode_findings,
    inspect_votes,
    predict_patterns,
)
from tasks.core.types import ABSTAIN, Float64, GoldRows, Int64, Votes


@dataclass(frozen=True, kw_only=True)
class MajorityVote:
    """Majority vote: tied classes share the probability evenly, and a row without votes gets the class balance."""

    class_balance: Float64
    lfs: int
    findings: tuple[Finding, ...] = ()

    @property
    def precision(self) -> Float64:
        """Return NaN of shape (m, k), since majority vote learns nothing."""
        return np.full((self.lfs, len(self.class_balance)), np.nan)

    def predict_proba(self, votes: Votes) -> Float64:
        """Return 1 for the class with the most votes, 1 / t for each of t tied classes, or the class balance, (n, k).

        Raises
        ------
        ValueError
            `votes` has another number of LFs.
        """
        return predict_patterns(votes, self.lfs, lambda patterns: share_majority(patterns.votes, self.class_balance))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "form": "majority",
            "class_balance": self.class_balance.tolist(),
            "lfs": self.lfs,
            "findings": encode_findings(self.findings),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return the model that `to_json` described."""
        return cls(
            class_balance=np.array(value["class_balance"], dtype=np.float64),
            lfs=value["lfs"],
            findings=decode_findings(value["findings"]),
        )


def fit_majority_vote(votes: Votes, class_balance: Float64, items: Int64 | None = None) -> MajorityVote:
    """Return majority vote over the LFs of `votes`; nothing is learned, but the votes are inspected for findings."""
    counts = count_joint_votes(votes, len(class_balance), items)
    findings = inspect_votes(counts, of_copies="and majority vote counts each of them")
    return MajorityVote(class_balance=class_balance, lfs=votes.shape[1], findings=findings)


def share_majority(votes: Votes, class_balance: Float64) -> Float64:
    """Return the posterior of each pattern in `votes` (m, u), (u, k): shared evenly by the classes with the most votes, or
    the class balance without votes.
    """
    counts = np.stack([(votes == c).sum(axis=0) for c in range(len(class_balance))], axis=1)
    most = counts == counts.max(axis=1, keepdims=True)
    shared = most / most.sum(axis=1, keepdims=True)
    return np.where(counts.any(axis=1, keepdims=True), shared, class_balance)


def fit_weighted_majority_vote(
    votes: Votes, class_balance: Float64, gold: GoldRows | None = None, items: Int64 | None = None
) -> VoteTable:
    """Return majority vote in which an LF's weight is the log odds of its precision, which is never below chance.

    The precision of an LF is its share of correct votes on gold rows if there are any, otherwise the share of its votes
    that agree with another (not identical) LF's vote on the same row; both are smoothed by `PRIOR_VOTES` votes halfway
    between chance and certainty. Identical LFs share a vote. A row without votes gets the class balance.
    """
    k, m = len(class_balance), votes.shape[1]
    counts = count_joint_votes(votes, k, items)
    prior = np.mean((1 + class_balance) / 2)
    if gold is not None and len(gold.rows):
        known = votes[gold.rows]
        hits = (known == gold.classes[:, None]).sum(axis=0)
        trials = (known != ABSTAIN).sum(axis=0)
    else:
        group = counts.first[counts.lf]
        partner = (group[:, None] != group[None, :]) & (group == counts.lf)
        pairs = np.where(partner, counts.together, 0.0)
        same = np.where(counts.vote[:, None] == counts.vote[None, :], pairs, 0.0)
        hits = np.bincount(counts.lf, same.sum(axis=1), minlength=m)
        trials = np.bincount(counts.lf, pairs.sum(axis=1), minlength=m)
    # No LF counts as worse than chance, so that a lone vote decides.
    precision = (np.maximum(hits, trials / k) + PRIOR_VOTES * prior) / (trials + PRIOR_VOTES)
    # The log odds against any particular wrong class, since that is what a vote must outweigh.
    weight = np.log(precision * (k - 1) / (1 - precision)) * counts.share
    scores = np.zeros((m, k + 1, k))
    for c in range(k):
        scores[:, c + 1, c] = weight
    return VoteTable(
        bias=np.log(class_balance),
        scores=scores,
        precision=np.where(counts.seen, precision[:, None], np.nan),
        findings=inspect_votes(counts),
    )
