"""Prefect servers on this machine: a temporary one for a single run, or one with a worker and the deployments."""

import atexit
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from flows.runner.process import end_guarded, make_environment, start_guarded
from tasks.errors import EpoxyError

HOST = "127.0.0.1"
"""Loopback only: the server has no password."""

PORT = 4200
"""Prefect's own default."""

DEPLOYMENTS = "prefect.yaml"

_ANSWER_SECONDS = 20.0
"""For one answer of the configured server; a server with SQLite under load takes some seconds."""

_LISTEN_SECONDS = 3.0
"""Between two questions to the server of a run whether it is there."""

_SILENT_SECONDS = 60.0
"""After which it is gone rather than being restarted; as long as Prefect repeats one request."""

_DATABASE_SIZE = 2**20
"""Bytes that Prefect's new database and its journal take, roughly."""

_CLOUD = "https://api.prefect.cloud/"

_START_SECONDS = 120.0
"""The first start creates a database; 8 seconds were measured on an idle machine with two cores."""


class ServerError(EpoxyError):
    """A Prefect server, worker or deployment could not be started."""

    exit_code = 7


def make_api_url(port: int) -> str:
    """The address of the API of a server on this machine."""
    return f"http://{HOST}:{port}/api"


def is_answering(api_url: str) -> bool:
    """Whether a Prefect server, and not another program, answers at `api_url`."""
    return find_fault(api_url, seconds=2.0) is None


def find_fault(api_url: str, *, seconds: float) -> str | None:
    """Why `api_url` is not the API of a Prefect server, as the end of a sentence; None if it is.

    A server says which version it is, and whether it is in order; any program may answer 200.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING

    secret = PREFECT_API_AUTH_STRING.value()
    user, _, password = (secret.get_secret_value() if secret else "").partition(":")
    try:
        with httpx.Client(timeout=seconds, auth=(user, password) if user else None) as client:
            for path, expected in (("health", r"true"), ("admin/version", r'"\d+\.\d+.*"')):
                answer = client.get(f"{api_url}/{path}")
                if answer.status_code != httpx.codes.OK:
                    return f"answers {answer.status_code} {answer.reason_phrase}".strip()
                if not re.fullmatch(expected, answer.text.strip()):
                    return "answers, but is not a Prefect server's API"
    except httpx.TimeoutException:
        return f"does not answer within {seconds:g} seconds"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return f"cannot be reached ({hide_passwords(str(error))})"
    return None


def check_server(api_url: str) -> None:
    """Return if a Prefect server answers at `api_url`.

    Raises
    ------
    ServerError
        It does not, and why.
    """
    if api_url.startswith(_CLOUD):
        return  # it has no such pages, and says itself what is wrong
    if fault := find_fault(api_url, seconds=_ANSWER_SECONDS):
        raise ServerError(
            f"the Prefect server at {hide_passwords(api_url)} {fault}. Start it, correct or unset PREFECT_API_URL, or "
            "switch the Prefect profile; without an address, a run starts a server of its own"
        )


@contextmanager
def limit_patience(api_url: str) -> Iterator[None]:
    """While the block runs, Prefect stops repeating requests once the server has been silent for a minute.

    Its client repeats each of them for a minute by itself, one after another, which adds up to minutes after the last
    stage has ended. A server that is back is believed again.
    """
    from prefect.settings import get_current_settings

    client, is_over = get_current_settings().client, threading.Event()

    def watch() -> None:
        usual, heard = client.max_retries, None
        while not is_over.wait(_LISTEN_SECONDS):
            if is_answering(api_url):
                client.max_retries, heard = usual, time.monotonic()
            elif heard is not None and time.monotonic() - heard > _SILENT_SECONDS:
                client.max_retries = 0

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def hide_passwords(text: str) -> str:
    """`text` without the user and the password of any address in it.

    >>> hide_passwords("GET http://me:secret@localhost:4200/api")
    'GET http://***@localhost:4200/api'
    """
    return re.sub(r"//[^/\s]*@", "//***@", text)


def find_api_url() -> str | None:
    """The API that Prefect is set up for (PREFECT_API_URL or the profile), else that of `epoxy server` if it answers."""
    from prefect.settings import PREFECT_API_URL

    configured = PREFECT_API_URL.value()
    if configured:
        return str(configured)
    local = make_api_url(PORT)
    return local if is_answering(local) else None


def start_temporary_server() -> str:
    """The API address of a new server, which ends when this process ends, however it ends.

    Unlike the one that Prefect would start, it also ends when this process is killed by SIGKILL, and Ctrl-C does not
    end it before the run has recorded how it ended.

    Raises
    ------
    ServerError
        It did not answer in time.
    """
    _check_home()
    port = _find_free_port()
    command = [*_PREFECT, "server", "start", "--host", HOST, "--port", str(port), "--no-ui", "--no-scheduler"]
    guard = _start(command, cwd=Path.cwd(), api_url=None, is_quiet=True)
    atexit.register(end_guarded, guard)
    _wait_for(make_api_url(port), guard)
    return make_api_url(port)


def serve(*, root: Path, port: int = PORT) -> None:
    """Run a server (unless one answers), a process worker and the deployments of prefect.yaml until interrupted.

    SIGTERM ends it as Ctrl-C does, with exit code 0: the worker and its flows first, then the server.

    Raises
    ------
    ServerError
        One of them could not be started, or ended by itself.
    """
    pool = _read_pool(root)
    api_url = make_api_url(port)
    signal.signal(signal.SIGTERM, _exit_once)
    with ExitStack() as stack:
        running = {}
        if is_answering(api_url):
            print(f"server   {_ui(api_url)} (was running)", flush=True)
        else:
            _check_home()
            if _is_taken(port):
                raise ServerError(
                    f"port {port} is taken by a program that is not a Prefect server; end it, or choose another port "
                    f"with 'epoxy server --port'"
                )
            command = [*_PREFECT, "server", "start", "--host", HOST, "--port", str(port)]
            running["server"] = stack.enter_context(_running(command, root, api_url=api_url))
            _wait_for(api_url, running["server"])
            print(f"server   {_ui(api_url)}", flush=True)
            for name in end_dead_runs(api_url, pool):
                print(f"crashed  {name}: it ended with the worker that had started it", flush=True)
        command = [*_PREFECT, "worker", "start", "--pool", pool, "--type", "process", "--name", _WORKER]
        running["worker"] = stack.enter_context(_running(command, root, api_url=api_url))
        _wait_for_pool(api_url, pool, running["worker"])
        _limit_pool(api_url, pool)
        print(f"worker   pool {pool}", flush=True)
        deploy(root=root, api_url=api_url)
        notify(api_url=api_url)
        print(f"deployed {DEPLOYMENTS}; Ctrl-C ends everything", flush=True)
        while all(guard.poll() is None for guard in running.values()):
            time.sleep(1.0)
        dead = ", ".join(name for name, guard in running.items() if guard.poll() is not None)
        raise ServerError(f"the {dead} ended by itself; its last lines are above")


def _exit_once(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # systemd signals every process, and make passes its signal on
    raise SystemExit(0)


def deploy(*, root: Path, api_url: str) -> None:
    """Register the deployments of prefect.yaml in `root`.

    Raises
    ------
    ServerError
        Prefect refused.
    """
    env = make_environment({**os.environ, "PREFECT_API_URL": api_url})
    command = [*_PREFECT, "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServerError(f"{root / DEPLOYMENTS}: Prefect could not deploy it:\n{done.stdout}{done.stderr}")


def notify(*, api_url: str) -> bool:
    """Whether the server at `api_url` now posts how runs end, which it does where EPOXY_NOTIFY_URL says so.

    Raises
    ------
    ParamsError
        EPOXY_NOTIFY_URL is no address.
    ServerError
        The server does not answer, or refused.
    """
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.notify import URL_VARIABLE, read_url, set_up_notifications

    url = read_url()
    if url is None:
        return False
    check_server(api_url)
    try:
        with temporary_settings({PREFECT_API_URL: api_url}):
            names = set_up_notifications(url)
    except (httpx.HTTPError, PrefectException) as error:
        raise ServerError(
            f"{hide_passwords(api_url)}: notifications could not be set up ({type(error).__name__})"
        ) from None
    print(f"notices  automations {', '.join(names)}: posted to {URL_VARIABLE}", flush=True)
    return True


_PREFECT = (sys.executable, "-m", "prefect")

_WORKER = "epoxy"
"""The name of the worker that `serve` starts."""


def _ui(api_url: str) -> str:
    return api_url.removesuffix("/api")


def _start(command: Sequence[str], *, cwd: Path, api_url: str | None, is_quiet: bool) -> "subprocess.Popen[bytes]":
    env = make_environment({**os.environ, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"})
    if api_url:
        # The UI asks the second, and notifications link to the third; a server would give both of them Prefect's
        # default port, whatever port it listens on.
        env.update(PREFECT_API_URL=api_url, PREFECT_UI_API_URL=api_url, PREFECT_UI_URL=_ui(api_url))
    output = subprocess.DEVNULL if is_quiet else None
    # In a group of its own: Ctrl-C ends this process first, which then ends them in order.
    return start_guarded(command, cwd=cwd, env=env, stdout=output, stderr=output, process_group=0)


@contextmanager
def _running(command: Sequence[str], root: Path, *, api_url: str | None) -> Iterator["subprocess.Popen[bytes]"]:
    guard = _start(command, cwd=root, api_url=api_url, is_quiet=False)
    try:
        yield guard
    finally:
        end_guarded(guard)


def _wait_for(api_url: str, guard: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_answering(api_url):
        if guard.poll() is not None or time.monotonic() > deadline:
            end_guarded(guard)
            raise ServerError(
                f"no Prefect server came up at {api_url}; run 'prefect server start' to see what it says, or set "
                f"PREFECT_API_URL to a server that runs"
            )
        time.sleep(0.1)


def _wait_for_pool(api_url: str, pool: str, guard: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _is_done(httpx.get, f"{api_url}/work_pools/{pool}"):
        if guard.poll() is not None or time.monotonic() > deadline:
            raise ServerError(f"the worker did not create its pool '{pool}'; its last lines are above")
        time.sleep(0.2)


def end_dead_runs(api_url: str, pool: str) -> tuple[str, ...]:
    """The names of the runs of `pool` whose process is gone, which this call has set to Crashed.

    A run that was killed stays Running, and occupies its pool's only slot for ever. Called before the worker starts: if
    only workers of `serve` have ever served the pool, no run can be alive, since runs end with their worker.
    """
    alive = {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}
    crashed = {"type": "CRASHED", "name": "Crashed", "message": "ended with the worker that had started it"}
    names = []
    try:
        workers = httpx.post(f"{api_url}/work_pools/{pool}/workers/filter", json={}, timeout=10.0)
        if not workers.is_success or any(
            worker["name"] != _WORKER and worker["status"] == "ONLINE" for worker in workers.json()
        ):
            return ()
        query = {"work_pools": {"name": {"any_": [pool]}}, "flow_runs": {"state": alive}}
        for run in httpx.post(f"{api_url}/flow_runs/filter", json=query, timeout=10.0).raise_for_status().json():
            told = {"state": crashed, "force": True}
            if _is_done(httpx.post, f"{api_url}/flow_runs/{run['id']}/set_state", json=told):
                names.append(f"{run['name']}")
    except httpx.HTTPError:
        pass  # the next start tries again; it can also be done in the UI
    return tuple(names)


def _limit_pool(api_url: str, pool: str) -> None:
    """Let the pool run one flow at a time: all flows write to the same project, and would only wait for each other."""
    deadline = time.monotonic() + _START_SECONDS
    while not _is_done(httpx.patch, f"{api_url}/work_pools/{pool}", json={"concurrency_limit": 1}):
        if time.monotonic() > deadline:
            raise ServerError(
                f"the pool '{pool}' could not be limited to one flow at a time; is the server overloaded?"
            )
        time.sleep(0.2)


def _is_done(request: Callable[..., httpx.Response], url: str, **options: Any) -> bool:
    """Whether the server did as asked; a busy one refuses for a moment, or answers too late."""
    try:
        return request(url, timeout=10.0, **options).is_success
    except httpx.HTTPError:
        return False


def _check_home() -> None:
    """Return if Prefect can write its database and settings.

    Raises
    ------
    ServerError
        It cannot, and where.
    """
    from prefect.settings import PREFECT_HOME

    home = PREFECT_HOME.value()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(bytes(_DATABASE_SIZE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = error.strerror or error
        raise ServerError(
            f"{home}: Prefect cannot write its database there ({reason}). Make room or give permission, or set "
            f"PREFECT_HOME to another folder"
        ) from None


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _read_pool(root: Path) -> str:
    path = root / DEPLOYMENTS
    try:
        deployments = yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
        (pool,) = {str(deployment["work_pool"]["name"]) for deployment in deployments}
    except FileNotFoundError:
        raise ServerError(f"{path} is missing; expected the deployments there") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(f"{path}: expected deployments that all name one work_pool ({error})") from None
    return pool


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
