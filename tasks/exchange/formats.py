"""Which forms there are, by the names that commands take."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.exchange import argilla, hugging_face, label_studio, plain_tables, prodigy, wrench
from tasks.exchange.contents import Brought, Labeled

FILES: Mapping[str, Callable[[Path, Labeled], None]] = {
    "parquet": plain_tables.write_parquet,
    "csv": plain_tables.write_csv,
    "jsonl": plain_tables.write_jsonl,
}
"""What is written as a file."""

FOLDERS: Mapping[str, Callable[[Path, Labeled], None]] = {
    "hugging-face": hugging_face.write_data_set,
    "wrench": wrench.write_wrench,
    "label-studio": label_studio.write_tasks,
    "argilla": argilla.write_records,
}
"""What is written as a folder."""

ANNOTATIONS: Mapping[str, Callable[[Path], Brought]] = {
    "label-studio": label_studio.read_tasks,
    "argilla": argilla.read_records,
    "prodigy": prodigy.read_tasks,
}
"""What people decided with another tool."""
