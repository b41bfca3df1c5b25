"""The real pipeline through both doors: what is cached, what reruns, and that the bytes agree, on the demo and on a small project.

Each test starts from a copy of one finished run, so that the price of a first run is paid once.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pytest
import yaml
from small_project import copy_compiled_code, hash_outputs, make_environment, make_project, run

from tasks.__main__ import STAGES
from tasks.gold import is_dealt_to_valid
from tasks.tables.gold_table import Decision, append_decision
from tasks.tables.parquet import read_schema
from tasks.tables.paths import INDEX, ITEMS, METRICS, NEIGHBORS, VALID_GOLD, VOTES, WITHHELD_GOLD

ROOT = Path(__file__).resolve().parents[2]
ALL = set(STAGES)
WITH_DEMO = {"data/demo/dvc.yaml:demo", *STAGES}

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project with this code, its own caches, and a Prefect server to report to."""

    root: Path
    server: str
    stages: frozenset[str] = frozenset(ALL)

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = run(self.root, *command, PREFECT_API_URL=self.server)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def repro(self) -> set[str]:
        """The stages whose command `dvc repro` ran."""
        return set(re.findall(r"^Running stage '(.+)':", self.run("dvc", "repro").stdout, flags=re.M))

    def flow(self) -> dict[str, set[str]]:
        """The stages by what the flow says became of them."""
        text = self.run(sys.executable, "-m", "flows.relabel")
        found = re.findall(r"^(\S+)\s+(Cached|Restored|Completed)\s+[\d.]+ s$", text.stdout + text.stderr, flags=re.M)
        assert {name for name, _ in found} == self.stages, text.stdout + text.stderr
        return {outcome: {name for name, what in found if what == outcome} for outcome in {what for _, what in found}}

    def hashes(self) -> dict[str, str]:
        """The content of every output."""
        return hash_outputs(self.root)

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new, 1))

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "--allow-empty", "-qm", message)


def clone(target: Path) -> None:
    """A copy of all that Git tracks here, or would track, as a repository of its own."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    copy_compiled_code(target)
    for command in (
        ["init", "-q"],
        ["config", "user.name", "t"],
        ["config", "user.email", "t@t.invalid"],
        ["add", "-A"],
    ):
        subprocess.run(["git", *command], cwd=target, check=True)
    subprocess.run(["git", "commit", "-qm", "clone"], cwd=target, check=True)


@pytest.fixture(scope="module")
def finished_demo(tmp_path_factory, prefect_server) -> Project:
    """A clone on which `dvc repro` has run once."""
    root = tmp_path_factory.mktemp("pipeline") / "project"
    clone(root)
    project = Project(root=root, server=prefect_server, stages=frozenset(WITH_DEMO))
    assert project.repro() == WITH_DEMO
    project.commit("ran")
    return project


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prefect_server) -> Project:
    """A small project on which the flow has run once."""
    project = Project(root=make_project(tmp_path_factory.mktemp("small") / "project"), server=prefect_server)
    assert project.flow() == {"Completed": ALL}
    project.commit("ran")
    return project


def copy(finished: Project, root: Path) -> Project:
    shutil.copytree(finished.root, root, symlinks=True)
    return replace(finished, root=root)


@pytest.fixture
def demo(finished_demo, tmp_path) -> Project:
    return copy(finished_demo, tmp_path / "project")


@pytest.fixture
def project(finished, tmp_path) -> Project:
    return copy(finished, tmp_path / "project")


# On the demo.


def test_after_repro_the_flow_finds_everything_done(demo):
    assert demo.flow() == {"Cached": WITH_DEMO}
    assert demo.repro() == set()


def test_after_the_flow_repro_finds_everything_done_and_bytes_agree(finished_demo, tmp_path):
    clone(tmp_path / "project")
    demo = replace(finished_demo, root=tmp_path / "project")
    assert demo.flow() == {"Completed": WITH_DEMO}
    assert demo.hashes() == finished_demo.hashes()
    locks = [yaml.safe_load((one.root / "dvc.lock").read_text()) for one in (demo, finished_demo)]
    assert locks[0] == locks[1]
    assert demo.repro() == set()


def test_test_gold_changes_no_label(demo):
    """Turn every test label around: only evaluate may notice."""
    before = demo.hashes()
    path = demo.root / WITHHELD_GOLD
    gold = pl.read_parquet(path).with_columns(((pl.col("gold") + 1) % 10).cast(pl.Int8))
    raw = demo.root / "data" / "raw"
    shutil.copytree(demo.root / "data/demo/raw", raw)
    items = pl.read_parquet(raw / "items.parquet")
    turned = items.with_columns(
        pl.when(pl.col("split") == "valid").then(pl.col("gold")).otherwise((pl.col("gold") + 1) % 10).cast(pl.Int8)
    )
    turned.write_parquet(raw / "items.parquet")
    demo.edit("params.yaml", "source: data/demo/raw", "source: data/raw")
    ran = demo.repro()
    assert ran == {"ingest", "gold", "evaluate"}
    assert pl.read_parquet(path).equals(gold)
    after = demo.hashes()
    changed = {name for name in before if before[name] != after[name]}
    assert str(METRICS) in changed
    assert {Path(name).parts[1] for name in changed} == {"ingest", "gold", "evaluate"}


def test_row_order_and_threads_change_no_byte(demo):
    before = demo.hashes()
    raw = demo.root / "data" / "raw"
    shutil.copytree(demo.root / "data/demo/raw", raw)
    items = pl.read_parquet(raw / "items.parquet")
    shuffled = items.sample(fraction=1, shuffle=True, seed=3)
    shuffled.write_parquet(raw / "items.parquet")
    import numpy as np

    position = {item: row for row, item in enumerate(items["item_id"])}
    vectors = np.load(raw / "embeddings.npy")
    np.save(raw / "embeddings.npy", vectors[[position[item] for item in shuffled["item_id"]]])
    demo.edit("params.yaml", "source: data/demo/raw", "source: data/raw")
    for stage in STAGES:
        shutil.rmtree(demo.root / "data" / stage)
    shutil.rmtree(demo.root / "data/.cache")
    # The finished run had one thread of BLAS and as many of Polars as there are cores.
    threads = {"OMP_NUM_THREADS": "2", "POLARS_MAX_THREADS": "1", "OPENBLAS_NUM_THREADS": "2"}
    # In one process: to start each stage takes longer than the stage.
    stages = (
        "from pathlib import Path; from tasks.__main__ import STAGES, run_stage; [run_stage(Path(), s) for s in STAGES]"
    )
    demo.run("env", *(f"{name}={value}" for name, value in threads.items()), "python", "-c", stages)
    assert demo.hashes() == before


# On a small project.


def test_an_older_revision_is_restored_not_run(project):
    project.edit("params.yaml", "gold: valid", "gold: none")
    assert "train" in project.flow()["Completed"]
    project.commit("no gold")
    after = project.hashes()
    project.run("git", "checkout", "-q", "HEAD~1")
    first = project.flow()
    assert "Completed" not in first and "train" in first["Restored"]
    project.run("git", "checkout", "-q", "-")
    assert "Completed" not in project.flow()
    assert project.hashes() == after


def test_the_index_is_built_again_where_another_is_left_and_never_kept_twice(project):
    """DVC keeps the embeddings: of the index, not even what its run cache would store."""
    before = project.hashes()
    project.edit("params.yaml", "metric: cosine", "metric: l2")
    assert {"index", "search", "train"} <= project.repro()
    project.commit("another index")
    after = project.hashes()
    kept = project.root / ".dvc/cache/files/md5"
    cached = {hashlib.sha256(path.read_bytes()).hexdigest() for path in kept.rglob("*") if path.is_file()}
    assert before[str(INDEX)] != after[str(INDEX)] and not {before[str(INDEX)], after[str(INDEX)]} & cached
    project.edit("params.yaml", "metric: l2", "metric: cosine")
    assert project.repro() == {"index"}
    assert project.hashes() == before
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout")
    assert project.hashes() == after | {str(INDEX): before[str(INDEX)]}
    refused = project.run("epoxy", "stage", "search", check=False)
    assert refused.returncode and "Run 'dvc repro index'" in refused.stdout + refused.stderr
    assert project.flow() == {"Completed": {"index"}, "Cached": ALL - {"index"}}
    assert project.hashes() == after


def test_a_deleted_output_is_restored(project):
    before = project.hashes()
    (project.root / NEIGHBORS).unlink()
    assert project.flow() == {"Restored": {"search"}, "Cached": ALL - {"search"}}
    assert project.hashes() == before


def test_an_edited_lf_touches_neither_ingest_nor_index(project):
    with (project.root / "lfs" / "small.py").open("a") as module:
        module.write(
            "\n\n@labeling_function\ndef price(item):\n    return 'spam' if 'price' in item.text else ABSTAIN\n"
        )
    found = project.flow()
    assert found["Cached"] == {"ingest", "gold", "index"}
    assert project.repro() == set()


def test_an_edited_threshold_searches_nothing(project):
    lf = next(name for name in read_schema(project.root / VOTES) if name != "item_id")
    project.edit("params.yaml", "thresholds: {}", f"thresholds: {{{lf}: 0.5}}")
    found = project.flow()
    assert {"ingest", "index", "apply", "search"} <= found["Cached"]
    assert {"tune", "extend"} <= found["Completed"]


def test_an_edited_helper_reruns_what_uses_it_and_stops_where_results_agree(project):
    with (project.root / "tasks" / "core" / "extension.py").open("a") as module:
        module.write("\n# an edit that changes no result\n")
    users = {stage for stage in STAGES if "tasks/core/extension.py" in project_stages(project)[stage]["deps"]}
    assert {"tune", "extend"} <= users
    assert project.flow() == {"Completed": users, "Cached": ALL - users}


def project_stages(project: Project) -> dict:
    return yaml.safe_load((project.root / "dvc.yaml").read_text())["stages"]


def test_push_and_pull_bring_everything_to_a_fresh_clone(project, tmp_path):
    project.run("dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    project.commit("remote")
    project.run("dvc", "push")
    fresh = replace(project, root=tmp_path / "fresh")
    project.run("git", "clone", "-q", str(project.root), str(fresh.root))
    fresh.run("dvc", "pull")
    expected = project.hashes()
    assert fresh.hashes() == {path: content for path, content in expected.items() if path != str(INDEX)}
    assert f"index: {INDEX} (deleted)" in fresh.run("epoxy", "status").stdout
    assert fresh.flow() == {"Completed": {"index"}, "Cached": ALL - {"index"}}
    assert fresh.hashes() == expected
    assert fresh.run("git", "status", "--short").stdout == ""


def test_metrics_diff_plots_and_experiments_work(project):
    project.run("dvc", "exp", "run", "-S", "train.gold=none", "--name", "no-gold")
    assert "no-gold" in project.run("dvc", "exp", "show", "--csv").stdout
    assert "accuracy" in project.run("dvc", "metrics", "diff", "HEAD").stdout
    project.run("dvc", "plots", "show")
    page = (project.root / "dvc_plots" / "index.html").read_text()
    assert "vegaEmbed" in page
    assert re.findall(r"<script[^>]+src=.http", page) == []


def test_two_flows_at_once_both_end_well(project):
    project.edit("params.yaml", "gold: valid", "gold: none")
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "flows.relabel"],
            cwd=project.root,
            env=make_environment(project.root, PREFECT_API_URL=project.server),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    texts = [one.communicate(timeout=280)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], "\n".join(texts)
    assert project.flow() == {"Cached": ALL}


def test_added_gold_reruns_only_what_depends_on_gold(project):
    before = json.loads((project.root / METRICS).read_text())
    items = pl.read_parquet(project.root / ITEMS)
    train = items.filter(pl.col("split") == "train")["item_id"].to_list()
    dealt = next(item for item in train if is_dealt_to_valid(item, 0.5))
    for item in (dealt, next(item for item in train if not is_dealt_to_valid(item, 0.5))):
        append_decision(project.root / "gold/decisions.jsonl", Decision(item_id=item, label="ham", annotator="ann"))
    ran = project.repro()
    assert "gold" in ran and not ran & {"ingest", "index", "search"}
    assert dealt in pl.read_parquet(project.root / VALID_GOLD)["item_id"]
    metrics = json.loads((project.root / METRICS).read_text())
    for split in ("test", "valid"):
        assert metrics[split]["gold"] == before[split]["gold"] + 1
