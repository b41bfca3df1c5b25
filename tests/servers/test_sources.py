"""Imports, DVC remotes and shards of a cluster on real servers on this machine: HTTP, SSH, S3 and GCS.

DVC speaks HTTP by itself. The others need their part of DVC, which is not in the lock: `pip install "dvc[ssh,s3,gs]"
"moto[server,s3]" gcp-storage-emulator` in a copy of the environment, then run this file there.
"""

import asyncio
import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cluster_functions
import pytest
from cluster_project import make_search_task, run_search
from dvc.repo import Repo
from toy_project import Toy

from flows.releases.commands import CarryError
from flows.releases.policy import Policy
from flows.releases.publish import push_releases
from flows.runner.dvc_graph import read_stages
from flows.runner.failure import StageFailedError
from flows.runner.listener import TerminalListener
from flows.runner.process import Commands
from flows.runner.report import Report
from flows.runner.stage import ask_for_updates, execute_stage
from tasks.compute import dask_cluster, object_store
from tasks.compute.cluster import open_cluster
from tasks.errors import ParamsError, StageError
from tasks.params import IndexKind

pytestmark = pytest.mark.slow

SECRET = "WrongSecretHunter2"
"""What a wrong credential says; it must be found nowhere."""


class Server(ABC):
    """A server with the folder `files` on it."""

    url: str
    """The address of what holds the folder."""
    options: Mapping[str, str] = {}
    """What DVC is told about it, secrets included."""
    wrong: Mapping[str, str] = {}
    """Options that it refuses; empty where it asks for no credentials."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write file `name` of the folder."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove file `name` of the folder."""

    @abstractmethod
    def stop(self) -> None:
        """Answer no more; may be called twice."""


class Folder(Server):
    """A server of files on disk."""

    def __init__(self, root: Path) -> None:
        self.files = root / "files"

    def write(self, name: str, content: bytes) -> None:
        self.files.mkdir(exist_ok=True)
        (self.files / name).write_bytes(content)

    def remove(self, name: str) -> None:
        (self.files / name).unlink()
        with contextlib.suppress(OSError):
            self.files.rmdir()


class Http(Folder):
    """Python's own; it knows no credentials and takes nothing in."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(root)))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Ssh(Folder):
    """asyncssh's server, which takes one key."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        pytest.importorskip("dvc_ssh", reason="SSH needs pip install 'dvc[ssh]'")
        import asyncssh

        key, other = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        for name, one in (("key", key), ("other", other)):
            one.write_private_key(root / name)
        known = asyncssh.import_authorized_keys(key.export_public_key().decode())
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

        async def listen() -> Any:
            host_key = asyncssh.generate_private_key("ssh-ed25519")
            return await asyncssh.listen(
                "127.0.0.1", 0, server_host_keys=[host_key], authorized_client_keys=known, sftp_factory=True
            )

        self._acceptor = asyncio.run_coroutine_threadsafe(listen(), self._loop).result(30)
        self.url = f"ssh://somebody@127.0.0.1:{self._acceptor.get_port()}{root}"
        self.options = {"keyfile": str(root / "key")}
        self.wrong = {"keyfile": str(root / "other"), "password": SECRET}

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._acceptor.close)
        asyncio.run_coroutine_threadsafe(self._acceptor.wait_closed(), self._loop).result(30)


class S3(Server):
    """moto's server, which asks for the key of a user that may do everything."""

    def __init__(self, root: Path) -> None:
        pytest.importorskip("dvc_s3", reason="S3 needs pip install 'dvc[s3]'")
        pytest.importorskip("moto", reason="a server for S3 needs pip install 'moto[server,s3]'")
        import boto3

        port = _find_port()
        self.url = "s3://rows"
        endpoint = f"http://127.0.0.1:{port}"
        environment = os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": "4"}  # the calls until there is a user
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for(port)
        open_to_all = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        iam = boto3.client("iam", endpoint_url=endpoint, **open_to_all)
        iam.create_user(UserName="rows")
        policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
        iam.put_user_policy(UserName="rows", PolicyName="all", PolicyDocument=policy)
        key = iam.create_access_key(UserName="rows")["AccessKey"]
        own = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        self._client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **own)
        self._client.create_bucket(Bucket="rows")
        self.options = {
            "endpointurl": endpoint,
            "access_key_id": key["AccessKeyId"],
            "secret_access_key": key["SecretAccessKey"],
        }
        self.wrong = {"access_key_id": "AKIA0000000000000000", "secret_access_key": SECRET}

    def write(self, name: str, content: bytes) -> None:
        self._client.put_object(Bucket="rows", Key=f"files/{name}", Body=content)

    def remove(self, name: str) -> None:
        self._client.delete_object(Bucket="rows", Key=f"files/{name}")

    def list(self) -> set[str]:
        """The names of all objects."""
        return {found["Key"] for found in self._client.list_objects_v2(Bucket="rows").get("Contents", [])}

    def forbid(self, action: str) -> None:
        """Let nobody do `action` any more."""
        rule = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": "arn:aws:s3:::rows/*"}
        self._client.put_bucket_policy(Bucket="rows", Policy=json.dumps({"Version": "2012-10-17", "Statement": [rule]}))

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Gcs(Server):
    """An emulator, which lets everybody in."""

    def __init__(self, root: Path) -> None:
        pytest.importorskip("dvc_gs", reason="GCS needs pip install 'dvc[gs]'")
        pytest.importorskip("gcp_storage_emulator", reason="a server for GCS needs pip install gcp-storage-emulator")
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        port = _find_port()
        endpoint = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", f"--port={port}"]
        command += ["--in-memory", "--quiet"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for(port)
        client = storage.Client(
            project="rows", credentials=AnonymousCredentials(), client_options={"api_endpoint": endpoint}
        )
        self._bucket = client.create_bucket("rows")
        self.url = "gs://rows"
        self.options = {"endpointurl": endpoint, "allow_anonymous_login": "true"}

    def write(self, name: str, content: bytes) -> None:
        self._bucket.blob(f"files/{name}").upload_from_string(content)

    def remove(self, name: str) -> None:
        self._bucket.blob(f"files/{name}").delete()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def _find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # gcsfs would ask an emulator by gRPC what kind of bucket it has, for minutes.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "server"
    root.mkdir()
    server: Server = request.param(root)
    yield server
    with contextlib.suppress(Exception):
        server.stop()


def configure(toy: Toy, name: str, url: str, options: Mapping[str, str]) -> None:
    """Add remote `name`, its options where no commit takes them along."""
    with Repo() as repo:
        with repo.config.edit("repo") as config:
            config["remote"][name] = {"url": url}
        with repo.config.edit("local") as config:
            config["remote"][name] = dict(options)


def update(toy: Toy, *, ask: bool = True) -> Report:
    """What became of the import."""
    stages = read_stages(toy.root)
    stages = ask_for_updates(stages) if ask else stages
    (stage,) = [stage for stage in stages if stage.is_import]
    return execute_stage(stage, root=toy.root, commands=Commands(), listener=TerminalListener(stage.name))


def read(toy: Toy) -> dict[str, bytes]:
    files = [path for path in (toy.root / "data" / "raw").iterdir() if path.suffix not in (".dvc", "")]
    return {path.name: path.read_bytes() for path in files if path.name != ".gitignore"}


def find_secret(toy: Toy) -> list[str]:
    files = [path for path in toy.root.rglob("*") if path.is_file() and path.name != "config.local"]
    return [str(path) for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("server", [Http, Ssh, S3, Gcs], indirect=True)
def test_an_import_follows_its_source_and_outlives_it(toy: Toy, server: Server) -> None:
    is_single = isinstance(server, Http)  # HTTP has no folders: each file is an import of its own
    server.write("a.txt", b"a1")
    server.write("b.txt", b"b1")
    (toy.root / "data" / "raw.txt.dvc").unlink()
    (toy.root / "data" / "raw.txt").unlink()
    (toy.root / "dvc.yaml").write_text((toy.root / "dvc.yaml").read_text().replace("data/raw.txt", "data/raw"))
    configure(toy, "source", server.url, server.options)
    with Repo() as repo:
        if is_single:
            (toy.root / "data" / "raw").mkdir()
            repo.imp_url(f"{server.url}/files/a.txt", "data/raw/a.txt")
        else:
            repo.imp_url("remote://source/files", "data/raw")
    assert read(toy) == {"a.txt": b"a1"} if is_single else {"a.txt": b"a1", "b.txt": b"b1"}
    assert update(toy).outcome == "Cached"
    server.write("a.txt", b"a2, another")
    server.remove("b.txt")
    server.write("c.txt", b"c1")
    assert update(toy, ask=False).outcome == "Cached" and read(toy)["a.txt"] == b"a1"
    assert update(toy).outcome == "Completed"
    expected = {"a.txt": b"a2, another"} | ({} if is_single else {"c.txt": b"c1"})
    assert read(toy) == expected
    if server.wrong:
        configure(toy, "source", server.url, {**server.options, **server.wrong})
        with pytest.raises(
            StageFailedError, match=r"(Permission denied|Forbidden|Access).* in place again.*credentials"
        ) as error:
            update(toy)
        assert SECRET not in str(error.value) and find_secret(toy) == []
        configure(toy, "source", server.url, server.options)
    server.remove("a.txt")
    server.remove("c.txt")
    with pytest.raises(StageFailedError, match=r"does not exist.* in place again"):
        update(toy)
    server.stop()
    with pytest.raises(StageFailedError, match=r"in place again") as error:
        update(toy)
    assert error.value.is_transient and "Having any troubles" not in str(error.value)
    assert read(toy) == expected and update(toy, ask=False).outcome == "Cached"


@pytest.mark.parametrize("server", [Ssh, S3, Gcs], indirect=True)
def test_releases_are_carried_to_a_remote_and_back(toy: Toy, server: Server) -> None:
    configure(toy, "store", f"{server.url}/store", server.options)
    toy.run("dvc", "config", "core.remote", "store")
    release = toy.root / "releases" / "0123456789ab"
    release.mkdir(parents=True)
    (release / "labels.txt").write_text("labels")
    toy.run("dvc", "add", "releases/0123456789ab")
    policy = Policy.model_validate({"carry": "remote"})
    if server.wrong:
        configure(toy, "store", f"{server.url}/store", {**server.options, **server.wrong})
        with pytest.raises(CarryError, match=r"Permission denied|Forbidden|Access") as error:
            push_releases(toy.root, policy, "push")
        assert SECRET not in str(error.value) and find_secret(toy) == []
        configure(toy, "store", f"{server.url}/store", server.options)
    push_releases(toy.root, policy, "push")
    toy.run("dvc", "push")
    shutil.rmtree(toy.root / ".dvc" / "cache")
    shutil.rmtree(release)
    (toy.root / "data" / "raw.txt").unlink()
    toy.run("dvc", "pull", "--allow-missing")
    assert (release / "labels.txt").read_text() == "labels" and (toy.root / "data" / "raw.txt").read_text() == "raw1"
    server.stop()
    with pytest.raises(CarryError, match=r"'dvc --wait-for-lock push .*' failed with exit code \d+: (?!Having)\S"):
        push_releases(toy.root, policy, "push")


@pytest.mark.parametrize("server", [S3], indirect=True)
def test_shards_go_by_a_bucket_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: S3, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    import s3fs

    def start(workers: int) -> Any:
        return distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        )

    def refuse(message: str) -> None:
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(StageError, match=message) as error:
            run_search(root, IndexKind.FLAT)
        assert SECRET not in str(error.value)

    monkeypatch.setenv("AWS_ENDPOINT_URL", server.options["endpointurl"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.options["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    root = tmp_path / "project"
    make_search_task(root)
    here = run_search(root, IndexKind.FLAT)
    monkeypatch.setattr(object_store, "LARGE", 1)
    with start(1) as ignorant:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.options["secret_access_key"])
        monkeypatch.setenv(dask_cluster.ENVIRONMENT, ignorant.scheduler_address)
        monkeypatch.setenv(object_store.ENVIRONMENT, "s3://rows/some/prefix")
        refuse(r"cannot read s3://rows/some/prefix \(EPOXY_SHARDS\): PermissionError: .*every worker need")
    with start(2) as cluster:
        monkeypatch.setenv(dask_cluster.ENVIRONMENT, cluster.scheduler_address)
        assert run_search(root, IndexKind.FLAT) == here
        inputs = server.list()
        assert inputs and all(re.fullmatch(r"some/prefix/epoxy-shards/\w{64}", key) for key in inputs)
        with monkeypatch.context() as patched:
            patched.setattr(object_store.Store, "_write", None)  # in this process
            assert run_search(root, IndexKind.FLAT) == here and server.list() == inputs
        threading.Thread(target=_kill_first, args=[tmp_path], daemon=True).start()
        with open_cluster() as running:
            assert running is not None
            found = list(running.spread(cluster_functions.leave_pid, range(20), name=str, shared=[tmp_path]))
        assert found == [(shard, shard * shard) for shard in range(20)]
        assert len(list(tmp_path.glob("1.*"))) == 2
        monkeypatch.setattr(object_store, "KEEP", datetime.timedelta(seconds=-60))
        assert run_search(root, IndexKind.FLAT) == here and server.list() == set()
        monkeypatch.setenv(object_store.ENVIRONMENT, "s3://nobody/some")
        refuse(r"cannot write to s3://nobody/some .*FileNotFoundError: The specified bucket does not exist")
        monkeypatch.setenv(object_store.ENVIRONMENT, "s3://rows")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        refuse(r"cannot write to s3://rows .*PermissionError: .*unset EPOXY_SHARDS")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.options["secret_access_key"])
        s3fs.S3FileSystem.clear_instance_cache()
        server.forbid("s3:DeleteObject")
        capsys.readouterr()
        assert run_search(root, IndexKind.FLAT) == here and server.list()
        assert "objects below s3://rows/epoxy-shards cannot be removed: " in capsys.readouterr().err
        server.stop()
        refuse(r"cannot write to s3://rows .*127.0.0.1")


def _kill_first(folder: Path) -> None:
    """Kill the process that does shard 1."""
    while not (started := list(folder.glob("1.*"))):
        time.sleep(0.01)
    os.kill(int(started[0].suffix[1:]), signal.SIGKILL)


def test_an_address_whose_part_of_dvc_is_missing_says_what_to_install(toy: Toy) -> None:
    (toy.root / "data" / "raw.txt.dvc").write_text(
        "md5: 0123456789abcdef0123456789abcdef\nfrozen: true\n"
        "deps:\n- path: hdfs://127.0.0.1/raw.txt\nouts:\n- path: raw.txt\n"
    )
    with pytest.raises(ParamsError, match=r"requires 'dvc-hdfs' .*python -m pip install \"dvc\[hdfs\]\""):
        read_stages(toy.root)
