"""The lock of releases: a single process at a time changes them, and the lock dies with that process."""

import fcntl
import getpass
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.releases.files import is_folder
from flows.releases.manifest import FOLDER
from tasks.errors import StageError

LOCK_SECONDS = 60.0
"""How long to wait for another process, which holds the lock for seconds."""

PART = ".part"
"""How names of unfinished files and folders end; whoever takes the lock removes them."""

_LOCK = ".lock"


@contextmanager
def lock_releases(root: Path) -> Iterator[Path]:
    """The folder of releases, for this process alone, without leftovers of processes that died.

    Raises
    ------
    StageError
        Another process holds the lock for too long, or the folder cannot be written.
    """
    folder = root / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        if not is_folder(folder):
            raise StageError(f"{FOLDER} is not a plain folder of the project. Move it away and repeat.")
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _wait_for_lock(descriptor)
            _sign_lock(descriptor)
            _remove_leftovers(folder)
            try:
                yield folder
            finally:
                _remove_leftovers(folder)
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        where = f" ({Path(error.filename).name})" if isinstance(error.filename, str) else ""
        raise StageError(
            f"{FOLDER}{where}: {error.strerror or error}. The last release is in place. Make room there, or let user "
            f"{user_name()} write there, and repeat."
        ) from error


def _wait_for_lock(descriptor: int) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(descriptor, 512, 0).decode(errors="replace").strip() or "another process"
                raise StageError(
                    f"{FOLDER} is in use by {holder}; waited {LOCK_SECONDS:.0f} s. Repeat when it is done; the lock "
                    "ends with that process."
                ) from None
            time.sleep(0.05)


def _sign_lock(descriptor: int) -> None:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} ({command})\n".encode(), 0)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f".*{PART}"):
        if is_folder(path):
            shutil.rmtree(path)
        else:
            path.unlink()


def user_name() -> str:
    """The name of the user who runs this process, or the user's number where there is no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())  # a container may run as a user without a name
