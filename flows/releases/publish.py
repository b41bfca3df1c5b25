"""Carrying releases beyond their folder: DVC takes the bytes, Git the pointers. Nothing is ever forced.

Git gets commits made of the release pointers alone, put together beside the user's index and working tree, so that
neither staged nor unfinished work is swept in, and no commit of yours is pushed. When somebody else pushed meanwhile,
the pointers are put on top of what they pushed and pushed again.
"""

import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.releases.lineage import merge_logs
from flows.releases.policy import Carry, Git, Policy, read_policy
from flows.releases.store import (
    CURRENT,
    FOLDER,
    LOG,
    NIGHT_STAGES,
    Night,
    Released,
    create_release,
    label_night,
    prune_releases,
    roll_back,
)
from flows.runner.dvc_repo import find_changes
from flows.runner.failure import quote_complaint
from flows.runner.process import Commands, CommandTimeoutError, Line, Stream, make_environment
from tasks.errors import DataError, StageError

_ATTEMPTS = 5
"""Pushes that may come second; each time somebody else's went through in the seconds between our fetch and push."""

_DVC_LACKS = "exist neither locally nor on remote"
"""What DVC says, and then succeeds, when there is nothing it could push. tests/test_publish.py would notice a change."""

_NOTHING = "0" * 40
"""What Git calls no object, as the new content of a removed path."""


class CarryError(StageError):
    """The release is made and current here, but DVC or Git could not take it further."""


@dataclass(frozen=True, kw_only=True)
class _Pointer:
    """One path of Git's tree: its mode and blob; no blob where it is removed."""

    mode: str
    blob: str | None


def publish_release(root: Path, *, reason: str = "", accept: str | None = None, run_id: str | None = None) -> Released:
    """The release of what the pipeline made, carried as far as release.yaml says; old releases make room.

    Raises
    ------
    DataError
        The pipeline is not up to date, or an artifact is missing or damaged; nothing has changed.
    RefusedError
        A gate failed; nothing but the log has changed.
    CarryError
        The release could not be put into DVC's cache (then it is not current), or not be carried further (then it
        is).
    StageError
        Another process is releasing or uses DVC, or the folder cannot be written.
    """
    if changes := find_changes(root):
        raise DataError(f"the pipeline is not up to date ({_list(changes)}). Run 'epoxy run' to the end, then release.")
    return _publish(root, read_policy(root), None, reason=reason, accept=accept, run_id=run_id)


def publish_new_rows(
    root: Path, *, reason: str = "", accept: str | None = None, run_id: str | None = None
) -> Released | None:
    """The current release with rows that it does not know labeled by its model, carried on; None where none is new.

    Ingest and apply have to be up to date; what comes after them need not.

    Raises
    ------
    DataError, RefusedError, CarryError, StageError
        As for `publish_release`; also where there is no release yet, or labeling functions changed since.
    """
    policy = read_policy(root)
    changes = {stage: found for stage, found in find_changes(root).items() if stage in NIGHT_STAGES}
    if changes:
        raise DataError(f"not up to date: {_list(changes)}. Run 'epoxy run apply' to the end, then repeat.")
    night = label_night(root)
    counts = night.labeled.counts
    if not (counts.new or counts.changed or counts.deleted):
        return None
    return _publish(root, policy, night, reason=reason, accept=accept, run_id=run_id)


def _list(changes: Mapping[str, tuple[str, ...]]) -> str:
    return "; ".join(f"{stage}: {', '.join(found[:3])}" for stage, found in changes.items())


def _publish(
    root: Path, policy: Policy, night: Night | None, *, reason: str, accept: str | None, run_id: str | None
) -> Released:
    made = create_release(
        root,
        policy.gates,
        night=night,
        reason=reason,
        accept=accept,
        run_id=run_id,
        carry=lambda identity: _track(root, identity, policy),
    )
    if policy.keep is not None:
        prune_releases(root, policy.keep, reason=f"keep: {policy.keep}", run_id=run_id)
    push_releases(root, policy, f"Release {made.id}")
    return made


def publish_rollback(root: Path, to: str | None = None, *, reason: str = "", run_id: str | None = None) -> Released:
    """The release that is current now, told to Git as far as release.yaml says.

    Raises
    ------
    DataError
        There is no such release, or it is damaged; nothing has changed.
    CarryError
        It is current here, but Git could not take it further.
    StageError
        Another process is releasing, or the folder cannot be written.
    """
    policy = read_policy(root)
    made = roll_back(root, to, reason=reason, run_id=run_id)
    push_releases(root, policy, f"Roll back to release {made.id}")
    return made


def push_releases(root: Path, policy: Policy, message: str) -> None:
    """Push the bytes of all releases, then commit and push the pointers, as far as `policy` says; safe to repeat.

    Raises
    ------
    CarryError
        A command failed or took too long, or others kept pushing first; what was committed stays committed.
    """
    pointers = [str(path.relative_to(root)) for path in sorted((root / FOLDER).glob("*.dvc"))]
    if policy.carry is Carry.REMOTE and pointers:
        # Before the pointers: whoever pulls them must find what they point to.
        complaints = _run(root, policy, _dvc("push", *pointers))
        if any(_DVC_LACKS in line for line in complaints):
            raise CarryError(
                f"bytes of releases are neither in DVC's cache nor in its remote, as after a 'dvc gc'. 'dvc commit "
                f"--force {' '.join(pointers)}' puts those back whose folder is here; then 'epoxy releases push'."
            )
    if policy.git is not Git.NONE:
        _commit(root, policy, message)
    if policy.git is Git.PUSH:
        _push(root, policy, message)


def _track(root: Path, identity: str, policy: Policy) -> None:
    """Put the bytes of release `identity` into DVC's cache, with a .dvc file beside its folder, where policy says so."""
    if policy.carry is Carry.FOLDER or (root / FOLDER / f"{identity}.dvc").is_file():
        return
    # Without relinking, which would take files away and bring them back under a reader's eyes.
    _run(root, policy, _dvc("add", "--no-relink", str(FOLDER / identity)))


def _commit(root: Path, policy: Policy, message: str) -> None:
    """Commit the pointers on the current branch, leaving index and working tree of everything else alone."""
    branch = _git(root, policy, "symbolic-ref", "--quiet", "HEAD")
    head = _git(root, policy, "rev-parse", "--verify", "HEAD")
    pointers = _read_pointers(root, policy, head)
    commit = _make_commit(root, policy, parent=head, pointers=pointers, message=message)
    if commit != head:
        # Git refuses this where somebody committed since we looked.
        _git(root, policy, "update-ref", "-m", f"epoxy: {message}", branch, commit, head)
    _update_index(root, policy, pointers, index=None)


def _push(root: Path, policy: Policy, message: str) -> None:
    """Push the pointers that Git's branch has and its remote lacks, on top of whatever the remote has."""
    branch = _git(root, policy, "symbolic-ref", "--quiet", "--short", "HEAD")
    remote = _git(root, policy, "config", "--default", "origin", "--get", f"branch.{branch}.remote")
    target = _git(root, policy, "config", "--default", f"refs/heads/{branch}", "--get", f"branch.{branch}.merge")
    head = _git(root, policy, "rev-parse", "--verify", "HEAD")
    for _ in range(_ATTEMPTS):
        _run(root, policy, ["git", "fetch", "--quiet", remote, target])
        tip = _git(root, policy, "rev-parse", "--verify", "FETCH_HEAD")
        if tip == head:
            return
        if _git(root, policy, "rev-list", "--parents", "--max-count=1", head).split()[1:] == [tip]:
            commit = head  # nobody pushed meanwhile, and nothing of yours waits below: our own commit fits as it is
        else:
            base = _git(root, policy, "merge-base", head, tip)
            pointers = _merge(root, policy, _read_changes(root, policy, base, head), tip)
            commit = _make_commit(root, policy, parent=tip, pointers=pointers, message=message)
        if commit == tip:
            return
        try:
            _run(root, policy, ["git", "push", "--quiet", remote, f"{commit}:{target}"])
        except CarryError as error:
            refusal = error
            continue
        return
    raise CarryError(
        f"{refusal}\nThe release is current and committed here. Repeat the push with 'epoxy releases push' once the "
        "remote takes it."
    )


def _read_pointers(root: Path, policy: Policy, commit: str) -> dict[str, _Pointer]:
    """The pointers as they are in the folder, and those of `commit` that are gone from it."""
    prefix = _git(root, policy, "rev-parse", "--show-prefix")
    pointers = {name: _Pointer(mode="0", blob=None) for name in _list_tree(root, policy, commit)}
    folder = root / FOLDER
    for path in [folder / CURRENT, folder / LOG, *sorted(folder.glob("*.dvc"))]:
        if path.is_symlink():
            blob = _write_blob(root, policy, os.fsencode(path.readlink()))
            pointers[f"{prefix}{FOLDER / path.name}"] = _Pointer(mode="120000", blob=blob)
        elif path.is_file():
            blob = _write_blob(root, policy, path.read_bytes())
            pointers[f"{prefix}{FOLDER / path.name}"] = _Pointer(mode="100644", blob=blob)
    return pointers


def _list_tree(root: Path, policy: Policy, commit: str) -> list[str]:
    names = _git(root, policy, "ls-tree", "--name-only", "--full-name", commit, f"{FOLDER}/").splitlines()
    return [name for name in names if name.endswith(".dvc") or name.rpartition("/")[2] in (CURRENT, LOG)]


def _read_changes(root: Path, policy: Policy, base: str, head: str) -> dict[str, _Pointer]:
    """What happened to pointers from `base` to `head`."""
    pointers = {}
    lines = _git(root, policy, "diff-tree", "-r", "--no-renames", base, head, "--", str(FOLDER)).splitlines()
    for line in lines:
        fields, _, name = line.removeprefix(":").partition("\t")
        _, mode, _, blob, _ = fields.split()
        pointers[name] = _Pointer(mode=mode, blob=None if set(blob) == {"0"} else blob)
    return pointers


def _merge(root: Path, policy: Policy, pointers: Mapping[str, _Pointer], tip: str) -> dict[str, _Pointer]:
    """`pointers` with the log's lines joined to those at `tip`; in all else ours is the newest."""
    merged = dict(pointers)
    for name, pointer in pointers.items():
        if name.endswith(f"/{LOG}") or name == LOG:
            theirs = _git(root, policy, "ls-tree", "--full-tree", "--object-only", tip, name)
            if theirs and pointer.blob and theirs != pointer.blob:
                joined = merge_logs(_read_blob(root, policy, pointer.blob), _read_blob(root, policy, theirs))
                merged[name] = _Pointer(mode=pointer.mode, blob=_write_blob(root, policy, joined))
    return merged


def _make_commit(root: Path, policy: Policy, *, parent: str, pointers: Mapping[str, _Pointer], message: str) -> str:
    """A commit on `parent` that changes `pointers` alone; `parent` itself where they are the same there."""
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        _git(root, policy, "read-tree", parent, index=index)
        _update_index(root, policy, pointers, index=index)
        tree = _git(root, policy, "write-tree", index=index)
    if tree == _git(root, policy, "rev-parse", f"{parent}^{{tree}}"):
        return parent
    # A commit needs an author, also where nobody configured one, as in a container.
    author = [
        f"user.{key}={_git(root, policy, 'config', '--default', value, '--get', f'user.{key}')}"
        for key, value in (("name", "epoxy"), ("email", "epoxy@localhost"))
    ]
    return _git(root, policy, "-c", author[0], "-c", author[1], "commit-tree", tree, "-p", parent, "-m", message)


def _update_index(root: Path, policy: Policy, pointers: Mapping[str, _Pointer], *, index: Path | None) -> None:
    lines = [f"{one.mode} {one.blob or _NOTHING}\t{name}\n" for name, one in pointers.items()]
    _git(root, policy, "update-index", "--index-info", index=index, stdin="".join(lines).encode())


def _write_blob(root: Path, policy: Policy, content: bytes) -> str:
    return _git(root, policy, "hash-object", "-w", "--stdin", stdin=content)


def _read_blob(root: Path, policy: Policy, blob: str) -> bytes:
    return _ask_git(root, policy, ["cat-file", "blob", blob])


def _git(root: Path, policy: Policy, *arguments: str, index: Path | None = None, stdin: bytes = b"") -> str:
    return _ask_git(root, policy, list(arguments), index=index, stdin=stdin).decode().strip()


def _ask_git(
    root: Path, policy: Policy, arguments: list[str], *, index: Path | None = None, stdin: bytes = b""
) -> bytes:
    """What Git says, from this machine's disk alone.

    Raises
    ------
    CarryError
        It failed or took too long.
    """
    env = os.environ | ({"GIT_INDEX_FILE": str(index)} if index else {})
    try:
        ended = subprocess.run(
            ["git", *arguments], cwd=root, env=env, input=stdin, capture_output=True, timeout=policy.timeout_seconds
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CarryError(f"'git {' '.join(arguments)}': {error}") from None
    if ended.returncode:
        raise CarryError(
            f"'git {' '.join(arguments)}' failed with exit code {ended.returncode}: "
            f"{ended.stderr.decode(errors='replace').strip() or 'no message'}"
        )
    return ended.stdout


def _dvc(*arguments: str) -> list[str]:
    # Another DVC command, as a `dvc repro` by hand, is waited for. Without --quiet, which hides why one failed.
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]


def _run(root: Path, policy: Policy, command: list[str]) -> tuple[str, ...]:
    """The last lines that a command wrote to standard error, which may ask the network; it dies with this process.

    Raises
    ------
    CarryError
        It failed or took too long.
    """
    complaints: deque[str] = deque(maxlen=20)

    def hear(line: Line) -> None:
        if line.stream is Stream.ERR:
            complaints.append(line.text)

    env = make_environment(os.environ) | {"GIT_TERMINAL_PROMPT": "0"}  # nobody is there to type a password
    name = " ".join(command[2:] if command[0] == sys.executable else command)
    try:
        code = Commands().run(
            command,
            cwd=root,
            env=env,
            timeout_seconds=policy.timeout_seconds,
            on_line=hear,
        )
    except CommandTimeoutError:
        raise CarryError(f"'{name}' took longer than {policy.timeout_seconds:g} s and was ended.") from None
    if code:
        raise CarryError(f"'{name}' failed with exit code {code}{quote_complaint(complaints) or ': no message'}")
    return tuple(complaints)
