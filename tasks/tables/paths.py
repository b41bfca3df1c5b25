"""Where each stage's artifacts are, below the project's root; dvc.yaml names the same paths (a test compares them)."""

from pathlib import Path

ITEMS = Path("data/ingest/items.parquet")
COLUMN_GOLD = Path("data/ingest/gold.parquet")
EMBEDDINGS = Path("data/ingest/embeddings")
ENCODER = Path("data/ingest/encoder.parquet")
QUARANTINE = Path("data/ingest/quarantine.parquet")
VALID_GOLD = Path("data/gold/valid.parquet")
WITHHELD_GOLD = Path("data/gold/withheld.parquet")
GOLD_CONFLICTS = Path("data/gold/conflicts.parquet")
GOLD_SUMMARY = Path("data/gold/summary.json")
INDEX = Path("data/index/index.faiss")
INDEX_DESCRIPTION = Path("data/index/index.json")
CELLS = Path("data/index/cells.parquet")
VOTES = Path("data/apply/votes.parquet")
LF_SUMMARY = Path("data/apply/lf_summary.csv")
LF_FAILURES = Path("data/apply/lf_failures.parquet")
MUTED = Path("data/apply/muted.json")
DESCRIPTIONS = Path("data/apply/descriptions.parquet")
DESCRIPTIONS_SUMMARY = Path("data/apply/descriptions.json")
NEIGHBORS = Path("data/search/neighbors.parquet")
RECALL = Path("data/search/recall.json")
THRESHOLDS = Path("data/tune/thresholds.json")
THRESHOLD_CURVES = Path("data/tune/threshold_curves.csv")
EMBEDDING_FITNESS = Path("data/tune/embedding_fitness.json")
EMBEDDING_FITNESS_CURVES = Path("data/tune/embedding_fitness.csv")
EXTENDED_VOTES = Path("data/extend/votes.parquet")
PROVENANCE = Path("data/extend/provenance.parquet")
LABEL_MODEL = Path("data/fit/label_model.json")
LABEL_MODEL_LABELS = Path("data/fit/labels.parquet")
LABEL_MODEL_PREDICTIONS = Path("data/fit/predictions.parquet")
END_MODEL_SUMMARY = Path("data/train/end_model.json")
END_MODEL = Path("data/train/model.parquet")
SHIPPED_LABELS = Path("data/train/labels.parquet")
END_MODEL_PREDICTIONS = Path("data/train/predictions.parquet")
METRICS = Path("data/evaluate/metrics.json")
REPORT = Path("data/evaluate/report.html")
REPORT_SUMMARY = Path("data/evaluate/summary.md")
LF_REPORT = Path("data/evaluate/lf_report.csv")
PLOTS = Path("data/evaluate/plots")
PLOTS_TEMPLATE = Path("data/evaluate/plots_template.html")

ARTIFACTS = tuple(path for path in list(globals().values()) if isinstance(path, Path))
"""All of them."""

DECISIONS = "decisions.jsonl"
"""The table, in the folder of gold, that `epoxy gold add` and a page for labeling write."""
