"""`epoxy weigh`: which mixture of blocks foretells classes best, by gold or by labeling functions that were held out."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import yaml
from click.testing import CliRunner

from flows.cli.main import main
from flows.cli.weigh import describe_weights
from tasks.core.classifiers.mixtures import judge_by_gold, judge_by_votes, list_mixtures, mix_blocks
from tasks.errors import QueryError
from tasks.params import IngestParams
from tasks.params_file import read_params
from tasks.queries.project_data import ProjectData
from tasks.queries.weigh import weigh_blocks
from tasks.tables import schemas
from tasks.tables.block_layout import BlockLayout, write_layout
from tasks.tables.parquet import write_table
from tasks.tables.paths import VALID_GOLD

ROOT = Path(__file__).resolve().parents[2]
N = 300
CHANCE = np.random.default_rng(0)
TRUTH = CHANCE.integers(0, 2, N)


def to_units(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


TELLS = to_units(np.eye(2)[TRUTH] * 2 - 1 + 0.3 * CHANCE.normal(size=(N, 2)))
NOISE = to_units(CHANCE.normal(size=(N, 20)))
VOTES_OF_FOUR = np.where(CHANCE.random((N, 4)) < 0.6, TRUTH[:, None], -1).astype(np.int8)


@pytest.mark.parametrize(("blocks", "count"), [(1, 1), (2, 5), (3, 15), (5, 70)])
def test_mixtures_are_all_quarters_that_sum_to_one(blocks: int, count: int) -> None:
    found = list_mixtures(blocks)
    assert len(np.unique(found, axis=0)) == len(found) == count
    assert (found.sum(axis=1) == 1).all() and (found >= 0).all()


def test_a_mixture_has_the_mean_cosine_and_leaves_out_what_weighs_nothing() -> None:
    mixed = mix_blocks([TELLS, NOISE], np.array([0.25, 0.75]))
    assert mixed @ mixed.T == pytest.approx(0.25 * TELLS @ TELLS.T + 0.75 * NOISE @ NOISE.T, abs=1e-5)
    assert mix_blocks([TELLS, NOISE], np.array([1.0, 0.0])).shape == TELLS.shape


def test_noise_is_left_out_by_gold_and_by_votes() -> None:
    by_gold = judge_by_gold([NOISE, TELLS], TRUTH, 2)
    by_votes = judge_by_votes([NOISE, TELLS], VOTES_OF_FOUR, 2)
    assert by_votes is not None
    for found in (by_gold, by_votes):
        alone = found.weights[:, 0] == 1
        assert found.weights[found.best].tolist() == [0, 1]
        assert found.error[found.best] == 0
        assert (found.loss[alone] - found.loss[found.best] > 10 * found.error[alone]).all()
    assert by_gold.rows == N
    assert by_votes.rows == (VOTES_OF_FOUR != -1).sum()  # each vote is foretold once


def test_copies_of_an_lf_say_nothing_more() -> None:
    once = judge_by_votes([NOISE, TELLS], VOTES_OF_FOUR, 2)
    twice = judge_by_votes([NOISE, TELLS], np.hstack([VOTES_OF_FOUR, VOTES_OF_FOUR[:, :2]]), 2)
    assert once is not None and twice is not None
    assert once.loss.tolist() == twice.loss.tolist()


@pytest.mark.parametrize("votes", [VOTES_OF_FOUR[:, :1], np.full((N, 3), -1, np.int8), np.zeros((N, 3), np.int8)])
def test_votes_that_foretell_nothing_do_not_judge(votes: npt.NDArray[np.int8]) -> None:
    assert judge_by_votes([NOISE, TELLS], votes, 2) is None


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A run up to the votes, of two blocks from files."""
    from extension_data import write_project

    vectors = np.hstack([TELLS * np.sqrt(0.5), NOISE * np.sqrt(0.5)])
    splits = ["valid" if row % 3 == 0 else "train" for row in range(N)]
    gold = {row: int(TRUTH[row]) for row in range(0, N, 3)}
    write_project(tmp_path, vectors=vectors, votes=VOTES_OF_FOUR, splits=splits, gold=gold)
    layout = [
        BlockLayout(name="tells", start=0, stop=2, share=0.5, model="", column=""),
        BlockLayout(name="noise", start=2, stop=22, share=0.5, model="", column=""),
    ]
    write_layout(tmp_path, layout, {})
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["classes"] = ["no", "yes"]
    files = {name: {"embeddings": f"{name}.npy", "embedding_ids": "items.parquet"} for name in ("tells", "noise")}
    params["ingest"] = {"source": "raw", "blocks": files}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


@pytest.mark.parametrize(("by_votes", "judge"), [(False, "100 gold rows of valid, held out"), (True, "held-out votes")])
def test_the_lines_are_params_without_what_weighs_nothing(project: Path, by_votes: bool, judge: str) -> None:
    found = weigh_blocks(ProjectData(project), by_votes=by_votes)
    assert judge in found.judged_by
    shown = describe_weights(found)
    assert "now: tells 0.50, noise 0.50; best left out: noise" in shown
    assert len([line for line in shown.splitlines() if line.startswith("#  ")]) == 1 + 5
    read = IngestParams.model_validate({"source": "raw", **yaml.safe_load(shown)["ingest"]})
    assert {name: block.weight for name, block in read.blocks.items()} == {"tells": 1}
    assert read.blocks["tells"] == read_params(project).ingest.blocks["tells"]


def test_without_gold_weights_are_equal_unless_votes_are_asked(project: Path) -> None:
    gold = pl.read_parquet(project / VALID_GOLD)
    write_table(project / VALID_GOLD, gold.clear(), schemas.gold(2))
    found = weigh_blocks(ProjectData(project))
    assert "held-out votes" in found.judged_by
    assert found.mixtures.weights[found.mixtures.best].tolist() == [1, 0]
    shown = describe_weights(found)
    assert "# fewer than 20 gold rows of valid: equal weights" in shown
    read = IngestParams.model_validate({"source": "raw", **yaml.safe_load(shown)["ingest"]})
    assert {name: block.weight for name, block in read.blocks.items()} == {"tells": 1, "noise": 1}
    assert weigh_blocks(ProjectData(project), by_votes=True).proposed == (1, 0)


def test_the_command_prints_the_same_twice_and_writes_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "dvc.yaml").write_text("stages: {}\n")
    (project / ".dvc").mkdir()
    monkeypatch.chdir(project)
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    shown = [CliRunner().invoke(main, ["weigh"]) for _ in range(2)]
    assert shown[0].exit_code == 0, shown[0].output
    assert shown[0].stdout == shown[1].stdout and "ingest:\n  blocks:\n    tells:" in shown[0].stdout
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_embeddings_of_one_kind_are_not_weighed(project: Path) -> None:
    write_layout(project, [], {})
    with pytest.raises(QueryError, match=r"of one kind; weights are proposed for 2 to 5 of ingest\.blocks"):
        weigh_blocks(ProjectData(project))
