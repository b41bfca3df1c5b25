"""A real Chromium without a window, driven over its DevTools protocol."""

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect


class Page:
    """The one page of a browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._asked = connection, 0
        self.events: list[dict[str, Any]] = []
        """What the browser has told without being asked, of the domains that are enabled."""

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """What the browser answers to a command of its protocol."""
        self._asked += 1
        self._connection.send(json.dumps({"id": self._asked, "method": method, "params": params}))
        while True:
            answer: dict[str, Any] = json.loads(self._connection.recv(timeout=60))
            if answer.get("id") == self._asked:
                return dict(answer["result"])
            if "method" in answer:
                self.events.append(answer)

    def evaluate(self, script: str) -> Any:
        """The value of a line of JavaScript in the page."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Return once `script` is true in the page."""
        deadline = time.monotonic() + 180
        while not self.evaluate(script):
            assert time.monotonic() < deadline, f"never true: {script}; {self.evaluate('document.body.innerText')}"
            time.sleep(0.2)

    def type(self, text: str) -> None:
        """Put `text` into the first field in place of what is there, as a keyboard does, and press Enter."""
        self.evaluate("document.querySelector('input').focus(); document.querySelector('input').select()")
        self.ask("Input.insertText", text=text)
        enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        self.ask("Input.dispatchKeyEvent", type="keyDown", text="\r", **enter)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **enter)


@contextlib.contextmanager
def open_page(address: str, folder: Path) -> Iterator[Page]:
    """A page at `address` in a new browser, which keeps its files in `folder`."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    with subprocess.Popen(
        [*command, f"--user-data-dir={folder}", "about:blank"], stderr=subprocess.PIPE, text=True
    ) as browser:
        try:
            assert browser.stderr is not None
            found = next(match for line in browser.stderr if (match := re.search(r"ws://([^/]+)/", line)))
            pages = httpx.get(f"http://{found[1]}/json", timeout=60).json()
            target = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            with connect(target, max_size=None) as connection:
                page = Page(connection)
                page.ask("Page.navigate", url=address)
                try:
                    yield page
                finally:
                    # Killed, it would leave a folder in that of temporary files.
                    with contextlib.suppress(ConnectionClosed):
                        page.ask("Browser.close")
                    browser.wait(60)
        finally:
            browser.kill()
