"""What ingest says of raw data: links, closed folders, types to add, empty files, and panics past all readers."""

import codecs
import json
import os
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as arrow
import pytest
import yaml
from raw_data import (
    IDS,
    SPARK_PARTS,
    TRAIN,
    complain,
    read_items,
    run,
    write_csv,
    write_parquet,
)

import tasks.__main__ as command
from tasks.errors import DataError
from tasks.params import ColumnType, IngestParams
from tasks.readers import files
from tasks.readers.items import describe_types
from tasks.tables.paths import ITEMS


@pytest.mark.parametrize("pattern", ["items", "items/**/*.parquet", "**/*.parquet"])
@pytest.mark.parametrize("target", ["a folder", "nothing"])
def test_a_link_that_is_not_followed_is_said(raw: Path, pattern: str, target: str) -> None:
    write_parquet({"item_id": IDS[:1]}, "items/0.parquet")(raw)
    write_parquet({"item_id": IDS[1:]}, "more/1.parquet")(raw)
    (raw / "items" / "link").symlink_to(raw / "more" if target == "a folder" else raw / "nowhere")
    assert f"items/link is a link to {target}, which is not followed. Put a copy" in complain(raw, items=pattern)


def test_a_folder_that_cannot_be_read_is_said(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet({"item_id": IDS[:1]}, "items/0.parquet")(raw)
    write_parquet({"item_id": IDS[1:]}, "items/closed/1.parquet")(raw)
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(files.os, "scandir", refuse)  # root, as which tests may run, is permitted everything
    assert "items/closed cannot be read: Permission denied. What it holds would be missing" in complain(
        raw, items="items"
    )


def test_the_types_to_add_are_said_until_params_have_them(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("item_id,zip,n,x,is new,text\na,00501,1,1.5,true,one\nb,10001,2,-2,false,two\nc,K1A,3,,,3\n")(raw)
    run(raw, items="items.csv", types={"x": "number"})
    said = capsys.readouterr().out
    assert "n, is new in raw/items.csv are read as text." in said
    assert (
        "below ingest in params.yaml 'types: {x: number, n: integer, is new: boolean}'; type text ends this remark"
        in said
    )
    types = {"x": "number", "n": "integer", "is new": "text"}
    run(raw, items="items.csv", types=types)
    assert "types" not in capsys.readouterr().out
    assert pl.read_parquet(raw.parent / ITEMS).schema["is new"] == pl.String


def test_leading_zeros_that_a_type_drops_are_said(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("item_id,zip,n,m\na,00501,1,-07.5\nb,10001,0,2\nc,00010,3,\n")(raw)
    run(raw, items="items.csv", types={"zip": "integer", "n": "integer", "m": "number"})
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: 2 values of column 'zip' in raw/items.csv lose leading zeros to type integer, such as '00501'; if they are "
        "codes, write type text (ingest.types in params.yaml).",
        "warning: 1 values of column 'm' in raw/items.csv lose leading zeros to type number, such as '-07.5'; if they are "
        "codes, write type text (ingest.types in params.yaml).",
    ]
    assert pl.read_parquet(raw.parent / ITEMS)["zip"].to_list() == [501, 10001, 10]


def test_types_are_proposed_to_paste(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("item_id,zip,n,is new,x,gold,text\na,00501,1,true,1.5,0,one\nb,10001,2,false,2,1,two\n")(raw)
    params = IngestParams(source="raw", items="items.csv", types={"x": ColumnType.NUMBER})
    text = describe_types(raw, params)
    assert yaml.safe_load(text) == {"ingest": {"types": {"x": "number", "n": "integer", "is new": "boolean"}}}
    found = {name: ColumnType(kind) for name, kind in yaml.safe_load(text)["ingest"]["types"].items()}
    later = params.model_copy(update={"types": found})
    assert describe_types(raw, later).startswith("no column of raw/items.csv needs a type")


def test_empty_files_are_said(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SPARK_PARTS(raw)
    run(raw, items="parts")
    assert "1 files in raw/parts are empty" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ({"gold": "integer"}, "types: 'gold' has a type of its own"),
        ({"split": "text"}, "types: 'split' has a type of its own"),
        ({"item_id": "number"}, "types: 'item_id' is text or integer"),
        ({"zip": "date"}, "Input should be 'text', 'integer', 'number' or 'boolean'"),
    ],
)
def test_types_that_cannot_be(types: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IngestParams.model_validate({"source": "raw", "types": types})


def test_json_may_begin_with_what_its_writer_put_there(raw: Path) -> None:
    lines = "".join(json.dumps({"item_id": name, "meta": {"k": [1, None]}}) + "\n" for name in IDS)
    (raw / "items.jsonl").write_bytes(codecs.BOM_UTF8 + lines.encode())
    run(raw, items="items.jsonl")
    assert read_items(raw) == [(name, TRAIN, {"k": [1, None]}) for name in IDS]


def test_a_panic_past_all_readers_is_an_error_of_data(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def panic(*_: object) -> None:
        pl.from_arrow(arrow.array([Decimal(1)], arrow.decimal256(50, 0)))

    monkeypatch.setattr(command, "run_identified_stage", panic)
    assert command.main(["ingest"]) == DataError.exit_code
    assert "error: ingest: its data cannot be computed with: " in capsys.readouterr().err
