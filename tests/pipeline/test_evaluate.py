"""The evaluate stage on small projects: figures counted by hand, odd gold, damaged input, equal bytes, DVC's plots."""

import html
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from tasks import evaluate
from tasks.cache.store import Cache
from tasks.core import lf_analysis
from tasks.errors import DataError
from tasks.params import EvaluateParams, Split
from tasks.report.plots import CACHE_KIND, render_plots_template
from tasks.tables import schemas
from tasks.tables.files import write_csv, write_json
from tasks.tables.muted import write_muted
from tasks.tables.parquet import write_table
from tasks.tables.paths import (
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
    QUARANTINE,
    REPORT,
    REPORT_SUMMARY,
    SHIPPED_LABELS,
    THRESHOLD_CURVES,
    THRESHOLDS,
    VALID_GOLD,
    VOTES,
    WITHHELD_GOLD,
)
from tasks.tables.saved_descriptions import write_no_descriptions

ROOT = Path(__file__).resolve().parents[2]
PARAMS = EvaluateParams(bootstrap=50)


FITNESS = {
    "sentences": ["WARNING: neighbors do not share the <i>majority</i> vote.", "Gold cannot be told."],
    "agreement": [
        {
            "labels": "majority vote",
            "items": 8,
            "chance": 0.4375,
            "neighbors": [{"rank": rank, "threshold": 0.5, "agreement": 1 / rank - 0.125} for rank in (1, 2)],
        },
        {"labels": "valid gold", "items": 1, "chance": None, "neighbors": []},
    ],
    "blocks": [],
}


@dataclass(frozen=True, kw_only=True)
class Project:
    """Everything evaluate reads: gold is -1 where unknown, votes are (n, m), the method `shipped` is the one shipped."""

    classes: tuple[str, ...]
    ids: list
    split: list[str]
    gold: list[int]
    original: np.ndarray
    extended: np.ndarray
    methods: dict[str, np.ndarray]
    shipped: str
    failed: tuple[str, ...] = ()

    def write(self, root: Path) -> Path:
        k, ids = len(self.classes), pl.Series("item_id", self.ids)
        lfs = [f"lf_{letter}" for letter in "abcdefghij"[: self.original.shape[1]]]
        items = pl.DataFrame([ids, pl.Series("split", self.split)])
        write_table(root / ITEMS, items, schemas.ITEMS)
        n = len(self.failed)
        failed = {"reason": self.failed, "file": ["1.csv"] * n, "row": [*range(1, n + 1)], "found": [""] * n}
        missing = pl.Series("item_id", [None] * n, dtype=ids.dtype)
        kinds = {"reason": pl.String, "file": pl.String, "row": pl.Int64, "found": pl.String}
        table = pl.DataFrame(failed, schema=kinds).select(missing, pl.all())
        write_table(root / QUARANTINE, table, schemas.QUARANTINE)
        gold = items.with_columns(pl.Series("gold", self.gold, dtype=pl.Int8)).filter(pl.col("gold") >= 0)
        valid = pl.col("split") == "valid"
        write_table(root / VALID_GOLD, gold.filter(valid).drop("split"), schemas.gold(k))
        write_table(
            root / WITHHELD_GOLD, gold.filter(~valid).select("item_id", "gold", "split"), schemas.withheld_gold(k)
        )
        write_json(root / GOLD_SUMMARY, {"agreement": {"krippendorff_alpha": None}})
        for path, L in ((VOTES, self.original), (EXTENDED_VOTES, self.extended)):
            columns = [pl.Series(lf, L[:, j], dtype=pl.Int8) for j, lf in enumerate(lfs)]
            write_table(root / path, pl.DataFrame([ids, *columns]), schemas.votes(k, lfs))
        P = self.methods[self.shipped]
        labels = {
            "label": [self.classes[c] for c in P.argmax(axis=1)],
            **{schemas.probability_column(name): P[:, c] for c, name in enumerate(self.classes)},
            "original_votes": (self.original >= 0).sum(axis=1).astype(np.int32),
        }
        write_table(
            root / SHIPPED_LABELS,
            pl.DataFrame([ids]).with_columns(pl.Series(name, values) for name, values in labels.items()),
            schemas.end_labels(self.classes),
        )
        columns = {f"{name}/{c}": P[:, c] for name, P in self.methods.items() if name != "shipped" for c in range(k)}
        table = pl.DataFrame([ids]).with_columns(pl.Series(name, values) for name, values in columns.items())
        write_table(root / LABEL_MODEL_PREDICTIONS, table, schemas.predictions(k, columns))
        write_table(root / END_MODEL_PREDICTIONS, pl.DataFrame([ids]), schemas.predictions(k, ()))
        write_json(root / END_MODEL_SUMMARY, self.describe_end_model())
        summary = pl.DataFrame(
            {
                "lf": lfs,
                "polarity": [
                    "|".join(name for name, votes in zip(self.classes, row, strict=True) if votes)
                    for row in lf_analysis.find_polarity(self.original, k)
                ],
                "overlaps": lf_analysis.count_overlaps(self.original) / len(self.original),
                "conflicts": lf_analysis.count_conflicts(self.original) / len(self.original),
            }
        )
        write_csv(root / LF_SUMMARY, summary)
        write_no_descriptions(root)
        write_muted(root, (), lfs)
        thresholds = dict.fromkeys(lfs, None) | {"lf_a": 0.75}
        chosen = {"metric": "cosine", "method": "fixed", "objective": None, "chosen_on": "params"}
        chosen["curve_metric"] = "accuracy of the majority vote on valid gold"
        write_json(root / THRESHOLDS, chosen | {"thresholds": thresholds})
        curves = [(lf, t, t / 2, 1 - t / 2) for lf in lfs for t in (0.5, 0.75, 1.0)]
        curves.append(("lf_a", None, 0.0, 0.5))
        table = pl.DataFrame(curves, schema=["lf", "threshold", "coverage", "metric"], orient="row")
        write_csv(root / THRESHOLD_CURVES, table)
        write_json(root / LABEL_MODEL, self.describe_label_model())
        write_json(root / EMBEDDING_FITNESS, FITNESS)
        return root

    def describe_end_model(self) -> dict:
        return {
            "summary": "no gold",
            "shipped": self.shipped,
            "class_balance": dict.fromkeys(self.classes, 1 / len(self.classes)),
            "class_balance_source": "uniform",
            "end_model_weights": None,
            "lf_worth": {"lf_a": 0.25, "lf_b": -0.125},
            "harmful_lfs": ["lf_b"],
            "said_instead": {"lf_b": {}},
            "alternative": {"summary": "Those of nearvote would differ on 3 of 8 items."},
            "certificate": {
                "summary": "2 items are certified.",
                "share_by_class": {name: None if c else 0.5 for c, name in enumerate(self.classes)},
            },
        }

    def describe_label_model(self) -> dict:
        return {
            "label_model": "flyingsquid",
            "chosen_by": "auto",
            "held_out_accuracy": {"flyingsquid": 0.75, "majority_vote": 0.5},
            "class_balance": dict.fromkeys(self.classes, 1 / len(self.classes)),
            "class_balance_source": "uniform, as params.yaml asks",
            "fitted_rows": 2,
            "gold_rows": 0,
            "findings": ["lf_a: <b>odd</b>"],
        }


SMALL = Project(
    classes=("ham", "spam"),
    ids=[1, 2, 3, 4, 10, 20, 30, 40],
    split=["train"] * 2 + ["valid"] * 2 + ["test"] * 4,
    gold=[-1, -1, 0, 1, 0, 1, 1, 0],
    original=np.array([[0, -1], [-1, 1], [0, -1], [-1, 1], [0, -1], [-1, 1], [-1, -1], [-1, -1]], np.int8),
    extended=np.array([[0, -1], [-1, 1], [0, -1], [0, 1], [0, -1], [-1, 1], [0, -1], [-1, -1]], np.int8),
    methods={
        "majority_vote": np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]]),
        "label_model_extended": np.array(
            [[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.4, 0.6]]
        ),
    },
    shipped="label_model_extended",
)


def random_project(*, k: int, ids: list, seed: int = 0) -> Project:
    """Votes that are mostly right, one method per vote matrix, gold in all splits."""
    generator = np.random.default_rng(seed)
    n, m = len(ids), 5
    gold = generator.integers(0, k, n)
    votes = np.where(generator.random((n, m)) < 0.7, gold[:, None], generator.integers(0, k, (n, m)))
    original = np.where(generator.random((n, m)) < 0.3, votes, -1).astype(np.int8)
    extended = np.where((original < 0) & (generator.random((n, m)) < 0.4), votes, original).astype(np.int8)

    def share(L):
        counts = np.stack([(c == L).sum(axis=1) for c in range(k)], axis=1) + 1.0
        return counts / counts.sum(axis=1, keepdims=True)

    return Project(
        classes=tuple(f"class {c}" for c in range(k)),
        ids=ids,
        split=[("train", "valid", "test")[i % 3] for i in range(n)],
        gold=gold.tolist(),
        original=original,
        extended=extended,
        methods={"majority_vote": share(original), "end_model": share(extended), "label_model_raw": share(original)},
        shipped="end_model",
    )


def run(project: Project, root: Path, params: EvaluateParams = PARAMS) -> Path:
    project.write(root)
    evaluate.run(root, project.classes, params)
    return root


def read_metrics(root: Path) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} in metrics.json")

    return json.loads((root / METRICS).read_text(), parse_constant=refuse)


def test_metrics_counted_by_hand(tmp_path):
    found = read_metrics(run(SMALL, tmp_path))
    assert found["all"] == {"items": 8, "coverage": {"original": 6 / 8, "extended": 7 / 8}}
    test = found["test"]
    assert test["coverage"] == {"original": 2 / 4, "extended": 3 / 4}
    assert test["gold"] == 4 and test["items"] == 4 and "gold" not in found["train"]
    # Two rows right, two ties; against two rows right and two wrong.
    assert test["majority_vote"]["accuracy"] == 3 / 4
    assert test["label_model_extended"]["accuracy"] == 2 / 4
    assert test["label_model_extended"]["against_majority_vote"] == 2 / 4 - 3 / 4
    assert test["label_model_extended"]["log_loss"] == pytest.approx(-math.log(0.9 * 0.8 * 0.1 * 0.4) / 4, abs=1e-6)
    assert found["valid"]["label_model_extended"]["accuracy"] == 1 / 2


def test_a_loss_against_majority_vote_is_told_with_its_figures(tmp_path):
    summary = (run(SMALL, tmp_path) / REPORT_SUMMARY).read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "25.0 points below majority vote: 50.0 % against 75.0 % of 4 items right" in summary
    page = (tmp_path / REPORT).read_text()
    assert "25.0 points below majority vote" in page


def test_rows_that_failed_are_told_where_there_are_any(tmp_path):
    root = run(replace(SMALL, failed=("no id", "no text", "no text")), tmp_path)
    said = "3 rows failed and were left out (2 no text, 1 no id); 'epoxy quarantine' lists them."
    assert said in (root / REPORT_SUMMARY).read_text() and said in html.unescape((root / REPORT).read_text())
    run(SMALL, tmp_path)
    assert "left out" not in (root / REPORT_SUMMARY).read_text() + (root / REPORT).read_text()


def test_certified_labels_are_told_in_all_and_by_class(tmp_path):
    run(SMALL, tmp_path)
    assert "2 items are certified." in (tmp_path / REPORT_SUMMARY).read_text()
    for path in (REPORT_SUMMARY, REPORT):
        assert "would differ on 3 of 8 items" in (tmp_path / path).read_text(), (
            "the other answer, where gold cannot tell"
        )
    page = (tmp_path / REPORT).read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "2 items are certified." in page
    section = page[page.index('id="certified"') : page.index('id="coverage"')]
    shown = re.findall(r'<th scope="row"[^>]*>(.*?)</th>.*?</div></td><td>(.*?)</td>', section)
    assert shown == [("ham", "50.0 %"), ("spam", "\N{EN DASH}")]


def test_strata_counted_by_hand(tmp_path):
    table = pl.read_csv(run(SMALL, tmp_path) / PLOTS / "strata.csv").filter(split="test")
    accuracy = {(row["covered_by"], row["method"]): (row["items"], row["accuracy"]) for row in table.to_dicts()}
    assert accuracy["labeling functions", "majority_vote"] == (2, 1)
    assert accuracy["extension only", "majority_vote"] == (1, 1 / 2)
    assert accuracy["extension only", "label_model_extended"] == (1, 0)
    assert accuracy["nothing", "label_model_extended"] == (1, 0)


def test_the_page_says_what_neighbors_tell(tmp_path):
    page = (run(SMALL, tmp_path) / REPORT).read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert '<p class="bad">WARNING: neighbors do not share the &lt;i&gt;majority&lt;/i&gt; vote.</p>' in page
    cells = re.search(r'<tr><th[^>]*>Majority vote</th><td data-label="Items">8</td>(.*?)</tr>', page).group(1)
    assert re.findall(r"<td[^>]*>(.*?)</td>", cells) == ["87.5 %", "37.5 %", "43.8 %"]
    cells = re.search(r'<tr><th[^>]*>Valid gold</th><td data-label="Items">1</td>(.*?)</tr>', page).group(1)
    assert re.findall(r"<td[^>]*>(.*?)</td>", cells) == ["", "", "\N{EN DASH}"]


def test_items_to_look_at_counted_by_hand(tmp_path):
    """Of valid, item 4 is labeled ham and is spam, and lf_a lends it a vote for ham."""
    SMALL.write(tmp_path)
    items = pl.read_parquet(tmp_path / ITEMS)
    texts = pl.Series("text", [f"text of {item} <b>" for item in SMALL.ids])
    write_table(tmp_path / ITEMS, items.with_columns(texts), schemas.ITEMS)
    evaluate.run(tmp_path, SMALL.classes, PARAMS)
    page = (tmp_path / REPORT).read_text()
    found = page[page.index('<h2 id="examples">') : page.index('<h2 id="origins">')]
    assert re.findall(r"<h3>(.*?)</h3>", found) == ["Wrong · 1 item", "Wrong by extension · 1 item"]
    assert re.findall(r"<p dir=.auto.>(.*?)</p>", found) == ["text of 4 &lt;b&gt;"] * 2
    assert found.count("<small>lf_a: ham (extended), lf_b: spam</small>") == 2
    evaluate.run(tmp_path, SMALL.classes, PARAMS.model_copy(update={"examples": 0}))
    assert "Wrong by extension" not in (tmp_path / REPORT).read_text()


def test_no_item_of_test_is_shown_and_no_gold_but_that_of_valid(tmp_path):
    project = random_project(k=3, ids=[f"item-{i:03}" for i in range(240)])
    page = (run(project, tmp_path, PARAMS.model_copy(update={"examples": 100})) / REPORT).read_text()
    found = page[page.index('<h2 id="examples">') : page.index('<h2 id="origins">')]
    shown = re.findall(r"(gold .*?</span>)? <small>item-(\d+)</small>", found)
    assert len(shown) > 30
    assert {project.split[int(item)] for _, item in shown} == {"train", "valid"}
    assert {project.split[int(item)] for gold, item in shown if gold} == {"valid"}


def test_labeling_functions_counted_by_hand(tmp_path):
    table = pl.read_csv(run(SMALL, tmp_path) / LF_REPORT)
    a = table.row(0, named=True)
    assert (a["lf"], a["polarity"], a["threshold"]) == ("lf_a", "ham", 0.75)
    assert (a["votes"], a["votes_added"]) == (3, 2)
    assert (a["coverage"], a["coverage_extended"]) == (3 / 8, 5 / 8)
    # On test it votes on item 10, rightly; extension adds item 30, wrongly.
    assert (a["test_original_n"], a["test_original_precision"]) == (1, 1)
    assert (a["test_added_n"], a["test_added_precision"]) == (1, 0)
    assert (a["test_all_n"], a["test_all_precision"]) == (2, 1 / 2)
    assert a["test_all_low"] < 1 / 2 < a["test_all_high"]
    b = table.row(1, named=True)
    assert [(row["worth"], row["is_harmful"], row["is_muted"]) for row in (a, b)] == [
        (0.25, False, False),
        (-0.125, True, False),
    ]
    assert b["threshold"] is None and b["votes_added"] == 0 and b["test_added_precision"] is None


def test_the_order_of_methods_is_that_of_the_report(tmp_path):
    run(random_project(k=3, ids=list(range(60))), tmp_path)
    table = pl.read_csv(tmp_path / PLOTS / "scores.csv")
    assert table["method"].unique(maintain_order=True).to_list() == ["majority_vote", "label_model_raw", "end_model"]


def test_shipped_labels_of_no_method_get_a_row(tmp_path):
    shipped = SMALL.methods["majority_vote"][:, ::-1]
    found = read_metrics(run(replace(SMALL, methods=SMALL.methods | {"shipped": shipped}, shipped="shipped"), tmp_path))
    assert found["test"]["shipped"]["accuracy"] == 1 / 4


@pytest.mark.parametrize("k", [2, 10])
@pytest.mark.parametrize("ids", [list(range(90)), [f"{i:03} é" for i in range(240)]], ids=["integer", "text"])
def test_equal_input_gives_equal_bytes(tmp_path, k, ids):
    project = random_project(k=k, ids=ids)
    one, two = (run(project, tmp_path / name) for name in ("one", "two"))
    files = sorted(path.relative_to(one) for path in (one / "data/evaluate").rglob("*") if path.is_file())
    assert {Path("data/evaluate/plots/scores.csv"), REPORT, METRICS} <= set(files)
    for file in files:
        assert (one / file).read_bytes() == (two / file).read_bytes(), file


def test_no_gold_at_all_is_said_and_breaks_nothing(tmp_path):
    found = read_metrics(run(replace(SMALL, gold=[-1] * 8), tmp_path))
    assert set(found) == {"all", "train", "valid", "test"} and set(found["test"]) == {"items", "coverage"}
    assert "cannot be checked" in (tmp_path / REPORT_SUMMARY).read_text()
    assert "cannot be checked" in (tmp_path / REPORT).read_text()


def test_without_test_gold_valid_is_used_and_called_flattering(tmp_path):
    gold = [g if split == "valid" else -1 for g, split in zip(SMALL.gold, SMALL.split, strict=True)]
    found = read_metrics(run(replace(SMALL, gold=gold), tmp_path))
    assert "majority_vote" in found["valid"] and "majority_vote" not in found["test"]
    assert "flatter" in (tmp_path / REPORT_SUMMARY).read_text()


def test_gold_of_one_class_leaves_the_other_undefined(tmp_path):
    run(replace(SMALL, gold=[-1, -1, 0, 1, 0, 0, 0, 0]), tmp_path)
    table = pl.read_csv(tmp_path / PLOTS / "classes.csv")
    spam = table.filter(split="test", method="majority_vote").row(by_predicate=pl.col("class") == "spam", named=True)
    assert spam["support"] == 0 and spam["recall"] is None and spam["f1"] is None
    # Labeled spam once and half a time twice, never rightly: that much is known.
    assert spam["precision"] == 0
    assert 0 < read_metrics(tmp_path)["test"]["majority_vote"]["macro_f1"] < 1


def test_without_resamples_there_are_no_intervals(tmp_path):
    run(SMALL, tmp_path, EvaluateParams(bootstrap=0))
    table = pl.read_csv(tmp_path / PLOTS / "scores.csv")
    assert table["low"].null_count() == table["high"].null_count() == table.height
    assert table["value"].null_count() == 0


def test_the_seed_moves_intervals_and_nothing_else(tmp_path):
    project = random_project(k=3, ids=list(range(90)))
    one = run(project, tmp_path / "one")
    two = run(project, tmp_path / "two", EvaluateParams(bootstrap=50, seed=1))
    assert read_metrics(one) == read_metrics(two)
    scores = [pl.read_csv(root / PLOTS / "scores.csv") for root in (one, two)]
    assert scores[0]["value"].equals(scores[1]["value"]) and not scores[0]["low"].equals(scores[1]["low"])


def test_only_withheld_gold_moves_the_test_figures(tmp_path):
    turned = [1 - g if split == "valid" and g >= 0 else g for g, split in zip(SMALL.gold, SMALL.split, strict=True)]
    one, two = run(SMALL, tmp_path / "one"), run(replace(SMALL, gold=turned), tmp_path / "two")
    assert read_metrics(one)["test"] == read_metrics(two)["test"]
    assert read_metrics(one)["valid"] != read_metrics(two)["valid"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: rewrite(root / LABEL_MODEL_PREDICTIONS, lambda t: t.drop("majority_vote/0", "majority_vote/1")), "majority_vote"),
        (lambda root: rewrite(root / LABEL_MODEL_PREDICTIONS, lambda t: t.drop("label_model_extended/1")), "label_model_extended/1"),
        (lambda root: rewrite(root / SHIPPED_LABELS, lambda t: t[1:]), "1 items"),
        (lambda root: rewrite(root / EXTENDED_VOTES, lambda t: t.rename({"lf_b": "lf_c"})), "other labeling functions"),
        (lambda root: rewrite(root / VALID_GOLD, lambda t: t.with_columns(item_id=pl.col("item_id") + 100)), "2 items with gold"),
        (lambda root: (root / THRESHOLD_CURVES).write_text("lf,threshold\nlf_a,0.5\n"), "'coverage' is missing"),
        (lambda root: (root / THRESHOLDS).unlink(), "is missing"),
    ],
    ids=["no baseline", "half a method", "missing item", "renamed lf", "gold of nobody", "short curves", "no thresholds"],
)  # fmt: skip
def test_damaged_input_is_named_and_nothing_is_written(tmp_path, damage, message):
    SMALL.write(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=re.escape(message)):
        evaluate.run(tmp_path, SMALL.classes, PARAMS)
    assert not (tmp_path / METRICS).exists()


def rewrite(path: Path, change) -> None:
    change(pl.read_parquet(path)).write_parquet(path)


def test_extended_votes_with_columns_in_another_order_mean_the_same(tmp_path):
    SMALL.write(tmp_path)
    rewrite(tmp_path / EXTENDED_VOTES, lambda table: table.select("item_id", "lf_b", "lf_a"))
    evaluate.run(tmp_path, SMALL.classes, PARAMS)
    other = run(SMALL, tmp_path / "other")
    assert (tmp_path / LF_REPORT).read_bytes() == (other / LF_REPORT).read_bytes()


def test_the_plots_of_dvc_yaml_name_files_columns_and_templates_that_exist(tmp_path):
    run(SMALL, tmp_path)
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    assert plots
    for plot in plots:
        for options in plot.values():
            for path, y in options["y"].items():
                header = (tmp_path / path).read_text().splitlines()[0].split(",")
                assert {options["x"], y} <= set(header)
                template = (ROOT / ".dvc/plots" / f"{options['template']}.json").read_text()
                fields = set(re.findall(r'"field": "([a-z_]+)"', template)) - {
                    "rev",
                    *re.findall(r'"as": "([a-z_]+)"', template),
                }
                assert fields <= set(header), f"{options['template']}: {fields - set(header)}"


def test_the_template_of_dvc_plots_loads_nothing(tmp_path):
    template = render_plots_template(tmp_path)
    assert template.count("{plot_divs}") == 1 and "{scripts}" not in template
    assert "vegaEmbed" in template and not re.search(r"<(script|link)[^>]+(src|href)=", template)


def test_the_script_of_the_plots_comes_from_the_cache(tmp_path):
    bundled = render_plots_template(tmp_path)
    with Cache(tmp_path, CACHE_KIND) as entries:
        (key,) = entries.find("")
        assert entries.read(key).decode() in bundled
        entries.write(key, b"kept")
    assert "<script>kept</script>" in render_plots_template(tmp_path)


def test_the_best_evidence_comes_first():
    assert evaluate.EVIDENCE[0] is Split.TEST and set(evaluate.EVIDENCE) == set(Split)
