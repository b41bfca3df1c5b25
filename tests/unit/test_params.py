"""params.yaml: every mistake is named with its place and its cure."""

import datetime
import itertools
from pathlib import Path

import pytest
import yaml

from tasks.__main__ import STAGES
from tasks.errors import ParamsError
from tasks.params import Split
from tasks.params_file import read_params, read_stage_params
from tasks.strict_yaml import parse_yaml

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, change) -> Path:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    change(raw)
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    return folder


def test_the_shipped_params_are_valid():
    assert len(read_params(ROOT).classes) == 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw["extend"].update(scop="rows"), "unknown key 'extend.scop'. Did you mean 'scope'?"),
        (lambda raw: raw.update(evalute={}), "unknown key 'evalute'. Did you mean 'evaluate'?"),
        (lambda raw: raw["extend"].update(scope="row"), "'extend.scope'"),
        (lambda raw: raw.pop("search"), "'search' is missing"),
        (lambda raw: raw.update(classes=["a"]), "'classes'"),
        (lambda raw: raw.update(classes=["a", "a"]), "differ"),
        (lambda raw: raw.update(classes=["a", " "]), "blank"),
        (lambda raw: raw["search"].update(reference=[]), "'search.reference'"),
        (lambda raw: raw.update(classes=[0, 1]), "quote numbers"),
        (lambda raw: raw.update(classes=["ham", "ham "]), "'ham' and 'ham ' differ in blanks"),
        (lambda raw: raw["apply"].update(source="../lfs/x.py"), "below lfs/"),
        (lambda raw: raw["apply"].update(source="/lfs/x.py"), "below lfs/"),
        (lambda raw: raw["apply"].update(source="lfs/x.pkl"), ".parquet"),
        (lambda raw: raw["fit"].update(class_balance=[0.5, 0.6]), "sums to 1.1"),
        (lambda raw: raw["fit"].update(class_balance=[0.5, 0.5]), "2 values for 10 classes"),
        (lambda raw: raw["ingest"].update(embeddings=None), "either"),
        (lambda raw: raw["tune"].update(default=float("nan")), "tune.default"),
        (
            lambda raw: raw["tune"].update(candidates=True),
            "'tune.candidates': Input should be a valid integer. Got True.",
        ),
        (
            lambda raw: raw["tune"].update(candidates=20.0),
            "'tune.candidates': Input should be a valid integer. Got 20.0.",
        ),
        (lambda raw: raw["tune"].update(candidates="20"), "Got '20'. That is text: write it without quotes"),
        (
            lambda raw: raw["search"].update(target_recall="9e-1"),
            "and an exponent after a decimal point, as in 1.0e-3.",
        ),
        (lambda raw: raw["evaluate"].update(confidence=True), "'evaluate.confidence': Input should be a valid number"),
        (lambda raw: raw["ingest"].update(items=1), "'ingest.items': Input should be a valid string. Got 1."),
        (lambda raw: raw["ingest"].update(items=datetime.date(2026, 1, 1)), "'ingest.items'"),
        (lambda raw: raw["tune"].update(default=1.5), "threshold 1.5 of 'default' is no cosine"),
        (lambda raw: raw["tune"].update(thresholds={"lf": -1.01}), "threshold -1.01 of 'lf' is no cosine"),
        (
            lambda raw: (raw["index"].update(metric="l2"), raw["tune"].update(thresholds={"lf": -0.5})),
            "threshold -0.5 of 'lf' is no distance; that is at least 0",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, change, said):
    with pytest.raises(ParamsError) as caught:
        read_params(write(tmp_path, change))
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "!!python/object/apply:os.getcwd []", "\x00"])
def test_what_is_no_params_file_is_refused(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError):
        read_params(tmp_path)


@pytest.mark.parametrize("text", ["ingest:\n  source: a\n  source: b\n", "index: {}\napply: {}\nindex: {}\n"])
def test_a_key_that_occurs_twice_is_refused(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(
        ParamsError, match=r"params.yaml, line 3: not valid YAML: the key '(source|index)' occurs twice"
    ):
        read_params(tmp_path)


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghijklmnopqrstuvw"))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("candidates: 20", "candidates: 020", "020 is not a decimal number"),  # 16 to YAML 1.1
        ("candidates: 20", "candidates: 1:30", "1:30 is not a decimal number"),  # 90
        ("candidates: 20", "candidates: 0x14", "0x14 is not a decimal number"),
        ("candidates: 20", f"candidates: {'9' * 5000}", "not valid YAML"),
        ("default: null", "default: 1:30.5", "1:30.5 is not a decimal number"),
        ("thresholds: {}", "thresholds: !!set {a, b}", "tune.thresholds"),
        ("thresholds: {}", "thresholds: !!binary aGk=", "tune.thresholds"),
        ("thresholds: {}", "thresholds: &x {a: *x}", "an alias stands for what it is in"),
        ("classes:", f"{BOMB}classes:", "aliases stand for too many values"),
        ("kind:", "kind: 2026-13-01 #", "not valid YAML"),
    ],
)
def test_what_yaml_would_read_in_another_way_is_refused(tmp_path, before, after, said):
    text = (ROOT / "params.yaml").read_text()
    assert text.count(before) == 1
    (tmp_path / "params.yaml").write_text(text.replace(before, after))
    with pytest.raises(ParamsError, match=said):
        read_params(tmp_path)


@pytest.mark.parametrize(("written", "value"), [("0.5", 0.5), ("-0.5", -0.5), ("1", 1), ("5.0e-1", 0.5), ("1.", 1)])
def test_decimal_numbers_are_read(tmp_path, written, value):
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("thresholds: {}", f"thresholds: {{a: {written}}}"))
    assert read_params(tmp_path).tune.thresholds == {"a": value}


@pytest.mark.parametrize("key", ["yes", "1", "1.5", "null", "2026-01-01"])
def test_a_key_that_is_not_text_is_refused(tmp_path, key):
    """An LF called yes would be looked for as True."""
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("thresholds: {}", f"thresholds: {{{key}: 0.5}}"))
    with pytest.raises(ParamsError, match=f"the key '{key}' is not text; quote it"):
        read_params(tmp_path)


def test_a_key_may_override_what_an_alias_brings():
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_whole_numbers_are_numbers_and_lists_are_tuples(tmp_path):
    def change(raw):
        raw["tune"]["default"] = 1
        raw["search"]["reference"] = ["train", "valid"]

    params = read_params(write(tmp_path, change))
    assert params.tune.default == 1.0 and params.search.reference == (Split.TRAIN, Split.VALID)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ParamsError, match=r"params\.yaml not found"):
        read_params(tmp_path)


def test_all_mistakes_are_told_at_once(tmp_path):
    def change(raw):
        raw["extend"]["scope"] = "row"
        raw["index"]["kind"] = "tree"

    with pytest.raises(ParamsError) as caught:
        read_params(write(tmp_path, change))
    assert "extend.scope" in str(caught.value) and "index.kind" in str(caught.value)


def test_a_stage_minds_a_mistake_in_its_own_section_alone(tmp_path):
    def spoil(raw):
        raw["tune"].update(candidate=5)
        raw["train"].update(class_balance=[0.2, 0.3, 0.5])
        raw["aply"] = {}

    root = write(tmp_path, spoil)
    for stage in STAGES:
        if stage in ("tune", "train"):
            continue
        params = read_stage_params(root, stage)
        shipped = read_params(ROOT)
        assert (params.classes, getattr(params, stage)) == (shipped.classes, getattr(shipped, stage))
    with pytest.raises(ParamsError, match=r"^params.yaml: unknown key 'tune.candidate'. Did you mean 'candidates'\?$"):
        read_stage_params(root, "tune")
    with pytest.raises(ParamsError, match=r"train.class_balance has 3 values for 10 classes.$"):
        read_stage_params(root, "train")
    with pytest.raises(ParamsError, match="aply"):
        read_params(root)


def test_tune_knows_the_metric_of_its_thresholds(tmp_path):
    root = write(tmp_path, lambda raw: (raw["index"].update(metric="l2"), raw["tune"].update(default=3.5)))
    assert read_stage_params(root, "tune").tune.default == 3.5
    root = write(tmp_path, lambda raw: raw["tune"].update(default=3.5))
    with pytest.raises(ParamsError, match="is no cosine"):
        read_stage_params(root, "tune")
