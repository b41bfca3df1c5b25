"""What became of each stage of a run."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of a stage, and in how many seconds: an `Outcome`, `Failed`, `TimedOut` or `Stopped`."""

    name: str
    outcome: str
    seconds: float


def describe_reports(reports: Sequence[Report]) -> str:
    """A line per report: name, outcome, seconds."""
    width = max((len(report.name) for report in reports), default=0)
    return "\n".join(f"{report.name:<{width}}  {report.outcome:<9}  {report.seconds:7.1f} s" for report in reports)
