"""Where a project and its results are; imports nothing slow."""

from pathlib import Path

from tasks.errors import ParamsError

PIPELINE = "dvc.yaml"
"""The pipeline's definition, in the project's root."""

# The same paths as in tasks/artifacts.py (a test compares them), whose imports would cost every command half a second.
SHIPPED_LABELS = Path("data/train/labels.parquet")
METRICS = Path("data/evaluate/metrics.json")
REPORT = Path("data/evaluate/report.html")
REPORT_SUMMARY = Path("data/evaluate/summary.md")
LF_REPORT = Path("data/evaluate/lf_report.csv")


def find_root(start: Path) -> Path:
    """The DVC project that `start` lies in.

    Raises
    ------
    ParamsError
        There is none, or it has no dvc.yaml.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / ".dvc").is_dir():
            if not (folder / PIPELINE).is_file():
                raise ParamsError(f"{folder}: no {PIPELINE} there; expected the pipeline's definition beside .dvc/")
            return folder
    raise ParamsError(f"{start.resolve()}: not inside a DVC project; go to the folder that holds {PIPELINE} and .dvc/")


def find_results(root: Path) -> dict[str, Path]:
    """The results that exist below `root`, by what they are."""
    results = {"labels": SHIPPED_LABELS, "metrics": METRICS, "report": REPORT}
    return {what: path for what, path in results.items() if (root / path).is_file()}


def describe_results(root: Path) -> str:
    """A line per result that exists: what it is and where."""
    return "\n".join(f"{what:<8} {path}" for what, path in find_results(root).items())
