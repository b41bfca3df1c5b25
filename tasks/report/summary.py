"""The report's summary in Markdown."""

import html
import math
import re

from tasks.report.evaluation import BASELINE, Coverage, Evaluation, MethodResult, name_method
from tasks.report.formatting import format_estimate, format_number, format_points, format_share
from tasks.report.verdict import judge


def render_summary(evaluation: Evaluation) -> str:
    """The verdict, a comparison of the methods and the effect on coverage, as Markdown."""
    verdict = judge(evaluation)
    lines = [f"## {escape_markdown(verdict.headline)}", "", escape_markdown(" ".join(verdict.sentences)), ""]
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
                f"| {escape_markdown(name_method(row.method))}{mark} | {format_estimate(row.accuracy)} | {_difference(row)} "
                f"| {format_number(row.macro_f1.value)} | {format_number(row.log_loss.value)} |"
            )
        lines.append("")
    whole = evaluation.coverage[0]
    lines += [
        f"{describe_coverage(whole)} {whole.uncovered:,} items have no vote at all.",
        "",
        escape_markdown(evaluation.certified.sentence),
        "",
        *([escape_markdown(evaluation.alternative), ""] if evaluation.alternative else []),
        *([escape_markdown(evaluation.left_out), ""] if evaluation.left_out else []),
        *([escape_markdown(evaluation.harm), ""] if evaluation.harm else []),
        *(
            [escape_markdown(f"Embeddings, by weight: {evaluation.fitness.blocks}."), ""]
            if evaluation.fitness.blocks
            else []
        ),
    ]
    return "\n".join(lines)


def describe_coverage(coverage: Coverage) -> str:
    """A sentence on how extension changed the share of items with a vote."""
    before, after = coverage.original / coverage.n, (coverage.n - coverage.uncovered) / coverage.n
    if coverage.extended_only == 0:
        return f"{format_share(before)} of {coverage.n:,} items have a vote; extension reached no further item."
    return (
        f"Extension raises the share of items with a vote from {format_share(before)} to {format_share(after)} "
        f"of {coverage.n:,}."
    )


def _difference(row: MethodResult) -> str:
    """The difference from majority vote with its interval; empty for majority vote itself."""
    if row.method == BASELINE:
        return ""
    if math.isnan(row.to_baseline.low):
        return format_points(row.to_baseline.value)
    return (
        f"{format_points(row.to_baseline.value)} "
        f"({format_points(row.to_baseline.low)} to {format_points(row.to_baseline.high)})"
    )


def escape_markdown(text: str) -> str:
    """`text` with the characters escaped that mean something in Markdown tables or HTML."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(text, quote=False))
