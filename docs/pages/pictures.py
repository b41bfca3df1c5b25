"""Pictures that are computed: the pipeline from dvc.yaml, the rooms from imports, label quality from its table."""

import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from tasks.__main__ import STAGES
from tasks.cache.code import PACKAGES, find_imports

ROOT = Path(__file__).resolve().parents[2]

_INK, _PAPER, _LINE, _BOX, _QUIET = "#1f2933", "#ffffff", "#7b8794", "#eef2f7", "#52606d"
_FONT = "font-family='system-ui, Segoe UI, Helvetica, Arial, sans-serif'"


def svg(width: int, height: int, parts: Iterable[str], title: str) -> str:
    """An SVG page with a white ground, so that it reads in dark themes, too."""
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' "
        f"role='img' {_FONT}>\n<title>{html.escape(title)}</title>\n"
        f"<rect width='{width}' height='{height}' rx='8' fill='{_PAPER}'/>\n"
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        f"<path d='M0 0 8 4 0 8z' fill='{_LINE}'/></marker></defs>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def text(
    x: float, y: float, words: str, size: int = 14, color: str = _INK, anchor: str = "middle", bold: bool = False
) -> str:
    """A line of text."""
    weight = " font-weight='600'" if bold else ""
    return f"<text x='{x:g}' y='{y:g}' font-size='{size}' fill='{color}' text-anchor='{anchor}'{weight}>{html.escape(words)}</text>"


def box(x: float, y: float, width: float, height: float, words: str, below: str = "", fill: str = _BOX) -> str:
    """A box with a name and a line below it."""
    middle = y + height / 2 + (5 if not below else -3)
    parts = [f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='6' fill='{fill}' stroke='{_LINE}'/>"]
    parts.append(text(x + width / 2, middle, words, 15, bold=True))
    if below:
        parts.append(text(x + width / 2, middle + 18, below, 12, _QUIET))
    return "\n".join(parts)


def reduce_graph(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that no longer way implies."""

    def reach(node: str) -> set[str]:
        return set().union(*({one} | reach(one) for one in graph[node])) if graph[node] else set()

    return {
        node: {one for one in to if not any(one in reach(other) for other in to - {one})} for node, to in graph.items()
    }


def measure_depth(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """The longest way from each node down to one that needs nothing.

    Raises
    ------
    ValueError
        The graph has a circle.
    """
    depth: dict[str, int] = {}

    def visit(node: str, above: tuple[str, ...]) -> int:
        if node in above:
            raise ValueError(f"a circle: {' -> '.join([*above[above.index(node) :], node])}")
        if node not in depth:
            depth[node] = 1 + max((visit(one, (*above, node)) for one in sorted(graph[node])), default=-1)
        return depth[node]

    for node in graph:
        visit(node, ())
    return depth


def draw_pipeline() -> str:
    """images/pipeline.svg: the stages, from dvc.yaml, and what each adds."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    needs = {
        name: {dep.split("/")[1] for dep in stage["deps"] if dep.startswith("data/")} & pipeline.keys()
        for name, stage in pipeline.items()
    }
    arrows, depth = reduce_graph(needs), measure_depth(needs)
    columns: dict[int, list[str]] = {}
    for name in pipeline:
        columns.setdefault(depth[name], []).append(name)
    width, height, gap, top = 104, 48, 34, 64
    tall = max(len(names) for names in columns.values())
    total = top + tall * (height + 26) + 8
    place: dict[str, tuple[float, float]] = {}
    for column, names in sorted(columns.items()):
        for row, name in enumerate(names):
            place[name] = (24 + column * (width + gap), top + row * (height + 26))
    parts = [
        text(24, 34, "items, embeddings, labeling functions in; labels, metrics and a report out", 15, _QUIET, "start")
    ]
    for name, wanted in arrows.items():
        for other in sorted(wanted):
            (x1, y1), (x2, y2) = place[other], place[name]
            x1, y1, y2 = x1 + width, y1 + height / 2, y2 + height / 2
            turn = x2 - gap  # a long arrow stays on its row up to the box before
            parts.append(
                f"<path d='M{x1:g} {y1:g} H{turn:g} C{turn + gap / 2:g} {y1:g} {turn + gap / 2:g} {y2:g} {x2 - 1:g} {y2:g}' "
                f"fill='none' stroke='{_LINE}' stroke-width='1.5' marker-end='url(#tip)'/>"
            )
    for name, (x, y) in place.items():
        parts.append(
            box(
                x,
                y,
                width,
                height,
                name,
                PIPELINE_WORDS.get(name, ""),
                "#dcebff" if name in ("train", "evaluate") else _BOX,
            )
        )
    wide = max(x for x, _ in place.values()) + width + 24
    return svg(int(wide), int(total), parts, "The stages of the pipeline and which of them read what another wrote")


PIPELINE_WORDS = {
    "ingest": "join, check",
    "gold": "who said what",
    "index": "FAISS",
    "apply": "votes",
    "search": "neighbors",
    "tune": "thresholds",
    "extend": "extended votes",
    "fit": "label models",
    "train": "labels shipped",
    "evaluate": "report",
}


def find_room(module: str) -> str:
    """The room of a module: its folder; of a file that lies in `tasks` or `flows` itself, what it is for."""
    parts = module.split(".")
    if parts[0] in ("lfs", "epoxy_flow"):
        return parts[0]
    if len(parts) == 2 or (parts[1] != "core" and len(parts) < 3):
        if parts[0] == "flows":
            return "flows"
        return "stages" if parts[1] in (*STAGES, "label_new", "demo", "__main__") else f"tasks/{parts[1]}"
    if parts[1] == "core" and len(parts) == 4:
        return f"tasks/core/{parts[2]}"
    return "/".join(parts[:2])


def list_modules() -> dict[str, Path]:
    """Every module that holds code, by name."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__init__.py":
                found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    return found


def map_rooms() -> tuple[dict[str, list[str]], dict[str, set[str]]]:
    """The modules of each room, and the rooms that each imports."""
    modules = list_modules()
    rooms: dict[str, list[str]] = {}
    needs: dict[str, set[str]] = {}
    for module, path in modules.items():
        room = find_room(module)
        rooms.setdefault(room, []).append(module)
        needs.setdefault(room, set())
        for name in find_imports(path):
            if name in modules:
                needs[room].add(find_room(name))
    return rooms, {room: wanted - {room} for room, wanted in needs.items()}


def draw_rooms() -> str:
    """images/rooms.svg: the rooms, floor by floor; each imports from floors below it only."""
    rooms, needs = map_rooms()
    depth, arrows = measure_depth(needs), reduce_graph(needs)
    floors: dict[int, list[str]] = {}
    for room in sorted(rooms):
        floors.setdefault(depth[room], []).append(room)
    width, height, gap, rise = 206, 50, 18, 44
    broad = max(len(names) for names in floors.values()) * (width + gap) + 40
    tall = len(floors) * (height + rise) + 30
    place: dict[str, tuple[float, float]] = {}
    for floor, names in floors.items():
        start = (broad - len(names) * (width + gap) + gap) / 2
        for column, name in enumerate(names):
            place[name] = (start + column * (width + gap), tall - 20 - height - floor * (height + rise))
    parts = []
    for room, wanted in arrows.items():
        for other in sorted(wanted):
            (x1, y1), (x2, y2) = place[room], place[other]
            x1, y1, x2 = x1 + width / 2, y1 + height, x2 + width / 2
            parts.append(f"<path d='M{x1:g} {y1:g} C{x1:g} {y1 + 24:g} {x2:g} {y2 - 24:g} {x2:g} {y2 - 1:g}' fill='none' "
                         f"stroke='{_LINE}' stroke-width='1.2' marker-end='url(#tip)' opacity='.8'/>")  # fmt: skip
    for room, (x, y) in place.items():
        count = len(rooms[room])
        fill = "#dcebff" if room.startswith("flows") else "#e6f4ea" if "core" in room else _BOX
        parts.append(box(x, y, width, height, room, f"{count} file{'s' if count > 1 else ''}", fill))
    return svg(int(broad), int(tall), parts, "The rooms of the code: each imports from floors below it only")


def draw_quality() -> str:
    """images/quality.svg: some columns of the table of label quality in explanation/benchmarks.md."""
    page = (ROOT / "docs" / "explanation" / "benchmarks.md").read_text(encoding="utf-8")
    shown_table = page[page.index("| task, gold of valid") :].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+) \|$", shown_table, flags=re.M)
    head = [cell.strip() for cell in rows[0].split("|")]
    body = [
        [cell.strip().strip("*") for cell in row.split("|")] for row in rows[1:] if len(row.split("|")) == len(head)
    ]
    shown = {
        "majority vote": "#c5cdd8",
        "Epoxy": "#93b4dd",
        "logistic regression on that gold": "#e8b878",
        "end model": "#2f6db5",
    }
    left, bar, line, wide = 150, 13, 4 * 13 + 16, 760
    scale = (wide - left - 70) / 0.6
    parts = []
    x = left
    for name, color in shown.items():
        words = {"end model": "shipped", "logistic regression on that gold": "gold alone"}.get(name, name)
        parts.append(
            f"<rect x='{x}' y='18' width='12' height='12' fill='{color}'/>"
            + text(x + 18, 29, words, 13, anchor="start")
        )
        x += 40 + 8 * len(words)
    for number, row in enumerate(body):
        y = 50 + number * line
        parts.append(text(left - 10, y + line / 2 - 6, row[0], 13, anchor="end"))
        for offset, (name, color) in enumerate(shown.items()):
            value = row[head.index(name)] if head.index(name) < len(row) else ""
            if value:
                length = (float(value) - 0.4) * scale
                parts.append(
                    f"<rect x='{left}' y='{y + offset * bar}' width='{length:.1f}' height='{bar - 1}' fill='{color}'/>"
                )
                parts.append(text(left + length + 6, y + offset * bar + 10, value, 11, _QUIET, "start"))
    parts.append(text(left, 50 + len(body) * line + 6, "test accuracy; bars start at .4", 12, _QUIET, "start"))
    return svg(wide, 50 + len(body) * line + 20, parts, "Test accuracy of four methods on each task, by gold of valid")
