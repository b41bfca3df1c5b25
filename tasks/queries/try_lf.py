"""try: the votes, matches, precision and failures of an LF, saved or not, on some items."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import tasks.labeling
from tasks.core.lf_analysis import GoldCounts, wilson_interval
from tasks.core.types import ABSTAIN, ITEM_ID, Int64
from tasks.errors import LabelingFunctionError
from tasks.lf.checks import require_fitting_patterns
from tasks.lf.functions import LabelingFunction, OnError, PatternLF, RowwiseLF, VectorizedLF, read_items
from tasks.lf.libraries import unchanged_libraries
from tasks.lf.loading import load_module, project_lfs
from tasks.lf.snorkel import adapt_snorkel_lf, is_snorkel_lf
from tasks.lf.voting import apply_rowwise, apply_vectorized, caught_fault
from tasks.queries.project_data import ProjectData, add_raw_columns, find_name, require_not_negative, to_names
from tasks.tables import schemas
from tasks.tables.parquet import read_schema, read_table
from tasks.tables.paths import ITEMS, VOTES

CODE = "<code>"
"""The file name for code that is not in a file."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The result of asking an LF about some items.

    rows: item_id, split, vote (null: abstains), before (its vote in the last run, if it was part of it), matched (the text
    in which a keyword or pattern was found), gold (null if it does not take part), right, and raw columns; in the order
    asked. failures: item_id, error, trace (of the first). votes, with_gold, right: counts; low, high: 95 % interval of
    the precision, None without gold.
    """

    lf: str
    rows: pl.DataFrame
    failures: pl.DataFrame
    votes: int
    with_gold: int
    right: int
    low: float | None
    high: float | None


class _NobodyWaits:
    """Takes the place of a counter of progress."""

    def advance(self, steps: int = 1) -> None:
        """Nothing to tell."""


@contextmanager
def saved_lf(root: Path, source: str, name: str) -> Iterator[LabelingFunction]:
    """Within the block, the LF `name` of the module `source` (lfs/NAME.py below `root`), as it is now on disk.

    Raises
    ------
    LabelingFunctionError
        The module cannot be loaded.
    QueryError
        The module has no such LF.
    """
    with project_lfs(root):
        lfs = {lf.name: lf for lf in load_module(root, source).lfs}
        yield lfs[find_name(name, list(lfs), f"labeling function in {source}")]


def read_lf(code: str, *, name: str = "", file: str = CODE) -> LabelingFunction:
    """Return the LF that Python `code` makes: an expression, or a module's statements, among whose LFs `name` chooses.

    An expression is a call such as keyword_lf(...), a lambda of an item, or votes of Polars such as
    vote_where(pl.col("text") == "", "spam"). The names of `tasks.labeling`, `pl`, `np` and `re` are defined. The code
    runs with the caller's permissions.

    Raises
    ------
    LabelingFunctionError
        The code is not valid Python, raises, or makes no LF, or makes several among which `name` does not choose.
    """
    known = {name: getattr(tasks.labeling, name) for name in tasks.labeling.__all__}
    space: dict[str, Any] = {**known, "pl": pl, "np": np, "re": re, "__name__": "code"}
    found: list[Any] = []
    with unchanged_libraries(file), caught_fault() as fault:
        # This is the user's own code, like that of an LF module.
        try:
            found = [eval(compile(code.strip(), file, "eval"), space)]  # noqa: S307
        except SyntaxError:
            exec(compile(code, file, "exec"), space)  # noqa: S102
            found = [value for key, value in space.items() if key not in known]
    if fault:
        raise LabelingFunctionError(f"{file}: {fault.trace}")
    lfs = [
        _to_lf(value)
        for value in found
        if len(found) == 1 or isinstance(value, RowwiseLF | VectorizedLF) or is_snorkel_lf(value)
    ]
    chosen = [lf for lf in lfs if lf is not None and (not name or len(lfs) == 1 or lf.name == name)]
    if len(chosen) != 1:
        names = ", ".join(lf.name for lf in lfs if lf is not None)
        what = f"makes {names}; name one of them" if names else "makes no labeling function, such as keyword_lf(...)"
        raise LabelingFunctionError(f"{file} {what}.")
    return replace(chosen[0], name=name or chosen[0].name or "tried")


def _to_lf(value: object) -> LabelingFunction | None:
    """The LF that an expression's value is or can be made into, else None."""
    if isinstance(value, RowwiseLF | VectorizedLF):
        return value
    if is_snorkel_lf(value):
        return adapt_snorkel_lf(value)
    if isinstance(value, pl.Expr):
        return VectorizedLF(name="", function=lambda items: value)
    return RowwiseLF(name="", function=value) if callable(value) and not isinstance(value, type) else None


def choose_rows(
    data: ProjectData, *, ids: Sequence[str | int] = (), count: int = 1000, seed: int | None = None
) -> Int64:
    """Return the rows of these `ids`, else of the first `count` items, or of `count` random items if there is a `seed`.

    Raises
    ------
    QueryError
        There is no such item, or a number is negative.
    """
    if ids:
        return data.find_rows(ids)
    require_not_negative(seed=seed, count=count)
    n = len(data.ids())
    if seed is None:
        return np.arange(min(count, n))
    return np.sort(np.random.default_rng(seed).choice(n, min(count, n), replace=False))


def try_lf(
    data: ProjectData, lf: LabelingFunction, rows: Int64, *, source: str = CODE, withheld_gold: bool = False
) -> Trial:
    """Return the result of asking `lf`, written in `source`, about the items in these `rows`, even if it fails on some.

    Raises
    ------
    DataError
        The items are missing or damaged.
    LabelingFunctionError
        It looks for keywords or a pattern in what is no text column, or votes for what is no class.
    """
    schema = schemas.ITEMS
    items = data.gather(ITEMS, schema, rows)
    require_fitting_patterns([lf], items.schema, data.classes, source)
    asked = replace(lf, on_error=OnError.ABSTAIN)
    if isinstance(asked, RowwiseLF):
        asked = replace(asked, on_timeout=OnError.ABSTAIN)
        found = apply_rowwise(data.root, asked, read_items(items), data.classes, _NobodyWaits())
    else:
        found = apply_vectorized(data.root, [asked], items, data.classes)[asked.name]
    gold = data.gold(withheld=withheld_gold)[rows]
    judged = (found.votes != ABSTAIN) & (gold != ABSTAIN)
    right = judged & (found.votes == gold)
    counts = GoldCounts(votes=np.array([judged.sum()]), correct=np.array([right.sum()]))
    low, high = (None if np.isnan(bound[0]) else float(bound[0]) for bound in wilson_interval(counts))
    columns = [
        to_names(found.votes, data.classes).alias("vote"),
        *_find_before(data, lf.name, rows),
        _find_matches(lf, items, found.votes != ABSTAIN),
        to_names(gold, data.classes).alias("gold"),
        pl.Series("right", right).set(pl.Series(~judged), None),
    ]
    failures = [(items[ITEM_ID][failure.row], failure.error, failure.trace) for failure in found.failures]
    kind: dict[str, Any] = {ITEM_ID: items.schema[ITEM_ID], "error": pl.String, "trace": pl.String}
    return Trial(
        lf=lf.name,
        rows=add_raw_columns(items.select(ITEM_ID, "split").with_columns(columns), items),
        failures=pl.DataFrame(failures, schema=kind, orient="row"),
        votes=int((found.votes != ABSTAIN).sum()),
        with_gold=int(judged.sum()),
        right=int(right.sum()),
        low=low,
        high=high,
    )


def _find_before(data: ProjectData, lf: str, rows: Int64) -> list[pl.Series]:
    """The LF's votes in the last run as a column, if it was part of it."""
    path = data.root / VOTES
    if not path.is_file() or lf not in read_schema(path):
        return []

    columns = [ITEM_ID, lf]
    votes = read_table(path, schemas.votes(len(data.classes), columns), columns)
    if not votes[ITEM_ID].equals(data.ids()):
        return []  # the last run had other items, so there is nothing to compare with
    return [to_names(votes[lf].gather(rows).to_numpy(), data.classes).alias("before")]


def _find_matches(lf: LabelingFunction, items: pl.DataFrame, voted: np.ndarray[Any, np.dtype[np.bool_]]) -> pl.Series:
    """The matched text in each item on which a pattern LF votes; null elsewhere and for other LFs."""
    nothing = pl.Series("matched", [None] * items.height, dtype=pl.String)
    if not isinstance(lf, PatternLF) or items.schema.get(lf.column) != pl.String:
        return nothing
    texts, pattern = items[lf.column], lf.pattern
    if pattern.python is not None:
        search = pattern.python.search
        matches = [search(text) if said and text is not None else None for text, said in zip(texts, voted, strict=True)]
        return pl.Series("matched", [None if match is None else match.group() for match in matches], dtype=pl.String)
    if pattern.polars is None:
        return nothing
    # A match of keywords includes the characters beside them, which the automaton has to consume.
    matched = texts.str.extract(
        f"({pattern.polars})" if "(?i)" not in pattern.polars else f"(?i)({pattern.polars[4:]})"
    )
    return matched.set(pl.Series(~voted), None).str.replace(r"^\W", "").str.replace(r"\W$", "").alias("matched")
