"""Releases: the list, one release with its gates, and what differs between two."""

from collections.abc import Callable, Sequence
from typing import Any

from nicegui import ui

from flows.releases.diff import Change, Difference, compare_releases, name_metric, write_change
from flows.releases.gates import GateVerdict
from flows.releases.store import ListedRelease, list_releases
from flows.workbench.frame import (
    NUMBER,
    Bench,
    Text,
    address,
    ask,
    column,
    frame,
    heading,
    item_address,
    link,
    page,
    show_content,
    table,
)
from flows.workbench.item_address import write_address
from tasks.core.types import ITEM_ID
from tasks.errors import QueryError
from tasks.queries.items import ItemQuery

_FLIPS = 50
"""Most flipped items that are shown with their content."""


def add_pages(bench: Bench) -> None:
    """Add the pages /releases, /release and /difference."""

    @page("/releases")
    async def releases_page() -> None:
        with frame(bench, "Releases", "/releases"):
            listed = await ask(lambda: list_releases(bench.root))
            if not listed:
                Text("None yet. 'epoxy release' makes one of the last run.", "p")
                return
            _show_list(listed)

    @page("/release")
    async def release_page(name: str) -> None:
        with frame(bench, f"Release {name[:40]}", "/releases"):
            listed = await ask(lambda: list_releases(bench.root))
            found = next((release for release in listed if release.id.startswith(name)), None)
            if found is None:
                raise QueryError(f"no release {name[:40]!r}")
            _show_release(found)

    @page("/difference")
    async def difference_page(before: str, after: str) -> None:
        with frame(bench, f"From {before[:12]} to {after[:12]}", "/releases"):
            found = await ask(lambda: compare_releases(bench.root, before, after))
            _show_difference(bench, found)


def _show_list(listed: tuple[ListedRelease, ...]) -> None:
    rows = []
    for release in reversed(listed):  # the newest first
        made = release.made
        previous = None if made is None else made.previous
        rows.append(
            {
                "id": release.id, "link": address("/release", name=release.id),
                "current": "current" if release.is_current else "" if release.is_here else "not here",
                "time": "" if made is None else made.time[:16].replace("T", " "),
                "user": "" if made is None else made.user,
                "reason": "" if made is None else describe_reason(made.reason, made.accepted),
                "items": release.items,
                "difference": "" if previous is None else "what changed",
                "difference_link": None if previous is None else address("/difference", before=previous, after=release.id),
            }
        )  # fmt: skip
    table(
        [column("id", "Release"), column("difference", "Against the last"), column("current", "State"),
         column("time", "Made"), column("reason", "Reason"), column("user", "By"), column("items", "Items", NUMBER)],
        rows, key="id", links={"id": "link", "difference": "difference_link"},
    )  # fmt: skip


def describe_reason(reason: str, accepted: str | None) -> str:
    """Return why a release was made, with why failed gates were accepted.

    >>> describe_reason("first labels", None), describe_reason("", "a new product")
    ('first labels', 'accepted: a new product')
    """
    return "; ".join([*([reason] if reason else []), *([f"accepted: {accepted}"] if accepted else [])])


def _show_release(release: ListedRelease) -> None:
    if release.made is not None:
        made = release.made
        reason = f": {made.reason}" if made.reason else ", without a reason"
        Text(f"{made.time[:16].replace('T', ' ')} by {made.user} on {made.host}{reason}", "p")
        Text(
            f"commit {made.commit}{', with edits' if made.dirty else ''}" if made.commit else "no commit", "p", "quiet"
        )
        if made.previous is not None:
            with ui.element("p"):
                link(
                    "what changed against the release before",
                    address("/difference", before=made.previous, after=release.id),
                )
        if made.accepted:
            Text(f"released in spite of failed gates: {made.accepted}", "p", "wrong")
    with ui.element("p"):
        link("items that are labeled otherwise now", write_address(ItemQuery(flipped=True), release=release.id))
    if release.made is not None and release.made.gates:
        heading("Gates")
        rows = [
            {
                "gate": gate.gate,
                "verdict": f"✗ {gate.verdict}" if gate.verdict is GateVerdict.FAILED else str(gate.verdict),
                "value": _plain(gate.value),
                "limit": _plain(gate.limit),
                "note": gate.note,
            }
            for gate in sorted(release.made.gates, key=lambda gate: gate.verdict is not GateVerdict.FAILED)
        ]
        table([column(name, name.capitalize()) for name in rows[0]], rows, key="gate")  # fmt: skip


def _plain(value: Any) -> Any:
    """A value as a table's cell takes it, numbers with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if value is None or isinstance(value, int | str | bool) else str(value)


def _tabulate(changes: Sequence[Change], name: Callable[[str], str] = str) -> None:
    """A table of what differs; name: what a value is called."""
    rows = [
        {"key": change.name, "name": name(change.name), "before": before, "after": after, "change": gap}
        for change in changes
        for before, after, gap in [write_change(change)]
    ]
    numbers = [{**column(what, what.capitalize()), "align": "right"} for what in ("before", "after", "change")]
    table([column("name", "Name"), *numbers], rows, key="key")


def _show_difference(bench: Bench, found: Difference) -> None:
    heading("Metrics of the shipped labels")
    if found.shipped_metrics:
        _tabulate(found.shipped_metrics, lambda name: name_metric(name, found.shipped))
    else:
        Text("No change.", "p")
    heading("Labels")
    flips = found.labels
    Text(
        f"{flips.flipped.height:,} of {flips.common:,} items flipped; {flips.new:,} are new, {flips.deleted:,} are gone.",
        "p",
    )
    items = bench.data.items()
    shown = flips.flipped.head(_FLIPS)
    if shown.height and shown.schema[ITEM_ID] == items.schema[ITEM_ID]:
        shown = shown.join(items, on=ITEM_ID, how="left", maintain_order="left")
    raw = [name for name in shown.columns if name not in (ITEM_ID, "before", "after", "split")]
    for row in shown.iter_rows(named=True):
        with ui.element("div").classes("w-full").style("border-top: 1px solid #8884; padding: .5rem 0"):
            link(str(row[ITEM_ID]), item_address(row[ITEM_ID]))
            Text(f" {row['before']} → {row['after']}", "strong")
            show_content(bench.root, row, raw)
    if flips.flipped.height > shown.height:
        Text(f"... and {flips.flipped.height - shown.height:,} more; 'epoxy releases diff' lists all.", "p")
    others = [change for change in found.metrics if change not in found.shipped_metrics]
    for title, changes in (("Class balance", found.balance), ("Params", found.params), ("Metrics of other methods", others),
                           ("LFs", found.lfs), ("Learned parameters", found.model)):  # fmt: skip
        if changes:
            with ui.expansion(f"{title}: {len(changes):,} differ", value=title == "Params").classes("w-full"):
                _tabulate(changes, name_metric if title == "Metrics of other methods" else str)
    if found.inputs:
        heading("Other inputs")
        for path in found.inputs:
            Text(path, "div", "data")
