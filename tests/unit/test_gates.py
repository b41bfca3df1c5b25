"""Gates: every figure counted by hand, limits met exactly, what is missing, and that no candidate slips through."""

import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.releases.figures import (
    EmbeddingFigures,
    Figures,
    LfFigures,
    NewRowFigures,
    SimilarityFigures,
    ValidScores,
    compare_labels,
)
from flows.releases.gates import (
    Comparison,
    GateResult,
    GateVerdict,
    check_age,
    check_gates,
    check_new_rows,
    check_quarantine,
    describe_gates,
    has_failed,
)
from flows.releases.policy import GateLimits

LIMITS = GateLimits.model_validate({"minimum_lf_votes": 10})
OFF = GateLimits.model_validate({name: None for name in GateLimits.model_fields if name[:7] in ("minimum", "maximum") and name not in ("minimum_lf_votes", "minimum_new_rows")} | {"columns": "any"})  # fmt: skip


def lf(votes=20, coverage=0.2, agreement=0.9):
    return LfFigures(votes=votes, coverage=coverage, coverage_extended=coverage, agreement=agreement, threshold=None)


BASE = Figures(
    items=100,
    coverage=0.8,
    coverage_original=0.6,
    labels={"ham": 60, "spam": 40},
    valid=ValidScores(gold=20, accuracy=0.95, macro_f1=0.9),
    lfs={"offer": lf(), "hello": lf()},
    embeddings=EmbeddingFigures(metric="cosine", width=2, centroid=(0.0, 0.0), spread=2.0),
    similarity=SimilarityFigures(quantiles=(0.0, 0.5, 1.0), deviation=0.5),
    columns={"labels.label": "String", "items.text": "String"},
)


def check(limits=LIMITS, flipped=0.0, last=BASE, **changes) -> dict[str, GateResult]:
    candidate = BASE.model_copy(update=changes)
    results = check_gates(limits, candidate, Comparison(last=last, flipped=flipped) if last else None)
    return {result.gate: result for result in results}


def failed(results: dict[str, GateResult]) -> list[str]:
    return [name for name, result in results.items() if result.verdict is GateVerdict.FAILED]


def test_what_did_not_change_passes_every_gate():
    results = check()
    assert {result.verdict for result in results.values()} == {GateVerdict.PASSED, GateVerdict.OFF}
    assert [name for name, result in results.items() if result.verdict is GateVerdict.OFF] == ["valid accuracy"]


def test_the_first_release_says_that_it_has_nothing_to_compare_with():
    results = check(last=None)
    assert results.pop("coverage").verdict is GateVerdict.PASSED
    assert results.pop("valid accuracy").verdict is GateVerdict.OFF
    assert {result.verdict for result in results.values()} == {GateVerdict.NOT_COMPARED}


@pytest.mark.parametrize(
    ("gate", "value", "limits", "changes"),
    [
        ("coverage", 0.4, {"minimum_coverage": 0.5}, {"coverage": 0.4}),
        ("valid accuracy", 0.95, {"minimum_metric": 0.96}, {}),
        ("valid accuracy drop", 0.95 - 0.8, {}, {"valid": ValidScores(gold=20, accuracy=0.8, macro_f1=0.9)}),
        ("valid macro_f1 drop", 0.9 - 0.8, {"metric": "macro_f1"}, {"valid": ValidScores(gold=20, accuracy=0.95, macro_f1=0.8)}),
        ("labels flipped", 0.2, {}, {"flipped": 0.2}),
        # |.6 - .4| and |.4 - .6|, halved
        ("class balance shift", 0.2, {}, {"labels": {"ham": 40, "spam": 60}}),
        # a class that is gone: |.6 - .0| + |.4 - .4| + |.0 - .6|, halved
        ("class balance shift", 0.6, {"columns": "any"}, {"labels": {"spam": 40, "other": 60}}),
        # from .2 to .05 is three quarters of the larger
        ("LF coverage drift", 0.75, {}, {"lfs": {"offer": lf(coverage=0.05), "hello": lf()}}),
        ("LF coverage drift", 1.0, {}, {"lfs": {"offer": lf(votes=0, coverage=0.0, agreement=None), "hello": lf()}}),
        ("LF agreement drift", 0.9 - 0.5, {}, {"lfs": {"offer": lf(agreement=0.5), "hello": lf()}}),
        # 3-4-5, in units of a spread of 2
        ("embedding centroid shift", 5 / 2, {}, {"embeddings": BASE.embeddings.model_copy(update={"centroid": (3.0, 4.0)})}),
        # quantiles move by 0, .3 and .3, in units of a deviation of .5
        ("neighbor similarity shift", 0.2 / 0.5, {}, {"similarity": SimilarityFigures(quantiles=(0.0, 0.2, 0.7), deviation=0.5)}),
        ("columns changed", 1.0, {}, {"columns": {"labels.label": "String", "items.text": "Int64"}}),
        ("columns changed", 2.0, {}, {"columns": {"labels.label": "String", "items.body": "String"}}),
        ("columns changed", 2.0, {}, {"labels": {"spam": 40, "ham": 60}}),
    ],
)  # fmt: skip
def test_each_gate_refuses_alone_and_tells_its_figure(gate, value, limits, changes):
    results = check(GateLimits.model_validate({"minimum_lf_votes": 10} | limits), **changes)
    assert failed(results) == [gate]
    assert results[gate].value == pytest.approx(value, abs=1e-12)


def test_an_lf_is_named_with_those_that_came_and_went():
    result = check(lfs={"offer": lf(agreement=0.1), "new": lf()})["LF agreement drift"]
    assert result.note == "most: offer; new: new; gone: hello"


def test_lfs_with_few_votes_are_luck():
    few = {"offer": lf(votes=9, agreement=0.1), "hello": lf(votes=9)}
    assert not failed(check(lfs=few))  # 20 votes before, 9 now: agreement is not compared, coverage is, and is equal
    silent = {"offer": lf(votes=0, coverage=0.0, agreement=None), "hello": lf()}
    last = BASE.model_copy(update={"lfs": {"offer": lf(votes=9), "hello": lf()}})
    assert not failed(check(last=last, lfs=silent))


def test_a_figure_at_its_limit_passes():
    last = BASE.model_copy(update={"valid": ValidScores(gold=20, accuracy=0.9, macro_f1=0.9)})
    assert 0.9 - 0.85 > 0.05  # in binary
    assert not failed(check(last=last, valid=ValidScores(gold=20, accuracy=0.85, macro_f1=0.9)))
    assert not failed(check(flipped=0.1))
    assert not failed(check(GateLimits.model_validate({"minimum_coverage": 0.8})))


def test_gold_and_embeddings_cannot_get_lost_unnoticed():
    results = check(GateLimits.model_validate({"minimum_metric": 0.5}), valid=None, embeddings=None, similarity=None)
    assert failed(results) == [
        "valid accuracy",
        "valid accuracy drop",
        "embedding centroid shift",
        "neighbor similarity shift",
    ]


def test_what_the_last_release_did_not_have_is_not_compared():
    last = BASE.model_copy(update={"valid": None, "embeddings": None, "similarity": None})
    results = check(last=last, flipped=None)
    assert not failed(results)
    for gate in ("valid accuracy drop", "labels flipped", "embedding centroid shift", "neighbor similarity shift"):
        assert results[gate].verdict is GateVerdict.NOT_COMPARED


def test_other_embeddings_cannot_be_compared_and_fail():
    wider = EmbeddingFigures(metric="cosine", width=3, centroid=(0.0, 0.0, 0.0), spread=1.0)
    result = check(embeddings=wider)["embedding centroid shift"]
    assert result.verdict is GateVerdict.FAILED and "3 wide" in result.note


def test_embeddings_all_alike_that_move_fail():
    last = BASE.model_copy(update={"embeddings": BASE.embeddings.model_copy(update={"spread": 0.0})})
    assert not failed(check(last=last))
    moved = BASE.embeddings.model_copy(update={"centroid": (0.001, 0.0)})
    assert failed(check(last=last, embeddings=moved)) == ["embedding centroid shift"]


shares = st.floats(0, 1, allow_nan=False)


@given(coverage=shares, accuracy=shares, flipped=shares, agreement=shares, limit=shares)
def test_a_gate_fails_exactly_where_its_limit_is_passed_and_off_never_fails(
    coverage, accuracy, flipped, agreement, limit
):
    changes = {
        "coverage": coverage,
        "valid": ValidScores(gold=1, accuracy=accuracy, macro_f1=0.0),
        "lfs": {"offer": lf(agreement=agreement), "hello": lf()},
    }
    names = (
        "minimum_coverage",
        "minimum_metric",
        "maximum_metric_drop",
        "maximum_flipped",
        "maximum_lf_agreement_drift",
    )
    strict = GateLimits.model_validate({**{name: limit for name in names}, "minimum_lf_votes": 10})
    slack = 1e-6  # beyond what a gate forgives as rounding, so that both sides are sure
    results = check(strict, flipped=flipped, **changes)
    distances = {
        "coverage": limit - coverage,
        "valid accuracy": limit - accuracy,
        "valid accuracy drop": (0.95 - accuracy) - limit,
        "labels flipped": flipped - limit,
        "LF agreement drift": abs(agreement - 0.9) - limit,
    }
    for gate, beyond in distances.items():
        if abs(beyond) > slack:
            assert (results[gate].verdict is GateVerdict.FAILED) == (beyond > 0), gate
    assert not failed(check(OFF, flipped=flipped, **changes))


def test_a_gate_that_is_off_tells_its_figure_all_the_same():
    results = check(OFF, flipped=0.7)
    assert results["labels flipped"].value == 0.7
    assert {result.verdict for result in results.values()} == {GateVerdict.OFF}


def test_the_table_has_a_line_for_each_gate():
    results = tuple(check(flipped=0.25).values())
    lines = describe_gates(results).splitlines()
    assert len(lines) == 1 + len(results)
    assert any(line.split() == ["labels", "flipped", "0.25", "0.1", "FAILED"] for line in lines)
    assert has_failed(results)


def test_labels_are_joined_by_id():
    old = pl.DataFrame({"item_id": ["a", "b", "c", "d"], "label": ["x", "x", "y", "y"]})
    new = pl.DataFrame({"item_id": ["b", "c", "d", "e"], "label": ["y", "y", "y", "x"]})
    flips = compare_labels(old, new)
    assert flips.flipped.rows() == [("b", "x", "y")]
    assert (flips.common, flips.new, flips.deleted, flips.share) == (3, 1, 1, 1 / 3)


def test_ids_of_another_type_have_nothing_in_common():
    old = pl.DataFrame({"item_id": ["1"], "label": ["x"]})
    flips = compare_labels(old, pl.DataFrame({"item_id": [1], "label": ["y"]}))
    assert (flips.common, flips.new, flips.deleted, flips.share) == (0, 1, 1, None)


def test_no_figure_is_nan():
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError):
            ValidScores(gold=1, accuracy=value, macro_f1=0.0)


def test_new_rows_are_compared_with_all_that_the_release_knows():
    new = NewRowFigures(
        rows=100,
        embeddings=EmbeddingFigures(metric="cosine", width=2, centroid=(3.0, 4.0), spread=0.0),
        similarity=SimilarityFigures(quantiles=(0.0, 0.2, 0.4), deviation=0.1),
    )
    centroid, similarity = check_new_rows(LIMITS, new, BASE)
    # (3, 4) is 5 away, and the spread is 2; (0 + .3 + .6) / 3 is .3, and the deviation is .5.
    assert (centroid.value, centroid.limit, centroid.verdict) == (5 / 2, 0.5, GateVerdict.FAILED)
    assert similarity.value == pytest.approx(0.3 / 0.5) and similarity.verdict is GateVerdict.FAILED
    assert {result.verdict for result in check_new_rows(OFF, new, BASE)} == {GateVerdict.OFF}
    few = check_new_rows(LIMITS, NewRowFigures(rows=99, embeddings=new.embeddings, similarity=None), BASE)
    assert {result.verdict for result in few} == {GateVerdict.NOT_COMPARED}
    # No neighbor at all, where the release had some.
    lonely = check_new_rows(LIMITS, NewRowFigures(rows=100, embeddings=new.embeddings, similarity=None), BASE)
    assert lonely[1].verdict is GateVerdict.FAILED


def test_rows_in_quarantine_are_counted_beside_the_items():
    limits = GateLimits.model_validate({"maximum_quarantined": 0.25})
    result = check_quarantine(limits, 1, 3)
    assert (result.value, result.verdict, result.note) == (
        1 / 4,
        GateVerdict.PASSED,
        "rows left out because they failed: 1",
    )
    assert check_quarantine(limits, 2, 3).verdict is GateVerdict.FAILED
    assert check_quarantine(limits, 0, 3).note == ""
    assert check_quarantine(OFF, 2, 3).verdict is GateVerdict.OFF


def test_the_age_of_the_newest_item_is_counted_in_hours():
    now = datetime(2026, 1, 2, 12, tzinfo=UTC)
    limits = GateLimits.model_validate({"maximum_age_hours": 36, "time_column": "written"})
    for age, verdict in ((36, GateVerdict.PASSED), (37, GateVerdict.FAILED), (-1, GateVerdict.PASSED)):
        result = check_age(limits, now - timedelta(hours=age), now)
        assert (result.value, result.verdict) == (age, verdict)
    assert check_age(limits, None, now).note == "no time in column 'written'"
    assert has_failed((check_age(limits, None, now),))
    assert check_age(OFF, now, now).verdict is GateVerdict.OFF
    with pytest.raises(ValueError, match="maximum_age_hours needs time_column"):
        GateLimits.model_validate({"maximum_age_hours": 36})
