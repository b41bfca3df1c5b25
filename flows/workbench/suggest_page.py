"""Suggest: labeling functions that could be written, with items that each would reach; a click appends one to the module."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from flows.workbench.frame import (
    Bench,
    Text,
    address,
    ask,
    format_share,
    frame,
    item_address,
    link,
    page,
    show_content,
)
from flows.workbench.lf_pages import find_source
from tasks.core.types import ITEM_ID
from tasks.errors import EpoxyError, QueryError
from tasks.queries.suggest import Suggestions, append_lf, suggest_lfs

_LEAST = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Lower bounds of precision that the form offers."""

_DEFAULT = "0.8"


def add_pages(bench: Bench) -> None:
    """Add the page /suggest."""

    @page("/suggest")
    async def suggest_page(label: str = "", least: str = _DEFAULT) -> None:
        with frame(bench, "Suggest", "/suggest"):
            bound = _read_bound(least)
            _show_form(bench, label, bound)
            found = await ask(lambda: suggest_lfs(bench.data, label=label or None, least_precision=bound))
            _show_suggestions(bench, found)


def _read_bound(text: str) -> float:
    """A share.

    Raises
    ------
    QueryError
        It is none.
    """
    try:
        bound = float(text)
    except ValueError:
        bound = -1.0
    if not 0 <= bound <= 1:
        raise QueryError(f"least: got {text[:20]!r}; expected a share from 0 to 1.")
    return bound


def _show_form(bench: Bench, label: str, bound: float) -> None:
    def go(**changes: object) -> None:
        ui.navigate.to(address("/suggest", **{"label": label, "least": f"{bound:g}", **changes}))

    with ui.element("form").props('aria-label="Which suggestions"').classes("fields w-full"):
        names = {"": "any", **{name: name for name in bench.data.classes}}
        ui.select(names, value=label if label in names else "", label="votes for",
                  on_change=lambda event: go(label=event.value)).props("dense options-dense")  # fmt: skip
        bounds = {share: f"{100 * share:g} %" for share in sorted({*_LEAST, bound})}
        ui.select(bounds, value=bound, label="precision at least",
                  on_change=lambda event: go(least=f"{event.value:g}")).props("dense options-dense")  # fmt: skip


def _show_suggestions(bench: Bench, found: Suggestions) -> None:
    said = f"{found.describe_need()}. "
    if found.rows.is_empty():
        lack = found.describe_lack()
        Text(f"{said}{lack[0].upper()}{lack[1:]}.", "p")
        return
    Text(
        f"{said}What helps most of them comes first; each is counted without what those above it reach. 'At least' is the "
        "lower end of a 95 % interval.",
        "p",
    )
    raw = [name for name in bench.data.items().columns if name not in (ITEM_ID, "split")]
    with ui.element("ol").style("list-style: none; padding: 0; width: 100%"):
        for row in found.rows.iter_rows(named=True):
            with ui.element("li").classes("w-full").style("border-top: 1px solid #8884; padding: .75rem 0"):
                _show_suggestion(bench, row, raw)


def _show_suggestion(bench: Bench, row: Mapping[str, Any], raw: list[str]) -> None:
    Text(f"{row['rule']} → {row['label']}", "h2", "data").style("margin-top: 0")
    judge = "items of valid with gold" if row["judged_on"] == "gold" else "shipped labels, for want of gold"
    Text(
        f"{row['new_items']:,} new of {row['items']:,} items; right on {format_share(row['precision'])}, at least "
        f"{format_share(row['low'])}, of {row['n']:,} {judge}",
        "p",
    )
    Text(row["source"], "pre", "code").props('tabindex="0"')
    holder = ui.element("div").props('role="status"').style("margin: .5rem 0")

    def append() -> None:
        try:
            source = bench.data.params().apply.source
            append_lf(bench.root, source, dict(row))
        except EpoxyError as error:
            _tell(holder, str(error).replace(f"{bench.root}/", ""), "wrong")
        else:
            _tell_appended(bench, holder, row["name"])

    with holder:
        if find_source(bench.root, bench.data.params().apply.source, row["name"]) is not None:
            _tell_appended(bench, holder, row["name"])
        else:
            ui.button(f"Append to {bench.data.params().apply.source}", on_click=append).props("outline no-caps")
    Text("New items, for example:", "div", "quiet")
    for example in bench.data.items()[bench.data.find_rows(row["examples"])].iter_rows(named=True):
        with ui.element("div").style("padding: .25rem 0 .25rem 1rem"):
            link(str(example[ITEM_ID]), item_address(example[ITEM_ID]))
            show_content(bench.root, example, raw)


def _tell(holder: ui.element, message: str, classes: str = "") -> None:
    holder.clear()
    with holder:
        Text(message, "div", f"data {classes}")


def _tell_appended(bench: Bench, holder: ui.element, name: str) -> None:
    """Say where the LF is now, and where what it comes to is shown."""
    found = find_source(bench.root, bench.data.params().apply.source, name)
    where = "the module" if found is None else f"{found[0]}, line {found[1]}"
    _tell(holder, f"✓ in {where}. 'epoxy run' makes its votes real.", "right")
    with holder:
        link("what it comes to", "/lfs")
