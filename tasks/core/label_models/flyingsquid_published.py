"""FlyingSquid in closed form as the flyingsquid package computes it; for more than two classes, one against the rest.

Source: Fu et al., "Fast and Three-rious: Speeding Up Weak Supervision with Triplet Methods", PMLR v119, 2020, sections 3
and 4. `triplets` has the corrected form.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from tasks.core.label_models.base import (
    Finding,
    VoteTable,
    count_joint_votes,
    decode_findings,
    encode_findings,
    inspect_votes,
    normalize_logs,
)
from tasks.core.label_models.triplets import FEWEST_LFS, PACKAGE_ON_COPIES, Estimate, fit_flyingsquid
from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.types import ABSTAIN, Float64, Int64, Votes


def fit_flyingsquid_reference(
    votes: Votes,
    class_balance: Float64,
    *,
    estimate: Estimate = "mean",
    items: Int64 | None = None,
    advance: Advance = ignore_progress,
) -> "VoteTable | OneVsRest":
    """Return FlyingSquid as the package computes it, including its doubled prior.

    The package handles two classes. For more, each class is fitted against the rest, and the k posteriors are divided by
    their sum. With fewer than three LFs, which the package refuses, the result is that of `fit_flyingsquid` with a finding.
    """
    k = len(class_balance)
    if votes.shape[1] < FEWEST_LFS:
        fallback = fit_flyingsquid(votes, class_balance, estimate=estimate, items=items, advance=advance)
        note = Finding(message="the reference needs three labeling functions: the corrected form is used")
        return replace(fallback, findings=(*fallback.findings, note))
    findings = inspect_votes(count_joint_votes(votes, k, items), of_copies=PACKAGE_ON_COPIES)
    shares = [float(share) for share in class_balance / class_balance.sum()]
    with count_steps(advance, votes.shape[1] * (1 if k == 2 else k)) as step:
        if k == 2:
            return replace(_fit_reference(votes, items, shares[1], estimate, step), findings=findings)
        tables = tuple(_fit_reference(_against_rest(votes, c), items, shares[c], estimate, step) for c in range(k))
        return OneVsRest(tables=tables, findings=findings)


@dataclass(frozen=True, kw_only=True)
class OneVsRest:
    """A two-class table for each class against the rest; their posteriors are divided by their sum."""

    tables: tuple[VoteTable, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def precision(self) -> Float64:
        """Return, for each class c, the precision of votes for c by the table of c, (m, k)."""
        return np.stack([table.precision[:, 1] for table in self.tables], axis=1)

    def predict_proba(self, votes: Votes) -> Float64:
        """Return the posterior of each class against the rest, divided by their sum, (n, k).

        Raises
        ------
        ValueError
            `votes` has another number of LFs.
        """
        positive = [table.predict_proba(_against_rest(votes, c))[:, 1] for c, table in enumerate(self.tables)]
        with np.errstate(divide="ignore"):
            return normalize_logs(np.log(np.stack(positive, axis=1)))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "form": "one_vs_rest",
            "tables": [table.to_json() for table in self.tables],
            "findings": encode_findings(self.findings),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return the model that `to_json` described."""
        return cls(
            tables=tuple(VoteTable.from_json(table) for table in value["tables"]),
            findings=decode_findings(value["findings"]),
        )


def _against_rest(votes: Votes, c: int) -> Votes:
    """Return votes for class `c` as 1, for any other as 0."""
    return np.where(votes == ABSTAIN, ABSTAIN, votes == c).astype(np.int8)


def _fit_reference(votes: Votes, items: Int64 | None, balance: float, estimate: Estimate, step: Advance) -> VoteTable:
    """Return the package's closed form for votes 0 and 1, where `balance` is P(Y = 1); `step` is called for each LF."""
    m = votes.shape[1]
    counts = count_joint_votes(votes, 2, items)
    n = counts.items
    sign = np.where(counts.vote == 1, 1.0, -1.0)
    moments = np.zeros((m, m))
    np.add.at(moments, (counts.lf[:, None], counts.lf[None, :]), sign[:, None] * sign[None, :] * counts.together)
    # Division comes last: integers cancel to exactly zero, which fractions may not.
    accuracy = _average_triplets(moments / n, estimate, step)
    rates = np.zeros((m, 2))
    rates[counts.lf, counts.vote] = np.diag(counts.together) / n
    negative, positive = rates.T
    silent = ((counts.patterns.votes == ABSTAIN) @ counts.patterns.counts) / n
    agree = (1 + accuracy - silent) / 2
    hit = (agree - negative + balance * (1 - silent)) / 2
    joint = np.empty((m, 3, 2))
    joint[:, 0] = np.stack([silent * (1 - balance), silent * balance], axis=1)
    joint[:, 1] = np.stack([negative - balance * (1 - silent) + hit, balance * (1 - silent) - hit], axis=1)
    joint[:, 2] = np.stack([positive - hit, hit], axis=1)
    joint = np.abs(joint)
    joint /= joint.sum(axis=(1, 2), keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.log(joint)
        precision = joint[:, [1, 2], [0, 1]] / joint[:, 1:].sum(axis=2)
    return VoteTable(
        # The package divides by P(Y)^(m - 2), one power too few, so the class balance counts twice.
        bias=-(m - 2) * np.log(np.array([1 - balance, balance])),
        scores=scores,
        precision=np.where(counts.seen, precision, np.nan),
    )


def _average_triplets(moments: Float64, estimate: Estimate, step: Advance) -> Float64:
    """Return for LF i the mean or median over pairs (j, k) of sqrt|M_ij M_ik / M_jk|, 0 where M_jk is 0, (m,)."""
    m = len(moments)
    root = np.sqrt(np.abs(moments))
    np.fill_diagonal(root, 0.0)
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    if estimate == "mean":
        # Not a matrix product: BLAS may sum in a different order on a different number of threads.
        through = np.einsum("ij,jk->ik", root, inverse)
        means: Float64 = (through * root).sum(axis=1) / ((m - 1) * (m - 2))
        return means
    first, second = np.tril_indices(m - 1, -1)
    accuracy = np.empty(m)
    for i in range(m):
        others = np.delete(np.arange(m), i)
        j, k = others[first], others[second]
        accuracy[i] = np.median(root[i, j] * root[i, k] * inverse[j, k])
        step(1)
    return accuracy
