"""muted.json: the labeling functions that params mute. They stay in the table of votes, and count as abstaining after it."""

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.core.types import ABSTAIN
from tasks.errors import DataError, ParamsError
from tasks.tables.files import read_json, write_json
from tasks.tables.paths import MUTED, VOTES


class _Muted(BaseModel):
    """The content of the file: names in the order of votes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    muted: tuple[str, ...]


def write_muted(root: Path, names: Collection[str], lfs: Sequence[str]) -> None:
    """Write which of `lfs` are muted, those of `names`.

    Raises
    ------
    ParamsError
        There is no such LF.
    """
    for name in names:
        if name not in lfs:
            near = difflib.get_close_matches(name, lfs, n=1, cutoff=0)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ParamsError(f"params.yaml: 'apply.mute': no LF is called '{name}'.{hint}")
    write_json(root / MUTED, {"muted": [lf for lf in lfs if lf in names]})


def read_muted(root: Path) -> tuple[str, ...]:
    """Return the names of the muted LFs.

    Raises
    ------
    DataError
        The file is missing or damaged.
    """
    path = root / MUTED
    try:
        return _Muted.model_validate(read_json(path)).muted
    except ValidationError as error:
        raise DataError(f"{path}: {error.errors()[0]['msg']}. Run 'dvc repro apply'.") from None


def mute(votes: pl.DataFrame, muted: Collection[str]) -> pl.DataFrame:
    """Return `votes` (item_id and a column per LF) with the LFs that are `muted` abstaining.

    >>> mute(pl.DataFrame({"item_id": [1, 2], "a": [0, 1], "b": [1, -1]}, schema_overrides={"a": pl.Int8}), ["a"]).rows()
    [(1, -1, 1), (2, -1, -1)]
    """
    return votes.with_columns(pl.lit(ABSTAIN, pl.Int8).alias(name) for name in votes.columns if name in muted)


def read_muted_of(root: Path, lfs: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the muted LFs, all of which are among `lfs`.

    Raises
    ------
    DataError
        The file is missing or damaged, or names an LF without votes.
    """
    muted = read_muted(root)
    if unknown := sorted({*muted} - {*lfs}):
        raise DataError(f"{root / MUTED}: no LF in {VOTES} is called '{unknown[0]}'. Run 'dvc repro apply'.")
    return muted
