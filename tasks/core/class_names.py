"""Whether whole numbers can stand for classes: by position in `classes`, unless a class is called by another number."""

import functools
from collections.abc import Sequence


def find_misread_class(classes: Sequence[str]) -> str | None:
    """The first class whose name is a number other than its position, so that a number could mean either; else None.

    >>> find_misread_class(["0", "1"]), find_misread_class(["1", "2"]), find_misread_class(["01", "1.0"])
    (None, '1', '01')
    """
    return _find_misread_class(tuple(classes))


@functools.cache
def _find_misread_class(classes: tuple[str, ...]) -> str | None:
    for position, name in enumerate(classes):
        try:
            number = float(name)
        except ValueError:
            continue
        if number.is_integer() and number != position:
            return name
    return None
