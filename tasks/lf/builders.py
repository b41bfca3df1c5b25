"""Labeling functions that take a line: comparisons, look-ups, people's answers, a model's probabilities, examples."""

import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.types import ITEM_ID
from tasks.errors import DataError, LabelingFunctionError
from tasks.lf.functions import VectorizedLF, require_label
from tasks.readers.raw_tables import read_raw_table

Entries = Collection[str] | str | Path
"""Texts, or the name of a file with one in each line."""


def compare_lf(
    name: str,
    *,
    column: str,
    label: str | int,
    equal: Any = None,
    above: Any = None,
    below: Any = None,
    at_least: Any = None,
    at_most: Any = None,
) -> VectorizedLF:
    """An LF that votes `label` where the value in `column` fits all comparisons, and abstains elsewhere and on null.

    What is compared with is a number, a text, a time, or `pl.col(...)` for the value in another column.

    Raises
    ------
    LabelingFunctionError
        There is no comparison.

    >>> long = compare_lf("long", column="words", above=10, at_most=99, label="spam")
    >>> long(pl.DataFrame({"words": [5, 50, None]})).to_list()
    [None, 'spam', None]
    """
    value = pl.col(column)
    parts = [
        compare(limit)
        for compare, limit in (
            (value.eq, equal), (value.gt, above), (value.lt, below), (value.ge, at_least), (value.le, at_most),
        )
        if limit is not None
    ]  # fmt: skip
    if not parts:
        raise LabelingFunctionError(
            f"labeling function '{name}': nothing to compare with. Give equal, above, below, at_least or at_most."
        )
    return _where(name, pl.all_horizontal(parts), label)


def lookup_lf(
    name: str, *, column: str, entries: Entries, label: str | int, case_insensitive: bool = True
) -> VectorizedLF:
    """An LF that votes `label` where the whole value in `column` is one of `entries`, and abstains elsewhere.

    For words inside a text, see `keyword_lf`, whose keywords `read_entries` can read from a file, too.

    Parameters
    ----------
    entries
        Texts, or a file below lfs/ with one in each line, named as for `read_entries`. White space around a text does not count.

    Raises
    ------
    LabelingFunctionError
        There are no entries, or no such file.

    >>> capital = lookup_lf("capital", column="city", entries={"Paris", "Rome"}, label="capital")
    >>> capital(pl.DataFrame({"city": ["paris ", "Lyon", None]})).to_list()
    ['capital', None, None]
    """
    require_label(name, label)
    texts = _read(name, entries, sys._getframe(1).f_globals)
    known = sorted({text.casefold() if case_insensitive else text for text in texts})

    def vote(items: pl.DataFrame) -> pl.Expr:
        values = items[column].cast(pl.String).str.strip_chars()
        if case_insensitive:
            # Polars' lower case is not Python's case folding (ß, İ); distinct values are few.
            distinct = values.drop_nulls().unique()
            values = values.replace_strict(distinct, [text.casefold() for text in distinct], default=None)
        return pl.when(pl.lit(values.is_in(known))).then(pl.lit(label)).alias("vote")

    return VectorizedLF(name=name, function=vote)


def read_entries(file: str | Path) -> list[str]:
    """The lines of a file of words or names, without white space around them; empty ones and those that begin with # are left out.

    A name without a folder before it is looked for beside the module that calls this.

    Raises
    ------
    LabelingFunctionError
        There is no such file, it is no UTF-8, or it has no line.
    """
    return _read("read_entries", file, sys._getframe(1).f_globals)


def _read(name: str, entries: Entries, caller: Mapping[str, Any]) -> list[str]:
    """The texts that `entries` are or names, for the module with the globals `caller`."""
    if not isinstance(entries, str | Path):
        texts = [text.strip() for text in entries]
        where = "entries"
    else:
        path = Path(caller.get("__file__", "lfs/module.py")).parent / entries
        where = str(entries)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LabelingFunctionError(
                f"labeling function '{name}': {path} cannot be read: {error}. Expected a file of UTF-8 beside the module."
            ) from None
        texts = [line.strip() for line in lines if not line.lstrip().startswith("#")]
    texts = [text for text in texts if text]
    if not texts:
        raise LabelingFunctionError(f"labeling function '{name}': {where} has no entry; expected at least one text.")
    return texts


def probability_lf(
    name: str,
    *,
    column: str,
    label: str | int,
    at_least: float,
    otherwise: str | int | None = None,
    at_most: float | None = None,
) -> VectorizedLF:
    """An LF from the probabilities that some model gave to class `label`: votes it from `at_least` on, and abstains elsewhere.

    With `otherwise` and `at_most`, it votes that class where the probability is at most so high.

    Raises
    ------
    LabelingFunctionError
        Cut-offs are no probabilities, overlap, or only one of `otherwise` and `at_most` is given.

    >>> model = probability_lf("model", column="p", label="spam", at_least=0.9, otherwise="ham", at_most=0.2)
    >>> model(pl.DataFrame({"p": [0.95, 0.5, 0.1, None]})).to_list()
    ['spam', None, 'ham', None]
    """
    if (otherwise is None) != (at_most is None):
        raise LabelingFunctionError(
            f"labeling function '{name}': otherwise and at_most belong together. Give both, or none."
        )
    if not 0 <= at_least <= 1 or (at_most is not None and not 0 <= at_most < at_least):
        raise LabelingFunctionError(
            f"labeling function '{name}': cut-offs at_least={at_least}, at_most={at_most}; expected "
            "0 <= at_most < at_least <= 1."
        )
    for voted in (label,) if otherwise is None else (label, otherwise):
        require_label(name, voted)
    value = pl.col(column)
    votes = pl.when(value.is_not_nan() & (value >= at_least)).then(pl.lit(label))
    if at_most is None:
        return VectorizedLF(name=name, function=lambda items: votes.alias("vote"))
    both = votes.when(value <= at_most).then(pl.lit(otherwise)).alias("vote")
    return VectorizedLF(name=name, function=lambda items: both)


def examples_lf(name: str, *, ids: Collection[str | int], label: str | int) -> VectorizedLF:
    """An LF that votes `label` on the items with these `ids`, and through extension on the items near to them.

    How near that has to be is tuned, as for every LF. Only items of the splits in `search.reference` lend their votes.

    Raises
    ------
    LabelingFunctionError
        There are no ids, or `ids` is one text rather than a list.

    >>> such = examples_lf("such", ids=["i7"], label="spam")
    >>> such(pl.DataFrame({"item_id": ["i6", "i7"]})).to_list()
    [None, 'spam']
    """
    if isinstance(ids, str) or not ids:
        raise LabelingFunctionError(
            f"labeling function '{name}': ids is {ids!r}; expected a list of at least one item's id."
        )
    known = sorted({str(item) for item in ids})
    return _where(name, pl.col(ITEM_ID).cast(pl.String).is_in(known), label)


def worker_lfs(
    file: str | Path, *, worker: str = "worker", answer: str = "answer", item_id: str = ITEM_ID, prefix: str = "worker_"
) -> list[VectorizedLF]:
    """An LF per person who answered, each of which votes that person's answers and abstains on all other items.

    Parameters
    ----------
    file
        A table in Parquet, CSV or JSONL with a row per answer, beside the module that calls this (below lfs/).
    worker, answer, item_id
        Its columns: who, which class (a name, or the position of one in Parquet and JSONL), about which item.
    prefix
        What an LF is called by, before the worker's name; signs that no LF's name has become `_`.

    Raises
    ------
    LabelingFunctionError
        The file cannot be read, lacks a column, or somebody answers an item in two ways.
    """
    path = Path(sys._getframe(1).f_globals.get("__file__", "lfs/module.py")).parent / file
    try:
        table = read_raw_table(path.parent, path).table
    except DataError as error:
        raise LabelingFunctionError(f"worker_lfs: {error}") from None
    for column in (worker, answer, item_id):
        if column not in table.columns:
            raise LabelingFunctionError(
                f"worker_lfs: {path}: no column '{column}'; it has {', '.join(table.columns)}. Name another."
            )
    rows = table.select(pl.col(item_id, worker).cast(pl.String), answer).drop_nulls().unique(maintain_order=True)
    twice = rows.filter(pl.struct(item_id, worker).is_duplicated())
    if twice.height:
        item, person, _ = twice.row(0)
        raise LabelingFunctionError(
            f"worker_lfs: {path}: '{person}' answers item '{item}' in two ways. Keep one of them."
        )
    lfs: dict[str, VectorizedLF] = {}
    for person in sorted(rows[worker].unique()):
        name = prefix + re.sub(r"[^A-Za-z0-9_.\-]", "_", person)
        if name in lfs:
            raise LabelingFunctionError(
                f"worker_lfs: {path}: two workers are called '{name}' here, one of them {person!r}. Rename them."
            )
        theirs = rows.filter(pl.col(worker) == person)
        lfs[name] = _answers(name, theirs[item_id].to_list(), theirs[answer].to_list())
    return list(lfs.values())


def _answers(name: str, ids: list[str], answers: list[str | int]) -> VectorizedLF:
    """An LF that votes these `answers` on the items with these `ids`."""

    def vote(items: pl.DataFrame) -> pl.Series:
        return items[ITEM_ID].cast(pl.String).replace_strict(ids, answers, default=None)

    return VectorizedLF(name=name, function=vote)


def _where(name: str, condition: pl.Expr, label: str | int) -> VectorizedLF:
    """An LF that votes `label` where `condition` holds."""
    require_label(name, label)
    votes = pl.when(condition).then(pl.lit(label)).alias("vote")
    return VectorizedLF(name=name, function=lambda items: votes)
