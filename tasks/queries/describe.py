"""describe: what a sentence for a class would do that stands in no params yet."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from pydantic import ValidationError

from tasks.core.descriptions import guess
from tasks.core.types import ITEM_ID, Int64
from tasks.errors import QueryError
from tasks.lf.class_vectors import find_class_vectors, put_class
from tasks.lf.described import describe
from tasks.params import DescribeParams
from tasks.queries.project_data import ProjectData, add_raw_columns, find_name, to_names
from tasks.tables import schemas
from tasks.tables.muted import mute, read_muted
from tasks.tables.parquet import read_votes
from tasks.tables.paths import ITEMS, VOTES

SHOWN = 10
"""Items nearest to the sentence, and at the cut."""


@dataclass(frozen=True, kw_only=True)
class TriedSentence:
    """What the description LF would vote with the sentence: on how many items for the class, out of how many; why it votes
    where it does; the items it is surest of, those just above the cut, and those whose vote would be another than in the last
    run (item_id, margin, vote, before, raw columns).

    agreement: by tenth of the items for which the class is best, those with the widest margin first, how far `evidence` (gold,
    votes of other LFs, or near items) agrees, None where nothing is known. share: of these items, where it stops voting.
    """

    label: str
    votes: int
    of: int
    why: str
    share: float
    evidence: str
    agreement: tuple[float | None, ...]
    notes: tuple[str, ...]
    nearest: pl.DataFrame
    at_cut: pl.DataFrame
    changed: pl.DataFrame


def try_sentence(data: ProjectData, label: str, sentence: str) -> TriedSentence:
    """Return what `sentence` would do as what class `label` means, beside the other descriptions in params.

    Raises
    ------
    EpoxyError
        There is no such class, or artifacts or the encoder are missing or damaged.
    """
    classes = data.classes
    find_name(label, list(classes), "class")
    known = data.params().apply.describe
    texts = {name: found for name, found in ((known.classes if known else None) or {}).items() if name != label}
    given = {"encoder": known.encoder, "column": known.column, "name": known.name} if known else {}
    try:
        params = DescribeParams.model_validate({**given, "classes": {**texts, label: (sentence,)}})
    except ValidationError as error:
        said = (mistake["msg"].removeprefix("Value error, ") for mistake in error.errors())
        raise QueryError("; ".join(said)) from None
    table = read_votes(data.root / VOTES, len(classes))
    before = table[params.name].to_numpy() if params.name in table.columns else np.full(table.height, -1, np.int8)
    others = mute(table.drop(params.name, strict=False), read_muted(data.root))
    vectors = find_class_vectors(data.root, classes, params)
    if known and known.vectors:
        vectors = put_class(find_class_vectors(data.root, classes, known), vectors)
    c = classes.index(label)
    if c not in vectors.classes:
        raise QueryError(
            f"{sentence[:40]!r} would have no say: {'; '.join(vectors.notes)}. Use words that the items have."
        )
    found = describe(data.root, classes, params.name, vectors, others.columns[1:], lambda: iter([others]))
    everything = data.embeddings_of(np.arange(table.height))
    guessed = guess(everything, found.voter.scores, len(classes))
    order = np.argsort(-guessed.margins, kind="stable")
    chosen = order[guessed.classes[order] == c]
    voting = chosen[found.votes[chosen] == c]

    def show(rows: Int64) -> pl.DataFrame:
        items = data.gather(ITEMS, schemas.ITEMS, np.sort(rows))
        columns = [
            pl.Series("margin", guessed.margins[np.sort(rows)].round(4)),
            to_names(found.votes[np.sort(rows)], classes).alias("vote"),
            to_names(before[np.sort(rows)], classes).alias("before"),
        ]
        shown = add_raw_columns(items.select(ITEM_ID, "split").with_columns(columns), items)
        return shown.sort("margin", descending=True, maintain_order=True)

    row = next(row for row in found.summary["classes"] if row["class"] == label)
    return TriedSentence(
        label=label,
        votes=len(voting),
        of=table.height,
        why=str(found.summary["why"]),
        share=row["share"],
        evidence=row["evidence"],
        agreement=tuple(row["curve"]),
        notes=vectors.notes,
        nearest=show(chosen[:SHOWN]),
        at_cut=show(voting[-SHOWN:]),
        changed=show(np.flatnonzero(found.votes != before)),
    )
