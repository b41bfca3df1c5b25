"""The class balance, estimated from votes and from gold rows, if there are any."""

import numpy as np
import scipy

from tasks.core.classifiers.vote_head import VoteHead, sum_votes
from tasks.core.copies import weigh_copies
from tasks.core.default_lfs import find_default_lfs
from tasks.core.slices import WIDE, cut_slices
from tasks.core.types import Float64, GoldRows, Int64, Votes

BALANCE_STRENGTHS = (30.0, 10.0, 3.0, 1.0)
"""Weights, in gold rows per class, that the votes' balance may keep once gold has refuted it; see `update_class_balance`."""

BALANCE_ROWS = 20
"""Fewest gold rows per class that may refute the votes' balance: with 20 rows of nine classes, some classes look rare by
chance, which cost one draw of a task 21 points."""

REFUTATION = 20.0
"""Likelihood ratio from which gold refutes the votes' balance, conventionally called strong evidence. 100 rows of ten
classes estimate a class's share only within 30 %, and adjusting to such noise cost the student 1.4 points on 23 tasks."""


def estimate_class_balance(head: VoteHead, votes: Votes, gold: GoldRows | None) -> Float64:
    """Return the class balance (k,), positive, sum 1: the votes' balance, unless gold refutes it.

    Parameters
    ----------
    head
        From `fit_vote_head`.
    votes
        (n, m) int8, -1 abstains.
    gold
        Gold rows that may be used, or None.

    Notes
    -----
    The votes' balance is the mean of the vote head over all rows, one EM step from uniform. If there is a default LF
    (`find_default_lfs`), it is the mean over rows of each row's shares of votes instead: whoever wrote a default believes
    that its class is the usual one, which a head with a uniform class balance cannot know. Every class gets at least
    .1 / k; then `update_class_balance` applies.
    """
    n_classes = head.proba.shape[1]
    balance = head.proba.mean(axis=0)
    if len(find_default_lfs(votes)):
        weights, total, rows = weigh_copies(votes, n_classes), np.zeros(n_classes), 0
        for part in cut_slices(len(votes), WIDE):
            counts = sum_votes(votes[part], weights)
            counts = counts[counts.sum(axis=1) > 0]
            total += (counts / counts.sum(axis=1, keepdims=True)).sum(axis=0)
            rows += len(counts)
        balance = total / rows
    balance = np.maximum(balance, 0.1 / n_classes)
    balance = np.asarray(balance / balance.sum(), dtype=np.float64)
    return balance if gold is None else update_class_balance(balance, gold.classes)


def update_class_balance(balance: Float64, classes: Int64) -> Float64:
    """Return `balance` (k,), positive, sum 1, updated by gold of `classes` (g,) if that refutes it, else unchanged.

    Notes
    -----
    The prior is a Dirichlet with mean `balance`; its weight is that of `BALANCE_STRENGTHS` under which the gold is most
    likely. The posterior mean replaces the balance only if there are `BALANCE_ROWS` gold rows per class and the gold is
    `REFUTATION` times as likely as under `balance`. So gold that agrees with the votes changes nothing, and a hundred
    rows without a single row of some class show that it is rare, however often LFs vote for it.

    Source: the Dirichlet-multinomial distribution; for likelihood ratios H. Jeffreys, "Theory of Probability", 1961.

    >>> update_class_balance(np.array([0.5, 0.5]), np.array([0, 1, 0, 0])).tolist()
    [0.5, 0.5]
    >>> update_class_balance(np.array([0.5, 0.5]), np.zeros(98, np.int64)).tolist()
    [0.99, 0.01]
    """
    if len(classes) < BALANCE_ROWS * len(balance):
        return balance
    counts = np.bincount(classes, minlength=len(balance)).astype(np.float64)
    as_it_is = float(scipy.special.xlogy(counts, balance).sum())
    best, updated = as_it_is + np.log(REFUTATION), balance
    for strength in BALANCE_STRENGTHS:
        prior = strength * len(balance) * balance
        likelihood = float(
            scipy.special.gammaln(prior.sum())
            - scipy.special.gammaln(prior.sum() + counts.sum())
            + (scipy.special.gammaln(prior + counts) - scipy.special.gammaln(prior)).sum()
        )
        if likelihood > best:
            best, updated = likelihood, (prior + counts) / (prior + counts).sum()
    return np.asarray(updated)
