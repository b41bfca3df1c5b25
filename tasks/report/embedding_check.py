"""embedding_fitness.json: whether neighbors in the embedding share votes and gold, checked before thresholds are tuned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.fitness import (
    SAMPLE,
    Carries,
    Fitness,
    ThresholdRange,
    find_majority,
    judge_fitness,
    measure_fitness,
    suggest_range,
)
from tasks.core.progress_callback import WHOLE
from tasks.core.types import ABSTAIN
from tasks.params import Metric
from tasks.progress import Progress
from tasks.tables.block_layout import BlockLayout, read_layout
from tasks.tables.embeddings_file import read_vectors
from tasks.tables.files import write_csv, write_json
from tasks.tables.paths import EMBEDDING_FITNESS, EMBEDDING_FITNESS_CURVES

DIGITS = 6
"""Decimals in the file; a sample of four thousand items is accurate to two or three."""

VOTES, GOLD = "majority vote", "valid gold"

_SEED = 0
"""Seed of the sample; samples of this size agree to within a percentage point or two."""

_CURVES = {"labels": pl.String, "threshold": pl.Float64, "agreement": pl.Float64, "chance": pl.Float64}
"""Columns of embedding_fitness.csv: how often neighbors agree whose similarity lies between this row's `threshold` and
that of the row before, and how often two random items do."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """The fitness of the embedding, or of one of its blocks alone, for a kind of labels."""

    labels: str
    fitness: Fitness
    block: str | None = None


def check_embedding(
    root: Path, items: pl.DataFrame, L: npt.NDArray[np.int8], gold: npt.NDArray[np.int8], k: int, metric: Metric
) -> list[str]:
    """Sentences for the user about the embeddings below `root` and their blocks; also writes the check and its curves.

    Parameters
    ----------
    items
        The items, in the order of the rows of all arrays.
    L
        Votes of shape (n, m).
    gold
        Gold of valid items, of shape (n,); ABSTAIN elsewhere.

    Raises
    ------
    DataError
        The embeddings are missing or damaged, or belong to other items.
    """
    generator = np.random.default_rng(_SEED)
    voted = np.sort(generator.permutation(np.flatnonzero((L != ABSTAIN).any(axis=1)))[:SAMPLE])
    known = np.sort(generator.permutation(np.flatnonzero(gold != ABSTAIN))[:SAMPLE])
    majority = np.full(len(L), ABSTAIN, np.int8)
    majority[voted] = find_majority(L[voted], k)
    voted = voted[majority[voted] != ABSTAIN]
    rows = np.union1d(voted, known)
    vectors = read_vectors(root, items, rows)
    layout = read_layout(root)
    compared = [(VOTES, voted, majority), *([(GOLD, known, gold)] if len(known) else [])]
    checks, of_blocks = [], []
    with Progress("comparing neighbors", total=len(compared) * WHOLE * (1 + len(layout))) as progress:
        for name, sampled, labels in compared:
            sample = vectors[np.searchsorted(rows, sampled)]
            fitness = measure_fitness(sample, labels[sampled], metric.value, progress.advance)
            checks.append(Check(labels=name, fitness=fitness))
            for block in layout:
                part = np.ascontiguousarray(sample[:, block.start : block.stop])
                fitness = measure_fitness(part, labels[sampled], metric.value, progress.advance)
                of_blocks.append(Check(labels=name, fitness=fitness, block=block.name))
    # Gold is the better evidence, but it takes many rows to show a range: a few valid items are rarely near each other.
    span = suggest_range(checks[0].fitness)
    sentences = [_judge(check) for check in checks] + ([_suggest(span, metric)] if span else [])
    if layout:
        sentences.append(_compare_blocks(layout, checks + of_blocks))
    found = {
        "metric": metric.value,
        "sentences": sentences,
        "carries": {check.labels: judge_fitness(check.fitness).value for check in checks},
        "suggested_thresholds": sorted(_to_user(end, metric) for end in (span.low, span.high)) if span else None,
        "agreement": [_describe(check, metric) for check in checks],
        "blocks": [
            {
                "block": block.name,
                "dimensions": block.width,
                "weight": round(block.share, DIGITS),
                "carries": {c.labels: judge_fitness(c.fitness).value for c in of_blocks if c.block == block.name},
                "agreement": [_describe(check, metric) for check in of_blocks if check.block == block.name],
            }
            for block in layout
        ],
    }
    write_json(root / EMBEDDING_FITNESS, found)
    write_csv(root / EMBEDDING_FITNESS_CURVES, _tabulate(checks, metric))
    return sentences


def _judge(check: Check) -> str:
    """A sentence on whether neighbors share these labels."""
    fitness, of = check.fitness, check.labels
    verdict = judge_fitness(fitness)
    if verdict is Carries.UNKNOWN:
        why = "which are all of one class" if fitness.chance == 1 else "too few of some class"
        return f"Whether neighbors share the {of} cannot be told from {fitness.n:,} items, {why}."
    figures = (
        f"{fitness.rank_agreement[0]:.0%} of {fitness.n:,} items share it with their nearest neighbor, "
        f"and {fitness.chance:.0%} with an item drawn at random"
    )
    if verdict is Carries.YES:
        return f"Neighbors share the {of}: {figures}."
    return (
        f"WARNING: neighbors {'hardly' if verdict is Carries.HARDLY else 'do not'} share the {of}: {figures}. This "
        "embedding cannot carry extension, and labels that build on it are not to be trusted. Check that embeddings "
        "and items belong together, or try another encoder."
    )


def _compare_blocks(layout: Sequence[BlockLayout], checks: Sequence[Check]) -> str:
    """A sentence on the blocks, their weights, and how far the nearest neighbors in each alone share labels.

    The labels are gold where all checks of gold tell something, else votes.
    """
    parts = ", ".join(block.describe() for block in layout)
    usable = [
        name
        for name in (GOLD, VOTES)
        if (found := [check for check in checks if check.labels == name])
        and all(judge_fitness(check.fitness) is not Carries.UNKNOWN for check in found)
    ]
    if not usable:
        return f"The embedding is made of blocks: {parts}."
    shares = [
        f"{check.fitness.rank_agreement[0]:.0%} {'together' if check.block is None else f'in {check.block!r}'}"
        for check in checks
        if check.labels == usable[0]
    ]
    return (
        f"The embedding is made of blocks: {parts}. With their nearest neighbor, items share the {usable[0]} in "
        f"{', '.join(shares)}. 'epoxy weigh' proposes weights."
    )


def _suggest(span: ThresholdRange, metric: Metric) -> str:
    """A sentence on which thresholds are worth trying."""
    low, high = sorted(_to_user(end, metric) for end in (span.low, span.high))
    what = "a similarity" if metric is Metric.COSINE else "a distance"
    return f"A threshold is worth looking for between {what} of {low:.2f} and {high:.2f}."


def _describe(check: Check, metric: Metric) -> dict[str, Any]:
    """A check in the form of embedding_fitness.json."""
    fitness = check.fitness
    return {
        "labels": check.labels,
        "items": fitness.n,
        "chance": None if np.isnan(fitness.chance) else round(fitness.chance, DIGITS),
        "neighbors": [
            {"rank": int(rank), "threshold": _to_user(similarity, metric), "agreement": round(float(agreement), DIGITS)}
            for rank, similarity, agreement in zip(
                fitness.rank, fitness.rank_similarity, fitness.rank_agreement, strict=True
            )
        ],
    }


def _tabulate(checks: list[Check], metric: Metric) -> pl.DataFrame:
    """The table of embedding_fitness.csv."""
    rows = [
        (
            check.labels,
            _to_user(similarity, metric),
            round(float(agreement), DIGITS),
            round(check.fitness.chance, DIGITS),
        )
        for check in checks
        for similarity, agreement in zip(check.fitness.similarity, check.fitness.agreement, strict=True)
    ]
    return pl.DataFrame(rows, schema=_CURVES, orient="row")


def _to_user(similarity: float, metric: Metric) -> float:
    """A similarity in the unit of thresholds: cosine similarity, or a distance."""
    return round(float(similarity if metric is Metric.COSINE else -similarity), DIGITS)
