"""A file is decoded by its content, upright and whole, or has a code. Run: python -m pytest tests/data/sources/test_decode.py"""

import io
import os
import pickle
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from pipeline.data.sources import dicom
from pipeline.data.sources.base import Picture, Unreadable
from pipeline.data.sources.decode import Files, decode
from pipeline.params import Data

KINDS = ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM"]


@pytest.fixture
def data(shipped) -> Callable[..., Data]:
    """The shipped block of params with changes; `deep` is merged."""

    def changed(**changes: object) -> Data:
        if "deep" in changes:
            changes["deep"] = shipped.data.deep.model_copy(update=changes["deep"])
        return shipped.data.model_copy(update=changes)

    return changed


def picture(mode: str = "RGB", size: tuple[int, int] = (12, 10), seed: int = 0) -> Image.Image:
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


def deep(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def opencv(pixels: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()


def with_alpha(pixels: np.ndarray) -> bytes:
    """A 16-bit RGBA PNG."""
    return cv2.imencode(".png", pixels[..., [2, 1, 0, 3]])[1].tobytes()


def refused(content: bytes | Path, data: Data, name: str = "x.png") -> Unreadable:
    with pytest.raises(Unreadable) as error:
        decode(content, name, data)
    assert error.value.code.isidentifier() and error.value.remedy
    return error.value


# No image at all


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("zero.png", b"", "empty"),
        ("text.png", b"not an image at all", "unreadable"),
        ("page.jpg", b"<!DOCTYPE html><html><title>404</title></html>" * 9, "unreadable"),
        ("page.dcm", b"<!DOCTYPE html><html><title>404</title></html>" * 9, "unreadable"),
        ("header.png", b"\x89PNG\r\n\x1a\n", "unreadable"),
        ("header.jpg", b"\xff\xd8\xff\xe0", "unreadable"),
        ("vector.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unreadable"),
        ("one.bmp", b"B", "unreadable"),
    ],
)
def test_what_is_no_image_is_named_with_its_first_bytes(tmp_path, data, name, content, code):
    (tmp_path / name).write_bytes(content)
    error = refused(tmp_path / name, data(), name)
    assert error.code == code and str(tmp_path) not in error.remedy
    assert code == "empty" or repr(content[:8]) in error.remedy


def test_formats_outside_the_list_are_not_opened(data):
    for kind in ("ICO", "PCX", "TGA", "SGI", "JPEG2000"):
        assert refused(encoded(picture(size=(32, 32)), kind), data()).code == "unreadable"


# Cut off


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "PPM", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.98])
def test_a_picture_that_is_cut_off_is_never_half_a_picture(data, kind, share):
    whole = encoded(picture(size=(60, 60)), kind)
    assert decode(whole, "x", data()).pixels.shape == (60, 60, 3)
    assert refused(whole[: int(len(whole) * share)], data()).code in ("truncated", "broken", "unreadable")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_cut_off_in_the_pixels_is_called_truncated(data, kind):
    assert refused(encoded(picture(size=(60, 60)), kind)[:-300], data()).code == "truncated"


@pytest.mark.parametrize(
    "content",
    [
        opencv(deep(40, 50, 3)),
        with_alpha(deep(40, 50, 4)),
        tiff(deep(40, 50, 3), photometric="rgb"),
        opencv(deep(40, 50)),
    ],
    ids=["png", "png with alpha", "tiff", "grey"],
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.98])
def test_a_deep_picture_that_is_cut_off_is_refused_too(data, content, share):
    assert decode(content, "x", data()).pixels.shape[:2] == (40, 50)
    assert refused(content[: int(len(content) * share)], data()).code in ("truncated", "broken", "unreadable")


def test_reading_does_not_loosen_pillows_own_guards(data):
    decode(encoded(picture(), "PNG"), "x.png", data())
    assert not ImageFile.LOAD_TRUNCATED_IMAGES and Image.MAX_IMAGE_PIXELS


# The ending of a name


@pytest.mark.parametrize("kind", KINDS)
def test_content_decides_and_a_wrong_ending_is_noted(data, kind):
    content, right = encoded(picture(), kind), {"JPEG": ".jpg", "TIFF": ".tif"}.get(kind, f".{kind.lower()}")
    for suffix in (".png", ".jpg", ".JPEG", ".tiff", ".tif", ".bmp", ".webp", ".gif", ".ppm", ".dcm", ".dicom"):
        seen = decode(content, f"a/x{suffix}", data())
        same = {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix.lower(), suffix) == right
        assert seen.pixels.shape == (10, 12, 3) and ("wrong_extension" in seen.notes) is not same, suffix
    for name in ("x", "x.data"):
        assert "wrong_extension" not in decode(content, name, data()).notes


# Bombs


def png(header: bytes, body: bytes) -> bytes:
    """A PNG with this IHDR and these bytes as IDAT."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def claims(kind: str, width: int, height: int) -> bytes:
    """A small file whose header claims so many pixels."""
    if kind == "PNG":
        return png(struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0), zlib.compress(bytes(1000)))
    if kind == "PPM":
        return b"P6 %d %d 255\n" % (width, height) + bytes(1000)
    content = bytearray(encoded(picture(), kind))
    if kind == "BMP":
        struct.pack_into("<ii", content, 18, width, height)
    if kind == "GIF":
        struct.pack_into("<HH", content, 6, width, height)
    if kind == "JPEG":
        struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, height, width)
    if kind == "TIFF":
        first = struct.unpack_from("<I", content, 4)[0]
        for entry in range(first + 2, first + 26, 12):
            tag = struct.unpack_from("<H", content, entry)[0]
            struct.pack_into("<HHII", content, entry, tag, 4, 1, {256: width, 257: height}[tag])
    return bytes(content)


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP", "GIF", "JPEG", "TIFF"])
@pytest.mark.parametrize("side", [16_000, 60_000, 2_000_000_000])
def test_a_header_that_claims_too_much_is_not_decoded(data, kind, side, monkeypatch):
    if kind in ("GIF", "JPEG") and side > 65_535:
        side = 65_535
    content = claims(kind, side, side)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    error = refused(content, data())
    assert error.code in ("too_large", "unreadable", "broken")
    assert error.code == "too_large" or side > 65_535, error.remedy


def test_a_bomb_of_a_few_kilobytes_is_refused_by_the_default_cap(data):
    packed = zlib.compressobj(9)
    body = b"".join(packed.compress(bytes(2001)) for _ in range(16_000)) + packed.flush()
    content = png(struct.pack(">IIBBBBB", 16_000, 16_000, 1, 0, 0, 0, 0), body)
    assert len(content) < 100_000
    error = refused(content, data())
    assert error.code == "too_large" and "data.max_pixels" in error.remedy


def test_the_cap_is_the_number_of_pixels(data):
    content = encoded(picture(size=(20, 10)), "PNG")
    assert refused(content, data(max_pixels=199)).code == "too_large"
    assert decode(content, "x.png", data(max_pixels=200)).pixels.shape == (10, 20, 3)


def test_a_compressed_text_that_swells_does_not_fill_the_memory(data):
    packed = zlib.compress(bytes(50_000_000))
    content = encoded(picture(), "PNG")
    chunk = b"zTXt" + b"a\0\0" + packed
    bomb = (
        content[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]
    )
    assert refused(bomb, data()).code in ("broken", "truncated")


def test_the_pages_of_a_long_tiff_are_not_counted(data):
    """So many small pages that Pillow takes minutes to count them."""
    content = bytearray(encoded(picture("L"), "TIFF"))
    first = struct.unpack_from("<I", content, 4)[0]
    page = content[first : first + 2 + 12 * struct.unpack_from("<H", content, first)[0]]
    struct.pack_into("<I", content, first + len(page), len(content))
    start, step = len(content), len(page) + 4
    content += b"".join(bytes(page) + struct.pack("<I", start + step * (i + 1)) for i in range(100_000))
    codes = []
    thread = threading.Thread(target=lambda: codes.append(refused(bytes(content), data()).code), daemon=True)
    thread.start()
    thread.join(5)
    assert codes == ["frames"]
    assert decode(bytes(content), "x.tif", data(frames="first")).notes == ("first_frame",)


# Colour modes of 8 bits


MODES = {
    "cmyk.jpg": (encoded(picture("CMYK"), "JPEG"), 3, ("cmyk",)),
    "cmyk.tif": (encoded(picture("CMYK"), "TIFF"), 3, ("cmyk",)),
    "palette.png": (encoded(picture().quantize(16), "PNG"), 3, ("palette",)),
    "palette_clear.png": (encoded(picture().quantize(16), "PNG", transparency=3), 3, ("palette", "alpha")),
    "palette.gif": (encoded(picture().quantize(16), "GIF"), 3, ("palette",)),
    "alpha.png": (encoded(picture("RGBA"), "PNG"), 3, ("alpha",)),
    "alpha.webp": (encoded(picture("RGBA"), "WEBP", lossless=True), 3, ("alpha",)),
    "grey_alpha.png": (encoded(picture("LA"), "PNG"), 1, ("alpha",)),
    "bilevel.png": (encoded(picture("L").convert("1"), "PNG"), 1, ("bilevel",)),
    "bilevel.tif": (encoded(picture("L").convert("1"), "TIFF"), 1, ("bilevel",)),
    "grey.png": (encoded(picture("L"), "PNG"), 1, ()),
    "colour.png": (encoded(picture(), "PNG"), 3, ()),
    "colour_key.png": (encoded(picture(), "PNG", transparency=(1, 2, 3)), 3, ("alpha",)),
    "grey_key.png": (encoded(picture("L"), "PNG", transparency=7), 1, ("alpha",)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_grey_or_colour_and_is_noted(data, name):
    content, channels, notes = MODES[name]
    seen = decode(content, name, data())
    assert seen.pixels.shape == (10, 12, channels) and seen.pixels.dtype == np.uint8
    assert seen.notes == notes and seen.window is None


def test_cmyk_is_turned_into_the_colours_it_stands_for(data):
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[:4, :, 0], cmyk[4:, :, 3] = 255, 255
    seen = decode(encoded(Image.frombytes("CMYK", (8, 8), cmyk.tobytes()), "TIFF"), "x.tif", data()).pixels
    assert (seen[0, 0] == [0, 255, 255]).all() and (seen[7, 0] == 0).all()


def test_palette_indices_become_colours(data):
    image = Image.new("P", (4, 4))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert decode(encoded(image, "PNG"), "x.png", data()).pixels[0, :2].tolist() == [[255, 0, 0], [0, 0, 255]]
    clear = encoded(image, "PNG", transparency=1)
    assert decode(clear, "x.png", data(background=9)).pixels[0, :2].tolist() == [[255, 0, 0], [9, 9, 9]]


@pytest.mark.parametrize("background", [0, 77, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_the_background(data, background, mode):
    image = picture(mode, (30, 20), 5)
    colour, alpha = np.asarray(image)[..., :-1].astype(float), np.asarray(image)[..., -1:] / 255
    want = colour * alpha + background * (1 - alpha)
    for kind in ("PNG", "TIFF"):
        seen = decode(encoded(image, kind), "x", data(background=background)).pixels
        assert seen.shape == want.shape and np.abs(seen - want).max() <= 1.5


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_colour_that_stands_for_nothing_is_laid_on_the_background(data, mode):
    pixels = np.full((6, 6, 3), 200, np.uint8)
    pixels[0] = 31
    image, key = (Image.fromarray(pixels), (31,) * 3) if mode == "RGB" else (Image.fromarray(pixels[..., 0]), 31)
    seen = decode(encoded(image, "PNG", transparency=key), "x.png", data(background=120)).pixels
    assert (seen[0] == 120).all() and (seen[1:] == 200).all()


def test_what_lies_hidden_under_full_transparency_does_not_show(data):
    one, other = (np.dstack([np.asarray(picture(seed=s)), np.zeros((10, 12), np.uint8)]) for s in (1, 2))
    one[0, 0, 3] = other[0, 0, 3] = 255
    one[0, 0, :3] = other[0, 0, :3] = 250
    same = [decode(encoded(p, "PNG"), "x.png", data()).pixels for p in (one, other)]
    assert np.array_equal(*same)


def test_bilevel_is_black_and_white(data):
    dots = np.indices((6, 6)).sum(0) % 2 == 1
    assert np.array_equal(decode(encoded(dots, "PNG"), "x.png", data()).pixels[..., 0], np.where(dots, 255, 0))


# More than 8 bits


DEEP = {
    "grey.png": (encoded(deep(10, 12), "PNG"), deep(10, 12)),
    "colour.png": (opencv(deep(10, 12, 3)), deep(10, 12, 3)),
    "grey.tif": (tiff(deep(10, 12)), deep(10, 12)),
    "grey_motorola.tif": (tiff(deep(10, 12), byteorder=">"), deep(10, 12)),
    "grey_packed.tif": (encoded(deep(10, 12), "TIFF", compression="tiff_lzw"), deep(10, 12)),
    "grey_zipped_motorola.tif": (tiff(deep(10, 12), byteorder=">", compression="zlib"), deep(10, 12)),
    "colour.tif": (tiff(deep(10, 12, 3), photometric="rgb"), deep(10, 12, 3)),
    "colour_motorola.tif": (tiff(deep(10, 12, 3), photometric="rgb", byteorder=">"), deep(10, 12, 3)),
    "colour_zipped.tif": (tiff(deep(10, 12, 3), photometric="rgb", compression="zlib"), deep(10, 12, 3)),
    "colour_tiles.tif": (tiff(deep(40, 50, 3), photometric="rgb", tile=(16, 16)), deep(40, 50, 3)),
    "colour_lzw.tif": (opencv(deep(10, 12, 3), ".tif"), deep(10, 12, 3)),
    "signed.tif": (tiff(deep(10, 12).astype(np.int32).astype(np.int16)), deep(10, 12).astype(np.int16)),
    "long.tif": (tiff(deep(10, 12).astype(np.uint32) << 16), deep(10, 12).astype(np.uint32) << 16),
    "float.tif": (tiff(deep(10, 12).astype(np.float32) / 7 - 500), deep(10, 12).astype(np.float32) / 7 - 500),
    "white_is_zero.tif": (tiff(deep(10, 12), photometric="miniswhite"), 65535 - deep(10, 12)),
    "grey.pgm": (opencv(deep(10, 12), ".pgm"), deep(10, 12)),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_pixels_keep_every_bit_and_no_range_of_their_own(data, name):
    content, raw = DEEP[name]
    seen = decode(content, name, data())
    assert seen.pixels.dtype == np.float32 and seen.notes == ("deep",) and seen.window is None
    assert np.array_equal(seen.pixels, raw.reshape(*raw.shape[:2], -1).astype(np.float32))


@pytest.mark.parametrize("name", DEEP)
def test_the_window_of_deep_pixels_is_what_params_ask_for(data, name):
    content, raw = DEEP[name]
    assert decode(content, name, data(deep={"scale": "percentiles"})).window is None
    assert decode(content, name, data(deep={"scale": "window", "window": (3.0, 9.0)})).window == (3, 9)
    if raw.dtype.kind == "f":
        assert refused(content, data(deep={"scale": "full"})).code == "range"
    else:
        limits = np.iinfo(raw.dtype)
        seen = decode(content, name, data(deep={"scale": "full"})).window
        assert seen == (limits.min, limits.max) or name == "signed.tif"  # 16 signed bits come as 32


def test_shallow_pictures_have_no_window_whatever_params_say(data):
    for scale in ("auto", "full", "percentiles", "window"):
        assert decode(encoded(picture(), "PNG"), "x.png", data(deep={"scale": scale})).window is None


def test_colours_that_are_not_red_green_and_blue_are_not_guessed(data):
    assert refused(encoded(picture().convert("LAB"), "TIFF"), data()).code == "layout"


def test_deep_grey_with_one_transparent_level_is_not_taken_for_opaque(data):
    buffer = io.BytesIO()
    Image.fromarray(deep(10, 12)).save(buffer, "PNG", transparency=7)
    assert refused(buffer.getvalue(), data()).code == "layout"


def test_deep_grey_with_alpha_is_laid_on_the_background(data):
    grey = deep(10, 12)
    body = np.stack([grey, np.full_like(grey, 65535)], axis=-1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in body)
    seen = decode(png(struct.pack(">IIBBBBB", 12, 10, 16, 4, 0, 0, 0), zlib.compress(rows)), "x.png", data())
    assert np.array_equal(seen.pixels[..., 0], grey) and "alpha" in seen.notes


def test_the_full_range_of_signed_pixels_is_that_of_their_type(data):
    pixels = deep(10, 12).astype(np.int32) - 32768
    seen = decode(tiff(pixels.astype(np.int16)), "x.tif", data(deep={"scale": "full"}))
    assert seen.window == (-32768, 32767) and np.array_equal(seen.pixels[..., 0], pixels)


@pytest.mark.parametrize("background", [0, 255])
def test_deep_transparency_is_laid_on_the_background_too(data, background):
    raw = deep(10, 12, 4)
    raw[0, :, 3] = 0
    share = raw[..., 3:] / 65535
    want = raw[..., :3] * share + background * 257 * (1 - share)
    for content in (with_alpha(raw), tiff(raw, photometric="rgb", extrasamples=["unassalpha"])):
        seen = decode(content, "x", data(background=background))
        assert np.abs(seen.pixels - want).max() <= 1 and "alpha" in seen.notes
        assert (seen.pixels[0] == background * 257).all()


def test_a_fourth_channel_that_is_no_transparency_is_dropped_and_noted(data):
    raw = deep(10, 12, 4)
    seen = decode(tiff(raw, photometric="rgb", extrasamples=["unspecified"]), "x.tif", data())
    assert np.array_equal(seen.pixels, raw[..., :3]) and "fourth_dropped" in seen.notes


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused(data, value):
    raw = np.random.default_rng(0).random((10, 12), np.float32)
    raw[4, 5] = value
    assert refused(tiff(raw), data(), "x.tif").code == "non_finite"


@pytest.mark.parametrize(
    "content",
    [
        tiff(deep(10, 12, 4), photometric="separated"),
        tiff(np.moveaxis(deep(10, 12, 3), 2, 0).copy(), photometric="rgb", planarconfig="separate"),
        tiff(np.random.default_rng(0).random((10, 12, 3)).astype(np.float32), photometric="rgb"),
        tiff(np.random.default_rng(0).random((10, 12)) * 1e300),
        tiff(np.ones((10, 12), np.complex64)),
        tiff(np.random.default_rng(0).random((10, 12)).astype(np.float32), photometric="miniswhite"),
        b"P6 10 12 65535\n" + deep(10, 12, 3).tobytes(),
        b"P6 10 12 256\n" + (deep(10, 12, 3) % 256).tobytes(),
    ],
    ids=["cmyk", "planes", "float colour", "64 bits", "complex", "float white is zero", "ppm", "ppm of 9 bits"],
)
def test_deep_layouts_that_cannot_be_told_are_refused_and_not_guessed(data, content):
    assert refused(content, data(), "x").code in ("layout", "depth", "unreadable", "non_finite")


# Several frames


FRAMES = {
    "x.gif": encoded(picture("L"), "GIF", save_all=True, append_images=[picture("L", seed=1)]),
    "x.webp": encoded(picture(), "WEBP", save_all=True, append_images=[picture(seed=1)], lossless=True),
    "x.tif": encoded(picture(), "TIFF", save_all=True, append_images=[picture(seed=1)]),
    "x.png": encoded(picture(), "PNG", save_all=True, append_images=[picture(seed=1)]),
    "deep.tif": tiff(np.stack([deep(10, 12), deep(10, 12, seed=1)]), photometric="minisblack"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_several_frames_are_refused_or_the_first_is_taken(data, name):
    error = refused(FRAMES[name], data(), name)
    assert error.code == "frames" and "data.frames: first" in error.remedy
    seen = decode(FRAMES[name], name, data(frames="first"))
    assert "first_frame" in seen.notes and "wrong_extension" not in seen.notes
    want = {"x.gif": np.asarray(picture("L"))[..., None], "deep.tif": deep(10, 12)[..., None]}.get(name)
    want = np.asarray(picture()) if want is None else want
    assert np.array_equal(seen.pixels, np.broadcast_to(want, seen.pixels.shape))


def test_a_photograph_with_a_preview_or_a_depth_map_behind_it_is_one_picture(data):
    """Phones write them by thousands, and all were refused."""
    content = encoded(picture(), "MPO", save_all=True, append_images=[picture(seed=1)], quality=100)
    seen = decode(content, "x.jpg", data())
    assert "first_frame" not in seen.notes and "wrong_extension" not in seen.notes
    grey = seen.pixels.mean(2)
    apart, other = (np.abs(grey - np.asarray(picture(seed=k)).mean(2)).mean() for k in (0, 1))
    assert apart < other / 2


def test_one_frame_is_not_several(data):
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        content = encoded(picture(), kind, save_all=True)
        assert "first_frame" not in decode(content, "x", data()).notes


# Orientation


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera would have stored the upright picture."""
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    return np.ascontiguousarray(turned)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "bits", "channels"),
    [("WEBP", 8, 3), *((kind, bits, channels) for kind in ("PNG", "TIFF") for bits in (8, 16) for channels in (1, 3))],
)
def test_pictures_come_upright(data, orientation, kind, bits, channels):
    upright = deep(6, 9, channels) if bits == 16 else np.asarray(picture(size=(9, 6)))[..., :channels]
    raw, exif = stored(upright, orientation), Image.Exif()
    exif[0x0112] = orientation
    if kind == "TIFF":
        tag = [(0x0112, 3, 1, orientation, True)]
        content = tiff(
            raw if channels == 3 else raw[..., 0], photometric="rgb" if channels == 3 else None, extratags=tag
        )
    elif kind == "WEBP":
        content = encoded(raw, "WEBP", exif=exif, lossless=True, exact=True)
    else:
        content = opencv(raw if channels == 3 else raw[..., 0])
        body = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = b"eXIf" + body
        content = (
            content[:33] + struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]
        )
    seen = decode(content, "x", data())
    assert np.array_equal(seen.pixels, upright) and ("turned" in seen.notes) is (orientation > 1)


def test_a_jpeg_is_turned(data):
    halves, exif = np.zeros((16, 32, 3), np.uint8), Image.Exif()
    halves[:, :16], exif[0x0112] = 250, 6
    seen = decode(encoded(halves, "JPEG", exif=exif), "x.jpg", data())
    assert seen.pixels.shape == (32, 16, 3) and seen.notes == ("turned",)
    assert seen.pixels[2].min() > 200 and seen.pixels[-2].max() < 50


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_does_not_exist_changes_nothing(data, value):
    exif = Image.Exif()
    exif[0x0112] = value
    seen = decode(encoded(picture(), "PNG", exif=exif), "x.png", data())
    assert np.array_equal(seen.pixels, np.asarray(picture())) and seen.notes == ()


def test_exif_that_cannot_be_written_back_keeps_no_picture_from_being_turned(data):
    """The orientation asks for a turn while another tag, the width, is a text: it was said to be broken."""
    entries = struct.pack("<HHI4s", 0x0100, 2, 4, b"abc\0") + struct.pack("<HHII", 0x0112, 3, 1, 6)
    exif = b"Exif\0\0" + struct.pack("<2sHIH", b"II", 42, 8, 2) + entries + struct.pack("<I", 0)
    turned, plain = (decode(encoded(picture(), "JPEG", exif=e), "x.jpg", data()).pixels for e in (exif, b""))
    assert turned.shape == (12, 10, 3) and np.array_equal(turned, np.rot90(plain, -1))


# Sizes and aspects


@pytest.mark.parametrize(
    ("size", "code"),
    [
        ((1, 1), "too_small"),
        ((3, 100), "too_small"),
        ((20_000, 10), "aspect"),
        ((10, 20_000), "aspect"),
        ((81, 4), "aspect"),
    ],
)
def test_too_small_and_too_long_are_refused(data, size, code):
    error = refused(encoded(picture("L", size), "PNG"), data())
    assert error.code == code and f"{size[0]}x{size[1]}" in error.remedy


def test_the_bounds_themselves_are_allowed(data):
    assert decode(encoded(picture("L", (80, 4)), "PNG"), "x.png", data()).pixels.shape == (4, 80, 1)
    assert decode(encoded(picture("L", (8, 6)), "PNG"), "x.png", data(min_side=6)).pixels.shape == (6, 8, 1)
    assert refused(encoded(picture("L", (8, 6)), "PNG"), data(min_side=7)).code == "too_small"


@pytest.mark.parametrize("colour", [(255, 0, 0), (1, 2, 3)])
def test_a_picture_of_one_colour_is_blank(data, colour):
    assert refused(encoded(Image.new("RGB", (12, 10), colour), "PNG"), data()).code == "blank"


@pytest.mark.parametrize("value", [0, 93, 255])
def test_a_picture_of_one_value_is_blank(data, value):
    for pixels in (np.full((9, 9), value, np.uint8), np.full((9, 9), value * 257, np.uint16)):
        assert refused(encoded(pixels, "PNG"), data()).code == "blank"
    pixels = np.full((9, 9), value, np.uint8)
    pixels[4, 4] ^= 1
    assert decode(encoded(pixels, "PNG"), "x.png", data()).pixels.shape == (9, 9, 1)


# What is no regular file, and odd names


def test_only_regular_files_are_opened(tmp_path, data):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.dcm")
    seen = {}

    def look() -> None:
        for name in ("folder.png", "gone.png", "round.png", "device.png", "pipe.png", "pipe.dcm", "never.png"):
            seen[name] = refused(tmp_path / name, data(), name).code

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive() and set(seen.values()) == {"not_a_file"} and len(seen) == 7


def test_a_file_that_may_not_be_opened_is_unreadable(tmp_path, data, monkeypatch):
    (tmp_path / "x.png").write_bytes(encoded(picture(), "PNG"))

    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(Path, "open", deny)
    error = refused(tmp_path / "x.png", data())
    assert error.code == "unreadable" and "Permission denied" in error.remedy and str(tmp_path) not in error.remedy


def test_a_name_longer_than_any_file_system_allows_is_unreadable(tmp_path, data):
    assert refused(tmp_path / ("x" * 5000 + ".png"), data()).code == "unreadable"


@pytest.mark.parametrize(
    "name",
    [
        "a b.png",
        "ünï.png",
        "line\nbreak.png",
        "<b>&amp;.png",
        "$(touch x).png",
        "-rf.png",
        "a'b\"c.png",
        "x" * 251 + ".png",
    ],
)
def test_odd_names_are_read_like_any_other(tmp_path, data, name):
    (tmp_path / name).write_bytes(encoded(picture(), "PNG"))
    load = Files(tmp_path, data())
    seen = pickle.loads(pickle.dumps(load))(name)
    assert np.array_equal(seen.pixels, np.asarray(picture())) and seen.notes == ()
    assert os.listdir(tmp_path) == [name]


# Anything at all


def holds(seen: Picture) -> None:
    pixels = seen.pixels
    assert pixels.ndim == 3 and pixels.shape[2] in (1, 3) and pixels.dtype in (np.uint8, np.float32)
    assert min(pixels.shape[:2]) >= 4 and np.isfinite(pixels).all() and pixels.size < 10**8


def survives(content: bytes, data: Data, name: str = "x") -> None:
    try:
        holds(decode(content, name, data))
    except Unreadable as error:
        assert error.code.isidentifier() and error.remedy


def damaged(whole: bytes, rng: np.random.Generator, trial: int) -> bytes:
    """Cut off, or with bytes changed near the front or anywhere, or bits flipped, or a piece doubled or left out."""
    part, way = bytearray(whole), trial % 5
    if way == 0:
        return bytes(part[: rng.integers(1, len(part))])
    if way == 4:
        start, length = rng.integers(len(part)), rng.integers(1, 40)
        return bytes(part[:start] + (part[start : start + length] * 2 if trial % 2 else b"") + part[start + length :])
    for _ in range(rng.integers(1, 6)):
        place = rng.integers(min(len(part), 200 if way == 1 else len(part)))
        part[place] = rng.integers(256) if way < 3 else part[place] ^ (1 << rng.integers(8))
    return bytes(part)


def exif() -> Image.Exif:
    out = Image.Exif()
    out[0x0112], out[0x010E], out[0x011A] = 6, "words", 72.0
    return out


WHOLE = {
    **{kind: encoded(picture(size=(20, 20)), kind) for kind in KINDS},
    "JPEG with EXIF": encoded(picture(size=(20, 20)), "JPEG", exif=exif()),
    "PNG with EXIF": encoded(picture(size=(20, 20)), "PNG", exif=exif()),
    "palette PNG": encoded(picture(size=(20, 20)).quantize(16), "PNG", transparency=2),
    "packed TIFF": encoded(picture(size=(20, 20)), "TIFF", compression="tiff_lzw"),
    "16-bit PNG": opencv(deep(20, 20, 3)),
    "16-bit grey PNG": opencv(deep(20, 20)),
    "16-bit TIFF": tiff(deep(20, 20, 3), photometric="rgb"),
    "16-bit zipped TIFF": tiff(deep(20, 20, 3), photometric="rgb", compression="zlib"),
    "16-bit grey TIFF": tiff(deep(20, 20)),
    "float TIFF": tiff(deep(20, 20).astype(np.float32)),
    "16-bit PGM": opencv(deep(20, 20), ".pgm"),
    **FRAMES,
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", WHOLE)
def test_any_damage_gives_a_picture_or_unreadable(data, kind):
    rng, blocks = np.random.default_rng(0), [data(), data(frames="first", deep={"scale": "full"})]
    for trial in range(600):
        survives(damaged(WHOLE[kind], rng, trial), blocks[trial % 2])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_bytes_give_unreadable(data):
    rng, block = np.random.default_rng(1), data()
    starts = [
        b"",
        b"II*\0\x08\0\0\0",
        b"MM\0*\0\0\0\x08",
        b"II+\0\x08\0\0\0",
        b"\xff\xd8\xff\xe1",
        b"GIF89a",
        b"BM",
        b"P5 9 9 ",
    ]
    starts += [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"RIFF\x40\0\0\0WEBPVP8 ",
        b"P6 5 5 999\n",
        b"Pf 5 5 ",
        bytes(128) + b"DICM",
    ]
    for trial in range(6000):
        start = starts[trial % len(starts)]
        survives(start + rng.bytes(rng.integers(1, 400)), block, "x.dcm" if trial % 7 == 0 else "x")


def test_a_tiff_whose_second_page_has_no_size_is_unreadable(data):
    content = bytearray(encoded(picture("L"), "TIFF"))
    first = struct.unpack_from("<I", content, 4)[0]
    link = first + 2 + 12 * struct.unpack_from("<H", content, first)[0]
    struct.pack_into("<I", content, link, len(content))
    refused(bytes(content + struct.pack("<HHHIII", 1, 270, 4, 1, 0, 0)), data(), "x.tif")


def test_a_file_is_dicom_by_its_content_or_by_name_and_first_tag():
    assert dicom.accepts(bytes(128) + b"DICM", "x.png")
    assert dicom.accepts(b"\x08\0\x05\0" + bytes(128), "x.DCM") and not dicom.accepts(
        b"\x08\0\x05\0" + bytes(128), "x.png"
    )
    assert not dicom.accepts(encoded(picture(), "PNG"), "x.dcm")


def test_signed_pixels_of_eight_bits_are_refused(data):
    """Pillow reads them as unsigned: all that is below zero came out brighter than what is above."""
    values = np.arange(-100, 20, dtype=np.int8).reshape(10, 12)
    assert refused(tiff(values), data()).code == "depth"
    assert decode(tiff(values.astype(np.uint8)), "x.tif", data()).pixels.shape == (10, 12, 1)
