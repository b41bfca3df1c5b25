"""tune: check whether neighbors carry votes, choose the threshold of each LF, and write the threshold curves."""

import difflib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.copies import find_originals
from tasks.core.default_lfs import find_default_lfs
from tasks.core.extension import Neighbors, find_nearest_votes, to_similarity
from tasks.core.offers import JudgedItems
from tasks.core.progress_callback import WHOLE
from tasks.core.thresholds import (
    Choice,
    choose_thresholds,
    count_above,
    count_extended,
    draw_hidden,
    fit_global,
    fit_per_lf,
    hide_votes,
    propose_thresholds,
    trace_coverage,
    trace_curve,
)
from tasks.core.types import ABSTAIN, ITEM_ID, Bool, Float32, Float64, Int64, Votes
from tasks.errors import ParamsError
from tasks.params import Metric, TuneMethod, TuneParams
from tasks.progress import Progress
from tasks.report.embedding_check import check_embedding
from tasks.tables import schemas
from tasks.tables.files import write_csv, write_json
from tasks.tables.index_file import read_description
from tasks.tables.label_matrix import read_counted_votes, read_gold
from tasks.tables.muted import read_muted
from tasks.tables.neighbor_columns import NeighborColumnNames, find_neighbor_columns, to_neighbors
from tasks.tables.parquet import read_batches, read_table
from tasks.tables.paths import ITEMS, NEIGHBORS, THRESHOLD_CURVES, THRESHOLDS
from tasks.tables.scratch import open_scratch
from tasks.tables.thresholds import Thresholds
from tasks.tables.validation import require_same_items

_CURVE = {
    "lf": pl.String,
    "threshold": pl.Float64,
    "coverage": pl.Float64,
    "valid_coverage": pl.Float64,
    "metric": pl.Float64,
}
"""Columns of threshold_curves.csv: a threshold (null: do not extend), the share of all items on which the LF then has a
vote, the same for items with valid gold, and the metric with every other LF at its chosen threshold, on valid gold or
else on hidden votes."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of the choice except neighbors; rows are those of items."""

    lfs: list[str]
    L: npt.NDArray[np.int8]
    """(n, m): votes."""
    labels: npt.NDArray[np.int8]
    """(n,): gold of valid items, ABSTAIN elsewhere."""
    k: int
    metric: Metric


@dataclass(frozen=True, kw_only=True)
class TuningSet:
    """The items and votes that judge thresholds, or at least their curves; LFs with identical votes appear once."""

    method: TuneMethod
    """How thresholds are really chosen: per_lf becomes agreement if there is no gold."""
    chosen_on: str
    is_hidden: bool
    """Whether hidden votes stand in for gold."""
    judged_by: str
    """What judges, in words: valid gold, or hidden votes and how much each weighs."""
    may_choose: bool
    """Whether there is a threshold to choose, and something to choose by."""
    judged: JudgedItems
    column: Int64
    """(m,): the column of `judged` that represents each LF."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The thresholds, and how they were chosen."""

    thresholds: Thresholds
    similarity: Float64
    """The thresholds as similarities, by column of the tuning set; infinity: do not extend."""
    candidates: list[Float64]
    """The candidate similarities of each column."""
    tuning_set: TuningSet
    choice: Choice | None
    """None if there was nothing to choose."""


def run(root: Path, classes: tuple[str, ...], params: TuneParams) -> None:
    """Choose the thresholds of the LFs below `root`; of all gold, only that of valid is read.

    Raises
    ------
    ParamsError
        A threshold is given for an LF that does not exist.
    DataError
        A table is missing or damaged, or the tables are about different items or LFs.
    """
    items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID])
    counted = read_counted_votes(root, items, len(classes), (root / THRESHOLDS).parent)
    lfs, L = list(counted.lfs), counted.votes
    labels = read_gold(root, items, len(classes))
    metric = read_description(root).metric
    for sentence in check_embedding(root, items, L, labels, len(classes), metric):
        print(f"tune: {sentence}", file=sys.stderr)
    pairs = find_neighbor_columns(root / NEIGHBORS, lfs, read_muted(root))
    inputs = Inputs(lfs=lfs, L=L, labels=labels, k=len(classes), metric=metric)
    nearest = open_scratch((root / THRESHOLDS).parent, (len(lfs), items.height), np.float32)
    chosen = choose(inputs, params, lambda rows: _read_rows(root, items, pairs, rows, nearest))
    found, judged, columns = chosen.thresholds, chosen.tuning_set.judged, chosen.tuning_set.column.tolist()
    candidates = [chosen.candidates[column] for column in columns]
    write_json(root / THRESHOLDS, found.model_dump(mode="json"))
    originals = (L != ABSTAIN).sum(axis=0)
    extended = [count_above(similarity, above) for similarity, above in zip(nearest, candidates, strict=True)]
    counts = count_extended(judged, chosen.similarity)
    curves = [pl.DataFrame(schema=_CURVE)]
    with Progress("tracing curves", total=len(lfs)) as progress:
        for lf, name in enumerate(progress.follow(lfs)):
            column = columns[lf]
            curve = {
                "lf": [name] * len(candidates[lf]),
                "threshold": [_to_user(threshold, metric) for threshold in candidates[lf]],
                "coverage": (originals[lf] + extended[lf]) / max(items.height, 1),
                "valid_coverage": None
                if chosen.tuning_set.is_hidden
                else trace_coverage(judged, column, candidates[lf]),
                "metric": trace_curve(judged, chosen.similarity, column, candidates[lf], counts)
                if len(judged.gold)
                else None,
            }
            curves.append(pl.DataFrame(curve, schema=_CURVE))
    write_csv(root / THRESHOLD_CURVES, pl.concat(curves))
    print(_summarize(found, params, chosen.choice), file=sys.stderr)


def choose(inputs: Inputs, params: TuneParams, read_rows: Callable[[npt.NDArray[np.int64]], Neighbors]) -> Chosen:
    """Return the thresholds that `params` asks for; `read_rows` returns the neighbors of items at ascending positions (r,).

    LFs with identical votes, and with free or the same given thresholds, count as a single LF and get the same threshold.

    Raises
    ------
    ParamsError
        A threshold is given for an LF that does not exist.
    """
    lfs = inputs.lfs
    _require_lfs(params, lfs)
    given = to_similarity(
        np.array([_number(params.thresholds.get(lf, params.default)) for lf in lfs], np.float64), inputs.metric.value
    )
    free = np.array([lf not in params.thresholds for lf in lfs], np.bool_)
    kept, column = _merge_copies(inputs.L, given, free)
    given, free = given[kept], free[kept]
    tuning_set = _gather_tuning_set(inputs, params, read_rows, kept, column)
    judged = tuning_set.judged
    candidates = [propose_thresholds(judged.similarity[:, lf], params.candidates) for lf in range(len(kept))]
    thresholds, choice = given, None
    if tuning_set.may_choose and free.any():
        start = np.where(free, np.inf, given)
        with Progress("choosing thresholds", total=WHOLE) as progress:
            if params.method == TuneMethod.GLOBAL:
                pooled = propose_thresholds(judged.similarity[:, free].ravel(), params.candidates)
                choice = choose_thresholds(judged, fit_global, [pooled] * len(kept), start, free, progress.advance)
            else:
                choice = choose_thresholds(judged, fit_per_lf, candidates, start, free, progress.advance)
        thresholds = choice.thresholds
    found = Thresholds(
        metric=inputs.metric,
        method=tuning_set.method.value,
        objective=f"{params.metric} of the majority vote" if choice else None,
        chosen_on=tuning_set.chosen_on,
        curve_metric=f"{params.metric} of the majority vote on {tuning_set.judged_by}",
        thresholds={lf: _to_user(value, inputs.metric) for lf, value in zip(lfs, thresholds[column], strict=True)},
    )
    return Chosen(thresholds=found, similarity=thresholds, candidates=candidates, tuning_set=tuning_set, choice=choice)


def _merge_copies(L: Votes, given: Float64, free: Bool) -> tuple[Int64, Int64]:
    """Return the LFs that represent themselves and their copies, ascending, and which of these represents each LF, (m,).

    Copies have identical votes, and the same given threshold or none.
    """
    alike = zip(find_originals(L).tolist(), free.tolist(), given.tolist(), strict=True)
    known: dict[tuple[int, bool, float], int] = {}
    first = [known.setdefault(key, lf) for lf, key in enumerate(alike)]
    kept, column = np.unique(first, return_inverse=True)
    return kept.astype(np.int64), column.astype(np.int64)


def _gather_tuning_set(
    inputs: Inputs,
    params: TuneParams,
    read_rows: Callable[[npt.NDArray[np.int64]], Neighbors],
    kept: Int64,
    column: Int64,
) -> TuningSet:
    """Return what judges thresholds: valid gold, or a hidden vote of each item if there is no gold or params say so."""
    m, labels = len(column), inputs.labels
    L = inputs.L if len(kept) == m else inputs.L[:, kept]
    known = np.flatnonzero(labels != ABSTAIN)
    is_hidden = params.method == TuneMethod.AGREEMENT or not len(known)
    hidden = draw_hidden(L) if is_hidden else None
    rows = known if hidden is None else hidden.rows
    nearest_votes = find_nearest_votes(read_rows(rows), m)
    judged = JudgedItems(
        L=L[rows],
        vote=nearest_votes.vote[:, kept],
        similarity=nearest_votes.similarity[:, kept],
        gold=labels[rows],
        weight=np.ones(len(rows)),
        k=inputs.k,
        objective=params.metric.value,
    )
    judged_by = "valid gold"
    if hidden is not None:
        judged, judged_by = hide_votes(judged, hidden.lf), "held-out votes, classes weighing the same"
        # Whoever wrote a default LF believes that its class is the usual one; weighed equally, classes would drown it.
        if len(find_default_lfs(L)):
            judged, judged_by = replace(judged, weight=np.ones(len(rows))), "held-out votes"
    is_given = params.method == TuneMethod.FIXED or (
        is_hidden and params.method != TuneMethod.AGREEMENT and params.default is not None
    )
    return TuningSet(
        method=TuneMethod.AGREEMENT
        if is_hidden and params.method == TuneMethod.PER_LF and not is_given
        else params.method,
        chosen_on=_say_chosen_on(params, is_given, is_hidden, len(rows), len(known)),
        is_hidden=is_hidden,
        judged_by=judged_by,
        may_choose=not is_given and len(rows) > 0,
        judged=judged,
        column=column,
    )


def _say_chosen_on(params: TuneParams, is_given: bool, is_hidden: bool, rows: int, known: int) -> str:
    if params.method == TuneMethod.FIXED:
        return "params"
    if is_given:
        return "default: no valid gold"
    if not is_hidden:
        return f"valid gold ({rows:,} rows)"
    return f"held-out votes ({rows:,} items)" + ("" if known else ", since there is no valid gold")


def _require_lfs(params: TuneParams, lfs: list[str]) -> None:
    for name in params.thresholds:
        if name not in lfs:
            near = difflib.get_close_matches(name, lfs, n=1, cutoff=0)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ParamsError(f"params.yaml: 'tune.thresholds.{name}': no LF of this name votes.{hint}")


def _read_rows(root: Path, items: pl.DataFrame, pairs: NeighborColumnNames, rows: Int64, nearest: Float32) -> Neighbors:
    """Return the similarities of the items at ascending positions `rows`; `nearest` (m, n) is filled with those of all.

    That is the similarity of the vote that each LF's nearest support item has, as in `NearestVotes`.
    """
    needed = [ITEM_ID, *pairs.similarity]
    similarity = np.empty((len(pairs.similarity), len(rows)), np.float32)
    ids = []
    start = 0
    with Progress("reading neighbors", total=items.height) as progress:
        for batch in read_batches(root / NEIGHBORS, schemas.neighbors(needed, items[ITEM_ID].dtype), needed):
            low, high = np.searchsorted(rows, [start, start + batch.height])
            neighbors = to_neighbors(batch, pairs)
            similarity[:, low:high] = neighbors.similarity[:, rows[low:high] - start]
            stop = min(start + batch.height, items.height)
            nearest[:, start:stop] = find_nearest_votes(neighbors, len(nearest)).similarity.T[:, : stop - start]
            ids.append(batch[ITEM_ID])
            start += batch.height
            progress.advance(batch.height)
    require_same_items(root / ITEMS, items, root / NEIGHBORS, pl.concat(ids).to_frame())
    return Neighbors(lf=pairs.lf, label=pairs.label, similarity=similarity)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _to_user(similarity: float, metric: Metric) -> float | None:
    """Return a threshold on similarity in the user's unit: a cosine or a distance, None for "do not extend"."""
    if np.isinf(similarity):
        return None
    return float(similarity if metric == Metric.COSINE else -similarity)


def _summarize(found: Thresholds, params: TuneParams, choice: Choice | None) -> str:
    """Return a line about the choice, for the user."""
    extended = sum(value is not None for value in found.thresholds.values())
    line = f"tune: {found.method}, {found.chosen_on}: {extended} of {len(found.thresholds)} LFs are extended"
    if choice is not None:
        return f"{line}; {found.curve_metric} {choice.before:.3f} before, {choice.after:.3f} after (cross-fitted)."
    if found.chosen_on.startswith("default"):
        return f"{line} (tune.default is {params.default:g})."
    return f"{line}."
