"""A toy pipeline under DVC and Git, a project ready to release, and one Prefect server for the whole session."""

import compileall
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from small_project import CODE, REPOSITORY
from toy_project import TOY_DEMO, TOY_PIPELINE, TOY_STEP, Toy

# The tests must neither read nor write what belongs to the person who runs them; Prefect and DVC read these while they
# are imported.
os.environ.update(GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_SYSTEM=os.devnull, DO_NOT_TRACK="1")
for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_PROFILE", "DVC_ROOT", "DVC_STAGE"):
    os.environ.pop(name, None)
# A process that has loaded readline hands its children a width of 80: those of pytest-xdist, but not pytest alone.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Byte-code of a file that was edited twice in a second is told from the newer by nothing: what tests start reads the one
# made below, and makes none.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
# Two processes of pytest share the cores, and threads of OpenMP and BLAS that wait for each other spin: a run of the demo takes
# a ninth more processor time with two of them. Tests of threads say how many they want.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a test writes need not outlive a power cut: in this process, files wait for no disk.
os.fsync = lambda file: None
# How long an example takes is a matter of what else the machine does.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Compile the code once, for hundreds of processes that import it and for the copies of it in projects."""
    if not hasattr(config, "workerinput"):
        for name in CODE:
            compileall.compile_dir(REPOSITORY / name, quiet=2)


@pytest.fixture(scope="session")
def toy_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "toy"
    (root / "data" / "demo").mkdir(parents=True)
    (root / "step.py").write_text(TOY_STEP)
    (root / "dvc.yaml").write_text(TOY_PIPELINE)
    (root / "data" / "demo" / "dvc.yaml").write_text(TOY_DEMO)
    (root / "params.yaml").write_text("index: i1\napply: a1\nfit: f1\n")
    (root / "data" / "raw.txt").write_text("raw1")
    git = ["git", "-C", str(root)]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    subprocess.run([*git, "config", "user.name", "Toy"], check=True)
    subprocess.run([*git, "config", "user.email", "toy@example.org"], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root.parent / "site"))
        patch.chdir(root)
        from dvc.repo import Repo

        with Repo.init(".") as repo:
            with repo.config.edit("repo") as config:
                config["core"].update(analytics=False, check_update=False, autostage=False)
                config["cache"]["type"] = "reflink,copy"
            repo.add("data/raw.txt")
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    return root


@pytest.fixture
def toy(toy_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A fresh toy project, committed, nothing run yet; the working directory is its root."""
    root = tmp_path / "toy"
    shutil.copytree(toy_template, root, symlinks=True)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(root)
    return Toy(root=root, log=tmp_path / "log")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with run A finished, not under Git; run records are posted nowhere."""
    from release_project import A, write_run

    from flows.releases.lineage import URL_VARIABLE

    monkeypatch.delenv(URL_VARIABLE, raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    write_run(folder, A)
    return folder


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a Prefect server with a database of its own.

    Not Prefect's own harness: waiting for the last events of all tests, it now and then waits for ever.
    """
    from prefect.settings import temporary_settings

    from flows.server import start_temporary_server

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        server = start_temporary_server()
        # Whoever gives its address to a process of its own need not know that it has a password.
        patch.setenv("PREFECT_API_AUTH_STRING", server.password or "")
        with temporary_settings(server.settings()):
            yield server.api_url
