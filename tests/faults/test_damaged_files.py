"""Whatever bytes lie where a file is read: a clear error or a valid table; no crash, no hang, no other error, no guess.

EPOXY_FUZZ is the number of examples per reader (default 8); at night take thousands.
"""

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_project import CLASSES, make_project, write_raw

import tasks.__main__ as command
from flows.releases.policy import read_policy
from flows.runner.dvc_graph import read_stages
from flows.runner.dvc_status import find_changes
from flows.runner.leftovers import remove_leftovers
from tasks import apply, gold, ingest
from tasks.__main__ import STAGES
from tasks.core.search.faiss_index import read_index
from tasks.errors import DataError, EpoxyError, ParamsError
from tasks.params import ApplyParams, GoldParams, IngestParams
from tasks.params_file import read_params
from tasks.tables import schemas
from tasks.tables.index_file import read_description
from tasks.tables.parquet import read_batches, read_schema, read_table, read_votes
from tasks.tables.paths import (
    CELLS,
    EMBEDDINGS,
    INDEX,
    INDEX_DESCRIPTION,
    ITEMS,
    LABEL_MODEL_PREDICTIONS,
    NEIGHBORS,
    PROVENANCE,
    SHIPPED_LABELS,
    THRESHOLDS,
    VALID_GOLD,
    VOTES,
)
from tasks.tables.thresholds import read_thresholds
from tasks.tables.validation import require_same_items

ROOT = Path(__file__).resolve().parents[2]

fuzz = settings(
    max_examples=int(os.environ.get("EPOXY_FUZZ", "8")),
    deadline=None,
    derandomize="EPOXY_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# Damage: edits of a whole file, each at a place between its begin (0) and its end (1).
_EDIT = st.tuples(
    st.sampled_from(["flip", "flip", "cut", "remove", "insert", "overwrite"]),
    st.one_of(st.floats(0, 1), st.floats(0, 0.02), st.floats(0.9, 1)),
    st.one_of(st.binary(min_size=1, max_size=16), st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])),
)
EDITS = st.lists(_EDIT, min_size=1, max_size=3)


def damage(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """`content` after `edits`."""
    for kind, where, what in edits:
        at = min(int(where * len(content)), max(len(content) - 1, 0))
        match kind:
            case "flip" if content:
                content = content[:at] + bytes([content[at] ^ (1 << what[0] % 8)]) + content[at + 1 :]
            case "cut":
                content = content[:at]
            case "remove":
                content = content[:at] + content[at + len(what) :]
            case "insert":
                content = content[:at] + what + content[at:]
            case "overwrite":
                content = content[:at] + what + content[at + len(what) :]
    return content


@contextlib.contextmanager
def damaged(path: Path, content: bytes) -> Iterator[None]:
    """Within the block, `path` holds `content`; afterwards what it held before."""
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


# What users bring.


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with raw data in every form, ingested once."""
    root = tmp_path_factory.mktemp("brought")
    raw = root / "raw"
    write_raw(raw, 20, d=3)
    items, vectors = pl.read_parquet(raw / "items.parquet"), np.load(raw / "embeddings.npy")
    ids = items["item_id"].to_numpy().astype(str)
    items.write_csv(raw / "items.csv")
    items.write_ndjson(raw / "items.jsonl")
    np.savez(raw / "plain.npz", ids=ids, embeddings=vectors)
    np.savez_compressed(raw / "packed.npz", ids=ids, embeddings=vectors)
    lists = pl.Series("embedding", vectors.tolist(), dtype=pl.List(pl.Float32))
    pl.DataFrame([items["item_id"], lists]).write_parquet(raw / "embeddings.parquet")
    (raw / "ids.txt").write_text("\n".join(ids) + "\n")
    np.save(raw / "ids.npy", ids)
    ingest.run(root, CLASSES, IngestParams(source="raw", embedding_ids="ids.txt"))
    (root / "lfs").mkdir()
    chosen = np.random.default_rng(0)
    columns = {f"lf{lf}": pl.Series(chosen.integers(-1, 2, len(ids)), dtype=pl.Int8) for lf in range(3)}
    votes = pl.DataFrame({"item_id": ids, **columns})
    votes.write_parquet(root / "lfs" / "votes.parquet")
    votes.write_csv(root / "lfs" / "votes.csv")
    return root


BESIDE = {"embedding_ids": "ids.txt"}
RAW: dict[str, dict[str, Any]] = {
    "items.parquet": BESIDE,
    "items.csv": {**BESIDE, "items": "items.csv"},
    "items.jsonl": {**BESIDE, "items": "items.jsonl"},
    "embeddings.npy": BESIDE,
    "plain.npz": {"embeddings": "plain.npz"},
    "packed.npz": {"embeddings": "packed.npz"},
    "embeddings.parquet": {"embeddings": "embeddings.parquet"},
    "ids.txt": BESIDE,
    "ids.npy": {"embedding_ids": "ids.npy"},
}
CONTENTS = st.one_of(EDITS, EDITS, EDITS, st.binary(max_size=200))


def ingest_damaged(root: Path, name: str, how: Any) -> None:
    """Ingest with a damaged file; whatever is written without complaint is valid."""
    path = root / "raw" / name
    with damaged(path, how if isinstance(how, bytes) else damage(path.read_bytes(), how)):
        try:
            ingest.run(root, CLASSES, IngestParams(source="raw", **RAW[name]))
        except DataError:
            return
    items = read_table(root / ITEMS, schemas.ITEMS)
    width = read_schema(root / EMBEDDINGS)["embedding"].size  # type: ignore[attr-defined]
    embeddings = read_table(root / EMBEDDINGS, schemas.embeddings(width))
    require_same_items(ITEMS, items, EMBEDDINGS, embeddings)


@pytest.mark.parametrize("name", RAW)
def test_raw_data(brought: Path, name: str) -> None:
    @fuzz
    @given(how=CONTENTS)
    def check(how: Any) -> None:
        ingest_damaged(brought, name, how)

    check()


@pytest.mark.parametrize("name", ["votes.parquet", "votes.csv"])
def test_votes_from_elsewhere(brought: Path, name: str) -> None:
    ingest.run(brought, CLASSES, IngestParams(source="raw", embedding_ids="ids.txt"))
    gold.run(brought, CLASSES, GoldParams())
    path = brought / "lfs" / name

    @fuzz
    @given(how=CONTENTS)
    def check(how: Any) -> None:
        with damaged(path, how if isinstance(how, bytes) else damage(path.read_bytes(), how)):
            try:
                apply.run(brought, CLASSES, ApplyParams(source=f"lfs/{name}"))
            except DataError as error:
                assert name in str(error)
                return
        read_votes(brought / VOTES, 2)

    check()


HEADERS = [
    ("<f4", (10**12, 3)),
    ("<f4", (20, 2**40)),
    ("<f8", (2**63, 2)),
    ("<U100000000", (20,)),
    ("<f4", (-1, 3)),
    ("|O", (20, 3)),
]


@pytest.mark.parametrize("where", ["embeddings.npy", "ids.npy", "plain.npz", "packed.npz"])
@pytest.mark.parametrize(("kind", "shape"), HEADERS)
def test_a_size_that_is_declared_but_not_there_is_never_taken(
    brought: Path, where: str, kind: str, shape: tuple[int, ...]
) -> None:
    path = brought / "raw" / where
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    array = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n" + bytes(240)
    with damaged(path, array):
        if path.suffix == ".npz":
            packing = zipfile.ZIP_DEFLATED if where == "packed.npz" else zipfile.ZIP_STORED
            with zipfile.ZipFile(path, "w", packing) as archive:
                archive.writestr("embeddings.npy", array)
                archive.writestr("ids.npy", array)
        with pytest.raises(DataError, match=where):
            ingest.run(brought, CLASSES, IngestParams(source="raw", **RAW[where]))


def test_a_bomb_is_refused_before_it_is_unpacked(brought: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = brought / "raw" / "packed.npz"
    with damaged(path, b""):
        np.savez_compressed(path, ids=np.arange(2_000_000), embeddings=np.zeros((2_000_000, 2), np.float32))
        assert path.stat().st_size < 5_000_000
        monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": 2_000, "SC_PAGE_SIZE": 4_096}[name])
        with pytest.raises(DataError, match=r"packed\.npz: 32,000,\d\d\d bytes unpacked.*8,192,000 bytes of memory"):
            ingest.run(brought, CLASSES, IngestParams(source="raw", **RAW["packed.npz"]))


# What one stage leaves for another.


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small project on which every stage has run, as working directory."""
    root = make_project(tmp_path_factory.mktemp("finished") / "project", n=60)
    with contextlib.chdir(root):
        for stage in STAGES:
            assert command.main([stage]) == 0
        yield root


TABLES: dict[Path, Callable[[], schemas.TableSchema]] = {
    ITEMS: lambda: schemas.ITEMS,
    VALID_GOLD: lambda: schemas.gold(2),
    EMBEDDINGS / "part-00000-of-00001.parquet": lambda: schemas.embeddings(6),
    CELLS: lambda: schemas.CELLS,
    VOTES: lambda: schemas.votes(2, read_schema(VOTES)),
    NEIGHBORS: lambda: schemas.neighbors(read_schema(NEIGHBORS), pl.String),
    PROVENANCE: lambda: schemas.provenance(2, pl.String),
    SHIPPED_LABELS: lambda: schemas.end_labels(CLASSES),
    LABEL_MODEL_PREDICTIONS: lambda: schemas.predictions(2, read_schema(LABEL_MODEL_PREDICTIONS)),
}


@pytest.mark.parametrize("path", TABLES, ids=str)
def test_damage_of_a_table_is_noticed(finished: Path, path: Path) -> None:
    """Also of data alone, which would still be valid: each page has a checksum. Names are not in any page."""
    whole, original = path.read_bytes(), read_table(path, TABLES[path]())

    @fuzz
    @given(edits=EDITS)
    def check(edits: Any) -> None:
        with damaged(path, damage(whole, edits)):
            for read in (
                lambda: read_table(path, TABLES[path]()),
                lambda: pl.concat(read_batches(path, TABLES[path]())),
            ):
                try:
                    found = read()
                except DataError as error:
                    assert str(path) in str(error)
                else:
                    assert found.equals(original) or found.schema != original.schema

    check()


def test_every_flipped_bit_of_the_votes_is_noticed(finished: Path) -> None:
    """A hundred places across the file; those of no consequence leave the table as it was."""
    whole, original = VOTES.read_bytes(), read_votes(VOTES, 2)
    noticed = 0
    for place in range(0, 8 * len(whole), len(whole) * 8 // 100):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        with damaged(VOTES, bytes(flipped)):
            try:
                found = read_votes(VOTES, 2)
                assert found.equals(original) or found.columns != original.columns
            except DataError:
                noticed += 1
    assert noticed > 50


PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
READS = [(stage, dep) for stage in STAGES for dep in PIPELINE[stage]["deps"] if dep.startswith("data/")]
VALUES = st.sampled_from([None, True, -1, 10**30, 1e308, "x", "1.5", [], {}, [1], {"a": 1}])


def replace_value(document: Any, place: float, value: Any) -> Any:
    """`document` with one of its values, at any depth, replaced."""
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key in part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
            places.append((part, key))
            walk(part[key])

    walk(document)
    part, key = places[min(int(place * len(places)), len(places) - 1)]
    part[key] = value
    return document


@pytest.mark.parametrize(("stage", "dep"), READS)
def test_a_stage_refuses_what_it_cannot_read(
    finished: Path, stage: str, dep: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Through the stage itself, whose exit code and words are all that a user sees."""
    path = min(file for file in Path(dep).rglob("*") if file.is_file()) if Path(dep).is_dir() else Path(dep)
    whole = path.read_bytes()
    how: Any = st.one_of(EDITS, st.tuples(st.floats(0, 1), VALUES)) if path.suffix == ".json" else EDITS

    @settings(fuzz, max_examples=max(2, fuzz.max_examples // 4))
    @given(how=how)
    def check(how: Any) -> None:
        if isinstance(how, tuple):
            content = json.dumps(replace_value(json.loads(whole), *how)).encode()
        else:
            content = damage(whole, how)
        with damaged(path, content):
            code, said = command.main([stage]), capfd.readouterr().err
        assert code == 0 or (code == DataError.exit_code and said.rpartition("error: ")[2].strip())

    check()


def test_faiss_never_sees_a_file_that_is_not_the_one_described(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader crashes on some bytes: only what has the recorded hash may reach it."""
    seen = []
    monkeypatch.setattr("tasks.tables.index_file.read_index", lambda path: seen.append(path) or read_index(path))
    whole = INDEX.read_bytes()
    stages = ("search", "train")
    for content in (whole[:-1], whole[:45] + bytes(len(whole) - 45), whole + b"\0", b"IxFI", b""):
        with damaged(INDEX, content):
            assert [command.main([stage]) for stage in stages] == 2 * [DataError.exit_code]
    assert seen == []
    assert [command.main([stage]) for stage in stages] == [0, 0] and len(seen) == 2


@pytest.mark.parametrize("stage", ["apply", "search"])
def test_a_damaged_memo_is_as_good_as_none(finished: Path, stage: str) -> None:
    outputs = [Path(name) for name in PIPELINE[stage]["outs"]]
    expected = [path.read_bytes() for path in outputs]
    entries = [path for path in Path("data/.cache").rglob("*") if path.is_file()]
    assert entries

    @settings(fuzz, max_examples=max(3, fuzz.max_examples // 4))
    @given(edits=EDITS)
    def check(edits: Any) -> None:
        for path in entries:
            path.write_bytes(damage(path.read_bytes(), edits) if path.exists() else b"")
        assert command.main([stage]) == 0
        assert [path.read_bytes() for path in outputs] == expected

    check()


# Documents that people write, or tools for them.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
YAML_BITS = ["!!python/object/apply:os.getcwd []", "&a [*a]", "{", "- ", "? ", "\0", "a: &b [1]\nc: *b", "[" * 3000]


def documents(valid: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes, `valid` damaged, or any value as JSON (which is YAML, too)."""
    return st.one_of(
        st.binary(max_size=100),
        EDITS.map(lambda edits: damage(valid, edits)),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.tuples(st.floats(0, 1), JSON).map(
            lambda change: json.dumps(replace_value(yaml.safe_load(valid), *change)).encode()
        ),
        st.sampled_from(YAML_BITS).map(str.encode),
    )


@pytest.mark.parametrize(
    ("name", "read"), [("params.yaml", read_params), ("release.yaml", read_policy)], ids=["params", "policy"]
)
def test_settings(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    @settings(fuzz, max_examples=4 * fuzz.max_examples)
    @given(content=documents((ROOT / name).read_bytes()))
    def check(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with contextlib.suppress(ParamsError):
            read(tmp_path)

    check()


@pytest.mark.parametrize("path", [THRESHOLDS, INDEX_DESCRIPTION], ids=str)
def test_descriptions(finished: Path, path: Path) -> None:
    lfs = [name for name in read_schema(VOTES) if name != "item_id"]
    read: dict[Path, Callable[[], object]] = {
        THRESHOLDS: lambda: read_thresholds(path, lfs),
        INDEX_DESCRIPTION: lambda: read_description(Path()),
    }

    @settings(fuzz, max_examples=4 * fuzz.max_examples)
    @given(content=documents(path.read_bytes()))
    def check(content: bytes) -> None:
        with damaged(path, content):
            try:
                read[path]()
            except DataError as error:
                assert path.name in str(error)

    check()


@pytest.mark.parametrize("name", ["dvc.yaml", "dvc.lock", ".dvc/tmp/rwlock"])
def test_dvcs_own_files(finished: Path, name: str) -> None:
    """DVC reads them; what it makes of them has to come out as an error of ours."""
    path = finished / name
    before = path.read_bytes() if path.exists() else None
    valid = before or b'{"read": {}, "write": {"data/x": {"pid": 1, "cmd": "dvc repro"}}}'
    if name == "dvc.lock":
        valid = (
            b"schema: '2.0'\nstages:\n  extend:\n    cmd: python -m tasks extend\n    outs:\n    - {path: a, md5: b}\n"
        )
    path.parent.mkdir(exist_ok=True)

    @settings(fuzz, max_examples=max(4, fuzz.max_examples // 4))
    @given(content=documents(valid))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        with contextlib.suppress(EpoxyError):
            stages = read_stages(finished)
            remove_leftovers(finished, stages)
            if name == "dvc.lock":
                find_changes(finished)

    try:
        check()
    finally:
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)
