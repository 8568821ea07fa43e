"""Guarded decoders: one image file or its bytes to pixels, read by content, bounded by its header, never by its name."""

import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.data.sources import dicom
from pipeline.data.sources.base import Picture, Unreadable, check_shape, deep
from pipeline.params import Data

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm"), "PPM"),
    **{".png": "PNG", ".bmp": "BMP", ".webp": "WEBP", ".gif": "GIF"},
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
}
TURNS = {  # EXIF orientation -> how the stored pixels become upright
    2: lambda raw: raw[:, ::-1],
    3: lambda raw: raw[::-1, ::-1],
    4: lambda raw: raw[::-1],
    5: lambda raw: raw.swapaxes(0, 1),
    6: lambda raw: np.rot90(raw, -1),
    7: lambda raw: raw[::-1, ::-1].swapaxes(0, 1),
    8: lambda raw: np.rot90(raw),
}


@dataclass(frozen=True)
class Files:
    """Loads files below `root` by their relative path."""

    root: Path
    data: Data

    def __call__(self, path: str) -> Picture:
        return decode(self.root / path, path, self.data)


def decode(file: Path | bytes, name: str, data: Data) -> Picture:
    """The pixels of an image file, upright; `name` only serves to notice a wrong ending. Raises Unreadable."""
    with _open(file) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a decoder's warning may quote the file's tags; and our cap is below Pillow's
        head = stream.read(132)
        if not head:
            raise Unreadable("empty", "the file has no bytes; fetch it again")
        stream.seek(0)
        if dicom.accepts(head, name):
            picture, kind = dicom.decode(stream, data), "DICOM"
        else:
            picture, kind = _decode(stream, head, data)
    suffix = Path(name).suffix.lower()
    if suffix in SUFFIXES and SUFFIXES[suffix] != kind:
        picture = picture._replace(notes=(*picture.notes, "wrong_extension"))
    check_shape(picture.pixels, data, "alpha" in picture.notes)
    return picture


def _open(file: Path | bytes) -> BinaryIO:
    """Only regular files are opened: a pipe would wait for ever. Raises Unreadable."""
    try:
        if isinstance(file, Path) and not file.is_file():
            what = "remove it; only regular files are read" if file.exists() else "it does not exist; correct the path"
            raise Unreadable("not_a_file", what)
        return file.open("rb") if isinstance(file, Path) else io.BytesIO(file)
    except OSError as error:
        raise Unreadable("unreadable", f"{error.strerror}; check its name and permissions") from None


def _decode(stream: BinaryIO, head: bytes, data: Data) -> tuple[Picture, str]:
    try:
        with Image.open(stream, formats=FORMATS) as image:
            if image.width * image.height > data.max_pixels:
                raise Unreadable("too_large", f"{image.width}x{image.height} is above data.max_pixels")
            several = _several(image)
            if several and data.frames == "refuse":
                raise Unreadable(
                    "frames", "several frames in one file; store the one to use, or set data.frames: first"
                )
            notes: tuple[str, ...] = ("first_frame",) if several else ()
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            notes += ("turned",) if image.getexif().get(274, 1) in TURNS else ()
            notes += ("synthetic",) if image.info.get("synthetic") == "true" else ()  # as `make export` marks a PNG
            if _is_deep(image, head):
                return _deep(image, stream, notes, data), kind
            image.load()
            plain, more = _plain(image, data.background)
            pixels = _upright(np.asarray(plain, np.uint8), image)
            return Picture(pixels.reshape(*pixels.shape[:2], -1), notes + more), kind
    except UnidentifiedImageError:
        raise Unreadable("unreadable", f"no image, or of a kind that is not read; begins with {head[:8]!r}") from None
    except Image.DecompressionBombError:
        raise Unreadable("too_large", "the header claims far more than data.max_pixels") from None
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error) as error:
        # all that Pillow raises for bad bytes
        code = "truncated" if isinstance(error, OSError | EOFError) else "broken"
        raise Unreadable(code, f"{error}; fetch it again, or convert it") from None


def _upright(raw: np.ndarray, image: Image.Image) -> np.ndarray:
    """Pixels as they were stored, turned as the EXIF of a picture says that is loaded; Pillow turns a TIFF itself."""
    turn = TURNS.get(image.getexif().get(274, 1))
    return np.ascontiguousarray(turn(raw)) if turn else raw


def _several(image: Image.Image) -> bool:
    """Whether there are more frames than one; the pages of a TIFF are not counted, for that walks the whole chain.

    A photograph has a preview or a map of its depth behind it (MPO), which is no frame.
    """
    if image.format == "MPO":
        several = False
    elif image.format != "TIFF":
        several = getattr(image, "n_frames", 1) > 1
    else:
        try:
            image.seek(1)
            several = True
        except EOFError:
            several = False
    image.seek(0)
    return several


def _is_deep(image: Any, head: bytes) -> bool:
    """More than 8 bits a channel, also where Pillow would hand out 8 of 16 without a word."""
    if image.format == "PNG":
        return head[24] > 8
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (8,))
        if 2 in image.tag_v2.get(339, ()) and 8 in (bits if isinstance(bits, tuple) else (bits,)):
            raise Unreadable("depth", "signed pixels of 8 bits, which Pillow reads as unsigned; convert it to 16 bits")
        return max(bits if isinstance(bits, tuple) else (bits,)) > 8
    if image.format == "PPM" and image.mode == "RGB":
        most = image.tile[0].args
        if isinstance(most, tuple) and most[-1] > 255:
            raise Unreadable("depth", "more than 8 bits a channel in a colour PPM; convert it to PNG or TIFF")
    return image.mode.startswith(("I", "F"))


def _deep(image: Any, stream: BinaryIO, notes: tuple[str, ...], data: Data) -> Picture:
    """Grey through Pillow, colour through OpenCV, once Pillow has read all of it: OpenCV is silent about what is cut off."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    if image.mode == "CMYK" or (tags.get(284) == 2 and "R" in image.getbands()):
        raise Unreadable("layout", "more than 8 bits a channel in CMYK or in planes; convert it to interleaved RGB")
    clear = "A" in image.getbands() or "transparency" in image.info
    image.load()
    if image.mode.startswith(("I", "F")):
        if clear:
            raise Unreadable("layout", "deep grey with one transparent level; store it without transparency")
        raw = _upright(np.asarray(image), image)
        if tags.get(258) == (16,) and tags.get(339) == (2,):
            raw = raw.astype(np.int16)
        if image.format == "PPM" and image.mode == "I":
            raw = raw.astype(np.uint16)
        if tags.get(258) == (32,) and tags.get(339, (1,)) == (1,):
            raw = raw.view(np.uint32)
    else:
        stream.seek(0)
        raw = _upright(_opencv(stream.read()), image)
    if tags.get(262) == 0:  # white is zero
        if raw.dtype.kind != "u":
            raise Unreadable("layout", "signed or float pixels in which white is zero; convert it to black is zero")
        raw = (1 << max(tags[258])) - 1 - raw
    if raw.ndim == 3 and raw.shape[2] == 4:
        if clear:
            raw, notes = _on(raw, data.background, tags.get(338) == (1,)), (*notes, "alpha")
        else:
            raw, notes = raw[..., :3], (*notes, "fourth_dropped")
    if raw.ndim not in (2, 3) or (raw.ndim == 3 and raw.shape[2] not in (1, 3)):
        raise Unreadable("layout", f"pixels of shape {raw.shape}; expected one or three channels")
    if raw.dtype.kind not in "uif":
        raise Unreadable("depth", f"pixels of type {raw.dtype}; convert it to 8 or 16 bits")
    return deep(raw, (*notes, "deep"), None, data)


def _on(raw: np.ndarray, background: int, multiplied: bool) -> np.ndarray:
    """Deep RGBA over the background, both by the full range of the type; `multiplied`: alpha is in the colours already."""
    most = np.iinfo(raw.dtype).max
    share = raw[..., 3:] / most
    colour = raw[..., :3] * (1 if multiplied else share)
    return np.clip(np.round(colour + background / 255 * most * (1 - share)), 0, most).astype(raw.dtype)


def _opencv(data: bytes) -> np.ndarray:
    import cv2

    try:
        raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        raw = None
    if raw is None:
        raise Unreadable("broken", "OpenCV cannot read it; fetch it again, or convert it")
    return raw if raw.ndim == 2 else raw[..., [2, 1, 0, 3][: raw.shape[2]]]


def _plain(image: Image.Image, background: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Any 8-bit mode as L or RGB; transparency is laid on the background."""
    clear = "A" in image.getbands() or "transparency" in image.info
    if image.mode in ("L", "RGB") and not clear:
        return image, ()
    if image.mode in ("LAB", "HSV"):
        raise Unreadable("layout", f"colours as {image.mode}; convert it to RGB")
    notes: tuple[str, ...] = {"1": ("bilevel",), "P": ("palette",), "CMYK": ("cmyk",)}.get(image.mode, ())
    grey = image.mode in ("1", "L", "LA")
    if clear:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (background,) * 3 + (255,)), rgba)
        notes += ("alpha",)
    return image.convert("L" if grey else "RGB"), notes
