"""A graphics card in name only: brute force in NumPy, memory that can be too little, and similarities left in doubt.

It answers as a real one may: nothing that it finds depends on the order of summation, since it scores as the definition does."""

import numpy as np

from tasks.core.search.on_cards import GROUP, CardIsFull, FoundByCard
from tasks.core.similarity import compute_similarity
from tasks.core.types import NOBODY


class FakeCard:
    """A card for `slots` members and `queries` at a time, that leaves a share `in_doubt` of all cells to the processor."""

    def __init__(self, *, slots=10**9, queries=10**9, in_doubt=0.0, free=10**12):
        self.slots, self.queries, self.in_doubt, self.free = slots, queries, in_doubt, free
        self.held, self.searched = [], []

    def measure_free(self):
        return self.free

    def hold(self, support, part):
        if len(part.rows) > self.slots:
            raise CardIsFull("the fake")
        self.held.append(len(part.rows))
        return _Held(self, support, part)


class _Held:
    def __init__(self, card, support, part):
        self.card, self.support, self.part = card, support, part

    def search(self, vectors, norms, asking):
        if len(vectors) > self.card.queries:
            raise CardIsFull("the fake")
        self.card.searched.append(len(vectors))
        part, rng = self.part, np.random.default_rng(0)
        shape = len(part.lfs), len(vectors)
        similarity, position = np.full(shape, np.nan, np.float32), np.full(shape, NOBODY, np.int64)
        unsure = []
        for row, lf in enumerate(part.lfs):
            groups = np.arange(part.starts[row], part.starts[row + 1])
            slots = slice(groups[0] * GROUP, (groups[-1] + 1) * GROUP)
            members, positions = part.rows[slots], part.positions[slots]
            for query in np.flatnonzero(asking[:, lf]):
                if rng.random() < self.card.in_doubt:
                    unsure += [(group, query) for group in groups]
                    continue
                x = np.broadcast_to(vectors[query], (len(members), vectors.shape[1]))
                near = compute_similarity(x, self.support.vectors[members], self.support.geometry.metric)
                similarity[row, query] = near.max()
                position[row, query] = positions[near == near.max()].min()
        hits = np.array(unsure, np.int64).reshape(-1, 2)
        return FoundByCard(similarity=similarity, position=position, group=hits[:, 0], query=hits[:, 1])
