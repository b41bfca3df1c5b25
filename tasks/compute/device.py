"""Where exact search multiplies: on the processor, or on a GPU that faiss sees.

Chosen by the environment, like where a cluster is: the neighbors are the same bytes, so that a colleague without a GPU,
or a worker without a GPU, shares the cache.
"""

import functools
import os
import sys
import threading
from weakref import WeakKeyDictionary

from tasks.core.search.blocks import FoundInBlock, QueryBlock, SamePlan, SearchTask, find_block
from tasks.core.search.candidates import CandidateIndexes
from tasks.core.search.faiss_index import count_gpus, make_gpu_builder
from tasks.errors import StageError

ENVIRONMENT = "EPOXY_DEVICE"
"""auto (the default): a GPU where faiss sees any; cpu; gpu: an error where faiss sees none."""

_making = threading.Lock()
_made: "WeakKeyDictionary[SearchTask, CandidateIndexes]" = WeakKeyDictionary()


@functools.cache
def is_gpu_used(device: str) -> bool:
    """Whether `device`, a value of the environment, means a GPU here; says so where that is not plain.

    Raises
    ------
    StageError
        It is none of the three words, or `gpu` where faiss sees no GPU.
    """
    if device not in ("auto", "cpu", "gpu"):
        raise StageError(f"{ENVIRONMENT} is {device!r}; expected auto, cpu or gpu.")
    if device == "cpu":
        return False
    count = count_gpus()
    if device == "gpu" and not count:
        raise StageError(
            f"{ENVIRONMENT} is gpu, but faiss sees no GPU. Install a build of faiss with GPU support in place of faiss-cpu, "
            f"check the driver, or set {ENVIRONMENT} to auto or cpu: the neighbors are the same."
        )
    print(
        f"search: exact products on {'a GPU' if count else 'the processor, since faiss sees no GPU'}", file=sys.stderr
    )
    return bool(count)


def search_block(task: SearchTask, block: QueryBlock) -> FoundInBlock:
    """What `find_block` gives, with the products on the device that the environment of this process chooses."""
    if not isinstance(task.plan, SamePlan) or not is_gpu_used(os.environ.get(ENVIRONMENT) or "auto"):
        return find_block(task, block)
    with _making:
        if task not in _made:
            _made[task] = CandidateIndexes(task.support, task.plan.lf_classes, make_gpu_builder())
        proposals = _made[task]
    try:
        return find_block(task, block, proposals)
    except RuntimeError as error:  # faiss
        raise StageError(f"search: the GPU failed: {error}. Set {ENVIRONMENT} to cpu to do without.") from None
