"""apply.describe: what classes mean, as a labeling function, with a real encoder of ten words."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from click.testing import CliRunner
from onnx_models import WORDS, write_model

from flows.cli.main import main
from flows.releases.manifest import CONTENTS
from tasks import apply, gold, ingest
from tasks.__main__ import run_stage
from tasks.core.descriptions import guess, vote
from tasks.errors import DataError, EpoxyError, LabelingFunctionError, ParamsError, QueryError
from tasks.label_new import label_rows
from tasks.lf.class_vectors import find_class_vectors
from tasks.params import ApplyParams, DescribeParams, GoldParams, IngestParams
from tasks.params_file import read_params
from tasks.queries.describe import try_sentence
from tasks.queries.project_data import ProjectData
from tasks.tables import schemas
from tasks.tables.parquet import read_votes, write_table
from tasks.tables.paths import DESCRIPTIONS, DESCRIPTIONS_SUMMARY, ITEMS, VOTES
from tasks.tables.release_rows import read_rows
from tasks.tables.saved_descriptions import read_descriptions
from tasks.tables.saved_model import SavedModel, read_model

CLASSES = ("world", "sports", "business")
MODEL = "models/words/model.onnx"
TOPICS = {"world": ("war", "vote"), "sports": ("goal", "team"), "business": ("shares", "profit")}
SENTENCES = {name: " ".join(words) for name, words in TOPICS.items()}
NAMED = {"classes": SENTENCES}


def make_vectors() -> np.ndarray:
    """Words of a topic lie together."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(len(WORDS), 16)) * 0.3
    for axis, words in enumerate(TOPICS.values()):
        for word in words:
            vectors[WORDS.index(word), axis] += 2
    return vectors


def make_items(n: int = 90, splits: tuple[str, ...] = ("train",)) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    topics = list(TOPICS.values())
    texts = [f"{' '.join(rng.choice(topics[i % 3], 2))} the {rng.choice(WORDS[1:])}" for i in range(n)]
    return pl.DataFrame(
        {
            "item_id": [f"i{i:03}" for i in range(n)],
            "split": [splits[i % len(splits)] for i in range(n)],
            "text": texts,
            "gold": [CLASSES[i % 3] for i in range(n)],
        }
    )


def test_blocks_are_asked_each_by_its_own_encoder(tmp_path: Path) -> None:
    """What a sentence is to an item is the mean over the blocks that have an encoder; of others nothing is known."""
    items = make_items()
    root = make_project(tmp_path, items, {"model": MODEL})
    np.save(root / "data" / "raw" / "own.npy", np.random.default_rng(2).normal(size=(90, 4)))
    own = {"embeddings": "own.npy", "embedding_ids": "items.parquet"}
    given = {"own": own, "meaning": {"encoder": {"model": MODEL}, "weight": 2}, "words": {"encoder": "tfidf"}}
    params = IngestParams.model_validate({"source": "data/raw", "items": "items.parquet", "blocks": given})
    ingest.run(root, CLASSES, params)
    found = find_class_vectors(root, CLASSES, DescribeParams.model_validate(NAMED))
    own_part, meaning, words = np.split(found.vectors, [4, 20], axis=1)
    assert not own_part.any()
    assert (meaning**2).sum(axis=1) == pytest.approx([2 / 3] * 3, abs=1e-6)
    assert (words**2).sum(axis=1) == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert found.origin == f"{MODEL} and tfidf"
    with pytest.raises(ParamsError, match=r"each of ingest.blocks has its own encoder"):
        find_class_vectors(root, CLASSES, DescribeParams.model_validate({**NAMED, "encoder": MODEL}))
    ingest.run(root, CLASSES, params.model_copy(update={"blocks": {"own": params.blocks["own"]}}))
    with pytest.raises(ParamsError, match=r"none of ingest.blocks is encoded from texts"):
        find_class_vectors(root, CLASSES, DescribeParams.model_validate(NAMED))


LFS = """from tasks.labeling import *
war = keyword_lf("war", column="text", keywords=["war"], label="world")
goal = keyword_lf("goal", column="text", keywords=["goal"], label="sports")
"""


def make_project(root: Path, items: pl.DataFrame, encoder: object = None, lfs: str = '"""None."""\n') -> Path:
    """A project in which ingest and gold have run."""
    if not (root / MODEL).exists():
        write_model(root / "models" / "words", make_vectors(), longest=20)
    (root / "data" / "raw").mkdir(parents=True, exist_ok=True)
    (root / "gold").mkdir(exist_ok=True)
    (root / "lfs").mkdir(exist_ok=True)
    items.write_parquet(root / "data" / "raw" / "items.parquet")
    (root / "lfs" / "mine.py").write_text(lfs)
    params = {"source": "data/raw", "encoder": encoder or {"model": MODEL}}
    ingest.run(root, CLASSES, IngestParams.model_validate(params))
    gold.run(root, CLASSES, GoldParams(train="refuse"))
    return root


def run(root: Path, **describe: object) -> pl.DataFrame:
    """The votes after apply has run."""
    params = {"source": "lfs/mine.py", "describe": describe or NAMED}
    apply.run(root, CLASSES, ApplyParams.model_validate(params))
    return read_votes(root / VOTES, len(CLASSES))


def read_summary(root: Path) -> dict:
    return json.loads((root / DESCRIPTIONS_SUMMARY).read_text())


def test_sentences_are_labels_before_there_is_any_lf(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    items = make_items()
    votes = run(make_project(tmp_path, items))
    assert votes.columns == ["item_id", "description"]
    said = votes["description"].to_numpy()
    truth = np.arange(90) % 3
    assert (said != -1).mean() > 0.3
    assert (said[said != -1] == truth[said != -1]).mean() > 0.95
    assert "description is alone: no other labeling function votes" in capfd.readouterr().err
    assert [row["evidence"] for row in read_summary(tmp_path)["classes"]] == ["neighbors"] * 3
    assert "description" in (tmp_path / "data/apply/lf_summary.csv").read_text()


def test_without_descriptions_nothing_is_described(tmp_path: Path) -> None:
    make_project(tmp_path, make_items(), lfs=LFS)
    apply.run(tmp_path, CLASSES, ApplyParams(source="lfs/mine.py"))
    assert read_votes(tmp_path / VOTES, 3).columns == ["item_id", "goal", "war"]
    assert read_summary(tmp_path) == {"lf": None}
    assert pl.read_parquet(tmp_path / DESCRIPTIONS).is_empty()


def test_beside_other_lfs_it_votes_where_they_are_silent_and_leaves_their_votes_alone(tmp_path: Path) -> None:
    third = 'shares = keyword_lf("shares", column="text", keywords=["shares", "profit"], label="business")\n'
    votes = run(make_project(tmp_path, make_items(), lfs=LFS + third + third.replace("shares = ", "b = ").replace(
        '("shares"', '("b"').replace('["shares", "profit"]', '["shares"]')))  # fmt: skip
    summary = read_summary(tmp_path)
    assert summary["agreement_of_others"] is not None
    assert not summary["is_muted"]
    if summary["fills"]:
        others = (votes.drop("item_id", "description") != -1).max_horizontal()
        assert votes.filter(others)["description"].eq(-1).all()


WRONG = """from tasks.labeling import *
@vectorized_labeling_function
def {name}(items):
    return items["text"].str.extract("^(\\\\w+)").replace_strict(
        {{"war": "sports", "vote": "sports", "goal": "business", "team": "business", "shares": "world", "profit": "world"}},
        default=None, return_dtype=pl.String)
"""


def test_descriptions_that_contradict_the_other_lfs_are_muted_and_it_says_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lfs = "import polars as pl\n" + WRONG.format(name="one") + WRONG.format(name="two")
    votes = run(make_project(tmp_path, make_items(), lfs=lfs))
    assert votes["description"].eq(-1).all()
    assert "description muted: on" in capfd.readouterr().err
    assert read_summary(tmp_path)["is_muted"]


def test_gold_speaks_for_descriptions_against_lfs_that_share_their_errors(tmp_path: Path) -> None:
    lfs = "import polars as pl\n" + WRONG.format(name="one") + WRONG.format(name="two")
    items = make_items(240, ("valid", "train"))
    shown = items.with_columns(pl.when(pl.col("split") == "valid").then("gold"))
    run(make_project(tmp_path, shown, lfs=lfs))
    summary = read_summary(tmp_path)
    assert not summary["is_muted"]
    assert summary["why"].startswith("votes where no other LF does: gold shows that it is right at least as often")
    run(make_project(tmp_path, shown.with_columns(pl.when(pl.int_range(240) < 38).then("gold")), lfs=lfs))
    assert read_summary(tmp_path)["is_muted"]  # 19 rows are too few


def test_gold_says_how_far_down_a_class_votes(tmp_path: Path) -> None:
    run(make_project(tmp_path, make_items(240, ("valid", "train")).with_columns(
        pl.when(pl.col("split") == "valid").then("gold"))))  # fmt: skip
    assert [row["evidence"] for row in read_summary(tmp_path)["classes"]] == ["gold"] * 3


def test_a_class_without_description_gets_no_vote(tmp_path: Path) -> None:
    root = make_project(tmp_path, make_items())
    some = {name: SENTENCES[name] for name in ("world", "sports")}
    assert set(run(root, classes=some)["description"].unique()) == {-1, 0, 1}
    assert set(run(root, classes={"sports": "goal"})["description"].unique()) == {-1, 1}


def test_the_order_of_descriptions_changes_no_byte(tmp_path: Path) -> None:
    root = make_project(tmp_path, make_items())
    run(root, classes={"world": ["war", "vote"], "sports": "goal"})
    before = [(root / path).read_bytes() for path in (VOTES, DESCRIPTIONS, DESCRIPTIONS_SUMMARY)]
    run(root, classes={"sports": ["goal"], "world": ["vote", "war"]})
    assert [(root / path).read_bytes() for path in (VOTES, DESCRIPTIONS, DESCRIPTIONS_SUMMARY)] == before


def test_an_edited_sentence_encodes_no_item_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_project(tmp_path, make_items())
    run(root)
    encoded: list[str] = []

    def load(root: Path, params: object) -> object:
        return lambda texts: encoded.extend(texts) or np.ones((len(texts), 16))

    load.__module__ = "tasks.readers.onnx_encoder"
    monkeypatch.setattr("tasks.lf.class_vectors.choose_loader", lambda model: load)
    run(root, classes=SENTENCES | {"sports": "team goal the"})
    assert encoded == ["team goal the"]


def test_vectors_of_the_users_own_are_taken_from_a_table(tmp_path: Path) -> None:
    root = make_project(tmp_path, make_items())
    vectors = make_vectors()
    mean = [vectors[[WORDS.index(word) for word in words]].mean(axis=0).tolist() for words in TOPICS.values()]
    pl.DataFrame({"class": list(TOPICS), "vector": mean}).write_parquet(root / "lfs" / "classes.parquet")
    assert run(root)["description"].equals(run(root, vectors="lfs/classes.parquet")["description"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            pl.DataFrame({"class": ["world"], "vector": [[1.0] * 15]}),
            r"of length \[15\]; the items' embeddings have 16",
        ),
        (
            pl.DataFrame({"class": ["wrold"], "vector": [[1.0] * 16]}),
            "class 'wrold' is none of world, sports, business",
        ),
        (pl.DataFrame({"class": ["world"], "vector": [[0.0] * 16]}), "a vector is zero or not finite"),
        (pl.DataFrame({"class": ["world", "sports"], "vector": [[1.0] * 16, None]}), "row 2 has no vector"),
        (pl.DataFrame({"class": ["world", None], "vector": [[1.0] * 16] * 2}), "row 2 has no class"),
        (pl.DataFrame({"class": ["world"], "vector": [[1.0] * 16]}).head(0), "has no row"),
        (
            pl.DataFrame({"class": ["world", "sports"], "vector": [[1.0] * 16, [2.0] * 16]}),
            "'world' and 'sports' have the same vector by 'lfs/classes.parquet'",
        ),
        (pl.DataFrame({"class": ["world"], "vectors": [1.0]}), "expected 'class' .text. and 'vector'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, table: pl.DataFrame, message: str) -> None:
    root = make_project(tmp_path, make_items())
    table.write_parquet(root / "lfs" / "classes.parquet")
    with pytest.raises(DataError, match=message):
        run(root, vectors="lfs/classes.parquet")


def test_a_table_is_one_of_the_project_in_whatever_order(tmp_path: Path) -> None:
    root = make_project(tmp_path, make_items())
    table = pl.DataFrame({"class": ["sports", "world", "world"], "vector": make_vectors()[[3, 1, 2]].tolist()})
    table.write_parquet(root / "lfs" / "classes.parquet")
    run(root, vectors="lfs/classes.parquet")
    before = [(root / path).read_bytes() for path in (VOTES, DESCRIPTIONS, DESCRIPTIONS_SUMMARY)]
    pl.concat([table.reverse(), table.head(1)]).write_parquet(root / "lfs" / "classes.parquet")
    run(root, vectors="lfs/classes.parquet")
    assert [(root / path).read_bytes() for path in (VOTES, DESCRIPTIONS, DESCRIPTIONS_SUMMARY)] == before
    (root / "lfs" / "classes.parquet").write_bytes(b"class,vector\n")
    with pytest.raises(DataError, match=r"classes.parquet cannot be read: (?!.*dvc)"):
        run(root, vectors="lfs/classes.parquet")
    table.write_parquet(tmp_path / "outside.parquet")
    (root / "lfs" / "classes.parquet").unlink()
    (root / "lfs" / "classes.parquet").symlink_to(tmp_path / "outside.parquet")
    with pytest.raises(DataError, match="leads out of lfs/"):
        run(root, vectors="lfs/classes.parquet")
    with pytest.raises(DataError, match=r"lfs/none.parquet not found. Correct apply.describe.vectors"):
        run(root, vectors="lfs/none.parquet")


def test_another_encoder_than_that_of_the_items_is_refused(tmp_path: Path) -> None:
    root = make_project(tmp_path, make_items())
    write_model(root / "models" / "other", np.random.default_rng(9).normal(size=(len(WORDS), 16)))
    with pytest.raises(DataError, match="is not what made the embeddings of column 'text'"):
        run(root, encoder="models/other/model.onnx", **NAMED)
    write_model(root / "models" / "wide", np.ones((len(WORDS), 17)))
    with pytest.raises(DataError, match="vectors of length 17, but the items' embeddings have 16"):
        run(root, encoder="models/wide/model.onnx", **NAMED)
    with pytest.raises(EpoxyError, match=r"^apply.describe.encoder: 'models/none.onnx' needs models/none.onnx, which"):
        run(root, encoder="models/none.onnx", **NAMED)
    with pytest.raises(ParamsError, match=r"'apply.describe.encoder.model': '../model.onnx' leads out of the project"):
        run(root, encoder="../model.onnx", **NAMED)
    with pytest.raises(ParamsError, match="'pixels' reads images, and no sentences"):
        run(root, encoder="pixels", **NAMED)


def test_embeddings_from_a_file_need_the_encoder_named(tmp_path: Path) -> None:
    root, items = make_project(tmp_path, make_items()), make_items()
    before = run(root)
    stored = pl.read_parquet(root / "data/ingest/embeddings/*.parquet")
    np.save(root / "data/raw/embeddings.npy", stored["embedding"].to_numpy())
    items.write_parquet(root / "data/raw/items.parquet")
    named = {"source": "data/raw", "items": "items.parquet", "embedding_ids": "items.parquet"}
    ingest.run(root, CLASSES, IngestParams.model_validate(named))
    with pytest.raises(ParamsError, match="which encoder made them is not known"):
        run(root)
    assert run(root, encoder=MODEL, **NAMED).equals(before)


def test_items_without_text_cannot_tell_the_encoder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = make_project(tmp_path, make_items())
    table = pl.read_parquet(root / ITEMS)
    table.drop("text").write_parquet(root / ITEMS)
    run(root)
    assert "items have no text 'text', so nothing checks" in capfd.readouterr().err


def test_a_sentence_that_is_longer_than_the_encoder_takes_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(make_project(tmp_path, make_items()), classes=SENTENCES | {"world": "war vote " * 15})
    assert "has 30 tokens, of which the encoder reads 20" in capfd.readouterr().err
    assert "30 tokens" in read_summary(tmp_path)["notes"][0]


def test_a_sentence_of_which_the_encoder_knows_hardly_a_word_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(make_project(tmp_path, make_items()), classes=SENTENCES | {"world": "สงคราม และ การเลือกตั้ง war"})
    said = f"'{MODEL}' knows at most half of the words of 'สงคราม และ การเลือกตั้ง war'"
    assert said in capfd.readouterr().err and said in " ".join(read_summary(tmp_path)["notes"])


def test_tfidf_says_that_it_knows_words_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    votes = run(make_project(tmp_path, make_items(), "tfidf"), classes=SENTENCES | {"business": "銀行と市場"})
    said = capfd.readouterr().err
    assert "compares words and parts of words alone" in said
    assert "nothing in '銀行と市場' occurs in the items" in said
    found = votes["description"].to_numpy()
    assert (found[np.isin(found, [0, 1])] == (np.arange(90) % 3)[np.isin(found, [0, 1])]).mean() > 0.9


def test_a_sentence_without_a_word_of_the_items_has_no_say(tmp_path: Path) -> None:
    """The vector that tfidf gives it says nothing, and two such are alike."""
    root = make_project(tmp_path, make_items(), "tfidf")
    votes = run(root, classes=SENTENCES | {"business": "銀行と市場"})["description"]
    assert set(votes.unique()) == {-1, 0, 1}
    assert read_summary(root)["notes"][1:] == ["nothing in '銀行と市場' occurs in the items"]
    with pytest.raises(DataError, match=r"'tfidf' knows nothing of any description .*'朋友写信'.*'你中奖了'"):
        run(root, classes={"world": "朋友写信", "sports": "你中奖了"})


def test_a_single_item_whose_words_are_one_number_gets_no_vote(tmp_path: Path) -> None:
    root = make_project(tmp_path, make_items(1), "tfidf")
    assert run(root, classes={"world": "shares", "sports": "vote the"})["description"].to_list() == [-1]


def test_two_classes_that_the_encoder_reads_alike_are_refused(tmp_path: Path) -> None:
    root = make_project(tmp_path, make_items())
    with pytest.raises(DataError, match=r"'world' \('war vote'\) and 'sports' \('vote war'\) have the same vector by"):
        run(root, classes={"world": "war vote", "sports": "vote war"})


def test_sentences_in_another_script_are_compared_like_any(tmp_path: Path) -> None:
    items = make_items(60)
    russian = {"world": ("война", "выборы"), "sports": ("гол", "матч"), "business": ("акции", "прибыль")}
    texts = [f"{' '.join(russian[CLASSES[i % 3]])} сегодня {i}" for i in range(60)]
    root = make_project(tmp_path, items.with_columns(text=pl.Series(texts)), "tfidf")
    votes = run(root, classes={name: " и ".join(words) for name, words in russian.items()})["description"].to_numpy()
    assert (votes != -1).sum() >= 6
    assert (votes[votes != -1] == (np.arange(60) % 3)[votes != -1]).all()


def test_the_order_of_classes_changes_no_name_that_is_voted(tmp_path: Path) -> None:
    root = make_project(tmp_path, make_items())
    before = [CLASSES[vote] if vote != -1 else None for vote in run(root)["description"]]
    turned = CLASSES[::-1]
    for stage, params in ((ingest, IngestParams.model_validate({"source": "data/raw", "encoder": {"model": MODEL}})),
                          (gold, GoldParams(train="refuse")),
                          (apply, ApplyParams.model_validate({"source": "lfs/mine.py", "describe": NAMED}))):  # fmt: skip
        stage.run(root, turned, params)
    after = [turned[vote] if vote != -1 else None for vote in read_votes(root / VOTES, 3)["description"]]
    assert after == before


@pytest.mark.parametrize("n", [1, 7])
def test_items_that_are_all_alike_get_no_vote(tmp_path: Path, n: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Each is its own mean, so no class is nearer than another, except by rounding."""
    root = make_project(tmp_path, make_items(n).with_columns(text=pl.lit("war vote phone")))
    assert run(root)["description"].to_list() == [-1] * n
    assert run(root, classes={"sports": "goal team"})["description"].to_list() == [-1] * n
    assert "A function has to return its class" not in capfd.readouterr().err


def test_without_items_of_train_there_is_no_reference(tmp_path: Path) -> None:
    root = make_project(tmp_path, make_items(9, ("test",)))
    with pytest.raises(DataError, match="no item is of train"):
        run(root)


def test_the_name_of_another_lf_is_refused(tmp_path: Path) -> None:
    root = make_project(tmp_path, make_items(), lfs=LFS)
    with pytest.raises(LabelingFunctionError, match="is called 'war' already"):
        run(root, name="war", **NAMED)


@pytest.mark.parametrize(
    ("describe", "message"),
    [
        ("{classes: {a: ' '}}", "'a' has no description or a blank one"),
        ("{classes: {a: []}}", "'a' has no description or a blank one"),
        (r'{classes: {a: "\u200b\u00a0"}}', "'a' has no description or a blank one"),
        ("{classes: {a: same, b: Same }}", "'a' and 'b' have the same description"),
        ("{classes: {a: the same, b: 'the  same'}}", "'a' and 'b' have the same description"),
        (
            "{classes: {c: other}}",
            r"params.yaml: apply.describe.classes: 'c' is none of `classes`; did you mean '[ab]'\?$",
        ),
        (
            "{classes: {a: 3}}",
            r"'apply.describe.classes': 'a' means 3; expected a sentence, in quotes, or a list of such\.$",
        ),
        ("{classes: {a: yes}}", "'a' means True; expected a sentence, in quotes"),
        ("{classes: {a: }}", "'a' means nothing; expected a sentence"),
        ("{classes: {a: [x, [y]]}}", r"'a' means \['x', \['y'\]\]; expected a sentence"),
        ("{classes: {a: {x: y}}}", "'a' means {'x': 'y'}; expected a sentence"),
        ("{classes: [a, b]}", "expected a class with its sentence in each line"),
        ("{classes: {}}", "give `classes` .* or `vectors`"),
        ("{}", "give `classes` .* or `vectors`"),
        ("{classes: {a: x}, vectors: lfs/v.parquet}", "and not both"),
        ("{vectors: data/v.parquet}", "must be a file below lfs/"),
        ("{vectors: lfs/v.npy}", "must end in .parquet"),
        ("{classes: {a: x}, name: 'my lf'}", "must be letters, digits"),
        ("{clases: {a: x}}", "unknown key 'apply.describe.clases'. Did you mean 'classes'"),
    ],
)
def test_mistakes_in_params_are_named(tmp_path: Path, describe: str, message: str) -> None:
    params = Path("params.yaml").read_text(encoding="utf-8")
    params = params.replace('classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]', "classes: [a, b]")
    params = params.replace("  source: lfs/digits.py", f"  source: lfs/digits.py\n  describe: {describe}")
    (tmp_path / "params.yaml").write_text(params)
    with pytest.raises(ParamsError, match=message):
        read_params(tmp_path)


def test_more_classes_than_a_vote_can_tell_apart_are_refused_with_their_limit(tmp_path: Path) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    for count, is_refused in ((127, False), (500, True)):
        params["classes"] = [f"c{i}" for i in range(count)]
        params["apply"]["describe"] = {"classes": {f"c{i}": f"sentence {i}" for i in range(count)}}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        if not is_refused:
            assert len(read_params(tmp_path).apply.describe.classes) == count
            continue
        with pytest.raises(
            ParamsError, match=r"'classes': .*has 500 names; a vote is a byte, so at most 127"
        ) as refused:
            read_params(tmp_path)
        assert len(str(refused.value)) < 400


@pytest.mark.parametrize("classes", ["{a: x, b: y}", "[a: x, b: y]"])
def test_classes_as_a_mapping_are_told_where_sentences_go(tmp_path: Path, classes: str) -> None:
    params = Path("params.yaml").read_text(encoding="utf-8")
    lines = [f"classes: {classes}" if line.startswith("classes:") else line for line in params.splitlines()]
    (tmp_path / "params.yaml").write_text("\n".join(lines))
    with pytest.raises(ParamsError, match=r"what they mean goes to apply\.describe\.classes"):
        read_params(tmp_path)


def test_the_saved_table_votes_as_the_run_did(tmp_path: Path) -> None:
    """So do new rows, whatever else has come since."""
    root = make_project(tmp_path, make_items())
    votes = run(root)
    found = read_descriptions(root, CLASSES, votes.columns[1:])
    assert found is not None
    stored = pl.read_parquet(root / "data/ingest/embeddings/*.parquet")["embedding"].to_numpy()[50:]
    again = guess(stored, found.voter.scores, 3)
    said = vote(again, found.voter.cuts, found.voter.is_filling, np.zeros(40, bool))
    assert said.tolist() == votes["description"].to_list()[50:]
    with pytest.raises(DataError, match="class 'world' is not of this run"):
        read_descriptions(root, ("other", "sports", "business"), votes.columns[1:])


def test_a_sentence_is_tried_before_it_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_project(tmp_path, make_items())
    run(root)
    before = [(root / path).read_bytes() for path in (VOTES, DESCRIPTIONS)]
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["classes"] = list(CLASSES)
    params["ingest"] = {"source": "data/raw", "encoder": {"model": MODEL}}
    params["apply"] = {"source": "lfs/mine.py", "describe": NAMED}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    same = try_sentence(ProjectData(root), "sports", SENTENCES["sports"])
    votes = read_votes(root / VOTES, 3)["description"]
    assert same.changed.is_empty()
    assert (same.votes, same.of) == ((votes == 1).sum(), 90)
    assert (same.nearest["margin"][0], same.nearest["vote"][0]) == (same.nearest["margin"].max(), "sports")
    assert (same.at_cut["vote"] == "sports").all()
    row = next(row for row in read_summary(root)["classes"] if row["class"] == "sports")
    assert (same.share, same.evidence, list(same.agreement)) == (row["share"], "neighbors", row["curve"])
    other = try_sentence(ProjectData(root), "sports", "phone code")
    assert other.changed.height > 0
    assert [(root / path).read_bytes() for path in (VOTES, DESCRIPTIONS)] == before
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / ".dvc").mkdir()
    monkeypatch.chdir(root)
    found = CliRunner().invoke(main, ["describe", "sports", "--try", "phone code", "--json"])
    assert json.loads(found.stdout)["votes"] == other.votes, found.output
    same_as_another = next(text for name, text in SENTENCES.items() if name != "sports")
    for bad, message in (("", "no description or a blank one"), (same_as_another, "have the same description")):
        refused = CliRunner().invoke(main, ["describe", "sports", "--try", bad])
        assert refused.exit_code == 2 and message in refused.output
        assert re.match(r"error: '\w+' ", refused.output), refused.output
    flips = CliRunner().invoke(main, ["describe", "sports", "--try", "phone code"]).output.partition("changed\n")[2]
    first = other.changed.row(0, named=True)
    assert [*flips.splitlines()[0].split()[:4]] == ["item", "margin", "before", "vote"]
    assert flips.splitlines()[2].split()[2:4] == [first["before"] or "-", first["vote"] or "-"]
    shown = CliRunner().invoke(main, ["describe", "sports", "--try", SENTENCES["sports"]])
    assert "changed\n" not in shown.output
    assert "0 votes would be others than in the last run." in shown.output
    curve = re.search(r"agreement by tenth, among near items: ([\d. |]+)\n", shown.output)
    assert curve, shown.output
    before_cut, after_cut = (part.split() for part in curve[1].split("|"))
    assert len(before_cut) == round(10 * row["share"])
    assert [*map(float, before_cut + after_cut)] == pytest.approx(row["curve"], abs=0.005)


def test_a_tried_sentence_without_a_word_of_the_items_is_told(tmp_path: Path) -> None:
    root = make_project(tmp_path, make_items(), "tfidf")
    run(root)
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["classes"] = list(CLASSES)
    params["ingest"] = {"source": "data/raw", "encoder": "tfidf"}
    params["apply"] = {"source": "lfs/mine.py", "describe": NAMED}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(QueryError, match=r"'朋友' would have no say: .*nothing in '朋友' occurs in the items"):
        try_sentence(ProjectData(root), "sports", "朋友")


def test_a_sentence_is_tried_beside_vectors_of_a_table(tmp_path: Path) -> None:
    root = make_project(tmp_path, make_items())
    vectors = make_vectors()
    mean = [vectors[[WORDS.index(word) for word in words]].mean(axis=0).tolist() for words in TOPICS.values()]
    pl.DataFrame({"class": list(TOPICS), "vector": mean}).write_parquet(root / "lfs" / "classes.parquet")
    run(root, vectors="lfs/classes.parquet")
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["classes"] = list(CLASSES)
    params["ingest"] = {"source": "data/raw", "encoder": {"model": MODEL}}
    params["apply"] = {"source": "lfs/mine.py", "describe": {"vectors": "lfs/classes.parquet"}}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    assert try_sentence(ProjectData(root), "sports", SENTENCES["sports"]).changed.is_empty()


def test_new_rows_are_voted_on_by_the_means_and_cuts_of_the_release(tmp_path: Path) -> None:
    items = make_items()
    root = make_project(tmp_path, items.head(60), lfs=LFS)
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["classes"] = list(CLASSES)
    params["ingest"] = {"source": "data/raw", "encoder": {"model": MODEL}}
    params["apply"] = {"source": "lfs/mine.py", "describe": NAMED}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    for stage in ("index", "apply", "search", "tune", "extend", "fit", "train"):
        run_stage(root, stage)
    release = root / "release"
    release.mkdir()
    for name, path in CONTENTS.items():
        if (root / path).is_file():
            shutil.copy(root / path, release / name)
    write_table(release / "rows.parquet", read_rows(root), schemas.ROWS)
    released = read_votes(root / VOTES, 3)
    found = read_descriptions(root, CLASSES, released.columns[1:])
    assert found is not None
    # What comes is of one class alone, and moves the means of a refit.
    sports = items.tail(30).with_columns(text=pl.lit("goal team ") + pl.col("text").str.slice(0, 9))
    make_project(root, pl.concat([items.head(60), sports]), lfs=LFS)
    run_stage(root, "apply")
    labeled = label_rows(root, release, "base", read_params(root))
    now, before = (read(release / "model.parquet").described for read in (read_model, read_as_before))
    assert now is not None and before is not None
    assert np.array_equal(now.voter.scores.offsets, before.voter.scores.offsets)
    assert labeled.counts.new == 30
    assert labeled.votes.head(60).equals(released.select(labeled.votes.columns))
    stored = pl.read_parquet(root / "data/ingest/embeddings/*.parquet")["embedding"].to_numpy()[60:]
    again = guess(stored, found.voter.scores, 3)
    others = labeled.votes.tail(30).drop("item_id", "description").to_numpy() != -1
    expected = vote(again, found.voter.cuts, found.voter.is_filling, others.any(axis=1))
    assert labeled.votes["description"].to_list()[60:] == expected.tolist()
    refit = read_descriptions(root, CLASSES, released.columns[1:])
    assert refit is not None and not np.array_equal(refit.voter.scores.offsets, found.voter.scores.offsets)


def read_as_before(path: Path) -> SavedModel:
    """The model at `path` as earlier versions wrote it: an offset for each class, NaN without a description."""
    offsets = pl.col("name") == "description/offsets"
    table = pl.read_parquet(path).with_columns(
        name=pl.when(offsets).then(pl.lit("description/means")).otherwise("name")
    )
    before = path.with_name("before.parquet")
    table.write_parquet(before)
    return read_model(before)


def test_an_edited_sentence_runs_nothing_again_but_what_depends_on_votes() -> None:
    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert [name for name, stage in stages.items() if "apply" in stage["params"]] == ["apply"]
    written = {"data/apply/"}
    for name in ("search", "tune", "extend", "fit", "train", "evaluate"):
        assert any(dep.startswith(tuple(written)) for dep in stages[name]["deps"])
        written.add(f"data/{name}/")
    for name in ("ingest", "gold", "index"):
        assert not any(dep.startswith(tuple(written)) for dep in stages[name]["deps"])
