"""What a certificate says, as an entry of end_model.json and in words."""

from typing import Any

import numpy as np

from tasks.core.certificate import Certificate, count_fewest_rows
from tasks.core.types import Bool, Int64
from tasks.params import CertifyParams
from tasks.report.formatting import format_share


def tabulate_certificate(
    certificate: Certificate,
    params: CertifyParams,
    *,
    is_certified: Bool,
    labels: Int64,
    gold_rows: int,
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """Return the entry of end_model.json: level, confidence, share of items that are certified, in all and by their label.

    is_certified, labels: (n,), the latter class positions. A class that no label is of has null as its share.
    """
    counts = np.bincount(labels, minlength=len(classes))
    certified = np.bincount(labels[is_certified], minlength=len(classes))
    entry = {
        "error_rate": params.error_rate,
        "confidence": params.confidence,
        "least_probability": certificate.threshold,
        "items": int(is_certified.sum()),
        "share": round(float(is_certified.mean()), 6),
        "share_by_class": {
            name: round(float(certified[c] / counts[c]), 6) if counts[c] else None for c, name in enumerate(classes)
        },
        "gold_rows": gold_rows,
        "gold_rows_above": certificate.judges,
        "gold_rows_wrong": certificate.errors,
        "gold_rows_missing": certificate.missing,
    }
    return entry | {"summary": describe_certificate(entry)}


def describe_certificate(entry: dict[str, Any]) -> str:
    """Return a sentence on the `entry` that `tabulate_certificate` made."""
    level, confidence = (f"{entry[name] * 100:g}\N{NO-BREAK SPACE}%" for name in ("error_rate", "confidence"))
    if entry["least_probability"] is not None:
        return (
            f"{entry['items']:,} items ({format_share(entry['share'])}) are certified: with {confidence} confidence at most "
            f"{level} of their labels are wrong. Of {entry['gold_rows']:,} gold rows of valid, held out, "
            f"{entry['gold_rows_above']:,} are among them and {entry['gold_rows_wrong']:,} of these wrong."
        )
    aim = f"that at most {level} of some labels are wrong, with {confidence} confidence"
    rows, missing = entry["gold_rows"], entry["gold_rows_missing"]
    known = f"{rows:,} gold rows of valid" if rows else "no gold in valid"
    if missing is None:
        return f"No label is certified: {known} do not show {aim}, and more gold would not; the labels have to become better."
    is_certain = rows < count_fewest_rows(entry["error_rate"], entry["confidence"])
    some = (
        f"at least {missing:,} more gold rows are needed"
        if is_certain
        else f"some {missing:,} more gold rows are needed, if labels err as they do on these"
    )
    return f"No label is certified: {known} cannot show {aim}; {some}."
