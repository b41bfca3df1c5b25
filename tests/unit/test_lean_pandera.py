"""Tables are checked without pandas, and an LF module that checks its own pandas tables with pandera is none the wiser."""

import subprocess
import sys

import pytest

_OURS = """
import sys
from pathlib import Path
import polars
import tasks.tables.schemas as ours
from tasks.tables.validation import validate_table

def check(ids):
    validate_table(Path("x"), polars.DataFrame({"item_id": ids}), ours.votes(2, ()))

check([1, 2])
try:
    check([2, 1])
except Exception as error:
    assert "failed 'each item_id once, ascending'" in str(error)
assert "pandas" not in sys.modules
"""

_THEIRS = """
import pandas
try:
    schema.validate(pandas.DataFrame({"size": [0]}))
except pandera.errors.SchemaError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "begin",
    [
        "import pandera.errors, pandera.pandas as pa\nschema = pa.DataFrameSchema({'size': pa.Column(int, pa.Check.gt(0))})",
        "import pandera.errors, pandera as pa\nschema = pa.DataFrameSchema({'size': pa.Column(int, pa.Check.gt(0))})",
        "import pandera.errors\nfrom pandera.typing import Series\nimport pandera.pandas as pa\n"
        "class schema(pa.DataFrameModel):\n    size: Series[int] = pa.Field(gt=0)",
    ],
    ids=["pandera.pandas", "pandera", "pandera.typing"],
)
def test_pandas_is_imported_for_who_asks_for_it(begin: str) -> None:
    """In a process of its own: this one may have imported anything."""
    code = f"{_OURS}{begin}\n{_THEIRS}check([2, 1])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert "greater_than(0)" in done.stdout, done.stderr
    assert "failed 'each item_id once, ascending'" in done.stderr
