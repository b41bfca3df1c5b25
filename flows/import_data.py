"""Items, votes and decisions from another tool, written in our form."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.core.types import ITEM_ID
from tasks.errors import DataError, ParamsError
from tasks.exchange.argilla import read_records
from tasks.exchange.contents import Brought
from tasks.exchange.hugging_face import read_data_set
from tasks.exchange.label_studio import read_tasks as read_label_studio
from tasks.exchange.prodigy import read_tasks as read_prodigy
from tasks.exchange.snorkel_matrix import read_label_matrix
from tasks.exchange.wrench import read_wrench
from tasks.readers.raw_tables import read_raw_table
from tasks.tables.files import open_atomic
from tasks.tables.gold_table import FOLDER as GOLD

FORMS = ("wrench", "snorkel", "hugging-face", "label-studio", "argilla", "prodigy")


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What a form does not say. classes: names, in their order. ids: a table whose item_id names the rows.

    label: the feature or question that is gold.
    """

    classes: tuple[str, ...] = ()
    ids: Path | None = None
    label: str | None = None


def read_form(form: str, path: Path, hints: Hints) -> Brought:
    """What is at `path`, in the form that is called so.

    Raises
    ------
    DataError
        It is not of this form.
    """
    match form:
        case "wrench":
            return read_wrench(path)
        case "snorkel":
            return read_label_matrix(
                path, classes=hints.classes, ids=None if hints.ids is None else _read_ids(hints.ids)
            )
        case "hugging-face":
            return read_data_set(path, label=hints.label)
        case "label-studio":
            return read_label_studio(path)
        case "argilla":
            return read_records(path, question=hints.label)
        case "prodigy":
            return read_prodigy(path)
    raise ParamsError(f"no form {form!r}; there are {', '.join(FORMS)}.")


def import_data(form: str, path: Path, folder: Path, hints: Hints, *, replace: bool = False) -> Iterator[str]:
    """Lines on what became of each field, once items and votes are in `folder` and decisions in its folder gold.

    Raises
    ------
    DataError
        What is at `path` is not of this form; nothing is written.
    ParamsError
        Something would be written over.
    """
    brought = read_form(form, path, hints)
    written = {
        folder / "items.parquet": brought.items,
        folder / "votes.parquet": brought.votes,
        folder / GOLD / f"{form}.parquet": brought.decisions,
    }
    tables = {target: table for target, table in written.items() if table is not None and not table.is_empty()}
    if not replace and (there := [str(target) for target in tables if target.exists()]):
        raise ParamsError(f"{', '.join(there)}: there already. Name another folder with --to, or add --replace.")
    for target, table in tables.items():
        with open_atomic(target) as part:
            table.write_parquet(part)
    yield from (f"{field.name}: {field.became}" for field in brought.fields)
    yield from (f"note: {remark}" for remark in brought.remarks)
    yield from (f"{table.height:,} rows in {target}" for target, table in tables.items())
    yield from _advise(brought, folder, form)


def _advise(brought: Brought, folder: Path, form: str) -> Iterator[str]:
    """What to do next."""
    classes = _list_classes(brought)
    if brought.votes is not None:
        yield f"votes: copy votes.parquet into lfs/, and set apply.source: lfs/votes.parquet and classes: {_write(classes)} in params.yaml"
    if brought.items is not None:
        named = f" --classes {','.join(classes)}" if len(classes) > 1 and "gold" not in brought.items.columns else ""
        yield f"items: epoxy init FOLDER --items {folder / 'items.parquet'}{named}"
    if brought.decisions is not None and not brought.decisions.is_empty():
        yield f"decisions: copy {form}.parquet into gold/ of a project that has these items"


def _write(names: Sequence[str]) -> str:
    return f"[{', '.join(names)}]"


def _list_classes(brought: Brought) -> tuple[str, ...]:
    """The classes, as the form says them, else as people chose them."""
    if brought.classes is not None:
        return brought.classes
    return () if brought.decisions is None else tuple(brought.decisions["label"].unique().sort())


def _read_ids(path: Path) -> pl.Series:
    """The ids in the order of the rows of a table."""
    table = read_raw_table(path.parent, path).table
    if ITEM_ID not in table.columns:
        raise DataError(
            f"{path}: no column '{ITEM_ID}'; it has {', '.join(table.columns)}. Name the table of these items."
        )
    return table[ITEM_ID]
