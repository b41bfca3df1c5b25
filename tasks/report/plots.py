"""The files of `dvc plots` and the HTML template that shows them offline."""

from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert

from tasks.cache.store import Cache, identify
from tasks.report.evaluation import Evaluation
from tasks.report.rounding import round_table

CACHE_KIND = "vega"
"""The kind of the cache's only entry here, a script."""

_VEGALITE = "5.21"
"""The series of Vega-Lite for which DVC's own plot templates are written."""

_EXPORT = "window.vegaEmbed = vegaEmbed;"
"""Makes vegaEmbed visible to the scripts that DVC writes."""


def tabulate_plots(evaluation: Evaluation) -> Iterator[tuple[str, pl.DataFrame]]:
    """Name and table of each file for `dvc plots`; tables are tidy, with a row per thing drawn."""
    splits = evaluation.splits
    scores = [
        (str(result.split), row.method, metric, estimate.value, estimate.low, estimate.high)
        for result in splits
        for row in result.methods
        for metric, estimate in (
            ("accuracy", row.accuracy),
            ("macro_f1", row.macro_f1),
            ("log_loss", row.log_loss),
            ("brier", row.brier),
            ("against_majority_vote", row.to_baseline),
        )
    ]
    yield (
        "scores",
        _frame({"split": str, "method": str, "metric": str, "value": float, "low": float, "high": float}, scores),
    )
    per_class = [
        (
            str(result.split),
            row.method,
            name,
            int(s.support[c]),
            float(s.precision[c]),
            float(s.recall[c]),
            float(s.f1[c]),
        )
        for result in splits
        for row in result.methods
        for s in [row.scores]
        for c, name in enumerate(evaluation.classes)
    ]
    columns = {
        "split": str,
        "method": str,
        "class": str,
        "support": int,
        "precision": float,
        "recall": float,
        "f1": float,
    }
    yield "classes", _frame(columns, per_class)
    curve = [
        (str(result.split), row.method, *bin_)
        for result in splits
        for row in result.methods
        for bin_ in zip(
            row.curve.confidence.tolist(), row.curve.accuracy.tolist(), row.curve.count.tolist(), strict=True
        )
    ]
    columns = {"split": str, "method": str, "confidence": float, "accuracy": float, "items": int}
    yield "reliability", _frame(columns, curve)
    coverage = [
        (group.name, covered_by, count, count / group.n)
        for group in evaluation.coverage
        for covered_by, count in (
            ("labeling functions", group.original),
            ("extension only", group.extended_only),
            ("nothing", group.uncovered),
        )
    ]
    yield "coverage", _frame({"split": str, "covered_by": str, "items": int, "share": float}, coverage)
    strata = [
        (str(result.split), stratum.covered_by, stratum.n, row.method, accuracy)
        for result in splits
        for stratum in result.strata
        for row, accuracy in zip(result.methods, stratum.accuracy, strict=True)
    ]
    columns = {"split": str, "covered_by": str, "items": int, "method": str, "accuracy": float}
    yield "strata", _frame(columns, strata)


def render_plots_template(root: Path) -> str:
    """The HTML template for `dvc plots show`, with Vega inlined; DVC's own template loads it from the internet.

    DVC fills in `{plot_divs}`, and adds no script of its own if there is no `{scripts}`. The script is kept in the cache
    of the project at `root`, since bundling it takes longer than the rest of a small report.
    """
    key = identify(_EXPORT, _VEGALITE, version("vl-convert-python"))
    with Cache(root, CACHE_KIND) as entries:
        stored = entries.read(key)
        script = _bundle_script() if stored is None else stored.decode()
        if stored is None:
            entries.write(key, script.encode())
    assert "</script" not in script and "{plot_divs}" not in script
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Plots</title>\n'
        "<style>body { margin: 2rem } .vega-embed { display: block !important; margin-bottom: 2rem }</style>\n"
        f"<script>{script}</script>\n</head>\n<body>\n{{plot_divs}}\n</body>\n</html>\n"
    )


@cache
def _bundle_script() -> str:
    """Vega, Vega-Lite and vegaEmbed as a script."""
    return vl_convert.javascript_bundle(_EXPORT, vl_version=_VEGALITE)


def _frame(columns: dict[str, type], rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    """The rows as a table with these columns, its numbers rounded."""
    types = {str: pl.String, int: pl.Int64, float: pl.Float64}
    return round_table(pl.DataFrame(rows, schema={name: types[kind] for name, kind in columns.items()}, orient="row"))
