"""The labels that are current, as a Prefect asset: each new release is an event that other deployments can wait for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.assets import Asset, materialize
from prefect.cache_policies import NO_CACHE

from flows.report_links import name_artifact

TASK = "announce"
"""What the task is called that announces a release."""


def name_asset(root: Path) -> str:
    """Return the key of the asset of the project at `root`, which triggers name as `prefect.resource.id`.

    >>> name_asset(Path("/data/Spam & ham"))
    'epoxy://spam-ham-labels'
    """
    return f"epoxy://{name_artifact(root, 'labels')}"


def announce_labels(root: Path, facts: Mapping[str, Any]) -> None:
    """Have the Prefect server know, inside a flow, that other labels are current now, with `facts` as the event's payload."""
    asset = Asset(key=name_asset(root))

    @materialize(asset, by="epoxy-flow", name=TASK, cache_policy=NO_CACHE, persist_result=False, log_prints=False)
    def announce() -> None:
        asset.add_metadata(dict(facts))

    announce()
