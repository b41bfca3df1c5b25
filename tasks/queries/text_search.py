"""Which items contain a text."""

import numpy as np
import polars as pl

from tasks.core.types import Bool


def search_texts(items: pl.DataFrame, text: str) -> Bool:
    """Return whether each item contains `text` in some column, in upper or lower case, bool of shape (n,).

    >>> search_texts(pl.DataFrame({"text": ["Buy now", "\N{KELVIN SIGN}ind", None]}), "K").tolist()
    [False, True, False]
    """
    columns = [name for name, dtype in items.schema.items() if dtype == pl.String and name != "split"]
    if not columns:
        return np.zeros(items.height, dtype=np.bool_)
    pattern = f"(?i){pl.escape_regex(text)}"
    found = np.zeros(items.height, dtype=np.bool_)
    for name in columns:
        column = items[name]
        if not text.isascii():
            found |= column.str.contains(pattern).fill_null(False).to_numpy()
            continue
        # A third of the time of the expression, which is left to texts with the two letters that are no ASCII but have ASCII
        # letters for their other case.
        found |= column.str.contains_any([text], ascii_case_insensitive=True).fill_null(False).to_numpy()
        if set("kKsS") & set(text):
            odd = column.str.contains_any(["\N{KELVIN SIGN}", "\N{LATIN SMALL LETTER LONG S}"]).fill_null(False)
            found[odd.to_numpy()] |= column.filter(odd).str.contains(pattern).to_numpy()
    return found
