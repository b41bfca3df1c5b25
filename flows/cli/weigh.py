"""`epoxy weigh`: which weights for blocks of embeddings foretell gold, or votes, best."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.runner.project import in_project

if TYPE_CHECKING:
    from tasks.queries.weigh import Weighed


@click.command("weigh")
@click.option(
    "--votes",
    "by_votes",
    is_flag=True,
    help="Judge by held-out votes, and propose what they choose, whether there is gold or not.",
)
def weigh_command(by_votes: bool) -> None:
    """Propose weights for `ingest.blocks`, from the last run.

    Judges mixtures in steps of a quarter, each block alone among them, by how well a classifier on them foretells held-out gold of
    valid. With fewer than 20 gold rows it judges by the votes of labeling functions that were held out whole, shows that, and
    proposes equal weights all the same, unless --votes is given. Prints lines to paste into params.yaml; nothing is changed.
    """
    with in_project() as root:
        click.echo(describe_weights(weigh(root=root, by_votes=by_votes)))


def weigh(*, root: Path, by_votes: bool = False) -> "Weighed":
    """Return the judged mixtures.

    Raises
    ------
    EpoxyError
        There are no blocks, nothing to judge by, or tables are missing or damaged.
    """
    from tasks.queries.project_data import ProjectData
    from tasks.queries.weigh import weigh_blocks

    return weigh_blocks(ProjectData(root), by_votes=by_votes)


def describe_weights(found: "Weighed") -> str:
    """The table of mixtures, the best first, and the lines for params.yaml, as text."""
    mixtures = found.mixtures
    width = max(7, *(len(name) for name in found.blocks))
    lines = [
        f"# log loss on {found.judged_by}, and how far it is above the best's (± standard error)",
        "#  " + "  ".join(f"{name:>{width}}" for name in found.blocks) + "     loss   above the best",
    ]
    for at in mixtures.loss.argsort(kind="stable").tolist():
        weights = "  ".join(f"{weight:>{width}.2f}" for weight in mixtures.weights[at])
        above = f"{mixtures.loss[at] - mixtures.loss[mixtures.best]:+.4f} ± {mixtures.error[at]:.4f}"
        lines.append(f"#  {weights}   {mixtures.loss[at]:.4f}   {'best' if at == mixtures.best else above}")
    now = ", ".join(f"{name} {share:.2f}" for name, share in zip(found.blocks, found.now, strict=True))
    out = [name for name, weight in zip(found.blocks, mixtures.weights[mixtures.best], strict=True) if not weight]
    lines.append(f"# now: {now}" + (f"; best left out: {', '.join(out)}" if out else ""))
    if not found.is_best:
        lines.append(
            "# fewer than 20 gold rows of valid: equal weights, which lost less at worst than what votes choose; --votes "
            "gives those"
        )
    return "\n".join([*lines, found.lines])
