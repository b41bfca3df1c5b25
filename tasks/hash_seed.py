"""The seed of Python's hashes of texts, which every process that asks labeling functions has to have."""

import os

HASH_SEED = "6640"
"""That of the workers that Dask's nannies start, so that an LF votes alike wherever it is asked."""


def are_hashes_fixed() -> bool:
    """Whether this process was started with the seed."""
    return os.environ.get("PYTHONHASHSEED") == HASH_SEED
