"""Labeling functions of Snorkel's form run unchanged, and those that take a line vote as they say."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from epoxy_flow import apply_lfs
from tasks.errors import LabelingFunctionError
from tasks.labeling import compare_lf, examples_lf, keyword_lf, lookup_lf, probability_lf
from tasks.lf.fingerprint import Fingerprints
from tasks.lf.functions import read_items
from tasks.lf.loading import load_lfs, load_module, project_lfs
from tasks.lf.snorkel import adapt_snorkel_lf, is_snorkel_lf

CLASSES = ("ham", "spam")


class LabelingFunction:
    """An object with the parts that Snorkel's labeling functions have."""

    def __init__(
        self, name: str, f: Callable[..., int], resources: dict[str, Any] | None = None, pre: Any = None
    ) -> None:
        self.name, self._f, self._resources, self._pre = name, f, resources or {}, pre or []

    def __call__(self, x: Any) -> int:
        for preprocessor in self._pre:
            x = preprocessor(x)
        return self._f(x, **self._resources)


class Preprocessor:
    """An object with the parts that Snorkel's preprocessors have; `calls` are the texts that it was given."""

    def __init__(self, name: str, f: Callable[[Any], Any]) -> None:
        self.name, self._f = name, f
        self.calls: list[str] = []

    def __call__(self, x: Any) -> Any:
        self.calls.append(x.text)
        return self._f(pickle.loads(pickle.dumps(x)))


def add_length(x: Any) -> Any:
    x.length = len(x.text)
    return x


def add_half(x: Any) -> Any:
    x.half = x.length // 2
    return x


ITEMS = pl.DataFrame({"text": ["check this", "hi"], "item_id": ["a", "b"]})


def test_resources_fields_and_preprocessors_are_those_of_snorkel() -> None:
    length, half = Preprocessor("length", add_length), Preprocessor("half", add_half)
    lfs = [
        LabelingFunction("words", lambda x, words: 1 if words & {*x.text.split()} else -1, {"words": {"check"}}),
        LabelingFunction("short", lambda x: 0 if x.length < 4 else -1, pre=[length]),
        LabelingFunction("halves", lambda x: 0 if x.half < 2 else 1, pre=[length, half]),
        LabelingFunction("long", lambda x: 1 if x.length > 4 else -1, pre=[length]),
    ]
    found = apply_lfs(ITEMS, lfs, CLASSES)  # type: ignore[arg-type]
    assert found.to_dict(as_series=False) == {
        "words": ["spam", None], "short": [None, "ham"], "halves": ["spam", "ham"], "long": ["spam", None],
    }  # fmt: skip
    # As Snorkel itself asks them: with an object whose attributes are the columns.
    from types import SimpleNamespace

    points = [SimpleNamespace(**row) for row in ITEMS.iter_rows(named=True)]
    for lf in lfs:
        expected = [CLASSES[vote] if (vote := lf(point)) >= 0 else None for point in points]
        assert found[lf.name].to_list() == expected


def test_a_preprocessor_runs_once_per_item_for_all_labeling_functions() -> None:
    length, half = Preprocessor("length", add_length), Preprocessor("half", add_half)
    lfs = [
        adapt_snorkel_lf(LabelingFunction(f"lf{at}", lambda x: x.length % 2, pre=[length, half][: 1 + at % 2]))
        for at in range(4)
    ]
    rows = read_items(ITEMS)
    for lf in lfs:
        for row in rows:
            lf.function(row)
    assert sorted(length.calls) == sorted(half.calls) == ["check this", "hi"]


def test_what_is_no_labeling_function_of_snorkel() -> None:
    assert is_snorkel_lf(LabelingFunction("a", lambda x: 0))
    assert not is_snorkel_lf(LabelingFunction)
    assert not is_snorkel_lf(Preprocessor("a", lambda x: x))
    assert not is_snorkel_lf(keyword_lf("a", column="text", keywords=["a"], label=0))
    assert not is_snorkel_lf(lambda x: 0)


def test_a_preprocessor_that_returns_nothing_is_named() -> None:
    lf = LabelingFunction("short", lambda x: 0, pre=[Preprocessor("nothing", lambda x: None)])
    with pytest.raises(LabelingFunctionError, match="'short', row 0: ValueError: preprocessor 'nothing' returned None"):
        apply_lfs(ITEMS, [lf], CLASSES)  # type: ignore[list-item]


SNORKEL_MODULE = """\
import re

class LabelingFunction:
    def __init__(self, name, f, resources=None, pre=None):
        self.name, self._f, self._resources, self._pre = name, f, resources or {}, pre or []

    def __call__(self, x):
        return self._f(x, **self._resources)

def labeling_function(name=None, resources=None, pre=None):
    return lambda f: LabelingFunction(name or f.__name__, f, resources, pre)

@labeling_function()
def check(x):
    return 1 if re.search("check", x.text) else -1

@labeling_function(name="words", resources={"words": ["hi"]})
def w(x, words):
    return 0 if x.text in words else -1

lfs = [check, w]
"""


def write_module(root: Path, text: str) -> None:
    (root / "lfs").mkdir(exist_ok=True)
    (root / "lfs" / "mine.py").write_text(text, encoding="utf-8")


def test_a_module_of_them_is_loaded_once_each_by_name_and_cached(tmp_path: Path) -> None:
    write_module(tmp_path, SNORKEL_MODULE)
    found = load_lfs(tmp_path, "lfs/mine.py")
    assert [lf.name for lf in found] == ["check", "words"]
    assert apply_lfs(ITEMS, found, CLASSES).rows() == [("spam", None), (None, "ham")]

    def identify() -> list[str | None]:
        with project_lfs(tmp_path):
            module = load_module(tmp_path, "lfs/mine.py")
            return [Fingerprints(tmp_path, module).identify_lf(lf) for lf in module.lfs]

    before = identify()
    assert None not in before
    write_module(tmp_path, SNORKEL_MODULE.replace('"words": ["hi"]', '"words": ["hello"]'))
    after = identify()
    assert after[0] == before[0] and after[1] != before[1]


def test_snorkel_itself(tmp_path: Path) -> None:
    pytest.importorskip("snorkel.labeling", reason="snorkel is not installed; its form is made by hand above")
    write_module(
        tmp_path,
        "from snorkel.labeling import LabelingFunction, labeling_function\n"
        "from snorkel.preprocess import preprocessor\n"
        "@preprocessor(memoize=True)\n"
        "def lower(x):\n    x.text = x.text.lower()\n    return x\n"
        "@labeling_function(pre=[lower])\n"
        "def check(x):\n    return 1 if 'check' in x.text else -1\n"
        "words = [LabelingFunction(f'word_{w}', lambda x, w: 0 if w in x.text else -1, dict(w=w)) for w in ['hi', 'yo']]\n",
    )
    found = apply_lfs(ITEMS.with_columns(pl.col("text").str.to_uppercase()), load_lfs(tmp_path, "lfs/mine.py"), CLASSES)
    assert found.to_dict(as_series=False) == {"check": ["spam", None], "word_hi": [None, None], "word_yo": [None, None]}


def test_comparisons() -> None:
    items = pl.DataFrame({"n": [1, 5, 9, None], "m": [1, 6, 8, 1]})
    votes = {
        "equal": compare_lf("a", column="n", equal=5, label="x")(items).to_list(),
        "both": compare_lf("a", column="n", above=1, below=9, label="x")(items).to_list(),
        "edges": compare_lf("a", column="n", at_least=1, at_most=5, label="x")(items).to_list(),
        "other": compare_lf("a", column="n", above=pl.col("m"), label="x")(items).to_list(),
    }
    assert votes == {
        "equal": [None, "x", None, None], "both": [None, "x", None, None], "edges": ["x", "x", None, None],
        "other": [None, None, "x", None],
    }  # fmt: skip
    with pytest.raises(LabelingFunctionError, match="nothing to compare with"):
        compare_lf("a", column="n", label="x")


def test_look_ups_and_files_beside_the_module(tmp_path: Path) -> None:
    (tmp_path / "lfs").mkdir()
    (tmp_path / "lfs" / "cities.txt").write_text("# of Europe\nPARIS\n\n Straße \n", encoding="utf-8")
    write_module(
        tmp_path,
        "from tasks.labeling import keyword_lf, lookup_lf, read_entries\n"
        "city = lookup_lf('city', column='text', entries='cities.txt', label='spam')\n"
        "inside = keyword_lf('inside', column='text', keywords=read_entries('cities.txt'), label='spam')\n",
    )
    items = pl.DataFrame({"text": ["paris", "in Paris", "STRASSE", None]})
    found = apply_lfs(items, load_lfs(tmp_path, "lfs/mine.py"), CLASSES)
    assert found["city"].to_list() == ["spam", None, "spam", None]
    assert found["inside"].to_list() == ["spam", "spam", None, None]
    exact = lookup_lf("exact", column="text", entries=["paris"], label="x", case_insensitive=False)
    assert exact(pl.DataFrame({"text": ["paris", "Paris"]})).to_list() == ["x", None]
    for entries, said in (([" "], "has no entry"), ("no.txt", "cannot be read")):
        with pytest.raises(LabelingFunctionError, match=said):
            lookup_lf("a", column="text", entries=entries, label="x")


def test_probabilities_with_cut_offs() -> None:
    items = pl.DataFrame({"p": [1.0, 0.9, 0.5, 0.2, float("nan"), None]})
    high = probability_lf("a", column="p", label="x", at_least=0.9)
    assert high(items).to_list() == ["x", "x", None, None, None, None]
    both = probability_lf("a", column="p", label="x", at_least=0.9, otherwise="y", at_most=0.2)
    assert both(items).to_list() == ["x", "x", None, "y", None, None]
    for wrong in (
        {"at_least": 90},
        {"at_least": 0.5, "at_most": 0.5, "otherwise": "y"},
        {"at_least": 0.5, "at_most": 0.1},
    ):
        with pytest.raises(LabelingFunctionError, match="'a'"):
            probability_lf("a", column="p", label="x", **wrong)  # type: ignore[arg-type]


def test_examples_are_named_by_id() -> None:
    lf = examples_lf("a", ids=[7, 8], label="x")
    assert lf(pl.DataFrame({"item_id": [7, 9]})).to_list() == ["x", None]
    assert lf(pl.DataFrame({"item_id": ["8", "9"]})).to_list() == ["x", None]
    for ids in ("i7", []):
        with pytest.raises(LabelingFunctionError, match="expected a list of at least one"):
            examples_lf("a", ids=ids, label="x")


WORKERS = "from tasks.labeling import worker_lfs\ncrowd = worker_lfs('answers.csv')\n"


def test_a_crowd_is_a_labeling_function_per_worker(tmp_path: Path) -> None:
    write_module(tmp_path, WORKERS)
    table = tmp_path / "lfs" / "answers.csv"
    table.write_text("item_id,worker,answer\na,ann b,spam\nb,ann b,ham\na,ben,ham\na,ben,ham\n", encoding="utf-8")
    found = apply_lfs(ITEMS, load_lfs(tmp_path, "lfs/mine.py"), CLASSES)
    assert found.to_dict(as_series=False) == {"worker_ann_b": ["spam", "ham"], "worker_ben": ["ham", None]}
    for content, said in (
        ("item_id,who,answer\na,ann,spam\n", "no column 'worker'; it has item_id, who, answer"),
        ("item_id,worker,answer\na,ann,spam\na,ann,ham\n", "'ann' answers item 'a' in two ways"),
        ("item_id,worker,answer\na,a b,spam\na,a_b,ham\n", "two workers are called 'worker_a_b'"),
    ):
        table.write_text(content, encoding="utf-8")
        with pytest.raises(LabelingFunctionError, match=said):
            load_lfs(tmp_path, "lfs/mine.py")
