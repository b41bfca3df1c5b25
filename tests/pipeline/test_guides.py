"""What the how-to guides tell a reader to type, typed; tests/snippets.py says how a page marks it."""

import json
import shutil
from pathlib import Path

import fake_model
import pyarrow.parquet as parquet
import pytest
from small_project import make_project
from snippets import PAGES, make_venv, read_snippets, run_page, run_shell

from docs.pages.artifacts import SHAPES, read_shapes

pytestmark = pytest.mark.slow

GUIDES = [
    page
    for page in PAGES
    if page.parent.name == "how-to" and any(snippet.kind == "run" for snippet in read_snippets(page))
]


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project that ran and was released; its raw data are not in Git."""
    root = make_project(tmp_path_factory.mktemp("guides") / "project")
    make_venv(root)
    run_shell(root, "git rm -rq --cached data/raw && git commit -qm 'Raw data are not in Git'")
    # In one process and recorded afterwards: every start of a stage costs more than the stage.
    run_shell(
        root,
        "python -c 'from pathlib import Path; from tasks.__main__ import *\nfor one in STAGES: run_stage(Path(), one)'",
    )
    run_shell(
        root, "dvc commit --quiet --force && epoxy release && git add -A . ':!data/raw' && git commit -qm 'Released'"
    )
    return root


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_what_a_guide_says_can_be_typed(
    page: Path, released: Path, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(released, tmp_path / "project", symlinks=True)
    with fake_model.serve() as server:
        monkeypatch.setenv("EPOXY_LLM_URL", server.url)
        assert run_page(page, tmp_path / "project", prefect_server) > 0


def test_columns_and_keys_in_the_reference_are_those_of_a_run(released: Path) -> None:
    """Renewed with `python -m docs.generate --shapes FOLDER`."""
    assert read_shapes(released) == json.loads(SHAPES.read_text())


def test_other_readers_need_nothing_but_parquet(released: Path) -> None:
    table = parquet.read_table(released / "releases" / "current" / "labels.parquet")
    assert {"item_id", "label"} <= set(table.column_names)
