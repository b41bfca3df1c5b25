"""FlyingSquid in closed form for LFs that are independent given the class, corrected for any number of classes.

Source: Fu et al., "Fast and Three-rious: Speeding Up Weak Supervision with Triplet Methods", PMLR v119, 2020, sections 3
and 4. `flyingsquid_published` has the form that the flyingsquid package computes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tasks.core.label_models.base import (
    FEWEST_TO_JUDGE,
    PRIOR_VOTES,
    Finding,
    JointVotes,
    VoteTable,
    count_joint_votes,
    inspect_votes,
)
from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.types import ABSTAIN, Float64, GoldRows, Int64, Votes

Estimate = Literal["mean", "median"]

FEWEST_LFS = 3
"""A triplet is three LFs with votes, no two of them identical."""

CEILING = 0.98
"""Estimated precisions are kept between one minus this and this: a vote moves the odds by at most about 50 to 1."""

ANCHORED_VOTES = 20.0
"""The most gold votes that moments count for, from however many rows, since LFs are never quite independent."""

SURE = 2.0
"""An LF this many standard errors below chance is reported as worse than random: about one false alarm in 40."""

PACKAGE_ON_COPIES = "and the flyingsquid package counts each of them"
"""The remark on identical votes where the package's results are reproduced."""

_LEAST = 1e-9
"""Keeps a logarithm finite where a bound makes a probability zero."""


def fit_flyingsquid(
    votes: Votes,
    class_balance: Float64,
    *,
    estimate: Estimate = "mean",
    gold: GoldRows | None = None,
    items: Int64 | None = None,
    advance: Advance = ignore_progress,
) -> VoteTable:
    """Return FlyingSquid, corrected: the posterior is P(Y) times, for every vote v cast, P(Y | v) / P(Y).

    An LF class is an LF and a class c that it votes. Given independence given Y, the correlation of two LF classes a and b over
    all rows is e_a e_b, where e_a is the correlation of LF class a with the event Y = c (for more than two classes this asks
    of one of the two that it votes c and errs evenly on the other classes, and only such pairs are used). So
    e_a^2 = r_ab r_ad / r_bd for every triplet, and P(Y = c | a) follows from e_a, the rate of a and P(Y = c).

    - Triplets are weighted by what two LF classes of their coverage would show if they were halfway between chance and
      certainty, and averaged before the division (mean), or are weighed so in a median: one that is all noise, as
      between LFs that hardly ever meet, weighs next to nothing.
    - Correlations are used rather than uncentered moments, so that the LFs with which it overlaps also show the precision
      of an LF that votes for a single class.
    - Like the original, this assumes that no LF is worse than chance, so that a lone vote decides. An LF class whose
      moments say otherwise is reported, and only gold can make its votes count against their class.
    - An estimate counts as votes(a) * sum_b e_b^2 / (1 - rate(a)) observed votes, beside `PRIOR_VOTES` halfway between
      chance and certainty; gold votes are added to these, and moments then count as `ANCHORED_VOTES` at most.
    - The precision stays within the bounds given by the LF class's rate and P(Y = c), and within `CEILING`.
    - The errors of an LF class are spread over the other classes according to the class balance and its gold votes.
    - Identical LFs count as a single LF, whose vote they share. Abstaining says nothing. A vote never seen in fitting
      counts as halfway between chance and certainty; so does every vote if there are fewer than three different LFs,
      unless gold says more.

    Cost: one exact count of co-votes, then O(r^2) for r LF classes (mean), or O(r^3 log r) (median), LF class by LF class, of which
    `advance` is told.
    """
    known = None
    if gold is not None and len(gold.rows):
        known = _count_gold(votes, gold, len(class_balance))
    counts = count_joint_votes(votes, len(class_balance), items)
    return solve_flyingsquid(counts, class_balance, estimate=estimate, known=known, advance=advance)


def solve_flyingsquid(
    counts: JointVotes,
    class_balance: Float64,
    *,
    estimate: Estimate = "mean",
    known: Float64 | None = None,
    advance: Advance = ignore_progress,
) -> VoteTable:
    """Return the result of `fit_flyingsquid` from counted votes, which can be reused with other class balances.

    `known` (m, k, k) has the number of gold rows by LF, its vote and the class.
    """
    k, m = len(class_balance), len(counts.first)
    findings = list(inspect_votes(counts))
    lf_classes = np.flatnonzero(counts.first[counts.lf] == counts.lf)
    lf, vote = counts.lf[lf_classes], counts.vote[lf_classes]
    prior = (1 + class_balance) / 2
    precision = np.tile(prior, (m, 1))
    worth = np.full((m, k), PRIOR_VOTES)
    if len(np.unique(lf)) < FEWEST_LFS:
        findings.append(
            Finding(
                message="fewer than three different labeling functions vote: every vote counts as halfway to certain"
            )
        )
    else:
        found = _estimate_lf_classes(
            lf,
            vote,
            counts.together[np.ix_(lf_classes, lf_classes)] / counts.items,
            counts.items,
            class_balance,
            estimate,
            advance,
        )
        precision[lf, vote] = found.precision
        worth[lf, vote] = found.worth
        chance = class_balance[vote]
        noise = np.sqrt(chance * (1 - chance) / np.maximum(found.support, 1.0))
        below = (found.raw < chance - SURE * noise) & (found.support >= FEWEST_TO_JUDGE)
        findings += [
            Finding(
                message=f"looks worse than random where it votes {{{c}}} "
                f"(estimated precision {p:.2f}, class balance {class_balance[c]:.2f})",
                lfs=(int(j),),
            )
            for j, c, p in zip(lf[below], vote[below], found.raw[below], strict=True)
        ]
    precision, worth = precision[counts.first], worth[counts.first]
    given = _spread_errors(precision, class_balance)
    if known is not None:
        pseudo = np.minimum(worth, ANCHORED_VOTES)[:, :, None] * given
        pseudo += known
        given = pseudo / pseudo.sum(axis=2, keepdims=True)
    scores = np.zeros((m, k + 1, k))
    scores[:, 1:] = counts.share[:, None, None] * (np.log(np.maximum(given, _LEAST)) - np.log(class_balance))
    diagonal = given[:, np.arange(k), np.arange(k)]
    return VoteTable(
        bias=np.log(class_balance),
        scores=scores,
        precision=np.where(counts.seen, diagonal, np.nan),
        findings=tuple(findings),
    )


@dataclass(frozen=True, kw_only=True)
class _LFClassEstimates:
    """Estimates for each LF class, all of shape (r,)."""

    raw: Float64
    """P(Y = c | the LF class votes) from moments alone."""
    support: Float64
    """The weight of `raw`, in observed votes."""
    precision: Float64
    """The weighted mean of `raw` and the prior belief about any LF."""
    worth: Float64
    """The weight of `precision`, in observed votes."""


def _estimate_lf_classes(
    lf: npt.NDArray[np.intp],
    vote: npt.NDArray[np.intp],
    together: Float64,
    items: int,
    class_balance: Float64,
    estimate: Estimate,
    advance: Advance,
) -> _LFClassEstimates:
    """Return the estimates from moments, given the share of the items on which each pair of them votes `together`."""
    k, r = len(class_balance), len(lf)
    rate = np.diag(together)
    spread = np.sqrt(rate * (1 - rate))
    scale = np.outer(spread, spread)
    # An LF class that votes on every row has no variance: it distinguishes no rows.
    correlation = np.divide(together - np.outer(rate, rate), scale, out=np.zeros((r, r)), where=scale > 0)
    correlation[lf[:, None] == lf[None, :]] = 0.0
    ratio = np.divide(rate, 1 - rate, out=np.zeros(r), where=rate < 1)
    balance = class_balance[vote]
    # P(Y = c) = P(Y = c | a) rate(a) + P(Y = c | not a) (1 - rate(a)), and both probabilities lie in [0, 1].
    low = np.maximum(1 - (1 - balance) / rate, 1 - CEILING)
    high = np.maximum(np.minimum(balance / rate, CEILING), low)
    floor = np.clip(_find_floor(class_balance)[vote], low, high)
    believed = np.clip((1 + balance) / 2, low, high)
    raw, support = np.empty(r), np.empty(r)
    with count_steps(advance, r) as step:
        for c in range(k):
            votes_class = vote == c
            chance = class_balance[c]
            deviation = np.sqrt(chance * (1 - chance))
            expected_precision = np.where(votes_class, believed, (1 - believed) * chance / (1 - balance))
            expected = (expected_precision - chance) * np.sqrt(ratio) / deviation
            triplets = _Triplets(
                correlation=correlation,
                lf=lf,
                expected=expected,
                partner=votes_class if k > 2 else np.ones(r, dtype=bool),
            )
            targets = np.flatnonzero(votes_class)
            strength = triplets.average(targets) if estimate == "mean" else triplets.median(targets, step)
            raw[targets] = chance + np.divide(
                strength * deviation, np.sqrt(ratio[targets]), out=np.zeros(len(targets)), where=ratio[targets] > 0
            )
            everyone = strength if k > 2 else triplets.average(np.arange(r))
            shown = np.zeros(r)
            shown[targets if k > 2 else slice(None)] = np.minimum(everyone**2, 1.0)
            support[targets] = (rate / (1 - rate + _LEAST) * items * triplets.outside(shown))[targets]
    raw = np.clip(raw, low, high)
    precision = (support * np.maximum(raw, floor) + PRIOR_VOTES * believed) / (support + PRIOR_VOTES)
    return _LFClassEstimates(raw=raw, support=support, precision=precision, worth=support + PRIOR_VOTES)


@dataclass(frozen=True, kw_only=True)
class _Triplets:
    """All triplets of LF classes for a class: a target LF class and a pair, from three different LFs."""

    correlation: Float64
    """(r, r): 0 between LF classes of the same LF."""
    lf: npt.NDArray[np.intp]
    """(r,): ascending."""
    expected: Float64
    """(r,): the weight of an LF class: the signed correlation with the class expected at its coverage."""
    partner: npt.NDArray[np.bool_]
    """(r,): a pair counts only if at least one of its LF classes is a partner."""

    def outside(self, values: Float64) -> Float64:
        """Return, for each LF class, the sum of `values` over the LF classes of other LFs, (r,)."""
        sums: Float64 = values.sum() - np.bincount(self.lf, values)[self.lf]
        return sums

    def average(self, targets: npt.NDArray[np.intp]) -> Float64:
        """Return the signed correlation of each target with the class: weighted sums of r_ab r_ad over weighted sums of r_bd."""
        seen = self.correlation[targets] * self.expected
        pairs = self.correlation * self.expected * self.expected[:, None]
        pairs *= self.partner[:, None] | self.partner[None, :]
        by_lf_class = pairs.sum(axis=1)
        below = by_lf_class.sum() - 2 * np.bincount(self.lf, by_lf_class)[self.lf][targets]
        above = self._pair_up(seen) - self._pair_up(seen * ~self.partner)
        squared = np.divide(above, below, out=np.zeros(len(targets)), where=below > 0)
        strength: Float64 = np.sign(seen.sum(axis=1)) * np.sqrt(np.maximum(squared, 0.0))
        return strength

    def _pair_up(self, values: Float64) -> Float64:
        """Return per row, the sum of products over ordered pairs of columns of different LFs."""
        starts = np.flatnonzero(np.diff(self.lf, prepend=-1))
        within = np.add.reduceat(values, starts, axis=1)
        pairs: Float64 = values.sum(axis=1) ** 2 - (within**2).sum(axis=1)
        return pairs

    def median(self, targets: npt.NDArray[np.intp], step: Advance) -> Float64:
        """Return the signed correlation of each target with the class: weighted median of sqrt|r_ab r_ad / r_bd|; each is a step."""
        root = np.sqrt(np.abs(self.correlation))
        first, second = np.nonzero(np.triu((root > 0) & (self.partner[:, None] | self.partner[None, :])))
        weight = np.abs(self.expected[first] * self.expected[second])
        below = root[first, second]
        strength = np.zeros(len(targets))
        for position, a in enumerate(targets):
            apart = (self.lf[first] != self.lf[a]) & (self.lf[second] != self.lf[a])
            values = (root[a, first] * root[a, second] / below)[apart]
            order = np.argsort(values, kind="stable")
            reached = np.cumsum(weight[apart][order])
            if len(reached) and reached[-1] > 0:
                strength[position] = values[order[np.searchsorted(reached, reached[-1] / 2)]]
            step(1)
        strength *= np.sign((self.correlation[targets] * self.expected).sum(axis=1))
        return strength


def _find_floor(class_balance: Float64) -> Float64:
    """Return the precision at which a lone vote for a class ties with the most frequent other class, (k,).

    For two classes it is one half.
    """
    k = len(class_balance)
    others = np.where(np.eye(k, dtype=bool), 0.0, class_balance).max(axis=1)
    floor: Float64 = others / (1 - class_balance + others)
    return floor


def _spread_errors(precision: Float64, class_balance: Float64) -> Float64:
    """Return P(Y | vote), (m, k, k): `precision` on the diagonal, and the rest in proportion to the class balance."""
    k = len(class_balance)
    given: Float64 = (1 - precision)[:, :, None] * class_balance / (1 - class_balance)[:, None]
    given[:, np.arange(k), np.arange(k)] = precision
    return given


def _count_gold(votes: Votes, gold: GoldRows, k: int) -> Float64:
    """Return the number of gold rows by LF, its vote and the class, (m, k, k)."""
    known = votes[gold.rows]
    counts = np.zeros((votes.shape[1], k, k))
    row, lf = np.nonzero(known != ABSTAIN)
    np.add.at(counts, (lf, known[row, lf].astype(np.intp), gold.classes[row]), 1.0)
    return counts
