"""Plan: what a run would do now, and which labels edits flip, as a table that can be copied."""

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

import polars as pl
from nicegui import ui

from flows.workbench.frame import (
    Bench,
    Text,
    ask,
    column,
    follow_changes,
    frame,
    heading,
    item_address,
    link,
    page,
    show_content,
    table,
)
from tasks.core.types import ITEM_ID
from tasks.errors import EpoxyError, QueryError, StageError

_FLIPS = 25
"""Flipped items that are shown with their content."""

SECONDS = "value => value === null || value === undefined ? 'unknown' : Math.round(value).toLocaleString('en')"


def add_pages(bench: Bench) -> None:
    """Add the page /plan."""

    @page("/plan")
    async def plan_page() -> None:
        with frame(bench, "Plan", "/plan"):
            stages, flips = (ui.element("div").props('aria-live="polite"').classes("w-full") for _ in range(2))
        asked = asyncio.Lock()

        async def renew() -> None:
            """Ask again; edits while a question is on its way are asked about once, after it."""
            if asked.locked():
                return
            version = None
            async with asked:
                while version != bench.live.state.version:
                    version = bench.live.state.version
                    await _fill(bench, stages, "What a run would do", lambda: _show_stages(bench))
                    await _fill(bench, flips, "Labels that would flip", lambda: _show_flips(bench))

        ui.timer(0, renew, once=True)
        follow_changes(lambda: bench.live.state.version, renew)


async def _fill(bench: Bench, holder: ui.element, title: str, show: Any) -> None:
    """Put what `show` shows into `holder` once it is known; an error stands there, above the last answer if there is one."""
    if not list(holder.descendants()):
        with holder:
            heading(title)
            Text("asking …", "p", "quiet asking")
    try:
        draw = await show()
    except EpoxyError as error:
        for old in [element for element in holder.descendants() if {"asking", "wrong"} & set(element.classes)]:
            old.delete()
        with holder:
            told = Text(str(error).replace(f"{bench.root}/", ""), "div", "data wrong").props('role="alert"')
        told.move(target_index=1)
        return
    holder.clear()
    with holder:
        heading(title)
        draw()


async def ask_plan(bench: Bench, *options: str) -> dict[str, Any]:
    """Return what `epoxy plan --json` answers: in a process of its own, since it loads LF modules, which may do anything.

    Raises
    ------
    EpoxyError
        What the command says.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flows.cli", "plan", "--json", *options,
        cwd=bench.root, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        said, complained = await process.communicate()
    except asyncio.CancelledError:  # nobody looks any more
        process.kill()
        raise
    if process.returncode:
        words = complained.decode("utf-8", "replace").strip()
        raise StageError(words.rpartition("error: ")[2] or f"epoxy plan ended with {process.returncode}")
    return dict(json.loads(said))


async def _show_stages(bench: Bench) -> Any:
    found = await ask_plan(bench)

    def draw() -> None:
        rows = found["stages"]
        if not rows:
            Text("Nothing to do: everything is up to date.", "p")
            return
        known = [row["seconds"] for row in rows if row["seconds"] is not None]
        Text(
            f"About {sum(known):,.0f} s, as these stages took when they last ran here." if known
            else "No stage has run here yet, so that nobody knows how long it takes.",
            "p",
        )  # fmt: skip
        table(
            [column("stage", "Stage"), column("reason", "Reason"), column("seconds", "Seconds", SECONDS)],
            rows, key="stage",
        )  # fmt: skip
        heading("Votes to ask for", 3)
        if not found["lfs"]:
            Text("None: every LF's votes are known.", "p")
        with ui.element("ul"):
            for row in found["lfs"]:
                what = "all items" if row["items"] == row["of"] else f"{row['items']:,} of {row['of']:,} items"
                Text(f"{row['lf']}: {what}", "li")

    return draw


async def _show_flips(bench: Bench) -> Any:
    found = await ask_plan(bench, "--flips")
    flips = found["flips"]
    items = await ask(lambda: _find_items(bench, flips[:_FLIPS]))

    def draw() -> None:
        if not flips:
            Text(found["table"], "p")
            return
        Text(
            "Of the label model, against the last run; the end model follows in the run. For a pull request, in Markdown:",
            "p",
        )
        Text(found["table"], "pre", "code").props('tabindex="0"')
        ui.button("Copy", on_click=lambda: ui.clipboard.write(found["table"])).props("outline no-caps")
        for flip in flips[:_FLIPS]:
            with ui.element("div").classes("w-full").style("border-top: 1px solid #8884; padding: .5rem 0"):
                link(str(flip[ITEM_ID]), item_address(flip[ITEM_ID]))
                Text(f" {flip['before']} → {flip['after']}", "strong")
                item = items.get(flip[ITEM_ID], {})
                show_content(bench.root, item, [name for name in item if name not in (ITEM_ID, "split")])
        if len(flips) > _FLIPS:
            Text(f"... and {len(flips) - _FLIPS:,} more; 'epoxy plan --flips --json' lists all.", "p")

    return draw


def _find_items(bench: Bench, flips: list[Mapping[str, Any]]) -> dict[object, dict[str, Any]]:
    """The items of these flips, by id; none that the last run does not have."""
    try:
        rows = bench.data.find_rows(flip[ITEM_ID] for flip in flips)
    except QueryError:
        return {}
    found: pl.DataFrame = bench.data.items()[rows]
    return {row[ITEM_ID]: row for row in found.iter_rows(named=True)}
