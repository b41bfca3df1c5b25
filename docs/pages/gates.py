"""reference/gates.md: what each gate compares, as the code of the gates words it."""

import inspect
import types
import typing
from datetime import UTC, datetime

from docs.pages.keys import describe_default, list_keys, write_key_rows
from docs.pages.markdown import NOTE, join_lines, table
from flows.releases.figures import Figures
from flows.releases.gates import check_age, check_gates, check_new_rows, check_quarantine
from flows.releases.policy import GateLimits

_NOTHING = Figures(
    items=0, coverage=0.0, coverage_original=0.0, labels={}, valid=None, lfs={}, embeddings=None, similarity=None, columns={}
)  # fmt: skip


def find_gates() -> dict[str, str]:
    """The name of each gate by the key of release.yaml that limits it, found by giving each key a limit of its own."""
    fields = [
        name for name, field in GateLimits.model_fields.items() if type(None) in typing.get_args(field.annotation)
    ]
    marked = {name: 0.5 + number / 1000 for number, name in enumerate(fields)}
    limits = GateLimits.model_validate({**marked, "time_column": "time"})
    new_rows = typing.cast("typing.Any", types.SimpleNamespace(embeddings=None, similarity=None, rows=10**9))
    age = check_age(limits, None, datetime.now(UTC))
    results = (
        *check_gates(limits, _NOTHING, None),
        *check_new_rows(limits, new_rows, _NOTHING),
        check_quarantine(limits, 0, 0),
        age,
    )
    by_limit = {limit: name for name, limit in marked.items()}
    found = {by_limit[result.limit]: result.gate for result in results if result.limit in by_limit}
    columns = next(result.gate for result in results if result.gate not in found.values())
    return {**found, "columns": columns}


def write_gates() -> str:
    """reference/gates.md."""
    gates = find_gates()
    known = {place: (field, meaning) for place, field, meaning in list_keys(GateLimits)}
    limits = [
        (gates[name], f"`gates.{name}`", describe_default(field), meaning)
        for name, (field, meaning) in known.items()
        if name in gates
    ]
    others = [(f"gates.{name}", *rest) for name, rest in known.items() if name not in gates]
    return (
        "# Gates\n\n"
        + NOTE
        + f"{join_lines(inspect.getdoc(check_gates))}\n\n"
        + "Each gate compares one figure of the candidate with a limit in `release.yaml`. Shares are in [0, 1]; `null` "
        + "switches a gate off, and its figure is shown all the same. The verdict is `passed`, `FAILED`, `off` or `nothing "
        + "to compare`. How to set them is in [Tune the gates](../how-to/gates.md).\n\n"
        + table(("gate", "key of `release.yaml`", "default limit", "meaning"), limits)
        + "\nBesides, labels that somebody rolled back from are refused as `rolled back before` unless they are accepted.\n"
        + "\n## What the gates go by\n\n"
        + write_key_rows((place, field, meaning) for place, field, meaning in others)
    )
