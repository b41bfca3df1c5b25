"""What Ctrl-C does instead of a KeyboardInterrupt wherever the program happens to be."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_ctrl_c(handle: Callable[[], None]) -> Iterator[bool]:
    """Call `handle` at each Ctrl-C; gives whether it will be: not outside of the main thread, nor where somebody else handles it."""

    def handler(number: int, frame: FrameType | None) -> None:
        handle()

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield False
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield True
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
