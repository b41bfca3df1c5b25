"""params.yaml: every mistake is named with its place and its cure."""

from pathlib import Path

import pytest
import yaml

from tasks.errors import ParamsError
from tasks.params import read_params

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
        (lambda raw: raw.update(classes=[0, 1]), "quote numbers"),
        (lambda raw: raw["apply"].update(source="../lfs/x.py"), "below lfs/"),
        (lambda raw: raw["apply"].update(source="/lfs/x.py"), "below lfs/"),
        (lambda raw: raw["apply"].update(source="lfs/x.pkl"), ".parquet"),
        (lambda raw: raw["fit"].update(class_balance=[0.5, 0.6]), "sums to 1.1"),
        (lambda raw: raw["fit"].update(class_balance=[0.5, 0.5]), "2 values for 10 classes"),
        (lambda raw: raw["ingest"].update(embeddings=None), "either"),
        (lambda raw: raw["tune"].update(default=float("nan")), "tune.default"),
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
