"""The stages on a real Ray cluster of this machine: the same bytes as here, and what happens when things die."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import cluster_functions
import numpy as np
import polars as pl
import psutil
import pytest
from cluster_project import LFS, make_items, make_search_task, name, run_apply, run_search

from tasks.compute import engine, object_store
from tasks.compute.cluster import open_cluster
from tasks.compute.dask_cluster import ENVIRONMENT as DASK
from tasks.compute.ray_cluster import ENVIRONMENT
from tasks.errors import LabelingFunctionError, StageError
from tasks.params import EncoderParams, IndexKind
from tasks.readers import encoder
from tasks.tables.paths import VOTES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """That of a cluster of this machine alone, with two processors."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("r")  # short: sockets lie below it
    ray = Path(sys.executable).with_name("ray")
    options = [
        f"--port={port}",
        "--num-cpus=2",
        "--include-dashboard=false",
        "--disable-usage-stats",
        f"--temp-dir={folder}",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(
        [ray, "start", "--head", "--block", "--node-ip-address=127.0.0.1", *options],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    sys.modules["ray"].shutdown()
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()
    process.wait()


def test_apply_writes_the_same_bytes(tmp_path, monkeypatch, address):
    make_items(tmp_path, 20_000)
    here = run_apply(tmp_path)
    monkeypatch.setenv(ENVIRONMENT, address)
    assert run_apply(tmp_path) == here


@pytest.mark.parametrize("kind", [IndexKind.FLAT, IndexKind.IVF])
def test_search_writes_the_same_bytes(tmp_path, monkeypatch, address, kind):
    make_search_task(tmp_path)
    here = run_search(tmp_path, kind)
    monkeypatch.setenv(ENVIRONMENT, address)
    assert run_search(tmp_path, kind) == here
    monkeypatch.setattr(object_store, "LARGE", 1)
    monkeypatch.setenv(object_store.ENVIRONMENT, tmp_path.as_uri())
    assert run_search(tmp_path, kind) == here
    written = list((tmp_path / object_store.FOLDER).iterdir())
    assert written and not any("-" in path.name for path in written)


def test_encoding_gives_the_same_vectors(tmp_path, monkeypatch, address):
    monkeypatch.setattr("tasks.readers.encoder.CHUNK", 64)
    monkeypatch.setenv(ENVIRONMENT, address)
    texts = pl.Series([f"text {number}" for number in range(500)])
    params = EncoderParams(model="lengths", batch_size=10)
    found = encoder.encode_texts(tmp_path, texts, params, cluster_functions.load_lengths)
    np.testing.assert_array_equal(found.matrix[found.rows], [[len(text), ord("t")] for text in texts])


def test_a_worker_that_is_killed_costs_its_shard_alone(tmp_path, monkeypatch, address):
    monkeypatch.setenv(ENVIRONMENT, address)

    def kill():
        while not (started := list(tmp_path.glob("1.*"))):
            time.sleep(0.01)
        os.kill(int(started[0].suffix[1:]), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with open_cluster() as running:
        found = list(running.spread(cluster_functions.leave_pid, range(20), name=name, shared=[tmp_path]))
    assert found == [(shard, shard * shard) for shard in range(20)]
    assert len(list(tmp_path.glob("1.*"))) == 2


def test_shards_are_taken_as_they_are_needed_and_what_a_function_raises_arrives(monkeypatch, address):
    monkeypatch.setenv(ENVIRONMENT, address)
    taken = []

    def shards():
        for shard in range(40):
            taken.append(shard)
            yield shard

    with open_cluster() as running:
        spread = running.spread(cluster_functions.pause_and_add, shards(), name=name, shared=[[100]])
        for done, (shard, result) in enumerate(spread, start=1):
            assert result == 100 + shard
            assert len(taken) - done < engine.AHEAD * 2
        with pytest.raises(ValueError, match="no 0"):
            list(running.spread(cluster_functions.refuse, range(4), name=name))


def test_an_lf_that_ends_interpreters_is_named(tmp_path, monkeypatch, address):
    crash = (
        "\nimport os\nimport time\n@labeling_function(on_error='abstain')\n"
        "def crash(item):\n    if item.text == 'item 3000':\n        os.kill(os.getpid(), 9)\n"
        "\n@labeling_function\ndef after(item):\n    return 'SPAM'\n"
    )
    make_items(tmp_path, 4000, LFS + crash)
    monkeypatch.setenv(ENVIRONMENT, address)
    monkeypatch.setattr("tasks.compute.ray_cluster.RETRIES", 0)
    with pytest.raises(LabelingFunctionError, match=r"'crash' .* about the 1,952 items from item_id 2048 to 3999"):
        run_apply(tmp_path)
    assert not (tmp_path / VOTES).exists()
    with open_cluster() as running, pytest.raises(StageError, match="shard 1: every worker of the Ray cluster"):
        list(running.spread(cluster_functions.end_worker, range(4), name=name))


def test_nodes_with_other_code_are_an_error(monkeypatch, address):
    monkeypatch.setenv(ENVIRONMENT, address)
    ours = engine.describe_environment()
    parts = {**ours.parts, "tasks/lf/voting.py": "other"}
    with open_cluster() as running:
        monkeypatch.setattr(engine, "describe_environment", lambda: engine.Environment(parts=parts, digest="other"))
        with pytest.raises(StageError, match="joined during the run has other code"):
            list(running.spread(cluster_functions.pause_and_add, range(4), name=name, shared=[[1]]))
        with pytest.raises(StageError, match=r"tasks/lf/voting.py differs\.\nGive all of them"):
            running.require_same_environment()


@pytest.mark.parametrize("wrong", ["127.0.0.1:{closed}", "127.0.0.1", "ray://127.0.0.1:{closed}", "nobody:x"])
def test_an_address_where_no_cluster_is_is_an_error(monkeypatch, wrong):
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv(ENVIRONMENT, wrong.format(closed=port))
    with pytest.raises(StageError, match=r"no Ray cluster answers at .* unset EPOXY_RAY"), open_cluster():
        pass


def test_an_address_without_ray_says_what_to_install(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StageError, match="Ray is not installed"), open_cluster():
        pass


def test_two_clusters_are_an_error(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "127.0.0.1:1")
    monkeypatch.setenv(DASK, "tcp://127.0.0.1:1")
    with (
        pytest.raises(StageError, match=r"EPOXY_DASK=tcp://127.0.0.1:1 and EPOXY_RAY=127.0.0.1:1 are set"),
        open_cluster(),
    ):
        pass
