"""`python -m benchmarks intents`: made-up items of 77 classes, their descriptions, and LFs from good to bad.

Items lie around class centers with noise, descriptions too, so that the nearest description is right on about two thirds of
the items. Each LF votes for one class, by a word that items of that class have more often; how often it is right depends on
`--precision`. Bad LFs come in two kinds: `scattered`, whose errors are of any class, and `shared`, whose errors are those of one
other class, the same for all LFs of a class, so that they agree on what is wrong. The question is whether agreement without gold
tells who is the better witness. Nothing here is real: it stands in for tasks of many kinds that are not at hand.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from benchmarks.described import score_root
from tasks.__main__ import STAGES, run_stage
from tasks.core.types import ITEM_ID
from tasks.tables.files import read_json, write_json
from tasks.tables.paths import DESCRIPTIONS_SUMMARY

_ROOT = Path(__file__).resolve().parents[1]
CLASSES = 77
LFS = 335
WIDTH = 64
NOISE, VAGUE = 1.6, 1.25
"""Length of the noise of items and of descriptions, where class centers have length one."""
KINDS = ("scattered", "shared")
WAYS = ("description", "lfs", "both")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Items and LFs of a made-up task: their number, and how often and with what kind of errors LFs are right."""

    items: int
    precision: float
    errors: str


def main(arguments: list[str]) -> int:
    """Print a line for each run, then the table; with --json write it, too."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks intents", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--items", type=int, default=4_000)
    parser.add_argument("--precision", nargs="+", type=float, default=[0.8, 0.4, 0.2], help="of the LFs on average")
    parser.add_argument("--errors", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--json", type=Path, default=None, help="file for the results")
    chosen = parser.parse_args(arguments)
    results = []
    for precision in chosen.precision:
        for errors in chosen.errors:
            task = Task(items=chosen.items, precision=precision, errors=errors)
            results.append({"precision": precision, "errors": errors} | run_task(task, chosen.ways))
            print(results[-1], file=sys.stderr, flush=True)
    print(format_table(results, chosen.ways))
    if chosen.json:
        write_json(chosen.json, results)
    return 0


def run_task(task: Task, ways: tuple[str, ...]) -> dict[str, object]:
    """Return by way the accuracy on test, without gold, and what became of the descriptions beside LFs."""
    found: dict[str, object] = {}
    for way in ways:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            draw_task(root, task, way)
            for stage in STAGES[: STAGES.index("evaluate")]:
                run_stage(root, stage)
            found[way] = score_root(root, name_classes())
            said = read_json(root / DESCRIPTIONS_SUMMARY)
            if way == "both":
                found |= {name: said[name] for name in ("agreement", "agreement_of_others")}
                found["descriptions"] = "muted" if said["is_muted"] else "fill" if said["fills"] else "vote beside"
    return found


def name_classes() -> list[str]:
    """Return the names of the classes."""
    return [f"class_{number:02}" for number in range(CLASSES)]


def draw_task(root: Path, task: Task, way: str) -> None:
    """Write items, embeddings, votes, vectors of descriptions and params to the folder `root`."""
    rng = np.random.default_rng(0)
    weights = 1 / np.sqrt(np.arange(1, CLASSES + 1))
    label = rng.choice(CLASSES, task.items, p=weights / weights.sum())
    centers = rng.standard_normal((CLASSES, WIDTH)) / np.sqrt(WIDTH)
    embeddings = centers[label] + NOISE * rng.standard_normal((task.items, WIDTH)) / np.sqrt(WIDTH)
    described = centers + VAGUE * rng.standard_normal((CLASSES, WIDTH)) / np.sqrt(WIDTH)
    votes = _draw_votes(rng, label, task)
    split = rng.choice(["train", "valid", "test"], task.items, p=[0.6, 0.2, 0.2])
    names = name_classes()
    items = pl.DataFrame({ITEM_ID: np.arange(task.items), "split": split, "gold": np.array(names)[label]})
    raw = root / "data/raw"
    raw.mkdir(parents=True)
    (root / "lfs").mkdir()
    items.with_columns(gold=pl.when(pl.col("split") == "test").then("gold")).write_parquet(raw / "items.parquet")
    np.save(raw / "embeddings.npy", embeddings.astype(np.float32))
    vectors = pl.Series(described.astype(np.float32), dtype=pl.Array(pl.Float32, WIDTH))
    pl.DataFrame({"class": names, "vector": vectors}).write_parquet(root / "lfs/classes.parquet")
    params = yaml.safe_load((_ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["classes"] = names
    params["ingest"] |= {"source": "data/raw", "embeddings": "embeddings.npy", "embedding_ids": "items.parquet"}
    if way == "description":
        (root / "lfs/none.py").write_text('"""No labeling function."""\n', encoding="utf-8")
        params["apply"]["source"] = "lfs/none.py"
    else:
        columns = {f"lf_{lf:03}": votes[:, lf] for lf in range(LFS)}
        pl.DataFrame({ITEM_ID: np.arange(task.items), **columns}).write_parquet(root / "lfs/votes.parquet")
        params["apply"]["source"] = "lfs/votes.parquet"
    if way != "lfs":
        params["apply"]["describe"] = {"vectors": "lfs/classes.parquet"}
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def _draw_votes(rng: np.random.Generator, label: np.ndarray, task: Task) -> np.ndarray:
    """Votes (n, m): an LF votes on 15 % of its class's items, and on so many others that its precision is what it should be.

    Precisions are spread evenly between half and one and a half times the average, at most .95.
    """
    votes = np.full((task.items, LFS), -1, np.int8)
    confused = rng.permutation(CLASSES)
    for lf in range(LFS):
        voted = lf % CLASSES
        precision = min(rng.uniform(0.5, 1.5) * task.precision, 0.95)
        right = np.flatnonzero(label == voted)
        right = rng.choice(right, max(round(0.15 * len(right)), 1), replace=False)
        wrong = np.flatnonzero(
            (label == confused[voted] if task.errors == "shared" else label != voted) & (label != voted)
        )
        count = min(round(len(right) * (1 / precision - 1)), len(wrong))
        votes[np.concatenate([right, rng.choice(wrong, count, replace=False)]), lf] = voted
    return votes


def format_table(results: list[dict[str, object]], ways: tuple[str, ...]) -> str:
    """Return the table, a row for each precision and kind of errors."""
    head = ["LFs right", "their errors", *ways, "agreement of descriptions", "of LFs", "descriptions"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in results:
        shown = [row["precision"], row["errors"], *(row[way] for way in ways), row.get("agreement", ""),
                 row.get("agreement_of_others", ""), row.get("descriptions", "")]  # fmt: skip
        lines.append(f"| {' | '.join(f'{x:.3f}' if isinstance(x, float) else str(x) for x in shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
