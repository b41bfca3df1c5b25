"""Labeling functions on frames, without a project."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from epoxy_flow.arguments import require_list, require_text
from tasks.core import lf_analysis
from tasks.core.types import ABSTAIN, Int8, Votes
from tasks.errors import LabelingFunctionError
from tasks.hash_seed import HASH_SEED, are_hashes_fixed
from tasks.lf.clocks import uses_hash
from tasks.lf.functions import LabelingFunction, RowwiseLF, VectorizedLF, read_items, to_frame
from tasks.lf.snorkel import adapt_snorkel_lf, is_snorkel_lf
from tasks.lf.voting import ColumnVotes, apply_rowwise, apply_vectorized
from tasks.queries.project_data import to_names, to_positions


class _NobodyWaits:
    """A progress counter that counts nothing."""

    def advance(self, steps: int = 1) -> None:
        """Do nothing."""


def apply_lfs(frame: Any, lfs: Sequence[LabelingFunction], classes: Sequence[str]) -> pl.DataFrame:
    """Return the votes of `lfs` on the rows of `frame`, a column of class names per LF, null where it abstains.

    Parameters
    ----------
    frame
        A Polars or pandas frame with the columns that the LFs read.
    lfs
        Labeling functions, of this package or of Snorkel.
    classes
        The names of the classes. A vote may also be a position among them.

    Raises
    ------
    LabelingFunctionError
        An LF raises, or votes for something that is not a class; the message names the row. Or two have the same name.
    TypeError
        An argument is of another type; the message names it.

    >>> from tasks.labeling import keyword_lf
    >>> texts = pl.DataFrame({"text": ["an offer", "hello"]})
    >>> offer = keyword_lf("offer", column="text", keywords=["offer"], label="spam")
    >>> apply_lfs(texts, [offer], ["ham", "spam"])["offer"].to_list()
    ['spam', None]
    """
    items = to_frame(frame)
    if items is None:
        raise TypeError(f"frame: got {type(frame).__name__}; expected a Polars or pandas DataFrame")
    classes = [require_text("classes", name) for name in require_list("classes", classes)]
    columns: list[pl.Series] = []
    for number, given in enumerate(require_list("lfs", lfs)):
        lf = adapt_snorkel_lf(given) if is_snorkel_lf(given) else given
        if not isinstance(lf, RowwiseLF | VectorizedLF):
            raise TypeError(
                f"lfs: got {lf!r} ({type(lf).__name__}); expected labeling functions: a function becomes one by "
                "labeling_function(...)"
            )
        lf = lf if lf.name else replace(lf, name=f"lf_{number}")
        if lf.name in {column.name for column in columns}:
            raise LabelingFunctionError(f"more than one labeling function is called '{lf.name}'. Rename all but one.")
        warn_of_hashes(lf)
        found = _ask(lf, items, classes)
        for failure in found.failures[:1]:
            trace = f"\n{failure.trace}" if failure.trace else ""
            raise LabelingFunctionError(f"labeling function '{lf.name}', row {failure.row}: {failure.error}{trace}")
        columns.append(to_names(found.votes, classes).alias(lf.name))
    return pl.DataFrame(columns)


def lf_summary(votes: pl.DataFrame, classes: Sequence[str], gold: pl.Series | None = None) -> pl.DataFrame:
    """Return coverage and precision of each LF, a row per column of `votes` (from `apply_lfs`).

    lf, polarity (the classes it votes for, joined by a comma); coverage, overlaps and conflicts as shares of all rows; and
    with `gold` (class names, null where unknown) n, the votes on rows with gold, precision, and its 95 % interval low, high.

    Raises
    ------
    TypeError, ValueError
        An argument is of another type, of another length than `votes`, or names no class.

    >>> votes = pl.DataFrame({"offer": ["spam", None], "hello": ["ham", "ham"]})
    >>> lf_summary(votes, ["ham", "spam"], pl.Series(["spam", "ham"]))["precision"].to_list()
    [1.0, 0.5]
    """
    names = [require_text("classes", name) for name in require_list("classes", classes)]
    frame = to_frame(votes)
    if frame is None:
        raise TypeError(f"votes: got {type(votes).__name__}; expected a Polars or pandas DataFrame")
    votes, classes = frame, names
    L: Votes = np.full((votes.height, votes.width), ABSTAIN, dtype=np.int8)
    for position, column in enumerate(votes):
        L[:, position] = _read_names(f"votes, column '{column.name}'", column, classes)
    truth = np.full(votes.height, ABSTAIN, dtype=np.int8)
    if gold is not None:
        truth = _read_names("gold", gold if isinstance(gold, pl.Series) else pl.Series(list(gold)), classes)
        if len(truth) != votes.height:
            raise ValueError(
                f"gold: got {len(truth):,} values; expected one for each of {votes.height:,} rows of votes"
            )
    counts = lf_analysis.count_all(L, truth, len(classes))
    columns: dict[str, Any] = {
        "lf": votes.columns,
        "polarity": [
            ", ".join(name for name, cast in zip(classes, row, strict=True) if cast) for row in counts.polarity
        ],
        "coverage": counts.share(counts.votes),
        "overlaps": counts.share(counts.overlaps),
        "conflicts": counts.share(counts.conflicts),
    }
    if gold is not None:
        low, high = lf_analysis.wilson_interval(counts.gold)
        columns |= {"n": counts.gold.votes, "precision": lf_analysis.measure_precision(counts.gold)}
        columns |= {"low": low, "high": high}
    return pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))


def warn_of_hashes(lf: LabelingFunction) -> None:
    """Warn where `lf` calls hash() and this process was not started with the seed that stages have."""
    if not are_hashes_fixed() and uses_hash(lf):
        warnings.warn(
            f"labeling function '{lf.name}' calls hash(), which in this process is not what it is in the pipeline: its votes here "
            f"are others. Start Python with PYTHONHASHSEED={HASH_SEED}, or use hashlib.",
            stacklevel=3,
        )


def _read_names(what: str, column: pl.Series, classes: Sequence[str]) -> Int8:
    """The positions of the class names in `column`."""
    text = column.cast(pl.String)
    if unknown := sorted(set(text.drop_nulls()) - set(classes)):
        raise ValueError(f"{what}: {unknown[0]!r} is none of the classes {', '.join(classes)}")
    return to_positions(text, classes)


def _ask(lf: LabelingFunction, items: pl.DataFrame, classes: Sequence[str]) -> ColumnVotes:
    """The votes of an LF on all rows."""
    if isinstance(lf, RowwiseLF):
        return apply_rowwise(Path.cwd(), lf, read_items(items), classes, _NobodyWaits())
    return apply_vectorized(Path.cwd(), [lf], items, classes)[lf.name]
