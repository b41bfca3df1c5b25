"""An open project: its items, labeling functions, labels and releases as Polars frames."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from epoxy_flow.arguments import require_flag, require_list, require_number, require_text, require_whole
from epoxy_flow.frames import warn_of_hashes
from flows.releases.opened import open_release
from flows.releases.store import list_releases
from flows.runner.project import find_root
from tasks.errors import StageError
from tasks.lf.functions import LabelingFunction, RowwiseLF, VectorizedLF
from tasks.queries.explain import Explanation, explain_item
from tasks.queries.items import Covered, ItemQuery, VoteFilter, find_items
from tasks.queries.lfs import compare_lfs, tabulate_lfs, tabulate_matrix
from tasks.queries.next_items import Strategy, choose_next
from tasks.queries.project_data import SHIPPED, ProjectData, ReleaseData
from tasks.queries.suggest import suggest_lfs
from tasks.queries.try_lf import Trial, choose_rows, read_lf, saved_lf, try_lf

T = TypeVar("T")


def open_project(path: str | Path = ".") -> "Project":
    """Return the project that contains the folder `path`.

    Raises
    ------
    EpoxyError
        The folder is not in a project.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"path: got {path!r} ({type(path).__name__}); expected a folder, as text or Path")
    return Project(find_root(Path(path)))


class Project:
    """The results of the last run of the project at `root`; files that change are read again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._data = ProjectData(root)

    def __repr__(self) -> str:
        return f"Project({str(self.root)!r})"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._data.classes

    def items(
        self,
        *,
        ids: Sequence[str | int] = (),
        splits: Sequence[str] = (),
        labels: Sequence[str] = (),
        gold: Sequence[str] = (),
        has_gold: bool | None = None,
        right: bool | None = None,
        method: str = SHIPPED,
        votes: Sequence[VoteFilter | str] = (),
        wrong_lf: str | None = None,
        conflict: tuple[str, str] | None = None,
        covered: Covered | None = None,
        near_threshold: float | None = None,
        near_threshold_lf: str | None = None,
        flipped_since: str | None = None,
        text: str | None = None,
        order: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        test_gold: bool = False,
    ) -> pl.DataFrame:
        """Return the items that fit all conditions, with label, probabilities, gold, votes and raw columns.

        Parameters
        ----------
        labels, gold
            Classes: the shipped label, or gold, is one of them.
        right
            Whether `method` (`shipped`, or a method of the report) gives the gold class.
        votes
            Labeling functions that all vote on the item; a `VoteFilter` also says for which class, and whether by extension.
        covered
            "labeling functions", "extension only" or "nothing".
        near_threshold
            The largest gap between the nearest vote of any LF, or of `near_threshold_lf`, and its threshold.
        flipped_since
            A release in which the label was different.
        order
            A column of the answer, with `-` before it for descending; `uncertain` for the least certain first.
        limit
            The largest number of items; None: all.
        test_gold
            Whether gold of test and train takes part, too, beside that of valid.

        Raises
        ------
        EpoxyError
            A name is unknown, or artifacts are missing or damaged.
        """
        query = ItemQuery(
            ids=require_list("ids", ids),
            splits=require_list("splits", splits),
            labels=require_list("labels", labels),
            gold=require_list("gold", gold),
            has_gold=require_flag("has_gold", has_gold),
            right=require_flag("right", right),
            method=require_text("method", method),
            votes=tuple(map(_to_filter, require_list("votes", votes))),
            wrong_lf=_maybe(require_text, "wrong_lf", wrong_lf),
            conflict=_maybe(_require_pair, "conflict", conflict),
            covered=covered,
            near_threshold=_maybe(require_number, "near_threshold", near_threshold),
            near_threshold_lf=_maybe(require_text, "near_threshold_lf", near_threshold_lf),
            flipped=flipped_since is not None,
            text=_maybe(require_text, "text", text),
            order=_maybe(require_text, "order", order),
            limit=len(self._data.ids()) if limit is None else require_whole("limit", limit),
            offset=require_whole("offset", offset),
            withheld_gold=test_gold,
        )
        before = None if flipped_since is None else self._open("flipped_since", flipped_since).labels()
        return find_items(self._data, query, before=before).rows

    def lfs(self, *, since: str | None = None) -> pl.DataFrame:
        """Return a row per labeling function: coverage, conflicts and precision before and after extension.

        With a release `since` (`current`, an id, or its first characters), also the figures in it and why votes changed.

        Raises
        ------
        EpoxyError
            There is no such release, or artifacts are missing or damaged.
        """
        return tabulate_lfs(self._data, before=None if since is None else self._open("since", since))

    def lf_pairs(self) -> pl.DataFrame:
        """Return a row per pair of labeling functions that vote on common items, with how often they agree."""
        return compare_lfs(self._data)

    def lf_matrix(self, what: str = "agreement") -> pl.DataFrame:
        """Return agreement, overlap, both, same or conflicts of all pairs of labeling functions, as a square table."""
        return tabulate_matrix(self._data, what)

    def explain(self, item: str | int, *, release: str | None = None, test_gold: bool = False) -> Explanation:
        """Return why `item` has its label, in the last run or in `release`: votes, neighbors, and parts of the log-odds.

        Raises
        ------
        EpoxyError
            There is no such item or release, or artifacts are missing or damaged.
        """
        opened = None if release is None else self._open("release", release)
        return explain_item(self._data, item, release=opened, withheld_gold=test_gold)

    def try_lf(
        self,
        lf: LabelingFunction | str,
        *,
        ids: Sequence[str | int] = (),
        count: int = 1000,
        seed: int | None = None,
        test_gold: bool = False,
    ) -> Trial:
        """Return the votes of a labeling function on `ids`, the first `count` items, or with a `seed` on `count` random items.

        Parameters
        ----------
        lf
            A labeling function, the name of a saved one in the project's module, or Python code that makes one.

        Raises
        ------
        EpoxyError
            There is no such labeling function or item.
        """
        if not isinstance(lf, str | RowwiseLF | VectorizedLF):
            raise TypeError(
                f"lf: got {lf!r} ({type(lf).__name__}); expected a labeling function (a function becomes one by "
                "labeling_function(...)), the name of a saved one, or code that makes one"
            )
        rows = choose_rows(
            self._data,
            ids=require_list("ids", ids),
            count=require_whole("count", count),
            seed=_maybe(require_whole, "seed", seed),
        )
        if isinstance(lf, RowwiseLF | VectorizedLF):
            warn_of_hashes(lf)
            return try_lf(self._data, lf, rows, withheld_gold=test_gold)
        if not lf.isidentifier():
            made = read_lf(lf)
            warn_of_hashes(made)
            return try_lf(self._data, made, rows, withheld_gold=test_gold)
        source = self._data.params().apply.source
        with saved_lf(self.root, source, lf) as saved:
            warn_of_hashes(saved)
            return try_lf(self._data, saved, rows, source=source, withheld_gold=test_gold)

    def suggest(self, *, label: str | None = None, least_precision: float = 0.8, count: int = 10) -> pl.DataFrame:
        """Return up to `count` suggested labeling functions, for class `label` or any class, the most useful first.

        Raises
        ------
        EpoxyError
            There is no such class, or artifacts are missing or damaged.
        """
        least = require_number("least_precision", least_precision)
        return suggest_lfs(self._data, count=require_whole("count", count), least_precision=least, label=label).rows

    def next_items(self, *, count: int = 20, strategy: Strategy = "random", seed: int = 0) -> pl.DataFrame:
        """Return up to `count` items to label by hand next, each with a reason; `mixed` takes turns among reasons.

        Raises
        ------
        EpoxyError
            Artifacts are missing or damaged.
        """
        count, seed = require_whole("count", count), require_whole("seed", seed)
        return choose_next(self._data, count=count, strategy=strategy, seed=seed).rows

    def labels(self, *, release: str | None = None) -> pl.DataFrame:
        """Return the labels of the last run, or of `release`: item_id, label, p_<class>, original_votes, is_certified.

        Raises
        ------
        EpoxyError
            There is no such release, or it is damaged.
        """
        return self._data.labels() if release is None else self._open("release", release).labels()

    def releases(self) -> pl.DataFrame:
        """Return a row per release, oldest first: id, is_current, is_here, items, time, user, reason."""
        rows = [
            (
                release.id,
                release.is_current,
                release.is_here,
                release.items,
                release.last.time if release.last else None,
                release.last.user if release.last else None,
                release.last.reason if release.last else None,
            )
            for release in list_releases(self.root)
        ]
        text = pl.String
        kinds = {"id": text, "is_current": pl.Boolean, "is_here": pl.Boolean, "items": pl.Int64}
        return pl.DataFrame(rows, schema={**kinds, "time": text, "user": text, "reason": text}, orient="row")

    def _open(self, name: str, release: str) -> ReleaseData:
        """The release that the argument called `name` says."""
        return open_release(self.root, require_text(name, release))

    def run(self, *stages: str) -> None:
        """Bring the pipeline, or `stages` and all they need, up to date, as `epoxy run` does; its lines are printed.

        Raises
        ------
        StageError
            A stage failed; the exit code is that of the command.
        """
        command = [sys.executable, "-m", "flows.cli", "run", *stages]
        # A separate process: a notebook already runs an event loop, and Prefect's flow needs its own.
        with subprocess.Popen(
            command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as run:
            assert run.stdout is not None
            for line in run.stdout:
                print(line, end="")
        if run.returncode:
            raise StageError(f"'epoxy run' ended with {run.returncode}; its last lines say why.")


def _maybe(require: Callable[[str, Any], T], name: str, value: Any) -> T | None:
    """None where that is given, else what `require` makes of the value."""
    return None if value is None else require(name, value)


def _to_filter(vote: VoteFilter | str) -> VoteFilter:
    """What a condition on votes says."""
    return vote if isinstance(vote, VoteFilter) else VoteFilter(lf=require_text("votes", vote))


def _require_pair(name: str, value: Any) -> tuple[str, str]:
    """The names of two labeling functions."""
    pair = require_list(name, value)
    if len(pair) != 2:
        raise TypeError(f"{name}: got {value!r}; expected the names of two labeling functions")
    return require_text(name, pair[0]), require_text(name, pair[1])
