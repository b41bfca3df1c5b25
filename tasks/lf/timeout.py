"""The timeout of a labeling function: an alarm that interrupts it on an item."""

import signal
import threading
from types import FrameType
from typing import Any

from tasks.lf.functions import RowwiseLF


class TimeOutError(BaseException):
    """An LF exceeded its timeout on an item; not an Exception, so that the LF's own `except` does not catch it."""


class Alarm:
    """Interrupts an LF that exceeds its timeout on an item; on the main thread only, since it uses signals."""

    def __init__(self, lf: RowwiseLF) -> None:
        self._seconds = lf.timeout if threading.current_thread() is threading.main_thread() else None
        self._previous: Any = None

    def __enter__(self) -> "Alarm":
        if self._seconds is not None:
            self._previous = signal.signal(signal.SIGALRM, self._ring)
        return self

    def __exit__(self, *_: object) -> None:
        if self._seconds is not None:
            self.stop()
            signal.signal(signal.SIGALRM, self._previous)

    def set(self) -> None:
        """Start the clock."""
        if self._seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def stop(self) -> None:
        """Stop the clock."""
        if self._seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        raise TimeOutError(f"gave no vote within its timeout of {self._seconds:g} s")
