"""Who may use the Prefect servers that Epoxy starts: their owner, by a password that is made at the first start.

The password is a file in Prefect's home, for its owner's eyes alone. A server proves that it knows it before a client
sends it, since any user of this machine may listen on any port.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from flows.runner.local_pages import HOST
from tasks.errors import EpoxyError

PROOF_PATH = "/epoxy-proof"
"""Where a server proves that it knows the password, without a password being sent."""

_FILE = "epoxy-password"

_USER = "epoxy"
"""Prefect's password is a single text, `user:password`."""


class ServerError(EpoxyError):
    """A Prefect server, worker or deployment could not be started."""

    exit_code = 7


@dataclass(frozen=True, kw_only=True)
class Server:
    """A Prefect server as its clients know it; password: `user:password`, None where it has none."""

    api_url: str
    password: str | None = field(default=None, repr=False)

    def is_ours(self) -> bool:
        """Whether what answers at the address has proven that it knows the password."""
        if self.password is None:
            return False
        nonce = secrets.token_hex(16)
        address = urlsplit(self.api_url)
        try:
            with open_client(f"http://{address.netloc}", timeout=2.0) as client:
                proof = client.get(PROOF_PATH, params={"nonce": nonce}).text
        except httpx.HTTPError:
            return False
        return hmac.compare_digest(proof.encode(), prove(self.password, nonce, address.port or 80).encode())

    def find_auth(self) -> httpx.BasicAuth | None:
        """The password as a client of the API sends it; None where the server has none."""
        user, _, password = (self.password or "").partition(":")
        return httpx.BasicAuth(user, password) if self.password else None

    def settings(self) -> dict[Any, str]:
        """What Prefect's clients in this process have to know, for `prefect.settings.temporary_settings`."""
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

        return {PREFECT_API_URL: self.api_url, **({PREFECT_API_AUTH_STRING: self.password} if self.password else {})}

    def environment(self) -> dict[str, str]:
        """What Prefect's clients in other processes have to know."""
        password = {"PREFECT_API_AUTH_STRING": self.password} if self.password else {}
        return {"PREFECT_API_URL": self.api_url, **password}

    @contextmanager
    def open(self) -> Iterator[httpx.Client]:
        """A client of the API, with the password and the token that requests which change something have to carry.

        Raises
        ------
        ServerError
            The server does not answer, or an answer that was to be a success within the block is none.
        """
        name = str(uuid.uuid4())
        address = hide_passwords(self.api_url)
        try:
            with open_client(self.api_url, auth=self.find_auth(), timeout=60.0) as client:
                answer = client.get("/csrf-token", params={"client": name})
                if answer.is_success:  # without protection there is no token
                    client.headers.update({"Prefect-Csrf-Client": name, "Prefect-Csrf-Token": answer.json()["token"]})
                yield client
        except httpx.HTTPStatusError as error:
            said = hide_passwords(str(error))
            raise ServerError(f"{address}: the Prefect server did not do what it was asked ({said})") from None
        except httpx.HTTPError as error:
            raise ServerError(f"{address}: the Prefect server does not answer ({type(error).__name__})") from None


def open_client(address: str, *, timeout: float, auth: httpx.BasicAuth | None = None) -> httpx.Client:
    """A client of `address`; where that is not encrypted, without the certificates of this machine, 20 ms to load."""
    return httpx.Client(base_url=address, timeout=timeout, auth=auth, verify=urlsplit(address).scheme == "https")


def hide_passwords(text: str) -> str:
    """Return `text` without the user and the password of any address in it.

    >>> hide_passwords("GET http://me:secret@localhost:4200/api")
    'GET http://***@localhost:4200/api'
    """
    return re.sub(r"//[^/\s]*@", "//***@", text)


def make_api_url(port: int) -> str:
    """The address of the API of a server on this machine."""
    return f"http://{HOST}:{port}/api"


def prove(password: str, nonce: str, port: int) -> str:
    """What only a server on `port` that knows `password` can answer to `nonce`."""
    return hmac.digest(password.encode(), f"{nonce}:{port}".encode(), hashlib.sha256).hex()


def find_password_file() -> Path:
    """Where the password is, as the web page asks for it."""
    return _find_home() / _FILE


def find_password() -> str:
    """Where the password is that `read_password` gives: a file, or the setting that names it."""
    from prefect.settings import PREFECT_SERVER_API_AUTH_STRING

    is_configured = bool(PREFECT_SERVER_API_AUTH_STRING.value())
    return "that of PREFECT_SERVER_API_AUTH_STRING" if is_configured else str(find_password_file())


def read_password() -> str:
    """The password, `user:password`, of servers that this user starts: the configured one, or a file's, made if need be.

    Raises
    ------
    ServerError
        The file cannot be read or made, or others can read it.
    """
    from prefect.settings import PREFECT_SERVER_API_AUTH_STRING

    configured = PREFECT_SERVER_API_AUTH_STRING.value()
    if configured:
        return str(configured)
    path = find_password_file()
    try:
        return _read(path)
    except FileNotFoundError:
        write_password(is_new=False)
    try:
        return _read(path)
    except OSError as error:
        raise _unusable(path, error) from None


def write_password(*, is_new: bool) -> Path:
    """The file with the password, after a new password was written to it; where `is_new` is false, a password that is there stays.

    Raises
    ------
    ServerError
        The file cannot be written, or a new one would not be used.
    """
    from prefect.settings import PREFECT_SERVER_API_AUTH_STRING

    if is_new and PREFECT_SERVER_API_AUTH_STRING.value():
        raise ServerError(f"the password is {find_password()}: change it there, or unset it to have a file with one")
    path = find_password_file()
    try:
        lock_home()
        descriptor, name = tempfile.mkstemp(prefix=f".{_FILE}.", dir=path.parent)  # readable by its owner alone
        part = Path(name)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{_USER}:{secrets.token_urlsafe(24)}\n")
        if is_new:
            part.replace(path)
        else:
            with contextlib.suppress(FileExistsError):  # another process was first
                path.hardlink_to(part)
            part.unlink()
    except OSError as error:
        raise _unusable(path, error) from None
    return path


def lock_home() -> None:
    """Make Prefect's home, where database and settings are, if need be, and let nobody but its owner enter it."""
    home = _find_home()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = home.stat()
    if found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) & 0o077:
        home.chmod(0o700)


def _find_home() -> Path:
    from prefect.settings import PREFECT_HOME

    return Path(os.environ.get("PREFECT_HOME") or PREFECT_HOME.value()).expanduser()


def _read(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, encoding="utf-8") as file:
        found = os.fstat(file.fileno())
        password = file.read().strip()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077 or ":" not in password:
        raise ServerError(
            f"{path}: expected a password that only its owner can read. Make another with 'epoxy server --new-password'."
        )
    return password


def _unusable(path: Path, error: OSError) -> ServerError:
    return ServerError(
        f"{path}: {error.strerror or error}. The password of the Prefect server is kept there; set PREFECT_HOME to a "
        "folder that you can write."
    )
