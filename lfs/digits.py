"""Labeling functions for the demo: rules about how handwritten digits look, written by thinking, not fitted.

An image is 8 rows of 8 pixels, 0 (paper) to 16 (ink); row 0 is the top, column 0 the left. Each rule votes for one
digit where it is fairly sure, and abstains elsewhere. Copy this file to write your own: params.yaml names it in
`apply.source`.
"""

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import ndimage

from tasks.labeling import ABSTAIN, Item, labeling_function, vectorized_labeling_function, vote_where

Shares = npt.NDArray[np.float64]
Span = tuple[int, int]


def ink(items: pl.DataFrame, rows: Span, columns: Span) -> Shares:
    """How dark a rectangle of each image is, from 0 (paper) to 1 (ink); first and last row and column included."""
    images = items["image"].to_numpy().reshape(-1, 8, 8)
    part = images[:, rows[0] : rows[1] + 1, columns[0] : columns[1] + 1]
    shares: Shares = part.mean(axis=(1, 2)) / 16
    return shares


# Vectorized rules: one look at all images at once.


@vectorized_labeling_function
def hollow_middle(items: pl.DataFrame) -> pl.Expr:
    """Paper in the very middle, walls left and right of it: a zero."""
    middle = ink(items, rows=(3, 4), columns=(3, 4))
    left, right = ink(items, rows=(3, 4), columns=(1, 2)), ink(items, rows=(3, 4), columns=(5, 6))
    return vote_where((middle < 0.1) & (left > 0.3) & (right > 0.3), "0")


@vectorized_labeling_function
def upright_stroke(items: pl.DataFrame) -> pl.Expr:
    """Ink down the middle, nothing at the sides, and no belly: a one."""
    middle = ink(items, rows=(0, 7), columns=(3, 4))
    left, right = ink(items, rows=(0, 7), columns=(0, 1)), ink(items, rows=(0, 7), columns=(6, 7))
    belly = ink(items, rows=(5, 6), columns=(2, 2))
    return vote_where((middle > 0.75) & (left < 0.02) & (right < 0.05) & (belly < 0.4), "1")


@vectorized_labeling_function
def long_foot(items: pl.DataFrame) -> pl.Expr:
    """A line along the bottom that sticks out to the right, and paper above its end: a two."""
    foot = ink(items, rows=(6, 7), columns=(2, 5))
    tip, above_tip = ink(items, rows=(6, 7), columns=(5, 6)), ink(items, rows=(3, 5), columns=(5, 7))
    return vote_where((foot > 0.65) & (tip > 0.4) & (above_tip < 0.15), "2")


@vectorized_labeling_function
def swan_neck(items: pl.DataFrame) -> pl.Expr:
    """Ink top right, then bottom left, but neither left of the neck nor right below it: a two."""
    top_right, bottom_left = ink(items, rows=(1, 2), columns=(4, 5)), ink(items, rows=(6, 7), columns=(2, 3))
    left, right = ink(items, rows=(3, 4), columns=(0, 2)), ink(items, rows=(4, 5), columns=(5, 7))
    return vote_where((top_right > 0.5) & (bottom_left > 0.6) & (left < 0.08) & (right < 0.08), "2")


@vectorized_labeling_function
def open_to_the_left(items: pl.DataFrame) -> pl.Expr:
    """Ink at the top, at the lower right and at the bottom, but paper all along the left: a three."""
    top, bottom = ink(items, rows=(0, 0), columns=(2, 4)), ink(items, rows=(7, 7), columns=(2, 4))
    lower_right = ink(items, rows=(4, 5), columns=(5, 6))
    left = ink(items, rows=(2, 5), columns=(0, 2))
    return vote_where((top > 0.5) & (bottom > 0.6) & (lower_right > 0.4) & (left < 0.12), "3")


@vectorized_labeling_function
def crossbar(items: pl.DataFrame) -> pl.Expr:
    """A wide line below the middle, with a narrow head above it and a narrow foot below: a four."""
    bar = ink(items, rows=(4, 5), columns=(1, 5))
    head = ink(items, rows=(0, 0), columns=(4, 7)) + ink(items, rows=(0, 0), columns=(0, 2))
    foot = ink(items, rows=(7, 7), columns=(0, 2)) + ink(items, rows=(7, 7), columns=(5, 7))
    return vote_where((bar > 0.6) & (head < 0.3) & (foot < 0.15), "4")


@vectorized_labeling_function
def flag(items: pl.DataFrame) -> pl.Expr:
    """A line along the top, a wall down from its left end, and paper below its right end: a five."""
    top, wall = ink(items, rows=(0, 0), columns=(3, 5)), ink(items, rows=(1, 3), columns=(2, 2))
    under_top = ink(items, rows=(2, 2), columns=(5, 7))
    return vote_where((top > 0.5) & (wall > 0.6) & (under_top < 0.05), "5")


@vectorized_labeling_function
def light_head_heavy_belly(items: pl.DataFrame) -> pl.Expr:
    """A wall on the left, paper at the upper right, ink at the lower right: a six."""
    wall = ink(items, rows=(3, 5), columns=(1, 2))
    upper_right, lower_right = ink(items, rows=(0, 2), columns=(5, 7)), ink(items, rows=(5, 6), columns=(5, 6))
    return vote_where((wall > 0.4) & (upper_right < 0.02) & (lower_right > 0.4), "6")


@vectorized_labeling_function
def roof_and_tail(items: pl.DataFrame) -> pl.Expr:
    """A wide roof with paper under its left half, and a tail that leaves the lower right empty: a seven."""
    roof, under_roof = ink(items, rows=(0, 0), columns=(3, 5)), ink(items, rows=(2, 2), columns=(1, 3))
    lower_right = ink(items, rows=(5, 7), columns=(5, 7))
    return vote_where((roof > 0.6) & (under_roof < 0.2) & (lower_right < 0.05), "7")


@vectorized_labeling_function
def narrow_waist(items: pl.DataFrame) -> pl.Expr:
    """Broad above and below, with a dark middle and paper at both sides of it: an eight."""
    waist = ink(items, rows=(3, 4), columns=(3, 4))
    sides = ink(items, rows=(4, 4), columns=(0, 1)) + ink(items, rows=(4, 4), columns=(6, 7))
    upper = np.minimum(ink(items, rows=(1, 2), columns=(2, 2)), ink(items, rows=(1, 2), columns=(5, 5)))
    lower = np.minimum(ink(items, rows=(5, 6), columns=(2, 2)), ink(items, rows=(5, 6), columns=(5, 5)))
    return vote_where((waist > 0.7) & (sides < 0.05) & (upper > 0.45) & (lower > 0.45), "8")


@vectorized_labeling_function
def head_on_a_stick(items: pl.DataFrame) -> pl.Expr:
    """Ink at both sides above, at the right alone below: a nine."""
    upper_left, upper_right = ink(items, rows=(1, 3), columns=(1, 2)), ink(items, rows=(1, 3), columns=(5, 6))
    lower_left, lower_right = ink(items, rows=(4, 5), columns=(0, 3)), ink(items, rows=(4, 6), columns=(5, 6))
    return vote_where((upper_left > 0.3) & (upper_right > 0.3) & (lower_left < 0.15) & (lower_right > 0.3), "9")


# Row-wise rules: any Python code that looks at one image. They find enclosed patches of paper, as in 0, 6, 8 and 9.


def picture(item: Item) -> npt.NDArray[np.uint8]:
    """The image as 8 rows of 8 pixels."""
    return np.array(item.image, dtype=np.uint8).reshape(8, 8)


def holes(item: Item) -> list[float]:
    """The height of each hole in the image, from the top: its mean row, 0 to 7. A hole is paper that ink encloses."""
    is_paper = picture(item) < 5
    # A frame of paper around the image joins all that is outside of the digit into one patch, the first to be met.
    patches, count = ndimage.label(np.pad(is_paper, 1, constant_values=True))
    return [float(np.argwhere(patches == patch)[:, 0].mean()) - 1 for patch in range(2, count + 1)]


@labeling_function
def two_holes(item: Item) -> str | int:
    """Two holes, one above the other: an eight."""
    found = holes(item)
    return "8" if len(found) == 2 and found[0] < 3.5 < found[1] else ABSTAIN


@labeling_function
def high_hole(item: Item) -> str | int:
    """One hole, in the upper half, and paper below it on the left: a nine."""
    found = holes(item)
    is_open = picture(item)[4:6, 0:3].mean() < 2
    return "9" if len(found) == 1 and found[0] < 2.5 and is_open else ABSTAIN


@labeling_function
def low_hole(item: Item) -> str | int:
    """One hole, in the lower half, and paper above it on the right: a six."""
    found = holes(item)
    is_open = picture(item)[1:3, 5:8].mean() < 2
    return "6" if len(found) == 1 and found[0] > 4.5 and is_open else ABSTAIN


@labeling_function
def narrow_all_the_way(item: Item) -> str | int:
    """Nowhere wider than three dark pixels: a one."""
    is_dark = picture(item) >= 8
    return "1" if is_dark.any(axis=0).sum() <= 3 else ABSTAIN
