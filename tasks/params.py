"""The keys of params.yaml as typed, frozen models: unknown keys are errors, and every value is checked."""

import difflib
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.core.class_names import find_twins

MOST_CLASSES = 127
"""Most classes, so that a vote fits int8."""


class Split(StrEnum):
    """Which part of the data an item belongs to."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


class Section(BaseModel):
    """A frozen section of params.yaml; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _require_below_lfs(value: str, suffixes: set[str], ends: str) -> str:
    path = Path(value)
    if path.is_absolute() or ".." in path.parts or path.parts[:1] != ("lfs",):
        raise ValueError("must be a file below lfs/ (the folder the apply stage depends on)")
    if path.suffix not in suffixes:
        raise ValueError(f"must end in {ends}")
    return value


def _require_inside(value: str) -> str:
    if Path(value).is_absolute() or ".." in Path(value).parts:
        raise ValueError("must be a folder inside the project")
    return value


TFIDF = "tfidf"
"""The encoder that needs no model: it is fitted on the texts of train."""

PIXELS = "pixels"
"""The encoder of images that needs no model: an image made small."""


class Reads(StrEnum):
    """What a column to encode holds."""

    TEXT = "text"
    IMAGES = "images"


class EncoderParams(Section):
    """How embeddings are computed from a column; `encoder: tfidf` is short for `encoder: {model: tfidf}`."""

    model: str
    """`tfidf` (n-grams of words and letters, then an SVD, fitted on the texts of train); a `.parquet` below `source` that is
    a copy of `data/ingest/encoder.parquet`, so that the fit stays as it is; a `.onnx` file inside the project with its
    `tokenizer.json` beside it (needs the extra `onnx`: a processor is enough); or a sentence-transformers model (needs the
    extra `text`, which brings torch): a name, or a folder inside the project. Of images: `pixels` (each made small; needs the
    extra `onnx` for Pillow), or a `.onnx` file with its `preprocessor_config.json` beside it, and `reads: images`."""
    dimensions: int = Field(default=128, ge=1, le=1000)
    """The dimension of `tfidf`'s vectors; lower if there are fewer texts."""
    column: str = "text"
    """The items' column to encode."""
    reads: Reads = Reads.TEXT
    """What `column` holds: `text`, or `images`, which are paths (from the folder of the items' file or that of the project,
    of files below `ingest.source`) or the bytes of image files. `pixels` reads images without being told."""
    batch_size: int = Field(default=64, ge=1)
    """The number of texts per call of the model; no result depends on it."""

    @model_validator(mode="before")
    @classmethod
    def _reads_what_it_can(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("model") == PIXELS:
            return {"reads": Reads.IMAGES.value} | value
        return value

    @model_validator(mode="after")
    def _can_read(self) -> "EncoderParams":
        if self.model == PIXELS and self.reads is Reads.TEXT:
            raise ValueError("`pixels` reads images; remove `reads: text`, or name a model of texts")
        if self.reads is Reads.IMAGES and self.model != PIXELS and not self.model.endswith(".onnx"):
            raise ValueError(f"{self.model!r} reads no images; give `pixels` or a .onnx file of an image model")
        return self


class BlockParams(Section):
    """Embeddings that lie beside others; what `ingest.embeddings`, `embedding_ids` and `encoder` say of a single kind."""

    embeddings: str | None = None
    """File, folder or glob below `source`, as `ingest.embeddings` has it."""
    embedding_ids: str | None = None
    """For .npy, as `ingest.embedding_ids` has it."""
    encoder: EncoderParams | None = None
    """Computes the block from a column, as `ingest.encoder` does; `encoder: tfidf` is short for its `model`."""
    weight: float = Field(default=1.0, gt=0, le=1000, allow_inf_nan=False)
    """The part of this block in the cosine of two items, in proportion to the weights of all; `epoxy weigh` proposes them."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: object) -> object:
        return _expand_encoder(value)

    @model_validator(mode="after")
    def _one_origin(self) -> "BlockParams":
        if (self.embeddings is None) == (self.encoder is None):
            raise ValueError("give either `embeddings` (a file) or `encoder` (a model), not both and not neither")
        return self


def _expand_encoder(value: object) -> object:
    """`encoder: tfidf` in its long form."""
    if isinstance(value, dict) and value.get("encoder") == TFIDF:
        return value | {"encoder": {"model": TFIDF}}
    return value


class Duplicates(StrEnum):
    """How to treat an item id that occurs more than once."""

    ERROR = "error"
    LAST = "last"


class ColumnType(StrEnum):
    """The type of a column's values."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"


class QuarantineParams(Section):
    """How many rows of the raw data may fail; they are left out, and listed in `data/ingest/quarantine.parquet`."""

    rows: int | None = Field(default=None, ge=0)
    """At most so many rows; null: any number."""
    share: float | None = Field(default=None, ge=0, le=1)
    """At most this share, of them and the items that are left; null: any share."""

    @model_validator(mode="after")
    def _has_a_limit(self) -> "QuarantineParams":
        if self.rows is None and self.share is None:
            raise ValueError("give `rows`, `share` or both: how many rows may fail")
        return self


class IngestParams(Section):
    """Where raw items and embeddings are, and the names of their columns."""

    source: str
    """A folder inside the project with everything that ingest reads; the stage depends on the whole folder."""
    items: str = "items.parquet"
    """File, folder or glob below `source`: Parquet, CSV or JSONL. Several files are read in the order of their paths."""
    embeddings: str | None = "embeddings.npy"
    """File, folder or glob below `source`: .npy (with `embedding_ids`), .npz, or Parquet; null: use `encoder`."""
    embedding_ids: str | None = None
    """For .npy: a table below `source` whose item id column gives the order of the rows, or a .npy or .txt of ids."""
    duplicates: Duplicates = Duplicates.ERROR
    """An id that occurs more than once is an error (`error`), or its last row (last file, last line) is kept (`last`)."""
    item_id: str = "item_id"
    """The column with the ids, in items and embeddings."""
    split: str = "split"
    """The column with `train`, `valid` or `test`; without it, every item is in `train`."""
    gold: str = "gold"
    """The column with gold as a class name or position, empty where unknown; it may be missing."""
    types: dict[str, ColumnType] = Field(default_factory=dict)
    """Types of columns in CSV and JSONL, by column: `text`, `integer`, `number` or `boolean`. Other columns of CSV are text;
    `split` and `gold` need no type."""
    encoder: EncoderParams | None = None
    """Computes embeddings from a text column, instead of `embeddings`."""
    centers: str | None = None
    """For an approximate index: a copy of `data/index/centers.parquet` below `source`, whose cells stay as they are when items come
    and go; null: they are found anew whenever an embedding changes."""
    quarantine: QuarantineParams | None = None
    """How many rows may fail, such as `{rows: 100}` or `{share: 0.01}`, before ingest does; null: none."""
    blocks: dict[str, BlockParams] = Field(default_factory=dict)
    """Several kinds of embeddings side by side, by a name for each, instead of `embeddings` and `encoder`. Each vector is
    scaled to length one, so that the cosine of two items is the mean of the blocks' cosines by their weights."""

    @field_validator("source")
    @classmethod
    def _inside_project(cls, value: str) -> str:
        return _require_inside(value)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: object) -> object:
        if isinstance(value, dict) and (value.get("encoder") is not None or value.get("blocks")):
            return {"embeddings": None} | dict(_expand_encoder(value))  # type: ignore[call-overload]
        return value

    @field_validator("blocks")
    @classmethod
    def _differ(cls, value: dict[str, BlockParams]) -> dict[str, BlockParams]:
        known: dict[BlockParams, str] = {}
        for name, block in value.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
                raise ValueError(f"the name {name!r} must be letters, digits, '_' and '-', at most 64")
            if (other := known.setdefault(block.model_copy(update={"weight": 1.0}), name)) != name:
                raise ValueError(
                    f"{other!r} and {name!r} are the same; remove one, and give the other the weight of both"
                )
        return value

    @model_validator(mode="after")
    def _types_of_free_columns(self) -> "IngestParams":
        if fixed := sorted({self.split, self.gold} & self.types.keys()):
            raise ValueError(f"types: {fixed[0]!r} has a type of its own; remove it from there")
        if self.types.get(self.item_id, ColumnType.TEXT) not in (ColumnType.TEXT, ColumnType.INTEGER):
            raise ValueError(f"types: {self.item_id!r} is text or integer")
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> "IngestParams":
        if [self.embeddings is None, self.encoder is None, not self.blocks].count(False) != 1:
            raise ValueError(
                "give either `embeddings` (a file), `encoder` (a model) or `blocks` (several of these), not more and not none"
            )
        if self.blocks and self.embedding_ids is not None:
            raise ValueError("`embedding_ids` belongs to the block whose rows it names; write it there")
        return self


class Resolution(StrEnum):
    """How several decisions about an item become its gold."""

    MAJORITY = "majority"
    DAWID_SKENE = "dawid_skene"


class GoldColumn(StrEnum):
    """How to treat gold of train items in the items' gold column."""

    MEASURE = "measure"
    DEAL = "deal"


class GoldOnTrain(StrEnum):
    """How to treat a decision about an item of the split `train`."""

    DEAL = "deal"
    REFUSE = "refuse"


class GoldParams(Section):
    """Gold beside the items' gold column: append-only tables of people's decisions."""

    source: str = "gold"
    """A folder inside the project with tables (Parquet, CSV, JSONL) of item_id, label and, if there are, annotator, time
    and split; the stage depends on the whole folder."""
    resolve: Resolution = Resolution.MAJORITY
    """How several decisions about an item (the gold column counts as one of them) become its gold: `majority`, or
    `dawid_skene`, which learns whom to believe. Tied items have no gold until somebody breaks the tie."""
    train: GoldOnTrain = GoldOnTrain.DEAL
    """Gold of an item of the split `train` goes to `valid` or `test` by a hash of the id (`deal`), or is an error
    (`refuse`)."""
    column: GoldColumn = GoldColumn.MEASURE
    """Gold of train items in the gold column is used to judge train (`measure`), or goes to `valid` or `test` like that in
    tables (`deal`)."""
    valid_share: float = Field(default=0.5, ge=0, le=1)
    """The share of items that the hash assigns to `valid`; the others go to `test`. Changing it moves gold between them."""
    salt: int = Field(default=0, ge=0)
    """A number that is hashed with the id; 0: the id alone. `epoxy init` chooses one by which the gold that there is falls into
    `valid` and `test` evenly, class by class. Changing it moves gold between them."""

    @field_validator("source")
    @classmethod
    def _inside_project(cls, value: str) -> str:
        return _require_inside(value)


class Metric(StrEnum):
    """How the similarity of two embeddings is measured."""

    COSINE = "cosine"
    L2 = "l2"


class IndexKind(StrEnum):
    """How neighbors are searched."""

    FLAT = "flat"
    IVF = "ivf"
    AUTO = "auto"


class IndexParams(Section):
    """The nearest-neighbor index: exact (flat), approximate (ivf: cells found by k-means), or the one that is predicted to cost
    less in a year of nights (auto): exact up to about two million items."""

    kind: IndexKind = IndexKind.AUTO
    metric: Metric = Metric.COSINE


class DescribeParams(Section):
    """A labeling function that votes for the class whose description is nearest to the item's embedding."""

    name: str = "description"
    """What the LF is called."""
    classes: dict[str, tuple[str, ...]] | None = None
    """By class a sentence that says what it means, or a list of such or of typical phrases, of which the nearest counts. A
    class such as "other" may be left out: it gets no votes from this LF."""
    encoder: str | None = None
    """The model that made the items' embeddings, as `ingest.encoder.model` has it; null: what `ingest.encoder` says."""
    column: str | None = None
    """The column that was encoded, by which the encoder is checked; null: that of `ingest.encoder`, else `text`."""
    vectors: str | None = None
    """Instead of `classes`, for embeddings from elsewhere: a Parquet table below lfs/ of `class` and `vector`, a row for
    each description."""

    @field_validator("name")
    @classmethod
    def _names_a_column(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.\-]*", value) or value == "item_id":
            raise ValueError("must be letters, digits, '_', '.' and '-', a letter or '_' first, and not 'item_id'")
        return value

    @field_validator("classes", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        if isinstance(value, dict):
            lists = {name: [text] if isinstance(text, str) else text for name, text in value.items()}
            for name, texts in lists.items():
                if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
                    got = "nothing" if texts is None else repr(texts)
                    raise ValueError(f"{name!r} means {got}; expected a sentence, in quotes, or a list of such")
            return {name: tuple(texts) for name, texts in lists.items()}
        if value is not None:
            raise ValueError('expected a class with its sentence in each line, as in `sports: "Games and teams."`')
        return value

    @field_validator("classes")
    @classmethod
    def _differ(cls, value: dict[str, tuple[str, ...]] | None) -> dict[str, tuple[str, ...]] | None:
        of: dict[str, str] = {}
        for name, texts in (value or {}).items():
            if not texts or not all(any(c.isprintable() and not c.isspace() for c in text) for text in texts):
                raise ValueError(f"{name!r} has no description or a blank one; write what it means, or leave it out")
            for text in {" ".join(text.split()).casefold() for text in texts}:
                if of.setdefault(text, name) != name:
                    raise ValueError(f"{of[text]!r} and {name!r} have the same description; say how they differ")
        return value

    @field_validator("vectors")
    @classmethod
    def _below_lfs(cls, value: str | None) -> str | None:
        return None if value is None else _require_below_lfs(value, {".parquet"}, ".parquet")

    @model_validator(mode="after")
    def _one_origin(self) -> "DescribeParams":
        if (self.classes is None) == (self.vectors is None) or self.classes == {}:
            raise ValueError("give `classes` (what each means) or `vectors` (a table), and not both")
        return self


class ApplyParams(Section):
    """The source of votes."""

    source: str
    """A Python module below lfs/ with labeling functions, or a Parquet or CSV table of votes below lfs/."""
    describe: DescribeParams | None = None
    """What classes mean, as one more labeling function; the module of `source` may then be without any."""
    mute: tuple[str, ...] = ()
    """Names of labeling functions that stay in the table of votes and count for nothing after it."""

    @field_validator("source")
    @classmethod
    def _below_lfs(cls, value: str) -> str:
        ends = ".py (labeling functions) or .parquet or .csv (a table of votes)"
        return _require_below_lfs(value, {".py", ".parquet", ".csv"}, ends)


class SearchParams(Section):
    """Which items may have their votes extended to others, and how exact an approximate search is."""

    reference: tuple[Split, ...] = Field(default=(Split.TRAIN,), min_length=1)
    """Splits whose votes may be extended to their neighbors."""
    target_recall: float = Field(default=0.99, gt=0, lt=1)
    """For an approximate index: the smallest share of true nearest neighbors that must be found, measured on samples."""


class TuneMethod(StrEnum):
    """How thresholds are chosen."""

    PER_LF = "per_lf"
    GLOBAL = "global"
    AGREEMENT = "agreement"
    FIXED = "fixed"


class TuneMetric(StrEnum):
    """The metric that thresholds maximize, on valid gold or, without it, on held-out votes."""

    ACCURACY = "accuracy"
    MACRO_F1 = "macro_f1"


Threshold = Annotated[float, Field(allow_inf_nan=False)]


class TuneParams(Section):
    """The threshold of each LF: a vote is extended only to items strictly nearer than it.

    Cosine: a similarity in [-1, 1]. L2: a plain Euclidean distance. null: do not extend.
    """

    method: TuneMethod = TuneMethod.PER_LF
    """`agreement`: per LF as well, but without gold, by how well the other LFs predict the extended votes."""
    metric: TuneMetric = TuneMetric.ACCURACY
    candidates: int = Field(default=20, ge=1, le=1000)
    """The number of quantiles of the observed similarities to try, in addition to "do not extend"."""
    default: Threshold | None = None
    """The threshold of LFs that `thresholds` does not name, with `fixed` or without valid gold. null: do not extend (with
    `fixed`), or choose by agreement (with the other methods)."""
    thresholds: dict[str, Threshold | None] = Field(default_factory=dict)
    """Thresholds by LF, which override the method."""


class Scope(StrEnum):
    """Which votes extension may add."""

    CELLS = "cells"
    ROWS = "rows"


class ExtendParams(Section):
    """Which votes extension may add: wherever an LF abstains (cells), or only on items without any vote (rows)."""

    scope: Scope = Scope.CELLS


class LabelModelKind(StrEnum):
    """How votes become labels."""

    AUTO = "auto"
    MAJORITY_VOTE = "majority_vote"
    WEIGHTED_MAJORITY_VOTE = "weighted_majority_vote"
    FLYINGSQUID = "flyingsquid"
    DAWID_SKENE = "dawid_skene"


class FlyingSquidParams(Section):
    """Settings of FlyingSquid."""

    mode: Literal["corrected", "reference"] = "corrected"
    """`reference` gives the results of the flyingsquid package, its errors included."""
    estimate: Literal["mean", "median"] = "mean"
    """How triplets are averaged."""
    dependencies: tuple[tuple[str, str], ...] = ()
    """Pairs of LFs that depend on each other given the class; two classes only."""
    sequence_length: int = Field(default=1, ge=1, le=10)
    """The length of sequences of items, in the order of item ids within a split; 1: no sequences. Two classes only."""

    @property
    def is_graph(self) -> bool:
        """Whether LFs or items depend on each other, which needs the flyingsquid package."""
        return self.sequence_length > 1 or bool(self.dependencies)


def _check_balance(value: object) -> object:
    if isinstance(value, tuple) and abs(sum(value) - 1) > 1e-6:
        raise ValueError(f"sums to {sum(value):.6g}; a class balance sums to 1")
    return value


class FitParams(Section):
    """How votes become labels."""

    label_model: LabelModelKind = LabelModelKind.FLYINGSQUID
    """`auto`: the best on held-out valid gold, with majority vote as the floor."""
    flyingsquid: FlyingSquidParams = Field(default_factory=FlyingSquidParams)
    class_balance: Literal["valid", "uniform"] | tuple[Annotated[float, Field(gt=0, lt=1)], ...] = "valid"
    """P(class): counted on valid gold, uniform, or given in the order of `classes`."""

    @field_validator("class_balance")
    @classmethod
    def _sums_to_one(cls, value: object) -> object:
        return _check_balance(value)

    @model_validator(mode="after")
    def _graph_is_used(self) -> "FitParams":
        if self.flyingsquid.is_graph and self.label_model is not LabelModelKind.FLYINGSQUID:
            raise ValueError("flyingsquid.dependencies and sequence_length need `label_model: flyingsquid`")
        return self


class CertifyParams(Section):
    """Which labels are certified, on gold of valid."""

    error_rate: float = Field(default=0.05, gt=0, lt=1)
    """What share of the certified labels may be wrong."""
    confidence: float = Field(default=0.9, gt=0, lt=1)
    """How sure that is."""


class TrainParams(Section):
    """The shipped labels: nearvote, then a classifier on the embeddings."""

    class_balance: Literal["estimated", "uniform"] | tuple[Annotated[float, Field(gt=0, lt=1)], ...] = "estimated"
    """P(class): estimated from the votes and valid gold, uniform, or given in the order of `classes`."""
    gold: Literal["valid", "none"] = "valid"
    """Whether the model may learn from gold of valid items; either way it judges which labels are certified."""
    certify: CertifyParams = CertifyParams()
    seed: int = Field(default=0, ge=0)
    """Seed of the folds in which gold and votes are held out."""

    @field_validator("class_balance")
    @classmethod
    def _sums_to_one(cls, value: object) -> object:
        return _check_balance(value)


class EvaluateParams(Section):
    """How labels are evaluated."""

    bootstrap: int = Field(default=1000, ge=0)
    """Bootstrap resamples for each interval; 0: no intervals."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """The confidence level of each interval."""
    seed: int = Field(default=0, ge=0)
    """Seed of the resamples."""
    examples: int = Field(default=4, ge=0, le=100)
    """Items of each kind (wrong, in conflict, uncovered, wrong by extension) that the report shows with their text; 0: none."""


class Params(Section):
    """All of params.yaml. A stage receives `classes` and its own section only."""

    classes: tuple[str, ...] = Field(min_length=2, max_length=MOST_CLASSES)
    """Class names; a vote is a position in this list. At most 127, so that a vote fits int8."""
    ingest: IngestParams
    gold: GoldParams = GoldParams()
    index: IndexParams
    apply: ApplyParams
    search: SearchParams
    tune: TuneParams
    extend: ExtendParams
    fit: FitParams
    train: TrainParams
    evaluate: EvaluateParams

    @field_validator("classes", mode="before")
    @classmethod
    def _unique_names(cls, value: object) -> object:
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(name, dict) for name in value)):
            raise ValueError(
                "is a list of names; what they mean goes to apply.describe.classes, so that an edited sentence runs nothing "
                "again but what depends on votes"
            )
        if isinstance(value, list):
            if not all(isinstance(name, str) for name in value):
                raise ValueError("class names must be text; quote numbers and yes/no")
            if len(set(value)) < len(value):
                raise ValueError("class names must differ from each other")
            if twins := find_twins(value):
                raise ValueError(
                    f"class names {twins[0]!a} and {twins[1]!a} differ in blanks or in the form of Unicode alone; write one"
                )
            if not all(name.strip() for name in value):
                raise ValueError("class names must not be blank: gold that is blank is unknown")
            if len(value) > MOST_CLASSES:
                raise ValueError(
                    f"has {len(value):,} names; a vote is a byte, so at most {MOST_CLASSES} classes. Merge some, or make a project for "
                    "each group of them"
                )
        return tuple(value) if isinstance(value, list) else value  # types are strict

    @model_validator(mode="after")
    def _thresholds_of_the_metric(self) -> "Params":
        for name, threshold in [("default", self.tune.default), *self.tune.thresholds.items()]:
            if threshold is None:
                continue
            if self.index.metric is Metric.COSINE and not -1 <= threshold <= 1:
                raise ValueError(f"tune: threshold {threshold:g} of {name!r} is no cosine; that is between -1 and 1")
            if self.index.metric is Metric.L2 and threshold < 0:
                raise ValueError(f"tune: threshold {threshold:g} of {name!r} is no distance; that is at least 0")
        return self

    @model_validator(mode="after")
    def _describes_classes(self) -> "Params":
        described = self.apply.describe.classes if self.apply.describe else None
        for name in described or {}:
            if name not in self.classes:
                near = difflib.get_close_matches(name, self.classes, n=1, cutoff=0)
                raise ValueError(f"apply.describe.classes: {name!r} is none of `classes`; did you mean {near[0]!r}?")
        return self

    @model_validator(mode="after")
    def _one_weight_per_class(self) -> "Params":
        for name, balance in (("fit", self.fit.class_balance), ("train", self.train.class_balance)):
            if isinstance(balance, tuple) and len(balance) != len(self.classes):
                raise ValueError(f"{name}.class_balance has {len(balance)} values for {len(self.classes)} classes")
        if self.fit.flyingsquid.is_graph and len(self.classes) != 2:
            raise ValueError("fit.flyingsquid: dependencies and sequence_length are for two classes")
        return self
