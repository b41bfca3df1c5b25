"""Releases of new rows, labeled by the model of the current release without a refit."""

import polars as pl
import pytest
from release_project import OPEN, SETTLED, A, B, add_rows, release, write_lock, write_run

from flows.cli.quarantine import list_quarantine, show_quarantine
from flows.releases.create import RefusedError, create_release
from flows.releases.diff import compare_releases, describe_trace, trace_label
from flows.releases.first_seen import find_first_seen
from flows.releases.gates import QUARANTINE_GATE, describe_gates
from flows.releases.manifest import CONTENTS
from flows.releases.new_rows import label_new_rows
from flows.releases.rollback import roll_back
from flows.releases.store import (
    find_release,
    read_labels,
    read_release,
    verify_all,
    verify_release,
)
from tasks.core.tfidf import fit_tfidf
from tasks.errors import DataError, StageError
from tasks.tables import schemas
from tasks.tables.block_layout import BlockLayout, write_layout
from tasks.tables.parquet import write_table
from tasks.tables.paths import ENCODER, QUARANTINE, SHIPPED_LABELS, VOTES
from tasks.tables.release_rows import RowChanges
from tasks.tables.saved_encoder import write_encoder

# Nights without a refit


def test_a_night_labels_new_rows_and_leaves_the_others_alone(root):
    before = release(root)
    add_rows(root, [("e", (0.0, 1.0)), ("f", (1.0, 0.0))])
    made = create_release(root, SETTLED, new_rows=label_new_rows(root))
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
    second = create_release(root, SETTLED, new_rows=label_new_rows(root)).id
    add_rows(root, [("g", (1.0, 0.0))])
    third = create_release(root, SETTLED, new_rows=label_new_rows(root))
    rows = pl.read_parquet(third.path / "rows.parquet")
    assert dict(rows.select("item_id", "base").iter_rows()) == {
        **dict.fromkeys("abcd"), "e": first, "g": second,
    }  # fmt: skip
    assert label_new_rows(root).labeled.counts.describe() == "0 new, 0 changed, 0 deleted, 6 kept"
    assert release(root, A, SETTLED) == first  # the same content as at first
    assert roll_back(root, third.id).id == third.id


def test_an_encoder_that_was_fitted_anew_labels_nothing(root):
    """Its dimensions are others than those that the release's model knows."""
    write_encoder(root / ENCODER, fit_tfidf(["one", "two"], 2))
    write_lock(root)
    release(root)
    add_rows(root, [("e", (0.0, 1.0))])
    assert label_new_rows(root).labeled.counts.new == 1
    write_encoder(root / ENCODER, fit_tfidf(["one", "two", "three"], 2))
    write_lock(root)
    with pytest.raises(DataError, match=r"encoder.parquet was fitted on other texts .* name the copy in"):
        label_new_rows(root)


def test_rows_in_quarantine_are_released_with_the_others_and_known_by_their_first_release(root, capsys):
    bad = pl.DataFrame(
        {
            "item_id": ["x", None],
            "reason": ["unknown class", "unreadable"],
            "file": ["1.csv", "1.csv"],
            "row": [7, 9],
            "found": ["eggs", "3 columns; the header has 2"],
        }
    )
    moved = bad.with_columns(file=pl.lit("2.csv"), row=pl.col("row") + 1)
    write_table(root / QUARANTINE, bad, schemas.QUARANTINE)
    write_lock(root)
    assert find_first_seen(root, bad)["first_seen"].to_list() == [None, None]
    first = create_release(root, OPEN)
    assert [gate.note for gate in first.gates if gate.gate == QUARANTINE_GATE] == [
        "rows left out because they failed: 2"
    ]
    assert verify_all(root) == ()
    add_rows(root, [("e", (0.0, 1.0))])
    write_table(root / QUARANTINE, moved, schemas.QUARANTINE)
    write_lock(root)
    second = create_release(root, SETTLED, new_rows=label_new_rows(root))
    assert pl.read_parquet(second.path / "quarantine.parquet").equals(moved)
    seen = list_quarantine(root=root)
    assert seen["first_seen"].to_list() == [first.id, second.id]  # without an id, a row is known by where it is
    capsys.readouterr()
    show_quarantine(seen, limit=1)
    head, _, row, _, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["item_id", "reason", "file", "row", "found", "first", "seen"]
    assert row.split() == ["x", "unknown", "class", "2.csv", "8", "eggs", first.id, seen["since"][0][:10]]
    assert last == "2 rows failed and were left out: 1 unknown class, 1 unreadable; 1 more with --limit or --csv"
    assert "rows in quarantine" in describe_gates(second.gates)
    strict = SETTLED.model_copy(update={"maximum_quarantined": 0.2})
    with pytest.raises(RefusedError, match=r"rows in quarantine +0.2857 +0.2 +FAILED"):
        create_release(root, strict, new_rows=label_new_rows(root))
    write_table(root / QUARANTINE, bad.clear(), schemas.QUARANTINE)
    write_lock(root)
    third = create_release(root, strict, new_rows=label_new_rows(root))
    assert not (third.path / "quarantine.parquet").exists()


def test_blocks_with_other_weights_label_nothing(root):
    """A vector is as long as the weight of its block says, so that the release's model knows no other."""
    blocks = [
        BlockLayout(name=name, start=at, stop=at + 1, share=0.5, model="", column="") for at, name in enumerate("xy")
    ]
    write_layout(root, blocks, {})
    write_lock(root)
    release(root)
    add_rows(root, [("e", (0.0, 1.0))])
    assert label_new_rows(root).labeled.counts.new == 1
    shares = (0.25, 0.75)
    write_layout(
        root, [block.model_copy(update={"share": share}) for block, share in zip(blocks, shares, strict=True)], {}
    )
    write_lock(root)
    with pytest.raises(DataError, match=r"blocks of embeddings have other encoders or weights than for release"):
        label_new_rows(root)


def test_the_same_night_has_the_same_id_wherever(root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_run(other, A)
    made = []
    for project in (root, other):
        release(project)
        add_rows(project, [("e", (0.0, 1.0))])
        made.append(create_release(project, SETTLED, new_rows=label_new_rows(project)).id)
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


@pytest.mark.parametrize("name", ["words.txt", "answers/gpt.jsonl"])
def test_what_lies_beside_code_and_may_be_read_is_known_too(root, name):
    file = root / "lfs" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("{}\n")
    before = release(root)
    assert f"lfs/{name}" in read_release(root, before).manifest.lf_sources
    add_rows(root, [("e", (0.0, 1.0))])
    (root / "lfs" / ".gitignore").write_text(f"/{name}\n")  # `dvc add` writes it and the other, and changes no vote
    file.with_name(f"{file.name}.dvc").write_text("outs: []\n")
    assert label_new_rows(root).labeled.counts.new == 1
    file.write_text("{}\n{}\n")
    with pytest.raises(
        DataError, match=rf"lfs/{name} changed since release \w+, .* Run 'epoxy run', then 'epoxy release'"
    ):
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
        create_release(root, SETTLED, new_rows=night)
    night = label_new_rows(root)
    (root / VOTES).write_bytes((root / SHIPPED_LABELS).read_bytes())
    with pytest.raises(DataError, match=r"votes\.parquet changed while"):
        create_release(root, SETTLED, new_rows=night)
    assert release(root, B) != first
    with pytest.raises(StageError, match=r"became .* meanwhile"):
        create_release(root, SETTLED, new_rows=night)


def test_new_rows_of_another_kind_are_refused(root):
    limits = SETTLED.model_copy(update={"minimum_new_rows": 2})
    first = release(root)
    add_rows(root, [("e", (-1.0, 0.0))])
    few = create_release(root, limits, new_rows=label_new_rows(root))
    assert {result.note for result in few.gates if result.gate.startswith("new rows")} == {"1 new rows, fewer than 2"}
    roll_back(root, first)
    add_rows(root, [("f", (0.0, -1.0))])
    with pytest.raises(RefusedError, match=r"new rows: centroid shift .* FAILED"):
        create_release(root, limits, new_rows=label_new_rows(root))
    assert find_release(root, "current") == first
