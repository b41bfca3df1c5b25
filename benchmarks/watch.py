"""`python -m benchmarks watch --n 20000`: seconds from saving an edit in `epoxy watch` to the page, with its parts.

Items are those of benchmarks/spaces.py, two classes, 80 % train and 5 % valid (with gold); each LF compares a column of
its own with numbers, votes on 5 % of the items and is right on 80 % of them. Edited in turn are a threshold in
params.yaml (the others are chosen anew around it) and a number in an LF, which changes its votes each time. An edit is
saved right after a look at the files, so that it waits a whole pause, and while the stages behind the last result run,
which it ends. The LF's own time is that of asking it alone about all items. At the end, the stages run on the same
project, and their labels are compared with those of the loop.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from benchmarks.spaces import draw_space, draw_votes
from flows.watch.loop import PAUSE_SECONDS, Loop
from flows.watch.page import TerminalPage
from flows.watch.view import View
from tasks.__main__ import run_stage
from tasks.lf.loading import load_lfs
from tasks.lf.voting import apply_vectorized
from tasks.tables import schemas
from tasks.tables.files import write_json
from tasks.tables.parquet import read_table, write_table
from tasks.tables.paths import ITEMS, LABEL_MODEL_LABELS

_ROOT = Path(__file__).resolve().parents[1]
_MODULE = Path("lfs/mine.py")
CLASSES = ("no", "yes")

_HEAD = """import polars as pl
from tasks.labeling import vectorized_labeling_function
"""
_LF = """

@vectorized_labeling_function
def lf{lf:02}(items):
    x = pl.col("x{lf:02}")
    return pl.when(x >= {edge}).then(pl.lit("yes")).when(x >= 0).then(pl.lit("no"))
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One kind of edit: medians of seconds over the repeats."""

    edit: str
    repeats: int
    seconds: float
    """From saving the file to the page."""
    slowest: float
    processor_seconds: float
    """Of the loop's process; less than `seconds` where others keep the cores busy, more where threads share the work."""
    lf_seconds: float
    """The edited LF's own time."""
    target: float
    """Of `seconds`, that time included."""
    parts: dict[str, float]
    """The steps; what passes before the change is noticed and until the page is there; and all else."""
    labels_equal: bool
    """Whether the loop's last labels are the bytes that the stage fit writes."""


class _Recorder(TerminalPage):
    """Writes the page and keeps what it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.views: list[View] = []

    def show(self, view: View) -> None:
        super().show(view)
        self.views.append(view)

    def fail(self, message: str) -> None:
        raise RuntimeError(message)


def main(arguments: list[str]) -> int:
    """0 after printing a table and, with --json, writing the results; 1 if labels differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks watch", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--n", type=int, default=20_000, help="items (default 20,000)")
    parser.add_argument("--d", type=int, default=384, help="dimensions (default 384)")
    parser.add_argument("--lfs", type=int, default=16, help="labeling functions (default 16)")
    parser.add_argument("--repeats", type=int, default=10, help="edits of each kind (default 10)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(arguments)
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as copy:
        root = Path(name)
        write_project(root, options.n, options.d, options.lfs)
        results = measure(root, Path(copy), options.repeats)
    print(format_table(results))
    if options.json:
        write_json(options.json, [asdict(result) for result in results])
    return 0 if all(result.labels_equal for result in results) else 1


def write_project(root: Path, n: int, d: int, m: int) -> None:
    """Write params, an LF module, raw items and embeddings; run ingest and index."""
    space = draw_space("clustered", n, d)
    rng = np.random.default_rng(5)
    L = draw_votes(space, m, 0.05, 2)
    split = rng.choice(["train", "valid", "test"], n, p=[0.8, 0.05, 0.15])
    items = pl.DataFrame(
        {
            "item_id": np.arange(n),
            "split": split,
            "gold": np.array(CLASSES)[space.gold],
            **{f"x{lf:02}": L[:, lf] + rng.random(n) for lf in range(m)},
        }
    )
    (root / "data/raw").mkdir(parents=True)
    (root / "lfs").mkdir()
    items.with_columns(gold=pl.when(pl.col("split") == "train").then(None).otherwise("gold")).write_parquet(
        root / "data/raw/items.parquet"
    )
    np.save(root / "data/raw/embeddings.npy", np.concatenate(list(space.draw_batches())))
    write_edit(root, m, edge=1.0, threshold=0.8)
    for stage in ("ingest", "gold", "index"):
        run_stage(root, stage)


def write_edit(root: Path, m: int, *, edge: float, threshold: float) -> None:
    """Write params with a `threshold` for the last LF, and LFs of which the first votes "yes" from `edge` on."""
    lfs = "".join(_LF.format(lf=lf, edge=1.0 if lf else edge) for lf in range(m))
    params = yaml.safe_load((_ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["classes"] = list(CLASSES)
    params["ingest"] |= {"source": "data/raw", "embeddings": "embeddings.npy", "embedding_ids": "items.parquet"}
    params["apply"]["source"] = str(_MODULE)
    params["tune"]["thresholds"] = {f"lf{m - 1:02}": threshold}
    for path, text in ((root / _MODULE, _HEAD + lfs), (root / "params.yaml", yaml.safe_dump(params))):
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.with_suffix(".new").write_text(text)
            path.with_suffix(".new").replace(path)


def measure(root: Path, copy: Path, repeats: int) -> list[Result]:
    """A result for each kind of edit."""
    page = _Recorder()
    loop = Loop(root, copy, page, lambda: None)
    m = len(load_lfs(root, str(_MODULE)))
    edge, threshold = 1.0, 0.8
    totals: dict[str, list[float]] = {"threshold": [], "LF": []}
    processor: dict[str, list[float]] = {"threshold": [], "LF": []}
    views: dict[str, list[View]] = {"threshold": [], "LF": []}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            loop.step()
            for number in range(1, 2 * repeats + 1):
                kind = "threshold" if number % 2 else "LF"
                if kind == "threshold":
                    threshold -= 0.3 / repeats
                else:
                    edge += 0.9 / repeats  # its "yes" votes lie between 1 and 2, so that each edit changes some
                shown, began, used = len(page.views), time.perf_counter(), time.process_time()
                write_edit(root, m, edge=edge, threshold=threshold)
                while len(page.views) == shown:
                    time.sleep(PAUSE_SECONDS)
                    loop.step()
                totals[kind].append(time.perf_counter() - began)
                processor[kind].append(time.process_time() - used)
                views[kind].append(page.views[-1])
        result = loop.result
    finally:
        loop.close()
    assert result is not None
    for stage in ("apply", "search", "tune", "extend", "fit"):
        run_stage(root, stage)
    write_table(root / "loop.parquet", result.labels, schemas.labels(CLASSES))
    is_equal = (root / "loop.parquet").read_bytes() == (root / LABEL_MODEL_LABELS).read_bytes()
    own = {"threshold": 0.0, "LF": _time_lf(root)}
    return [
        Result(
            edit=kind,
            repeats=repeats,
            seconds=statistics.median(totals[kind]),
            slowest=max(totals[kind]),
            processor_seconds=statistics.median(processor[kind]),
            lf_seconds=own[kind],
            target=target + own[kind],
            parts=_find_parts(views[kind], totals[kind]),
            labels_equal=is_equal,
        )
        for kind, target in (("threshold", 0.2), ("LF", 0.5))
    ]


def _time_lf(root: Path) -> float:
    (lf, *_), items = load_lfs(root, str(_MODULE)), read_table(root / ITEMS, schemas.ITEMS)
    began = time.perf_counter()
    apply_vectorized(Path(), [lf], items, CLASSES)  # type: ignore[list-item]
    return time.perf_counter() - began


def _find_parts(views: list[View], totals: list[float]) -> dict[str, float]:
    steps = {step: statistics.median(view.steps[step] for view in views) for step in views[0].steps}
    notice = statistics.median(total - view.seconds for view, total in zip(views, totals, strict=True))
    other = statistics.median(view.seconds - sum(view.steps.values()) for view in views)
    return {"notice and show": notice, **steps, "other": other}


def format_table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    head = ["edit", "median s", "slowest s", "target s", "processor s", "LF's own s", "parts", "labels equal"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in results:
        cells = [
            one.edit,
            f"{one.seconds:.3f}",
            f"{one.slowest:.3f}",
            f"{one.target:.3f}",
            f"{one.processor_seconds:.3f}",
            f"{one.lf_seconds:.3f}",
            ", ".join(f"{part} {seconds:.3f}" for part, seconds in one.parts.items()),
            "yes" if one.labels_equal else "NO",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
