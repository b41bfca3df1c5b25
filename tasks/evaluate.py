"""evaluate: how good each method's labels are, as metrics, plots, tables and a page. The only reader of test gold."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.cache.store import hash_as_dvc
from tasks.core import metrics
from tasks.core.progress_callback import WHOLE, Advance
from tasks.core.slices import cut_slices
from tasks.core.ties import TIE
from tasks.core.types import ABSTAIN, ITEM_ID, Allocate, Bool, Float64, Int8, Int64, Votes
from tasks.errors import DataError
from tasks.params import EvaluateParams, Split
from tasks.progress import Progress
from tasks.report.evaluation import (
    BASELINE,
    SHIPPED,
    Balance,
    Certified,
    Coverage,
    DescribedClass,
    EmbeddingFitness,
    Estimate,
    Evaluation,
    Fact,
    MethodResult,
    SplitResult,
    Stratum,
    order_methods,
)
from tasks.report.examples import Labeled, find_examples
from tasks.report.facts import (
    describe_agreement,
    describe_certified,
    describe_descriptions,
    describe_end_model,
    describe_fit,
    describe_fitness,
    describe_label_model,
    describe_thresholds,
    read_balance,
    read_described,
)
from tasks.report.formatting import format_share
from tasks.report.lf_harm import describe_harm
from tasks.report.lf_pairs import compare_pairs
from tasks.report.lf_table import tabulate_lfs
from tasks.report.metrics_table import tabulate_metrics
from tasks.report.page import render_page
from tasks.report.plots import render_plots_template, tabulate_plots
from tasks.report.rounding import round_table
from tasks.report.summary import render_summary
from tasks.tables import schemas
from tasks.tables.files import read_csv, read_json, write_csv, write_json, write_text
from tasks.tables.label_matrix import encode_split, find_covered, read_all_gold, read_counted_votes, read_vote_matrix
from tasks.tables.muted import read_muted
from tasks.tables.parquet import ROW_GROUP, read_of_items, read_schema, read_table
from tasks.tables.paths import (
    DESCRIPTIONS_SUMMARY,
    EMBEDDING_FITNESS,
    END_MODEL_PREDICTIONS,
    END_MODEL_SUMMARY,
    EXTENDED_VOTES,
    GOLD_SUMMARY,
    ITEMS,
    LABEL_MODEL,
    LABEL_MODEL_PREDICTIONS,
    LF_REPORT,
    LF_SUMMARY,
    METRICS,
    PLOTS,
    PLOTS_TEMPLATE,
    REPORT,
    REPORT_SUMMARY,
    SHIPPED_LABELS,
    THRESHOLD_CURVES,
    THRESHOLDS,
    VOTES,
)
from tasks.tables.quarantine import describe_quarantine, read_quarantine
from tasks.tables.scratch import open_scratch

EVIDENCE = (Split.TEST, Split.VALID, Split.TRAIN)
"""Splits from the best evidence to the weakest: valid gold may have chosen params, and train items lend votes to others."""

_SUMMARY_COLUMNS = {"lf": pl.String, "polarity": pl.String, "overlaps": pl.Float64, "conflicts": pl.Float64}
_CURVE_COLUMNS = {"lf": pl.String, "threshold": pl.Float64, "coverage": pl.Float64, "metric": pl.Float64}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of the evaluation, with rows in the order of items: gold is -1 where unknown, votes are (n, m).

    splits: by `encode_split`. judged: (g,) the rows with gold; probabilities: (g, k) theirs by each method, those of other items
    stay on disk. labels: (n,) what ships. picked, confidence: (n,) the most probable class by the method `shipped`, held out on gold of
    valid, and its probability.
    """

    ids: pl.Series
    splits: Int8
    gold: Votes
    judged: Int64
    lfs: tuple[str, ...]
    muted: tuple[str, ...]
    cast: Votes
    """What LFs voted; `original` is the same with muted LFs abstaining."""
    original: Votes
    extended: Votes
    labels: Int8
    probabilities: dict[str, Float64]
    shipped: str
    picked: Int8
    confidence: Float64
    thresholds: dict[str, float | None]
    worth: dict[str, float | None]
    harmful: tuple[str, ...]
    said_instead: Mapping[str, Mapping[str, str]]
    summary: pl.DataFrame
    curves: pl.DataFrame
    curve_metric: str
    described: tuple[DescribedClass, ...]
    certified: Certified
    alternative: str | None
    left_out: str | None
    fitness: EmbeddingFitness
    facts: tuple[Fact, ...]
    findings: tuple[str, ...]
    balances: tuple[Balance, ...]
    labels_id: str
    allocate: Allocate
    """Makes arrays of all items with gold, in files without a name."""

    def is_of(self, split: Split) -> Bool:
        """Whether each item is of `split`, (n,)."""
        found: Bool = self.splits == encode_split(split)
        return found

    def is_judging(self, split: Split) -> Bool:
        """Whether each item has gold that judges `split`, (n,)."""
        found: Bool = self.is_of(split) & (self.gold != ABSTAIN)
        return found


def run(root: Path, classes: tuple[str, ...], params: EvaluateParams) -> None:
    """Read votes, predictions and gold; write metrics, plots, the table of LFs, the summary and the page.

    Raises
    ------
    DataError
        An input is missing or damaged, or tables do not hold the same items.
    """
    inputs = read_inputs(root, classes)
    found = find_examples(root, choose_labeled(inputs), inputs.lfs, classes, params.examples)
    evaluation = replace(evaluate(inputs, classes, params), examples=found)
    with Progress("writing the report", total=4) as progress:
        write_json(root / METRICS, tabulate_metrics(evaluation))
        for name, table in tabulate_plots(evaluation):
            write_csv(root / PLOTS / f"{name}.csv", table)
        write_csv(root / LF_REPORT, round_table(evaluation.lfs))
        progress.advance()
        write_text(root / REPORT_SUMMARY, render_summary(evaluation))
        progress.advance()
        write_text(root / REPORT, render_page(evaluation))
        progress.advance()
        write_text(root / PLOTS_TEMPLATE, render_plots_template(root))
        progress.advance()


def read_inputs(root: Path, classes: tuple[str, ...]) -> Inputs:
    """The inputs below `root`, joined by item id.

    Raises
    ------
    DataError
        A table or file is missing or damaged, or tables do not hold the same items.
    """
    k = len(classes)
    items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID, "split"])
    lfs = tuple(name for name in read_schema(root / VOTES) if name != ITEM_ID)
    if set(read_schema(root / EXTENDED_VOTES)) != {ITEM_ID, *lfs}:
        raise DataError(f"{root / EXTENDED_VOTES}: other labeling functions than in {root / VOTES}. Run 'dvc repro'.")
    muted = read_muted(root)
    scratch = (root / REPORT).parent
    allocate = partial(open_scratch, scratch)
    cast = read_vote_matrix(root, items, VOTES, k, scratch).votes
    original = read_counted_votes(root, items, k, scratch).votes if muted else cast
    extended = read_vote_matrix(root, items, EXTENDED_VOTES, k, scratch, lfs).votes
    known = read_all_gold(root, items, k)
    items = items.select(ITEM_ID)
    judged = np.flatnonzero(known.classes != ABSTAIN)
    # For valid items with gold, use the held-out predictions: the shipped labels learned from their gold.
    is_alike = ~((known.splits == encode_split(Split.VALID)) & (known.classes != ABSTAIN))
    labels = _read_labels(root, items, classes)
    predictions = _find_predictions(root, k)
    taken: dict[str, Float64] = {}
    others: set[str] = set()
    for path in dict.fromkeys(predictions.values()):
        methods = [method for method in predictions if predictions[method] == path]
        of_file, not_shipped = _read_judged(root, items, path, methods, labels.P, judged, is_alike, allocate)
        taken |= of_file
        others |= not_shipped
    probabilities = {method: taken[method] for method in predictions}
    same = [method for method in predictions if method not in others]
    with _open_summary(root / END_MODEL_SUMMARY) as found:
        trained, facts = str(found["shipped"]), [Fact(name="Shipped labels", value=describe_end_model(found))]
        balances = [read_balance("Model of the shipped labels", found, classes)]
        certified = describe_certified(found)
        alternative = None if found["alternative"] is None else str(found["alternative"]["summary"])
        worth = {str(lf): None if value is None else float(value) for lf, value in found["lf_worth"].items()}
        harmful, said_instead = tuple(map(str, found["harmful_lfs"])), dict(found["said_instead"])
    with _open_summary(root / LABEL_MODEL) as found:
        findings = tuple(map(str, found["findings"]))
        facts += [Fact(name="Label model on votes", value=describe_label_model(found))]
        facts += [Fact(name="Label model fitted on", value=describe_fit(found))]
        balances += [read_balance("Label model", found, classes)]
    with _open_summary(root / THRESHOLDS) as found:
        thresholds = {lf: None if value is None else float(value) for lf, value in found["thresholds"].items()}
        curve_metric = str(found["curve_metric"])
        facts += [Fact(name="Thresholds", value=describe_thresholds(found))]
    with _open_summary(root / GOLD_SUMMARY) as found:
        facts += [Fact(name="Agreement of people", value=text) for text in describe_agreement(found)]
    with _open_summary(root / DESCRIPTIONS_SUMMARY) as found:
        facts += [Fact(name="Descriptions of classes", value=text) for text in describe_descriptions(found)]
        described = read_described(found)
    with _open_summary(root / EMBEDDING_FITNESS) as found:
        fitness = describe_fitness(found)
        facts += [Fact(name="Embeddings", value=fitness.blocks)] if fitness.blocks else []
    # If several methods have exactly the shipped probabilities, the most elaborate, which comes last, is meant.
    shipped = trained if trained in same else [SHIPPED, *same][-1]
    if not same:
        probabilities[SHIPPED] = np.array(labels.P[judged])
    summary = read_csv(root / LF_SUMMARY, _SUMMARY_COLUMNS)
    if summary["lf"].to_list() != list(lfs) or summary.select("overlaps", "conflicts").null_count().sum_horizontal()[0]:
        raise DataError(f"{root / LF_SUMMARY}: not what apply writes. Run 'dvc repro apply'.")
    if same:
        for part, batch in _read_probabilities(root, items, predictions[shipped], [shipped], k):
            labels.P[part] = batch[shipped]
    picked, confidence = np.empty(items.height, np.int8), np.empty(items.height)
    for part in cut_slices(items.height, ROW_GROUP):
        P = labels.P[part]
        picked[part], confidence[part] = P.argmax(axis=1), P.max(axis=1)
    return Inputs(
        ids=items[ITEM_ID],
        splits=known.splits,
        gold=known.classes,
        judged=judged,
        lfs=lfs,
        muted=muted,
        cast=cast,
        original=original,
        extended=extended,
        labels=labels.position,
        probabilities=probabilities,
        shipped=shipped,
        picked=picked,
        confidence=confidence,
        thresholds=thresholds,
        worth=worth,
        harmful=harmful,
        said_instead=said_instead,
        summary=summary,
        curves=read_csv(root / THRESHOLD_CURVES, _CURVE_COLUMNS),
        curve_metric=curve_metric,
        described=described,
        certified=certified,
        alternative=alternative,
        left_out=describe_quarantine(read_quarantine(root)),
        fitness=fitness,
        facts=tuple(facts),
        findings=findings,
        balances=tuple(balances),
        labels_id=hash_as_dvc(root / SHIPPED_LABELS),
        allocate=allocate,
    )


def evaluate(inputs: Inputs, classes: tuple[str, ...], params: EvaluateParams) -> Evaluation:
    """The evaluation of `inputs`: scores, intervals, strata, coverage and the table of LFs."""
    k = len(classes)
    splits = [split for split in EVIDENCE if inputs.is_judging(split).any()]
    covered, reached = find_covered(inputs.original), find_covered(inputs.extended)
    with Progress("resampling", total=len(splits) * WHOLE) as progress:
        results = [_evaluate_split(inputs, split, covered, reached, params, progress.advance) for split in splits]
    confusion = None
    if splits:
        judged = inputs.is_judging(splits[0])
        pairs = inputs.gold[judged].astype(np.int64) * k + inputs.labels[judged]
        confusion = np.bincount(pairs, minlength=k * k).reshape(k, k)
    present = [split for split in Split if inputs.is_of(split).any()]
    return Evaluation(
        classes=classes,
        splits=tuple(results),
        coverage=(
            _count_coverage("all", np.ones(len(inputs.splits), bool), covered, reached),
            *(_count_coverage(str(split), inputs.is_of(split), covered, reached) for split in present),
        ),
        shipped=inputs.shipped,
        confusion=confusion,
        label_counts=tuple(np.bincount(inputs.labels, minlength=k).tolist()),
        certified=inputs.certified,
        alternative=inputs.alternative,
        left_out=inputs.left_out,
        harm=describe_harm(inputs.harmful, inputs.muted, inputs.said_instead),
        lfs=tabulate_lfs(
            inputs.lfs,
            original=inputs.cast,
            extended=inputs.extended,
            gold={split: np.where(inputs.is_of(split), inputs.gold, np.int8(ABSTAIN)) for split in splits},
            thresholds=inputs.thresholds,
            worth=inputs.worth,
            harmful=inputs.harmful,
            muted=inputs.muted,
            summary=inputs.summary,
            confidence=params.confidence,
        ),
        curves=inputs.curves,
        curve_metric=inputs.curve_metric,
        described=inputs.described,
        pairs=compare_pairs(inputs.lfs, inputs.original, k),
        balances=(*_measure_balances(inputs, k), *inputs.balances),
        examples=(),
        labels_id=inputs.labels_id,
        fitness=inputs.fitness,
        facts=(
            *inputs.facts,
            Fact(name="Gold read for this report", value=_describe_gold(inputs)),
            Fact(name="Intervals", value=_describe_intervals(params)),
            Fact(name="Log loss", value=f"takes the probability of the gold class as at least {metrics.FLOOR:g}"),
        ),
        findings=inputs.findings,
        resamples=params.bootstrap,
        confidence=params.confidence,
    )


def choose_labeled(inputs: Inputs) -> Labeled:
    """Return what examples are chosen from."""
    return Labeled(
        ids=inputs.ids,
        splits=inputs.splits,
        gold=inputs.gold,
        original=inputs.original,
        extended=inputs.extended,
        label=inputs.picked,
        confidence=inputs.confidence,
    )


def _measure_balances(inputs: Inputs, k: int) -> list[Balance]:
    """How often each class is the label, and the gold of each split that has some."""
    counted = [("Shipped labels", "all items", inputs.labels)]
    for split in EVIDENCE:
        known = inputs.gold[inputs.is_judging(split)]
        if len(known):
            counted.append((f"Gold of {split}", f"{len(known):,} items", known))
    return [
        Balance(name=name, source=source, shares=tuple((np.bincount(found, minlength=k) / len(found)).tolist()))
        for name, source, found in counted
    ]


@contextmanager
def _open_summary(path: Path) -> Iterator[Any]:
    """The JSON summary at `path`; whatever is missing from it becomes an error that names the file."""
    found = read_json(path)
    try:
        yield found
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: not what its stage writes ({reason}). Run 'dvc repro {path.parent.name}'.") from None


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """What ships: the position (n,) of each label among the classes, and the probabilities (n, k), a mapped file."""

    position: Int8
    P: Float64


def _read_labels(root: Path, items: pl.DataFrame, classes: tuple[str, ...]) -> _Labels:
    """The shipped labels of `items`."""
    position = {name: number for number, name in enumerate(classes)}
    shares = [schemas.probability_column(name) for name in classes]
    P = open_scratch((root / REPORT).parent, (items.height, len(classes)), np.float64)
    labels = _Labels(position=np.empty(items.height, np.int8), P=P)
    for part, batch in read_of_items(root, items, SHIPPED_LABELS, schemas.end_labels(classes)):
        labels.P[part] = batch.select(shares).to_numpy()
        labels.position[part] = batch["label"].replace_strict(position, return_dtype=pl.Int8).to_numpy()
    return labels


def _find_predictions(root: Path, k: int) -> dict[str, Path]:
    """The file that has the probabilities of each method, in the order of reports."""
    columns = {
        name: path for path in (LABEL_MODEL_PREDICTIONS, END_MODEL_PREDICTIONS) for name in read_schema(root / path)
    }
    found = {name.split("/")[0]: path for name, path in columns.items() if name != ITEM_ID}
    path = root / LABEL_MODEL_PREDICTIONS
    if BASELINE not in found:
        raise DataError(f"{path}: method '{BASELINE}' is missing, which all are compared with. Run 'dvc repro fit'.")
    for method in found:
        missing = [name for label in range(k) if (name := f"{method}/{label}") not in columns]
        if missing:
            raise DataError(f"{path}: columns {', '.join(missing)} are missing. Run 'dvc repro fit'.")
    return {method: found[method] for method in order_methods(list(found))}


def _read_probabilities(
    root: Path, items: pl.DataFrame, path: Path, methods: Sequence[str], k: int
) -> Iterator[tuple[slice, dict[str, Float64]]]:
    """The probabilities (b, k) of `methods` part by part, each with its rows among `items`."""
    columns = {method: [f"{method}/{label}" for label in range(k)] for method in methods}
    schema = schemas.predictions(k, read_schema(root / path))
    for part, batch in read_of_items(root, items, path, schema, [ITEM_ID, *itertools.chain(*columns.values())]):
        yield part, {method: batch.select(names).to_numpy() for method, names in columns.items()}


def _read_judged(
    root: Path,
    items: pl.DataFrame,
    path: Path,
    methods: list[str],
    shipped: Float64,
    judged: Int64,
    is_alike: Bool,
    allocate: Allocate,
) -> tuple[dict[str, Float64], set[str]]:
    """The probabilities (g, k) of `methods` for the rows `judged`, and which do not ship: not `shipped` (n, k) where `is_alike` (n,)."""
    k = shipped.shape[1]
    taken: dict[str, Float64] = {method: allocate((len(judged), k), np.float64) for method in methods}
    others: set[str] = set()
    for part, batch in _read_probabilities(root, items, path, methods, k):
        low, high = np.searchsorted(judged, [part.start, part.stop])
        rows = is_alike[part]
        expected = shipped[part][rows]
        for method, P in batch.items():
            taken[method][low:high] = P[judged[low:high] - part.start]
            if method not in others and not np.allclose(P[rows], expected, rtol=0, atol=TIE):
                others.add(method)
    return taken, others


def _evaluate_split(
    inputs: Inputs, split: Split, covered: Bool, reached: Bool, params: EvaluateParams, advance: Advance
) -> SplitResult:
    """The scores and intervals of every method on the gold of `split`; covered, reached: (n,) as in `_count_coverage`."""
    judged = inputs.is_judging(split)
    gold = inputs.gold[judged]
    names = list(inputs.probabilities)
    probabilities = [inputs.allocate((len(gold), P.shape[1]), np.float64) for P in inputs.probabilities.values()]
    for taken, P in zip(probabilities, inputs.probabilities.values(), strict=True):
        taken[:] = P[judged[inputs.judged]]
    samples = metrics.resample(
        probabilities,
        gold,
        resamples=params.bootstrap,
        seed=params.seed,
        advance=advance,
        allocate=inputs.allocate,
    )
    baseline, shipped = names.index(BASELINE), names.index(inputs.shipped)
    scores = [metrics.score(P, gold) for P in probabilities]

    def estimate(value: float, drawn: Float64) -> Estimate:
        low, high = metrics.percentile_interval(drawn, params.confidence).tolist()
        return Estimate(value=value, low=low, high=high)

    def subtract(a: int, b: int) -> Estimate:
        return estimate(scores[a].accuracy - scores[b].accuracy, samples.accuracy[a] - samples.accuracy[b])

    methods = tuple(
        MethodResult(
            method=name,
            scores=scores[row],
            curve=metrics.reliability(probabilities[row], gold),
            accuracy=estimate(scores[row].accuracy, samples.accuracy[row]),
            macro_f1=estimate(scores[row].macro_f1, samples.macro_f1[row]),
            log_loss=estimate(scores[row].log_loss, samples.log_loss[row]),
            brier=estimate(scores[row].brier, samples.brier[row]),
            to_baseline=subtract(row, baseline),
            to_shipped=subtract(row, shipped),
        )
        for row, name in enumerate(names)
    )
    covered, reached = covered[judged], reached[judged]
    strata = tuple(
        Stratum(
            covered_by=name,
            n=int(rows.sum()),
            accuracy=tuple(metrics.score(P[rows], gold[rows]).accuracy for P in probabilities),
        )
        for name, rows in (
            ("labeling functions", covered),
            ("extension only", reached & ~covered),
            ("nothing", ~reached & ~covered),
        )
    )
    return SplitResult(split=split, n=len(gold), methods=methods, strata=strata)


def _count_coverage(name: str, rows: Bool, covered: Bool, reached: Bool) -> Coverage:
    """How many of these `rows` (n,) have an original vote (`covered`), an extended vote only (`reached` by one), or none."""
    return Coverage(
        name=name,
        n=int(rows.sum()),
        original=int((rows & covered).sum()),
        extended_only=int((rows & reached & ~covered).sum()),
    )


def _describe_gold(inputs: Inputs) -> str:
    """The number of items with gold in each split, as text."""
    parts = [f"{split} {count:,}" for split in EVIDENCE if (count := int(inputs.is_judging(split).sum()))]
    return ", ".join(parts) + " items" if parts else "none"


def _describe_intervals(params: EvaluateParams) -> str:
    """How the intervals were computed, as text."""
    if params.bootstrap == 0:
        return "none (evaluate.bootstrap: 0)"
    return (
        f"{format_share(params.confidence, 0)} percentile bootstrap, {params.bootstrap:,} resamples, seed {params.seed}"
    )
