"""Vectors of the classes' descriptions: from the encoder that made the items' embeddings, or from a table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.description_scores import to_units
from tasks.core.types import ITEM_ID, Bool, Float32, Int64
from tasks.errors import DataError, EpoxyError, ParamsError
from tasks.lf.vote_table import read_table_below_lfs
from tasks.params import PIXELS, TFIDF, DescribeParams, EncoderParams, Split
from tasks.readers.embeddings import choose_loader
from tasks.readers.encoder import encode_texts
from tasks.readers.unknown_words import find_unread
from tasks.tables import schemas
from tasks.tables.block_layout import BlockLayout, name_encoder, read_layout
from tasks.tables.embeddings_file import read_vectors, read_width
from tasks.tables.parquet import read_schema, read_table
from tasks.tables.paths import ENCODER, ITEMS
from tasks.tables.saved_encoder import read_encoder, read_encoder_name

CHECKED = 8
"""Items that are encoded again, to see whether the encoder is that of their embeddings."""

SAME = 0.98
"""Cosine of an item's embedding with what the encoder gives now: int8 weights for float32 leave .996 at least, another model
of the same width nothing."""


_WORDS_ALONE = "encoder: tfidf compares words and parts of words alone, not what they mean"

_SHORT = 100
"""Characters of a text that every encoder reads whole, so that none needs to be loaded to know it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassVectors:
    """Vectors (v, d) at length one, of the classes `classes` (v,), with their texts, where they are from, and what to know."""

    vectors: Float32
    classes: Int64
    texts: tuple[str | None, ...]
    origin: str
    notes: tuple[str, ...] = ()


def find_class_vectors(root: Path, classes: Sequence[str], params: DescribeParams) -> ClassVectors:
    """Return the vectors that `params` ask for, in the order of `classes`.

    Raises
    ------
    ParamsError
        No encoder is known, or it leads out of the project.
    DataError
        The table of vectors is none, the encoder is another than that of the items or knows no word of any description, or two
        classes have the same vector.
    EpoxyError
        The encoder cannot be loaded.
    """
    if params.vectors is not None:
        found = _read_vectors(root, params.vectors, classes)
    else:
        assert params.classes is not None, "DescribeParams wants classes or vectors"
        # Sorted: the order of params changes nothing.
        texts = sorted({(classes.index(name), text) for name, given in params.classes.items() for text in given})
        found = _leave_out_unknown(_encode(root, texts, params))
    _require_distinct(found, classes)
    return found


def _encode(root: Path, texts: Sequence[tuple[int, str]], params: DescribeParams) -> ClassVectors:
    blocks = read_layout(root)
    if blocks:
        return _encode_in_blocks(root, texts, params, blocks)
    said = read_encoder_name(root / ENCODER)
    sentences = [text for _, text in texts]
    labels = np.array([label for label, _ in texts], np.int64)
    if params.encoder in (None, TFIDF) and said is None:
        encoder = read_encoder(root / ENCODER)
        vectors, is_known = encoder(sentences), encoder.knows(sentences)
        vectors[~is_known] = 0
        notes = [_WORDS_ALONE, *_tell_strange(sentences, is_known)]
        return ClassVectors(
            vectors=to_units(vectors), classes=labels, texts=tuple(sentences), origin=TFIDF, notes=tuple(notes)
        )
    if params.encoder == PIXELS or (params.encoder is None and said is not None and said.is_of_images):
        raise ParamsError(
            f"params.yaml: 'apply.describe': '{params.encoder or (said.model if said else '')}' reads images, and no sentences. Name "
            "a model of texts with vectors of the same kind (the text half of CLIP, say) in apply.describe.encoder, or give "
            "vectors in apply.describe.vectors."
        )
    model = params.encoder or (said.model if said else "")
    if model in ("", TFIDF):
        raise ParamsError(
            "params.yaml: 'apply.describe': the items' embeddings come from a file, and which encoder made them is not known. "
            "Name it in apply.describe.encoder (a .onnx file, say), or give vectors in apply.describe.vectors."
        )
    choice = EncoderParams(model=model, batch_size=64)
    vectors = _encode_texts(
        root, pl.Series(sentences), choice, "ingest" if params.encoder is None else "apply.describe"
    )
    width = read_width(root)
    if vectors.shape[1] != width:
        raise DataError(
            f"apply.describe: '{model}' gives vectors of length {vectors.shape[1]}, but the items' embeddings have {width}. "
            "Name the encoder that made them."
        )
    if said is not None and said.is_of_images:
        checked = [f"embeddings are of images ('{said.model}'), so nothing checks that '{model}' is of the same kind"]
    else:
        checked = _check_encoder(root, choice, params.column or (said.column if said else "text"))
    notes = [*checked, *_find_cut(root, choice, sentences), *_find_unread(root, model, sentences)]
    return ClassVectors(
        vectors=to_units(vectors), classes=labels, texts=tuple(sentences), origin=model, notes=tuple(notes)
    )


def _encode_texts(root: Path, texts: pl.Series, choice: EncoderParams, section: str) -> Float32:
    """The vectors of `texts` by the encoder that `section` of params names; errors say `ingest`, whose encoder it mostly is."""
    try:
        encoded = encode_texts(root, texts, choice, choose_loader(choice.model))
    except EpoxyError as error:
        raise type(error)(str(error).replace("ingest.encoder", f"{section}.encoder")) from None
    return np.asarray(encoded.matrix[encoded.rows])


def _encode_in_blocks(
    root: Path, texts: Sequence[tuple[int, str]], params: DescribeParams, blocks: Sequence[BlockLayout]
) -> ClassVectors:
    """The vectors of `texts`, zero in blocks that encode no texts: these add as much to each description's cosine, nothing.

    Raises
    ------
    ParamsError
        `params` name an encoder, where each block has its own, or none encodes texts.
    """
    known = [block for block in blocks if block.model and not block.is_of_images]
    if params.encoder is not None:
        raise ParamsError(
            "params.yaml: 'apply.describe.encoder' is for embeddings of one kind; each of ingest.blocks has its own encoder. "
            "Remove it."
        )
    if not known:
        raise ParamsError(
            "params.yaml: 'apply.describe': none of ingest.blocks is encoded from texts. Give vectors in apply.describe.vectors."
        )
    sentences = [text for _, text in texts]
    vectors = np.zeros((len(texts), blocks[-1].stop), np.float32)
    notes = []
    is_known = np.zeros(len(texts), bool)
    for block in known:
        path = name_encoder(root, block)
        said = read_encoder_name(path)
        if said is None:
            encoder = read_encoder(path)
            part, here = encoder(sentences), encoder.knows(sentences)
            is_known |= here
            notes += _tell_strange(sentences, here)
        else:
            choice = EncoderParams(model=said.model, batch_size=64)
            part = _encode_texts(root, pl.Series(sentences), choice, "ingest")
            is_known[:] = True
            notes += [*_find_cut(root, choice, sentences), *_find_unread(root, said.model, sentences)]
        if part.shape[1] != block.width:
            raise DataError(
                f"apply.describe: '{block.model}' gives vectors of length {part.shape[1]}, but block '{block.name}' has "
                f"{block.width}. Run 'dvc repro ingest'."
            )
        vectors[:, block.start : block.stop] = np.sqrt(block.share) * to_units(part)
    vectors[~is_known] = 0
    if all(read_encoder_name(name_encoder(root, block)) is None for block in known):
        notes.insert(0, _WORDS_ALONE)
    return ClassVectors(
        vectors=to_units(vectors),
        classes=np.array([label for label, _ in texts], np.int64),
        texts=tuple(sentences),
        origin=" and ".join(block.model for block in known),
        notes=tuple(notes),
    )


def put_class(found: ClassVectors, other: ClassVectors) -> ClassVectors:
    """Return `found` with the descriptions of `other` in place of its own of the same classes."""
    kept = np.flatnonzero(~np.isin(found.classes, other.classes))
    return ClassVectors(
        vectors=np.concatenate([found.vectors[kept], other.vectors]),
        classes=np.concatenate([found.classes[kept], other.classes]),
        texts=(*(found.texts[row] for row in kept), *other.texts),
        origin=f"{found.origin} and {other.origin}",
        notes=(*found.notes, *other.notes),
    )


def _tell_strange(texts: Sequence[str], is_known: Bool) -> list[str]:
    """Notes on descriptions that share no word with the items."""
    return [
        f"nothing in {text[:40]!r} occurs in the items"
        for text, known in zip(texts, is_known, strict=True)
        if not known
    ]


def _leave_out_unknown(found: ClassVectors) -> ClassVectors:
    """`found` without descriptions of which its encoder knows nothing, whose vectors are zero.

    Raises
    ------
    DataError
        None is left.
    """
    known = np.flatnonzero(found.vectors.any(axis=1))
    if not len(known):
        raise DataError(
            f"apply.describe: '{found.origin}' knows nothing of any description ({'; '.join(found.notes)}). Use words that "
            "occur in the items, another encoder, or vectors of your own (apply.describe.vectors)."
        )
    return replace(
        found,
        vectors=found.vectors[known],
        classes=found.classes[known],
        texts=tuple(found.texts[row] for row in known),
    )


def _require_distinct(found: ClassVectors, classes: Sequence[str]) -> None:
    """Raise a DataError where two classes have the same vector: no item would be nearer to one of them."""
    if found.vectors.shape[1] == 1:
        return  # tfidf of a single item: all that it knows is alike, and nothing gets a vote
    first: dict[bytes, int] = {}
    for row, vector in enumerate(found.vectors):
        other = first.setdefault(vector.tobytes(), row)
        if found.classes[other] != found.classes[row]:
            names = " and ".join(
                f"'{classes[found.classes[number]]}'" + (f" ({text[:40]!r})" if (text := found.texts[number]) else "")
                for number in (other, row)
            )
            raise DataError(
                f"apply.describe: {names} have the same vector by '{found.origin}', so no item is nearer to one of them. Say "
                "how they differ, or leave one out."
            )


def _check_encoder(root: Path, choice: EncoderParams, column: str) -> list[str]:
    """A note where it cannot be told whether the encoder is that of the items.

    Raises
    ------
    DataError
        It is another.
    """
    if column not in (schema := read_schema(root / ITEMS)) or schema[column] != pl.String:
        return [f"items have no text '{column}', so nothing checks that '{choice.model}' made their embeddings"]
    items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID, "split", column])
    usable = items.with_row_index("row").filter((pl.col("split") == Split.TRAIN) & (pl.col(column) != "")).head(CHECKED)
    if usable.is_empty():
        return []
    again = to_units(_encode_texts(root, usable[column], choice, "apply.describe"))
    stored = to_units(read_vectors(root, items, usable["row"].to_numpy().astype(np.int64)))
    cosines = np.einsum("nd,nd->n", again, stored, dtype=np.float64)
    worst = int(cosines.argmin())
    if cosines[worst] < SAME:
        raise DataError(
            f"apply.describe: '{choice.model}' is not what made the embeddings of column '{column}': of {ITEM_ID} "
            f"{usable[ITEM_ID][worst]!r} it gives a vector whose cosine with the item's is {cosines[worst]:.2f}. Name the "
            "encoder that made them in apply.describe.encoder, and what was encoded in apply.describe.column."
        )
    return []


def _find_cut(root: Path, choice: EncoderParams, texts: Sequence[str]) -> list[str]:
    """A note on descriptions of which the encoder reads the beginning alone."""
    if all(len(text) < _SHORT for text in texts):
        return []
    encoder = choose_loader(choice.model)(root, choice)
    count, longest = getattr(encoder, "count_tokens", None), getattr(encoder, "longest", None)
    if count is None or longest is None:
        return []
    long = [text for text in texts if count(text) > longest]
    return [f"{text[:40]!r}... has {count(text):,} tokens, of which the encoder reads {longest:,}" for text in long]


def _find_unread(root: Path, model: str, texts: Sequence[str]) -> list[str]:
    """Notes on descriptions of which the encoder knows hardly a word."""
    unread = find_unread(root, model, texts)
    return [f"'{model}' knows at most half of the words of {text[:40]!r}, so its vector says little" for text in unread]


def _read_vectors(root: Path, source: str, classes: Sequence[str]) -> ClassVectors:
    table = read_table_below_lfs(root, source, "apply.describe.vectors").table
    kind = table.schema.get("vector")
    if table.schema.get("class") != pl.String or not isinstance(kind, pl.List | pl.Array) or not kind.inner.is_float():
        raise DataError(
            f"{source}: has columns {', '.join(f'{name} ({kind})' for name, kind in table.schema.items())}; expected 'class' "
            "(text) and 'vector' (a list of floats), a row for each description."
        )
    if table.is_empty() or table["class"].has_nulls() or table["vector"].has_nulls():
        raise DataError(f"{source}: {_find_lack(table)}. Give a class and a vector in each row.")
    if unknown := sorted({*table["class"]} - {*classes}):
        raise DataError(f"{source}: class {unknown[0]!r} is none of {', '.join(classes)}.")
    width = read_width(root)
    lengths = sorted({kind.size} if isinstance(kind, pl.Array) else {*table["vector"].list.len()})
    if lengths != [width]:
        raise DataError(f"{source}: vectors are of length {lengths}; the items' embeddings have {width}.")
    with np.errstate(over="ignore"):
        vectors = np.array(table["vector"].to_list(), np.float64).astype(np.float32).reshape(-1, width)
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise DataError(f"{source}: a vector is zero or not finite. Leave its class out, or compute it again.")
    labels = np.array([classes.index(name) for name in table["class"]], np.int64)
    # Each once, and sorted: the order of rows changes nothing.
    rows = np.unique(np.column_stack([labels, vectors]), axis=0)
    return ClassVectors(
        vectors=to_units(rows[:, 1:].astype(np.float32)),
        classes=rows[:, 0].astype(np.int64),
        texts=(None,) * len(rows),
        origin=source,
    )


def _find_lack(table: pl.DataFrame) -> str:
    """What a table of vectors lacks, in words."""
    if table.is_empty():
        return "has no row"
    row = table.select(pl.any_horizontal(pl.col("class", "vector").is_null()).arg_max()).item()
    return f"row {row + 1} has no {'class' if table['class'][row] is None else 'vector'}"
