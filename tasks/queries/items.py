"""items: a page of the items that fit a question, with labels, probabilities and votes.

A question is a set of conditions, all of which must hold. Gold of valid takes part; gold of train and test only if the
question asks for it (`withheld_gold`), and the answer says which gold took part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.extension import find_abstaining_entries, find_abstaining_rows, to_similarity
from tasks.core.ties import find_top
from tasks.core.types import ABSTAIN, ITEM_ID, Bool, Float32, Float64, Int64, Votes
from tasks.errors import QueryError
from tasks.params import Scope, Split
from tasks.params_file import FILE as PARAMS
from tasks.queries.project_data import (
    SHIPPED,
    LFVotes,
    ProjectData,
    add_raw_columns,
    find_name,
    require_not_negative,
    to_names,
)
from tasks.queries.text_search import search_texts
from tasks.tables.label_matrix import encode_split, read_all_gold
from tasks.tables.paths import (
    END_MODEL_PREDICTIONS,
    EXTENDED_VOTES,
    ITEMS,
    LABEL_MODEL_PREDICTIONS,
    MUTED,
    NEIGHBORS,
    SHIPPED_LABELS,
    THRESHOLDS,
    VALID_GOLD,
    VOTES,
    WITHHELD_GOLD,
)
from tasks.tables.schemas import probability_column

VoteSource = Literal["either", "original", "extended"]
Covered = Literal["labeling functions", "extension only", "nothing"]

MEASURES = ("confidence", "margin", "threshold_gap", "original_votes", "extended_votes")
"""Computed columns, by which items can be ordered like by any other."""


@dataclass(frozen=True, kw_only=True)
class VoteFilter:
    """Items on which `lf` votes for class `vote` (None: any), itself (`original`), by extension (`extended`), or either."""

    lf: str
    vote: str | None = None
    source: VoteSource = "either"


@dataclass(frozen=True, kw_only=True)
class ItemQuery:
    """A question for items. Fields that are empty or None set no condition.

    ids: item ids, as text or numbers. splits, labels (shipped), gold (classes): any of these. has_gold: whether gold is
    known. certified: whether the label may be used unseen. right: whether `method` (of the report, or `shipped`) gives the gold class; a tie is not right. votes: all of
    these votes. wrong_lf: an LF whose vote, original or extended, is not the gold class. conflict: two LFs that vote for
    different classes. covered: what covers the item. near_threshold: the largest gap between the nearest vote of any LF
    (or of `near_threshold_lf`) and its threshold, in similarity or distance. flipped: the label differs from that in the
    labels to compare with. text: a part of some text column, in upper or lower case.
    order: a column of the answer, with `-` before it for descending order; `uncertain` is `margin`. By id otherwise.
    withheld_gold: gold of test and train also takes part in `gold`, `has_gold`, `right` and `wrong_lf`.
    """

    ids: tuple[str | int, ...] = ()
    splits: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()
    has_gold: bool | None = None
    certified: bool | None = None
    right: bool | None = None
    method: str = SHIPPED
    votes: tuple[VoteFilter, ...] = ()
    wrong_lf: str | None = None
    conflict: tuple[str, str] | None = None
    covered: Covered | None = None
    near_threshold: float | None = None
    near_threshold_lf: str | None = None
    flipped: bool = False
    text: str | None = None
    order: str | None = None
    limit: int = 50
    offset: int = 0
    withheld_gold: bool = False


@dataclass(frozen=True, kw_only=True)
class ItemPage:
    """A page of the answer.

    rows: item_id, split, label, p_<class>, confidence (the label's probability), margin (to the next class), gold and
    right (by the method asked about; null without gold), original_votes, extended_votes, votes (lf, vote, is_extended),
    threshold_gap if asked for, label_before if there are labels to compare with, and every raw column.
    total: the number of items that fit. items: the number of all items. gold: a sentence on which gold took part.
    """

    rows: pl.DataFrame
    total: int
    items: int
    gold: str


def find_items(data: ProjectData, query: ItemQuery, *, before: pl.DataFrame | None = None) -> ItemPage:
    """Return the page of items that `query` asks for; `before`: labels (item_id, label) to compare with.

    Raises
    ------
    QueryError
        The question names an unknown class, LF, method, column or item.
    DataError
        An artifact is missing or damaged, or they are of different runs.
    """
    require_not_negative(limit=query.limit, offset=query.offset)
    if query.near_threshold is None and query.near_threshold_lf is not None:
        raise QueryError(f"threshold of {query.near_threshold_lf!r}: say how near, too.")
    if query.near_threshold is not None and not query.near_threshold >= 0:
        raise QueryError(f"near_threshold {query.near_threshold:g}: expected a gap of 0 or more.")
    keep = np.ones(data.items().height, dtype=np.bool_)
    for condition in _list_conditions(data, query, before):
        keep &= condition
    rows = np.flatnonzero(keep)
    page = _order(data, query, before, rows)[query.offset : query.offset + query.limit]
    return ItemPage(
        rows=tabulate_items(data, page, query=query, before=before),
        total=len(rows),
        items=len(keep),
        gold=describe_gold(data, withheld=query.withheld_gold),
    )


def tabulate_items(
    data: ProjectData,
    rows: Int64,
    *,
    query: ItemQuery | None = None,
    before: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the columns of `ItemPage.rows` for the items in these `rows` (r,), in their order."""
    query = query or ItemQuery()
    items, classes, votes = data.items(), data.classes, data.votes()
    gold = data.gold(withheld=query.withheld_gold)[rows]
    measures = measure_items(data)[rows]
    probabilities = data.probabilities()[rows]
    columns = [
        data.labels()["label"].gather(rows),
        *(pl.Series(probability_column(name), probabilities[:, c]) for c, name in enumerate(classes)),
        *measures.get_columns(),
        to_names(gold, classes).alias("gold"),
        pl.Series("right", pick_sure(data.predict(query.method)[rows]) == gold).set(pl.Series(gold == ABSTAIN), None),
        _list_votes(votes, rows, classes),
    ]
    if query.near_threshold is not None or _column_of(query.order) == "threshold_gap":
        columns.append(pl.Series("threshold_gap", _find_gap(data, query)[rows]).fill_nan(None))
    if before is not None:
        columns.append(_find_before(data, before).gather(rows).alias("label_before"))
    page = items[rows]
    return add_raw_columns(page.select(ITEM_ID, "split").with_columns(columns), page)


def describe_gold(data: ProjectData, *, withheld: bool) -> str:
    """Return a sentence on which gold takes part in an answer."""

    def describe() -> str:
        if not withheld:
            known = np.count_nonzero(data.gold() != ABSTAIN)
            return f"gold of valid {known:,} items; none of test or train" if known else "no gold of valid"
        found = read_all_gold(data.root, data.splits(), len(data.classes))
        used = found.splits[found.classes != ABSTAIN]
        counts = [f"{split} {count:,}" for split in Split if (count := np.count_nonzero(used == encode_split(split)))]
        return f"gold of {', '.join(counts)} items, as asked" if counts else "no gold at all"

    return data.recall(("gold described", withheld), [PARAMS, ITEMS, VALID_GOLD, WITHHELD_GOLD], describe)


def measure_items(data: ProjectData) -> pl.DataFrame:
    """Return confidence, margin, original_votes and extended_votes of every item."""

    def measure() -> pl.DataFrame:
        P, label, votes = data.probabilities(), data.label_positions(), data.votes()
        confidence = P[np.arange(len(P)), label]
        others = P.copy()
        others[np.arange(len(P)), label] = -1.0
        original = votes.original != ABSTAIN
        counts = np.count_nonzero(original, axis=1)
        return pl.DataFrame(
            {
                "confidence": confidence,
                "margin": confidence - others.max(axis=1),
                "original_votes": counts.astype(np.int32),
                "extended_votes": (np.count_nonzero(votes.extended != ABSTAIN, axis=1) - counts).astype(np.int32),
            }
        )

    return data.recall("measures", [ITEMS, SHIPPED_LABELS, VOTES, MUTED, EXTENDED_VOTES], measure)


def pick_sure(probabilities: Float64) -> Votes:
    """Return the most probable class (n,) int8 of each row, -1 where classes tie.

    >>> pick_sure(np.array([[0.7, 0.3], [0.5, 0.5]])).tolist()
    [0, -1]
    """
    top = find_top(probabilities)
    return np.where(top.sum(axis=1) == 1, probabilities.argmax(axis=1), ABSTAIN).astype(np.int8)


def find_margins(data: ProjectData) -> Float32:
    """Return how far each LF's nearest vote is above its threshold, (n, m) float32, in similarity.

    A negative value means that the vote is not extended. NaN where the LF votes itself, has no nearest vote or is not
    extended, and where the item is outside the scope of extension. For L2 the unit is distance; positive is nearer.
    """

    def measure() -> Float32:
        nearest, votes, found = data.nearest_votes(), data.votes(), data.thresholds()
        given = np.array([np.nan if value is None else value for value in found.thresholds.values()], np.float64)
        oriented = to_similarity(given, found.metric.value)
        scope = find_abstaining_rows if data.params().extend.scope is Scope.ROWS else find_abstaining_entries
        gap = (nearest.similarity - np.where(np.isinf(oriented), np.nan, oriented)).astype(np.float32)
        gap[~scope(votes.original)] = np.nan
        return gap

    return data.recall("margins", [PARAMS, ITEMS, VOTES, MUTED, NEIGHBORS, THRESHOLDS], measure)


def _list_conditions(data: ProjectData, query: ItemQuery, before: pl.DataFrame | None) -> Iterator[Bool]:
    """The conditions of `query`, (n,) each."""
    items, classes, n = data.items(), data.classes, data.items().height
    if query.ids:
        named = np.zeros(n, dtype=np.bool_)
        named[data.find_rows(query.ids)] = True
        yield named
    if query.splits:
        splits = [find_name(split, list(Split), "split") for split in query.splits]
        yield items["split"].is_in(splits).to_numpy()
    if query.labels:
        yield np.isin(data.label_positions(), _find_classes(query.labels, classes))
    gold = data.gold(withheld=query.withheld_gold)
    if query.gold:
        yield np.isin(gold, _find_classes(query.gold, classes))
    if query.has_gold is not None:
        yield (gold != ABSTAIN) == query.has_gold
    if query.certified is not None:
        yield data.certified() == query.certified
    if query.right is not None:
        yield (gold != ABSTAIN) & ((_pick_all(data, query.method) == gold) == query.right)
    yield from _list_vote_conditions(data.votes(), query, gold, classes)
    if query.near_threshold is not None:
        with np.errstate(invalid="ignore"):
            yield _find_gap(data, query) <= query.near_threshold
    if query.flipped:
        if before is None:
            raise QueryError("flipped: nothing to compare with. Name a release.")
        yield (_find_before(data, before) != data.labels()["label"]).fill_null(False).to_numpy()
    if query.text is not None:
        yield search_texts(items, query.text)


def _list_vote_conditions(votes: LFVotes, query: ItemQuery, gold: Votes, classes: Sequence[str]) -> Iterator[Bool]:
    for wanted in query.votes:
        column = votes.find_lf(wanted.lf)
        original, extended = votes.original[:, column], votes.extended[:, column]
        if wanted.lf in votes.muted:  # what it said is of interest, though it does not count
            original = extended = votes.cast[:, column]
        sources = {
            "either": extended,
            "original": original,
            "extended": np.where(original == ABSTAIN, extended, ABSTAIN),
        }
        cast = sources[find_name(wanted.source, list(sources), "source of votes")]
        yield cast != ABSTAIN if wanted.vote is None else cast == _find_classes([wanted.vote], classes)[0]
    if query.wrong_lf is not None:
        cast = votes.extended[:, votes.find_lf(query.wrong_lf)]
        yield (cast != ABSTAIN) & (gold != ABSTAIN) & (cast != gold)
    if query.conflict is not None:
        one, other = (votes.extended[:, votes.find_lf(lf)] for lf in query.conflict)
        yield (one != ABSTAIN) & (other != ABSTAIN) & (one != other)
    if query.covered is not None:
        by_functions, at_all = (L.max(axis=1, initial=ABSTAIN) != ABSTAIN for L in (votes.original, votes.extended))
        kinds = {
            "labeling functions": by_functions,
            "extension only": at_all & ~by_functions,
            "nothing": ~at_all,
        }
        yield kinds[find_name(query.covered, list(kinds), "way to be covered")]


def _find_classes(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    return [classes.index(find_name(name, classes, "class")) for name in names]


def _pick_all(data: ProjectData, method: str) -> Votes:
    """The class that `method` gives every item, -1 where classes tie."""
    paths = [ITEMS, SHIPPED_LABELS, LABEL_MODEL_PREDICTIONS, END_MODEL_PREDICTIONS]
    return data.recall(("picked", method), paths, lambda: pick_sure(data.predict(method)))


def _find_gap(data: ProjectData, query: ItemQuery) -> Float32:
    """The gap between each item and the nearest threshold, of any LF or the LF asked about, (n,) float32; NaN if none."""
    lf = query.near_threshold_lf
    margins = find_margins(data)
    if lf is not None:
        return np.abs(margins[:, data.votes().find_lf(lf)])

    def measure() -> Float32:
        nearest: Float32 = np.fmin.reduce(np.abs(margins), axis=1, initial=np.float32(np.nan))
        return nearest

    return data.recall("threshold gap", [PARAMS, ITEMS, VOTES, MUTED, NEIGHBORS, THRESHOLDS], measure)


def _find_before(data: ProjectData, before: pl.DataFrame) -> pl.Series:
    """The label of each item in `before`, null for items that were not there."""
    ids = data.ids()
    if before.schema[ITEM_ID] != ids.dtype:
        return pl.Series("label", [None] * len(ids), dtype=pl.String)
    joined = ids.to_frame().join(before.select(ITEM_ID, "label"), on=ITEM_ID, how="left", maintain_order="left")
    return joined["label"]


def _column_of(order: str | None) -> str | None:
    """The column that `order` names."""
    name = (order or "").removeprefix("-")
    return {"": None, "uncertain": "margin"}.get(name, name)


_SELECTED = 10_000
"""Up to this many items, a page is found by selection, which is faster than a full sort; later pages are sorted."""


def _order(data: ProjectData, query: ItemQuery, before: pl.DataFrame | None, rows: Int64) -> Int64:
    """The `rows` in the order asked for, up to the end of the page; ties keep their order, and nulls come last."""
    name = _column_of(query.order)
    if name is None:
        return rows
    key = _find_key(data, query, before, name)
    if key.dtype.is_nested():
        raise QueryError(f"items cannot be ordered by {name!r}, a column of {key.dtype}.")
    table = pl.DataFrame({"key": key.gather(rows), "row": rows})
    descending = (query.order or "").startswith("-")
    last = query.offset + query.limit
    if last < _SELECTED:
        # Selecting the first few is several times as fast as sorting a million texts.
        pick = table.top_k if descending else table.bottom_k
        table = pick(last, by=["key", "row"], reverse=[False, descending])
    return table.sort(["key", "row"], descending=[descending, False], nulls_last=True)["row"].to_numpy()


def _find_key(data: ProjectData, query: ItemQuery, before: pl.DataFrame | None, name: str) -> pl.Series:
    """The values (n,) of column `name` of the answer."""
    measures, items, labels, votes = measure_items(data), data.items(), data.labels(), data.votes()
    if name in measures.columns:
        return measures[name]
    if name == "threshold_gap":
        return pl.Series(_find_gap(data, query)).fill_nan(None)
    if name == "gold":
        return to_names(data.gold(withheld=query.withheld_gold), data.classes)
    if name == "right":
        gold = data.gold(withheld=query.withheld_gold)
        return pl.Series(_pick_all(data, query.method) == gold).set(pl.Series(gold == ABSTAIN), None)
    if name == "label_before" and before is not None:
        return _find_before(data, before)
    if name in labels.columns:
        return labels[name]
    if name in items.columns:
        return items[name]
    if name in votes.lfs:
        return to_names(votes.extended[:, votes.find_lf(name)], data.classes)
    known = [*items.columns, *labels.columns, *MEASURES, "gold", "right", "uncertain", *votes.lfs]
    raise QueryError(f"no column {name!r} to order by. There are: {', '.join(dict.fromkeys(known))}.")


def _list_votes(votes: LFVotes, rows: npt.NDArray[np.int64], classes: Sequence[str]) -> pl.Series:
    """The votes on each of these items, a list of lf, vote and is_extended in the order of LFs."""
    original, extended = votes.original[rows], votes.extended[rows]
    cast = [
        [
            {"lf": votes.lfs[j], "vote": classes[extended[row, j]], "is_extended": bool(original[row, j] == ABSTAIN)}
            for j in np.flatnonzero(extended[row] != ABSTAIN)
        ]
        for row in range(len(rows))
    ]
    kind = pl.List(pl.Struct({"lf": pl.String, "vote": pl.String, "is_extended": pl.Boolean}))
    return pl.Series("votes", cast, dtype=kind)
