"""Prefect servers on this machine: temporary for a single run, or lasting, with a worker and the deployments."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from flows.deployments import FILE, deploy, read_pool
from flows.runner.local_pages import HOST, NAMES, PORT
from flows.runner.process import end_guarded, make_environment, start_guarded
from flows.server_access import (
    Server,
    ServerError,
    find_password,
    hide_passwords,
    lock_home,
    make_api_url,
    read_password,
)
from flows.server_health import check_server

_DATABASE_SIZE = 2**20
"""Bytes that Prefect's new database and its journal take, roughly."""

_START_SECONDS = 120.0
"""The first start creates a database; 8 seconds were measured on an idle machine with two cores."""

_PORTS = 3
"""Ports that a temporary server tries: between the search for a free port and the server's start, which takes seconds,
any connection of another program may take it."""


class _EndedError(ServerError):
    """A server ended before it answered."""


def find_server() -> Server | None:
    """The server that Prefect is set up for (PREFECT_API_URL or the profile), else that of `epoxy server` if it answers.

    Our password goes to a server on this machine that has proven to know it, and to no other.

    Raises
    ------
    ServerError
        The password cannot be read.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

    configured = PREFECT_API_URL.value()
    if not configured:
        local = Server(api_url=make_api_url(PORT), password=read_password())
        return local if local.is_ours() else None
    password = PREFECT_API_AUTH_STRING.value()
    if password is None and httpx.URL(str(configured)).host in NAMES:
        ours = Server(api_url=str(configured), password=read_password())
        if ours.is_ours():
            return ours
    return Server(api_url=str(configured), password=password)


@dataclass(frozen=True, kw_only=True)
class TemporaryServer:
    """A server that was started, and does not answer yet; if it ends at once, others are started on other ports."""

    server: Server
    guard: "subprocess.Popen[bytes]"

    def wait(self) -> Server:
        """The server that answers.

        Raises
        ------
        ServerError
            It did not answer in time, or ended at each start.
        """
        begun = self
        for left in reversed(range(_PORTS)):
            try:
                _wait_for(begun.server, begun.guard)
                break
            except _EndedError:
                if not left:
                    raise
                begun = begin_temporary_server()
        return begun.server


def begin_temporary_server() -> TemporaryServer:
    """A new server, not waited for, which ends when this process ends, however it ends.

    Unlike a server that Prefect would start, it also ends when this process is killed by SIGKILL, and Ctrl-C does not
    end it before the run has recorded how it ended.

    Raises
    ------
    ServerError
        Prefect cannot write its database.
    """
    _check_home()
    server = Server(api_url=make_api_url(_find_free_port()), password=read_password())
    guard = _start_server(server, cwd=Path.cwd(), has_ui=False)
    atexit.register(end_guarded, guard)
    return TemporaryServer(server=server, guard=guard)


def start_temporary_server() -> Server:
    """As `begin_temporary_server`, and answers.

    Raises
    ------
    ServerError
        It did not answer in time, ended at each start, or Prefect cannot write its database.
    """
    return begin_temporary_server().wait()


def serve(*, root: Path, port: int = PORT) -> None:
    """Run a server (unless a server answers), a process worker and the deployments of prefect.yaml until interrupted.

    SIGTERM ends it as Ctrl-C does, with exit code 0: the worker and its flows first, then the server.

    Raises
    ------
    ServerError
        One of them could not be started, or ended by itself.
    """
    pool = read_pool(root)
    server = Server(api_url=make_api_url(port), password=read_password())
    signal.signal(signal.SIGTERM, _exit_once)
    with ExitStack() as stack:
        running = {}
        if server.is_ours():
            print(f"server   {_ui(server)} (was running)", flush=True)
        else:
            _check_home()
            _require_free(port)
            running["server"] = stack.enter_context(_ending(_start_server(server, cwd=root, has_ui=True)))
            _wait_for(server, running["server"])
            print(f"server   {_ui(server)}", flush=True)
            for name in end_dead_runs(server, pool):
                print(f"crashed  {name}: it ended with the worker that had started it", flush=True)
        print(f"password {find_password()}: the page asks for it once", flush=True)
        set_up_pool(server, pool)
        command = [*_PREFECT, "worker", "start", "--pool", pool, "--type", "process", "--name", _WORKER]
        environment = {**os.environ, **server.environment()}
        running["worker"] = stack.enter_context(_ending(_start(command, cwd=root, environment=environment)))
        print(f"worker   pool {pool}", flush=True)
        deploy(root=root, server=server)
        notify(server)
        print(f"deployed {FILE}; Ctrl-C ends everything", flush=True)
        while all(guard.poll() is None for guard in running.values()):
            time.sleep(1.0)
        dead = ", ".join(name for name, guard in running.items() if guard.poll() is not None)
        raise ServerError(f"the {dead} ended by itself; its last lines are above")


def deploy_to_running(*, root: Path, port: int = PORT) -> None:
    """Register the deployments of prefect.yaml on the server that `serve` has started on `port`.

    Raises
    ------
    ServerError
        None is there, or Prefect refused.
    """
    read_pool(root)
    server = Server(api_url=make_api_url(port), password=read_password())
    if not server.is_ours():
        raise ServerError(
            f"no server of yours answers on port {port}; start it with 'epoxy server', which deploys as well"
        )
    deploy(root=root, server=server)
    print(f"deployed {FILE}", flush=True)


def _exit_once(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # systemd signals every process, and make passes its signal on
    raise SystemExit(0)


def notify(server: Server) -> bool:
    """Whether `server` now posts how runs end, which it does where EPOXY_NOTIFY_URL says so.

    Raises
    ------
    ParamsError
        EPOXY_NOTIFY_URL is no address.
    ServerError
        The server does not answer, or refused.
    """
    from prefect.exceptions import PrefectException
    from prefect.settings import temporary_settings

    from flows.notify import URL_VARIABLE, read_url, set_up_notifications

    url = read_url()
    if url is None:
        return False
    check_server(server)
    try:
        with temporary_settings(server.settings()):
            names = set_up_notifications(url)
    except (httpx.HTTPError, PrefectException) as error:
        raise ServerError(
            f"{hide_passwords(server.api_url)}: notifications could not be set up ({type(error).__name__})"
        ) from None
    print(f"notices  automations {', '.join(names)}: posted to {URL_VARIABLE}", flush=True)
    return True


_PREFECT = (sys.executable, "-m", "prefect")

_WORKER = "epoxy"
"""The name of the worker that `serve` starts."""


_TEMPLATE = {
    "job_configuration": {"stream_output": True},
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}
"""What a run may say of the process that the worker starts for it: nothing, no command and no environment above all.
Without `env` in the configuration, for Prefect would merge that of a run into it, named in the template or not."""


def set_up_pool(server: Server, pool: str) -> None:
    """Have the work pool of the worker, whose runs start what `_TEMPLATE` lets them, one at a time.

    All flows write to the same project, and would only wait for each other.

    Raises
    ------
    ServerError
        The server did not do it in time.
    """
    settings = {"base_job_template": _TEMPLATE, "concurrency_limit": 1}
    deadline = time.monotonic() + _START_SECONDS
    with server.open() as client:
        while True:
            made = _ask(client, "POST", "/work_pools/", {"name": pool, "type": "process", **settings})
            if made or _ask(client, "PATCH", f"/work_pools/{pool}", settings):
                return
            if time.monotonic() > deadline:
                raise ServerError(f"the work pool '{pool}' could not be set up; is the server overloaded?")
            time.sleep(0.2)


def end_dead_runs(server: Server, pool: str) -> tuple[str, ...]:
    """The names of the runs of `pool` whose process is gone, which this call has set to Crashed.

    A run that was killed stays Running, and occupies its pool's only slot for ever. Called before the worker starts: if
    only workers of `serve` have ever served the pool, no run can be alive, since runs end with their worker.
    """
    crashed = {"type": "CRASHED", "name": "Crashed", "message": "ended with the worker that had started it"}
    with server.open() as client:
        workers = _ask(client, "POST", f"/work_pools/{pool}/workers/filter", {})
        if workers is None or any(
            worker["name"] != _WORKER and worker["status"] == "ONLINE" for worker in workers.json()
        ):
            return ()
        alive = {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}
        query = {"work_pools": {"name": {"any_": [pool]}}, "flow_runs": {"state": alive}}
        runs = _ask(client, "POST", "/flow_runs/filter", query)
        if runs is None:
            return ()  # the next start tries again; it can also be done in the UI
        ended = {"state": crashed, "force": True}
        return tuple(
            str(run["name"])
            for run in runs.json()
            if _ask(client, "POST", f"/flow_runs/{run['id']}/set_state", ended) is not None
        )


def _ask(client: httpx.Client, method: str, path: str, content: object) -> httpx.Response | None:
    """What the server answers, None if it refuses: a busy server refuses for a moment, or answers too late."""
    try:
        answer = client.request(method, path, json=content)
    except httpx.HTTPError:
        return None
    return answer if answer.is_success else None


def _ui(server: Server) -> str:
    return server.api_url.removesuffix("/api")


def _start_server(server: Server, *, cwd: Path, has_ui: bool) -> "subprocess.Popen[bytes]":
    """The guard of a new server; without the UI it is silent and has no schedules."""
    lock_home()
    port = httpx.URL(server.api_url).port
    environment = {
        **os.environ,
        # The UI asks the first address below, and notifications link to the second; a server would give both of them
        # Prefect's default port, whatever port it listens on.
        **server.environment(),
        "PREFECT_UI_API_URL": server.api_url,
        "PREFECT_UI_URL": _ui(server),
        "PREFECT_SERVER_API_AUTH_STRING": server.password or "",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{port}" for name in NAMES),
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    if not has_ui:
        environment |= {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false"}
    command = [sys.executable, "-m", "flows.server_app", str(port)]
    return _start(command, cwd=cwd, environment=environment, is_quiet=not has_ui)


def _start(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], is_quiet: bool = False
) -> "subprocess.Popen[bytes]":
    output = subprocess.DEVNULL if is_quiet else None
    env = make_environment(environment)
    # In another process group: Ctrl-C ends this process first, which then ends them in order.
    return start_guarded(command, cwd=cwd, env=env, stdout=output, stderr=output, process_group=0)


@contextmanager
def _ending(guard: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    try:
        yield guard
    finally:
        end_guarded(guard)


def _wait_for(server: Server, guard: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not server.is_ours():
        has_ended = guard.poll() is not None
        if has_ended or time.monotonic() > deadline:
            end_guarded(guard)
            raise (_EndedError if has_ended else ServerError)(
                f"no Prefect server came up at {server.api_url}; run 'epoxy server' to see what it says, or set "
                f"PREFECT_API_URL to a server that runs"
            )
        time.sleep(0.1)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # where a server has just ended, as uvicorn does
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServerError(
                f"port {port}: {error.strerror}. What listens there is no server of yours, or a server with another "
                "password: end it, or choose another port with --port."
            ) from None


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


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
