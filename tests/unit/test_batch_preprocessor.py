"""Preprocessors of many texts at once: each item goes through one only once, failures are told by item, votes are remembered."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from epoxy_flow import apply_lfs
from tasks.errors import LabelingFunctionError
from tasks.labeling import ABSTAIN, batch_preprocessor, labeling_function
from tasks.lf.fingerprint import Fingerprints
from tasks.lf.functions import OnError, read_items
from tasks.lf.loading import load_module, project_lfs
from tasks.lf.preprocess import BatchPreprocessor, Process
from tasks.lf.voting import apply_rowwise

CLASSES = ("ham", "spam")
ITEMS = pl.DataFrame({"item_id": ["a", "b", "c"], "text": ["win 3 now", "hi", "7 or 8"]})


class Pipeline:
    """Has the shape of a spaCy pipeline: `pipe` takes texts and yields documents; `calls` are the texts of each call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def pipe(self, texts: list[str]) -> Iterator[list[str]]:
        self.calls.append(list(texts))
        for text in texts:
            if "!" in text:
                raise ValueError(f"no words in {text}")
            yield text.split()


class Nobody:
    """Takes progress and shows it to nobody."""

    def advance(self, n: int = 1) -> None:
        pass


def make(pipeline: Pipeline) -> BatchPreprocessor:
    return batch_preprocessor("doc", column="text", load=lambda: pipeline.pipe)


def test_items_go_through_together_and_once_for_all_labeling_functions() -> None:
    pipeline = Pipeline()
    doc = make(pipeline)

    @labeling_function(pre=[doc])
    def digits(item):  # type: ignore[no-untyped-def]
        return "spam" if any(word.isdigit() for word in item.doc) and "text" in item else ABSTAIN

    short = labeling_function(name="short", pre=[doc])(lambda item: "ham" if len(item.doc) < 2 else ABSTAIN)
    found = apply_lfs(ITEMS, [digits, short], CLASSES)
    assert found["digits"].to_list() == ["spam", None, "spam"]
    assert found["short"].to_list() == [None, "ham", None]
    # Votes are asked for twice, to see that they stay the same.
    assert {tuple(call) for call in pipeline.calls} == {tuple(ITEMS["text"])}
    assert len(pipeline.calls) <= 2
    assert digits({"text": "win 3"}) == "spam" and pipeline.calls[-1] == ["win 3"]


def test_an_item_that_fails_is_named_and_the_others_are_asked() -> None:
    bad = ITEMS.with_columns(text=pl.Series(["win 3", "!", "7"]))
    doc = make(Pipeline())
    strict = labeling_function(name="strict", pre=[doc])(lambda item: "spam" if item.doc else ABSTAIN)
    with pytest.raises(LabelingFunctionError, match="'strict', row 1: ValueError: no words in !"):
        apply_lfs(bad, [strict], CLASSES)
    votes = apply_rowwise(Path(), replace(strict, on_error=OnError.ABSTAIN), read_items(bad), CLASSES, Nobody())
    assert votes.votes.tolist() == [1, -1, 1] and [failure.row for failure in votes.failures] == [1]


def test_a_result_for_each_text_is_asked_for() -> None:
    def load() -> Process:
        return lambda texts: texts[1:]

    lf = labeling_function(name="lf", pre=[batch_preprocessor("doc", column="text", load=load)])(lambda item: "ham")
    with pytest.raises(LabelingFunctionError, match="preprocessor 'doc' returned 0 results for 1 values"):
        apply_lfs(ITEMS, [lf], CLASSES)


@pytest.mark.parametrize("name", ["text", "the doc", ""])
def test_names_that_items_cannot_have(name: str) -> None:
    with pytest.raises(LabelingFunctionError, match="cannot name a preprocessor of column 'text'"):
        batch_preprocessor(name, column="text", load=lambda: lambda texts: texts)


MODULE = """
import string

from tasks.labeling import ABSTAIN, batch_preprocessor, labeling_function


def load():
    return lambda texts: [text.split(SEPARATOR) for text in texts]


SEPARATOR = "{separator}"
words = batch_preprocessor("words", column="text", load=load)


@labeling_function(pre=[words])
def short(item):
    return "ham" if len(item.words) < 2 else ABSTAIN
"""


def test_votes_are_remembered_by_the_code_that_loads_a_preprocessor(tmp_path: Path) -> None:
    (tmp_path / "lfs").mkdir()
    digests = []
    for separator in (" ", " ", "-"):
        (tmp_path / "lfs/mine.py").write_text(MODULE.replace("{separator}", separator))
        with project_lfs(tmp_path):
            module = load_module(tmp_path, "lfs/mine.py")
            digests.append(Fingerprints(tmp_path, module).identify_lf(module.lfs[0]))
    assert None not in digests and digests[0] == digests[1] != digests[2]
