"""Checks of tables against their schemas and against each other; errors give the count and the first ids.

pandera, which takes most of a second to load, is imported where a table is checked.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.core.types import ITEM_ID
from tasks.errors import DataError

if TYPE_CHECKING:
    from tasks.tables.schemas import TableSchema

SHOWN = 5
"""How many ids, values or files an error names."""

_WIDTH = 60
"""How many characters of a bad value an error shows."""


def require_same_items(path: Path, table: pl.DataFrame, other_path: Path, other: pl.DataFrame) -> None:
    """Check that two tables hold the same items in the same (ascending) order, which makes their rows joined by id.

    Raises
    ------
    DataError
        An item is in only one of the tables; names how many such items there are, and the first.
    """
    ids, other_ids = table[ITEM_ID], other[ITEM_ID]
    if ids.dtype != other_ids.dtype:
        raise DataError(f"{path}: item_id is {ids.dtype}, but {other_ids.dtype} in {other_path}. Run 'dvc repro'.")
    if ids.equals(other_ids):
        return
    for held, held_path, lacking, lacking_path in (
        (ids, path, other_ids, other_path),
        (other_ids, other_path, ids, path),
    ):
        missing = held.filter(~held.is_in(lacking.implode()))
        if len(missing):
            raise DataError(
                f"{lacking_path}: {len(missing):,} items of {held_path} are missing, first {name_first(missing)}. Run 'dvc repro'."
            )
    raise DataError(f"{path} and {other_path}: the same items in a different order. Run 'dvc repro'.")


def validate_batches(path: Path, batches: Iterable[pl.DataFrame], schema: "TableSchema") -> Iterator[pl.DataFrame]:
    """The same `batches` of the table at `path`, each checked, and item ids from one to the next where they ascend.

    Raises
    ------
    DataError
        A batch breaks the schema, or ids do not ascend from one batch to the next.
    """
    from tasks.tables.schemas import ASCENDS

    ascending = any(check.name == ASCENDS for check in schema.checks)
    last: Any = None
    for batch in batches:
        table = validate_table(path, batch, schema)
        if ascending and table.height:
            first = table[ITEM_ID][0]
            if last is not None and first <= last:
                raise DataError(f"{path}: item_id {first!r} comes after {last!r}; ids must ascend. Run 'dvc repro'.")
            last = table[ITEM_ID][-1]
        yield table


def validate_table(path: Path, table: pl.DataFrame, schema: "TableSchema") -> pl.DataFrame:
    """The same `table`, which is that at `path`, checked against `schema`.

    Raises
    ------
    DataError
        The table breaks its schema; names each column and check, with the first values and ids.
    """
    import pandera.errors

    if _is_valid(table, schema):
        return table
    try:
        try:
            return schema.validate(table, lazy=True)
        except pl.exceptions.PolarsError:
            # pandera 0.35 cannot stack failures of different types; then only the first is reported.
            return schema.validate(table)
    except (pandera.errors.SchemaErrors, pandera.errors.SchemaError) as error:
        raise DataError(_describe(path, table, error)) from None


def _is_valid(table: pl.DataFrame, schema: "TableSchema") -> bool:
    """Whether `table` fits `schema`; what breaks it, and where, is found by asking pandera about each column.

    pandera asks for one condition after the other, which takes more than a millisecond each, however short the table, and a run
    reads a hundred tables: here its checks are prepared, and asked all at once. Columns that are to be alike, as LFs are, which
    come by the hundred, are laid end to end and checked as a single column.
    """
    if not _has_columns(table, schema):
        return False
    try:
        found = list(_ask(table, schema))
        asked = [one for one in found if isinstance(one, pl.LazyFrame)]
        # Polars streams by default, which takes half a millisecond to begin.
        answers = pl.collect_all(asked, engine="in-memory")
    except Exception:  # as pandera takes it: a check that cannot be made has failed, and it says why
        return False
    return all(one for one in found if isinstance(one, bool)) and all(answer.item() for answer in answers)


def _ask(table: pl.DataFrame, schema: "TableSchema") -> Iterator[pl.LazyFrame | bool]:
    """Whether `table` meets each condition of `schema`: known, or a single boolean to be computed."""
    yield from (_prepare(table.lazy(), check, None) for check in schema.checks)
    for names in _group_alike(table, schema):
        column, key = schema.columns[names[0]], names[0]
        series = [table[name].alias(key) for name in names]
        values = (pl.concat(series, rechunk=False) if len(series) > 1 else series[0]).to_frame().lazy()
        yield from (_prepare(values, check, key) for check in column.checks)
        if not column.nullable:
            yield not any(one.null_count() for one in series)
            if series[0].dtype.is_float():
                yield values.select(pl.col(key).is_not_nan().all())
        if column.unique:
            yield values.select(pl.col(key).is_unique().all())


def _has_columns(table: pl.DataFrame, schema: "TableSchema") -> bool:
    """Whether `table` has the columns of `schema`, of their types, and no others where it is strict."""
    types = table.schema
    if any(column.required and name not in types for name, column in schema.columns.items()):
        return False
    if schema.strict and types.keys() - schema.columns.keys():
        return False
    expected = ((schema.columns[name].dtype, found) for name, found in types.items() if name in schema.columns)
    return all(dtype is None or dtype.check(found) for dtype, found in expected)


def _group_alike(table: pl.DataFrame, schema: "TableSchema") -> Iterable[list[str]]:
    """The columns of `table`, those together that are of one type and to be alike."""
    alike: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for name, found in table.schema.items():
        if column := schema.columns.get(name):
            alike[(found, column.nullable, column.unique and name, *column.checks)].append(name)
    return alike.values()


def _prepare(frame: pl.LazyFrame, check: Any, key: str | None) -> pl.LazyFrame | bool:
    """Whether column `key` of `frame`, or all of it, passes a `check` of pandera, as for `_ask`."""
    from pandera.api.polars.types import PolarsData

    found: pl.LazyFrame | bool = check.get_backend(frame)(check).apply(PolarsData(frame, key or "*"))
    return found if isinstance(found, bool) else found.select(pl.all().fill_null(check.ignore_na).all())


def _describe(path: Path, table: pl.DataFrame, error: Any) -> str:
    """What pandera found, one line per column and check: count, first values, first ids, what to do."""
    cases = getattr(error, "failure_cases", None)
    if not isinstance(cases, pl.DataFrame) or cases.is_empty() or "column" not in cases.columns:
        return f"{path}: breaks its schema: {error}. Run 'dvc repro'."
    lines = []
    for (column, check), found in cases.group_by("column", "check", maintain_order=True):
        values = ", ".join(str(value)[:_WIDTH] for value in found["failure_case"].head(SHOWN))
        rows = [row for row in found["index"].drop_nulls().head(SHOWN) if row < table.height]
        ids = f" at {ITEM_ID} {name_first(table[ITEM_ID].gather(rows))}" if rows and ITEM_ID in table.columns else ""
        subject = f"column '{column}'" if column in table.columns else "table"
        lines.append(f"{path}: {subject}: {len(found):,} failed '{check}': {values}{ids}.")
    return "\n".join([*lines, f"Check what wrote {path}, then run 'dvc repro'."])


def name_first(values: pl.Series) -> str:
    """The first of `values` as an error names them.

    >>> name_first(pl.Series(["a", "b", "c", "d", "e", "f"]))
    "'a', 'b', 'c', 'd', 'e'"
    """
    return ", ".join(repr(value) for value in values.head(SHOWN))


def name_first_where(ids: pl.Series, mask: pl.Series) -> str:
    """The lowest of the `ids` at which `mask` is true, as an error names them."""
    return name_first(ids.filter(mask).sort())


def restrict_schema(schema: "TableSchema", columns: Sequence[str]) -> "TableSchema":
    """`schema` for these columns alone; table-wide checks stay where item_id is among them."""
    kept = {name: column for name, column in schema.columns.items() if name in columns}
    return type(schema)(kept, checks=schema.checks if ITEM_ID in columns else [], strict=bool(schema.strict))
