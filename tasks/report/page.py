"""The report as one self-contained HTML page."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.params import Split
from tasks.report.charts import choose_scale, draw_curves, draw_reliability
from tasks.report.evaluation import BASELINE, Evaluation, name_method
from tasks.report.formatting import format_number, format_points, format_share
from tasks.report.summary import describe_coverage
from tasks.report.verdict import judge

_CONFUSION_CLASSES = 25
"""Most classes for which the confusion matrix is drawn; a larger one is unreadable, so the worst pairs are listed."""

_WORST_PAIRS = 20
"""The number of confusions listed instead of a matrix."""

_SPLIT_NOTES = {
    Split.TEST: "Gold that no other stage reads.",
    Split.VALID: "Gold that may have chosen thresholds and class balance: flattering for what was chosen with it. "
    "Nearvote, the end model and the regression on gold are judged on parts of it held out.",
    Split.TRAIN: "Gold that no other stage reads, on items whose votes are lent to their neighbors.",
}


def render_page(evaluation: Evaluation) -> str:
    """The report as a self-contained HTML page, which needs no network, script, font or image file."""
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
        scales={result.split: choose_scale(result) for result in evaluation.splits},
        split_notes=_SPLIT_NOTES,
        reliability=[draw_reliability(row) for row in evaluation.splits[0].methods] if evaluation.splits else [],
        matrix=_shade(evaluation.confusion) if evaluation.confusion is not None and k <= _CONFUSION_CLASSES else None,
        worst_pairs=_list_worst_pairs(evaluation) if k > _CONFUSION_CLASSES else [],
        curves=draw_curves(evaluation),
        lf_splits=[split for split in (Split.VALID, Split.TEST) if split in gold_splits] or gold_splits,
        lfs=evaluation.lfs.to_dicts(),
    )


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
