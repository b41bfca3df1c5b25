"""dvc.lock: which content the last run read and wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.releases.files import describe_error, read_small_file
from tasks.errors import DataError
from tasks.fast_yaml import load_yaml
from tasks.params_file import FILE


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What dvc.lock says: the hash of every path it names, and the params of stages."""

    hashes: dict[str, str]
    params: dict[str, Any]


def read_pipeline(root: Path, only: Sequence[str] | None = None) -> Pipeline:
    """What dvc.lock says of all stages, or of those in `only`.

    Raises
    ------
    DataError
        It is missing or cannot be read, or stages used different versions of a file.
    """
    path = root / "dvc.lock"
    try:
        stages = load_yaml(read_small_file(path))["stages"]
        hashes: dict[str, str] = {}
        values: dict[str, Any] = {}
        for stage in stages.values() if only is None else [stages[name] for name in only]:
            for entry in (*stage.get("deps", ()), *stage.get("outs", ())):
                name, content = str(entry["path"]), str(entry.get("md5") or entry.get("etag") or entry.get("checksum"))
                if hashes.setdefault(name, content) != content:
                    raise DataError(f"{path.name}: stages used different versions of {name}. Run 'epoxy run' first.")
            values |= stage.get("params", {}).get(FILE, {})
    except FileNotFoundError:
        raise DataError(f"{path.name} is missing: nothing has run yet. Run 'epoxy run' first.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path.name} cannot be read: {describe_error(error)}. Run 'epoxy run' first.") from None
    return Pipeline(hashes=dict(sorted(hashes.items())), params=values)


def require_same_params(path: Path, pipeline: Pipeline) -> None:
    given = load_yaml(path.read_text(encoding="utf-8"))
    stale = sorted(name for name, value in pipeline.params.items() if given.get(name) != value)
    if stale:
        raise DataError(f"{FILE}: {', '.join(stale)} changed since the last run. Run 'epoxy run' first.")
