"""Numbers as text for people."""

import math

from tasks.report.evaluation import Estimate

UNDEFINED = "\N{EN DASH}"
TO = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def format_share(value: float, digits: int = 1) -> str:
    """A share as a percentage with a no-break space, a dash if undefined.

    >>> format_share(0.9312).split(), format_share(float("nan"))
    (['93.1', '%'], '–')
    """
    return UNDEFINED if math.isnan(value) else f"{value * 100:.{digits}f}\N{NO-BREAK SPACE}%"


def format_points(value: float, digits: int = 1) -> str:
    """A difference of shares in signed percentage points, a dash if undefined.

    >>> format_points(0.0312), format_points(-0.004), format_points(-0.0001)
    ('+3.1', '−0.4', '0.0')
    """
    if math.isnan(value):
        return UNDEFINED
    points = round(value * 100, digits)
    return f"{0:.{digits}f}" if points == 0 else f"{'+' if points > 0 else MINUS}{abs(points):.{digits}f}"


def format_gap(value: float) -> str:
    """A difference of shares in words, to be followed by what the share is compared with.

    >>> format_gap(0.031), format_gap(-0.002), format_gap(0.0)
    ('3.1 points above', '0.2 points below', 'level with')
    """
    points = round(value * 100, 1)
    if points == 0:
        return "level with"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"


def format_number(value: float, digits: int = 3) -> str:
    """A number with a fixed number of decimals, a dash if undefined."""
    return UNDEFINED if value is None or math.isnan(value) else f"{value:.{digits}f}"


def format_estimate(estimate: Estimate) -> str:
    """A share as text, with its interval if there is one."""
    if math.isnan(estimate.low):
        return format_share(estimate.value)
    return f"{format_share(estimate.value)} ({estimate.low * 100:.1f}{TO}{estimate.high * 100:.1f})"
