"""`python -m benchmarks certify FOLDER`: whether certified labels are as good as they claim, and how many there are.

Tasks are those of `python -m benchmarks quality`. Each draw deals the items of valid and test that have gold anew: so many
rows are the gold of valid, the labels are fitted with it and certified as train does, and the other rows judge. With
`--judges-alone` gold teaches nothing (`train.gold: none`), so that the same labels are certified in every draw, and draws cost
next to nothing. Test gold is read here, to simulate and to judge.
"""

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.few_gold import Task, fit_draw, open_task
from benchmarks.real_tasks import find_tasks
from tasks import train
from tasks.core.certificate import find_certified
from tasks.core.classifiers.student import Student
from tasks.core.ties import pick_labels
from tasks.core.types import GoldRows, Int64
from tasks.params import CertifyParams
from tasks.tables.files import write_json


@dataclass(frozen=True, kw_only=True)
class Result:
    """Draw by draw: the error rate of all labels, and share and error rate of certified ones (0 and 0 where there are none)."""

    task: str
    gold_rows: int
    error: list[float]
    share: list[float]
    certified_error: list[float]


def main(arguments: list[str]) -> int:
    """Print the table and, with --json, write all draws; 1 if certified labels err more than they may, 2 without a task."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks certify", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder with one folder per task")
    parser.add_argument(
        "--gold", nargs="+", type=int, default=[100, 100_000], help="gold rows, at most as many as valid has"
    )
    parser.add_argument("--draws", type=int, default=200, help="draws of gold rows (default 200)")
    parser.add_argument(
        "--error-rate", type=float, default=CertifyParams().error_rate, help="of certified labels at most"
    )
    parser.add_argument("--confidence", type=float, default=CertifyParams().confidence)
    parser.add_argument("--judges-alone", action="store_true", help="gold certifies labels that are fitted without it")
    parser.add_argument("--tasks", nargs="+", default=None, help="names of tasks; all by default")
    parser.add_argument("--json", type=Path, default=None, help="file for all draws")
    chosen = parser.parse_args(arguments)
    params = CertifyParams(error_rate=chosen.error_rate, confidence=chosen.confidence)
    paths = find_tasks(chosen.folder, chosen.tasks)
    if not paths:
        return 2
    results = []
    for path in paths:
        results += measure_task(path, chosen.gold, chosen.draws, params, judges_alone=chosen.judges_alone)
        if chosen.json:
            write_json(chosen.json, [asdict(result) for result in results])
        print(f"{path.name}: done", file=sys.stderr, flush=True)
    print(format_table(results, params))
    return 1 if any(fmean(result.certified_error) > params.error_rate for result in results) else 0


def measure_task(
    path: Path, amounts: list[int], draws: int, params: CertifyParams, *, judges_alone: bool
) -> list[Result]:
    """Return the results of the task at `path` by number of gold rows; as many as valid has, where fewer than asked for."""
    results = []
    with open_task(path) as task:
        gold = task.inputs.gold
        rows = np.r_[gold.rows, task.tests] if gold else task.tests
        classes = np.r_[gold.classes, task.test_gold] if gold else task.test_gold
        students: dict[bytes, Student] = {}
        untaught = fit_draw(task, None, students) if judges_alone else None
        there = 0 if gold is None else len(gold.rows)
        for amount in dict.fromkeys(min(amount, there) for amount in amounts):
            found = [
                _measure_draw(task, rows, classes, amount, seed, params, students, untaught) for seed in range(draws)
            ]
            error, share, certified = (list(column) for column in zip(*found, strict=True))
            results.append(
                Result(task=path.name, gold_rows=amount, error=error, share=share, certified_error=certified)
            )
    return results


def _measure_draw(
    task: Task,
    rows: Int64,
    classes: Int64,
    amount: int,
    seed: int,
    params: CertifyParams,
    students: dict[bytes, Student],
    untaught: train.FittedLabels | None,
) -> tuple[float, float, float]:
    """Return the error rate of all labels, the share of certified ones, and their error rate, on rows that are not drawn.

    untaught: the labels, where gold does not teach them.
    """
    drawn = np.zeros(len(rows), dtype=np.bool_)
    drawn[np.random.default_rng(seed).permutation(len(rows))[:amount]] = True
    order = np.argsort(rows[drawn])
    gold = GoldRows(rows=rows[drawn][order], classes=classes[drawn][order])
    fitted = fit_draw(task, gold, students) if untaught is None else untaught
    certificate = train.certify_labels(fitted, gold, params)
    posterior = fitted.posterior[rows[~drawn]]
    is_wrong = pick_labels(posterior, fitted.balance) != classes[~drawn]
    certified = find_certified(posterior, certificate.threshold)
    error = float(is_wrong[certified].mean()) if certified.any() else 0.0
    return float(is_wrong.mean()), float(certified.mean()), error


def format_table(results: list[Result], params: CertifyParams) -> str:
    """Return a row per task and number of gold rows: error of all labels, certified share, error there, how often it is too high."""
    lines = [
        "| task | gold rows | draws | error of all labels | draws with a set | certified share | error there "
        f"| of draws with a set alone | draws above {params.error_rate:g} |",
        "|---" * 9 + "|",
    ]
    for result in results:
        errors = [error for error, share in zip(result.certified_error, result.share, strict=True) if share > 0]
        above = sum(error > params.error_rate for error in errors)
        lines.append(
            f"| {result.task} | {result.gold_rows:,} | {len(result.share)} | {fmean(result.error):.3f} "
            f"| {len(errors) / len(result.share):.2f} | {fmean(result.share):.3f} | {fmean(result.certified_error):.3f} "
            f"| {f'{fmean(errors):.3f}' if errors else ''} | {above / len(result.share):.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
