"""The model that train leaves behind, as data: what `label_new` needs to label rows that come later, without a refit.

One Parquet table of named arrays and texts. Nothing in it is code, nothing is executed when it is read, and its bytes
follow from its numbers alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.classifiers.end_model import EndParameters, GoldParameters
from tasks.core.classifiers.gold_experts import VoteCode
from tasks.core.classifiers.softmax import SoftmaxRegression
from tasks.core.classifiers.spectral import SpectralMap
from tasks.core.description_scores import DescriptionScores
from tasks.core.descriptions import DescribedLF, Voter
from tasks.core.label_models.nearvote import SOURCES, NearvoteParameters
from tasks.core.types import Float64
from tasks.errors import DataError
from tasks.params import Metric
from tasks.tables import schemas
from tasks.tables.parquet import read_table, write_table

Method = Literal["nearvote", "end_model"]


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """All that was fitted, for k classes, m LFs and d dimensions.

    shipped: whose labels are shipped. center, scale: of the points (`tasks.tables.scaled_embeddings`). head: the vote head where nothing
    is held out. reliability: (m, k) float64, NaN where an LF never votes a class. gold_vectors, gold_classes: the points
    (g, d) float32 and classes (g,) int64 of the gold rows that Nearvote looks for near an item; none where gold taught
    nothing. certified_from: the least probability of its label with which an item is certified, None where none is.
    described: the LF that votes by descriptions, None where no class is described.
    """

    classes: tuple[str, ...]
    lfs: tuple[str, ...]
    metric: Metric
    shipped: Method
    center: npt.NDArray[np.float32]
    scale: float
    spectral_map: SpectralMap
    head: SoftmaxRegression
    reliability: Float64
    bandwidth: float
    nearvote: NearvoteParameters
    end: EndParameters
    gold_vectors: npt.NDArray[np.float32]
    gold_classes: npt.NDArray[np.int64]
    certified_from: float | None = None
    described: DescribedLF | None = None


_TEXTS = ("classes", "lfs", "metric", "shipped")

_SHAPES: Mapping[str, tuple[str | int, ...]] = {
    "points/center": ("d",),
    "points/scale": (),
    "features/mean": ("d",),
    "features/projection": ("d", "r"),
    "head/coef": ("r", "k"),
    "head/intercept": ("k",),
    "reliability": ("m", "k"),
    "bandwidth": (),
    "evidence/class_balance": ("k",),
    "evidence/local": ("k",),
    "evidence/both": ("k",),
    "evidence/means": (3,),
    "student/coef": ("r", "k"),
    "student/intercept": ("k",),
    "student/confidence": (),
}
"""Every array by name, with its shape; k, m and d are those of `SavedModel`, r is the number of features."""

_GOLD_SHAPES: Mapping[str, tuple[str | int, ...]] = {
    "evidence/weights": (len(SOURCES),),
    "evidence/offsets": ("k",),
    "alone/coef": ("r", "k"),
    "alone/intercept": ("k",),
    "fused/coef": ("f", "k"),
    "fused/intercept": ("k",),
    "student/norm": (),
    "votes/voted": ("m", "k"),
    "votes/scale": (),
    "pool/weights": (4,),
    "gold/vectors": ("g", "d"),
    "gold/classes": ("g",),
    "gold/has_class": ("k",),
}
"""Those that are there where gold taught the model; f: r + k + the columns of votes, g: gold rows."""

_CERTIFIED_FROM = "certified_from"
"""A number that is there where labels are certified."""

_NEIGHBORHOOD_SHAPES: Mapping[str, tuple[str | int, ...]] = {
    "pool/without_gold": (2,),
    "neighborhood/say": (),
    "neighborhood/cut": (),
}
"""Those that models of earlier versions lack: in them the student alone spoke without gold, and nearest items had no say."""

_DESCRIBED_SHAPES: Mapping[str, tuple[str | int, ...]] = {
    "description/lf": (),
    "description/vectors": ("v", "d"),
    "description/classes": ("v",),
    "description/offsets": ("v",),
    "description/cuts": ("k",),
    "description/fills": (),
}
"""Those that are there where classes are described, by v vectors."""

_MAY_LACK = {"reliability", "evidence/means", "description/cuts"}
"""Arrays in which NaN says that there is no such thing."""


def write_model(path: Path, model: SavedModel) -> None:
    """Write `model` to `path`.

    Raises
    ------
    DataError
        It is not finite or its parts do not fit together; nothing is written.
    """
    arrays = _flatten(model)
    texts = {"classes": model.classes, "lfs": model.lfs, "metric": (model.metric,), "shipped": (model.shipped,)}
    _check(path, arrays, len(model.classes), len(model.lfs))
    columns = {name: column.dtype for name, column in schemas.MODEL.columns.items()}
    schema = {name: getattr(dtype, "type", dtype) for name, dtype in columns.items()}
    none = np.empty(0)
    table = {
        "name": [*_TEXTS, *arrays],
        "shape": [*([] for _ in _TEXTS), *(list(array.shape) for array in arrays.values())],
        # Not as lists of Python's numbers: those of gold vectors would be the most that `train` holds.
        "numbers": [pl.Series(array.ravel()) for array in (*(none for _ in _TEXTS), *arrays.values())],
        "texts": [*([str(text) for text in texts[name]] for name in _TEXTS), *([] for _ in arrays)],
    }
    write_table(path, pl.DataFrame(table, schema=schema), schemas.MODEL)


def read_model(path: Path) -> SavedModel:
    """Return the checked model at `path`.

    Raises
    ------
    DataError
        The file is missing or damaged, or its parts do not fit together.
    """
    arrays: dict[str, Float64] = {}
    texts: dict[str, tuple[str, ...]] = {}
    for name, shape, numbers, words in read_table(path, schemas.MODEL).rows():
        if name in _TEXTS:
            texts[name] = tuple(words)
            continue
        if any(size is None or size < 0 for size in shape) or int(np.prod(shape, dtype=object)) != len(numbers):
            raise _wrong(path, f"'{name}' has {len(numbers):,} numbers for the shape {tuple(shape)}")
        arrays[name] = np.array(numbers, dtype=np.float64).reshape(shape)
    if missing := sorted(set(_TEXTS) - texts.keys()):
        raise _wrong(path, f"'{missing[0]}' is missing")
    if "pool/weights" in arrays:
        # Models of earlier versions take a class without gold for impossible.
        arrays.setdefault("gold/has_class", np.ones(len(texts["classes"])))
    described = arrays.get("description/classes", np.empty(0)).astype(np.int64)
    if np.isin(described, np.arange(arrays.get("description/means", np.empty(0)).size)).all():
        # And have an offset for each class with descriptions, where later ones have one for each description.
        arrays |= {"description/offsets": arrays.pop("description/means")[described]} if described.size else {}
    metric, shipped = (texts[name][0] if len(texts[name]) == 1 else "" for name in ("metric", "shipped"))
    if metric not in tuple(Metric) or shipped not in get_args(Method):
        raise _wrong(path, f"metric {metric[:20]!r} and shipped {shipped[:20]!r} are unknown")
    _check(path, arrays, len(texts["classes"]), len(texts["lfs"]))
    return _build(arrays, texts, Metric(metric), "nearvote" if shipped == "nearvote" else "end_model")


def _flatten(model: SavedModel) -> dict[str, Float64]:
    values: dict[str, npt.ArrayLike] = {
        "points/center": model.center,
        "points/scale": model.scale,
        "features/mean": model.spectral_map.mean,
        "features/projection": model.spectral_map.projection,
        "head/coef": model.head.coef,
        "head/intercept": model.head.intercept,
        "reliability": model.reliability,
        "bandwidth": model.bandwidth,
        "evidence/class_balance": model.nearvote.class_balance,
        "evidence/local": model.nearvote.local,
        "evidence/both": model.nearvote.both,
        "evidence/means": model.nearvote.means,
        "student/coef": model.end.student.coef,
        "student/intercept": model.end.student.intercept,
        "student/confidence": model.end.confidence,
        "pool/without_gold": model.end.without_gold,
        "neighborhood/say": model.end.neighborhood,
        "neighborhood/cut": model.end.cut,
    }
    learned, weights, offsets = model.end.gold, model.nearvote.weights, model.nearvote.offsets
    if learned is not None and weights is not None and offsets is not None:
        values |= {
            "evidence/weights": weights,
            "evidence/offsets": offsets,
            "alone/coef": learned.alone.coef,
            "alone/intercept": learned.alone.intercept,
            "fused/coef": learned.fused.coef,
            "fused/intercept": learned.fused.intercept,
            "student/norm": learned.student_norm,
            "votes/voted": learned.vote_code.heights,
            "votes/scale": learned.vote_code.scale,
            "pool/weights": learned.pool_weights,
            "gold/vectors": model.gold_vectors,
            "gold/classes": model.gold_classes,
            "gold/has_class": learned.has_gold,
        }
    if model.certified_from is not None:
        values[_CERTIFIED_FROM] = model.certified_from
    if model.described is not None:
        voter = model.described.voter
        values |= {
            "description/lf": model.described.lf,
            "description/vectors": voter.scores.vectors,
            "description/classes": voter.scores.classes,
            "description/offsets": voter.scores.offsets,
            "description/cuts": np.where(np.isinf(voter.cuts), np.nan, voter.cuts),
            "description/fills": voter.is_filling,
        }
    return {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}


def _build(
    arrays: Mapping[str, Float64], texts: Mapping[str, tuple[str, ...]], metric: Metric, shipped: Method
) -> SavedModel:
    def regression(name: str) -> SoftmaxRegression:
        return SoftmaxRegression(coef=arrays[f"{name}/coef"], intercept=arrays[f"{name}/intercept"])

    gold = None
    if "pool/weights" in arrays:
        gold = GoldParameters(
            alone=regression("alone"),
            fused=regression("fused"),
            student_norm=float(arrays["student/norm"]),
            vote_code=VoteCode(heights=arrays["votes/voted"], scale=float(arrays["votes/scale"])),
            pool_weights=arrays["pool/weights"],
            has_gold=arrays["gold/has_class"] > 0,
        )
    center = arrays["points/center"].astype(np.float32)
    return SavedModel(
        classes=texts["classes"],
        lfs=texts["lfs"],
        metric=metric,
        shipped=shipped,
        center=center,
        scale=float(arrays["points/scale"]),
        spectral_map=SpectralMap(mean=arrays["features/mean"], projection=arrays["features/projection"]),
        head=regression("head"),
        reliability=arrays["reliability"],
        bandwidth=float(arrays["bandwidth"]),
        nearvote=NearvoteParameters(
            class_balance=arrays["evidence/class_balance"],
            local=arrays["evidence/local"],
            both=arrays["evidence/both"],
            means=arrays["evidence/means"],
            weights=arrays.get("evidence/weights"),
            offsets=arrays.get("evidence/offsets"),
        ),
        end=EndParameters(
            student=regression("student"),
            confidence=float(arrays["student/confidence"]),
            without_gold=arrays.get("pool/without_gold", np.array([0.0, 1.0])),
            gold=gold,
            neighborhood=float(arrays.get("neighborhood/say", 0.0)),
            cut=float(arrays.get("neighborhood/cut", 1.0)),
        ),
        gold_vectors=arrays.get("gold/vectors", np.empty((0, len(center)))).astype(np.float32),
        gold_classes=arrays.get("gold/classes", np.empty(0)).astype(np.int64),
        certified_from=float(arrays[_CERTIFIED_FROM]) if _CERTIFIED_FROM in arrays else None,
        described=_build_described(arrays) if "description/lf" in arrays else None,
    )


def _build_described(arrays: Mapping[str, Float64]) -> DescribedLF:
    cuts = arrays["description/cuts"]
    scores = DescriptionScores(
        vectors=arrays["description/vectors"].astype(np.float32),
        offsets=arrays["description/offsets"],
        classes=arrays["description/classes"].astype(np.int64),
    )
    voter = Voter(
        scores=scores,
        cuts=np.where(np.isnan(cuts), np.inf, cuts),
        is_filling=bool(arrays["description/fills"]),
    )
    return DescribedLF(lf=int(arrays["description/lf"]), voter=voter)


def _check(path: Path, arrays: Mapping[str, Float64], k: int, m: int) -> None:
    """Check names, shapes and numbers of all arrays."""
    expected = {**_SHAPES, **(_GOLD_SHAPES if "pool/weights" in arrays else {})}
    if _CERTIFIED_FROM in arrays:
        expected[_CERTIFIED_FROM] = ()
    expected |= _NEIGHBORHOOD_SHAPES if "neighborhood/say" in arrays else {}
    expected |= _DESCRIBED_SHAPES if "description/lf" in arrays else {}
    if odd := sorted(arrays.keys() ^ expected.keys()):
        raise _wrong(path, f"'{odd[0]}' is {'missing' if odd[0] in expected else 'unknown'}")
    sizes = {"k": k, "m": m, "d": arrays["points/center"].size, "r": (arrays["student/coef"].shape or (0,))[0]}
    if "pool/weights" in arrays:
        columns = int(np.count_nonzero(arrays["votes/voted"]))
        sizes |= {"f": sizes["r"] + k + columns, "g": arrays["gold/classes"].size}
    if "description/lf" in arrays:
        described = arrays.get("description/classes", np.empty(0))
        sizes |= {"v": described.size}
        if not np.isin(described, np.arange(k)).all() or not np.isin(arrays["description/lf"], np.arange(m)).all():
            raise _wrong(path, "a description is of an unknown class or labeling function")
    for name, shape in expected.items():
        wanted = tuple(sizes[size] if isinstance(size, str) else size for size in shape)
        if arrays[name].shape != wanted:
            raise _wrong(path, f"'{name}' has shape {arrays[name].shape}; expected {wanted}")
        numbers = arrays[name]
        if name in _MAY_LACK:
            numbers = numbers[~np.isnan(numbers)]
        if name == "head/intercept":
            numbers = numbers[numbers > -np.inf]
        if not np.isfinite(numbers).all():
            raise _wrong(path, f"'{name}' has numbers that are not finite")
    balance, classes = arrays["evidence/class_balance"], arrays.get("gold/classes", np.empty(0))
    if k < 2 or (balance < 0).any() or abs(balance.sum() - 1) > 1e-6:
        raise _wrong(path, "the class balance is none")
    if not (arrays["bandwidth"] > 0 and arrays["points/scale"] > 0 and arrays.get("student/norm", 1) > 0):
        raise _wrong(path, "a scale is not positive")
    if not np.isin(classes, np.arange(k)).all():
        raise _wrong(path, "gold is of an unknown class")


def _wrong(path: Path, problem: str) -> DataError:
    return DataError(f"{path}: no model: {problem}. Run 'dvc checkout {path}' or 'dvc repro -f train'.")
