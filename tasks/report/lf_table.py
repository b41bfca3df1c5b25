"""The table of labeling functions, for lf_report.csv and the report."""

from collections.abc import Collection, Mapping, Sequence
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
    worth: Mapping[str, float | None],
    harmful: Collection[str],
    muted: Collection[str],
    summary: pl.DataFrame,
    confidence: float,
) -> pl.DataFrame:
    """A table with a row per LF: its votes, its threshold and reach, its worth, and its precision on each split with gold.

    `<split>_<votes>_precision`, `_n`, `_low`, `_high`: the precision of its `original`, `added` or `all` votes on items
    with gold, the number of these votes, and the Wilson interval; null without such votes.

    Parameters
    ----------
    original, extended
        Votes (n, m); those of muted LFs are in the original ones alone.
    gold
        By split, gold of shape (n,); -1 where unknown and on items of other splits.
    summary
        The table lf_summary.csv of apply, a row per LF.
    """
    columns: dict[str, Any] = {
        "lf": lfs,
        "threshold": pl.Series([thresholds.get(lf) for lf in lfs], dtype=pl.Float64),
        "votes": lf_analysis.count_votes(original),
        "votes_added": [
            int(np.count_nonzero((own == ABSTAIN) & (every != ABSTAIN)))
            for own, every in zip(original.T, extended.T, strict=True)
        ],
        "coverage": lf_analysis.measure_coverage(original),
        "coverage_extended": lf_analysis.measure_coverage(extended),
        "worth": pl.Series([worth.get(lf) for lf in lfs], dtype=pl.Float64),
        "is_harmful": [lf in harmful for lf in lfs],
        "is_muted": [lf in muted for lf in lfs],
    }
    for split, known in gold.items():
        rows = np.flatnonzero(known != ABSTAIN)
        own, every = original[rows], extended[rows]
        added = np.where(own == ABSTAIN, every, ABSTAIN)
        for name, L in (("original", own), ("added", added), ("all", every)):
            counts = lf_analysis.count_correct(L, known[rows])
            low, high = lf_analysis.wilson_interval(counts, confidence)
            columns[f"{split}_{name}_n"] = counts.votes
            columns[f"{split}_{name}_precision"] = lf_analysis.measure_precision(counts)
            columns[f"{split}_{name}_low"], columns[f"{split}_{name}_high"] = low, high
    measured = pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))
    return measured[:, :1].join(summary, on="lf", how="left", maintain_order="left").hstack(measured[:, 1:])
