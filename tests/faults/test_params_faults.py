"""A mistake in one section of params.yaml, or in the environment: which stages it stops, and when a run tells of it."""

import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_project import make_project, run, write_params

from flows.cli.main import main


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_project(tmp_path_factory.mktemp("params") / "project", n=60)
    write_params(root, tune={"candidate": 5})
    return root


def test_other_stages_run_and_the_one_with_the_mistake_names_it(project: Path) -> None:
    assert run(project, sys.executable, "-m", "tasks", "ingest").returncode == 0
    done = run(project, sys.executable, "-m", "tasks", "tune")
    assert done.returncode == 2
    assert done.stderr == "error: params.yaml: unknown key 'tune.candidate'. Did you mean 'candidates'?\n"


@pytest.mark.parametrize("targets", [(), ("tune",)])
def test_a_run_tells_of_it_before_anything_starts(
    project: Path, targets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(project.parent / "site"))
    result = CliRunner().invoke(main, ["run", *targets])
    assert result.exit_code == 2
    assert result.stderr.endswith("error: params.yaml: unknown key 'tune.candidate'. Did you mean 'candidates'?\n")
    assert "stage apply" not in result.stderr


@pytest.mark.parametrize("command", [("tasks", "search"), ("flows.cli", "status")])
@pytest.mark.parametrize("threads", ["0", "-1", "many", ""])
def test_a_count_of_threads_that_is_none_is_told(project: Path, command: tuple[str, str], threads: str) -> None:
    done = run(project, sys.executable, "-m", *command, NUMBA_NUM_THREADS=threads)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: NUMBA_NUM_THREADS is {threads!r} in the environment; expected a whole number from 1. Correct it, or unset it.\n"
    )


@pytest.mark.parametrize("command", [("tasks", "ingest"), ("flows.cli", "status")])
def test_a_folder_whose_name_the_locale_cannot_write_is_told(
    project: Path, tmp_path: Path, command: tuple[str, str]
) -> None:
    root = tmp_path / "prüf"
    shutil.copytree(project, root, symlinks=True)
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run(root, sys.executable, "-m", *command, **plain)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the locale (LC_ALL, LANG) has no letters for the name of this folder")
    assert done.stderr.count("\n") == 1
    assert run(root, sys.executable, "-m", *command, **plain | {"PYTHONUTF8": "1"}).returncode == 0
