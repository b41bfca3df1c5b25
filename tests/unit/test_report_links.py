"""Links of a run's artifacts to its report: signed, served to no page but itself, and why a run says it was started."""

from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from prefect.context import FlowRunContext
from starlette.testclient import TestClient

from flows.relabel import shorten_lf_row
from flows.release_flow import explain_start
from flows.report_links import find_report, name_artifact, sign
from flows.server_access import prove
from flows.server_app import OwnPages
from tasks.report.origin import WHERE_SHOWN
from tasks.tables.paths import REPORT

PASSWORD = "epoxy:secret"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "messages" / REPORT
    path.parent.mkdir(parents=True)
    path.write_text(f"<h1>Labels</h1>{WHERE_SHOWN}")
    return path


async def refuse(scope, receive, send):
    raise AssertionError(scope["path"])


def test_a_signed_link_shows_the_report_and_any_other_nothing(report: Path) -> None:
    client = TestClient(OwnPages(refuse, port=4200, password=PASSWORD), base_url="http://127.0.0.1:4200")
    link = sign(PASSWORD, report)
    shown = client.get(link)
    assert shown.status_code == 200 and '<h1>Labels</h1><p class="overline">messages, ' in shown.text
    assert shown.headers["Content-Security-Policy"].startswith("sandbox allow-scripts; default-src 'none'")
    assert client.get(sign("epoxy:guess", report)).status_code == 403
    assert client.get(link.replace("messages", "others")).status_code == 403
    assert client.get("/epoxy-report").status_code == 403
    assert client.get(link, headers={"Origin": "https://evil.example"}).status_code == 403
    report.unlink()
    assert client.get(link).status_code == 404


def test_a_link_leads_to_reports_alone_and_no_answer_to_a_nonce_signs_one(report: Path) -> None:
    password = report.with_name("password")
    password.write_text("secret")
    assert find_report(PASSWORD, urlsplit(sign(PASSWORD, password)).query) is None
    query = urlsplit(sign(PASSWORD, report)).query
    assert find_report(PASSWORD, query) == report.resolve() and find_report("", query) is None
    proof = prove(PASSWORD, f"report:{report}", 4200)
    assert find_report(PASSWORD, f"file={report}&proof={proof}") is None
    assert find_report(PASSWORD, f"file={report}:4200&proof={proof}") is None


def test_artifacts_of_two_projects_have_two_keys() -> None:
    assert name_artifact(Path("/a/spam"), "gates") != name_artifact(Path("/a/ham"), "gates")


def test_the_table_of_functions_has_at_most_eight_rounded_columns() -> None:
    names = (
        "lf",
        "polarity",
        "overlaps",
        "conflicts",
        "threshold",
        "votes",
        "votes_added",
        "coverage",
        "coverage_extended",
    )
    row = {name: "0.123456789" for name in names} | {
        f"valid_{v}_{n}": "12" for v in ("all", "added") for n in ("n", "low")
    }
    short = shorten_lf_row(row)
    assert len(short) <= 8 and short["coverage"] == "0.123" and short["on"] == "12"


@pytest.mark.parametrize(
    ("reason", "auto", "deployment", "told"),
    [
        ("nightly", True, "d", "nightly"),
        ("", True, "d", "scheduled"),
        ("nightly", False, "d", "nightly, started by hand"),
        ("", False, "d", "by hand"),
        ("by hand", False, "d", "by hand"),
        ("tonight", False, None, "tonight"),
    ],
)
def test_a_run_by_hand_is_not_recorded_as_scheduled(reason, auto, deployment, told, monkeypatch) -> None:
    run = SimpleNamespace(auto_scheduled=auto, deployment_id=deployment)
    monkeypatch.setattr(FlowRunContext, "get", lambda: SimpleNamespace(flow_run=run))
    assert explain_start(reason) == told
