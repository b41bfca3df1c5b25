"""The pipeline from labeling functions to labels in memory: what `epoxy watch` asks after each edit.

Nothing is computed here that a stage does not compute: each step calls the function that its stage calls, on tables
that stay loaded, and is skipped while what determines it is the same. So the tables are those of the stages, and what
takes long, the columns of votes and of neighbors, goes into the cache in which the stages look for it.
"""

import contextlib
import hashlib
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from threadpoolctl import ThreadpoolController

from flows.watch.snapshot import Snapshot
from tasks import apply, extend, fit, search, tune
from tasks.cache.store import FOLDER, identify
from tasks.core import metrics
from tasks.core.extension import Neighbors
from tasks.core.types import ITEM_ID, Float64, Int64
from tasks.errors import EpoxyError
from tasks.neighbors.run import SearchInputs, SearchResult, search_items
from tasks.params import Params
from tasks.params_file import FILE, read_params
from tasks.tables import schemas
from tasks.tables.files import read_csv
from tasks.tables.label_matrix import find_gold_rows, read_gold, to_matrix
from tasks.tables.muted import mute
from tasks.tables.parquet import count_rows, read_table, read_votes
from tasks.tables.paths import INDEX, ITEMS, LF_FAILURES, LF_SUMMARY, VALID_GOLD
from tasks.tables.paths import VOTES as VOTES_PATH
from tasks.tables.validation import require_same_items

_LINKED = (ITEMS.parent, VALID_GOLD.parent, INDEX.parent, FOLDER)

_SUMMARY = {
    "lf": pl.String,
    "polarity": pl.String,
    "coverage": pl.Float64,
    "overlaps": pl.Float64,
    "conflicts": pl.Float64,
    "n_valid": pl.Int64,
    "precision": pl.Float64,
}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Score:
    """Accuracy and macro F1 of a method on valid gold; NaN where there is none."""

    method: str
    accuracy: float
    macro_f1: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Step(Generic[T]):
    """What a step gave; another result of the same step is another `Step`, even if it is equal."""

    key: object
    value: T


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """What ingest, gold and index left."""

    items: pl.DataFrame
    """item_id, split."""
    labels: npt.NDArray[np.int8]
    """(n,) valid gold in the order of items, ABSTAIN where unknown."""
    search: SearchInputs


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """The result of a state of LFs and params; every table equals what its stage writes."""

    params: Params
    data: Data
    votes: pl.DataFrame
    counted: pl.DataFrame
    """The votes with muted LFs abstaining; as all that follows, no table that apply writes."""
    lf_summary: pl.DataFrame
    failures: int
    """Cells on which an LF failed and its policy turned that into an abstain."""
    found: SearchResult
    chosen: tune.Chosen
    extension: extend.Extension
    labeled: fit.Labeled
    labels: pl.DataFrame
    scores: tuple[Score, ...]
    seconds: Mapping[str, float]
    """Of the steps that were computed, in their order."""
    determined_by: Mapping[str, object]
    """By stage from search on: equal to that of another result where the stage's outputs are."""


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """What the step fit gives."""

    labeled: fit.Labeled
    labels: pl.DataFrame
    scores: tuple[Score, ...]


class Session:
    """The project at `root` as it is being edited; `copy` is an empty folder that nothing else uses."""

    def __init__(self, root: Path, copy: Path) -> None:
        self._root, self.copy = root, copy.resolve()
        self._snapshot = Snapshot(root, self.copy)
        self._kept: dict[str, Step[Any]] = {}
        self._seconds: dict[str, float] = {}
        self._threads = ThreadpoolController()
        for folder in _LINKED:
            (self.copy / folder).parent.mkdir(parents=True, exist_ok=True)
            (self.copy / folder).symlink_to((root / folder).resolve())

    def look(self) -> bool:
        """Whether params, LFs or what ingest, gold and index wrote changed since the last look; takes over what did."""
        return self._snapshot.update()

    def read_params(self) -> Params:
        """params.yaml as of the last look.

        Raises
        ------
        ParamsError
            It cannot be read.
        """
        with self._explained():
            return read_params(self.copy)

    def evaluate(self) -> Result:
        """The result of the state that the last look found.

        Raises
        ------
        EpoxyError
            What the stages would say of this state, with paths as in the project. The session is as before.
        """
        self._seconds = {}
        with self._explained():
            return self._evaluate(read_params(self.copy))

    def _evaluate(self, params: Params) -> Result:
        (self._root / FOLDER).mkdir(parents=True, exist_ok=True)
        classes, k = params.classes, len(params.classes)
        inputs = self._snapshot.inputs
        lfs = {name: content for name, content in self._snapshot.contents.items() if name != FILE}
        applied = self._once("apply", (inputs, identify(lfs), classes, params.apply), lambda: self._apply(params))
        votes, lf_summary, failures = applied.value
        voted = self._once("votes", (votes.columns, _hash_rows(votes), classes), lambda: votes)
        muted = tuple(name for name in votes.columns if name in params.apply.mute)
        counted = self._once("counted", (voted, muted), lambda: mute(votes, muted))
        data = self._once("load", (inputs, classes, params.search), lambda: self._load(params)).value
        require_same_items(ITEMS, data.items, VOTES_PATH, votes)
        found = self._once("search", (voted, data, params.search), lambda: self._search(data, votes, params))
        neighbors = self._once("neighbors", (found, muted), lambda: _stack(found.value, muted)).value
        chosen = self._once(
            "tune", (found, counted, params.tune), lambda: _choose(data, counted.value, neighbors, k, params)
        )
        thresholds = chosen.value.thresholds
        extension = self._once(
            "extend",
            (found, counted, thresholds, params.extend),
            lambda: extend.extend_items(counted.value, neighbors, thresholds, params.extend),
        )
        labeled = self._once(
            "fit",
            (extension, params.fit),
            lambda: self._label(data, counted.value, extension.value.votes, classes, params),
        )
        return Result(
            params=params,
            data=data,
            votes=votes,
            counted=counted.value,
            lf_summary=lf_summary,
            failures=failures,
            found=found.value,
            chosen=chosen.value,
            extension=extension.value,
            labeled=labeled.value.labeled,
            labels=labeled.value.labels,
            scores=labeled.value.scores,
            seconds={
                step: spent for step, spent in self._seconds.items() if step not in ("votes", "counted", "neighbors")
            },
            determined_by={
                "search": found,
                "train": (found, counted, params.train),
                "tune": (found, counted, params.tune),
                "extend": extension,
                "fit": labeled,
            },
        )

    def _once(self, step: str, key: object, work: Callable[[], T]) -> Step[T]:
        """The result of `work`, or the last result of this step if its `key` was equal."""
        kept = self._kept.get(step)
        if kept is None or kept.key != key:
            began = time.perf_counter()
            kept = Step(key=key, value=work())
            self._kept[step] = kept
            self._seconds[step] = time.perf_counter() - began
        return kept

    # The steps.

    def _apply(self, params: Params) -> tuple[pl.DataFrame, pl.DataFrame, int]:
        """The tables of votes and of LFs, and the number of failures."""
        with contextlib.redirect_stdout(sys.stderr):  # what LFs print belongs to no result
            apply.run(self.copy, params.classes, params.apply)
        votes = read_votes(self.copy / VOTES_PATH, len(params.classes))
        summary = read_csv(self.copy / LF_SUMMARY, _SUMMARY)
        return votes, summary, count_rows(self.copy / LF_FAILURES)

    def _load(self, params: Params) -> Data:
        k = len(params.classes)
        items = read_table(self.copy / ITEMS, schemas.ITEMS, [ITEM_ID, "split"])
        return Data(
            items=items,
            labels=read_gold(self.copy, items, k),
            search=search.read_inputs(self.copy, k, params.search),
        )

    def _search(self, data: Data, votes: pl.DataFrame, params: Params) -> SearchResult:
        lfs = tuple(name for name in votes.columns if name != ITEM_ID)
        L = np.ascontiguousarray(to_matrix(votes))
        return search_items(self.copy, replace(data.search, lfs=lfs, L=L), params.search)

    def _label(
        self, data: Data, votes: pl.DataFrame, extended: pl.DataFrame, classes: tuple[str, ...], params: Params
    ) -> _Labels:
        inputs = fit.make_inputs(
            data.items, data.labels, tuple(votes.columns[1:]), to_matrix(votes), to_matrix(extended)
        )
        gold = find_gold_rows(data.labels)
        # Its matrix products are small: waiting for a second thread costs more than it gains, much more on a busy machine.
        with self._threads.limit(limits=1, user_api="blas"):
            labeled = fit.label_items(inputs, classes, params.fit)
        return _Labels(
            labeled=labeled,
            labels=fit.tabulate_labels(inputs, labeled, classes),
            scores=score_methods(
                fit.predict_rows(inputs, fit.collect_methods(inputs, labeled), gold.rows), gold.classes
            ),
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Let errors name the files of the project where they name those of the copy."""
        try:
            yield
        except EpoxyError as error:
            message = str(error).replace(f"{self.copy}/", "").replace(str(self.copy), str(self._root))
            raise type(error)(message) from None


def score_methods(methods: Mapping[str, Float64], gold: Int64) -> tuple[Score, ...]:
    """How good methods are, by name (g, k), on items of these `gold` classes (g,), the way the report counts."""
    found = {method: metrics.score(P, gold) for method, P in methods.items()}
    return tuple(Score(method=name, accuracy=score.accuracy, macro_f1=score.macro_f1) for name, score in found.items())


def _hash_rows(votes: pl.DataFrame) -> str:
    return hashlib.sha256(np.ascontiguousarray(to_matrix(votes)).data).hexdigest()


def _stack(found: SearchResult, muted: Collection[str]) -> Neighbors:
    """The neighbors as the stages read them from disk, without those of `muted` LFs."""
    columns = [(at, column) for at, (lf, column) in enumerate(found.columns.items()) if lf not in muted]
    n = columns[0][1].similarity.shape[1] if columns else 0
    return Neighbors(
        lf=np.array([at for at, column in columns for _ in column.labels], np.int64),
        label=np.array([label for _, column in columns for label in column.labels], np.int8),
        similarity=np.concatenate([np.empty((0, n), np.float32), *(column.similarity for _, column in columns)]),
    )


def _choose(data: Data, votes: pl.DataFrame, neighbors: Neighbors, k: int, params: Params) -> tune.Chosen:
    inputs = tune.Inputs(
        lfs=votes.columns[1:],
        L=to_matrix(votes),
        labels=data.labels,
        k=k,
        metric=data.search.description.metric,
    )
    return tune.choose(inputs, params.tune, lambda rows: replace(neighbors, similarity=neighbors.similarity[:, rows]))
