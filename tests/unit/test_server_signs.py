"""A run with nothing to do asks Prefect for a server only where one may be configured or listen."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server_signs import has_signs_of_server


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine on which nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


FILES = {
    "prefect.toml": "",
    ".env": "PREFECT_API_URL=http://elsewhere/api",
    "home/profiles.toml": "",
    "pyproject.toml": "[tool.prefect.api]\nurl = 'http://elsewhere/api'",
}


def test_a_bare_machine_has_no_signs(tmp_path: Path, port: int) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.prefect.server]\nanalytics_enabled = false\n")
    assert not has_signs_of_server(tmp_path, {"PREFECT_HOME": str(tmp_path / "home"), "PATH": ""}, port)


@pytest.mark.parametrize("name", FILES)
def test_files_that_set_prefect_up_are_signs(tmp_path: Path, port: int, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(FILES[name])
    assert has_signs_of_server(tmp_path, {"PREFECT_HOME": str(tmp_path / "home")}, port)


@pytest.mark.parametrize("name", ["PREFECT_API_URL", "prefect_profile", "PREFECT_PROFILES_PATH"])
def test_variables_of_prefect_are_signs(tmp_path: Path, port: int, name: str) -> None:
    assert has_signs_of_server(tmp_path, {"PREFECT_HOME": str(tmp_path), name: "x"}, port)


def test_who_listens_is_a_sign(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert has_signs_of_server(tmp_path, {"PREFECT_HOME": str(tmp_path)}, server.getsockname()[1])


def test_looking_for_signs_imports_neither_prefect_nor_an_http_client() -> None:
    code = "import sys, flows.server_signs; sys.exit(len({'prefect', 'httpx', 'starlette'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
