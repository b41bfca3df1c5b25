"""What reports say: the verdict in every case, a page that needs nothing else, and no text that becomes markup."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from tasks.core import metrics
from tasks.params import Split
from tasks.report.evaluation import (
    Balance,
    Certified,
    Coverage,
    EmbeddingFitness,
    Estimate,
    Evaluation,
    Example,
    ExampleGroup,
    Fact,
    LFPairs,
    MethodResult,
    NeighborAgreement,
    SplitResult,
    Stratum,
    name_method,
    order_methods,
)
from tasks.report.facts import describe_descriptions, read_described
from tasks.report.formatting import format_gap, format_number, format_points, format_share
from tasks.report.page import render_page
from tasks.report.summary import escape_markdown, render_summary
from tasks.report.verdict import Outcome, judge

NAN = float("nan")
EVIL = "<script>alert('x')</script> & | `co` *b* [l](u)"


def method(name: str, accuracy: float, *, to_baseline=(0.0, 0.0), to_shipped=(0.0, 0.0), baseline=0.8, shipped=0.9):
    """A row that is right on `accuracy` of 100 items, with these intervals of its differences."""
    right = round(accuracy * 100)
    P = np.array([[0.9, 0.1]] * right + [[0.2, 0.8]] * (100 - right))
    gold = np.zeros(100, np.int64)
    scores = metrics.score(P, gold)
    around = Estimate(value=accuracy, low=accuracy - 0.05, high=accuracy + 0.05)
    return MethodResult(
        method=name,
        scores=scores,
        curve=metrics.reliability(P, gold),
        accuracy=around,
        macro_f1=around,
        log_loss=around,
        brier=around,
        to_baseline=Estimate(value=accuracy - baseline, low=to_baseline[0], high=to_baseline[1]),
        to_shipped=Estimate(value=accuracy - shipped, low=to_shipped[0], high=to_shipped[1]),
    )


def evaluation(*methods: MethodResult, split: Split = Split.TEST, shipped: str = "label_model_extended") -> Evaluation:
    lfs = pl.DataFrame(
        {
            "lf": ["keyword", "regex"],
            "polarity": ["ham", "ham|spam"],
            "conflicts": [0.0, 0.1],
            "threshold": [0.5, None],
            "votes": [50, 20],
            "votes_added": [25, 0],
            "coverage": [0.25, 0.1],
            "coverage_extended": [0.375, 0.1],
            "worth": [0.0125, None],
            "is_harmful": [False, True],
            "is_muted": [False, False],
            **{f"{split}_{votes}_n": [10, 0] for votes in ("original", "added", "all")},
            **{
                f"{split}_{votes}_{name}": [value, None]
                for votes in ("original", "added", "all")
                for name, value in (("precision", 0.5), ("low", 0.3), ("high", 0.7))
            },
        }
    )
    curves = pl.DataFrame(
        {
            "lf": ["keyword", "keyword", "keyword", "regex"],
            "threshold": [0.4, 0.6, None, None],
            "coverage": [0.5, 0.3, 0.25, 0.1],
            "metric": [0.7, 0.8, 0.75, 0.75],
        }
    )
    strata = tuple(
        Stratum(covered_by=name, n=n, accuracy=(0.5 if n else NAN,) * len(methods))
        for name, n in (("labeling functions", 60), ("extension only", 0), ("nothing", 40))
    )
    return Evaluation(
        classes=("ham", "spam"),
        splits=(SplitResult(split=split, n=100, methods=methods, strata=strata),) if methods else (),
        coverage=(Coverage(name="all", n=200, original=80, extended_only=40),),
        shipped=shipped,
        confusion=np.array([[90, 10], [0, 0]]) if methods else None,
        label_counts=(150, 50),
        alternative=None,
        left_out=None,
        harm="1 labeling function seems to harm the labels: regex.",
        certified=Certified(sentence="20 items are certified.", share_by_class=(0.1, 0.1)),
        lfs=lfs if methods else lfs.select(pl.exclude("^test.*$")),
        curves=curves,
        curve_metric="accuracy",
        described=(),
        pairs=LFPairs(
            lfs=("keyword", "regex"),
            correlation=np.array([[1, -0.25], [-0.25, 1]]),
            conflicts=np.array([[0, 0.5], [0.5, 0]]),
        ),
        balances=(Balance(name="Label model", source="uniform", shares=(0.5, 0.5)),),
        examples=(
            ExampleGroup(
                title="Wrong",
                note="On valid.",
                count=7,
                examples=(
                    Example(
                        item="m1",
                        content=(("text", "Good evening"), ("pixels", [0, 1] * 8), ("length", 12)),
                        label="spam",
                        confidence=0.875,
                        gold="ham",
                        votes=("keyword: ham",),
                    ),
                ),
            ),
        ),
        labels_id="0123456789abcdef0123456789abcdef",
        fitness=EmbeddingFitness(
            sentences=("Neighbors share the majority vote.",),
            rows=(NeighborAgreement(labels="majority vote", n=100, chance=0.5, by_rank=((1, 0.9), (2, 0.8))),),
        ),
        facts=(Fact(name="Label model", value="flyingsquid"),),
        findings=(),
        resamples=1000,
        confidence=0.95,
    )


BASELINE = method("majority_vote", 0.8, to_shipped=(-0.15, -0.05))
BETTER = method("label_model_extended", 0.9, to_baseline=(0.05, 0.15))


def judge_methods(*methods: MethodResult, **options) -> tuple[Outcome, str]:
    verdict = judge(evaluation(*methods, **options))
    return verdict.outcome, " ".join([verdict.headline, *verdict.sentences]).replace("\N{NO-BREAK SPACE}", " ")


def test_better():
    outcome, text = judge_methods(BASELINE, BETTER)
    assert outcome is Outcome.BETTER
    assert text == (
        "Better than majority vote On test, the shipped labels (label model, extended votes) are 10.0 points above "
        "majority vote: 90.0 % against 80.0 % of 100 items right (95 % interval of the difference: +5.0 to +15.0)."
    )


def test_an_interval_with_zero_in_it_is_no_clear_difference():
    outcome, text = judge_methods(BASELINE, method("label_model_extended", 0.9, to_baseline=(-0.01, 0.15)))
    assert outcome is Outcome.UNCLEAR
    assert text.startswith("No clear difference from majority vote")


def test_worse_is_said_plainly():
    shipped = method("label_model_extended", 0.7, to_baseline=(-0.15, -0.05), shipped=0.7)
    baseline = method("majority_vote", 0.8, to_shipped=(0.05, 0.15), shipped=0.7)
    outcome, text = judge_methods(baseline, shipped)
    assert outcome is Outcome.WORSE
    assert "Worse than majority vote" in text and "10.0 points below majority vote" in text
    assert "majority vote is the better choice" in text


def test_a_row_that_beats_the_shipped_labels_is_named():
    best = method("gold_only", 0.96, to_shipped=(0.01, 0.11))
    verdict = judge(evaluation(BASELINE, BETTER, best))
    assert verdict.beaten_by == "gold_only" and verdict.outcome is Outcome.BETTER
    assert verdict.headline == "Better than majority vote; the best row is " + name_method("gold_only")
    assert "6.0 points above the shipped labels" in verdict.sentences[1]


def test_a_row_that_may_be_better_by_chance_is_no_headline():
    close = method("gold_only", 0.91, to_shipped=(-0.02, 0.04))
    verdict = judge(evaluation(BASELINE, BETTER, close))
    assert verdict.beaten_by is None and verdict.headline == "Better than majority vote"
    assert verdict.sentences[1].endswith(": no clear difference.")


def test_shipped_majority_vote_is_not_compared_with_itself():
    outcome, text = judge_methods(method("majority_vote", 0.8, shipped=0.8), shipped="majority_vote")
    assert outcome is Outcome.UNCLEAR and text.startswith("The shipped labels are majority vote")
    assert "above" not in text and "below" not in text


def test_without_intervals_nothing_is_claimed():
    outcome, text = judge_methods(
        BASELINE, method("label_model_extended", 0.9, to_baseline=(NAN, NAN), to_shipped=(NAN, NAN))
    )
    assert outcome is Outcome.UNCLEAR and "may be chance" in text


@pytest.mark.parametrize(("split", "words"), [(Split.VALID, "flatter"), (Split.TRAIN, "withheld")])
def test_weaker_evidence_is_called_so(split, words):
    assert words in judge_methods(BASELINE, BETTER, split=split)[1]


def test_without_gold_there_is_no_verdict():
    outcome, text = judge_methods()
    assert outcome is Outcome.UNKNOWN and "cannot be checked" in text


class Page(HTMLParser):
    """Collects what a page holds, and refuses tags that do not close."""

    VOID = frozenset({"meta", "br", "link", "img", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.open, self.links, self.words = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in {"src", "href", "xlink:href", "srcset"}]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_needs_nothing_else():
    text = render_page(evaluation(BASELINE, BETTER))
    page = Page(text)
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    assert page.links and all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(re.findall(r' id="([^"]+)"', text))
    assert page.tags.count("script") == 1 and "<script>\n// Sorting" in text
    assert "://" not in text and "@import" not in text and not re.search(r"url\((?!#)", text)
    # Reliability of two methods, metric and coverage of the one extended LF, two heat maps, the picture of an item.
    assert page.tags.count("svg") == 2 + 2 + 2 + 1


def test_the_page_without_gold_is_whole():
    page = Page(render_page(evaluation()))
    assert any("cannot be checked" in words for words in page.words)


def test_text_of_users_never_becomes_markup():
    evil = replace(
        evaluation(BASELINE, BETTER),
        classes=(EVIL, "spam"),
        facts=(Fact(name=EVIL, value=EVIL),),
        findings=(EVIL,),
        curve_metric=EVIL,
        balances=(Balance(name=EVIL, source=EVIL, shares=(0.5, 0.5)),),
        examples=(
            ExampleGroup(
                title="Wrong",
                note="",
                count=1,
                examples=(
                    Example(item=EVIL, content=(("text", EVIL),), label=EVIL, confidence=1.0, gold=EVIL, votes=(EVIL,)),
                ),
            ),
        ),
        pairs=replace(evaluation(BASELINE).pairs, lfs=(EVIL, "regex")),
    )
    evil = replace(evil, lfs=evil.lfs.with_columns(polarity=pl.lit(EVIL)))
    page = Page(render_page(evil))
    assert page.tags.count("script") == 1
    # Tables of certified labels and of classes, matrix twice, class balance, the curves, a fact's name and value, a finding; a balance's name and
    # source; an item's label, text and votes.
    assert sum(words.strip() == EVIL for words in page.words) == 9 + 2 + 4
    assert page.words.count(EVIL.replace("|", ", ")) == 2  # what the two LFs vote for
    summary = render_summary(evil)
    assert "<script" not in summary


def test_markdown_is_harmless():
    result = method("label_model_extended", 0.9, to_baseline=(0.05, 0.15))
    summary = render_summary(evaluation(BASELINE, result))
    rows = [line for line in summary.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {6}
    assert escape_markdown("a|b <i> `c` [d](e)") == r"a\|b &lt;i&gt; \`c\` \[d\](e)"


def test_every_color_of_a_plot_has_a_dark_counterpart():
    text = render_page(evaluation(BASELINE, BETTER))
    dark = text[text.index("prefers-color-scheme") : text.index("* { box-sizing")]
    used = {
        color for svg in re.findall(r"<svg.*?</svg>", text, re.S) for color in re.findall(r'"(#[0-9a-fA-F]{3,8})"', svg)
    }
    assert used and all(f'[fill="{color}"]' in dark and f'[stroke="{color}"]' in dark for color in used)


def test_worth_stands_beside_labeling_functions_and_those_that_harm_are_named():
    base = evaluation(BASELINE, BETTER)
    text = render_page(base)
    assert "<span>+1.25</span>" in text and "regex <small>harms</small>" in text
    assert "<p>1 labeling function seems to harm the labels: regex.</p>" in text
    assert "1 labeling function seems to harm the labels: regex." in render_summary(base)
    quiet = replace(base, harm=None, lfs=base.lfs.with_columns(is_muted=pl.col("is_harmful")))
    text = render_page(quiet)
    assert "seems to harm" not in text + render_summary(quiet) and "regex <small>muted</small>" in text


def test_many_labeling_functions_stay_a_page():
    base = evaluation(BASELINE, BETTER)
    lfs = pl.concat([base.lfs[:1]] * 100).with_columns(lf=pl.Series([f"lf_{i:03}" for i in range(100)]))
    curves = pl.DataFrame(
        [(lf, step / 50, step / 50, step / 50) for lf in lfs["lf"] for step in range(50)],
        schema=["lf", "threshold", "coverage", "metric"],
        orient="row",
    )
    text = render_page(replace(base, lfs=lfs, curves=curves))
    assert len(text.encode()) < 2_000_000
    assert all(f"lf_{i:03}" in text for i in range(100))
    assert text.count("<svg") == 2 + 2 * 12 + 3


def test_with_too_many_classes_for_a_matrix_the_worst_pairs_are_listed():
    k = 30
    confusion = np.eye(k, dtype=np.int64) * 5
    confusion[7, 9] = 4321
    wide = replace(
        evaluation(BASELINE, BETTER),
        classes=tuple(f"class {c}" for c in range(k)),
        confusion=confusion,
        label_counts=(1,) * k,
        balances=(Balance(name="Label model", source="uniform", shares=(1 / k,) * k),),
        certified=Certified(sentence="", share_by_class=(0.5,) * k),
    )
    P = np.eye(k)
    scores = metrics.score(P, np.arange(k))
    methods = tuple(replace(row, scores=scores) for row in wide.splits[0].methods)
    text = render_page(replace(wide, splits=(replace(wide.splits[0], methods=methods),)))
    assert "4,321" in text and 'class="matrix"' not in text


def test_the_methods_stand_in_a_table_per_split_of_which_one_is_shown():
    base = evaluation(BASELINE, BETTER)
    valid = replace(base.splits[0], split=Split.VALID)
    lfs = base.lfs.with_columns(pl.col("^test_.*$").name.map(lambda name: name.replace("test", "valid")))
    text = render_page(replace(base, splits=(base.splits[0], valid), lfs=lfs))
    assert re.findall(r'<input type="radio" name="split" id="split-(\w+)"( checked)?>', text) == [
        ("test", " checked"),
        ("valid", ""),
    ]
    for split in ("test", "valid"):
        assert f'id="methods-{split}"' in text
        assert f"#split-{split}:checked ~ #methods-{split} {{ display: block }}" in text


def test_only_extended_functions_have_a_threshold_chart():
    base = evaluation(BASELINE, BETTER)
    curves = pl.concat([base.curves, base.curves.with_columns(lf=pl.lit("regex"))])
    figures = re.findall(r"<figcaption>(\w+)<br><small>threshold", render_page(replace(base, curves=curves)))
    assert figures == ["keyword"]


def test_calibration_shows_what_ships_and_majority_vote_and_folds_the_rest():
    third = method("gold_only", 0.85)
    text = render_page(evaluation(BASELINE, BETTER, third))
    before, _, folded = text.partition("<details><summary>The other method</summary>")
    assert "Label model, extended votes<br><small>calibration error" in before
    assert "Logistic regression on valid gold alone<br><small>calibration error" in folded
    assert before.count(">accuracy</text>") == 2 == before.count(">confidence</text>")


def test_many_classes_of_a_function_are_counted():
    base = evaluation(BASELINE, BETTER)
    wide = base.lfs.with_columns(polarity=pl.lit("|".join(f"class {c}" for c in range(77))))
    text = render_page(replace(base, lfs=wide))
    assert "class 0, class 1, class 2, class 3, class 4 and 72 more" in text


def test_an_item_is_shown_with_its_text_label_gold_and_votes():
    page = Page(render_page(evaluation(BASELINE, BETTER)))
    words = " ".join(words.strip() for words in page.words if words.strip())
    assert "Wrong · 7 items" in words and "Good evening" in words and "length: 12" in words
    assert "gold ham" in words and "keyword: ham" in words and "m1" in words


def test_the_page_names_the_labels_by_their_content():
    text = render_page(evaluation(BASELINE, BETTER))
    assert ">0123456789ab</span>" in text and text.count("<!-- where it is shown -->") == 1


def test_equal_evaluations_give_equal_pages():
    assert render_page(evaluation(BASELINE, BETTER)) == render_page(evaluation(BASELINE, BETTER))


def test_the_name_of_an_unknown_method_is_made_from_its_own():
    assert name_method("my_own_model") == "My own model"
    assert order_methods(["liger", "label_model_raw", "majority_vote"]) == [
        "majority_vote",
        "label_model_raw",
        "liger",
    ]


@pytest.mark.parametrize(
    ("value", "points", "gap"),
    [
        (0.0312, "+3.1", "3.1 points above"),
        (-0.004, "\N{MINUS SIGN}0.4", "0.4 points below"),
        (-0.0001, "0.0", "level with"),
        (0.0005001, "+0.1", "0.1 points above"),
    ],
)
def test_differences_in_points_and_words(value, points, gap):
    assert format_points(value) == points
    assert format_gap(value) == gap


def test_undefined_is_a_dash():
    dash = "\N{EN DASH}"
    assert format_share(NAN) == format_points(NAN) == format_number(NAN) == dash


def test_a_curve_without_gold_shows_coverage_alone():
    base = evaluation(BASELINE, BETTER)
    text = render_page(replace(base, curves=base.curves.with_columns(metric=pl.lit(None, pl.Float64))))
    assert "NaN" not in text.partition("<script>")[0] and text.count("<svg") == 2 + 1 + 3


DESCRIBED = {
    "lf": "description",
    "why": "muted: why",
    "notes": ["a note"],
    "classes": [
        {"class": "ham", "votes": 1200, "share": 0.3, "evidence": "votes", "curve": [0.9, *[0.75] * 9]},
        {"class": "spam & eggs", "votes": 7, "share": 0.1, "evidence": "none", "curve": [None] * 10},
    ],
}


def test_what_is_said_of_descriptions() -> None:
    assert describe_descriptions({"lf": None}) == []
    assert describe_descriptions(DESCRIBED) == ["'description' muted: why", "a note"]


def test_how_far_a_class_votes_by_its_description_is_drawn_with_the_cut() -> None:
    base = evaluation(BASELINE, BETTER)
    assert 'id="described"' not in render_page(base)
    text = render_page(replace(base, described=read_described(DESCRIBED)))
    figures = re.findall(
        r"<figcaption>([^<]+)<br><small>(1,200[^<]+)</small></figcaption>(<svg.+?</svg>)", text, re.DOTALL
    )
    assert [(title, note.replace("\N{NO-BREAK SPACE}", " ")) for title, note, _ in figures] == [
        ("ham", "1,200 votes, on 30 % of its items; by votes")
    ]
    # The rule stands at 30 % of the plot's 220 pixels.
    assert re.search(r'aria-roledescription="rule mark".*transform="translate\(66,', figures[0][2])
    assert "Shown are 1 of 2 classes" in text and "NaN" not in text.partition("<script>")[0]
