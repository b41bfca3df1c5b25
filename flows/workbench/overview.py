"""Overview: what ships and how good it is, what an edit comes to, and the current release."""

from collections.abc import Mapping
from typing import Any, get_args

from nicegui import ui

from flows.releases.last_run import describe_origin
from flows.releases.store import list_releases
from flows.workbench.frame import (
    DECIMAL,
    POINTS,
    SHARE,
    Bench,
    Text,
    ask,
    column,
    follow_changes,
    format_change,
    format_share,
    frame,
    heading,
    link,
    page,
    table,
)
from flows.workbench.item_address import write_address
from flows.workbench.item_pages import wrong_address
from flows.workbench.release_pages import describe_reason
from tasks.params import Split
from tasks.queries.items import Covered, ItemQuery, find_items
from tasks.queries.project_data import SHIPPED
from tasks.report.evaluation import name_method
from tasks.tables.files import read_json
from tasks.tables.paths import METRICS


def add_pages(bench: Bench) -> None:
    """Add the page /."""

    @page("/")
    async def overview() -> None:
        with frame(bench, "Overview", "/"):
            _show_live(bench)
            if not (bench.root / METRICS).is_file():
                Text("No run is complete yet. 'epoxy run' makes labels, metrics and a report.", "p")
                return
            metrics = await ask(lambda: read_json(bench.root / METRICS))
            _show_run(await ask(lambda: describe_origin(bench.root)))
            _show_methods(bench, metrics)
            await _show_coverage(bench)
            _show_release(bench)
            follow_changes(lambda: (bench.root / METRICS).stat().st_mtime_ns, ui.navigate.reload)


def _show_run(origin: str) -> None:
    Text(f"{origin}.", "p", "quiet")  # begins with the project's name, as it is written
    link("The whole report", "/report")


def _show_methods(bench: Bench, metrics: Any) -> None:
    """How good each method is, by split."""
    splits = [split.value for split in Split if "majority_vote" in metrics.get(split.value, {})]
    heading("How good")
    if not splits:
        Text("No item has gold: nothing can be measured.", "p")
        return

    def show(split: str) -> None:
        holder.clear()
        found = metrics[split]
        base = found["majority_vote"]["accuracy"]
        shipped = _find_shipped(bench)
        rows = []
        for method, score in found.items():
            if not isinstance(score, Mapping) or "accuracy" not in score:
                continue
            is_shipped = method == shipped
            rows.append(
                {
                    "method": name_method(method) + (" (shipped)" if is_shipped else ""),
                    "accuracy": score["accuracy"],
                    "against": score["accuracy"] - base,
                    "macro_f1": score["macro_f1"],
                    "log_loss": score["log_loss"],
                    "link": _link_wrong(bench, split, SHIPPED if is_shipped else method),
                }
            )
        with holder:
            Text(f"{found['gold']:,} items with gold; a method leads to the items that it gets wrong.", "p")
            table(
                [column("method", "Method"), column("accuracy", "Accuracy", SHARE),
                 column("against", "Points over majority vote", POINTS), column("macro_f1", "Macro-F1", DECIMAL),
                 column("log_loss", "Log loss", DECIMAL)],
                rows, key="method", links={"method": "link"},
            )  # fmt: skip

    start = Split.TEST.value if Split.TEST.value in splits else splits[0]
    ui.toggle(splits, value=start, on_change=lambda event: show(event.value)).props('aria-label="split"')
    holder = ui.element("div").classes("w-full")
    show(start)


def _find_shipped(bench: Bench) -> str:
    """The method whose labels are shipped: the end model where it is among the methods."""
    return "end_model" if "end_model" in bench.data.methods() else SHIPPED


def _link_wrong(bench: Bench, split: str, method: str) -> str | None:
    """The address of the items of `split` that `method` gets wrong."""
    if method != SHIPPED and method not in bench.data.methods():
        return None
    if split == Split.VALID.value:
        return wrong_address(method)
    return write_address(ItemQuery(splits=(split,), right=False, method=method, withheld_gold=True))


async def _show_coverage(bench: Bench) -> None:
    def count() -> list[tuple[str, int, str]]:
        found = []
        for covered in get_args(Covered):
            query = ItemQuery(covered=covered, limit=0)
            found.append((covered, find_items(bench.data, query).total, write_address(query)))
        return found

    heading("Coverage")
    with ui.element("ul"):
        for covered, total, target in await ask(count):
            with ui.element("li"):
                link(f"{total:,} items", target)
                Text(f" are covered by {covered}")


def _show_release(bench: Bench) -> None:
    heading("Current release")
    current = next((listed for listed in list_releases(bench.root) if listed.is_current), None)
    if current is None:
        Text("None yet. 'epoxy release' makes one of the last run.", "p")
        return
    with ui.element("p"):
        link(current.id, f"/release?name={current.id}")
        if current.made is not None:
            reason = describe_reason(current.made.reason, current.made.accepted)
            Text(f" of {current.made.time[:16].replace('T', ' ')} by {current.made.user}: {reason or 'no reason'}")
    with ui.element("p"):
        link("items that are labeled otherwise now", write_address(ItemQuery(flipped=True), release=current.id))


def _show_live(bench: Bench) -> None:
    """What the edit at hand comes to, renewed with each."""

    @ui.refreshable
    def card() -> None:
        state = bench.live.state
        with ui.card().classes("w-full lines").props('role="status" aria-label="While you edit"'):
            Text("While you edit", "strong")
            if state.error is not None:
                Text(state.error, "div", "data wrong").props('role="alert"')
                if state.result is not None:
                    Text("What follows is the last edit without an error.", "div", "quiet")
            if state.result is None:
                Text(state.doing, "div", "quiet")
                return
            result, before = state.result, state.before or {}
            change = format_change(result["coverage_extended"], before.get("coverage_extended"))
            Text(
                f"{len(result['lfs'])} LFs vote on {format_share(result['coverage'])} of {result['items']:,} items, "
                f"with extension on {format_share(result['coverage_extended'])} {change}",
                "div",
            )
            old = {score["method"]: score["accuracy"] for score in before.get("scores", ())}
            for score in (*result["scores"], *((state.shipped or {}).get("scores", ()))):
                if score["accuracy"] is not None:
                    change = format_change(score["accuracy"], old.get(score["method"]))
                    Text(f"{name_method(score['method'])}: {format_share(score['accuracy'])} of valid {change}", "div")
            for flips, what in ((result, "labels of the label model"), (state.shipped or {}, "shipped labels")):
                if flips.get("flipped"):
                    Text(f"{flips['flipped']:,} {what} flipped", "div")
            Text(f"{state.doing}; last answer in {result['seconds']:.2f} s", "div", "quiet")

    card()
    follow_changes(lambda: bench.live.state.version, card.refresh)
