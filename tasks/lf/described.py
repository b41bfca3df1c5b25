"""The LF that votes for the class whose description is nearest: its vectors, where each class stops, and whether it helps.

Vectors of descriptions come from the encoder of the items, or from a table. Scores and cuts come from reference items, the
split train; they and the vectors are an artifact, by which rows that come later are voted on alike.

Without gold nobody knows how good the LF is. What is known is how far it agrees with the other LFs above chance, and how far
each of these agrees with the others: where it is not as good a witness as they are on average, it is muted, unless gold shows
that it is right at least as often as they are: LFs that share their errors agree with each other. It is a function
of the embeddings, which the models downstream believe easily, so it speaks only on items on which no other LF does, unless it
is by far the better witness.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.core.description_scores import DescriptionScores, fit_scores
from tasks.core.descriptions import (
    ENOUGH,
    Agreement,
    Evidence,
    Guesses,
    Kind,
    Voter,
    choose_cut,
    compare_neighbors,
    compute_kappa,
    guess,
    measure_agreement,
    vote,
)
from tasks.core.types import ABSTAIN, ITEM_ID, Bool, Float64, Int8, Int64, Votes
from tasks.errors import DataError
from tasks.lf.class_vectors import ClassVectors
from tasks.params import Split
from tasks.progress import Progress
from tasks.tables import schemas
from tasks.tables.embeddings_file import read_blocks, read_vectors
from tasks.tables.label_matrix import join_gold, to_matrix
from tasks.tables.parquet import read_table
from tasks.tables.paths import ITEMS, VALID_GOLD

BETTER = 3.0
"""Times the other LFs' mean agreement above chance from which the LF votes beside them. With half of the votes of agnews and
yelp made random it has 4 and 5 times as much, and voting beside them costs .011 and wins .132 of accuracy on valid; with their
real votes, where it has 1.7 and 2 times as much, it wins .001 and costs .012."""

SAMPLE = 20_000
"""Reference items over which cosines with descriptions are averaged."""

COMPARED = 4000
"""Reference items whose neighbors are compared: each with each."""

DIGITS = 4
"""Of the numbers in the summary, which are not read again."""

ReadVotes = Callable[[], Iterator[pl.DataFrame]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Described:
    """The votes (n,) of the LF, what votes, as a table, and what there is to say of it."""

    votes: Int8
    voter: Voter
    table: pl.DataFrame
    summary: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Others:
    """What other LFs say: has_votes (n,), the share (n,) of an item's votes that are for the guessed class, NaN without
    votes; the distribution (k,) of their votes on reference items; the agreement of each with the others, by LF; and the mean
    share of an item's votes that are its gold, NaN without any.
    """

    has_votes: Bool
    agreement: Float64
    distribution: Float64
    witnesses: Mapping[str, Agreement]
    precision: float

    @property
    def mean(self) -> float:
        """Mean agreement above chance, weighted by items; NaN where none has common items with another."""
        known = [found for found in self.witnesses.values() if not np.isnan(found.kappa)]
        items = sum(found.items for found in known)
        return sum(found.kappa * found.items for found in known) / items if items else float("nan")


def describe(
    root: Path, classes: Sequence[str], name: str, found: ClassVectors, lfs: Sequence[str], read_votes: ReadVotes
) -> Described:
    """Return the LF `name` with the vectors `found`, beside the votes of `lfs`, which `read_votes` reads anew at each call.

    Raises
    ------
    DataError
        Items, embeddings or gold are missing or damaged, or no item is of train.
    """
    k = len(classes)
    items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID, "split"])
    reference = (items["split"] == Split.TRAIN).to_numpy()
    if not reference.any():
        raise DataError(
            "apply.describe: scores and cuts come from the items of train, but no item is of train. Add some."
        )
    gold = join_gold(items, read_table(root / VALID_GOLD, schemas.gold(k)))
    scores = fit_scores(read_vectors(root, items, _draw(reference, SAMPLE)), found.vectors, found.classes)
    guesses = _guess_all(root, items, scores, k)
    others = _read_others(read_votes, lfs, guesses, reference, gold, k)
    evidence = _gather_evidence(root, items, guesses, reference, gold, others, k)
    cuts = [choose_cut(c, guesses.margins[reference & (guesses.classes == c)], evidence) for c in range(k)]
    margins = np.array([cut.margin for cut in cuts])
    whole = vote(guesses, margins, False, others.has_votes)
    own = _agree(whole, others, reference)
    why = "" if _is_shown_right(whole, gold, others.precision) else _judge(own, others.mean)
    is_filling = bool(others.has_votes.any()) and not own.kappa >= BETTER * others.mean
    voter = Voter(
        scores=scores,
        cuts=np.full(k, np.inf) if why else margins,
        is_filling=is_filling,
    )
    votes = vote(guesses, voter.cuts, is_filling, others.has_votes)
    summary = {
        "lf": name,
        "origin": found.origin,
        "notes": list(found.notes),
        "is_muted": bool(why),
        "why": why or _explain(own, others, is_filling),
        "fills": is_filling,
        "agreement": _round(own.kappa),
        "agreement_items": own.items,
        "agreement_of_others": _round(others.mean),
        "agreement_by_lf": {lf: _round(one.kappa) for lf, one in others.witnesses.items()},
        "classes": [
            {
                "class": classes[c],
                "votes": int((votes == c).sum()),
                "share": round(cuts[c].share, DIGITS),
                "cut": _round(cuts[c].margin),
                "evidence": cuts[c].evidence,
                "curve": [_round(value) for value in cuts[c].curve.tolist()],
            }
            for c in np.unique(found.classes).tolist()
        ],
    }
    return Described(votes=votes, voter=voter, table=tabulate(name, classes, found, voter), summary=summary)


def tabulate(name: str, classes: Sequence[str], found: ClassVectors, voter: Voter) -> pl.DataFrame:
    """Return what votes as a table, a row for each description."""
    cuts = voter.cuts[found.classes]
    return pl.DataFrame(
        {
            "lf": pl.Series([name] * len(cuts), dtype=pl.String),
            "class": pl.Series([classes[c] for c in found.classes], dtype=pl.String),
            "text": pl.Series(found.texts, dtype=pl.String),
            "vector": pl.Series(voter.scores.vectors, dtype=pl.Array(pl.Float32, found.vectors.shape[1])),
            "offset": voter.scores.offsets,
            "cut": pl.Series(np.where(np.isinf(cuts), np.nan, cuts)).fill_nan(None),
            "fills": pl.Series([voter.is_filling] * len(cuts), dtype=pl.Boolean),
        }
    )


def _draw(reference: Bool, count: int) -> Int64:
    """Rows of reference items, ascending; at most `count` of them, drawn at random."""
    rows = np.flatnonzero(reference)
    return np.sort(np.random.default_rng(0).choice(rows, count, replace=False)) if len(rows) > count else rows


def _guess_all(root: Path, items: pl.DataFrame, scores: DescriptionScores, k: int) -> Guesses:
    classes, margins = np.empty(items.height, np.int8), np.empty(items.height)
    with Progress("comparing with descriptions", total=items.height) as progress:
        for rows, vectors in read_blocks(root, items):
            part = guess(vectors, scores, k)
            classes[rows], margins[rows] = part.classes, part.margins
            progress.advance(len(vectors))
    return Guesses(classes=classes, margins=margins)


def _read_others(
    read_votes: ReadVotes, lfs: Sequence[str], guesses: Guesses, reference: Bool, gold: Int8, k: int
) -> _Others:
    n, m = len(reference), len(lfs)
    right, judged = 0.0, 0
    has_votes, agreement = np.zeros(n, bool), np.full(n, np.nan)
    distribution, covered = np.zeros(k), 0
    agreed, common, cast = np.zeros(m), np.zeros(m, np.int64), np.zeros((m, k))
    start = 0
    for batch in read_votes() if lfs else ():
        L = to_matrix(batch)
        rows = slice(start, start + len(L))
        start += len(L)
        counts = _count(L, k)
        total = counts.sum(axis=1)
        has_votes[rows] = total > 0
        some = np.flatnonzero(total)
        mine = guesses.classes[rows][some]
        agreement[rows.start + some] = np.where(mine == ABSTAIN, np.nan, counts[some, mine] / total[some])
        known = some[gold[rows][some] != ABSTAIN]
        right += float((counts[known, gold[rows][known]] / total[known]).sum())
        judged += len(known)
        usable = some[reference[rows][some]]
        distribution += (counts[usable] / total[usable, None]).sum(axis=0)
        covered += len(usable)
        item, lf = np.nonzero((L != ABSTAIN) & (reference[rows] & (total > 1))[:, None])
        label = L[item, lf]
        agreed += np.bincount(lf, weights=(counts[item, label] - 1) / (total[item] - 1), minlength=m)
        common += np.bincount(lf, minlength=m)
        cast += np.bincount(lf * k + label, minlength=m * k).reshape(m, k)
    distribution /= max(covered, 1)
    witnesses = {
        name: compute_kappa(agreed[j], int(common[j]), float(cast[j] @ distribution) / max(int(common[j]), 1))
        for j, name in enumerate(lfs)
    }
    return _Others(
        has_votes=has_votes,
        agreement=agreement,
        distribution=distribution,
        witnesses=witnesses,
        precision=right / judged if judged else float("nan"),
    )


def _count(L: Votes, k: int) -> Float64:
    """How many LFs vote for each class, (n, k)."""
    item, lf = np.nonzero(L != ABSTAIN)
    counts: Float64 = np.bincount(item * k + L[item, lf], minlength=len(L) * k).reshape(len(L), k).astype(np.float64)
    return counts


def _gather_evidence(
    root: Path,
    items: pl.DataFrame,
    guesses: Guesses,
    reference: Bool,
    gold: Int8,
    others: _Others,
    k: int,
) -> list[Evidence]:
    """What can say how far down a class may vote, best first."""
    evidence = []
    known = gold != ABSTAIN
    if known.sum() >= ENOUGH:
        chance = np.bincount(gold[known], minlength=k) / known.sum()
        evidence.append(_choose("gold", guesses, known, (gold == guesses.classes).astype(np.float64), chance))
    voted = reference & ~np.isnan(others.agreement)
    if voted.any():
        evidence.append(_choose("votes", guesses, voted, others.agreement, others.distribution))
    rows = _draw(reference, COMPARED)
    part = Guesses(classes=guesses.classes[rows], margins=guesses.margins[rows])
    evidence.append(compare_neighbors(read_vectors(root, items, rows), part, k))
    return evidence


def _choose(kind: Kind, guesses: Guesses, rows: Bool, agreement: Float64, chance: Float64) -> Evidence:
    return Evidence(
        kind=kind,
        classes=guesses.classes[rows],
        margins=guesses.margins[rows],
        agreement=agreement[rows],
        chance=chance,
    )


def _agree(votes: Int8, others: _Others, reference: Bool) -> Agreement:
    """How far `votes` (n,) agree with those of other LFs on reference items."""
    common = reference & (votes != ABSTAIN) & ~np.isnan(others.agreement)
    return measure_agreement(others.agreement[common], votes[common], others.distribution)


def _is_shown_right(votes: Int8, gold: Int8, precision: float) -> bool:
    """Whether gold shows that `votes` are right at least as often as the votes of others, whose `precision` it gives."""
    known = (votes != ABSTAIN) & (gold != ABSTAIN)
    right = float((votes == gold)[known].mean()) if known.sum() >= ENOUGH else float("nan")
    return right - float(np.sqrt(right * (1 - right) / max(known.sum(), 1))) >= precision


def _judge(own: Agreement, mean: float) -> str:
    """Why the LF is muted; empty where it is not."""
    if np.isnan(own.kappa) or np.isnan(mean) or own.kappa - own.error >= mean:
        return ""
    return (
        f"muted: on {own.items:,} items its agreement with other LFs, {own.kappa:.2f} above chance, is not clearly as good as "
        f"theirs with each other ({mean:.2f})"
    )


def _explain(own: Agreement, others: _Others, is_filling: bool) -> str:
    if not others.has_votes.any():
        return "is alone: no other labeling function votes, so that nothing but gold judges it"
    where = "votes where no other LF does" if is_filling else "votes beside other LFs"
    if _judge(own, others.mean):
        return (
            f"{where}: gold shows that it is right at least as often as other LFs ({others.precision:.2f}), though it agrees less "
            f"with them ({own.kappa:.2f} above chance) than they do with each other ({others.mean:.2f})"
        )
    if np.isnan(own.kappa) or np.isnan(others.mean):
        return f"{where}; too few common votes to judge it by"
    return (
        f"{where}: on {own.items:,} items its agreement with other LFs, {own.kappa:.2f} above chance, is as good as theirs with "
        f"each other ({others.mean:.2f})"
    )


def _round(value: float) -> float | None:
    return round(float(value), DIGITS) if np.isfinite(value) else None


def report(summary: Mapping[str, Any]) -> None:
    """Print what there is to say of the LF on standard error."""
    for note in summary["notes"]:
        print(f"apply: {summary['lf']}: {note}", file=sys.stderr)
    shares = ", ".join(f"{row['class']} {row['share']:.0%} by {row['evidence']}" for row in summary["classes"])
    print(f"apply: {summary['lf']} {summary['why']}. Of the items nearest to it: {shares}.", file=sys.stderr)
