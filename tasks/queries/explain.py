"""explain: why an item has its label: every LF's vote and its source, and the parts of the shipped posterior."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tasks.core.label_models.nearvote import pool_votes
from tasks.core.label_models.parts import Part
from tasks.core.types import ABSTAIN, ITEM_ID, Int64
from tasks.errors import QueryError
from tasks.queries.evidence import Evidence, read_release, read_run, take_apart
from tasks.queries.project_data import ProjectData, ReleaseData, add_raw_columns
from tasks.tables.saved_model import SavedModel
from tasks.tables.schemas import neighbor_column, similarity_column


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why an item has its label.

    item: its raw columns (empty if the project no longer has it). runner_up: the second most probable class. log_odds:
    natural log-odds of the label against the runner-up. gold: its gold class if that takes part, else None.
    votes: a row per LF: lf, vote (null: abstains), from (`itself`, `neighbor`, null), neighbor and similarity (the
    nearest item on which the LF votes, extended or not), threshold, next_vote and next_similarity (the nearest item on
    which it votes for another class), reliability (what its vote counts for in these labels, 0 to 1, by the vote head; the
    `believed` of an LF is another model's estimate of its precision), and the weight that the LF adds to the label and to the
    runner-up in the pool of votes (for_label, for_runner_up; null if neighbors are not known).
    parts: of, source, lf, log_odds, which add up to `log_odds`.
    neighbors: the items that lent a vote, or would be next to lend one, with their labels and raw columns.
    methods: a row per method of the report: method, label (null where classes tie), p_label, p_runner_up.
    lacks: sentences on what is not known, and why.
    """

    item_id: str | int
    release: str | None
    split: str | None
    item: dict[str, Any]
    label: str
    runner_up: str
    gold: str | None
    probabilities: dict[str, float]
    log_odds: float
    votes: pl.DataFrame
    parts: pl.DataFrame
    neighbors: pl.DataFrame
    methods: pl.DataFrame
    lacks: tuple[str, ...]


def explain_item(
    data: ProjectData, item: str | int, *, release: ReleaseData | None = None, withheld_gold: bool = False
) -> Explanation:
    """Return why `item` has the label of the last run, or of `release`.

    Raises
    ------
    QueryError
        There is no such item.
    DataError
        An artifact is missing or damaged, or they are of different runs.
    """
    row = _find_row(data, item) if release is not None else int(data.find_rows([item])[0])
    evidence = read_run(data, np.array([row])) if release is None else read_release(data, release, item, row)
    model, contest = evidence.model, evidence.rank()
    a, b = int(contest.label[0]), int(contest.other[0])
    (taken,) = take_apart(evidence)
    gold = ABSTAIN if row is None else int(data.gold(withheld=withheld_gold)[row])
    votes = _tabulate_votes(evidence, (a, b))
    return Explanation(
        item_id=evidence.ids[0],
        release=None if release is None else release.name,
        split=None if row is None else data.items()["split"][row],
        item={} if row is None else data.items().drop(ITEM_ID, "split").row(row, named=True),
        label=model.classes[a],
        runner_up=model.classes[b],
        gold=None if gold == ABSTAIN else data.classes[gold],
        probabilities=dict(zip(model.classes, evidence.probabilities[0].tolist(), strict=True)),
        log_odds=float(contest.log_odds[0]),
        votes=votes,
        parts=_tabulate_parts(taken.parts),
        neighbors=_find_neighbors(data, votes),
        methods=_tabulate_methods(data, row, (a, b)) if release is None else _NO_METHODS,
        lacks=(*evidence.lacks, *taken.lacks),
    )


def take_apart_items(data: ProjectData, rows: Int64) -> pl.DataFrame:
    """Return the parts of the log-odds of the labels of the items in these `rows`: item_id, label, runner_up, and the
    columns of `Explanation.parts`.

    Raises
    ------
    DataError
        An artifact is missing or damaged, or they are of different runs.
    """
    evidence = read_run(data, rows)
    contest, classes = evidence.rank(), evidence.model.classes
    tables = [
        _tabulate_parts(taken.parts).select(
            pl.lit(item).alias(ITEM_ID),
            pl.lit(classes[a]).alias("label"),
            pl.lit(classes[b]).alias("runner_up"),
            pl.all(),
        )
        for item, a, b, taken in zip(evidence.ids, contest.label, contest.other, take_apart(evidence), strict=True)
    ]
    return pl.concat(tables)


def _tabulate_parts(parts: Sequence[Part]) -> pl.DataFrame:
    return pl.DataFrame(
        [(part.of, part.source, part.lf, part.log_odds + 0.0) for part in parts],
        schema={"of": pl.String, "source": pl.String, "lf": pl.String, "log_odds": pl.Float64},
        orient="row",
    )


_NO_METHODS = pl.DataFrame(
    schema={"method": pl.String, "label": pl.String, "p_label": pl.Float64, "p_runner_up": pl.Float64}
)


def _find_row(data: ProjectData, item: str | int) -> int | None:
    """The row of `item`, None if the project does not have it."""
    try:
        return int(data.find_rows([item])[0])
    except QueryError:
        return None


def _tabulate_votes(evidence: Evidence, classes: tuple[int, int]) -> pl.DataFrame:
    """The table of votes in the explanation of an item."""
    model, columns = evidence.model, evidence.list_columns()
    near = None if evidence.near is None else evidence.near.row(0, named=True)
    lent = {row["lf"]: row for row in evidence.lent.to_dicts()}
    rows = []
    for j, lf in enumerate(model.lfs):
        vote = int(evidence.original[0, j])
        found: list[tuple[float, int, Any]] = []
        if near is not None:
            for c in range(len(model.classes)):
                similarity = near.get(similarity_column(lf, c))
                if similarity is not None:
                    found.append((float(similarity), c, near[neighbor_column(lf, c)]))
        elif lf in lent:
            found.append((lent[lf]["similarity"], lent[lf]["vote"], lent[lf]["neighbor"]))
        found.sort(key=lambda entry: (-entry[0], entry[1]))
        first, second = (found[rank] if len(found) > rank else (None, None, None) for rank in (0, 1))
        said: list[float | None] = [None, None]
        if columns is not None:
            pooled = pool_votes([columns[j]], model.reliability[j : j + 1], model.bandwidth)
            said = [float((pooled.own + pooled.near)[0, c]) for c in classes]
        is_lent = lf in lent
        cast = lent[lf]["vote"] if is_lent else vote
        rows.append(
            {
                "lf": lf,
                "vote": None if cast == ABSTAIN else model.classes[cast],
                "from": "neighbor" if is_lent else None if vote == ABSTAIN else "itself",
                "nearest_vote": _name(model.classes, first[1]),
                "neighbor": lent[lf]["neighbor"] if is_lent else first[2],
                "similarity": lent[lf]["similarity"] if is_lent else first[0],
                "threshold": evidence.thresholds.get(lf),
                "next_vote": _name(model.classes, second[1]),
                "next_similarity": second[0],
                "reliability": _find_reliability(model, j, cast if cast != ABSTAIN else first[1]),
                "for_label": said[0],
                "for_runner_up": said[1],
            }
        )
    id_type = evidence.lent.schema[ITEM_ID]
    text, number = pl.String, pl.Float64
    schema: dict[str, Any] = {
        "lf": text, "vote": text, "from": text, "nearest_vote": text, "neighbor": id_type, "similarity": number,
        "threshold": number, "next_vote": text, "next_similarity": number, "reliability": number,
        "for_label": number, "for_runner_up": number,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


def _name(classes: Sequence[str], position: int | None) -> str | None:
    return None if position is None else classes[position]


def _find_reliability(model: SavedModel, lf: int, position: int | None) -> float | None:
    """The model's estimate of the reliability of the LF's votes for a class, None if it has no such votes."""
    if position is None or np.isnan(model.reliability[lf, position]):
        return None
    return float(model.reliability[lf, position])


def _find_neighbors(data: ProjectData, votes: pl.DataFrame) -> pl.DataFrame:
    """The neighbors in `votes` that the project has, with labels and raw columns; those that lent a vote come first."""
    order = votes.filter(pl.col("neighbor").is_not_null()).sort(
        (pl.col("from") == "neighbor").fill_null(False), "similarity", descending=True, maintain_order=True
    )
    named = order.select(pl.col("neighbor").alias(ITEM_ID)).unique(maintain_order=True)
    known = add_raw_columns(data.items().select(ITEM_ID, "split").with_columns(data.labels()["label"]), data.items())
    if named.schema[ITEM_ID] != known.schema[ITEM_ID]:
        return known[:0]
    return named.join(known, on=ITEM_ID, how="inner", maintain_order="left")


def _tabulate_methods(data: ProjectData, row: int | None, classes: tuple[int, int]) -> pl.DataFrame:
    """The label and probabilities of each method for the item in this `row`."""
    assert row is not None
    rows = []
    for method in data.methods():
        said = data.predict(method)[row]
        top = np.flatnonzero(said >= said.max() - 1e-12)
        label = data.classes[top[0]] if len(top) == 1 else None
        rows.append((method, label, float(said[classes[0]]), float(said[classes[1]])))
    return pl.DataFrame(rows, schema=_NO_METHODS.schema, orient="row")
