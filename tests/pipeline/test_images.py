"""ingest.encoder of images: paths or bytes, whatever a folder of files from elsewhere may hold."""

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from onnx_models import WORDS, write_image_model, write_model
from PIL import Image
from small_project import write_params

from flows.workbench.pictures import draw_file
from tasks.__main__ import run_stage
from tasks.errors import DataError, EpoxyError, LabelingFunctionError, ParamsError
from tasks.ingest import run
from tasks.lf.class_vectors import find_class_vectors
from tasks.params import DescribeParams, EncoderParams, IngestParams
from tasks.readers import image_decoder, images, pixel_encoder
from tasks.tables import schemas
from tasks.tables.parquet import read_table
from tasks.tables.paths import EMBEDDINGS, ITEMS, QUARANTINE, VOTES

COLORS = {"a": (250, 10, 10), "b": (10, 250, 10), "c": (10, 10, 250)}
ENCODER = {"model": "pixels", "column": "photo"}


def draw(color: tuple[int, int, int], size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """A picture that is white on the left and `color` on the right."""
    picture = Image.new("RGB", size, "white")
    picture.paste(color, (size[0] // 2, 0, *size))
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def write(root: Path, photos: list[object], folder: str = "data/raw") -> Path:
    """The project at `root` with items a, b, c and so on, whose column photo is `photos`, and files of a, b and c."""
    raw = root / folder
    (raw / "photos").mkdir(parents=True, exist_ok=True)
    for name, color in COLORS.items():
        (raw / "photos" / f"{name}.png").write_bytes(draw(color))
    ids = [chr(ord("a") + row) for row in range(len(photos))]
    kind = pl.Binary if any(isinstance(photo, bytes) for photo in photos) else pl.String
    pl.DataFrame({"item_id": ids, "photo": pl.Series(photos, dtype=kind)}).write_parquet(raw / "items.parquet")
    return root


def ingest(root: Path, encoder: dict[str, object] | None = None, **others: object) -> npt.NDArray[np.float32]:
    """The embeddings of the items, in the order of their ids."""
    encoded = {} if "blocks" in others else {"encoder": encoder or ENCODER}
    params = IngestParams.model_validate({"source": "data/raw"} | encoded | others)
    run(root, ("ham", "spam"), params)
    found = pl.read_parquet(root / EMBEDDINGS)["embedding"]
    return found.to_numpy()


PATHS = [f"photos/{name}.png" for name in COLORS]


def test_paths_and_bytes_give_the_same_vectors(tmp_path: Path) -> None:
    by_path = ingest(write(tmp_path / "paths", PATHS))
    by_bytes = ingest(write(tmp_path / "bytes", [draw(color) for color in COLORS.values()]))
    assert by_path.shape == (3, pixel_encoder.WIDTH)
    assert by_path.tobytes() == by_bytes.tobytes()
    assert len(np.unique(by_path, axis=0)) == 3


def test_a_vector_is_the_small_image_less_its_mean(tmp_path: Path) -> None:
    (found,) = pixel_encoder.encode_images([draw((0, 0, 0), (32, 32))])
    half = np.zeros((16, 16, 3))
    half[:, :8] = 1  # white on the left, and half of all
    assert found.tolist() == [*(half.ravel() - 1 / 2), 0]
    (gray,) = pixel_encoder.encode_images([draw((255, 255, 255))])
    assert gray.tolist() == [*[0] * 768, 1 / 2]


def test_items_say_from_the_projects_folder_where_and_what_images_are(tmp_path: Path) -> None:
    root = write(tmp_path, ["photos/a.png", "data/raw/photos/b.png", str(tmp_path / "data/raw/photos/c.png")])
    ingest(root)
    items = pl.read_parquet(root / ITEMS)
    assert items["photo"].to_list() == [f"data/raw/photos/{name}.png" for name in COLORS]
    assert items["photo_sha256"].to_list() == [
        images.hashlib.sha256((root / path).read_bytes()).hexdigest() for path in items["photo"]
    ]


def test_an_edited_image_is_encoded_anew_and_nothing_else_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, PATHS)
    before, items = ingest(root), pl.read_parquet(root / ITEMS)
    seen: list[bytes] = []
    encode = pixel_encoder.encode_images
    monkeypatch.setattr(pixel_encoder, "encode_images", lambda contents: seen.extend(contents) or encode(contents))
    assert ingest(root).tobytes() == before.tobytes() and not seen
    new = draw((90, 90, 0))
    (root / "data/raw/photos/b.png").write_bytes(new)
    after = ingest(root)
    assert seen == [new]
    assert [bool((one != two).any()) for one, two in zip(before, after, strict=True)] == [False, True, False]
    assert after[1].tobytes() == encode([new])[0].tobytes()
    changed = items["photo_sha256"] != pl.read_parquet(root / ITEMS)["photo_sha256"]
    assert changed.to_list() == [False, True, False]  # so that LFs that look at the image vote again on it


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, PATHS)
    read = images.read_capped

    def read_and_replace(path: Path, most: int) -> bytes:
        content = read(path, most)
        path.write_bytes(draw((1, 2, 3)))
        return content

    monkeypatch.setattr(images, "read_capped", read_and_replace)
    with pytest.raises(DataError, match=r"photos/.\.png changed while it was read. Run again"):
        ingest(root)


def make_bomb() -> bytes:
    """A PNG of 33 kB that says it has 60,000 by 60,000 pixels."""
    whole = draw((0, 0, 0))
    head = struct.pack(">II", 60_000, 60_000) + whole[24:29]
    return whole[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + whole[33:] + b"\0" * 2**15


BAD = {
    "d": ("photos/none.png", "'photos/none.png' is no file, neither from data/raw nor from the project's folder"),
    "e": (None, "photo is empty"),
    "f": ("photos/torn.jpg", "data/raw/photos/torn.jpg ends early or is damaged"),
    "g": ("photos/bomb.png", "data/raw/photos/bomb.png unpacks to"),
    "h": ("photos/text.png", "data/raw/photos/text.png is none of PNG, JPEG, WEBP, GIF, BMP, TIFF"),
    "i": ("../../params.yaml", "'../../params.yaml' lies outside ingest.source"),
    "j": ("https://example.org/a.png", "'https://example.org/a.png' is no path of a file; download"),
    "k": ("photos/.hidden.png", "'photos/.hidden.png' has a hidden name, which DVC passes over"),
    "l": ("photos/link.png", "'photos/link.png' lies outside ingest.source"),
    "m": ("photos/huge.png", "'photos/huge.png' has more than"),
    "n": ("photos", "'photos' is no file"),
    "o": ("photos/empty.png", "data/raw/photos/empty.png is none of PNG"),
    "p": ("photos/page.eps", "data/raw/photos/page.eps is none of PNG"),
    "q": ("x" * 300, "x…"),
}


def write_bad(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(root, [*PATHS, *(path for path, _ in BAD.values())])
    monkeypatch.setattr(images, "MOST_BYTES", 100_000)
    photos = root / "data/raw/photos"
    (root / "params.yaml").write_text("classes: []")
    (root / "outside.png").write_bytes(draw((0, 0, 0)))
    (photos / "torn.jpg").write_bytes(draw((0, 0, 0), (200, 200), "JPEG")[:700])
    (photos / "bomb.png").write_bytes(make_bomb())
    (photos / "text.png").write_text("no image at all")
    (photos / ".hidden.png").write_bytes(draw((0, 0, 0)))
    (photos / "link.png").symlink_to(root / "outside.png")
    (photos / "huge.png").write_bytes(b"\x89PNG" + b"0" * 100_000)
    (photos / "empty.png").write_bytes(b"")
    (photos / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n")
    return root


def test_images_that_cannot_be_read_are_listed_in_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_bad(tmp_path, monkeypatch)
    assert len(ingest(root, quarantine={"rows": len(BAD)})) == len(COLORS)
    assert pl.read_parquet(root / ITEMS)["item_id"].to_list() == [*COLORS]
    listed = read_table(root / QUARANTINE, schemas.QUARANTINE)
    assert listed.select("item_id", "reason", "file", "row").rows() == [
        (item, "bad image", "items.parquet", row) for row, item in enumerate(BAD, len(COLORS) + 1)
    ]
    for (_, said), found in zip(BAD.values(), listed["found"], strict=True):
        assert said in found


def test_without_quarantine_an_error_names_file_row_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as refused:
        ingest(write_bad(tmp_path, monkeypatch))
    lines = str(refused.value).splitlines()
    assert lines[0] == "ingest.encoder.column: 'photo' of 14 items is no image that can be read:"
    assert lines[1].startswith("  items.parquet:4, 'd': 'photos/none.png' is no file")
    assert "ingest.quarantine" in lines[-1]


def test_bad_bytes_are_told_from_good_ones(tmp_path: Path) -> None:
    root = write(tmp_path, [draw((0, 0, 0)), b"no image", b"", draw((9, 9, 9))])
    assert len(ingest(root, quarantine={"rows": 2})) == 2
    found = read_table(root / QUARANTINE, schemas.QUARANTINE)["found"].to_list()
    assert found[0].startswith("the image is none of") and found[1] == "photo is empty"


def test_a_column_of_neither_paths_nor_bytes_is_an_error(tmp_path: Path) -> None:
    root = write(tmp_path, PATHS)
    with pytest.raises(DataError, match=r"'picture' holds nothing; expected paths of images, or bytes. .* are photo"):
        ingest(root, {"model": "pixels", "column": "picture"})


def save(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_every_kind_of_pixel_becomes_rgb(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = Image.fromarray(np.full((4, 4), 128 * 256, np.uint16))
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    sideways = Image.new("RGB", (4, 2), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = {
        "deep": (save(deep), (128, 128, 128)),
        "clear": (save(clear), (255, 255, 255)),
        "gray": (save(Image.new("L", (4, 4), 7)), (7, 7, 7)),
        "bits": (save(Image.new("1", (4, 4), 1)), (255, 255, 255)),
        "palette": (save(Image.new("RGB", (4, 4), (255, 0, 0)).convert("P"), "GIF"), (255, 0, 0)),
    }
    for name, (content, pixel) in shown.items():
        assert image_decoder.decode_image(content).getpixel((1, 1)) == pixel, name
    assert image_decoder.decode_image(save(sideways, "JPEG", exif=exif)).size == (2, 4)


MODEL = "data/raw/model/vision.onnx"
CONFIG = '{"size": {"height": 2, "width": 2}, "resample": 0, "image_mean": [0, 0, 0], "image_std": [1, 1, 0.5]}'
ONNX = {"model": MODEL, "column": "photo", "reads": "images"}


def write_onnx(root: Path, config: str = CONFIG) -> Path:
    write_image_model(root / MODEL)
    (root / MODEL).with_name("preprocessor_config.json").write_text(config)
    return write(root, PATHS)


def test_a_model_gets_what_its_configuration_says(tmp_path: Path) -> None:
    (found, *_) = ingest(write_onnx(tmp_path), ONNX)
    # The model takes means over the image: half is white, half (250, 10, 10); blue is doubled.
    assert found == pytest.approx([(1 + 250 / 255) / 2, (1 + 10 / 255) / 2, 1 + 10 / 255])


def test_an_image_is_cut_to_its_middle(tmp_path: Path) -> None:
    root = write_onnx(tmp_path, '{"size": {"shortest_edge": 2}, "crop_size": 2, "resample": 0, "do_normalize": false}')
    tall = Image.new("RGB", (2, 6), "black")
    tall.paste((255, 0, 0), (0, 2, 2, 4))
    (root / "data/raw/photos/a.png").write_bytes(save(tall))
    assert ingest(root, ONNX)[0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("[]", "holds no object"),
        ("{", "cannot be loaded"),
        ('{"size": {"longest_edge": 4}}', "size is {'longest_edge': 4}; expected a number, or height and width"),
        ('{"size": 4, "do_center_crop": false}', "gives neither a crop_size nor a size of height and width"),
        ('{"size": {"height": 100000, "width": 2}}', "asks for 100000 pixels"),
        ('{"size": 2, "crop_size": 2, "image_std": [0, 1, 1]}', "the latter above zero"),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_an_error(tmp_path: Path, config: str, said: str) -> None:
    with pytest.raises(EpoxyError, match=f"(?s)'{MODEL}' cannot be loaded: .*") as refused:
        ingest(write_onnx(tmp_path, config), ONNX)
    assert said in str(refused.value)


def test_a_model_without_its_configuration_is_an_error_that_says_what_to_write(tmp_path: Path) -> None:
    root = write_onnx(tmp_path)
    (root / MODEL).with_name("preprocessor_config.json").unlink()
    with pytest.raises(EpoxyError, match=r"needs data/raw/model/preprocessor_config.json, which is missing"):
        ingest(root, ONNX)


def test_images_lie_beside_texts_as_a_block(tmp_path: Path) -> None:
    root = write(tmp_path, PATHS)
    raw = root / "data/raw/items.parquet"
    pl.read_parquet(raw).with_columns(text=pl.Series(["red wine", "green tea", "blue sky"])).write_parquet(raw)
    found = ingest(root, blocks={"look": {"encoder": ENCODER}, "words": {"encoder": "tfidf"}})
    assert np.linalg.norm(found[:, : pixel_encoder.WIDTH], axis=1) == pytest.approx([0.5**0.5] * 3, abs=1e-6)
    assert pl.read_parquet(root / ITEMS)["photo"][0] == "data/raw/photos/a.png"


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(
        EpoxyError, match=r"'pixels' needs Pillow to read images. Install it: pip install 'epoxy-flow\[onnx\]'"
    ):
        ingest(write(tmp_path, PATHS))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "pixels", "reads": "text"}, "reads images"),
        ({"model": "tfidf", "reads": "images"}, "'tfidf' reads no images"),
        ({"model": "some/name", "reads": "images"}, "reads no images; give `pixels` or a .onnx file"),
    ],
)
def test_a_model_reads_what_it_can(given: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EncoderParams.model_validate(given)


def test_the_workbench_shows_what_ingest_read_and_nothing_else(tmp_path: Path) -> None:
    root = write(tmp_path / "project", PATHS)
    ingest(root)
    (row, other, _) = pl.read_parquet(root / ITEMS).to_dicts()
    address = draw_file(root, row, "photo")
    assert address is not None
    shown = image_decoder.decode_image(base64.b64decode(address.removeprefix("data:image/png;base64,")))
    assert shown.size == (40, 30) and shown.getpixel((30, 10)) == COLORS["a"]
    (tmp_path / "outside.png").write_bytes(content := draw((0, 0, 0)))
    secret = {"photo": "../outside.png", "photo_sha256": images.hashlib.sha256(content).hexdigest()}
    assert draw_file(root, secret, "photo") is None
    assert draw_file(root, row | {"photo_sha256": other["photo_sha256"]}, "photo") is None  # edited since
    assert draw_file(root, {"photo": row["photo"]}, "photo") is None


def test_a_description_cannot_be_compared_with_images_by_an_encoder_of_images(tmp_path: Path) -> None:
    root = write(tmp_path, PATHS)
    described = DescribeParams(classes={"ham": ("the phone",)})
    ingest(root)
    with pytest.raises(ParamsError, match=r"'pixels' reads images, and no sentences. Name a model of texts"):
        find_class_vectors(root, ("ham", "spam"), described)
    raw = root / "data/raw/items.parquet"
    pl.read_parquet(raw).with_columns(text=pl.Series(["red phone", "green tea", "blue sky"])).write_parquet(raw)
    ingest(root, ENCODER)
    write_model(root / "models", np.random.default_rng(0).normal(size=(len(WORDS), pixel_encoder.WIDTH)))
    half = described.model_copy(update={"encoder": "models/model.onnx"})
    found = find_class_vectors(root, ("ham", "spam"), half)  # a caption is not what was encoded
    assert found.notes == (
        "embeddings are of images ('pixels'), so nothing checks that 'models/model.onnx' is of the same kind",
    )
    ingest(root, blocks={"look": {"encoder": ENCODER}, "words": {"encoder": "tfidf"}})
    (vector,) = find_class_vectors(root, ("ham", "spam"), described).vectors
    assert not vector[: pixel_encoder.WIDTH].any() and vector[pixel_encoder.WIDTH :].any()


LF = """\
from pathlib import Path
from tasks.labeling import labeling_function

@labeling_function
def red(x):
    return "spam" if Path(x.photo).read_bytes() == Path("data/raw/photos/a.png").read_bytes() else None
"""


def test_an_lf_may_open_the_images_of_items_and_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, PATHS)
    write_params(root, apply={"source": "lfs/red.py"})
    ingest(root)
    run_stage(root, "gold")
    (root / "lfs").mkdir()
    (root / "lfs" / "red.py").write_text(LF)
    monkeypatch.chdir(root)
    run_stage(Path(), "apply")
    assert pl.read_parquet(VOTES)["red"].to_list() == [1, -1, -1]
    photo = root / "data/raw/photos/b.png"
    photo.write_bytes(draw(COLORS["a"]))
    with pytest.raises(
        LabelingFunctionError, match=r"reads data/raw/photos/b.png .*, which changed since ingest read it"
    ):
        run_stage(Path(), "apply")
    ingest(root)
    run_stage(Path(), "apply")
    assert pl.read_parquet(VOTES)["red"].to_list() == [1, 1, -1]
    (root / "lfs" / "red.py").write_text(LF.replace("photos/a.png", "items.parquet"))
    with pytest.raises(LabelingFunctionError, match=r"data/raw/items.parquet .*, which no stage depends on"):
        run_stage(Path(), "apply")
