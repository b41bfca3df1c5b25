"""The artifacts of a project's last run or of a release, read and checked when a question needs them.

They stay in memory until their files change, so that a server can keep a `ProjectData` for as long as it runs, and a
command reads only what it needs.
"""

import difflib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import polars as pl

from tasks.core.extension import NearestVotes, find_nearest_votes
from tasks.core.types import ABSTAIN, ITEM_ID, Bool, Float32, Float64, Int64, Votes
from tasks.errors import DataError, QueryError
from tasks.params import Params
from tasks.params_file import FILE as PARAMS
from tasks.params_file import read_params, read_stage_params
from tasks.queries.recorded_classes import LOCK, require_recorded_classes
from tasks.tables import schemas
from tasks.tables.embeddings_file import read_width
from tasks.tables.files import explain_read_errors, read_json
from tasks.tables.label_matrix import read_all_gold, read_gold, to_matrix
from tasks.tables.muted import mute, read_muted
from tasks.tables.neighbor_columns import NeighborColumnNames, find_neighbor_columns, to_neighbors
from tasks.tables.parquet import find_shards, read_schema, read_table, read_votes
from tasks.tables.paths import (
    EMBEDDINGS,
    END_MODEL,
    END_MODEL_PREDICTIONS,
    END_MODEL_SUMMARY,
    EXTENDED_VOTES,
    ITEMS,
    LABEL_MODEL,
    LABEL_MODEL_PREDICTIONS,
    LF_FAILURES,
    MUTED,
    NEIGHBORS,
    OWN_PROBABILITIES,
    PROVENANCE,
    SHIPPED_LABELS,
    THRESHOLDS,
    VALID_GOLD,
    VOTES,
    WITHHELD_GOLD,
)
from tasks.tables.saved_model import SavedModel, read_model
from tasks.tables.thresholds import Thresholds, read_thresholds
from tasks.tables.validation import require_same_items, validate_table

T = TypeVar("T")

SHIPPED = "shipped"
"""The method key of the shipped labels."""


@dataclass(frozen=True, kw_only=True)
class LFVotes:
    """The votes of all LFs on items, (n, m) int8, -1 abstains; `extended` includes the original votes.

    cast: what they voted. original: the same with `muted` LFs abstaining.
    """

    ids: pl.Series
    lfs: tuple[str, ...]
    muted: tuple[str, ...]
    cast: Votes
    original: Votes
    extended: Votes
    thresholds: dict[str, float | None]

    def find_lf(self, lf: str) -> int:
        """Return the position of `lf`.

        Raises
        ------
        QueryError
            There is no such LF.
        """
        return self.lfs.index(find_name(lf, self.lfs, "labeling function"))


class ProjectData:
    """The results of the last run of the project at `root`; a method reads its files when first called, and when they change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._kept: dict[object, tuple[object, Any]] = {}
        self._lock = threading.RLock()

    def recall(self, key: object, paths: Iterable[str | Path], make: Callable[[], T]) -> T:
        """Return the result of `make`, from memory as long as the artifacts at `paths` below the root are unchanged."""
        with self._lock:
            state = tuple(_identify(self.root / path) for path in paths)
            kept = self._kept.get(key)
            if kept is None or kept[0] != state:
                kept = (state, make())
                self._kept[key] = kept
            return cast(T, kept[1])

    def params(self) -> Params:
        """Return params.yaml as it is now.

        Raises
        ------
        ParamsError
            The file is not valid.
        """
        return self.recall("params", [PARAMS], lambda: read_params(self.root))

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of their positions.

        Raises
        ------
        DataError
            The last run was one of other classes, or in another order.
        """

        def read() -> tuple[str, ...]:
            classes = self.params().classes
            require_recorded_classes(self.root, classes)
            return classes

        return self.recall("classes", [PARAMS, LOCK], read)

    def items(self) -> pl.DataFrame:
        """Return all items with every raw column but gold, by ascending id."""
        return self.recall("items", [ITEMS], lambda: read_table(self.root / ITEMS, schemas.ITEMS))

    def splits(self) -> pl.DataFrame:
        """Return item_id and split of all items, by ascending id; much faster to read than `items`."""
        columns = [ITEM_ID, "split"]
        return self.recall("splits", [ITEMS], lambda: read_table(self.root / ITEMS, schemas.ITEMS, columns))

    def ids(self) -> pl.Series:
        """Return the ids of all items, ascending."""
        return self.splits()[ITEM_ID]

    def find_rows(self, ids: Iterable[str | int]) -> Int64:
        """Return the rows (r,) of the items with these `ids`, given as text or numbers, in the given order.

        Raises
        ------
        QueryError
            There is no such item.
        """
        known = self.ids()
        wanted = [str(item) for item in ids]
        asked = pl.Series(ITEM_ID, wanted, dtype=pl.String).cast(known.dtype, strict=False)
        rows = pl.DataFrame({ITEM_ID: asked}).join(
            pl.DataFrame({ITEM_ID: known}).with_row_index("row"), on=ITEM_ID, how="left", maintain_order="left"
        )["row"]
        for item, row in zip(wanted, rows, strict=True):
            if row is None:
                raise QueryError(f"{ITEMS}: no item {item[:64]!r} among {len(known):,}. Check the id.")
        return rows.cast(pl.Int64).to_numpy()

    def gold(self, *, withheld: bool = False) -> Votes:
        """Return the gold class (n,) of each item of valid, with `withheld` of every item; -1 if unknown."""
        paths = (VALID_GOLD, WITHHELD_GOLD) if withheld else (VALID_GOLD,)

        def read() -> Votes:
            if withheld:
                return read_all_gold(self.root, self.splits(), len(self.classes)).classes
            return read_gold(self.root, self.splits(), len(self.classes))

        return self.recall(("gold", withheld), [PARAMS, ITEMS, *paths], read)

    def labels(self) -> pl.DataFrame:
        """Return the shipped labels, a row per item."""
        schema = schemas.end_labels(self.classes)
        return self.recall("labels", [PARAMS, ITEMS, SHIPPED_LABELS], lambda: self._read_rows(SHIPPED_LABELS, schema))

    def label_positions(self) -> Votes:
        """Return the class position (n,) of each item's shipped label."""

        def find() -> Votes:
            return to_positions(self.labels()["label"], self.classes)

        return self.recall("positions", [PARAMS, ITEMS, SHIPPED_LABELS], find)

    def certified(self) -> Bool:
        """Return whether the label of each item (n,) is certified."""
        labels = self.labels()
        found = labels.get_column("is_certified", default=pl.repeat(False, labels.height, eager=True))
        return found.to_numpy()

    def probabilities(self) -> Float64:
        """Return the probabilities (n, k) of the shipped labels."""

        def read() -> Float64:
            names = [schemas.probability_column(name) for name in self.classes]
            return self.labels().select(names).to_numpy()

        return self.recall("probabilities", [PARAMS, ITEMS, SHIPPED_LABELS], read)

    def own_probabilities(self) -> Float64:
        """Return the probabilities (n, k) of the shipped labels before nearest items have a say."""
        names = [f"own/{position}" for position in range(len(self.classes))]

        def read() -> Float64:
            schema = schemas.predictions(len(self.classes), [ITEM_ID, *names])
            return self._read_rows(OWN_PROBABILITIES, schema, [ITEM_ID, *names]).select(names).to_numpy()

        return self.recall("own", [PARAMS, ITEMS, OWN_PROBABILITIES], read)

    def methods(self) -> tuple[str, ...]:
        """Return the names of the methods that the report compares, and of the shipped labels."""
        return (SHIPPED, *self._find_methods())

    def predict(self, method: str) -> Float64:
        """Return the probabilities (n, k) of `method`, held out on valid gold if the method learned from it.

        Raises
        ------
        QueryError
            There is no such method.
        """
        if find_name(method, self.methods(), "method") == SHIPPED:
            return self.probabilities()
        names = [f"{method}/{position}" for position in range(len(self.classes))]
        path = self._find_methods()[method]

        def read() -> Float64:
            schema = schemas.predictions(len(self.classes), [ITEM_ID, *names])
            return self._read_rows(path, schema, [ITEM_ID, *names]).select(names).to_numpy()

        return self.recall(("method", method), [PARAMS, ITEMS, path], read)

    def votes(self) -> LFVotes:
        """Return the votes of all LFs, before and after extension."""
        paths = (PARAMS, ITEMS, VOTES, MUTED, EXTENDED_VOTES, THRESHOLDS)

        def read() -> LFVotes:
            original = self._check(VOTES, read_votes(self.root / VOTES, len(self.classes)))
            muted = read_muted(self.root)
            extended = self._check(EXTENDED_VOTES, read_votes(self.root / EXTENDED_VOTES, len(self.classes)))
            if original.columns != extended.columns:
                raise DataError(f"{EXTENDED_VOTES}: other labeling functions than in {VOTES}. Run 'epoxy run'.")
            lfs = original.columns[1:]
            return LFVotes(
                ids=original[ITEM_ID],
                lfs=tuple(lfs),
                muted=muted,
                cast=to_matrix(original),
                original=to_matrix(mute(original, muted)),
                extended=to_matrix(extended),
                thresholds=dict(read_thresholds(self.root / THRESHOLDS, lfs).thresholds),
            )

        return self.recall("votes", paths, read)

    def thresholds(self) -> Thresholds:
        """Return the threshold of each LF and how it was chosen."""
        lfs = list(self.votes().lfs)
        return self.recall("thresholds", [VOTES, THRESHOLDS], lambda: read_thresholds(self.root / THRESHOLDS, lfs))

    def neighbor_columns(self) -> NeighborColumnNames:
        """Return the names of the columns of neighbors, one per LF and class in its support."""
        votes, path = self.votes(), self.root / NEIGHBORS

        def find() -> NeighborColumnNames:
            return find_neighbor_columns(path, list(votes.lfs), votes.muted)

        return self.recall("neighbor columns", [VOTES, MUTED, NEIGHBORS], find)

    def nearest_votes(self) -> NearestVotes:
        """Return the vote of the nearest support item for each item and LF, regardless of thresholds."""

        def read() -> NearestVotes:
            columns = self.neighbor_columns()
            names = [ITEM_ID, *columns.similarity]
            table = self._read_rows(NEIGHBORS, schemas.neighbors(names, self.ids().dtype), names)
            return find_nearest_votes(to_neighbors(table, columns), len(self.votes().lfs))

        return self.recall("nearest votes", [PARAMS, ITEMS, VOTES, MUTED, NEIGHBORS], read)

    def neighbors_of(self, rows: Int64) -> pl.DataFrame:
        """Return the columns of neighbors that count, such as `<LF>/<class position>/similarity`, for these `rows` (r,)."""
        schema = schemas.neighbors(read_schema(self.root / NEIGHBORS), self.ids().dtype)
        counted = self.neighbor_columns()
        return self.gather(NEIGHBORS, schema, rows).select(ITEM_ID, *counted.neighbor, *counted.similarity)

    def embeddings_of(self, rows: Int64) -> Float32:
        """Return the embeddings (r, d) of the items in these `rows` (r,)."""
        width = read_width(self.root)
        found = self.gather(EMBEDDINGS, schemas.embeddings(width), rows)["embedding"]
        return found.to_numpy().reshape(len(rows), width).copy()

    def gather(self, path: Path, schema: schemas.TableSchema, rows: Int64) -> pl.DataFrame:
        """Return these `rows` (r,) of the table at `path`, which has a row per item; rows between them are read, too."""
        kept, position = np.unique(rows, return_inverse=True)
        start, stop = (int(kept[0]), int(kept[-1]) + 1) if len(kept) else (0, 0)
        with explain_read_errors(self.root / path):
            scan = pl.scan_parquet(list(find_shards(self.root / path)))
            found = scan.slice(start, stop - start).collect()
        if not found[ITEM_ID].equals(self.ids()[start:stop]):
            raise DataError(f"{path}: not of the items in {ITEMS}. Run 'epoxy run'.")
        return validate_table(path, found[kept - start], schema)[position]

    def failures(self) -> pl.DataFrame:
        """Return a row per item on which an LF failed, and so abstained: item_id, lf, error."""
        return self.recall("failures", [LF_FAILURES], lambda: read_table(self.root / LF_FAILURES, schemas.FAILURES))

    def label_model(self) -> dict[str, Any]:
        """Return label_model.json."""
        return self.recall("label model", [LABEL_MODEL], lambda: _read_object(self.root / LABEL_MODEL))

    def end_model(self) -> dict[str, Any]:
        """Return end_model.json."""
        return self.recall("end model", [END_MODEL_SUMMARY], lambda: _read_object(self.root / END_MODEL_SUMMARY))

    def model(self) -> SavedModel:
        """Return the fitted model of train."""
        return self.recall("model", [END_MODEL], lambda: read_model(self.root / END_MODEL))

    def _find_methods(self) -> dict[str, Path]:
        """The table of predictions of each method."""

        def find() -> dict[str, Path]:
            return {
                name.partition("/")[0]: path
                for path in (LABEL_MODEL_PREDICTIONS, END_MODEL_PREDICTIONS)
                for name in read_schema(self.root / path)
                if name != ITEM_ID
            }

        return self.recall("methods", [LABEL_MODEL_PREDICTIONS, END_MODEL_PREDICTIONS], find)

    def _read_rows(self, path: Path, schema: schemas.TableSchema, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The table at `path`, which has a row per item."""
        return self._check(path, read_table(self.root / path, schema, columns))

    def _check(self, path: Path, table: pl.DataFrame) -> pl.DataFrame:
        require_same_items(ITEMS, self.splits(), path, table)
        return table


@dataclass(frozen=True, kw_only=True)
class ReleaseData:
    """The files of a release in the folder `path`, whose bytes the caller has checked; read when needed."""

    name: str
    path: Path
    classes: tuple[str, ...]

    def labels(self) -> pl.DataFrame:
        """Return the released labels."""
        return read_table(self.path / "labels.parquet", schemas.end_labels(self.classes))

    def votes(self) -> LFVotes:
        """Return the votes of all LFs; extended votes are restored from provenance."""
        original = read_votes(self.path / "votes.parquet", len(self.classes))
        lfs, ids = tuple(original.columns[1:]), original[ITEM_ID]
        muted = self.muted()
        L = to_matrix(mute(original, muted))
        extended = L.copy(order="F")
        lent = self.provenance().join(original.select(ITEM_ID).with_row_index("row"), on=ITEM_ID, how="left")
        if lent["row"].null_count() or not set(lent["lf"].unique()) <= set(lfs):
            raise DataError(f"{self.path}: provenance is not of its votes. Run 'epoxy releases verify'.")
        column = lent["lf"].replace_strict({lf: at for at, lf in enumerate(lfs)}, return_dtype=pl.Int64)
        extended[lent["row"].to_numpy(), column.to_numpy()] = lent["vote"].to_numpy()
        return LFVotes(
            ids=ids,
            lfs=lfs,
            muted=muted,
            cast=to_matrix(original),
            original=L,
            extended=extended,
            thresholds=dict(read_thresholds(self.path / "thresholds.json", list(lfs)).thresholds),
        )

    def muted(self) -> tuple[str, ...]:
        """Return the names of the LFs that its params mute."""
        return read_stage_params(self.path, "apply").apply.mute

    def provenance(self) -> pl.DataFrame:
        """Return a row per extended vote: item_id, lf, vote, neighbor, similarity."""
        votes = read_schema(self.path / "votes.parquet")
        return read_table(self.path / "provenance.parquet", schemas.provenance(len(self.classes), votes[ITEM_ID]))

    def rows(self) -> pl.DataFrame:
        """Return what each row was labeled from, see tasks/tables/release_rows.py."""
        return read_table(self.path / "rows.parquet", schemas.ROWS)

    def model(self) -> SavedModel:
        """Return the released model."""
        return read_model(self.path / "model.parquet")


def read_provenance(data: ProjectData, ids: pl.Series) -> pl.DataFrame:
    """Return the extended votes of the items with these `ids`: item_id, lf, vote, neighbor, similarity."""
    path = data.root / PROVENANCE
    with explain_read_errors(path):
        found = pl.scan_parquet(list(find_shards(path))).filter(pl.col(ITEM_ID).is_in(ids.implode())).collect()
    return validate_table(path, found, schemas.provenance(len(data.classes), ids.dtype))


def to_positions(names: pl.Series, classes: Sequence[str]) -> Votes:
    """Return the position (n,) int8 of each class name, -1 for null."""
    position = {name: number for number, name in enumerate(classes)}
    return names.replace_strict(position, default=ABSTAIN, return_dtype=pl.Int8).fill_null(ABSTAIN).to_numpy()


def to_names(positions: Votes, classes: Sequence[str]) -> pl.Series:
    """Return the class names of `positions` (n,), null for -1."""
    names = pl.Series([*classes, None], dtype=pl.String)
    return names.gather(np.where(positions < 0, len(classes), positions).astype(np.int64))


def add_raw_columns(answer: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return `answer` with the raw columns of `items`, whose rows are the same; names that are taken get ` (raw)`."""
    raw = [name for name in items.columns if name not in (ITEM_ID, "split")]
    taken = set(answer.columns)
    return answer.with_columns(items[name].alias(f"{name} (raw)" if name in taken else name) for name in raw)


def find_name(asked: str, known: Sequence[str], what: str) -> str:
    """Return `asked` if it is a `known` name.

    Raises
    ------
    QueryError
        It is not; the message suggests the most similar names.
    """
    if asked in known:
        return asked
    near = difflib.get_close_matches(asked, known, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(list(known)[:20])}."
    raise QueryError(f"no {what} {asked[:64]!r}. {hint}")


def require_not_negative(**numbers: int | None) -> None:
    """Check that none of `numbers`, by name, is below 0; None is not.

    Raises
    ------
    QueryError
        A number is negative.
    """
    for name, number in numbers.items():
        if number is not None and number < 0:
            raise QueryError(f"{name} {number}: expected 0 or more.")


def _identify(path: Path) -> object:
    """A value that changes whenever the artifact at `path` is written; None if it does not exist."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [(file.name, file.stat()) for file in files]
    except OSError:
        return None
    return tuple((name, state.st_mtime_ns, state.st_size, state.st_ino) for name, state in states)


def _read_object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: not what its stage writes. Run 'epoxy run {path.parent.name}'.")
    return found
