"""suggest: labeling functions to write next: words, pairs of words and rules on a column that would vote precisely.

A rule is suggested for a class if a lower bound of its precision is high, on valid gold if enough items with gold fit
the rule, else in agreement with the shipped labels. The first suggestion covers the most items that have no vote or an
uncertain label; each further suggestion adds the most to those before. Votes by what classes mean do not count: they are a
beginning, and fall silent where a labeling function votes.
"""

import ast
import keyword
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from tasks.core.lf_analysis import GoldCounts, measure_precision, wilson_interval
from tasks.core.types import ABSTAIN, ITEM_ID, Bool, Int64
from tasks.errors import LabelingFunctionError, QueryError
from tasks.params import Split
from tasks.queries.items import measure_items
from tasks.queries.project_data import ProjectData, find_name, require_not_negative
from tasks.tables.files import read_json, write_text
from tasks.tables.paths import DESCRIPTIONS_SUMMARY

SAMPLE = 50_000
"""Most items on which rules are looked for; they include those with valid gold."""

VOCABULARY = 3000
"""The number of words to try, those most frequent where LFs are needed."""

PAIRED = 200
"""The number of words whose pairs are tried."""

LEAST_ITEMS = 5
"""Fewest items of the sample in need of an LF that a rule must fit."""

LEAST_GOLD = 8
"""Fewest items with gold to judge a rule by; with fewer, an interval says nothing, and shipped labels are used."""

UNCERTAIN = 0.5
"""Margin below which a label is uncertain, and its item in need of an LF."""

EXAMPLES = 3
"""The number of new items listed for each suggestion."""

QUANTILES = 20
"""The number of thresholds to try for a column of numbers."""

MANY_VALUES = 50
"""A text column with more distinct values is free text; with fewer, rules compare it with its values, too."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule in words and as source code: the LF's name, the names it needs from tasks.labeling, and its definition."""

    text: str
    name: str
    needs: tuple[str, ...]
    source: str
    """With the fields {name} and {label}."""


@dataclass(frozen=True, kw_only=True)
class Suggestions:
    """Suggested LFs.

    rows: rule (in words), label, new_items (in need of an LF, not covered by earlier suggestions), items (all that fit),
    judged_on (`gold` or `labels`), n, precision, low (lower 95 % bound), examples (ids of the first new items outside
    test, on which LFs are judged), name, needs, source. Counts refer to the `sampled` of all `items`.
    """

    rows: pl.DataFrame
    sampled: int
    items: int
    in_need: int
    is_described: bool
    """Whether an LF votes by what classes mean; its votes alone leave an item in need."""
    tried: int
    """Rules that were tried."""

    def describe_need(self) -> str:
        """How many items are in need of an LF, and what that means."""
        but = " but by what classes mean" if self.is_described else ""
        of = "" if self.sampled == self.items else f", in a sample of {self.sampled:,}"
        return f"{self.in_need:,} items have an uncertain label, or no vote{but}{of}"

    def describe_lack(self) -> str:
        """Why there is no suggestion, and what to do."""
        if not self.tried:
            return "no rule can be tried: rules are made of texts, numbers and categories in the items' columns"
        return "nothing would vote precisely enough for them: try a lower bound of precision, or label more of valid"


def suggest_lfs(
    data: ProjectData, *, count: int = 10, least_precision: float = 0.8, label: str | None = None, seed: int = 0
) -> Suggestions:
    """Return up to `count` suggested LFs, for class `label` or any class, the most useful first.

    Raises
    ------
    QueryError
        There is no such class, or a number is out of range.
    DataError
        An artifact is missing or damaged.
    """
    require_not_negative(count=count, seed=seed)
    if not 0 <= least_precision <= 1:
        raise QueryError(f"least_precision {least_precision:g}: expected 0 to 1.")
    classes = data.classes
    wanted = range(len(classes)) if label is None else [classes.index(find_name(label, classes, "class"))]
    rows = _draw(data, seed)
    votes = data.votes()
    described = _find_described(data)
    counted = [j for j, lf in enumerate(votes.lfs) if lf != described]
    have_votes = (votes.extended[:, counted] != ABSTAIN).any(axis=1)
    need = ~have_votes | (measure_items(data)["margin"] < UNCERTAIN).to_numpy()
    in_need = need[rows]
    items = data.items()[rows]
    gold, labels = data.gold()[rows], data.label_positions()[rows]
    taken = {*votes.lfs}
    found: list[tuple[Rule, Int64, int, GoldCounts, bool]] = []
    tried = 0
    for rules, fits in _list_rules(items, in_need):
        tried += len(rules)
        for c in wanted:
            by_gold, by_labels = (_count(fits, truth, c) for truth in (gold, labels))
            is_judged = by_gold.votes >= LEAST_GOLD
            low = np.where(is_judged, wilson_interval(by_gold)[0], wilson_interval(by_labels)[0])
            # Rules judged by shipped labels must at least not contradict gold.
            good = (low >= least_precision) & (is_judged | (2 * by_gold.correct >= by_gold.votes))
            good &= np.diff(fits.indptr) < len(rows)  # a rule that fits every item says nothing
            for number in np.flatnonzero(good):
                judged = by_gold if is_judged[number] else by_labels
                counts = GoldCounts(
                    votes=judged.votes[number : number + 1], correct=judged.correct[number : number + 1]
                )
                members = fits.indices[fits.indptr[number] : fits.indptr[number + 1]].astype(np.int64)
                found.append((rules[number], members, c, counts, bool(is_judged[number])))
    may_be_read = (items["split"] != Split.TEST).to_numpy()
    chosen = _choose(found, items[ITEM_ID], in_need, may_be_read, classes, count, taken)
    kinds: dict[str, Any] = {
        "rule": pl.String, "label": pl.String, "new_items": pl.Int64, "items": pl.Int64, "judged_on": pl.String,
        "n": pl.Int64, "precision": pl.Float64, "low": pl.Float64, "examples": pl.List(data.ids().dtype),
        "name": pl.String, "needs": pl.List(pl.String), "source": pl.String,
    }  # fmt: skip
    return Suggestions(
        rows=pl.DataFrame(chosen, schema=kinds, orient="row"),
        sampled=len(rows),
        items=len(need),
        in_need=int(in_need.sum()),
        is_described=described in votes.lfs,
        tried=tried,
    )


def append_lf(root: Path, source: str, suggestion: dict[str, object]) -> str:
    """Append a row of `Suggestions.rows` to the LF module `source` below `root`, with the imports it needs; return its text.

    Raises
    ------
    LabelingFunctionError
        The module is not valid Python, or already defines that name.
    """
    path = root / source
    try:
        text = path.read_text(encoding="utf-8")
        body = ast.parse(text).body
    except (OSError, SyntaxError, ValueError) as error:
        raise LabelingFunctionError(f"{source} cannot be added to: {error}. Correct it first.") from None
    name, code = str(suggestion["name"]), str(suggestion["source"])
    if re.search(rf"^(def )?{re.escape(name)}\b", text, flags=re.M):
        raise LabelingFunctionError(f"{source} has a {name!r} already. Nothing was added.")
    needs = suggestion["needs"]
    assert isinstance(needs, Sequence)
    lines = text.rstrip("\n").split("\n") if text.strip() else []
    lines = _add_imports(lines, body, [*needs], needs_polars="pl." in code)
    gap = ["", ""] if code.startswith("@") else [""]
    write_text(path, "\n".join([*lines, *(gap if lines else []), code]) + "\n")
    return code


def _add_imports(lines: list[str], body: list[ast.stmt], needs: list[str], *, needs_polars: bool) -> list[str]:
    """The `lines` of a module, changed to import `needs` from tasks.labeling and, if needed, polars as pl."""
    added = ["import polars as pl"] if needs_polars and "pl" not in _list_imports(body, "polars") else []
    missing = [need for need in needs if need not in _list_imports(body, "tasks.labeling")]
    places = [node for node in body if isinstance(node, ast.ImportFrom) and node.module == "tasks.labeling"]
    if missing and places:
        names = sorted({*map(ast.unparse, places[0].names), *missing})  # capitals first, as the formatter has it
        whole = f"from tasks.labeling import {', '.join(names)}"
        rows = (
            [whole]
            if len(whole) <= _WIDTH
            else ["from tasks.labeling import (", *(f"    {name}," for name in names), ")"]
        )
        start, stop = places[0].lineno - 1, places[0].end_lineno or places[0].lineno
        before = [*added, ""] if added else []
        return [*lines[:start], *before, *rows, *lines[stop:]]
    if missing:
        added += [*([""] if added else []), f"from tasks.labeling import {', '.join(sorted(missing))}"]
    at = max((node.end_lineno or 0 for node in body if isinstance(node, ast.Import | ast.ImportFrom)), default=0)
    if added and not at and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        at, added = body[0].end_lineno or 0, ["", *added]
    return [*lines[:at], *added, *lines[at:]]


_WIDTH = 120
"""Most characters in a line of source code."""


def _find_described(data: ProjectData) -> str | None:
    """The name of the LF that votes by what classes mean, if there is one."""
    summary = data.root / DESCRIPTIONS_SUMMARY
    return read_json(summary)["lf"] if summary.is_file() else None


def _draw(data: ProjectData, seed: int) -> Int64:
    """The rows of the sample."""
    n, known = len(data.ids()), np.flatnonzero(data.gold() != ABSTAIN)
    if n <= SAMPLE:
        return np.arange(n)
    rest = np.setdiff1d(np.arange(n), known)
    drawn = np.random.default_rng(seed).choice(rest, max(SAMPLE - len(known), 0), replace=False)
    return np.sort(np.concatenate([known, drawn]))


def _list_rules(items: pl.DataFrame, in_need: Bool) -> Iterator[tuple[list[Rule], sparse.csr_array]]:
    """Rules, with a matrix of which items each fits, (rules, n)."""
    for name, kind in items.schema.items():
        if name in ("item_id", "split"):
            continue
        column = items[name]
        if kind == pl.String:
            if column.n_unique() <= MANY_VALUES:
                yield _list_values(column)
            else:
                yield from _list_words(column, in_need)
        elif kind == pl.Boolean:
            yield _list_values(column)
        elif kind.is_numeric():
            yield _list_thresholds(column)


def _list_words(texts: pl.Series, in_need: Bool) -> Iterator[tuple[list[Rule], sparse.csr_array]]:
    """Rules for words in a column of free text, then for pairs of words."""
    tokens = (
        pl.DataFrame({"row": np.arange(len(texts)), "word": texts.str.to_lowercase().str.extract_all(r"\w+")})
        .explode("word")
        .drop_nulls()
        .unique(maintain_order=True)
    )
    needy = tokens.filter(pl.Series(in_need[tokens["row"].to_numpy()]))
    common = (
        needy.group_by("word")
        .len()
        .filter((pl.col("len") >= LEAST_ITEMS) & (pl.col("word").str.len_chars() > 1))
        .sort(["len", "word"], descending=[True, False])
        .head(VOCABULARY)
    )
    words = common["word"].to_list()
    if not words:
        return
    kept = tokens.join(common.select("word").with_row_index("number"), on="word", how="inner")
    where = (kept["number"].to_numpy(), kept["row"].to_numpy())
    fits = sparse.csr_array((np.ones(kept.height, np.int32), where), shape=(len(words), len(texts)))
    column = texts.name
    call = 'keyword_lf("{name}", column=' + repr_text(column) + ", keywords=[{word}], label={label})"
    yield (
        [
            Rule(
                text=f"{column} has {word!r}",
                name=f"says_{word}",
                needs=("keyword_lf",),
                source="{name} = " + call.replace("{word}", repr_text(word)),
            )
            for word in words
        ],
        fits,
    )
    paired = fits[:PAIRED]
    together = (paired @ paired.T).toarray()
    pairs = [(i, j) for i, j in np.argwhere(np.triu(together, 1) >= LEAST_ITEMS)]
    if pairs:
        both = sparse.vstack([paired[[i]].multiply(paired[[j]]) for i, j in pairs], format="csr")
        body = (
            "@vectorized_labeling_function\ndef {name}(items):\n    text = pl.col(" + repr_text(column) + ")\n"
            "    return vote_where(text.str.contains({one}) & text.str.contains({other}), {label})"
        )
        yield (
            [
                Rule(
                    text=f"{column} has {words[i]!r} and {words[j]!r}",
                    name=f"says_{words[i]}_and_{words[j]}",
                    needs=("vectorized_labeling_function", "vote_where"),
                    source=body.replace("{one}", _write_pattern(words[i])).replace("{other}", _write_pattern(words[j])),
                )
                for i, j in pairs
            ],
            sparse.csr_array(both),
        )


def _write_pattern(word: str) -> str:
    return f'r"(?i)\\b{pl.escape_regex(word)}\\b"'


def _list_values(column: pl.Series) -> tuple[list[Rule], sparse.csr_array]:
    """Rules for equality with each value of a column."""
    rules, fits = [], []
    for value in column.drop_nulls().unique().sort():
        written = repr_text(value) if isinstance(value, str) else repr(value)
        condition = f"pl.col({repr_text(column.name)})" + ("" if value is True else f" == {written}")
        rules.append(_write_condition(condition, f"{column.name} is {value!r}", f"{column.name}_is_{value}"))
        fits.append((column == value).fill_null(False).to_numpy())
    return rules, sparse.csr_array(np.array(fits).reshape(len(rules), len(column)).astype(np.int32))


def _list_thresholds(column: pl.Series) -> tuple[list[Rule], sparse.csr_array]:
    """Rules for numbers at or above, and at or below, each quantile of their column."""
    numbers = column.cast(pl.Float64).fill_nan(None)
    quantiles = (numbers.quantile(q / QUANTILES, "nearest") for q in range(QUANTILES + 1))
    cuts = sorted({cut for cut in quantiles if cut is not None})
    rules, fits = [], []
    for cut in cuts:
        # Rounded as in the source, so that the LF votes as the rule was judged.
        shown = float(f"{cut:.4g}")
        written = f"{shown:.0f}" if shown.is_integer() and abs(shown) < 1e15 else repr(shown)
        for sign, word in ((">=", "at_least"), ("<=", "at_most")):
            condition = f"pl.col({repr_text(column.name)}) {sign} {written}"
            rules.append(
                _write_condition(condition, f"{column.name} {sign} {written}", f"{column.name}_{word}_{written}")
            )
            fit = numbers >= shown if sign == ">=" else numbers <= shown
            fits.append(fit.fill_null(False).to_numpy())
    return rules, sparse.csr_array(np.array(fits).reshape(len(rules), len(column)).astype(np.int32))


def _write_condition(condition: str, text: str, name: str) -> Rule:
    source = "@vectorized_labeling_function\ndef {name}(items):\n    return vote_where(" + condition + ", {label})"
    return Rule(text=text, name=name, needs=("vectorized_labeling_function", "vote_where"), source=source)


def repr_text(text: str) -> str:
    """Return `text` as a Python literal in double quotes, as the code formatter would write it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _count(fits: sparse.csr_array, truth: np.ndarray[tuple[int], np.dtype[np.int8]], label: int) -> GoldCounts:
    """For each rule, the number of items with a known class that fit it, and how many of them have class `label`."""
    known = fits @ (truth != ABSTAIN).astype(np.int64)
    return GoldCounts(votes=known, correct=fits @ (truth == label).astype(np.int64))


def _choose(
    found: list[tuple[Rule, Int64, int, GoldCounts, bool]],
    ids: pl.Series,
    in_need: Bool,
    may_be_read: Bool,
    classes: tuple[str, ...],
    count: int,
    taken: set[str],
) -> list[tuple[object, ...]]:
    """The rules chosen greedily by what each adds, as rows of the answer."""
    left = in_need.copy()
    chosen: list[tuple[object, ...]] = []
    gains = np.array([np.count_nonzero(left[members]) for _, members, *_ in found], dtype=np.int64)
    while len(chosen) < count and len(gains):
        best = int(gains.argmax())
        rule, members, c, counts, is_gold = found[best]
        gain = int(np.count_nonzero(left[members]))
        if gain < gains[best]:  # counted before others were chosen
            gains[best] = gain
            continue
        if gain < LEAST_ITEMS:
            break
        name = _make_name(rule.name, taken)
        taken.add(name)
        precision, low = measure_precision(counts)[0], wilson_interval(counts)[0][0]
        source = rule.source.replace("{name}", name).replace("{label}", repr_text(classes[c]))
        judged_on = "gold" if is_gold else "labels"
        chosen.append(
            (rule.text, classes[c], gain, len(members), judged_on, int(counts.votes[0]), float(precision), float(low),
             ids.gather(members[(left & may_be_read)[members]][:EXAMPLES]).to_list(), name, list(rule.needs), source)
        )  # fmt: skip
        left[members] = False
        gains[best] = 0
    return chosen


def _make_name(wanted: str, taken: set[str]) -> str:
    """A valid Python name like `wanted` that is not `taken`."""
    plain = re.sub(r"\W+|[^\x00-\x7f]+", "_", wanted.replace(".", "_").replace("-", "minus_")).strip("_") or "suggested"
    if plain[0].isdigit() or keyword.iskeyword(plain):
        plain = f"lf_{plain}"
    number, name = 2, plain
    while name in taken:
        number, name = number + 1, f"{plain}_{number}"
    return name


def _list_imports(body: Sequence[ast.stmt], module: str) -> set[str]:
    """The names that a module's statements bind by importing `module` or things from it."""
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name for alias in node.names if alias.name == module}
        elif isinstance(node, ast.ImportFrom) and node.module == module:
            names |= {alias.asname or alias.name for alias in node.names}
    return names
