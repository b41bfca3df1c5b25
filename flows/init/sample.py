"""Guesses about a table of items: its columns of ids, texts, splits and gold, and its classes."""

import csv
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.core.class_names import find_twins
from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.gold import is_dealt_to_valid
from tasks.params import Split
from tasks.readers.files import explain_foreign_errors
from tasks.readers.raw_tables import find_separator, parse_jsonl, read_raw_table

_NAMES = {
    "item_id": ("item_id", "id", "uuid", "guid", "key", "message_id", "doc_id", "comment_id"),
    "text": ("text", "body", "content", "message", "comment", "sentence", "review", "title"),
    "split": ("split", "partition", "subset", "fold"),
    "gold": ("gold", "label", "class", "category", "target", "y", "topic", "intent", "sentiment", "tag"),
}
"""Usual names of such columns, most likely first."""

_MOST_CLASSES = 50
"""Most distinct values of a column that is taken for gold without being named."""

_MOST_REPEATED = 0.2
"""Share of rows that repeat a value, up to which a column looks like ids with mistakes, rather than like something else."""

_MISSING = {"nan", "null", "<na>", "n/a", "#n/a"}
"""What programs write for a value that is missing, when asked to write something."""

_MOST_LFS = 6
"""Labeling functions of a new project at most: enough to reach every class of most tasks, few enough to read."""

_FEWEST_USES = 2
"""Items that a word occurs in before it is proposed for a labeling function."""

VALID_SHARE = 0.5
"""Of the gold of a new project; the other half judges."""

_SALTS = 1000
"""Salts that are tried at most: of ten classes with four rows each, the best of a thousand splits nearly all evenly."""

_HASHES = 200_000
"""Hashes that are computed at most to choose one, a quarter of a second; so much gold is split evenly by any salt."""

_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Letters of scripts that put no blank between words: Thai, Lao, Burmese, Khmer, kana and Chinese characters."""

_WORD = re.compile(rf"[^\W\d_{_UNSPACED}]{{3,}}")

_PAIR = re.compile(rf"(?=([{_UNSPACED}]{{2}}))")
"""Two letters of such a script, which stand for a word."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns; None if there is no such column, or none is known."""

    item_id: str | None = None
    text: str | None = None
    split: str | None = None
    gold: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The items in the file at `path`, and the roles of its columns; `classes`: the classes in gold, ascending.

    gold: the name of each row's class, null where it is unknown; None without a column of them.
    separator: what is between columns of a CSV where ingest expects commas, else None. blank_rows: rows without any value, which are
    not in the table.
    """

    path: Path
    table: pl.DataFrame
    columns: Columns
    classes: tuple[str, ...]
    gold: pl.Series | None = None
    separator: str | None = None
    blank_rows: int = 0

    @property
    def rows_without_text(self) -> int:
        """The number of items that have no text to encode."""
        return self.table[self.columns.text or "text"].null_count()

    @property
    def is_readable(self) -> bool:
        """Whether ingest can read the file as it is."""
        return self.separator is None and not self.blank_rows and self.path.suffix.lower() == self.suffix

    @property
    def suffix(self) -> str:
        """That of the file which ingest will read: what it cannot read as it is, is written anew."""
        return (
            ".csv" if self.separator else ".jsonl" if self.path.suffix.lower() == ".json" else self.path.suffix.lower()
        )


def read_sample(path: Path, named: Columns, classes: Sequence[str] = ()) -> Sample:
    """The items at `path`; columns that are not `named`, and classes that are not given, are guessed.

    Raises
    ------
    DataError
        The file cannot be read, has no such column or no text, or its values do not fit.
    """
    separator = _find_separator(path)
    if path.suffix.lower() == ".json":
        table = _read_json(path)
    else:
        table = read_raw_table(path.parent, path).table if separator is None else _read_separated(path, separator)
    whole, table = table.height, table.filter(~pl.all_horizontal(pl.all().is_null()))
    if table.is_empty():
        raise DataError(f"{path}: no items; expected at least one row.")
    for name in (named.item_id, named.text, named.split, named.gold):
        if name is not None and name not in table.columns:
            raise DataError(f"{path}: no column {name!r}; it has {', '.join(table.columns)}. Name another one.")
    item_id = named.item_id or _find(table, "item_id", _are_ids)
    if item_id is None and named.text != table.columns[0]:
        item_id = _find_first_ids(table)
    if (ids := item_id or (ITEM_ID if ITEM_ID in table.columns else None)) and not _are_ids(table[ids]):
        _refuse_ids(path, table[ids])
    split = named.split or _find(table, "split", lambda column: _are_splits(column))
    gold = named.gold or _find(table, "gold", lambda column: column.n_unique() <= _MOST_CLASSES)
    texts = [name for name in table.columns if table[name].dtype == pl.String and name not in (item_id, split, gold)]
    text = named.text or _find(table.select(texts), "text", lambda _: True) or _find_longest(table, texts)
    if text is None or table[text].dtype != pl.String:
        raise DataError(f"{path}: no column of text; it has {', '.join(table.columns)}. Name one with --text.")
    if split is None and "split" in table.columns:
        _refuse_splits(path, table["split"])
    known = None if gold is None else _read_gold(path, table[gold], classes)
    found = () if known is None else tuple(known.drop_nulls().unique().sort())
    if not classes and (blank := next((name for name in found if name.casefold() in _MISSING), None)):
        raise DataError(
            f"{path}: column {gold!r} has {(known == blank).sum():,} rows of class {blank!r}, which looks like a value that is "
            "missing. Leave these empty, or name all classes with --classes if it is one."
        )
    if pair := find_twins(classes or found):
        raise DataError(
            f"{path}: classes {pair[0]!a} and {pair[1]!a} differ in blanks or in the form of Unicode alone. Write both alike."
        )
    if strangers := sorted({*found} - {*classes}) if len(classes) > 1 else []:
        raise DataError(
            f"{path}: column {gold!r} has {strangers[0]!r}, which is none of --classes {','.join(classes)}. Name all classes "
            "there, or another column with --gold."
        )
    return Sample(
        path=path,
        table=table,
        columns=Columns(item_id=item_id, text=text, split=split, gold=gold),
        classes=tuple(classes) or found,
        gold=known,
        separator=separator,
        blank_rows=whole - table.height,
    )


def list_candidates(sample: Sample) -> list[str]:
    """The columns that could hold gold: text that repeats, as names of classes do; those with the fewest names first."""
    found = []
    for name in sample.table.columns:
        values = sample.table[name].drop_nulls()
        if values.dtype == pl.String and 2 <= values.n_unique() <= min(_MOST_CLASSES, len(values) // 2):
            found.append((values.n_unique(), name))
    return [name for _, name in sorted(found)]


def _find_separator(path: Path) -> str | None:
    """What is between the columns of the CSV or TSV file at `path`; None for commas, and for files of other kinds."""
    if path.suffix.lower() not in (".csv", ".tsv"):
        return None
    with explain_foreign_errors(path), path.open("rb") as file:
        line = file.readline().decode("utf-8-sig", errors="replace")
    return "\t" if path.suffix.lower() == ".tsv" else find_separator(line)


def _read_separated(path: Path, separator: str) -> pl.DataFrame:
    """The table in a file with other separators than commas, read as if it had commas."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "items.csv"
        with (
            explain_foreign_errors(path),
            path.open(encoding="utf-8-sig", newline="") as rows,
            copy.open("w", encoding="utf-8", newline="") as file,
        ):
            try:
                csv.writer(file).writerows(csv.reader(rows, delimiter=separator))
            except UnicodeDecodeError:
                raise DataError(f"{path} is not UTF-8. Save it as UTF-8 (spreadsheets: 'CSV UTF-8').") from None
        try:
            return read_raw_table(copy.parent, copy).table
        except DataError as error:
            raise DataError(str(error).replace(str(copy), str(path))) from None


def _read_json(path: Path) -> pl.DataFrame:
    """The table in a file of a list of JSON objects, or of an object in each line."""
    with explain_foreign_errors(path):
        content = path.read_bytes()
    if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        try:
            rows = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is no JSON: {error}. Write the file again.") from None
        strangers = [number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)]
        if strangers:
            raise DataError(
                f"{path}: element {strangers[0]:,} of the list is no object; expected an object for each item."
            )
        content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    try:
        return parse_jsonl(path, content)
    except DataError as error:
        raise DataError(f"{error} A .json file holds a list of objects, or an object in each line.") from None


def choose_salt(sample: Sample, ids: pl.Series) -> int:
    """The salt (`gold.salt`) by which each class of the gold that there is falls half into valid and half into test, nearly.

    `ids` are those of the rows. The split of an item stays a hash of its id, so that more rows move none; what is chosen is by
    which hash. Distance from halves is counted as in a chi-square test, so that a rare class matters as much as a frequent
    one; among equals the lowest salt wins. 0 where the table has splits.
    """
    columns = sample.columns
    if sample.gold is None or columns.split is not None:
        return 0
    by_class: dict[str, list[str]] = {}
    for item, gold in zip(ids, sample.gold, strict=True):
        if gold is not None:
            by_class.setdefault(gold, []).append(str(item))
    n = sum(map(len, by_class.values()))

    def measure(salt: int) -> float:
        return sum(
            (sum(is_dealt_to_valid(item, VALID_SHARE, salt) for item in items) - VALID_SHARE * len(items)) ** 2
            / len(items)
            for items in by_class.values()
        )

    return min(range(max(1, min(_SALTS, _HASHES // max(n, 1)))), key=measure)


def find_telling_words(sample: Sample, ids: pl.Series, salt: int = 0) -> dict[str, list[str]]:
    """Up to three words for each of up to six classes, the likeliest signs of them in valid gold; else two frequent words.

    `ids` are those of the rows, `salt` says how their gold is dealt. Gold that will be of test is not looked at.
    """
    table, columns = sample.table, sample.columns
    assert columns.text is not None, "a sample has a text"
    words = [
        {*map(str.casefold, _WORD.findall(text or "")), *_PAIR.findall(text or "")} for text in table[columns.text]
    ]
    uses = _count(words)
    known: list[tuple[set[str], str]] = []
    if sample.gold is not None:
        splits = table[columns.split] if columns.split is not None else pl.Series([None] * table.height)
        known = [
            (found, gold)
            for found, item, split, gold in zip(words, ids, splits, sample.gold, strict=True)
            if gold is not None
            and (split == Split.VALID if columns.split else is_dealt_to_valid(item, VALID_SHARE, salt))
        ]
    signs: dict[str, list[tuple[float, str]]] = {}
    for name in sample.classes:
        inside = _count(found for found, gold in known if gold == name)
        outside = _count(found for found, gold in known if gold != name)
        n = max(sum(gold == name for _, gold in known), 1)
        rest = max(len(known) - n, 1)
        scores = ((inside[word] / n - outside[word] / rest, word) for word in inside if uses[word] >= _FEWEST_USES)
        signs[name] = sorted(((score, word) for score, word in scores if score > 0), key=lambda one: (-one[0], one[1]))[
            :3
        ]
    best = sorted(sample.classes, key=lambda name: -max((score for score, _ in signs[name]), default=0.0))
    best = best[: max(2, min(_MOST_LFS, sum(map(bool, signs.values()))))]
    # Words that occur in a tenth of the items: the user will know whether they mean something.
    frequent = sorted(uses, key=lambda word: (abs(uses[word] - table.height / 10), word))
    telling = {
        name: [word for _, word in signs[name]] or frequent[place : place + 1]
        for place, name in enumerate(sorted(best))
    }
    return {name: found for name, found in telling.items() if found}


def is_unspaced(word: str) -> bool:
    """Whether `word` is of a script that puts no blank between words.

    >>> [is_unspaced(word) for word in ("請求", "invoice")]
    [True, False]
    """
    return bool(_PAIR.match(word))


def _count(sets: Iterable[set[str]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for words in sets:
        counts.update(words)
    return counts


def _find(table: pl.DataFrame, kind: str, fits: Callable[[pl.Series], bool]) -> str | None:
    """The first column with a usual name of this kind that fits."""
    lower = {name.strip().casefold(): name for name in reversed(table.columns)}
    for name in _NAMES[kind]:
        if name in lower and fits(table[lower[name]]):
            return lower[name]
    return None


def _are_ids(column: pl.Series) -> bool:
    return (
        (column.dtype == pl.String or column.dtype.is_integer()) and not column.has_nulls() and column.is_unique().all()
    )


def _refuse_ids(path: Path, column: pl.Series) -> None:
    """Say why the column that has to hold ids does not; ingest would refuse it."""
    repeated = column.drop_nulls().filter(column.drop_nulls().is_duplicated())
    if column.has_nulls():
        fault = f"has {column.null_count():,} empty values"
    elif len(repeated):
        fault = f"has {repeated.n_unique():,} values twice or more, such as {repeated[0]!r}"
    else:
        fault = f"is {column.dtype}"
    raise DataError(
        f"{path}: column {column.name!r} {fault}; expected an id for each row, text or integers, each once. Mend it, name another "
        f"column with --id, or rename or leave out the column: then ids are made from the texts."
    )


def _find_first_ids(table: pl.DataFrame) -> str | None:
    """The first column, if its values are all different and none is empty or of several words."""
    first = table.get_column(table.columns[0])
    # pandas leaves the column of its row numbers without a name; they are of other rows in the next file.
    if not first.name.strip() or first.name.casefold() in _NAMES["text"] or not _are_ids(first):
        return None
    others = [name for name in table.columns[1:] if table[name].dtype == pl.String]
    return first.name if others and not first.cast(pl.String).str.contains(r"^$|\s").any() else None


def find_repeated_id(sample: Sample) -> tuple[str, str] | None:
    """The column that would have been taken for ids if its values did not repeat, and one that does; None if there is none."""
    if sample.columns.item_id is not None:
        return None
    table = sample.table.drop(
        [name for name in (sample.columns.text, sample.columns.gold, sample.columns.split) if name]
    )
    for name in table.columns:
        if name.strip().casefold() not in _NAMES["item_id"] and name != sample.table.columns[0]:
            continue
        column = table[name].cast(pl.String)
        is_repeated = column.is_duplicated()
        if (
            name.strip()
            and not (column.has_nulls() or column.str.contains(r"^$|\s").any())
            and 0 < is_repeated.sum() <= _MOST_REPEATED * len(column)
        ):
            return name, str(column.filter(is_repeated)[0])
    return None


def _are_splits(column: pl.Series) -> bool:
    return column.dtype == pl.String and column.is_in([str(split) for split in Split]).fill_null(False).all()


def _find_longest(table: pl.DataFrame, names: Sequence[str]) -> str | None:
    """The column with the longest texts."""
    return max(names, key=lambda name: table[name].str.len_chars().mean() or 0, default=None)


def _refuse_splits(path: Path, column: pl.Series) -> None:
    """Say which values of the column 'split' are no split; ingest would refuse them."""
    values = (
        column.filter(~column.is_in([str(split) for split in Split]).fill_null(False))
        if column.dtype == pl.String
        else column
    )
    first = "missing" if values[0] is None else repr(values[0])
    raise DataError(
        f"{path}: column 'split' has a value that is {first}; expected {', '.join(Split)}. Write it as these, or call the "
        "column otherwise if it means something else."
    )


def _read_gold(path: Path, gold: pl.Series, classes: Sequence[str]) -> pl.Series:
    """The name of each row's class, null where it is unknown; numbers are positions in `classes`, or names without them."""
    if gold.dtype in (pl.Categorical, pl.Enum):
        gold = gold.cast(pl.String)
    if gold.dtype.is_float() and (gold.is_nan() | gold.is_null() | (gold == gold.round())).all():
        gold = gold.fill_nan(None).cast(pl.Int64)  # pandas turns integers with missing values into floats
    if gold.dtype.is_integer():
        known = gold.drop_nulls().unique().sort().to_list()
        if not classes and known != list(range(len(known))):
            raise DataError(
                f"{path}: column '{gold.name}' has numbers that are not 0 to k - 1, so they could be names or positions of "
                "classes. Write them as text, or give --classes, in which they are positions from 0."
            )
        if classes and not all(0 <= position < len(classes) for position in known):
            raise DataError(
                f"{path}: column '{gold.name}' has numbers from {known[0]} to {known[-1]}; as positions in the "
                f"{len(classes)} --classes they would be 0 to {len(classes) - 1}. Write names as text."
            )
        names = {position: classes[position] if classes else str(position) for position in known}
        return gold.replace_strict(names, return_dtype=pl.String)
    if gold.dtype == pl.Null:
        return gold.cast(pl.String)
    if gold.dtype != pl.String:
        raise DataError(f"{path}: column '{gold.name}' is {gold.dtype}; expected names of classes. Name another one.")
    return gold.to_frame().select(pl.when(pl.first().str.strip_chars() != "").then(pl.first())).to_series()
