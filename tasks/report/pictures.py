"""Pictures of items that are numbers."""

import math


def draw_square(value: object) -> str | None:
    """Return an SVG in gray of a list of numbers that forms a square of at least 4 by 4, None of anything else.

    >>> draw_square("text") is None, draw_square([0] * 15) is None
    (True, True)
    """
    if not isinstance(value, list) or not all(isinstance(number, int | float) for number in value):
        return None
    side = math.isqrt(len(value))
    if side < 4 or side > 64 or side * side != len(value):
        return None
    low, high = min(value), max(value)
    shades = [255 - round(255 * (number - low) / ((high - low) or 1)) for number in value]
    squares = "".join(
        f'<rect x="{at % side}" y="{at // side}" width="1" height="1" fill="rgb({shade},{shade},{shade})"/>'
        for at, shade in enumerate(shades)
    )
    return f'<svg viewBox="0 0 {side} {side}" shape-rendering="crispEdges">{squares}</svg>'
