"""`python -m benchmarks votes`: the stage apply against a Python loop over rows and labeling functions, in one run.

The texts of FOLDER (items.parquet, column text) are repeated up to --size rows, each made unlike all others by its row
number in front, in lower case; the LFs are the regular expressions of FOLDER's rules.json and the words below. The loop
runs on --sample rows, spread evenly, and is extrapolated to all; the votes on these rows are compared. The stage is
timed in a process of its own, as a whole and its votes alone; the best of --repeats runs counts.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tasks.cache import store
from tasks.core.types import ABSTAIN
from tasks.tables import schemas
from tasks.tables.files import write_json
from tasks.tables.parquet import ROW_GROUP, read_votes, write_table
from tasks.tables.paths import ITEMS, VALID_GOLD, VOTES

ROOT = Path(__file__).resolve().parents[1]
WORDS = (
    "call", "free", "txt", "win", "prize", "claim", "urgent", "mobile", "stop", "reply",
    "love", "home", "ok", "sorry", "later", "lor", "da", "dont", "cash", "http",
)  # fmt: skip
CLASSES = ("HAM", "SPAM")

_RULES = """
import json
from pathlib import Path
from tasks.labeling import regex_lf
rules = [regex_lf(rule["name"], column="text", pattern=rule["regex"], label=rule["label"], case_insensitive=True)
         for rule in json.loads((Path(__file__).parent / "rules.json").read_text(encoding="utf-8"))]
"""
_KEYWORDS = f"""
from tasks.labeling import keyword_lf
words = [keyword_lf("word_" + word, column="text", keywords=[word], label="SPAM") for word in {list(WORDS)}]
"""
_STAGE = """
import json, resource, time
from pathlib import Path
from tasks import apply
from tasks.lf import loading, voting
from tasks.params import ApplyParams
from tasks.tables import schemas
from tasks.tables.parquet import read_batches
from tasks.tables.paths import ITEMS

def measure_peak():
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage begins with what the parent had before it started this process
        return int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

base, began = measure_peak(), time.perf_counter()
apply.run(Path(), ("HAM", "SPAM"), ApplyParams(source="lfs/mine.py"))
stage, peak = time.perf_counter() - began, measure_peak()
lfs, votes = loading.load_lfs(Path(), "lfs/mine.py"), 0.0
for items in read_batches(ITEMS, schemas.ITEMS, size=8 * 2**20, beside=len(lfs)):
    began = time.perf_counter()
    voting.apply_vectorized(Path(), lfs, items, ("HAM", "SPAM"))
    votes += time.perf_counter() - began
print(json.dumps({"stage": stage, "votes": votes, "memory": (peak - base) / 1024}))
"""

Finder = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of the table; seconds for all rows, memory in MiB beyond that of the imports."""

    work: str
    rows: int
    lfs: int
    loop_seconds: float
    """Of the Python loop, extrapolated from the sampled rows."""
    votes_seconds: float
    """Of the same work by the pipeline: texts in memory, votes in memory."""
    votes_ratio: float
    stage_seconds: float
    """Of the whole stage: read, check, vote, sum up, write."""
    stage_ratio: float
    edit_seconds: float
    """Of the stage after one of the LFs was edited."""
    votes_equal: bool
    """On the sampled rows."""
    memory: float
    memory_formula: float
    """By the formula in tasks/lf/ask_all.py."""


def main(arguments: list[str]) -> int:
    """Print the table and, with --json, write the results; 1 if votes differ or memory exceeds the formula."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks votes", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT.parent / "shared" / "datasets" / "sms")
    parser.add_argument("--size", type=int, default=1_000_000, help="rows (default 1,000,000)")
    parser.add_argument("--sample", type=int, default=5_000, help="rows the Python loop runs on (default 5,000)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the best counts (default 3)")
    parser.add_argument("--json", type=Path, default=None, help="file for the results")
    chosen = parser.parse_args(arguments)
    if not (chosen.folder / "rules.json").is_file():
        print(f"{chosen.folder}: no rules.json there", file=sys.stderr)
        return 2
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", file=sys.stderr)
    results = measure(chosen.folder, size=chosen.size, sample=chosen.sample, repeats=chosen.repeats)
    print(format_table(results))
    if chosen.json:
        write_json(chosen.json, [asdict(result) for result in results])
    return 0 if all(result.votes_equal and result.memory <= result.memory_formula for result in results) else 1


def measure(folder: Path, *, size: int, sample: int, repeats: int) -> list[Result]:
    """A result for the regular expressions, the keywords, and both together."""
    rules = json.loads((folder / "rules.json").read_text(encoding="utf-8"))
    patterns: dict[str, Finder] = {rule["name"]: re.compile(rule["regex"], re.IGNORECASE).search for rule in rules}
    labels = {rule["name"]: int(rule["label"]) for rule in rules} | {f"word_{word}": 1 for word in WORDS}
    words: dict[str, Finder] = {
        f"word_{word}": re.compile(rf"(?:^|\W){re.escape(word)}(?:\W|$)", re.IGNORECASE).search for word in WORDS
    }
    works = {"regex": (_RULES, patterns), "keyword": (_KEYWORDS, words), "both": (_RULES + _KEYWORDS, patterns | words)}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        texts = _lay_out(root, folder, size)
        rows = np.unique(np.linspace(0, size - 1, min(sample, size)).astype(np.int64))
        return [_measure(root, work, *works[work], labels, texts, rows, repeats) for work in works]


def loop_over_rows(finders: dict[str, Finder], labels: dict[str, int], texts: list[str]) -> dict[str, list[int]]:
    """The votes of each LF, asked about one text after the other."""
    votes: dict[str, list[int]] = {name: [] for name in finders}
    for text in texts:
        for name, find in finders.items():
            votes[name].append(labels[name] if find(text) else ABSTAIN)
    return votes


def format_table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    head = [
        "work",
        "rows",
        "LFs",
        "loop s",
        "votes s",
        "ratio",
        "stage s",
        "ratio",
        "one edit s",
        "votes equal",
        "MiB",
        "MiB by formula",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in results:
        cells = [
            one.work,
            f"{one.rows:,}",
            str(one.lfs),
            f"{one.loop_seconds:.1f}",
            f"{one.votes_seconds:.2f}",
            f"{one.votes_ratio:.1f}",
            f"{one.stage_seconds:.2f}",
            f"{one.stage_ratio:.1f}",
            f"{one.edit_seconds:.2f}",
            "yes" if one.votes_equal else "NO",
            f"{one.memory:.0f}",
            f"{one.memory_formula:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _lay_out(root: Path, folder: Path, size: int) -> pl.Series:
    """Write the items and rules of a project; give back the texts."""
    own = pl.read_parquet(folder / "items.parquet")["text"].str.to_lowercase()
    numbers = pl.int_range(size, eager=True)
    texts = (numbers.cast(pl.String) + " " + own.gather(numbers % len(own))).alias("text")
    items = pl.DataFrame([numbers.alias("item_id"), pl.repeat("train", size, eager=True).alias("split"), texts])
    write_table(root / ITEMS, items, schemas.ITEMS)
    gold = pl.DataFrame({"item_id": [0], "gold": pl.Series([0], dtype=pl.Int8)})
    write_table(root / VALID_GOLD, gold, schemas.gold(len(CLASSES)))
    (root / "lfs").mkdir()
    shutil.copyfile(folder / "rules.json", root / "lfs" / "rules.json")
    return texts


def _measure(
    root: Path,
    work: str,
    module: str,
    finders: dict[str, Finder],
    labels: dict[str, int],
    texts: pl.Series,
    rows: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    repeats: int,
) -> Result:
    sampled = texts.gather(rows).to_list()
    loops, stages, edits = [], [], []
    is_equal = True
    for _ in range(repeats):
        began = time.perf_counter()
        expected = loop_over_rows(finders, labels, sampled)
        loops.append((time.perf_counter() - began) / len(rows) * len(texts))
        shutil.rmtree(root / store.FOLDER, ignore_errors=True)
        stages.append(_run_stage(root, module))
        votes = read_votes(root / VOTES, len(CLASSES))
        is_equal &= votes[rows].drop("item_id").to_dict(as_series=False) == expected
        edited = (
            module
            + 'words = [*globals().get("words", [])[1:], keyword_lf("new", column="text", keywords=["hi"], label=0)]'
        )
        edits.append(_run_stage(root, "from tasks.labeling import keyword_lf\n" + edited)["stage"])
    b = texts.str.len_bytes().mean()
    assert isinstance(b, float)
    m, n = len(finders), len(texts)
    return Result(
        work=work,
        rows=n,
        lfs=m,
        loop_seconds=min(loops),
        votes_seconds=min(stage["votes"] for stage in stages),
        votes_ratio=min(loops) / min(stage["votes"] for stage in stages),
        stage_seconds=min(stage["stage"] for stage in stages),
        stage_ratio=min(loops) / min(stage["stage"] for stage in stages),
        edit_seconds=min(edits),
        votes_equal=is_equal,
        memory=max(stage["memory"] for stage in stages),
        # Of the formula in tasks/lf/ask_all.py; an item is its text, its id and the name of its split.
        memory_formula=128 + 8 * ROW_GROUP * (b + 16 + m) / 2**20 + 16 * 8 + 34 * n / 2**20,
    )


def _run_stage(root: Path, module: str) -> dict[str, float]:
    """Seconds of the stage and of its votes, and the MiB it took, with this LF module."""
    (root / "lfs" / "mine.py").write_text(module)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", _STAGE], cwd=root, env=environment, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
