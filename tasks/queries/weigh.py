"""weigh: which weights of the blocks of embeddings foretell gold, or votes, best, and the lines to write into params.yaml.

Weights are params and not the result of a stage: chosen from votes or gold while the pipeline runs, an edited LF could move
every vector, and the search would run again. So they are measured when somebody asks.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from tasks.core.classifiers.folds import is_enough_gold
from tasks.core.classifiers.mixtures import JudgedMixtures, judge_by_gold, judge_by_votes, list_mixtures
from tasks.core.description_scores import to_units
from tasks.core.types import ABSTAIN, ITEM_ID, GoldRows
from tasks.errors import QueryError
from tasks.params_file import FILE
from tasks.progress import Progress
from tasks.queries.project_data import ProjectData
from tasks.strict_yaml import parse_yaml
from tasks.tables.block_layout import read_layout
from tasks.tables.embeddings_file import read_vectors
from tasks.tables.label_matrix import read_gold, to_matrix
from tasks.tables.parquet import read_votes
from tasks.tables.paths import ITEMS, VOTES
from tasks.tables.validation import require_same_items

SAMPLE = 4000
"""Items that judge at most: a mixture then takes some seconds."""

MOST_BLOCKS = 5
"""Most blocks that are weighed: these have 70 mixtures, one more would have 126."""


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """The mixtures of `blocks`, judged by what `judged_by` says; now: the shares of the last ingest; lines: for params.yaml.

    proposed: the weights in `lines`. Without gold they are equal: on average over six tasks .002 better than what held-out votes
    chose, .040 better on one of them and up to .020 worse on others. If `by_votes` was asked for, or by gold, they are the best.
    """

    blocks: tuple[str, ...]
    judged_by: str
    now: tuple[float, ...]
    mixtures: JudgedMixtures
    proposed: tuple[float, ...]
    is_best: bool
    lines: str


def weigh_blocks(data: ProjectData, *, by_votes: bool = False) -> Weighed:
    """Return the mixtures judged by valid gold, or by held-out votes if there is too little of it or `by_votes` asks, and weights.

    Raises
    ------
    QueryError
        The embeddings have no blocks or too many, or neither gold nor votes can judge.
    DataError
        A table is missing or damaged.
    """
    root, classes = data.root, data.classes
    layout = read_layout(root)
    if not 2 <= len(layout) <= MOST_BLOCKS:
        raise QueryError(
            f"the embeddings are of {len(layout) or 'one'} {'kinds' if len(layout) > 1 else 'kind'}; weights are proposed for 2 to "
            f"{MOST_BLOCKS} of ingest.blocks in {FILE}."
        )
    items = data.items()
    votes = read_votes(root / VOTES, len(classes))
    require_same_items(root / ITEMS, items, root / VOTES, votes)
    L, gold = to_matrix(votes), read_gold(root, items.select(ITEM_ID), len(classes))
    generator = np.random.default_rng(0)
    known = np.flatnonzero(gold != ABSTAIN)
    is_by_gold = not by_votes and is_enough_gold(GoldRows(rows=known, classes=gold[known].astype(np.int64)))
    may_judge = known if is_by_gold else np.flatnonzero((L != ABSTAIN).any(axis=1))
    rows = np.sort(generator.permutation(may_judge)[:SAMPLE])
    vectors = read_vectors(root, items, rows)
    blocks = [to_units(vectors[:, block.start : block.stop]).astype(np.float32) for block in layout]
    with Progress("weighing", total=len(list_mixtures(len(blocks)))) as progress:
        found = (
            judge_by_gold(blocks, gold[rows].astype(np.int64), len(classes), progress.advance)
            if is_by_gold
            else judge_by_votes(blocks, L[rows], len(classes), progress.advance)
        )
    if found is None:
        raise QueryError(
            "neither gold nor votes can weigh: there are fewer than 20 gold rows of valid, and without any one labeling function "
            "the others vote for fewer than two classes. Add gold, or labeling functions."
        )
    names = tuple(block.name for block in layout)
    is_best = is_by_gold or by_votes
    proposed = tuple(found.weights[found.best].tolist()) if is_best else (1.0,) * len(names)
    return Weighed(
        blocks=names,
        judged_by=f"{found.rows:,} gold rows of valid, held out" if is_by_gold else f"{found.rows:,} held-out votes",
        now=tuple(block.share for block in layout),
        mixtures=found,
        proposed=proposed,
        is_best=is_best,
        lines=_write_lines(root, dict(zip(names, proposed, strict=True))),
    )


def _write_lines(root: Path, weights: dict[str, float]) -> str:
    """The blocks of params.yaml with `weights`, without those of weight 0."""
    given = parse_yaml((root / FILE).read_text(encoding="utf-8"))["ingest"]["blocks"]
    kept = {name: {**given[name], "weight": weight} for name, weight in weights.items() if weight and name in given}
    lines = ["ingest:", "  blocks:"]
    for name, block in kept.items():
        lines.append(
            f"    {name}: {yaml.safe_dump(block, default_flow_style=True, sort_keys=False, width=1000).strip()}"
        )
    return "\n".join(lines)
