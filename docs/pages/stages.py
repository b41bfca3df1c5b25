"""reference/stages.md: what each stage reads, writes, does and holds in memory."""

import ast
import re

import yaml

from benchmarks.memory import FORMULAS
from docs.pages.artifacts import list_artifacts
from docs.pages.markdown import NOTE, ROOT, join_lines, table


def write_stages() -> str:
    """reference/stages.md."""
    return (
        "# Stages\n\n"
        + NOTE
        + "![The stages and which of them read what another wrote](../images/pipeline.svg)\n\n"
        + "`dvc.yaml` is the only definition of the pipeline. Each stage is `python -m tasks <stage>`, one section of "
        + "[params.yaml](params.md), one folder below `data/` ([artifacts](artifacts.md)), one Prefect task.\n\n"
        + stage_table()
        + "\n## Memory\n\n"
        + "What a stage must hold at most, for n items, d dimensions, m LFs and k classes:\n\n"
        + memory_table()
        + "\nTwo threads are counted; each further one takes some 90 MiB in `search` and `train`. "
        + "G = 16,384 rows are a row group; S = min(n, 20,000) rows are seen by Liger's k-means, R = min(n, 100,000) by the "
        + "end model; of W = min(n, 131,072) rows columns are added up at a time; C = 64 vectors per cell find the cells of an approximate index. To this come the texts of the items, "
        + "in `ingest` and `apply`, what gold of more than a fifth of the items adds to `evaluate`, and while `encoder: tfidf` is fitted the counts of words in at most 50,000 of them (100,000 texts "
        + "of 20 words took 706 MiB). `python -m benchmarks pipeline` measures the stages against these formulas.\n"
    )


def stage_table() -> str:
    """The table of stages, from dvc.yaml and the first sentence of each stage's module."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    rows = []
    for name, artifacts in list_artifacts().items():
        reads = [dep.removeprefix("data/") for dep in pipeline[name]["deps"] if not dep.startswith("tasks/")]
        writes = [path.relative_to(f"data/{name}").as_posix() for path in artifacts]
        doc = ast.get_docstring(ast.parse((ROOT / "tasks" / f"{name}.py").read_text()))
        sentence = re.split(r"(?<=\.)\s", join_lines(doc))[0]
        what = re.sub(rf"^(The |Stage )?{name}( stage)?: ", "", sentence)
        what = what[0].upper() + what[1:]
        rows.append(
            (f"`{name}`", "<br>".join(f"`{one}`" for one in reads), "<br>".join(f"`{one}`" for one in writes), what)
        )
    return table(("stage", "reads", "writes", "what it does"), rows)


MAPPED = {
    "ingest": "4 n d",
    "index": "4 n d",
    "search": "9 n d + 8 n m k; L2: 4 n d more",
    "tune": "5 n m",
    "fit": "4 n d + 2 n m; L2: 4 n d more",
    "train": "4 n d + n m + 100 n k + 80 n; L2: 4 n d more",
    "evaluate": "3 n m + 8 n k",
}
"""Bytes of mapped files, which the system drops from memory when it is needed elsewhere."""


def memory_table() -> str:
    """The table of what stages hold in memory, from the formulas that the benchmark checks."""
    rows = [
        (f"`{stage}`", " + ".join(f"{factor:g} {unit}" for unit, factor in factors.items()), MAPPED.get(stage, ""))
        for stage, factors in FORMULAS.items()
    ]
    return table(("stage", "memory, bytes", "mapped files, bytes"), rows)
