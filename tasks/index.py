"""The index stage: embeddings to a FAISS index and its description. It sees no vote, so an LF edit never reruns it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks import schemas
from tasks.artifacts import EMBEDDINGS, INDEX, INDEX_DESCRIPTION, count_rows, open_atomic, read_batches, write_json
from tasks.core.faiss_index import build_index, write_index
from tasks.errors import DataError
from tasks.index_description import ContentHash, IndexDescription, hash_file, read_width
from tasks.params import IndexParams
from tasks.progress import Progress
from tasks.schemas import ITEM_ID


def run(root: Path, classes: tuple[str, ...], params: IndexParams) -> None:
    """Index the embeddings below `root` and describe the index.

    Raises
    ------
    DataError
        The embeddings are missing, damaged or (for cosine) have a zero vector.
    """
    path = root / EMBEDDINGS
    d = read_width(path)
    content = ContentHash()
    rows = 0

    def vectors() -> Iterator[npt.NDArray[np.float32]]:
        nonlocal rows
        with Progress("indexing", total=count_rows(path)) as progress:
            for batch in read_batches(path, schemas.embeddings(d)):
                embeddings = batch["embedding"].to_numpy().reshape(batch.height, d)
                content.update(batch[ITEM_ID], embeddings)
                rows += batch.height
                yield embeddings
                progress.advance(batch.height)

    try:
        index = build_index(vectors(), d=d, metric=params.metric.value)
    except ValueError as error:
        raise DataError(f"{path}: {error}. Remove such items, then run 'dvc repro ingest'.") from None
    with open_atomic(root / INDEX) as part:
        write_index(index, part)
        checksum = hash_file(part)
    description = IndexDescription(
        kind=params.kind, metric=params.metric, n=rows, d=d, content=content.hexdigest(), sha256=checksum
    )
    write_json(root / INDEX_DESCRIPTION, description.model_dump(mode="json"))
