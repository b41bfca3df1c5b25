"""Preprocessors that take many texts at once, as a language model's pipeline does; each item goes through one only once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import LabelingFunctionError
from tasks.lf.functions import Item, Vote, share

Process = Callable[[list[Any]], Iterable[Any]]
"""A result for each of a list of values, in their order."""

_loaded: dict[int, tuple["BatchPreprocessor", Process]] = {}
"""What `load` returned in this process, by preprocessor, which is kept so that its id stays its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchPreprocessor:
    """What is computed once for each item, many at a time, before LFs that ask for it: `item.<name>` from `item.<column>`."""

    name: str
    column: str
    load: Callable[[], Process] = field(repr=False)

    def read(self, item: Any) -> Any:
        """The result for `item`; computed for it alone unless `prepare` did it."""
        return share(item, id(self), lambda: self._run([item[self.column]])[0])

    def prepare(self, items: Sequence[Item]) -> None:
        """Compute the results for `items` together; if that fails, each is computed when an LF asks for it, and fails there."""
        done: list[bool] = []
        if items:
            share(items[0], (id(self), "tried"), lambda: done.append(True))
        if not done:
            return
        try:
            found = self._run([item[self.column] for item in items])
        except Exception:  # the item that fails is told by its LF, whose policy decides
            return
        for item, value in zip(items, found, strict=True):
            share(item, id(self), lambda value=value: value)  # type: ignore[misc]

    def _run(self, values: list[Any]) -> list[Any]:
        """A result for each of `values`."""
        if id(self) not in _loaded:
            _loaded[id(self)] = self, self.load()
        found = list(_loaded[id(self)][1](values))
        if len(found) != len(values):
            raise ValueError(f"preprocessor '{self.name}' returned {len(found):,} results for {len(values):,} values")
        return found


def batch_preprocessor(name: str, *, column: str, load: Callable[[], Process]) -> BatchPreprocessor:
    """A preprocessor for `pre` of labeling functions: `item.<name>`, computed once per item, many items at a time.

    Parameters
    ----------
    column
        The column whose values are processed.
    load
        Returns a function of a list of values that gives a result for each, such as `spacy.blank("en").pipe`; called once in
        each process that needs it. Votes are remembered as long as its code, and the versions of installed packages, are
        the same.

    Raises
    ------
    LabelingFunctionError
        `name` cannot be read as `item.<name>`, or is that of the column.
    """
    if not name.isidentifier() or name == column:
        raise LabelingFunctionError(
            f"{name!r} cannot name a preprocessor of column '{column}'. Use a name that item.<name> can have, other than that of "
            "the column."
        )
    return BatchPreprocessor(name=name, column=column, load=load)


def with_results(function: Callable[[Any], Vote], pre: tuple[BatchPreprocessor, ...]) -> Callable[[Any], Vote]:
    """`function`, asked about items that have the results of the preprocessors `pre` as well."""

    def vote(item: Any) -> Vote:
        asked = item if isinstance(item, Item) else Item(dict(item))
        return function(Item({**dict(asked), **{step.name: step.read(asked) for step in pre}}))

    return vote
