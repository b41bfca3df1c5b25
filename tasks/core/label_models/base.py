"""What the label models share: their interface, findings, tables of scores per vote, and counts of votes.

A label model is a function `fit_x(votes, class_balance, ..., gold)` that returns a frozen object with
`predict_proba(votes)`, `precision`, `findings` and `to_json()`; `choice.from_json` reads it back. There is no base
class. Everywhere, votes are int8 of shape (n, m), -1 abstains and 0..k-1 is a class; class_balance is float64 of shape
(k,), positive, with sum 1. A row of votes may stand for several items with the same votes: `items` (n,) says for how many, one
each where it is None. Results depend neither on the order of rows nor on the number of threads, nor on whether equal rows came
counted: only integers are summed over rows, and everything else is summed in a fixed order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import scipy

from tasks.core.patterns import Patterns, find_patterns
from tasks.core.slices import cut_slices
from tasks.core.types import ABSTAIN, Float64, Int64, Votes

PRIOR_VOTES = 10.0
"""The weight, in votes, of the prior belief about an LF: a tenth of the votes that settle a precision to .05."""

FEWEST_TO_JUDGE = 10
"""Fewest votes, or overlaps, for a finding about an LF; with fewer it would be noise."""

NEAR_COPY = 0.98
"""Two LFs are near-copies if they cast the same vote on this share of the items on which either votes. It is a finding
only, since two excellent LFs may agree as often."""

_NAMED = 20
"""Most classes that a finding names."""

_ENTRIES = 1 << 22
"""Most entries of an indicator matrix in memory: 16 MiB in float32."""

_SPARSE_COST = 500
"""The cost of a pair of votes in a sparse product, in multiply-adds of a dense one.

Measured as 290 to 1,390 on one core, for 100 and 300 LFs of coverage .05 to .3; it affects speed only, not results.
"""

_EXACT = 1 << 24
"""Integers up to this are exact in float32, and so are their sums, in any order, that stay below it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about the votes that the user should know.

    Core knows no names: LFs are positions, and `{2}` in the message stands for the name of class 2.
    """

    message: str
    lfs: tuple[int, ...] = ()


class LabelModel(Protocol):
    """The interface of a fitted label model."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Return what the user should know about the votes or the fit."""
        ...

    @property
    def precision(self) -> Float64:
        """Return the model's estimate of P(Y = c | the LF votes c), (m, k); NaN where it has none."""
        ...

    def predict_proba(self, votes: Votes) -> Float64:
        """Return the probability of each class, (n, k); rows sum to 1."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return plain values from which `choice.from_json` makes an equal model."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class VoteTable:
    """A label model with a score per LF, vote and class; the posterior is the exponential of their sum, normalized."""

    bias: Float64
    """(k,): the score of each class before any vote; for most models the log of the class balance."""
    scores: Float64
    """(m, k + 1, k): what vote v of LF j (0 is abstain, 1 + c is class c) adds to the log posterior of each class."""
    precision: Float64
    """(m, k): P(Y = c | the LF votes c); NaN where the LF never votes c or the model has no estimate."""
    findings: tuple[Finding, ...] = ()

    def predict_proba(self, votes: Votes) -> Float64:
        """Return the posterior, (n, k); uniform for rows on which every class is impossible.

        Raises
        ------
        ValueError
            `votes` has another number of LFs.
        """
        return predict_patterns(votes, len(self.scores), self._score)

    def _score(self, patterns: Patterns) -> Float64:
        return normalize_logs(add_scores(self.bias, self.scores, patterns))

    def to_json(self) -> dict[str, Any]:
        """Return plain values; an impossible vote (score minus infinity) is None. What says nothing is left out.

        Of many classes an LF votes for a few, so that nearly all scores are 0 and nearly all precisions undefined.
        """
        return {
            "form": "vote_table",
            "bias": self.bias.tolist(),
            "scores": encode_rows(self.scores, (self.scores != 0).any(axis=2)),
            "precision": encode_rows(self.precision[:, :, None], ~np.isnan(self.precision)),
            "findings": encode_findings(self.findings),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return the model that `to_json` described."""
        return cls(
            bias=np.array(value["bias"], dtype=np.float64),
            scores=decode_rows(value["scores"], missing=-np.inf, elsewhere=0.0),
            precision=decode_rows(value["precision"], missing=np.nan, elsewhere=np.nan)[:, :, 0],
            findings=decode_findings(value["findings"]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class JointVotes:
    """How often LFs vote, alone and together, which is all that fitting needs of the rows. Integers, as float64."""

    patterns: Patterns
    items: int
    lf: npt.NDArray[np.intp]
    """(r,): the LF of each LF class (an LF and a class that it votes for), ascending."""
    vote: npt.NDArray[np.intp]
    """(r,): the class of each LF class."""
    together: Float64
    """(r, r): the number of rows on which both LF classes vote; on the diagonal, on which each votes."""
    seen: npt.NDArray[np.bool_]
    """(m, k): whether the LF votes for the class anywhere."""
    first: npt.NDArray[np.intp]
    """(m,): for each LF, the first LF with exactly the same votes, which may be itself."""

    @property
    def share(self) -> Float64:
        """Return one over the number of LFs with the same votes, (m,), so that copies together count once."""
        share: Float64 = 1.0 / np.bincount(self.first, minlength=len(self.first))[self.first]
        return share


def count_joint_votes(votes: Votes, k: int, items: Int64 | None = None) -> JointVotes:
    """Return how often each LF votes for each class, and how often each pair of LF classes votes on the same item.

    The counts are exact, and so do not depend on the order of rows or the number of threads. The cost is the smaller of
    the number of pairs of votes on the same row, and r^2 per distinct row.
    """
    patterns = find_patterns(votes, items)
    seen = np.array([np.bincount(cast + 1, minlength=k + 1)[1:] > 0 for cast in patterns.votes]).reshape(-1, k)
    lf, vote = np.nonzero(seen)
    known: dict[bytes, int] = {}
    return JointVotes(
        patterns=patterns,
        items=int(patterns.counts.sum()),
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
        cast = scipy.sparse.csr_array((np.ones(len(row), dtype=np.int64), (row, column)), shape=(u, r))
        counted = scipy.sparse.csr_array((patterns.counts[row], (row, column)), shape=(u, r))
        sparsely: Float64 = (cast.T @ counted).toarray().astype(np.float64)
        return sparsely
    together = np.zeros((r, r))
    dtype = np.float32 if patterns.counts.sum() < _EXACT else np.float64
    step = max(1, _ENTRIES // max(1, r))
    for block in cut_slices(u, step):
        entries = (patterns.votes[lf, block] == vote[:, None]).astype(dtype)
        weights = patterns.counts[block].astype(dtype)
        # A matrix times its own transpose takes half the work of a general product.
        together += entries @ entries.T if (weights == 1).all() else (entries * weights) @ entries.T
    return together


def inspect_votes(counts: JointVotes, *, of_copies: str = "so they count as one") -> tuple[Finding, ...]:
    """Return findings that do not depend on the model: silent LFs, copies, near-copies, and classes without votes.

    `of_copies` says how the model treats identical votes.
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
    unnamed = np.flatnonzero(~counts.seen.any(axis=0))
    if len(unnamed):
        names = ", ".join(f"{{{c}}}" for c in unnamed[:_NAMED])
        more = f" and {len(unnamed) - _NAMED} more" if len(unnamed) > _NAMED else ""
        kind = "class" if len(unnamed) == 1 else f"{len(unnamed)} classes:"
        findings.append(Finding(message=f"no labeling function votes for {kind} {names}{more}"))
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
    """Return `score` for every row of `votes`, (n, k), computed once per distinct row, (u, k).

    Raises
    ------
    ValueError
        `votes` has a number of LFs other than `m`.
    """
    if votes.shape[1] != m:
        raise ValueError(f"votes of {votes.shape[1]} labeling functions for a label model of {m}")
    patterns = find_patterns(votes)
    return np.take(score(patterns), patterns.inverse, axis=0)


def add_scores(bias: Float64, scores: Float64, patterns: Patterns) -> Float64:
    """Return `bias` plus the scores of the votes in each pattern, (u, k), added in LF order."""
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
    """Return nested lists, with None for what is not finite; `decode_array` restores floats exactly."""
    boxed = values.astype(object)
    boxed[~np.isfinite(values)] = None
    return boxed.tolist()


def decode_array(values: Any, *, missing: float) -> Float64:
    """Return the array that `encode_array` wrote, `missing` where it has None."""
    # NumPy converts None to NaN.
    numbers = np.array(values, dtype=np.float64)
    return np.where(np.isnan(numbers), missing, numbers)


def encode_rows(values: Float64, kept: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return the rows of `values` (a, b, c) that are `kept` (a, b), each with its two positions; `decode_rows` restores them.

    Where more than half of a row are equal, that number stands once, and after it the positions and numbers of the others.

    >>> encode_rows(np.array([[[0.5, 1.0], [0.0, 0.0]]]), np.array([[True, False]]))
    {'shape': [1, 2, 2], 'rows': [[0, 0, [0.5, 1.0]]], 'short_rows': []}
    >>> encode_rows(np.array([[[0.5, 1.0, 0.5, 0.5]]]), np.array([[True]]))["short_rows"]
    [[0, 0, 0.5, 1, 1.0]]
    """
    rows: list[Any] = []
    short_rows: list[Any] = []
    for a, b in np.argwhere(kept).tolist():
        numbers = encode_array(values[a, b])
        # With a majority, the median is it.
        most = numbers[int(np.argsort(values[a, b], kind="stable")[len(numbers) // 2])]
        others = [entry for pair in enumerate(numbers) if pair[1] != most for entry in pair]
        if len(others) + 1 < len(numbers):
            short_rows.append([a, b, most, *others])
        else:
            rows.append([a, b, numbers])
    return {"shape": list(values.shape), "rows": rows, "short_rows": short_rows}


def decode_rows(value: dict[str, Any], *, missing: float, elsewhere: float) -> Float64:
    """Return the array that `encode_rows` wrote: `missing` where a row has None, `elsewhere` in rows that were not kept."""
    values = np.full(value["shape"], elsewhere, dtype=np.float64)
    for a, b, numbers in value["rows"]:
        values[a, b] = decode_array(numbers, missing=missing)
    for a, b, most, *others in value["short_rows"]:
        values[a, b] = missing if most is None else most
        for position, number in zip(others[::2], others[1::2], strict=True):
            values[a, b, position] = missing if number is None else number
    return values


def encode_findings(findings: tuple[Finding, ...]) -> list[dict[str, Any]]:
    """Return findings as plain values."""
    return [{"message": finding.message, "lfs": list(finding.lfs)} for finding in findings]


def decode_findings(values: list[dict[str, Any]]) -> tuple[Finding, ...]:
    """Return the findings that `encode_findings` wrote."""
    return tuple(Finding(message=value["message"], lfs=tuple(value["lfs"])) for value in values)
