"""The verdict in words: whether the shipped labels beat majority vote and every other method."""

import math
from dataclasses import dataclass
from enum import StrEnum

from tasks.params import Split
from tasks.report.evaluation import BASELINE, SHIPPED, Estimate, Evaluation, name_method
from tasks.report.formatting import format_gap, format_points, format_share

_CAVEATS = {
    Split.VALID: "There is no test gold. Valid gold may have chosen thresholds and class balance, which flatters what "
    "was chosen with it; what learns from it is judged on parts of it held out.",
    Split.TRAIN: "There is no test gold; train gold was withheld from every stage, but its items lend votes to others.",
}


class Outcome(StrEnum):
    """How the shipped labels compare with majority vote."""

    BETTER = "better"
    UNCLEAR = "unclear"
    WORSE = "worse"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the shipped labels beat majority vote and the other methods, in words with figures.

    beaten_by: the best other method, if its accuracy is clearly above that of the shipped labels, else None.
    """

    outcome: Outcome
    beaten_by: str | None
    headline: str
    sentences: tuple[str, ...]


def judge(evaluation: Evaluation) -> Verdict:
    """The verdict on the best evidence available: the shipped labels against majority vote, then against all methods.

    "Better" and "worse" require that the interval of the paired difference excludes zero; without intervals the outcome
    is unclear.
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
    best = max(result.methods, key=lambda row: row.accuracy.value)
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


def _compare(difference: Estimate) -> Outcome:
    """The outcome that the interval of a difference in accuracy supports."""
    if difference.low > 0:
        return Outcome.BETTER
    return Outcome.WORSE if difference.high < 0 else Outcome.UNCLEAR


def _describe_shipped(evaluation: Evaluation) -> str:
    """The shipped labels, as the subject of a sentence."""
    if evaluation.shipped == SHIPPED:
        return "the shipped labels"
    name = name_method(evaluation.shipped)
    return f"the shipped labels ({name[0].lower()}{name[1:]})"


def _describe_interval(difference: Estimate, evaluation: Evaluation) -> str:
    """The interval of a difference, as the end of a clause."""
    if math.isnan(difference.low):
        return "; without bootstrap intervals (evaluate.bootstrap: 0) this may be chance"
    return (
        f" ({format_share(evaluation.confidence, 0)} interval of the difference: "
        f"{format_points(difference.low)} to {format_points(difference.high)})"
    )
