"""The labels of the last run or of a release, joined with the items' columns, in a form that another tool reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import polars as pl

from flows.releases.opened import open_release
from flows.releases.store import check_file, find_release, read_release
from tasks.core.types import ITEM_ID
from tasks.errors import DataError, ParamsError, QueryError
from tasks.exchange.contents import Labeled
from tasks.exchange.formats import FILES, FOLDERS
from tasks.exchange.plain_tables import write_csv
from tasks.params import Params
from tasks.queries.next_items import Strategy, choose_next
from tasks.queries.project_data import ProjectData, add_raw_columns, to_names
from tasks.tables.files import open_atomic_folder, read_json
from tasks.tables.paths import ITEMS, METRICS, SHIPPED_LABELS


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is exported. release: None for the last run. text: the column that people read; None: found.

    next_count: only so many items that `epoxy next` proposes, by `strategy` and `seed`; None: all items.
    withheld_gold: whether gold of train and test is written, too. is_for_spreadsheet: in CSV, formulas are made harmless.
    """

    release: str | None = None
    text: str | None = None
    next_count: int | None = None
    strategy: Strategy = "random"
    seed: int = 0
    withheld_gold: bool = False
    is_for_spreadsheet: bool = False


def export_labels(root: Path, form: str, path: Path, choice: Choice, *, replace: bool = False) -> Iterator[str]:
    """Lines on what was written, once the labels are at `path`: a file or a folder, as the form has it.

    Raises
    ------
    ParamsError
        Something is at `path` already, or an option does not fit the form.
    EpoxyError
        There is no such release, column or item, or artifacts are missing or damaged.
    """
    if choice.is_for_spreadsheet and form != "csv":
        raise ParamsError(f"--spreadsheet changes cells of CSV alone; {form} keeps them as they are. Leave it out.")
    if path.exists() and not replace:
        raise ParamsError(f"{path} exists. Name another path, or add --replace.")
    if path.exists() and path.is_dir() != (form in FOLDERS):
        raise ParamsError(
            f"{path} is {'a folder' if path.is_dir() else 'a file'}, and {form} is not. Name another path."
        )
    labeled, absent = gather_labels(root, choice)
    if form in FOLDERS:
        with open_atomic_folder(path) as part:
            FOLDERS[form](part, labeled)
    elif form == "csv":
        write_csv(path, labeled, is_for_spreadsheet=choice.is_for_spreadsheet)
    else:
        FILES[form](path, labeled)
    known = labeled.table["gold"].count()
    yield f"{labeled.table.height:,} items with the labels of {labeled.source}, in {path}"
    yield f"gold of {known:,} of them is there" + (
        "" if choice.withheld_gold else "; that of train and test is not (--test-gold)"
    )
    if absent:
        yield f"{absent:,} items of {labeled.source} are not in {ITEMS} any more, and are left out"
    if form in FOLDERS and labeled.text is not None:
        yield f"text for people: column {labeled.text!r}"


def gather_labels(root: Path, choice: Choice) -> tuple[Labeled, int]:
    """What `choice` asks for of the project at `root`, and how many labeled items are not among the items now.

    Raises
    ------
    EpoxyError
        As for `export_labels`.
    """
    data = ProjectData(root)
    items = data.items()
    if choice.release is None:
        labels, votes = data.labels(), data.votes()
        source, metrics, lineage = "the last run", read_json(root / METRICS), _describe_run(data.params())
    else:
        opened = open_release(root, choice.release)
        release = read_release(root, find_release(root, choice.release))
        labels, votes = opened.labels(), opened.votes()
        if opened.classes != data.classes:
            raise DataError(
                f"release {opened.name}: other classes than in params.yaml. Check out the commit that it is of."
            )
        source, metrics = f"release {opened.name}", read_json(check_file(release, "metrics.json"))
        lineage = {
            "Git commit": release.manifest.commit or "none",
            "made by": release.manifest.mode,
            "Python": release.manifest.python,
            **{f"SHA-256 of {name}": digest for name, digest in release.manifest.lf_sources.items()},
        }
    table = items.select(ITEM_ID, "split").with_columns(
        to_names(data.gold(withheld=choice.withheld_gold), data.classes).alias("gold")
    )
    table = table.join(labels, on=ITEM_ID, how="inner", maintain_order="left")
    absent = labels.height - table.height
    if choice.next_count is not None:
        proposed = choose_next(data, count=choice.next_count, strategy=choice.strategy, seed=choice.seed).rows
        table = proposed.select(ITEM_ID).join(table, on=ITEM_ID, how="inner", maintain_order="left")
    cast = pl.DataFrame([votes.ids, *(pl.Series(lf, votes.original[:, at]) for at, lf in enumerate(votes.lfs))])
    fitting = table.select(ITEM_ID).join(items, on=ITEM_ID, how="left", maintain_order="left")
    joined = add_raw_columns(table, fitting)
    columns = tuple(joined.columns[table.width :])
    labeled = Labeled(
        table=joined.select(ITEM_ID, "split", *columns, *table.columns[2:]),
        columns=columns,
        text=_find_text(data.params(), joined.select(columns), choice.text),
        classes=data.classes,
        votes=table.select(ITEM_ID).join(cast, on=ITEM_ID, how="left", maintain_order="left"),
        name=root.resolve().name,
        source=source,
        metrics=metrics,
        lineage=lineage,
    )
    return labeled, absent


def _describe_run(params: Params) -> dict[str, str]:
    """Where the labels of the last run come from."""
    return {
        "file": str(SHIPPED_LABELS),
        "labeling functions": str(params.apply.source),
        "made with": f"Epoxy Flow {version('epoxy-flow')}",
    }


def _find_text(params: Params, table: pl.DataFrame, named: str | None) -> str | None:
    """The column that people read: the one that is named or encoded, else `text`, else the one with the longest texts, if any."""
    texts = [name for name, kind in table.schema.items() if kind == pl.String]
    encoders = [params.ingest.encoder, *(block.encoder for block in params.ingest.blocks.values())]
    encoded = [encoder.column for encoder in encoders if encoder is not None]
    if named is not None and named not in texts:
        raise QueryError(
            f"{ITEMS}: no column {named!r} of text; there are: {', '.join(texts) or 'none'}. Name one with --text."
        )
    if found := next((name for name in (named, *encoded, "text") if name in texts), None):
        return found
    return max(texts, key=lambda name: table[name].str.len_chars().mean() or 0, default=None)
