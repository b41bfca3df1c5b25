"""tasks.apply on small projects in a temporary folder: votes, summary, failures, and what stops the run."""

import sys
from pathlib import Path

import polars as pl
import pytest

from tasks import apply
from tasks.errors import DataError, LabelingFunctionError
from tasks.lf import ask_all, vote_file
from tasks.params import ApplyParams
from tasks.tables import schemas
from tasks.tables.parquet import read_table, read_votes, write_table
from tasks.tables.paths import ITEMS, LF_FAILURES, LF_SUMMARY, VALID_GOLD, VOTES

CLASSES = ("HAM", "SPAM")
TEXTS = ["free money", "hello", "call me", "free call", "see you"]


def make_project(root: Path, lfs: str = "", ids: list[object] | None = None) -> Path:
    """A project of five items, gold on the valid ones (the last three), and lfs/mine.py."""
    ids = ids or ["a", "b", "c", "d", "e"]
    items = pl.DataFrame({"item_id": ids, "split": ["train"] * 2 + ["valid"] * 3, "text": TEXTS})
    gold = pl.DataFrame({"item_id": ids[2:], "gold": pl.Series([0, 1, 0], dtype=pl.Int8)})
    write_table(root / ITEMS, items, schemas.ITEMS)
    write_table(root / VALID_GOLD, gold, schemas.gold(2))
    (root / "lfs").mkdir()
    header = (
        "import numpy as np\nimport polars as pl\nfrom tasks.labeling import *\nfrom tasks.labeling import ABSTAIN\n"
    )
    (root / "lfs" / "mine.py").write_text(header + lfs)
    return root


def run(root: Path, source: str = "lfs/mine.py") -> None:
    apply.run(root, CLASSES, ApplyParams(source=source))


def read_own_votes(root: Path) -> pl.DataFrame:
    return read_votes(root / VOTES, k=2)


def read_failures(root: Path) -> list[tuple[object, ...]]:
    return read_table(root / LF_FAILURES, schemas.FAILURES).rows()


LFS = """
@labeling_function
def by_name(item):
    return "SPAM" if "free" in item.text else None

@labeling_function
def by_position(item):
    return np.int64(1) if item["text"].startswith("free") else ABSTAIN

@vectorized_labeling_function
def expression(items):
    return pl.when(pl.col("text").str.contains("free")).then(pl.lit("SPAM"))

@vectorized_labeling_function
def series(items):
    return items["text"].str.contains("free").replace_strict({True: 1, False: -1})

@vectorized_labeling_function
def array(items):
    return np.where(items["text"].str.contains("free"), "SPAM", None)

@vectorized_labeling_function
def everywhere(items):
    return pl.lit("HAM")

listed = [keyword_lf("keyword", column="text", keywords=["free"], label="SPAM"),
          regex_lf("regex", column="text", pattern=r"\\bfree(?= )", label=1)]
again = by_name
"""


def test_every_kind_of_lf_votes_alike(tmp_path: Path) -> None:
    run(make_project(tmp_path, LFS))
    spam = [1, -1, -1, 1, -1]
    votes = read_own_votes(tmp_path)
    assert votes.to_dict(as_series=False) == {
        "item_id": ["a", "b", "c", "d", "e"],
        **dict.fromkeys(["by_name", "by_position", "expression", "series", "array"], spam),
        "everywhere": [0] * 5,
        **dict.fromkeys(["keyword", "regex"], spam),
    }
    assert set(votes.dtypes[1:]) == {pl.Int8}
    assert read_failures(tmp_path) == []


def test_summary_counted_by_hand(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lfs = """
money = keyword_lf("money", column="text", keywords=["money"], label="SPAM")
call = keyword_lf("call", column="text", keywords=["call"], label="SPAM")
anything = regex_lf("anything", column="text", pattern=".", label="HAM")
@labeling_function
def both(item):
    return {"hello": 0, "free call": 1}.get(item.text)
@labeling_function
def never(item):
    return ABSTAIN
"""
    run(make_project(tmp_path, lfs))
    assert "warning: labeling functions (lfs/mine.py) vote on no item: never. " in capfd.readouterr().err
    summary = pl.read_csv(tmp_path / LF_SUMMARY)
    assert summary.drop("precision_low", "precision_high").rows() == [
        ("anything", "HAM", 5 / 5, 4 / 5, 3 / 5, 3, 2 / 3),
        ("both", "HAM|SPAM", 2 / 5, 2 / 5, 1 / 5, 1, 1.0),
        ("call", "SPAM", 2 / 5, 2 / 5, 2 / 5, 2, 1 / 2),
        ("money", "SPAM", 1 / 5, 1 / 5, 1 / 5, 0, None),
        ("never", "", 0.0, 0.0, 0.0, 0, None),
    ]
    assert summary["precision_low"].is_null().to_list() == [False, False, False, True, True]
    assert "NaN" not in (tmp_path / LF_SUMMARY).read_text()


BROKEN = """
@labeling_function({policy})
def broken(item):
    if item.text == "hello":
        raise ValueError(f"no vote on {{item.text}} by {{object()}}")
    return "EGGS" if item.text == "call me" else "HAM"
"""


def test_an_lf_that_raises_stops_the_run_with_name_item_and_traceback(tmp_path: Path) -> None:
    make_project(tmp_path, BROKEN.format(policy=""))
    with pytest.raises(LabelingFunctionError) as error:
        run(tmp_path)
    text = str(error.value)
    assert error.value.exit_code == 4
    assert "'broken' (lfs/mine.py) failed on item_id 'b': ValueError: no vote on hello" in text
    assert 'mine.py", line 9, in broken' in text
    assert "/tasks/" not in text, "no frame of the pipeline's own"
    assert not (tmp_path / VOTES).exists()


@pytest.mark.parametrize("vote", ["'EGGS'", "2", "-2", "True", "1.0", "['HAM']"])
def test_an_unknown_class_stops_the_run(tmp_path: Path, vote: str) -> None:
    make_project(
        tmp_path, f"@labeling_function\ndef wrong(item):\n    return {vote} if item.text == 'call me' else None\n"
    )
    with pytest.raises(LabelingFunctionError, match=r"'wrong' .* item_id 'c': voted .*; expected a class"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("pl.col('txet') == 'a'", "txet"),
        ("pl.col('text') == 'a'", "type Boolean"),
        ("pl.Series([0])", "1 votes for 5 items"),
        ("np.zeros((5, 2), dtype=int)", "ndarray of shape"),
        ("np.zeros(5)", "type Float64"),
        ("'HAM'", "returned str"),
        ("1 / 0", "ZeroDivisionError"),
        ("pl.when(pl.col('text') == 'call me').then(7)", "item_id 'c': voted 7"),
        ("pl.Series([0, 300, 0, 0, 0])", "item_id 'b': voted 300"),
        ("pl.Series([255, 0, 0, 0, 0], dtype=pl.UInt8)", "item_id 'a': voted 255"),
    ],
)
def test_a_vectorized_lf_that_fails_stops_the_run_and_is_named(tmp_path: Path, body: str, complaint: str) -> None:
    fine = "@vectorized_labeling_function\ndef fine(items):\n    return pl.lit(0)\n"
    make_project(tmp_path, fine + f"@vectorized_labeling_function\ndef broken(items):\n    return {body}\n")
    with pytest.raises(LabelingFunctionError, match="'broken'") as error:
        run(tmp_path)
    assert complaint in str(error.value)


def test_failures_within_the_budget_abstain_and_are_recorded(tmp_path: Path) -> None:
    run(make_project(tmp_path, BROKEN.format(policy="on_error='abstain', error_budget=0.4")))
    assert read_own_votes(tmp_path)["broken"].to_list() == [0, -1, -1, 0, 0]
    failures = read_failures(tmp_path)
    assert [(item, lf) for item, lf, _ in failures] == [("b", "broken"), ("c", "broken")]
    assert failures[0][2] == "ValueError: no vote on hello by <object object at 0x...>"
    assert "voted 'EGGS'" in str(failures[1][2])


def test_failures_beyond_the_budget_stop_the_run(tmp_path: Path) -> None:
    make_project(tmp_path, BROKEN.format(policy="on_error='abstain', error_budget=0.39"))
    with pytest.raises(
        LabelingFunctionError, match=r"failed on 2 of 5 items .* error_budget of 0.39; first on item_id 'b'"
    ):
        run(tmp_path)


def test_a_vectorized_lf_that_looks_at_other_rows_is_refused(tmp_path: Path) -> None:
    body = "vote_where(pl.int_range(pl.len()) > 1, 'SPAM')"
    make_project(tmp_path, f"@vectorized_labeling_function\ndef relative(items):\n    return {body}\n")
    with pytest.raises(LabelingFunctionError, match=r"'relative'.* changes with the other items"):
        run(tmp_path)


def test_batches_do_not_change_the_votes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = BROKEN.format(policy="on_error='abstain', error_budget=1")
    run(make_project(tmp_path / "one", LFS + policy))
    monkeypatch.setattr("tasks.tables.parquet.ROW_GROUP", 2)
    monkeypatch.setattr(ask_all, "ROW_GROUP", 2)
    for name, size in (("many", vote_file.BATCH_BYTES), ("more", 1)):
        monkeypatch.setattr(ask_all, "BATCH_BYTES", size)
        monkeypatch.setattr(vote_file, "BATCH_BYTES", size)
        run(make_project(tmp_path / name, LFS + policy))
        assert read_own_votes(tmp_path / name).equals(read_own_votes(tmp_path / "one"))
        assert read_failures(tmp_path / name) == read_failures(tmp_path / "one")
        summaries = [(tmp_path / folder / LF_SUMMARY).read_text() for folder in ("one", name)]
        assert summaries[0] == summaries[1]


def test_an_lf_that_fails_on_a_table_fails_on_a_row_group_whatever_else_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.tables.parquet.ROW_GROUP", 2)
    monkeypatch.setattr(ask_all, "ROW_GROUP", 2)
    fails = """
@vectorized_labeling_function(on_error="abstain", error_budget=1)
def fails(items):
    if "call me" in items["text"]:
        raise ValueError("not this one")
    return pl.lit(0)
"""
    run(make_project(tmp_path / "alone", fails))
    run(make_project(tmp_path / "among", LFS + fails))
    for name in ("alone", "among"):
        assert read_own_votes(tmp_path / name)["fails"].to_list() == [0, 0, -1, -1, 0]
        assert [item for item, *_ in read_failures(tmp_path / name)] == ["c", "d"]


def test_the_module_is_read_anew_and_alone(tmp_path: Path) -> None:
    """Edits within the same second and of the same size count, siblings load, and another project's lfs do not."""
    outside = sys.modules.get("lfs")
    make_project(
        tmp_path, "from lfs.words import WORD\nlf = keyword_lf('lf', column='text', keywords=[WORD], label=1)\n"
    )
    for word, votes in (("free", [1, -1, -1, 1, -1]), ("call", [-1, -1, 1, 1, -1])):
        (tmp_path / "lfs" / "words.py").write_text(f"WORD = {word!r}\n")
        run(tmp_path)
        assert read_own_votes(tmp_path)["lf"].to_list() == votes
    assert sys.modules.get("lfs") is outside
    assert not list((tmp_path / "lfs").rglob("*.pyc"))


@pytest.mark.parametrize(
    ("lfs", "complaint"),
    [
        ("", "holds no labeling function"),
        ("a = keyword_lf('x', column='text', keywords=['a'], label=1)\nb = regex_lf('x', column='text', pattern='a', label=1)", "called x"),
        ("import nonexistent_module", "No module named 'nonexistent_module'"),
        ("import lfs.nonexistent", "nonexistent"),
        ("def f(:\n", "SyntaxError"),
        ("\na = regex_lf('x', column='text', pattern='(', label=1)", "mine.py, line 6: labeling function 'x'"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_used(tmp_path: Path, lfs: str, complaint: str) -> None:
    make_project(tmp_path, lfs)
    with pytest.raises(LabelingFunctionError, match=r"lfs/mine\.py") as error:
        run(tmp_path)
    assert complaint in str(error.value)


def test_a_missing_module_names_those_there_are(tmp_path: Path) -> None:
    make_project(tmp_path)
    with pytest.raises(LabelingFunctionError, match=r"lfs/yours.py not found; lfs/ holds mine.py"):
        run(tmp_path, "lfs/yours.py")


def test_a_link_out_of_lfs_is_not_followed(tmp_path: Path) -> None:
    make_project(tmp_path)
    (tmp_path / "outside.py").write_text(LFS)
    (tmp_path / "lfs" / "link.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(LabelingFunctionError, match="leads out of lfs/"):
        run(tmp_path, "lfs/link.py")


# A table of votes.


def write_votes(root: Path, **columns: object) -> None:
    table = pl.DataFrame(columns)
    table.write_parquet(root / "lfs" / "votes.parquet")
    table.write_csv(root / "lfs" / "votes.csv")


@pytest.mark.parametrize("file", ["lfs/votes.parquet", "lfs/votes.csv"])
@pytest.mark.parametrize("ids", [["a", "b", "c", "d", "e"], [-1, 2, 30, 100, 200], ["001", "002", "003", "004", "1"]])
def test_a_table_of_votes_is_joined_by_id(tmp_path: Path, file: str, ids: list[object]) -> None:
    make_project(tmp_path, ids=ids)
    write_votes(tmp_path, lf=[1, 0, -1, -1, 0], item_id=ids[::-1], other=[0.0, -1.0, 1.0, 1.0, 1.0])
    run(tmp_path, file)
    votes = read_own_votes(tmp_path)
    assert votes.to_dict(as_series=False) == {"item_id": ids, "lf": [0, -1, -1, 0, 1], "other": [1, 1, 1, -1, 0]}
    assert read_failures(tmp_path) == []


@pytest.mark.parametrize(
    ("votes", "complaint"),
    [
        ([0, 0, 2, 0, 0], "column 'lf' has 1 votes that are neither -1 (abstain) nor 0..1: 2; first at item_id 'c'"),
        ([0, 0, 256, 0, -2], "column 'lf' has 2 votes"),
        ([0, 0, None, 0, 0], "1 votes that are neither -1 (abstain) nor 0..1: missing; first at item_id 'c'"),
        ([0.0, 0.5, 0.0, 0.0, 0.0], "1 votes that are neither -1 (abstain) nor 0..1: 0.5; first at item_id 'b'"),
        ([0.0, float("nan"), 0.0, 0.0, 0.0], "1 votes that are neither"),
        ([True, True, True, False, True], "column 'lf' is Boolean"),
        (["HAM"] * 5, "column 'lf' is String"),
    ],
)
def test_values_are_looked_at_before_they_are_cast(tmp_path: Path, votes: list[object], complaint: str) -> None:
    make_project(tmp_path)
    write_votes(tmp_path, item_id=["a", "b", "c", "d", "e"], lf=votes)
    with pytest.raises(DataError) as error:
        run(tmp_path, "lfs/votes.parquet")
    assert complaint in str(error.value)


def test_ids_that_do_not_fit_are_named(tmp_path: Path) -> None:
    make_project(tmp_path)
    write_votes(tmp_path, item_id=["a", "b", "b", "x", None], lf=[0] * 5)
    with pytest.raises(DataError) as error:
        run(tmp_path, "lfs/votes.parquet")
    text = str(error.value)
    assert "1 rows have no item_id, first 4" in text
    assert "1 ids occur more than once, first 'b'" in text
    assert "3 items have no votes, first 'c', 'd', 'e'" in text
    assert "1 ids are no items, first 'x'" in text


def test_tables_that_are_none(tmp_path: Path) -> None:
    make_project(tmp_path)
    write_votes(tmp_path, item_id=[1, 2, 3, 4, 5], lf=[0] * 5)
    with pytest.raises(DataError, match="item_id is Int64, but String in the items"):
        run(tmp_path, "lfs/votes.parquet")
    write_votes(tmp_path, item_id=["a"])
    with pytest.raises(DataError, match="expected 'item_id' and one column per LF"):
        run(tmp_path, "lfs/votes.parquet")
    write_votes(tmp_path, item_id=["a"], **{"1st": [0]})
    with pytest.raises(DataError, match="'1st' cannot name a labeling function"):
        run(tmp_path, "lfs/votes.parquet")
    with pytest.raises(DataError, match="not found"):
        run(tmp_path, "lfs/none.parquet")
    (tmp_path / "lfs" / "votes.parquet").write_text("no table")
    with pytest.raises(DataError, match="cannot be read"):
        run(tmp_path, "lfs/votes.parquet")


@pytest.mark.parametrize("header", ["item_id,lf,gold", "item_id,Label,lf", "item_id,lf,split"])
def test_a_column_that_is_no_lf_is_refused(tmp_path: Path, header: str) -> None:
    make_project(tmp_path)
    rows = "".join(f"\n{name},0,1" for name in "abcde")
    (tmp_path / "lfs" / "votes.csv").write_text(header + rows)
    with pytest.raises(
        DataError, match=r"column '(gold|Label|split)' would be taken for the votes of a labeling function"
    ):
        run(tmp_path, "lfs/votes.csv")


def test_equal_headers_are_refused(tmp_path: Path) -> None:
    make_project(tmp_path)
    (tmp_path / "lfs" / "votes.csv").write_text("item_id,lf,lf" + "".join(f"\n{name},0,1" for name in "abcde"))
    with pytest.raises(DataError, match="more than one column is called 'lf'"):
        run(tmp_path, "lfs/votes.csv")


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_the_table_that_is_named_is_read_and_not_a_pattern(tmp_path: Path, form: str) -> None:
    make_project(tmp_path)
    for name, vote in (("votes[1]", 1), ("votes1", 0)):
        write_votes(tmp_path, item_id=list("abcde"), lf=[vote] * 5)
        (tmp_path / "lfs" / f"votes.{form}").rename(tmp_path / "lfs" / f"{name}.{form}")
    run(tmp_path, f"lfs/votes[1].{form}")
    assert read_own_votes(tmp_path)["lf"].to_list() == [1] * 5


def test_dictionary_encoded_ids_are_text(tmp_path: Path) -> None:
    make_project(tmp_path)
    ids = pl.Series("item_id", list("abcde"), dtype=pl.Categorical)
    pl.DataFrame([ids, pl.Series("lf", [0, 1, -1, 1, 0])]).write_parquet(tmp_path / "lfs" / "votes.parquet")
    run(tmp_path, "lfs/votes.parquet")
    assert read_own_votes(tmp_path)["lf"].to_list() == [0, 1, -1, 1, 0]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_numbers_that_may_be_positions_or_names_are_refused(tmp_path: Path, form: str) -> None:
    make_project(tmp_path)
    write_votes(tmp_path, item_id=list("abcde"), lf=[0, 1, -1, 1, 0])
    with pytest.raises(DataError, match="class '1' is at position 0: a number could mean either"):
        apply.run(tmp_path, ("1", "2"), ApplyParams(source=f"lfs/votes.{form}"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("item_id,lf\na,0\nb, 1\nc,0\nd,0\ne,0\n", "column 'lf' is String, such as ' 1'; expected whole numbers"),
        (
            "item_id,lf\na,0\nb,\nc,0\nd,0\ne,0\n",
            "1 votes that are neither -1 (abstain) nor 0..1: missing; first at item_id 'b'",
        ),
    ],
)
def test_text_in_a_csv_that_is_no_vote_is_shown(tmp_path: Path, text: str, said: str) -> None:
    make_project(tmp_path)
    (tmp_path / "lfs" / "votes.csv").write_text(text)
    with pytest.raises(DataError) as error:
        run(tmp_path, "lfs/votes.csv")
    assert said in str(error.value)


def test_ids_beyond_64_bits_are_not_taken_for_missing_ones(tmp_path: Path) -> None:
    make_project(tmp_path, ids=[1, 2, 3, 4, 5])
    ids = pl.Series("item_id", [1, 2, 3, 4, 2**63], dtype=pl.UInt64)
    pl.DataFrame([ids, pl.Series("lf", [0] * 5)]).write_parquet(tmp_path / "lfs" / "votes.parquet")
    with pytest.raises(DataError, match="item_id is UInt64, but Int64 in the items"):
        run(tmp_path, "lfs/votes.parquet")
