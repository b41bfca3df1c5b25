"""`python -m benchmarks.made_up` in a project to throw away: its stage `search`, with neighbors that nobody has searched.

All else is done as ever: votes and index are read, the support is built, and what comes instead of neighbors is written and
remembered, but under a name that no other run asks for. So it takes what a search costs that multiplies nothing, which is what is
left of it beside a GPU.
"""

from pathlib import Path
from unittest.mock import patch

import numpy as np

from tasks.__main__ import run_stage
from tasks.core.search.blocks import FoundInBlock, QueryBlock, SearchTask
from tasks.core.search.exact import Nearest
from tasks.core.types import NOBODY
from tasks.neighbors import passes, run


def make_up(task: SearchTask, block: QueryBlock) -> FoundInBlock:
    """The first member of each LF class for every item that asks, half as near as an item is to itself."""
    lf_classes = task.support.lf_classes
    asks = block.asking.T[[lf_class.lf for lf_class in lf_classes]]
    first = np.array([lf_class.positions[0] for lf_class in lf_classes])
    nearest = Nearest(
        similarity=np.where(asks, np.float32(0.5), np.float32(np.nan)),
        position=np.where(asks, first[:, None], NOBODY),
    )
    return FoundInBlock(nearest=nearest, compared=0)


if __name__ == "__main__":
    with patch.object(passes, "search_block", make_up), patch.object(run, "identify_code", lambda _: "made up"):
        run_stage(Path(), "search")
