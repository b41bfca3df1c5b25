"""Links from the artifacts of a run to its report, which our Prefect server serves beside Prefect's pages.

A link is signed with the server's password: who has it was given it by somebody who knows the password, or by the
server's database, which only its owner reads. It names the file, so that one server shows the reports of all projects.
"""

import hashlib
import hmac
import re
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import httpx

from flows.runner.local_pages import NAMES
from flows.server_access import ServerError, read_password

PATH = "/epoxy-report"

_FILE = "report.html"

HEADERS = {
    # The page has an origin of its own: its script cannot ask Prefect's API with what the browser knows.
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    "Cache-Control": "no-store",
}


def name_artifact(root: Path, name: str) -> str:
    """Return the key of an artifact of the project at `root`, since a server may have several projects.

    >>> name_artifact(Path("/data/Spam & ham"), "gates")
    'spam-ham-gates'
    """
    project = re.sub(r"[^a-z0-9]+", "-", root.resolve().name.lower()).strip("-")
    return f"{project or 'project'}-{name}"


def write_link(root: Path, path: Path) -> str:
    """Return `path`, a report below `root`, in Markdown: as a link where the server of this run is on this machine."""
    from prefect.settings import PREFECT_API_URL

    shown = f"`{path.relative_to(root)}`"
    if httpx.URL(str(PREFECT_API_URL.value() or "")).host not in NAMES:
        return f"{shown} ('epoxy workbench' shows it)"
    try:
        return f"[{shown}]({sign(read_password(), path)})"
    except ServerError:
        return shown


def sign(password: str, path: Path) -> str:
    """Return the address of the report at `path`, relative to the server."""
    file = str(path.resolve())
    return f"{PATH}?{urlencode({'file': file, 'proof': _prove(password, file)})}"


def find_report(password: str, query: str) -> Path | None:
    """Return the report that the `query` of an address asks for; None if it was not signed with `password`."""
    asked = parse_qs(query)
    file, proof = (asked.get(name, [""])[0] for name in ("file", "proof"))
    if not password or not hmac.compare_digest(proof.encode(), _prove(password, file).encode()):
        return None
    path = Path(file)
    return path if path.name == _FILE else None


def _prove(password: str, file: str) -> str:
    # No answer of the server to a nonce (flows/server_access.py) is one to this: that text ends in a port, this in .html.
    return hmac.digest(password.encode(), f"report:{file}".encode(), hashlib.sha256).hex()
