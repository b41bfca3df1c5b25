"""Whether anything speaks for a Prefect server, found without Prefect, whose settings take .6 s to import."""

import os
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path

from flows.runner.local_pages import HOST, PORT

_SETTINGS = "PREFECT_"
"""How variables begin that set Prefect up."""

_HOME = "PREFECT_HOME"
"""The variable that says where else profiles are, and nothing of a server."""


def has_signs_of_server(root: Path, environment: Mapping[str, str] = os.environ, port: int = PORT) -> bool:
    """Whether a server may be configured for the project at `root`, or somebody listens where `epoxy server` would.

    False only where `flows.server.find_server` is sure to find none: no variable, profile or file sets Prefect up, and
    nobody listens.
    """
    names = {name.upper() for name in environment}
    if any(name.startswith(_SETTINGS) for name in names - {_HOME}):
        return True
    home = Path(environment.get(_HOME) or Path.home() / ".prefect").expanduser()
    if any(path.exists() for path in (home / "profiles.toml", root / "prefect.toml", root / ".env")):
        return True
    if _names_server(root / "pyproject.toml"):
        return True
    with socket.socket() as probe:
        probe.settimeout(2.0)
        return probe.connect_ex((HOST, port)) == 0


def _names_server(project: Path) -> bool:
    """Whether the file at `project` may say which server Prefect uses: [tool.prefect] has more than how a server works."""
    try:
        settings = tomllib.loads(project.read_text(encoding="utf-8")).get("tool", {}).get("prefect", {})
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True  # Prefect will say what is wrong
    return bool(settings.keys() - {"server"})
