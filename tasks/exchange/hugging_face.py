"""Data sets as the library `datasets` saves them on disk (`save_to_disk`, `load_from_disk`), versions 2 to 4.

A folder has `state.json`, `dataset_info.json` with the features, and Arrow IPC streams; several splits are folders side by
side, named in `dataset_dict.json`. That is simple enough to be read and written with pyarrow alone.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as arrow
from pyarrow import ipc

from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.exchange.contents import Brought, Field, Labeled, read_json_file, refuse, require_object, to_json
from tasks.exchange.data_card import write_card
from tasks.params import Split
from tasks.tables.files import explain_read_errors, write_json, write_text

PROBABILITIES = "probabilities"
"""The feature with the probabilities of all classes."""

_NAMES = {"train": "train", "valid": "validation", "test": "test"}
"""What the splits are called there."""

_SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}
"""What they are called here."""

_BATCH = 1000
"""Rows of a batch, as `datasets` writes them."""

_REMEDY = "Expected a folder that save_to_disk of the library datasets wrote."

_PLAIN = {
    pl.String: "string", pl.Boolean: "bool", pl.Float32: "float32", pl.Float64: "float64", pl.Date: "date32",
    pl.Int8: "int8", pl.Int16: "int16", pl.Int32: "int32", pl.Int64: "int64", pl.Binary: "binary",
    pl.UInt8: "uint8", pl.UInt16: "uint16", pl.UInt32: "uint32", pl.UInt64: "uint64",
}  # fmt: skip


def write_data_set(folder: Path, labeled: Labeled) -> None:
    """Write a folder per split, with gold and label as classes by name, soft labels as a list, and a data card."""
    left_out = {"split", *labeled.probabilities}
    table = labeled.table.select(
        *(name for name in labeled.table.columns if name not in left_out),
        pl.concat_list(labeled.probabilities).alias(PROBABILITIES),
    )
    classes = {"names": list(labeled.classes), "_type": "ClassLabel"}
    features: dict[str, Any] = {}
    for name, kind in table.schema.items():
        feature = classes if name in ("gold", "label") else _describe(kind)
        features[name] = {"dtype": "string", "_type": "Value"} if feature is None else feature
    position = {name: number for number, name in enumerate(labeled.classes)}
    table = table.with_columns(
        pl.col("gold", "label").replace_strict(position, default=None, return_dtype=pl.Int64),
        *(_to_text(table[name]) for name, kind in table.schema.items() if _describe(kind) is None),
    )
    splits = [split for split in Split if (labeled.table["split"] == str(split)).any()]
    write_json(folder / "dataset_dict.json", {"splits": [_NAMES[split] for split in splits]})
    write_text(folder / "README.md", write_card(labeled))
    for split in splits:
        part = table.filter(labeled.table["split"] == str(split))
        _write_split(folder / _NAMES[split], part, features, f"{labeled.name}: {labeled.source}")


def _describe(kind: pl.DataType) -> dict[str, Any] | None:
    """The feature of a column, None where it is to be written as text."""
    if type(kind) in _PLAIN:
        return {"dtype": _PLAIN[type(kind)], "_type": "Value"}
    if isinstance(kind, pl.Datetime):
        zone = f", tz={kind.time_zone}" if kind.time_zone else ""
        return {"dtype": f"timestamp[{kind.time_unit}{zone}]", "_type": "Value"}
    if isinstance(kind, pl.List | pl.Array):
        inner = _describe(kind.inner)  # type: ignore[arg-type]
        return None if inner is None else {"feature": inner, "_type": "Sequence"}
    return None


def _to_text(column: pl.Series) -> pl.Series:
    """The same values as text, JSON where they are structures."""
    texts = [value if value is None or isinstance(value, str) else to_json(value) for value in column.to_list()]
    return pl.Series(column.name, texts, dtype=pl.String)


def _write_split(folder: Path, table: pl.DataFrame, features: dict[str, Any], description: str) -> None:
    """Write a data set of a single split."""
    folder.mkdir(parents=True)
    name = "data-00000-of-00001.arrow"
    schema = arrow.schema([(column, _to_arrow(feature)) for column, feature in features.items()])
    stored = table.with_columns(
        pl.col(column).arr.to_list() for column, kind in table.schema.items() if isinstance(kind, pl.Array)
    )
    with ipc.new_stream(str(folder / name), schema) as stream:
        stream.write_table(stored.to_arrow().cast(schema), max_chunksize=_BATCH)
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16]
    described = {"citation": "", "description": description, "features": features, "homepage": "", "license": ""}
    write_json(folder / "dataset_info.json", described)
    state: dict[str, Any] = {
        "_data_files": [{"filename": name}],
        "_fingerprint": digest,
        "_format_columns": None,
        "_format_kwargs": {},
    }
    state |= {"_format_type": None, "_output_all_columns": False, "_split": folder.name}
    write_json(folder / "state.json", state)


def _to_arrow(feature: dict[str, Any]) -> arrow.DataType:
    """The type of a feature in Arrow."""
    if feature["_type"] == "ClassLabel":
        return arrow.int64()
    if feature["_type"] == "Sequence":
        return arrow.list_(_to_arrow(feature["feature"]))
    dtype: str = feature["dtype"]
    if dtype.startswith("timestamp"):
        unit, _, zone = dtype.removeprefix("timestamp[").removesuffix("]").partition(", tz=")
        return arrow.timestamp(unit, zone or None)
    return arrow.type_for_alias(dtype)


def read_data_set(folder: Path, *, label: str | None = None) -> Brought:
    """Items of all splits; `label` is the feature that is gold, by default `gold`, else `label`, where that is of classes.

    Ids are those of a column item_id, id or idx whose values are unique, else the split and the number of the row.

    Raises
    ------
    DataError
        A file is missing or damaged, or there is no such feature.
    """
    names = [None]
    if (folder / "dataset_dict.json").is_file():
        path = folder / "dataset_dict.json"
        names = require_object(path, "the file", "splits", read_json_file(path, _REMEDY), _REMEDY).get("splits", [])
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise refuse(path, "the file", "splits", got=names, expected="names of folders", remedy=_REMEDY)
    tables, remarks = [], []
    features: dict[str, Any] = {}
    for name in names:
        found, features, stored = read_split(folder if name is None else folder / name)
        split = _SPLITS.get(name or stored or "train")
        if split is None:
            split = "train"
            remarks.append(f"split {name or stored!r} is none of train, validation and test: its items are in train")
        tables.append(
            found.with_columns(pl.lit(split).alias("split (here)"), pl.lit(name or split).alias("split (there)"))
        )
    try:
        table = pl.concat(tables)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{folder}: its splits have other columns or types: {error}. Save them with the same features."
        ) from None
    gold = label or next((name for name in ("gold", "label") if _is_class(features.get(name))), None)
    if gold is not None and not _is_class(features.get(gold)):
        some = ", ".join(name for name, feature in features.items() if _is_class(feature)) or "none"
        raise refuse(
            folder / "dataset_info.json", "features", gold, got=features.get(gold), expected="a ClassLabel",
            remedy=f"There are: {some}; name another with --label.",
        )  # fmt: skip
    return _arrange(table, features, gold, tuple(remarks))


def _arrange(table: pl.DataFrame, features: dict[str, Any], gold: str | None, remarks: tuple[str, ...]) -> Brought:
    """The items in `table`, and what became of the features."""
    fields: list[Field] = []
    columns = [_make_ids(table, fields), table["split (here)"].alias("split")]
    classes = tuple(features[gold]["names"]) if gold is not None else None
    for name, feature in features.items():
        if name not in table.columns:
            fields.append(Field(name=name, became=f"left out: {feature.get('_type', 'of no type')} is not read"))
            continue
        column = table[name]
        if _is_class(feature):
            names = feature["names"]
            column = column.replace_strict(range(len(names)), names, default=None, return_dtype=pl.String)
        if name == gold:
            columns.append(column.alias("gold"))
            fields.append(Field(name=name, became="column gold, by names of classes"))
        elif not any(field.name == name for field in fields):
            called = f"{name} (there)" if name in (ITEM_ID, "split", "gold") else name
            columns.append(column.alias(called))
            fields.append(
                Field(name=name, became=f"column {called}" + (", by names of classes" if _is_class(feature) else ""))
            )
    return Brought(items=pl.DataFrame(columns), classes=classes, fields=tuple(fields), remarks=remarks)


def _make_ids(table: pl.DataFrame, fields: list[Field]) -> pl.Series:
    """The ids of the rows; notes in `fields` which feature they are."""
    for name in (ITEM_ID, "id", "idx"):
        if name not in table.columns or not (table[name].dtype == pl.String or table[name].dtype.is_integer()):
            continue
        if not table[name].has_nulls() and table[name].is_unique().all():
            fields.append(Field(name=name, became=ITEM_ID))
            return table[name].alias(ITEM_ID)
    fields.append(Field(name="(rows)", became=f"{ITEM_ID}: the split and the number of the row"))
    numbers = pl.int_range(pl.len()).over("split (there)").cast(pl.String)
    return table.select((pl.col("split (there)") + "-" + numbers).alias(ITEM_ID))[ITEM_ID]


def _is_class(feature: object) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)


def _is_readable(feature: object) -> bool:
    """Whether a feature is of numbers, text, times, or lists of them."""
    if isinstance(feature, list):
        return len(feature) == 1 and _is_readable(feature[0])
    if not isinstance(feature, dict):
        return False
    if feature.get("_type") in ("Sequence", "List", "LargeList"):
        return _is_readable(feature.get("feature"))
    return feature.get("_type") in ("Value", "ClassLabel")


def read_split(folder: Path) -> tuple[pl.DataFrame, dict[str, Any], str | None]:
    """The rows of a saved data set, its features, and the name of its split where it says so."""
    path = folder / "state.json"
    state = require_object(path, "the file", "state", read_json_file(path, _REMEDY), _REMEDY)
    files = state.get("_data_files")
    if not isinstance(files, list) or not all(isinstance(file, dict) and "filename" in file for file in files):
        raise refuse(path, "the file", "_data_files", got=files, expected="names of files", remedy=_REMEDY)
    path = folder / "dataset_info.json"
    info = require_object(path, "the file", "info", read_json_file(path, _REMEDY), _REMEDY)
    features = require_object(path, "the file", "features", info.get("features"), _REMEDY)
    kept = [name for name, feature in features.items() if _is_readable(feature)]
    return _read_streams(folder, [str(file["filename"]) for file in files], kept), features, state.get("_split")


def _read_streams(folder: Path, names: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    """The `columns` of Arrow IPC streams, one after another."""
    tables = []
    for name in names:
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise DataError(f"{path} is missing, though state.json names it. {_REMEDY}")
        with explain_read_errors(path), path.open("rb") as file, ipc.open_stream(file) as stream:
            stored = stream.read_all()
        if absent := [column for column in columns if column not in stored.column_names]:
            raise refuse(
                path,
                "the schema",
                absent[0],
                got=stored.column_names,
                expected="the features of dataset_info.json",
                remedy=_REMEDY,
            )
        tables.append(stored.select(list(columns)))
    if not tables:
        raise DataError(f"{folder}: no files of data. {_REMEDY}")
    found = pl.from_arrow(arrow.concat_tables(tables))
    assert isinstance(found, pl.DataFrame)
    return found
