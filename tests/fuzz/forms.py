"""Small valid files of every kind that is read, and what may happen to their bytes."""

import io
import struct
import zipfile
import zlib
from functools import cache

import cv2
import numpy as np
import pandas as pd
import tifffile
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
)

SIDE = 12


def pixels(*shape: int, most: int = 255, kind: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, shape, endpoint=True).astype(kind)


GREY, COLOUR, CLEAR = pixels(SIDE, SIDE + 2), pixels(SIDE, SIDE + 2, 3), pixels(SIDE, SIDE + 2, 4)
DEEP = pixels(SIDE, SIDE + 2, most=65535, kind=np.uint16)
DEEP_COLOUR = pixels(SIDE, SIDE + 2, 3, most=65535, kind=np.uint16)


def saved(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(out, kind, **options)
    return out.getvalue()


def tiff(image: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, image, **options)
    return out.getvalue()


def opencv(image: np.ndarray, ending: str) -> bytes:
    return cv2.imencode(ending, image)[1].tobytes()


def dicom(image: np.ndarray, syntax: str = ExplicitVRLittleEndian, packed: bytes = b"", **tags: object) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    ends = {"is_implicit_VR": syntax == ImplicitVRLittleEndian, "is_little_endian": syntax != ExplicitVRBigEndian}
    file = FileDataset("x.dcm", {}, file_meta=meta, preamble=b"\0" * 128, **ends)
    bits = image.dtype.itemsize * 8
    usual = {
        "Rows": image.shape[0], "Columns": image.shape[1], "SamplesPerPixel": 1, "BitsAllocated": bits, "BitsStored": bits,
        "HighBit": bits - 1, "PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME2",
    }  # fmt: skip
    for name, value in {**usual, **tags}.items():
        setattr(file, name, value)
    file.PixelData = encapsulate([packed]) if packed else image.tobytes()
    file["PixelData"].VR = "OW" if bits == 16 else "OB"
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


@cache
def pictures() -> dict[str, bytes]:
    """Files by names that have their usual endings."""
    palette = Image.fromarray(COLOUR).convert("P")
    frames = [Image.fromarray(pixels(SIDE, SIDE, seed=i)) for i in range(3)]
    exif = Image.Exif()
    exif[274] = 6
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    rle = dicom_rle()
    return {
        "grey.png": saved(GREY, "PNG"),
        "colour.png": saved(COLOUR, "PNG", exif=exif),
        "clear.png": saved(CLEAR, "PNG"),
        "bilevel.png": saved(Image.fromarray(GREY).convert("1"), "PNG"),
        "palette.png": saved(palette, "PNG", transparency=3),
        "deep.png": saved(DEEP, "PNG"),
        "deep_colour.png": opencv(DEEP_COLOUR, ".png"),
        "moving.png": saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "grey.jpg": saved(GREY, "JPEG"),
        "colour.jpg": saved(COLOUR, "JPEG", exif=exif),
        "progressive.jpg": saved(COLOUR, "JPEG", progressive=True),
        "cmyk.jpg": saved(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
        "two.jpg": saved(frames[0].convert("RGB"), "MPO", save_all=True, append_images=[frames[1].convert("RGB")]),
        "one.gif": saved(palette, "GIF"),
        "moving.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "grey.tif": saved(GREY, "TIFF"),
        "colour.tif": saved(COLOUR, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": saved(COLOUR, "TIFF", compression="jpeg"),
        "packed.tif": saved(COLOUR, "TIFF", compression="tiff_deflate"),
        "fax.tif": saved(Image.fromarray(GREY).convert("1"), "TIFF", compression="group4"),
        "deep.tif": tiff(DEEP),
        "signed.tif": tiff(DEEP.astype(np.int16)),
        "wide.tif": tiff(DEEP.astype(np.uint32) * 60000),
        "float.tif": tiff(DEEP.astype(np.float32) / 7),
        "deep_colour.tif": tiff(DEEP_COLOUR, photometric="rgb"),
        "deep_clear.tif": tiff(np.dstack([DEEP_COLOUR, DEEP]), photometric="rgb", extrasamples=["unassalpha"]),
        "planes.tif": tiff(np.moveaxis(COLOUR, 2, 0), photometric="rgb", planarconfig="separate"),
        "tiles.tif": tiff(pixels(40, 40), tile=(16, 16)),
        "pages.tif": saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "big.tif": tiff(GREY, bigtiff=True),
        "colour.bmp": saved(COLOUR, "BMP"),
        "palette.bmp": saved(palette, "BMP"),
        "bilevel.bmp": saved(Image.fromarray(GREY).convert("1"), "BMP"),
        "lossy.webp": saved(COLOUR, "WEBP"),
        "lossless.webp": saved(CLEAR, "WEBP", lossless=True),
        "moving.webp": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "grey.pgm": saved(GREY, "PPM"),
        "deep.pgm": saved(DEEP, "PPM"),
        "colour.ppm": saved(COLOUR, "PPM"),
        "plain.ppm": f"P3 4 4 255\n{' '.join(map(str, COLOUR[:4, :4].ravel()))}\n".encode(),
        "explicit.dcm": dicom(DEEP, WindowCenter=30000, WindowWidth=20000, RescaleSlope=2, RescaleIntercept=-100),
        "implicit.dcm": dicom(DEEP, ImplicitVRLittleEndian, PhotometricInterpretation="MONOCHROME1"),
        "other_end.dcm": dicom(DEEP.byteswap(), ExplicitVRBigEndian),
        "signed.dcm": dicom(DEEP, PixelRepresentation=1, BitsStored=12, HighBit=11),
        "colour.dcm": dicom(COLOUR, **colour),
        "frames.dcm": dicom(GREY, NumberOfFrames=1),
        "jpeg.dcm": dicom(GREY, JPEGBaseline8Bit, saved(GREY, "JPEG")),
        "jpeg2000.dcm": dicom(DEEP, JPEG2000Lossless, saved(DEEP, "JPEG2000")),
        "rle.dcm": rle,
        "bare.dcm": dicom(DEEP, ImplicitVRLittleEndian)[132:],
    }


def dicom_rle() -> bytes:
    from pydicom.pixels.encoders import RLELosslessEncoder

    packed = RLELosslessEncoder.encode(GREY, rows=GREY.shape[0], columns=GREY.shape[1], samples_per_pixel=1,
                                       bits_allocated=8, bits_stored=8, pixel_representation=0, number_of_frames=1,
                                       photometric_interpretation="MONOCHROME2")  # fmt: skip
    return dicom(GREY, RLELossless, packed)


def arrays() -> dict[str, bytes]:
    """Members of an archive in MedMNIST layout."""
    found: dict[str, bytes] = {}
    for seed, (split, n) in enumerate({"train": 12, "val": 6, "test": 6}.items()):
        for name, array in {"images": pixels(n, 8, 8, seed=seed), "labels": np.arange(n)[:, None] % 2}.items():
            out = io.BytesIO()
            np.save(out, array)
            found[f"{split}_{name}.npy"] = out.getvalue()
    return found


def archive(members: dict[str, bytes], packed: bool = True) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, compress_type=file.compression)
    return out.getvalue()


def idx() -> dict[str, bytes]:
    found = {}
    for prefix, n in {"train": 12, "t10k": 6}.items():
        found[f"{prefix}-images-idx3-ubyte"] = (
            struct.pack(">4B3I", 0, 0, 8, 3, n, 8, 8) + pixels(n, 8, 8, seed=n).tobytes()
        )
        found[f"{prefix}-labels-idx1-ubyte"] = struct.pack(">4BI", 0, 0, 8, 1, n) + bytes(i % 2 for i in range(n))
    return found


def parquet(**options: object) -> bytes:
    out = io.BytesIO()
    images = [{"bytes": saved(pixels(8, 8, seed=i), "PNG"), "path": f"{i}.png"} for i in range(8)]
    pd.DataFrame({"image": images, "label": [i % 2 for i in range(8)]}).to_parquet(out, **options)
    return out.getvalue()


# What may happen to bytes

NUMBERS = [
    0,
    1,
    2,
    7,
    8,
    16,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
]
SMALL = st.binary(min_size=1, max_size=12)
MAGIC = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0", b"MM\0*", b"BM", b"RIFF", b"P6 ", b"DICM", b"PK\3\4", b"PAR1",
         b"\x1f\x8b", b"<!doctype html>", b"\xef\xbb\xbf", b"\0" * 128]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, content: bytes, others: tuple[bytes, ...] = ()) -> bytes:
    """These bytes cut, flipped, spliced, or with other numbers in them; headers are hit as often as all the rest."""
    for _ in range(draw(st.integers(1, 5))):
        n = len(content)
        place = draw(st.integers(0, min(n, 160)) | st.integers(0, n))
        end = draw(st.integers(place, min(n, place + 64)))
        match draw(
            st.sampled_from(
                ("flip", "put", "put", "number", "number", "cut", "drop", "insert", "repeat", "splice", "before")
            )
        ):
            case "flip" if place < n:
                content = (
                    content[:place] + bytes([content[place] ^ (1 << draw(st.integers(0, 7)))]) + content[place + 1 :]
                )
            case "put":
                new = draw(SMALL)
                content = content[:place] + new + content[place + len(new) :]
            case "number":
                size, order = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from(("little", "big")))
                number = draw(st.sampled_from(NUMBERS) | st.integers(0, 2**32))
                new = (number % (1 << 8 * size)).to_bytes(size, order)
                content = content[:place] + new + content[place + size :]
            case "cut":
                content = content[:place]
            case "drop":
                content = content[:place] + content[end:]
            case "insert":
                content = content[:place] + draw(SMALL) + content[place:]
            case "repeat":
                content = content[:end] + content[place:end] * draw(st.integers(1, 20)) + content[end:]
            case "splice" if others:
                other = draw(st.sampled_from(others))
                content = content[:place] + other[draw(st.integers(0, len(other))) :]
            case "before":
                content = draw(st.sampled_from(MAGIC) | SMALL) + content
    return content


def mended(content: bytes) -> bytes:
    """A PNG with the checksums that its chunks should have, so that what stands in them is looked at."""
    out, place = content[:8], 8
    while place + 12 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        body = content[place + 4 : place + 8 + size]
        if len(body) < 4 + size:
            break
        out += content[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + size
    return out + content[place:]
