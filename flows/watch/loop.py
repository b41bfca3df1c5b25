"""`epoxy watch`, the interactive loop: edit an LF or params.yaml, and see at once how the labels change.

What an edit changes first (votes, thresholds, extension, label model) is computed in this process, on tables that stay
in memory (flows/watch/session.py). What takes longer (the files of the stages, Liger, the end model whose labels are
shipped) is left to the stages themselves, run on a copy of the project by a process that the next edit ends.

Nothing below data/ is written but the cache of columns: `dvc repro` or `epoxy run` makes the files, and finds there what the loop
has searched. Gold of the test split is never read: whoever edits until a number rises has fitted to the gold behind that number.
"""

import contextlib
import gc
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import polars as pl

from flows.releases.figures import Flips, compare_labels
from flows.runner.dvc_graph import read_stages
from flows.runner.stage import run_stages
from flows.watch.background import BackgroundStages
from flows.watch.page import Page
from flows.watch.session import Result, Score, Session, score_methods
from flows.watch.view import view_result, view_stage
from tasks.core.types import ITEM_ID
from tasks.errors import EpoxyError
from tasks.params import Params
from tasks.tables import schemas
from tasks.tables.label_matrix import find_gold_rows
from tasks.tables.parquet import read_schema, read_table
from tasks.tables.paths import END_MODEL_PREDICTIONS, LABEL_MODEL_LABELS, LABEL_MODEL_PREDICTIONS, SHIPPED_LABELS

PAUSE_SECONDS = 0.03
"""Between two looks at the files: short beside the time of an answer, and less than a hundredth of a core."""

_SETTLE_SECONDS = 0.2
"""Wait after a failure before it is shown: an editor may have been halfway through writing the file."""


class Loop:
    """The loop over the project at `root`; `copy` is an empty folder that nothing else uses.

    `prepare` brings ingest, gold and index up to date, at the start and when their params have changed. `result` is the last
    that was computed without an error.
    """

    def __init__(self, root: Path, copy: Path, page: Page, prepare: Callable[[], None]) -> None:
        self._page, self._prepare = page, prepare
        self._session, self._background = Session(root, copy), BackgroundStages(copy.resolve())
        self._prepared: object = None
        self.result: Result | None = None
        self._since = 0.0
        self._shipped: pl.DataFrame | None = None

    def step(self) -> None:
        """Look once at the files and at the stages that run, and show what there is to show."""
        if self._session.look():
            began = time.perf_counter()
            self._background.cancel()
            while not self._answer(began):
                pass
        else:
            self._show_ended()

    def close(self) -> None:
        """End what runs."""
        self._background.cancel()

    def _answer(self, began: float) -> bool:
        """Show the result of the state of the last look, or its error; False if there is a newer state already."""
        try:
            self._prepare_data(self._session.read_params())
            result = self._session.evaluate()
        except Exception as error:
            time.sleep(_SETTLE_SECONDS)
            if self._session.look():
                return False
            if not isinstance(error, EpoxyError):
                traceback.print_exc()
            self._page.fail(str(error) if isinstance(error, EpoxyError) else f"{type(error).__name__}: {error}")
            return True
        before = self.result
        flips = None if before is None else compare_labels(before.labels, result.labels)
        follows = self._background.find_due(result.determined_by)
        self.result, self._since = result, time.perf_counter()
        self._page.show(view_result(result, flips, seconds=self._since - began, follows=follows))
        self._background.start(result.determined_by)
        if before is None:
            # Nearly all objects that exist now stay to the end; the garbage collector need not visit them at each edit (.1 s).
            gc.collect()
            gc.freeze()
        return True

    def _prepare_data(self, params: Params) -> None:
        """Have ingest, gold and index run if their params have changed since they last ran."""
        wanted = (params.classes, params.ingest, params.gold, params.index)
        if wanted != self._prepared:
            self._page.say("bringing ingest, gold and index up to date")
            self._prepare()
            self._prepared = wanted
            self._session.look()
            self._page.say("reading embeddings and index")

    def _show_ended(self) -> None:
        try:
            ended = self._background.poll()
        except EpoxyError as error:
            self._page.fail(f"a stage that follows: {error}")
            return
        for stage in ended:
            assert self.result is not None
            if stage == "train":
                self._show_shipped(self.result)
            elif stage == "fit":
                self._show_fit(self.result)

    def _show_shipped(self, result: Result) -> None:
        path = self._session.copy / SHIPPED_LABELS
        shipped = read_table(path, schemas.end_labels(result.params.classes))
        flips = None if self._shipped is None else compare_labels(self._shipped, shipped)
        self._shipped = shipped
        self._show_stage("train", self._score(result, END_MODEL_PREDICTIONS), flips)

    def _show_fit(self, result: Result) -> None:
        labels = read_table(self._session.copy / LABEL_MODEL_LABELS, schemas.labels(result.params.classes))
        if not labels.equals(result.labels):
            self._page.fail(
                "the stage fit gives labels that differ from those above; this is a fault of the program: please report it"
            )
        self._show_stage("fit", self._score(result, LABEL_MODEL_PREDICTIONS), None)

    def _show_stage(self, stage: str, scores: tuple[Score, ...], flips: Flips | None) -> None:
        seconds = time.perf_counter() - self._since
        self._page.show_stage(view_stage(stage, scores, flips, seconds=seconds))

    def _score(self, result: Result, predictions: Path) -> tuple[Score, ...]:
        """The scores of the methods in a table of predictions that the result does not have."""
        path, k = self._session.copy / predictions, len(result.params.classes)
        table = read_table(path, schemas.predictions(k, read_schema(path)))
        known = {score.method for score in result.scores}
        methods = {name.rpartition("/")[0]: None for name in table.columns if name != ITEM_ID}
        gold = find_gold_rows(result.data.labels)
        return score_methods(
            {
                method: table.select(f"{method}/{label}" for label in range(k)).to_numpy()[gold.rows]
                for method in methods
                if method not in known
            },
            gold.classes,
        )


def prepare_data(root: Path) -> None:
    """Bring gold and index of the project at `root`, and what they need, up to date, as `dvc repro gold index` does.

    Raises
    ------
    EpoxyError
        A stage failed, or DVC reported an error.
    """
    # A pipeline of before gold had a stage gives it with the items.
    known = {stage.name for stage in read_stages(root)}
    run_stages(root, read_stages(root, [stage for stage in ("gold", "index") if stage in known]))


def run_loop(*, root: Path, page: Page) -> None:
    """Show on `page` the results of LFs and params of the project at `root`, now and after each edit, until Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # ends as Ctrl-C does
    with tempfile.TemporaryDirectory(prefix="epoxy-watch-") as copy, contextlib.suppress(KeyboardInterrupt):
        loop = Loop(root, Path(copy), page, lambda: prepare_data(root))
        try:
            while True:
                loop.step()
                time.sleep(PAUSE_SECONDS)
        finally:
            loop.close()
