"""The pages Items and Item: the items that fit a question, and why an item has its label."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl
from fastapi import Request
from nicegui import ui

from flows.releases.opened import open_release
from flows.workbench.frame import (
    DECIMAL,
    LONG,
    Bench,
    Text,
    address,
    ask,
    column,
    format_share,
    frame,
    heading,
    item_address,
    link,
    page,
    show_content,
    table,
)
from flows.workbench.item_address import ROWS, read_address, write_address
from tasks.core.types import ITEM_ID
from tasks.params import Split
from tasks.queries.explain import Explanation, explain_item
from tasks.queries.items import ItemPage, ItemQuery, VoteFilter, find_items
from tasks.queries.project_data import SHIPPED
from tasks.report.evaluation import name_method

_SHOWN = (
    "label",
    "confidence",
    "margin",
    "gold",
    "right",
    "original_votes",
    "extended_votes",
    "votes",
    "split",
    ITEM_ID,
)

ORDERS = {
    "": "by id",
    "uncertain": "most uncertain first",
    "-confidence": "most confident first",
    "-extended_votes": "most extended votes first",
    "threshold_gap": "nearest to a threshold first",
}
"""The orders in the form; an address may name any column."""


def add_pages(bench: Bench) -> None:
    """Add the pages /items and /item."""

    @page("/items")
    async def items_page(request: Request) -> None:
        with frame(bench, "Items", "/items"):
            query, number, release = read_address(request.query_params.multi_items())
            _show_form(bench, query, release)
            before = None if release is None else await ask(lambda: open_release(bench.root, release).labels())
            answer = await ask(lambda: find_items(bench.data, query, before=before))
            if number > (last := _count_pages(answer)):  # an address of before, when there were more
                number, query = last, replace(query, offset=ROWS * (last - 1))
                answer = await ask(lambda: find_items(bench.data, query, before=before))
            _show_answer(bench, query, number, release, answer)

    @page("/item")
    async def item_page(id: str, release: str | None = None, test_gold: str = "") -> None:
        with frame(bench, f"Item {id[:60]}", "/items"):
            found = None if release is None else await ask(lambda: open_release(bench.root, release))
            told = await ask(lambda: explain_item(bench.data, id, release=found, withheld_gold=test_gold == "yes"))
            _show_explanation(bench, told, withheld_gold=test_gold == "yes")


def _show_form(bench: Bench, query: ItemQuery, release: str | None) -> None:
    """Show the question as a form; each change opens the new answer."""
    lfs, classes = list(bench.data.votes().lfs), list(bench.data.classes)
    wanted = query.votes[0] if query.votes else None

    def change(**changes: Any) -> None:
        ui.navigate.to(write_address(replace(query, **changes), release=release))

    def choose(label: str, options: Mapping[Any, str], value: Any, then: Any) -> None:
        known = dict(options) if value in options else {**options, value: str(value)}
        ui.select(known, value=value, label=label, on_change=lambda event: then(event.value)).props(
            "dense options-dense"
        )

    def choose_lf(lf: str | None) -> None:
        change(votes=() if lf is None else (replace(wanted, lf=lf) if wanted else VoteFilter(lf=lf),))

    with ui.element("form").props('aria-label="Which items"').classes("fields w-full"):
        search = ui.input("text holds", value=query.text or "").props("dense clearable")
        search.on("keydown.enter.prevent", lambda: change(text=search.value or None))
        search.on("clear", lambda: change(text=None))
        choose("split", {None: "all", **{s.value: s.value for s in Split}}, query.splits[0] if query.splits else None,
               lambda v: change(splits=(v,) if v else ()))  # fmt: skip
        choose("label", {None: "any", **{c: c for c in classes}}, query.labels[0] if query.labels else None,
               lambda v: change(labels=(v,) if v else ()))  # fmt: skip
        choose("gold", {None: "any", **{c: c for c in classes}}, query.gold[0] if query.gold else None,
               lambda v: change(gold=(v,) if v else ()))  # fmt: skip
        choose("right?", {None: "any", True: "right", False: "wrong"}, query.right, lambda v: change(right=v))
        choose("by method", {m: m for m in bench.data.methods()}, query.method, lambda v: change(method=v))
        choose("LF votes", {None: "any", **{lf: lf for lf in lfs}}, wanted.lf if wanted else None, choose_lf)
        if wanted is not None:
            choose("its vote", {None: "any class", **{c: c for c in classes}}, wanted.vote,
                   lambda v: change(votes=(replace(wanted, vote=v),)))  # fmt: skip
            choose("vote is", {"either": "either", "original": "its own", "extended": "a neighbor's"}, wanted.source,
                   lambda v: change(votes=(replace(wanted, source=v),)))  # fmt: skip
        choose(
            "LF wrong on gold", {None: "none", **{lf: lf for lf in lfs}}, query.wrong_lf, lambda v: change(wrong_lf=v)
        )
        choose("covered by", {None: "anything", "labeling functions": "LFs", "extension only": "extension only",
                              "nothing": "nothing"}, query.covered, lambda v: change(covered=v))  # fmt: skip
        choose("order", ORDERS, query.order or "", lambda v: change(order=v or None))
        ui.checkbox(
            "gold of test and train, too",
            value=query.withheld_gold,
            on_change=lambda event: change(withheld_gold=event.value),
        )


def _show_answer(bench: Bench, query: ItemQuery, number: int, release: str | None, answer: ItemPage) -> None:
    said = f"{answer.total:,} of {answer.items:,} items; {answer.gold}."
    if query.conflict:
        said += f" {query.conflict[0]} and {query.conflict[1]} vote different classes."
    if release:
        said += f" Labeled otherwise in release {release}."
    with ui.element("div").props('role="status"'):
        Text(said, "p")
    raw = [name for name in answer.rows.columns if name not in _SHOWN and not name.startswith("p_")]
    raw = [name for name in raw if name not in ("label_before", "threshold_gap")]
    with (
        ui.element("ol").props(f'start="{ROWS * (number - 1) + 1}"').style("list-style: none; padding: 0; width: 100%")
    ):
        for row in answer.rows.iter_rows(named=True):
            _show_row(bench, row, raw, query)
    pages = _count_pages(answer)
    with ui.element("nav").props('aria-label="Pages of items"').classes("flex gap-4 items-center"):
        if number > 1:
            link("previous", write_address(query, page=number - 1, release=release))
        Text(f"page {number:,} of {pages:,}")
        if number < pages:
            link("next", write_address(query, page=number + 1, release=release))


def _count_pages(answer: ItemPage) -> int:
    return max(1, -(-answer.total // ROWS))


def _show_row(bench: Bench, row: Mapping[str, Any], raw: list[str], query: ItemQuery) -> None:
    with ui.element("li").classes("w-full").style("border-top: 1px solid #8884; padding: .6rem 0"):
        with ui.element("div").classes("flex flex-wrap gap-x-4 items-baseline"):
            link(str(row[ITEM_ID]), item_address(row[ITEM_ID]))
            Text(f"{row['label']} {format_share(row['confidence'])}", "strong")
            if row.get("label_before") is not None:
                Text(f"before: {row['label_before']}")
            show_judgment(row["gold"], row["right"])
            Text(str(row["split"]), classes="quiet")
        show_content(bench.root, row, raw)
        votes = ", ".join(f"{v['lf']}: {v['vote']}{' (extended)' if v['is_extended'] else ''}" for v in row["votes"])
        Text(votes or "no LF votes", "div", "data quiet")


def show_judgment(gold: str | None, is_right: bool | None) -> None:
    """Show whether a label is right, in words and color."""
    if gold is None:
        Text("no gold", classes="quiet")
    elif is_right:
        Text(f"✓ gold {gold}", classes="right")
    else:
        Text(f"✗ gold {gold}", classes="wrong")


def _show_explanation(bench: Bench, told: Explanation, *, withheld_gold: bool) -> None:
    for lack in told.lacks:
        Text(lack, "p", "quiet")
    with ui.element("div").classes("flex flex-wrap gap-x-4 items-baseline"):
        Text(f"{told.label} {format_share(told.probabilities[told.label])}", "strong")
        Text(f"next: {told.runner_up} {format_share(told.probabilities[told.runner_up])}")
        show_judgment(told.gold, told.gold == told.label)
        Text(told.split or "", classes="quiet")
        Text("" if told.release is None else f"in release {told.release}", classes="quiet")
        if not withheld_gold:
            link("with gold of test and train", item_address(told.item_id) + "&test_gold=yes")
    show_content(bench.root, told.item, list(told.item), most=LONG)

    heading("Why this label")
    Text(
        f"The log-odds of {told.label} against {told.runner_up} are {told.log_odds:+.3f}; these parts add up to them.",
        "p",
    )
    parts = told.parts.sort(pl.col("log_odds").abs(), descending=True, maintain_order=True)
    table(
        [column("of", "Part of"), column("source", "Source"), column("lf", "LF"),
         column("log_odds", f"For {told.label}", DECIMAL)],
        [{**row, "of": row["of"].replace("_", " "), "key": at, "link": _lf_address(row["lf"])} for at, row in enumerate(parts.to_dicts())],
        key="key", links={"lf": "link"},
    )  # fmt: skip

    heading("Votes")
    cast = told.votes.filter(pl.col("vote").is_not_null())
    Text(
        f"{cast.height} of {told.votes.height} LFs vote; an extended vote comes from the nearest item that has it.", "p"
    )
    rows = [
        {**row, "key": at, "link": _lf_address(row["lf"]),
         "neighbor_link": None if row["neighbor"] is None else item_address(row["neighbor"])}
        for at, row in enumerate(pl.concat([cast, told.votes.filter(pl.col("vote").is_null())]).to_dicts())
    ]  # fmt: skip
    table(
        [column("lf", "LF"), column("vote", "Vote"), column("from", "From"), column("neighbor", "Nearest voter"),
         column("nearest_vote", "Its vote"), column("similarity", "Similarity", DECIMAL),
         column("threshold", "Threshold", DECIMAL), column("next_vote", "Next class"),
         column("next_similarity", "Similarity", DECIMAL), column("reliability", "Weight", DECIMAL)],
        rows, key="key", links={"lf": "link", "neighbor": "neighbor_link"},
    )  # fmt: skip

    if told.neighbors.height:
        heading("Neighbors")
        raw = [name for name in told.neighbors.columns if name not in (ITEM_ID, "split", "label")]
        for row in told.neighbors.head(12).iter_rows(named=True):
            with ui.element("div").classes("w-full").style("border-top: 1px solid #8884; padding: .5rem 0"):
                link(str(row[ITEM_ID]), item_address(row[ITEM_ID]))
                Text(f" {row['label']}", "strong")
                show_content(bench.root, row, raw)
    if told.methods.height:
        heading("What each method says")
        table(
            [column("method", "Method"), column("label", "Label"), column("p_label", f"P({told.label})", DECIMAL),
             column("p_runner_up", f"P({told.runner_up})", DECIMAL)],
            [{**row, "method": name_method(row["method"])} for row in told.methods.to_dicts()], key="method",
        )  # fmt: skip


def _lf_address(lf: str | None) -> str | None:
    return None if lf is None else address("/lf", name=lf)


def wrong_address(method: str = SHIPPED) -> str:
    """Return the address of the items of valid that `method` labels wrong."""
    return write_address(ItemQuery(splits=(Split.VALID.value,), right=False, method=method))
