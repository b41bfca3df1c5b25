"""Requests to an OpenAI-compatible API: what is tried again, what is one item's fault, and what stops everything.

Tried again, with waits that double or as long as the server says: time-outs, broken connections, 408, 425, 429, 5xx, and
answers that are half there, too large, or not of the API's form. Refused for one item: 400, 413, 422, and what names
`response_format`. Anything else, such as a
wrong key or a redirect (never followed, since the key would go with it), stops everything. Neither key nor headers are in any
message; what the server says is cut, made printable, and shown only in errors.
"""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from tasks.errors import ParamsError, StageError

LARGEST = 1 << 20
"""Bytes of an answer that are read: a word takes hundreds, what a model thinks before it thousands."""

SHOWN = 200
"""Characters of what a server says that an error shows."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait, in seconds: for an answer, and before another try; attempts: tries of one item.

    Waits double from `first_wait`: six tries wait 31 s in all, longer than a server takes to restart. If the server wants a
    longer wait than `longest_wait`, it is better to come back later.
    """

    timeout: float = 60.0
    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 300.0


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the model said; model, input_tokens and output_tokens as the server says, None where it does not."""

    content: str
    model: str | None
    input_tokens: int | None
    output_tokens: int | None


class RefusedError(Exception):
    """The server refuses this request, and would refuse it again."""


class NoAnswerError(Exception):
    """No usable answer came, however often it was tried."""


class StoppedError(Exception):
    """Another thread asked to stop."""


class _AgainError(Exception):
    """It may work another time; wait: seconds that the server asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class ChatClient:
    """Asks the API at `url` (up to and with /v1), from several threads at once; to be closed."""

    def __init__(self, url: str, key: str | None, patience: Patience) -> None:
        """Prepare; nothing is sent.

        Raises
        ------
        ParamsError
            The key cannot be sent.
        """
        if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key):
            raise ParamsError(
                "EPOXY_LLM_KEY holds blanks or signs that no key has. Set it again, as the server gave it."
            )
        self._url, self._key, self._patience = url.rstrip("/") + "/chat/completions", key, patience
        headers = {"Accept-Encoding": "identity", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx.Client(headers=headers, timeout=patience.timeout, follow_redirects=False)
        self._stopped = threading.Event()
        self._paused_until = 0.0
        self._lock = threading.Lock()
        self.retries = 0

    def stop(self) -> None:
        """Let nobody begin another try."""
        self._stopped.set()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def ask(self, request: Mapping[str, Any]) -> Reply:
        """Return what the model says, after as many tries as it takes.

        Raises
        ------
        RefusedError
            The server refuses this request.
        NoAnswerError
            No usable answer came.
        StoppedError
            `stop` was called.
        StageError
            The server cannot be asked at all.
        """
        body = json.dumps(request, ensure_ascii=False).encode("utf-8", "replace")
        wait = self._patience.first_wait
        for attempt in range(1, self._patience.attempts + 1):
            self._wait_for_turn()
            try:
                return self._try(body)
            except _AgainError as again:
                if attempt == self._patience.attempts:
                    raise NoAnswerError(f"{again} ({attempt} tries)") from None
                self._pause(wait if again.wait is None else max(again.wait, wait), is_for_all=again.wait is not None)
                wait *= 2
        raise AssertionError("the last try returns or raises")

    def _wait_for_turn(self) -> None:
        while not self._stopped.is_set():
            left = self._paused_until - time.monotonic()
            if left <= 0:
                return
            self._stopped.wait(left)
        raise StoppedError

    def _pause(self, seconds: float, *, is_for_all: bool) -> None:
        """Wait before another try; a limit that the server named holds for all threads."""
        if seconds > self._patience.longest_wait:
            raise StageError(
                f"the server at {self._url} wants {seconds:,.0f} s without requests. What was answered is kept: run it again later."
            )
        with self._lock:
            self.retries += 1
            if is_for_all:
                self._paused_until = max(self._paused_until, time.monotonic() + seconds)
        if self._stopped.wait(seconds):
            raise StoppedError

    def _try(self, body: bytes) -> Reply:
        deadline = time.monotonic() + self._patience.timeout
        content = bytearray()
        try:
            with self._http.stream(
                "POST", self._url, content=body, headers={"Content-Type": "application/json"}
            ) as response:
                for part in response.iter_bytes():
                    content += part
                    if len(content) > LARGEST:
                        raise _AgainError(f"an answer of more than {LARGEST:,} bytes")
                    if time.monotonic() > deadline:
                        raise _AgainError(f"no whole answer in {self._patience.timeout:g} s")
        except httpx.TimeoutException:
            raise _AgainError(f"no answer in {self._patience.timeout:g} s") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _AgainError(f"{type(error).__name__}: {self._excerpt(str(error).encode())}") from None
        except (httpx.InvalidURL, ValueError) as error:
            raise StageError(f"{self._url} cannot be asked: {self._excerpt(str(error).encode())}") from None
        status = response.status_code
        said = f"HTTP {status}: {self._excerpt(bytes(content))}"
        if 200 <= status < 300:
            return self._read(bytes(content), response.headers.get("Content-Type", ""))
        if status >= 400 and b"response_format" in content:
            raise RefusedError(said)  # llama.cpp's Python server says so with 500
        if status in (408, 425, 429) or status >= 500:
            raise _AgainError(said, _read_wait(response.headers.get("Retry-After")))
        if status in (400, 413, 422):
            raise RefusedError(said)
        raise StageError(f"{self._url} answers with {said}\n{_advise(status)}")

    def _read(self, content: bytes, kind: str) -> Reply:
        """The reply in a body of the API's form."""
        try:
            value = json.loads(content)
            text = value["choices"][0]["message"]["content"]
            usage, model = value.get("usage") or {}, value.get("model")
            tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise _AgainError(
                f"what came ({kind or 'of no type'}: {self._excerpt(content)}) is no answer of a chat model; the address of the API "
                "ends in /v1 as a rule"
            ) from None
        numbers = [count if isinstance(count, int) and count >= 0 else None for count in tokens]
        return Reply(
            content=text if isinstance(text, str) else "",
            model=make_safe(model) if isinstance(model, str) else None,
            input_tokens=numbers[0],
            output_tokens=numbers[1],
        )

    def _excerpt(self, content: bytes) -> str:
        """The beginning of what a server says, without the key, in case it repeats that."""
        text = content[: 20 * SHOWN].decode("utf-8", "replace")
        return make_safe(text.replace(self._key, "(key)") if self._key else text)


def make_safe(text: str) -> str:
    """The beginning of `text`, in a line that does nothing to a terminal and that UTF-8 can hold.

    >>> make_safe("two\\nlines, \\x1b[31mred")
    'two lines, ?[31mred'
    """
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() else "?" for sign in line[:SHOWN]).encode("utf-8", "replace").decode()


def _read_wait(value: str | None) -> float | None:
    """The seconds of a header Retry-After, a number or a date; None without one."""
    if value is None:
        return None
    try:
        return max(0.0, float(value)) if value.strip().replace(".", "", 1).isdigit() else _until(value)
    except (ValueError, TypeError, OverflowError):
        return None


def _until(value: str) -> float:
    date = parsedate_to_datetime(value)
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


def _advise(status: int) -> str:
    if status in (401, 403):
        return "Set EPOXY_LLM_KEY to a key that the server accepts."
    if 300 <= status < 400:
        return "A redirect is not followed, since the key would go with it. Give the address that it leads to, if you trust it."
    return "Correct the address or the model: the address of the API ends in /v1 as a rule."
