"""A stage run through DVC: its lines relayed, its time limited, its failure told with the error that it wrote."""

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flows.runner.dvc_graph import Options, Stage
from flows.runner.dvc_locks import BusyError
from flows.runner.dvc_patches import Command, Spawn
from flows.runner.dvc_run import EditedError
from flows.runner.dvc_run import run_stage as run_in_dvc
from flows.runner.failure import (
    TAIL,
    StageFailedError,
    StageStoppedError,
    StageTimeoutError,
    describe_exit,
    is_error,
    is_transient,
    quote_complaint,
)
from flows.runner.leftovers import remove_leftovers
from flows.runner.listener import Listener, TerminalListener, read_progress, show_stages_in_terminal
from flows.runner.process import Commands, CommandStoppedError, CommandTimeoutError, Line, Stream, make_environment
from flows.runner.report import Outcome, Report
from flows.runner.site_cache import ENVIRONMENT as SITE_CACHE
from flows.runner.site_cache import find_site_cache
from flows.runner.timings import note_seconds
from tasks.errors import StageError
from tasks.progress import ENVIRONMENT, WARNING

_BUSY_PAUSE_SECONDS = 1.0
"""Pause between two attempts on a project that is in use; an attempt itself takes DVC up to three seconds."""

_BUSY_REMINDER_SECONDS = 30.0
"""How often the log repeats which process the run waits for."""

_REPLACEMENTS = 10
"""Repetitions of a stage that was edited while DVC recorded it; a single repetition is enough unless a script edits."""

_UPDATE = Options(retries=3, retry_delay_seconds=10, timeout_seconds=3600)
"""Of an import: three retries, after 10, 20 and 40 seconds, for a short network outage; and a time limit of an hour."""


def execute_stage(stage: Stage, *, root: Path, commands: Commands, listener: Listener) -> Report:
    """What became of `stage`, run after waiting for other processes that use the same files.

    An import that is to be updated is run through `dvc update`; if that fails or is killed, this call or the next
    restores the previous data.

    Raises
    ------
    StageFailedError
        Its command failed, or the source of an import does not deliver.
    StageTimeoutError
        Its command ran past the `timeout_seconds` of its options.
    StageStoppedError
        `commands` was stopped.
    StageError
        DVC reported an error.
    """
    tail: deque[str] = deque(maxlen=TAIL)
    held: list[str] = []  # an error, which ends the run if the command fails and is a line like others if it does not

    def relay(line: Line) -> None:
        progress = read_progress(line)
        if progress:
            listener.show(progress)
            return
        if line.stream is Stream.ERR:
            tail.append(line.text)
        if line.stream is Stream.ERR and line.text.startswith(WARNING):
            listener.warn(line.text)
        elif line.stream is Stream.ERR and (held or is_error(line.text)):
            if is_error(line.text) or len(held) == TAIL:
                release()
            held.append(line.text)
        else:
            listener.say(line.text)

    def release() -> None:
        for text in held:
            listener.say(text)
        held.clear()

    def spawn(command: Command, limit: float | None = stage.options.timeout_seconds) -> None:
        tail.clear()
        listener.say(f"> {command.text}")
        env = make_environment({**command.env, ENVIRONMENT: "marked"})
        try:
            code = commands.run(command.argv, cwd=command.cwd, env=env, timeout_seconds=limit, on_line=relay)
        except CommandTimeoutError:
            warnings = [text.removeprefix(WARNING) for text in tail if text.startswith(WARNING)]
            where = f": {warnings[-1]}" if warnings else ""
            release()
            raise StageTimeoutError(
                f"stage {stage.name}: ended after {limit:g} seconds{where}; make it faster, or raise timeout_seconds under "
                f"meta.prefect in dvc.yaml"
            ) from None
        except CommandStoppedError:
            release()
            raise
        if code == 0:
            release()
        else:
            complaint = quote_complaint(tail)
            if complaint and complaint == quote_complaint(held):
                listener.record(held)
                held.clear()
            release()
            message = f"stage {stage.name}: {describe_exit(code)}{complaint}"
            raise StageFailedError(message, exit_code=code, is_transient=is_transient(code, tail))

    def update() -> Outcome:
        before = (root / stage.name).read_bytes()
        # DVC removes the old data before it asks for new ones; the mark stays, whatever ends this process.
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        try:
            spawn(_make_dvc_command(root, "update", stage.name))
        except (StageFailedError, StageTimeoutError) as error:
            with contextlib.suppress(StageFailedError, StageTimeoutError):
                restore()
            raise _explain_update(stage, error, is_restored=not mark.exists()) from None
        mark.unlink()
        return Outcome.CACHED if (root / stage.name).read_bytes() == before else Outcome.COMPLETED

    def restore() -> None:
        # From DVC's cache on this machine: no network is involved, so no time limit is needed.
        spawn(_make_dvc_command(root, "checkout", "--force", stage.name), limit=None)
        mark.unlink()

    mark = root / ".dvc" / "tmp" / "epoxy-update" / stage.name
    began = time.monotonic()
    try:
        if mark.exists() and not stage.is_to_update:
            restore()
        outcome = update() if stage.is_to_update else _run_when_free(stage, root, spawn, commands, listener)
    except CommandStoppedError:
        raise StageStoppedError(f"stage {stage.name}: stopped") from None
    seconds = time.monotonic() - began
    if outcome is Outcome.COMPLETED:
        note_seconds(root, stage.name, seconds)
    return Report(name=stage.name, outcome=outcome.value, seconds=seconds)


def run_stages(root: Path, stages: Sequence[Stage]) -> tuple[Report, ...]:
    """What became of `stages`, run one after another without Prefect; their lines go to standard error as they come.

    Raises
    ------
    EpoxyError
        A stage failed; those after it are not run.
    """
    remove_leftovers(root, stages)
    show_stages_in_terminal()
    commands = Commands()
    return tuple(
        execute_stage(stage, root=root, commands=commands, listener=TerminalListener(stage.name)) for stage in stages
    )


def ask_for_updates(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """`stages`, with the imports among them to be updated, with a time limit and retries where they name none."""
    return tuple(
        replace(
            stage, is_to_update=True, options=_UPDATE.model_copy(update=stage.options.model_dump(exclude_unset=True))
        )
        if stage.is_import
        else stage
        for stage in stages
    )


def _make_dvc_command(root: Path, *words: str) -> Command:
    argv = (sys.executable, "-m", "dvc", "--wait-for-lock", *words)
    env = {**os.environ, SITE_CACHE: str(find_site_cache(root))}
    return Command(text=" ".join(["dvc", *words]), argv=argv, cwd=root, env=env)


def _explain_update(stage: Stage, error: StageError, *, is_restored: bool) -> StageError:
    """An error that says what to do about a source that does not deliver its data."""
    advice = (
        "The data of the last update are in place again: without the update, a run uses them. "
        if is_restored
        else f"The previous data are not in DVC's cache here: bring them back with 'dvc pull {stage.name}'. "
    ) + (
        f"If the source has moved, correct its address in {stage.name}; if it refuses, look at the credentials in "
        f".dvc/config.local or the environment. 'dvc update {stage.name}' tries it by hand."
    )
    if isinstance(error, StageTimeoutError):
        limit = f"{stage.options.timeout_seconds:g} seconds (timeout_seconds under meta.prefect in {stage.name})"
        return StageTimeoutError(f"import {stage.name}: its source did not give its data in {limit}. {advice}")
    message = str(error).removeprefix(f"stage {stage.name}: ")
    text = f"import {stage.name}: {message}. {advice}"
    return StageFailedError(text, exit_code=StageError.exit_code, is_transient=True)


def _run_when_free(stage: Stage, root: Path, spawn: Spawn, commands: Commands, listener: Listener) -> Outcome:
    reminded = float("-inf")
    is_forced, repeats = False, 0
    while True:
        commands.pause(0)
        try:
            return run_in_dvc(root, stage.name, spawn, force=is_forced)
        except EditedError as error:
            repeats += 1
            # What was recorded has to be replaced; what was not, the next run does anew.
            if repeats > (_REPLACEMENTS if error.is_recorded else 1):
                raise
            is_forced = is_forced or error.is_recorded
            listener.say(f"once more: {error}")
        except BusyError as error:
            now = time.monotonic()
            if now - reminded >= _BUSY_REMINDER_SECONDS:
                reminded = now
                listener.say(f"waiting: {error}")
            commands.pause(_BUSY_PAUSE_SECONDS)
