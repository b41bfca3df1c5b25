"""Charts of the report page as inline SVG, drawn by Vega-Lite."""

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import vl_convert
from markupsafe import Markup

from tasks.report.evaluation import DescribedClass, Evaluation, LFPairs, MethodResult, SplitResult, name_method
from tasks.report.formatting import format_number, format_share

_CURVES = 12
"""Most threshold curves on the page: those of the LFs that gained the most votes."""

_CELL = 17
"""Pixels of a cell of a heat map."""

_NAME = 22
"""Characters of an LF's name beside a heat map."""

_FINE = 0.05
"""An axis with a span below this shows tenths of a percent; with whole percents its ticks would repeat."""

_COLORS = {"ink": "#23272e", "muted": "#6b7280", "grid": "#e3e5e8", "accent": "#1f6feb", "second": "#b4690e"}
"""Colors of plots on white. The page's style sheet maps each to its dark counterpart, so use no others."""

_FONT = "sans-serif"
"""The font of texts in plots."""

_PADDING = {"left": 42, "top": 8, "right": 16, "bottom": 38}
"""Margins in pixels; fixed, since automatic ones depend on the machine's fonts."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The range of accuracies that the interval bars of a table cover."""

    low: float
    high: float

    def offset(self, value: float) -> str:
        """The position of `value`, as a CSS length from the left."""
        share = (value - self.low) / (self.high - self.low)
        return f"{min(max(share, 0.0), 1.0) * 100:.2f}%"

    def width(self, low: float, high: float) -> str:
        """The width of the range from `low` to `high`, as a CSS length."""
        return f"{(high - low) / (self.high - self.low) * 100:.2f}%"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plot of the page: title and note as plain text, and the SVG."""

    title: str
    note: str
    svg: Markup


def choose_scale(result: SplitResult) -> Scale:
    """The range, in whole steps of five points, that holds every accuracy and interval of the table."""
    ends = np.array([[row.accuracy.value, row.accuracy.low, row.accuracy.high] for row in result.methods])
    low, high = np.floor(np.nanmin(ends) * 20) / 20, np.ceil(np.nanmax(ends) * 20) / 20
    low = min(low, 0.95)
    return Scale(low=float(low), high=float(max(high, low + 0.05)))


def draw_reliability(row: MethodResult) -> Figure:
    """A plot of confidence against accuracy for a method; a point's area is its bin's share of the items."""
    bins = [
        {"confidence": round(x, 6), "accuracy": round(y, 6), "items": n}
        for x, y, n in zip(
            row.curve.confidence.tolist(), row.curve.accuracy.tolist(), row.curve.count.tolist(), strict=True
        )
    ]
    x = {
        "field": "confidence",
        "type": "quantitative",
        "scale": {"domain": [0, 1]},
        "axis": _percent_axis("confidence"),
    }
    y = {"field": "accuracy", "type": "quantitative", "scale": {"domain": [0, 1]}, "axis": _percent_axis("accuracy")}
    size = {
        "field": "items",
        "type": "quantitative",
        "legend": None,
        "scale": {"domain": [0, row.scores.n], "range": [12, 400]},
    }
    layers = [
        {
            "data": {"values": [{"confidence": 0, "accuracy": 0}, {"confidence": 1, "accuracy": 1}]},
            "mark": {"type": "line", "color": _COLORS["muted"], "strokeDash": [3, 3], "strokeWidth": 1},
            "encoding": {"x": x, "y": y},
        },
        {
            "data": {"values": bins},
            "mark": {"type": "line", "color": _COLORS["accent"], "strokeWidth": 1.5},
            "encoding": {"x": x, "y": y},
        },
        {
            "data": {"values": bins},
            "mark": {"type": "circle", "color": _COLORS["accent"], "opacity": 1},
            "encoding": {"x": x, "y": y, "size": size},
        },
    ]
    return Figure(
        title=name_method(row.method),
        note=f"calibration error {format_number(row.scores.calibration_error)}",
        svg=_draw({"width": 180, "height": 180, "padding": {**_PADDING, "left": 56}, "layer": layers}),
    )


def _percent_axis(title: str | None) -> dict[str, Any]:
    """A Vega-Lite axis for shares, in percent."""
    return {"title": title, "format": ".0%", "values": [0, 0.25, 0.5, 0.75, 1]}


def _draw(spec: dict[str, Any]) -> Markup:
    """The Vega-Lite `spec` as SVG in the page's style, its texts escaped by vega."""
    axis = {
        "labelColor": _COLORS["muted"],
        "titleColor": _COLORS["muted"],
        "titleFontWeight": "normal",
        "titleFontSize": 11,
        "labelFontSize": 11,
        "gridColor": _COLORS["grid"],
        "domainColor": _COLORS["grid"],
        "tickColor": _COLORS["grid"],
        "labelFont": _FONT,
        "titleFont": _FONT,
        "labelFlush": False,
    }
    style = {
        "autosize": {"type": "none"},
        "padding": _PADDING,
        "background": None,
        "config": {"axis": axis, "view": {"stroke": None}, "font": _FONT},
    }
    svg = vl_convert.vegalite_to_svg({**style, **spec})
    # HTML needs no namespaces; without them the page contains no URL at all.
    return Markup(re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg, count=2))  # noqa: S704, Vega has escaped the texts


def draw_pairs(pairs: LFPairs) -> list[Figure]:
    """The correlation of each two LFs' votes, and how often they contradict each other, as heat maps."""
    conflict = np.where(np.eye(len(pairs.lfs), dtype=bool), np.nan, pairs.conflicts)
    return [
        Figure(
            title="Correlation of votes",
            note="blue: the same votes on the same items, near-copies where it is full; orange: votes that avoid or "
            "contradict each other",
            svg=_draw_heat(pairs.lfs, pairs.correlation),
        ),
        Figure(
            title="Conflicts",
            note="orange: the share of an LF's votes, of the one with fewer, that the other contradicts; empty: they never "
            "meet",
            svg=_draw_heat(pairs.lfs, -conflict),
        ),
    ]


def _draw_heat(names: tuple[str, ...], values: npt.NDArray[np.float64]) -> Markup:
    """A square of `values` (m, m) from -1 to 1; the color is that of the sign, as strong as the value."""
    shown = [name if len(name) <= _NAME else f"{name[: _NAME - 1]}…" for name in names]
    cells = [
        {"x": j, "y": i, "value": abs(round(float(values[i, j]), 3)), "sign": "same" if values[i, j] > 0 else "other"}
        for i, j in np.argwhere(np.isfinite(values)).tolist()
    ]
    label = f"{json.dumps(shown)}[datum.value]"
    axis = {"title": None, "grid": False, "ticks": False, "domain": False, "labelExpr": label, "labelLimit": 200}
    scale = {"domain": list(range(len(names))), "paddingInner": 0.04}
    color = {"domain": ["same", "other"], "range": [_COLORS["accent"], _COLORS["second"]]}
    side = _CELL * len(names)
    return _draw(
        {
            "width": side,
            "height": side,
            "padding": {"left": 8 + 6.5 * max(map(len, shown)), "top": 4, "right": 8, "bottom": 8 + 6.5 * max(map(len, shown))},
            "data": {"values": cells},
            "mark": {"type": "rect"},
            "encoding": {
                "x": {"field": "x", "type": "ordinal", "scale": scale, "axis": {**axis, "labelAngle": -90}},
                "y": {"field": "y", "type": "ordinal", "scale": scale, "axis": axis},
                "color": {"field": "sign", "type": "nominal", "scale": color, "legend": None},
                "opacity": {"field": "value", "type": "quantitative", "legend": None,
                            "scale": {"domain": [0, 1], "range": [0.04, 1]}},
            },
        }
    )  # fmt: skip


def draw_curves(evaluation: Evaluation) -> list[Figure]:
    """Plots of the tuning metric and coverage against the threshold, for the LFs that gained the most votes."""
    drawable = evaluation.curves.drop_nulls("threshold").sort("lf", "threshold", maintain_order=True)
    by_lf = {lf: rows for (lf,), rows in drawable.group_by("lf", maintain_order=True) if rows.height > 1}
    extended = evaluation.lfs.filter(pl.col("threshold").is_not_null())
    gained = extended.sort("votes_added", descending=True, maintain_order=True).select("lf", "threshold")
    chosen = [(lf, threshold) for lf, threshold in gained.iter_rows() if lf in by_lf][:_CURVES]
    ends = [value for lf, _ in chosen for value in by_lf[lf]["metric"].drop_nulls().to_list()]
    return [
        Figure(
            title=lf,
            note=f"threshold {format_number(threshold)}",
            # The same scale for all LFs, or tiny changes would look as large as those that matter.
            svg=(_draw_curve(by_lf[lf], "metric", threshold, [min(ends), max(ends)], 80) if ends else Markup())
            + _draw_curve(by_lf[lf], "coverage", threshold, [0, 1], 50),
        )
        for lf, threshold in chosen
    ]


def _draw_curve(rows: pl.DataFrame, field: str, chosen: float | None, domain: list[Any], height: int) -> Markup:
    """A curve over thresholds as SVG, with a vertical rule at the `chosen` threshold."""
    points = [
        {"threshold": round(threshold, 6), field: None if value is None else round(value, 6)}
        for threshold, value in rows.select("threshold", field).iter_rows()
    ]
    x = {
        "field": "threshold",
        "type": "quantitative",
        "scale": {"zero": False, "nice": False},
        "axis": {"title": None, "tickCount": 4, "labels": field == "coverage"},
    }
    y = {
        "field": field,
        "type": "quantitative",
        "scale": {"domain": domain, "zero": False},
        "axis": {"title": None, "format": ".0%" if domain[1] - domain[0] > _FINE else ".1%", "tickCount": 3},
    }
    color = _COLORS["accent" if field == "metric" else "second"]
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "line", "color": color, "strokeWidth": 1.75}, "encoding": {"x": x, "y": y}}
    ]
    if chosen is not None and rows["threshold"][0] <= chosen <= rows["threshold"][-1]:
        rule = {"type": "rule", "color": _COLORS["ink"], "strokeWidth": 1}
        layers.append({"data": {"values": [{"threshold": chosen}]}, "mark": rule, "encoding": {"x": x}})
    padding = {**_PADDING, "bottom": 20 if field == "coverage" else 4}
    return _draw({"width": 220, "height": height, "padding": padding, "data": {"values": points}, "layer": layers})


def draw_described(classes: tuple[DescribedClass, ...]) -> list[Figure]:
    """Plots of agreement against the share of a class's items voted on, the clearest first, for the classes with most votes."""
    known = sorted((row for row in classes if np.isfinite(row.agreement).any()), key=lambda row: -row.votes)[:_CURVES]
    low = min((np.nanmin(row.agreement) for row in known), default=0)
    return [
        Figure(
            title=row.name,
            note=f"{row.votes:,} votes, on {format_share(row.share, 0)} of its items; by {row.evidence}",
            svg=_draw_agreement(row, float(np.floor(low * 10) / 10)),
        )
        for row in known
    ]


def _draw_agreement(row: DescribedClass, low: float) -> Markup:
    """The agreement of a class by tenth of its items, from `low` to 1, with a vertical rule where it stops voting."""
    tenths = len(row.agreement)
    x = {"field": "share", "type": "quantitative", "scale": {"domain": [0, 1]}, "axis": _percent_axis(None)}
    y = {
        "field": "agreement",
        "type": "quantitative",
        "scale": {"domain": [low, 1], "zero": False},
        "axis": {"title": None, "format": ".0%", "tickCount": 3},
    }
    points = [
        {"share": end / tenths, "agreement": round(row.agreement[max(end - 1, 0)], 6)} for end in range(tenths + 1)
    ]
    layers = [
        {
            "data": {"values": points},
            "mark": {"type": "line", "interpolate": "step-before", "color": _COLORS["accent"], "strokeWidth": 1.75},
            "encoding": {"x": x, "y": y},
        },
        {
            "data": {"values": [{"share": row.share}]},
            "mark": {"type": "rule", "color": _COLORS["ink"], "strokeWidth": 1},
            "encoding": {"x": x},
        },
    ]
    return _draw({"width": 220, "height": 80, "padding": {**_PADDING, "bottom": 20}, "layer": layers})
