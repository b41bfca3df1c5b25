"""What differs between releases, how many rows each brought, and how one label came about."""

import hashlib
import json
import re

import polars as pl
import pytest
from release_project import (
    DEFAULT,
    SETTLED,
    Run,
    add_rows,
    release,
    write_lock,
    write_run,
)

from flows.releases import lineage
from flows.releases.create import RefusedError, create_release
from flows.releases.diff import (
    compare_releases,
    describe_difference,
    describe_trace,
    read_texts,
    tabulate_difference,
    trace_label,
)
from flows.releases.last_run import describe_origin
from flows.releases.lineage import read_log
from flows.releases.new_rows import label_new_rows
from flows.releases.rollback import roll_back
from flows.releases.store import (
    describe_releases,
    list_releases,
)
from tasks.errors import DataError
from tasks.tables import schemas
from tasks.tables.files import write_json
from tasks.tables.parquet import write_table
from tasks.tables.paths import END_MODEL_SUMMARY, ITEMS, METRICS, SHIPPED_LABELS
from tasks.tables.release_rows import RowChanges, compare_rows

# Comparing and tracing


def test_who_shows_a_run_says_what_equal_runs_differ_in(root):
    write_run(root, Run())
    said = describe_origin(root)
    assert re.fullmatch(
        rf"{root.name}, evaluated \d{{4}}-\d\d-\d\d \d\d:\d\d UTC, .*, labels [0-9a-f]{{12}}, not released", said
    )
    made = release(root)
    assert describe_origin(root) == said.replace("not released", f"those of the current release {made}")
    write_run(root, Run(labels=(1, 1, 1, 1)))
    assert describe_origin(root).endswith(f", others than of the current release {made}")
    digest = hashlib.md5((root / SHIPPED_LABELS).read_bytes()).hexdigest()
    assert f"labels {digest[:12]}," in describe_origin(root)


def test_the_difference_of_two_releases(root):
    before = release(root)
    votes = {"offer": (-1, 1, 1, 1), "hello": (0, -1, -1, -1)}
    after = release(
        root, Run(labels=(0, 1, 1, 1, 1), votes={lf: (*column, 1) for lf, column in votes.items()}, lent=(), threshold=0.75,
                  embeddings=((1, 0), (0, 1), (1, 0), (0, 1), (1, 0)), balance=0.25), accept="test")  # fmt: skip
    difference = compare_releases(root, before, after)
    assert difference.labels.flipped.rows() == [("c", "ham", "spam")]
    assert (difference.labels.common, difference.labels.new, difference.labels.deleted) == (4, 1, 0)
    lfs = {change.name: (change.before, change.after) for change in difference.lfs}
    assert lfs["hello.threshold"] == (0.5, 0.75)
    assert lfs["offer.coverage"] == (2 / 4, 4 / 5)
    assert lfs["hello.coverage_extended"] == (2 / 4, 2 / 5)
    assert {change.name: (change.before, change.after) for change in difference.balance} == {
        "ham": (0.5, 0.2),
        "spam": (0.5, 0.8),
    }
    assert [(change.name, change.before, change.after) for change in difference.model] == [
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
    assert "hello.threshold" not in text and "; --all lists them" in text.splitlines()[-1]
    whole = describe_difference(difference, is_whole=True)
    assert "  hello.threshold: 0.5000 -> 0.7500 (+0.2500)" in whole and "--all" not in whole
    back = compare_releases(root, after, before)
    assert (back.labels.new, back.labels.deleted, back.rows.deleted) == (0, 1, 1)
    same = compare_releases(root, before, before)
    assert same.labels.flipped.is_empty() and (same.lfs, same.inputs) == ((), ())


def test_the_shipped_labels_come_first_and_flipped_items_have_their_text(root):
    def measure(accuracy: float) -> None:
        write_json(root / METRICS, {"valid": {name: {"accuracy": accuracy} for name in ("majority_vote", "end_model")}})
        write_json(root / END_MODEL_SUMMARY, {"bandwidth": 0.5, "shipped": "end_model"})
        write_lock(root)

    write_run(root, Run())
    measure(0.75)
    before = release(root)
    write_run(root, Run(labels=(0, 1, 1, 1)))
    measure(0.5)
    items = pl.read_parquet(root / ITEMS)
    write_table(root / ITEMS, items.with_columns(text=pl.lit("a  text\n") + pl.col("item_id")), schemas.ITEMS)
    write_lock(root)
    difference = compare_releases(root, before, release(root, accept="test"))
    lines = describe_difference(difference, texts=read_texts(root, difference)).splitlines()
    assert lines[1:3] == [
        "shipped labels (End model on nearvote): 1 metric changed",
        "  valid accuracy: 0.7500 -> 0.5000 (-0.2500)",
    ]
    assert "  c: ham -> spam  a text c" in lines
    assert "valid.majority_vote.accuracy" not in "\n".join(lines)
    assert "  valid.majority_vote.accuracy: 0.7500 -> 0.5000 (-0.2500)" in describe_difference(
        difference, is_whole=True
    )
    (root / ITEMS).unlink()
    assert read_texts(root, difference) == {}


def test_each_release_counts_its_rows_against_the_one_before(root):
    first = create_release(root, SETTLED)
    assert first.rows is None
    add_rows(root, [("e", (0.0, 1.0)), ("f", (1.0, 0.0))])
    night = create_release(root, SETTLED, new_rows=label_new_rows(root))
    assert night.rows == RowChanges(kept=4, new=2, changed=0, deleted=0)
    # A run on a, b and c alone, with another embedding of c.
    votes = {"offer": (-1, 1, -1, 1), "hello": (0, -1, -1, -1)}
    run = Run(labels=(0, 1, 0), votes={lf: column[:3] for lf, column in votes.items()},
              embeddings=((1, 0), (0, 1), (0, 1)))  # fmt: skip
    write_run(root, run)
    with pytest.raises(RefusedError, match="rows: 0 new, 1 changed, 3 deleted, 2 kept"):
        create_release(root, SETTLED.model_copy(update={"maximum_centroid_shift": 0.0}))
    third = create_release(root, SETTLED)
    again = create_release(root, SETTLED, reason="twice,\nto be sure")
    counts = RowChanges(kept=2, new=0, changed=1, deleted=3)
    assert third.rows == counts and again.rows == RowChanges(kept=3, new=0, changed=0, deleted=0)
    assert roll_back(root, first.id).rows is None
    records = read_log(root / "releases/log.jsonl").records
    assert [record.rows for record in records] == [None, night.rows, counts, counts, again.rows, None]
    listed = describe_releases(list_releases(root)).splitlines()
    assert listed[1].startswith(f"  {night.id}  6 items: 2 new, 0 changed, 0 deleted, 4 kept  ")
    # What it brought, not that the night after brought nothing; in one line, whatever the reason.
    assert listed[2].endswith("  twice, to be sure")
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
    facet["checksum"] = lineage.hash_event(event)
    path.write_text(json.dumps(event) + "\n")
    log = read_log(path)
    assert log.damaged == () and log.records[0].rows is None


def test_a_label_tells_how_it_came_about(root):
    made = create_release(root, DEFAULT, run_id="run-1")
    own = trace_label(root, "current", "b")
    assert (own.label, [(vote.lf, vote.vote, vote.neighbor) for vote in own.votes]) == (
        "spam",
        [("offer", "spam", None)],
    )
    lent = trace_label(root, made.id, "c")
    assert [(vote.lf, vote.vote, vote.neighbor, vote.similarity, vote.threshold) for vote in lent.votes] == [
        ("hello", "ham", "a", 1.0, 0.5)
    ]
    assert [record.run_id for record in lent.records] == ["run-1"]
    assert lent.lf_sources == {"lfs/spam.py": hashlib.sha256((root / "lfs/spam.py").read_bytes()).hexdigest()}
    assert "hello: ham, from item a" in describe_trace(lent)
    with pytest.raises(DataError, match="no item"):
        trace_label(root, "current", "zz")
