"""What Python users get wrong: an argument of another type is told by its name, before anything is read."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from epoxy_flow import Project, apply_lfs, lf_summary, open_project
from tasks.errors import LabelingFunctionError
from tasks.labeling import keyword_lf, labeling_function
from tasks.lf.shards import require_fixed_hashes

CLASSES = ["HAM", "SPAM"]
TEXTS = pl.DataFrame({"text": ["x", "y"]})
LF = keyword_lf("a", column="text", keywords=["x"], label="SPAM")
VOTES = pl.DataFrame({"a": ["SPAM", None]})

PROJECT: list[tuple[Callable[[Any], object], str]] = [
    (lambda project: open_project(3), r"path: got 3 \(int\); expected a folder"),
    (lambda project: project.items(ids="i7"), r"ids: got 'i7' \(str\); expected a list, such as \['i7'\]"),
    (lambda project: project.items(labels="SPAM"), "labels: got 'SPAM'"),
    (lambda project: project.items(votes=[3]), "votes: got 3"),
    (lambda project: project.items(right="yes"), "right: got 'yes'.*True, False or None"),
    (lambda project: project.items(limit=3.5), "limit: got 3.5.*a whole number"),
    (lambda project: project.items(near_threshold="x"), "near_threshold: got 'x'.*a number"),
    (lambda project: project.items(conflict=("a",)), "conflict: got .*two labeling functions"),
    (lambda project: project.items(text=3), "text: got 3.*a text"),
    (lambda project: project.try_lf(lambda item: None), "lf: got .*becomes one by labeling_function"),
    (lambda project: project.try_lf("a", count="5"), "count: got '5'"),
    (lambda project: project.suggest(least_precision="a"), "least_precision: got 'a'"),
    (lambda project: project.next_items(seed="3"), "seed: got '3'"),
    (lambda project: project.labels(release=3), "release: got 3"),
]


@pytest.mark.parametrize(("ask", "said"), PROJECT)
def test_a_project_names_the_argument(ask: Callable[[Any], object], said: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=f"^{said}"):
        ask(Project(tmp_path))


def test_frames_of_no_kind_and_lfs_that_are_none() -> None:
    wrong: list[tuple[Any, Any, Any, str]] = [
        ([{"text": "x"}], [LF], CLASSES, "frame: got list"),
        (TEXTS, LF, CLASSES, "lfs: got PatternLF"),
        (TEXTS, [lambda item: 1], CLASSES, "lfs: got <function .*becomes one by labeling_function"),
        (TEXTS, [LF], "SPAM", "classes: got 'SPAM'"),
        (TEXTS, [LF], [0, 1], "classes: got 0"),
    ]
    for frame, lfs, classes, said in wrong:
        with pytest.raises(TypeError, match=f"^{said}"):
            apply_lfs(frame, lfs, classes)
    with pytest.raises(LabelingFunctionError, match="more than one labeling function is called 'a'"):
        apply_lfs(TEXTS, [LF, LF], CLASSES)
    assert apply_lfs(TEXTS, [labeling_function(lambda item: 1)], CLASSES).columns == ["lf_0"]


def test_votes_and_gold_of_another_length_or_of_no_class() -> None:
    assert lf_summary(VOTES.to_pandas(), CLASSES, ["SPAM", None])["precision"].to_list() == [1.0]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^gold: got 3 values; expected one for each of 2 rows of votes"):
        lf_summary(VOTES, CLASSES, pl.Series(["SPAM"] * 3))
    with pytest.raises(ValueError, match=r"^gold: 'spam' is none of the classes HAM, SPAM"):
        lf_summary(VOTES, CLASSES, pl.Series(["spam", None]))
    with pytest.raises(ValueError, match=r"^votes, column 'a': '1' is none of the classes"):
        lf_summary(pl.DataFrame({"a": [1, None]}), CLASSES)
    with pytest.raises(TypeError, match=r"^votes: got list"):
        lf_summary([1], CLASSES)  # type: ignore[arg-type]


def hashes(item: Any) -> str:
    return CLASSES[hash(item.text) % 2]


@labeling_function
def by_hash(item: Any) -> str:
    return hashes(item)


def test_hashes_that_differ_from_those_of_stages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    with pytest.warns(
        UserWarning, match=r"'by_hash' calls hash\(\), which in this process .*PYTHONHASHSEED=6640, or use hashlib"
    ):
        apply_lfs(TEXTS, [by_hash], CLASSES)
    with pytest.raises(
        LabelingFunctionError, match=r"'by_hash' \(lfs/mine.py\) calls hash\(\), which differs on a worker on"
    ):
        require_fixed_hashes([LF, by_hash], "lfs/mine.py")
    with warnings.catch_warnings(action="error"):
        apply_lfs(TEXTS, [LF], CLASSES)
        require_fixed_hashes([LF], "lfs/mine.py")
        monkeypatch.setenv("PYTHONHASHSEED", "6640")
        apply_lfs(TEXTS, [by_hash], CLASSES)
        require_fixed_hashes([by_hash], "lfs/mine.py")
