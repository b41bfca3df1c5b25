"""The tune stage: how near a neighbor must be for its vote to be taken, by LF, with the reasons and the curves."""

import difflib
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks import schemas
from tasks.artifacts import (
    ITEMS,
    NEIGHBORS,
    THRESHOLD_CURVES,
    THRESHOLDS,
    VALID_GOLD,
    VOTES,
    read_batches,
    read_table,
    read_votes,
    require_same_items,
    write_csv,
    write_json,
)
from tasks.core.extension import Neighbors, find_offers, to_similarity
from tasks.core.thresholds import (
    Choice,
    Evidence,
    choose_thresholds,
    count_above,
    fit_global,
    fit_per_lf,
    propose_thresholds,
    trace_coverage,
    trace_curve,
)
from tasks.errors import ParamsError
from tasks.extension_tables import PairColumns, Thresholds, find_pair_columns, to_matrix, to_neighbors
from tasks.index_description import read_description
from tasks.params import Metric, TuneMethod, TuneParams
from tasks.progress import Progress
from tasks.schemas import ITEM_ID

Float64 = npt.NDArray[np.float64]

_CURVE = {
    "lf": pl.String,
    "threshold": pl.Float64,
    "coverage": pl.Float64,
    "valid_coverage": pl.Float64,
    "metric": pl.Float64,
}
"""Columns of threshold_curves.csv: a threshold (null: do not extend), the share of all items on which the LF then has
a vote, the same for items with valid gold, and the metric on these while every other LF has its chosen threshold."""


def run(root: Path, classes: tuple[str, ...], params: TuneParams) -> None:
    """Choose the thresholds of the LFs below `root`; gold of split valid is all the gold that is read.

    Raises
    ------
    ParamsError
        A threshold is given for an LF that does not exist.
    DataError
        A table is missing or damaged, or the tables are about different items or LFs.
    """
    votes = read_votes(root / VOTES, len(classes))
    lfs = [name for name in votes.columns if name != ITEM_ID]
    _require_lfs(params, lfs)
    items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID])
    require_same_items(root / ITEMS, items, root / VOTES, votes)
    gold = read_table(root / VALID_GOLD, schemas.gold(len(classes)))
    labels = items.join(gold, on=ITEM_ID, how="left", maintain_order="left")["gold"].fill_null(schemas.ABSTAIN)
    known = np.flatnonzero(labels.to_numpy() != schemas.ABSTAIN)
    # Without gold there is nothing to choose by, but the curves of coverage still need a range: that of all items.
    rows = known if len(known) else np.arange(items.height)
    metric = read_description(root).metric
    pairs = find_pair_columns(root / NEIGHBORS, lfs)
    L = to_matrix(votes)
    offers = find_offers(_read_rows(root, items, pairs, rows), len(lfs))
    evidence = Evidence(
        L=L[rows],
        vote=offers.vote,
        similarity=offers.similarity,
        gold=labels.to_numpy()[rows],
        k=len(classes),
        objective=params.metric.value,
    )
    candidates = [propose_thresholds(offers.similarity[:, lf], params.candidates) for lf in range(len(lfs))]
    given = to_similarity(
        np.array([_number(params.thresholds.get(lf, params.default)) for lf in lfs], np.float64), metric.value
    )
    free = np.array([lf not in params.thresholds for lf in lfs], np.bool_)
    thresholds, choice = given, None
    if params.method != TuneMethod.FIXED and len(known) and free.any():
        start = np.where(free, np.inf, given)
        if params.method == TuneMethod.PER_LF:
            choice = choose_thresholds(evidence, fit_per_lf, candidates, start, free)
        else:
            pooled = propose_thresholds(offers.similarity[:, free].ravel(), params.candidates)
            choice = choose_thresholds(evidence, fit_global, [pooled] * len(lfs), start, free)
        thresholds = choice.thresholds
    found = Thresholds(
        metric=metric,
        method=params.method.value,
        objective=f"{params.metric} of the majority vote" if choice else None,
        chosen_on=_say_chosen_on(params, len(known)),
        thresholds={lf: _to_user(value, metric) for lf, value in zip(lfs, thresholds, strict=True)},
    )
    write_json(root / THRESHOLDS, found.model_dump(mode="json"))
    originals = (L != schemas.ABSTAIN).sum(axis=0)
    extended = _count_extended(root, items, pairs, candidates)
    curves = [pl.DataFrame(schema=_CURVE)]
    for lf, name in enumerate(lfs):
        columns = {
            "lf": [name] * len(candidates[lf]),
            "threshold": [_to_user(one, metric) for one in candidates[lf]],
            "coverage": (originals[lf] + extended[lf]) / max(items.height, 1),
            "valid_coverage": trace_coverage(evidence, lf, candidates[lf]) if len(known) else None,
            "metric": trace_curve(evidence, thresholds, lf, candidates[lf]) if len(known) else None,
        }
        curves.append(pl.DataFrame(columns, schema=_CURVE))
    write_csv(root / THRESHOLD_CURVES, pl.concat(curves))
    print(_summarize(found, params, choice), file=sys.stderr)


def _require_lfs(params: TuneParams, lfs: list[str]) -> None:
    for name in params.thresholds:
        if name not in lfs:
            near = difflib.get_close_matches(name, lfs, n=1, cutoff=0)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ParamsError(f"params.yaml: 'tune.thresholds.{name}': no LF of this name votes.{hint}")


def _read_rows(root: Path, items: pl.DataFrame, pairs: PairColumns, rows: npt.NDArray[np.int64]) -> Neighbors:
    """The similarities of the items at positions `rows`, ascending; other rows are read and let go."""
    needed = [ITEM_ID, *pairs.similarity]
    similarity = np.empty((len(pairs.similarity), len(rows)), np.float32)
    ids = []
    start = 0
    with Progress("reading neighbors", total=items.height) as progress:
        for batch in read_batches(root / NEIGHBORS, schemas.neighbors(needed, items[ITEM_ID].dtype), needed):
            low, high = np.searchsorted(rows, [start, start + batch.height])
            part = batch[rows[low:high] - start]
            similarity[:, low:high] = to_neighbors(part, pairs).similarity
            ids.append(batch[ITEM_ID])
            start += batch.height
            progress.advance(batch.height)
    require_same_items(root / ITEMS, items, root / NEIGHBORS, pl.concat(ids).to_frame())
    return Neighbors(lf=pairs.lf, label=pairs.label, similarity=similarity)


def _count_extended(
    root: Path, items: pl.DataFrame, pairs: PairColumns, candidates: list[Float64]
) -> list[npt.NDArray[np.int64]]:
    """By LF, how many of all items each candidate extends it to."""
    needed = [ITEM_ID, *pairs.similarity]
    counts = [np.zeros(len(one), np.int64) for one in candidates]
    with Progress("measuring coverage", total=items.height) as progress:
        for batch in read_batches(root / NEIGHBORS, schemas.neighbors(needed, items[ITEM_ID].dtype), needed):
            similarity = find_offers(to_neighbors(batch, pairs), len(candidates)).similarity
            for lf, one in enumerate(candidates):
                counts[lf] += count_above(similarity[:, lf], one)
            progress.advance(batch.height)
    return counts


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _to_user(similarity: float, metric: Metric) -> float | None:
    """A threshold on similarity as users know it: a cosine or a distance, None for "do not extend"."""
    if np.isinf(similarity):
        return None
    return float(similarity if metric == Metric.COSINE else -similarity)


def _say_chosen_on(params: TuneParams, known: int) -> str:
    if params.method == TuneMethod.FIXED:
        return "params"
    return f"valid gold ({known} rows)" if known else "default: no valid gold"


def _summarize(found: Thresholds, params: TuneParams, choice: Choice | None) -> str:
    """What a person wants to know about the choice, in one line."""
    extended = sum(value is not None for value in found.thresholds.values())
    line = f"tune: {params.method}, {found.chosen_on}: {extended} of {len(found.thresholds)} LFs are extended"
    if choice is not None:
        return f"{line}; {found.objective} {choice.before:.3f} before, {choice.after:.3f} after (cross-fitted)."
    if found.chosen_on.startswith("default"):
        default = "do not extend" if params.default is None else f"{params.default:g}"
        return f"{line}. Without gold no threshold can be chosen; tune.default ({default}) is used."
    return f"{line}."
