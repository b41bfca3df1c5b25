"""tasks.cache.store: what was kept comes back whole or not at all, whatever is damaged, deleted, crowded or done twice."""

import multiprocessing
import os
from pathlib import Path

import pytest

from tasks.cache.store import FOLDER, Cache, identify

KEY, OTHER = identify("a"), identify("b")


def test_a_value_comes_back_under_its_key_and_kind_alone(tmp_path: Path) -> None:
    Cache(tmp_path, "votes").write(KEY, b"value")
    assert Cache(tmp_path, "votes").read(KEY) == b"value"
    assert Cache(tmp_path, "votes").read(OTHER) is None
    assert Cache(tmp_path, "encode").read(KEY) is None
    assert [path.name for path in (tmp_path / FOLDER / "votes").iterdir()] == [KEY]


def test_a_key_depends_on_every_part_and_its_type() -> None:
    keys = [identify(*parts) for parts in (["a"], ["a", None], [["a"]], ["b"], [1], ["1"], [{"a": 1}], [True])]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("damage", ["cut", "flipped", "renamed", "emptied", "longer"])
def test_a_damaged_entry_is_ignored_and_can_be_written_again(tmp_path: Path, damage: str) -> None:
    votes = Cache(tmp_path, "votes")
    votes.write(OTHER, b"value")
    path = tmp_path / FOLDER / "votes" / OTHER
    content = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[:-1])
        case "flipped":
            path.write_bytes(content[:-1] + b"E")
        case "renamed":
            path.rename(path.with_name(KEY))
        case "emptied":
            path.write_bytes(b"")
        case "longer":
            path.write_bytes(content + b"!")
    assert votes.read(OTHER) is None and votes.read(KEY) is None
    assert list(votes.read_all()) == []
    votes.write(OTHER, b"again")
    assert votes.read(OTHER) == b"again"


def test_entries_are_listed_by_prefix(tmp_path: Path) -> None:
    entries = Cache(tmp_path, "encode")
    for key in ("one-2", "one-1", "two-1"):
        entries.write(key, key.encode())
    assert list(entries.read_all("one-")) == [b"one-1", b"one-2"]
    assert list(entries.read_all()) == [b"one-1", b"one-2", b"two-1"]


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    """Four entries of 100 bytes, checks included, in a budget of 250: the two used last stay."""
    folder = tmp_path / FOLDER / "votes"
    with Cache(tmp_path, "votes", budget=250) as votes:
        for age, key in enumerate(("d", "c", "b", "a")):
            votes.write(key, bytes(68))
            os.utime(folder / key, (1000 - age, 1000 - age))
        assert votes.read("a") == bytes(68)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "d"]


def test_what_a_killed_process_left_is_removed_in_time(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER / "votes"
    with Cache(tmp_path, "votes") as votes:
        votes.write(KEY, b"value")
        for name, when in ((".old.part", 1000), (".new.part", None)):
            (folder / name).write_bytes(b"half")
            os.utime(folder / name, None if when is None else (when, when))
    assert sorted(path.name for path in folder.iterdir()) == [".new.part", KEY]


def test_the_folder_of_former_versions_is_removed(tmp_path: Path) -> None:
    (tmp_path / "data/.memo/votes").mkdir(parents=True)
    (tmp_path / "data/.memo/votes/entry").write_bytes(b"value")
    with Cache(tmp_path, "votes"):
        pass
    assert not (tmp_path / "data/.memo").exists()


def test_a_disk_that_takes_nothing_costs_the_entry_only(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder belongs")
    with Cache(tmp_path, "votes") as votes:
        votes.write(KEY, b"value")
        assert votes.read(KEY) is None


def _use(root: Path, seed: int) -> None:
    """Write and read the same forty entries as the other process, in a budget that holds ten."""
    for turn in range(5):
        with Cache(root, "votes", budget=10 * 1032) as votes:
            for entry in range(40):
                key = identify(entry * seed % 41)
                votes.write(key, key.encode()[:10] * 100)
                assert votes.read(key) in (None, key.encode()[:10] * 100), turn


def test_two_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_use, args=(tmp_path, seed)) for seed in (3, 7)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    with Cache(tmp_path, "votes", budget=10 * 1032):
        pass
    names = [path.name for path in (tmp_path / FOLDER / "votes").iterdir()]
    assert 0 < len(names) <= 10 and not any(name.startswith(".") for name in names)


def test_entries_are_found_by_use_and_only_the_latest_kept(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER / "votes"
    entries = Cache(tmp_path, "votes")
    assert entries.find("") == []
    for age, key in enumerate(("a-3", "a-2", "b-1", "a-1")):
        entries.write(key, b"value")
        os.utime(folder / key, (1000 + age, 1000 + age))
    assert entries.find("a-") == ["a-1", "a-2", "a-3"]
    entries.read("a-3")
    assert entries.find("a-") == ["a-3", "a-1", "a-2"]
    entries.keep_latest("a-", 2)
    assert sorted(entries.find("")) == ["a-1", "a-3", "b-1"]
