"""params.yaml read and checked, with an error for each mistake that says what to do."""

import contextlib
import difflib
import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tasks.errors import ParamsError
from tasks.params import IndexParams, Params
from tasks.strict_yaml import describe_yaml_error, parse_yaml

FILE = "params.yaml"

M = TypeVar("M", bound=BaseModel)

_SHOWN = 120
"""Characters of a refused value that are shown."""


def read_params(root: Path) -> Params:
    """The checked contents of `root`/params.yaml.

    Raises
    ------
    ParamsError
        The file is missing, is not YAML, or has an unknown key or a bad value; names each with its place.
    """
    return _check(read_sections(root))


def read_stage_params(root: Path, stage: str) -> Params:
    """`classes` and the section of `stage` in `root`/params.yaml, checked; other sections are ignored.

    Mistakes in other sections concern other stages, and `read_params` reports all of them; the other sections of the result
    are not those of the file.

    Raises
    ------
    ParamsError
        As for `read_params`, for `classes` and that section only.
    """
    raw = read_sections(root)
    given = {key: raw[key] for key in ("classes", stage) if key in raw}
    others: dict[str, Any] = {name: {} for name in Params.model_fields if name not in ("classes", stage)}
    # Placeholders for required keys of other sections; nothing reads them.
    others |= {name: {"source": "lfs/none.py"} for name in ("ingest", "apply") if name != stage}
    if stage == "tune":  # its thresholds are checked against the index's metric, if that is valid
        with contextlib.suppress(ValidationError):
            others["index"] = check_strictly(IndexParams, raw.get("index")).model_dump(mode="json")
    return _check(others | given)


def read_sections(root: Path) -> dict[str, Any]:
    """The mapping in `root`/params.yaml, unchecked.

    Raises
    ------
    ParamsError
        The file is missing, or is not a YAML mapping.
    """
    try:
        content = (root / FILE).read_bytes()
    except FileNotFoundError:
        raise ParamsError(f"{FILE} not found in {root.resolve()}. Run from the project's root folder.") from None
    except IsADirectoryError:
        raise ParamsError(f"{FILE} is a folder; expected a file with {_list_keys(())}.") from None
    try:
        raw = parse_yaml(content.decode("utf-8"), FILE)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: no UTF-8, or a date such as 2026-13-01
        raise ParamsError(describe_yaml_error(FILE, content, error)) from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{FILE}: got {type(raw).__name__}, expected a mapping with {_list_keys(())}.")
    return raw


def _check(raw: dict[str, Any]) -> Params:
    """The sections `raw` as params."""
    try:
        return check_strictly(Params, raw)
    except ValidationError as error:
        lines = [_describe(found) for found in error.errors()]
        raise ParamsError("\n".join(lines)) from None


def check_strictly(model: type[M], raw: Any) -> M:
    """`raw`, the value of a YAML document, as a `model`, without conversion of types: "20" is not a number.

    Raises
    ------
    pydantic.ValidationError
        A value does not fit.
    """
    # Via JSON, in which pydantic accepts lists as tuples and text as enums even if types are strict.
    return model.model_validate_json(json.dumps(raw, default=lambda other: [[str(other)]]), strict=True)


def _describe(found: object) -> str:
    """An error of pydantic as a line that says what to do."""
    assert isinstance(found, dict)
    key = ".".join(str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        known = _known_keys(found["loc"][:-1])
        near = difflib.get_close_matches(str(found["loc"][-1]), known, n=1, cutoff=0)
        return f"{FILE}: unknown key '{key}'." + (f" Did you mean '{near[0]}'?" if near else "")
    if found["type"] == "missing":
        keys = f", with {_list_keys(found['loc'])}" if _known_keys(found["loc"]) else ""
        return f"{FILE}: '{key}' is missing. Add it{keys}."
    message = str(found["msg"]).removeprefix("Value error, ")
    message += "" if message.endswith("?") else "."
    got = "" if isinstance(found["input"], dict) else f" Got {_shorten(repr(found['input']))}."
    if found["type"] in ("int_type", "float_type") and isinstance(found["input"], str) and _is_number(found["input"]):
        got += " That is text: write it without quotes, and an exponent after a decimal point, as in 1.0e-3."
    return f"{FILE}: " + (f"'{key}': " if key else "") + message + got


def _shorten(text: str) -> str:
    """The beginning of `text` where it is long."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


def _is_number(text: str) -> bool:
    """Whether `text` is a number in decimal notation."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _list_keys(location: tuple[int | str, ...]) -> str:
    """The keys of the section at `location`, in words."""
    *keys, last = _known_keys(location)
    return f"the keys {', '.join(keys)} and {last}" if keys else f"the key {last}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at `location`."""
    model: type[BaseModel] = Params
    for part in location:
        field = model.model_fields.get(str(part))
        candidates = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)
