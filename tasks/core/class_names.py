"""Names of classes that can be misread: as numbers, or for one another.

Whole numbers can stand for classes, by position in `classes`, unless a class is called by another number.
"""

import functools
import unicodedata
from collections.abc import Sequence


def find_twins(names: Sequence[str]) -> tuple[str, str] | None:
    """Two of `names` that look the same, as they differ in blanks or in the form of Unicode alone; else None.

    >>> find_twins(["caf\u00e9", "cafe\u0301"]) is None, find_twins(["ham", "spam", "ham "]), find_twins(["ham", "HAM"])
    (False, ('ham', 'ham '), None)
    """
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.setdefault(_simplify(name), name)
        if twin != name:
            return twin, name
    return None


def describe_twin(name: object, classes: Sequence[str]) -> str:
    """What tells `name`, which is no class, from the class that it looks like; empty if it looks like none.

    >>> describe_twin("ham ", ["ham", "spam"]), describe_twin("eggs", ["ham", "spam"])
    ("; 'ham ' differs from class 'ham' in blanks or in the form of Unicode alone", '')
    """
    twin = next((other for other in classes if isinstance(name, str) and _simplify(other) == _simplify(name)), None)
    return "" if twin is None else f"; {name!a} differs from class {twin!a} in blanks or in the form of Unicode alone"


def _simplify(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).split())


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
