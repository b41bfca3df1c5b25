"""What README and tutorial tell a newcomer to type, typed in fresh clones; tests/snippets.py says how a page marks it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_project import make_environment, make_project, write_params
from snippets import REPOSITORY, make_venv, run_page

# Three runs of the pipeline and a release: 45 s on idle cores, and many times that beside other jobs.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A project with small raw data, and the files of a fresh clone besides."""
    root = make_project(tmp_path / "project")
    shutil.copytree(REPOSITORY / "docs" / "tutorial", root / "docs" / "tutorial")
    (root / "lfs" / "small.py").unlink()
    make_venv(root)
    return root


def test_what_the_readme_says_can_be_typed(clone: Path, prefect_server: str) -> None:
    write_params(clone, apply={"source": "lfs/digits.py"})
    assert run_page(REPOSITORY / "README.md", clone, prefect_server) > 0


def test_what_the_tutorial_says_can_be_typed(clone: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Small")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "small@example.org")
    assert run_page(REPOSITORY / "docs" / "tutorial" / "first-labels.md", clone, prefect_server) > 0
    # The notebook goes on where the page ends.
    project = clone.parent / "messages"
    notebook = clone / "docs" / "tutorial" / "look-around.ipynb"
    command = [sys.executable, str(REPOSITORY / "tests" / "notebooks.py"), notebook.name]
    environment = make_environment(project, PREFECT_API_URL=prefect_server)
    done = subprocess.run(command, cwd=notebook.parent, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 of 15 with gold" in done.stdout and "evaluate  Completed" in done.stdout
    answers = done.stdout.split("\n---\n")[:-1]
    assert answers[0] == "('advice', 'delivery', 'payment')" and "first labels" in answers[-1]
    assert (project / "lfs" / "first.py").read_text().count("late = keyword_lf") == 1
