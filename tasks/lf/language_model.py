"""The labeling function that votes as a language model answered; it reads answers and never asks (`epoxy ask` does)."""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl

from tasks.errors import DataError, LabelingFunctionError
from tasks.lf.functions import VectorizedLF
from tasks.lf.observation import unobserved
from tasks.lf.questions import Question, digest_message
from tasks.tables.answer_table import FOLDER, Answer, read_answers

LONGEST = 8000
"""Characters of a text that a model is shown by default: some 2,000 tokens, so that a single item cannot eat the budget."""

MILLION = 1_000_000
"""Tokens that prices are of."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that may be asked: calls that were answered and, if `cost` is known, money, in the currency of the prices."""

    calls: int
    cost: float | None = None
    input_price: float | None = None
    output_price: float | None = None

    def price(self, input_tokens: float, output_tokens: float) -> float | None:
        """What so many tokens cost; None where no prices are known.

        >>> Budget(calls=1, input_price=0.5, output_price=2.0).price(1_000_000, 100_000)
        0.7
        """
        if self.input_price is None or self.output_price is None:
            return None
        return (input_tokens * self.input_price + output_tokens * self.output_price) / MILLION


@dataclass(frozen=True, kw_only=True)
class ModelLF(VectorizedLF):
    """A vectorized LF that votes by the answers of a language model, which `epoxy ask` appends to the table at `path`."""

    question: Question
    budget: Budget
    url: str | None
    """Of the server; None: the environment says."""
    path: Path
    answers: tuple[Answer, ...] = field(repr=False)
    """Those to `question`."""
    others: int
    """The number of answers in the table that are to another question."""


def llm_lf(
    name: str,
    *,
    prompt: str,
    classes: Sequence[str] | Mapping[str, str],
    model: str,
    budget: int,
    column: str | Sequence[str] = "text",
    unsure: str | None = "unclear",
    url: str | None = None,
    prices: tuple[float, float] | None = None,
    max_cost: float | None = None,
    longest: int = LONGEST,
    options: Mapping[str, Any] | None = None,
) -> ModelLF:
    """An LF that votes as a language model answered about a few items, and abstains on all others.

    `epoxy ask` asks, about items that are chosen to lie near all others, and appends the answers to a table beside the module,
    answers/NAME.jsonl. This only reads them. Extension reaches the items that nobody asked about.

    Parameters
    ----------
    prompt
        What to decide, in words. How to answer, and that the item is data, is said by us.
    classes
        Classes of params.yaml that the model may choose, or what each means, by class.
    model
        As the server calls it.
    budget
        The most items to ask about, ever, with this prompt and model.
    column
        What the model sees of an item: a column, or several.
    unsure
        The word by which the model abstains; None: it has to choose.
    url
        Where the API is, up to and with /v1; by default what the environment variable EPOXY_LLM_URL says.
    prices, max_cost
        Of a million tokens to the model and of a million from it, and the most that all answers may cost, in that currency.
    longest
        Characters of a text that the model is shown.
    options
        More keys of the request, such as {"max_tokens": 2000}; None removes one.

    Raises
    ------
    LabelingFunctionError
        An argument is not what it should be, or the table is damaged, or is in DVC but not here.
    """
    meanings = dict(classes) if isinstance(classes, Mapping) else {one: "" for one in classes}
    columns = (column,) if isinstance(column, str) else tuple(column)
    _require(name, bool(prompt.strip()), f"prompt is {prompt!r}; expected what to decide, in words")
    _require(name, bool(model), "model is ''; expected what the server calls it")
    _require(
        name,
        not isinstance(classes, str)
        and len(meanings) >= 2
        and all(isinstance(one, str) and one.strip() for one in meanings),
        f"classes is {classes!r}; expected at least two names of classes, or what each means, by class",
    )
    _require(name, unsure is None or bool(unsure.strip()), f"unsure is {unsure!r}; expected a word, or None")
    _require(name, unsure not in meanings, f"unsure is {unsure!r}, which is a class; expected another word, or None")
    _require(name, bool(columns), "column is empty; expected at least one column")
    _require(
        name,
        isinstance(budget, int) and not isinstance(budget, bool) and budget > 0,
        f"budget is {budget!r}; expected a number of calls, at least 1",
    )
    _require(
        name,
        prices is None or (len(prices) == 2 and all(price >= 0 for price in prices)),
        f"prices is {prices!r}; expected two numbers, of a million tokens to the model and of a million from it",
    )
    _require(
        name,
        max_cost is None or (prices is not None and max_cost > 0),
        f"max_cost is {max_cost!r}; expected a number above 0, and prices beside it",
    )
    _require(name, longest > 0, f"longest is {longest}; expected a number of characters, at least 1")
    if url is not None and (mistake := find_url_mistake(url)):
        raise LabelingFunctionError(f"labeling function '{name}': url {mistake}.")
    try:
        written = json.dumps(dict(options or {}), sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LabelingFunctionError(
            f"labeling function '{name}': options cannot be written as JSON: {error}."
        ) from None
    question = Question(
        prompt=prompt,
        classes=tuple(meanings.items()),
        model=model,
        unsure=unsure,
        columns=columns,
        longest=longest,
        options=written,
    )
    path = Path(sys._getframe(1).f_globals.get("__file__", "lfs/module.py")).parent / FOLDER / f"{name}.jsonl"
    try:
        with unobserved():  # they are in the LF that is made here
            table = read_answers(path)
    except DataError as error:
        raise LabelingFunctionError(f"labeling function '{name}': {error}") from None
    answers = tuple(answer for answer in table if answer.question == question.digest)
    return ModelLF(
        name=name,
        function=_make_function(question, answers),
        question=question,
        budget=Budget(
            calls=budget,
            cost=max_cost,
            input_price=None if prices is None else prices[0],
            output_price=None if prices is None else prices[1],
        ),
        url=url,
        path=path,
        answers=answers,
        others=len(table) - len(answers),
    )


def _require(name: str, condition: bool, otherwise: str) -> None:
    if not condition:
        raise LabelingFunctionError(f"labeling function '{name}': {otherwise}.")


def find_url_mistake(url: str) -> str | None:
    """What is wrong with the address of an API, None if nothing is; a secret in it is not shown.

    >>> find_url_mistake("https://example.org/v1"), find_url_mistake("ftp://example.org")
    (None, "begins with 'ftp'; expected http:// or https://")
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"is no address: {error}"
    if parts.scheme not in ("http", "https"):
        return f"begins with {parts.scheme!r}; expected http:// or https://"
    if not host:
        return "names no host; expected such as http://localhost:8000/v1"
    if parts.username or parts.password or parts.query or parts.fragment:
        return "holds more than a host and a path; a key belongs in the environment variable EPOXY_LLM_KEY"
    return None


def _make_function(question: Question, answers: Sequence[Answer]) -> Any:
    """What votes by the answers; whatever else changes, such as the budget, changes no vote."""
    classes = {name for name, _ in question.classes}
    known = {answer.text: answer.answer for answer in answers if answer.answer in classes}

    def vote(items: pl.DataFrame) -> pl.Series:
        messages = question.write_items(items)
        votes = [None if message is None else known.get(digest_message(message)) for message in messages]
        return pl.Series("vote", votes, dtype=pl.String)

    return vote


def describe_answers(lf: ModelLF) -> tuple[str, bool]:
    """A sentence on the answers by which `lf` votes, and whether it is a warning."""
    earlier = f"; {lf.others:,} more are to an earlier wording" if lf.others else ""
    if not lf.answers:
        return f"{lf.name} has no answers and abstains everywhere: 'epoxy ask {lf.name}' asks for them{earlier}", True
    counts = count_answers(lf.question, lf.answers)
    said = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{lf.name} votes by {len(lf.answers):,} answers of a budget of {lf.budget.calls:,} ({said}){earlier}", False


def count_answers(question: Question, answers: Sequence[Answer]) -> dict[str, int]:
    """How many answers chose each word; 'no class' are those that are none of the words."""
    found = Counter("no class" if answer.answer is None else answer.answer for answer in answers)
    return {name: found[name] for name in (*question.names, "no class") if found[name]}


def measure_shares(question: Question, answers: Sequence[Answer]) -> dict[str, float]:
    """The share of each class among answers that chose a class, one of each added, so that none is 0; empty without any."""
    counts = count_answers(question, answers)
    classes = [name for name, _ in question.classes]
    total = sum(counts.get(name, 0) for name in classes)
    return {name: (counts.get(name, 0) + 1) / (total + len(classes)) for name in classes} if total else {}
