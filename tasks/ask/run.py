"""Asking a language model about items: each answer is on disk before the next is waited for, so that a kill loses no more than
the calls that are under way.
"""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from tasks.ask.choice import Ask, AskPlan
from tasks.ask.client import ChatClient, NoAnswerError, Patience, RefusedError, Reply, StoppedError, make_safe
from tasks.ctrl_c import on_ctrl_c
from tasks.errors import EpoxyError, ParamsError, StageError
from tasks.lf.language_model import ModelLF, find_url_mistake
from tasks.lf.questions import FORMS
from tasks.progress import Progress
from tasks.tables.answer_table import Answer, open_answers, read_answers

URL_VARIABLE = "EPOXY_LLM_URL"
"""Where the API is that `epoxy ask` asks, as https://api.example.org/v1; a labeling function's own `url` goes before."""

KEY_VARIABLE = "EPOXY_LLM_KEY"
"""The key that `epoxy ask` sends; not sent if unset or empty. It is in no file, message or log."""

IN_A_ROW = 3
"""Items in a row without an answer after which nothing more is asked: then the server is at fault, and not an item."""

_LOOK = 0.2
"""Seconds after which it is seen that Ctrl-C was pressed, if no call has ended before."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What came of asking: the answers that were appended, ids of items without one, with the reason, and how many tries more than
    calls it took. notes: what else the user should know.
    """

    answers: tuple[Answer, ...]
    failed: tuple[tuple[str | int, str], ...]
    retries: int
    notes: tuple[str, ...]


def find_url(lf: ModelLF) -> str:
    """Return the address of the API that `lf` asks.

    Raises
    ------
    ParamsError
        Nobody names one, or the environment names none.
    """
    if lf.url is not None:
        return lf.url
    url = os.environ.get(URL_VARIABLE, "").strip()
    if not url:
        raise ParamsError(
            f"'{lf.name}' has no url, and {URL_VARIABLE} is not set; expected the address of an OpenAI-compatible API, such as "
            "http://localhost:8000/v1."
        )
    if mistake := find_url_mistake(url):
        raise ParamsError(f"{URL_VARIABLE} {mistake}.")
    return url


def ask_all(lf: ModelLF, plan: AskPlan, *, patience: Patience | None = None, parallel: int = 4) -> Asked:
    """Ask all of `plan`, `parallel` calls at a time, and append what is answered to the table of `lf`.

    Raises
    ------
    ParamsError
        There is no address, or the key cannot be sent.
    StageError
        The server cannot be asked, or gives no answer to several items in a row; what was answered before is in the table.
    """
    url = find_url(lf)
    key = os.environ.get(KEY_VARIABLE) or None
    parts = urlsplit(url)
    if key and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        print(f"warning: the key goes to {parts.hostname} unencrypted, over http.", file=sys.stderr)
    client = ChatClient(url, key, patience or Patience())
    run = _Run(lf, plan, client)
    with open_answers(lf.path) as table, Progress("asking", total=len(plan.asks)) as progress:
        known = {answer.text for answer in read_answers(lf.path) if answer.question == lf.question.digest}
        asks = [ask for ask in plan.asks if ask.digest not in known]  # of another process, since the plan was made

        def keep(answer: Answer) -> None:
            table.append(answer)
            progress.advance()

        with _workers(client, parallel) as submit, _note_ctrl_c() as is_pressed:
            run.go(asks, submit, parallel, keep, is_pressed)
    return Asked(
        answers=tuple(run.answers),
        failed=tuple(run.failed),
        retries=client.retries,
        notes=tuple(dict.fromkeys(run.notes)),
    )


@contextmanager
def _workers(client: ChatClient, parallel: int) -> Iterator[Callable[..., Future[Reply]]]:
    """A function that has a thread call another; at the end no further try is begun."""
    pool = ThreadPoolExecutor(parallel, thread_name_prefix="ask")
    try:
        yield pool.submit
    finally:
        client.stop()
        pool.shutdown(wait=False, cancel_futures=True)
        client.close()


@contextmanager
def _note_ctrl_c() -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C was pressed; pressed again, it is a KeyboardInterrupt.

    As an exception the first one would fall anywhere, between an answer that has come and the disk, too.
    """
    is_pressed = False

    def note() -> None:
        nonlocal is_pressed
        if is_pressed:
            raise KeyboardInterrupt
        is_pressed = True

    with on_ctrl_c(note):
        yield lambda: is_pressed


class _Run:
    """The calls of one `ask_all`, collected by a single thread."""

    def __init__(self, lf: ModelLF, plan: AskPlan, client: ChatClient) -> None:
        self._lf, self._client = lf, client
        self._average = (plan.input_tokens, plan.output_tokens)
        self._spent = plan.spent or 0.0
        self._form, self._has_answered = FORMS[0], False
        self._refused: list[tuple[Ask, str]] = []
        self._in_a_row = 0
        self.answers: list[Answer] = []
        self.failed: list[tuple[str | int, str]] = []
        self.notes: list[str] = []

    def go(
        self,
        asks: list[Ask],
        submit: Callable[..., Future[Reply]],
        parallel: int,
        keep: Callable[[Answer], object],
        is_pressed: Callable[[], bool],
    ) -> None:
        """Ask all; answers are kept as they come, and where Ctrl-C `is_pressed` those that are under way."""
        left = iter(asks)
        running: dict[Future[Reply], Ask] = {}
        stopped: BaseException | None = None
        # The first call goes alone: if the address, the key or the form of the request is wrong, one call tells.
        room = 1
        while True:
            if stopped is None and is_pressed():
                # What is under way is paid for: it is waited for, and kept.
                stopped = KeyboardInterrupt()
                self._client.stop()
                print(f"stopping: {len(running)} calls are under way", file=sys.stderr)
            while stopped is None and len(running) < room and self._can_afford(len(running) + 1):
                if (ask := next(left, None)) is None:
                    break
                running[submit(self._call, ask)] = ask
            if not running:
                break
            done, _ = wait(running, timeout=_LOOK, return_when=FIRST_COMPLETED)
            for future in done:
                ask = running.pop(future)
                try:
                    self._collect(ask, future, keep)
                except EpoxyError as error:
                    stopped = stopped or error
                    self._client.stop()
            room = parallel if self._has_answered else 1
        self.failed += [(ask.item_id, reason) for ask, reason in self._refused]
        if stopped is not None:
            raise stopped
        if is_pressed():
            raise KeyboardInterrupt

    def _can_afford(self, calls: int) -> bool:
        """Whether what was spent allows so many average calls more."""
        budget = self._lf.budget
        return budget.cost is None or self._spent + calls * (budget.price(*self._average) or 0.0) <= budget.cost

    def _call(self, ask: Ask) -> Reply:
        """The reply about an item; runs in a thread. A server that refuses a form is asked in the next, until one was answered."""
        while True:
            form = self._form
            try:
                return self._client.ask(self._lf.question.make_request(ask.message, form))
            except RefusedError as refused:
                if self._has_answered or form == FORMS[-1]:
                    raise
                self._form = FORMS[FORMS.index(form) + 1]
                if self._form == FORMS[-1]:
                    self.notes.append(f"the server constrains no answer, they are only read strictly ({refused})")

    def _collect(self, ask: Ask, future: Future[Reply], keep: Callable[[Answer], object]) -> None:
        try:
            reply = future.result()
        except StoppedError:
            return
        except RefusedError as refused:
            self._refused.append((ask, str(refused)))
            if not self._has_answered and len(self._refused) >= IN_A_ROW:
                raise StageError(f"the server refuses every request: {refused}") from None
            if self._has_answered:
                self._keep_refused(keep)
            return
        except NoAnswerError as nothing:
            self.failed.append((ask.item_id, str(nothing)))
            self._in_a_row += 1
            if self._in_a_row >= IN_A_ROW:
                raise StageError(
                    f"no answer about {self._in_a_row} items in a row: {nothing}\n{len(self.answers):,} answers are kept. Run it again "
                    "to go on."
                ) from None
            return
        self._in_a_row, self._has_answered = 0, True
        self._keep_refused(keep)
        word = self._lf.question.read_answer(reply.content)
        self._keep(
            Answer(
                question=self._lf.question.digest,
                text=ask.digest,
                item_id=ask.item_id,
                answer=word,
                said=make_safe(reply.content) if word is None else None,
                model=reply.model,
                input_tokens=reply.input_tokens,
                output_tokens=reply.output_tokens,
            ),
            keep,
        )

    def _keep_refused(self, keep: Callable[[Answer], object]) -> None:
        """Keep that the server refused some items, now that it is known to answer about others: it would refuse them again."""
        for ask, reason in self._refused:
            answer = Answer(
                question=self._lf.question.digest,
                text=ask.digest,
                item_id=ask.item_id,
                answer=None,
                said=make_safe(reason),
            )
            self._keep(replace(answer, input_tokens=0, output_tokens=0), keep)
        self._refused.clear()

    def _keep(self, answer: Answer, keep: Callable[[Answer], object]) -> None:
        keep(answer)
        self.answers.append(answer)
        tokens = (answer.input_tokens, answer.output_tokens)
        counted = [average if count is None else count for count, average in zip(tokens, self._average, strict=True)]
        self._spent += self._lf.budget.price(counted[0], counted[1]) or 0.0
