"""The page Label: items one after another, by keyboard alone; a decision is on disk before the next item is shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from nicegui import ui
from nicegui.events import KeyEventArguments

from flows.workbench.frame import (
    LONG,
    Bench,
    Text,
    address,
    ask,
    frame,
    item_address,
    link,
    page,
    show_content,
)
from tasks.core.types import ITEM_ID
from tasks.errors import EpoxyError
from tasks.queries.next_items import choose_next
from tasks.readers.gold_tables import read_decisions
from tasks.tables.gold_table import Decision, append_decision
from tasks.tables.paths import DECISIONS

_QUEUE = 200
"""The number of items in a queue, which are chosen as by `epoxy next`."""

_DIGITS = 10
"""The number of classes that a key of its own chooses."""


@dataclass
class Round:
    """A person's round of labeling: the queue, the position in it, and the decisions so far."""

    annotator: str
    rows: list[dict[str, Any]]
    people: str
    at: int = 0
    said: dict[str | int, str | None] = field(default_factory=dict)
    done: list[str | int] = field(default_factory=list)
    """Ids in the order of decisions, for undo."""
    typed: str = ""
    """What narrows the classes shown, where they are too many for digits."""


def add_pages(bench: Bench) -> None:
    """Add the page /label."""

    @page("/label")
    async def label_page(annotator: str = "") -> None:
        with frame(bench, "Label by hand", "/label"):
            if not annotator.strip():
                _ask_name()
                return
            rows, people = await ask(lambda: (find_queue(bench, annotator), describe_people(_read_table(bench))))
            _show_round(bench, Round(annotator=annotator, rows=rows, people=people))


def find_classes(classes: Sequence[str], typed: str) -> list[str]:
    """Return the classes whose names hold what was typed, in either case: those that begin with it first.

    >>> find_classes(["lost card", "card arrival", "exchange rate"], "Card ")
    ['card arrival', 'lost card']
    >>> find_classes(["lost card", "card arrival"], "")
    ['lost card', 'card arrival']
    """
    part = typed.strip().casefold()
    found = [name for name in classes if part in name.casefold()]
    return sorted(found, key=lambda name: not name.casefold().startswith(part))


def _ask_name() -> None:
    Text("Who labels? Decisions are kept by name, so that several people can label the same items.", "p")

    def go() -> None:
        if name.value.strip():
            ui.navigate.to(address("/label", annotator=name.value.strip()))

    name = ui.input("your name").props("autofocus").on("keydown.enter", go)
    ui.button("Start", on_click=go).props("outline no-caps")


def find_queue(bench: Bench, annotator: str) -> list[dict[str, Any]]:
    """Return the next items for `annotator` to decide on, without those they have already decided on."""
    said = _read_table(bench)
    decided = said.filter((pl.col("annotator") == annotator) & pl.col("label").is_not_null())[ITEM_ID].cast(pl.String)
    return choose_next(bench.data, count=_QUEUE, exclude=frozenset(decided)).rows.to_dicts()


def describe_people(said: pl.DataFrame) -> str:
    """Return sentences on how many decisions each person has made so far, and how often people agree.

    >>> said = pl.DataFrame({"item_id": [1, 1, 2], "annotator": ["a", "b", "a"], "label": [0, 1, 0]})
    >>> describe_people(said)
    'On disk: a 2, b 1. Of 1 item with several opinions, 0 have one label.'
    """
    kept = said.filter(pl.col("label").is_not_null())
    if kept.is_empty():
        return "No decisions are on disk yet."
    people = kept.group_by("annotator").len().sort("annotator")
    text = f"On disk: {', '.join(f'{row[0]} {row[1]:,}' for row in people.iter_rows())}."
    shared = kept.group_by(ITEM_ID).agg(pl.len(), pl.col("label").n_unique().alias("labels")).filter(pl.col("len") > 1)
    if shared.height:
        agreed = int((shared["labels"] == 1).sum())
        text += (
            f" Of {shared.height:,} item{'s' * (shared.height > 1)} with several opinions, {agreed:,} have one label."
        )
    return text


def _read_table(bench: Bench) -> pl.DataFrame:
    """The last decision of each person about each item: item_id, annotator, label."""
    data = bench.data
    found = read_decisions(bench.root / data.params().gold.source, data.ids(), data.classes)
    return found.table.select(ITEM_ID, "annotator", "label")


def _show_round(bench: Bench, state: Round) -> None:
    classes = bench.data.classes
    path = bench.root / bench.data.params().gold.source / DECISIONS
    raw = [name for name in bench.data.items().columns if name not in (ITEM_ID, "split")]

    def decide(label: str | None) -> None:
        if state.at >= len(state.rows):
            return
        item: str | int = state.rows[state.at][ITEM_ID]
        if not save_decision(path, Decision(item_id=item, label=label, annotator=state.annotator)):
            return
        state.said[item] = label
        state.done.append(item)
        state.at += 1
        narrow("")
        show.refresh()

    def undo() -> None:
        if not state.done:
            return
        item = state.done[-1]
        if not save_decision(path, Decision(item_id=item, label=None, annotator=state.annotator)):
            return
        state.done.pop()
        state.said.pop(item, None)
        state.at = next(at for at, row in enumerate(state.rows) if row[ITEM_ID] == item)
        show.refresh()

    def move(step: int) -> None:
        state.at = int(np.clip(state.at + step, 0, len(state.rows)))
        show.refresh()

    def narrow(typed: str) -> None:
        if state.typed == typed:
            return
        state.typed = typed
        if search is not None:
            search.value = typed
        show_classes.refresh()

    def choose_first() -> None:
        if state.typed.strip() and (found := find_classes(classes, state.typed)):
            decide(found[0])

    def leave() -> None:
        narrow("")
        if search is not None:
            search.run_method("blur")

    def press(event: KeyEventArguments) -> None:
        if not event.action.keydown or event.action.repeat or event.modifiers.ctrl or event.modifiers.meta:
            return
        if event.key.number is not None and event.key.number < min(len(classes), _DIGITS):
            decide(classes[event.key.number])
        elif event.key.arrow_right or event.key.arrow_down:
            move(1)
        elif event.key.arrow_left or event.key.arrow_up:
            move(-1)
        elif str(event.key) == "u":
            undo()
        elif str(event.key) == "/" and search is not None:
            search.run_method("focus")

    @ui.refreshable
    def show() -> None:
        with ui.element("div").props('role="status" aria-live="polite"'):
            Text(f"{state.annotator}: {len(state.done):,} decided, {len(state.rows) - state.at:,} to go", "p")
            Text(state.people, "p", "quiet")
        if state.at >= len(state.rows):
            Text("Nothing is left in this queue. 'epoxy run' uses the gold; then there is a new one.", "p")
            return
        row = state.rows[state.at]
        with ui.card().classes("w-full"):
            show_content(bench.root, row, raw, most=LONG)
            with ui.element("div").classes("flex flex-wrap gap-x-4"):
                link(str(row[ITEM_ID]), item_address(row[ITEM_ID]))
                said = state.said.get(row[ITEM_ID])
                Text("" if said is None else f"you said {said}", "strong")

    @ui.refreshable
    def show_classes() -> None:
        found = find_classes(classes, state.typed)
        with ui.element("div").classes("flex flex-wrap gap-2").style("margin-top: 1rem"):
            for name in found:
                number = classes.index(name)
                text = f"{number}  {name}" if number < _DIGITS else name
                ui.button(text, on_click=lambda _, name=name: decide(name)).props("outline no-caps")
        if not found:
            Text(f"No class has {state.typed.strip()!r} in its name.", "p")

    show()
    search = None
    if len(classes) > _DIGITS:
        search = ui.input("class", on_change=lambda event: narrow(event.value or ""))
        search.on("keydown.enter", choose_first).on("keydown.esc", leave)
    show_classes()
    with ui.element("div").classes("flex flex-wrap gap-2").style("margin-top: 1rem"):
        ui.button("← back", on_click=lambda: move(-1)).props("flat no-caps")
        ui.button("skip →", on_click=lambda: move(1)).props("flat no-caps")
        ui.button("undo (u)", on_click=undo).props("flat no-caps")
    keys = "Digits choose, arrows move, u takes the last decision back."
    many = (
        "Slash goes to the field of classes: type a part of a name, Enter takes the first that is shown, Escape leaves."
    )
    Text(keys if search is None else f"{keys} {many}", "p", "quiet")
    ui.keyboard(on_key=press)


def save_decision(path: Path, decision: Decision) -> bool:
    """Return whether the decision was appended to the table at `path`; the page says why not."""
    try:
        note = append_decision(path, decision)
    except (EpoxyError, OSError) as error:
        ui.notify(f"not saved: {error}", type="negative", timeout=0, close_button="close")
        return False
    if note:
        ui.notify(note)
    return True
