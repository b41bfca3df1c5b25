"""One stage, run exactly as `dvc repro --single-item` does, and refused if what it depends on was edited meanwhile."""

import contextlib
from pathlib import Path

from dvc.exceptions import DvcException, ReproductionError
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo

from flows.runner.dvc_graph import refuse_outsiders
from flows.runner.dvc_locks import BusyError, find_holder, name_blockers
from flows.runner.dvc_patches import RUNNING, RunningStage, Spawn, identify_dependencies
from flows.runner.dvc_repo import explain_error, open_repo
from flows.runner.report import Outcome
from tasks.cache.dependencies import describe_changes, list_changes
from tasks.errors import EpoxyError, StageError, blame_machine


class EditedError(StageError):
    """What the stage depends on was edited while it ran; `is_recorded`: DVC has recorded its outputs nonetheless."""

    def __init__(self, message: str, *, is_recorded: bool) -> None:
        super().__init__(message)
        self.is_recorded = is_recorded


def run_stage(root: Path, name: str, spawn: Spawn, *, force: bool = False) -> Outcome:
    """What became of stage `name`, run exactly as `dvc repro --single-item` does, with its command run by `spawn`.

    May be called by several threads for stages that do not depend on each other. `force`: run it even if DVC has its
    outputs.

    Raises
    ------
    BusyError
        Another process uses the project; nothing was changed, and the call can be repeated.
    EditedError
        What the stage depends on was edited meanwhile; it should be run again, with `force` if it was recorded.
    StageError
        DVC reported an error, such as a missing output or input, or a full disk.
    Exception
        Whatever `spawn` raised.
    """
    with open_repo(root) as repo:
        token = None
        try:
            (node,) = repo.stage.collect(name)
            refuse_outsiders(name, node)
            run = RunningStage(name=name, repo=repo, spawn=spawn, node=node, before=identify_dependencies(node))
            token = RUNNING.set(run)
            changed = repo.reproduce([name], single_item=True, force=force)
        except ReproductionError as error:
            cause = error.__cause__
            if run.has_spawned:
                _bring_outputs_back(repo, name)
            if getattr(cause, "exit_code", None) == StageError.exit_code and (edited := _list_edited(run, root)):
                raise EditedError(describe_changes(f"stage {name}", edited), is_recorded=False) from cause
            if isinstance(cause, LockError):
                raise BusyError(name_blockers(cause)) from None
            if isinstance(cause, DvcException):
                raise StageError(f"stage {name}: {explain_error(cause)}") from cause
            if isinstance(cause, OSError) and not isinstance(cause, EpoxyError):
                raise _blame_machine(name, cause) from cause
            raise (cause or error) from None
        except LockError as error:
            raise BusyError(f"the project is in use by {find_holder(root)}") from error
        except DvcException as error:
            raise StageError(f"stage {name}: {explain_error(error)}") from error
        except OSError as error:
            raise _blame_machine(name, error) from error
        finally:
            if token is not None:
                RUNNING.reset(token)
        if not changed:
            return Outcome.CACHED
        # DVC hashes after the command, or after it has restored outputs.
        if edited := _list_edited(run, root):
            raise EditedError(describe_changes(f"stage {name}", edited), is_recorded=True)
        is_data = changed[0].cmd is None
        return Outcome.COMPLETED if run.has_spawned or is_data else Outcome.RESTORED


def _bring_outputs_back(repo: Repo, name: str) -> None:
    """Restore the recorded outputs of a stage that failed, as far as DVC's cache here has them.

    DVC removes outputs before it runs a stage; after a failure, yesterday's would be gone. The stage stays out of date.
    """
    with contextlib.suppress(DvcException, OSError), lock_repo(repo):
        (node,) = repo.stage.collect(name)
        for out in node.outs:
            if out.use_cache and out.hash_info and not out.changed_cache():
                out.checkout(force=True)


def _list_edited(run: RunningStage, root: Path) -> tuple[str, ...]:
    return list_changes(run.before, identify_dependencies(run.node), root=root)


def _blame_machine(name: str, error: OSError) -> StageError:
    """An error of the machine, such as a full disk or a folder that may not be written, as a stage's error."""
    return StageError(f"stage {name}: {blame_machine(error)}")
