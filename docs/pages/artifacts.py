"""reference/artifacts.md: every file that a stage or a release writes, with its columns and keys."""

import csv
import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pandera.polars as pa
import polars as pl
import yaml
from pydantic import BaseModel

from docs.pages.keys import describe_type
from docs.pages.markdown import DOCS, NOTE, ROOT, document_fields, join_lines, table
from flows.releases.figures import Figures
from flows.releases.manifest import CONTENTS, Manifest
from tasks.tables import paths, schemas
from tasks.tables.block_layout import BlockLayout
from tasks.tables.index_file import IndexDescription

SHAPES = DOCS / "reference" / "shapes.json"
"""Columns and keys of the files that no schema describes, as a project that ran had them."""

EXAMPLE_CLASSES = ("<class>",)
EXAMPLE_LF = "LF"
COUNT_OF_CLASSES = 127
"""What the schemas are asked for; the reference says k instead."""

_ID = pl.String()

TABLES: Mapping[Path, Callable[[], pa.DataFrameSchema]] = {
    paths.ITEMS: lambda: schemas.ITEMS,
    paths.COLUMN_GOLD: lambda: schemas.gold(COUNT_OF_CLASSES),
    paths.VALID_GOLD: lambda: schemas.gold(COUNT_OF_CLASSES),
    paths.WITHHELD_GOLD: lambda: schemas.withheld_gold(COUNT_OF_CLASSES),
    paths.GOLD_CONFLICTS: lambda: schemas.gold_conflicts(EXAMPLE_CLASSES),
    paths.EMBEDDINGS: lambda: schemas.embeddings(1),
    paths.ENCODER: lambda: schemas.encoder(1),
    paths.KEPT_CENTERS: lambda: schemas.centers(1),
    paths.QUARANTINE: lambda: schemas.QUARANTINE,
    paths.CELLS: lambda: schemas.CELLS,
    paths.CENTERS: lambda: schemas.centers(1),
    paths.VOTES: lambda: schemas.votes(COUNT_OF_CLASSES, [EXAMPLE_LF]),
    paths.LF_FAILURES: lambda: schemas.FAILURES,
    paths.DESCRIPTIONS: lambda: schemas.descriptions(1),
    paths.NEIGHBORS: lambda: schemas.neighbors(
        [schemas.similarity_column(EXAMPLE_LF, 0), schemas.neighbor_column(EXAMPLE_LF, 0)], _ID
    ),
    paths.EXTENDED_VOTES: lambda: schemas.votes(COUNT_OF_CLASSES, [EXAMPLE_LF]),
    paths.PROVENANCE: lambda: schemas.provenance(COUNT_OF_CLASSES, _ID),
    paths.LABEL_MODEL_LABELS: lambda: schemas.labels(EXAMPLE_CLASSES),
    paths.LABEL_MODEL_PREDICTIONS: lambda: schemas.predictions(1, ["method/0"]),
    paths.SHIPPED_LABELS: lambda: schemas.end_labels(EXAMPLE_CLASSES),
    paths.END_MODEL_PREDICTIONS: lambda: schemas.predictions(1, ["method/0"]),
    paths.OWN_PROBABILITIES: lambda: schemas.predictions(1, ["own/0"]),
    paths.END_MODEL: lambda: schemas.MODEL,
}
"""The schema of each table among the artifacts; a test asks for one for every Parquet file of dvc.yaml."""

MEANINGS: Mapping[Path, str] = {
    paths.ITEMS: "All items, ascending by id, with their split and every raw column but gold.",
    paths.COLUMN_GOLD: "Gold as the column of the items has it; the stage `gold` alone reads it.",
    paths.VALID_GOLD: "Gold of the split `valid`: tunes, teaches and judges.",
    paths.WITHHELD_GOLD: "Gold of the other splits, and which of them it judges; `evaluate` alone reads it.",
    paths.GOLD_CONFLICTS: "Items on which people disagree, what each said, and the gold that came of it.",
    paths.GOLD_SUMMARY: "Tables and decisions counted, and how far people agree.",
    paths.EMBEDDINGS: "A folder of shards, `part-00000-of-00007.parquet` and so on, to be read as one table; d is the width.",
    paths.ENCODER: "The encoder that `encoder: tfidf` fitted, or the name of another; without rows where embeddings come from a file.",
    paths.KEPT_CENTERS: "The centers of an approximate index's cells that `ingest.centers` names; without rows where it is null.",
    paths.QUARANTINE: "Rows that failed and are no items, each with why, and the line of text or the row of another file (from 1); without rows unless `ingest.quarantine` lets rows fail.",
    paths.BLOCKS: "A folder: `layout.json` says which columns of the embeddings are of which of `ingest.blocks`, and its weight; `<block>.parquet` is the encoder of a block that has one. No block is listed where embeddings are of one kind.",
    paths.INDEX: "The index, in FAISS's own format. DVC's cache does not have it: `index` writes it again from the embeddings, with the same bytes.",
    paths.INDEX_DESCRIPTION: "What a reader of the index must know.",
    paths.CELLS: "In which cell of the embedding space approximate search finds an item; 0 everywhere in a flat index.",
    paths.CENTERS: "The centers of the cells; without rows in a flat index. A copy can be kept for other nights (`ingest.centers`).",
    paths.VOTES: "The label matrix: one column per LF.",
    paths.LF_SUMMARY: "One row per LF: polarity, coverage, overlaps, conflicts, precision on valid gold with its interval.",
    paths.LF_FAILURES: "Cells on which an LF failed and `on_error` turned that into an abstain.",
    paths.MUTED: "The LFs that `apply.mute` names: their votes are in the table, and count as abstaining after it.",
    paths.DESCRIPTIONS: "What classes mean: vectors, offsets and cuts of the LF that votes by them; without rows where none is described.",
    paths.DESCRIPTIONS_SUMMARY: "Where that LF votes, by what evidence, and whether it helps; `lf` is null where there is none.",
    paths.NEIGHBORS: "Per LF and class in its support: the nearest support item and its similarity; null where the LF votes itself.",
    paths.RECALL: "What share of neighbors approximate search finds, as measured on samples.",
    paths.THRESHOLDS: "The threshold of each LF, and how it was chosen.",
    paths.THRESHOLD_CURVES: "What each candidate threshold would give.",
    paths.EMBEDDING_FITNESS: "Whether near items agree, in a few numbers.",
    paths.EMBEDDING_FITNESS_CURVES: "The same by rank and by similarity.",
    paths.EXTENDED_VOTES: "The label matrix after extension.",
    paths.PROVENANCE: "One row per extended vote: which item lent it and how near it is; by item, then LF.",
    paths.LABEL_MODEL: "What the label model estimated, for people.",
    paths.LABEL_MODEL_LABELS: "What the label model says of the extended votes.",
    paths.LABEL_MODEL_PREDICTIONS: "What each method of the stage says of each class; `evaluate` compares them.",
    paths.END_MODEL_SUMMARY: "What `train` chose and estimated, for people.",
    paths.END_MODEL: "The fitted model, arrays and nothing else; labels new rows.",
    paths.SHIPPED_LABELS: "The labels that are shipped.",
    paths.OWN_PROBABILITIES: "What the end model says of each class before nearest items have a say; `epoxy explain` takes it apart.",
    paths.END_MODEL_PREDICTIONS: "What each method of the stage says of each class; `evaluate` compares them.",
    paths.METRICS: "All metrics, for `dvc metrics`.",
    paths.REPORT: "The report, one page that works without a network.",
    paths.REPORT_SUMMARY: "The report in short; `epoxy show` prints it.",
    paths.LF_REPORT: "The report's table of LFs.",
    paths.PLOTS: "A folder of CSV files that `dvc plots` draws.",
    paths.PLOTS_TEMPLATE: "The page that `dvc plots show` fills, with all code inside, so that it opens offline.",
}  # fmt: skip


def list_artifacts() -> dict[str, list[Path]]:
    """What each stage writes, from dvc.yaml."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    found: dict[str, list[Path]] = {}
    for name, stage in pipeline.items():
        entries = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
        found[name] = [Path(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries]
    return found


def write_columns(schema: pa.DataFrameSchema) -> str:
    """The columns of a table: name, type, null or not, checks."""
    rows = []
    for name, column in schema.columns.items():
        kind = "text or int64" if column.dtype is None else str(column.dtype)
        shown = str(name).replace(EXAMPLE_LF, "<LF>").replace("method/0", "<method>/<class position>")
        shown = re.sub(r"^<LF>/0/", "<LF>/<class position>/", shown)
        checks = "; ".join(describe_check(check) for check in column.checks)
        if shown.endswith("neighbor") or name == "neighbor":
            kind = "as item_id"
        rows.append((f"`{shown}`", describe_dtype(kind), "null or a value" if column.nullable else "", checks))
    extra = "" if schema.strict else "\nFurther columns are the raw ones, as they came.\n"
    return table(("column", "type", "may be", "checked"), rows) + extra


def describe_dtype(kind: str) -> str:
    """A Polars type as a reader knows it."""
    kind = re.sub(r"Array\(Float32, shape=\(1,\)\)", "array of d float32", kind)
    return re.sub(r"^(U?Int\d+|Float\d+|String)$", lambda found: found[0].lower().replace("string", "text"), kind)


def describe_check(check: pa.Check) -> str:
    """A check in words: what pandera says, with k for the number of classes of the example."""
    text = str(check.error or check.name)
    text = re.sub(r"in_range\((\S+), (\S+)\)", r"\1 to \2", text)
    text = re.sub(r"greater_than_or_equal_to\((\S+)\)", r"≥ \1", text)
    text = re.sub(r"less_than_or_equal_to\((\S+)\)", r"≤ \1", text)
    text = re.sub(r"isin\(\[(.*)\]\)", lambda found: "one of " + found[1].replace("'", ""), text)
    return text.replace(f"to {COUNT_OF_CLASSES - 1}", "to k - 1")


def describe_shape(value: object, place: str = "") -> list[str]:
    """The keys of a JSON value with the types of what is there, as `thresholds.<LF>: number`."""
    if isinstance(value, dict):
        return [
            line for name, one in value.items() for line in describe_shape(one, f"{place}.{name}" if place else name)
        ]
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", list: "list", type(None): "null"}
    return [f"{place}: {names[type(value)]}"]


def read_shapes(project: Path) -> dict[str, list[str]]:
    """The columns of each CSV file and the keys of each JSON file that the run in `project` left."""
    found: dict[str, list[str]] = {}
    for artifacts in list_artifacts().values():
        for path in artifacts:
            files = sorted((project / path).rglob("*.csv")) if path == paths.PLOTS else [project / path]
            for file in files:
                name = file.relative_to(project).as_posix()
                if file.suffix == ".csv":
                    with file.open(newline="") as lines:
                        columns = next(csv.reader(lines))
                    # A split without gold has no columns.
                    shown = (re.sub(r"^(train|valid|test)_", "<split>_", column) for column in columns)
                    found[name] = list(dict.fromkeys(shown))
                elif file.suffix == ".json":
                    value = json.loads(file.read_text())
                    found[name] = sorted(value)
    return found


def write_artifacts() -> str:
    """reference/artifacts.md."""
    shapes: dict[str, list[str]] = json.loads(SHAPES.read_text()) if SHAPES.is_file() else {}
    parts = [
        "# Artifacts\n\n" + NOTE,
        "What each stage leaves below `data/`. " + join_lines((schemas.__doc__ or "").split("\n\n", 1)[1])
        + " Tables are checked against these schemas when they are written and when they are read. Here, k is the number "
        "of classes.\n\n",
    ]  # fmt: skip
    for stage, artifacts in list_artifacts().items():
        parts.append(f"## {stage}\n\n")
        for path in artifacts:
            if path not in MEANINGS:
                raise ValueError(f"{path} is not described; say in MEANINGS of docs/pages/artifacts.py what it holds")
            parts.append(f"### {path}\n\n{MEANINGS[path]}\n\n")
            if path in TABLES:
                parts.append(write_columns(TABLES[path]()) + "\n")
            elif path == paths.INDEX_DESCRIPTION:
                parts.append(write_model(IndexDescription) + "\n")
            elif path == paths.BLOCKS:
                parts.append("Of each block, `layout.json` has:\n\n" + write_model(BlockLayout) + "\n")
            else:
                names = {
                    name: keys for name, keys in shapes.items() if Path(name) == path or path in Path(name).parents
                }
                for name, keys in names.items():
                    what = "Columns" if name.endswith(".csv") else "Keys"
                    of = f" of `{Path(name).name}`" if Path(name) != path else ""
                    parts.append(f"{what}{of}: " + ", ".join(f"`{key}`" for key in keys) + ".\n\n")
    parts.append("## A release\n\nThe files of a folder `releases/<id>/`:\n\n")
    rows = [(f"`{name}`", f"as `{path}`") for name, path in CONTENTS.items()]
    rows += [
        ("`rows.parquet`", "which content each label is of; see below"),
        ("`figures.json`", "what the gates compare the next release with"),
        ("`manifest.json`", "what the release is made of and from; see below"),
    ]
    parts.append(table(("file", "what it is"), rows))
    parts.append("\n### rows.parquet\n\n" + write_columns(schemas.ROWS))
    parts.append(f"\n### manifest.json\n\n{join_lines(inspect.getdoc(Manifest))}\n\n" + write_model(Manifest))
    parts.append(f"\n### figures.json\n\n{join_lines(inspect.getdoc(Figures))}\n\n" + write_model(Figures))
    return "".join(parts).rstrip() + "\n"


def write_model(model: type[BaseModel]) -> str:
    """The keys of a JSON file that a pydantic model describes."""
    texts = document_fields(model)
    rows = [
        (f"`{name}`", describe_json_type(field.annotation), texts.get(name, ""))
        for name, field in model.model_fields.items()
    ]
    return table(("key", "type", "meaning"), rows)


def describe_json_type(kind: object) -> str:
    """A type of a JSON file; a nested model is an object."""
    try:
        return describe_type(kind).replace("section", "object")
    except KeyError:
        return "object"
