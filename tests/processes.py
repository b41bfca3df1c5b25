"""What tests ask of other processes."""

import contextlib
import random
import socket
import time
from collections.abc import Iterable

import psutil

_PORTS = range(20_000, 32_000)
"""Below those that Linux and macOS give to every connection and to whoever asks for any port."""


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


def find_free_port() -> int:
    """A port on which nothing listens, for a server that is started later and takes only a number.

    Had the system chosen it, the system could give it to another process before that server listens.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):  # taken: try another
            probe.bind(("127.0.0.1", random.SystemRandom().choice(_PORTS)))
            return int(probe.getsockname()[1])
