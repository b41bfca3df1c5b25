"""What became of a run and of each of its stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO

from flows.runner.terminal import Color, paint


class Outcome(StrEnum):
    """What happened to a stage that ended well."""

    CACHED = "Cached"  # its outputs were there and up to date
    RESTORED = "Restored"  # its outputs came out of DVC's cache
    COMPLETED = "Completed"  # its command ran, or changed data was taken over


_COLORS: dict[str, Color] = {
    Outcome.COMPLETED: Color.GREEN,
    Outcome.RESTORED: Color.GREEN,
    Outcome.CACHED: Color.DIM,
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


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run did: the stages that ended, in that order, those that were not started, and the errors as they came."""

    reports: tuple[Report, ...]
    skipped: tuple[str, ...]
    errors: tuple[Exception, ...]

    @property
    def error(self) -> Exception | None:
        """The first error, whose exit code is that of the run."""
        return self.errors[0] if self.errors else None

    def describe(self, stream: TextIO | None = None) -> str:
        """The text that ends a run, for `stream`, which may have colors."""
        lines = [describe_reports(self.reports, stream)]
        if self.skipped:
            lines.append(f"not run: {', '.join(self.skipped)}")
        if all(report.outcome == Outcome.CACHED for report in self.reports) and not self.error:
            lines.append("nothing to do: everything is up to date")
        return "\n".join(lines)
