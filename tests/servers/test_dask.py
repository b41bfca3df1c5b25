"""The stages on real Dask workers, each a process with one thread: same bytes, and what happens when things die."""

import gc
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import cluster_functions
import numpy as np
import polars as pl
import pytest
from cluster_project import HELPER, LFS, make_items, make_search_task, name, run_apply, run_search

from tasks.compute import engine, object_store
from tasks.compute.cluster import open_cluster
from tasks.compute.dask_cluster import ENVIRONMENT
from tasks.errors import LabelingFunctionError, StageError
from tasks.lf.shards import require_closed
from tasks.params import EncoderParams, IndexKind
from tasks.readers import encoder
from tasks.tables.parquet import read_votes
from tasks.tables.paths import VOTES

dask = pytest.importorskip("dask", reason="the extra 'dask' is not installed")
distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

ROOT = Path(__file__).resolve().parents[2]


def start_cluster(workers, allowed_failures=3):
    with dask.config.set({"distributed.scheduler.allowed-failures": allowed_failures}):
        return distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        )


@pytest.fixture(scope="module")
def one():
    with start_cluster(1) as running:
        yield running


@pytest.fixture(scope="module")
def two():
    with start_cluster(2) as running:
        yield running


@pytest.fixture(scope="module")
def none():
    """A scheduler alone."""
    with start_cluster(0) as running:
        yield running


@pytest.fixture
def brittle():
    """A shard may end one worker only: what ends two of them needs no third, which a loaded machine starts slowly."""
    with start_cluster(2, allowed_failures=0) as running:
        yield running


@pytest.fixture
def places(one, two):
    """Addresses to compare: this machine, one worker, two."""
    return ["", one.scheduler_address, two.scheduler_address]


def test_apply_writes_the_same_bytes_everywhere(tmp_path, monkeypatch, places):
    make_items(tmp_path, 20_000)
    found = []
    for place in places:
        monkeypatch.setenv(ENVIRONMENT, place)
        found.append(run_apply(tmp_path))
    assert found[0] == found[1] == found[2]
    votes = read_votes(tmp_path / VOTES, 2)
    assert votes.filter(pl.col("timed") != 0)["item_id"].to_list() == [77]


def test_an_edit_below_lfs_reaches_workers_that_run(tmp_path, monkeypatch, one):
    late = (
        "\n@labeling_function\ndef late(item):\n    from lfs.helper import choose\n    return choose(item.text[:-1])\n"
    )
    make_items(tmp_path, 80, LFS + late)
    monkeypatch.setenv(ENVIRONMENT, one.scheduler_address)
    run_apply(tmp_path)
    (tmp_path / "lfs" / "words.txt").write_text("6")
    (tmp_path / "lfs" / "helper.py").write_text(HELPER.replace('"7"', '"6"'))
    run_apply(tmp_path)
    votes = read_votes(tmp_path / VOTES, 2)
    assert votes.filter(pl.col("word_6") == 1)["item_id"].to_list() == [6]
    assert votes.filter(pl.col("by_helper") == 1)["item_id"].to_list() == [6, 16, 26, 36, 46, 56, *range(60, 70), 76]
    assert votes.filter(pl.col("late") == 1)["item_id"].to_list() == list(range(60, 70))


@pytest.mark.parametrize("kind", [IndexKind.FLAT, IndexKind.IVF])
def test_search_writes_the_same_bytes_everywhere(tmp_path, monkeypatch, places, kind):
    make_search_task(tmp_path)
    found = []
    for place in places:
        monkeypatch.setenv(ENVIRONMENT, place)
        found.append(run_search(tmp_path, kind))
    assert found[0] == found[1] == found[2]


def test_encoding_gives_the_same_vectors_everywhere(tmp_path, monkeypatch, places):
    monkeypatch.setattr("tasks.readers.encoder.CHUNK", 64)
    texts = pl.Series([f"text {number}" for number in range(500)])
    for number, place in enumerate(places):
        monkeypatch.setenv(ENVIRONMENT, place)
        root = tmp_path / str(number)
        params = EncoderParams(model="lengths", batch_size=10)
        found = encoder.encode_texts(root, texts, params, cluster_functions.load_lengths)
        np.testing.assert_array_equal(found.matrix[found.rows], [[len(text), ord("t")] for text in texts])


def test_a_model_that_workers_do_not_have_is_an_error(tmp_path, monkeypatch, one):
    monkeypatch.setenv(ENVIRONMENT, one.scheduler_address)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine" / "weights").write_text("0.5")
    params = EncoderParams(model="models/mine")
    with pytest.raises(StageError, match="the folder models/mine of a worker on"):
        encoder.encode_texts(tmp_path, pl.Series(["a"]), params, cluster_functions.load_lengths)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The folder of objects, which all parts of shards become."""
    monkeypatch.setattr(object_store, "LARGE", 1)
    monkeypatch.setenv(object_store.ENVIRONMENT, tmp_path.as_uri())
    return tmp_path / object_store.FOLDER


def test_search_by_way_of_a_store_writes_the_same_bytes(tmp_path, monkeypatch, two, store):
    make_search_task(tmp_path / "project")
    here = run_search(tmp_path / "project", IndexKind.IVF)
    assert not store.exists()
    monkeypatch.setenv(ENVIRONMENT, two.scheduler_address)
    assert run_search(tmp_path / "project", IndexKind.IVF) == here
    written = set(store.iterdir())
    assert written and not any("-" in path.name for path in written)
    times = {path.stat().st_mtime_ns for path in written}
    assert run_search(tmp_path / "project", IndexKind.IVF) == here
    assert {path.stat().st_mtime_ns for path in store.iterdir()} == times


def test_apply_and_encoding_by_way_of_a_store_write_the_same(tmp_path, monkeypatch, one, store):
    make_items(tmp_path, 300, LFS.partition("@labeling_function(timeout")[0])
    here = run_apply(tmp_path)
    monkeypatch.setenv(ENVIRONMENT, one.scheduler_address)
    assert run_apply(tmp_path) == here
    count = len(list(store.iterdir()))
    texts = pl.Series(["one", "three"])
    found = encoder.encode_texts(tmp_path, texts, EncoderParams(model="lengths"), cluster_functions.load_lengths)
    assert found.matrix[found.rows].tolist() == [[3, ord("o")], [5, ord("t")]]
    assert len(list(store.iterdir())) == count + 2  # texts, and the function with its arguments


@pytest.mark.parametrize("workers", ["one", "two", "two with a store"])
def test_a_worker_that_is_killed_costs_its_shard(tmp_path, monkeypatch, request, workers):
    monkeypatch.setenv(ENVIRONMENT, request.getfixturevalue(workers.split()[0]).scheduler_address)
    if "store" in workers:
        request.getfixturevalue("store")

    def kill():
        while not (started := list(tmp_path.glob("1.*"))):
            time.sleep(0.01)
        os.kill(int(started[0].suffix[1:]), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with open_cluster() as running:
        # With one worker, what was shared dies as well.
        found = list(running.spread(cluster_functions.leave_pid, range(20), name=name, shared=[tmp_path]))
    assert found == [(shard, shard * shard) for shard in range(20)]
    assert len(list(tmp_path.glob("1.*"))) == 2
    assert not list(tmp_path.glob("*/*-*"))  # results in a store


def test_shards_are_taken_as_they_are_needed(monkeypatch, one):
    monkeypatch.setenv(ENVIRONMENT, one.scheduler_address)
    taken = []

    def shards():
        for shard in range(40):
            taken.append(shard)
            yield shard

    with open_cluster() as running:
        for done, (shard, result) in enumerate(
            running.spread(cluster_functions.pause_and_add, shards(), name=name, shared=[[100]]), start=1
        ):
            assert result == 100 + shard
            assert len(taken) - done < 3


def test_what_a_function_raises_arrives(monkeypatch, one):
    monkeypatch.setenv(ENVIRONMENT, one.scheduler_address)
    with open_cluster() as running, pytest.raises(ValueError, match="no 0"):
        list(running.spread(cluster_functions.refuse, range(4), name=name))


def test_a_cluster_that_goes_away_is_an_error(monkeypatch):
    running = start_cluster(1)
    monkeypatch.setenv(ENVIRONMENT, running.scheduler_address)
    with open_cluster() as connected, pytest.raises(StageError, match=r"the Dask cluster at .* Look after it"):
        for shard, _ in connected.spread(cluster_functions.pause_and_add, range(1000), name=name, shared=[[1]]):
            if shard == 3:
                running.close()


def test_workers_that_go_away_are_waited_for_only_so_long(monkeypatch, none):
    monkeypatch.setenv(ENVIRONMENT, none.scheduler_address)
    monkeypatch.setattr(engine, "PATIENCE_SECONDS", 1)
    none.scale(1)
    with open_cluster() as connected, pytest.raises(StageError, match="has had no worker for 1 s"):
        for shard, _ in connected.spread(cluster_functions.pause_and_add, range(1000), name=name, shared=[[1]]):
            if shard == 3:
                none.scale(0)


def test_a_scheduler_without_workers_is_an_error(monkeypatch, none):
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 1)
    monkeypatch.setenv(ENVIRONMENT, none.scheduler_address)
    with pytest.raises(StageError, match=r"has no worker\. Start some"), open_cluster():
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{closed}", "tcp://127.0.0.1:{mute}", "127.0.0.1", "x://y:1"])
def test_an_address_where_no_scheduler_is_is_an_error(monkeypatch, address):
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as mute, socket.create_server(("127.0.0.1", 0)) as closed:
        ports = {"mute": mute.getsockname()[1], "closed": closed.getsockname()[1]}
        closed.close()
        monkeypatch.setenv(ENVIRONMENT, address.format(**ports))
        with pytest.raises(StageError, match=r"no Dask scheduler answers at .* unset EPOXY_DASK"), open_cluster():
            pass
    wait_for_closed_clients()


def wait_for_closed_clients():
    """Dask closes the others while they are garbage, within whatever start of a loop, which then never ends."""
    deadline = time.monotonic() + 30
    while any(type(one) is distributed.Client and one.status != "closed" for one in gc.get_objects()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_worker_with_other_code_is_an_error_that_names_the_file(tmp_path, monkeypatch, none):
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "tasks" / "lf" / "voting.py").open("a") as code:
        code.write("# one line more\n")
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        none.scheduler_address,
        "--nthreads",
        "1",
        "--no-nanny",
    ]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    monkeypatch.setenv(ENVIRONMENT, none.scheduler_address)
    with subprocess.Popen(
        [*command, "--no-dashboard"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    ) as worker:
        try:
            with pytest.raises(StageError, match=r"tasks/lf/voting.py differs\.\nGive all of them"), open_cluster():
                pass
        finally:
            worker.terminate()


def test_a_worker_that_joins_later_is_checked_as_well(monkeypatch, one):
    monkeypatch.setenv(ENVIRONMENT, one.scheduler_address)
    with open_cluster() as running:
        other = engine.Environment(parts={}, digest="other")
        monkeypatch.setattr(engine, "describe_environment", lambda: other)
        with pytest.raises(StageError, match="joined during the run has other code"):
            list(running.spread(cluster_functions.pause_and_add, range(4), name=name, shared=[[1]]))


def test_without_an_address_dask_is_not_imported():
    code = "import sys; from tasks import apply, search, ingest; from tasks.compute.cluster import open_cluster as o\n"
    code += "with o() as found: assert found is None and not {'dask', 'distributed'} & set(sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key != ENVIRONMENT}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_an_address_without_dask_says_what_to_install(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "tcp://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(StageError, match="Dask is not installed"), open_cluster():
        pass


def test_an_lf_that_ends_interpreters_is_named(tmp_path, monkeypatch, brittle):
    crash = (
        "\nimport os\nimport time\n@labeling_function(on_error='abstain')\n"
        "def crash(item):\n    if item.text == 'item 3000':\n        time.sleep(0.5)\n        os.kill(os.getpid(), 9)\n"
        "\n@labeling_function\ndef after(item):\n    return 'SPAM'\n"
    )
    make_items(tmp_path, 4000, LFS + crash)
    monkeypatch.setenv(ENVIRONMENT, brittle.scheduler_address)
    with pytest.raises(LabelingFunctionError, match=r"'crash' .* about the 1,952 items from item_id 2048 to 3999"):
        run_apply(tmp_path)
    assert not (tmp_path / VOTES).exists()


def test_a_shard_that_ends_workers_is_named(monkeypatch, brittle):
    monkeypatch.setenv(ENVIRONMENT, brittle.scheduler_address)
    with open_cluster() as running, pytest.raises(StageError, match="shard 1: every worker"):
        list(running.spread(cluster_functions.end_worker, range(4), name=name))


def test_an_lf_that_hangs_on_a_worker_is_told_here(tmp_path, monkeypatch, one, capfd):
    slow = LFS + "\n@labeling_function\ndef slow(item):\n    time.sleep(3 if item.item_id == 9 else 0)\n"
    make_items(tmp_path, 20, slow)
    monkeypatch.setenv(ENVIRONMENT, one.scheduler_address)
    monkeypatch.setattr(engine, "SLOW_SECONDS", 1)
    run_apply(tmp_path)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    # A busy machine may be slow at the other labeling functions, too.
    assert sum("slow on the 20 items from item_id 0 to 19 has taken more than 1 s" in line for line in lines) == 1


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_workers_folder_that_others_can_write_is_refused(tmp_path, mode):
    """Dask takes /tmp/dask-scratch-space as it finds it; a worker imports LFs from there."""
    scratch = tmp_path / "dask-scratch-space" / "worker-a"
    scratch.mkdir(parents=True)
    require_closed(scratch)
    scratch.parent.chmod(mode)
    if mode & stat.S_ISVTX:
        require_closed(scratch)  # like /tmp: nobody can rename what is another's
        return
    with pytest.raises(StageError, match=r"works in .*dask-scratch-space, where other users .* '--local-directory'"):
        require_closed(scratch)


def test_with_tls_nobody_without_a_certificate_is_let_in_or_believed(monkeypatch):
    """The scheduler refuses strangers, and a stage refuses a stranger's scheduler, before anything is unpickled."""
    ours, theirs = distributed.Security.temporary(), distributed.Security.temporary()

    def trust(security):
        tls = "distributed.comm.tls"
        return dask.config.set(
            {
                f"{tls}.ca-file": security.tls_ca_file,
                f"{tls}.client.key": security.tls_client_key,
                f"{tls}.client.cert": security.tls_client_cert,
                "distributed.comm.require-encryption": True,
            }
        )

    options = {"processes": False, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with distributed.LocalCluster(n_workers=1, security=ours, protocol="tls://", **options) as closed:
        monkeypatch.setenv(ENVIRONMENT, closed.scheduler_address)
        with trust(ours), open_cluster() as running:
            assert [result for _, result in running.spread(cluster_functions.pause_and_add, [1, 2], name=name, shared=[[5]])] == [6, 7]  # fmt: skip
        for address in (closed.scheduler_address, closed.scheduler_address.replace("tls:", "tcp:")):
            monkeypatch.setenv(ENVIRONMENT, address)
            with trust(theirs), pytest.raises(StageError, match="no Dask scheduler answers"), open_cluster():
                pass
