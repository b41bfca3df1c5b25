"""The Makefile does what the pages say of its targets, and what runs beside it (commits, CI) runs the same commands."""

import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments: str, **environment: str) -> str:
    """What make prints, as a person types it, also where make runs these tests."""
    outer = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", "--no-print-directory", *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**outer, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def list_commands(target: str) -> str:
    """The commands of `target` and of all that it needs, none of them run."""
    return make("--dry-run", "--always-make", target)


def read_recipe(target: str) -> list[str]:
    """The lines of `target` in the Makefile, without the environment's folder."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.M)
    assert found
    return [line.strip().removeprefix("$(BIN)/").removesuffix(" .") for line in found[1].splitlines()]


def test_make_run_and_make_test_are_what_the_readme_says() -> None:
    assert "--require-hashes -r requirements.lock" in list_commands("run")
    assert list_commands("run").rstrip().endswith("epoxy run")
    assert re.search(r"python -m pytest -n 3[^/]*$", list_commands("test").rstrip())


def test_a_slow_step_of_the_installation_is_told_before_it_begins() -> None:
    commands = list_commands("env").splitlines()
    is_slow = [" -m venv " in command or "pip install" in command for command in commands]
    is_told = [command.startswith("echo ") or slow for command, slow in zip(commands, is_slow, strict=True)]
    steps = [number for number, slow in enumerate(is_slow) if slow]
    assert len(steps) >= 4
    assert [commands[number] for number in steps if not is_told[number - 1]] == []


def test_where_uv_finds_no_registry_pip_installs_the_lock() -> None:
    """pip alone reads pip.conf, in which a company may name its own registry."""
    (command,) = [command for command in list_commands("env").splitlines() if "uv pip install" in command]
    tried, fallback = command.split(" || ")
    assert all(option in tried for option in ("--no-deps", "--require-hashes", "--compile-bytecode"))
    assert re.search(r"/pip install .*--no-deps --require-hashes -r requirements\.lock", fallback)


def test_every_target_is_documented() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    assert [target for target in targets if f"make {target}" not in text] == []


def test_check_is_lint_and_the_quick_tests_and_needs_no_network() -> None:
    commands = list_commands("check")
    assert commands.rstrip().endswith("tests/unit tests/property tests/contract")
    assert all(command in commands for command in read_recipe("lint"))
    assert "pip-audit" not in commands


def test_a_commit_is_checked_as_make_lint_does() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]}
    assert hooks == {*read_recipe("lint"), *read_recipe("audit")}


def test_ci_lints_tests_and_asks_for_advisories() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert [target for target in ("lint", "test", "audit") if not re.search(rf"\bmake .*\b{target}\b", script)] == []


def test_make_lock_writes_names_versions_and_hashes_whatever_registry_it_asks(tmp_path: Path) -> None:
    """The real command on a project of one package; the registry's address, with a password, comes from outside."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\ndependencies = []\n[dependency-groups]\ndev = ["tiny"]\n'
    )
    metadata = "Metadata-Version: 2.1\nName: tiny\nVersion: "
    for version in ("1.0", "1.1"):
        with zipfile.ZipFile(tmp_path / f"tiny-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"tiny-{version}.dist-info/METADATA", f"{metadata}{version}\n")
            wheel.writestr(f"tiny-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"tiny-{version}.dist-info/RECORD", "")
    lock = tmp_path / "requirements.lock"
    lock.write_text("tiny==1.0\n")  # to be upgraded
    make(
        f"--directory={tmp_path}",
        f"--file={ROOT / 'Makefile'}",
        "--old-file=.venv/ready",
        f"BIN={ROOT / '.venv' / 'bin'}",
        "lock",
        UV_INDEX_URL="https://me:secret@registry.invalid/simple",
        UV_FIND_LINKS=str(tmp_path),
        UV_OFFLINE="1",
        UV_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert re.fullmatch(r"tiny==1\.1 \\\n    --hash=sha256:[0-9a-f]{64}\n", lock.read_text())


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("elsewhere")], ids=["folder", "link"])
def test_git_passes_over_the_environment(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pattern with a slash at its end misses a link, as to an environment that several clones share."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text(encoding="utf-8"), encoding="utf-8")
    make(tmp_path / ".venv")
    assert subprocess.run(["git", "check-ignore", "-q", ".venv"], cwd=tmp_path, check=False).returncode == 0
