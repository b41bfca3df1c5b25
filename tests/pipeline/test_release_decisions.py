"""Which release is current: gates, accepted failures, rolling back, pruning, and an order without clocks."""

import time
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from release_project import DEFAULT, FLIPPED, OPEN, A, B, C, Run, flip_bit, hash_tree, release, write_lock, write_run

from flows.releases.create import RefusedError, create_release
from flows.releases.lineage import Action, read_log
from flows.releases.lock import user_name
from flows.releases.prune import prune_releases
from flows.releases.rollback import roll_back
from flows.releases.store import (
    find_release,
    list_releases,
    verify_all,
)
from tasks.errors import DataError, GateError, ParamsError
from tasks.tables import schemas
from tasks.tables.parquet import write_table
from tasks.tables.paths import ITEMS

# Gates


def test_failed_gates_leave_the_last_release_and_tell_the_figures(root):
    first = release(root)
    before = hash_tree(root / "releases" / first)
    write_run(root, FLIPPED)
    with pytest.raises(RefusedError) as caught:
        create_release(root, DEFAULT, reason="nightly")
    assert caught.value.exit_code == 6 and isinstance(caught.value, GateError)
    flipped = next(result for result in caught.value.results if result.gate == "labels flipped")
    assert (flipped.value, flipped.limit) == (1 / 4, 0.1)
    assert "labels flipped" in str(caught.value) and first in str(caught.value)
    assert find_release(root, "current") == first and hash_tree(root / "releases" / first) == before
    assert [listed.id for listed in list_releases(root)] == [first]
    record = read_log(root / "releases/log.jsonl").records[-1]
    assert record.action is Action.REFUSE and record.reason == "nightly"
    assert [gate.value for gate in record.gates if gate.gate == "labels flipped"] == [1 / 4]


def test_accepting_is_recorded_with_reason_user_and_figures(root):
    release(root)
    write_run(root, FLIPPED)
    made = create_release(root, DEFAULT, accept="the new price LF is right")
    assert find_release(root, "current") == made.id
    record = read_log(root / "releases/log.jsonl").records[-1]
    assert record.accepted == "the new price LF is right" and record.user == user_name()
    assert [gate.gate for gate in record.gates if gate.verdict == "failed"] == ["labels flipped", "class balance shift"]


def test_accepting_nothing_is_no_acceptance(root):
    assert release(root, accept="in any case") == find_release(root, "current")
    assert read_log(root / "releases/log.jsonl").records[-1].accepted is None


def test_accepting_needs_a_reason(root):
    with pytest.raises(ParamsError, match="reason"):
        create_release(root, DEFAULT, accept=" ")


@pytest.mark.parametrize("kind", ["time", "date", "text"])
def test_labels_of_old_items_are_refused(kind, root):
    newest = datetime.now(UTC) - timedelta(hours=30)
    written = {
        "time": pl.Series(
            "written", [newest, None, newest - timedelta(days=1), newest], dtype=pl.Datetime("us", "UTC")
        ),
        "date": pl.Series("written", [newest.date(), None, None, newest.date()]),
        "text": pl.Series("written", [newest.isoformat(), "", None, "2001-01-01"]),
    }[kind]
    write_table(root / ITEMS, pl.read_parquet(root / ITEMS).with_columns(written), schemas.ITEMS)
    write_lock(root)

    def limit(hours, column="written"):
        return OPEN.model_copy(update={"maximum_age_hours": hours, "time_column": column})

    with pytest.raises(RefusedError, match=r"hours since the newest item .*FAILED .*newest item: 20"):
        create_release(root, limit(24))
    assert any(result.gate == "hours since the newest item" for result in create_release(root, limit(72)).gates)
    with pytest.raises(DataError, match=r"no column 'when', which gates.time_column .* it has item_id, split, written"):
        create_release(root, limit(72, "when"))
    with pytest.raises(DataError, match=r"column 'split': '(train|valid)' is no time"):
        create_release(root, limit(72, "split"))


# Rolling back


def test_rolling_back_goes_to_the_release_before_and_again(root):
    ids = [release(root, run) for run in (A, B, C)]
    assert roll_back(root, reason="bad").id == ids[1]
    assert roll_back(root).id == ids[0]
    with pytest.raises(DataError, match="no release before"):
        roll_back(root)
    assert roll_back(root, ids[2][:6]).id == ids[2]
    records = read_log(root / "releases/log.jsonl").records
    assert [(record.action, record.release, record.previous, record.reason) for record in records[3:]] == [
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


# Keeping


def test_pruning_keeps_the_newest_and_the_current_one(root):
    ids = [release(root, Run(comment=str(number))) for number in range(6)]
    roll_back(root, ids[1])
    (root / "releases" / f"{ids[0]}.dvc").write_text("outs: []\n")
    assert prune_releases(root, 2) == (ids[0], ids[2], ids[3])
    assert [listed.id for listed in list_releases(root)] == [ids[1], ids[4], ids[5]]
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
    listed = [listed.id for listed in list_releases(root)]
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
    assert [listed.id for listed in list_releases(root)] == ids
    times = [record.time for record in read_log(root / "releases/log.jsonl").records]
    assert times == sorted(times, reverse=True)  # the clock did jump back
    assert roll_back(root).id == ids[2]
    assert prune_releases(root, 2) == (ids[0], ids[1])


def test_sequence_goes_on_without_the_log(root):
    ids = [release(root, Run(comment=str(number))) for number in range(3)]
    (root / "releases/log.jsonl").unlink()
    ids.append(release(root, Run(comment="after")))
    assert [listed.id for listed in list_releases(root)] == ids
    assert read_log(root / "releases/log.jsonl").records[0].sequence == 4
