"""Which items a language model is to be asked about: items of the reference splits, at random, or such that lie near all others.

Items that show the model the same are one. Random is the order of their messages' digests, which stays the same, and keeps most of
its members, as items come and go. A cover is chosen among the first `POOL` of this order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks.core.cover import choose_cover
from tasks.core.types import ITEM_ID
from tasks.errors import DataError, LabelingFunctionError
from tasks.lf.language_model import ModelLF
from tasks.lf.questions import digest_message
from tasks.params import Split
from tasks.tables import schemas
from tasks.tables.embeddings_file import read_vectors
from tasks.tables.parquet import read_batches, read_table
from tasks.tables.paths import ITEMS

By = Literal["cover", "random"]

POOL = 5000
"""Most items to choose among, since each is compared with each: 100 MB."""

BYTES_PER_TOKEN = 4.0
"""Of English text in the common tokenizers; taken until the server has counted the tokens of some calls."""

OUTPUT_TOKENS = 8.0
"""Of a JSON object with a word; taken until the server has counted."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """An item to ask about: its id, what the model is shown of it, and the digest of that."""

    item_id: Any
    message: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class AskPlan:
    """What is to be asked, in order, within the budget.

    answered: answers that there are already, all of them. distinct: the number of different messages of the reference splits.
    input_tokens, output_tokens: of an average call, as the server counted so far or as estimated (is_estimate). spent: the cost
    of the answers so far, None without prices.
    """

    asks: tuple[Ask, ...]
    answered: int
    distinct: int
    input_tokens: float
    output_tokens: float
    is_estimate: bool
    spent: float | None


def plan_asks(root: Path, lf: ModelLF, splits: Sequence[Split], limit: int | None = None, by: By = "random") -> AskPlan:
    """Return what to ask for `lf` about items of `splits`, chosen `by` a cover or at random, at most `limit` calls of it now.

    Raises
    ------
    DataError
        Items or embeddings are missing or damaged.
    LabelingFunctionError
        The items lack a column.
    """
    if not (root / ITEMS).is_file():
        raise DataError(f"{ITEMS} is missing. Run 'epoxy run index' first: items are chosen by their embeddings.")
    pool, taken, distinct = _read_pool(root, lf, splits)
    tokens = _count_tokens(lf, [ask.message for _, ask in pool])
    left = max(0, lf.budget.calls - len(lf.answers))
    count = min(left, _count_affordable(lf, tokens), *([] if limit is None else [limit]))
    asks: list[Ask] = []
    if by == "random":
        asks = [ask for _, ask in pool[:count]]  # the pool is in the order of digests
    elif count and pool:
        by_row = dict(pool)
        rows = np.array(sorted({*by_row, *taken}), dtype=np.int64)
        items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID, "split"])
        vectors = read_vectors(root, items, rows)
        units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        chosen = choose_cover(units, count, np.flatnonzero(np.isin(rows, taken)))
        asks = [by_row[row] for row in rows[chosen].tolist()]
    return AskPlan(
        asks=tuple(asks),
        answered=len(lf.answers),
        distinct=distinct,
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        is_estimate=not _has_counts(lf),
        spent=measure_cost(lf, tokens),
    )


def _read_pool(root: Path, lf: ModelLF, splits: Sequence[Split]) -> tuple[list[tuple[int, Ask]], list[int], int]:
    """Rows of items to choose among, with what would be asked; rows that have an answer; and how many differ in all."""
    pool: list[tuple[int, Ask]] = []
    taken: list[tuple[str, int]] = []
    known = {answer.text for answer in lf.answers}
    names = [split.value for split in splits]
    seen: set[str] = set()
    start = 0
    for items in read_batches(root / ITEMS, schemas.ITEMS):
        if missing := [name for name in lf.question.columns if name not in items.columns]:
            raise LabelingFunctionError(
                f"labeling function '{lf.name}' shows column {missing[0]!r}, but items have {', '.join(items.columns)}."
            )
        is_reference = items["split"].is_in(names).to_list()
        for at, message in enumerate(lf.question.write_items(items)):
            if message is None or not is_reference[at] or (digest := digest_message(message)) in seen:
                continue
            seen.add(digest)
            if digest in known:
                taken.append((digest, start + at))
            else:
                pool.append((start + at, Ask(item_id=items[ITEM_ID][at], message=message, digest=digest)))
        start += items.height
        pool = sorted(pool, key=lambda found: found[1].digest)[:POOL]
    return pool, [row for _, row in sorted(taken)[:POOL]], len(seen)


def _has_counts(lf: ModelLF) -> bool:
    return any(answer.input_tokens is not None and answer.output_tokens is not None for answer in lf.answers)


def _count_tokens(lf: ModelLF, messages: Sequence[str]) -> tuple[float, float]:
    """Tokens of an average call, to the model and from it."""
    counted = [
        (answer.input_tokens, answer.output_tokens)
        for answer in lf.answers
        if answer.input_tokens is not None and answer.output_tokens is not None
    ]
    if counted:
        return float(np.mean([given for given, _ in counted])), float(np.mean([got for _, got in counted]))
    if not messages:
        return 0.0, OUTPUT_TOKENS
    system = lf.question.make_request("")["messages"][0]["content"]
    length = np.mean([len(message.encode("utf-8", "replace")) for message in messages])
    return float(len(system.encode()) + length) / BYTES_PER_TOKEN, OUTPUT_TOKENS


def measure_cost(lf: ModelLF, tokens: tuple[float, float]) -> float | None:
    """Return the cost of the answers so far, an average call's `tokens` where the server counted none; None without prices."""
    costs = [
        lf.budget.price(
            tokens[0] if answer.input_tokens is None else answer.input_tokens,
            tokens[1] if answer.output_tokens is None else answer.output_tokens,
        )
        for answer in lf.answers
    ]
    known = [cost for cost in costs if cost is not None]
    return None if lf.budget.input_price is None else float(sum(known))


def _count_affordable(lf: ModelLF, tokens: tuple[float, float]) -> int:
    """How many more average calls the budget of money allows; as many as that of calls, without one."""
    each = lf.budget.price(*tokens)
    if lf.budget.cost is None or not each:
        return lf.budget.calls
    return max(0, int((lf.budget.cost - (measure_cost(lf, tokens) or 0.0)) / each))
