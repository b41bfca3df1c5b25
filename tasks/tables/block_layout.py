"""data/ingest/blocks: which columns of the embeddings are of which block, with the encoder of each that has one.

`layout.json` names the blocks; `<block>.parquet` is the block's encoder, as `saved_encoder` writes it. Embeddings of a
single kind have no blocks: their encoder is in encoder.parquet.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.core.tfidf import TfidfEncoder
from tasks.errors import DataError
from tasks.tables.files import open_atomic_folder, read_json, write_json
from tasks.tables.paths import BLOCKS
from tasks.tables.saved_encoder import EncoderName, write_encoder

LAYOUT = "layout.json"


class BlockLayout(BaseModel):
    """A block: its columns of the embeddings, from `start` to before `stop`, and its part in the cosine of two items."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    start: int = Field(ge=0)
    stop: int = Field(gt=0)
    share: float = Field(gt=0, le=1)
    model: str
    """What encoded it; empty where its embeddings come from a file."""
    column: str
    """What was encoded; empty likewise."""
    is_of_images: bool = False
    """Whether that holds images, not texts."""

    @property
    def width(self) -> int:
        """The number of dimensions."""
        return self.stop - self.start

    def describe(self) -> str:
        """The block in a few words.

        >>> BlockLayout(name="words", start=384, stop=512, share=0.25, model="tfidf", column="text").describe()
        "'words' (128 dimensions of tfidf, weight 0.25)"
        """
        origin = self.model or "a file"
        return f"'{self.name}' ({self.width:,} dimensions of {origin}, weight {self.share:.2f})"


class _Layout(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: tuple[BlockLayout, ...]


def write_layout(root: Path, blocks: Sequence[BlockLayout], encoders: dict[str, TfidfEncoder | None]) -> None:
    """Write the `blocks` below `root`, in the order of their columns, and by block what encoded it."""
    layout = _Layout(blocks=tuple(blocks))
    with open_atomic_folder(root / BLOCKS) as part:
        write_json(part / LAYOUT, layout.model_dump(mode="json", exclude_defaults=True))
        for block in blocks:
            if block.model:
                name = EncoderName(model=block.model, column=block.column, is_of_images=block.is_of_images)
                write_encoder(part / f"{block.name}.parquet", encoders[block.name], name)


def read_layout(root: Path) -> tuple[BlockLayout, ...]:
    """Return the blocks of the embeddings below `root`, in the order of their columns; empty if they are of one kind.

    Raises
    ------
    DataError
        The file is missing or damaged.
    """
    path = root / BLOCKS / LAYOUT
    try:
        return _Layout.model_validate(read_json(path)).blocks
    except ValidationError as error:
        found = error.errors()[0]
        field = ".".join(map(str, found["loc"])) or "file"
        raise DataError(f"{path}: '{field}': {found['msg']}. Run 'dvc repro ingest'.") from None


def name_encoder(root: Path, block: BlockLayout) -> Path:
    """Return the file that holds the encoder of `block`, which has one."""
    return root / BLOCKS / f"{block.name}.parquet"
