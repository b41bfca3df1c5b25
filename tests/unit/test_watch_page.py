"""What `epoxy watch` shows on a terminal of 100 by 30: emphasis on what changed, differences with sign and color, nothing cut."""

import io
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from flows.watch.page import TerminalPage
from flows.watch.session import Score
from flows.watch.view import FlipGroup, LFRow, StageView, View


def make_view(m: int = 3, **changes) -> View:
    rows = tuple(
        LFRow(lf=f"keyword_{j:02}", polarity="spam", coverage=0.125, overlaps=0.1, conflicts=0.05, precision=0.75,
              n_valid=40, threshold=0.5, extended=0.25)
        for j in range(m)
    )  # fmt: skip
    methods = ("majority_vote", "label_model_raw", "majority_vote_extended", "label_model_extended", "epoxy")
    view = View(
        seconds=0.2, steps={"apply": 0.1}, items=20_000, valid_gold=200, lfs=rows, coverage=0.5, coverage_extended=0.75,
        scores=tuple(Score(method=name, accuracy=0.8, macro_f1=0.7) for name in methods), flipped=None, flips=(),
        failures=0, notes=(), follows=("search", "train", "tune", "extend", "fit"),
    )  # fmt: skip
    return replace(view, **changes)


def edit(view: View, lf: int, **changes) -> View:
    rows = [replace(row, **changes) if at == lf else row for at, row in enumerate(view.lfs)]
    return replace(view, lfs=tuple(rows))


def show(*views: View | StageView | str, width: int = 100, height: int = 30, colors: bool = True) -> list[Text]:
    """The lines after the last of `views`, shown one after the other; a string is an error."""
    screen = io.StringIO()
    console = Console(
        file=screen, force_terminal=colors, color_system="standard" if colors else None, width=width, height=height,
        highlight=False, legacy_windows=False,
    )  # fmt: skip
    page = TerminalPage(console)
    for view in views:
        screen.seek(0)
        screen.truncate()
        if isinstance(view, str):
            page.fail(view)
        elif isinstance(view, StageView):
            page.show_stage(view)
        else:
            page.show(view)
    text = screen.getvalue().replace("\x1b[2J", "").replace("\x1b[H", "")
    return [Text.from_ansi(line) for line in text.rstrip("\n").split("\n")]


def find_bold(line: Text) -> list[tuple[str, str]]:
    """Bold parts of a line with their color."""
    found = []
    for span in line.spans:
        style = span.style
        if getattr(style, "bold", False):
            found.append(
                (
                    line.plain[span.start : span.end].strip(),
                    {1: "red", 2: "green"}[style.color.number] if style.color else "",
                )
            )
    return found


def test_only_what_changed_is_bold_and_differences_have_sign_and_color():
    first = make_view()
    second = edit(first, 1, coverage=0.25, precision=0.5, conflicts=0.02)
    lines = show(first, second)
    rows = {line.plain.split()[0]: line for line in lines if line.plain.startswith("keyword")}
    assert find_bold(rows["keyword_00"]) == find_bold(rows["keyword_02"]) == []
    assert find_bold(rows["keyword_01"]) == [
        ("25.0%", ""), ("+12.5", "green"), ("2.0%", ""), ("-3.0", "green"), ("0.500", ""), ("-0.250", "red"),
    ]  # fmt: skip


def test_a_new_function_is_bold_and_one_that_went_is_named():
    first = make_view()
    second = replace(first, lfs=(replace(first.lfs[0], lf="new"), *first.lfs[1:]))
    lines = show(first, second)
    assert [line.plain for line in lines if line.plain.startswith("gone")] == ["gone: keyword_00"]
    (new,) = [line for line in lines if line.plain.startswith("new")]
    assert ("spam", "") in find_bold(new)


def test_what_flipped_is_counted_against_is_said():
    group = FlipGroup(before="ham", after="spam", count=2, first=("a", "b"))
    lines = [line.plain for line in show(make_view(flipped=2, flips=(group,)))]
    assert "2 labels of the label model flipped since the last result" in lines
    screen = io.StringIO()
    page = TerminalPage(Console(file=screen, width=100))
    page.show_stage(StageView(stage="train", seconds=3, scores=(), flipped=0, flips=()))
    assert "0 shipped labels flipped since those of the last result that got so far" in screen.getvalue()


def test_nothing_is_cut_at_100_by_30():
    """80 LFs with long names, an edit that moves every column, many flips: all fits, and what is left out is counted."""
    first = make_view(80)
    long = replace(
        first.lfs[70], lf="mentions_a_price_and_an_offer_in_the_same_sentence", polarity="spam|phishing|advertising"
    )
    first = replace(first, lfs=(*first.lfs[:70], long, *first.lfs[71:]))
    flips = tuple(
        FlipGroup(before=f"class {c}", after="spam", count=9, first=("i1", "i2", "i3", "i4", "i5")) for c in range(9)
    )
    second = edit(
        replace(first, flipped=81, flips=flips), 70, coverage=0.9, overlaps=0.8, conflicts=0.7, precision=0.123,
        n_valid=12_345, threshold=0.1234, extended=0.95,
    )  # fmt: skip
    lines = [line.plain for line in show(first, second)]
    assert len(lines) <= 29 and max(map(len, lines)) <= 100
    (at,) = [at for at, line in enumerate(lines) if line.startswith("mentions")]
    edited = lines[at]
    rest = iter(line.split("  ")[0] for line in lines[at:])
    whole = ""
    while long.lf != whole:
        whole += next(rest)
    assert "90.0% +77.5" in edited and "0.123 -0.627" in edited and "0.1234" in edited
    shown = [line for line in lines if line.startswith(("keyword", "mentions"))]
    assert f"{80 - len(shown)} other LFs, not changed" in lines and len(shown) >= 3
    assert not any("…" in line for line in lines)


def test_a_file_gets_every_function():
    first = make_view(80)
    lines = show(first, colors=False, width=120)
    assert sum(line.plain.startswith("keyword") for line in lines) == 80


def test_what_follows_and_an_error_are_drawn_into_the_page():
    """Six LFs as in the tutorial: neither the shipped labels nor an error push the first line off the terminal."""
    first = make_view(6)
    group = FlipGroup(before="delivery", after="advice", count=9, first=("i1", "i2", "i3", "i4", "i5"))
    flips = (group, replace(group, after="payment"), replace(group, before="payment"), replace(group, before="advice"))
    second = replace(edit(first, 2, coverage=0.25), flipped=36, flips=flips)

    def follow(stage: str, *methods: str) -> StageView:
        scores = tuple(Score(method=name, accuracy=0.9, macro_f1=0.9) for name in methods)
        is_shipped = stage == "train"
        return StageView(
            stage=stage, seconds=3, scores=scores, flipped=36 if is_shipped else None, flips=flips if is_shipped else ()
        )

    train, fit = (
        follow("train", "nearvote", "end_model", "gold_only"),
        follow("fit", "dawid_skene", "generative", "liger"),
    )
    for height in (30, 24):
        for views in ((first, second, train), (first, second, train, fit), (first, second, train, "lfs/x.py: no")):
            lines = [line.plain for line in show(*views, height=height)]
            assert len(lines) < height, (height, len(lines))
            assert "0.20 s (apply 0.10)" in lines[0] and any("keyword_02" in line for line in lines)
            assert any("36 shipped labels flipped" in line for line in lines)
            assert any(line.startswith("Nearvote") for line in lines)
    assert lines[-2:] == ["error: lfs/x.py: no", "the last result above stands until this is corrected"]
    lines = [line.plain for line in show(first, second, train)]
    assert "follows, unless there is an edit first: tune, extend, fit" in lines
    assert not any(line.plain.startswith("follows") for line in show(first, second, train, fit))
