"""`epoxy ask` asks about items of train, at random or by a cover; `apply` votes by the answers and asks nobody."""

import json
from pathlib import Path

import fake_model
import polars as pl
import pytest
from click.testing import CliRunner, Result
from small_project import write_params, write_raw

from flows.cli.ask import plan_all
from flows.cli.main import main
from flows.plan import plan
from tasks.__main__ import run_stage
from tasks.core.cover import choose_cover
from tasks.lf.language_model import ModelLF
from tasks.lf.loading import load_module, project_lfs
from tasks.params_file import read_params
from tasks.queries.pending import find_pending_lfs
from tasks.tables.answer_table import read_answers
from tasks.tables.embeddings_file import read_vectors

MODULE = """\
from tasks.labeling import keyword_lf, llm_lf

offer = keyword_lf("offer", column="text", keywords=["offer"], label="spam")
gpt = llm_lf("gpt", prompt="?", classes={classes}, model="m", budget={budget}, prices=(1.0, 2.0))
"""


def write_module(root: Path, *, budget: int, classes: tuple[str, ...] = ("ham", "spam")) -> None:
    (root / "lfs" / "small.py").write_text(MODULE.format(budget=budget, classes=classes), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_raw(tmp_path / "data" / "raw", 60)
    write_params(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "lfs").mkdir()
    write_module(tmp_path, budget=8)
    for stage in ("ingest", "gold", "index"):
        run_stage(tmp_path, stage)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["ask", *arguments])


def test_asking_goes_on_where_it_stopped_and_apply_only_reads(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("EPOXY_LLM_URL", raising=False)
    run_stage(project, "apply")
    assert "warning: gpt has no answers and abstains everywhere: 'epoxy ask gpt' asks" in capfd.readouterr().err
    dry = ask("--dry-run")
    assert dry.exit_code == 0 and "gpt: 8 calls to m; 0 of a budget of 8 are answered" in dry.output
    assert "(estimated); cost 0.00" in dry.output and not (project / "lfs/answers").exists()
    assert ask().exit_code == 2, "nobody says where the server is"
    with fake_model.serve() as server:
        monkeypatch.setenv("EPOXY_LLM_URL", server.url)
        assert ask("gpt", "--limit", "3").exit_code == 0
        assert len(server.requests) == 3
        done = ask()
        assert "gpt: 5 calls to m; 3 of a budget of 8 are answered" in done.output
        assert (
            "about 500 tokens to the model and 25 from it (as counted so far); cost 0.00055, after 0.00033"
            in done.output
        )
        assert "shares of classes, which train.class_balance should be told" in done.output
        assert "gpt: 0 calls" in ask().output and len(server.requests) == 8
    answers = read_answers(project / "lfs/answers/gpt.jsonl")
    items = pl.read_parquet(project / "data/ingest/items.parquet")
    asked = items.join(pl.DataFrame({"item_id": [answer.item_id for answer in answers]}), on="item_id")
    assert asked.height == 8 and set(asked["split"]) == {"train"} and asked["text"].is_unique().all()
    monkeypatch.setenv("EPOXY_LLM_URL", "http://127.0.0.1:9/v1")
    run_stage(project, "apply")
    assert "apply: gpt votes by 8 answers of a budget of 8" in capfd.readouterr().err
    votes = pl.read_parquet(project / "data/apply/votes.parquet").join(items.select("item_id", "text"), on="item_id")
    known = {json.loads(json.dumps(answer.item_id)): answer.answer for answer in answers}
    texts = dict(asked.select("item_id", "text").rows())
    said = {texts[item]: ("ham", "spam").index(word or "") for item, word in known.items()}
    assert [said.get(text, -1) for text in votes["text"]] == votes["gpt"].to_list(), (
        "also where others have the same text"
    )


def test_the_cover_is_of_the_embeddings_and_a_random_choice_is_another(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = pl.read_parquet(project / "data/ingest/items.parquet")
    ((_, plan),) = plan_all(root=project, by="cover")
    train = (
        items.with_row_index("row").filter(pl.col("split") == "train").unique("text", keep="first", maintain_order=True)
    )
    rows = train["row"].to_numpy().astype("int64")
    vectors = read_vectors(project, items.select("item_id", "split"), rows)
    units = vectors / (vectors**2).sum(axis=1, keepdims=True) ** 0.5
    expected = train["item_id"][choose_cover(units, 8, rows[:0])].to_list()
    assert [one.item_id for one in plan.asks] == expected and plan.distinct == train.height
    ((_, random),) = plan_all(root=project)
    assert [one.digest for one in random.asks] == sorted(one.digest for one in random.asks)
    ((_, fewer),) = plan_all(root=project, by="random", limit=3)
    assert fewer.asks == random.asks[:3] and set(random.asks) != set(plan.asks)


def test_a_class_that_the_project_does_not_have_is_refused_before_anybody_pays(project: Path) -> None:
    write_module(project, budget=8, classes=("ham", "eggs"))
    result = ask()
    assert result.exit_code == 4 and "labeling function 'gpt' (lfs/small.py) offers 'eggs'" in result.output
    write_module(project, budget=8)
    result = ask("gtp")
    assert result.exit_code == 2 and "gpt" in result.output
    (project / "lfs" / "small.py").write_text("from tasks.labeling import keyword_lf\n", encoding="utf-8")
    assert "has no labeling function of a language model" in ask().output


ANSWER_READER = """\
from tasks.labeling import keyword_lf, labeling_function

{at_import}
offer = keyword_lf("offer", column="text", keywords=["offer"], label="spam")

@labeling_function()
def reader(x):
    return "ham" if {in_vote} else None
"""


def answer(project: Path, number: int) -> None:
    """Append an answer about an item of train."""
    ((_, plan),) = plan_all(root=project)
    text = json.dumps(
        {
            "question": find_question(project),
            "text": plan.asks[0].digest,
            "item_id": plan.asks[0].item_id,
            "answer": "spam",
        }
    )
    path = project / "lfs/answers/gpt.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.is_file() else "") + text + "\n")
    assert len(read_answers(path)) == number


def find_question(project: Path) -> str:
    with project_lfs(project):
        (lf,) = [lf for lf in load_module(project, "lfs/small.py").lfs if isinstance(lf, ModelLF)]
    return lf.question.digest


def find_pending(project: Path) -> list[str]:
    return find_pending_lfs(project, read_params(project))["lf"].to_list()


def test_a_new_answer_has_its_own_lf_asked_and_no_other(project: Path) -> None:
    run_stage(project, "apply")
    assert find_pending(project) == []
    for number in (1, 2):
        answer(project, number)
        assert find_pending(project) == ["gpt"]
        run_stage(project, "apply")
        assert find_pending(project) == []
        assert pl.read_parquet(project / "data/apply/votes.parquet")["gpt"].to_list().count(1) >= number


@pytest.mark.parametrize(
    ("at_import", "in_vote"),
    [
        ("SAID = (Path(__file__).parent / 'answers/gpt.jsonl').read_text()", "SAID.count('spam') > 1"),
        ("SAID = Path(__file__).parent / 'answers/gpt.jsonl'", "SAID.read_text().count('spam') > 1"),
    ],
)
def test_an_lf_that_reads_answers_by_itself_sees_new_ones(project: Path, at_import: str, in_vote: str) -> None:
    answer(project, 1)
    code = ANSWER_READER.format(at_import="from pathlib import Path\n" + at_import, in_vote=in_vote)
    (project / "lfs" / "small.py").write_text(code)
    run_stage(project, "apply")
    assert set(pl.read_parquet(project / "data/apply/votes.parquet")["reader"]) == {-1}
    path = project / "lfs/answers/gpt.jsonl"
    path.write_text(path.read_text() * 2)
    run_stage(project, "apply")
    assert set(pl.read_parquet(project / "data/apply/votes.parquet")["reader"]) == {0}


def test_plan_says_who_may_still_be_asked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.plan.plan_run", lambda root: [])
    assert plan(project).models.rows() == [("gpt", 0, 8)]
    answer(project, 1)
    shown = CliRunner().invoke(main, ["plan"]).output
    assert (
        "gpt has 1 answers of a budget of 8; a run asks nobody: 'epoxy ask gpt' asks about up to 7 more items" in shown
    )
    write_module(project, budget=1)
    assert plan(project).models.is_empty()
