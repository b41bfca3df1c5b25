"""`python -m benchmarks workbench --n 1000000`: seconds until a page of items, or an edit, stands in a real browser.

Pages are those of questions of `python -m benchmarks queries`, on its items, 25 a page: from following a link to the last item in
the document, measured by Chromium's own clock. The first visit of each is told apart, since it may read tables. Edits are
those of an LF in the project of `python -m benchmarks watch`: from saving the file to the moment at which the overview shows
what it comes to. Processor seconds are those of the workbench, and for edits of `epoxy watch` beside it.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import queries, watch
from flows.workbench.item_address import ROWS, write_address
from tasks.__main__ import run_stage

_ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(_ROOT / "tests"))  # whose browser this is

from chromium import Page, open_page  # noqa: E402

EDITS = 6


def main(arguments: list[str]) -> int:
    """Print a line per question, and the seconds of edits."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks workbench", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--n", type=int, default=1_000_000, help="items of the pages (default 1,000,000)")
    parser.add_argument(
        "--edited", type=int, default=0, help="items of the project in which an LF is edited (default: no edit)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="visits of each page after the first (default 3)")
    options = parser.parse_args(arguments)
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory(prefix="epoxy-workbench-") as folder:
        if options.n:
            measure_pages(Path(folder) / "pages", options.n, options.repeats)
        if options.edited:
            measure_edits(Path(folder) / "edits", options.edited)
    return 0


def measure_pages(root: Path, n: int, repeats: int) -> None:
    """Print the seconds of a page of each question at `n` items, of the first visit and of `repeats` later ones."""
    root.mkdir()
    queries.write_project(root, n)
    with _Served(root, is_live=False) as served:
        for name, query in queries.QUERIES.items():
            path = write_address(query, page=1 + query.offset // ROWS)
            seen = [served.visit(path, "document.querySelectorAll('ol > li').length && document.querySelector('nav[aria-label=\"Pages of items\"]')")
                    for _ in range(1 + repeats)]  # fmt: skip
            later = seen[1:]
            print(
                f"{name:<24} first {seen[0][0]:6.2f} s   then {statistics.median(one[0] for one in later):6.2f} s   "
                f"processor {statistics.median(one[1] for one in later):6.2f} s, browser "
                f"{statistics.median(one[2] for one in later):6.2f} s",
                flush=True,
            )


def measure_edits(root: Path, n: int) -> None:
    """Print the seconds from saving an edit to the overview, at `n` items."""
    root.mkdir()
    m = 16
    watch.write_project(root, n, 384, m)
    for stage in ("apply", "search", "tune", "extend", "fit", "train", "evaluate"):
        run_stage(root, stage)
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    # What watch brings up to date at its start is there already.
    stages = "".join(f"  {name}: {{cmd: 'true'}}\n" for name in ("gold", "index"))
    (root / "dvc.yaml").write_text(f"stages:\n{stages}", encoding="utf-8")
    with _Served(root, is_live=True) as served:
        served.visit("/", "document.body && document.body.innerText.includes('LFs vote on')")
        seconds, used = [], []
        shown = "document.querySelector('main').innerText.match(/.*LFs vote on.*/)[0]"
        for number in range(1, EDITS + 1):
            before, began, processor = (
                served.page.evaluate(shown),
                time.perf_counter(),
                served.count_processor_seconds(),
            )
            watch.write_edit(root, m, edge=1.0 + 0.9 * number / EDITS, threshold=0.8)
            served.wait_for(f"{shown} !== {before!r}")
            seconds.append(time.perf_counter() - began)
            used.append(served.count_processor_seconds() - processor)
            time.sleep(3)  # what follows an edit in the background is not part of the next
    print(
        f"an edited LF, {n:,} items: median {statistics.median(seconds):.2f} s, slowest {max(seconds):.2f} s, processor "
        f"{statistics.median(used):.2f} s"
    )


class _Served:
    """A workbench of the project at `root` and a browser that it admits, until the block ends."""

    def __init__(self, root: Path, *, is_live: bool) -> None:
        (root / ".dvc").mkdir(exist_ok=True)
        if not (root / "dvc.yaml").is_file():
            (root / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
        command = [sys.executable, "-m", "flows.cli", "workbench", "--no-browser", *([] if is_live else ["--no-watch"])]
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        self._process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        found = re.search(r"(http://[^/]+)/\?token=(\S+)", self._process.stdout.readline())
        assert found is not None
        self._address = found[1]
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._browser = open_page(f"{found[1]}/?token={found[2]}", Path(self._folder.name))

    def __enter__(self) -> "_Served":
        self.page: Page = self._browser.__enter__()
        self.wait_for("!!document.querySelector('main')")
        return self

    def __exit__(self, *error: object) -> None:
        self._browser.__exit__(None, None, None)
        self._process.terminate()
        self._process.wait(30)
        self._folder.cleanup()

    def wait_for(self, script: str) -> None:
        """Return as soon as `script` is true in the page."""
        deadline = time.monotonic() + 120
        while not self.page.evaluate(script):
            assert time.monotonic() < deadline, f"never true: {script}; {self.page.evaluate('document.body.innerText')}"
            time.sleep(0.005)

    def visit(self, path: str, script: str) -> tuple[float, float, float]:
        """The seconds until `script` is true on the page at `path`, by the browser's clock; processor seconds, and the browser's."""
        before, browser = self.count_processor_seconds(), self._count_browser_seconds()
        self.page.ask("Page.navigate", url=self._address + path)
        self.wait_for(f"(window.seen ??= ({script}) ? performance.now() : undefined) !== undefined")
        used = self.count_processor_seconds() - before, self._count_browser_seconds() - browser
        return self.page.evaluate("window.seen") / 1000, *used

    def _count_browser_seconds(self) -> float:
        mine = psutil.Process()
        return sum(sum(one.cpu_times()[:2]) for one in mine.children(recursive=True) if "chromium" in one.name())

    def count_processor_seconds(self) -> float:
        """Processor seconds so far of the workbench and of `epoxy watch`, which it starts; not of the stages behind an edit."""
        process = psutil.Process(self._process.pid)
        return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
