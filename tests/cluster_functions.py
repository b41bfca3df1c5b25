"""What workers of tests/servers/test_dask.py and test_ray.py run; they import it by name."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.params import EncoderParams


def pause_and_add(base: Sequence[int], shard: int) -> int:
    """base[0] + shard, in a while."""
    time.sleep(0.05)
    return base[0] + shard


def leave_pid(folder: Path, shard: int) -> int:
    """The square; the worker's process id lies in `folder` from the start, and the first shards take their time."""
    own = folder / f"{shard}.{os.getpid()}"
    own.touch()
    time.sleep(0.5 if shard < 2 else 0.01)
    return shard * shard


def end_worker(shard: int) -> int:
    """Nothing, ever, for shard 1."""
    if shard == 1:
        time.sleep(0.5)  # a worker that dies as soon as it is there may take its nanny along
        os.kill(os.getpid(), signal.SIGKILL)
    return shard


def refuse(shard: int) -> int:
    """Raises."""
    raise ValueError(f"no {shard}")


class Lengths:
    """An encoder."""

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.array([[len(text), ord(text[0])] for text in texts], np.float32)


def load_lengths(root: Path, params: EncoderParams) -> Lengths:
    """The encoder, where somebody asks for it."""
    return Lengths()
