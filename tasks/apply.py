"""apply: run the labeling functions on every item, or take a table of votes; write votes and a summary per LF."""

import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks import artifacts, labeling, schemas
from tasks.artifacts import LF_FAILURES, LF_SUMMARY, VALID_GOLD, VOTES
from tasks.core import lf_analysis
from tasks.errors import DataError, EpoxyError, LabelingFunctionError
from tasks.labeling import Item, LabelingFunction, OnError, RowwiseLF, VectorizedLF, Vote
from tasks.params import ApplyParams
from tasks.progress import Progress
from tasks.schemas import ABSTAIN, ITEM_ID

_SHOWN = 5
"""How many ids or values an error names."""

_PROBED = 100
"""How many items a vectorized LF votes on a second time, alone: enough to notice a mean or a rank, at no cost."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One cell on which an LF failed: the row in its batch, what went wrong, and for an LF's first the traceback."""

    row: int
    error: str
    trace: str = ""


@dataclass(frozen=True, kw_only=True)
class ColumnVotes:
    """One LF's votes on a batch, int8 of shape (n,), abstain where it failed, and its failures in row order."""

    votes: npt.NDArray[np.int8]
    failures: Sequence[Failure] = ()


def run(root: Path, classes: tuple[str, ...], params: ApplyParams) -> None:
    """Write votes, LF summary and LF failures of the project at `root`.

    Raises
    ------
    LabelingFunctionError
        An LF cannot be loaded, fails, or fails more often than its error budget allows.
    DataError
        Items are missing or damaged, or a table of votes does not fit them.
    """
    if Path(params.source).suffix == ".py":
        votes, failures = _apply_module(root, classes, params.source)
    else:
        votes, failures = _read_votes(root, classes, params.source)
    artifacts.write_table(root / VOTES, votes, schemas.votes(len(classes), votes.columns))
    artifacts.write_csv(root / LF_SUMMARY, summarize_lfs(votes, _read_gold(root, classes), classes))
    artifacts.write_table(root / LF_FAILURES, failures, schemas.FAILURES)


def summarize_lfs(votes: pl.DataFrame, gold: pl.DataFrame, classes: Sequence[str]) -> pl.DataFrame:
    """One row per LF: polarity, coverage, overlaps, conflicts, and its precision on the items of `gold`.

    Parameters
    ----------
    votes
        item_id and one int8 column per LF.
    gold
        item_id and gold, of the items to judge on; may be empty.

    Returns
    -------
    Columns lf; polarity (the class names it votes, joined by '|'); coverage, overlaps, conflicts (shares of all items);
    n_valid (its votes on items with gold); precision, precision_low, precision_high (Wilson's 95 % interval), null
    where n_valid is 0.
    """
    lfs = votes.columns[1:]
    L = votes.select(lfs).to_numpy()
    judged = gold.join(votes, on=ITEM_ID, how="inner", maintain_order="left")
    counts = lf_analysis.count_correct(judged.select(lfs).to_numpy(), judged["gold"].to_numpy())
    low, high = lf_analysis.wilson_interval(counts)
    polarity = lf_analysis.find_polarity(L, len(classes))
    return pl.DataFrame(
        {
            "lf": lfs,
            "polarity": ["|".join(itertools.compress(classes, row)) for row in polarity],
            "coverage": lf_analysis.measure_coverage(L),
            "overlaps": lf_analysis.measure_overlaps(L),
            "conflicts": lf_analysis.measure_conflicts(L),
            "n_valid": counts.votes,
            "precision": lf_analysis.measure_precision(counts),
            "precision_low": low,
            "precision_high": high,
        }
    ).with_columns(pl.selectors.float().fill_nan(None))


# Votes from labeling functions.


def load_lfs(root: Path, source: str) -> list[LabelingFunction]:
    """The LFs that the module `source` (lfs/NAME.py below `root`) defines, in order of definition.

    Raises
    ------
    LabelingFunctionError
        The module is missing, fails while it is imported, or holds no LF or two with one name.
    """
    module = _import_module(root, source)
    lfs: dict[int, LabelingFunction] = {}
    for value in vars(module).values():
        for lf in value if isinstance(value, list | tuple) else [value]:
            if isinstance(lf, RowwiseLF | VectorizedLF):
                lfs[id(lf)] = lf
    if not lfs:
        raise LabelingFunctionError(
            f"{source} holds no labeling function. Decorate one with @labeling_function, or bind keyword_lf(...) to a "
            "name; see lfs/digits.py."
        )
    names = [lf.name for lf in lfs.values()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LabelingFunctionError(
            f"{source}: more than one labeling function is called {', '.join(twice)}. Rename all but one."
        )
    return list(lfs.values())


def apply_lf(lf: RowwiseLF, items: Sequence[Item], classes: Sequence[str], progress: Progress) -> ColumnVotes:
    """The votes of one row-wise LF on `items`; under on_error 'raise', no item after the first failure is asked."""
    votes = np.full(len(items), ABSTAIN, dtype=np.int8)
    failures: list[Failure] = []
    for row, item in enumerate(items):
        try:
            votes[row] = _to_position(lf(item), classes)
        except _UnknownVoteError as unknown:
            failures.append(Failure(row=row, error=str(unknown)))
        except Exception as error:
            failures.append(Failure(row=row, error=_in_one_line(error), trace="" if failures else _trace(error)))
        progress.advance()
        if failures and lf.on_error is OnError.RAISE:
            break
    return ColumnVotes(votes=votes, failures=failures)


def apply_vectorized(
    lfs: Sequence[VectorizedLF], items: pl.DataFrame, classes: Sequence[str]
) -> dict[str, ColumnVotes]:
    """The votes of vectorized LFs on `items`, by LF; expressions run together, in one query."""
    results: dict[str, ColumnVotes] = {}
    columns: dict[str, pl.Series] = {}
    expressions: dict[str, pl.Expr] = {}
    for lf in lfs:
        try:
            value = lf(items)
            if isinstance(value, pl.Expr):
                expressions[lf.name] = value
            else:
                columns[lf.name] = _to_series(value, items.height)
        except Exception as error:
            results[lf.name] = _fail_everywhere(items, _in_one_line(error), _trace(error))
    try:
        columns.update(_evaluate(items, expressions))
    except Exception:
        # One of them is at fault; only alone does each say whether it is the one.
        for name, expression in expressions.items():
            try:
                columns.update(_evaluate(items, {name: expression}))
            except Exception as error:
                results[name] = _fail_everywhere(items, _in_one_line(error))
    for name, column in columns.items():
        try:
            results[name] = _to_positions(column, classes)
        except _UnknownVoteError as unknown:
            results[name] = _fail_everywhere(items, str(unknown))
    return results


def _apply_module(root: Path, classes: Sequence[str], source: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Votes of the LFs in `source`, and what they failed on."""
    lfs = load_lfs(root, source)
    path = root / artifacts.ITEMS
    n = artifacts.read_table(path, schemas.ITEMS, columns=[ITEM_ID]).height
    votes: list[pl.DataFrame] = []
    failures: list[pl.DataFrame] = []
    counts = dict.fromkeys([lf.name for lf in lfs], 0)
    with Progress("apply", total=n * len(lfs)) as progress:
        for items in artifacts.read_batches(path, schemas.ITEMS):
            if not votes:
                _require_votes_by_row(lfs, items, classes, source)
            ids = items[ITEM_ID]
            columns = _apply_batch(lfs, items, classes, progress)
            for lf in lfs:
                failed = columns[lf.name].failures
                counts[lf.name] += len(failed)
                _require_within_budget(lf, failed, ids, counts[lf.name], n, source)
                if failed:
                    failures.append(_tabulate_failures(lf, failed, ids))
            votes.append(pl.DataFrame([ids, *(pl.Series(lf.name, columns[lf.name].votes) for lf in lfs)]))
    table = pl.concat(votes)
    none = pl.DataFrame(schema={ITEM_ID: table[ITEM_ID].dtype, "lf": pl.String, "error": pl.String})
    order = [ITEM_ID, pl.col("lf").replace_strict(list(counts), range(len(lfs)), return_dtype=pl.Int32)]
    return table, pl.concat([none, *failures]).sort(order)


def _apply_batch(
    lfs: Sequence[LabelingFunction], items: pl.DataFrame, classes: Sequence[str], progress: Progress
) -> dict[str, ColumnVotes]:
    """The votes on one batch by LF; each LF's depend on nothing but that LF and the items."""
    vectorized = [lf for lf in lfs if isinstance(lf, VectorizedLF)]
    rowwise = [lf for lf in lfs if isinstance(lf, RowwiseLF)]
    columns = apply_vectorized(vectorized, items, classes)
    progress.advance(items.height * len(vectorized))
    rows = [Item(values) for values in items.iter_rows(named=True)] if rowwise else []
    return columns | {lf.name: apply_lf(lf, rows, classes, progress) for lf in rowwise}


def _require_votes_by_row(
    lfs: Sequence[LabelingFunction], items: pl.DataFrame, classes: Sequence[str], source: str
) -> None:
    """Check, on every second of the first items, that a vectorized LF votes on a row by that row alone."""
    first = items.head(2 * _PROBED)
    vectorized = [lf for lf in lfs if isinstance(lf, VectorizedLF)]
    together = apply_vectorized(vectorized, first, classes)
    apart = apply_vectorized(vectorized, first.gather_every(2), classes)
    for lf in vectorized:
        failed = together[lf.name].failures or apart[lf.name].failures
        differs = np.flatnonzero(together[lf.name].votes[::2] != apart[lf.name].votes)
        if differs.size and not failed:
            raise LabelingFunctionError(
                f"labeling function '{lf.name}' ({source}): its vote on {ITEM_ID} {first[ITEM_ID][int(differs[0]) * 2]!r} "
                "changes with the other items of the batch. A vote must depend on its own item alone: compute means, "
                "ranks and the like beforehand, as a column of the items, and use no randomness."
            )


def _require_within_budget(
    lf: LabelingFunction, failed: Sequence[Failure], ids: pl.Series, count: int, n: int, source: str
) -> None:
    if not failed:
        return
    first = failed[0]
    place = f"labeling function '{lf.name}' ({source})"
    example = f"on {ITEM_ID} {ids[first.row]!r}: {first.error}\n{first.trace}".rstrip()
    if lf.on_error is OnError.RAISE:
        raise LabelingFunctionError(
            f"{place} failed {example}\nCorrect it, or let it abstain on failures: "
            "on_error='abstain' with an error_budget, a share of all items."
        )
    if count > lf.error_budget * n:
        raise LabelingFunctionError(
            f"{place} failed on {count:,} of {n:,} items (so far), more than its error_budget of {lf.error_budget:g}; "
            f"first {example}\nCorrect it, or raise its error_budget."
        )


def _tabulate_failures(lf: LabelingFunction, failed: Sequence[Failure], ids: pl.Series) -> pl.DataFrame:
    return pl.DataFrame(
        [
            ids.gather([failure.row for failure in failed]),
            pl.repeat(lf.name, len(failed), eager=True).alias("lf"),
            pl.Series("error", [failure.error for failure in failed]),
        ]
    )


class _UnknownVoteError(Exception):
    """What an LF gave is no class name, no class position and no abstain."""

    def __init__(self, given: str, classes: Sequence[str]) -> None:
        shown = ", ".join(classes[:_SHOWN]) + (", ..." if len(classes) > _SHOWN else "")
        super().__init__(f"voted {given}; expected a class ({shown}), a position 0..{len(classes) - 1}, or ABSTAIN")


def _to_position(vote: Vote, classes: Sequence[str]) -> int:
    """The class position that a row-wise LF's return value stands for."""
    if vote is None:
        return ABSTAIN
    if isinstance(vote, str) and vote in classes:
        return classes.index(vote)
    if isinstance(vote, int | np.integer) and not isinstance(vote, bool) and ABSTAIN <= vote < len(classes):
        return int(vote)
    raise _UnknownVoteError(repr(vote), classes)


def _to_positions(column: pl.Series, classes: Sequence[str]) -> ColumnVotes:
    """The class positions that a vectorized LF's column stands for.

    Raises
    ------
    _UnknownVoteError
        The column is of a type that holds no votes at all.
    """
    if column.dtype == pl.Null:
        return ColumnVotes(votes=np.full(len(column), ABSTAIN, dtype=np.int8))
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        names = column.cast(pl.String)
        positions = names.replace_strict(classes, range(len(classes)), default=None, return_dtype=pl.Int8)
        unknown = names.is_not_null() & positions.is_null()
    elif column.dtype.is_integer():
        # Beyond int64 is beyond every class, too; unsigned types do not compare with -1.
        wide = column.cast(pl.Int64, strict=False)
        positions = wide.set(~wide.is_between(ABSTAIN, len(classes) - 1), None).cast(pl.Int8)
        unknown = column.is_not_null() & positions.is_null()
    else:
        raise _UnknownVoteError(f"with a column of type {column.dtype}", classes)
    rows = unknown.arg_true().to_list()
    return ColumnVotes(
        votes=positions.fill_null(ABSTAIN).to_numpy(),
        failures=[Failure(row=row, error=str(_UnknownVoteError(repr(column[row]), classes))) for row in rows],
    )


def _to_series(value: object, height: int) -> pl.Series:
    """A vectorized LF's Series or array as a Series of `height` votes."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = pl.Series(value.tolist()) if value.dtype == object else pl.Series(value)
    if not isinstance(value, pl.Series):
        shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
        raise TypeError(f"returned {type(value).__name__}{shape}; expected an expression, a Series or a 1-d array")
    if len(value) != height:
        raise ValueError(f"returned {len(value)} votes for {height} items")
    return value


def _evaluate(items: pl.DataFrame, expressions: dict[str, pl.Expr]) -> dict[str, pl.Series]:
    named = [expression.alias(name) for name, expression in expressions.items()]
    # with_columns, so that an expression without a column, such as a literal, still votes on every item.
    table = items.lazy().with_columns(named).select(list(expressions)).collect()
    return {column.name: column for column in table}


def _fail_everywhere(items: pl.DataFrame, error: str, trace: str = "") -> ColumnVotes:
    """The result of a vectorized LF that gave no votes at all."""
    return ColumnVotes(
        votes=np.full(items.height, ABSTAIN, dtype=np.int8),
        failures=[Failure(row=row, error=error, trace="" if row else trace) for row in range(items.height)],
    )


def _in_one_line(error: Exception) -> str:
    """Type and message of `error`, the same in every run."""
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    return re.sub(r"\b0x[0-9a-fA-F]+\b", "0x...", text)  # an address in memory


def _trace(error: Exception) -> str:
    """The traceback of `error` without the frames of this pipeline and of Python's import machinery."""
    own = {__file__, labeling.__file__}
    kept = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in own and not frame.filename.startswith("<frozen importlib")
    ]
    head = ["Traceback (most recent call last):\n", *traceback.format_list(kept)] if kept else []
    return "".join([*head, *traceback.format_exception_only(error)]).rstrip()


# Loading a module of labeling functions.


class _Uncached(importlib.machinery.SourceFileLoader):
    """Compiles the source every time: byte-code is matched by second and size, and could be of an edited file."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the package `lfs` and its modules in one project's folder, and nowhere else."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "lfs":
            return None
        place = self._root.joinpath(*fullname.split("."))
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                folders = [str(place)] if file.name == "__init__.py" else None
                loader = _Uncached(fullname, str(file))
                return importlib.util.spec_from_file_location(
                    fullname, file, loader=loader, submodule_search_locations=folders
                )
        if place.is_dir():
            spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(place)]
            return spec
        raise ModuleNotFoundError(f"no module '{fullname}' in {self._root / 'lfs'}", name=fullname)


@contextmanager
def _project_lfs(root: Path) -> Iterator[None]:
    """Within the block, `lfs` means the package in `root`, freshly read; afterwards what it meant before."""
    finder = _Finder(root.resolve())
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "lfs"}
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "lfs"]:
            del sys.modules[name]
        sys.modules.update(before)


def _import_module(root: Path, source: str) -> ModuleType:
    path = root / source
    if not path.is_file():
        found = sorted(file.name for file in (root / "lfs").glob("*.py") if file.name != "__init__.py")
        raise LabelingFunctionError(
            f"{source} not found; lfs/ holds {', '.join(found) or 'no module'}. Correct apply.source in params.yaml."
        )
    if not path.resolve().is_relative_to((root / "lfs").resolve()):
        raise LabelingFunctionError(f"{source} leads out of lfs/, the folder that the apply stage depends on.")
    name = ".".join(Path(source).with_suffix("").parts)
    if not all(part.isidentifier() for part in name.split(".")):
        raise LabelingFunctionError(f"{source} cannot be imported: use letters, digits and '_' in its name.")
    try:
        with _project_lfs(root):
            return importlib.import_module(name)
    except EpoxyError as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path.resolve())), None)
        raise LabelingFunctionError(f"{source}{'' if line is None else f', line {line}'}: {error}") from None
    except Exception as error:
        raise LabelingFunctionError(f"{source} cannot be imported:\n{_trace(error)}") from None


# Votes from a table.


def _read_votes(root: Path, classes: Sequence[str], source: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The table of votes at `source`, in the order of the items, and an empty table of failures."""
    ids = artifacts.read_table(root / artifacts.ITEMS, schemas.ITEMS, columns=[ITEM_ID])[ITEM_ID]
    raw = _read_raw_votes(root, source, ids.dtype)
    names = [name for name in raw.columns if name != ITEM_ID]
    if ITEM_ID not in raw.columns or not names:
        raise DataError(
            f"{source}: has columns {', '.join(raw.columns) or 'none'}; expected '{ITEM_ID}' and one column per LF."
        )
    bad = [name for name in names if not re.fullmatch(schemas.LF_NAME, name)]
    if bad:
        raise DataError(
            f"{source}: {bad[0]!r} cannot name a labeling function. Use letters, digits, '_', '.' and '-', a letter or "
            "'_' first."
        )
    own = raw[ITEM_ID]
    if own.dtype.is_integer() and ids.dtype == pl.Int64:
        own = own.cast(pl.Int64)
    _require_ids(source, own, ids)
    votes = raw.select(own, *(_check_votes(source, raw[name], own, len(classes)) for name in names)).sort(ITEM_ID)
    return votes, pl.DataFrame(schema={ITEM_ID: ids.dtype, "lf": pl.String, "error": pl.String})


def _read_raw_votes(root: Path, source: str, id_type: pl.DataType) -> pl.DataFrame:
    try:
        if Path(source).suffix == ".csv":
            # Unlike Parquet, CSV has no types: its ids are of whatever kind the items' are.
            return pl.read_csv(root / source, schema_overrides={ITEM_ID: id_type}, infer_schema_length=None)
        return pl.read_parquet(root / source, memory_map=False)
    except FileNotFoundError:
        raise DataError(f"{source} not found. Correct apply.source in params.yaml.") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{source} cannot be read: {str(error).strip().splitlines()[0]}") from None


def _require_ids(source: str, own: pl.Series, ids: pl.Series) -> None:
    """Check that a table of votes has each item once and nothing else."""
    if own.dtype != ids.dtype:
        raise DataError(f"{source}: {ITEM_ID} is {own.dtype}, but {ids.dtype} in the items. Write both alike.")
    findings = {
        "rows have no item_id": pl.int_range(len(own), eager=True).filter(own.is_null()),
        "ids occur more than once": own.filter(own.is_duplicated() & own.is_not_null()).unique(maintain_order=True),
        "items have no votes": ids.filter(~ids.is_in(own.drop_nulls().implode())),
        "ids are no items": own.filter(~own.is_in(ids.implode())).drop_nulls(),
    }
    lines = [
        f"{source}: {len(found):,} {what}, first {_first(found)}." for what, found in findings.items() if len(found)
    ]
    if lines:
        raise DataError(
            "\n".join([*lines, f"It must have one row per item, with the ids that ingest read ({ITEM_ID})."])
        )


def _check_votes(source: str, column: pl.Series, ids: pl.Series, k: int) -> pl.Series:
    """The column as int8, every value looked at before it is cast."""
    if not column.dtype.is_numeric():
        raise DataError(
            f"{source}: column '{column.name}' is {column.dtype}; expected whole numbers, -1 (abstain) or 0..{k - 1}."
        )
    # Beyond int64 is beyond every class, too; unsigned types do not compare with -1.
    whole = column.cast(pl.Int64, strict=False)
    wrong = ~(whole.is_between(ABSTAIN, k - 1) & (whole == column)).fill_null(False)
    if wrong.any():
        found = column.filter(wrong).unique(maintain_order=True).head(_SHOWN)
        values = ", ".join("missing" if value is None else f"{value}" for value in found)
        raise DataError(
            f"{source}: column '{column.name}' has {wrong.sum():,} votes that are neither -1 (abstain) nor 0..{k - 1}: "
            f"{values}; first at {ITEM_ID} {_first(ids.filter(wrong))}."
        )
    return column.cast(pl.Int8)


def _first(values: pl.Series) -> str:
    return ", ".join(repr(value) for value in values.head(_SHOWN))


def _read_gold(root: Path, classes: Sequence[str]) -> pl.DataFrame:
    return artifacts.read_table(root / VALID_GOLD, schemas.gold(len(classes)))
