"""Which few items lie near all items: a greedy cover.

Source: G. L. Nemhauser, L. A. Wolsey, M. L. Fisher, "An analysis of approximations for maximizing submodular set functions I",
Mathematical Programming 14 (1978), for the greedy rule and its bound; M. Minoux, "Accelerated greedy algorithms for maximizing
submodular set functions" (1978), for asking again only about the item at the head of the queue.
"""

import heapq

import numpy as np

from tasks.core.types import Float32, Int64


def choose_cover(units: Float32, count: int, taken: Int64) -> Int64:
    """Return up to `count` rows that, beside those `taken`, lie nearest to all rows, in the order in which they were chosen.

    The facility location of a set is the sum over rows of the cosine with the nearest row of the set, at least 0. The row that
    adds most is taken first, then the one that adds most beside it, and so on; of equals the first. The sum reached is at least
    1 - 1/e of the largest that is possible, and fewer rows are the beginning of more. 4 n^2 bytes.

    Parameters
    ----------
    units
        (n, d) vectors of length one, or zero.
    taken
        Rows that are in the set already; none of them is returned.

    >>> choose_cover(np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32), 2, np.array([], np.int64))
    array([1, 3])
    >>> choose_cover(np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32), 2, np.array([3]))
    array([1, 0])
    """
    n = len(units)
    similarity = np.maximum(units @ units.T, 0)
    best = similarity[taken].max(axis=0) if len(taken) else np.zeros(n, np.float32)
    free = np.setdiff1d(np.arange(n), taken)
    # What a row adds can only fall as others are taken, so a gain of earlier is a bound.
    queue = [(-_gain(similarity[row], best), int(row)) for row in free]
    heapq.heapify(queue)
    chosen: list[int] = []
    while queue and len(chosen) < count:
        _, row = heapq.heappop(queue)
        now = (-_gain(similarity[row], best), row)
        if queue and now > queue[0]:
            heapq.heappush(queue, now)
            continue
        chosen.append(row)
        best = np.maximum(best, similarity[row])
    return np.array(chosen, dtype=np.int64)


def _gain(similarity: Float32, best: Float32) -> float:
    """What a row adds to the sum."""
    return float(np.maximum(similarity - best, 0).sum(dtype=np.float64))
