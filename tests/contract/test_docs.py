"""The documentation is a tested artifact: what is computed is up to date, links lead somewhere, every block is covered."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from snippets import PAGES, read_snippets

from docs.generate import generate
from docs.pages.artifacts import TABLES, list_artifacts
from docs.pages.commands import list_commands
from flows.cli.main import main
from tasks.__main__ import STAGES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ALL = (*(path for path in ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")))


def name_page(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    return generate()


def test_what_is_computed_from_code_is_up_to_date(generated: dict[Path, str]) -> None:
    stale = [name_page(path) for path, content in generated.items() if path.read_text() != content]
    assert not stale, "run 'python -m docs.generate'"


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "zensical.toml").read_text()
    assert [
        name for path in sorted(DOCS.rglob("*.md")) if (name := path.relative_to(DOCS).as_posix()) not in menu
    ] == []


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and Zensical both make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL, ids=name_page)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{link} leads nowhere"
        assert not path.is_relative_to(DOCS) or path.is_file(), f"{link} is a folder"
        if page.is_relative_to(DOCS):
            assert path.is_relative_to(DOCS), f"{link} leaves docs/, which the site does not have"
        if anchor:
            assert anchor in slugs(path), f"{link} has no such heading"


@pytest.mark.parametrize("page", ALL, ids=name_page)
def test_files_that_a_page_names_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        pytest.skip("names what was")
    named = re.findall(r"`((?:tasks|flows|tests|benchmarks|docs)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / f"{name}.py").is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_every_block_is_run_or_covered(page: Path) -> None:
    for snippet in read_snippets(page):
        if snippet.kind == "tested by":
            path, _, name = snippet.argument.partition("::")
            assert (ROOT / path).is_file(), f"{name_page(page)}:{snippet.line}: {path} does not exist"
            assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), flags=re.M), (
                f"{name_page(page)}:{snippet.line}: {path} has no {name}"
            )


def test_the_readme_fits_a_few_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_command_is_documented_and_has_help() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in main.commands:
        assert f"epoxy {name}" in readme, f"README does not mention `epoxy {name}`"
    for name, command in list_commands(main):
        assert command.help, f"`{name}` has no help"
        options = [option for option in command.params if isinstance(option, click.Option)]
        assert [option.name for option in options if not option.help] == []


def test_every_stage_and_artifact_is_in_the_reference() -> None:
    stages = (DOCS / "reference" / "stages.md").read_text()
    assert all(f"| `{stage}` |" in stages for stage in STAGES)
    tables = [path for paths in list_artifacts().values() for path in paths if path.suffix == ".parquet"]
    assert [path for path in tables if path not in TABLES] == []


def test_no_page_waits_for_a_number() -> None:
    assert [page.name for page in ALL if "TODO" in page.read_text()] == []


def test_the_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "".join(page.read_text() for page in ALL)
    assert set(re.findall(r"epoxy-flow\[(\w+)\]", text)) <= extras.keys()


def test_the_service_runs_what_exists() -> None:
    text = (DOCS / "how-to" / "deploy.md").read_text()
    (unit,) = [snippet.text for snippet in read_snippets(DOCS / "how-to" / "deploy.md") if snippet.language == "ini"]
    assert re.search(r"^ExecStart=(.+)/\.venv/bin/epoxy (\w+)$", unit, flags=re.M)[2] in main.commands
    for name in re.findall(r"`((?:EPOXY|PREFECT)_[A-Z_]+)`", text):
        assert name in (DOCS / "reference" / "environment.md").read_text()


def test_deployments_in_the_guide_are_those_of_prefect_yaml() -> None:
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    text = (DOCS / "how-to" / "schedule.md").read_text()
    for deployment in deployed:
        flow = deployment["entrypoint"].partition(":")[2].replace("_", "-")
        assert f"`{flow}/{deployment['name']}`" in text


def test_the_site_has_no_broken_link_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "zensical.toml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(list(DOCS.rglob("*.md")))
    for page in pages:
        loaded = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)", page.read_text()
        )
        assert loaded == [], f"{page.name} loads {loaded}"
    assert [path.name for path in (tmp_path / "site").rglob("*.py")] == [], "what writes the pages is no page"
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text()), style.name
    # What Mermaid and mathematics need would come from a CDN.
    assert not re.search(r"^```mermaid|\$\$", "".join(page.read_text() for page in ALL), flags=re.M)
