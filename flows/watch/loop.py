"""`epoxy watch`, the interactive loop: edit an LF or params.yaml, and see at once what becomes of the labels.

What an edit changes first (votes, thresholds, extension, label model) is computed in this process, on tables that stay
in memory (flows/watch/session.py). What takes longer (the files of the stages, Liger, the end model whose labels are shipped)
follows from the stages themselves, run on a copy of the project by a process that the next edit ends.

Nothing below data/ is written but the memo: `dvc repro` or `epoxy run` makes the files, and finds there what the loop
has searched. Gold of test is never read: whoever edits until a number rises has fitted to the gold behind that number.
"""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from flows.releases.figures import Flips, compare_labels
from flows.runner.dvc_repo import read_stages
from flows.runner.process import Commands, make_environment, start_guarded
from flows.runner.stage import TerminalListener, execute_stage, show_stages_in_terminal
from flows.watch.page import Page, view_rest, view_result
from flows.watch.session import Result, Score, Session, score_methods
from tasks.core.types import ITEM_ID
from tasks.errors import EpoxyError
from tasks.params import Params
from tasks.tables import schemas
from tasks.tables.parquet import read_schema, read_table
from tasks.tables.paths import END_MODEL_PREDICTIONS, LABEL_MODEL_LABELS, LABEL_MODEL_PREDICTIONS, SHIPPED_LABELS

PAUSE_SECONDS = 0.03
"""Between two looks at the files: a fraction of what an answer takes, at less than a hundredth of a core."""

_SETTLE_SECONDS = 0.2
"""After a failure, before it is told: an editor may have been half-way through writing the file."""

_STAGES = ("search", "train", "tune", "extend", "fit")
"""What follows, in this order: the shipped labels first."""

_RUN = """
import sys
from tasks.__main__ import main
for stage in sys.argv[1:]:
    if code := main([stage]):
        sys.exit(code)
    print(stage, flush=True)
"""


class Rest:
    """The stages behind a result, run in `copy` by one process at a time; nothing of it outlives this one."""

    def __init__(self, copy: Path) -> None:
        self._copy = copy
        self._done: dict[str, object] = {}
        self._due: dict[str, object] = {}
        self._told = 0
        self._process: subprocess.Popen[bytes] | None = None

    def find_due(self, determined_by: Mapping[str, object]) -> tuple[str, ...]:
        """The stages whose outputs in `copy` are not those that `determined_by` names, in the order in which they run."""
        return tuple(stage for stage in _STAGES if self._done.get(stage) != determined_by[stage])

    def start(self, determined_by: Mapping[str, object]) -> None:
        """Run the stages that are due; nothing may be running."""
        self._due = {stage: determined_by[stage] for stage in self.find_due(determined_by)}
        self._told = 0
        if self._due:
            for stage in self._due:
                self._done.pop(stage, None)  # its files are replaced one by one
            package = str(Path(__file__).resolve().parents[2])
            with self._said.open("wb") as said, self._complained.open("wb") as complained:
                self._process = start_guarded(
                    [sys.executable, "-c", _RUN, *self._due],
                    cwd=self._copy,
                    env={**make_environment(os.environ), "PYTHONPATH": package},
                    stdout=said,
                    stderr=complained,
                    process_group=0,
                )

    def poll(self) -> tuple[str, ...]:
        """The stages that ended since the last call.

        Raises
        ------
        EpoxyError
            A stage failed; the others are not run.
        """
        if self._process is None:
            return ()
        code = self._process.poll()
        ended = self._said.read_text().split()[self._told :]
        self._told += len(ended)
        self._done |= {stage: self._due[stage] for stage in ended}
        if code is not None:
            self._close(self._process)
            if code:
                said = self._complained.read_text(errors="replace")
                raise EpoxyError(said.rpartition("error: ")[2].strip() or f"exit code {code}")
        return tuple(ended)

    def cancel(self) -> None:
        """End what runs, at once: its files are a copy's, and the stages leave none half-written."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._close(self._process)

    def _close(self, process: "subprocess.Popen[bytes]") -> None:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._process = None

    @property
    def _said(self) -> Path:
        return self._copy / "rest.out"

    @property
    def _complained(self) -> Path:
        return self._copy / "rest.err"


class Loop:
    """The loop over the project at `root`; `copy` is an empty folder for its own use.

    `prepare` brings ingest and index up to date, at the start and when their params have changed. `result` is the last
    good one.
    """

    def __init__(self, root: Path, copy: Path, page: Page, prepare: Callable[[], None]) -> None:
        self._page, self._prepare = page, prepare
        self._session, self._rest = Session(root, copy), Rest(copy.resolve())
        self._prepared: object = None
        self.result: Result | None = None
        self._since = 0.0
        self._shipped: pl.DataFrame | None = None

    def step(self) -> None:
        """Look once at the files and at the stages that run, and show what there is to show."""
        if self._session.look():
            began = time.perf_counter()
            self._rest.cancel()
            while not self._answer(began):
                pass
        else:
            self._tell_rest()

    def close(self) -> None:
        """End what runs."""
        self._rest.cancel()

    def _answer(self, began: float) -> bool:
        """Show what the state of the last look comes to, or why it cannot be told; False if there is a newer state."""
        try:
            self._take_over(self._session.read_params())
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
        follows = self._rest.find_due(result.determined_by)
        self.result, self._since = result, time.perf_counter()
        self._page.show(view_result(result, flips, seconds=self._since - began, follows=follows))
        self._rest.start(result.determined_by)
        if before is None:
            # Nearly all that is there now stays: passed over from now on, it holds up no edit (.1 s).
            gc.collect()
            gc.freeze()
        return True

    def _take_over(self, params: Params) -> None:
        """Have ingest and index run if their params have changed since they last were."""
        wanted = (params.classes, params.ingest, params.index)
        if wanted != self._prepared:
            self._page.say("bringing ingest and index up to date")
            self._prepare()
            self._prepared = wanted
            self._session.look()
            self._page.say("reading embeddings and index")

    def _tell_rest(self) -> None:
        try:
            ended = self._rest.poll()
        except EpoxyError as error:
            self._page.fail(f"what follows: {error}")
            return
        for stage in ended:
            assert self.result is not None
            if stage == "train":
                self._tell_shipped(self.result)
            elif stage == "fit":
                self._tell_fit(self.result)

    def _tell_shipped(self, result: Result) -> None:
        path = self._session.copy / SHIPPED_LABELS
        shipped = read_table(path, schemas.end_labels(result.params.classes))
        flips = None if self._shipped is None else compare_labels(self._shipped, shipped)
        self._shipped = shipped
        self._show_rest("train", self._score(result, END_MODEL_PREDICTIONS), flips)

    def _tell_fit(self, result: Result) -> None:
        labels = read_table(self._session.copy / LABEL_MODEL_LABELS, schemas.labels(result.params.classes))
        if not labels.equals(result.labels):
            self._page.fail(
                "the stage fit gives other labels than those above; this is a fault of the program: report it"
            )
        self._show_rest("fit", self._score(result, LABEL_MODEL_PREDICTIONS), None)

    def _show_rest(self, stage: str, scores: tuple[Score, ...], flips: Flips | None) -> None:
        seconds = time.perf_counter() - self._since
        self._page.show_rest(view_rest(stage, scores, flips, seconds=seconds))

    def _score(self, result: Result, predictions: Path) -> tuple[Score, ...]:
        """The scores of the methods in a table of predictions that the result does not have."""
        path, k = self._session.copy / predictions, len(result.params.classes)
        table = read_table(path, schemas.predictions(k, read_schema(path)))
        known = {score.method for score in result.scores}
        methods = {name.rpartition("/")[0]: None for name in table.columns if name != ITEM_ID}
        return score_methods(
            {
                method: table.select(f"{method}/{label}" for label in range(k)).to_numpy()
                for method in methods
                if method not in known
            },
            result.data,
        )


def prepare_data(root: Path) -> None:
    """Bring the index of the project at `root`, and what it needs, up to date, as `dvc repro index` does.

    Raises
    ------
    EpoxyError
        A stage failed, or DVC met a mistake.
    """
    show_stages_in_terminal()
    for stage in read_stages(root, ["index"]):
        execute_stage(stage, root=root, commands=Commands(), listener=TerminalListener(stage.name))


def watch(*, root: Path, page: Page) -> None:
    """Show on `page` what LFs and params of the project at `root` come to, now and after each edit, until Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # to leave as tidily as after Ctrl-C
    with tempfile.TemporaryDirectory(prefix="epoxy-watch-") as copy, contextlib.suppress(KeyboardInterrupt):
        loop = Loop(root, Path(copy), page, lambda: prepare_data(root))
        try:
            while True:
                loop.step()
                time.sleep(PAUSE_SECONDS)
        finally:
            loop.close()
