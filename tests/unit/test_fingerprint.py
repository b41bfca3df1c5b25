"""Which edits make tasks.apply ask an LF again: the LF notes in a log that it was asked, and the bytes are those of a
full run."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tasks import apply
from tasks.cache import store
from tasks.cache.code import PROJECT
from tasks.errors import LabelingFunctionError
from tasks.lf.observation import observe
from tasks.params import ApplyParams
from tasks.tables import schemas
from tasks.tables.parquet import read_table, read_votes, write_table
from tasks.tables.paths import ITEMS, LF_FAILURES, LF_SUMMARY, VALID_GOLD, VOTES

CLASSES = ("HAM", "SPAM")
OUTPUTS = (VOTES, LF_SUMMARY, LF_FAILURES)

HEADER = """
import functools
import math
import re
from pathlib import Path
from lfs import asked
from tasks.labeling import ABSTAIN, keyword_lf, labeling_function, regex_lf, vectorized_labeling_function, vote_where
"""

NOTE = """
def note(name):
    with open("log", "a") as log:
        log.write(name + " ")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of four items; the working directory, where LFs keep their log, is its root."""
    root = tmp_path / "project"
    texts = ["free money", "hello", "call me", "free call"]
    items = pl.DataFrame({"item_id": ["a", "b", "c", "d"], "split": ["train"] * 4, "text": texts})
    write_table(root / ITEMS, items, schemas.ITEMS)
    gold = pl.DataFrame({"item_id": ["a"], "gold": pl.Series([1], dtype=pl.Int8)})
    write_table(root / VALID_GOLD, gold, schemas.gold(2))
    (root / "lfs").mkdir()
    monkeypatch.chdir(root)
    return root


def run(root: Path, module: str, classes: tuple[str, ...] = CLASSES) -> list[str]:
    """The LFs that were asked, sorted, in a run with this module, found to write what a run without a cache writes."""
    (root / "lfs" / "mine.py").write_text(HEADER.replace("from lfs import asked\n", NOTE) + module)
    (root / "log").unlink(missing_ok=True)
    apply.run(root, classes, ApplyParams(source="lfs/mine.py"))
    log = sorted(set((root / "log").read_text().split())) if (root / "log").exists() else []
    outputs = [(root / path).read_bytes() for path in OUTPUTS]
    with_cache = shutil.move(root / store.FOLDER, root / "aside")
    apply.run(root, classes, ApplyParams(source="lfs/mine.py"))
    assert [(root / path).read_bytes() for path in OUTPUTS] == outputs
    shutil.rmtree(root / store.FOLDER)
    shutil.move(with_cache, root / store.FOLDER)
    return log


def lf(name: str, body: str) -> str:
    return f"@labeling_function\ndef {name}(item):\n    note('{name}')\n    return {body}\n\n"


FIFTEEN = [lf(f"lf_{number:02}", f"'SPAM' if len(item.text) > {number} else ABSTAIN") for number in range(15)]


def test_one_edit_of_fifteen_asks_one(project: Path) -> None:
    names = [f"lf_{number:02}" for number in range(15)]
    assert run(project, "".join(FIFTEEN)) == names
    assert run(project, "".join(FIFTEEN)) == []
    edited = [*FIFTEEN[:7], FIFTEEN[7].replace("> 7", "> 5"), *FIFTEEN[8:]]
    assert run(project, "".join(edited)) == ["lf_07"]
    assert run(project, "".join(FIFTEEN)) == []


def test_what_is_no_edit_asks_nobody(project: Path) -> None:
    run(project, "".join(FIFTEEN))
    assert run(project, "# moved down\n\n" + "".join(reversed(FIFTEEN))) == []
    assert run(project, "".join(FIFTEEN).replace("def lf_03", "def renamed")) == []
    assert run(project, "".join(FIFTEEN[:3])) == []


def test_items_and_classes_are_part_of_it(project: Path) -> None:
    module = "".join(FIFTEEN[:2])
    run(project, module)
    assert run(project, module, ("HAM", "EGGS", "SPAM")) == ["lf_00", "lf_01"]
    items = read_table(project / ITEMS, schemas.ITEMS)
    items = items.with_columns(pl.col("text").str.replace("hello", "hallo"))
    write_table(project / ITEMS, items, schemas.ITEMS)
    assert run(project, module) == ["lf_00", "lf_01"]


FREE = lf("other", "ABSTAIN")

EDITS = {
    "helper": ("def is_free(text):\n    return 'free' in text\n\n", "'free'", "'call'", "'SPAM' if is_free(item.text) else None"),
    "helper_of_helper": ("def inner(text):\n    return text[:1]\n\ndef outer(text):\n    return inner(text)\n\n", "[:1]", "[:2]", "'SPAM' if outer(item.text) in 'fr' else None"),
    "constant": ("LONG = 5\n", "5", "8", "'SPAM' if len(item.text) > LONG else None"),
    "list": ("WORDS = ['free', 'money']\n", "money", "call", "'SPAM' if any(word in item.text for word in WORDS) else None"),
    "dict_of_sets": ("WORDS = {1: {'hello', 'x'}}\n", "hello", "call", "'SPAM' if set(item.text.split()) & WORDS[1] else None"),
    "pattern": ("FREE = re.compile('free')\n", "'free'", "'call'", "'SPAM' if FREE.search(item.text) else None"),
    "bound_method": ("find = re.compile('free').search\n", "'free'", "'call'", "'SPAM' if find(item.text) else None"),
    "partial": ("test = functools.partial(re.search, 'free')\n", "'free'", "'call'", "'SPAM' if test(item.text) else None"),
    "cached": ("@functools.cache\ndef is_free(text):\n    return 'free' in text\n\n", "'free'", "'call'", "'SPAM' if is_free(item.text) else None"),
    "default": ("def is_free(text, word='free'):\n    return word in text\n\n", "'free'", "'call'", "'SPAM' if is_free(item.text) else None"),
    "class": ("class Rule:\n    word = 'free'\n\n", "'free'", "'call'", "'SPAM' if Rule.word in item.text else None"),
    "lambda": ("test = lambda text: 'free' in text\n", "'free'", "'call'", "'SPAM' if test(item.text) else None"),
    "decorator": ("def twice(function):\n    @functools.wraps(function)\n    def inner(text):\n        return function(text) and 'free' in text\n    return inner\n\n@twice\ndef is_it(text):\n    return True\n\n", "'free'", "'call'", "'SPAM' if is_it(item.text) else None"),
}  # fmt: skip


@pytest.mark.parametrize("kind", EDITS)
def test_what_two_lfs_use_is_part_of_both(project: Path, kind: str) -> None:
    setup, before, after, body = EDITS[kind]
    assert setup.count(before) == 1
    module = lf("one", body) + lf("two", body) + FREE
    assert run(project, setup + module) == ["one", "other", "two"]
    assert run(project, setup + module) == []
    asked = run(project, setup.replace(before, after) + module)
    # A class is known by all of lfs/, on which then only its users depend.
    assert asked == ["one", "two"]


def test_closures_are_part_of_it(project: Path) -> None:
    module = """
def make(name, word):
    @labeling_function(name=name)
    def inner(item):
        note(name)
        return "SPAM" if word in item.text else None
    return inner

lfs = [make("one", "free"), make("two", "call")]
"""
    assert run(project, module) == ["one", "two"]
    assert run(project, module.replace('"two", "call"', '"two", "hello"')) == ["two"]


IMPORTS = {
    "value": ("from lfs.words import WORD", "WORD in item.text", ["one"]),
    "function": ("from lfs.words import is_it", "is_it(item.text)", ["one"]),
    "module": ("import lfs.words as words", "words.WORD in item.text", ["one"]),
}


@pytest.mark.parametrize("kind", IMPORTS)
def test_imported_modules_of_the_project_are_part_of_it(project: Path, kind: str) -> None:
    first, test, asked = IMPORTS[kind]
    text = "WORD = 'free'\ndef is_it(text):\n    return WORD in text\n"
    (project / "lfs" / "words.py").write_text(text)
    module = f"{first}\n{lf('one', f'1 if {test} else None')}{FREE}"
    assert run(project, module) == ["one", "other"]
    (project / "lfs" / "words.py").write_text(text.replace("free", "call"))
    assert run(project, module) == asked


def test_a_list_of_words_beside_the_module_is_part_of_all(project: Path) -> None:
    (project / "lfs" / "words.txt").write_text("free")
    module = lf("one", "1 if Path('lfs/words.txt').read_text() in item.text else None") + FREE
    assert run(project, module) == ["one", "other"]
    (project / "lfs" / "words.txt").write_text("call")
    assert run(project, module) == ["one", "other"]


def test_what_cannot_be_known_is_asked_always(project: Path) -> None:
    module = "class Model:\n    word = 'free'\nmodel = Model()\n" + lf("one", "1 if model.word in item.text else None")
    assert run(project, module + FREE) == ["one", "other"]
    assert run(project, module + FREE) == ["one"]


def test_vectorized_lfs_are_known_by_what_they_look_for(project: Path) -> None:
    module = """
@vectorized_labeling_function
def long(items):
    note("long")
    return vote_where(items["text"].str.len_chars() > 5, "SPAM")

words = keyword_lf("words", column="text", keywords=["free"], label="SPAM")
pattern = regex_lf("pattern", column="text", pattern="^c", label="HAM")
"""
    assert run(project, module) == ["long"]
    assert run(project, module.replace('["free"]', '["call"]').replace('"^c"', '"^f"')) == []
    votes = read_votes(project / VOTES, k=2)
    assert votes["words"].to_list() == [-1, -1, 1, 1] and votes["pattern"].to_list() == [0, -1, -1, 0]
    assert run(project, module.replace("> 5", "> 6")) == ["long"]


def test_failures_come_back_and_a_lower_budget_counts(project: Path) -> None:
    broken = lf("broken", "1 // (item.text != 'hello')").replace(
        "@labeling_function", "@labeling_function(on_error='abstain', error_budget=0.25)"
    )
    assert run(project, broken + FREE) == ["broken", "other"]
    assert run(project, broken + FREE) == []
    failures = read_table(project / LF_FAILURES, schemas.FAILURES).rows()
    assert failures == [("b", "broken", "ZeroDivisionError: integer division or modulo by zero")]
    with pytest.raises(LabelingFunctionError, match=r"error_budget of 0\.2; first on item_id 'b'.*\nTraceback"):
        run(project, broken.replace("0.25", "0.2") + FREE)


def test_packages_that_an_import_opens_first_are_no_inputs_of_an_lf() -> None:
    """An LF module may be the first in its process that imports a builder's rooms, whose `__init__.py` are empty."""
    with observe(PROJECT) as found:
        for path in (PROJECT / "tasks").rglob("__init__.py"):
            path.read_bytes()
    assert not found.files


def test_pythons_path_is_no_input_of_an_lf() -> None:
    """Libraries ask which version of another is installed when they are first imported, and Python searches its path."""
    with observe(PROJECT) as found:
        assert importlib.metadata.version("numpy")
        list(importlib.metadata.distributions(name="no-such-package"))
    assert not found.files


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])  # a user's or the system's; Debian's
def test_packages_outside_of_the_environment_are_libraries(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "elsewhere.py").touch()
    code = "import elsewhere; from tasks.lf.fingerprint import is_library; print(is_library(elsewhere))"
    path = os.pathsep.join([str(tmp_path / folder), str(PROJECT)])
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, check=True, capture_output=True, text=True
    )
    assert done.stdout == "True\n"
