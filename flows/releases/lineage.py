"""Who released what, when, why and from what: run records in OpenLineage's form, in an append-only log.

A release's identity is its content; a run record is about the act, so it is kept apart. Lines are ordered by sequence
number, never by time: clocks jump. Each line carries a checksum.
"""

import base64
import errno
import hashlib
import json
import os
import stat
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pydantic

from flows.releases.figures import Frozen
from flows.releases.gates import GateResult, GateVerdict
from tasks.errors import DataError
from tasks.tables.release_rows import RowChanges

URL_VARIABLE = "EPOXY_OPENLINEAGE_URL"
"""Where run records are also posted, as http://host:5000/api/v1/lineage or, with basic authentication,
https://user:password@host/api/v1/lineage (percent-encoded); in the environment as it may hold a secret."""

_POST_SECONDS = 5.0
"""Lineage is told, not waited for."""

_SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_VERSION_FACET = "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json"
_FACET = "epoxyFlow_release"
_NAMESPACE = "epoxy-flow"


class Action(StrEnum):
    """What was done."""

    RELEASE = "release"
    REFUSE = "refuse"  # a gate failed and nobody accepted that
    ROLLBACK = "rollback"
    PRUNE = "prune"


MOVES = frozenset({Action.RELEASE, Action.ROLLBACK})
"""Actions after which `current` is the record's release."""


class GateRecord(Frozen):
    """The result of a gate, as stored."""

    gate: str
    value: float | None
    limit: float | None
    verdict: GateVerdict = pydantic.Field(strict=False)
    note: str


class Record(Frozen):
    """An act on the releases.

    release: the release it was about (None only for a prune). previous: the current release before. accepted: the
    reason given for releasing in spite of failed gates. removed: releases that a prune removed. rows: of a release or a
    refusal, what became of the rows of `previous`; None where there was none.
    """

    sequence: int
    action: Action = pydantic.Field(strict=False)
    time: str
    run_id: str
    user: str
    host: str
    release: str | None
    previous: str | None
    reason: str
    accepted: str | None
    gates: tuple[GateRecord, ...]
    commit: str | None
    dirty: bool | None
    removed: tuple[str, ...]
    rows: RowChanges | None = None  # lines from before this was counted have none


@dataclass(frozen=True, kw_only=True)
class Log:
    """The records in order, and the numbers of lines (from 1) that cannot be trusted."""

    records: tuple[Record, ...]
    damaged: tuple[int, ...]


def record_gates(results: tuple[GateResult, ...]) -> tuple[GateRecord, ...]:
    """The results in the form that is stored."""
    return tuple(
        GateRecord(gate=result.gate, value=result.value, limit=result.limit, verdict=result.verdict, note=result.note)
        for result in results
    )


def format_event(record: Record, *, inputs: Mapping[str, str], items: int | None) -> dict[str, Any]:
    """`record` as an OpenLineage RunEvent; `inputs` are hashes by path, `items` the number of labels released."""
    kind = {Action.RELEASE: "COMPLETE", Action.REFUSE: "FAIL"}.get(record.action, "OTHER")
    facet = {"_producer": _producer(), "_schemaURL": "urn:epoxy-flow:facet:release:1"}
    facet |= json.loads(record.model_dump_json())
    outputs = []
    if record.release is not None and record.action in MOVES:
        dataset = _dataset(f"releases/{record.release}", record.release)
        if items is not None:
            url = "https://openlineage.io/spec/facets/1-0-2/OutputStatisticsOutputDatasetFacet.json"
            statistics = {"_producer": _producer(), "_schemaURL": url, "rowCount": items}
            dataset["outputFacets"] = {"outputStatistics": statistics}
        outputs.append(dataset)
    event = {
        "eventType": kind,
        "eventTime": record.time,
        "run": {"runId": record.run_id, "facets": {_FACET: facet}},
        "job": {"namespace": _NAMESPACE, "name": str(record.action)},
        "inputs": [_dataset(path, inputs[path]) for path in sorted(inputs)],
        "outputs": outputs,
        "producer": _producer(),
        "schemaURL": _SCHEMA,
    }
    facet["checksum"] = hash_event(event)
    return event


def hash_event(event: Any) -> str:
    """The checksum of `event`, which may not have one yet; equal for equal values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(event, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_log(path: Path) -> Log:
    """The log at `path`, empty where there is none; a last line without its end is a write that never happened.

    Raises
    ------
    DataError
        It cannot be read, or is a link.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a plain file")
    except FileNotFoundError:
        return Log(records=(), damaged=())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Put the log back with 'git checkout', or move it away.") from None
    with os.fdopen(descriptor, "rb") as stored:
        lines = stored.read().split(b"\n")[:-1]
    records, damaged = [], []
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is None:
            damaged.append(number)
        else:
            records.append(record)
    return Log(records=tuple(sorted(records, key=lambda record: record.sequence)), damaged=tuple(damaged))


def append_event(path: Path, event: dict[str, Any]) -> None:
    """Add `event` to the log at `path`: whole and on disk when this returns, or not at all.

    Raises
    ------
    OSError
        The disk is full or the folder cannot be written; the log is as before.
    """
    line = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        end = _find_end(descriptor)
        os.ftruncate(descriptor, end)
        try:
            if os.pwrite(descriptor, line, end) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)


def merge_logs(ours: bytes, theirs: bytes) -> bytes:
    """All lines of two copies of a log, theirs first, each once."""
    lines = dict.fromkeys([*theirs.split(b"\n")[:-1], *ours.split(b"\n")[:-1]])
    return b"".join(line + b"\n" for line in lines)


def emit_event(event: dict[str, Any]) -> str | None:
    """What went wrong when `event` was posted where the environment says, without the address; None if nothing did."""
    address = os.environ.get(URL_VARIABLE)
    if not address:
        return None
    if not address.lower().startswith(("http://", "https://")):
        return f"{URL_VARIABLE} is not an http or https address; the run record is in the log only"
    try:
        with _OPENER.open(_make_request(address, event), timeout=_POST_SECONDS):
            return None
    except (OSError, ValueError, HTTPException) as error:
        # Never the error's own text: it may quote the address, which may hold a secret.
        reason = _name_failure(error)
        return f"{URL_VARIABLE}: the run record could not be posted ({reason}); it is in the log"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for a failure: urllib would ask the other address with GET, and the record would be lost."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _make_request(address: str, event: dict[str, Any]) -> urllib.request.Request:
    """The request that posts `event`; user and password of `address`, which urllib takes for the host, as basic auth."""
    parts = urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    body = json.dumps(event, allow_nan=False).encode()
    request = urllib.request.Request(  # noqa: S310, the caller has seen the scheme
        parts._replace(netloc=host).geturl(), body, {"Content-Type": "application/json"}
    )
    if user:
        name, _, password = user.partition(":")
        token = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    return request


def _name_failure(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    reason = getattr(error, "reason", error)
    if isinstance(reason, ConnectionError) and reason.errno:
        return os.strerror(reason.errno)
    return f"no answer in {_POST_SECONDS:g} s" if isinstance(reason, TimeoutError) else type(reason).__name__


def now() -> str:
    """The time in UTC, as text for a reader; nothing is ordered by it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _find_end(descriptor: int) -> int:
    """Where the last whole line ends."""
    end = os.fstat(descriptor).st_size
    step = 65_536  # longer than a record, so that the first step usually finds it
    while end > 0:
        start = max(end - step, 0)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _parse(line: bytes) -> Record | None:
    try:
        event = json.loads(line)
        facet = event["run"]["facets"][_FACET]
        if facet.pop("checksum") != hash_event(event):
            return None
        stored = {name: value for name, value in facet.items() if not name.startswith("_")}
        return Record.model_validate_json(json.dumps(stored))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _dataset(name: str, content: str) -> dict[str, Any]:
    facet = {"_producer": _producer(), "_schemaURL": _VERSION_FACET, "datasetVersion": content}
    return {"namespace": _NAMESPACE, "name": name, "facets": {"version": facet}}


def _producer() -> str:
    try:
        return f"urn:epoxy-flow:{version('epoxy-flow')}"
    except PackageNotFoundError:
        return "urn:epoxy-flow:unknown"
