"""Questions for items as addresses, so that every answer can be linked to, bookmarked and sent."""

from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlencode

from tasks.errors import QueryError
from tasks.queries.items import Covered, ItemQuery, VoteFilter, VoteSource
from tasks.queries.project_data import SHIPPED

PATH = "/items"

ROWS = 25
"""The number of items on a page."""


def write_address(query: ItemQuery, *, page: int = 1, release: str | None = None) -> str:
    """Return the address of `page` of the answer to `query`; release: the release whose labels to compare with.

    >>> write_address(ItemQuery(right=False, votes=(VoteFilter(lf="song"),)))
    '/items?right=no&lf=song'
    """
    pairs: list[tuple[str, str]] = [
        *(("split", split) for split in query.splits),
        *(("label", label) for label in query.labels),
        *(("gold", gold) for gold in query.gold),
    ]
    if query.has_gold is not None:
        pairs.append(("has_gold", _write_bool(query.has_gold)))
    if query.certified is not None:
        pairs.append(("certified", _write_bool(query.certified)))
    if query.right is not None:
        pairs.append(("right", _write_bool(query.right)))
    if query.method != SHIPPED:
        pairs.append(("method", query.method))
    for wanted in query.votes[:1]:
        pairs.append(("lf", wanted.lf))
        pairs += [("vote", wanted.vote)] if wanted.vote is not None else []
        pairs += [("source", wanted.source)] if wanted.source != "either" else []
    pairs += [("wrong_lf", query.wrong_lf)] if query.wrong_lf is not None else []
    pairs += [("conflict", lf) for lf in query.conflict or ()]
    pairs += [("covered", query.covered)] if query.covered is not None else []
    pairs += [("near", f"{query.near_threshold:g}")] if query.near_threshold is not None else []
    pairs += [("near_lf", query.near_threshold_lf)] if query.near_threshold_lf is not None else []
    pairs += [("text", query.text)] if query.text else []
    pairs += [("order", query.order)] if query.order else []
    pairs += [("test_gold", "yes")] if query.withheld_gold else []
    pairs += [("flipped", release)] if release is not None else []
    pairs += [("page", str(page))] if page != 1 else []
    return PATH + (f"?{urlencode(pairs)}" if pairs else "")


def read_address(pairs: Sequence[tuple[str, str]]) -> tuple[ItemQuery, int, str | None]:
    """Return the question, page and release in the names and values, `pairs`, of an address's parameters.

    Raises
    ------
    QueryError
        A value is invalid for its name.
    """
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        if value:
            values.setdefault(name, []).append(value)
    first = {name: found[0] for name, found in values.items()}
    conflict = values.get("conflict", [])
    if len(conflict) not in (0, 2):
        raise QueryError(f"conflict: got {len(conflict)} labeling functions; expected two.")
    page = _read_number(first, "page", 1)
    if page < 1 or page != int(page):
        raise QueryError(f"page: got {first['page'][:20]!r}; expected 1, 2, 3 and so on.")
    source = cast(VoteSource, first.get("source", "either"))
    query = ItemQuery(
        splits=tuple(values.get("split", ())),
        labels=tuple(values.get("label", ())),
        gold=tuple(values.get("gold", ())),
        has_gold=_read_bool(first, "has_gold"),
        certified=_read_bool(first, "certified"),
        right=_read_bool(first, "right"),
        method=first.get("method", SHIPPED),
        votes=(VoteFilter(lf=first["lf"], vote=first.get("vote"), source=source),) if "lf" in first else (),
        wrong_lf=first.get("wrong_lf"),
        conflict=(conflict[0], conflict[1]) if conflict else None,
        covered=cast(Covered, first["covered"]) if "covered" in first else None,
        near_threshold=_read_number(first, "near", 0) if "near" in first else None,
        near_threshold_lf=first.get("near_lf"),
        flipped="flipped" in first,
        text=first.get("text"),
        order=first.get("order"),
        withheld_gold=_read_bool(first, "test_gold") or False,
        limit=ROWS,
        offset=ROWS * (int(page) - 1),
    )
    return query, int(page), first.get("flipped")


def _write_bool(value: bool) -> str:
    return "yes" if value else "no"


def _read_bool(values: Mapping[str, str], name: str) -> bool | None:
    if name not in values:
        return None
    if values[name] not in ("yes", "no"):
        raise QueryError(f"{name}: got {values[name][:20]!r}; expected yes or no.")
    return values[name] == "yes"


def _read_number(values: Mapping[str, Any], name: str, default: float) -> float:
    try:
        number = float(values.get(name, default))
    except ValueError:
        number = float("nan")
    if not abs(number) < 1e9:
        raise QueryError(f"{name}: got {values[name][:20]!r}; expected a number.")
    return number
