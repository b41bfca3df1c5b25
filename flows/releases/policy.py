"""release.yaml as typed, frozen models: what may be released, and who carries a release where.

Apart from params.yaml, because nothing here changes a label: a looser gate must not make the same labels another
release, nor a stage run again.
"""

import difflib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pydantic
import yaml
from pydantic import Field

from tasks.errors import ParamsError
from tasks.params import Section, TuneMetric
from tasks.params_file import check_strictly
from tasks.strict_yaml import describe_yaml_error, parse_yaml

FILE = Path("release.yaml")

Share = Annotated[float, Field(ge=0, le=1)]
Shift = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Columns(StrEnum):
    """Whether classes, columns and their types may differ from the last release."""

    SAME = "same"
    ANY = "any"


class GateLimits(Section):
    """Limits that a candidate has to hold; null switches a gate off. Shares are in [0, 1]."""

    minimum_coverage: Share | None = 0.5
    """Share of items with a vote. Below one half, most labels rest on no vote, original or extended."""
    metric: TuneMetric = TuneMetric.ACCURACY
    """Of the released labels, on the gold of valid."""
    minimum_metric: Share | None = None
    """What the metric may not fall below, whatever the last release had."""
    maximum_metric_drop: Share | None = 0.05
    """Below the last release. With 200 items of gold at .9 one standard error is .02: less than .05 is mostly luck."""
    maximum_flipped: Share | None = 0.1
    """Share of the items of both releases whose label differs."""
    maximum_balance_shift: Share | None = 0.1
    """Total variation between the shares of classes among labels."""
    maximum_lf_coverage_drift: Share | None = 0.5
    """Of any LF: |new - last| coverage over the larger of both, so that 0.5 is half or double."""
    maximum_lf_agreement_drift: Share | None = 0.2
    """Of any LF: |new - last| share of its votes that the label agrees with."""
    minimum_lf_votes: int = Field(30, ge=1)
    """LFs with fewer votes are not compared for drift: their shares are luck. For coverage the release with more votes
    counts, so that an LF that falls silent shows; for agreement the release with fewer."""
    maximum_centroid_shift: Shift | None = 0.25
    """Distance between the mean embeddings, in units of the last release's root mean square distance to its mean."""
    maximum_neighbor_shift: Shift | None = 0.25
    """Mean distance between the quantiles of nearest-support similarity, in their last standard deviation."""
    minimum_new_rows: int = Field(100, ge=1)
    """Fewer rows labeled without a refit are not compared with the release: in 384 dimensions the mean of 100 lies a
    tenth of the spread from that of all, for no reason."""
    maximum_new_centroid_shift: Shift | None = 0.5
    """As maximum_centroid_shift, of the new rows alone: beyond it they are not of the kind the model learned from."""
    maximum_new_neighbor_shift: Shift | None = 0.5
    """As maximum_neighbor_shift, of the new rows alone."""
    maximum_quarantined: Share | None = None
    """Share of rows that ingest left out (`ingest.quarantine` in params.yaml), of these and the items."""
    maximum_age_hours: Shift | None = None
    """Hours since the newest item, by time_column; where it is set, that labels of old data are released is refused."""
    time_column: str = ""
    """The column of the items with their times: Parquet's times or dates, or text such as 2026-11-28T09:30:00Z."""
    columns: Columns = Columns.SAME

    @pydantic.model_validator(mode="after")
    def _age_needs_times(self) -> "GateLimits":
        if self.maximum_age_hours is not None and not self.time_column:
            raise ValueError("maximum_age_hours needs time_column, the column of the items with their times")
        return self


class Carry(StrEnum):
    """How far the bytes of a release are carried."""

    FOLDER = "folder"  # releases/ alone
    DVC = "dvc"  # also DVC's cache, with a .dvc file to bring them back
    REMOTE = "remote"  # also DVC's default remote


class Git(StrEnum):
    """How far the pointers to a release are carried: .dvc files, `current` and the log."""

    NONE = "none"  # left to you
    COMMIT = "commit"  # a commit of nothing else on the current branch
    PUSH = "push"  # also on the branch's remote, never by force


class Policy(Section):
    """All of release.yaml."""

    gates: GateLimits = Field(default_factory=lambda: GateLimits.model_validate({}))
    keep: int | None = Field(30, ge=2)
    """How many releases stay after each new release; null: all. At least two: a reader may still be on the last."""
    carry: Carry = Carry.DVC
    git: Git = Git.NONE
    timeout_seconds: float = Field(3600, gt=0)
    """For each command of DVC or Git."""

    @pydantic.model_validator(mode="after")
    def _bytes_before_pointers(self) -> "Policy":
        if self.git is not Git.NONE and self.carry is Carry.FOLDER:
            raise ValueError("git: commit or push needs carry: dvc or remote, or the pointers would lead nowhere")
        return self


def read_policy(root: Path) -> Policy:
    """The checked contents of `root`/release.yaml; the defaults where there is no such file.

    Raises
    ------
    ParamsError
        The file is not YAML, has a key twice, an unknown key or a bad value; names each with its line or key.
    """
    values = _read_values(root)
    try:
        return check_strictly(Policy, {} if values is None else values)
    except pydantic.ValidationError as error:
        raise ParamsError("\n".join(_describe(found) for found in error.errors())) from None


def describe_defaults(root: Path) -> str | None:
    """What holds where `root`/release.yaml is missing or empty, in words; None where it has keys.

    Raises
    ------
    ParamsError
        The file is not YAML.
    """
    if _read_values(root) not in (None, {}):
        return None
    state = "empty" if (root / FILE).exists() else "missing"
    *names, last = Policy.model_fields
    return (
        f"{FILE} is {state}: {', '.join(names)} and {last} have their default values. Bring it back from Git, or write "
        "one with these keys."
    )


def _read_values(root: Path) -> Any:
    """The value of `root`/release.yaml; None where there is no such file or nothing in it."""
    try:
        content = (root / FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ParamsError(
            f"{FILE}: {error.strerror}; expected a file with the keys {', '.join(Policy.model_fields)}."
        ) from None
    try:
        return parse_yaml(content.decode("utf-8"), str(FILE))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or an impossible date
        raise ParamsError(describe_yaml_error(str(FILE), content, error)) from None


def _describe(found: Any) -> str:
    key = ".".join(str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        known = GateLimits.model_fields if len(found["loc"]) > 1 else Policy.model_fields
        near = difflib.get_close_matches(str(found["loc"][-1]), known, n=1, cutoff=0)
        return f"{FILE}: unknown key '{key}'. Did you mean '{near[0]}'?"
    message = found["msg"].removeprefix("Value error, ")
    got = "" if isinstance(found["input"], dict) else f" Got {found['input']!r}."
    return f"{FILE}: '{key or 'policy'}': {message}.{got}"
