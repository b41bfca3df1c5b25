"""The effect of an edit while it is made, from the output of `epoxy watch` run beside the workbench.

LFs run in that process, never in the one that serves pages: an LF that hangs or crashes affects no page.
"""

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LiveState:
    """The current state; version: a number that changes with it.

    result: the last edit without an error, from `epoxy watch --json`; before: the result before it. shipped: the effect on
    the shipped labels. error: why the newest edit has no result. doing: the current activity.
    """

    version: int = 0
    result: dict[str, Any] | None = None
    before: dict[str, Any] | None = None
    shipped: dict[str, Any] | None = None
    error: str | None = None
    doing: str = "starting"


class Live:
    """`epoxy watch` in the project at `root`, from `start` to `stop`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process: subprocess.Popen[str] | None = None
        self.state = LiveState(doing="edits are not watched, as --no-watch asked")

    def start(self) -> None:
        """Start watching."""
        self.state = LiveState()
        command = [sys.executable, "-m", "flows.cli", "watch", "--json"]
        self._process = subprocess.Popen(
            command, cwd=self._root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def stop(self) -> None:
        """End the process that watches."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict) and "event" in event:
                self.state = follow(self.state, event)
            else:
                last = line.strip() or last
        self.state = follow(self.state, {"event": "ended", "message": last})


def follow(state: LiveState, event: dict[str, Any]) -> LiveState:
    """Return the state after `event`, a line of `epoxy watch --json` or the end of the process.

    >>> follow(LiveState(), {"event": "error", "message": "lfs/x.py, line 3: invalid syntax"}).error
    'lfs/x.py, line 3: invalid syntax'
    """
    version, kind = state.version + 1, event["event"]
    if kind == "result":
        return LiveState(version=version, result=event, before=state.result, doing="watching lfs/ and params.yaml")
    kept: dict[str, Any] = {
        "version": version,
        "result": state.result,
        "before": state.before,
        "shipped": state.shipped,
    }
    if kind == "error":
        return LiveState(**kept, error=event["message"], doing=state.doing)
    if kind == "rest":
        kept["shipped"] = event if event["stage"] == "train" else state.shipped
        return LiveState(**kept, error=state.error, doing=state.doing)
    if kind == "ended":
        return LiveState(**kept, error=state.error, doing=f"ended: {event['message'] or 'without a word'}")
    return LiveState(**kept, error=state.error, doing=event["text"])
