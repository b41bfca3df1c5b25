"""The table of labeling functions: lf_report.csv, and the report's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core import lf_analysis
from tasks.core.types import ABSTAIN, Votes


def tabulate_lfs(
    lfs: Sequence[str],
    *,
    original: Votes,
    extended: Votes,
    gold: Mapping[str, npt.NDArray[np.int8]],
    thresholds: Mapping[str, float | None],
    summary: pl.DataFrame,
    confidence: float,
) -> pl.DataFrame:
    """One row per LF: what it votes, its threshold and reach, and on each split with gold its precision.

    `<split>_<votes>_precision`, `_n`, `_low`, `_high`: precision of its `original`, `added` or `all` votes on items
    with gold, how many these are, and the Wilson interval; null without such votes.

    Parameters
    ----------
    original, extended
        Votes (n, m).
    gold
        By split, the gold of its items (n,); -1 on the items of other splits and where it is unknown.
    summary
        The table of apply, a row per LF, by its name in `lf`.
    """
    added = np.where(original == ABSTAIN, extended, ABSTAIN)
    columns: dict[str, Any] = {
        "lf": lfs,
        "threshold": pl.Series([thresholds.get(lf) for lf in lfs], dtype=pl.Float64),
        "votes": lf_analysis.count_votes(original),
        "votes_added": lf_analysis.count_votes(added),
        "coverage": lf_analysis.measure_coverage(original),
        "coverage_extended": lf_analysis.measure_coverage(extended),
    }
    for split, known in gold.items():
        for name, L in (("original", original), ("added", added), ("all", extended)):
            counts = lf_analysis.count_correct(L, known)
            low, high = lf_analysis.wilson_interval(counts, confidence)
            columns[f"{split}_{name}_n"] = counts.votes
            columns[f"{split}_{name}_precision"] = lf_analysis.measure_precision(counts)
            columns[f"{split}_{name}_low"], columns[f"{split}_{name}_high"] = low, high
    measured = pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))
    return measured[:, :1].join(summary, on="lf", how="left", maintain_order="left").hstack(measured[:, 1:])
