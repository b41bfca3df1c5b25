"""Notifications of how runs ended: automations in the Prefect server that post to a webhook.

They live in the server, so that a run that was killed is reported as well. The address is kept there in an encrypted
block and comes from the environment; it may hold a secret, and is in no argument, log line or file of the project.

Prefect holds back, by up to 15 minutes, the events of a run that was scheduled less than five minutes before it starts:
the first of them refers to an event that its scheduler never sends. A schedule plans its runs an hour ahead or more.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from prefect.automations import AutomationCore, CallWebhook, EventTrigger, Posture, ResourceSpecification
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client

from flows.release_flow import REFUSED
from tasks.errors import ParamsError

URL_VARIABLE = "EPOXY_NOTIFY_URL"
"""Where to post, as https://hooks.example.org/services/...; Slack's and Mattermost's incoming webhooks read it."""

BLOCK = "epoxy-notify"

FLOWS = ("relabel", "label-new", "release", "rollback")
"""The flows whose runs are reported."""


@dataclass(frozen=True, kw_only=True)
class _Notice:
    """states: names of the states that are reported. text: how the message begins, in Jinja."""

    states: tuple[str, ...]
    text: str


_NOTICES: Mapping[str, _Notice] = {
    "refused": _Notice(states=(REFUSED,), text="Gates refused a release"),
    "failed": _Notice(states=("Failed", "Crashed", "TimedOut"), text="A run ended badly"),
    "completed": _Notice(states=("Completed",), text="A run ended well"),
}
"""By outcome. Prefect's events are named after a state's name, so that a failed gate is not reported as a failure."""

# `tojson` quotes whatever a message holds. `text` is what chat programs show.
_PAYLOAD = """\
{{% set message = flow_run.state.message or "" %}}
{{
  "text": {{{{ ("{text}: " ~ flow.name ~ " (" ~ flow_run.state.name ~ "). " ~ message) | tojson }}}},
  "outcome": "{outcome}",
  "flow": {{{{ flow.name | tojson }}}},
  "run": {{{{ flow_run.name | tojson }}}},
  "state": {{{{ flow_run.state.name | tojson }}}},
  "message": {{{{ message | tojson }}}},
  "url": {{{{ (flow_run | ui_url) | tojson }}}}
}}
"""


def read_url() -> str | None:
    """The address in the environment.

    Raises
    ------
    ParamsError
        It is not an address of http or https.
    """
    url = os.environ.get(URL_VARIABLE)
    if url and not url.lower().startswith(("http://", "https://")):
        raise ParamsError(f"{URL_VARIABLE} is not an http or https address")  # never the address itself
    return url or None


def set_up_notifications(url: str) -> tuple[str, ...]:
    """Names of the automations now on the Prefect server at PREFECT_API_URL; those of an earlier call are replaced."""
    block = Webhook(url=url, headers={"Content-Type": "application/json"})  # type: ignore[arg-type]
    identity = cast(UUID, block.save(BLOCK, overwrite=True))
    remove_notifications()
    with get_client(sync_client=True) as client:
        for outcome, notice in _NOTICES.items():
            automation = AutomationCore(
                name=_name(outcome),
                description=f"Posts to the address in block {BLOCK}; 'epoxy notify' makes it anew.",
                trigger=EventTrigger(
                    expect={f"prefect.flow-run.{state}" for state in notice.states},
                    match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
                    match_related=ResourceSpecification(
                        {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}
                    ),
                    posture=Posture.Reactive,
                    threshold=1,
                ),
                actions=[
                    CallWebhook(block_document_id=identity, payload=_PAYLOAD.format(text=notice.text, outcome=outcome))
                ],
            )
            client.create_automation(automation)
    return tuple(map(_name, _NOTICES))


def remove_notifications() -> None:
    """Remove the automations of `set_up_notifications` from the Prefect server at PREFECT_API_URL."""
    with get_client(sync_client=True) as client:
        for outcome in _NOTICES:
            for automation in client.read_automations_by_name(_name(outcome)):
                client.delete_automation(automation.id)


def _name(outcome: str) -> str:
    return f"epoxy: {outcome}"
