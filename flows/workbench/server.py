"""`epoxy workbench`: the pages over the queries, served to this machine's browser until Ctrl-C.

NiceGUI draws them: its package includes every script, style and font, so that pages work without a network, and pages are
written in Python. (Streamlit and marimo rerun a page's code at each click and give answers no address; Panel and htmx
would have needed scripts of our own.)
"""

import os
import socket
import tempfile
import webbrowser
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from flows.releases.last_run import describe_origin
from flows.runner.local_pages import HOST
from flows.workbench.access import PARAMETER, Door, Guard
from flows.workbench.live import Live
from tasks.errors import StageError
from tasks.queries.project_data import ProjectData
from tasks.report.origin import add_origin
from tasks.tables.paths import REPORT

PORT = 4300
"""The default port; if it is taken, any free port."""


def run_workbench(*, root: Path, port: int | None = None, opens_browser: bool = True, is_live: bool = True) -> None:
    """Serve the workbench of the project at `root` until Ctrl-C; the address, with its token, is printed.

    Raises
    ------
    StageError
        The given port is taken.
    """
    listener = _listen(port)
    door = Door(port=listener.getsockname()[1])
    live = Live(root)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NICEGUI_STORAGE_PATH"] = folder  # temporary, so that nothing is written in the project
        application = make_application(root, live)
        server = uvicorn.Server(
            uvicorn.Config(Guard(application, door), log_level="warning", server_header=False, ws_max_size=2**20)
        )
        address = f"http://{HOST}:{door.port}/?{PARAMETER}={door.token}"
        print(f"workbench of {root.name}: {address}\nCtrl-C ends it", flush=True)
        if is_live:
            live.start()
        if opens_browser:
            webbrowser.open(address)
        try:
            server.run(sockets=[listener])
        finally:
            live.stop()


def make_application(root: Path, live: Live) -> FastAPI:
    """Return the application, with all pages and the report."""
    from nicegui import ui

    from flows.workbench import (
        item_pages,
        label_page,
        lf_pages,
        overview,
        plan_page,
        release_pages,
        suggest_page,
    )
    from flows.workbench.frame import Bench

    application = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    bench = Bench(root=root.resolve(), data=ProjectData(root.resolve()), live=live)

    @application.get("/report")
    def report() -> Response:
        path = bench.root / REPORT
        if not path.is_file():
            return PlainTextResponse("no report yet; 'epoxy run' makes it\n", status_code=404)
        shown = add_origin(path.read_text(encoding="utf-8"), describe_origin(bench.root))
        return HTMLResponse(shown, headers={"Cache-Control": "no-store"})

    for module in (overview, lf_pages, item_pages, label_page, suggest_page, plan_page, release_pages):
        module.add_pages(bench)
    ui.run_with(application, title="Epoxy Flow", language="en-US", show_welcome_message=False)
    return application


def _listen(port: int | None) -> socket.socket:
    """A socket that listens on the loopback interface only."""
    for candidate in (PORT, 0) if port is None else (port,):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, candidate))
        except OSError as error:
            listener.close()
            if port is not None:
                raise StageError(f"port {port}: {error.strerror}. Name another with --port, or none.") from None
        else:
            # A browser that is opened before the application is ready waits, instead of being refused.
            listener.listen()
            return listener
    raise StageError(f"no port is free on {HOST}")
