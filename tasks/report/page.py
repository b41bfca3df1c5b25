"""The report as one self-contained HTML page."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.params import Split
from tasks.report.charts import choose_scale, draw_curves, draw_described, draw_pairs, draw_reliability
from tasks.report.evaluation import BASELINE, Evaluation, name_method
from tasks.report.formatting import format_number, format_points, format_share
from tasks.report.origin import WHERE_SHOWN
from tasks.report.pictures import draw_square
from tasks.report.summary import describe_coverage
from tasks.report.verdict import judge

_CONFUSION_CLASSES = 25
"""Most classes for which the confusion matrix is drawn; a larger one is unreadable, so the worst pairs are listed."""

_WORST_PAIRS = 20
"""The number of confusions listed instead of a matrix."""

_POLARITY = 5
"""Classes of an LF that are named."""

_VALUE = 100
"""Characters that are shown of a value that is no text."""

_FOLDER = Path(__file__).parent

_SPLIT_NOTES = {
    Split.TEST: "Gold that no other stage reads.",
    Split.VALID: "Gold that may have chosen thresholds and class balance: flattering for what was chosen with it. "
    "Nearvote, the end model and the regression on gold are judged on parts of it held out.",
    Split.TRAIN: "Gold that no other stage reads, on items whose votes are lent to their neighbors.",
}


def render_page(evaluation: Evaluation) -> str:
    """The report as a self-contained HTML page, which needs no network, script, font or image file."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "share": format_share,
        "points": format_points,
        "number": format_number,
        "method": name_method,
        "count": lambda value: f"{value:,}",
        "polarity": _describe_polarity,
        "content": _show_content,
    }
    k = len(evaluation.classes)
    gold_splits = [result.split for result in evaluation.splits]
    first = evaluation.splits[0] if evaluation.splits else None
    shown = [row for row in first.methods if row.method in (evaluation.shipped, BASELINE)] if first else []
    curves = draw_curves(evaluation)
    described = draw_described(evaluation.described)
    pairs = draw_pairs(evaluation.pairs) if evaluation.pairs else []
    contents = [
        ("methods", "Methods", first), ("certified", "Certified labels", True), ("coverage", "Coverage", True), ("lfs", "Labeling functions", True),
        ("pairs", "Against each other", pairs), ("described", "By what classes mean", described),
        ("thresholds", "Thresholds", curves),
        ("examples", "Items to look at", evaluation.examples), ("origins", "Where votes came from", first),
        ("calibration", "Calibration", first), ("classes", "Classes", first), ("balance", "Class balance", True),
        ("neighbors", "What neighbors tell", True), ("made", "How it was made", True),
    ]  # fmt: skip
    return environment.get_template("report.html.jinja").render(
        evaluation=evaluation,
        verdict=judge(evaluation),
        baseline=BASELINE,
        coverage_sentence=describe_coverage(evaluation.coverage[0]),
        first=first,
        where_shown=Markup(WHERE_SHOWN),  # noqa: S704, a constant
        contents=[(id, title) for id, title, is_there in contents if is_there],
        scales={result.split: choose_scale(result) for result in evaluation.splits},
        split_notes=_SPLIT_NOTES,
        reliability=[draw_reliability(row) for row in shown],
        more_reliability=[draw_reliability(row) for row in first.methods if row not in shown] if first else [],
        pairs=pairs,
        extended=evaluation.lfs["threshold"].count(),
        script=Markup((_FOLDER / "report.js").read_text(encoding="utf-8")),  # noqa: S704, a file of the program
        matrix=_shade(evaluation.confusion) if evaluation.confusion is not None and k <= _CONFUSION_CLASSES else None,
        worst_pairs=_list_worst_pairs(evaluation) if k > _CONFUSION_CLASSES else [],
        curves=curves,
        described=described,
        lf_splits=[split for split in (Split.VALID, Split.TEST) if split in gold_splits] or gold_splits,
        lfs=evaluation.lfs.to_dicts(),
        harm=evaluation.harm,
    )


def _describe_polarity(polarity: str) -> str:
    """The classes an LF votes for; many are counted."""
    names = polarity.split("|")
    return ", ".join(names[:_POLARITY]) + (f" and {len(names) - _POLARITY} more" if len(names) > _POLARITY else "")


def _show_content(value: object, name: str) -> Markup:
    """A column of an item as markup: text, a picture of a square of numbers, or another value by its name."""
    picture = draw_square(value)
    if picture is not None:
        return Markup(picture)  # noqa: S704, made of numbers
    if isinstance(value, str):
        return Markup('<p dir="auto">{}</p>').format(value)
    text = repr(value)
    return Markup("<p><small>{}: {}</small></p>").format(name, text if len(text) <= _VALUE else f"{text[:_VALUE]} …")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of the confusion matrix: its count and its share of the row."""

    count: int
    share: float


def _shade(confusion: npt.NDArray[np.int64]) -> list[list[Entry]]:
    """The entries of the matrix, row by row."""
    rows = confusion.sum(axis=1)
    return [
        [
            Entry(count=int(count), share=round(float(count / rows[row]), 3) if rows[row] else 0.0)
            for count in confusion[row]
        ]
        for row in range(len(confusion))
    ]


def _list_worst_pairs(evaluation: Evaluation) -> list[tuple[str, str, int]]:
    """Gold class, label and count of the most frequent confusions, most frequent first."""
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
