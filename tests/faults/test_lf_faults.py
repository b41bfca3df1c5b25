"""What labeling functions do that would make votes wrong without a word, or leave a user without an explanation."""

import copy
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasks import apply
from tasks.errors import LabelingFunctionError
from tasks.labeling import keyword_lf, vote_where
from tasks.lf.functions import Item, read_items
from tasks.lf.loading import load_lfs
from tasks.params import ApplyParams
from tasks.tables import schemas
from tasks.tables.parquet import read_table, read_votes, write_table
from tasks.tables.paths import ITEMS, LF_FAILURES, VALID_GOLD, VOTES

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = ("HAM", "SPAM")
HEADER = """import functools, os, random, re, sys, time
from pathlib import Path
import numpy as np
import polars as pl
from tasks.labeling import *
"""


def make_project(root: Path, lfs: str, n: int = 40) -> Path:
    texts = [f"free {row}" if row % 3 == 0 else f"hello {row}" for row in range(n)]
    items = pl.DataFrame(
        {
            "item_id": list(range(n)),
            "split": ["train"] * n,
            "text": texts,
            "number": [row % 7 for row in range(n)],
            "tokens": [text.split() for text in texts],
            "meta": [{"k": row} for row in range(n)],
        }
    )
    write_table(root / ITEMS, items, schemas.ITEMS)
    gold = pl.DataFrame({"item_id": [0], "gold": pl.Series([1], dtype=pl.Int8)})
    write_table(root / VALID_GOLD, gold, schemas.gold(2))
    (root / "lfs").mkdir(exist_ok=True)
    (root / "lfs" / "mine.py").write_text(HEADER + lfs)
    return root


def run(root: Path, classes: tuple[str, ...] = CLASSES) -> pl.DataFrame:
    apply.run(root, classes, ApplyParams(source="lfs/mine.py"))
    return read_votes(root / VOTES, k=len(classes))


def explain(root: Path, classes: tuple[str, ...] = CLASSES) -> str:
    with pytest.raises(LabelingFunctionError) as error:
        run(root, classes)
    assert not (root / VOTES).exists()
    return str(error.value)


def rowwise(body: str, name: str = "a", arguments: str = "") -> str:
    return f"@labeling_function({arguments})\ndef {name}(item):\n    {body}\n"


def vectorized(body: str, name: str = "a") -> str:
    return f"@vectorized_labeling_function\ndef {name}(items):\n    {body}\n"


FREE = [1 if row % 3 == 0 else -1 for row in range(40)]


# Edits after which votes must be asked for again: (lfs, other files, file, before, after).

EDITS = {
    "attribute": (rowwise("return 1 if len(item.text) > has.limit else None") + "def has(): pass\nhas.limit = 6\n", {}, "lfs/mine.py", "= 6", "= 7"),
    "attribute by a decorator": ("def limit(n):\n    def set(f):\n        f.limit = n\n        return f\n    return set\n@limit(6)\ndef has(): pass\n" + rowwise("return 1 if len(item.text) > has.limit else None"), {}, "lfs/mine.py", "limit(6)", "limit(7)"),
    "wrapped": ("def loose(f):\n    @functools.wraps(f)\n    def inner(x): return x\n    return inner\n@loose\ndef has(text): return len(text) > 6\n" + rowwise("return 1 if has.__wrapped__(item.text) else None"), {}, "lfs/mine.py", "> 6", "> 7"),
    "sibling called like a module of Python": (rowwise("from .types import LIMIT\n    return 1 if len(item.text) > LIMIT else None"), {"types.py": "LIMIT = 6\n"}, "lfs/types.py", "6", "7"),
    "lexicon called #": (rowwise("return 1 if len(item.text) > int((Path(__file__).parent / '#limit.txt').read_text()) else None"), {"#limit.txt": "6"}, "lfs/#limit.txt", "6", "7"),
    "Python file read as text": (rowwise("return 1 if len(item.text) > int((Path(__file__).parent / 'limit.py').read_text()) else None"), {"limit.py": "6"}, "lfs/limit.py", "6", "7"),
    "Python file read at import": ("import runpy\nLIMIT = runpy.run_path(str(Path(__file__).parent / 'limit.py'))['LIMIT']\ndef find(): return LIMIT\n" + rowwise("return 1 if len(item.text) > find() else None"), {"limit.py": "LIMIT = 6\n"}, "lfs/limit.py", "6", "7"),
    "environment set at import": ("os.environ['EPOXY_TEST_LIMIT'] = '6'\n" + rowwise("return 1 if len(item.text) > int(os.environ['EPOXY_TEST_LIMIT']) else None"), {}, "lfs/mine.py", "'6'", "'7'"),
    "attribute of a library": ("re.LIMIT = 6\n" + rowwise("return 1 if len(item.text) > re.LIMIT else None"), {}, "lfs/mine.py", "= 6", "= 7"),
    "attribute of a library, elsewhere": ("from lfs import setting\n" + rowwise("return 1 if len(item.text) > re.LIMIT else None"), {"setting.py": "import re\nre.LIMIT = 6\n"}, "lfs/setting.py", "= 6", "= 7"),
    "random state set at import": ("random.seed(6)\nLIMIT = random.random()\n" + rowwise("return 1 if item.number > 6 * LIMIT else None"), {}, "lfs/mine.py", "seed(6)", "seed(1)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_is_never_served_old_votes(tmp_path: Path, kind: str) -> None:
    lfs, files, edited, before, after = EDITS[kind]
    make_project(tmp_path, lfs)
    for name, text in files.items():
        (tmp_path / "lfs" / name).write_text(text)
    first = run(tmp_path)
    path = tmp_path / edited
    assert path.read_text().count(before) == 1
    path.write_text(path.read_text().replace(before, after))
    second = run(tmp_path)
    assert not second.equals(first)


def test_a_linked_folder_is_never_served_old_votes(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "limit.txt").write_text("6")
    root = make_project(
        tmp_path / "project",
        "LIMIT = Path(__file__).parent / 'linked' / 'limit.txt'\n"
        + rowwise("return 1 if len(item.text) > int(LIMIT.read_text()) else None"),
    )
    (root / "lfs" / "linked").symlink_to(tmp_path / "outside")
    first = run(root)
    (tmp_path / "outside" / "limit.txt").write_text("7")
    assert not run(root).equals(first)


def test_the_environment_and_files_elsewhere_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EPOXY_TEST_LIMIT", "6")
    root = make_project(
        tmp_path / "project",
        rowwise("return 1 if len(item.text) > int(os.environ.get('EPOXY_TEST_LIMIT')) else None")
        + rowwise(f"return 1 if len(item.text) > int(open({str(tmp_path / 'limit.txt')!r}).read()) else None", "b"),
    )
    (tmp_path / "limit.txt").write_text("6")
    first = run(root)
    said = capfd.readouterr().err
    assert "labeling function 'a' (lfs/mine.py) reads the environment variable EPOXY_TEST_LIMIT, which no stage" in said
    assert f"labeling function 'b' (lfs/mine.py) reads {tmp_path / 'limit.txt'}, which no stage depends on" in said
    monkeypatch.setenv("EPOXY_TEST_LIMIT", "7")
    (tmp_path / "limit.txt").write_text("7")
    second = run(root)
    assert not second["a"].equals(first["a"]) and not second["b"].equals(first["b"])


OUTSIDE = {
    "while voting": (rowwise("return 1 if open('lexicons/lex.txt').read() in item.text else None"), "labeling function 'a' (lfs/mine.py) reads lexicons/lex.txt (lfs/mine.py, line 8)"),
    "while loading": ("WORD = Path('lexicons/lex.txt').read_text()\n" + rowwise("return 1 if WORD in item.text else None"), "lfs/mine.py reads lexicons/lex.txt (lfs/mine.py, line 6)"),
    "by Polars": ("WORDS = pl.read_csv('lexicons/lex.txt')\n" + rowwise("return 1"), "lfs/mine.py reads lexicons/lex.txt"),
    "while loading, caught": ("try:\n    WORD = open('lexicons/lex.txt').read()\nexcept OSError:\n    WORD = ''\n" + rowwise("return 1"), "lfs/mine.py reads lexicons/lex.txt"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OUTSIDE)
def test_a_file_of_the_project_that_no_stage_depends_on_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    lfs, complaint = OUTSIDE[kind]
    monkeypatch.chdir(make_project(tmp_path, lfs))
    (tmp_path / "lexicons").mkdir()
    (tmp_path / "lexicons" / "lex.txt").write_text("free")
    text = explain(tmp_path)
    assert complaint in text and "no stage depends on" in text and "Put it into lfs/" in text


def test_a_helper_beside_the_project_is_refused_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process, as in `epoxy watch`, where the helper would otherwise be known by the second time."""
    monkeypatch.syspath_prepend(str(tmp_path))
    make_project(tmp_path, "import my_helper_of_test\n" + rowwise("return my_helper_of_test.VOTE"))
    (tmp_path / "my_helper_of_test.py").write_text("VOTE = 1\n")
    for _ in range(2):
        assert "reads my_helper_of_test.py" in explain(tmp_path)
    assert "import it as lfs.my_helper_of_test" in explain(tmp_path)


def test_a_helper_imported_by_its_plain_name_is_read_anew(tmp_path: Path) -> None:
    lfs = "sys.path.insert(0, str(Path(__file__).parent))\ntry:\n    import plain_helper_of_test\nfinally:\n    del sys.path[0]\n"
    make_project(tmp_path, lfs + rowwise("return plain_helper_of_test.VOTE"))
    for vote in (0, 1):
        (tmp_path / "lfs" / "plain_helper_of_test.py").write_text(f"VOTE = {vote}\n")
        assert run(tmp_path)["a"].unique().to_list() == [vote]


@pytest.mark.parametrize(
    "lfs",
    [
        rowwise("return 1 if random.random() < 0.5 else None"),
        "calls = []\n" + rowwise("calls.append(1)\n    return len(calls) % 2"),
        vectorized("return pl.Series(np.random.default_rng().integers(0, 2, items.height))"),
    ],
)
def test_an_lf_that_disagrees_with_itself_is_refused(tmp_path: Path, lfs: str) -> None:
    text = explain(make_project(tmp_path, lfs))
    assert "'a' (lfs/mine.py): its vote on item_id" in text and "asked twice" in text


# Items cannot be changed.


@pytest.mark.parametrize(
    "change",
    ["item.tokens.sort()", "item.tokens[0] = 'x'", "item.meta.pop('k')", "item.meta['k'] = 0", "item.text = 'x'", "item['text'] = 'x'", "del item.text"],
)  # fmt: skip
def test_an_lf_cannot_change_what_others_see(tmp_path: Path, change: str) -> None:
    text = explain(make_project(tmp_path, rowwise(change)))
    assert "'a' (lfs/mine.py) failed on item_id 0" in text and "items are read-only" in text


def test_a_table_that_is_changed_is_the_lfs_own(tmp_path: Path) -> None:
    change = "items.replace_column(items.get_column_index('text'), pl.Series('text', ['x'] * items.height))\n    return pl.lit(0)"
    free = "return vote_where(pl.col('text').str.contains('free'), 1)"
    series = "return pl.Series([1 if 'free' in text else None for text in items['text']])"
    votes = run(make_project(tmp_path, vectorized(change) + vectorized(free, "b") + vectorized(series, "c")))
    assert votes["b"].to_list() == FREE and votes["c"].to_list() == FREE


def test_items_can_be_looked_at_like_a_dictionary() -> None:
    values = {"item_id": 7, "text": "a", "tokens": ["b", "a"], "meta": {"k": [1]}}
    (item,) = read_items(pl.DataFrame({name: [value] for name, value in values.items()}))
    assert dict(item) == values and "text" in item and "txet" not in item and len(item) == 4 and list(item) == [*values]
    for other in (copy.copy(item), copy.deepcopy(item), pickle.loads(pickle.dumps(item))):
        assert isinstance(other, Item) and dict(other) == values
    assert sorted(item.tokens) == ["a", "b"] and [*item.tokens, "c"] == ["b", "a", "c"]
    changed = copy.deepcopy(item.tokens)
    changed.sort()
    assert changed == ["a", "b"] and item.tokens == ["b", "a"]


# Votes in other forms.


@pytest.mark.parametrize("make", [list, tuple, pl.Series])
def test_vote_where_takes_booleans_in_any_form(make: type) -> None:
    items = pl.DataFrame({"text": ["a", "b", "c"]})
    votes = items.with_columns(vote_where(make([True, False, None]), "X").alias("votes"))["votes"]
    assert votes.to_list() == ["X", None, None]


class FakePandas:
    """What is used of a pandas Series; pandas itself is no dependency."""

    def __init__(self, values: list[object]) -> None:
        self.values = values

    def tolist(self) -> list[object]:
        return self.values


FakePandas.__module__ = "pandas.core.series"


def test_a_pandas_series_is_taken() -> None:
    items = pl.DataFrame({"text": ["a", "b", "c"]})
    condition: object = FakePandas([True, False, True])
    votes = items.with_columns(vote_where(condition, "X").alias("votes"))["votes"]  # type: ignore[arg-type]
    assert votes.to_list() == ["X", None, "X"]


@pytest.mark.parametrize("condition", [[1, 0, 1], ["a", "b", "c"], "abc", 3, None])
def test_vote_where_takes_nothing_else(condition: object) -> None:
    with pytest.raises(TypeError, match=r"vote_where|expected an expression"):
        vote_where(condition, "X")  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [None, -1, np.int64(-1), True, np.True_, 1.0, ("X",)])
def test_a_label_that_no_class_can_have_is_refused_by_all_that_take_one(label: object) -> None:
    with pytest.raises(ValueError, match="vote_where got the label"):
        vote_where(pl.col("text") == "a", label)  # type: ignore[arg-type]
    with pytest.raises(LabelingFunctionError, match="'a': label is"):
        keyword_lf("a", column="text", keywords=["a"], label=label)  # type: ignore[arg-type]


# Which LFs vote.


def names(root: Path) -> list[str]:
    return [lf.name for lf in load_lfs(root, "lfs/mine.py")]


def test_lfs_in_any_collection_vote(tmp_path: Path) -> None:
    lf = "keyword_lf('{}', column='text', keywords=['a'], label=1)".format
    lfs = f"one = {{'x': {lf('a')}, 'y': [{lf('b')}, ({lf('c')},)]}}\ntwo = {{{lf('d')}, {lf('e')}, {lf('f')}}}\n"
    assert names(make_project(tmp_path, lfs)) == ["a", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize(
    "lfs",
    [
        rowwise("return 0") + rowwise("return 1"),
        "a = keyword_lf('x', column='text', keywords=['a'], label=1)\na = keyword_lf('y', column='text', keywords=['a'], label=1)\n",
    ],
)
def test_an_lf_whose_name_is_bound_again_is_not_lost(tmp_path: Path, lfs: str) -> None:
    assert "'a' is defined again further down" in explain(make_project(tmp_path, lfs))


def test_functions_without_a_name_take_their_variables(tmp_path: Path) -> None:
    lfs = """
class Has:
    def __call__(self, item): return 1 if "free" in item.text else None
def has(word, item): return 1 if word in item.text else None
one = labeling_function(lambda item: 1 if "free" in item.text else None)
two = labeling_function(functools.partial(has, "free"))
three = labeling_function(Has())
four = vectorized_labeling_function(lambda items: vote_where(pl.col("text").str.contains("free"), 1))
"""
    votes = run(make_project(tmp_path, lfs))
    assert votes.columns[1:] == ["four", "one", "three", "two"]
    assert all(votes[name].to_list() == FREE for name in votes.columns[1:])
    nameless = "lfs = [labeling_function(lambda item: 1)]\n"
    assert "has no name" in explain(make_project(tmp_path / "list", nameless))


@pytest.mark.parametrize(
    "body",
    [
        "return vote_where(pl.col('number') > pl.col('number').mean(), 1)",
        "return vote_where(items['number'] >= items['number'].quantile(0.9), 1)",
        "return vote_where(pl.col('number').is_duplicated(), 1)",
        "return vote_where(pl.col('number') > pl.col('number').max() - 1, 1)",
        "return vote_where(pl.lit(items.height > 20), 1)",
    ],
)
def test_a_vote_that_depends_on_its_batch_is_refused(tmp_path: Path, body: str) -> None:
    assert "changes with the other items of the batch" in explain(make_project(tmp_path, vectorized(body)))


@pytest.mark.parametrize(
    ("lfs", "complaint"),
    [
        ("a = keyword_lf('a', column='text', keywords=['zebra'], label='SPMA')", "'a' (lfs/mine.py): label 'SPMA'; expected a class"),
        ("a = regex_lf('a', column='text', pattern='zebra', label=2)", "label 2; expected a class"),
        ("a = keyword_lf('a', column='number', keywords=['1'], label=1)", "column 'number' is Int64"),
        ("a = keyword_lf('a', column='txet', keywords=['1'], label=1)", "no column 'txet', but item_id, split, text, number"),
        (vectorized("return vote_where(pl.col('txet') == 'a', 1)"), "items have item_id, split, text, number"),
        (vectorized("return vote_where(pl.col('number') > 1, None)"), "ValueError: vote_where got the label None, so that it"),
        (rowwise("raise KeyboardInterrupt"), "failed on item_id 0: KeyboardInterrupt"),
        (vectorized("raise KeyboardInterrupt"), "failed on item_id 0: KeyboardInterrupt"),
        (rowwise("os._exit(0)"), "failed on item_id 0: SystemExit: os._exit(0)"),
        (rowwise("raise GeneratorExit"), "failed on item_id 0: GeneratorExit"),
        (rowwise("import asyncio; raise asyncio.CancelledError"), "failed on item_id 0: asyncio.exceptions.CancelledError"),
        (vectorized("raise BaseExceptionGroup('all', [SystemExit()])"), "failed on item_id 0: BaseExceptionGroup: all"),
        ("raise GeneratorExit\n", "lfs/mine.py cannot be imported"),
        (rowwise("return 'SPAM '"), "'SPAM ' differs from class 'SPAM' in blanks"),
        ("@labeling_function(timeout='3')\ndef f(item): return 1", "timeout is '3'; expected seconds"),
        ("@labeling_function(error_budget='.1')\ndef f(item): return 1", "error_budget is '.1'; expected a share"),
        (rowwise("os.chdir('/')"), "must not change the working directory"),
        ("os.chdir('/')\n", "must not change the working directory"),
        (rowwise("return 'x' * 500_000"), "voted 'xxx"),
        ("pl.Series = None\n" + rowwise("return 1"), "lfs/mine.py replaces polars.Series, with which everything"),
        ("np.full = lambda *given, **named: []\n" + rowwise("return 1"), "lfs/mine.py replaces numpy.full, with"),
        ("del np.full\n" + rowwise("return 1"), "lfs/mine.py replaces numpy.full, with"),
        ("pl.DataFrame.width = 7\n" + rowwise("return 1"), "lfs/mine.py replaces polars.DataFrame.width, with"),
        ("import builtins; builtins.len = lambda it: 1\n" + rowwise("return 1"), "lfs/mine.py replaces builtins.len, with"),
        (rowwise("pl.Series = np.full = None; return 1"), "lfs/mine.py replaces numpy.full, polars.Series, with"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_few_words(tmp_path: Path, lfs: str, complaint: str) -> None:
    before = pl.Series, np.full, len, pl.DataFrame.width
    text = explain(make_project(tmp_path, lfs))
    assert complaint in text and len(text) < 2000
    assert before == (pl.Series, np.full, len, pl.DataFrame.width), "the libraries are as they were"


def test_hashes_of_texts_are_the_same_in_each_process(tmp_path: Path) -> None:
    lfs = rowwise("return 'SPAM' if hash(item.text) % 2 else list({'HAM', 'SPAM', item.text} - {item.text})[0]")
    make_project(tmp_path, lfs)
    (tmp_path / "params.yaml").write_text("classes: [HAM, SPAM]\napply: {source: lfs/mine.py}\n", encoding="utf-8")
    found = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "tasks", "apply"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append((tmp_path / VOTES).read_bytes())
        shutil.rmtree(tmp_path / "data" / ".cache")
    assert found[0] == found[1]


def test_commands_that_ask_lfs_have_the_same_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.cli.main import main

    def execute(path: str, arguments: list[str]) -> None:
        raise SystemExit(f"anew with {os.environ['PYTHONHASHSEED']}")

    monkeypatch.setattr(os, "execv", execute)
    monkeypatch.setattr(sys, "argv", ["epoxy", "try", "first"])
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    with pytest.raises(SystemExit, match="anew with 6640"):
        main()


def test_an_lf_cannot_take_the_streams(tmp_path: Path) -> None:
    before = sys.stderr
    run(make_project(tmp_path, "sys.stderr = None\n" + rowwise("sys.stderr = sys.stdout = None\n    return 1")))
    assert sys.stderr is before


def test_failures_hold_no_addresses(tmp_path: Path) -> None:
    lfs = rowwise("return object()", arguments="on_error='abstain', error_budget=1")
    run(make_project(tmp_path, lfs))
    errors = read_table(tmp_path / LF_FAILURES, schemas.FAILURES)["error"].unique().to_list()
    assert len(errors) == 1 and "object at 0x...>" in errors[0]


def test_what_pythons_import_did_is_no_part_of_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(LabelingFunctionError, match="never closed") as error:
        run(make_project(tmp_path, "words = (\n"))
    assert "lfs/mine.py" in str(error.value) and "import_module" not in str(error.value)


@pytest.mark.parametrize("cookie", ["# -*- coding: latin-1 -*-\n", ""])
def test_a_module_that_is_not_utf8_votes_or_is_told(tmp_path: Path, cookie: str) -> None:
    root = make_project(tmp_path, "")
    text = "WORDS = ['free', 'Stra\u00dfe']\n" if cookie else "# Stra\u00dfe\nWORDS = ['free']\n"
    lf = "a = keyword_lf('a', column='text', keywords=WORDS, label='SPAM')\n"
    head = (root / "lfs" / "mine.py").read_text()
    (root / "lfs" / "mine.py").write_bytes((cookie + head + text + lf).encode("latin-1"))
    try:
        assert run(root)["a"].to_list() == FREE
    except LabelingFunctionError as error:  # some versions of Python take a comment that is no UTF-8, others do not
        assert not cookie and "lfs/mine.py cannot be imported" in str(error)


# Classes that are called like numbers.


@pytest.mark.parametrize(
    "lfs",
    [
        rowwise("return 1"),
        vectorized("return vote_where(pl.col('number') >= 0, 1)"),
        "a = keyword_lf('a', column='text', keywords=['free'], label=1)\n",
    ],
)
@pytest.mark.parametrize("classes", [("1", "2", "3"), ("01", "02"), ("1.0", "2.0")])
def test_a_number_that_may_be_a_name_or_a_position_is_refused(
    tmp_path: Path, lfs: str, classes: tuple[str, ...]
) -> None:
    text = explain(make_project(tmp_path, lfs), classes)
    assert f"class {classes[0]!r} is at position 0, so a number could mean either" in text


def test_names_and_abstain_mean_one_thing(tmp_path: Path) -> None:
    votes = run(make_project(tmp_path, rowwise("return '1' if 'free' in item.text else ABSTAIN")), ("1", "2", "3"))
    assert votes["a"].to_list() == [0 if vote == 1 else -1 for vote in FREE]
    votes = run(make_project(tmp_path / "digits", rowwise("return 1")), ("0", "1"))
    assert votes["a"].unique().to_list() == [1]


# Slow and deadly LFs.


def test_an_lf_that_takes_too_long_abstains_or_stops(tmp_path: Path) -> None:
    hang = "re.match('(a+)+$', 'a' * 40 + 'b') if item.item_id == 35 else None"
    lfs = rowwise(hang + "\n    return 1", arguments="timeout=1, on_timeout='abstain', error_budget=0.5")
    votes = run(make_project(tmp_path, lfs))
    assert votes.filter(pl.col("a") == -1)["item_id"].to_list() == [35]
    failures = read_table(tmp_path / LF_FAILURES, schemas.FAILURES).rows()
    assert failures == [(35, "a", "gave no vote within its timeout of 1 s")]
    lfs = rowwise("time.sleep(60) if item.item_id == 35 else None\n    return 1", arguments="timeout=1")
    text = explain(make_project(tmp_path / "stops", lfs))
    assert "on item_id 35: gave no vote within its timeout" in text and "on_timeout='abstain'" in text


STAGE = """
import sys
from pathlib import Path
from tasks import apply
from tasks.lf import monitor
from tasks.params import ApplyParams
monitor.PATIENCE = 1.0
apply.run(Path(), ("HAM", "SPAM"), ApplyParams(source="lfs/mine.py"))
"""


@pytest.mark.parametrize(
    ("lfs", "said"),
    [
        (rowwise("re.match('(a+)+$', 'a' * 29 + 'b') if item.item_id == 35 else None"), "warning: labeling function 'a' (lfs/mine.py) has been at item_id 35 for more than 1 s"),
        (rowwise("os.kill(os.getpid(), 9) if item.item_id == 35 else None"), "warning: the process ended while labeling function 'a' (lfs/mine.py) was at item_id 35"),
        (rowwise("os.kill(os.getpid(), 15) if item.item_id == 35 else None"), "warning: the process ended while labeling function 'a' (lfs/mine.py) was at item_id 35"),
        (vectorized("os.kill(os.getpid(), 11)"), "labeling function 'a' (lfs/mine.py) ended the Python interpreter at the items from item_id 0 to 39"),
    ],
)  # fmt: skip
def test_an_lf_that_hangs_or_dies_is_named(tmp_path: Path, lfs: str, said: str) -> None:
    make_project(tmp_path, lfs)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    stage = subprocess.Popen(
        [sys.executable, "-c", STAGE], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert stage.stderr is not None
    lines = []
    for line in stage.stderr:
        lines.append(line)
        if said in line:
            break
    stage.send_signal(signal.SIGKILL)
    stage.wait()
    stage.stderr.close()
    assert any(said in line for line in lines), "".join(lines)
    assert not any("most recent call first" in line for line in lines), "".join(lines)
