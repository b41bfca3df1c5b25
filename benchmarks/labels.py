"""`python -m benchmarks labels`: fitting and predicting FlyingSquid's closed form, against the flyingsquid package.

LFs vote at random on --coverage of the items and are right on .8 of these. Seconds are those of processors, all threads
together, the best of --repeats; memory is what fitting and predicting took beyond the votes. The package is fitted on
--sample rows, predicts these, and is extrapolated to all.

Then the tuning of thresholds, on --tune items with gold for all and an offer wherever an LF abstains: how many settings, a
threshold of one LF (or the same of all) beside those of the others, are judged on all items in a second.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pgmpy.models

from tasks.core.label_models.triplets import fit_flyingsquid
from tasks.core.offers import JudgedItems
from tasks.core.thresholds import Fit, fit_global, fit_per_lf, propose_thresholds

_MOST_FOR_PACKAGE = 20
"""LFs up to which the package is asked: its cost grows with their third power."""

_CANDIDATES = 20
"""Thresholds that are tried, beside "do not extend", as in params.yaml."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of the table; `package_seconds` and `ratio`, of predicting, are None where the package was not asked."""

    n: int
    m: int
    coverage: float
    fit_seconds: float
    predict_seconds: float
    memory_mib: float
    package_seconds: float | None
    ratio: float | None


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Settings judged per second, by the clock."""

    n: int
    m: int
    per_lf: float
    """By coordinate ascent, LF by LF."""
    one_for_all: float


def main(arguments: list[str]) -> int:
    """0 after printing the table and, with --json, writing the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks labels", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--sizes", nargs="+", default=["1000000x10", "100000x300"], help="items x LFs")
    parser.add_argument("--tune", default="20000x10", help="items x LFs whose thresholds are tuned")
    parser.add_argument("--coverage", type=float, default=0.05, help="share of items an LF votes on (default .05)")
    parser.add_argument("--sample", type=int, default=5_000, help="rows the package is asked about (default 5,000)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the best counts (default 3)")
    parser.add_argument("--json", type=Path, default=None, help="file for the results")
    chosen = parser.parse_args(arguments)
    results = []
    print(f"{'n':>10} {'LFs':>4} {'fit s':>6} {'predict s':>9} {'MiB':>6} {'package / ours':>15}")
    for size in chosen.sizes:
        n, m = map(int, size.split("x"))
        # A process of its own, whose peak memory is that of this size alone.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            result = pool.apply(measure, (n, m, chosen.coverage, chosen.sample, chosen.repeats))
        results.append(asdict(result))
        ratio = "" if result.ratio is None else f"{result.ratio:.0f}"
        print(
            f"{n:10,} {m:4} {result.fit_seconds:6.2f} {result.predict_seconds:9.2f} {result.memory_mib:6.0f} {ratio:>15}",
            flush=True,
        )
    n, m = map(int, chosen.tune.split("x"))
    tuning = measure_tuning(n, m, chosen.coverage, chosen.repeats)
    print(
        f"tuning, {tuning.n:,} items, {tuning.m} LFs: {tuning.per_lf:,.0f} settings a second LF by LF, "
        f"{tuning.one_for_all:,.0f} with one threshold for all"
    )
    if chosen.json:
        chosen.json.write_text(json.dumps({"models": results, "tuning": asdict(tuning)}, indent=2) + "\n")
    return 0


def measure(n: int, m: int, coverage: float, sample: int, repeats: int) -> Result:
    """What `m` LFs on `n` items cost."""
    votes = draw_votes(n, m, coverage)
    balance = np.array([0.5, 0.5])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fits, predictions = [], []
    for _ in range(repeats):
        began = time.process_time()
        model = fit_flyingsquid(votes, balance)
        fitted = time.process_time()
        model.predict_proba(votes)
        fits.append(fitted - began)
        predictions.append(time.process_time() - fitted)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    package = None
    if m <= _MOST_FOR_PACKAGE:
        package = _time_package(votes[:sample], balance) * n / min(sample, n)
    return Result(
        n=n,
        m=m,
        coverage=coverage,
        fit_seconds=min(fits),
        predict_seconds=min(predictions),
        memory_mib=memory,
        package_seconds=package,
        ratio=None if package is None else package / min(predictions),
    )


def measure_tuning(n: int, m: int, coverage: float, repeats: int) -> Tuning:
    """How fast thresholds of `m` LFs are tuned on `n` items."""
    votes, rng = draw_votes(n, m, coverage), np.random.default_rng(1)
    offers = rng.integers(0, 2, (n, m)).astype(np.int8)
    judged = JudgedItems(
        L=votes,
        vote=np.where(votes < 0, offers, np.int8(-1)),
        similarity=np.where(votes < 0, rng.random((n, m), dtype=np.float32), np.float32(np.nan)),
        gold=rng.integers(0, 2, n).astype(np.int8),
        weight=np.ones(n),
        k=2,
        objective="accuracy",
    )
    candidates = [propose_thresholds(judged.similarity, _CANDIDATES)] * m

    def count(fit: Fit) -> float:
        best = 0.0
        for _ in range(repeats):
            steps: list[int] = []
            began = time.perf_counter()
            fit(judged, np.ones((1, n), bool), candidates, np.full(m, np.inf), np.ones(m, bool), steps.append)
            seconds = time.perf_counter() - began
            # LF by LF a step is a visit to one LF; the last only says that all is done.
            visits = len(steps) - 1 if fit is fit_per_lf else 1
            best = max(best, visits * len(candidates[0]) / seconds)
        return best

    return Tuning(n=n, m=m, per_lf=count(fit_per_lf), one_for_all=count(fit_global))


def draw_votes(n: int, m: int, coverage: float) -> npt.NDArray[np.int8]:
    """Votes (n, m) for two classes, -1 abstains."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, n).astype(np.int8)
    votes = np.full((n, m), -1, np.int8)
    for lf in range(m):
        cast = rng.random(n) < coverage
        votes[cast, lf] = np.where(rng.random(cast.sum()) < 0.8, truth[cast], 1 - truth[cast])
    return votes


def _time_package(votes: npt.NDArray[np.int8], balance: npt.NDArray[np.float64]) -> float:
    """Processor seconds in which the package predicts `votes`."""
    if not hasattr(pgmpy.models, "MarkovModel"):  # what the package calls what pgmpy has since renamed
        pgmpy.models.MarkovModel = pgmpy.models.DiscreteMarkovNetwork
    from flyingsquid.label_model import LabelModel

    signs = np.where(votes < 0, 0, 2 * votes.astype(np.int64) - 1)
    model = LabelModel(votes.shape[1])
    model.fit(signs, class_balance=balance)
    began = time.process_time()
    model.predict_proba(signs)
    return time.process_time() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
