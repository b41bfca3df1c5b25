"""`python -m tasks <stage>`: run one stage in the current folder, the command that dvc.yaml gives to DVC."""

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import sys
import time
from pathlib import Path

from tasks.cache.dependencies import describe_changes, find_dependencies, identify, list_changes
from tasks.cache.stage_code import CHECK, require_noted_code
from tasks.cache.store import forget_since
from tasks.errors import DataError, EpoxyError, ParamsError, StageError, blame_machine, require_sound_environment
from tasks.hash_seed import HASH_SEED, are_hashes_fixed

# Everything else is imported by `run_stage`, so that code is read only after its digest was taken.

STAGES = ("ingest", "gold", "index", "apply", "search", "tune", "extend", "fit", "train", "evaluate")
"""The stages in the order of the pipeline; each is a module here, a DVC stage, a section of params and a folder in data/."""

_PR_SET_PDEATHSIG = 1
"""From Linux's prctl.h: a signal to this process when the one that started it dies."""


class _ParamsChangedError(StageError):
    """Params were edited while the stage ran."""


def run_stage(root: Path, stage: str) -> None:
    """Run `stage` in the project at `root`, reading and writing below its data/.

    Raises
    ------
    EpoxyError
        Params or data are invalid, or params changed during the run; nothing half-written is left.
    """
    if stage == "demo":
        importlib.import_module("tasks.demo").run(root)
        return
    from tasks.params_file import FILE, read_stage_params
    from tasks.progress import Progress

    params = read_stage_params(root, stage)
    module = importlib.import_module(f"tasks.{stage}")
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    # Once imported, Polars makes system calls resume after Ctrl-C (pola-rs/polars#21739), so that waiting for workers
    # would never end.
    signal.siginterrupt(signal.SIGINT, True)
    Progress.begin_stage()
    module.run(root, params.classes, getattr(params, stage))
    # A key may have been edited before it was read, and edited back since: compare with what the stage has read.
    with contextlib.suppress(ParamsError):
        now = read_stage_params(root, stage)
        if (now.classes, getattr(now, stage)) != (params.classes, getattr(params, stage)):
            raise _ParamsChangedError(describe_changes(stage, [f"{FILE}: classes or {stage}"]))


def run_identified_stage(root: Path, stage: str) -> None:
    """Run `stage` as `run_stage` does, if nothing that it depends on changes meanwhile.

    Raises
    ------
    StageError
        A file or a key of params changed during the run, so what the stage has written must not be recorded.
    EpoxyError
        As `run_stage`.
    """
    require_noted_code(root, stage)
    try:
        found = find_dependencies(root, stage)
    except ParamsError:
        from tasks.params_file import read_sections

        read_sections(root)  # a variable is missing: that the file cannot be read at all has better words
        raise
    if found is None:
        run_stage(root, stage)  # nothing records its outputs
        return
    began, before = time.time_ns(), identify(*found)
    changes: tuple[str, ...] = ()
    edited: _ParamsChangedError | None = None
    try:
        run_stage(root, stage)
    except _ParamsChangedError as error:
        edited = error  # the comparison below names the key, unless it was edited back
    finally:
        changes = list_changes(before, identify(*found), root=root)
        if changes or edited:
            forget_since(root, began)  # cache keys may belong to content other than what was read
    if changes:
        raise StageError(describe_changes(stage, changes))
    if edited:
        raise edited


def main(arguments: list[str]) -> int:
    """The exit code of running the stage that `arguments` names."""
    if len(arguments) != 1 or arguments[0] not in (*STAGES, "demo", CHECK):
        print(f"usage: python -m tasks {{{','.join(STAGES)},demo,{CHECK}}}", file=sys.stderr)
        return 2
    try:
        require_sound_environment()
        if arguments[0] == CHECK:
            require_noted_code(Path(), *STAGES)
        else:
            run_identified_stage(Path(), arguments[0])
    except EpoxyError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        # A fault of the machine, not of the program: a full disk, a folder without write permission.
        print(f"error: {arguments[0]}: {blame_machine(error)}", file=sys.stderr)
        return StageError.exit_code
    except KeyboardInterrupt:
        print(f"{arguments[0]}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BaseException as error:
        # A panic of Polars, which is not an Exception: data that Polars cannot handle and no reader has refused.
        if type(error).__name__ != "PanicException":
            raise
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        print(f"error: {arguments[0]}: its data cannot be computed with: {reason}", file=sys.stderr)
        return DataError.exit_code
    return 0


def fix_hash_seed() -> None:
    """Start this process anew if Python's hashes of texts are not those of every other process that asks labeling functions.

    An LF that uses hash(), or the order of a set, would vote otherwise in each of them.
    """
    if not are_hashes_fixed():
        os.environ["PYTHONHASHSEED"] = HASH_SEED
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  the same command


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies.

    A killed `dvc repro` would otherwise leave a stage behind that writes its outputs while the next run is under way.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    # Libraries leave no garbage when they are imported, and stay until the end: not to look for it in them, then or later,
    # saves a quarter of a short stage's time (.96 s of a processor against 1.32 in `extend` of the demo).
    gc.disable()
    fix_hash_seed()
    die_with_parent()
    sys.exit(main(sys.argv[1:]))
