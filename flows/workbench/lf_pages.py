"""The pages LFs and LF: coverage and precision, also while LFs are edited, and the items behind each number."""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from nicegui import ui

from flows.workbench.frame import (
    FINE_POINTS,
    NUMBER,
    POINTS,
    SHARE,
    Bench,
    Text,
    address,
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
from tasks.errors import QueryError
from tasks.queries.items import ItemQuery, VoteFilter
from tasks.queries.lfs import compare_lfs, tabulate_lfs
from tasks.report.lf_harm import describe_harm, write_mute
from tasks.tables.files import read_csv
from tasks.tables.paths import THRESHOLD_CURVES

_INK = "#777"
"""The color of a chart's texts: as far from white as from the dark page."""


def add_pages(bench: Bench) -> None:
    """Add the pages /lfs and /lf."""

    @page("/lfs")
    async def lfs_page() -> None:
        with frame(bench, "Labeling functions", "/lfs"):
            found = await ask(lambda: tabulate_lfs(bench.data))
            _show_table(bench, found)

    @page("/lf")
    async def lf_page(name: str) -> None:
        with frame(bench, f"LF {name[:60]}", "/lfs"):
            found = await ask(lambda: tabulate_lfs(bench.data))
            rows = found.filter(pl.col("lf") == name)
            if rows.is_empty():
                raise QueryError(f"no labeling function {name[:64]!r} in the last run. 'epoxy run' adds new ones.")
            await _show_lf(bench, rows.row(0, named=True), found.filter("is_muted")["lf"].to_list())


def _show_table(bench: Bench, found: pl.DataFrame) -> None:
    @ui.refreshable
    def show() -> None:
        state = bench.live.state
        edited = {row["lf"]: row for row in (state.result or {}).get("lfs", ())}
        if state.error is not None:
            Text(state.error, "div", "data wrong").props('role="alert"')
        Text(
            "Of the last run, on all items; precision on gold of valid, with extended votes. The columns of now follow "
            "each edit." if edited else "Of the last run, on all items; precision on gold of valid.",
            "p",
        )  # fmt: skip
        muted = found.filter("is_muted")["lf"].to_list()
        if harm := describe_harm(found.filter("is_harmful")["lf"].to_list(), muted):
            Text(harm, "p")
        rows = []
        for row in found.to_dicts():
            now = edited.pop(row["lf"], None)
            rows.append(
                {
                    **{name: value for name, value in row.items() if not isinstance(value, list)},
                    **_link_items(row["lf"]),
                    "copies": ", ".join(row["near_copies"]),
                    "muted": "muted" if row["is_muted"] else "",
                    "now": describe_now(row, now),
                }
            )
        rows += [
            {"lf": lf, "polarity": now["polarity"], "now": f"new: {format_share(now['coverage'])}"}
            for lf, now in edited.items()
        ]
        table(
            [column("lf", "LF"), column("polarity", "Votes for"), column("coverage", "Coverage", SHARE),
             column("coverage_extended", "Extended", SHARE), column("conflicts", "Conflicts", SHARE),
             column("original_precision", "Precision", SHARE), column("original_n", "On", NUMBER),
             column("added_precision", "Of extended", SHARE), column("added_n", "On", NUMBER),
             column("worth", "Worth", FINE_POINTS), column("adds", "Adds", POINTS), column("decides", "Decides", NUMBER),
             column("believed", "Believed", SHARE), column("failures", "Failures", NUMBER),
             column("copies", "Near-copies"), column("muted", "Muted"), column("now", "Now")],
            rows, key="lf", links={name.removesuffix("_link"): name for name in _link_items("")}, shown=100,
        )  # fmt: skip

    asked = ui.input("filter").props('dense clearable aria-label="filter LFs"')
    holder = ui.element("div").classes("w-full")
    with holder:
        show()
    asked.on_value_change(lambda event: _filter(holder, event.value))
    follow_changes(lambda: bench.live.state.version, show.refresh)


def _link_items(lf: str) -> dict[str, str]:
    """The addresses behind the numbers in an LF's row, by column name plus `_link`."""
    questions = {
        "coverage": ItemQuery(votes=(VoteFilter(lf=lf, source="original"),)),
        "coverage_extended": ItemQuery(votes=(VoteFilter(lf=lf),)),
        "original_n": ItemQuery(votes=(VoteFilter(lf=lf, source="original"),), has_gold=True),
        "added_n": ItemQuery(votes=(VoteFilter(lf=lf, source="extended"),), has_gold=True),
    }
    found = {f"{name}_link": write_address(question) for name, question in questions.items()}
    return {"lf_link": address("/lf", name=lf), **found}


def _filter(holder: ui.element, text: str | None) -> None:
    for element in holder.descendants():
        if isinstance(element, ui.table):
            element.filter = text or ""


def describe_now(row: Mapping[str, Any], now: Mapping[str, Any] | None) -> str:
    """Return how an edit has changed the LF of `row` since the last run, in points.

    >>> row = {"coverage": 0.1, "coverage_extended": 0.3, "original_precision": 0.5}
    >>> describe_now(row, {"coverage": 0.1, "extended": 0.2, "precision": 0.5})
    ''
    >>> describe_now(row, {"coverage": 0.1, "extended": 0.25, "precision": 0.75})
    'extended +5.0, precision +25.0'
    """
    if now is None:
        return ""
    # Items that extension adds, in `now` apart from those that the LF covers itself.
    added = row["coverage_extended"] - row["coverage"]
    changes = [
        ("coverage", format_change(now["coverage"], row["coverage"])),
        ("extended", format_change(now["extended"], added)),
        ("precision", format_change(now["precision"], row["original_precision"])),
    ]
    return ", ".join(f"{what} {change}" for what, change in changes if change)


async def _show_lf(bench: Bench, row: Mapping[str, Any], muted: Sequence[str]) -> None:
    lf = row["lf"]

    def count(address_of: ItemQuery, what: str) -> None:
        with ui.element("li"):
            link(what, write_address(address_of))

    Text(f"votes for {row['polarity'] or 'nothing'}", "p")
    if row["is_muted"]:
        Text("muted by apply.mute: its votes count for nothing", "p")
    elif row["is_harmful"]:
        Text(f"seems to harm the labels. To mute it, in params.yaml below 'apply': {write_mute([*muted, lf])}", "p")
    with ui.element("ul"):
        count(ItemQuery(votes=(VoteFilter(lf=lf, source="original"),)), f"{row['votes']:,} items it votes on itself")
        count(
            ItemQuery(votes=(VoteFilter(lf=lf, source="extended"),)),
            f"{row['votes_added']:,} items that extension adds"
            + ("" if row["threshold"] is None else f", from neighbors within {row['threshold']:.3f}"),
        )
        count(ItemQuery(wrong_lf=lf), "items of valid on which it is wrong")
        own = ItemQuery(wrong_lf=lf, votes=(VoteFilter(lf=lf, source="original"),))
        count(own, "those of them on which it votes itself, and not by a neighbor")
        right = ItemQuery(votes=(VoteFilter(lf=lf),), has_gold=True)
        count(right, f"{row['all_n']:,} items of valid on which it votes: {format_share(row['all_precision'])} right")
        if row["threshold"] is not None:
            near = ItemQuery(near_threshold=0.05, near_threshold_lf=lf, order="threshold_gap")
            count(near, "items near its threshold")
    if row["failures"]:
        Text(f"It failed on {row['failures']:,} items and abstained there.", "p", "wrong")

    heading("Precision on valid")
    table(
        [column("votes", "Votes"), column("n", "Items", NUMBER), column("precision", "Precision", SHARE),
         column("low", "95 % from", SHARE), column("high", "to", SHARE)],
        [{"votes": what, **{name: row[f"{kind}_{name}"] for name in ("n", "precision", "low", "high")}}
         for kind, what in (("original", "its own"), ("added", "extended"), ("all", "both"))],
        key="votes",
    )  # fmt: skip

    source = await ask(lambda: find_source(bench.root, bench.data.params().apply.source, lf))
    if source is not None:
        heading("Source")
        Text(f"{source[0]}, line {source[1]}", "p", "quiet")
        Text(source[2], "pre", "code").props('tabindex="0"')

    await _show_curve(bench, lf)
    pairs = await ask(lambda: compare_lfs(bench.data))
    conflicts = pairs.filter((pl.col("lf") == lf) | (pl.col("other") == lf)).sort("conflicts", "both", descending=True)
    if conflicts.height:
        heading("With other LFs")
        rows = []
        for pair in conflicts.to_dicts():
            other = pair["other"] if pair["lf"] == lf else pair["lf"]
            rows.append({**pair, "with": other, "link": address("/lf", name=other),
                         "conflict_link": write_address(ItemQuery(conflict=(lf, other)))})  # fmt: skip
        table(
            [column("with", "LF"), column("both", "Both vote", NUMBER), column("agreement", "Agree", SHARE),
             column("conflicts", "Conflicts", NUMBER), column("overlap", "Overlap", SHARE)],
            rows, key="with", links={"with": "link", "conflicts": "conflict_link"},
        )  # fmt: skip


async def _show_curve(bench: Bench, lf: str) -> None:
    """Show how coverage and the metric depend on the threshold."""
    path = bench.root / THRESHOLD_CURVES
    if not path.is_file():
        return
    schema = {"lf": pl.String, "threshold": pl.Float64, "coverage": pl.Float64, "valid_coverage": pl.Float64,
              "metric": pl.Float64}  # fmt: skip
    curve = (await ask(lambda: read_csv(path, schema))).filter((pl.col("lf") == lf) & pl.col("threshold").is_not_null())
    if curve.height < 2:
        return
    heading("Threshold")
    points = curve.sort("threshold")
    series = [
        {"name": what, "type": "line", "showSymbol": False, "data": points.select("threshold", name).rows()}
        for what, name in (("coverage of all items", "coverage"), ("metric that tune judges by", "metric"))
    ]
    axis = {
        "nameLocation": "middle",
        "nameGap": 28,
        "nameTextStyle": {"color": _INK},
        "axisLabel": {"color": _INK},
        "splitLine": {"lineStyle": {"color": "#8884"}},
    }
    ui.echart(
        {
            "aria": {"enabled": True},
            "legend": {"textStyle": {"color": _INK}},
            "tooltip": {"trigger": "axis"},
            "xAxis": {"type": "value", "name": "threshold", "scale": True, **axis},
            "yAxis": {"type": "value", **axis},
            "series": series,
        }
    ).classes("w-full").style("height: 300px").props('role="img" aria-label="Coverage and metric by threshold"')


def find_source(root: Path, folder: str, lf: str) -> tuple[str, int, str] | None:
    """Return file, line and text of the definition of `lf` below `folder`, found without running code; None if not found."""
    found = root / folder
    for path in sorted(found.rglob("*.py")) if found.is_dir() else [found]:
        try:
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
        except (OSError, ValueError, SyntaxError):
            continue
        for node in ast.walk(tree):
            if _defines(node, lf):
                start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])  # type: ignore[attr-defined]
                lines = text.splitlines()[start - 1 : node.end_lineno]  # type: ignore[attr-defined]
                return str(path.relative_to(root)), start, "\n".join(lines)
    return None


def _defines(node: ast.AST, lf: str) -> bool:
    """Whether a statement defines `lf`: as a function, by assignment, or by a call that names it."""
    if isinstance(node, ast.FunctionDef):
        return node.name == lf
    if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == lf for t in node.targets):
        return True
    if not isinstance(node, ast.Assign | ast.Expr):
        return False
    return any(
        isinstance(part, ast.keyword)
        and part.arg == "name"
        and isinstance(part.value, ast.Constant)
        and part.value.value == lf
        for part in ast.walk(node)
    )
