"""A Prefect server on PostgreSQL, where there is one: the address comes from the environment, as for Prefect itself."""

import asyncio
import getpass
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from processes import find_free_port
from toy_project import TOY_STAGES, Toy

pytestmark = pytest.mark.slow

PLACES = os.pathsep.join(
    [os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
)


@pytest.fixture
def postgres() -> Iterator[str]:
    """The address of an empty PostgreSQL database, gone afterwards."""
    initdb, server = (shutil.which(name, path=PLACES) for name in ("initdb", "postgres"))
    if not initdb or not server:
        pytest.skip("PostgreSQL is not installed: no initdb and postgres on PATH or below /usr/lib/postgresql")
    # Short, for its socket has a name of at most 107 bytes; and not below a folder that only root may enter.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        user = "nobody" if os.geteuid() == 0 else getpass.getuser()  # PostgreSQL refuses to run as root
        shutil.chown(folder, user)
        data, port = Path(folder) / "data", find_free_port()
        options = ["--auth=trust", "--username=epoxy", "--no-sync", f"--pgdata={data}"]
        as_user = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([initdb, *options], check=True, **as_user)
        command = [server, "-D", str(data), "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-c", "fsync=off"]
        running = subprocess.Popen(command, **as_user)
        try:
            yield f"postgresql+asyncpg://epoxy@127.0.0.1:{port}/postgres"
        finally:
            running.terminate()
            running.wait(60)


def ask(address: str, query: str) -> object:
    async def fetch() -> object:
        connection = await asyncpg.connect(address.replace("+asyncpg", ""))
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def wait_until_it_answers(address: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            assert ask(address, "select 1") == 1
            return
        except (OSError, asyncpg.PostgresError):  # not there yet, or still starting
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_run_is_recorded_in_postgresql_when_its_address_is_given(toy: Toy, postgres: str, tmp_path: Path) -> None:
    wait_until_it_answers(postgres)
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres,
    }
    # On a port of its own: a server that somebody runs on the usual one would be asked to record the run.
    code = (
        f"import sys; from flows import relabel, server; server.PORT = {find_free_port()}; sys.exit(relabel.main(()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=toy.root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ask(postgres, "select state_name from flow_run") == "Completed"
    assert ask(postgres, "select count(*) from task_run where state_type = 'COMPLETED'") == len(TOY_STAGES)
    assert not list((tmp_path / "prefect").glob("*.db"))
