"""Damaged, foreign and linked files of releases: found, told with a cure, and never followed."""

import json
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from release_project import DEFAULT, A, B, C, flip_bit, release, write_run

from flows.releases.create import create_release
from flows.releases.lineage import read_log
from flows.releases.manifest import CONTENTS
from flows.releases.rollback import roll_back
from flows.releases.store import (
    find_release,
    read_release,
    verify_all,
    verify_release,
)
from tasks.errors import DataError, StageError

# Damage


def test_every_flipped_bit_is_found(root):
    made = release(root)
    chosen = random.Random(0)
    for path in sorted((root / "releases" / made).iterdir()):
        whole = path.read_bytes()
        for position in [0, len(whole) * 8 - 1, *(chosen.randrange(len(whole) * 8) for _ in range(8))]:
            flip_bit(path, position)
            with pytest.raises(DataError, match=made):
                verify_release(root, made)
            assert len(verify_all(root)) == 1
            path.write_bytes(whole)
    assert verify_all(root) == ()


@pytest.mark.parametrize("name", [*CONTENTS, "manifest.json", "figures.json"])
def test_truncated_and_missing_files_are_found(root, name):
    made = release(root)
    path = root / "releases" / made / name
    whole = path.read_bytes()
    path.unlink()
    for content in (None, b"", whole[:-1], whole[: len(whole) // 2], whole + b"\0"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=f"{made}/{name}"):
            verify_release(root, made)


def test_a_file_that_does_not_belong_is_found(root):
    made = release(root)
    (root / "releases" / made / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"):
        verify_release(root, made)


@pytest.mark.parametrize("position", range(0, 40_000, 4999))
def test_a_damaged_line_of_the_log_is_passed_over_and_told(root, position):
    release(root, A)
    release(root, B)
    log = root / "releases/log.jsonl"
    flip_bit(log, position)
    assert any("log.jsonl" in problem for problem in verify_all(root))
    made = release(root, C)
    assert find_release(root, "current") == made


def test_a_torn_last_line_of_the_log_never_happened(root):
    release(root, A)
    log = root / "releases/log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + whole[: len(whole) // 2])
    assert len(read_log(log).records) == 1
    second = release(root, B)
    assert [record.release for record in read_log(log).records][-1] == second and read_log(log).damaged == ()


def test_releasing_the_same_content_again_repairs_it(root):
    made = release(root)
    before = verify_release(root, made).manifest
    (root / "releases" / made / "labels.parquet").unlink()
    again = create_release(root, DEFAULT)
    assert again.id == made and again.is_new
    assert verify_release(root, made).manifest.files == before.files


def test_a_damaged_last_release_stops_the_next_and_says_what_to_do(root):
    first, second = release(root, A), release(root, B)
    flip_bit(root / "releases" / second / "labels.parquet", 99)
    with pytest.raises(DataError, match=r"labels\.parquet: its bytes differ.*epoxy rollback"):
        release(root, C)
    assert roll_back(root).id == first
    assert verify_release(root, "current").id == first


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["manifest.json", "figures.json", "labels.parquet"]), content=st.binary(max_size=300) | st.text().map(str.encode) | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_give_a_clear_error(fuzzed, name, content):
    root, made = fuzzed
    path = root / "releases" / made / name
    whole = path.read_bytes()
    path.chmod(0o644)
    try:
        path.write_bytes(content)
        with pytest.raises(DataError):
            verify_release(root, made)
    finally:
        path.write_bytes(whole)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300) | st.lists(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)).map(lambda value: json.dumps(value))).map(lambda lines: "\n".join([*lines, ""]).encode()))  # fmt: skip
def test_any_bytes_are_a_log(fuzzed, content):
    path = fuzzed[0] / "any.jsonl"
    path.write_bytes(content)
    log = read_log(path)
    assert log.records == () and len(log.damaged) == content.count(b"\n")


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzzed")
    write_run(root, A)
    return root, release(root)


# Links


@pytest.mark.parametrize("name", ["labels.parquet", "manifest.json"])
def test_links_out_of_a_release_are_not_followed(root, name, tmp_path):
    made = release(root)
    path = root / "releases" / made / name
    path.rename(tmp_path / name)
    path.symlink_to(tmp_path / name)  # the right content, in the wrong place
    with pytest.raises(DataError, match=name):
        verify_release(root, made)


def test_pipes_do_not_hang(root):
    made = release(root)
    path = root / "releases" / made / "manifest.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a plain file"):
        verify_release(root, made)


@pytest.mark.parametrize("target", ["/etc", "..", "../data", ".", "f" * 12 + "/..", "nonsense"])
def test_current_leads_nowhere_else(root, target):
    release(root)
    (root / "releases/current").unlink()
    (root / "releases/current").symlink_to(target)
    with pytest.raises(DataError, match=r"releases/current.*Remove it"):
        read_release(root)
    assert len(verify_all(root)) >= 1
    (root / "releases/current").unlink()
    assert create_release(root, DEFAULT).id == find_release(root, "current")


def test_the_folder_of_releases_may_not_be_a_link(root, tmp_path):
    (tmp_path / "away").mkdir()
    (root / "releases").symlink_to(tmp_path / "away")
    with pytest.raises(StageError, match="plain folder"):
        create_release(root, DEFAULT)
    assert list((tmp_path / "away").iterdir()) == []
