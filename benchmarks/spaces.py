"""Synthetic items with embeddings and votes, on which the benchmarks of search and of the pipeline run.

`clustered` resembles embeddings of texts: one topic per 500 items, their sizes falling like 1 / sqrt(rank); within a
topic, items spread in 12 directions of its own, the i-th with standard deviation .6 / sqrt(i), and a little (.02) in all.
Topics spread likewise around 1 area per 20 topics, and areas around the origin, in 24 directions each: what is far apart
differs in few ways as well. `uniform` is noise: nearest neighbors are hardly nearer than others, the hard case for every
approximate search.

Half of the LFs vote on items at random; the other half on a third of the items of some topics, as keywords do. An LF
votes for one class (`polarity` 1) or two, and is right on 80 % of the items it votes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["clustered", "uniform"]

_BATCH = 16_384
_ITEMS_PER_TOPIC = 500
_TOPICS_PER_AREA = 20
_DIRECTIONS = 12
_AREA_DIRECTIONS = 24
_SHARE_OF_TOPIC = 1 / 3
_ACCURACY = 0.8


@dataclass(frozen=True, kw_only=True)
class Space:
    """Items whose embeddings are drawn batch by batch, each time the same."""

    kind: Kind
    n: int
    d: int
    topic: npt.NDArray[np.int64]
    """(n,)"""
    gold: npt.NDArray[np.int8]
    """(n,) 0 or 1; topics lean to one class."""

    def draw_batches(self) -> Iterator[npt.NDArray[np.float32]]:
        """The embeddings (n, d), in batches."""
        rng = np.random.default_rng(1)
        topics = int(self.topic.max(initial=0)) + 1
        areas = _spread(rng, topics // _TOPICS_PER_AREA + 1, self.d, _AREA_DIRECTIONS, 1.0)
        centers = areas[rng.integers(0, len(areas), topics)] + _spread(rng, topics, self.d, _AREA_DIRECTIONS, 0.7)
        centers = (centers / np.sqrt((centers**2).sum(axis=1, keepdims=True))).astype(np.float32)
        scales = 0.6 / np.sqrt(np.arange(1, _DIRECTIONS + 1))
        for start in range(0, self.n, _BATCH):
            size = min(_BATCH, self.n - start)
            draw = np.random.default_rng([2, start])
            if self.kind == "uniform":
                yield draw.standard_normal((size, self.d), dtype=np.float32)
                continue
            own = self.topic[start : start + size]
            batch = centers[own] + np.float32(0.02) * draw.standard_normal((size, self.d), dtype=np.float32)
            offsets = draw.standard_normal((size, _DIRECTIONS)) * scales
            for one in np.unique(own):
                rows = np.flatnonzero(own == one)
                sheet = np.random.default_rng([3, one]).standard_normal((_DIRECTIONS, self.d)) / np.sqrt(self.d)
                batch[rows] += (offsets[rows] @ sheet).astype(np.float32)
            yield batch


def _spread(rng: np.random.Generator, count: int, d: int, directions: int, scale: float) -> npt.NDArray[np.float64]:
    """Points (count, d) around the origin in a few random directions, the i-th with deviation scale / sqrt(i)."""
    offsets = rng.standard_normal((count, directions)) * scale / np.sqrt(np.arange(1, directions + 1))
    points: npt.NDArray[np.float64] = offsets @ (rng.standard_normal((directions, d)) / np.sqrt(d))
    return points


def draw_space(kind: Kind, n: int, d: int) -> Space:
    """A space of `n` items."""
    rng = np.random.default_rng(0)
    topics = max(n // _ITEMS_PER_TOPIC, 1)
    weights = 1 / np.arange(1, topics + 1) ** 0.5
    topic = rng.choice(topics, n, p=weights / weights.sum())
    leaning = rng.uniform(0.05, 0.95, topics)
    return Space(kind=kind, n=n, d=d, topic=topic, gold=(rng.random(n) < leaning[topic]).astype(np.int8))


def draw_votes(space: Space, m: int, coverage: float, polarity: Literal[1, 2]) -> npt.NDArray[np.int8]:
    """Votes (n, m), -1 abstains."""
    rng = np.random.default_rng(4)
    topics = int(space.topic.max(initial=0)) + 1
    L = np.full((space.n, m), -1, np.int8, order="F")
    for lf in range(m):
        if lf % 2:
            order = space.topic[rng.permutation(space.n)]
            # Topics join until their items, of which a third get a vote, make up the coverage.
            _, first = np.unique(order, return_index=True)
            ranked = order[np.sort(first)]
            reach = np.cumsum(np.bincount(space.topic, minlength=topics)[ranked])
            chosen = ranked[: int(np.searchsorted(reach, coverage * space.n / _SHARE_OF_TOPIC)) + 1]
            votes = np.isin(space.topic, chosen) & (rng.random(space.n) < _SHARE_OF_TOPIC)
        else:
            votes = rng.random(space.n) < coverage
        said = np.where(rng.random(space.n) < _ACCURACY, space.gold, 1 - space.gold)
        if polarity == 1:
            votes &= said == lf // 2 % 2
        L[votes, lf] = said[votes]
    return L
