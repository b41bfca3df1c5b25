"""The results of evaluate, from which page, summary, metrics and plots are made."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.metrics import Reliability, Scores
from tasks.params import Split

BASELINE = "majority_vote"
"""The method with which all others are compared."""

METHODS = {
    BASELINE: "Majority vote",
    "majority_vote_balance": "Majority vote, class balance where it is silent",
    "label_model_raw": "Label model, original votes",
    "dawid_skene": "Dawid-Skene, original votes",
    "generative": "Generative label model as in Snorkel, original votes",
    "majority_vote_extended": "Majority vote, extended votes",
    "label_model_extended": "Label model, extended votes",
    "epoxy": "Epoxy: FlyingSquid, extended votes",
    "liger": "Liger: Epoxy in partitions",
    "nearvote": "Nearvote: similarity as evidence",
    "end_model": "End model on nearvote",
    "gold_only": "Logistic regression on valid gold alone",
}
"""Names of methods in reports, in the order of their rows; a method that is not listed comes last, under its key."""

SHIPPED = "shipped"
"""The method key of the shipped labels if no method in predictions.parquet has exactly their probabilities."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic with its bootstrap interval; low and high are NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """A method's results on the gold of a split.

    to_baseline, to_shipped: paired differences in accuracy over the same resamples, this method minus majority vote or
    minus the shipped labels.
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
    """Items with gold whose votes are of one kind: their number, and each method's accuracy (NaN without items)."""

    covered_by: str
    n: int
    accuracy: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """The results of all methods, in the same order everywhere, on the `n` items of `split` with gold."""

    split: Split
    n: int
    methods: tuple[MethodResult, ...]
    strata: tuple[Stratum, ...]

    def find(self, method: str) -> MethodResult:
        """The result of `method`."""
        return next(result for result in self.methods if result.method == method)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How many of n items have an original vote, only extended votes, or no vote."""

    name: str
    n: int
    original: int
    extended_only: int

    @property
    def uncovered(self) -> int:
        """The number of items without a vote."""
        return self.n - self.original - self.extended_only


@dataclass(frozen=True, kw_only=True)
class NeighborAgreement:
    """How often an item shares its label with its neighbor, by the neighbor's rank (from 1), and with a random item."""

    labels: str
    n: int
    chance: float
    by_rank: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class EmbeddingFitness:
    """Whether the embedding can carry votes: sentences, and their figures; `blocks` are its parts and their weights, if any."""

    sentences: tuple[str, ...]
    rows: tuple[NeighborAgreement, ...]
    blocks: str | None = None


@dataclass(frozen=True, kw_only=True)
class Certified:
    """Which labels are certified, as a sentence, and by label what share of them (NaN for a class that none is of)."""

    sentence: str
    share_by_class: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DescribedClass:
    """How far down a class votes by its descriptions: its votes, the share of its items that is voted on, and by tenth of them,
    those with the widest margin first, the agreement (NaN where nothing is known) with `evidence`.
    """

    name: str
    votes: int
    share: float
    agreement: tuple[float, ...]
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A line in the report's section "How it was made"."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Balance:
    """A class balance: what it is of or from, and the share of each class, in the order of classes."""

    name: str
    source: str
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LFPairs:
    """Pairs among some LFs: correlation (m, m) of their votes, conflicts (m, m) as shares of the votes of that with fewer.

    NaN where two have no common item (conflicts) or one has no vote (correlation).
    """

    lfs: tuple[str, ...]
    correlation: npt.NDArray[np.float64]
    conflicts: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Example:
    """An item of the report: its content by column, its shipped label, gold (None where unknown), and votes as phrases."""

    item: str
    content: tuple[tuple[str, object], ...]
    label: str
    confidence: float
    gold: str | None
    votes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ExampleGroup:
    """Examples of one kind, of `count` items of that kind."""

    title: str
    note: str
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that a report shows.

    splits: splits with gold, best evidence first (test, valid, train). coverage: all items, then each split. shipped:
    the method whose labels are shipped. confusion: int64 (k, k), gold (rows) of the first split against shipped labels
    (columns). certified: which labels may be used unseen. alternative: a sentence on the labels that could
    be shipped as well, None where gold decided. left_out: a sentence on rows that failed and are no items, None if none did. harm: a sentence that names LFs that harm, None if none does.
    lfs: the table of lf_report.csv, a row per LF. curves: the table of threshold_curves.csv; curve_metric:
    the name of its metric. described: classes that vote by their descriptions. pairs: LFs against each other, None with fewer than two. labels_id: the MD5 by which dvc.lock
    knows the shipped labels. fitness: the check of the embedding. findings: the label model's remarks.
    """

    classes: tuple[str, ...]
    splits: tuple[SplitResult, ...]
    coverage: tuple[Coverage, ...]
    shipped: str
    confusion: npt.NDArray[np.int64] | None
    label_counts: tuple[int, ...]
    certified: Certified
    alternative: str | None
    left_out: str | None
    harm: str | None
    lfs: pl.DataFrame
    curves: pl.DataFrame
    curve_metric: str
    described: tuple[DescribedClass, ...]
    pairs: LFPairs | None
    balances: tuple[Balance, ...]
    examples: tuple[ExampleGroup, ...]
    labels_id: str
    fitness: EmbeddingFitness
    facts: tuple[Fact, ...]
    findings: tuple[str, ...]
    resamples: int
    confidence: float


def name_method(method: str) -> str:
    """The name of `method` in reports."""
    if method == SHIPPED:
        return "Shipped labels"
    return METHODS.get(method, method.replace("_", " ").capitalize())


def order_methods(methods: list[str]) -> list[str]:
    """The methods in the order of METHODS, followed by the others in their given order."""
    known = [method for method in METHODS if method in methods]
    return known + [method for method in methods if method not in METHODS]
