"""The generative label model of data programming, fitted to the moments of votes, as Snorkel fits it.

Given the class Y, LFs are independent. Call an LF and a class that it votes for an LF class, a, with mu[a, y] = P(a votes | Y = y)
and p the class balance. Then P(a and b vote) = sum_y p_y mu[a, y] mu[b, y] for a and b of different LFs, and P(a votes) =
sum_y p_y mu[a, y]. With the observed shares on the left, mu minimizes the sum of squared differences, by gradient descent with
momentum. The entries of two classes of one LF are not there to be matched, so that this completes a matrix of low rank.

It is here as a baseline: what a user of Snorkel would get from the same votes. That stops after a hundred steps of a rate of .01,
from precisions of .7, whether or not it has settled, and so does this; it starts from a random multiple of these, this from
half. An abstain says nothing, and copies of an LF count each.

Source: A. Ratner, B. Hancock, J. Dunnmon, F. Sala, S. Pandey, C. Ré, "Training Complex Models with Multi-Task Weak
Supervision", AAAI 2019.
"""

import numpy as np
import scipy

from tasks.core.label_models.base import VoteTable, count_joint_votes, inspect_votes
from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.threads import one_thread
from tasks.core.types import Float64, Int64, Votes

STEPS = 100
RATE = 0.01
MOMENTUM = 0.9
"""The defaults of Snorkel, which users keep."""

FIRST_PRECISION = 0.7
"""P(Y = c | a vote for c) that the descent begins with, which also tells classes apart."""

FIRST_SHARE = 0.5
"""Of what that precision gives, where Snorkel draws a number from 0 to 1."""

LEAST = 0.01
"""No P(vote | class) is believed below it or above one less it."""


def fit_generative(
    votes: Votes, class_balance: Float64, *, items: Int64 | None = None, advance: Advance = ignore_progress
) -> VoteTable:
    """Return the label model with the P(vote | class) whose moments are nearest to those of `votes`.

    The cost is r^2 k per step for r LF classes; `advance` receives `STEPS` steps.
    """
    k, m = len(class_balance), votes.shape[1]
    counts = count_joint_votes(votes, k, items)
    together = counts.together / max(counts.items, 1)
    alone = np.diag(together).copy()
    is_pair = counts.lf[:, None] != counts.lf[None, :]
    mu = np.zeros((len(alone), k))
    first = np.clip(alone * FIRST_PRECISION / class_balance[counts.vote], 0.0, 1.0)
    mu[np.arange(len(alone)), counts.vote] = FIRST_SHARE * first
    speed = np.zeros_like(mu)
    with one_thread(), count_steps(advance, STEPS) as step:
        for _ in range(STEPS):
            weighted = mu * class_balance
            apart = np.where(is_pair, mu @ weighted.T - together, 0.0)
            gradient = 4.0 * apart @ weighted + 2.0 * np.outer(weighted.sum(axis=1) - alone, class_balance)
            speed = MOMENTUM * speed + gradient
            mu -= RATE * speed
            step(1)
    # The moments are the same if classes of equal share change names: an LF is taken to be right more often than not.
    gain = np.zeros((k, k))
    np.add.at(gain, counts.vote, mu)
    _, names = scipy.optimize.linear_sum_assignment(-gain)
    is_alike = np.isclose(class_balance[names], class_balance).all()
    mu = np.clip(mu[:, names] if is_alike else mu, LEAST, 1.0 - LEAST)
    scores = np.zeros((m, k + 1, k))
    scores[counts.lf, counts.vote + 1] = np.log(mu)
    precision = np.full((m, k), np.nan)
    joint = mu * class_balance
    precision[counts.lf, counts.vote] = joint[np.arange(len(alone)), counts.vote] / joint.sum(axis=1)
    return VoteTable(
        bias=np.log(class_balance),
        scores=scores,
        precision=precision,
        findings=inspect_votes(counts, of_copies="and each counts"),
    )
