"""Each benchmark at a small size: it runs, its answers are right, its table has the shape it should. Never a time."""

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest

from benchmarks import (
    ask,
    certify,
    checks,
    classes,
    copies,
    dask,
    described,
    few_gold,
    gpu,
    intents,
    labels,
    many,
    new_rows,
    nights,
    pipeline,
    queries,
    search,
    unchanged,
    votes,
    watch,
    workbench,
    worth,
)
from benchmarks import blocks as blocks_of_embeddings
from benchmarks import next as next_items
from benchmarks.descriptions import DESCRIPTIONS
from tasks.__main__ import main as run_task
from tasks.core.search.on_cards import NoCard
from tasks.queries.next_items import Strategy
from tasks.tables.paths import EXTENDED_VOTES, ITEMS, NEIGHBORS, SHIPPED_LABELS, VOTES


def test_gpu_without_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its figures are tested in tests/property/test_card_search.py."""

    def find_none() -> None:
        raise NoCard("PyTorch sees no GPU")

    monkeypatch.setattr(gpu, "find_cards", find_none)
    assert gpu.main([]) == 1
    assert capsys.readouterr() == ("", "nothing is measured, since PyTorch sees no GPU\n")


def test_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.main(["--seconds", "0", "--rows", "3"]) == 0
    assert re.findall(r"^(.+?)  +3 +[\d.]+ +[\d.]+ +[\d.]+$", capsys.readouterr().out, flags=re.M) == [
        "votes of 6 LFs",
        "votes of 300 LFs",
        "embeddings, 384",
        "labels",
    ]


def test_votes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["Free money, call now", "hello", "ok, later", "I won a prize", "call me at home"]
    pl.DataFrame({"text": texts}).write_parquet(tmp_path / "items.parquet")
    rules = [
        {"name": "rule_0", "label": 1, "regex": r"( |^)(free|won)[^\w]*( |$)"},
        {"name": "rule_1", "label": 0, "regex": r"(?<!x)\bcall (?=me)"},
    ]
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    command = [
        str(tmp_path),
        "--size",
        "500",
        "--sample",
        "100",
        "--repeats",
        "1",
        "--json",
        str(tmp_path / "out.json"),
    ]
    assert votes.main(command) == 0
    results = json.loads((tmp_path / "out.json").read_text())
    assert [(one["work"], one["rows"], one["lfs"], one["votes_equal"]) for one in results] == [
        ("regex", 500, 2, True),
        ("keyword", 500, 20, True),
        ("both", 500, 22, True),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and {line.count("|") for line in lines} == {13}


def test_a_folder_without_rules_is_refused(tmp_path: Path) -> None:
    assert votes.main([str(tmp_path)]) == 2


def test_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert many.main(["--part", "lfs", "--items", "30", "--until", "apply", "--json", str(out)]) == 0
    (result,) = json.loads(out.read_text())
    assert (result["k"], result["m"], result["n"], result["d"]) == (2, 1_000, 30, 384)
    assert list(result["seconds"]) == ["ingest", "gold", "index", "apply"] and min(result["seconds"].values()) > 0
    assert result["labels"] == {}, "there are labels from fit on"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and {line.count("|") for line in lines} == {10}


def test_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(copies, "MADE_UP", {"two good": (copies.GOOD, copies.GOOD)})
    out = tmp_path / "out.json"
    assert copies.main(["--items", "120", "--lfs", "1", "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert row["task"] == "two good" and row["changed"] == 0, "exact copies change no label"
    assert 0.5 < row["alone"] <= 1 and 0.5 < row["near"] <= 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("| two good | lf_")


def test_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(classes, "MANY", (classes.Many(k=3, n=100, covers=0.5),))
    out = tmp_path / "out.json"
    classes.main(["--items", "250", "--draws", "1", "--json", str(out)])  # whose code tells which labels are better
    many_classes, rare = json.loads(out.read_text())
    assert many_classes["task"] == "3 classes, 250 items, 1 LF on 50%, right 80%"
    assert many_classes["majority"] == pytest.approx(0.5 * 0.87 + 0.5 / 3, abs=0.1)
    assert rare["regression"] is None and rare["task"].endswith("of 150"), "a hundred are gold of valid"
    assert len(capsys.readouterr().out.splitlines()) >= 4


def test_thinning_leaves_a_hundredth_of_the_second_class(tmp_path: Path) -> None:
    truth = np.repeat([0, 1], [400, 100])
    votes = np.repeat(truth[:, None], 2, axis=1).astype(np.int8)
    source = copies.write_task(tmp_path / "task", np.eye(2, dtype=np.float32)[truth], votes, truth, ["ham", "spam"])
    items = pl.read_parquet(source / "items.parquet")
    known = pl.Series("gold", [int(c) if row % 2 else None for row, c in enumerate(truth)])
    items.with_columns(known).write_parquet(source / "items.parquet")
    thinned = pl.read_parquet(classes.thin(source, tmp_path / "thin", 0) / "items.parquet")
    assert thinned.filter(pl.col("gold") == 1).height == 2 and thinned.filter(pl.col("gold") == 0).height == 200
    assert thinned.filter(pl.col("split") == "valid")["gold"].to_list() == [0] * 100
    assert np.load(tmp_path / "thin/embeddings.npy").shape == (404, 2)


@pytest.mark.parametrize("has_gold", [False, True])
def test_drawn_tasks_have_the_coverage_and_precision_that_they_say(tmp_path: Path, has_gold: bool) -> None:
    many.draw_task(tmp_path, many.Task(k=3, m=6, n=6_000, d=4), has_gold=has_gold)
    items = pl.read_parquet(tmp_path / "data/raw/items.parquet")
    votes = pl.read_parquet(tmp_path / "lfs/votes.parquet").drop("item_id").to_numpy()
    split = items["split"].to_numpy()
    has_class = items["gold"].is_not_null().to_numpy()
    assert sorted({str(name) for name in split[has_class]}) == (["test", "valid"] if has_gold else ["test"])
    classes = items["gold"].to_numpy()[has_class]
    for lf, of_lf in enumerate(votes[has_class].T):
        of_class = classes == f"class_{lf % 3:02}"
        assert (of_lf[of_class] >= 0).mean() == pytest.approx(1 / 3, abs=0.08)
        assert of_class[of_lf >= 0].mean() == pytest.approx(0.8, abs=0.08)


def test_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main(["--size", "small", "--json", str(tmp_path / "out.json")]) == 0
    results = json.loads((tmp_path / "out.json").read_text())
    assert [(one["n"], one["m"], one["strategy"]) for one in results["exact"]] == [(400, 3, "union")]
    assert list(results["repeat"]) == ["all", "one LF edited", "none edited"]
    assert results["growth"] == []
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    command = [
        "--n",
        "600",
        "--d",
        "8",
        "--lfs",
        "4",
        "--dtype",
        "float16",
        "--keep",
        str(tmp_path),
        "--json",
        str(out),
    ]
    # The exit code also says whether memory is within its formula, which is for machines with a few cores.
    pipeline.main([*command, "--until", "ingest"])
    (before,) = json.loads(out.read_text())
    pipeline.main([*command, "--until", "search"])
    (result,) = json.loads(out.read_text())
    assert [one["stage"] for one in result["stages"]] == ["ingest", "gold", "index", "apply", "search"]
    assert [one["exit_code"] for one in result["stages"]] == [0, 0, 0, 0, 0]
    assert result["stages"][0] == before["stages"][0], "a stage that is done is not repeated"
    assert all(0 < one["memory_mib"] < 1024 * one["peak_gib"] for one in result["stages"])
    assert result["recall"]["kind"] == result["index"]["kind"] == "flat"
    assert len(capsys.readouterr().out.splitlines()) == 4 + 9


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_new_rows_leave_the_bytes_of_a_run_from_scratch(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_here(root: Path, stage: str, *_: object) -> dict[str, float]:
        with contextlib.chdir(root):
            return {"exit_code": run_task([stage]), "processor_seconds": 1.0}

    monkeypatch.setattr(new_rows, "run_stage", run_here)
    out = tmp_path / "out.json"
    command = ["--n", "300", "--d", "8", "--lfs", "3", "--until", "search", "--index", kind, "--scattered"]
    changes = ["--new", "0.02", "--changed", "0.01", "--deleted", "0.01"]
    assert new_rows.main([*command, *changes, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert list(result["night"]) == ["ingest", "gold", "index", "apply", "search"]
    assert result["kind"] == kind and result["differing"] == []
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "the bytes of a run from scratch"
    assert ("6 new, 3 changed, 3 gone" in printed.err) == (kind == "flat")


@pytest.mark.parametrize(("said", "code"), [("everything is up to date", 0), ("search: one file changed", 1)])
def test_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str, code: int
) -> None:
    """Without DVC: the project has a file for each output, as large as stated, and three commands have to find nothing to do."""
    sizes: dict[str, int] = {}

    def run(root: Path, *command: str) -> str:
        if command[:2] == ("dvc", "commit"):
            sizes.update({str(path.relative_to(root)): path.stat().st_size for path in root.glob("data/*/**/*.*")})
        return said

    monkeypatch.setattr(unchanged, "_run", run)
    assert unchanged.main(["--n", "300000", "--folder", str(tmp_path)]) == code
    assert sizes["data/index/index.faiss"] == 300_000 * 4 * 384 and sizes["data/evaluate/metrics.json"] == 2
    assert sizes["data/ingest/embeddings/part-00001-of-00002.parquet"] > 100_000_000
    assert {str(path) for path in (NEIGHBORS, SHIPPED_LABELS)} <= {*sizes}
    assert "epoxy run" in capsys.readouterr().out


def test_made_up_neighbors_take_no_products_and_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []

    def look(root: Path, *rest: Any, **options: Any) -> None:
        measure(root, *rest, **options)
        found.append(pl.read_parquet(root / NEIGHBORS))
        with contextlib.chdir(root):
            assert run_task(["search"]) == 0
        found.append(pl.read_parquet(root / NEIGHBORS))

    measure = pipeline._measure
    monkeypatch.setattr(pipeline, "_measure", look)
    command = ["--n", "300", "--d", "8", "--lfs", "3", "--made-up"]
    pipeline.main([*command, "--folder", str(tmp_path)])
    made_up, searched = (table.select("^.*similarity.*$").to_numpy() for table in found)
    assert set(made_up[~np.isnan(made_up)]) == {0.5}
    assert len(set(searched[~np.isnan(searched)])) > 10, "nothing that was made up is believed later"
    assert "tune" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        pipeline.main([*command, "--keep", str(tmp_path)])


def test_a_stage_that_needs_more_memory_than_its_limit_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = ["--n", "600", "--d", "8", "--lfs", "4", "--limit", "1", "--folder", str(tmp_path), "--json", str(out)]
    assert pipeline.main(command) == 1
    (result,) = json.loads(out.read_text())
    assert [one["stage"] for one in result["stages"]] == ["ingest"] and result["stages"][0]["exit_code"]


def test_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--sizes", "300x4", "200x30", "--tune", "300x4", "--repeats", "1", "--coverage", "0.5"]
    assert labels.main([*command, "--sample", "100", "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    few, many = found["models"]
    assert (few["n"], few["m"], many["n"], many["m"]) == (300, 4, 200, 30)
    assert few["ratio"] > 0 and many["ratio"] is None
    assert found["tuning"]["per_lf"] > 0 and found["tuning"]["one_for_all"] > 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_watch(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["--n", "400", "--d", "8", "--lfs", "4", "--repeats", "2", "--json", str(tmp_path / "out.json")]
    assert watch.main(command) == 0
    threshold, lf = json.loads((tmp_path / "out.json").read_text())
    assert (threshold["edit"], lf["edit"]) == ("threshold", "LF")
    assert set(lf["parts"]) - set(threshold["parts"]) == {"apply", "search"}
    assert len(capfd.readouterr().out.splitlines()) == 5


def test_dask(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    sizes = ["--apply", "3000", "--encode", "200", "--search", "1500"]
    assert dask.main([*sizes, "--repeats", "1", "--bytes", "--json", str(tmp_path / "out.json")]) == 0
    results = json.loads((tmp_path / "out.json").read_text())
    assert [(one["work"], one["items"], one["is_equal"]) for one in results] == [
        ("apply", 3000, True),
        ("encode", 200, True),
        ("search", 1500, True),
    ]
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 4 + 10
    sent, _, written, *_ = zip(*(line[25:].split() for line in lines[-3:]), strict=True)  # of search
    assert float(sent[0]) > 10 * float(sent[1])
    assert float(written[1]) > 2 and written[0] == written[2] == "0.00"


@pytest.mark.slow
def test_nights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["--nights", "1", "--items", "300", "--collect", "1", "--json", str(tmp_path / "out.json")]
    assert nights.main(command) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["mistakes"] == []
    assert [one["number"] for one in result["nights"]] == [0]
    assert all("released" in one["what"] for one in result["nights"])


def write_clusters(task: Path, *, width: float = 0.4) -> None:
    """Write a task of 300 items in two clusters, a hundred of each split, with three LFs right four times in five."""
    rng = np.random.default_rng(0)
    task.mkdir(parents=True)
    truth = rng.integers(0, 2, 300)
    split = ["train"] * 100 + ["valid"] * 100 + ["test"] * 100
    ids = [f"i{row:03d}" for row in range(300)]
    gold = [None if row < 100 else ["no", "yes"][truth[row]] for row in range(300)]
    pl.DataFrame({"item_id": ids, "split": split, "gold": gold}).write_parquet(task / "items.parquet")
    votes = np.where(rng.random((300, 3)) < 0.8, truth[:, None], 1 - truth[:, None]).astype(np.int8)
    votes[rng.random((300, 3)) < 0.5] = -1
    pl.DataFrame({"item_id": ids, **{f"lf_{j}": votes[:, j] for j in range(3)}}).write_parquet(task / "votes.parquet")
    np.save(task / "embeddings.npy", (np.eye(8)[truth] + width * rng.normal(size=(300, 8))).astype(np.float32))
    (task / "dataset.json").write_text(json.dumps({"classes": ["no", "yes"]}))


def test_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = tmp_path / "tasks" / "clusters"
    write_clusters(task)
    items = pl.read_parquet(task / "items.parquet")
    rng = np.random.default_rng(5)
    noise = [" ".join(rng.choice(list("abcdefgh"), 12)) for _ in range(items.height)]
    items.with_columns(text=pl.Series(noise)).write_parquet(task / "items.parquet")
    assert (
        blocks_of_embeddings.main([str(tmp_path / "tasks"), "--draws", "1", "--json", str(tmp_path / "out.json")]) == 0
    )
    (amounts,) = json.loads((tmp_path / "out.json").read_text()).values()
    assert list(amounts) == ["no gold", "100 gold", "all gold"]
    for (cells,) in amounts.values():
        assert set(cells) == {"0.00", "0.25", "0.50", "0.75", "1.00", "chosen"}
        assert cells["chosen"] >= 0.5  # the texts are noise
        assert cells["1.00"] > cells["0.00"] + 0.1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3 and all(line.count("|") == 6 for line in lines)


def test_few_gold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clusters(tmp_path / "tasks" / "clusters", width=0.2)  # so far apart that gold cannot do harm
    command = [str(tmp_path / "tasks"), "--gold", "10", "40", "--draws", "2", "--json", str(tmp_path / "out.json")]
    assert few_gold.main(command) == 0
    none, few, more = json.loads((tmp_path / "out.json").read_text())
    assert [found["gold_rows"] for found in (none, few, more)] == [0, 10, 40]
    assert few["accuracy"] == none["accuracy"] * 2
    assert len(more["accuracy"]) == 2 and none["accuracy"][0] > 0.8
    worse = few_gold.Result(task="clusters", gold_rows=20, accuracy=[none["accuracy"][0], none["accuracy"][0] - 0.03])
    assert few_gold.find_losses([few_gold.Result(**none), worse]) == [worse]
    assert "| clusters |" in capsys.readouterr().out


def test_certify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clusters(tmp_path / "tasks" / "clusters")
    out = tmp_path / "out.json"
    command = [
        str(tmp_path / "tasks"),
        "--gold",
        "30",
        "60",
        "500",
        "--draws",
        "2",
        "--error-rate",
        "0.1",
        "--json",
        str(out),
    ]
    assert certify.main(command) == 0
    few, some, every = json.loads(out.read_text())
    assert [found["gold_rows"] for found in (few, some, every)] == [30, 60, 100]
    assert max(every["share"]) > 0.5 and max(every["certified_error"]) <= 0.1
    for found in (few, some, every):
        pairs = zip(found["share"], found["certified_error"], strict=True)
        assert all(error == 0 for share, error in pairs if share == 0) and len(found["error"]) == 2
    assert "| clusters | 100 | 2 |" in capsys.readouterr().out
    assert certify.main([*command[:2], "60", "--draws", "3", "--judges-alone", "--json", str(out)]) == 0
    (found,) = json.loads(out.read_text())
    assert found["gold_rows"] == 60 and max(found["error"]) - min(found["error"]) < 0.05 < max(found["share"])


def test_worth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, out = tmp_path / "tasks" / "clusters", tmp_path / "out.json"
    write_clusters(task)
    cast = pl.read_parquet(task / "votes.parquet")
    cast.with_columns(never=pl.lit(-1, pl.Int8)).write_parquet(task / "votes.parquet")
    liars = worth.make_liars(pl.read_parquet(task / "votes.parquet"), 2, seed=0)
    (name,) = liars.names  # a fifth of the three that vote, at least one
    lies = cast[name].to_numpy()
    assert liars.votes[name].to_list() == np.where(lies < 0, -1, 1 - lies).tolist()
    assert liars.votes.drop(name).equals(cast.with_columns(never=pl.lit(-1, pl.Int8)).drop(name))
    assert worth.main([str(tmp_path / "tasks"), "--draws", "1", "--sizes", "500x4", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    (clean,), (draw,) = found["clean"], found["draws"]
    assert clean["named"] == 0 and clean["muted"] == clean["mended"] == clean["accuracy"] > 0.8
    assert draw["mended"] == clean["accuracy"], "of two classes, the other one is what it meant"
    assert (draw["named_liars"], draw["named"]) == (1, 0) and draw["muted"] == draw["liars_muted"] >= draw["lying"]
    shown = capsys.readouterr().out
    assert "| clusters |" in shown and "500 items, 4 LFs:" in shown


def test_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clusters(tmp_path / "tasks" / "clusters")
    out = tmp_path / "out.json"
    command = [str(tmp_path / "tasks"), "--items", "25", "60", "100", "--seeds", "2", "--json", str(out)]
    assert next_items.main(command) == 0
    found = json.loads(out.read_text())
    asked = [(result["strategy"], result["items"]) for result in found]
    assert asked == [(strategy, items) for strategy in get_args(Strategy) for items in (25, 60)], "100 would be all"
    assert all(len(result["accuracy"]) == 2 and min(result["accuracy"]) > 0.8 for result in found)
    assert "| clusters | 60 |" in capsys.readouterr().out


def test_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clusters(tmp_path / "tasks" / "clusters")
    out = tmp_path / "out.json"
    command = [str(tmp_path / "tasks"), "--right", "0.9", "--calls", "20", "--pool", "60", "--json", str(out)]
    assert ask.main(command) == 0
    found = [(one["way"], one["choice"], one["calls"]) for one in json.loads(out.read_text())]
    alone = [("alone", "all", 60), ("alone", "cover", 20), ("alone", "random", 20)]
    beside = [("beside", "all", 60), ("beside", "none", 0), ("beside", "cover", 20), ("beside", "random", 20)]
    assert found == [*alone, *beside]
    assert all(one["accuracy"] > 0.75 for one in json.loads(out.read_text()) if one["choice"] != "cover")
    row = capsys.readouterr().out.splitlines()[2]
    assert row.startswith("| clusters | alone | 0.9 |") and row.endswith("(60) |")


def test_answers_are_right_as_often_as_stated() -> None:
    gold = np.random.default_rng(0).integers(0, 4, 4_000)
    nothing = np.empty(0)
    pool = ask.Pool(root=Path(), k=4, items=pl.DataFrame(), gold=gold, is_test=nothing, units=nothing, votes=pl.DataFrame())  # type: ignore[arg-type]  # fmt: skip
    answers = ask.draw_answers(pool, 0.7, 0)
    assert (answers == gold).mean() == pytest.approx(0.7, abs=0.03)
    wrong = (answers - gold)[answers != gold] % 4
    assert np.bincount(wrong)[1:] / len(wrong) == pytest.approx([1 / 3] * 3, abs=0.05)
    points = np.eye(80, dtype=np.float32)
    mixed = ask.choose(points, "mixed", 60, 0).tolist()
    assert mixed[:50] == ask.choose(points, "cover", 50, 0).tolist() and len({*mixed}) == 60
    assert ask.choose(points, "random", 9, 0).tolist() == np.random.default_rng(0).permutation(80)[:9].tolist()


def test_queries_are_timed_and_find_what_was_planted(tmp_path: Path) -> None:
    queries.write_project(tmp_path, 3000)
    found = {result.question: result for result in queries.measure(tmp_path)}
    assert set(found) == {*queries.QUERIES, "an LF tried, anew"}
    assert found["all items"].total == 3000
    votes = pl.read_parquet(tmp_path / VOTES)["lf03"]
    extended = pl.read_parquet(tmp_path / EXTENDED_VOTES)["lf03"]
    assert found["an LF's extended votes"].total == ((votes == -1) & (extended != -1)).sum() > 300
    texts = pl.read_parquet(tmp_path / ITEMS)["text"]
    assert found["a word in the texts"].total == texts.str.contains("word17 ").sum() > 10
    assert all(result.seconds > 0 for result in found.values())


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's package chromium")
def test_workbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {name: queries.QUERIES[name] for name in ("wrong labels", "a late page of a label")}
    monkeypatch.setattr(queries, "QUERIES", asked)
    assert workbench.main(["--n", "2000", "--repeats", "1"]) == 0
    load, *lines = capsys.readouterr().out.splitlines()
    assert load.startswith("load before") and len(lines) == len(asked)
    for name, line in zip(asked, lines, strict=True):
        seconds = [float(number) for number in re.findall(r"(\d+\.\d+) s", line)]
        assert line.startswith(name) and len(seconds) == 4 and seconds[1] > 0


def test_described_needs_tasks_and_shows_what_sentences_add(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no task there"):
        described.main([str(tmp_path), "--model", "model.onnx", "--tasks", "spam", "--gold", "0"])
    found = described.format_table({"spam, 0 gold": {"lfs": 0.75, "both": 0.5}}, ("lfs", "both"))
    assert found.splitlines()[-1] == "| spam, 0 gold | 0.750 | 0.500 | -0.250 |"
    assert "both less LFs" not in described.format_table({"spam": {"lfs": 0.75}}, ("lfs",))


@pytest.mark.parametrize("errors", intents.KINDS)
def test_intents_draws_lfs_that_are_as_often_right_as_asked(tmp_path: Path, errors: str) -> None:
    intents.draw_task(tmp_path, intents.Task(items=3_000, precision=0.4, errors=errors), "both")
    shown = pl.read_parquet(tmp_path / "data/raw/items.parquet")
    votes = (
        pl.read_parquet(tmp_path / "lfs/votes.parquet")
        .drop("item_id")
        .to_numpy()[(shown["split"] == "test").to_numpy()]
    )
    truth = shown.filter(split="test")["gold"].str.strip_prefix("class_").cast(pl.Int64).to_numpy()
    item, lf = np.nonzero(votes != -1)
    said = votes[item, lf]
    assert 0.3 < (said == truth[item]).mean() < 0.45
    mistaken = {(a, b) for a, b in zip(said.tolist(), truth[item].tolist(), strict=True) if a != b}
    assert (len(mistaken) <= intents.CLASSES) == (errors == "shared")
    assert shown.filter(pl.col("split") != "test")["gold"].null_count() == (shown["split"] != "test").sum()


def test_intents_shows_what_became_of_descriptions() -> None:
    row = {
        "precision": 0.4,
        "errors": "shared",
        "lfs": 0.5,
        "both": 0.75,
        "agreement": 0.3,
        "agreement_of_others": None,
    }
    table = intents.format_table([row | {"descriptions": "fill"}], ("lfs", "both")).splitlines()
    assert table[-1] == "| 0.400 | shared | 0.500 | 0.750 | 0.300 | None | fill |"
    assert {line.count("|") for line in table} == {8}


def test_every_described_class_is_one_of_its_task() -> None:
    texts = [text for task in DESCRIPTIONS.values() for found in task.values() for text in found]
    assert len(set(texts)) == len(texts) and all(text.endswith(".") for text in texts)
