"""A new project without the tool's code: params, pipeline, labeling functions and data."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from flows.init.pipeline import TEMPLATE, write_pipeline
from flows.init.sample import (
    VALID_SHARE,
    Sample,
    choose_salt,
    find_repeated_id,
    find_telling_words,
    is_unspaced,
    list_candidates,
)
from tasks.__main__ import STAGES
from tasks.errors import ParamsError
from tasks.params import MOST_CLASSES, DescribeParams

_PARAMS = """\
# Every key is described in the reference of Epoxy Flow; an unknown key is an error.
classes: {classes}

ingest:
  source: data/raw
  items: {items}
  item_id: {item_id}
{columns}  encoder: {{model: tfidf, column: {text}}}   # or embeddings of your own: a file, and embedding_ids
{quarantine}
gold:
  source: gold            # tables of what people decide later: epoxy gold add
  resolve: majority       # or dawid_skene
  column: {deal}
  train: deal             # gold of train items goes to valid or test by a hash of the id, or is refused (refuse)
  valid_share: {valid_share}
  salt: {salt}                # by which gold that there was is split evenly; leave it: another one moves gold

index: {{kind: auto, metric: cosine}}

apply:
  source: lfs/first.py
{describe}
search: {{reference: [train], target_recall: 0.99}}

tune: {{method: per_lf, metric: accuracy, candidates: 20}}

extend: {{scope: cells}}

fit: {{label_model: auto, class_balance: valid}}

train: {{class_balance: estimated, gold: valid, seed: 0}}

evaluate: {{bootstrap: 1000, confidence: 0.95, seed: 0}}
"""

_QUARANTINE = """\
  quarantine: {{rows: {rows}}}    # so many rows had no text; they are left out and listed by 'epoxy quarantine'
"""

_LFS = '''\
"""First labeling functions: each votes where a text has one of its words. Write better ones, then `epoxy run` again."""

from tasks.labeling import keyword_lf

{lfs}'''

_README = """\
# {name}

Labels for `{items}` by weak supervision with Epoxy Flow; the tool is installed, and nothing of its code is here.

| what | where |
|---|---|
| items | `data/raw/` (large ones: `dvc add data/raw`) |
| what is asked for | `params.yaml` |
| labeling functions | `lfs/` |
| gold that comes later | `gold/`, by `epoxy gold add` |
| what may be released | `release.yaml` |
| what runs every night | `prefect.yaml`, by `epoxy server` |

    epoxy run        # labels, metrics and a report; what is up to date is not computed again
    epoxy show       # where they are
    epoxy release    # the labels for others
    epoxy upgrade    # after another version of the tool was installed
"""

_GITIGNORE = """\
__pycache__/
data/.cache/
/releases/?*/
/releases/.?*
/dvc_plots/
{stages}"""


_ORDINALS = {"first": "one", "second": "two", "third": "three", "fourth": "four", "fifth": "five", "sixth": "six"}
"""Names of the labeling functions of a new project, each with their number so far."""

_SEPARATORS = {";": "semicolons", "\t": "tabs"}


def create_project(folder: Path, sample: Sample, meanings: Mapping[str, list[str]] | None = None) -> tuple[str, ...]:
    """Make the project in `folder`, which must be empty or new; lines on what was found and decided.

    meanings: by class one or more sentences that say what it means.

    Raises
    ------
    ParamsError
        The folder is not empty, fewer than two classes are known or too many, or another one or two in the same words are described.
    """
    if folder.exists() and any(path.name != ".git" for path in folder.iterdir()):
        raise ParamsError(f"{folder} is not empty. Name a new folder; nothing is written over.")
    if len(sample.classes) < 2:
        named = f"gold in column {sample.columns.gold!r}" if sample.columns.gold else "no column of gold was recognized"
        candidates = [name for name in list_candidates(sample) if name != sample.columns.gold]
        raise ParamsError(
            f"{sample.path}: fewer than two classes are known ({', '.join(sample.classes) or 'none'}; {named}). Name the "
            f"column that has them, with --gold {shlex.quote(candidates[0]) if candidates else 'COLUMN'}"
            + (f" (or {', '.join(map(shlex.quote, candidates[1:]))})" if candidates[1:] else "")
            + ", or the classes: --classes ham,spam"
        )
    if len(sample.classes) > MOST_CLASSES:
        source = f"column {sample.columns.gold!r}" if sample.columns.gold else "--classes"
        raise ParamsError(
            f"{sample.path}: {source} has {len(sample.classes):,} classes; a vote is a byte, so at most "
            f"{MOST_CLASSES}. Merge some, name another column with --gold, or the classes: --classes ham,spam"
        )
    if unknown := sorted({*(meanings or {})} - {*sample.classes}):
        raise ParamsError(f"--describe: {unknown[0]!r} is none of the classes {', '.join(sample.classes)}.")
    if meanings:
        _check_meanings(meanings)
    columns = sample.columns
    raw = folder / "data" / "raw"
    raw.mkdir(parents=True)
    items = raw / f"items{sample.suffix}"
    if columns.item_id is None:
        ids = _make_ids(sample)
        _write_like(items, sample.table.select(ids, pl.all()))
    else:
        ids = sample.table[columns.item_id]
        if sample.is_readable:
            shutil.copyfile(sample.path, items)
        else:
            _write_like(items, sample.table)
    salt = choose_salt(sample, ids)
    words = _find_words(sample, ids, salt, meanings or {})
    _write_files(folder, sample, items.name, salt, words, meanings or {})
    write_pipeline(folder)
    if shutil.which("git") and not _is_in_git(folder):
        subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
    return _describe(sample, folder, meanings or {}, words)


def _write_files(
    folder: Path,
    sample: Sample,
    items: str,
    salt: int,
    words: Mapping[str, list[str]],
    meanings: Mapping[str, list[str]],
) -> None:
    """Write everything except the pipeline and the items."""
    columns = sample.columns
    named = {"split": columns.split, "gold": columns.gold}
    files = {
        "params.yaml": _PARAMS.format(
            classes=json.dumps(list(sample.classes), ensure_ascii=False),
            items=items,
            item_id=_quote(columns.item_id or "item_id"),
            columns="".join(f"  {key}: {_quote(name)}\n" for key, name in named.items() if name is not None),
            text=_quote(columns.text or "text"),
            quarantine=_QUARANTINE.format(rows=empty) if (empty := sample.rows_without_text) else "",
            describe=_write_meanings(meanings),
            valid_share=VALID_SHARE,
            salt=salt,
            deal="measure" if columns.split else "deal      # gold of train items in the gold column is dealt, too",
        ),
        "lfs/__init__.py": "",
        "lfs/first.py": _write_lfs(words, columns.text or "text"),
        "gold/README.md": "Tables of gold: what people decide about items; `epoxy gold --help`.\n",
        "README.md": _README.format(name=folder.resolve().name, items=sample.path.name),
        ".gitignore": _GITIGNORE.format(stages="".join(f"/data/{stage}/\n" for stage in STAGES)),
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        # Flows of the installed tool rather than of a file in the project.
        "prefect.yaml": re.sub(
            r"entrypoint: flows/(\w+)\.py:(\w+)",
            r"entrypoint: flows.\1.\2",
            (TEMPLATE / "prefect.yaml").read_text(encoding="utf-8"),
        ),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for source, name in (("release.yaml", "release.yaml"), ("dvcignore", ".dvcignore"), ("dvc_config", ".dvc/config")):
        shutil.copyfile(TEMPLATE / source, folder / name)
    shutil.copytree(TEMPLATE / "plots", folder / ".dvc" / "plots")


def _find_words(sample: Sample, ids: pl.Series, salt: int, meanings: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Words for the first labeling functions; without gold frequent words that say nothing, which sentences do without."""
    return {} if meanings and sample.columns.gold is None else find_telling_words(sample, ids, salt)


def _check_meanings(meanings: Mapping[str, list[str]]) -> None:
    try:
        DescribeParams.model_validate({"classes": meanings})
    except ValidationError as error:
        raise ParamsError(f"--describe: {error.errors()[0]['msg'].removeprefix('Value error, ')}.") from None


def _write_meanings(meanings: Mapping[str, list[str]]) -> str:
    """The key of params with what classes mean; nothing where none is described."""
    if not meanings:
        return ""
    lines = "".join(
        f"      {_quote(name)}: {_quote(texts[0]) if len(texts) == 1 else json.dumps(texts, ensure_ascii=False)}\n"
        for name, texts in meanings.items()
    )
    return f"  describe:               # one more labeling function: the class whose sentence is nearest\n    classes:\n{lines}"


def _write_lfs(words: Mapping[str, list[str]], column: str) -> str:
    """The source of a module with a labeling function for each class in `words`."""
    lines = [
        f'{name} = keyword_lf("{name}", column={json.dumps(column, ensure_ascii=False)}, '
        f"keywords={json.dumps(found, ensure_ascii=False)}, label={json.dumps(label, ensure_ascii=False)}"
        f"{', whole_words=False' if any(map(is_unspaced, found)) else ''})\n"
        for name, (label, found) in zip(_ORDINALS, words.items(), strict=False)
    ]
    return _LFS.format(lfs="".join(lines))


def _make_ids(sample: Sample) -> pl.Series:
    """An id for each row, made from its text; repetitions of a text get the suffixes -2, -3 and so on."""
    seen: Counter[str] = Counter()
    ids = []
    for text in sample.table[sample.columns.text or "text"]:
        digest = hashlib.sha256((text or "").encode()).hexdigest()[:16]
        seen[digest] += 1
        ids.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
    return pl.Series("item_id", ids, dtype=pl.String)


def _write_like(path: Path, table: pl.DataFrame) -> None:
    """Write `table` in the format of the suffix of `path`."""
    match path.suffix:
        case ".parquet":
            table.write_parquet(path)
        case ".csv":
            table.write_csv(path)
        case _:
            table.write_ndjson(path)


def _is_in_git(folder: Path) -> bool:
    return any((parent / ".git").exists() for parent in (folder.resolve(), *folder.resolve().parents))


def _quote(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _describe(
    sample: Sample, folder: Path, meanings: Mapping[str, list[str]], words: Mapping[str, list[str]]
) -> tuple[str, ...]:
    """Lines on what was found and decided."""
    columns = sample.columns
    gold = "no gold yet; 'epoxy gold add' adds some"
    if sample.gold is not None:
        known = Counter(sample.gold.drop_nulls())
        counts = ", ".join(f"{name} {count:,}" for name, count in sorted(known.items()))
        gold = f"column {columns.gold!r}: {counts}"
    return (
        f"items   {sample.table.height:,} of {sample.path.name}, now in {folder}/data/raw"
        + (
            f", with commas in place of {_SEPARATORS.get(sample.separator, sample.separator)}"
            if sample.separator
            else ", an object in each line"
            if sample.suffix != sample.path.suffix.lower()
            else ""
        )
        + (f", without {sample.blank_rows:,} blank rows" if sample.blank_rows else ""),
        f"ids     {f'column {columns.item_id!r}' if columns.item_id else 'made from the texts, as item_id'}",
        *(
            [
                f"note    column {repeated[0]!r} would be ids, were not some values there twice or more, such as {repeated[1]!r}"
            ]
            if (repeated := find_repeated_id(sample))
            else []
        ),
        f"text    column {columns.text!r}, encoded by tfidf",
        *(
            [
                f"empty   {empty:,} rows have no text: left out and listed by 'epoxy quarantine'; params.yaml allows so many"
            ]
            if (empty := sample.rows_without_text)
            else []
        ),
        *(
            [
                f"images  column {columns.text!r} names image files, which say nothing as words: put them below {folder}/data/raw, and "
                f"in params.yaml 'encoder: {{model: pixels, column: {columns.text}}}'"
            ]
            if names_images(sample)
            else []
        ),
        f"gold    {gold}",
        f"splits  {f'column {columns.split!r}' if columns.split else 'all in train; gold goes to valid or test by a hash of the id, each class by halves'}",
        f"classes {', '.join(sample.classes)}",
        *(
            [f"meaning {', '.join(meanings)}: one more labeling function, from what you say of each"]
            if meanings
            else []
        ),
        f"{_count_lfs(words)} in {folder}/lfs/first.py; now: cd {folder} && epoxy run",
    )


def names_images(sample: Sample) -> bool:
    """Return whether most of what was taken for texts are paths of image files."""
    texts = sample.table[sample.columns.text or "text"].drop_nulls()
    is_path = texts.str.contains(r"(?i)^\S+\.(png|jpe?g|webp|gif|bmp|tiff?)$")
    return int(is_path.sum()) * 2 > len(texts)


def _count_lfs(words: Mapping[str, list[str]]) -> str:
    if len(words) == 1:
        return "one labeling function is"
    return f"{[*_ORDINALS.values()][len(words) - 1]} labeling functions are" if words else "no labeling function is yet"
