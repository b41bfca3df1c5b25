"""Arguments of the wrong type, told by name before they fail somewhere inside."""

import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any


def require_list(name: str, value: Any) -> tuple[Any, ...]:
    """The parts of `value`, a list, tuple, Series or array.

    Raises
    ------
    TypeError
        It is a text, whose letters would be taken one by one, or has no parts.

    >>> require_list("labels", ["spam"])
    ('spam',)
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise _refuse(name, value, f"a list, such as [{value!r}]")
    return tuple(value)


def require_whole(name: str, value: Any) -> int:
    """`value`, a whole number.

    Raises
    ------
    TypeError
        It is none.
    """
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise _refuse(name, value, "a whole number")


def require_number(name: str, value: Any) -> float:
    """`value`, a number.

    Raises
    ------
    TypeError
        It is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _refuse(name, value, "a number")
    return float(value)


def require_text(name: str, value: Any) -> str:
    """`value`, a text.

    Raises
    ------
    TypeError
        It is none.
    """
    if not isinstance(value, str):
        raise _refuse(name, value, "a text")
    return value


def require_flag(name: str, value: Any) -> bool | None:
    """`value`, True, False or None.

    Raises
    ------
    TypeError
        It is none of these.
    """
    if value is not None and not isinstance(value, bool):
        raise _refuse(name, value, "True, False or None")
    return value


def _refuse(name: str, value: Any, expected: str) -> TypeError:
    return TypeError(f"{name}: got {value!r} ({type(value).__name__}); expected {expected}")
