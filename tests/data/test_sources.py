"""Every format in, every broken file named. Run: python -m pytest tests/data/test_sources.py"""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import sources
from pipeline.data.sources import Unreadable, decode, is_grey, read, read_digits, read_folder, read_npz, square
from pipeline.params import Digits

MANY = 1_000_000


def picture(mode: str = "RGB", size: tuple[int, int] = (12, 10), seed: int = 0) -> Image.Image:
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refused(path: Path, max_pixels: int = MANY) -> Unreadable:
    with pytest.raises(Unreadable) as error:
        decode(path, max_pixels)
    return error.value


def folder(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed=number).save(root / name)
    return root


# The embedded digits


def test_digits_have_the_counts_asked_for_and_no_row_twice():
    source = read_digits(Digits(commonest=80, rarest=5, val_rows=150, test_rows=803), 0)
    label, split = np.array(source.labels), np.array(source.splits)
    per_class = [int(((label == c) & (split == "train")).sum()) for c in source.classes]
    assert per_class == np.round(np.geomspace(80, 5, 10)).astype(int).tolist()
    assert (split == "val").sum() == 150 and (split == "test").sum() == 803
    assert [int(((label == c) & (split == "test")).sum()) for c in source.classes] == [81] * 3 + [80] * 7
    assert len(set(source.paths)) == len(source.paths) == len(label)


def test_digits_are_grey_8x8_pictures_of_their_label():
    from sklearn.datasets import load_digits

    source, truth = read_digits(Digits(commonest=8, rarest=2, val_rows=10, test_rows=10), 3), load_digits()
    for i, path in enumerate(source.paths):
        row, image = int(path.split("/")[1]), source.pixels(i)
        assert image.mode == "L" and str(truth.target[row]) == source.labels[i]
        assert np.abs(np.asarray(image) / 255 - truth.images[row] / 16).max() < 0.003


def test_digits_depend_on_the_seed_alone():
    block = Digits(commonest=20, rarest=5, val_rows=20, test_rows=100)
    assert read_digits(block, 1).paths == read_digits(block, 1).paths != read_digits(block, 2).paths


def test_more_digits_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"class \d has 1\d\d rows, but test_rows, val_rows and the"):
        read_digits(Digits(commonest=150, rarest=5, val_rows=150, test_rows=800), 0)


# Archives


def archive(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "set.npz"
    np.savez(path, **arrays)
    return path


def images(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, *(shape or (6, 6))), dtype=np.uint8)


@pytest.mark.parametrize(("shape", "mode"), [((6, 5), "L"), ((6, 5, 1), "L"), ((6, 5, 3), "RGB")])
@pytest.mark.parametrize("column", [False, True])
def test_npz_grey_and_colour_with_flat_and_column_labels(tmp_path, shape, mode, column):
    x, y = images(4, *shape), np.array([10, 2, 2, 10])
    source = read_npz(archive(tmp_path, train_images=x, train_labels=y[:, None] if column else y))
    assert source.classes == ("2", "10") and source.labels == ["10", "2", "2", "10"]
    assert set(source.splits) == {"train"} and len(set(source.paths)) == 4
    for i in range(4):
        assert source.pixels(i).mode == mode and source.pixels(i).size == (5, 6)
        assert np.array_equal(np.asarray(source.pixels(i)), x[i].squeeze())


def test_npz_splits_keep_their_rows(tmp_path):
    parts = {s: (images(n), np.arange(n) % 2) for s, n in (("train", 5), ("val", 3), ("test", 2))}
    source = read_npz(archive(tmp_path, **{f"{s}_{k}": a for s, p in parts.items() for k, a in zip(K, p, strict=True)}))
    assert source.splits == ["train"] * 5 + ["val"] * 3 + ["test"] * 2
    assert np.array_equal(np.asarray(source.pixels(8)), parts["test"][0][0])


K = ("images", "labels")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": images(3)}, "needs train_images and train_labels"),
        ({"train_images": images(3)}, "needs train_images and train_labels.*it has .'train_images'"),
        ({"val_images": images(3), "val_labels": np.zeros(3, int)}, "needs train_images"),
        ({"train_images": images(3) / 255, "train_labels": np.zeros(3, int)}, "must be uint8.*float64"),
        ({"train_images": images(3, 6, 6, 4), "train_labels": np.zeros(3, int)}, r"must be uint8.*\(3, 6, 6, 4\)"),
        ({"train_images": images(3, 6), "train_labels": np.zeros(3, int)}, "must be uint8"),
        ({"train_images": images(3), "train_labels": np.zeros(2, int)}, "3 train_images beside 2 train_labels"),
        ({"train_images": images(3), "train_labels": np.zeros((3, 14), int)}, r"multi-label train_labels \(3, 14\)"),
        ({"train_images": images(3), "train_labels": np.zeros(3)}, "must be integers, got float64"),
        ({"train_images": images(3), "train_labels": np.array(list("abc"))}, "must be integers"),
        ({"train_images": images(3), "train_labels": np.array([{}] * 3)}, "without pickled objects"),
    ],
)
def test_npz_faults_are_explained(tmp_path, arrays, says):
    with pytest.raises(ValueError, match=f"data.source: .*{says}"):
        read_npz(archive(tmp_path, **arrays))


@pytest.mark.parametrize("half", ["test_images", "val_labels"])
def test_npz_with_half_a_split_is_refused_and_not_skipped(tmp_path, half):
    arrays = {"train_images": images(3), "train_labels": np.zeros(3, int)}
    arrays[half] = images(2) if "images" in half else np.zeros(2, int)
    with pytest.raises(ValueError, match=half):
        read_npz(archive(tmp_path, **arrays))


def test_npz_without_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.source"):
        read_npz(archive(tmp_path, train_images=images(3)[:0], train_labels=np.zeros(0, int)))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"hello world, no archive", b"PK\x03\x04 cut off", npy(np.zeros(3))])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"set\.npz cannot be read"):
        read_npz(tmp_path / "set.npz")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_cut_off_archive_is_refused(tmp_path, share):
    path = archive(tmp_path, train_images=images(30), train_labels=np.zeros(30, int))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=r"set\.npz cannot be read"):
        read_npz(path)


# Folders


def test_class_folders_without_splits(tmp_path):
    source = read_folder(folder(tmp_path, "cat/1.png", "cat/deep/2.PNG", "dog/1.jpg", "dog/2.bmp"), MANY)
    assert source.classes == ("cat", "dog") and source.labels == ["cat", "cat", "dog", "dog"]
    assert source.splits == [""] * 4
    assert source.paths == ["cat/1.png", "cat/deep/2.PNG", "dog/1.jpg", "dog/2.bmp"]
    assert np.array_equal(np.asarray(source.pixels(0)), np.asarray(picture(seed=0)))


def test_class_folders_under_split_folders_and_their_aliases(tmp_path):
    names = [f"{s}/{c}/1.png" for s in ("Training", "validation", "TEST") for c in ("cat", "dog")]
    source = read_folder(folder(tmp_path, *names), MANY)
    assert source.classes == ("cat", "dog")
    assert dict(zip(source.paths, source.splits, strict=True)) == {
        name: {"Tr": "train", "va": "val", "TE": "test"}[name[:2]] for name in names
    }


def test_a_mixture_of_split_and_class_folders_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has split folders and also \['cat'\]"):
        read_folder(folder(tmp_path, "train/cat/1.png", "test/cat/1.png", "cat/1.png"), MANY)


def test_a_folder_without_class_folders_says_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=r"no images found in the class folders.*\.png"):
        read_folder(folder(tmp_path, "1.png", "2.png"), MANY)


def test_hidden_folders_and_other_files_are_no_classes(tmp_path):
    folder(tmp_path, "cat/1.png", "dog/1.png", ".cache/1.png")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    assert read_folder(tmp_path, MANY).paths == ["cat/1.png", "dog/1.png"]


ODD = ["NA", "001", "a b", "ünï", "line\nbreak", "<b>&amp;", "$(touch x)", "nan", "-rf", "a'b\"c", "x" * 200]


def test_odd_names_of_classes_and_files_are_read_as_they_are(tmp_path):
    source = read_folder(folder(tmp_path, *[f"{name}/{name}.png" for name in ODD]), MANY)
    assert sorted(source.classes) == sorted(ODD)
    assert all(path == f"{label}/{label}.png" for path, label in zip(source.paths, source.labels, strict=True))
    assert all(source.pixels(i).size == (12, 10) for i in range(len(ODD)))


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_out_of_the_source_is_refused(tmp_path, what):
    folder(tmp_path / "secret", "1.png")
    folder(tmp_path / "set", "cat/1.png", "dog/1.png")
    if what == "file":
        (tmp_path / "set" / "cat" / "x.png").symlink_to(tmp_path / "secret" / "1.png")
    else:
        (tmp_path / "set" / "bird").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="link out of the source's folder"):
        read_folder(tmp_path / "set", MANY)


def test_a_link_within_the_source_is_read(tmp_path):
    folder(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat" / "2.png").symlink_to(tmp_path / "cat" / "1.png")
    assert read_folder(tmp_path, MANY).labels == ["cat", "cat", "dog"]


def test_read_opens_what_is_named(tmp_path, shipped):
    def data(path: object) -> object:
        return shipped.data.model_copy(update={"source": str(path)})

    digits = shipped.sources.digits
    assert len(read(data("digits"), digits, 0).classes) == 10
    assert read(data(folder(tmp_path / "set", "cat/1.png")), digits, 0).classes == ("cat",)
    npz = archive(tmp_path, train_images=images(3), train_labels=np.zeros(3, int))
    assert read(data(npz), digits, 0).classes == ("0",)
    for wrong, says in ((tmp_path / "nowhere", "does not exist"), (tmp_path / "set/cat/1.png", "is neither")):
        with pytest.raises(ValueError, match=f"{says}; expected `digits`"):
            read(data(wrong), digits, 0)


# One file


BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"<html>not found</html>", "unreadable"),
    "header_only": (encoded(picture(), "PNG")[:8], "unreadable"),
    "truncated_jpeg": (encoded(picture(size=(40, 40)), "JPEG")[:-300], "truncated"),
    "truncated_png": (encoded(picture(size=(40, 40)), "PNG")[:-300], "truncated"),
    "truncated_bmp": (encoded(picture(), "BMP")[:-30], "truncated"),
    "two_frames_gif": (
        encoded(picture("L"), "GIF", save_all=True, append_images=[picture("L", seed=1)]),
        "frames",
    ),
    "two_pages_tiff": (encoded(picture(), "TIFF", save_all=True, append_images=[picture(seed=1)]), "frames"),
    "16_bit_png": (encoded(Image.fromarray(np.full((4, 4), 4000, np.uint16)), "PNG"), "depth"),
    "float_tiff": (encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "depth"),
    "vector": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unreadable"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gets_a_code_and_a_remedy(tmp_path, name):
    content, code = BROKEN[name]
    (tmp_path / "x.png").write_bytes(content)
    error = refused(tmp_path / "x.png")
    assert error.code == code and error.remedy
    assert str(tmp_path) not in error.remedy


def test_an_image_above_max_pixels_is_not_decoded(tmp_path):
    picture(size=(20, 10)).save(tmp_path / "x.png")
    assert refused(tmp_path / "x.png", 199).code == "too_large"
    assert decode(tmp_path / "x.png", 200).size == (20, 10)


def test_a_header_that_claims_a_gigantic_image_is_not_believed(tmp_path):
    content = bytearray(encoded(picture(), "PNG"))
    content[16:24] = struct.pack(">II", 2_000_000_000, 2_000_000_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "x.png").write_bytes(content)
    assert refused(tmp_path / "x.png", 40_000_000).code == "too_large"


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("folder.png", "gone.png", "pipe.png"):
        assert refused(tmp_path / name).code == "not_a_file"


KINDS = ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM"]


@pytest.mark.parametrize("kind", KINDS)
def test_content_decides_and_not_the_suffix(tmp_path, kind):
    (tmp_path / "x.png").write_bytes(encoded(picture(), kind))
    assert decode(tmp_path / "x.png", MANY).size == (12, 10)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", KINDS)
def test_any_corruption_gives_an_image_or_unreadable(tmp_path, kind):
    rng, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "words", 72.0
    whole = encoded(picture(size=(20, 20)), kind, **({"exif": exif} if kind in ("PNG", "JPEG") else {}))
    for trial in range(300):
        part = bytearray(whole)
        if trial % 3 == 0:
            part = part[: rng.integers(1, len(part))]
        for _ in range(rng.integers(1, 6) if trial % 3 else 0):
            part[rng.integers(min(len(part), 200 if trial % 3 == 1 else len(part)))] = rng.integers(256)
        (tmp_path / "x").write_bytes(part)
        try:
            assert decode(tmp_path / "x", MANY).mode in ("L", "RGB")
        except Unreadable as error:
            assert error.code and error.remedy


def test_a_tiff_whose_second_page_has_no_size_is_unreadable(tmp_path):
    content = bytearray(encoded(picture("L"), "TIFF"))
    first = struct.unpack_from("<I", content, 4)[0]
    link = first + 2 + 12 * struct.unpack_from("<H", content, first)[0]
    struct.pack_into("<I", content, link, len(content))
    (tmp_path / "x.tif").write_bytes(content + struct.pack("<HHHIII", 1, 270, 4, 1, 0, 0))
    assert refused(tmp_path / "x.tif").code


def test_exif_that_cannot_be_written_back_does_not_stop_the_run(tmp_path):
    """The orientation asks for a turn while another tag, the width, is a text."""
    entries = struct.pack("<HHI4s", 0x0100, 2, 4, b"abc\0") + struct.pack("<HHII", 0x0112, 3, 1, 6)
    exif = b"Exif\0\0" + struct.pack("<2sHIH", b"II", 42, 8, 2) + entries + struct.pack("<I", 0)
    (tmp_path / "x.jpg").write_bytes(encoded(picture(), "JPEG", exif=exif))
    try:
        assert decode(tmp_path / "x.jpg", MANY).size == (10, 12)
    except Unreadable as error:
        assert error.code and error.remedy


def test_colour_modes_become_grey_or_rgb(tmp_path):
    modes = {
        "cmyk.jpg": (picture("CMYK"), "RGB"),
        "palette.png": (picture().quantize(16), "RGB"),
        "bilevel.png": (picture("L").convert("1"), "L"),
        "grey.png": (picture("L"), "L"),
        "rgb.png": (picture(), "RGB"),
        "alpha.png": (picture("RGBA"), "RGB"),
        "grey_alpha.png": (picture("LA"), "RGB"),
    }
    for name, (image, mode) in modes.items():
        image.save(tmp_path / name)
        assert decode(tmp_path / name, MANY).mode == mode, name


def test_palette_indices_become_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "x.png")
    assert np.asarray(decode(tmp_path / "x.png", MANY)).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    image.save(tmp_path / "x.png", transparency=1)
    assert np.asarray(decode(tmp_path / "x.png", MANY)).tolist() == [[[255, 0, 0], [0, 0, 0]]]


def test_transparency_is_laid_on_black(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[..., :3], pixels[0, :, 3] = 200, (0, 128, 255)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    seen = np.asarray(decode(tmp_path / "x.png", MANY))[0, :, 0]
    assert np.abs(seen.astype(int) - [0, 100, 200]).max() <= 1


def test_bilevel_is_black_and_white(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "x.png")
    assert np.asarray(decode(tmp_path / "x.png", MANY)).tolist() == [[255, 0]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {  # how a camera would have stored the upright picture
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(np.asarray(decode(tmp_path / "x.png", MANY)), upright)


# The square


@pytest.mark.parametrize("fit", ["letterbox", "crop", "stretch"])
@pytest.mark.parametrize("size", [(8, 8), (30, 7), (7, 30), (1, 1), (500, 1), (1, 500)])
def test_any_shape_becomes_the_square(fit, size):
    for channels, mode in ((1, "RGB"), (3, "L"), (3, "RGB")):
        out = square(picture(mode, size), 8, channels, fit)
        assert out.shape == (8, 8, channels) and out.dtype == np.uint8


def test_a_square_of_the_right_size_is_left_alone():
    image = picture("RGB", (8, 8))
    for fit in ("letterbox", "crop", "stretch"):
        assert np.array_equal(square(image, 8, 3, fit), np.asarray(image))


def test_letterbox_shows_everything_crop_the_centre_and_stretch_both():
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 4:12] = 100
    wide[:, :4], wide[:, 12:] = 200, 200
    image = Image.fromarray(wide)
    boxed = square(image, 8, 1, "letterbox")[..., 0]
    assert (boxed[:2] == boxed[0, 0]).all() and (boxed[6:] == boxed[0, 0]).all()
    assert boxed[4, 0] > 150 > boxed[4, 4]
    assert (square(image, 8, 1, "crop") == 100).all()
    stretched = square(image, 8, 1, "stretch")[..., 0]
    assert (stretched == stretched[:1]).all() and stretched[0, 0] > 150 > stretched[0, 4]


def test_grey_is_recognised_whatever_the_mode():
    grey = picture("L")
    assert is_grey(grey) and is_grey(grey.convert("RGB"))
    colour = grey.convert("RGB")
    colour.putpixel((0, 0), (1, 2, 3))
    assert not is_grey(colour)


def test_reading_does_not_loosen_pillows_own_guards():
    from PIL import ImageFile

    assert not ImageFile.LOAD_TRUNCATED_IMAGES and sources.Image.MAX_IMAGE_PIXELS
