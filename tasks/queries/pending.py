"""What is still to be asked: LFs that `apply` would ask for votes now, and language models that nobody has asked yet."""

from pathlib import Path

import polars as pl

from tasks.cache.store import Cache
from tasks.lf.cache import CACHE_KIND, VoteCache
from tasks.lf.clocks import find_clocks
from tasks.lf.fingerprint import Fingerprints
from tasks.lf.language_model import ModelLF
from tasks.lf.loading import load_module, project_lfs
from tasks.params import Params
from tasks.tables.parquet import count_rows
from tasks.tables.paths import ITEMS


def find_pending_lfs(root: Path, params: Params) -> pl.DataFrame:
    """Return a row per LF that would be asked: lf, items (the number to ask about), of (the number of all items).

    There are no rows if votes come from a table. An LF that reads a clock is asked about all items each time.

    Raises
    ------
    LabelingFunctionError
        The LF module cannot be loaded.
    DataError
        The items are missing or damaged.
    """
    rows: list[tuple[str, int, int]] = []
    if Path(params.apply.source).suffix == ".py":
        n = count_rows(root / ITEMS)
        with project_lfs(root), Cache(root, CACHE_KIND) as entries:
            module = load_module(root, params.apply.source, may_be_empty=params.apply.describe is not None)
            fingerprints, cache = Fingerprints(root, module), VoteCache(root, entries, params.classes)
            for lf in module.lfs:
                digest = None if find_clocks(lf) else fingerprints.identify_lf(lf)
                recalled = None if digest is None else cache.recall(digest)
                asked = n if recalled is None else len(recalled.missing)
                if asked:
                    rows.append((lf.name, asked, n))
    return pl.DataFrame(rows, schema={"lf": pl.String, "items": pl.Int64, "of": pl.Int64}, orient="row")


def find_unasked_models(root: Path, params: Params) -> pl.DataFrame:
    """Return a row per LF of a language model whose budget allows more calls: lf, answers, budget.

    No stage asks; `epoxy ask` does. There may be fewer items than the budget has calls.

    Raises
    ------
    LabelingFunctionError
        The LF module cannot be loaded.
    """
    rows: list[tuple[str, int, int]] = []
    if Path(params.apply.source).suffix == ".py":
        with project_lfs(root):
            module = load_module(root, params.apply.source, may_be_empty=params.apply.describe is not None)
        rows = [
            (lf.name, len(lf.answers), lf.budget.calls)
            for lf in module.lfs
            if isinstance(lf, ModelLF) and len(lf.answers) < lf.budget.calls
        ]
    return pl.DataFrame(rows, schema={"lf": pl.String, "answers": pl.Int64, "budget": pl.Int64}, orient="row")
