"""Commits and pushes of release pointers alone: the .dvc files, `current` and the log.

Commits are put together beside the user's index and working tree, so that neither staged nor unfinished work is swept
in, and no commit of the user's is pushed. When somebody else pushed meanwhile, the pointers are put on top of what they
pushed and pushed again. Nothing is ever forced.
"""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.releases.commands import CarryError, run_command
from flows.releases.last_run import ENGLISH, is_foreign, trust_folder
from flows.releases.lineage import merge_logs
from flows.releases.manifest import FOLDER
from flows.releases.store import CURRENT, LOG

_ATTEMPTS = 5
"""Pushes that may come second; each time somebody else's went through in the seconds between our fetch and push."""

_NOTHING = "0" * 40
"""What Git calls no object, as the new content of a removed path."""


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """Mode and blob of a path in Git's tree; no blob where it is removed."""

    mode: str
    blob: str | None


@dataclass(frozen=True, kw_only=True)
class GitRepo:
    """The Git repository that the project at `root` lies in; each command may take `timeout_seconds`.

    Every method raises `CarryError` where a command of Git fails or takes too long.
    """

    root: Path
    timeout_seconds: float

    def find_obstacle(self, *, is_pushed: bool) -> str | None:
        """Why pointers cannot be committed (and pushed, where `is_pushed`), with what to do; None if they can."""
        try:
            self._ask("rev-parse", "--git-dir")
        except CarryError as error:
            if is_foreign(str(error)):
                return f"Git refuses the project's folder, which is another user's: {trust_folder(self.root)}"
            return "the project is not under Git: run 'git init' in its root and commit it"
        try:
            branch = self._ask("symbolic-ref", "--quiet", "--short", "HEAD")
        except CarryError:
            # A commit on no branch is lost with the next 'git switch', and nobody could pull it.
            return "HEAD is detached, so that a commit would be on no branch: run 'git switch BRANCH'"
        try:
            self._ask("rev-parse", "--verify", "--quiet", "HEAD")
        except CarryError:
            return f"branch {branch} has no commit yet: commit the project first"
        remote = self._find_remote(branch)
        if is_pushed and remote not in self._ask("remote").splitlines():
            return f"branch {branch} is pushed to '{remote}', and Git knows no such remote: run 'git remote add {remote} URL'"
        return None

    def commit_pointers(self, message: str) -> None:
        """Commit the pointers on the current branch, leaving index and working tree of everything else alone."""
        branch = self._ask("symbolic-ref", "--quiet", "HEAD")
        head = self._ask("rev-parse", "--verify", "HEAD")
        pointers = self._read_pointers(head)
        commit = self._make_commit(parent=head, pointers=pointers, message=message)
        if commit != head:
            # Git refuses this where somebody committed since we looked.
            self._ask("update-ref", "-m", f"epoxy: {message}", branch, commit, head)
        self._update_index(pointers, index=None)

    def push_pointers(self, message: str) -> None:
        """Push the pointers that Git's branch has and its remote lacks, on top of whatever the remote has.

        Raises
        ------
        CarryError
            Also where others kept pushing first.
        """
        branch = self._ask("symbolic-ref", "--quiet", "--short", "HEAD")
        remote = self._find_remote(branch)
        target = self._ask("config", "--default", f"refs/heads/{branch}", "--get", f"branch.{branch}.merge")
        head = self._ask("rev-parse", "--verify", "HEAD")
        for _ in range(_ATTEMPTS):
            tip = self.fetch(remote, target)
            if tip == head:
                return
            commit = self._put_on_top(tip, head, message)
            if commit == tip:
                return
            try:
                self.push(remote, commit, target)
            except CarryError as error:
                refusal = error
                continue
            return
        raise CarryError(
            f"{refusal}\nThe release is current and committed here. Repeat the push with 'epoxy releases push' once "
            "the remote takes it."
        )

    def _find_remote(self, branch: str) -> str:
        return self._ask("config", "--default", "origin", "--get", f"branch.{branch}.remote")

    def fetch(self, remote: str, branch: str) -> str:
        """The commit that `branch` of `remote` is at now."""
        run_command(self.root, ["git", "fetch", "--quiet", remote, branch], timeout_seconds=self.timeout_seconds)
        return self._ask("rev-parse", "--verify", "FETCH_HEAD")

    def push(self, remote: str, commit: str, branch: str) -> None:
        """Push `commit` to `branch` of `remote`, which refuses what does not follow from what it has."""
        command = ["git", "push", "--quiet", remote, f"{commit}:{branch}"]
        run_command(self.root, command, timeout_seconds=self.timeout_seconds)

    def _put_on_top(self, tip: str, head: str, message: str) -> str:
        """The commit that follows `tip` and has what `head` says of pointers; `tip` itself where it has that already."""
        if self._ask("rev-list", "--parents", "--max-count=1", head).split()[1:] == [tip]:
            return head  # nobody pushed meanwhile, and no commit of yours waits below: our commit fits as it is
        base = self._ask("merge-base", head, tip)
        pointers = self._merge(self._read_changes(base, head), tip)
        return self._make_commit(parent=tip, pointers=pointers, message=message)

    def _read_pointers(self, commit: str) -> dict[str, Pointer]:
        """The pointers as they are in the folder, and those of `commit` that are gone from it."""
        prefix = self._ask("rev-parse", "--show-prefix")
        pointers = {name: Pointer(mode="0", blob=None) for name in self._list_tree(commit)}
        folder = self.root / FOLDER
        for path in [folder / CURRENT, folder / LOG, *sorted(folder.glob("*.dvc"))]:
            if path.is_symlink():
                blob = self._write_blob(os.fsencode(path.readlink()))
                pointers[f"{prefix}{FOLDER / path.name}"] = Pointer(mode="120000", blob=blob)
            elif path.is_file():
                blob = self._write_blob(path.read_bytes())
                pointers[f"{prefix}{FOLDER / path.name}"] = Pointer(mode="100644", blob=blob)
        return pointers

    def _list_tree(self, commit: str) -> list[str]:
        """The paths of pointers in `commit`."""
        names = self._ask("ls-tree", "--name-only", "--full-name", commit, f"{FOLDER}/").splitlines()
        return [name for name in names if name.endswith(".dvc") or name.rpartition("/")[2] in (CURRENT, LOG)]

    def _read_changes(self, base: str, head: str) -> dict[str, Pointer]:
        """What happened to pointers from `base` to `head`."""
        pointers = {}
        for line in self._ask("diff-tree", "-r", "--no-renames", base, head, "--", str(FOLDER)).splitlines():
            fields, _, name = line.removeprefix(":").partition("\t")
            _, mode, _, blob, _ = fields.split()
            pointers[name] = Pointer(mode=mode, blob=None if set(blob) == {"0"} else blob)
        return pointers

    def _merge(self, pointers: Mapping[str, Pointer], tip: str) -> dict[str, Pointer]:
        """`pointers` with the log's lines joined to those at `tip`; in all else ours is the newest."""
        merged = dict(pointers)
        for name, pointer in pointers.items():
            if name.endswith(f"/{LOG}") or name == LOG:
                theirs = self._ask("ls-tree", "--full-tree", "--object-only", tip, name)
                if theirs and pointer.blob and theirs != pointer.blob:
                    joined = merge_logs(self._read_blob(pointer.blob), self._read_blob(theirs))
                    merged[name] = Pointer(mode=pointer.mode, blob=self._write_blob(joined))
        return merged

    def _make_commit(self, *, parent: str, pointers: Mapping[str, Pointer], message: str) -> str:
        """A commit on `parent` that changes `pointers` alone; `parent` itself where they are the same there."""
        with tempfile.TemporaryDirectory() as folder:
            index = Path(folder) / "index"
            self._ask("read-tree", parent, index=index)
            self._update_index(pointers, index=index)
            tree = self._ask("write-tree", index=index)
        if tree == self._ask("rev-parse", f"{parent}^{{tree}}"):
            return parent
        # A commit needs an author, also where nobody configured one, as in a container.
        author = [
            f"user.{key}={self._ask('config', '--default', value, '--get', f'user.{key}')}"
            for key, value in (("name", "epoxy"), ("email", "epoxy@localhost"))
        ]
        return self._ask("-c", author[0], "-c", author[1], "commit-tree", tree, "-p", parent, "-m", message)

    def _update_index(self, pointers: Mapping[str, Pointer], *, index: Path | None) -> None:
        lines = [f"{pointer.mode} {pointer.blob or _NOTHING}\t{name}\n" for name, pointer in pointers.items()]
        self._ask("update-index", "--index-info", index=index, stdin="".join(lines).encode())

    def _write_blob(self, content: bytes) -> str:
        return self._ask("hash-object", "-w", "--stdin", stdin=content)

    def _read_blob(self, blob: str) -> bytes:
        return self._ask_bytes("cat-file", "blob", blob)

    def _ask(self, *arguments: str, index: Path | None = None, stdin: bytes = b"") -> str:
        return self._ask_bytes(*arguments, index=index, stdin=stdin).decode().strip()

    def _ask_bytes(self, *arguments: str, index: Path | None = None, stdin: bytes = b"") -> bytes:
        """What Git writes to standard output, from this machine's disk alone."""
        command = ["git", *arguments]
        env = os.environ | ENGLISH | ({"GIT_INDEX_FILE": str(index)} if index else {})
        try:
            ended = subprocess.run(
                command, cwd=self.root, env=env, input=stdin, capture_output=True, timeout=self.timeout_seconds
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CarryError(f"'{' '.join(command)}': {error}") from None
        if ended.returncode:
            raise CarryError(
                f"'{' '.join(command)}' failed with exit code {ended.returncode}: "
                f"{ended.stderr.decode(errors='replace').strip() or 'no message'}"
            )
        return ended.stdout
