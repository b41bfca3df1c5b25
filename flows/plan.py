"""What a run would do now, before anything runs; imports little, since a person waits for it."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flows.runner.changes import summarize_changes
from flows.runner.dvc_status import plan_run
from flows.runner.timings import read_seconds
from tasks.params_file import read_params
from tasks.tables.paths import ITEMS


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do.

    stages: name, reason, is_certain (false: only if a stage before it changes what it reads), seconds (of its last run
    here, null where unknown). lfs: lf, items, of; the votes that `apply` would ask for, none where that cannot be known
    before ingest has run. models: lf, answers, budget; LFs of language models that 'epoxy ask' may ask more, which a run never does.
    """

    stages: pl.DataFrame
    lfs: pl.DataFrame
    models: pl.DataFrame

    @property
    def seconds(self) -> float:
        """How long the stages took when they last ran, those of which it is known."""
        return float(self.stages["seconds"].sum() or 0.0)


def plan(root: Path) -> Plan:
    """Return what `epoxy run` would do in the project at `root`, the working directory.

    Raises
    ------
    EpoxyError
        Another process uses the project, or dvc.yaml or params.yaml cannot be read.
    """
    rows, names = [], set[str]()
    for stage in plan_run(root):
        after = f"if {' or '.join(stage.after)} changes what it reads"
        reason = summarize_changes(stage.changes) or after
        rows.append((stage.name, reason, bool(stage.changes), read_seconds(root, stage.name)))
        names.add(stage.name)
    kinds = {"stage": pl.String, "reason": pl.String, "is_certain": pl.Boolean, "seconds": pl.Float64}
    lfs = pl.DataFrame(schema={"lf": pl.String, "items": pl.Int64, "of": pl.Int64})
    if "apply" in names and (root / ITEMS).is_file():
        # Imported here because it loads what runs LFs, .5 s that a project with nothing to do would wait for.
        from tasks.queries.pending import find_pending_lfs

        lfs = find_pending_lfs(root, read_params(root))
    models = pl.DataFrame(schema={"lf": pl.String, "answers": pl.Int64, "budget": pl.Int64})
    if names_llm_lf(root):
        from tasks.queries.pending import find_unasked_models

        models = find_unasked_models(root, read_params(root))
    return Plan(stages=pl.DataFrame(rows, schema=kinds, orient="row"), lfs=lfs, models=models)


def names_llm_lf(root: Path) -> bool:
    """Return whether a module below lfs/ names `llm_lf`: cheaper to tell than to load them."""
    return any("llm_lf" in path.read_text(encoding="utf-8", errors="replace") for path in (root / "lfs").rglob("*.py"))
