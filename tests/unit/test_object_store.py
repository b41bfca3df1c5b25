"""Shards by way of an object store, with workers in this process: what lies there, when, and what goes wrong."""

import datetime
import pickle
import sys

import numpy as np
import polars as pl
import pytest

from tasks.compute import object_store
from tasks.compute.object_store import ENVIRONMENT, FOLDER, carry_by_store
from tasks.errors import StageError

ROWS = 40_000


class Workers:
    """A cluster of this process, in which everything travels as a pickle; whenever something has set out, `disturb` is called."""

    def __init__(self, disturb=lambda: None):
        self.sent = self.received = 0
        self.disturb = disturb

    def spread(self, function, shards, *, name, shared=(), rescue=None):
        task = pickle.dumps((function, shared))
        for shard in shards:
            request = pickle.dumps(shard)
            self.disturb()
            performed, given = pickle.loads(task)
            try:
                answer = pickle.dumps(performed(*given, pickle.loads(request)))
            except ChildProcessError:
                yield shard, rescue(shard)
                continue
            self.disturb()
            self.sent += len(request)
            self.received += len(answer)
            yield shard, pickle.loads(answer)
        self.sent += len(task)


def scale(factors, shift, shard):
    """A table of `shard` times the sum of `factors`, and `shift` more."""
    return pl.DataFrame({"product": shard * factors.sum() + shift})


def die(shard):
    raise ChildProcessError


class Program:
    """What runs when somebody unpickles it."""

    def __reduce__(self):
        return print, ("executed",)


def name(shard):
    return f"the shard from {shard[0]:g} on"


FACTORS = np.arange(ROWS, dtype=np.float64)
SHARDS = [np.arange(start, start + ROWS, dtype=np.float64) for start in (1, 2)]
SHIFT = np.arange(ROWS, 0, -1, dtype=np.float64)
EXPECTED = [scale(FACTORS, SHIFT, shard) for shard in SHARDS]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, tmp_path.as_uri())
    monkeypatch.setattr(object_store, "_common", None)
    return tmp_path / FOLDER


@pytest.fixture
def written(monkeypatch):
    """The names of objects written."""
    names, write = [], object_store.Store._write
    monkeypatch.setattr(
        object_store.Store, "_write", lambda self, name, content: (names.append(name), write(self, name, content))
    )
    return names


def spread(shards=SHARDS, workers=None):
    with carry_by_store(workers or Workers()) as cluster:
        found = list(cluster.spread(scale, shards, name=name, shared=[FACTORS, SHIFT]))
    assert all(given is shard for (given, _), shard in zip(found, shards, strict=True))
    return [result for _, result in found]


def equals(found):
    return len(found) == len(EXPECTED) and all(map(pl.DataFrame.equals, found, EXPECTED))


def names_of(folder):
    return sorted(path.name for path in folder.iterdir())


def test_large_parts_go_by_the_store_once_and_results_are_removed(folder, written):
    workers = Workers()
    assert equals(spread(workers=workers))
    assert workers.sent < 5000 and workers.received < 5000
    results = [name for name in written if "-" in name]
    inputs = [name for name in written if "-" not in name]
    assert len(inputs) == 4 and len(results) == 2 and names_of(folder) == sorted(inputs)
    written.clear()
    assert equals(spread())
    assert len(written) == 2 and all("-" in name for name in written)


def test_small_parts_stay_in_the_request(folder):
    with carry_by_store(Workers()) as cluster:
        found = list(cluster.spread(scale, [shard[:3] for shard in SHARDS], name=name, shared=[FACTORS[:3], 0]))
    assert [result["product"].to_list() for _, result in found] == [[3, 6, 9], [6, 9, 12]]
    assert names_of(folder) == []


def test_without_the_variable_nothing_changes(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, " ")
    workers = Workers()
    with carry_by_store(workers) as cluster:
        assert cluster is workers


@pytest.mark.parametrize("when", range(4), ids=["all", "a result", "a shard", "the last result"])
@pytest.mark.parametrize("damage", ["removed", "cut", "changed", "a program"])
def test_what_is_lost_or_damaged_is_written_again_and_never_executed(folder, written, when, damage, capsys):
    moments = iter(range(100))
    program = pickle.dumps(Program())

    def disturb():
        if next(moments) == when:
            for path in folder.iterdir():
                if damage == "removed":
                    path.unlink()
                else:
                    size = path.stat().st_size
                    path.write_bytes({"cut": bytes(1), "changed": bytes(size), "a program": program}[damage])

    assert equals(spread(workers=Workers(disturb)))
    assert max(map(written.count, written)) == 2
    assert "executed" not in capsys.readouterr().out


def test_an_object_that_is_never_there_is_an_error(folder, monkeypatch):
    write = object_store.Store._write
    monkeypatch.setattr(object_store.Store, "_write", lambda self, name, content: write(self, name, content[:-1]))
    with pytest.raises(StageError, match=r"the shard from 1 on: the object \w+ below .* is damaged: .*each of 4 times"):
        spread()


def test_objects_of_yesterday_are_removed_and_nothing_else(folder, monkeypatch):
    spread()
    (folder / "mine.txt").touch()
    (folder.parent / ("0" * 64)).touch()
    monkeypatch.setattr(object_store, "KEEP", datetime.timedelta())
    assert equals(spread())
    assert names_of(folder) == ["mine.txt"]
    assert (folder.parent / ("0" * 64)).exists()


def test_what_a_shard_raises_still_has_its_results_removed(folder):
    def shards():
        yield SHARDS[0]
        yield SHARDS[1]
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"), carry_by_store(Workers()) as cluster:
        list(cluster.spread(scale, shards(), name=name, shared=[FACTORS, SHIFT]))
    assert len(names_of(folder)) == 4 and not any("-" in name for name in names_of(folder))


def test_a_shard_that_ends_workers_is_rescued_with_what_it_was(folder):
    with carry_by_store(Workers()) as cluster:
        found = list(cluster.spread(die, SHARDS, name=name, rescue=lambda shard: shard[0]))
    assert [result for _, result in found] == [1, 2]


def test_objects_that_may_not_be_removed_are_told(folder, monkeypatch, capsys):
    def refuse(self, path):
        raise PermissionError("Access Denied.")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.rm_file", refuse)
    assert equals(spread())
    assert "cannot be removed: PermissionError: Access Denied. They hold" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///nowhere/at/all", r"cannot use file:///nowhere/at/all \(EPOXY_SHARDS\): FileNotFoundError: there is no folder"),
        ("s3://bucket/prefix", r"ImportError: Install s3fs.*pip install 'dvc\[s3\]'"),
        ("nothing://x", r"cannot use nothing://x .*Protocol not known"),
        ("sftp://me:Secret@127.0.0.1:1/x", r"cannot use sftp://127.0.0.1:1/x .*unset EPOXY_SHARDS"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_an_error(monkeypatch, url, message):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setenv(ENVIRONMENT, url)
    with pytest.raises(StageError, match=message) as error, carry_by_store(Workers()):
        pass
    assert "Secret" not in str(error.value)
