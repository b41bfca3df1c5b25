"""What differs between two releases, and how a label came about: as data and as text to read."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from flows.releases.figures import Flips, LfFigures, compare_labels
from flows.releases.lineage import Record, read_log
from flows.releases.manifest import FOLDER
from flows.releases.store import (
    LOG,
    Release,
    find_release,
    read_document,
    read_figures,
    read_labels,
    read_released_rows,
    verify_release,
)
from tasks.core.types import ABSTAIN, ITEM_ID
from tasks.errors import DataError
from tasks.report.evaluation import SHIPPED, name_method
from tasks.tables import schemas
from tasks.tables.parquet import read_rows, read_schema
from tasks.tables.paths import ITEMS
from tasks.tables.release_rows import RowChanges, compare_rows

Scalar = float | int | str | bool | None


@dataclass(frozen=True, kw_only=True)
class Change:
    """A value that differs; None where a release does not have it."""

    name: str
    before: Scalar
    after: Scalar


@dataclass(frozen=True, kw_only=True)
class Difference:
    """All that differs from release `before` to release `after`; what is equal is left out.

    shipped: the method that `after` ships. lfs: `<lf>.<votes, coverage, coverage_extended, agreement,
    threshold>`. model: learned parameters, by their path in label_model.json and end_model.json. balance: share of each
    class among labels. inputs: paths of data and code that differ.
    """

    before: str
    after: str
    rows: RowChanges
    labels: Flips
    shipped: str
    metrics: tuple[Change, ...]
    lfs: tuple[Change, ...]
    model: tuple[Change, ...]
    balance: tuple[Change, ...]
    params: tuple[Change, ...]
    inputs: tuple[str, ...]

    @property
    def shipped_metrics(self) -> tuple[Change, ...]:
        """Those of `metrics` that are of the shipped labels."""
        return tuple(change for change in self.metrics if change.name.split(".")[1:2] == [self.shipped])


def compare_releases(root: Path, before: str, after: str) -> Difference:
    """What differs from release `before` to release `after`; both are verified first.

    Raises
    ------
    DataError
        One of them does not exist, is not here, or is damaged.
    """
    old, new = (verify_release(root, find_release(root, name)) for name in (before, after))
    old_figures, new_figures = read_figures(old), read_figures(new)
    old_inputs, new_inputs = old.manifest.inputs, new.manifest.inputs
    return Difference(
        before=old.id,
        after=new.id,
        rows=compare_rows(read_released_rows(old), read_released_rows(new)),
        labels=compare_labels(read_labels(old), read_labels(new)),
        shipped=str(read_document(new, "end_model.json").get("shipped", SHIPPED)),
        metrics=_compare_documents(old, new, "metrics.json"),
        lfs=_compare(_flatten_lfs(old_figures.lfs), _flatten_lfs(new_figures.lfs)),
        model=(
            *_compare_documents(old, new, "label_model.json"),
            *_compare_documents(old, new, "end_model.json"),
        ),
        balance=_compare(_shares(old_figures.labels), _shares(new_figures.labels)),
        params=_compare_documents(old, new, "params.yaml"),
        inputs=tuple(
            sorted(path for path in {*old_inputs, *new_inputs} if old_inputs.get(path) != new_inputs.get(path))
        ),
    )


def tabulate_difference(difference: Difference) -> dict[str, Any]:
    """`difference` as plain values for JSON, every flipped label with its item id."""
    labels = difference.labels
    parts = {"metrics", "lfs", "model", "balance", "params"}
    return {
        "before": difference.before,
        "after": difference.after,
        "rows": asdict(difference.rows),
        "labels": {
            "common": labels.common,
            "flipped": labels.flipped.height,
            "new": labels.new,
            "deleted": labels.deleted,
            "flips": labels.flipped.to_dicts(),
        },
        **{
            part: {
                change.name: {"before": change.before, "after": change.after} for change in getattr(difference, part)
            }
            for part in sorted(parts)
        },
        "inputs": list(difference.inputs),
    }


def describe_difference(
    difference: Difference, *, shown: int = 20, is_whole: bool = False, texts: Mapping[object, str] | None = None
) -> str:
    """Return `difference` for a reader: what it means for the shipped labels first, the other figures counted.

    shown: lines of each part. is_whole: the other figures as well. texts: of flipped items, by id.
    """
    return "\n".join(_lines(difference, shown, is_whole, texts or {}))


def read_texts(root: Path, difference: Difference, count: int = 20) -> dict[object, str]:
    """Return the text of the first `count` flipped items, by id: those that the last run of the project at `root` has.

    Raises
    ------
    DataError
        Its items are damaged.
    """
    ids = difference.labels.flipped[ITEM_ID].head(count)
    if not len(ids) or not (root / ITEMS).exists() or read_schema(root / ITEMS)[ITEM_ID] != ids.dtype:
        return {}
    rows = read_rows(root / ITEMS, schemas.ITEMS, ids)
    columns = [name for name, kind in rows.schema.items() if kind == pl.String and name not in (ITEM_ID, "split")]
    return {row[ITEM_ID]: " ".join(row[columns[0]].split()) for row in rows.to_dicts() if columns and row[columns[0]]}


def _lines(difference: Difference, shown: int, is_whole: bool, texts: Mapping[object, str]) -> Iterator[str]:
    labels = difference.labels
    yield f"{difference.before} -> {difference.after}"
    yield f"shipped labels ({name_method(difference.shipped)}): {_count(difference.shipped_metrics, ' metric')}"
    yield from _changes(difference.shipped_metrics, shown, shipped=difference.shipped)
    share = "" if labels.share is None else f" ({labels.share:.2%})"
    yield f"rows: {difference.rows.describe()}"
    yield f"labels: {labels.flipped.height:,} of {labels.common:,} common items flipped{share}"
    for item, old, new in labels.flipped.head(shown).iter_rows():
        text = texts.get(item, "")
        yield f"  {item}: {old} -> {new}" + (f"  {text[:_TEXT]}{'…' if len(text) > _TEXT else ''}" if text else "")
    yield from _rest(labels.flipped.height, shown)
    yield f"class balance: {_count(difference.balance)}"
    yield from _changes(difference.balance, shown)
    yield f"params: {_count(difference.params)}"
    yield from _changes(difference.params, shown)
    others = [change for change in difference.metrics if change not in difference.shipped_metrics]
    rest = (("other metrics", others), ("labeling functions", difference.lfs), ("label model", difference.model))
    if is_whole:
        for title, changes in rest:
            yield f"{title}: {_count(changes)}"
            yield from _changes(changes, shown)
        yield f"data and code: {_count(difference.inputs)}"
        for path in difference.inputs[:shown]:
            yield f"  {path}"
        yield from _rest(len(difference.inputs), shown)
        return
    counted = [(title, len(changes)) for title, changes in (*rest, ("data and code", difference.inputs)) if changes]
    if counted:
        yield f"also changed: {', '.join(f'{title} {count:,}' for title, count in counted)}; --all lists them"


_TEXT = 100
"""Characters of a flipped item's text that are shown."""


def _count(changes: Sequence[object], what: str = "") -> str:
    plural = "s" if what and len(changes) > 1 else ""
    return f"{len(changes):,}{what}{plural} changed" if changes else "no change"


def _changes(changes: Sequence[Change], shown: int, *, shipped: str | None = None) -> Iterator[str]:
    """A line each, with the difference of numbers; of metrics of the method `shipped` without its name."""
    for change in changes[:shown]:
        before, after, gap = write_change(change)
        name = change.name if shipped is None else name_metric(change.name, shipped)
        yield f"  {name}: {before or '-'} -> {after or '-'}" + (f" ({gap})" if gap else "")
    yield from _rest(len(changes), shown)


def name_metric(name: str, shipped: str = "") -> str:
    """Return a metric's path in metrics.json in words, without the method if it is `shipped`.

    >>> name_metric("test.end_model.log_loss", "end_model"), name_metric("valid.epoxy.accuracy")
    ('test log loss', 'valid, Epoxy: FlyingSquid, extended votes: accuracy')
    """
    split, method, *rest = name.split(".")
    words = " ".join(rest or [method]).replace("_", " ").replace("macro f1", "macro F1").replace("brier", "Brier score")
    return f"{split} {words}" if not rest or method == shipped else f"{split}, {name_method(method)}: {words}"


def write_change(change: Change) -> tuple[str, str, str]:
    """Return both values as text and their difference, numbers with equally many decimals; empty where there is none.

    >>> write_change(Change(name="accuracy", before=0.5, after=0.9871234))
    ('0.5000', '0.9871', '+0.4871')
    >>> write_change(Change(name="votes", before=1200, after=None))
    ('1,200', '', '')
    """
    pair = [change.before, change.after]
    numbers = [value for value in pair if isinstance(value, float | int) and not isinstance(value, bool)]
    style = "," if not any(isinstance(value, float) for value in numbers) else _choose_style(numbers)
    before, after = (
        ""
        if value is None
        else format(value, style)
        if value in numbers and not isinstance(value, bool)
        else str(value)
        for value in pair
    )
    return before, after, f"{numbers[1] - numbers[0]:+{style}}" if len(numbers) == 2 else ""


def _choose_style(numbers: Sequence[float]) -> str:
    """The format of these numbers: four decimals, fewer if they are large, four digits if they are tiny."""
    largest = max(abs(number) for number in numbers)
    if not 0.001 <= largest < 1e6:
        return ".4f" if largest == 0 else ".4g"
    return f".{min(max(3 - math.floor(math.log10(largest)), 0), 4)}f"


def _rest(count: int, shown: int) -> Iterator[str]:
    if count > shown:
        yield f"  and {count - shown:,} more"


def _compare_documents(old: Release, new: Release, name: str) -> tuple[Change, ...]:
    before, after = (dict(_flatten(read_document(release, name))) for release in (old, new))
    return _compare(before, after)


def _compare(before: Mapping[str, Scalar], after: Mapping[str, Scalar]) -> tuple[Change, ...]:
    names = [*before, *(name for name in after if name not in before)]
    return tuple(
        Change(name=name, before=before.get(name), after=after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    )


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Scalar]]:
    """Every leaf of nested mappings and lists with its path, as `a.b.0`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flatten(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _flatten(inner, f"{path}.{position}" if path else str(position))
    else:
        yield path, value if isinstance(value, float | int | str | None) else str(value)


def _flatten_lfs(lfs: Mapping[str, LfFigures]) -> dict[str, Scalar]:
    return {f"{lf}.{name}": value for lf, figures in lfs.items() for name, value in figures.model_dump().items()}


def _shares(counts: Mapping[str, int]) -> dict[str, Scalar]:
    total = sum(counts.values())
    return {name: count / total if total else None for name, count in counts.items()}


@dataclass(frozen=True, kw_only=True)
class TracedVote:
    """A vote on an item; neighbor and similarity of an extended vote, None for the LF's original vote."""

    lf: str
    vote: str
    neighbor: str | int | None
    similarity: float | None
    threshold: float | None


@dataclass(frozen=True, kw_only=True)
class Trace:
    """How a label came about: votes, model, code, and every act that made this release current.

    base: the release whose model and support labeled the item later; None where a run labeled it.
    """

    release: str
    item_id: str | int
    label: str
    base: str | None
    probabilities: dict[str, float]
    votes: tuple[TracedVote, ...]
    lf_sources: dict[str, str]
    commit: str | None
    records: tuple[Record, ...]


def trace_label(root: Path, name: str, item: str) -> Trace:
    """How the label of `item` (its id as text) in release `name` came about.

    Raises
    ------
    DataError
        The release does not exist, is not here or is damaged, or it has no such item.
    """
    release = verify_release(root, find_release(root, name))
    labels = read_labels(release)
    is_number = labels.schema[ITEM_ID] == pl.Int64
    identity: str | int = int(item) if is_number and item.lstrip("-").isascii() and item.lstrip("-").isdigit() else item
    found = labels.filter(pl.col(ITEM_ID).cast(pl.String) == str(identity))
    if found.is_empty():
        raise DataError(f"{FOLDER / release.id}: no item {item!r} among {labels.height:,}. Check the id.")
    row = found.row(0, named=True)
    mine = pl.col(ITEM_ID).cast(pl.String) == str(identity)
    votes = pl.read_parquet(release.path / "votes.parquet").filter(mine).drop(ITEM_ID).row(0, named=True)
    lent = pl.read_parquet(release.path / "provenance.parquet").filter(mine).to_dicts()
    thresholds = read_document(release, "thresholds.json")["thresholds"]
    classes = release.manifest.classes
    original = [
        TracedVote(lf=lf, vote=classes[vote], neighbor=None, similarity=None, threshold=None)
        for lf, vote in votes.items()
        if vote != ABSTAIN
    ]
    extended = [
        TracedVote(
            lf=row["lf"],
            vote=classes[row["vote"]],
            neighbor=row["neighbor"],
            similarity=row["similarity"],
            threshold=thresholds.get(row["lf"]),
        )
        for row in lent
    ]
    records = read_log(root / FOLDER / LOG).records
    return Trace(
        release=release.id,
        item_id=row[ITEM_ID],
        label=row["label"],
        base=pl.read_parquet(release.path / "rows.parquet").filter(mine)["base"].item(),
        probabilities={name: row[f"p_{name}"] for name in classes},
        votes=(*original, *extended),
        lf_sources=release.manifest.lf_sources,
        commit=release.manifest.commit,
        records=tuple(record for record in records if record.release == release.id),
    )


def describe_trace(trace: Trace) -> str:
    """`trace` for a reader."""
    best = sorted(trace.probabilities.items(), key=lambda entry: -entry[1])[:5]
    lines = [
        f"item {trace.item_id} in release {trace.release}: {trace.label}",
        f"labeled by the model and support of release {trace.base}, without a refit"
        if trace.base
        else "labeled by a run of the pipeline",
        "probabilities: " + ", ".join(f"{name} {value:.4g}" for name, value in best),
        f"votes: {len(trace.votes) or 'none'}",
    ]
    for vote in trace.votes:
        origin = "its own vote"
        if vote.neighbor is not None and vote.similarity is not None:
            limit = "" if vote.threshold is None else f", threshold {vote.threshold:.6g}"
            origin = f"from item {vote.neighbor} (similarity {vote.similarity:.6g}{limit})"
        lines.append(f"  {vote.lf}: {vote.vote}, {origin}")
    lines += [f"source {path}: sha256 {content}" for path, content in trace.lf_sources.items()]
    lines.append(f"commit: {trace.commit or 'unknown'}")
    lines += [
        f"run {record.run_id}: {record.action} {record.time} by {record.user} on {record.host}"
        + (f", accepted: {record.accepted}" if record.accepted else "")
        for record in trace.records
    ]
    return "\n".join(lines)
