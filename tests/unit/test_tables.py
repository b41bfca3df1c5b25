"""Reading and writing: validated both ways, atomic, the same bytes for the same rows."""

import itertools
import re
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.mapped_rows import fetch_rows
from tasks.errors import DataError
from tasks.tables import schemas
from tasks.tables.files import read_json, write_json
from tasks.tables.parquet import read_batches, read_table, read_votes, write_batches, write_table
from tasks.tables.scratch import expect_scattered_reads, open_scratch
from tasks.tables.validation import require_same_items

VOTES = pl.DataFrame({"item_id": [1, 2, 3], "kw": pl.Series([-1, 0, 1], dtype=pl.Int8)})
SCHEMA = schemas.votes(2, ["kw"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "votes.parquet"


def test_what_is_written_is_read(path):
    write_table(path, VOTES, SCHEMA)
    assert read_table(path, SCHEMA).equals(VOTES)
    assert read_votes(path, 2).equals(VOTES)
    assert read_table(path, SCHEMA, ["kw"]).columns == ["kw"]


BROKEN = {
    "unknown class": (VOTES.with_columns(kw=pl.Series([-1, 0, 7], dtype=pl.Int8)), ["'kw'", "7", "item_id 3"]),
    "wrong type": (VOTES.with_columns(pl.col("kw").cast(pl.Int64)), ["'kw'", "Int64"]),
    "missing value": (VOTES.with_columns(kw=pl.Series([-1, None, 1], dtype=pl.Int8)), ["'kw'"]),
    "repeated id": (VOTES.with_columns(item_id=pl.Series([1, 2, 2])), ["ascending", "2"]),
    "ids out of order": (VOTES[::-1], ["ascending"]),
    "ids of a third type": (VOTES.with_columns(pl.col("item_id").cast(pl.Float64)), ["item_id"]),
    "missing id": (VOTES.with_columns(item_id=pl.Series([1, None, 3])), ["item_id"]),
    "missing column": (VOTES.select("item_id"), ["kw"]),
    "column too many": (VOTES.with_columns(more=pl.lit(1)), ["more"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_refused_on_write_and_the_old_one_stays(path, name):
    table, said = BROKEN[name]
    write_table(path, VOTES, SCHEMA)
    before = path.read_bytes()
    with pytest.raises(DataError) as caught:
        write_table(path, table, SCHEMA)
    assert all(word in str(caught.value) for word in ["votes.parquet", *said]), str(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["votes.parquet"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_refused_on_read(path, name):
    table, _said = BROKEN[name]
    table.write_parquet(path)
    for read in (lambda: read_table(path, SCHEMA), lambda: list(read_batches(path, SCHEMA))):
        with pytest.raises(DataError) as caught:
            read()
        assert "votes.parquet" in str(caught.value)


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("lf", range(3))
@pytest.mark.parametrize("vote", [2, -2, None])
def test_one_vote_among_columns_that_are_alike_is_named(path, lf, row, vote):
    """They are checked as one column, and one by one only where that fails."""
    names = ["first", "middle", "last"]
    votes = np.zeros((3, 3)).tolist()
    votes[lf][row] = vote
    table = VOTES.select("item_id").with_columns(
        pl.Series(name, column, dtype=pl.Int8, strict=False) for name, column in zip(names, votes, strict=True)
    )
    with pytest.raises(DataError) as caught:
        write_table(path, table, schemas.votes(2, names))
    said = f"column '{names[lf]}': 1 failed '{'not_nullable' if vote is None else 'in_range(-1, 1)'}'"
    assert said in str(caught.value) and str(caught.value).count("failed") == 1
    assert f"item_id {row + 1}." in str(caught.value)


@pytest.mark.parametrize("wrong", [pl.Int64, pl.Float32, pl.String, pl.Boolean])
def test_a_type_among_columns_that_are_alike_is_named(path, wrong):
    table = VOTES.select("item_id").with_columns(a=pl.lit(0, pl.Int8), b=pl.lit(0).cast(wrong), c=pl.lit(0, pl.Int8))
    with pytest.raises(DataError, match=f"column 'b': 1 failed 'dtype.*{wrong}"):
        write_table(path, table, schemas.votes(2, ["a", "b", "c"]))


def test_row_groups_come_together_as_asked(path, monkeypatch):
    monkeypatch.setattr("tasks.tables.parquet.ROW_GROUP", 10)
    table = pl.DataFrame({"item_id": pl.int_range(95, eager=True), "kw": pl.Series([0] * 95, dtype=pl.Int8)})
    write_table(path, table, SCHEMA)

    def heights(**options):
        batches = list(read_batches(path, SCHEMA, **options))
        assert pl.concat(batches).equals(table)
        return [batch.height for batch in batches]

    assert heights() == [10] * 9 + [5]
    assert heights(size=9 * 20) == [20, 20, 20, 20, 15]  # an id and a vote are 9 bytes
    assert heights(size=9 * 20, beside=9) == [10] * 9 + [5]
    assert heights(size=10**9) == [95]


def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(path):
    write_table(path, VOTES, SCHEMA)

    def batches():
        yield VOTES[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_batches(path, batches(), SCHEMA)
    assert read_table(path, SCHEMA).equals(VOTES)
    assert len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_a_damaged_file_is_named(path, damage):
    write_table(path, VOTES, SCHEMA)
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    for read in (lambda: read_votes(path, 2), lambda: list(read_batches(path, SCHEMA))):
        with pytest.raises(DataError, match=r"votes\.parquet cannot be read"):
            read()


def test_a_missing_file_is_named(path):
    with pytest.raises(DataError, match=r"votes\.parquet is missing"):
        read_table(path, SCHEMA)
    with pytest.raises(DataError, match=r"votes\.parquet is missing"):
        list(read_batches(path, SCHEMA))


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 40_000), max_size=5))
def test_bytes_depend_on_rows_not_on_batches(tmp_path_factory, cuts):
    folder = tmp_path_factory.mktemp("bytes")
    n = 40_000
    table = pl.DataFrame(
        {"item_id": pl.int_range(n, eager=True), "embedding": pl.Series(np.arange(2 * n, dtype="f4").reshape(n, 2))}
    )
    table = table.with_columns(pl.col("embedding").cast(pl.Array(pl.Float32, 2)))
    schema = schemas.embeddings(2)
    write_table(folder / "whole", table, schema)
    edges = [0, *sorted(cuts), n]
    parts = [table[a:b] for a, b in itertools.pairwise(edges)]
    write_batches(folder / "parts", parts, schema)
    assert (folder / "whole").read_bytes() == (folder / "parts").read_bytes()
    assert pl.concat(read_batches(folder / "parts", schema)).equals(table)


def test_ids_must_ascend_across_batches(path):
    with pytest.raises(DataError, match="must ascend"):
        write_batches(path, [VOTES, VOTES], SCHEMA)
    assert not path.exists()


def test_an_empty_table_is_a_table(path):
    write_table(path, VOTES[:0], SCHEMA)
    assert read_votes(path, 2).equals(VOTES[:0])
    assert [batch.height for batch in read_batches(path, SCHEMA)] == [0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_embeddings_must_be_finite(path, value):
    vectors = pl.Series([[1.0, value]], dtype=pl.Array(pl.Float32, 2))
    with pytest.raises(DataError, match="finite"):
        write_table(path, pl.DataFrame({"item_id": ["a"], "embedding": vectors}), schemas.embeddings(2))


def test_an_embedding_that_is_not_finite_is_named(path):
    vectors = pl.Series([[1.0, 2.0], [np.inf, -np.inf], [3e38, 3e38]], dtype=pl.Array(pl.Float32, 2))
    with pytest.raises(DataError, match=r"1 failed 'all finite'.* at item_id 'b'"):
        write_table(path, pl.DataFrame({"item_id": ["a", "b", "c"], "embedding": vectors}), schemas.embeddings(2))


def test_float32_alone_is_stored_byte_by_byte(path):
    """What hardly repeats takes more room with its distinct values listed, and more time to write."""
    vectors = np.random.default_rng(0).standard_normal((10_000, 8)).astype(np.float32)
    table = pl.DataFrame({"item_id": range(10_000), "embedding": pl.Series(vectors, dtype=pl.Array(pl.Float32, 8))})
    write_table(path, table, schemas.embeddings(8))
    group = parquet.ParquetFile(path).metadata.row_group(0)
    encodings = {column: set(group.column(column).encodings) for column in range(2)}
    assert "BYTE_STREAM_SPLIT" in encodings[1] - encodings[0]
    assert "RLE_DICTIONARY" in encodings[0] - encodings[1]
    assert path.stat().st_size < vectors.nbytes
    assert pl.read_parquet(path).equals(table)


def test_a_field_of_a_struct_may_be_called_as_a_column(path):
    narrow = pl.Series([{"x": 1.0}], dtype=pl.Struct({"x": pl.Float32}))
    table = pl.DataFrame({"item_id": ["a"], "split": ["train"], "s.x": ["text"], "s": narrow})
    write_table(path, table, schemas.ITEMS)
    assert pl.read_parquet(path).equals(table)


def test_same_items_are_proved_by_id(path):
    other = VOTES.with_columns(item_id=pl.Series([1, 2, 4]))
    require_same_items(path, VOTES, path, VOTES.clone())
    with pytest.raises(DataError, match=r"1 items of .* are missing, first 3"):
        require_same_items(path, VOTES, path.with_name("other"), other)
    with pytest.raises(DataError, match="String"):
        require_same_items(path, VOTES, path, VOTES.with_columns(pl.col("item_id").cast(pl.String)))


def test_json_has_no_nan(path):
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    write_json(path, {"b": 1, "a": None})
    assert read_json(path) == {"b": 1, "a": None}
    path.write_text("{")
    with pytest.raises(DataError):
        read_json(path)


@pytest.mark.parametrize("rows", [slice(None), slice(7, 4000, 3), [], [4, 4, 0, 4999, 17], range(0, 5000, 11)], ids=str)
def test_rows_of_a_mapped_file_are_those_of_an_array_in_memory(tmp_path, rows):
    values = np.random.default_rng(0).random((5003, 5), np.float32)
    mapped = open_scratch(tmp_path, values.shape, np.float32)
    mapped[:] = values
    rows = rows if isinstance(rows, slice) else np.array(rows, np.int64)
    for array in (mapped, values):
        assert np.array_equal(fetch_rows(array[3:], rows), values[3:][rows])
        assert np.array_equal(fetch_rows(array[:0], slice(None)), values[:0])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what it was advised about memory")
def test_the_system_is_told_that_a_mapped_file_is_read_here_and_there(tmp_path):
    mapped = open_scratch(tmp_path, (5000, 3), np.float32)
    view = np.asarray(mapped)[1:]
    flags = re.compile(rf"^{mapped.ctypes.data:x}-.*?^VmFlags: (.*?)$", re.MULTILINE | re.DOTALL)
    for expected in (False, True):
        found = flags.search(Path("/proc/self/smaps").read_text(encoding="utf-8"))
        assert found is not None
        assert ("rr" in found[1].split()) == expected
        expect_scattered_reads(view)
    expect_scattered_reads(np.zeros((2, 3), np.float32))  # in memory: nothing to tell
