"""What a release holds, what keeps one from being made, and how it is named."""

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from release_project import CLASSES, DEFAULT, A, B, hash_tree, release, write_lock, write_run

from flows.releases.create import create_release
from flows.releases.lineage import Action, read_log
from flows.releases.manifest import CONTENTS, Manifest, compute_checksum
from flows.releases.store import (
    find_release,
    list_releases,
    read_figures,
    read_labels,
    read_release,
    verify_release,
)
from tasks.errors import DataError
from tasks.tables.paths import LABEL_MODEL, METRICS, REPORT, SHIPPED_LABELS, THRESHOLDS

# What a release is


def test_a_release_holds_what_the_run_made(root):
    made = create_release(root, DEFAULT, reason="first")
    assert made.is_new and made.previous is None and made.notes == ()
    for name, source in CONTENTS.items():
        assert (made.path / name).read_bytes() == (root / source).read_bytes()
    manifest = verify_release(root, made.id).manifest
    assert manifest.classes == CLASSES and manifest.items == 4 and manifest.labels == {"ham": 2, "spam": 2}
    assert manifest.certified is not None and manifest.certified.labels == {"ham": 2, "spam": 0}
    assert (manifest.certified.items, manifest.certified.error_rate, manifest.certified.confidence) == (2, 0.05, 0.9)
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
    assert [record.action for record in read_log(root / "releases/log.jsonl").records] == [Action.RELEASE] * 2


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


# Names


def test_an_id_its_start_and_current_name_a_release(root):
    with pytest.raises(DataError, match="no release yet"):
        find_release(root, "current")
    made = release(root)
    assert find_release(root, made) == find_release(root, made[:4]) == find_release(root, "current") == made
    for name in ("", made[:3], "../../etc", "/etc", "current/..", "f" * 12 if made != "f" * 12 else "0" * 12):
        with pytest.raises(DataError):
            find_release(root, name)


def test_the_manifest_of_a_release_from_before_certificates_is_still_whole(root):
    made = create_release(root, DEFAULT)
    path = made.path / "manifest.json"
    old = json.loads(path.read_text()) | {"certified": None, "checksum": ""}
    del old["certified"]
    known = Manifest.model_validate_json(json.dumps(old))
    # What the checksum was over, when the key was not there.
    plain = {
        name: value
        for name, value in json.loads(known.model_dump_json()).items()
        if name not in ("certified", "checksum")
    }
    expected = hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert compute_checksum(known) == expected
