"""demo: real data without a download, from scikit-learn's own copy of the handwritten digits, as raw input for ingest.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998);
scikit-learn ships its test part, 1,797 images of 8 by 8 pixels.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.datasets import load_digits

from tasks.core.types import ITEM_ID
from tasks.params import Split
from tasks.tables import schemas
from tasks.tables.files import open_atomic
from tasks.tables.parquet import write_table

RAW = Path("data/demo/raw")

VALID = 200
"""Items with gold that tune and fit may look at: as many as a patient person labels in an hour."""

TEST = 300
"""Enough that an accuracy is known to about two points."""

SEED = 0

INK = 16
"""Pixels count the dark ones in 4 by 4 points of the scan: 0 is paper, 16 is ink."""


def run(root: Path) -> None:
    """Write data/demo/raw: items.parquet (item_id, split, image, gold) and embeddings.npy, its rows in the same order.

    `image` is 64 uint8, 0 (paper) to 16 (ink), row by row from the top left. Every item has its gold here; it is ingest
    that withholds it.
    """
    digits = load_digits()
    images = digits.data.astype(np.uint8)
    gold = digits.target.astype(np.int8)
    split = _draw_splits(gold)
    items = pl.DataFrame(
        {
            ITEM_ID: [f"digit-{row:04d}" for row in range(len(images))],
            "split": split,
            "image": pl.Series(images, dtype=pl.Array(pl.UInt8, images.shape[1])),
            "gold": gold,
        }
    )
    write_table(root / RAW / "items.parquet", items, schemas.ITEMS)
    with open_atomic(root / RAW / "embeddings.npy") as part, part.open("wb") as file:
        np.save(file, embed_images(images, split == str(Split.TRAIN)))


def embed_images(images: npt.NDArray[np.uint8], is_train: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return how each image differs from the mean train image, in shares of full ink: float32 of shape (n, 64), -1 to 1.

    A function of pixels alone. Without the mean taken off, every image would be near every other (all are ink in the
    middle of paper), and their cosines would say little.
    """
    shares = images / INK
    return np.asarray(shares - shares[is_train].mean(axis=0), dtype=np.float32)


def _draw_splits(gold: npt.NDArray[np.int8]) -> npt.NDArray[np.str_]:
    """Return a split for each item, in every one about the same share of each class.

    Items in random order within their class, classes one after the other, every so manieth is drawn.
    """
    split = np.full(len(gold), str(Split.TRAIN))
    shuffled = np.random.default_rng(SEED).permutation(len(gold))
    rest = shuffled[np.argsort(gold[shuffled], kind="stable")]
    for name, size in ((Split.TEST, TEST), (Split.VALID, VALID)):
        drawn = np.arange(size) * len(rest) // size
        split[rest[drawn]] = str(name)
        rest = np.delete(rest, drawn)
    return split
