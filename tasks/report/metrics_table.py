"""metrics.json: scores by split, method and metric, for `dvc metrics`."""

from typing import Any

from tasks.report.evaluation import Evaluation
from tasks.report.rounding import round_number


def tabulate_metrics(evaluation: Evaluation) -> dict[str, Any]:
    """Scores for `dvc metrics`, nested by split, method and metric; None where undefined.

    Intervals are in plots/scores.csv: here they would double the output of `dvc metrics diff`.
    """
    table: dict[str, Any] = {}
    for coverage in evaluation.coverage:
        table[coverage.name] = {
            "items": coverage.n,
            "coverage": {
                "original": round_number(coverage.original / coverage.n),
                "extended": round_number((coverage.original + coverage.extended_only) / coverage.n),
            },
        }
    for result in evaluation.splits:
        table[str(result.split)] |= {"gold": result.n} | {
            row.method: {
                "accuracy": round_number(row.accuracy.value),
                "against_majority_vote": round_number(row.to_baseline.value),
                "macro_f1": round_number(row.macro_f1.value),
                "log_loss": round_number(row.log_loss.value),
                "brier": round_number(row.brier.value),
                "calibration_error": round_number(row.scores.calibration_error),
            }
            for row in result.methods
        }
    return table
