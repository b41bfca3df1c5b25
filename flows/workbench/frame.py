"""What all pages of the workbench share: frame, headings, tables, error messages, and how data are shown.

Text from data is only ever an element's text; it is never interpreted as HTML, Markdown or a template.
"""

import asyncio
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from nicegui import ui
from nicegui.element import Element

from flows.workbench.live import Live
from flows.workbench.pictures import draw, draw_file
from tasks.errors import EpoxyError
from tasks.queries.edits import describe_edits
from tasks.queries.project_data import ProjectData
from tasks.report.formatting import MINUS
from tasks.tables.image_digests import DIGEST

T = TypeVar("T")

PAGES = (
    ("Overview", "/"),
    ("LFs", "/lfs"),
    ("Items", "/items"),
    ("Label", "/label"),
    ("Suggest", "/suggest"),
    ("Plan", "/plan"),
    ("Releases", "/releases"),
)
"""Pages by title, in the order of the navigation."""

SHORT = 600
"""Most characters of a text in a list; the item's page shows more."""

LONG = 20_000
"""Most characters of a text on the item's page."""

SECONDS = 0.05
"""Seconds between checks for changes: a fifth of what `epoxy watch` takes for an edit; a check takes a thousandth of that."""

STYLE = """
.nicegui-content { padding: 0; gap: 0; }
#content { max-width: 1400px; margin: 0 auto; padding: 1rem; width: 100%; }
.nicegui-header { background: none; color: inherit; padding: 0; gap: 0; border-bottom: 1px solid #8884; }
nav a { padding: .5rem .75rem; text-decoration: none; color: inherit; }
nav a[aria-current] { border-bottom: 3px solid currentColor; }
.skip { position: absolute; left: -100vw; } .skip:focus { left: 0; z-index: 9; padding: .5rem 1rem; background: Canvas; }
#content:focus { outline: none; }
h1 { font-size: 1.6rem; line-height: 1.3; margin: 0 0 .75rem; font-weight: 600; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 1.25rem 0 .5rem; font-weight: 600; }
h3 { font-size: 1rem; line-height: 1.3; margin: 1rem 0 .25rem; font-weight: 600; }
.data { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
.code { font-family: monospace; white-space: pre; overflow-x: auto; padding: .75rem; border: 1px solid #8884; }
@media (max-width: 600px) { .code { white-space: pre-wrap; overflow-wrap: anywhere; } }
body { --q-primary: #1a5fb4 !important; } body.body--dark { --q-primary: #8ab8f0 !important; }
.body--dark .q-btn.bg-primary { color: #10243c !important; }
.quiet { opacity: .75; }
p { margin: .25rem 0 .5rem; }
ul { list-style: disc; padding-left: 1.5rem; margin: .25rem 0; }
.fields { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .25rem .75rem; }
.lines { gap: .25rem; }
.picture { image-rendering: pixelated; width: 96px; height: 96px; }
.photo { width: 256px; height: 256px; max-width: 100%; }
.right { color: #16703c; } .wrong { color: #b3261e; }
.body--dark .right { color: #7fd49b; } .body--dark .wrong { color: #ff9a90; }
a:focus-visible, button:focus-visible, [tabindex]:focus-visible { outline: 3px solid #5898d4; }
.q-table th { white-space: normal; vertical-align: bottom; }
.q-table__sort-icon--left { position: absolute; }  /* else it takes a line of its own below a short head */
@media (max-width: 600px) {
  .q-table th, .q-table td { padding: 4px 6px !important; }
  .q-table td { white-space: normal; }
  .q-table th:not(.sorted) .q-table__sort-icon { display: none; }
  .q-table td:first-child { overflow-wrap: anywhere; min-width: 5.5rem; }
  .cards .q-table, .cards tbody { display: block; }  /* a row is a card, each cell under its column's name */
  .cards thead tr { display: flex; flex-wrap: wrap; height: auto; padding: 2px 0; }
  .cards thead th { border: 0; }
  .cards tbody tr { display: grid; grid-template-columns: repeat(4, 1fr); height: auto; padding: 6px 0; border-bottom: 1px solid #8884; }
  .cards tbody td { border: 0 !important; height: auto !important; text-align: left !important; overflow-wrap: anywhere; }
  .cards tbody td:first-child { grid-column: 1 / -1; font-weight: 600; }
  .cards tbody td:not(:first-child)::before { content: attr(data-label); position: static; display: block;
    font-size: 11px; opacity: .75; background: none; }
  .cards tbody td.empty { display: none; }
}
a.link { color: #1a5fb4; } .body--dark a.link { color: #8ab8f0; }
"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the pages work with: the project, its data, and the effect of the edit at hand."""

    root: Path
    data: ProjectData
    live: Live

    @property
    def name(self) -> str:
        """The project's name, that of its folder."""
        return self.root.name


class Text(Element):
    """An element of any tag that contains text."""

    def __init__(self, text: str, tag: str = "span", classes: str = "") -> None:
        super().__init__(tag)
        self._text = text
        if classes:
            self.classes(classes)


def heading(text: str, level: int = 2) -> Text:
    """Return a heading."""
    return Text(text, f"h{level}")


def link(text: str, address: str) -> ui.link:
    """Return a link to another page."""
    return ui.link(text, address).classes("link")


def address(path: str, **query: object) -> str:
    """Return the address of a page with those parameters of `query` that are neither None nor empty.

    >>> address("/item", id="a/b &c", release=None)
    '/item?id=a%2Fb+%26c'
    """
    given = [(name, str(value)) for name, value in query.items() if value not in (None, "", ())]
    return path + (f"?{urlencode(given)}" if given else "")


def page(path: str) -> ui.page:
    """Return the decorator that makes a function the page at `path`; a busy machine may take its time."""
    return ui.page(path, response_timeout=120)


@contextmanager
def frame(bench: Bench, title: str, path: str) -> Iterator[None]:
    """Within the block, the content of the page `title`, which the navigation shows as `path`.

    An error in data, params or LFs is shown in place of the rest of the content.
    """
    ui.page_title(f"{title} · {bench.name}")
    ui.add_css(STYLE)
    ui.dark_mode(None)  # as the browser prefers
    with ui.header(fixed=False).classes("items-center"):  # beside the page's main element, not in it
        ui.html('<a href="#content" class="skip">Skip to content</a>', sanitize=False)
        Text(bench.name, "strong").style("padding: .5rem 1rem")
        with ui.element("nav").props('aria-label="Pages"').classes("flex flex-wrap"):
            for name, target in PAGES:
                entry = ui.link(name, target)
                if target == path:
                    entry.props('aria-current="page"')
    with ui.element("div").props('id="content" tabindex="-1"'):
        heading(title, 1)
        edits = describe_edits(bench.root)
        if edits is not None:
            Text(edits, "p", "quiet")
        try:
            yield
        except EpoxyError as error:
            show_error(str(error).replace(f"{bench.root}/", ""))


async def ask(question: Callable[[], T]) -> T:
    """Return the result of `question`, computed in a thread so that other pages are served meanwhile."""
    return await asyncio.to_thread(question)


def show_error(message: str) -> None:
    """Show an error in place of content."""
    with ui.card().classes("w-full").props('role="alert"'):
        Text("This cannot be shown", "strong", "wrong")
        Text(message, "div", "data")


def follow_changes(read: Callable[[], object], show: Callable[[], Any]) -> None:
    """From now on, call `show` whenever the value of `read` has changed, and wait for it if it is a coroutine function."""
    last = read()

    async def look() -> None:
        nonlocal last
        now = read()
        if now != last:
            last = now
            shown = show()
            if inspect.isawaitable(shown):
                await shown

    ui.timer(SECONDS, look)


def format_share(value: float | None) -> str:
    """Return a share as percent.

    >>> format_share(0.1234), format_share(None)
    ('12.3 %', '')
    """
    return "" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def format_change(value: float | None, before: float | None) -> str:
    """Return the difference of two shares in signed points; empty if it is zero or unknown.

    >>> format_change(0.5, 0.45), format_change(0.5, 0.5)
    ('+5.0', '')
    """
    if value is None or before is None or round(1000 * (value - before)) == 0:
        return ""
    return f"{100 * (value - before):+.1f}".replace("-", MINUS)


POINTS = (
    "value => value === null || value === undefined ? '' : "
    "(value < 0 ? '\u2212' : '+') + Math.abs(100 * value).toFixed(1)"
)
FINE_POINTS = POINTS.replace("toFixed(1)", "toFixed(2)")
SHARE = "value => value === null || value === undefined ? '' : (100 * value).toFixed(1) + '\u00a0%'"
NUMBER = "value => value === null || value === undefined ? '' : Number(value).toLocaleString('en')"
DECIMAL = "value => value === null || value === undefined ? '' : Number(value).toFixed(3)"
"""JavaScript that formats the cells of a table; sorting uses the value itself."""


def column(name: str, label: str, form: str | None = None) -> dict[str, Any]:
    """Return the description of a table's column; `form` formats numbers."""
    found: dict[str, Any] = {"name": name, "label": label, "field": name, "sortable": True, "align": "left"}
    return found if form is None else {**found, "align": "right", ":format": form}


def table(
    columns: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    *,
    key: str,
    links: Mapping[str, str] | None = None,
    shown: int = 50,
) -> ui.table:
    """Return a table that a click on a head, or Enter, sorts; links: by column, the field of a row that has the address.

    On a narrow screen the rows of a table with many columns are cards.
    """
    pagination = {"rowsPerPage": shown if len(rows) > shown else 0}
    made = ui.table(
        columns=[dict(c) for c in columns], rows=[dict(r) for r in rows], row_key=key, pagination=pagination
    )
    made.classes("w-full" + (" cards" if len(columns) > _MOST_NARROW else "")).props("dense flat bordered")
    if len(rows) <= shown:
        made.props("hide-bottom")
    made.add_slot("header-cell", _HEAD)
    made.add_slot("body-cell", f"{_CELL}{{{{ props.value }}}}</q-td>")
    for name, field in (links or {}).items():
        made.add_slot(
            f"body-cell-{name}",
            f'{_CELL}<a v-if="props.row.{field}" class="link" :href="props.row.{field}">{{{{ props.value }}}}</a>'
            "<span v-else>{{ props.value }}</span></q-td>",
        )
    return made


_MOST_NARROW = 5
"""Columns that fit beside each other at the width of a phone."""

_HEAD = """
<q-th :props="props" tabindex="0"
  @keydown.enter="props.sort(props.col.name)" @keydown.space.prevent="props.sort(props.col.name)"
  :aria-sort="!props.col.__thClass.includes('sorted') ? null
    : props.col.__thClass.includes('sort-desc') ? 'descending' : 'ascending'">{{ props.col.label }}</q-th>
"""
"""The head of a table's column, which sorts by keyboard, too, and says how."""

_CELL = """<q-td :props="props" :data-label="props.col.label" :class="{empty: props.value === '' || props.value == null}">"""
"""The start of a table's cell, which names its column for a narrow screen."""


def item_address(item: object, release: str | None = None) -> str:
    """Return the address of an item's page."""
    return address("/item", id=item, release=release)


def show_content(root: Path, row: Mapping[str, Any], columns: Sequence[str], *, most: int = SHORT) -> None:
    """Show the raw `columns` of an item of the project at `root`: texts, pictures, other values."""
    passed: set[str] = set()
    for name in columns:
        if name in passed:
            continue
        value = row[name]
        picture = draw(value)
        if picture is not None:
            ui.image(picture).classes("picture").props(f'alt="{quote(name)}" no-transition no-spinner')
        elif (photo := draw_file(root, row, name)) is not None:
            ui.image(photo).classes("photo").props(f'alt="{quote(value)}" fit="contain" no-transition no-spinner')
            Text(value, "div", "data quiet")
            passed.add(DIGEST.format(name))
        elif isinstance(value, str):
            rest = f" … ({len(value):,} characters)" if len(value) > most else ""
            Text(value[:most] + rest, "div", "data").props('dir="auto"')
        elif value is not None:
            text = repr(value)
            Text(f"{name}: {text[:most]}{' …' if len(text) > most else ''}", "div", "data quiet")
