"""Labeling functions of Snorkel (0.9 and later), asked as ours are; Snorkel itself is not needed, and not imported.

Such an object is known by what it has: a function `_f`, `_resources` that it is called with, and preprocessors `_pre` that the
item goes through first. Those of several labeling functions run once per item.
"""

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from tasks.lf.functions import Item, RowwiseLF, Vote, share


class DataPoint(SimpleNamespace):
    """An item as Snorkel's functions see it: its columns are attributes, which a preprocessor may add to or change.

    >>> point = DataPoint(text="hello")
    >>> point.text, point["text"], "text" in point
    ('hello', 'hello', True)
    """

    def __getitem__(self, column: str) -> Any:
        return vars(self)[column]

    def __contains__(self, column: object) -> bool:
        return column in vars(self)

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))


def is_snorkel_lf(value: object) -> bool:
    """Whether `value` is a labeling function as Snorkel makes them."""
    if isinstance(value, type) or not callable(value):
        return False
    parts = getattr(value, "__dict__", {})
    return (
        isinstance(parts.get("name"), str)
        and callable(parts.get("_f"))
        and isinstance(parts.get("_resources"), Mapping)
        and isinstance(parts.get("_pre"), list | tuple)
    )


def adapt_snorkel_lf(lf: Any) -> RowwiseLF:
    """The same labeling function as one of ours; a vote is the position of a class, -1 abstains."""
    return RowwiseLF(name=lf.name, function=_make_function(lf._f, dict(lf._resources), tuple(lf._pre)))


def _make_function(
    function: Callable[..., Any], resources: dict[str, Any], preprocessors: tuple[Callable[[Any], Any], ...]
) -> Callable[[Any], Vote]:
    """What is asked about an item."""

    def vote(item: Any) -> Any:
        return function(_prepare(item, preprocessors), **resources)

    return vote


def _prepare(item: Any, preprocessors: tuple[Callable[[Any], Any], ...]) -> Any:
    """The item after all `preprocessors`, what they made of it shared by all that begin with the same ones."""
    if not preprocessors:
        return DataPoint(**dict(item)) if isinstance(item, Item) else item

    def run() -> Any:
        point = preprocessors[-1](_prepare(item, preprocessors[:-1]))
        if point is None:
            raise ValueError(
                f"preprocessor {getattr(preprocessors[-1], 'name', '')!r} returned None; expected the data point"
            )
        return point

    return share(item, tuple(map(id, preprocessors)), run) if isinstance(item, Item) else run()
