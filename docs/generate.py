"""`python -m docs.generate`: write the reference, the pictures and the tables that are computed from code.

tests/contract/test_docs.py compares them with what this module gives, so that no page says what the code no longer does.
Nothing here runs a stage: the shapes of CSV and JSON files, which no schema describes, come from a project that has run,
by `python -m docs.generate --shapes FOLDER`, and a test of the pipeline compares them with a run of its own.
"""

import argparse
import ast
import csv
import enum
import importlib
import inspect
import itertools
import json
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import annotated_types
import click
import pandera.polars as pa
import polars as pl
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from benchmarks.memory import FORMULAS
from docs.pictures import draw_pipeline, draw_quality, draw_rooms, map_rooms, measure_depth
from docs.python_page import write_python
from flows.cli.main import main as epoxy
from flows.releases.figures import Figures
from flows.releases.gates import check_age, check_gates, check_new_rows, check_quarantine
from flows.releases.manifest import CONTENTS, Manifest
from flows.releases.policy import GateLimits, Policy
from tasks.__main__ import STAGES
from tasks.errors import EpoxyError
from tasks.params import Params
from tasks.tables import paths, schemas
from tasks.tables.block_layout import BlockLayout
from tasks.tables.index_file import IndexDescription

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SHAPES = DOCS / "reference" / "shapes.json"

NOTE = "<!-- Written by `python -m docs.generate` from the code; edit that, not this page. -->\n\n"

EXAMPLE_CLASSES = ("<class>",)
EXAMPLE_LF = "LF"
COUNT_OF_CLASSES = 127
"""What the schemas are asked for; the reference says k instead."""


# --- text ---------------------------------------------------------------------------------------------------------


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    return re.split(r"(?<=\.)\s", " ".join((text or "").split()))[0]


def join_lines(text: str | None) -> str:
    """A docstring as one paragraph."""
    return " ".join((text or "").split())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def document_fields(model: type) -> dict[str, str]:
    """What the text below each field of a class says, by field."""
    source = textwrap.dedent(inspect.getsource(model))
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    found: dict[str, str] = {}
    for field, below in itertools.pairwise(body):
        text = below.value if isinstance(below, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Constant):
            found[field.target.id] = join_lines(str(text.value))
    return found


def document_constants(path: Path) -> dict[str, tuple[object, str]]:
    """The constants of a module, by name: value and the text below."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    found: dict[str, tuple[object, str]] = {}
    for node, text in itertools.pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if (
            isinstance(target, ast.Name)
            and isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[target.id] = (node.value.value, join_lines(str(text.value.value)))
    return found


# --- params.yaml and release.yaml ---------------------------------------------------------------------------------


def describe_type(kind: object) -> str:
    """A type as the reader of a YAML file would say it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is type(None):
        return "null"
    if origin is typing.Annotated:
        return describe_type(arguments[0]) + describe_bounds(arguments[1:])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(one) for one in arguments)
    if origin is tuple:
        inner = [describe_type(one) for one in arguments if one is not Ellipsis]
        return (
            f"list of {make_plural(enclose(inner[0]))}" if Ellipsis in arguments else f"pair of {make_plural(inner[0])}"
        )
    if origin is dict:
        return f"mapping from {describe_type(arguments[0])} to {enclose(describe_type(arguments[1]))}"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "section"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[typing.cast(type, kind)]


def enclose(kind: str) -> str:
    """A type within another: in parentheses if it has parts."""
    return f"({kind})" if "," in kind or " or " in kind else kind


def make_plural(kind: str) -> str:
    """`numbers > 0` from `number > 0`."""
    return re.sub(r"^(text|number|whole number|pair)\b", r"\1s", kind)


def describe_field(field: FieldInfo) -> str:
    """The type of a key with the limits of its value."""
    kind, bounds = describe_type(field.annotation), describe_bounds(field.metadata)
    bounds = f",{bounds}" if kind.startswith("list") and bounds else bounds
    return kind.removesuffix(" or null") + bounds + " or null" if kind.endswith(" or null") else kind + bounds


def describe_bounds(metadata: Iterable[object]) -> str:
    """Limits of a number, as ` > 0 and < 1`."""
    found: list[str] = []
    for bound in (one for part in metadata for one in (part.metadata if isinstance(part, FieldInfo) else [part])):
        for kind, sign in ((annotated_types.Gt, ">"), (annotated_types.Ge, "≥"), (annotated_types.Lt, "<"),
                           (annotated_types.Le, "≤")):  # fmt: skip
            if isinstance(bound, kind):
                found.append(f"{sign} {getattr(bound, kind.__name__.lower()):,}")
        if isinstance(bound, annotated_types.MinLen):
            found.append(f"at least {bound.min_length}")
        if isinstance(bound, annotated_types.MaxLen):
            found.append(f"at most {bound.max_length}")
    return f" {' and '.join(found)}" if found else ""


def describe_default(field: FieldInfo) -> str:
    """A default as YAML has it; `required` where there is none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple):
        value = [str(one) for one in value]
    if isinstance(value, enum.Enum):
        value = value.value
    return f"`{yaml.safe_dump(value, default_flow_style=True).removesuffix('...' + chr(10)).strip()}`"


def find_section(kind: object) -> type[BaseModel] | None:
    """The model among the alternatives of a type."""
    candidates = [kind, *typing.get_args(kind)]
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)


def find_enum(kind: object) -> type[enum.Enum] | None:
    """The enum among the alternatives of a type, or within a list."""
    candidates = [kind, *typing.get_args(kind)]
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, enum.Enum)), None)


def list_keys(model: type[BaseModel], place: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """Every key below a section, with its place, field and meaning."""
    texts = document_fields(model)
    for name, field in model.model_fields.items():
        section, choices = find_section(field.annotation), find_enum(field.annotation)
        meaning = texts.get(name) or join_lines(inspect.getdoc(section or choices) if section or choices else "")
        if not meaning:
            raise ValueError(f"{model.__name__}.{name} has no text below it; say there what the key means")
        yield f"{place}{name}", field, meaning
        if section is not None:
            of_each = "<name>." if typing.get_origin(field.annotation) is dict else ""
            yield from list_keys(section, f"{place}{name}.{of_each}")


def write_key_rows(keys: Iterable[tuple[str, FieldInfo, str]]) -> str:
    """The table of some keys."""
    return table(
        ("key", "type", "default", "meaning"),
        (
            (f"`{place}`", describe_field(field), describe_default(field), meaning)
            for place, field, meaning in keys
        ),
    )  # fmt: skip


def write_params() -> str:
    """reference/params.md."""
    parts = [
        "# params.yaml\n\n" + NOTE,
        "Every key of `params.yaml`. An unknown key is an error that names the nearest known one; nothing is read that is "
        "not listed here. Each stage depends on `classes` (where it needs them) and on its own section, nothing else.\n\n",
    ]
    texts = document_fields(Params)
    for name, field in Params.model_fields.items():
        section = find_section(field.annotation)
        if section is None:
            parts.append(f"## {name}\n\n" + write_key_rows([(name, field, texts[name])]) + "\n")
            continue
        parts.append(f"## {name}\n\n{join_lines(inspect.getdoc(section))}\n\n")
        parts.append(write_key_rows(list_keys(section, f"{name}.")) + "\n")
    parts.append("## The file of the demo\n\n```yaml\n" + (ROOT / "params.yaml").read_text() + "```\n")
    return "".join(parts)


def write_release_yaml() -> str:
    """reference/release-yaml.md."""
    keys = [key for key in list_keys(Policy) if not key[0].startswith("gates.")]
    return (
        "# release.yaml\n\n"
        + NOTE
        + "Every key of `release.yaml`, which says what may be released and who carries a release where. Limits of gates "
        + "are in [Gates](gates.md). Without the file the defaults hold.\n\n"
        + write_key_rows(keys)
        + "\n"
        + "".join(f"- {line}\n" for line in describe_choices("carry", "git"))
    )


def describe_choices(*keys: str) -> Iterator[str]:
    """What each choice of an enum in release.yaml means, from the comment beside it."""
    for key in keys:
        choices = typing.cast(type[enum.Enum], Policy.model_fields[key].annotation)
        source = inspect.getsource(choices)
        for member in choices:
            found = re.search(rf"^\s+{member.name} = \S+\s+# (.*)$", source, flags=re.M)
            yield f"`{key}: {member.value}`: {found[1] if found else ''}."


# --- gates --------------------------------------------------------------------------------------------------------

_NOTHING = Figures(
    items=0, coverage=0.0, coverage_original=0.0, labels={}, valid=None, lfs={}, embeddings=None, similarity=None, columns={}
)  # fmt: skip


def find_gates() -> dict[str, str]:
    """The name of each gate by the key of release.yaml that limits it, found by giving each key a limit of its own."""
    fields = [
        name for name, field in GateLimits.model_fields.items() if type(None) in typing.get_args(field.annotation)
    ]
    marked = {name: 0.5 + number / 1000 for number, name in enumerate(fields)}
    limits = GateLimits.model_validate({**marked, "time_column": "time"})
    new_rows = typing.cast("typing.Any", types.SimpleNamespace(embeddings=None, similarity=None, rows=10**9))
    age = check_age(limits, None, datetime.now(UTC))
    results = (
        *check_gates(limits, _NOTHING, None),
        *check_new_rows(limits, new_rows, _NOTHING),
        check_quarantine(limits, 0, 0),
        age,
    )
    by_limit = {limit: name for name, limit in marked.items()}
    found = {by_limit[result.limit]: result.gate for result in results if result.limit in by_limit}
    columns = next(result.gate for result in results if result.gate not in found.values())
    return {**found, "columns": columns}


def write_gates() -> str:
    """reference/gates.md."""
    gates = find_gates()
    known = {place: (field, meaning) for place, field, meaning in list_keys(GateLimits)}
    limits = [
        (gates[name], f"`gates.{name}`", describe_default(field), meaning)
        for name, (field, meaning) in known.items()
        if name in gates
    ]
    others = [(f"gates.{name}", *rest) for name, rest in known.items() if name not in gates]
    return (
        "# Gates\n\n"
        + NOTE
        + f"{join_lines(inspect.getdoc(check_gates))}\n\n"
        + "Each gate compares one figure of the candidate with a limit in `release.yaml`. Shares are in [0, 1]; `null` "
        + "switches a gate off, and its figure is shown all the same. The verdict is `passed`, `FAILED`, `off` or `nothing "
        + "to compare`. How to set them is in [Tune the gates](../how-to/gates.md).\n\n"
        + table(("gate", "key of `release.yaml`", "default limit", "meaning"), limits)
        + "\nBesides, labels that somebody rolled back from are refused as `rolled back before` unless they are accepted.\n"
        + "\n## What the gates go by\n\n"
        + write_key_rows((place, field, meaning) for place, field, meaning in others)
    )


# --- commands -----------------------------------------------------------------------------------------------------


def list_commands(group: click.Group, name: str = "epoxy") -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, a group before its own commands."""
    for word, command in group.commands.items():
        yield f"{name} {word}", command
        if isinstance(command, click.Group):
            yield from list_commands(command, f"{name} {word}")


def read_help(name: str, command: click.Command) -> str:
    """What `--help` prints."""
    context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100,
                            help_option_names=["-h", "--help"])  # fmt: skip
    return command.get_help(context)


def read_make_targets() -> dict[str, str]:
    """What each target of the Makefile does."""
    found = re.findall(r"^([a-z]+):[^#\n]*##\s*(.+)$", (ROOT / "Makefile").read_text(), flags=re.M)
    return dict(found)


def list_benchmarks() -> dict[str, str]:
    """What each benchmark measures, from the first sentence of its module."""
    shared = {"__init__", "__main__", "memory", "spaces"}
    files = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.stem not in shared]
    return {path.stem: first_sentence(ast.get_docstring(ast.parse(path.read_text()))) for path in files}


def write_commands() -> str:
    """reference/commands.md."""
    commands = [("epoxy", epoxy), *list_commands(epoxy)]
    parts = ["# Commands\n\n" + NOTE]
    rows = [(f"[`{name}`](#{name.replace(' ', '-')})", first_sentence(command.help)) for name, command in commands[1:]]
    parts += [table(("command", "what it does"), rows), "\n"]
    for name, command in commands:
        parts.append(f"## {name}\n\n```text\n{read_help(name, command)}\n```\n\n")
    parts.append("## make\n\n")
    parts.append(
        table(("target", "what it does"), ((f"`make {name}`", text) for name, text in read_make_targets().items()))
    )
    parts.append("\n## python -m tasks\n\n`python -m tasks <stage>` runs one stage in the current folder; it is the command "
                 "that `dvc.yaml` gives to DVC. Stages: " + ", ".join(f"`{stage}`" for stage in STAGES) + "; `demo` writes "
                 "the demo's raw data.\n")  # fmt: skip
    parts.append("\n## python -m benchmarks\n\n")
    parts.append(table(("benchmark", "what it measures"),
                       ((f"`python -m benchmarks {name}`", text) for name, text in list_benchmarks().items())))  # fmt: skip
    return "".join(parts)


# --- artifacts ----------------------------------------------------------------------------------------------------

_ID = pl.String()

TABLES: Mapping[Path, Callable[[], pa.DataFrameSchema]] = {
    paths.ITEMS: lambda: schemas.ITEMS,
    paths.COLUMN_GOLD: lambda: schemas.gold(COUNT_OF_CLASSES),
    paths.VALID_GOLD: lambda: schemas.gold(COUNT_OF_CLASSES),
    paths.WITHHELD_GOLD: lambda: schemas.withheld_gold(COUNT_OF_CLASSES),
    paths.GOLD_CONFLICTS: lambda: schemas.gold_conflicts(EXAMPLE_CLASSES),
    paths.EMBEDDINGS: lambda: schemas.embeddings(1),
    paths.ENCODER: lambda: schemas.encoder(1),
    paths.QUARANTINE: lambda: schemas.QUARANTINE,
    paths.CELLS: lambda: schemas.CELLS,
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
    paths.QUARANTINE: "Rows that failed and are no items, each with why, and the line of text or the row of another file (from 1); without rows unless `ingest.quarantine` lets rows fail.",
    paths.BLOCKS: "A folder: `layout.json` says which columns of the embeddings are of which of `ingest.blocks`, and its weight; `<block>.parquet` is the encoder of a block that has one. No block is listed where embeddings are of one kind.",
    paths.INDEX: "The index, in FAISS's own format.",
    paths.INDEX_DESCRIPTION: "What a reader of the index must know.",
    paths.CELLS: "In which cell of the embedding space approximate search finds an item; 0 everywhere in a flat index.",
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
                raise ValueError(f"{path} is not described; say in MEANINGS of docs/generate.py what it holds")
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


# --- stages, exit codes, environment -------------------------------------------------------------------------------


def write_stages() -> str:
    """reference/stages.md."""
    return (
        "# Stages\n\n"
        + NOTE
        + "![The stages and which of them read what another wrote](../images/pipeline.svg)\n\n"
        + "`dvc.yaml` is the only definition of the pipeline. Each stage is `python -m tasks <stage>`, one section of "
        + "[params.yaml](params.md), one folder below `data/` ([artifacts](artifacts.md)), one Prefect task.\n\n"
        + stage_table()
        + "\n## Memory\n\n"
        + "What a stage must hold at most, for n items, d dimensions, m LFs and k classes:\n\n"
        + memory_table()
        + "\nG = 16,384 rows are a row group; S = min(n, 20,000) rows are seen by Liger's k-means, R = min(n, 100,000) by the "
        + "end model; C = 64 vectors per cell find the cells of an approximate index. To this come the texts of the items, "
        + "in `ingest` and `apply`. `python -m benchmarks pipeline` measures the stages against these formulas.\n"
    )


def stage_table() -> str:
    """The table of stages, from dvc.yaml and the first sentence of each stage's module."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    rows = []
    for name, artifacts in list_artifacts().items():
        reads = [dep.removeprefix("data/") for dep in pipeline[name]["deps"] if not dep.startswith("tasks/")]
        writes = [path.relative_to(f"data/{name}").as_posix() for path in artifacts]
        doc = ast.get_docstring(ast.parse((ROOT / "tasks" / f"{name}.py").read_text()))
        sentence = re.split(r"(?<=\.)\s", join_lines(doc))[0]
        what = re.sub(rf"^(The |Stage )?{name}( stage)?: ", "", sentence)
        what = what[0].upper() + what[1:]
        rows.append(
            (f"`{name}`", "<br>".join(f"`{one}`" for one in reads), "<br>".join(f"`{one}`" for one in writes), what)
        )
    return table(("stage", "reads", "writes", "what it does"), rows)


MAPPED = {"ingest": "4 n d", "index": "4 n d", "search": "17 n d", "fit": "4 n d", "train": "8 n d"}
"""Bytes of mapped files, which the system drops from memory when it is needed elsewhere."""


def memory_table() -> str:
    """The table of what stages hold in memory, from the formulas that the benchmark checks."""
    rows = [
        (f"`{stage}`", " + ".join(f"{factor:g} {unit}" for unit, factor in factors.items()), MAPPED.get(stage, ""))
        for stage, factors in FORMULAS.items()
    ]
    return table(("stage", "memory, bytes", "mapped files, bytes"), rows)


def find_errors() -> list[type[EpoxyError]]:
    """Every kind of error, by exit code."""
    for package in ("tasks", "flows"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if re.search(r"^class \w+\(\w*Error\):", path.read_text(), flags=re.M):
                importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found: set[type[EpoxyError]] = set()
    todo: list[type[EpoxyError]] = [EpoxyError]
    while todo:
        kind = todo.pop()
        found.add(kind)
        todo += kind.__subclasses__()
    return sorted(found, key=lambda kind: (kind.exit_code, kind.__name__))


def write_exit_codes() -> str:
    """reference/exit-codes.md."""
    by_code: dict[int, list[str]] = {}
    for kind in find_errors():
        by_code.setdefault(kind.exit_code, []).append(first_sentence(kind.__doc__))
    by_code[2].append("The command line is not understood.")
    by_code[130].append("After Ctrl-C the next run continues where this run stopped.")
    rows = [("0", "All went well."), *((str(code), "<br>".join(texts)) for code, texts in sorted(by_code.items()))]
    return (
        "# Exit codes\n\n"
        + NOTE
        + "The same of `epoxy`, of `python -m tasks <stage>`, and of a flow's stages. An error is shown without a traceback: "
        + "what is wrong, where, what was found against what was expected, and what to do.\n\n"
        + table(("code", "meaning"), rows)
    )


OTHERS = {
    "PREFECT_API_URL": "The Prefect server to report to. Without it, the one that `epoxy server` started, or a temporary one.",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "Where Prefect's server keeps its records, as "
    "`postgresql+asyncpg://user:password@host/database`; SQLite without it.",
    "PREFECT_HOME": "Where Prefect keeps its records and settings; `~/.prefect` without it.",
}
"""Variables of Prefect that matter here."""

TERMINAL_VARIABLES = {
    "NO_COLOR": "Set to anything: no color, also on a terminal. A pipe or file never gets any.",
    "COLUMNS": "The width of the terminal, where it does not tell.",
}

FOR_TESTS = {
    "EPOXY_KILLS": "How many processes the tests of faults kill, and that the longest tests run.",
    "EPOXY_SEED": "Which random moments they choose.",
    "EPOXY_FUZZ": "How many random files each reader is given.",
    "EPOXY_NIGHTS": "How many series of nights are compared with runs from scratch.",
}


def find_variables() -> dict[str, str]:
    """What each of the project's environment variables does, from the text below the constant that names it."""
    found: dict[str, str] = {}
    for package in ("tasks", "flows"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for value, text in document_constants(path).values():
                if isinstance(value, str) and re.fullmatch(r"EPOXY_[A-Z_]+", value):
                    found[value] = text
    return dict(sorted(found.items()))


def write_environment() -> str:
    """reference/environment.md."""
    row: Callable[[tuple[str, str]], tuple[str, str]] = lambda pair: (f"`{pair[0]}`", pair[1])  # noqa: E731
    return (
        "# Environment variables\n\n"
        + NOTE
        + "What is of one machine, or secret, is in the environment and not in `params.yaml`: it must not change a cache key, "
        + "and is in no file, log line or release.\n\n"
        + table(("variable", "meaning"), map(row, find_variables().items()))
        + "\n## Of Prefect\n\n"
        + table(("variable", "meaning"), map(row, OTHERS.items()))
        + "\n## Of the terminal\n\n"
        + table(("variable", "meaning"), map(row, TERMINAL_VARIABLES.items()))
        + "\n## For the tests\n\n"
        + table(("variable", "meaning"), map(row, FOR_TESTS.items()))
    )


# --- rooms ---------------------------------------------------------------------------------------------------------


def room_table() -> str:
    """The rooms from the top floor down, with their modules and what they import."""
    rooms, needs = map_rooms()
    depth = measure_depth(needs)
    order = sorted(rooms, key=lambda room: (-depth[room], room))
    rows = [
        (f"`{room}`", ", ".join(f"`{module.rpartition('.')[2]}`" for module in rooms[room]),
         ", ".join(f"`{other}`" for other in sorted(needs[room])))
        for room in order
    ]  # fmt: skip
    arrows = sum(map(len, needs.values()))
    count = f"{len(rooms)} rooms on {1 + max(depth.values())} floors, {arrows} arrows between them.\n\n"
    return count + table(("room", "files", "imports from"), rows)


# --- all together -------------------------------------------------------------------------------------------------

PAGES: Mapping[str, Callable[[], str]] = {
    "reference/params.md": write_params,
    "reference/release-yaml.md": write_release_yaml,
    "reference/gates.md": write_gates,
    "reference/commands.md": write_commands,
    "reference/python.md": lambda: write_python(NOTE),
    "reference/stages.md": write_stages,
    "reference/artifacts.md": write_artifacts,
    "reference/exit-codes.md": write_exit_codes,
    "reference/environment.md": write_environment,
    "images/pipeline.svg": draw_pipeline,
    "images/rooms.svg": draw_rooms,
    "images/quality.svg": draw_quality,
}
"""Files that are generated as a whole, below docs/."""

PARTS: Mapping[tuple[str, str], Callable[[], str]] = {("explanation/architecture.md", "rooms"): room_table}
"""Parts of a page, between `<!-- NAME: generated -->` and `<!-- /NAME -->`."""


def replace_part(page: str, name: str, part: str) -> str:
    """`page` with another text between the marks of the part `name`."""
    begin, end = f"<!-- {name}: generated by `python -m docs.generate` -->\n", f"<!-- /{name} -->"
    before, rest = page.split(begin)
    return before + begin + part + end + rest.split(end)[1]


def generate() -> dict[Path, str]:
    """What every file with something generated in it should hold."""
    found = {DOCS / name: write() for name, write in PAGES.items()}
    for (name, part), write in PARTS.items():
        found[DOCS / name] = replace_part((DOCS / name).read_text(), part, write())
    return found


def main(arguments: Sequence[str]) -> int:
    """Write what differs, and name it."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=first_sentence(__doc__))
    parser.add_argument(
        "--shapes", type=Path, metavar="FOLDER", help="a project that has run: read its CSV and JSON files"
    )
    options = parser.parse_args(arguments)
    if options.shapes:
        SHAPES.write_text(json.dumps(read_shapes(options.shapes), indent=1) + "\n")
    for path, content in generate().items():
        if not path.is_file() or path.read_text() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
