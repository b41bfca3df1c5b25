"""`apply.mute`: a labeling function that is muted is as good as absent, whoever asks, and nothing is searched anew for it."""

from pathlib import Path

import polars as pl
import pytest
import test_label_new
import test_watch
import yaml
from test_watch import project, session  # noqa: F401, fixtures

from flows.watch.session import Session
from tasks import apply, train, tune
from tasks.__main__ import run_stage
from tasks.core.types import ABSTAIN
from tasks.errors import DataError, ParamsError
from tasks.label_new import label_rows
from tasks.params_file import read_params
from tasks.queries.explain import explain_item
from tasks.queries.items import ItemQuery, VoteFilter, find_items
from tasks.queries.lfs import tabulate_lfs
from tasks.queries.project_data import ProjectData
from tasks.tables.files import read_csv, write_json
from tasks.tables.muted import read_muted, write_muted
from tasks.tables.paths import (
    EXTENDED_VOTES,
    LABEL_MODEL_LABELS,
    LF_REPORT,
    MUTED,
    NEIGHBORS,
    PROVENANCE,
    SHIPPED_LABELS,
    VOTES,
)

LATER = ("tune", "extend", "fit", "train")


def test_a_muted_lf_is_as_good_as_absent_and_every_door_says_so(
    project: Path,  # noqa: F811
    session: Session,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    test_watch.write_lfs(project, test_watch._LFS.replace("small(item)", "tiny(item)"))
    for stage in ("apply", "search", *LATER):
        run_stage(project, stage)
    before = {path: (project / path).read_bytes() for path in (VOTES, NEIGHBORS, SHIPPED_LABELS)}
    session.look()
    session.evaluate()
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["apply"]["mute"] = ["tiny"]
    (project / "params.yaml").write_text(yaml.safe_dump(params))

    session.look()
    watched = session.evaluate()
    assert set(watched.seconds) == {"apply", "tune", "extend", "fit"}  # and no search
    run_stage(project, "apply")
    assert read_muted(project) == ("tiny",)
    assert (project / VOTES).read_bytes() == before[VOTES], "the votes stay, so that DVC does not search"
    for stage in (*LATER, "evaluate"):
        run_stage(project, stage)
    muted = {path: pl.read_parquet(project / path) for path in (SHIPPED_LABELS, LABEL_MODEL_LABELS, PROVENANCE)}
    assert (project / SHIPPED_LABELS).read_bytes() != before[SHIPPED_LABELS]
    assert watched.labels.equals(muted[LABEL_MODEL_LABELS])
    assert watched.extension.votes.equals(pl.read_parquet(project / EXTENDED_VOTES))
    assert (pl.read_parquet(project / EXTENDED_VOTES)["tiny"] == ABSTAIN).all()

    data = ProjectData(project)
    rows = {row["lf"]: row for row in tabulate_lfs(data).to_dicts()}
    cast = int((pl.read_parquet(project / VOTES)["tiny"] != ABSTAIN).sum())
    assert [lf for lf, row in rows.items() if row["is_muted"]] == ["tiny"]
    assert rows["tiny"]["votes"] == cast > 0 and rows["tiny"]["coverage_extended"] == rows["tiny"]["decides"] == 0
    assert rows["tiny"]["worth"] is None and rows["good"]["worth"] is not None
    kinds = {"lf": pl.String, "is_muted": pl.Boolean, "coverage": pl.Float64, "worth": pl.Float64}
    report = {row["lf"]: row for row in read_csv(project / LF_REPORT, kinds).to_dicts()}
    assert report["tiny"]["is_muted"] and report["tiny"]["coverage"] == pytest.approx(cast / 300, abs=1e-6)
    found = find_items(data, ItemQuery(votes=(VoteFilter(lf="tiny"),)))
    assert found.total == cast
    told = explain_item(data, int(found.rows["item_id"][0]))
    (row,) = told.votes.filter(pl.col("lf") == "tiny").to_dicts()
    assert row["vote"] is row["nearest_vote"] is None and any("tiny" in lack for lack in told.lacks)

    test_watch.write_params(project)
    test_watch.write_lfs(project, test_watch._LFS.partition("@labeling_function")[0])
    for stage in ("apply", "search", *LATER):
        run_stage(project, stage)
    for path, table in muted.items():
        assert pl.read_parquet(project / path).equals(table), path


def test_new_rows_are_labeled_without_the_votes_of_muted_lfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_label_new, "write_project", _write_muted_project)
    release, params = test_label_new.run_to_the_end(tmp_path, gold_rows=0)
    params = params.model_copy(update={"apply": params.apply.model_copy(update={"mute": ("lf_1",)})})
    labels = pl.read_parquet(release / "labels.parquet")
    gone = test_label_new.held_back(tmp_path)
    test_label_new.forget(release, gone)
    labeled = label_rows(tmp_path, release, "0" * 12, params)
    assert labeled.votes["lf_1"].equals(pl.read_parquet(tmp_path / VOTES)["lf_1"]), "what it said is released"
    assert labeled.provenance.equals(pl.read_parquet(tmp_path / PROVENANCE))
    assert "lf_1" not in labeled.provenance["lf"]
    assert labeled.labels["original_votes"].equals(labels["original_votes"])
    found, expected = (test_label_new.probabilities(table, gone) for table in (labeled.labels, labels))
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95


_write_project = test_label_new.write_project


def _write_muted_project(root: Path, **options: object) -> object:
    truth = _write_project(root, **options)
    write_muted(root, ("lf_1",), [f"lf_{number}" for number in range(4)])
    return truth


def test_names_that_no_lf_has_are_refused(project: Path) -> None:  # noqa: F811
    params = read_params(project)
    wrong = params.apply.model_copy(update={"mute": ("goood",)})
    with pytest.raises(ParamsError, match=r"'apply.mute': no LF is called 'goood'. Did you mean 'good'\?"):
        apply.run(project, params.classes, wrong)


@pytest.mark.parametrize(("content", "message"), [({"muted": ["x"]}, "no LF in .* is called 'x'"), ({}, "required")])
def test_a_file_that_is_not_of_these_votes_is_refused(tmp_path: Path, content: object, message: str) -> None:
    test_label_new.write_project(tmp_path)
    write_json(tmp_path / MUTED, content)
    params = test_label_new.make_params()
    for run in (
        lambda: tune.run(tmp_path, params.classes, params.tune),
        lambda: train.run(tmp_path, params.classes, params.train),
    ):
        with pytest.raises(DataError, match=message):
            run()


def test_muting_runs_again_what_counts_votes_and_no_search() -> None:
    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert [name for name, stage in stages.items() if str(MUTED) in stage["deps"]] == [
        "tune",
        "extend",
        "fit",
        "train",
        "evaluate",
    ]
