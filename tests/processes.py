"""What tests ask of other processes."""

import contextlib
import time
from collections.abc import Iterable

import psutil


def is_alive(pid: int) -> bool:
    """Whether process `pid` runs. A dead process stays in the system's table until its parent, or who adopted it, asks for it."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until_dead(pids: Iterable[int], seconds: float = 30) -> None:
    """Wait for the end of all processes `pids`: the system takes its time to end what was killed."""
    left, deadline = list(pids), time.monotonic() + seconds
    while left := [pid for pid in left if is_alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def find_children(word: str) -> list[int]:
    """Those of this process's descendants that run and have `word` among their arguments."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            if word in child.cmdline():
                found.append(child.pid)
    return found
