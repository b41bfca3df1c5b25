"""A graphics card for exact search, through PyTorch and Triton: the only module that knows either, but for the kernels.

What is multiplied stands for float64 vectors whose products rank the members as similarities do: unit vectors for cosine;
for L2, centered and scaled vectors y with -|y|^2 / 2 behind them, and for queries a number behind them, as in
tasks/core/search/support.py. The card rounds them to float16 and measures what that leaves over. For vectors X and Y that
became X' and Y',

    |X.Y - X'.Y'| <= |X - X'| |Y| + |X'| |Y - Y'|,

and what tensor cores give for X'.Y' errs by at most 2^-22 K |X'| |Y'| for K columns: products of two float16 numbers are exact,
and each sum of a few of them is cut, not rounded, at the 23rd binary digit of the largest; one digit more is left to spare. Twice
the two bounds, and the gap that rounding similarities to float32 can close, is the margin within which a member may be nearest.

Source: M. Fasi, N. Higham, M. Mikaitis, S. Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Computer Science 7, 2021.

PyTorch is imported by name at run time, as Triton is in tasks/core/search/card_kernels.py, and for the same reason.
"""

import importlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.core.search import card_kernels as kernels
from tasks.core.search.exact import find_neighbors
from tasks.core.search.on_cards import GROUP, CardIsFull, CardSearch, FoundByCard, NoCard, Part
from tasks.core.search.plan import plan_per_lf
from tasks.core.search.products import take_rows
from tasks.core.search.support import Geometry, Support, build_queries, build_support
from tasks.core.slices import cut_slices
from tasks.core.types import NOBODY, Bool, Float32, Float64, MetricName
from tasks.core.unit_vectors import to_index_vectors

torch: Any = importlib.import_module("torch")

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton then runs kernels on the processor, slowly, and the card is one in name only."""

ROOM = 1 << 24
"""Hits that are listed at a time, 128 MiB; of 16,384 queries and 40 LF classes there are .7 million."""

_AT_ONCE = 65_536
"""Rows that are copied or rounded at a time: in float64 and 384 dimensions, 200 MB."""

_LOWEST = -(1 << 63)
"""Below the key of every similarity and position."""

_UNIT = 2.0**-24
"""Unit roundoff of float32."""

_PHASES = ("copies", "products", "collecting", "scoring")


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How products are cut for the threads of a card."""

    tall: int
    """Queries of a tile."""
    wide: int
    """Members of a tile."""
    deep: int
    """Columns that are read at a time; they divide `COLUMNS`."""
    warps: int
    stages: int
    """Reads that are under way at a time."""
    has_descriptors: bool
    """Whether tiles are read by descriptors of memory, by programs that go on from tile to tile: from Hopper on."""
    hits: int = 1
    """Hits that a program scores."""


TILES = (
    Tiles(tall=128, wide=256, deep=64, warps=8, stages=4, has_descriptors=True),
    Tiles(tall=128, wide=256, deep=64, warps=8, stages=3, has_descriptors=False),
    Tiles(tall=128, wide=128, deep=64, warps=4, stages=3, has_descriptors=False),
    Tiles(tall=64, wide=64, deep=32, warps=4, stages=2, has_descriptors=False),
)
"""Which is fastest is measured on the card at hand; one that does not compile there, or is wrong, is left out."""

TILES_TO_INTERPRET = Tiles(tall=128, wide=128, deep=64, warps=4, stages=1, has_descriptors=False, hits=256)

COLUMNS = 64
"""The number of columns is a multiple of it."""

_BAND = 8
"""Tiles of members that meet all queries before the next: with 128 queries they are 2 MB of 384 columns."""


class TorchCard:
    """A card, which `open_cards` gives; one thread at a time may use it."""

    def __init__(self, device: str, tiles: Tiles, *, room: int = ROOM, lent: int | None = None) -> None:
        self.device, self.tiles, self.room = device, tiles, room
        self._lent = lent
        self.seconds: dict[str, float] | None = None
        """By phase; None: not measured, since to measure is to wait."""
        self.looked_at = self.asked = self.doubted = 0
        """Groups scored, cells (a query and an LF class) asked for, cells left to the processor."""

    def watch(self) -> None:
        """Begin to measure."""
        self.seconds = dict.fromkeys(_PHASES, 0.0)
        self.looked_at = self.asked = self.doubted = 0

    def describe(self) -> str:
        """What it is called."""
        return "the processor, interpreted" if IS_INTERPRETED else str(torch.cuda.get_device_name(self.device))

    def time_bare_products(self, q: int, d: int) -> float:
        """TFLOP/s of PyTorch's products of `q` vectors with as many, in float16."""
        x = torch.randn((q, d), device=self.device).half()
        out = torch.empty((q, q), dtype=torch.float16, device=self.device)
        seconds = []
        for _ in range(4):  # the first chooses how
            self.wait()
            began = time.perf_counter()
            torch.mm(x, x.T, out=out)
            self.wait()
            seconds.append(time.perf_counter() - began)
        return 2 * d * q * q / min(seconds[1:]) / 1e12

    def wait(self) -> None:
        """Return when the card has done what it was given."""
        if not IS_INTERPRETED:
            torch.cuda.synchronize(self.device)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add to the seconds of `name` what the block takes, where they are measured."""
        if self.seconds is None:
            yield
            return
        self.wait()
        began = time.perf_counter()
        yield
        self.wait()
        self.seconds[name] += time.perf_counter() - began

    @contextmanager
    def work(self) -> Iterator[None]:
        """What the block allocates may not fit, which is a `CardIsFull`; kernels go to this card."""
        try:
            if IS_INTERPRETED:
                yield
            else:
                with torch.cuda.device(self.device):
                    yield
        except torch.OutOfMemoryError:
            raise CardIsFull(self.device) from None

    def measure_free(self) -> int:
        """Bytes of memory that nobody uses."""
        if IS_INTERPRETED:
            return self._lent or 1 << 30
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self.device)[0])

    def hold(self, support: Support, part: Part) -> "HeldPart":
        """`part` of `support`, copied to the card."""
        with self.work(), self.phase("copies"):
            if not IS_INTERPRETED:
                torch.cuda.empty_cache()  # of the part before, so that other processes and larger pieces have room
            return HeldPart(self, support, part)

    def copy(self, array: Any) -> Any:
        """`array` on the card."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def multiply(self, tiles: Tiles, queries: Any, members: Any, maxima: Any) -> None:
        """Write to `maxima` (groups, q) the largest product of each group of `members` with each of `queries`.

        Both have as many rows as fill whole tiles.
        """
        down, across = len(queries) // tiles.tall, len(members) // tiles.wide
        grid, processors = down * across, 1
        left, right = queries, members
        if tiles.has_descriptors:
            descriptor = importlib.import_module("triton.tools.tensor_descriptor").TensorDescriptor
            left = descriptor.from_tensor(queries, [tiles.tall, tiles.deep])
            right = descriptor.from_tensor(members, [tiles.wide, tiles.deep])
            if not IS_INTERPRETED:
                processors = torch.cuda.get_device_properties(self.device).multi_processor_count
            grid = min(grid, processors)
        kernels.multiply[(grid,)](
            left, right, maxima, maxima.shape[1], down, across, COLUMNS=queries.shape[1], TALL=tiles.tall,
            WIDE=tiles.wide, DEEP=tiles.deep, GROUP=GROUP, BAND=_BAND, PROGRAMS=processors,
            HAS_DESCRIPTORS=tiles.has_descriptors, num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Rounded:
    """Vectors (r, K) in float16 on a card."""

    half: Any
    """(r, K)"""
    lost: Any
    """(r,) float64: lengths of what rounding left over."""
    length: Any
    """(r,) float64: lengths of the vectors."""


class _Rounding:
    """How vectors become what is multiplied."""

    def __init__(self, geometry: Geometry, d: int, card: TorchCard) -> None:
        self._is_cosine, self._scale, self._d = geometry.metric == "cosine", geometry.scale, d
        self._center = card.copy(geometry.center)
        # L2: -|y|^2 / 2 is up to 1/2, which float16 knows too coarsely; in a second column stands what is left of it.
        self.columns = -(-(d + (0 if self._is_cosine else 2)) // COLUMNS) * COLUMNS

    def round_members(self, vectors: Any, norms: Any) -> _Rounded:
        """Support vectors (r, d) of these lengths (r,)."""
        if self._is_cosine:
            return self._round(vectors.double() / norms[:, None])
        placed = (vectors.double() - self._center) * self._scale
        return self._round(placed, -0.5 * (placed * placed).sum(dim=1))

    def round_queries(self, vectors: Any, norms: Any) -> tuple[_Rounded, Any]:
        """Queries (r, d) of these lengths (r,), and the gap (r,) that rounding similarities can close."""
        if self._is_cosine:
            rounded = self._round(vectors.double() / norms[:, None])
            return rounded, torch.full_like(rounded.lost, 12 * _UNIT)
        placed = (vectors.double() - self._center) * self._scale
        away = placed.norm(dim=1)
        shrink = torch.exp2(-torch.ceil(torch.log2(torch.clamp(away, min=1.0))))
        rounded = self._round(placed * shrink[:, None], shrink, is_repeated=True)
        return rounded, 16 * _UNIT + 4 * _UNIT * shrink * (away + 1) ** 2

    def _round(self, vectors: Any, last: Any = None, *, is_repeated: bool = False) -> _Rounded:
        d = self._d
        half = torch.zeros((len(vectors), self.columns), dtype=torch.float16, device=vectors.device)
        half[:, :d] = vectors
        lost = ((vectors - half[:, :d].double()) ** 2).sum(dim=1)
        length = (vectors**2).sum(dim=1)
        if last is not None:
            half[:, d] = last
            rest = last - half[:, d].double()
            half[:, d + 1] = last if is_repeated else rest
            lost += (rest if is_repeated else rest - half[:, d + 1].double()) ** 2
            length += last**2
        return _Rounded(half=half, lost=lost.sqrt(), length=length.sqrt())


class HeldPart:
    """A part of a support on a card."""

    def __init__(self, card: TorchCard, support: Support, part: Part) -> None:
        self._card, self._d = card, support.vectors.shape[1]
        self._is_cosine = support.geometry.metric == "cosine"
        rows, slot_rows = np.unique(part.rows, return_inverse=True)
        self._vectors = torch.empty((len(rows), self._d), dtype=torch.float32, device=card.device)
        for some in cut_slices(len(rows), _AT_ONCE):
            self._vectors[some] = card.copy(take_rows(support.vectors, rows[some]))
        self._norms = card.copy(support.norms[rows])
        self._rows = card.copy(slot_rows.reshape(-1).astype(np.int32))
        self._positions = card.copy(part.positions)
        self._position_type = torch.int32 if part.positions.max() < 1 << 31 else torch.int64  # half as much to copy
        self._starts, self._lfs = card.copy(part.starts.astype(np.int32)), card.copy(part.lfs.astype(np.int32))
        lf_class_of = np.repeat(np.arange(len(part.lfs), dtype=np.int32), np.diff(part.starts))
        self._lf_class_of = card.copy(lf_class_of)
        self._rounding = _Rounding(support.geometry, self._d, card)
        slots = len(part.rows)
        whole = -(-slots // card.tiles.wide) * card.tiles.wide
        self._half = torch.zeros((whole, self._rounding.columns), dtype=torch.float16, device=card.device)
        lost, length = (torch.zeros(slots, dtype=torch.float64, device=card.device) for _ in range(2))
        for some in cut_slices(slots, _AT_ONCE):
            chosen = self._rows[some].long()
            rounded = self._rounding.round_members(self._vectors[chosen], self._norms[chosen])
            self._half[some], lost[some], length[some] = rounded.half, rounded.lost, rounded.length
        in_class = self._lf_class_of.long().repeat_interleave(GROUP)
        self._lost = torch.zeros(len(part.lfs), dtype=torch.float64, device=card.device)
        self._lost = self._lost.scatter_reduce(0, in_class, lost, "amax")
        self._length, self._most_lost = length.max(), lost.max()

    def search(self, vectors: Float32, norms: Float64, asking: Bool) -> FoundByCard:
        """As `Held.search`."""
        with self._card.work():
            return self._search(vectors, norms, asking)

    def _search(self, vectors: Float32, norms: Float64, asking: Bool) -> FoundByCard:
        card, q = self._card, len(vectors)
        width = -(-q // card.tiles.tall) * card.tiles.tall
        cells = len(self._lfs), width
        with card.phase("copies"):
            x, x_norms = card.copy(vectors), card.copy(norms)
            asks = torch.zeros((asking.shape[1], width), dtype=torch.uint8, device=card.device)
            asks[:, :q] = card.copy(asking.T.astype(np.uint8))
        with card.phase("products"):
            rounded, gap = self._rounding.round_queries(x, x_norms)
            half = torch.zeros((width, rounded.half.shape[1]), dtype=torch.float16, device=card.device)
            half[:q] = rounded.half
            maxima = torch.empty((len(self._half) // GROUP, width), dtype=torch.float32, device=card.device)
            card.multiply(card.tiles, half, self._half, maxima)
            base, slope = self._bound(rounded, gap, width)
        best, doubt = (torch.full(cells, _LOWEST, dtype=torch.int64, device=card.device) for _ in range(2))
        groups = len(self._lf_class_of)
        # A query alone cannot have more hits than groups.
        hits = torch.empty(max(min(card.room, groups * q), groups), dtype=torch.int64, device=card.device)
        count = torch.zeros(1, dtype=torch.int64, device=card.device)
        unsure = []
        todo = [(0, q)]
        while todo:
            begin, end = todo.pop()
            with card.phase("collecting"):
                count.zero_()
                kernels.find_hits[(-(-(end - begin) // 128), cells[0])](
                    maxima, width, self._starts, self._lfs, self._lost.float() * (1 + 1e-6), base, slope, asks, begin, end,
                    hits, count, len(hits), ACROSS=128, DOWN=16,
                )  # fmt: skip
                found = int(count)
            if found > len(hits):
                middle = (begin + end) // 2
                todo += [(begin, middle), (middle, end)]
                continue
            if found:
                with card.phase("scoring"):
                    self._score(hits, found, x, x_norms, best, doubt)
                    unsure.append(self._find_unsure(hits[:found], best, doubt))
            card.looked_at += found
        with card.phase("copies"):
            return self._decode(best[:, :q], unsure, asks[self._lfs.long(), :q])

    def _bound(self, rounded: _Rounded, gap: Any, width: int) -> tuple[Any, Any]:
        """Two (width,) float32: the margin of a query is the first, plus the second times what an LF class lost."""
        columns, up = rounded.half.shape[1], 1 + 1e-5
        longest = rounded.length + rounded.lost
        sums = 1.01 * columns * 2.0**-22 * longest * (self._length + self._most_lost)
        base = gap + 2 * (rounded.lost * self._length + sums)
        padded = torch.zeros((2, width), dtype=torch.float32, device=gap.device)
        padded[0, : len(base)], padded[1, : len(base)] = base * up, 2 * longest * up
        return padded[0], padded[1]

    def _score(self, hits: Any, found: int, x: Any, x_norms: Any, best: Any, doubt: Any) -> None:
        at_once = self._card.tiles.hits
        kernels.score_hits[(-(-found // at_once),)](
            hits, found, x, x_norms, self._rows, self._positions, self._lf_class_of, self._vectors, self._norms, best, doubt,
            best.shape[1], LOWEST=_LOWEST, IS_COSINE=self._is_cosine, D=self._d, DEEP=128 if self._d > 64 else 32, GROUP=GROUP,
            HITS=at_once, num_warps=4,
        )  # fmt: skip

    def _find_unsure(self, hits: Any, best: Any, doubt: Any) -> Any:
        """Those of `hits` whose cell has a doubt that may beat, or tie with, the best of its sure similarities."""
        cell = self._lf_class_of[hits >> 32].long() * best.shape[1] + (hits & 0xFFFFFFFF)
        highest = doubt.reshape(-1)[cell]
        return hits[(highest > _LOWEST) & (highest >= best.reshape(-1)[cell] >> 32)]

    def _decode(self, best: Any, unsure: list[Any], asks: Any) -> FoundByCard:
        card = self._card
        order, position = best >> 32, 0xFFFFFFFF - (best & 0xFFFFFFFF)
        bits = torch.where(order < 0, -order - (1 << 31), order)
        similarity = bits.to(torch.int32).view(torch.float32)
        position = torch.where(best == _LOWEST, NOBODY, position).to(self._position_type)
        hits = torch.cat([torch.empty(0, dtype=torch.int64, device=best.device), *unsure])
        if card.seconds is not None:
            card.asked += int(asks.sum())
            card.doubted += len(torch.unique(self._lf_class_of[hits >> 32].long() << 32 | (hits & 0xFFFFFFFF)))
        return FoundByCard(
            similarity=similarity.cpu().numpy(),
            position=position.cpu().numpy().astype(np.int64, copy=False),
            group=(hits >> 32).cpu().numpy(),
            query=(hits & 0xFFFFFFFF).cpu().numpy(),
        )


def open_cards() -> Sequence[TorchCard]:
    """The cards that this process may use, each of which has been found to give what the processor gives.

    Raises
    ------
    NoCard
        There is none, or none that can be used.
    """
    if IS_INTERPRETED:
        return [TorchCard("cpu", TILES_TO_INTERPRET)]
    if not torch.cuda.is_available():
        raise NoCard("PyTorch sees no GPU")
    if torch.version.cuda is None:
        raise NoCard("this PyTorch is not one for NVIDIA's GPUs")
    cards = []
    for index in range(torch.cuda.device_count()):
        device = f"cuda:{index}"
        if torch.cuda.get_device_capability(index) < (8, 0):
            reason = f"{torch.cuda.get_device_name(index)} has no tensor cores for float16 that Triton uses"
            continue
        try:
            card = TorchCard(device, choose_tiles(device))
            for metric in ("cosine", "l2"):
                check_card(card, metric)
        except NoCard as error:
            reason = str(error)
        except Exception as error:  # whatever a compiler or a driver meets
            first = str(error).strip().partition("\n")[0]
            reason = f"a first search on {device} failed ({type(error).__name__}: {first})"
        else:
            cards.append(card)
    if not cards:
        raise NoCard(reason)
    return cards


def choose_tiles(device: str) -> Tiles:
    """The fastest of `TILES` that compiles for the card and whose products are within the bound of plain ones.

    Raises
    ------
    NoCard
        There is none.
    """
    generator = torch.Generator(device=device).manual_seed(0)
    queries, members = (
        torch.nn.functional.normalize(torch.randn((rows, 384), device=device, generator=generator), dim=1).half()
        for rows in (2048, 65_536)
    )
    plain = (queries[:256].double() @ members[:4096].double().T).reshape(256, -1, GROUP).amax(dim=2)
    bound = 384 * 2.0**-22
    best, fastest, why = None, float("inf"), ""
    for tiles in TILES:
        if tiles.has_descriptors and torch.cuda.get_device_capability(device) < (9, 0):
            continue
        try:
            seconds, differs = _time_tiles(TorchCard(device, tiles), queries, members, plain)
        except Exception as error:  # too much shared memory, a compiler that fails
            why = f" ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
            continue
        if differs > bound:
            why = f" (products differ by {differs:.1e})"
        elif seconds < fastest:
            best, fastest = tiles, seconds
    if best is None:
        raise NoCard(f"Triton's products do not work on {torch.cuda.get_device_name(device)}{why}")
    return best


def _time_tiles(card: TorchCard, queries: Any, members: Any, plain: Any) -> tuple[float, float]:
    """The seconds of products, and how far the first are from `plain`."""
    maxima = torch.empty((len(members) // GROUP, len(queries)), dtype=torch.float32, device=card.device)
    seconds = []
    with torch.cuda.device(card.device):
        for _ in range(4):  # the first compiles
            card.wait()
            began = time.perf_counter()
            card.multiply(card.tiles, queries, members, maxima)
            card.wait()
            seconds.append(time.perf_counter() - began)
    return min(seconds[1:]), float((maxima[: plain.shape[1], : len(plain)].T - plain).abs().max())


def check_card(card: TorchCard, metric: MetricName) -> None:
    """Search a little, with members that are equal or nearly so, and compare it with the processor.

    Raises
    ------
    NoCard
        One byte differs.
    """
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((800, 100), dtype=np.float32)
    vectors[400:] = vectors[:400] * np.float32(1 + 2.0**-20)
    vectors[600:] += rng.standard_normal((200, 100), dtype=np.float32) * np.float32(1e-6)
    votes = np.where(rng.random((800, 3)) < 0.4, rng.integers(0, 2, (800, 3)), -1).astype(np.int8)
    vectors = to_index_vectors(vectors, metric)
    support = build_support(votes, np.arange(800), vectors, metric=metric)
    queries = build_queries(support.geometry, vectors)
    expected = find_neighbors(support, plan_per_lf(support.lf_classes), queries, votes < 0)
    found = CardSearch(support, support.lf_classes, [card]).find_neighbors(queries, votes < 0)
    is_same = np.array_equal(found.position, expected.position)
    if not (is_same and np.array_equal(found.similarity.view(np.int32), expected.similarity.view(np.int32))):
        raise NoCard(f"a first search on {card.device} differs from the processor's ({metric})")
