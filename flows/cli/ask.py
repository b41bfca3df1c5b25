"""`epoxy ask`: have a language model answer for the labeling functions made by `llm_lf`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.runner.project import in_project

if TYPE_CHECKING:
    from tasks.ask.choice import AskPlan, By
    from tasks.ask.run import Asked
    from tasks.lf.language_model import ModelLF


@click.command("ask")
@click.argument("names", metavar="[LF]...", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Say how many calls, tokens and how much money; ask nothing.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many calls for each now.")
@click.option(
    "--by", type=click.Choice(["cover", "random"]), default="random", show_default=True, help="How items are chosen."
)
@click.option("--parallel", type=click.IntRange(1, 64), default=4, show_default=True, help="Calls at a time.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Seconds to wait for an answer."
)
def ask_command(
    names: tuple[str, ...], dry_run: bool, limit: int | None, by: "By", parallel: int, timeout: float
) -> None:
    """Have a language model answer about a few items.

    Of every labeling function made by llm_lf, or of those called LF, up to its budget. Items of the splits in
    search.reference are drawn at random, or chosen to lie near all others. Answers are appended to lfs/answers/LF.jsonl, which apply reads; no
    stage asks. Run it again after a stop, and it goes on. EPOXY_LLM_URL says where the server is, EPOXY_LLM_KEY holds the key.
    """
    with in_project() as root:
        for lf, plan in plan_all(root=root, names=names, limit=limit, by=by):
            _show_plan(lf, plan)
            if plan.asks and not dry_run:
                _show_asked(lf, ask(lf=lf, plan=plan, parallel=parallel, timeout=timeout))


def plan_all(
    *, root: Path, names: tuple[str, ...] = (), limit: int | None = None, by: "By" = "random"
) -> "list[tuple[ModelLF, AskPlan]]":
    """Return what to ask for each labeling function of a language model, or for those called `names`.

    Raises
    ------
    EpoxyError
        There is none, one cannot be loaded or chooses among other classes than the project has, or artifacts are missing.
    """
    from tasks.ask.choice import plan_asks
    from tasks.errors import LabelingFunctionError
    from tasks.lf.language_model import ModelLF
    from tasks.lf.loading import load_module, project_lfs
    from tasks.params_file import read_params
    from tasks.queries.project_data import find_name

    params = read_params(root)
    source = params.apply.source
    if Path(source).suffix != ".py":
        raise LabelingFunctionError(f"{source} is a table of votes; expected a module with llm_lf (apply.source).")
    with project_lfs(root):
        module = load_module(root, source, may_be_empty=True)
        lfs = {lf.name: lf for lf in module.lfs if isinstance(lf, ModelLF)}
        if not lfs:
            raise LabelingFunctionError(f"{source} has no labeling function of a language model. Make one with llm_lf.")
        chosen = [lfs[find_name(name, list(lfs), f"llm_lf in {source}")] for name in dict.fromkeys(names)] or [
            *lfs.values()
        ]
        for lf in chosen:
            if unknown := [name for name, _ in lf.question.classes if name not in params.classes]:
                raise LabelingFunctionError(
                    f"labeling function '{lf.name}' ({source}) offers {unknown[0]!r}; expected some of the classes "
                    f"{', '.join(params.classes)}."
                )
        return [(lf, plan_asks(root, lf, params.search.reference, limit, by)) for lf in chosen]


def ask(*, lf: "ModelLF", plan: "AskPlan", parallel: int = 4, timeout: float = 60.0) -> "Asked":
    """Return what came of asking all of `plan`.

    Raises
    ------
    EpoxyError
        The server cannot be asked; what was answered before is kept.
    """
    from tasks.ask.client import Patience
    from tasks.ask.run import ask_all

    return ask_all(lf, plan, patience=Patience(timeout=timeout), parallel=parallel)


def _show_plan(lf: "ModelLF", plan: "AskPlan") -> None:
    calls, budget = len(plan.asks), lf.budget
    click.echo(
        f"{lf.name}: {calls:,} calls to {lf.question.model}; {plan.answered:,} of a budget of {budget.calls:,} are answered; "
        f"{plan.distinct:,} different items"
    )
    if not calls:
        return
    about = "estimated" if plan.is_estimate else "as counted so far"
    given, got = calls * plan.input_tokens, calls * plan.output_tokens
    cost = budget.price(given, got)
    price = "no prices are given" if cost is None else f"cost {cost:,.4g}, after {plan.spent or 0:,.4g} spent"
    click.echo(f"about {given:,.0f} tokens to the model and {got:,.0f} from it ({about}); {price}")


def _show_asked(lf: "ModelLF", asked: "Asked") -> None:
    from tasks.lf.language_model import count_answers, measure_shares

    counts = count_answers(lf.question, asked.answers)
    said = ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
    again = f"; {asked.retries:,} tries more than calls" if asked.retries else ""
    click.echo(f"answers: {said}{again}")
    shares = measure_shares(lf.question, (*lf.answers, *asked.answers))
    if shares:
        said = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
        click.echo(f"shares of classes, which train.class_balance should be told where there is no gold: {said}")
    for note in asked.notes:
        click.echo(f"note: {note}", err=True)
    if asked.failed:
        item, reason = asked.failed[0]
        click.echo(
            f"note: {len(asked.failed):,} items have no answer, first {item!r}: {reason}. Run it again to ask about them.",
            err=True,
        )
