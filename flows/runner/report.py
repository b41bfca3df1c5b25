"""What became of each stage of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from flows.runner.terminal import Color, paint

_COLORS = {
    "Completed": Color.GREEN,
    "Restored": Color.GREEN,
    "Cached": Color.DIM,
}
"""Of outcomes; those that are missing are failures."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of a stage, and in how many seconds: an `Outcome`, `Failed`, `TimedOut` or `Stopped`."""

    name: str
    outcome: str
    seconds: float


def describe_reports(reports: Sequence[Report], stream: TextIO | None = None) -> str:
    """A line per report: name, outcome, seconds; for `stream`, which may have colors."""

    def describe(report: Report) -> str:
        outcome = paint(f"{report.outcome:<9}", _COLORS.get(report.outcome, Color.RED), stream)
        return f"{report.name:<{width}}  {outcome}  {report.seconds:7.1f} s"

    width = max((len(report.name) for report in reports), default=0)
    return "\n".join(map(describe, reports))
