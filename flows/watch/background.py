"""Stages that are too slow for the loop itself, run in a process that the next edit ends."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from flows.runner.process import make_environment, start_guarded
from tasks.errors import EpoxyError

_STAGES = ("search", "train", "tune", "extend", "fit")
"""The stages that follow a result, in this order: the shipped labels first."""

_RUN = """
import sys
from tasks.__main__ import main
for stage in sys.argv[1:]:
    if code := main([stage]):
        sys.exit(code)
    print(stage, flush=True)
"""


class BackgroundStages:
    """The stages behind a result, run in `copy` by a single process, which never outlives this process."""

    def __init__(self, copy: Path) -> None:
        self._copy = copy
        self._done: dict[str, object] = {}
        self._due: dict[str, object] = {}
        self._n_ended = 0
        self._process: subprocess.Popen[bytes] | None = None

    def find_due(self, determined_by: Mapping[str, object]) -> tuple[str, ...]:
        """The stages whose outputs in `copy` are not those that `determined_by` names, in the order in which they run."""
        return tuple(stage for stage in _STAGES if self._done.get(stage) != determined_by[stage])

    def start(self, determined_by: Mapping[str, object]) -> None:
        """Run the stages that are due; nothing may be running."""
        self._due = {stage: determined_by[stage] for stage in self.find_due(determined_by)}
        self._n_ended = 0
        if self._due:
            for stage in self._due:
                self._done.pop(stage, None)  # its files are replaced one after the other
            package = str(Path(__file__).resolve().parents[2])
            with self._out.open("wb") as out, self._err.open("wb") as err:
                self._process = start_guarded(
                    [sys.executable, "-c", _RUN, *self._due],
                    cwd=self._copy,
                    env={**make_environment(os.environ), "PYTHONPATH": package},
                    stdout=out,
                    stderr=err,
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
        ended = self._out.read_text(encoding="utf-8").split()[self._n_ended :]
        self._n_ended += len(ended)
        self._done |= {stage: self._due[stage] for stage in ended}
        if code is not None:
            self._close(self._process)
            if code:
                said = self._err.read_text(encoding="utf-8", errors="replace")
                raise EpoxyError(said.rpartition("error: ")[2].strip() or f"exit code {code}")
        return tuple(ended)

    def cancel(self) -> None:
        """End what runs, at once: it writes to the copy alone, and stages leave no half-written file."""
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
    def _out(self) -> Path:
        return self._copy / "background.out"

    @property
    def _err(self) -> Path:
        return self._copy / "background.err"
