"""The card of a data set: what it holds, how good its labels are, and where they come from, in Markdown."""

from collections.abc import Iterator
from typing import Any

import polars as pl

from tasks.exchange.contents import Labeled, to_json

_FIGURES = ("accuracy", "macro_f1", "log_loss", "brier", "calibration_error")

_SHIPPED = "end_model"
"""What metrics.json calls the method whose labels are shipped."""


def write_card(labeled: Labeled) -> str:
    """The card, with the header that Hugging Face reads (YAML between lines of ---)."""
    return "\n".join(_list_lines(labeled)) + "\n"


def _list_lines(labeled: Labeled) -> Iterator[str]:
    table = labeled.table
    yield from ("---", f"pretty_name: {to_json(labeled.name)}", "task_categories: [text-classification]")
    yield from ("tags: [weak-supervision, epoxy-flow]", "---", "", f"# {_escape(labeled.name)}", "")
    yield (
        f"{table.height:,} items with labels by weak supervision: labeling functions voted, their votes were extended to near "
        "neighbors and weighed, and a model learned from the result. Only the column `gold` is what people said."
    )
    yield from ("", "## Columns", "", "| column | what it holds |", "|---|---|", "| `item_id` | the item |")
    yield from (f"| `{_escape(name)}` | of the items |" for name in labeled.columns)
    yield from ("| `gold` | the class that people said, empty where it is unknown or kept back |",)
    yield from ("| `label` | the class that is shipped |", "| `probabilities` | of each class, in the order below |")
    yield "| `original_votes` | how many labeling functions voted on the item |"
    if "is_certified" in table.columns:
        yield "| `is_certified` | whether the label is in the set whose error rate is limited |"
    yield from ("", "## Classes", "", "| position | class | items with this label |", "|---|---|---|")
    counts = dict(table.group_by("label").len().iter_rows())
    yield from (f"| {at} | {_escape(name)} | {counts.get(name, 0):,} |" for at, name in enumerate(labeled.classes))
    yield from ("", "## Splits", "", "| split | items | with gold here |", "|---|---|---|")
    known = table.group_by("split").agg(pl.len(), pl.col("gold").is_not_null().sum().alias("gold")).sort("split")
    yield from (f"| {split} | {items:,} | {gold:,} |" for split, items, gold in known.iter_rows())
    yield from ("", "## How good the labels are", "")
    yield from _list_figures(labeled.metrics)
    yield from (
        "",
        "## Where they come from",
        "",
        "| what | which |",
        "|---|---|",
        f"| labels | {_escape(labeled.source)} |",
    )
    yield from (f"| {_escape(name)} | {_escape(value)} |" for name, value in labeled.lineage.items())


def _list_figures(metrics: Any) -> Iterator[str]:
    """The figures of the shipped labels, by split."""
    rows = {
        split: (found["gold"], found[_SHIPPED])
        for split, found in metrics.items()
        if isinstance(found, dict) and isinstance(found.get(_SHIPPED), dict)
    }
    if not rows:
        yield "Nothing was measured: there is no gold."
        return
    yield f"| split | gold | {' | '.join(name.replace('_', ' ') for name in _FIGURES)} |"
    yield f"|---|---|{'---|' * len(_FIGURES)}"
    for split, (gold, found) in rows.items():
        cells = (found.get(name) for name in _FIGURES)
        yield f"| {split} | {gold:,} | {' | '.join('' if cell is None else f'{cell:.3f}' for cell in cells)} |"


def _escape(text: str) -> str:
    """`text` in a cell of Markdown."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").replace("`", "'").split())
