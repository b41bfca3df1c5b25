"""A table in several files: cut by its ids, whole or not there, and each damage of it named."""

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_project import Toy

from tasks.cache.store import hash_as_dvc
from tasks.errors import DataError
from tasks.tables import schemas
from tasks.tables.parquet import (
    count_rows,
    find_shards,
    pair_batches,
    read_batches,
    read_schema,
    read_table,
    write_shards,
    write_table,
)
from tasks.tables.paths import EMBEDDINGS, ITEMS
from tasks.tables.release_rows import hash_rows

SCHEMA = schemas.embeddings(2)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.tables.parquet.SHARD", 16)


def make_table(ids: list[int] | list[str]) -> pl.DataFrame:
    vectors = np.stack([[len(str(one)), hash_of(one)] for one in ids]).astype(np.float32) if ids else np.zeros((0, 2))
    column = pl.Series("embedding", vectors.tolist(), dtype=pl.Array(pl.Float32, 2))
    return pl.DataFrame([pl.Series("item_id", ids, dtype=None if ids else pl.Int64), column])


def hash_of(one: int | str) -> int:
    return sum(str(one).encode())


def read_files(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in find_shards(folder)]


def test_shards_are_read_as_the_one_table_that_was_written(tmp_path: Path) -> None:
    table = make_table(list(range(1000)))
    write_shards(tmp_path / "rows", [table], SCHEMA)
    files = find_shards(tmp_path / "rows")
    assert 30 < len(files) < 120
    assert [file.name for file in files[:2]] == [f"part-{i:05}-of-{len(files):05}.parquet" for i in range(2)]
    assert read_table(tmp_path / "rows", SCHEMA).equals(table)
    assert pl.concat(read_batches(tmp_path / "rows", SCHEMA)).equals(table)
    assert count_rows(tmp_path / "rows") == 1000
    assert read_schema(tmp_path / "rows") == table.schema
    assert pl.read_parquet(tmp_path / "rows").equals(table)  # as anybody reads it
    assert max(count_rows(file) for file in files) <= 4 * 16
    assert list(tmp_path.iterdir()) == [tmp_path / "rows"]


def test_rows_of_a_release_are_hashed_although_embeddings_are_in_shards(tmp_path: Path) -> None:
    table = make_table(list(range(100)))
    items = table.select("item_id", split=pl.lit("train"))
    for name, write in (("whole", write_table), ("shards", write_shards)):
        write_table(tmp_path / name / ITEMS, items, schemas.ITEMS)
        write(tmp_path / name / EMBEDDINGS, table if name == "whole" else [table], SCHEMA)
    assert len(find_shards(tmp_path / "shards" / EMBEDDINGS)) > 1
    assert hash_rows(tmp_path / "shards").equals(hash_rows(tmp_path / "whole"))


@given(
    cuts=st.lists(st.integers(0, 9), max_size=4), others=st.lists(st.integers(0, 9), max_size=4), more=st.integers(0, 2)
)
def test_rows_of_two_tables_come_side_by_side(cuts: list[int], others: list[int], more: int) -> None:
    one, other = pl.DataFrame({"a": range(9)}), pl.DataFrame({"a": range(9 + more)})
    pairs = list(pair_batches(cut(one, cuts), cut(other, others)))
    assert pl.concat(left for left, _ in pairs).equals(one)
    assert all(left.equals(right) for left, right in pairs)


def cut(table: pl.DataFrame, cuts: list[int]) -> list[pl.DataFrame]:
    return [table[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), table.height])]


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=5), is_text=st.booleans())
def test_bytes_depend_on_rows_not_on_batches(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], is_text: bool
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    table = make_table([f"id{i:03}" for i in range(300)] if is_text else list(range(300)))
    write_shards(folder / "whole", [table], SCHEMA)
    batches = [table[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), 300])]
    write_shards(folder / "parts", batches, SCHEMA)
    assert read_files(folder / "whole") == read_files(folder / "parts")


@pytest.mark.parametrize("change", ["new row", "changed row", "row gone"])
def test_a_change_of_one_row_changes_few_shards(tmp_path: Path, change: str) -> None:
    ids = [2 * i for i in range(2000)]
    before = make_table(ids)
    write_shards(tmp_path / "rows", [before], SCHEMA)
    old = set(read_files(tmp_path / "rows"))
    most = 0
    for place in range(100, 2000, 190):
        kept = ids[:place] + ([ids[place] - 1] if change == "new row" else []) + ids[place + (change == "row gone") :]
        after = make_table(kept)
        if change == "changed row":
            after = pl.concat(
                [
                    after[:place],
                    after[place + 1 : place + 2].with_columns(item_id=pl.lit(ids[place], pl.Int64)),
                    after[place + 1 :],
                ]
            )
        write_shards(tmp_path / "rows", [after], SCHEMA)
        most = max(most, len(set(read_files(tmp_path / "rows")) - old))
        assert read_table(tmp_path / "rows", SCHEMA).equals(after)
    assert 1 <= most <= 4


@pytest.mark.parametrize("n", [0, 1])
def test_no_row_and_one_row_are_one_shard(tmp_path: Path, n: int) -> None:
    table = make_table(list(range(n)))
    write_shards(tmp_path / "rows", [table], SCHEMA)
    assert [file.name for file in (tmp_path / "rows").iterdir()] == ["part-00000-of-00001.parquet"]
    assert read_table(tmp_path / "rows", SCHEMA).equals(table)
    assert [batch.height for batch in read_batches(tmp_path / "rows", SCHEMA)] == [n]


def cut_off(folder: Path) -> None:
    file = find_shards(folder)[1]
    file.write_bytes(file.read_bytes()[:-9])


def swap(folder: Path) -> None:
    one, two, *_ = find_shards(folder)
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)


DAMAGES = {
    "missing": (lambda folder: find_shards(folder)[1].unlink(), r"part-00001-of-\d+\.parquet is missing"),
    "last missing": (lambda folder: find_shards(folder)[-1].unlink(), r"part-000\d\d-of-\d+.* is missing"),
    "first missing": (lambda folder: find_shards(folder)[0].unlink(), r"part-00000-of-\d+.* is missing"),
    "all missing": (lambda folder: [file.unlink() for file in folder.iterdir()], "part-00000-of-00001.* is missing"),
    "truncated": (cut_off, r"part-00001-of-\d+\.parquet cannot be read"),
    "swapped": (swap, "ascend"),
    "one too many": (lambda folder: (folder / "part-09999-of-00002.parquet").write_bytes(b""), "no shard of"),
    "another file": (lambda folder: (folder / "x.txt").write_bytes(b""), "x.txt is no shard of"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    damage, said = DAMAGES[name]
    folder = tmp_path / "rows"
    write_shards(folder, [make_table(list(range(300)))], SCHEMA)
    damage(folder)
    for read in (read_table, lambda *given: list(read_batches(*given))):
        with pytest.raises(DataError, match=said):
            read(folder, SCHEMA)


def test_what_fails_in_between_leaves_the_shards_of_before_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    table = make_table(list(range(300)))
    write_shards(folder, [table], SCHEMA)
    with pytest.raises(DataError, match="ids must ascend"):
        write_shards(folder, [table, table], SCHEMA)

    def interrupted():  # type: ignore[no-untyped-def]
        yield table[:100]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(folder, interrupted(), SCHEMA)
    assert read_table(folder, SCHEMA).equals(table)
    assert list(tmp_path.iterdir()) == [folder]


def test_the_hash_of_a_folder_is_the_one_in_dvc_lock(toy: Toy) -> None:
    write_shards(toy.root / "data" / "rows", [make_table(list(range(300)))], SCHEMA)
    toy.run("dvc", "add", "data/rows")
    for name in ("rows", "raw.txt"):
        stored = yaml.safe_load((toy.root / "data" / f"{name}.dvc").read_text())["outs"][0]
        assert hash_as_dvc(toy.root / "data" / name) == stored["md5"]
