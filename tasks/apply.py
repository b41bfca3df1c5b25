"""apply: run the labeling functions on every item, or read a table of votes; write votes and a summary per LF.

What is asked, and what memory that takes, is in tasks.lf.ask_all. With `describe` one more LF votes for the class whose
description is nearest (see tasks.lf.described); its memory, 20 n bytes and some blocks of embeddings, is needed after that of
the others was given back.
"""

import faulthandler
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from tasks.compute.read_ahead import read_ahead
from tasks.core import lf_analysis
from tasks.core.types import ITEM_ID, Int8
from tasks.errors import LabelingFunctionError
from tasks.lf.ask_all import ask_all
from tasks.lf.class_vectors import find_class_vectors
from tasks.lf.described import Described, describe, report
from tasks.lf.loading import load_module, project_lfs
from tasks.lf.vote_file import VoteFile, make_no_failures
from tasks.lf.vote_table import read_vote_table
from tasks.params import ApplyParams, DescribeParams
from tasks.progress import WARNING, Progress
from tasks.tables import schemas
from tasks.tables.files import write_csv
from tasks.tables.label_matrix import join_gold, to_matrix
from tasks.tables.muted import mute, write_muted
from tasks.tables.parquet import (
    ROW_GROUP,
    read_table,
    write_batches,
    write_table,
)
from tasks.tables.paths import (
    ITEMS,
    LF_FAILURES,
    LF_SUMMARY,
    VALID_GOLD,
    VOTES,
)
from tasks.tables.saved_descriptions import write_descriptions, write_no_descriptions

_SHOWN = 5
"""Most names of labeling functions in a warning."""


def run(root: Path, classes: tuple[str, ...], params: ApplyParams) -> None:
    """Write votes, LF summary and LF failures of the project at `root`.

    Raises
    ------
    LabelingFunctionError
        An LF cannot be loaded, fails, or fails more often than its error budget allows.
    DataError
        Items are missing or damaged, or a table of votes does not fit them.
    """
    summary = LFSummary(read_table(root / VALID_GOLD, schemas.gold(len(classes))), classes)
    write = _write_computed_votes if Path(params.source).suffix == ".py" else _write_given_votes
    failures = write(root, classes, params, summary)
    table = summary.tabulate()
    write_csv(root / LF_SUMMARY, table)
    write_table(root / LF_FAILURES, failures, schemas.FAILURES)
    told = params.describe.name if params.describe else ""  # what it says of itself tells why
    if silent := table.filter((pl.col("coverage") == 0) & (pl.col("lf") != told))["lf"].to_list():
        names = ", ".join(silent[:_SHOWN]) + (f" and {len(silent) - _SHOWN:,} more" if len(silent) > _SHOWN else "")
        hint = " A function has to return its class." if Path(params.source).suffix == ".py" else ""
        print(f"{WARNING}labeling functions ({params.source}) vote on no item: {names}.{hint}", file=sys.stderr)


class LFSummary:
    """The statistics of lf_summary.csv, counted batch by batch; precision is measured on `gold` (item_id, gold)."""

    def __init__(self, gold: pl.DataFrame, classes: Sequence[str]) -> None:
        self._gold, self._classes = gold, classes
        self._lfs: list[str] = []
        self._counts: lf_analysis.VoteCounts | None = None

    def count(self, batches: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The `batches` (item_id and an int8 column per LF), unchanged; each is counted as it passes."""
        for votes in batches:
            self._lfs = votes.columns[1:]
            part = lf_analysis.count_all(to_matrix(votes), join_gold(votes, self._gold), len(self._classes))
            self._counts = part if self._counts is None else self._counts + part
            yield votes

    def tabulate(self) -> pl.DataFrame:
        """A table with a row per LF: polarity, coverage, overlaps, conflicts, and precision on the items with gold.

        Columns lf; polarity (the names of the classes it votes for, joined by '|'); coverage, overlaps, conflicts (shares
        of all items); n_valid (its votes on items with gold); precision, precision_low, precision_high (Wilson's 95 %
        interval), null where n_valid is 0.
        """
        counts = self._counts
        assert counts is not None, "no batch"
        low, high = lf_analysis.wilson_interval(counts.gold)
        return pl.DataFrame(
            {
                "lf": self._lfs,
                "polarity": ["|".join(itertools.compress(self._classes, row)) for row in counts.polarity],
                "coverage": counts.share(counts.votes),
                "overlaps": counts.share(counts.overlaps),
                "conflicts": counts.share(counts.conflicts),
                "n_valid": counts.gold.votes,
                "precision": lf_analysis.measure_precision(counts.gold),
                "precision_low": low,
                "precision_high": high,
            }
        ).with_columns(pl.selectors.float().fill_nan(None))


def _write_given_votes(root: Path, classes: Sequence[str], params: ApplyParams, summary: LFSummary) -> pl.DataFrame:
    """Write the votes of the table `params.source` in the order of the items; an empty table of failures."""
    ids = read_table(root / ITEMS, schemas.ITEMS, columns=[ITEM_ID])[ITEM_ID]
    votes = read_vote_table(root, params.source, ids, classes)

    def read() -> Iterator[pl.DataFrame]:
        yield from votes.iter_slices(ROW_GROUP) if len(votes) else [votes]

    _write_votes(root, read, len(votes), classes, votes.columns[1:], params, summary)
    return make_no_failures(ids.dtype)


def _write_computed_votes(root: Path, classes: Sequence[str], params: ApplyParams, summary: LFSummary) -> pl.DataFrame:
    """Write the votes of the LFs in `params.source`; their failures."""
    faulthandler.enable()  # if loading the LFs crashes the interpreter, standard error shows the line it had reached
    with project_lfs(root):
        module = load_module(root, params.source, may_be_empty=params.describe is not None)

        def write(votes: VoteFile) -> None:
            _write_votes(root, lambda: votes.read_batches(root), votes.n, classes, votes.lfs, params, summary)

        return ask_all(root, classes, params.source, module, write)


def _write_votes(
    root: Path,
    read: Callable[[], Iterator[pl.DataFrame]],
    n: int,
    classes: Sequence[str],
    lfs: Sequence[str],
    params: ApplyParams,
    summary: LFSummary,
) -> None:
    """Write the votes that `read` gives in batches, on `n` items in total, and those of the description LF beside them."""
    described = _describe(root, classes, params.describe, params.mute, lfs, read) if params.describe else None
    if described:
        write_descriptions(root, described.table, described.summary)
    else:
        write_no_descriptions(root)
    names = [*lfs, described.summary["lf"]] if described else lfs
    write_muted(root, params.mute, names)
    batches = _add_column(read(), names[-1], described.votes) if described else read()
    with Progress("writing votes", total=n) as progress:

        def counted() -> Iterator[pl.DataFrame]:
            for votes in read_ahead(summary.count(batches)):
                yield votes
                progress.advance(votes.height)

        write_batches(root / VOTES, counted(), schemas.votes(len(classes), names))


def _describe(
    root: Path,
    classes: Sequence[str],
    params: DescribeParams,
    muted: Sequence[str],
    lfs: Sequence[str],
    read: Callable[[], Iterator[pl.DataFrame]],
) -> Described:
    """The description LF beside `lfs`, whose votes `read` gives; those that are `muted` do not count."""
    if params.name in lfs:
        raise LabelingFunctionError(
            f"apply.describe: a labeling function is called '{params.name}' already. Give another name: apply.describe.name."
        )
    vectors = find_class_vectors(root, classes, params)
    described = describe(root, classes, params.name, vectors, lfs, lambda: (mute(votes, muted) for votes in read()))
    if params.name in muted:
        said = "muted: apply.mute in params.yaml names it"
        described = replace(described, summary={**described.summary, "is_muted": True, "why": said})
    report(described.summary)
    return described


def _add_column(batches: Iterable[pl.DataFrame], name: str, votes: Int8) -> Iterator[pl.DataFrame]:
    """The `batches` with the column `name`, of which `votes` (n,) are the rows."""
    start = 0
    for batch in batches:
        yield batch.with_columns(pl.Series(name, votes[start : start + batch.height]))
        start += batch.height
