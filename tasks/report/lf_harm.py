"""The labeling functions that harm the labels, and the line of params that mutes them, in words."""

from collections.abc import Mapping, Sequence

import yaml

_SHOWN = 5
"""Most names in a sentence; the line of params has all."""


def describe_harm(
    harmful: Sequence[str], muted: Sequence[str] = (), said_instead: Mapping[str, Mapping[str, str]] | None = None
) -> str | None:
    """Return a sentence that names the `harmful` LFs, and how to mute them beside those that are `muted`; None if none is.

    said_instead: by LF and class that it votes for, the class that others say there instead: with more than half of what they
    say, or twice as much as of its own.

    >>> describe_harm(["b"], ["z"])
    "1 labeling function seems to harm the labels: b. To mute it, in params.yaml below 'apply': mute: [z, b]"
    >>> describe_harm(["b"], (), {"b": {"ham": "spam"}}).partition(" To mute")[0]
    '1 labeling function seems to harm the labels: b. Where b votes ham, others say spam instead.'
    >>> describe_harm([]) is None
    True
    """
    if not harmful:
        return None
    what = "1 labeling function seems" if len(harmful) == 1 else f"{len(harmful)} labeling functions seem"
    listed = ", ".join(harmful[:_SHOWN]) + (f" and {len(harmful) - _SHOWN} more" if len(harmful) > _SHOWN else "")
    which = "it" if len(harmful) == 1 else "them"
    line = write_mute([*muted, *harmful])
    found = [(lf, pair) for lf in harmful for pair in (said_instead or {}).get(lf, {}).items()]
    said = [f" Where {lf} votes {label}, others say {other} instead." for lf, (label, other) in found[:_SHOWN]]
    return f"{what} to harm the labels: {listed}.{''.join(said)} To mute {which}, in params.yaml below 'apply': {line}"


def write_mute(lfs: Sequence[str]) -> str:
    """Return the line of params.yaml that mutes `lfs`.

    >>> write_mute(["a", "yes"])
    "mute: [a, 'yes']"
    """
    return f"mute: {yaml.safe_dump(list(lfs), default_flow_style=True, width=float('inf')).strip()}"
