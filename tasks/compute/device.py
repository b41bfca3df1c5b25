"""Where exact search multiplies: on the processor, or on graphics cards.

Chosen by the environment, like where a cluster is: the neighbors are the same bytes, so that a colleague without a GPU,
or a worker without a GPU, shares the cache.
"""

import ctypes
import functools
import os
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from weakref import WeakKeyDictionary

from tasks.compute.cluster import ENGINES
from tasks.core.search.blocks import FoundInBlock, QueryBlock, SamePlan, SearchTask, find_block
from tasks.core.search.exact import QUERIES
from tasks.core.search.on_cards import AT_ONCE, Card, CardIsFull, CardSearch, NoCard
from tasks.errors import StageError

ENVIRONMENT = "EPOXY_DEVICE"
"""auto (the default): GPUs where there are any that can be used and the search is long; cpu; gpu: an error without any."""

WORTH = 10**12
"""Multiply-adds from which on `auto` looks for a GPU: 2 s of one core in 8-bit integers at 1,000 GFLOP/s, 13 s in float32 at
150; to import PyTorch alone takes seconds."""

THREADS_PER_CARD = 4
"""They make ready what a card searches next and put together what it found; how many are best was not measured."""

_making = threading.RLock()
_made: "WeakKeyDictionary[SearchTask, CardSearch]" = WeakKeyDictionary()


def find_cards() -> Sequence[Card]:
    """The cards of this machine that can be used, at least one.

    Raises
    ------
    NoCard
        There is none.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        try:
            ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        except OSError:
            raise NoCard("there is no driver of an NVIDIA GPU") from None
    if not (find_spec("torch") and find_spec("triton")):
        raise NoCard("PyTorch with Triton, the extra gpu, is not installed")
    try:
        from tasks.core.search.card import open_cards
    except Exception as error:  # whatever a broken installation raises
        raise NoCard(f"PyTorch cannot be imported ({type(error).__name__}: {error})") from None
    return open_cards()


def choose_cards(plan: SamePlan) -> Sequence[Card]:
    """The cards on which `plan` is searched as the environment says, none for the processor.

    Raises
    ------
    StageError
        The environment has none of the three words, or `gpu` where no GPU can be used.
    """
    device = os.environ.get(ENVIRONMENT) or "auto"
    if device not in ("auto", "cpu", "gpu"):
        raise StageError(f"{ENVIRONMENT} is {device!r}; expected auto, cpu or gpu.")
    if device == "cpu" or (device == "auto" and plan.multiply_adds < WORTH):
        return ()
    with _making:
        return _open(device)


@functools.cache
def _open(device: str) -> Sequence[Card]:
    """The cards; a line says what is used."""
    cards: Sequence[Card] = ()
    try:
        cards = find_cards()
    except NoCard as reason:
        if device == "gpu":
            raise StageError(
                f"{ENVIRONMENT} is gpu, but {reason}. Check the driver, install the extra gpu, "
                f"or set {ENVIRONMENT} to auto or cpu: the neighbors are the same."
            ) from None
        _tell(f"on the processor, since {reason}")
    else:
        _tell(f"on {'a GPU' if len(cards) == 1 else f'{len(cards)} GPUs'}")
    return cards


def forget() -> None:
    """Look for cards again, when they are next asked for."""
    _open.cache_clear()
    _tell.cache_clear()


@functools.cache
def _tell(line: str) -> None:
    """Say `line`, once."""
    print(f"exact search: {line}", file=sys.stderr)


def choose_block_size(plan: SamePlan) -> int:
    """How many queries are searched at a time: more on a card; workers of a cluster may have none."""
    is_spread = any(os.environ.get(name, "").strip() for name in ENGINES)
    return QUERIES if is_spread or not choose_cards(plan) else AT_ONCE


def search_block(task: SearchTask, block: QueryBlock) -> FoundInBlock:
    """What `find_block` gives, with the products on the device that the environment of this process chooses."""
    cards = choose_cards(task.plan) if isinstance(task.plan, SamePlan) else ()
    if not cards:
        return find_block(task, block)
    with _making:
        if task not in _made:
            _made[task] = CardSearch(task.support, task.plan.lf_classes, cards)
        search = _made[task]
    try:
        return find_block(task, block, search)
    except CardIsFull:
        _tell("some items on the processor, since the memory of the GPU is full")
        return find_block(task, block)
    except RuntimeError as error:  # PyTorch
        raise StageError(f"exact search: the GPU failed: {error}. Set {ENVIRONMENT} to cpu to do without.") from None
