"""lfs: coverage and precision of each LF, before and after extension, compared with a release and with other LFs."""

from typing import Any

import numpy as np
import polars as pl

from tasks.core import lf_analysis
from tasks.core.copies import group_copies
from tasks.core.leave_one_out import leave_out_each
from tasks.core.lf_pairs import count_pairs
from tasks.core.types import ABSTAIN, ITEM_ID, Bool, Float64, Int64, Votes
from tasks.params_file import FILE as PARAMS
from tasks.queries.project_data import LFVotes, ProjectData, ReleaseData, find_name
from tasks.tables.label_matrix import join_gold
from tasks.tables.paths import (
    END_MODEL_SUMMARY,
    EXTENDED_VOTES,
    ITEMS,
    LABEL_MODEL,
    LF_FAILURES,
    MUTED,
    THRESHOLDS,
    VALID_GOLD,
    VOTES,
)

_STATE = (
    PARAMS, ITEMS, VALID_GOLD, VOTES, MUTED, EXTENDED_VOTES, THRESHOLDS, LABEL_MODEL, END_MODEL_SUMMARY, LF_FAILURES,
)  # fmt: skip

KINDS = ("original", "added", "all")
"""Kinds of votes: an LF's own, those that extension adds, and both."""


def tabulate_lfs(data: ProjectData, *, before: ReleaseData | None = None) -> pl.DataFrame:
    """Return a row per LF, in the order of votes; with `before`, also its figures in that release and why votes changed.

    lf; polarity (the classes it votes for, joined by a comma); votes, votes_added; as shares of all items `coverage`,
    `overlaps`, `conflicts` (original votes) and the same with `_extended` (all votes); `only` and `only_extended`: items
    on which no other LF votes, by original and by all votes, which is what coverage would lose without it; threshold
    (null: not extended); on valid gold `<original, added, all>_n`, `_precision`, `_low`, `_high` (95 % Wilson interval);
    decides and adds (on how many items majority vote is another without it, and what it adds to its accuracy on valid gold);
    worth (what it earns of the accuracy of the labels, as other LFs tell, below 0 where it harms; null if unknown); is_harmful (whether it is below 0, or others say another class where they vote near its votes);
    believed (the label model's estimate of the precision, averaged over its votes); failures (number of items);
    near_copies (LFs that vote much the same); is_muted: its original votes are counted here, and nowhere else.

    With `before`: was_there; `<coverage, coverage_extended, conflicts, threshold, original_precision, all_precision>_before`
    (precision on today's valid gold); votes_changed (original votes that differ, on items in both); moved: why its votes
    differ, as a phrase.

    Raises
    ------
    DataError
        An artifact is missing or damaged, or they are of different runs.
    """
    table = data.recall("lf table", _STATE, lambda: _tabulate_run(data))
    return table if before is None else table.hstack(_compare_release(data, table, before))


def compare_lfs(data: ProjectData) -> pl.DataFrame:
    """Return a row per pair of LFs that vote on a common item, counting original and extended votes.

    lf, other, both (items on which both vote), same and conflicts (of these), agreement (same / both), overlap (both /
    items on which either votes), near_copy (whether they are in the same group of near-copies, by original votes).
    """

    def compare() -> pl.DataFrame:
        votes, k = data.votes(), len(data.classes)
        both, same = count_pairs(votes.extended, k)
        each = np.diag(both)
        group = _group_near_copies(votes, k)
        rows = []
        for i, j in np.argwhere(np.triu(both, 1) > 0):
            rows.append(
                {
                    "lf": votes.lfs[i],
                    "other": votes.lfs[j],
                    "both": int(both[i, j]),
                    "same": int(same[i, j]),
                    "conflicts": int(both[i, j] - same[i, j]),
                    "agreement": float(same[i, j] / both[i, j]),
                    "overlap": float(both[i, j] / (each[i] + each[j] - both[i, j])),
                    "near_copy": votes.lfs[j] in group.get(votes.lfs[i], ()),
                }
            )
        text, count, share = pl.String, pl.Int64, pl.Float64
        schema = {
            "lf": text, "other": text, "both": count, "same": count, "conflicts": count, "agreement": share,
            "overlap": share, "near_copy": pl.Boolean,
        }  # fmt: skip
        return pl.DataFrame(rows, schema=schema)

    return data.recall("pairs", _STATE, compare)


def tabulate_matrix(data: ProjectData, what: str = "agreement") -> pl.DataFrame:
    """Return a column of `compare_lfs` as a square table: lf, and a column per LF; null for LFs without common items.

    Raises
    ------
    QueryError
        `what` is none of agreement, overlap, both, same, conflicts.
    """
    find_name(what, ["agreement", "overlap", "both", "same", "conflicts"], "matrix of LFs")
    pairs, lfs = compare_lfs(data), data.votes().lfs
    values: dict[tuple[str, str], Any] = {}
    for row in pairs.iter_rows(named=True):
        values[row["lf"], row["other"]] = values[row["other"], row["lf"]] = row[what]
    kind = pairs.schema[what]
    columns = [pl.Series(other, [values.get((lf, other)) for lf in lfs], dtype=kind) for other in lfs]
    return pl.DataFrame([pl.Series("lf", lfs, dtype=pl.String), *columns])


def summarize_votes(ids: pl.Series, votes: Votes, lfs: tuple[str, ...], gold: Votes, k: int) -> dict[str, Any]:
    """Return per LF the coverage, overlaps, conflicts and `only` (counts) of `votes` (n, m), and precision on `gold` (n,)."""
    counts = lf_analysis.count_all(np.ascontiguousarray(votes), gold, k)
    low, high = lf_analysis.wilson_interval(counts.gold)
    return {
        "coverage": counts.share(counts.votes),
        "overlaps": counts.share(counts.overlaps),
        "conflicts": counts.share(counts.conflicts),
        "only": counts.votes - counts.overlaps,
        "votes": counts.votes,
        "n": counts.gold.votes,
        "precision": lf_analysis.measure_precision(counts.gold),
        "low": low,
        "high": high,
    }


def _tabulate_run(data: ProjectData) -> pl.DataFrame:
    """The table of LFs for the last run, without a comparison."""
    votes, classes, gold = data.votes(), data.classes, data.gold()
    k = len(classes)
    parts = {
        "original": votes.original,
        "cast": votes.cast,
        "added": np.where(votes.original == ABSTAIN, votes.extended, ABSTAIN).astype(np.int8),
        "all": votes.extended,
    }
    measured = {kind: summarize_votes(votes.ids, L, votes.lfs, gold, k) for kind, L in parts.items()}
    polarity = lf_analysis.find_polarity(votes.cast, k)
    is_muted = np.isin(votes.lfs, votes.muted)
    original = {name: np.where(is_muted, measured["cast"][name], said) for name, said in measured["original"].items()}
    measured["original"], everything = original, measured["all"]
    columns: dict[str, Any] = {
        "lf": votes.lfs,
        "polarity": [", ".join(name for c, name in enumerate(classes) if row[c]) for row in polarity],
        "votes": original["votes"],
        "votes_added": measured["added"]["votes"],
    }
    for name in ("coverage", "overlaps", "conflicts", "only"):
        columns[name], columns[f"{name}_extended"] = original[name], everything[name]
    without = leave_out_each(votes.extended, gold, k)
    columns["decides"], columns["adds"] = without.decided, without.gain
    found = data.end_model()
    worth, harmful = found.get("lf_worth") or {}, found.get("harmful_lfs") or []
    columns["worth"] = pl.Series([worth.get(lf) for lf in votes.lfs], dtype=pl.Float64)
    columns["is_harmful"] = [lf in harmful for lf in votes.lfs]
    columns["threshold"] = pl.Series([votes.thresholds.get(lf) for lf in votes.lfs], dtype=pl.Float64)
    for kind in KINDS:
        columns |= {f"{kind}_{name}": measured[kind][name] for name in ("n", "precision", "low", "high")}
    columns["believed"] = pl.Series(_find_believed(data, votes), dtype=pl.Float64)
    failures = dict(data.failures().group_by("lf").len().iter_rows())
    columns["failures"] = [failures.get(lf, 0) for lf in votes.lfs]
    columns["is_muted"] = is_muted
    copies = _group_near_copies(votes, k)
    columns["near_copies"] = pl.Series([copies.get(lf, []) for lf in votes.lfs], dtype=pl.List(pl.String))
    return pl.DataFrame(columns, strict=False).with_columns(pl.selectors.float().fill_nan(None))


def _find_believed(data: ProjectData, votes: LFVotes) -> list[float | None]:
    """The label model's estimate of each LF's precision, averaged over the LF's votes; None if unknown."""
    by_lf = data.label_model().get("precision") or {}
    believed: list[float | None] = []
    for j, lf in enumerate(votes.lfs):
        said = by_lf.get(lf) or {}
        counts = [int(np.count_nonzero(votes.extended[:, j] == c)) for c in range(len(data.classes))]
        known = [(count, said.get(name)) for count, name in zip(counts, data.classes, strict=True) if count]
        weight = sum(count for count, value in known if value is not None)
        total = sum(count * value for count, value in known if value is not None)
        believed.append(total / weight if weight else None)
    return believed


def _group_near_copies(votes: LFVotes, k: int) -> dict[str, list[str]]:
    """The near-copies of each LF that has any."""
    found: dict[str, list[str]] = {}
    for group in group_copies(votes.original, k):
        names = [votes.lfs[lf] for lf in group.lfs]
        found |= {name: [other for other in names if other != name] for name in names}
    return found


def _compare_release(data: ProjectData, table: pl.DataFrame, before: ReleaseData) -> pl.DataFrame:
    """The figures in release `before` of the LFs of `table`, a row each."""
    was, votes, k = before.votes(), data.votes(), len(data.classes)
    gold = _read_gold_of(data, was.ids)
    original = summarize_votes(was.ids, was.original, was.lfs, gold, k)
    everything = summarize_votes(was.ids, was.extended, was.lfs, gold, k)
    measured: dict[str, Float64] = {
        "coverage": original["coverage"],
        "coverage_extended": everything["coverage"],
        "conflicts": original["conflicts"],
        "original_precision": original["precision"],
        "all_precision": everything["precision"],
    }
    at = {lf: position for position, lf in enumerate(was.lfs)}
    rows, rows_before = _match_rows(votes.ids, was.ids)
    changed: list[int | None] = []
    moved: list[str] = []
    for j, lf in enumerate(votes.lfs):
        if lf not in at:
            changed.append(None)
            moved.append("new")
            continue
        differs = int(np.count_nonzero(votes.cast[rows, j] != was.cast[rows_before, at[lf]]))
        gained = votes.extended[rows, j] != was.extended[rows_before, at[lf]]
        changed.append(differs)
        muted = ["no longer muted", "", "muted"][1 + (lf in votes.muted) - (lf in was.muted)]
        moved.append(muted or _say_why(differs, gained, votes.thresholds.get(lf), was.thresholds.get(lf)))
    columns: dict[str, Any] = {"was_there": [lf in at for lf in votes.lfs]}
    for name, values in measured.items():
        columns[f"{name}_before"] = pl.Series(
            [values[at[lf]] if lf in at else None for lf in votes.lfs], dtype=pl.Float64
        ).fill_nan(None)
    columns["threshold_before"] = pl.Series([was.thresholds.get(lf) for lf in votes.lfs], dtype=pl.Float64)
    columns["votes_changed"] = pl.Series(changed, dtype=pl.Int64)
    columns["moved"] = moved
    return pl.DataFrame(columns)


def _say_why(changed: int, moved: Bool, now: float | None, was: float | None) -> str:
    """Why an LF's votes on items of the release differ from those in it, as a phrase."""
    if changed:
        return f"{changed:,} of its own votes changed"
    if now != was:
        retuned = f"{_say_threshold(was)} to {_say_threshold(now)}"
        return f"its own votes did not change; threshold {retuned}"
    if moved.any():
        return f"its own votes did not change; {int(moved.sum()):,} extended votes did, with its neighbors"
    return "unchanged"


def _say_threshold(value: float | None) -> str:
    return "not extended" if value is None else f"{value:.4g}"


def _match_rows(ids: pl.Series, others: pl.Series) -> tuple[Int64, Int64]:
    """The rows, in `ids` and in `others`, of the items that are in both."""
    if ids.dtype != others.dtype:
        nothing = np.empty(0, np.int64)
        return nothing, nothing
    now, before = (pl.DataFrame({ITEM_ID: column}).with_row_index(name) for name, column in (("r", ids), ("s", others)))
    both = now.join(before, on=ITEM_ID, how="inner", maintain_order="left")
    return both["r"].cast(pl.Int64).to_numpy(), both["s"].cast(pl.Int64).to_numpy()


def _read_gold_of(data: ProjectData, ids: pl.Series) -> Votes:
    """Today's valid gold (n,) of the items with these `ids`, -1 if unknown."""
    labels = data.gold()
    known = pl.DataFrame({ITEM_ID: data.ids(), "gold": labels}).filter(pl.col("gold") != ABSTAIN)
    if known.schema[ITEM_ID] != ids.dtype:
        return np.full(len(ids), ABSTAIN, dtype=np.int8)
    return join_gold(ids.to_frame(ITEM_ID), known)
