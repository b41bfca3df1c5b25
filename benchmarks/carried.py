"""Bytes that a stage exchanges with a Dask cluster, without an object store, with an empty one, and with what lies there then.

A relay before the scheduler counts what the stage sends and receives, the check of the environment included; what it writes
to the store and reads there is counted at fsspec. The store is a folder, so seconds say nothing of networks.
"""

import hashlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tasks.cache import store
from tasks.compute import object_store
from tasks.compute.dask_cluster import ENVIRONMENT

WAYS = ("without a store", "with a store", "once more")


@dataclass(frozen=True, kw_only=True)
class Carried:
    """One row of the table: bytes, but for the seconds."""

    work: str
    way: str
    sent: int
    """To the scheduler."""
    received: int
    written: int
    """To the store, by the stage."""
    read: int
    seconds: float
    is_equal: bool
    """Whether it wrote what the first way did."""


def count_bytes(work: str, run: Callable[[], bytes], root: Path, scheduler: str) -> list[Carried]:
    """A row for each of `WAYS`, of which `run`, in the project at `root`, is done from an empty cache."""
    rows: list[Carried] = []
    relay, written = Relay(scheduler), set()
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {ENVIRONMENT: relay.address}):
        for way in WAYS:
            os.environ[object_store.ENVIRONMENT] = Path(folder).as_uri() if rows else ""
            shutil.rmtree(root / store.FOLDER, ignore_errors=True)
            before, began = (relay.sent, relay.received), time.perf_counter()
            with _watch_store() as amounts:
                written.add(hashlib.sha256(run()).digest())
            seconds = time.perf_counter() - began
            sent, received = relay.sent - before[0], relay.received - before[1]
            rows.append(
                Carried(
                    work=work,
                    way=way,
                    sent=sent,
                    received=received,
                    seconds=seconds,
                    is_equal=len(written) == 1,
                    **amounts,
                )
            )
    return rows


def print_table(rows: list[Carried]) -> None:
    """Print `rows`, in megabytes."""
    columns = ("sent", "received", "written", "read")
    print(
        f"{'work':8} {'way':16}"
        + "".join(f"{f'MB {column}':>13}" for column in columns)
        + f"{'seconds':>9} {'same bytes':>11}"
    )
    for row in rows:
        amounts = "".join(f"{getattr(row, column) / 1e6:13.2f}" for column in columns)
        print(f"{row.work:8} {row.way:16}{amounts} {row.seconds:8.2f} {'yes' if row.is_equal else 'NO':>11}")


@contextmanager
def _watch_store() -> Iterator[dict[str, Any]]:
    """What this process writes to a folder of objects and reads there, so far."""
    from fsspec.implementations.local import LocalFileSystem

    amounts = {"written": 0, "read": 0}
    put, get = LocalFileSystem.pipe_file, LocalFileSystem.cat_file

    def write(self: Any, path: str, value: bytes, **options: Any) -> Any:
        amounts["written"] += len(value)
        return put(self, path, value, **options)

    def read(self: Any, path: str, **options: Any) -> Any:
        content = get(self, path, **options)
        amounts["read"] += len(content)
        return content

    with patch.object(LocalFileSystem, "pipe_file", write), patch.object(LocalFileSystem, "cat_file", read):
        yield amounts


class Relay:
    """An address that passes all on to a scheduler and back, and counts it."""

    def __init__(self, scheduler: str) -> None:
        host, _, port = scheduler.partition("://")[2].rpartition(":")
        self._scheduler = host, int(port)
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._door.getsockname()[1]}"
        self.sent = self.received = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            stage, _ = self._door.accept()
            scheduler = socket.create_connection(self._scheduler)
            threading.Thread(target=self._pass, args=(stage, scheduler, "sent"), daemon=True).start()
            threading.Thread(target=self._pass, args=(scheduler, stage, "received"), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, name: str) -> None:
        with suppress(OSError):
            while content := source.recv(2**20):
                setattr(self, name, getattr(self, name) + len(content))
                target.sendall(content)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
