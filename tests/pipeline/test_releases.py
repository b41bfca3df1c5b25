"""Releases: what they hold, that nothing damages them unseen, and that no death, rival or full disk shows to a reader."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from release_project import CLASSES, Run, add_rows, write_lock, write_run

from flows.releases import lineage
from flows.releases.create import RefusedError, create_release
from flows.releases.diff import compare_releases, describe_difference, describe_trace, tabulate_difference, trace_label
from flows.releases.lineage import Action, read_log
from flows.releases.lock import lock_releases, user_name
from flows.releases.manifest import CONTENTS
from flows.releases.new_rows import label_new_rows
from flows.releases.policy import GateLimits
from flows.releases.prune import prune_releases
from flows.releases.rollback import roll_back
from flows.releases.store import (
    describe_releases,
    find_release,
    list_releases,
    point_current,
    read_figures,
    read_labels,
    read_release,
    verify_all,
    verify_release,
)
from tasks.errors import DataError, EpoxyError, GateError, ParamsError, StageError
from tasks.tables.paths import LABEL_MODEL, METRICS, REPORT, SHIPPED_LABELS, THRESHOLDS, VOTES
from tasks.tables.release_rows import RowChanges, compare_rows

DEFAULT = GateLimits.model_validate({})
OPEN = GateLimits.model_validate(
    {"minimum_coverage": None, "maximum_flipped": None, "maximum_balance_shift": None, "maximum_metric_drop": None}
)
"""Limits that let the toy runs below follow each other."""

A, B, C = Run(comment="a"), Run(comment="b"), Run(comment="c")
FLIPPED = Run(labels=(0, 1, 1, 1))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with run A finished, not under Git, no lineage receiver."""
    monkeypatch.delenv(lineage.URL_VARIABLE, raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    write_run(folder, A)
    return folder


def release(root: Path, run: Run | None = None, limits: GateLimits = OPEN, **options: Any) -> str:
    if run is not None:
        write_run(root, run)
    return create_release(root, limits, **options).id


def hash_tree(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# What a release is


def test_a_release_holds_what_the_run_made(root):
    made = create_release(root, DEFAULT, reason="first")
    assert made.is_new and made.previous is None and made.notes == ()
    for name, source in CONTENTS.items():
        assert (made.path / name).read_bytes() == (root / source).read_bytes()
    manifest = verify_release(root, made.id).manifest
    assert manifest.classes == CLASSES and manifest.items == 4 and manifest.labels == {"ham": 2, "spam": 2}
    assert manifest.inputs["raw"] == "0" * 32 + ".dir"
    labels = (root / SHIPPED_LABELS).read_bytes()
    assert manifest.inputs[str(SHIPPED_LABELS)] == hashlib.md5(labels).hexdigest()
    assert manifest.files["labels.parquet"].sha256 == hashlib.sha256(labels).hexdigest()
    assert list(manifest.lf_sources) == ["lfs/spam.py"]
    assert manifest.packages["polars"] == pl.__version__
    assert read_labels(read_release(root)).equals(pl.read_parquet(root / SHIPPED_LABELS))


def test_current_is_a_relative_link_and_a_moved_project_keeps_it(root):
    made = release(root)
    assert (root / "releases/current").readlink() == Path(made)
    moved = root.rename(root.parent / "elsewhere")
    assert verify_release(moved, "current").id == made
    assert pl.read_parquet(moved / "releases/current/labels.parquet").height == 4


def test_the_same_content_has_the_same_id_wherever_and_whenever(root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_run(other, B)
    assert release(other) != release(root)
    assert release(other, A) == find_release(root, "current")


def test_other_inputs_make_another_release_of_the_same_labels(root):
    first = release(root)
    lock = (root / "dvc.lock").read_text()
    (root / "dvc.lock").write_text(lock.replace("0" * 32, "1" * 32))
    second = release(root)
    assert first != second
    assert (root / "releases" / first / "labels.parquet").read_bytes() == (
        root / "releases" / second / "labels.parquet"
    ).read_bytes()


def test_releasing_twice_is_releasing_once_with_two_run_records(root):
    first = create_release(root, DEFAULT)
    before = hash_tree(first.path)
    again = create_release(root, DEFAULT)
    assert again.id == first.id and not again.is_new
    assert hash_tree(first.path) == before
    assert [one.action for one in read_log(root / "releases/log.jsonl").records] == [Action.RELEASE] * 2


def test_figures_are_what_a_reader_counts(root):
    figures = read_figures(read_release(root, release(root)))
    assert (figures.items, figures.coverage, figures.coverage_original) == (4, 1.0, 3 / 4)
    assert figures.valid is not None and (figures.valid.gold, figures.valid.accuracy) == (2, 1.0)
    assert figures.lfs["offer"].coverage == 2 / 4 and figures.lfs["offer"].agreement == 1.0
    assert figures.lfs["hello"].coverage == 1 / 4 and figures.lfs["hello"].coverage_extended == 2 / 4
    assert figures.lfs["hello"].threshold == 0.5 and figures.lfs["offer"].threshold is None
    # (1, 0) twice and (0, 1) twice: each is half the diagonal of a unit square from the middle.
    assert figures.embeddings is not None and figures.embeddings.centroid == (0.5, 0.5)
    assert figures.embeddings.spread == pytest.approx(0.5**0.5, abs=1e-6)
    # 0, 0 and 1: the median is 0, the variance 2/9.
    assert figures.similarity is not None
    assert (figures.similarity.quantiles[0], figures.similarity.quantiles[50], figures.similarity.quantiles[100]) == (
        0,
        0,
        1,
    )
    assert figures.similarity.deviation == pytest.approx((2 / 9) ** 0.5, abs=1e-6)


# What is not released


@pytest.mark.parametrize("name", sorted({*map(str, CONTENTS.values())} - {"params.yaml"}))
def test_a_missing_or_foreign_artifact_stops_the_release(root, name):
    content = (root / name).read_bytes()
    for damage in (None, content + b" ", content[: len(content) // 2], b""):
        (root / name).unlink(missing_ok=True)
        if damage is not None:
            (root / name).write_bytes(damage)
        with pytest.raises(DataError, match=r"epoxy run"):
            create_release(root, DEFAULT)
    assert list_releases(root) == () and not (root / "releases/current").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (REPORT, b"%PDF"),
        (METRICS, b"[]"),
        (METRICS, b"[" * 100_000),
        (LABEL_MODEL, b"\xff"),
        (THRESHOLDS, b'{"thresholds": {"offer": "0.5"}}'),
        (SHIPPED_LABELS, b"PAR1PAR1"),
    ],
)
def test_an_artifact_that_says_nonsense_is_not_released_even_if_dvc_knows_it(root, name, content):
    (root / name).write_bytes(content)
    write_lock(root)
    with pytest.raises(DataError):
        create_release(root, DEFAULT)
    assert list_releases(root) == ()


def test_params_changed_since_the_run_stop_the_release(root):
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("bootstrap: 0", "bootstrap: 5"))
    with pytest.raises(DataError, match="evaluate changed since the last run"):
        create_release(root, DEFAULT)


@pytest.mark.parametrize(
    "text", [None, "", "stages: 3", "a: [", "stages: {x: {deps: [{}]}}", "!!python/object:os.x {}"]
)
def test_a_bad_dvc_lock_stops_the_release(root, text):
    (root / "dvc.lock").unlink()
    if text is not None:
        (root / "dvc.lock").write_text(text)
    with pytest.raises(DataError, match=r"dvc\.lock"):
        create_release(root, DEFAULT)


def test_stages_of_different_runs_are_no_release(root):
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"]["more"] = json.loads(json.dumps(lock["stages"]["all"]).replace("0" * 32, "1" * 32))
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    with pytest.raises(DataError, match="different versions of raw"):
        create_release(root, DEFAULT)


def test_a_changed_bit_is_told_with_what_ends_it(root):
    labels = (root / SHIPPED_LABELS).read_bytes()
    (root / SHIPPED_LABELS).write_bytes(labels[:-1] + bytes([labels[-1] ^ 1]))
    with pytest.raises(
        DataError, match=r"not the one in dvc\.lock\. Run 'rm data/train/labels\.parquet', then 'epoxy run'"
    ):
        create_release(root, DEFAULT)


# Gates


def test_failed_gates_leave_the_last_release_and_tell_the_figures(root):
    first = release(root)
    before = hash_tree(root / "releases" / first)
    write_run(root, FLIPPED)
    with pytest.raises(RefusedError) as caught:
        create_release(root, DEFAULT, reason="nightly")
    assert caught.value.exit_code == 6 and isinstance(caught.value, GateError)
    flipped = next(one for one in caught.value.results if one.gate == "labels flipped")
    assert (flipped.value, flipped.limit) == (1 / 4, 0.1)
    assert "labels flipped" in str(caught.value) and first in str(caught.value)
    assert find_release(root, "current") == first and hash_tree(root / "releases" / first) == before
    assert [one.id for one in list_releases(root)] == [first]
    record = read_log(root / "releases/log.jsonl").records[-1]
    assert record.action is Action.REFUSE and record.reason == "nightly"
    assert [one.value for one in record.gates if one.gate == "labels flipped"] == [1 / 4]


def test_accepting_is_recorded_with_reason_user_and_figures(root):
    release(root)
    write_run(root, FLIPPED)
    made = create_release(root, DEFAULT, accept="the new price LF is right")
    assert find_release(root, "current") == made.id
    record = read_log(root / "releases/log.jsonl").records[-1]
    assert record.accepted == "the new price LF is right" and record.user == user_name()
    assert [one.gate for one in record.gates if one.verdict == "failed"] == ["labels flipped", "class balance shift"]


def test_accepting_nothing_is_no_acceptance(root):
    assert release(root, accept="in any case") == find_release(root, "current")
    assert read_log(root / "releases/log.jsonl").records[-1].accepted is None


def test_accepting_needs_a_reason(root):
    with pytest.raises(ParamsError, match="reason"):
        create_release(root, DEFAULT, accept=" ")


# Rolling back


def test_rolling_back_goes_to_the_release_before_and_again(root):
    ids = [release(root, run) for run in (A, B, C)]
    assert roll_back(root, reason="bad").id == ids[1]
    assert roll_back(root).id == ids[0]
    with pytest.raises(DataError, match="no release before"):
        roll_back(root)
    assert roll_back(root, ids[2][:6]).id == ids[2]
    records = read_log(root / "releases/log.jsonl").records
    assert [(one.action, one.release, one.previous, one.reason) for one in records[3:]] == [
        ("rollback", ids[1], ids[2], "bad"),
        ("rollback", ids[0], ids[1], ""),
        ("rollback", ids[2], ids[0], ""),
    ]


def test_labels_that_somebody_went_back_from_do_not_come_back_by_themselves(root):
    first, second = release(root, A), release(root, B)
    roll_back(root, reason="wrong prices")
    with pytest.raises(RefusedError, match="wrong prices"):
        create_release(root, OPEN)
    assert find_release(root, "current") == first
    assert create_release(root, OPEN, accept="prices were right").id == second
    assert create_release(root, OPEN).id == second


def test_nobody_goes_back_to_a_damaged_release(root):
    first, second = release(root, A), release(root, B)
    flip_bit(root / "releases" / first / "labels.parquet", 0)
    with pytest.raises(DataError, match=rf"{first}/labels\.parquet"):
        roll_back(root)
    assert find_release(root, "current") == second


# Names


def test_names(root):
    with pytest.raises(DataError, match="no release yet"):
        find_release(root, "current")
    made = release(root)
    assert find_release(root, made) == find_release(root, made[:4]) == find_release(root, "current") == made
    for name in ("", made[:3], "../../etc", "/etc", "current/..", "f" * 12 if made != "f" * 12 else "0" * 12):
        with pytest.raises(DataError):
            find_release(root, name)


# Comparing and tracing


def test_the_difference_of_two_releases(root):
    before = release(root)
    votes = {"offer": (-1, 1, 1, 1), "hello": (0, -1, -1, -1)}
    after = release(
        root, Run(labels=(0, 1, 1, 1, 1), votes={lf: (*column, 1) for lf, column in votes.items()}, lent=(), threshold=0.75,
                  embeddings=((1, 0), (0, 1), (1, 0), (0, 1), (1, 0)), balance=0.25), accept="test")  # fmt: skip
    difference = compare_releases(root, before, after)
    assert difference.labels.flipped.rows() == [("c", "ham", "spam")]
    assert (difference.labels.common, difference.labels.new, difference.labels.deleted) == (4, 1, 0)
    lfs = {one.name: (one.before, one.after) for one in difference.lfs}
    assert lfs["hello.threshold"] == (0.5, 0.75)
    assert lfs["offer.coverage"] == (2 / 4, 4 / 5)
    assert lfs["hello.coverage_extended"] == (2 / 4, 2 / 5)
    assert {one.name: (one.before, one.after) for one in difference.balance} == {"ham": (0.5, 0.2), "spam": (0.5, 0.8)}
    assert [(one.name, one.before, one.after) for one in difference.model] == [
        ("class_balance.0", 0.5, 0.25),
        ("class_balance.1", 0.5, 0.75),
    ]
    assert difference.metrics == () and difference.params == ()
    assert str(SHIPPED_LABELS) in difference.inputs and "raw" not in difference.inputs
    table = json.loads(json.dumps(tabulate_difference(difference)))
    assert table["labels"]["flips"] == [{"item_id": "c", "before": "ham", "after": "spam"}]
    text = describe_difference(difference)
    assert "1 of 4 common items flipped (25.00%)" in text and "  c: ham -> spam" in text
    assert difference.rows == RowChanges(kept=4, new=1, changed=0, deleted=0)
    assert table["rows"] == {"kept": 4, "new": 1, "changed": 0, "deleted": 0}
    assert "rows: 1 new, 0 changed, 0 deleted, 4 kept" in text
    back = compare_releases(root, after, before)
    assert (back.labels.new, back.labels.deleted, back.rows.deleted) == (0, 1, 1)
    same = compare_releases(root, before, before)
    assert same.labels.flipped.is_empty() and (same.lfs, same.inputs) == ((), ())


def test_each_release_counts_its_rows_against_the_one_before(root):
    first = create_release(root, NIGHT)
    assert first.rows is None
    add_rows(root, [("e", (0.0, 1.0)), ("f", (1.0, 0.0))])
    night = create_release(root, NIGHT, new_rows=label_new_rows(root))
    assert night.rows == RowChanges(kept=4, new=2, changed=0, deleted=0)
    # A run on a, b and c alone, with another embedding of c.
    votes = {"offer": (-1, 1, -1, 1), "hello": (0, -1, -1, -1)}
    run = Run(labels=(0, 1, 0), votes={lf: column[:3] for lf, column in votes.items()},
              embeddings=((1, 0), (0, 1), (0, 1)))  # fmt: skip
    write_run(root, run)
    with pytest.raises(RefusedError, match="rows: 0 new, 1 changed, 3 deleted, 2 kept"):
        create_release(root, NIGHT.model_copy(update={"maximum_centroid_shift": 0.0}))
    third = create_release(root, NIGHT)
    again = create_release(root, NIGHT)
    counts = RowChanges(kept=2, new=0, changed=1, deleted=3)
    assert third.rows == counts and again.rows == RowChanges(kept=3, new=0, changed=0, deleted=0)
    assert roll_back(root, first.id).rows is None
    records = read_log(root / "releases/log.jsonl").records
    assert [one.rows for one in records] == [None, night.rows, counts, counts, again.rows, None]
    listed = describe_releases(list_releases(root)).splitlines()
    assert listed[1].startswith(f"  {night.id}  6 items: 2 new, 0 changed, 0 deleted, 4 kept  ")
    # What it brought, not that the night after brought nothing.
    assert listed[2].startswith(f"  {third.id}  3 items: 0 new, 1 changed, 3 deleted, 2 kept  ")


def test_a_row_whose_id_is_of_another_type_is_new():
    number = pl.DataFrame({"item_id": [1], "item": [1], "embedding": [1]})
    text = number.cast({"item_id": pl.String})
    assert compare_rows(number, text) == RowChanges(kept=0, new=1, changed=0, deleted=1)


def test_a_log_from_before_rows_were_counted_is_still_read(root):
    create_release(root, DEFAULT)
    path = root / "releases/log.jsonl"
    event = json.loads(path.read_text())
    facet = event["run"]["facets"]["epoxyFlow_release"]
    del facet["rows"], facet["checksum"]
    facet["checksum"] = lineage._digest(event)
    path.write_text(json.dumps(event) + "\n")
    log = read_log(path)
    assert log.damaged == () and log.records[0].rows is None


def test_a_label_tells_how_it_came_about(root):
    made = create_release(root, DEFAULT, run_id="run-1")
    own = trace_label(root, "current", "b")
    assert (own.label, [(one.lf, one.vote, one.neighbor) for one in own.votes]) == ("spam", [("offer", "spam", None)])
    lent = trace_label(root, made.id, "c")
    assert [(one.lf, one.vote, one.neighbor, one.similarity, one.threshold) for one in lent.votes] == [
        ("hello", "ham", "a", 1.0, 0.5)
    ]
    assert [one.run_id for one in lent.records] == ["run-1"]
    assert lent.lf_sources == {"lfs/spam.py": hashlib.sha256((root / "lfs/spam.py").read_bytes()).hexdigest()}
    assert "hello: ham, from item a" in describe_trace(lent)
    with pytest.raises(DataError, match="no item"):
        trace_label(root, "current", "zz")


# Keeping


def test_pruning_keeps_the_newest_and_the_current_one(root):
    ids = [release(root, Run(comment=str(number))) for number in range(6)]
    roll_back(root, ids[1])
    (root / "releases" / f"{ids[0]}.dvc").write_text("outs: []\n")
    assert prune_releases(root, 2) == (ids[0], ids[2], ids[3])
    assert [one.id for one in list_releases(root)] == [ids[1], ids[4], ids[5]]
    assert not (root / "releases" / f"{ids[0]}.dvc").exists()
    assert find_release(root, "current") == ids[1] and verify_all(root) == ()
    assert prune_releases(root, 2) == ()
    assert read_log(root / "releases/log.jsonl").records[-1].removed == (ids[0], ids[2], ids[3])
    with pytest.raises(ParamsError):
        prune_releases(root, 0)


def test_what_never_was_current_takes_no_place_when_pruning(root):
    ids = [release(root, Run(comment=str(number))) for number in range(3)]

    def die(_identity: str) -> None:
        raise KeyboardInterrupt

    write_run(root, Run(comment="died"))
    with pytest.raises(KeyboardInterrupt):
        create_release(root, OPEN, carry=die)
    listed = [one.id for one in list_releases(root)]
    assert listed[:3] == ids and len(listed) == 4
    assert prune_releases(root, 2) == (ids[0], listed[3])
    assert find_release(root, "current") == ids[2] and roll_back(root).id == ids[1]


def test_without_a_log_pruning_goes_by_the_manifests(root):
    ids = [release(root, Run(comment=str(number))) for number in range(4)]
    (root / "releases/log.jsonl").unlink()
    assert prune_releases(root, 2) == tuple(ids[:2])


def test_order_does_not_follow_the_clock(root, monkeypatch):
    hours = iter(range(23, 0, -1))
    monkeypatch.setattr("flows.releases.records.now", lambda: f"2020-01-01T{next(hours):02}:00:00.000+00:00")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    ids = [release(root, Run(comment=str(number))) for number in range(4)]
    assert [one.id for one in list_releases(root)] == ids
    times = [one.time for one in read_log(root / "releases/log.jsonl").records]
    assert times == sorted(times, reverse=True)  # the clock did jump back
    assert roll_back(root).id == ids[2]
    assert prune_releases(root, 2) == (ids[0], ids[1])


def test_sequence_goes_on_without_the_log(root):
    ids = [release(root, Run(comment=str(number))) for number in range(3)]
    (root / "releases/log.jsonl").unlink()
    ids.append(release(root, Run(comment="after")))
    assert [one.id for one in list_releases(root)] == ids
    assert read_log(root / "releases/log.jsonl").records[0].sequence == 4


# Damage


def flip_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[(position // 8) % len(content)] ^= 1 << position % 8
    path.chmod(0o644)
    path.write_bytes(content)


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
    assert [one.release for one in read_log(log).records][-1] == second and read_log(log).damaged == ()


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


# Run records


def test_run_records_are_posted_where_the_environment_says(root, monkeypatch):
    seen: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(lineage.URL_VARIABLE, f"http://127.0.0.1:{server.server_port}/api/v1/lineage")
    made = create_release(root, DEFAULT, run_id="5e7b5c52-7f66-4d3e-8f0a-3a4a5f2a9b11")
    server.shutdown()
    server.server_close()
    assert made.notes == ()
    (event,) = seen
    assert event == json.loads((root / "releases/log.jsonl").read_text())
    # What OpenLineage 2-0-2 requires of a RunEvent and of its datasets and facets.
    assert {"eventTime", "run", "job", "producer", "schemaURL"} <= event.keys()
    assert event["eventType"] == "COMPLETE" and event["run"]["runId"] == "5e7b5c52-7f66-4d3e-8f0a-3a4a5f2a9b11"
    assert [one["name"] for one in event["outputs"]] == [f"releases/{made.id}"]
    assert [one["name"] for one in event["inputs"]] == ["raw"]
    for facet in [*event["run"]["facets"].values(), *event["outputs"][0]["facets"].values()]:
        assert {"_producer", "_schemaURL"} <= facet.keys()


@pytest.mark.parametrize(
    "address", ["http://secret:password@127.0.0.1:1/", "file:///etc/passwd", "http://[::", "nonsense"]
)
def test_a_receiver_that_does_not_answer_is_a_note_without_its_address(root, monkeypatch, address):
    monkeypatch.setenv(lineage.URL_VARIABLE, address)
    made = create_release(root, DEFAULT)
    assert len(made.notes) == 1 and lineage.URL_VARIABLE in made.notes[0]
    assert address not in made.notes[0] and "secret" not in made.notes[0]
    assert find_release(root, "current") == made.id


# Death, rivals, full disks


def start(function: Callable[..., None], *arguments: Any) -> multiprocessing.Process:
    """A process that runs `function` and has everything imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flows.releases.create", "release_project"])
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def release_both(root: str) -> None:
    """Release what data/ holds, or another run's, over and over."""
    for number in range(1000):
        write_run(Path(root), (A, B, C)[number % 3])
        create_release(Path(root), OPEN)


def release_quietly(root: str) -> None:
    with contextlib.suppress(EpoxyError):
        create_release(Path(root), OPEN)


def die_at(root: str, step: int, done: str) -> None:
    """Release, and die of SIGKILL right before the step-th thing done to the file system below releases/."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        changes = event in {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.truncate", "os.chmod"}
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if ((changes or writes) and "releases" in str(arguments[0])) or event == "os.truncate":
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    create_release(Path(root), OPEN)
    Path(done).touch()


def require_whole(root: Path, allowed: set[str]) -> None:
    """What a reader sees is one whole release of those allowed, and so is all else that is visible."""
    labels = read_labels(read_release(root))
    assert labels.height == 4
    assert verify_release(root, "current").id in allowed
    assert verify_all(root) == ()


def test_killed_before_every_single_step_of_a_release(root, tmp_path):
    first = release(root, A)
    write_run(root, B)
    second = release(root)
    steps = 0
    outcomes = set()
    for step in range(1, 200):
        roll_back_quietly(root, first, second)
        done = tmp_path / f"done-{step}"
        process = start(die_at, str(root), step, str(done))
        process.join(60)
        require_whole(root, {first, second})
        outcomes.add(find_release(root, "current"))
        if done.exists():
            break
        assert process.exitcode == -signal.SIGKILL
        steps += 1
        # The next run recovers by itself.
        assert create_release(root, OPEN).id == second
        require_whole(root, {second})
        assert not list((root / "releases").glob(".*.part"))
    assert steps > 10 and outcomes == {first, second}


def roll_back_quietly(root: Path, first: str, second: str) -> None:
    """As before the second release was first made: its folder is gone, and nobody ever went back from it."""
    folder = root / "releases"
    point_current(folder, first)
    for path in (folder / second).glob("*"):
        path.unlink()
    with contextlib.suppress(FileNotFoundError):
        (folder / second).rmdir()
    lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text(lines[0])


def test_killed_at_random_moments(root):
    ids = {release(root, run) for run in (A, B, C)}
    watching, seen = threading.Event(), []
    reader = threading.Thread(target=read_on, args=(root, ids, watching, seen))
    reader.start()
    chosen = random.Random(0)
    try:
        for _ in range(int(os.environ.get("EPOXY_KILLS", "30"))):
            process = start(release_both, str(root))
            time.sleep(chosen.uniform(0.02, 0.35))
            process.kill()
            process.join()
            require_whole(root, ids)
    finally:
        watching.set()
        reader.join()
    assert [one for one in seen if isinstance(one, Exception)] == [] and len(seen) > 100
    write_run(root, A)
    create_release(root, OPEN)
    require_whole(root, ids)
    assert not list((root / "releases").glob(".*.part"))


def read_on(root: Path, ids: set[str], ended: threading.Event, seen: list[Any]) -> None:
    """Read as a consumer does, resolving `current` once, until told to end; note what went wrong."""
    while not ended.is_set():
        try:
            folder = (root / "releases/current").resolve(strict=True)
            assert folder.name in ids
            manifest = json.loads((folder / "manifest.json").read_text())
            labels = (folder / "labels.parquet").read_bytes()
            assert hashlib.sha256(labels).hexdigest() == manifest["files"]["labels.parquet"]["sha256"]
            seen.append(folder.name)
        except Exception as error:
            seen.append(error)
        time.sleep(0.002)


def test_two_at_once_take_turns(root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    processes = [start(release_quietly, str(root)) for _ in range(4)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(list_releases(root)) == 1 and verify_all(root) == ()
    records = read_log(root / "releases/log.jsonl").records
    assert [one.sequence for one in records] == [1, 2, 3, 4]


def hold(root: str, ready: str) -> None:
    with lock_releases(Path(root)):
        Path(ready).touch()
        time.sleep(60)


def test_who_holds_the_lock_is_told_and_dies_with_it(root, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.releases.lock.LOCK_SECONDS", 0.2)
    process = start(hold, str(root), str(tmp_path / "ready"))
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    with pytest.raises(StageError, match=rf"in use by process {process.pid} on "):
        create_release(root, DEFAULT)
    assert list_releases(root) == ()
    process.kill()
    process.join()
    assert create_release(root, DEFAULT).is_new


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_last_release_and_room_heals_it(root, small_disk):
    first = release(root)
    subprocess.run(["cp", "-a", f"{root}/releases/.", str(small_disk)], check=True)
    (root / "releases").rename(root / "elsewhere")
    (root / "releases").mkdir()
    subprocess.run(["mount", "--move", str(small_disk), str(root / "releases")], capture_output=True)
    if not (root / "releases/current").exists():
        subprocess.run(["mount", "--bind", str(small_disk), str(root / "releases")], check=True)
    try:
        write_run(root, B)
        filler = root / "releases/filler"
        failures = 0
        for free in range(0, 80, 4):
            fill(filler, free * 1024)
            try:
                create_release(root, OPEN)
                break
            except StageError as error:
                assert "No space left" in str(error)
                failures += 1
                filler.unlink()
                require_whole(root, {first})
                assert not list((root / "releases").glob(".*.part"))
        assert failures > 3
        assert find_release(root, "current") != first
        filler.unlink(missing_ok=True)
        require_whole(root, {find_release(root, "current")})
    finally:
        subprocess.run(["umount", str(root / "releases")], check=True)
        if not os.path.ismount(small_disk):
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(small_disk)], check=True)


def fill(path: Path, leave: int) -> None:
    """Fill the disk at `path` up to `leave` bytes."""
    disk = os.statvfs(path.parent)
    path.write_bytes(b"x" * max(disk.f_bavail * disk.f_frsize - leave, 0))


def test_a_read_only_folder_is_told(root):
    first = release(root)
    write_run(root, B)
    if os.geteuid() == 0:
        bound = ["mount", "--bind", str(root / "releases"), str(root / "releases")]
        if subprocess.run(bound, capture_output=True).returncode:
            pytest.skip("root writes everywhere unless it may mount read-only")
        subprocess.run(["mount", "-o", "remount,ro,bind", str(root / "releases")], check=True)
    else:
        (root / "releases").chmod(0o555)
    try:
        with pytest.raises(StageError, match=r"releases.*The last release is in place"):
            create_release(root, OPEN)
        require_whole(root, {first})
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(root / "releases")], check=True)
        else:
            (root / "releases").chmod(0o755)
    assert create_release(root, OPEN).id != first


def test_current_that_fell_behind_the_log_follows_it(root):
    first, second = release(root, A), release(root, B)
    point_current(root / "releases", first)  # as if killed between the two steps
    made = create_release(root, OPEN)
    assert made.id == second and "the log says" in made.notes[0]


# Nights without a refit

NIGHT = OPEN.model_copy(update={"maximum_neighbor_shift": None, "maximum_centroid_shift": None})
"""For releases of so few rows that each new one moves the whole."""


def test_a_night_labels_new_rows_and_leaves_the_others_alone(root):
    before = release(root)
    add_rows(root, [("e", (0.0, 1.0)), ("f", (1.0, 0.0))])
    made = create_release(root, NIGHT, new_rows=label_new_rows(root))
    manifest = verify_release(root, made.id).manifest
    assert (manifest.mode, manifest.base, manifest.items) == ("label-new", before, 6)
    assert manifest.rows == RowChanges(kept=4, new=2, changed=0, deleted=0)
    assert read_release(root, before).manifest.mode == "run"
    labels = read_labels(read_release(root))
    assert labels.head(4).equals(read_labels(read_release(root, before)))
    assert labels["label"].tail(2).to_list() == ["spam", "ham"]
    # `hello` votes ham on a, whose embedding f has: its vote is lent.
    lent = pl.read_parquet(made.path / "provenance.parquet").filter(pl.col("item_id") == "f")
    assert lent.select("lf", "neighbor", "similarity").rows() == []  # a is valid, and only train lends
    for name in set(CONTENTS) - {"labels.parquet", "votes.parquet", "provenance.parquet"}:
        assert (made.path / name).read_bytes() == (root / "releases" / before / name).read_bytes()
    assert verify_all(root) == ()
    assert f"model and support of release {before}" in describe_trace(trace_label(root, "current", "e"))
    assert "labeled by a run" in describe_trace(trace_label(root, "current", "a"))
    difference = compare_releases(root, before, made.id)
    assert (difference.labels.new, difference.labels.flipped.height) == (2, 0)


def test_the_next_night_goes_on_from_the_last_and_a_run_takes_over(root):
    first = release(root)
    add_rows(root, [("e", (0.0, 1.0))])
    second = create_release(root, NIGHT, new_rows=label_new_rows(root)).id
    add_rows(root, [("g", (1.0, 0.0))])
    third = create_release(root, NIGHT, new_rows=label_new_rows(root))
    rows = pl.read_parquet(third.path / "rows.parquet")
    assert dict(rows.select("item_id", "base").iter_rows()) == {
        **dict.fromkeys("abcd"), "e": first, "g": second,
    }  # fmt: skip
    assert label_new_rows(root).labeled.counts.describe() == "0 new, 0 changed, 0 deleted, 6 kept"
    assert release(root, A, NIGHT) == first  # the same content as at first
    assert roll_back(root, third.id).id == third.id


def test_the_same_night_has_the_same_id_wherever(root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_run(other, A)
    made = []
    for project in (root, other):
        release(project)
        add_rows(project, [("e", (0.0, 1.0))])
        made.append(create_release(project, NIGHT, new_rows=label_new_rows(project)).id)
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("lfs/spam.py", "# labeling", "# other", "lfs/spam.py changed"),
        ("params.yaml", "- ham", "- eggs", "params.yaml: classes changed"),
        ("params.yaml", "source: lfs/spam.py", "source: lfs/other.py", "params.yaml: apply changed"),
    ],
)
def test_other_votes_than_the_model_knows_are_refused(root, file, old, new, named):
    release(root)
    (root / file).write_text((root / file).read_text().replace(old, new))
    with pytest.raises(DataError, match=rf"{named} since release \w+, .* Run 'epoxy run', then 'epoxy release'"):
        label_new_rows(root)


def test_a_night_without_a_release_says_what_to_do(root):
    with pytest.raises(DataError, match="there is no release yet"):
        label_new_rows(root)


def test_what_changes_meanwhile_stops_the_release_of_a_night(root):
    first = release(root)
    add_rows(root, [("e", (0.0, 1.0))])
    night = label_new_rows(root)
    add_rows(root, [("f", (0.0, 1.0))])
    with pytest.raises(DataError, match="changed while its new rows were labeled"):
        create_release(root, NIGHT, new_rows=night)
    night = label_new_rows(root)
    (root / VOTES).write_bytes((root / SHIPPED_LABELS).read_bytes())
    with pytest.raises(DataError, match=r"votes\.parquet changed while"):
        create_release(root, NIGHT, new_rows=night)
    assert release(root, B) != first
    with pytest.raises(StageError, match=r"became .* meanwhile"):
        create_release(root, NIGHT, new_rows=night)


def test_new_rows_of_another_kind_are_refused(root):
    limits = NIGHT.model_copy(update={"minimum_new_rows": 2})
    first = release(root)
    add_rows(root, [("e", (-1.0, 0.0))])
    few = create_release(root, limits, new_rows=label_new_rows(root))
    assert {one.note for one in few.gates if one.gate.startswith("new rows")} == {"1 new rows, fewer than 2"}
    roll_back(root, first)
    add_rows(root, [("f", (0.0, -1.0))])
    with pytest.raises(RefusedError, match=r"new rows: centroid shift .* FAILED"):
        create_release(root, limits, new_rows=label_new_rows(root))
    assert find_release(root, "current") == first
