"""What an evaluation says to people: the verdict, a short Markdown summary and a self-contained HTML page."""

import html
import math
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.core.metrics import Reliability, Scores
from tasks.params import Split

BASELINE = "majority_vote"
"""The method every other one is compared with."""

METHODS = {
    BASELINE: "Majority vote",
    "majority_vote_balance": "Majority vote, class balance where it is silent",
    "label_model_raw": "Label model, original votes",
    "majority_vote_extended": "Majority vote, extended votes",
    "label_model_extended": "Label model, extended votes",
    "epoxy": "Epoxy: FlyingSquid, extended votes",
    "liger": "Liger: Epoxy in partitions",
    "nearvote": "Nearvote: similarity as evidence",
    "end_model": "End model on nearvote",
    "gold_only": "Logistic regression on valid gold alone",
}
"""What methods are called in reports, in the order of their rows; others follow under a name made from their own."""

SHIPPED = "shipped"
"""The name of the shipped labels as a method, where no method of `predictions` has exactly their probabilities."""

UNDEFINED = "\N{EN DASH}"
TO = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"

_CURVES = 12
"""Threshold curves drawn, for the LFs that gained most votes: a page for people, not an archive."""

_FINE = 0.05
"""An axis that spans less than this shows tenths of a percent, or its ticks would repeat."""

_CONFUSION_CLASSES = 25
"""Up to so many classes the confusion matrix is drawn; beyond, nobody can read one, and the worst pairs are listed."""

_WORST_PAIRS = 20
"""Confusions listed where the matrix is not drawn."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic with its bootstrap interval; low and high are NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """One method on the gold of one split.

    to_baseline and to_shipped are paired differences in accuracy, this method minus majority vote or the shipped
    labels, over the same resamples.
    """

    method: str
    scores: Scores
    curve: Reliability
    accuracy: Estimate
    macro_f1: Estimate
    log_loss: Estimate
    brier: Estimate
    to_baseline: Estimate
    to_shipped: Estimate


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Items with gold that got their votes in one way: how many, and each method's accuracy (NaN without items)."""

    covered_by: str
    n: int
    accuracy: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """All methods, in the same order everywhere, on the `n` items of `split` that have gold."""

    split: Split
    n: int
    methods: tuple[MethodResult, ...]
    strata: tuple[Stratum, ...]

    def find(self, method: str) -> MethodResult:
        """The result of `method`."""
        return next(result for result in self.methods if result.method == method)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How many of n items have an original vote, an extended one only, or none."""

    name: str
    n: int
    original: int
    extended_only: int

    @property
    def uncovered(self) -> int:
        return self.n - self.original - self.extended_only


@dataclass(frozen=True, kw_only=True)
class NeighborAgreement:
    """How often labels of one kind are those of an item's neighbors: by rank, from 1, and of any two items."""

    labels: str
    n: int
    chance: float
    by_rank: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class EmbeddingFitness:
    """Whether the embedding can carry votes: sentences for people, and the figures behind them."""

    sentences: tuple[str, ...]
    rows: tuple[NeighborAgreement, ...]


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A line of "How it was made"."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything a report says.

    splits: those with gold, best evidence first (test, valid, train). coverage: all items, then each split. shipped:
    the method whose labels are shipped. confusion: int64 (k, k), shipped labels (columns) against the gold (rows) of
    the first split. lfs: one row per LF, the table of lf_report.csv. curves: the table of threshold_curves.csv, and
    curve_metric what its metric is called. fitness: what was seen before thresholds were chosen. findings: what the label model noticed, as sentences.
    """

    classes: tuple[str, ...]
    splits: tuple[SplitResult, ...]
    coverage: tuple[Coverage, ...]
    shipped: str
    confusion: npt.NDArray[np.int64] | None
    label_counts: tuple[int, ...]
    lfs: pl.DataFrame
    curves: pl.DataFrame
    curve_metric: str
    fitness: EmbeddingFitness
    facts: tuple[Fact, ...]
    findings: tuple[str, ...]
    resamples: int
    confidence: float


class Outcome(StrEnum):
    """How the shipped labels compare with majority vote."""

    BETTER = "better"
    UNCLEAR = "unclear"
    WORSE = "worse"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to "are these labels better than what was there for free?", in words with figures.

    beaten_by is the best other method, where its accuracy is clearly above that of the shipped labels.
    """

    outcome: Outcome
    beaten_by: str | None
    headline: str
    sentences: tuple[str, ...]


def name_method(method: str) -> str:
    """What reports call `method`."""
    if method == SHIPPED:
        return "Shipped labels"
    return METHODS.get(method, method.replace("_", " ").capitalize())


def order_methods(methods: list[str]) -> list[str]:
    """The methods in the order of METHODS, the others after them as they came."""
    known = [method for method in METHODS if method in methods]
    return known + [method for method in methods if method not in METHODS]


def judge(evaluation: Evaluation) -> Verdict:
    """The verdict on the best evidence there is: the shipped labels against majority vote, then against every row.

    "Better" and "worse" need an interval of the paired difference that leaves zero out; without intervals the answer
    stays open.
    """
    if not evaluation.splits:
        return Verdict(
            outcome=Outcome.UNKNOWN,
            beaten_by=None,
            headline="Nothing to compare with: no item has gold",
            sentences=("Whether these labels beat majority vote cannot be checked without some gold labels.",),
        )
    result = evaluation.splits[0]
    shipped, baseline = result.find(evaluation.shipped), result.find(BASELINE)
    difference = shipped.to_baseline
    outcome = _compare(difference)
    headline = {
        Outcome.BETTER: "Better than majority vote",
        Outcome.UNCLEAR: "No clear difference from majority vote",
        Outcome.WORSE: "Worse than majority vote",
    }[outcome]
    sentences = [
        f"On {result.split}, {_describe_shipped(evaluation)} are {format_gap(difference.value)} majority vote: "
        f"{format_share(shipped.accuracy.value)} against {format_share(baseline.accuracy.value)} of {result.n:,} items "
        f"right{_describe_interval(difference, evaluation)}."
    ]
    if evaluation.shipped == BASELINE:
        headline = "The shipped labels are majority vote"
        sentences = [
            f"On {result.split}, {format_share(shipped.accuracy.value)} of {result.n:,} items are right: "
            f"the label model that was chosen is majority vote."
        ]
    elif outcome is Outcome.WORSE:
        sentences.append("On this evidence, majority vote is the better choice for this task.")
    best = max(result.methods, key=lambda one: one.accuracy.value)
    beaten = _compare(best.to_shipped) is Outcome.BETTER
    if best.accuracy.value > shipped.accuracy.value and best.method != BASELINE:
        if beaten:
            headline += f"; the best row is {name_method(best.method)}"
        sentences.append(
            f"The best row is {name_method(best.method)} with {format_share(best.accuracy.value)}, "
            f"{format_gap(best.to_shipped.value)} the shipped labels{_describe_interval(best.to_shipped, evaluation)}"
            f"{'' if beaten or math.isnan(best.to_shipped.low) else ': no clear difference'}."
        )
    if result.split is not Split.TEST:
        sentences.append(_CAVEATS[result.split])
    return Verdict(
        outcome=outcome,
        beaten_by=best.method if beaten else None,
        headline=headline,
        sentences=tuple(sentences),
    )


_CAVEATS = {
    Split.VALID: "There is no test gold. Valid gold may have chosen thresholds and class balance, which flatters what "
    "was chosen with it; what learns from it is judged on parts of it held out.",
    Split.TRAIN: "There is no test gold; train gold was withheld from every stage, but its items lend votes to others.",
}


def _compare(difference: Estimate) -> Outcome:
    if difference.low > 0:
        return Outcome.BETTER
    return Outcome.WORSE if difference.high < 0 else Outcome.UNCLEAR


def _describe_shipped(evaluation: Evaluation) -> str:
    if evaluation.shipped == SHIPPED:
        return "the shipped labels"
    name = name_method(evaluation.shipped)
    return f"the shipped labels ({name[0].lower()}{name[1:]})"


def _describe_interval(difference: Estimate, evaluation: Evaluation) -> str:
    if math.isnan(difference.low):
        return "; without bootstrap intervals (evaluate.bootstrap: 0) this may be chance"
    return (
        f" ({format_share(evaluation.confidence, 0)} interval of the difference: "
        f"{format_points(difference.low)} to {format_points(difference.high)})"
    )


def format_share(value: float, digits: int = 1) -> str:
    """A share as a percentage with a no-break space, a dash where undefined.

    >>> format_share(0.9312).split(), format_share(float("nan"))
    (['93.1', '%'], '–')
    """
    return UNDEFINED if math.isnan(value) else f"{value * 100:.{digits}f}\N{NO-BREAK SPACE}%"


def format_points(value: float) -> str:
    """A difference of shares in signed percentage points, a dash where undefined.

    >>> format_points(0.0312), format_points(-0.004), format_points(-0.0001)
    ('+3.1', '−0.4', '0.0')
    """
    if math.isnan(value):
        return UNDEFINED
    points = round(value * 100, 1)
    return "0.0" if points == 0 else f"{'+' if points > 0 else MINUS}{abs(points):.1f}"


def format_gap(value: float) -> str:
    """A difference of shares in words, to be followed by what it is compared with.

    >>> format_gap(0.031), format_gap(-0.002), format_gap(0.0)
    ('3.1 points above', '0.2 points below', 'level with')
    """
    points = round(value * 100, 1)
    if points == 0:
        return "level with"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"


def format_number(value: float, digits: int = 3) -> str:
    """A number with fixed digits, a dash where undefined."""
    return UNDEFINED if value is None or math.isnan(value) else f"{value:.{digits}f}"


def render_summary(evaluation: Evaluation) -> str:
    """The verdict, the methods side by side and the effect on coverage, as Markdown."""
    verdict = judge(evaluation)
    lines = [f"## {_escape(verdict.headline)}", "", _escape(" ".join(verdict.sentences)), ""]
    for result in evaluation.splits[:1]:
        lines += [
            f"Accuracy on {result.split}, {result.n:,} items with gold"
            + (f", with {format_share(evaluation.confidence, 0)} bootstrap intervals" if evaluation.resamples else "")
            + ":",
            "",
            "| method | accuracy | against majority vote | macro-F1 | log loss |",
            "|---|---|---|---|---|",
        ]
        for row in result.methods:
            mark = " **(shipped)**" if row.method == evaluation.shipped else ""
            lines.append(
                f"| {_escape(name_method(row.method))}{mark} | {format_estimate(row.accuracy)} | {_difference(row)} "
                f"| {format_number(row.macro_f1.value)} | {format_number(row.log_loss.value)} |"
            )
        lines.append("")
    whole = evaluation.coverage[0]
    lines += [
        f"{describe_coverage(whole)} {whole.uncovered:,} items have no vote at all.",
        "",
    ]
    return "\n".join(lines)


def describe_coverage(coverage: Coverage) -> str:
    """What extension did to the share of items with a vote, as a sentence."""
    before, after = coverage.original / coverage.n, (coverage.n - coverage.uncovered) / coverage.n
    if coverage.extended_only == 0:
        return f"{format_share(before)} of {coverage.n:,} items have a vote; extension reached no further item."
    return (
        f"Extension raises the share of items with a vote from {format_share(before)} to {format_share(after)} "
        f"of {coverage.n:,}."
    )


def format_estimate(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return format_share(estimate.value)
    return f"{format_share(estimate.value)} ({estimate.low * 100:.1f}{TO}{estimate.high * 100:.1f})"


def _difference(row: MethodResult) -> str:
    if row.method == BASELINE:
        return ""
    if math.isnan(row.to_baseline.low):
        return format_points(row.to_baseline.value)
    return (
        f"{format_points(row.to_baseline.value)} "
        f"({format_points(row.to_baseline.low)} to {format_points(row.to_baseline.high)})"
    )


def _escape(text: str) -> str:
    """`text` with Markdown's table and HTML characters made harmless."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(text, quote=False))


# The page.

_COLORS = {"ink": "#23272e", "muted": "#6b7280", "grid": "#e3e5e8", "accent": "#1f6feb", "second": "#b4690e"}
"""Colors of plots on white; the page's style sheet maps each to its dark counterpart, so no other may be used."""

_FONT = "sans-serif"

_PADDING = {"left": 42, "top": 8, "right": 16, "bottom": 38}
"""Fixed, since automatic margins depend on the fonts of the machine."""

_SPLIT_NOTES = {
    Split.TEST: "Gold that no other stage reads.",
    Split.VALID: "Gold that may have chosen thresholds and class balance: flattering for what was chosen with it. "
    "Nearvote, the end model and the regression on gold are judged on parts of it held out.",
    Split.TRAIN: "Gold that no other stage reads, on items whose votes are lent to their neighbors.",
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The range of accuracies that a table's interval bars span."""

    low: float
    high: float

    def place(self, value: float) -> str:
        """Where `value` is, as a CSS length from the left."""
        share = (value - self.low) / (self.high - self.low)
        return f"{min(max(share, 0.0), 1.0) * 100:.2f}%"

    def span(self, low: float, high: float) -> str:
        """How wide the range from `low` to `high` is, as a CSS length."""
        return f"{(high - low) / (self.high - self.low) * 100:.2f}%"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plot of the page: a title and a note of plain text, and an SVG."""

    title: str
    note: str
    svg: Markup


def render_page(evaluation: Evaluation) -> str:
    """The whole report as one HTML page that needs nothing else: no network, no script, no font, no image file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "share": format_share,
        "points": format_points,
        "number": format_number,
        "method": name_method,
        "count": lambda value: f"{value:,}",
    }
    k = len(evaluation.classes)
    gold_splits = [result.split for result in evaluation.splits]
    return environment.get_template("report.html.jinja").render(
        evaluation=evaluation,
        verdict=judge(evaluation),
        baseline=BASELINE,
        coverage_sentence=describe_coverage(evaluation.coverage[0]),
        first=evaluation.splits[0] if evaluation.splits else None,
        scales={result.split: _choose_scale(result) for result in evaluation.splits},
        split_notes=_SPLIT_NOTES,
        reliability=[_draw_reliability(row) for row in evaluation.splits[0].methods] if evaluation.splits else [],
        matrix=_shade(evaluation.confusion) if evaluation.confusion is not None and k <= _CONFUSION_CLASSES else None,
        worst_pairs=_list_worst_pairs(evaluation) if k > _CONFUSION_CLASSES else [],
        curves=draw_curves(evaluation),
        lf_splits=[split for split in (Split.VALID, Split.TEST) if split in gold_splits] or gold_splits,
        lfs=evaluation.lfs.to_dicts(),
    )


def _choose_scale(result: SplitResult) -> Scale:
    """A range of whole steps of five points that holds every accuracy and interval of the table."""
    ends = np.array([[row.accuracy.value, row.accuracy.low, row.accuracy.high] for row in result.methods])
    low, high = np.floor(np.nanmin(ends) * 20) / 20, np.ceil(np.nanmax(ends) * 20) / 20
    return Scale(low=float(low), high=float(max(high, low + 0.05)))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of the confusion matrix: its count and its share of the row."""

    count: int
    share: float


def _shade(confusion: npt.NDArray[np.int64]) -> list[list[Cell]]:
    rows = confusion.sum(axis=1)
    return [
        [
            Cell(count=int(count), share=round(float(count / rows[row]), 3) if rows[row] else 0.0)
            for count in confusion[row]
        ]
        for row in range(len(confusion))
    ]


def _list_worst_pairs(evaluation: Evaluation) -> list[tuple[str, str, int]]:
    """Gold class, label and count of the most frequent confusions."""
    if evaluation.confusion is None:
        return []
    errors = evaluation.confusion.copy()
    np.fill_diagonal(errors, 0)
    k = len(errors)
    order = np.argsort(-errors.ravel(), kind="stable")[:_WORST_PAIRS]
    return [
        (evaluation.classes[pair // k], evaluation.classes[pair % k], int(errors.flat[pair]))
        for pair in order.tolist()
        if errors.flat[pair]
    ]


def _draw_reliability(row: MethodResult) -> Figure:
    """Confidence against accuracy of one method; the area of a point is its bin's share of the items."""
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
    y = {"field": "accuracy", "type": "quantitative", "scale": {"domain": [0, 1]}, "axis": _percent_axis(None)}
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
        svg=_draw({"width": 180, "height": 180, "layer": layers}),
    )


def _percent_axis(title: str | None) -> dict[str, Any]:
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
    # HTML needs no namespaces; without them the page holds no address at all.
    return Markup(re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg, count=2))


def draw_curves(evaluation: Evaluation) -> list[Figure]:
    """What thresholds were chosen for, and coverage, against the threshold, for the LFs that gained most votes."""
    drawable = evaluation.curves.drop_nulls("threshold").sort("lf", "threshold", maintain_order=True)
    by_lf = {lf: rows for (lf,), rows in drawable.group_by("lf", maintain_order=True) if rows.height > 1}
    gained = evaluation.lfs.sort("votes_added", descending=True, maintain_order=True).select("lf", "threshold")
    chosen = [(lf, threshold) for lf, threshold in gained.iter_rows() if lf in by_lf][:_CURVES]
    ends = [value for lf, _ in chosen for value in by_lf[lf]["metric"].drop_nulls().to_list()]
    return [
        Figure(
            title=lf,
            note="not extended" if threshold is None else f"threshold {format_number(threshold)}",
            # One scale for all LFs, or a curve of tiny changes would look like the one that matters.
            svg=(_draw_curve(by_lf[lf], "metric", threshold, [min(ends), max(ends)], 80) if ends else Markup())
            + _draw_curve(by_lf[lf], "coverage", threshold, [0, 1], 50),
        )
        for lf, threshold in chosen
    ]


def _draw_curve(rows: pl.DataFrame, field: str, chosen: float | None, domain: list[Any], height: int) -> Markup:
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
