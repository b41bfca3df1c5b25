"""What each labeling function (LF) is worth for the labels, found without gold: its Shapley value among its neighbors.

*Evidence.* What others say of an item is read from its `NEIGHBORS` nearest items, itself included: the votes of all LFs
there but of the LF that is judged and of its near-copies, so that nothing vouches for itself. The votes for a class are
divided by their mean over items, since a class that many vote for is near everywhere. To them `BENEFIT` is added for the
class that the LF votes for: where others are silent, it is believed. The shares q(c) of this evidence are read as the
probability of each class.

*Trust.* LFs that are contradicted should not judge others. So evidence is gathered in `ROUNDS` rounds: in each, an LF's
votes count by how far above chance the round before believed them. Before the first, all votes of an LF together count as
much as those of any other: a lie that is told often is told by one witness.

*Game.* The players are the n LFs that vote on an item, a_c of them for class c. A coalition earns the share of its votes
that is for the item's class; one without votes earns 1 / k. An LF that joins as the t-th of a random order, t > 1, finds on
average a share (a_y - 1) / (n - 1) of right votes if it votes for the class y, and adds (n - a_y) / (n - 1) / t; if it does
not, it takes a_y / (n - 1) / t away. As the first it adds 1 - 1 / k, or takes 1 / k away. The mean over t is the Shapley
value, in closed form for any number of classes; in expectation over the class, with H_n = 1 + 1/2 + ... + 1/n, a vote for c
is worth

    (1 / n) (q(c) - 1 / k + (H_n - 1) / (n - 1) (n q(c) - sum over d of q(d) a_d)).

An LF's worth is the sum over its votes, divided by the number of items: what it earns of the accuracy of labels that are
shares of votes. A negative worth is harm.

*Refutation.* Worth believes an LF where others are silent, and a vote that is alone on its item earns little either way. So what
others say is also added up over all votes of an LF for a class, silence counting nothing. An LF is refuted if the class that it
votes for has less of that than by chance, and another has most of it and `OUTWEIGHED` times as much. It is refuted as well if
another has `OUTWEIGHED` times as much and a second witness agrees: the vote head, which learned from the LF's own votes, too,
and still foretells another class there rather than its own. That is harm, too.

Without gold a majority cannot be told from a conspiracy: of LFs that err alike, and are more than those that do not, each
is worth something here, and the others harm.

Source: the game of Guan and Koudas, "WeShap: Weak Supervision Source Evaluation with Shapley Values", arXiv 2406.11010, with
shares instead of winners, which gives the closed form, and with held-out votes instead of gold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.core.classifiers.vote_head import sum_votes
from tasks.core.copies import count_votes, group_copies, weigh_copies
from tasks.core.lf_analysis import count_correct, wilson_interval
from tasks.core.progress_callback import WHOLE, Advance, count_steps, ignore_progress
from tasks.core.threads import one_thread
from tasks.core.types import ABSTAIN, Bool, Float32, Float64, GoldRows, Int64, Votes

NEIGHBORS = 20
"""Nearest items whose votes are evidence, the item itself included."""

BENEFIT = 0.15
"""Evidence that an LF's own vote counts for, in units of the mean over items of what is said for its class."""

ROUNDS = 8
"""Rounds; with each, trust moves half of the way, without which LFs that contradict each other may take turns."""

LEAST_TRUST = 0.02
"""The weight that an LF keeps in the next round, however little it is believed, since others may be wrong about it."""

TRUST_VOTES = 2.0
"""An LF's trust is smoothed by this many votes at chance."""

OUTWEIGHED = 2.0
"""Times as much that others say for another class, from which on an LF may be refuted, and they say that class instead."""

LEAST_NAMED = 5
"""Votes below which no LF is called harmful: of fewer, others may contradict each by chance (a sign test of five has p = .03)."""

MOST_ITEMS = 8_000
"""Most items that are compared, each with each."""

LEAST_VOTES = 30
"""Votes of each LF among the items that are drawn, as far as it has them and there is room for them in half of the items."""

WORTH_WORK = (1 + ROUNDS) * WHOLE
"""The work that `measure_worth` reports to its `advance` in all."""

_BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class LFWorth:
    """What each LF is worth, (m,), a share of the labels' accuracy; negative is harm, NaN is unknown.

    is_refuted: (m,). said_instead: (m, k) another class of which others say more than half near LF j's votes for class c, or
    `OUTWEIGHED` times as much as of c; -1 where there is none.
    """

    values: Float64
    is_refuted: Bool
    said_instead: Int64


def measure_worth(
    vectors: Float32,
    votes: Votes,
    n_classes: int,
    seed: int = 0,
    advance: Advance = ignore_progress,
    *,
    foretold: Float64 | None = None,
) -> LFWorth:
    """Return the worth of each LF, and whether it is refuted.

    Parameters
    ----------
    vectors
        (n, d) float32; the nearest in Euclidean distance are neighbors.
    votes
        (n, m) int8, -1 abstains.
    seed
        Seed for drawing `MOST_ITEMS`, if there are more.
    advance
        Receives `WORTH_WORK` in all.
    foretold
        (n, k) `VoteHead.proba`, the second witness against an LF; None: there is none.

    Notes
    -----
    Unknown is the worth of an LF without votes, and of one near whose votes no other LF votes. LFs with the same votes have
    the same worth. With more than `MOST_ITEMS` items, the mean over an LF's votes is that over its votes on drawn ones.
    """
    rows = draw_items(votes, seed)
    nearest = find_nearest(np.ascontiguousarray(vectors[rows]), NEIGHBORS, advance)
    drawn = np.asfortranarray(votes[rows])
    shares = np.nan_to_num(weigh_copies(drawn, n_classes))
    counts = sum_votes(drawn, np.ones((votes.shape[1], n_classes)))
    other_foretold = np.zeros(votes.shape[1], np.bool_) if foretold is None else _find_foretold(foretold[rows], drawn)
    groups = _split_copies(drawn, n_classes)
    cast = (drawn != ABSTAIN).sum(axis=0)
    trust = np.where(cast > 0, np.min(cast, where=cast > 0, initial=len(drawn)) / np.maximum(cast, 1), 1.0)
    values, is_refuted = np.full(votes.shape[1], np.nan), np.zeros(votes.shape[1], np.bool_)
    said_instead = np.full((votes.shape[1], n_classes), -1, np.int64)
    for _ in range(ROUNDS):
        with count_steps(advance, len(groups)) as step:
            near = _sum_near(drawn, shares * trust[:, None], nearest)
            mean = near.mean(axis=0)
            scale = np.divide(1.0, mean, out=np.zeros_like(mean), where=mean > 0)
            judged = np.full(votes.shape[1], LEAST_TRUST)
            for group in groups:
                own = drawn[:, group]
                at = np.flatnonzero((own != ABSTAIN).any(axis=1))
                said = near[at] - _sum_near(own, (shares * trust[:, None])[group], nearest[at])
                said = np.maximum(said, 0.0) * scale
                for number, lf in enumerate(group):
                    voted = own[at, number] != ABSTAIN
                    judgment = _judge(said[voted], own[at[voted], number], counts[at[voted]])
                    values[lf], judged[lf] = judgment.value, judgment.trust
                    is_refuted[lf] = judgment.is_refuted or (judgment.is_outweighed and other_foretold[lf])
                    said_instead[lf] = judgment.said_instead
                step(1)
            trust = (trust + judged) / 2
    values = values * count_votes(votes, n_classes).sum(axis=1) / max(len(votes), 1)
    return LFWorth(values=values, is_refuted=is_refuted, said_instead=said_instead)


def find_harmful(worth: LFWorth, votes: Votes, n_classes: int, gold: GoldRows | None = None) -> Int64:
    """Return the positions of the LFs whose worth is negative or that are refuted, the most harmful vote first.

    An LF with fewer than `LEAST_NAMED` votes is not among them, nor is one that `gold` vouches for: one that is surely (95 %
    interval) right more often than not, whatever others say. The last LF that is left for a class is not among them: nobody
    else could vouch for it, and to mute it would rule the class out.

    Examples
    --------
    Here the second would be, if another voted for class 1.

    >>> votes = np.array([[0, 1, 0]] * 5 + [[0, -1, 0]], dtype=np.int8)
    >>> values, nobody = np.array([0.1, -0.2, -0.1]), np.full((3, 2), -1)
    >>> worth = LFWorth(values=values, is_refuted=np.zeros(3, dtype=np.bool_), said_instead=nobody)
    >>> find_harmful(worth, votes, 2).tolist()
    [2]
    """
    votes_for = count_votes(votes, n_classes)
    cast, said = votes_for > 0, votes_for.sum(axis=1)
    counts = cast.sum(axis=0)
    per_vote = worth.values / np.maximum(said, 1)
    known = (votes[:0], np.empty(0, np.int64)) if gold is None else (votes[gold.rows], gold.classes)
    is_vouched = wilson_interval(count_correct(*known))[0] > 0.5
    harmful = []
    for lf in np.argsort(per_vote, kind="stable").tolist():
        is_harm = said[lf] >= LEAST_NAMED and (worth.values[lf] < 0 or worth.is_refuted[lf])
        if is_harm and not is_vouched[lf] and (counts[cast[lf]] > 1).all():
            harmful.append(lf)
            counts -= cast[lf]
    return np.array(harmful, dtype=np.int64)


def draw_items(votes: Votes, seed: int) -> Int64:
    """Return the rows (r,), ascending, that are compared: all, or `MOST_ITEMS` with some votes of each LF."""
    n, m = votes.shape
    if n <= MOST_ITEMS:
        return np.arange(n)
    rng = np.random.default_rng(seed)
    drawn = np.zeros(n, np.bool_)
    for lf in range(m):
        rows = np.flatnonzero(votes[:, lf] != ABSTAIN)
        drawn[rng.choice(rows, min(len(rows), LEAST_VOTES, MOST_ITEMS // (2 * m)), replace=False)] = True
    rest = np.flatnonzero(~drawn)
    drawn[rng.choice(rest, MOST_ITEMS - (n - len(rest)), replace=False)] = True
    return np.flatnonzero(drawn)


def find_nearest(vectors: Float32, count: int, advance: Advance = ignore_progress) -> Int64:
    """Return the rows (n, count) of the nearest `vectors` (n, d) of each, itself among them, ascending; all if they are fewer.

    >>> find_nearest(np.array([[0.0], [1.0], [1.5]], dtype=np.float32), 2).tolist()
    [[0, 1], [1, 2], [1, 2]]
    """
    n = len(vectors)
    count = min(count, n)
    half = 0.5 * np.einsum("nd,nd->n", vectors, vectors)
    nearest = np.empty((n, count), np.int64)
    with one_thread(), count_steps(advance, -(-n // _BLOCK)) as step:
        for start in range(0, n, _BLOCK):
            far = half - vectors[start : start + _BLOCK] @ vectors.T
            far[np.arange(len(far)), start + np.arange(len(far))] = -np.inf
            nearest[start : start + len(far)] = np.sort(np.argpartition(far, count - 1, axis=1)[:, :count], axis=1)
            step(1)
    return nearest


def value_votes(proba: Float64, cast: Int64, counts: Float64) -> Float64:
    """Return the Shapley value (r,) of a vote on each of r items.

    Parameters
    ----------
    proba
        (r, k) the probability of each class.
    cast
        (r,) the class that the vote is for.
    counts
        (r, k) how many LFs vote for each class, this vote included.

    Examples
    --------
    An LF alone on an item of its class adds 1 - 1/2; of two that agree, each earns half of it.

    >>> value_votes(np.array([[1.0, 0.0]] * 2), np.array([0, 0]), np.array([[1.0, 0.0], [2.0, 0.0]])).tolist()
    [0.5, 0.25]
    """
    k = proba.shape[1]
    n = counts.sum(axis=1)
    right = proba[np.arange(len(cast)), cast]
    harmonic = np.cumsum(1.0 / np.arange(1, int(n.max(initial=1)) + 1))[n.astype(np.int64) - 1]
    later = (harmonic - 1.0) / np.maximum(n - 1.0, 1.0)
    return np.asarray((right - 1.0 / k + later * (n * right - (proba * counts).sum(axis=1))) / n)


@dataclass(frozen=True, kw_only=True)
class _Judgment:
    """The mean Shapley value of an LF's votes, NaN where it is unknown, how far it is trusted in the next round, whether others
    say another class `OUTWEIGHED` times as much, whether that refutes it by itself, and by class that it votes for what others say
    instead, (k,), -1 where that is nothing else.
    """

    value: float
    trust: float
    is_outweighed: bool
    is_refuted: bool
    said_instead: Int64


def _judge(said: Float64, cast: Votes, counts: Float64) -> _Judgment:
    """Return what comes of an LF by what others say, (r, k), near its votes `cast` (r,), of all `counts` (r, k) there."""
    r, k = said.shape
    said_instead = np.full(k, -1, np.int64)
    if not said.any():
        return _Judgment(
            value=float("nan"), trust=LEAST_TRUST, is_outweighed=False, is_refuted=False, said_instead=said_instead
        )
    evidence = said.copy()
    evidence[np.arange(r), cast] += BENEFIT
    proba = evidence / evidence.sum(axis=1, keepdims=True)
    above = float((proba[np.arange(r), cast] - 1.0 / k).sum()) / (1.0 - 1.0 / k) / (r + TRUST_VOTES)
    value = value_votes(proba, cast.astype(np.int64), counts)
    heard = said.sum(axis=1) > 0
    own = other = 0.0
    for c in np.unique(cast[heard]).tolist():
        rows = heard & (cast == c)
        shares = said[rows].sum(axis=0)
        shares /= shares.sum()
        weight = float(rows.sum() / heard.sum())
        mine = float(shares[c])
        own += weight * mine
        shares[c] = 0.0
        other += weight * float(shares.max())
        if shares.max() > min(0.5, OUTWEIGHED * mine):
            said_instead[c] = int(shares.argmax())
    is_outweighed = other > OUTWEIGHED * own
    return _Judgment(
        value=float(value.mean()),
        trust=min(max(above, LEAST_TRUST), 1.0),
        is_outweighed=is_outweighed,
        is_refuted=own < 1.0 / k and other > 0.5 and is_outweighed,
        said_instead=said_instead,
    )


def _find_foretold(foretold: Float64, votes: Votes) -> Bool:
    """Return whether `foretold` (n, k) has more of other classes than of those that LF j votes for where it does, (m,).

    The other class is one for each class that the LF votes for.
    """
    found = np.zeros(votes.shape[1], np.bool_)
    for lf in range(votes.shape[1]):
        own = other = 0.0
        for c in np.unique(votes[votes[:, lf] != ABSTAIN, lf]).tolist():
            total = foretold[votes[:, lf] == c].sum(axis=0)
            own += float(total[c])
            other += float(np.delete(total, c).max())
        found[lf] = other > own
    return found


def _split_copies(votes: Votes, n_classes: int) -> list[list[int]]:
    """Return all LFs in groups of near-copies, most of them alone."""
    groups = [list(group.lfs) for group in group_copies(votes, n_classes)]
    return [*groups, *([lf] for lf in sorted({*range(votes.shape[1])} - {lf for group in groups for lf in group}))]


def _sum_near(votes: Votes, weights: Float64, nearest: Int64) -> Float64:
    """Return the sum (r, k) over `nearest` (r, p), rows of `votes` (n, m), of the votes there, weighted by `weights` (m, k)."""
    counts = sum_votes(votes, weights)
    total = np.zeros((len(nearest), counts.shape[1]))
    for rows in nearest.T:
        total += counts[rows]
    return total
