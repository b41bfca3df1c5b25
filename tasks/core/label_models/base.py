"""What every label model shares: gold anchors, findings, the two kinds of fitted model, majority vote with weights.

A label model is a function `fit_x(votes, class_balance, ..., gold)` that returns a frozen object with
`predict_proba(votes)`, `precision`, `findings` and `to_json()`; `choice.from_json` reads it back. There is no base
class. Everywhere: votes are int8 of shape (n, m), -1 abstains, 0..k-1 is a class; class_balance is float64 of shape
(k,), positive, summing to one. Results depend neither on the order of rows nor on the number of threads: what is summed
over rows are whole numbers, and everything else is summed in a fixed order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tasks.core.patterns import Patterns, find_patterns
from tasks.core.types import ABSTAIN, Float64, Votes

PRIOR_VOTES = 10.0
"""What is believed of an LF before any evidence counts like so many votes: a tenth of what settles a precision to .05."""

FEWEST_TO_JUDGE = 10
"""Votes, or overlaps, below which a finding about an LF would be noise."""

NEAR_COPY = 0.98
"""Share of the items on which either LF votes where both cast the same vote. A finding only: two excellent LFs may get there honestly."""

_ENTRIES = 1 << 22
"""Entries of an indicator matrix held at once: 16 MiB in float32."""

_SPARSE_COST = 500
"""What a pair of votes costs when only votes cast are multiplied, in multiply-adds of a dense product.

Measured at 290 to 1,390 on one core, for 100 and 300 LFs of coverage .05 to .3; it decides speed alone, not results.
"""

_EXACT = 1 << 24
"""Whole numbers up to here are exact in float32, and so is every sum of them in any order that stays below."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about the votes that a user should know.

    Core has no names: LFs are positions, and `{2}` in the message stands for the name of class 2.
    """

    message: str
    lfs: tuple[int, ...] = ()


class LabelModel(Protocol):
    """What a fitted label model offers."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What fitting noticed."""
        ...

    @property
    def precision(self) -> Float64:
        """Return P(Y = c | the LF votes c) as the model sees it, (m, k); NaN where it has no notion of it."""
        ...

    def predict_proba(self, votes: Votes) -> Float64:
        """Return the probability of each class, (n, k); rows sum to one."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `choice.from_json` turns back into an equal model."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class VoteTable:
    """A score per LF, vote and class; the posterior is the exponential of their sum, normalized."""

    bias: Float64
    """(k,): the score of each class before any vote; for most models the log of the class balance."""
    scores: Float64
    """(m, k + 1, k): what LF j's vote v (0 is abstain, 1 + c is class c) adds to the log posterior of each class."""
    precision: Float64
    """(m, k): P(Y = c | the LF votes c); NaN where it never votes c or the model has no notion of it."""
    findings: tuple[Finding, ...] = ()

    def predict_proba(self, votes: Votes) -> Float64:
        """Return the posterior, (n, k); uniform where every class is impossible.

        Raises
        ------
        ValueError
            `votes` has another number of LFs.
        """
        return predict_patterns(votes, len(self.scores), self._score)

    def _score(self, patterns: Patterns) -> Float64:
        return normalize_logs(add_scores(self.bias, self.scores, patterns))

    def to_json(self) -> dict[str, Any]:
        """Return plain values; an impossible vote (score minus infinity) and an undefined precision are None."""
        return {
            "form": "vote_table",
            "bias": self.bias.tolist(),
            "scores": encode_array(self.scores),
            "precision": encode_array(self.precision),
            "findings": encode_findings(self.findings),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return the model that `to_json` described."""
        return cls(
            bias=np.array(value["bias"], dtype=np.float64),
            scores=decode_array(value["scores"], missing=-np.inf),
            precision=decode_array(value["precision"], missing=np.nan),
            findings=decode_findings(value["findings"]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class JointVotes:
    """How often LFs vote, alone and together: all that fitting needs to know of the rows. Whole numbers as float64."""

    patterns: Patterns
    rows: int
    lf: npt.NDArray[np.intp]
    """(r,): an LF class is an LF and a class that it votes; the LF of each, ascending."""
    vote: npt.NDArray[np.intp]
    """(r,): the class of each."""
    together: Float64
    """(r, r): rows on which both LF classes vote; the diagonal is how often each does."""
    seen: npt.NDArray[np.bool_]
    """(m, k): whether the LF votes the class anywhere."""
    first: npt.NDArray[np.intp]
    """(m,): for each LF the first one with exactly its votes; itself, if there is none before it."""

    @property
    def share(self) -> Float64:
        """Return one over the number of LFs with exactly these votes, so that copies count once together, (m,)."""
        share: Float64 = 1.0 / np.bincount(self.first, minlength=len(self.first))[self.first]
        return share


def count_joint_votes(votes: Votes, k: int) -> JointVotes:
    """Return how often each LF votes each class, and each two of them on the same row.

    The counts are exact, hence the same for every order of rows and number of threads. Cost: what is less of the pairs
    of votes cast on the same row, and r^2 for each distinct row.
    """
    patterns = find_patterns(votes)
    seen = np.array([np.bincount(cast + 1, minlength=k + 1)[1:] > 0 for cast in patterns.votes]).reshape(-1, k)
    lf, vote = np.nonzero(seen)
    known: dict[bytes, int] = {}
    return JointVotes(
        patterns=patterns,
        rows=len(votes),
        lf=lf,
        vote=vote,
        together=_count_together(patterns, lf, vote, k),
        seen=seen,
        first=np.array([known.setdefault(cast.tobytes(), j) for j, cast in enumerate(patterns.votes)], dtype=np.intp),
    )


def _count_together(patterns: Patterns, lf: npt.NDArray[np.intp], vote: npt.NDArray[np.intp], k: int) -> Float64:
    m, u, r = len(patterns.votes), len(patterns.counts), len(lf)
    per_row = (patterns.votes != ABSTAIN).sum(axis=0).astype(np.float64)
    if _SPARSE_COST * (per_row**2).sum() < u * float(r) ** 2:
        lf_class = np.zeros((m, k), dtype=np.int32)
        lf_class[lf, vote] = np.arange(r)
        row, by = np.nonzero(patterns.votes.T != ABSTAIN)
        column = lf_class[by, patterns.votes[by, row]]
        cast = sparse.csr_array((np.ones(len(row), dtype=np.int64), (row, column)), shape=(u, r))
        counted = sparse.csr_array((patterns.counts[row], (row, column)), shape=(u, r))
        sparsely: Float64 = (cast.T @ counted).toarray().astype(np.float64)
        return sparsely
    together = np.zeros((r, r))
    dtype = np.float32 if patterns.counts.sum() < _EXACT else np.float64
    step = max(1, _ENTRIES // max(1, r))
    for start in range(0, u, step):
        block = slice(start, start + step)
        entries = (patterns.votes[lf, block] == vote[:, None]).astype(dtype)
        weights = patterns.counts[block].astype(dtype)
        # A matrix times its own transpose takes half the work.
        together += entries @ entries.T if (weights == 1).all() else (entries * weights) @ entries.T
    return together


def inspect_votes(counts: JointVotes, *, of_copies: str = "so they count as one") -> tuple[Finding, ...]:
    """Return what is odd about the votes, whatever the model: silent LFs, copies, near copies, classes without any vote.

    `of_copies` is what the model makes of identical votes.
    """
    findings = []
    silent = np.flatnonzero(~counts.seen.any(axis=1))
    if len(silent):
        findings.append(Finding(message="never votes on the items the model is fitted on", lfs=_positions(silent)))
    for first in np.unique(counts.first):
        copies = np.flatnonzero(counts.first == first)
        if len(copies) > 1 and counts.seen[first].any():
            findings.append(Finding(message=f"cast identical votes, {of_copies}", lfs=_positions(copies)))
    findings += [
        Finding(message=f"cast the same vote on at least {NEAR_COPY:.0%} of the items where either votes", lfs=pair)
        for pair in _find_near_copies(counts)
    ]
    for c in np.flatnonzero(~counts.seen.any(axis=0)):
        findings.append(Finding(message=f"no labeling function votes for class {{{c}}}"))
    return tuple(findings)


def _find_near_copies(counts: JointVotes) -> list[tuple[int, int]]:
    m = len(counts.first)
    starts = np.flatnonzero(np.diff(counts.lf, prepend=-1))
    if not len(starts):
        return []
    lfs = counts.lf[starts]
    alike = np.where(counts.vote[:, None] == counts.vote[None, :], counts.together, 0.0)
    same, both = np.zeros((m, m)), np.zeros((m, m))
    for total, entries in ((same, alike), (both, counts.together)):
        total[np.ix_(lfs, lfs)] = np.add.reduceat(np.add.reduceat(entries, starts, axis=0), starts, axis=1)
    cast = np.diag(both)
    either = cast[:, None] + cast[None, :] - both
    near = (same >= NEAR_COPY * either) & (same >= FEWEST_TO_JUDGE)
    near &= counts.first[:, None] != counts.first[None, :]
    return [(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(near, 1)), strict=True)]


def _positions(lfs: npt.NDArray[np.intp]) -> tuple[int, ...]:
    return tuple(int(j) for j in lfs)


def predict_patterns(votes: Votes, m: int, score: Callable[[Patterns], Float64]) -> Float64:
    """Return `score`, (u, k), worked out once per distinct row of `votes` and handed to every row that shows it, (n, k)."""
    if votes.shape[1] != m:
        raise ValueError(f"votes of {votes.shape[1]} labeling functions for a label model of {m}")
    patterns = find_patterns(votes)
    return np.take(score(patterns), patterns.inverse, axis=0)


def add_scores(bias: Float64, scores: Float64, patterns: Patterns) -> Float64:
    """Return `bias` plus, LF by LF, the score of its vote in each pattern, (u, k)."""
    total = np.tile(bias, (len(patterns.counts), 1))
    for votes, table in zip(patterns.votes, scores, strict=True):
        total += np.take(table, votes + 1, axis=0)
    return total


def normalize_logs(logs: Float64) -> Float64:
    """Return exp(logs) divided by its sum over the last axis; uniform where all are minus infinity."""
    top = logs.max(axis=-1, keepdims=True)
    values = np.where(np.isneginf(top), 1.0, np.exp(logs - np.where(np.isneginf(top), 0.0, top)))
    normalized: Float64 = values / values.sum(axis=-1, keepdims=True)
    return normalized


def encode_array(values: Float64) -> Any:
    """Return nested lists, None for what is not finite; floats come back exactly."""
    boxed = values.astype(object)
    boxed[~np.isfinite(values)] = None
    return boxed.tolist()


def decode_array(values: Any, *, missing: float) -> Float64:
    """Return the array that `encode_array` wrote, `missing` where it has None."""
    # NumPy reads None as NaN.
    numbers = np.array(values, dtype=np.float64)
    return np.where(np.isnan(numbers), missing, numbers)


def encode_findings(findings: tuple[Finding, ...]) -> list[dict[str, Any]]:
    """Return findings as plain values."""
    return [{"message": finding.message, "lfs": list(finding.lfs)} for finding in findings]


def decode_findings(values: list[dict[str, Any]]) -> tuple[Finding, ...]:
    """Return the findings that `encode_findings` wrote."""
    return tuple(Finding(message=value["message"], lfs=tuple(value["lfs"])) for value in values)
