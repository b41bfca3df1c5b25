"""The workbench: who may ask, every page in a real browser, hostile texts, and labels that survive a kill."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import polars as pl
import pytest
from chromium import Page, open_page
from finished_runs import run_small
from nicegui import ui
from processes import find_free_port
from small_project import CLASSES, REPOSITORY
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flows.releases.last_run import describe_origin
from flows.workbench.access import Door, Guard
from flows.workbench.frame import follow_changes
from flows.workbench.item_address import ROWS, read_address, write_address
from flows.workbench.label_page import save_decision
from flows.workbench.lf_pages import find_source
from flows.workbench.live import LiveState, follow
from flows.workbench.pictures import draw
from tasks.errors import QueryError
from tasks.queries.items import ItemQuery, VoteFilter
from tasks.tables import schemas
from tasks.tables.gold_table import Decision
from tasks.tables.parquet import read_table, write_table
from tasks.tables.paths import ITEMS, REPORT

HOSTILE = "<script>document.title='taken'</script> {{ 7 * 7 }} ${1} **bold** [a](javascript:alert(1)) \u202eback"

needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's package chromium")


@dataclass(frozen=True)
class Workbench:
    process: "subprocess.Popen[str]"
    root: Path
    address: str
    token: str

    def open(self, path: str) -> str:
        """The address that admits a browser to the page at `path`."""
        return f"{self.address}{path}{'&' if '?' in path else '?'}token={self.token}"


def start(root: Path, *, is_live: bool = False) -> Workbench:
    command = [sys.executable, "-m", "flows.cli", "workbench", "--no-browser", *([] if is_live else ["--no-watch"])]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [*command, "--port", str(find_free_port())], cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    found = re.search(r"(http://[^/]+)/\?token=(\S+)", process.stdout.readline())
    assert found is not None
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(found[1], timeout=30)
            return Workbench(process, root, found[1], found[2])
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def put_under_dvc(root: Path) -> None:
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    (root / "dvc.yaml").write_text((REPOSITORY / "dvc.yaml").read_text())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = run_small(tmp_path_factory.mktemp("workbench") / "project", n=200)
    put_under_dvc(root)
    items = read_table(root / ITEMS, schemas.ITEMS)
    texts = [HOSTILE, "long " * 200_000, *items["text"].to_list()[2:]]
    write_table(root / ITEMS, items.with_columns(pl.Series("text", texts)), schemas.ITEMS)
    return root


@pytest.fixture(scope="module")
def workbench(project: Path) -> Iterator[Workbench]:
    started = start(project)
    yield started
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(30) in (0, 130, -signal.SIGINT)


def test_nobody_is_answered_without_the_token(workbench: Workbench) -> None:
    address = workbench.address
    assert httpx.get(address).status_code == 403
    assert httpx.get(f"{address}/?token=guess").status_code == 403
    assert httpx.get(workbench.open("/"), headers={"Host": "evil.example"}).status_code == 403
    assert httpx.get(workbench.open("/"), headers={"Origin": "http://localhost:1"}).status_code == 403
    for headers in ({}, {"Origin": "https://evil.example"}):
        with pytest.raises(InvalidStatus):
            connect(f"{address.replace('http', 'ws')}/_nicegui_ws/socket.io/?EIO=4&transport=websocket",
                    additional_headers=headers)  # fmt: skip


def test_the_token_becomes_a_cookie_and_leaves_the_address(workbench: Workbench) -> None:
    answer = httpx.get(workbench.open("//evil.example/items?right=no"))
    assert answer.status_code == 303
    assert answer.headers["location"] == "/evil.example/items?right=no"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert httpx.get(f"{workbench.address}/lfs", headers={"Cookie": cookie.partition(";")[0]}).status_code == 200


def test_the_report_is_served_with_what_its_file_leaves_out(workbench: Workbench) -> None:
    kept = (workbench.root / REPORT).read_text(encoding="utf-8")
    cookie = httpx.get(workbench.open("/")).headers["set-cookie"].partition(";")[0]
    served = httpx.get(f"{workbench.address}/report", headers={"Cookie": cookie}).text
    line = f'<p class="overline">{describe_origin(workbench.root)}</p>'
    assert "project, evaluated" in line and line not in kept
    assert served == kept.replace("<!-- where it is shown -->", line)


PAGES = {
    "/": "How good",
    "/lfs": "Labeling functions",
    "/lf?name=offer": "Precision on valid",
    "/items?right=no": "items; gold of",
    "/items?page=900": "page 8 of 8",
    "/items?split=nowhere": "no split 'nowhere'",
    "/item?id=i00003": "Why this label",
    "/item?id=nobody": "no item 'nobody'",
    "/label?annotator=ann": "0 decided",
    "/suggest?least=0.5": "text has 'now' → spam",
    "/suggest?least=much": "expected a share from 0 to 1",
    "/plan": "No label of the label model flips, of 200.",
    "/releases": "None yet",
}


@needs_chromium
def test_every_page_shows_itself_and_asks_nobody_else(workbench: Workbench, tmp_path: Path) -> None:
    with open_page(workbench.open("/"), tmp_path) as page:
        for method in ("Network.enable", "Runtime.enable", "Log.enable"):
            page.ask(method)
        for path, words in PAGES.items():
            page.ask("Page.navigate", url=workbench.address + path)
            page.wait_for(f"document.body && document.body.innerText.includes({json.dumps(words)})")
        asked = {
            event["params"]["request"]["url"] for event in page.events if event["method"] == "Network.requestWillBeSent"
        }
        assert asked and all(url.startswith((workbench.address, "data:", "blob:")) for url in asked), asked
        assert not [event for event in page.events if event["method"] == "Runtime.exceptionThrown"]
        told = [event["params"]["entry"] for event in page.events if event["method"] == "Log.entryAdded"]
        assert not [entry for entry in told if entry["level"] == "error"]


@needs_chromium
def test_every_table_fits_a_phone(workbench: Workbench, tmp_path: Path) -> None:
    with open_page(workbench.open("/"), tmp_path) as page:
        page.ask("Emulation.setDeviceMetricsOverride", width=400, height=900, deviceScaleFactor=1, mobile=True)
        page.wait_for("document.querySelectorAll('.q-table tbody tr').length > 5")
        assert "edits are not watched" in page.evaluate("document.body.innerText")
        for path in ("/", "/lfs", "/lf?name=offer", "/item?id=i00003"):
            page.ask("Page.navigate", url=workbench.address + path)
            page.wait_for("document.querySelectorAll('.q-table tbody tr').length > 2")
            over = "Math.max(...[...document.querySelectorAll('.q-table__middle')].map(t => t.scrollWidth - t.clientWidth))"
            assert page.evaluate(over) <= 2, path
            assert page.evaluate("document.documentElement.scrollWidth") == 400
            assert page.evaluate("[...document.querySelectorAll('main, header, nav')].map(e => e.tagName).join()") == (
                "HEADER,NAV,MAIN"
            )
        page.ask("Page.navigate", url=workbench.address + "/lfs")
        page.wait_for("document.querySelectorAll('.q-table tbody tr').length > 2")
        cell = "document.querySelector('.q-table tbody td[data-label=Worth]')"  # in a card, under its column's name
        assert page.evaluate(f"getComputedStyle({cell}, '::before').content") == '"Worth"'


@needs_chromium
def test_hostile_text_is_text(workbench: Workbench, tmp_path: Path) -> None:
    first = read_table(workbench.root / ITEMS, schemas.ITEMS)["item_id"][0]
    with open_page(workbench.open("/items"), tmp_path) as page:
        for path in ("/items", f"/item?id={first}"):
            page.ask("Page.navigate", url=workbench.address + path)
            page.wait_for(f"document.body && document.body.innerText.includes({json.dumps(HOSTILE)})")
            assert page.evaluate("document.title").endswith("project")
            assert "49" not in page.evaluate("document.querySelector('.data').innerText")
        size = page.evaluate("document.body.innerText.length")
        assert size < 200_000  # of the text of 1 MB only the beginning


@needs_chromium
def test_a_click_appends_a_suggestion_and_the_plan_tells_of_it(workbench: Workbench, tmp_path: Path) -> None:
    module = workbench.root / "lfs" / "small.py"
    before = module.read_text()
    try:
        with open_page(workbench.open("/suggest?least=0.5"), tmp_path) as page:
            page.wait_for("window.did_handshake !== false && document.querySelectorAll('.q-btn--outline').length")
            assert "i00066" in page.evaluate("document.body.innerText")  # an example
            page.evaluate("document.querySelector('.q-btn--outline').click()")
            page.wait_for("document.body.innerText.includes('in lfs/small.py, line')")
            line = next(line for line in module.read_text().splitlines() if line.startswith("says_now = "))
            assert page.evaluate("document.querySelector('pre').innerText") == line
            page.ask("Page.navigate", url=f"{workbench.address}/suggest?least=0.5")
            page.wait_for("document.body && document.body.innerText.includes('in lfs/small.py, line')")
            assert page.evaluate("document.querySelectorAll('.q-btn--outline').length") == 0  # it cannot be added again

            page.ask("Page.navigate", url=f"{workbench.address}/plan")
            page.wait_for("document.body && document.body.innerText.includes('says_now: all items')")
            page.wait_for(
                "document.querySelector('pre') && document.querySelector('pre').innerText.includes('| from | to |')"
            )
            table = page.evaluate("document.querySelector('pre').innerText")
            count, first = re.search(r"\| (\d+) \| (i\d+)", table).groups()
            assert int(count) >= 1 and first in page.evaluate("document.body.innerText.split('Copy')[1]")
            module.write_text(before + "def broken(:\n")
            page.ask("Page.reload")
            page.wait_for("document.querySelectorAll('[role=alert]').length == 2")
            assert "lfs/small.py" in page.evaluate("document.querySelector('[role=alert]').innerText")
    finally:
        module.write_text(before)


@needs_chromium
def test_the_report_sorts_filters_and_switches_splits(workbench: Workbench, tmp_path: Path) -> None:
    def read_rows(page: Page) -> list[str]:
        shown = "[...document.querySelectorAll('.sortable tbody tr')].filter(row => !row.hidden)"
        return list(page.evaluate(f"{shown}.map(row => row.cells[0].innerText)"))

    with open_page(workbench.open("/report"), tmp_path) as page:
        page.wait_for("document.querySelectorAll('.sortable thead button').length > 5")
        names = read_rows(page)
        assert names == sorted(names) and len(names) == 4
        page.evaluate("document.querySelectorAll('.sortable thead button')[3].click()")
        values = page.evaluate(
            "[...document.querySelectorAll('.sortable tbody tr')].map(r => +r.cells[3].dataset.value)"
        )
        assert values == sorted(values, reverse=True) and len(set(values)) > 1
        page.evaluate("document.querySelector('.filter input').focus()")
        page.ask("Input.insertText", text="offer")
        assert read_rows(page) == ["offer"]
        assert page.evaluate("document.querySelector('#methods-valid').offsetHeight") == 0
        page.evaluate("document.querySelector('#split-valid').click()")
        assert page.evaluate("document.querySelector('#methods-valid').offsetHeight") > 100
        assert page.evaluate("document.querySelector('#methods-test').offsetHeight") == 0
        # On paper both stand there, and no table is cut off; nor at the width of a phone.
        wide = "[...document.querySelectorAll('{}')].filter(e => e.scrollWidth > e.clientWidth + 2).length"
        page.ask("Emulation.setEmulatedMedia", media="print")
        page.ask("Emulation.setDeviceMetricsOverride", width=720, height=1000, deviceScaleFactor=1, mobile=False)
        assert page.evaluate("[...document.querySelectorAll('.panel')].every(panel => panel.offsetHeight > 100)")
        assert page.evaluate(wide.format(".scroll")) == 0
        page.ask("Emulation.setEmulatedMedia", media="screen")
        page.ask("Emulation.setDeviceMetricsOverride", width=400, height=900, deviceScaleFactor=1, mobile=True)
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        assert page.evaluate(wide.format(".scroll")) == 0
        cell = "document.querySelector('.sortable tbody td[data-label=Worth]')"
        assert page.evaluate(f"getComputedStyle({cell}, '::before').content") == '"Worth"'


def press(page: Page, key: str, code: str, number: int) -> None:
    for kind in ("keyDown", "keyUp"):
        page.ask("Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=number)


@needs_chromium
def test_tab_goes_through_a_page_in_the_order_in_which_it_is_read(workbench: Workbench, tmp_path: Path) -> None:
    with open_page(workbench.open("/items?text=offer"), tmp_path) as page:
        page.wait_for("window.did_handshake !== false && document.querySelectorAll('ol a').length > 3")
        page.evaluate("document.body.tabIndex = -1; document.body.focus()")
        found = []
        for _ in range(30):
            press(page, "Tab", "Tab", 9)
            found.append(
                page.evaluate("(e => (e.ariaLabel || e.innerText || e.value || e.type).trim())(document.activeElement)")
            )
            assert page.evaluate("(b => b.width > 0 && b.left >= 0)(document.activeElement.getBoundingClientRect())"), (
                found
            )
        assert found[:8] == ["Skip to content", "Overview", "LFs", "Items", "Label", "Suggest", "Plan", "Releases"]
        assert "text holds" in found[8:11] or "offer" in found[8:11]  # the form, then the items that it finds
        assert found.index(page.evaluate("document.querySelector('ol a').innerText")) > 15


@needs_chromium
def test_a_table_is_sorted_by_keyboard(workbench: Workbench, tmp_path: Path) -> None:
    with open_page(workbench.open("/lfs"), tmp_path) as page:
        page.wait_for("window.did_handshake !== false && document.querySelectorAll('.q-table tbody tr').length > 2")
        head = "[...document.querySelectorAll('th')].find(th => th.innerText.includes('Coverage'))"
        for order in ("ascending", "descending"):
            page.evaluate(f"{head}.focus()")
            press(page, "Enter", "Enter", 13)
            page.wait_for(f"{head}.getAttribute('aria-sort') == '{order}'")
            shown = page.evaluate(
                "[...document.querySelectorAll('td[data-label=Coverage]')].map(td => parseFloat(td.innerText))"
            )
            assert len(set(shown)) > 1 and shown == sorted(shown, reverse=order == "descending")


@needs_chromium
def test_an_edit_is_seen_and_an_error_leaves_the_last_good_state(project: Path, tmp_path: Path) -> None:
    root = shutil.copytree(project, tmp_path / "project")
    # What watch brings up to date at its start is there already.
    (root / "dvc.yaml").write_text("stages:\n" + "".join(f"  {name}: {{cmd: 'true'}}\n" for name in ("gold", "index")))
    module = root / "lfs" / "small.py"
    good = module.read_text()
    workbench = start(root, is_live=True)
    try:
        with open_page(workbench.open("/"), tmp_path / "chromium") as page:
            page.wait_for("document.body && document.body.innerText.includes('4 LFs vote on')")
            good += 'now = keyword_lf("now", column="text", keywords=["now"], label="spam")\n'
            module.write_text(good)
            page.wait_for("document.body.innerText.includes('5 LFs vote on')")
            assert not page.evaluate("document.querySelectorAll('[role=alert]').length")
            module.write_text(good + "def broken(:\n")
            page.wait_for("document.querySelectorAll('[role=alert]').length == 1")
            assert "lfs/small.py" in page.evaluate("document.querySelector('[role=alert]').innerText")
            shown = page.evaluate("document.body.innerText")
            assert "What follows is the last edit without an error." in shown and "5 LFs vote on" in shown
            page.ask("Page.navigate", url=f"{workbench.address}/lfs")
            page.wait_for("document.body && document.body.innerText.includes('new: ')")  # of the last good state
            assert "lfs/small.py" in page.evaluate("document.querySelector('[role=alert]').innerText")
            module.write_text(good.replace('keywords=["now"]', 'keywords=["win"]'))
            page.wait_for("document.querySelectorAll('[role=alert]').length == 0")
    finally:
        workbench.process.send_signal(signal.SIGINT)
        workbench.process.wait(60)


@needs_chromium
def test_fifty_labels_by_keyboard_survive_a_kill(project: Path, tmp_path: Path) -> None:
    workbench = start(project)
    table = project / "gold" / "decisions.jsonl"
    try:
        with open_page(workbench.open("/label?annotator=ann"), tmp_path) as page:
            page.wait_for("document.body && document.body.innerText.includes('ann: 0 decided')")
            page.wait_for("window.did_handshake !== false && document.querySelectorAll('button').length > 3")
            press(page, "ArrowRight", "ArrowRight", 39)
            for done in range(50):
                number = done % 2
                before = table.read_text().count("\n") if table.is_file() else 0
                press(page, str(number), f"Digit{number}", 48 + number)
                page.wait_for(f"document.body.innerText.includes('ann: {done + 1} decided')")
                assert table.read_text().count("\n") == before + 1
            press(page, "u", "KeyU", 85)
            page.wait_for("document.body.innerText.includes('ann: 49 decided')")
    finally:
        workbench.process.send_signal(signal.SIGKILL)
        workbench.process.wait()
    lines = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 51
    assert len({line["item_id"] for line in lines}) == 50
    assert lines[-1] == {**lines[-1], "item_id": lines[-2]["item_id"], "label": None}
    assert {line["annotator"] for line in lines} == {"ann"}
    shutil.rmtree(project / "gold")


@needs_chromium
def test_many_classes_are_chosen_by_a_part_of_their_names(tmp_path: Path) -> None:
    others = [f"offer {number}" for number in range(9)]
    root = run_small(tmp_path / "project", n=60, classes=(*CLASSES, *others, "no offer"))
    put_under_dvc(root)
    workbench = start(root)
    try:
        with open_page(workbench.open("/label?annotator=ann"), tmp_path / "browser") as page:
            page.wait_for("window.did_handshake !== false && document.querySelectorAll('button').length > 12")
            press(page, "/", "Slash", 191)
            page.wait_for("document.activeElement.tagName == 'INPUT'")
            page.ask("Input.insertText", text="Offer")
            page.wait_for("!document.body.innerText.includes('0 ham')")
            press(page, "Enter", "Enter", 13)
            page.wait_for(
                "document.body.innerText.includes('ann: 1 decided') && document.querySelector('input').value == ''"
            )
            page.ask("Input.insertText", text="9")  # no number while a name is typed
            page.wait_for("document.body.innerText.includes('No class has')")
            press(page, "Enter", "Enter", 13)
            press(page, "Escape", "Escape", 27)
            page.wait_for("document.body.innerText.includes('0 ham') && document.activeElement.tagName != 'INPUT'")
            press(page, "1", "Digit1", 49)
            page.wait_for("document.body.innerText.includes('ann: 2 decided')")
    finally:
        workbench.process.send_signal(signal.SIGINT)
        workbench.process.wait(60)
    lines = (root / "gold" / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["offer 0", "spam"]


@pytest.mark.parametrize(
    "query",
    [
        ItemQuery(limit=ROWS),
        ItemQuery(splits=("valid",), labels=("a b",), gold=("é&=",), right=True, method="epoxy", limit=ROWS),
        ItemQuery(votes=(VoteFilter(lf="l", vote="0", source="extended"),), wrong_lf="m", limit=ROWS),
        ItemQuery(
            conflict=("l", "m"), covered="extension only", near_threshold=0.05, near_threshold_lf="l", limit=ROWS
        ),
        ItemQuery(text="<b>", order="-margin", has_gold=False, withheld_gold=True, limit=ROWS, offset=2 * ROWS),
    ],
)
def test_a_question_is_an_address(query: ItemQuery) -> None:
    address = write_address(query, page=1 + query.offset // ROWS)
    assert read_address(list(httpx.URL(address).params.multi_items())) == (query, 1 + query.offset // ROWS, None)


@pytest.mark.parametrize("pair", [("right", "maybe"), ("page", "0"), ("page", "x"), ("near", "nan"), ("conflict", "l")])
def test_an_address_that_asks_nonsense_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(QueryError, match=f"^{pair[0]}: got"):
        read_address([pair])


def test_what_follows_changes_is_called_whether_it_waits_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Callable[[], Awaitable[None]]] = []
    monkeypatch.setattr(ui, "timer", lambda seconds, look: looks.append(look))
    now, shown = [0], list[str]()

    async def show_later() -> None:
        shown.append("later")

    for show in (show_later, lambda: shown.append("at once")):
        follow_changes(lambda: now[0], show)
    for value in (0, 1, 1, 2):
        now[0] = value
        for look in looks:
            asyncio.run(look())  # type: ignore[arg-type]
    assert shown == ["later", "at once"] * 2


@pytest.mark.parametrize("said", ["No response returned.", "another"])
def test_a_browser_that_leaves_early_is_no_error(said: str) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError(said)

    door = Door(port=4300)
    headers = [(b"host", b"127.0.0.1:4300"), (b"cookie", f"{door.cookie}={door.token}".encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}
    asked = Guard(fail, door)(scope, None, None)  # type: ignore[arg-type]
    with contextlib.nullcontext() if said.startswith("No") else pytest.raises(RuntimeError, match=said):
        asyncio.run(asked)  # type: ignore[arg-type]


def test_an_error_keeps_the_last_good_result() -> None:
    result = {"event": "result", "lfs": [], "seconds": 0.1}
    state = follow(follow(LiveState(), result), {"event": "error", "message": "line 3"})
    assert state.result == result and state.error == "line 3"
    again = follow(state, {**result, "seconds": 0.2})
    assert again.error is None and again.before == result
    assert follow(again, {"event": "ended", "message": "killed"}).doing == "ended: killed"


def test_the_source_of_an_lf_is_found_without_running_it(tmp_path: Path) -> None:
    (tmp_path / "lfs").mkdir()
    text = (
        "raise SystemExit\n\n@labeling_function\ndef song(item):\n    return 1\n\nother = keyword_lf(['x'], label=0)\n"
    )
    (tmp_path / "lfs" / "mine.py").write_text(text)
    assert find_source(tmp_path, "lfs", "song") == (
        "lfs/mine.py",
        3,
        "@labeling_function\ndef song(item):\n    return 1",
    )
    assert find_source(tmp_path, "lfs", "other") == ("lfs/mine.py", 7, "other = keyword_lf(['x'], label=0)")
    assert find_source(tmp_path, "lfs", "nobody") is None


def test_what_is_drawn() -> None:
    assert draw([0, 1] * 8).startswith("data:image/svg+xml;base64,")
    assert draw(b"\x89PNG....").startswith("data:image/png;base64,")
    assert draw(b"<svg>") is None
    assert draw([0.0] * 15) is None
    assert draw([0] * 64).startswith("data:")


def test_a_decision_that_cannot_be_saved_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("flows.workbench.label_page.ui.notify", lambda text, **_: told.append(text))
    decision = Decision(item_id="a", label="spam", annotator="ann")
    (tmp_path / "full.jsonl").mkdir()  # root, too, may not write a file there
    assert not save_decision(tmp_path / "full.jsonl", decision)
    assert len(told) == 1 and told[0].startswith("not saved: ") and "full.jsonl" in told[0]
    assert save_decision(tmp_path / "decisions.jsonl", decision)
    assert len(told) == 1 and '"spam"' in (tmp_path / "decisions.jsonl").read_text()
