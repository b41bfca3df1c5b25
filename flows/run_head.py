"""What of a run begins before Prefect is imported, and takes as long: its temporary server, and its first stages meanwhile."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.runner.dvc_graph import Stage
from flows.runner.early_stages import EarlyStages
from flows.runner.listener import TERMINAL, show_stages_in_terminal
from flows.server import TemporaryServer, begin_temporary_server


@dataclass(frozen=True, kw_only=True)
class Head:
    """The server of a run, started and not waited for, and the first of its stages, which run."""

    server: TemporaryServer
    early: EarlyStages


@contextmanager
def begin_head(root: Path, stages: Sequence[Stage], *, quiet: bool) -> Iterator[Head]:
    """The head of a run of `stages` of the project at `root`, the working directory; with the block, its stages have ended.

    Raises
    ------
    ServerError
        Prefect cannot write its database.
    """
    show_stages_in_terminal(least=logging.WARNING if quiet else logging.INFO)
    TERMINAL.info("starting a Prefect server for this run; stages begin meanwhile")
    server = begin_temporary_server()
    with EarlyStages(root, stages) as early:
        yield Head(server=server, early=early)
