"""demo: raw data for ingest without a download, from scikit-learn's copy of the handwritten digits.

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
"""Items with gold for tune and fit: as many as a patient person labels in an hour."""

TEST = 300
"""Items with gold for evaluate, enough to measure an accuracy to about two points."""

SEED = 0

INK = 16
"""The largest pixel value: a pixel counts the dark points in 4 by 4 points of the scan, from 0 (paper) to 16 (ink)."""


def run(root: Path) -> None:
    """Write data/demo/raw: items.parquet (item_id, split, image, gold) and embeddings.npy, its rows in the same order.

    `image` is 64 uint8, 0 (paper) to 16 (ink), row by row from the top left. Every item has gold here; the stage gold
    withholds it.
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
    """Return each image minus the mean train image, in shares of full ink: float32 of shape (n, 64), -1 to 1.

    Gold plays no part. If the mean were not subtracted, all images would be near each other (ink in the middle of paper),
    and their cosines would say little.
    """
    shares = images / INK
    return np.asarray(shares - shares[is_train].mean(axis=0), dtype=np.float32)


def _draw_splits(gold: npt.NDArray[np.int8]) -> npt.NDArray[np.str_]:
    """Return a split for each item; each split has about the same share of every class.

    Items are shuffled within their class, classes follow one another, and a split takes items at regular intervals.
    """
    split = np.full(len(gold), str(Split.TRAIN))
    shuffled = np.random.default_rng(SEED).permutation(len(gold))
    rest = shuffled[np.argsort(gold[shuffled], kind="stable")]
    for name, size in ((Split.TEST, TEST), (Split.VALID, VALID)):
        drawn = np.arange(size) * len(rest) // size
        split[rest[drawn]] = str(name)
        rest = np.delete(rest, drawn)
    return split
