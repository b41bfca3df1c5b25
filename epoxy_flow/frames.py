"""Labeling functions on frames, without a project."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.core import lf_analysis
from tasks.core.types import ABSTAIN, Votes
from tasks.errors import LabelingFunctionError
from tasks.lf.functions import LabelingFunction, RowwiseLF, read_items, to_frame
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
        An LF raises, or votes for something that is not a class; the message names the row.

    >>> from tasks.labeling import keyword_lf
    >>> texts = pl.DataFrame({"text": ["an offer", "hello"]})
    >>> offer = keyword_lf("offer", column="text", keywords=["offer"], label="spam")
    >>> apply_lfs(texts, [offer], ["ham", "spam"])["offer"].to_list()
    ['spam', None]
    """
    items = to_frame(frame)
    if items is None:
        raise TypeError(f"frame: got {type(frame).__name__}; expected a Polars or pandas DataFrame")
    columns = []
    for given in lfs:
        lf = adapt_snorkel_lf(given) if is_snorkel_lf(given) else given
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

    >>> votes = pl.DataFrame({"offer": ["spam", None], "hello": ["ham", "ham"]})
    >>> lf_summary(votes, ["ham", "spam"], pl.Series(["spam", "ham"]))["precision"].to_list()
    [1.0, 0.5]
    """
    L: Votes = np.full((votes.height, votes.width), ABSTAIN, dtype=np.int8)
    for position, column in enumerate(votes):
        L[:, position] = to_positions(column.cast(pl.String), classes)
    truth = np.full(votes.height, ABSTAIN, dtype=np.int8) if gold is None else to_positions(gold, classes)
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


def _ask(lf: LabelingFunction, items: pl.DataFrame, classes: Sequence[str]) -> ColumnVotes:
    """The votes of an LF on all rows."""
    if isinstance(lf, RowwiseLF):
        return apply_rowwise(Path.cwd(), lf, read_items(items), classes, _NobodyWaits())
    return apply_vectorized(Path.cwd(), [lf], items, classes)[lf.name]
