"""May a candidate be released? Pure checks of its figures against limits and against the last release."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import partial

import numpy as np

from flows.releases.figures import EmbeddingFigures, Figures, LfFigures, NewRowFigures, SimilarityFigures
from flows.releases.policy import Columns, GateLimits

QUARANTINE_GATE = "rows in quarantine"

_ROUNDING = 1e-9
"""A figure this little beyond its limit is at it: 0.9 - 0.85 is a hair more than 0.05 in binary."""

_NO_SPREAD = 1e-6
"""Where all embeddings or similarities were the same, a shift counts in these units: any that shows is too much."""


class GateVerdict(StrEnum):
    """What a gate says."""

    PASSED = "passed"
    FAILED = "failed"
    OFF = "off"  # the limit is null; the figure is told all the same
    NOT_COMPARED = "nothing to compare"  # the first release, or not measured in the last release


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One gate: its figure and limit (None where there is none), its verdict, and what a reader needs besides."""

    gate: str
    value: float | None
    limit: float | None
    verdict: GateVerdict
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A candidate beside the last release.

    flipped: share of the items of both whose label differs; None where they share no item.
    """

    last: Figures
    flipped: float | None


def check_gates(limits: GateLimits, candidate: Figures, against: Comparison | None) -> tuple[GateResult, ...]:
    """One result per gate, always the same gates in the same order; `against` is None for the first release.

    A figure equal to its limit passes. A figure that cannot be measured fails where the limit is absolute or the last
    release had it, so that gold or embeddings cannot get lost unnoticed.
    """
    return tuple(_check(limits, candidate, against))


def check_new_rows(limits: GateLimits, new: NewRowFigures, last: Figures) -> tuple[GateResult, ...]:
    """Whether rows labeled without a refit are of the kind that the last release knows; two gates, always the same."""
    results = (
        _check_centroid(new.embeddings, last.embeddings, limits.maximum_new_centroid_shift, "new rows: centroid shift"),
        _check_similarity(
            new.similarity, last.similarity, limits.maximum_new_neighbor_shift, "new rows: neighbor shift"
        ),
    )
    if new.rows >= limits.minimum_new_rows:
        return results
    note = f"{new.rows:,} new rows, fewer than {limits.minimum_new_rows:,}"
    return tuple(
        result if result.verdict is GateVerdict.OFF else replace(result, verdict=GateVerdict.NOT_COMPARED, note=note)
        for result in results
    )


def check_age(limits: GateLimits, newest: datetime | None, now: datetime) -> GateResult:
    """Whether the newest item is young enough; `newest` is None where no item has a time."""
    age = None if newest is None else (now - newest).total_seconds() / 3600
    note = (
        f"no time in column '{limits.time_column}'" if newest is None else f"newest item: {newest:%Y-%m-%d %H:%M} UTC"
    )
    return _at_most("hours since the newest item", age, limits.maximum_age_hours, True, note)


def check_quarantine(limits: GateLimits, rows: int, items: int) -> GateResult:
    """Whether few enough rows failed as items: their share of these and the items."""
    share = rows / max(rows + items, 1)
    note = f"rows left out because they failed: {rows:,}" if rows else ""
    return _at_most(QUARANTINE_GATE, share, limits.maximum_quarantined, True, note)


def has_failed(results: tuple[GateResult, ...]) -> bool:
    """Whether any gate failed."""
    return any(result.verdict is GateVerdict.FAILED for result in results)


def describe_gates(results: tuple[GateResult, ...]) -> str:
    """The results as a table for a terminal: gate, value, limit, verdict, note."""
    rows = [("gate", "value", "limit", "verdict", ""), *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {limit:>{widths[2]}}  {verdict:<{widths[3]}}  {note}".rstrip()
        for name, value, limit, verdict, note in rows
    )


def _row(result: GateResult) -> tuple[str, str, str, str, str]:
    value, limit = ("-" if number is None else f"{number:.4g}" for number in (result.value, result.limit))
    verdict = result.verdict.upper() if result.verdict is GateVerdict.FAILED else str(result.verdict)
    return result.gate, value, limit, verdict, result.note


def _check(limits: GateLimits, candidate: Figures, against: Comparison | None) -> Iterator[GateResult]:
    last = against.last if against else None
    yield _at_least("coverage", candidate.coverage, limits.minimum_coverage)
    name = str(limits.metric)
    score = _read_score(candidate, name)
    yield _at_least(f"valid {name}", score, limits.minimum_metric, "no gold on valid" if score is None else "")
    before = _read_score(last, name) if last else None
    drop = before - score if before is not None and score is not None else None
    yield _at_most(f"valid {name} drop", drop, limits.maximum_metric_drop, before is not None)
    flipped = against.flipped if against else None
    yield _at_most("labels flipped", flipped, limits.maximum_flipped, flipped is not None)
    shift = _balance_shift(candidate, last) if last else None
    yield _at_most("class balance shift", shift, limits.maximum_balance_shift, shift is not None)
    coverage_drift = partial(_coverage_drift, minimum_votes=limits.minimum_lf_votes)
    yield _check_lfs("LF coverage drift", candidate, last, limits.maximum_lf_coverage_drift, coverage_drift)
    agreement_drift = partial(_agreement_drift, minimum_votes=limits.minimum_lf_votes)
    yield _check_lfs("LF agreement drift", candidate, last, limits.maximum_lf_agreement_drift, agreement_drift)
    old_embeddings, old_similarity = (last.embeddings, last.similarity) if last else (None, None)
    yield _check_centroid(candidate.embeddings, old_embeddings, limits.maximum_centroid_shift)
    yield _check_similarity(candidate.similarity, old_similarity, limits.maximum_neighbor_shift)
    yield _check_columns(candidate, last, limits.columns)


def _at_least(gate: str, value: float | None, limit: float | None, note: str = "") -> GateResult:
    if limit is None:
        verdict = GateVerdict.OFF
    else:
        verdict = GateVerdict.PASSED if value is not None and value >= limit - _ROUNDING else GateVerdict.FAILED
    return GateResult(gate=gate, value=value, limit=limit, verdict=verdict, note=note)


def _at_most(gate: str, value: float | None, limit: float | None, has_last: bool, note: str = "") -> GateResult:
    if limit is None:
        verdict = GateVerdict.OFF
    elif not has_last:
        verdict = GateVerdict.NOT_COMPARED
    elif value is None:
        verdict, note = GateVerdict.FAILED, note or "was measured in the last release and cannot be now"
    else:
        verdict = GateVerdict.PASSED if value <= limit + _ROUNDING else GateVerdict.FAILED
    return GateResult(gate=gate, value=value, limit=limit, verdict=verdict, note=note)


def _read_score(figures: Figures | None, metric: str) -> float | None:
    if figures is None or figures.valid is None:
        return None
    return {"accuracy": figures.valid.accuracy, "macro_f1": figures.valid.macro_f1}[metric]


def _balance_shift(candidate: Figures, last: Figures) -> float | None:
    """Total variation between the shares of classes, in [0, 1]; None where either has no items."""
    if not candidate.items or not last.items:
        return None
    classes = {*candidate.labels, *last.labels}
    shares = [
        (candidate.labels.get(name, 0) / candidate.items, last.labels.get(name, 0) / last.items) for name in classes
    ]
    return sum(abs(new - old) for new, old in shares) / 2


def _check_lfs(
    gate: str,
    candidate: Figures,
    last: Figures | None,
    limit: float | None,
    drift: Callable[[LfFigures, LfFigures], float | None],
) -> GateResult:
    """The largest drift of any LF that both releases have; names that LF, and LFs that came or went."""
    if last is None:
        return _at_most(gate, None, limit, False)
    found = {name: drift(new, last.lfs[name]) for name, new in candidate.lfs.items() if name in last.lfs}
    drifts = {name: value for name, value in found.items() if value is not None}
    worst = max(drifts, key=lambda name: (drifts[name], name), default=None)
    note = "; ".join(
        filter(None, [f"most: {worst}" if worst and drifts[worst] else "", _describe_turnover(candidate.lfs, last.lfs)])
    )
    return _at_most(gate, None if worst is None else drifts[worst], limit, worst is not None, note)


def _describe_turnover(new: Mapping[str, LfFigures], old: Mapping[str, LfFigures]) -> str:
    came, went = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in (("new", came), ("gone", went)) if names)


def _coverage_drift(new: LfFigures, old: LfFigures, minimum_votes: int) -> float | None:
    if max(new.votes, old.votes) < minimum_votes:
        return None
    return abs(new.coverage - old.coverage) / max(new.coverage, old.coverage)


def _agreement_drift(new: LfFigures, old: LfFigures, minimum_votes: int) -> float | None:
    # An LF that falls silent shows in its coverage.
    if min(new.votes, old.votes) < minimum_votes or new.agreement is None or old.agreement is None:
        return None
    return abs(new.agreement - old.agreement)


def _check_centroid(
    new: EmbeddingFigures | None,
    old: EmbeddingFigures | None,
    limit: float | None,
    gate: str = "embedding centroid shift",
) -> GateResult:
    if old is None or new is None:
        return _at_most(gate, None, limit, old is not None)
    if (old.metric, old.width) != (new.metric, new.width):
        note = f"{old.metric}, {old.width} wide became {new.metric}, {new.width} wide"
        return _at_most(gate, None, limit, True, note)
    return _at_most(gate, _centroid_shift(new, old), limit, True)


def _centroid_shift(new: EmbeddingFigures, old: EmbeddingFigures) -> float:
    distance = float(np.linalg.norm(np.subtract(new.centroid, old.centroid)))
    return distance / max(old.spread, _NO_SPREAD)


def _check_similarity(
    new: SimilarityFigures | None,
    old: SimilarityFigures | None,
    limit: float | None,
    gate: str = "neighbor similarity shift",
) -> GateResult:
    if old is None or new is None:
        return _at_most(gate, None, limit, old is not None)
    distance = float(np.abs(np.subtract(new.quantiles, old.quantiles)).mean())
    return _at_most(gate, distance / max(old.deviation, _NO_SPREAD), limit, True)


def _check_columns(candidate: Figures, last: Figures | None, columns: Columns) -> GateResult:
    """How many classes and columns are new, gone or of another type."""
    gate = "columns changed"
    limit = 0.0 if columns is Columns.SAME else None
    if last is None:
        return _at_most(gate, None, limit, False)
    kept = candidate.columns.keys() & last.columns.keys()
    parts = [
        ("new", sorted(candidate.columns.keys() - last.columns.keys())),
        ("gone", sorted(last.columns.keys() - candidate.columns.keys())),
        ("other type", sorted(name for name in kept if candidate.columns[name] != last.columns[name])),
        ("other classes", [] if list(candidate.labels) == list(last.labels) else list(candidate.labels)),
    ]
    changed = sum(len(names) for _, names in parts)
    note = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)
    return _at_most(gate, float(changed), limit, True, note)
