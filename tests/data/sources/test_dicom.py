"""DICOM comes in its own units, black is low, no tag is kept. Run: python -m pytest tests/data/sources/test_dicom.py"""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageFile
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from pipeline.data.intake import to_bytes
from pipeline.data.sources import dicom
from pipeline.data.sources.base import Picture, Unreadable
from pipeline.data.sources.decode import decode
from pipeline.params import Data

REAL = Path(pydicom.__file__).parent / "data" / "test_files"  # files of scanners and converters that come with pydicom


@pytest.fixture
def data(shipped) -> Callable[..., Data]:
    """The shipped block of params with changes; `scale` and `window` belong to `deep`."""

    def changed(**changes: object) -> Data:
        inner = {key: changes.pop(key) for key in ("scale", "window") if key in changes}
        return shipped.data.model_copy(update={**changes, "deep": shipped.data.deep.model_copy(update=inner)})

    return changed


def grey(bits: int = 12, seed: int = 0, size: tuple[int, int] = (10, 12)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << bits, size, dtype=np.uint8 if bits <= 8 else np.uint16)


def colour(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8)


def dataset(pixels: np.ndarray, kind: str = "MONOCHROME2", bits: int | None = None, **tags: object) -> Dataset:
    out, depth = Dataset(), pixels.dtype.itemsize * 8
    out.SOPClassUID, out.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    out.PatientName, out.PatientID = "Secret^Name", "secret-number"
    out.Rows, out.Columns = pixels.shape[:2] if pixels.ndim == 2 or pixels.shape[-1] == 3 else pixels.shape[1:]
    out.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    if out.SamplesPerPixel == 3:
        out.PlanarConfiguration = 0
    out.PhotometricInterpretation, out.BitsAllocated, out.BitsStored = kind, depth, bits or depth
    out.HighBit, out.PixelRepresentation = out.BitsStored - 1, int(pixels.dtype.kind == "i")
    out.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(out, name, value)
    return out


def stored(data: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """A file with preamble."""
    data.file_meta, buffer = FileMetaDataset(), io.BytesIO()
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def bare(data: Dataset, implicit: bool = True) -> bytes:
    """A file without preamble and without a word about its syntax."""
    buffer = io.BytesIO()
    data.save_as(buffer, implicit_vr=implicit, little_endian=True)
    return buffer.getvalue()


def refused(content: bytes, data: Data) -> Unreadable:
    with pytest.raises(Unreadable) as error:
        decode(content, "x.dcm", data)
    assert error.value.code.isidentifier() and error.value.remedy
    return error.value


# Values


def test_values_come_as_they_are_stored(data):
    raw = grey()
    seen = decode(stored(dataset(raw, bits=12)), "x.dcm", data())
    assert seen.pixels.dtype == np.float32 and np.array_equal(seen.pixels[..., 0], raw)
    assert seen.notes == ("dicom",) and seen.window is None


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_the_order_of_bytes_does_not_matter(data, syntax):
    raw = grey()
    content = raw.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
    seen = decode(stored(dataset(raw, bits=12, PixelData=content), syntax), "x.dcm", data())
    assert np.array_equal(seen.pixels[..., 0], raw)


def test_slope_and_intercept_are_applied(data):
    raw = (grey() - 2048.0).astype(np.int16)
    content = stored(dataset(raw, RescaleSlope="2.5", RescaleIntercept="-1024"))
    assert np.allclose(decode(content, "x", data()).pixels[..., 0], raw * 2.5 - 1024)


@pytest.mark.parametrize("place", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_an_enhanced_file_has_them_and_its_window_in_groups(data, place):
    values, shown, frame = Dataset(), Dataset(), Dataset()
    values.RescaleSlope, values.RescaleIntercept = "2", "-1024"
    shown.WindowCenter, shown.WindowWidth = "40", "400"
    frame.PixelValueTransformationSequence, frame.FrameVOILUTSequence = [values], [shown]
    raw = grey()
    seen = decode(stored(dataset(raw, bits=12, **{place: [frame]})), "x", data())
    assert np.allclose(seen.pixels[..., 0], raw * 2.0 - 1024) and seen.window == (-160, 240)


@pytest.mark.parametrize("tags", [{"RescaleSlope": None}, {"RescaleIntercept": None}, {"WindowCenter": None}])
def test_tags_without_a_value_count_as_missing(data, tags):
    raw = grey()
    seen = decode(stored(dataset(raw, **tags)), "x", data())
    assert np.array_equal(seen.pixels[..., 0], raw) and seen.window is None


@pytest.mark.parametrize("tags", [{"RescaleSlope": "nan"}, {"RescaleIntercept": "inf"}, {"RescaleSlope": "1e300"}])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_values_that_are_no_numbers_are_refused(data, tags):
    assert refused(stored(dataset(grey(), **tags)), data()).code in ("non_finite", "broken")


@pytest.mark.parametrize("signed", [False, True])
def test_monochrome1_is_inverted_within_the_range_that_it_can_store(data, signed):
    raw = (grey() - 2048.0).astype(np.int16) if signed else grey()
    one = decode(stored(dataset(raw, "MONOCHROME1", bits=12)), "x", data())
    assert one.notes == ("dicom", "inverted")
    assert np.array_equal(one.pixels[..., 0], -1.0 - raw if signed else 4095.0 - raw)


@pytest.mark.parametrize("scale", ["auto", "full", "window", "percentiles"])
@pytest.mark.parametrize(
    "tags", [{}, {"WindowCenter": 2000, "WindowWidth": 1000}, {"RescaleSlope": 2, "RescaleIntercept": -9}]
)
def test_both_ways_to_store_a_picture_look_alike(data, scale, tags):
    """The negative of a picture, marked as such, is shown like the picture."""
    raw = grey()
    block = data(scale=scale, window=(500.0, 3000.0))
    window = {**tags, "WindowCenter": 4095 - tags["WindowCenter"]} if "WindowCenter" in tags else tags
    if scale == "window":
        block_of_negative = data(scale=scale, window=(1095.0, 3595.0))
        if "RescaleSlope" in tags:
            block_of_negative = data(scale=scale, window=(2 * 4095 - 18 - 3000.0, 2 * 4095 - 18 - 500.0))
    else:
        block_of_negative = block
    plain = decode(stored(dataset(raw, bits=12, **tags)), "x", block)
    turned = decode(stored(dataset(4095 - raw, "MONOCHROME1", bits=12, **window)), "x", block_of_negative)
    assert plain.window == turned.window and np.array_equal(plain.pixels, turned.pixels)
    assert np.array_equal(to_bytes(plain, (0.0, 4095.0)), to_bytes(turned, (0.0, 4095.0)))


def test_low_values_are_dark_and_high_values_bright_except_in_monochrome1(data):
    raw = np.tile(np.linspace(0, 4095, 12).astype(np.uint16), (10, 1))
    for scale in ("auto", "full", "window"):
        block = data(scale=scale, window=(0.0, 4095.0))
        for kind, rising in (("MONOCHROME2", True), ("MONOCHROME1", False)):
            tags = {"WindowCenter": 2048, "WindowWidth": 4096}
            shown = to_bytes(decode(stored(dataset(raw, kind, bits=12, **tags)), "x", block), None)[0, :, 0]
            assert (np.diff(shown.astype(int)) > 0).all() if rising else (np.diff(shown.astype(int)) < 0).all()
            assert shown.min() <= 1 and shown.max() >= 254


# Windows


def test_the_files_own_window_counts_under_auto_alone(data):
    content = stored(dataset(grey(), bits=12, WindowCenter=300, WindowWidth=100))
    assert decode(content, "x", data(scale="auto")).window == (250, 350)
    assert decode(content, "x", data(scale="percentiles")).window is None
    assert decode(content, "x", data(scale="full")).window == (0, 4095)
    assert decode(content, "x", data(scale="window", window=(7.0, 8.0))).window == (7, 8)


def test_the_first_of_several_windows_is_taken(data):
    content = stored(dataset(grey(), WindowCenter=[300, 40], WindowWidth=[100, 400]))
    assert decode(content, "x", data()).window == (250, 350)


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 300},
        {"WindowWidth": 100},
        {"WindowCenter": 300, "WindowWidth": 0},
        {"WindowCenter": 300, "WindowWidth": -5},
        {"WindowCenter": "nan", "WindowWidth": 9},
        {"WindowCenter": 300, "WindowWidth": "inf"},
        {"WindowCenter": [], "WindowWidth": []},
        {"WindowCenter": "", "WindowWidth": ""},
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_window_that_means_nothing_counts_as_none(data, tags):
    raw = grey()
    seen = decode(stored(dataset(raw, **tags)), "x", data())
    assert seen.window is None and np.array_equal(seen.pixels[..., 0], raw)


@pytest.mark.parametrize(
    ("raw", "bits", "tags", "window"),
    [
        (grey(8), 8, {}, (0, 255)),
        (grey(), 12, {}, (0, 4095)),
        (grey(), 16, {}, (0, 65535)),
        ((grey() - 2048.0).astype(np.int16), 12, {}, (-2048, 2047)),
        (grey(), 12, {"RescaleSlope": 2, "RescaleIntercept": -100}, (-100, 8090)),
        (grey(), 12, {"RescaleSlope": -1, "RescaleIntercept": 0}, (-4095, 0)),
    ],
)
def test_the_full_range_is_that_of_the_bits_stored(data, raw, bits, tags, window):
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        assert decode(stored(dataset(raw, kind, bits=bits, **tags)), "x", data(scale="full")).window == window


# Colour


@pytest.mark.parametrize("planar", [0, 1])
def test_colour_is_rgb(data, planar):
    raw = colour()
    content = np.moveaxis(raw, 2, 0).tobytes() if planar else raw.tobytes()
    seen = decode(stored(dataset(raw, "RGB", PlanarConfiguration=planar, PixelData=content)), "x", data())
    assert seen.pixels.dtype == np.uint8 and np.array_equal(seen.pixels, raw) and seen.window is None


def test_brightness_and_colour_differences_become_rgb_once(data):
    raw = colour()
    content = stored(dataset(convert_color_space(raw, "RGB", "YBR_FULL"), "YBR_FULL"))
    assert np.abs(decode(content, "x", data()).pixels.astype(int) - raw).max() <= 2


def test_palettes_and_deep_colour_are_refused_and_not_guessed(data):
    assert refused(stored(dataset(grey(8), "PALETTE COLOR")), data()).code in ("layout", "broken")
    assert refused(stored(dataset(colour().astype(np.uint16) * 257, "RGB")), data()).code == "layout"


# Ways to store


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_preamble_is_read_by_its_name(data, implicit):
    raw = grey()
    content = bare(dataset(raw), implicit)
    assert content[128:132] != b"DICM"
    for name in ("x.dcm", "x.DICOM"):
        assert np.array_equal(decode(content, name, data()).pixels[..., 0], raw)
    with pytest.raises(Unreadable) as error:
        decode(content, "x.png", data())
    assert error.value.code == "unreadable"


def test_a_wrong_ending_is_noted(data):
    content = stored(dataset(grey()))
    for name, noted in (("x.dcm", False), ("x", False), ("x.png", True), ("x.tif", True)):
        assert ("wrong_extension" in decode(content, name, data()).notes) is noted


def jpeg(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"irreversible": False} if kind == "JPEG2000" else {"quality": 95}))
    return buffer.getvalue()


def test_what_a_decoder_is_there_for_is_read(data):
    raw, block, buffer = grey(8, size=(16, 16)), data(), io.BytesIO()
    packed = pydicom.dcmread(io.BytesIO(stored(dataset(raw))))
    packed.compress(RLELossless)
    packed.save_as(buffer)
    assert np.array_equal(decode(buffer.getvalue(), "x", block).pixels[..., 0], raw)
    smooth = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8
    for syntax, kind, apart in ((JPEGBaseline8Bit, "JPEG", 4), (JPEG2000Lossless, "JPEG2000", 0)):
        content = dataset(smooth, PixelData=encapsulate([jpeg(smooth, kind)]))
        content["PixelData"].VR = "OB"
        assert np.abs(decode(stored(content, syntax), "x", block).pixels[..., 0] - smooth).max() <= apart


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (JPEGLSLossless, "JPEG-LS"),
        (JPEGLossless, "JPEG Lossless"),
        (HTJ2KLossless, "High-Throughput"),
        (MPEG2MPML, "MPEG2"),
    ],
)
def test_a_codec_without_decoder_is_named(data, monkeypatch, syntax, name):
    if syntax != MPEG2MPML:  # for which there never is one
        monkeypatch.setattr(dicom, "decodable", lambda syntax: False)
    content = dataset(grey(), PixelData=encapsulate([bytes(100)]))
    content["PixelData"].VR = "OB"
    error = refused(stored(content, syntax), data())
    assert error.code == "codec" and name in error.remedy and "uncompressed" in error.remedy


def test_a_deflated_file_is_refused_before_it_is_inflated(data, monkeypatch):
    content = stored(dataset(np.zeros((5000, 5000), np.uint16)), DeflatedExplicitVRLittleEndian)
    assert len(content) < 200_000
    monkeypatch.setattr(zlib, "decompress", lambda *_: pytest.fail("inflated"))
    error = refused(content, data())
    assert error.code == "codec" and "Deflated" in error.remedy


def test_several_frames_are_refused_or_the_first_is_taken(data):
    raw = np.stack([grey(seed=0), grey(seed=1)])
    content = stored(dataset(raw, NumberOfFrames=2))
    error = refused(content, data())
    assert error.code == "frames" and "2 frames" in error.remedy
    seen = decode(content, "x", data(frames="first"))
    assert np.array_equal(seen.pixels[..., 0], raw[0]) and "first_frame" in seen.notes
    assert "first_frame" not in decode(stored(dataset(raw[0], NumberOfFrames=1)), "x", data()).notes


# What cannot be used


def test_a_file_without_pixels_says_so(data):
    report = dataset(grey())
    del report.PixelData
    assert refused(stored(report), data()).code == "no_pixels"
    nothing = dataset(grey())
    del nothing.Rows
    assert refused(stored(nothing), data()).code == "no_pixels"


def test_a_header_that_claims_too_much_is_not_decoded(data):
    for rows, columns in ((60_000, 60_000), (65_535, 65_535), (6_400, 6_300)):
        error = refused(stored(dataset(grey(), Rows=rows, Columns=columns)), data())
        assert error.code == "too_large" and f"{columns}x{rows}" in error.remedy
    assert decode(stored(dataset(grey())), "x", data(max_pixels=120)).pixels.shape == (10, 12, 1)


@pytest.mark.parametrize(("syntax", "kind"), [(JPEGBaseline8Bit, "JPEG"), (JPEG2000Lossless, "JPEG2000")])
def test_a_frame_larger_than_its_tags_say_is_not_decoded(data, monkeypatch, syntax, kind):
    content = dataset(grey(8), PixelData=encapsulate([jpeg(np.zeros((3000, 2000), np.uint8), kind)]))
    content["PixelData"].VR = "OB"
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert "2000x3000, its tags say 12x10" in refused(stored(content, syntax), data()).remedy


def test_a_table_of_offsets_does_not_lead_past_the_frame_that_is_looked_at(data, monkeypatch):
    first, second = jpeg(grey(8), "JPEG"), jpeg(np.zeros((3000, 2000), np.uint8), "JPEG")
    content = dataset(grey(8), NumberOfFrames=2, PixelData=encapsulate([first, second], has_bot=False))
    content["PixelData"].VR = "OB"
    start = 8 + len(first) + len(first) % 2
    content.ExtendedOffsetTable = struct.pack("<2Q", start, 0)
    content.ExtendedOffsetTableLengths = struct.pack("<2Q", len(second) + len(second) % 2, start - 8)
    seen = decode(stored(content, JPEGBaseline8Bit), "x.dcm", data(frames="first"))
    assert seen.pixels.shape == (10, 12, 1) and "first_frame" in seen.notes


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_jpeg_2000_header_whose_box_has_no_length_ends(data, length):
    frame = jpeg(grey(16), "JPEG2000")
    assert frame[12:20] == b"\0\0\0\x14ftyp"
    content = dataset(grey(16), PixelData=encapsulate([frame[:12] + struct.pack(">I", length) + frame[16:]]))
    content["PixelData"].VR = "OB"
    error = refused(stored(content, JPEG2000Lossless), data())
    assert error.code == "broken" and f"has the length {length};" in error.remedy


def test_what_the_decoder_warns_of_is_not_said_for_it_quotes_the_file(data, recwarn):
    content = stored(dataset(grey())).replace(ExplicitVRLittleEndian.encode(), b"Secret^Name 1.2 \x1b[31m"[:19])
    assert refused(content, data()).code == "broken" and not recwarn.list


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_pixels_that_are_cut_off_are_refused(data, share):
    whole = stored(dataset(grey()))
    start = whole.index(grey().tobytes())
    assert refused(whole[: start + int((len(whole) - start) * share)], data()).code in ("broken", "no_pixels")


def test_small_long_and_blank_pictures_are_refused_like_any_other(data):
    assert refused(stored(dataset(grey(size=(2, 2)))), data()).code == "too_small"
    assert refused(stored(dataset(grey(size=(4, 100)))), data()).code == "aspect"
    assert refused(stored(dataset(np.full((9, 9), 7, np.uint16))), data()).code == "blank"


@pytest.mark.parametrize(
    "tags",
    [
        {"BitsAllocated": 7},
        {"SamplesPerPixel": 2},
        {"PhotometricInterpretation": "WHATEVER"},
        {"NumberOfFrames": -1},
        {"BitsStored": 40},
        {"PixelRepresentation": 9},
        {"Rows": 0},
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tags_that_contradict_the_pixels_never_escape(data, tags):
    survives(stored(dataset(grey(), **tags)), data())


def test_nothing_that_names_a_patient_is_kept(data):
    seen = decode(stored(dataset(grey(), WindowCenter=9, WindowWidth=4)), "x.dcm", data())
    assert (
        isinstance(seen, Picture) and type(seen.pixels) is np.ndarray and "ecret" not in str(seen.notes + seen.window)
    )
    broken = dataset(grey(), Rows=60_000, Columns=60_000)
    assert "ecret" not in refused(stored(broken), data()).remedy


# Anything at all


def survives(content: bytes, data: Data) -> None:
    try:
        seen = decode(content, "x.dcm", data)
    except Unreadable as error:
        assert error.code.isidentifier() and error.remedy
    else:
        assert seen.pixels.ndim == 3 and seen.pixels.shape[2] in (1, 3) and np.isfinite(seen.pixels).all()
        assert seen.window is None or seen.window[0] < seen.window[1]


def whole(name: str) -> bytes:
    tags = {"WindowCenter": 100, "WindowWidth": 50, "RescaleSlope": 2, "RescaleIntercept": 1}
    if name == "packed":
        content = dataset(grey(8, size=(16, 16)), PixelData=encapsulate([jpeg(grey(8, size=(16, 16)), "JPEG")]))
        content["PixelData"].VR = "OB"
        return stored(content, JPEGBaseline8Bit)
    return {
        "explicit": lambda: stored(dataset(grey(), **tags)),
        "implicit": lambda: stored(dataset(grey(), "MONOCHROME1", **tags), ImplicitVRLittleEndian),
        "bare": lambda: bare(dataset(grey(), **tags)),
        "colour": lambda: stored(dataset(colour(), "YBR_FULL")),
        "frames": lambda: stored(dataset(np.stack([grey(), grey(seed=1)]), NumberOfFrames=2)),
        "deflated": lambda: stored(dataset(grey()), DeflatedExplicitVRLittleEndian),
    }[name]()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["explicit", "implicit", "bare", "colour", "frames", "deflated", "packed"])
def test_any_damage_gives_a_picture_or_unreadable(data, name):
    content, rng = whole(name), np.random.default_rng(0)
    blocks = [data(), data(frames="first", scale="full")]
    head = content.index(b"DICM") if b"DICM" in content else 0
    for trial in range(250):
        part = bytearray(content)
        if trial % 4 == 0:
            part = part[: rng.integers(head + 1, len(part))]
        for _ in range(rng.integers(1, 5) if trial % 4 else 0):
            place = rng.integers(head, min(len(part), head + 700) if trial % 4 < 3 else len(part))
            part[place] = rng.integers(256) if trial % 2 else part[place] ^ (1 << rng.integers(8))
        survives(bytes(part), blocks[trial % 2])


@pytest.mark.filterwarnings("ignore")
def test_any_bytes_after_the_preamble_give_unreadable(data):
    rng = np.random.default_rng(1)
    for trial in range(400):
        element = struct.pack("<HH2sH", rng.choice([2, 8, 40, 32736]), rng.integers(64), b"UI", rng.integers(90))
        start = [bytes(128) + b"DICM", b"\x08\0\x05\0", bytes(128) + b"DICM" + element][trial % 3]
        survives(start + rng.bytes(rng.integers(0, 500)), data())


# Files as scanners and converters write them


@pytest.mark.parametrize(
    ("name", "shape", "low", "high"),
    [
        ("CT_small.dcm", (128, 128, 1), -896, 1167),
        ("MR_small.dcm", (64, 64, 1), 127, 2145),
        ("MR_small_RLE.dcm", (64, 64, 1), 127, 2145),
        ("MR_small_bigendian.dcm", (64, 64, 1), 127, 2145),
        ("MR_small_jp2klossless.dcm", (64, 64, 1), 127, 2145),
        ("JPEG2000.dcm", (1024, 256, 1), None, None),
        ("SC_rgb_rle.dcm", (100, 100, 3), 0, 255),
        ("SC_rgb_jpeg_dcmtk.dcm", (100, 100, 3), 0, 255),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_real_files_are_read(data, name, shape, low, high):
    seen = decode(REAL / name, name, data())
    assert seen.pixels.shape == shape and np.isfinite(seen.pixels).all()
    assert low is None or (seen.pixels.min(), seen.pixels.max()) == (low, high)


def test_one_picture_in_several_codings_of_real_files_is_the_same(data):
    plain = decode(REAL / "MR_small.dcm", "x.dcm", data()).pixels
    for name in ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"):
        assert np.array_equal(decode(REAL / name, name, data()).pixels, plain), name


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("JPEG-lossy.dcm", "codec", "12 bits compressed as JPEG Extended"),
        ("JPGExtended.dcm", "codec", "12 bits compressed as JPEG Extended"),
        ("MR_small_jpeg_ls_lossless.dcm", "codec", "JPEG-LS Lossless"),
        ("SC_rgb_jpeg_gdcm.dcm", "codec", "JPEG Lossless"),
        ("image_dfl.dcm", "codec", "Deflated"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "too_large", "claims far more than its tags, 256x1024"),
        ("GDCMJ2K_TextGBR.dcm", "broken", "fetch it again"),  # not the bare stream that the standard asks for
        ("MR_truncated.dcm", "broken", "fetch it again"),
        ("no_meta.dcm", "unreadable", "begins with"),  # a stray byte stands before its first tag
        ("reportsi.dcm", "no_pixels", "remove it"),
        ("examples_palette.dcm", "layout", "PALETTE COLOR"),
        ("rtdose.dcm", "frames", "15 frames"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_real_files_that_cannot_be_used_say_why(data, name, code, says):
    decoders = pydicom.pixels.get_decoder(JPEGExtended12Bit).available_plugins
    if code == "codec" and name != "image_dfl.dcm" and decoders != ("pillow",):
        pytest.skip("a plug-in reads it")
    with pytest.raises(Unreadable) as error:
        decode(REAL / name, name, data())
    assert error.value.code == code and says in error.value.remedy
