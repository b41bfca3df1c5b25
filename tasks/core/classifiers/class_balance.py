"""The class balance, estimated from votes and, where there are any, from gold rows."""

import numpy as np
from scipy.special import gammaln, xlogy

from tasks.core.classifiers.vote_head import VoteHead, sum_votes
from tasks.core.copies import weigh_copies
from tasks.core.types import ABSTAIN, Float64, GoldRows, Int64, Votes

BALANCE_STRENGTHS = (30.0, 10.0, 3.0, 1.0)
"""For how many gold rows per class the balance from votes counts, once gold has refuted it; see `update_class_balance`."""

BALANCE_ROWS = 20
"""Gold rows per class from which they may refute the balance of the votes: 20 rows of nine classes make some classes look
rare by chance, which cost one draw of a task 21 points."""

REFUTATION = 20.0
"""How much likelier gold must be under another balance than under that of the votes before it counts: what is called
strong evidence. 100 rows of ten classes estimate a class's share within 30 %, and raking to such noise cost the
student 1.4 points on 23 tasks."""

DEFAULT_COVERAGE = 0.5
"""Share of the items beyond which an LF that votes one class alone may be a default."""

DEFAULT_CONFLICTS = 0.05
"""Share of a default's votes that others contradict at most: it was written to speak where nothing else does."""


def find_default_lfs(votes: Votes) -> Int64:
    """Return the LFs that say "otherwise this class": of one class, on over half of the items, hardly ever contradicted.

    >>> find_default_lfs(np.array([[0, -1], [0, -1], [0, -1], [-1, 1]], dtype=np.int8)).tolist()
    [0]
    """
    found = []
    for lf in range(votes.shape[1]):
        rows = votes[:, lf] != ABSTAIN
        classes = np.unique(votes[rows, lf])
        if len(classes) == 1 and rows.mean() > DEFAULT_COVERAGE:
            others = votes[rows]
            if ((others != ABSTAIN) & (others != classes[0])).any(axis=1).mean() < DEFAULT_CONFLICTS:
                found.append(lf)
    return np.array(found, dtype=np.int64)


def estimate_class_balance(head: VoteHead, votes: Votes, gold: GoldRows | None) -> Float64:
    """Return the class balance (k,), positive, sum 1: what the votes say, unless gold refutes it.

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
    The votes say the mean of the vote head over all rows, one EM step from uniform. Where there is a default LF
    (`find_default_lfs`) they say the mean over rows of their own shares, since whoever wrote a default believes that its
    class is the usual one, which a head under a uniform class balance cannot tell. Every class keeps at least .1 / k of
    that; then `update_class_balance`.
    """
    n_classes = head.proba.shape[1]
    balance = head.proba.mean(axis=0)
    if len(find_default_lfs(votes)):
        counts = sum_votes(votes, weigh_copies(votes, n_classes))
        counts = counts[counts.sum(axis=1) > 0]
        balance = (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0)
    balance = np.maximum(balance, 0.1 / n_classes)
    balance = np.asarray(balance / balance.sum(), dtype=np.float64)
    return balance if gold is None else update_class_balance(balance, gold.classes)


def update_class_balance(balance: Float64, classes: Int64) -> Float64:
    """Return the `balance` (k,), positive, sum 1, as it is, or where gold of `classes` (g,) refutes it, as gold updates it.

    Notes
    -----
    The prior is a Dirichlet of mean `balance` that counts for so many gold rows per class as make the gold likeliest,
    out of `BALANCE_STRENGTHS`. It replaces the balance only with `BALANCE_ROWS` per class and if gold is `REFUTATION` times as likely under it. Gold that
    accords with the votes then changes nothing, and a hundred rows without a single one of a class say that it is rare,
    how many ever the votes give it.

    Source: the Dirichlet-multinomial; H. Jeffreys, "Theory of Probability", 1961, on such ratios.

    >>> update_class_balance(np.array([0.5, 0.5]), np.array([0, 1, 0, 0])).tolist()
    [0.5, 0.5]
    >>> update_class_balance(np.array([0.5, 0.5]), np.zeros(98, np.int64)).tolist()
    [0.99, 0.01]
    """
    if len(classes) < BALANCE_ROWS * len(balance):
        return balance
    counts = np.bincount(classes, minlength=len(balance)).astype(np.float64)
    as_it_is = float(xlogy(counts, balance).sum())
    best, updated = as_it_is + np.log(REFUTATION), balance
    for strength in BALANCE_STRENGTHS:
        prior = strength * len(balance) * balance
        likelihood = float(
            gammaln(prior.sum())
            - gammaln(prior.sum() + counts.sum())
            + (gammaln(prior + counts) - gammaln(prior)).sum()
        )
        if likelihood > best:
            best, updated = likelihood, (prior + counts) / (prior + counts).sum()
    return np.asarray(updated)
