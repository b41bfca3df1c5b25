"""Releases made and carried beyond their folder as release.yaml says: DVC takes the bytes, Git the pointers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from flows.releases.commands import CarryError, run_dvc
from flows.releases.create import ReleaseResult, create_release
from flows.releases.git import GitRepo
from flows.releases.last_run import trust_folder
from flows.releases.manifest import FOLDER
from flows.releases.new_rows import STAGES, NewRows, label_new_rows
from flows.releases.policy import FILE, Carry, Git, Policy, describe_defaults, read_policy
from flows.releases.prune import prune_releases
from flows.releases.records import read_commit
from flows.releases.rollback import roll_back
from flows.runner.dvc_status import find_changes
from tasks.errors import DataError, ParamsError

_DVC_LACKS = "exist neither locally nor on remote"
"""What DVC says, and then succeeds, when there is nothing it could push. tests/pipeline/test_publish.py would notice a
change."""


def publish_release(
    root: Path, *, reason: str = "", accept: str | None = None, run_id: str | None = None
) -> ReleaseResult:
    """The release of what the pipeline made, carried as far as release.yaml says; old releases make room.

    Raises
    ------
    DataError, ParamsError
        The pipeline is not up to date, an artifact is missing or damaged, or Git could not take the release further;
        nothing has changed.
    RefusedError
        A gate failed; nothing but the log has changed.
    CarryError
        The release could not be put into DVC's cache (then it is not current), or not be carried further (then it
        is).
    StageError
        Another process is releasing or uses DVC, or the folder cannot be written.
    """
    policy = read_policy(root)
    check_git(root, policy)
    if changes := find_changes(root):
        raise DataError(f"the pipeline is not up to date ({_list(changes)}). Run 'epoxy run' to the end, then release.")
    return _publish(root, policy, None, reason=reason, accept=accept, run_id=run_id)


def publish_new_rows(
    root: Path, *, reason: str = "", accept: str | None = None, run_id: str | None = None
) -> ReleaseResult | None:
    """The current release with rows that it does not know labeled by its model, carried on; None where none is new.

    Ingest and apply have to be up to date; what comes after them need not.

    Raises
    ------
    DataError, ParamsError, RefusedError, CarryError, StageError
        As for `publish_release`; also where there is no release yet, or labeling functions changed since.
    """
    policy = read_policy(root)
    check_git(root, policy)
    changes = {stage: found for stage, found in find_changes(root).items() if stage in STAGES}
    if changes:
        raise DataError(f"not up to date: {_list(changes)}. Run 'epoxy run apply' to the end, then repeat.")
    new_rows = label_new_rows(root)
    counts = new_rows.labeled.counts
    if not (counts.new or counts.changed or counts.deleted):
        return None
    return _publish(root, policy, new_rows, reason=reason, accept=accept, run_id=run_id)


def publish_rollback(
    root: Path, to: str | None = None, *, reason: str = "", run_id: str | None = None
) -> ReleaseResult:
    """The release that is current now, told to Git as far as release.yaml says.

    Raises
    ------
    DataError, ParamsError
        There is no such release, it is damaged, or Git cannot take it further; nothing has changed.
    CarryError
        It is current here, but Git could not take it further.
    StageError
        Another process is releasing, or the folder cannot be written.
    """
    policy = read_policy(root)
    check_git(root, policy)
    result = roll_back(root, to, reason=reason, run_id=run_id)
    push_releases(root, policy, f"Roll back to release {result.id}")
    return _add_notes(root, result)


def check_git(root: Path, policy: Policy) -> None:
    """Return if Git can take pointers as far as `policy` says; asked before anything is made that could not be carried.

    Raises
    ------
    ParamsError
        There is no branch to commit to, or no remote to push to.
    """
    if policy.git is Git.NONE:
        return
    repo = GitRepo(root=root, timeout_seconds=policy.timeout_seconds)
    if obstacle := repo.find_obstacle(is_pushed=policy.git is Git.PUSH):
        raise ParamsError(f"{FILE}: 'git: {policy.git}' is not possible. {obstacle}, or set 'git: none'.")


def push_releases(root: Path, policy: Policy, message: str) -> None:
    """Push the bytes of all releases, then commit and push the pointers, as far as `policy` says; safe to repeat.

    Raises
    ------
    ParamsError
        As `check_git`.
    CarryError
        A command failed or took too long, or others kept pushing first; what was committed stays committed.
    """
    check_git(root, policy)
    pointers = [str(path.relative_to(root)) for path in sorted((root / FOLDER).glob("*.dvc"))]
    if policy.carry is Carry.REMOTE and pointers:
        # Before the pointers: whoever pulls them must find what they point to.
        complaints = run_dvc(root, "push", *pointers, timeout_seconds=policy.timeout_seconds)
        if any(_DVC_LACKS in line for line in complaints):
            raise CarryError(
                f"bytes of releases are neither in DVC's cache nor in its remote, as after a 'dvc gc'. 'dvc commit "
                f"--force {' '.join(pointers)}' puts those back whose folder is here; then 'epoxy releases push'."
            )
    repo = GitRepo(root=root, timeout_seconds=policy.timeout_seconds)
    if policy.git is not Git.NONE:
        repo.commit_pointers(message)
    if policy.git is Git.PUSH:
        repo.push_pointers(message)


def _list(changes: Mapping[str, tuple[str, ...]]) -> str:
    return "; ".join(f"{stage}: {', '.join(found[:3])}" for stage, found in changes.items())


def _publish(
    root: Path, policy: Policy, new_rows: NewRows | None, *, reason: str, accept: str | None, run_id: str | None
) -> ReleaseResult:
    result = create_release(
        root,
        policy.gates,
        new_rows=new_rows,
        reason=reason,
        accept=accept,
        run_id=run_id,
        carry=lambda release_id: _track(root, release_id, policy),
    )
    if policy.keep is not None:
        prune_releases(root, policy.keep, reason=f"keep: {policy.keep}", run_id=run_id)
    push_releases(root, policy, f"Release {result.id}")
    return _add_notes(root, result)


def _add_notes(root: Path, result: ReleaseResult) -> ReleaseResult:
    """`result` with notes on what the project lacks: release.yaml, or a commit that the manifest could name."""
    notes = [] if (defaults := describe_defaults(root)) is None else [defaults]
    commit = read_commit(root)
    if commit.id is None:
        lack, remedy = "the project has no commit of Git", "commit it ('git init' first where it is not under Git)"
        if commit.is_foreign:
            lack, remedy = "Git refuses the project's folder, which is another user's", trust_folder(root)
        notes.append(f"{lack}, so that the run record cannot name the code by its commit: {remedy}")
    return replace(result, notes=(*result.notes, *notes))


def _track(root: Path, release_id: str, policy: Policy) -> None:
    """Put the bytes of the release into DVC's cache, with a .dvc file beside its folder, where policy says so."""
    if policy.carry is Carry.FOLDER or (root / FOLDER / f"{release_id}.dvc").is_file():
        return
    # Without relinking, which would take files away and bring them back under a reader's eyes.
    run_dvc(root, "add", "--no-relink", str(FOLDER / release_id), timeout_seconds=policy.timeout_seconds)
