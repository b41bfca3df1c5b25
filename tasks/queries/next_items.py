"""next: which items to label by hand, and why.

Items are drawn at random by default, so that their gold can judge labels as well: certificates and accuracies rest on gold that
was not chosen. `mixed` takes turns among reasons and draws a share at random as a control; it taught labels up to .9 points more
and .3 less at worst (`python -m benchmarks next`). No two of the chosen items are near copies. Items of test are never proposed, and
gold of test is not read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from tasks.core.slices import cut_slices
from tasks.core.types import ABSTAIN, Bool, Float32, Float64, Int64
from tasks.errors import QueryError
from tasks.params import Split
from tasks.queries.items import find_margins, measure_items, tabulate_items
from tasks.queries.project_data import ProjectData, require_not_negative
from tasks.tables.embeddings_file import read_vectors

Strategy = Literal["random", "mixed"]

POOL = 5000
"""Most items to consider, drawn at random, since their embeddings are compared with each other."""

NEAR_COPY = 0.97
"""Cosine from which two items are near copies; a second copy is not worth labeling."""

RANDOM_SHARE = 0.25
"""Share of items that `mixed` draws at random, as a control."""

_CROWD = 10
"""The number of nearest neighbors in the pool whose mean similarity is an item's density."""


@dataclass(frozen=True, kw_only=True)
class NextItems:
    """Items to label, in the proposed order. rows: as in `find_items`, with `reason` after the id; pool: the number of
    items considered.
    """

    rows: pl.DataFrame
    pool: int


def choose_next(
    data: ProjectData,
    *,
    count: int = 20,
    strategy: Strategy = "random",
    seed: int = 0,
    exclude: frozenset[str] = frozenset(),
) -> NextItems:
    """Return up to `count` items without gold to label next; `exclude`: ids, as text, that somebody is already labeling.

    Raises
    ------
    QueryError
        The strategy is unknown, or a number negative.
    DataError
        An artifact is missing or damaged.
    """
    if strategy not in ("random", "mixed"):
        raise QueryError(f"no strategy {strategy!r}. There are: random, mixed.")
    require_not_negative(seed=seed, count=count)
    pool = _draw_pool(data, seed, exclude)
    vectors = read_vectors(data.root, data.splits(), pool)
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    order = np.random.default_rng(seed).permutation(len(pool))
    queues = {"drawn at random": iter(order)}
    if strategy == "mixed":
        queues |= _rank(data, pool, units, np.random.default_rng(seed + 1).permutation(len(pool)))
    chosen, reasons = _take_turns(queues, units, count)
    rows = tabulate_items(data, pool[np.array(chosen, dtype=np.int64)])
    columns = rows.columns
    rows = rows.with_columns(pl.Series("reason", reasons, dtype=pl.String)).select(columns[0], "reason", *columns[1:])
    return NextItems(rows=rows, pool=len(pool))


def _draw_pool(data: ProjectData, seed: int, exclude: frozenset[str]) -> Int64:
    """The rows of a random pool of items that may be proposed."""
    possible = (data.gold() == ABSTAIN) & (data.splits()["split"] != Split.TEST).to_numpy()
    if exclude:
        possible &= ~data.ids().cast(pl.String).is_in(sorted(exclude)).to_numpy()
    rows = np.flatnonzero(possible)
    if len(rows) <= POOL:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, POOL, replace=False))


def _rank(data: ProjectData, pool: Int64, units: Float32, shuffled: Int64) -> dict[str, Iterator[int]]:
    """By reason, the positions in the pool to which it applies, the strongest first, or as `shuffled` (p,) says."""
    votes, measures = data.votes(), measure_items(data)[pool]
    extended = votes.extended[pool]
    highest = extended.max(axis=1, initial=ABSTAIN)
    lowest = np.where(extended == ABSTAIN, np.int8(127), extended).min(axis=1, initial=127)
    covered = highest != ABSTAIN
    margin = measures["margin"].to_numpy()
    crowd = min(_CROWD, max(len(pool) - 1, 1))
    density = np.empty(len(pool))
    for part in cut_slices(len(pool), 1000):
        similarity = units[part] @ units.T
        density[part] = np.partition(similarity, -crowd - 1, axis=1)[:, -crowd - 1 : -1].mean(axis=1)
    known = data.gold()
    counts = np.bincount(known[known != ABSTAIN], minlength=len(data.classes))
    of_class = counts[data.label_positions()[pool]]
    gap = np.fmin.reduce(np.abs(find_margins(data)[pool]), axis=1, initial=np.float32(np.nan))

    def rank(applies: Bool, key: Float64) -> Iterator[int]:
        rows = np.flatnonzero(applies & ~np.isnan(key))
        return iter(rows[np.argsort(key[rows], kind="stable")])

    everywhere = np.ones(len(pool), dtype=np.bool_)
    certified = data.certified()
    # Where none is certified, that says nothing of an item.
    in_doubt = ~certified[pool] if certified.any() else ~everywhere
    return {
        "labeling functions disagree": rank(covered & (lowest != highest), margin),
        "the label is not certified": rank(in_doubt, shuffled.astype(np.float64)),
        "the label is uncertain": rank(everywhere, margin),
        "no vote, among many alike": rank(~covered, -density),
        "near a threshold": rank(everywhere, gap.astype(np.float64)),
        "its class has little gold": rank(everywhere, of_class + margin),
    }


def _take_turns(queues: dict[str, Iterator[int]], units: Float32, count: int) -> tuple[list[int], list[str]]:
    """The positions that the reasons choose in turn, and their reasons, without near copies; `RANDOM_SHARE` of them are
    random if there are other reasons.
    """
    names = list(queues)
    turns = [names[0]] if len(names) == 1 else []
    if not turns:
        others = names[1:]
        per_random = round(1 / RANDOM_SHARE)
        turns = [
            names[0] if turn % per_random == 0 else others[(turn - turn // per_random - 1) % len(others)]
            for turn in range(per_random * len(others))
        ]
    chosen: list[int] = []
    reasons: list[str] = []
    taken: set[int] = set()
    idle, turn = 0, 0
    while len(chosen) < count and idle < len(turns):
        reason = turns[turn % len(turns)]
        turn += 1
        found = next((int(row) for row in queues[reason] if _is_new(int(row), taken, chosen, units)), None)
        if found is None:
            idle += 1
            continue
        idle = 0
        chosen.append(found)
        reasons.append(reason)
        taken.add(found)
    return chosen, reasons


def _is_new(row: int, taken: set[int], chosen: list[int], units: Float32) -> bool:
    """Whether the item is neither chosen yet nor a near copy of a chosen item."""
    if row in taken:
        return False
    return not chosen or float((units[chosen] @ units[row]).max()) < NEAR_COPY
