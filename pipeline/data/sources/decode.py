"""Guarded decoders: one image file or its bytes to pixels, read by content, bounded by its header, never by its name."""

import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.data.sources import dicom
from pipeline.data.sources.base import Picture, Unreadable
from pipeline.params import Data

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm"), "PPM"),
    **{".png": "PNG", ".bmp": "BMP", ".webp": "WEBP", ".gif": "GIF"},
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
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
    if isinstance(file, Path):
        if not file.is_file():
            raise Unreadable("not_a_file", "remove it; only regular files are read")
        size = file.stat().st_size
    else:
        size = len(file)
    if size == 0:
        raise Unreadable("empty", "the file has no bytes; fetch it again")
    with file.open("rb") if isinstance(file, Path) else io.BytesIO(file) as stream:
        head = stream.read(132)
        stream.seek(0)
        if dicom.accepts(head, name):
            picture, kind = dicom.decode(stream, data), "DICOM"
        else:
            picture, kind = _decode(stream, head, data)
    suffix = Path(name).suffix.lower()
    if suffix in SUFFIXES and SUFFIXES[suffix] != kind:
        picture = picture._replace(notes=(*picture.notes, "wrong_extension"))
    _check_shape(picture.pixels, data)
    return picture


def _decode(stream: io.IOBase, head: bytes, data: Data) -> tuple[Picture, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own cap is stricter
            with Image.open(stream, formats=FORMATS) as image:
                if image.width * image.height > data.max_pixels:
                    raise Unreadable("too_large", f"{image.width}x{image.height} is above data.max_pixels")
                frames = getattr(image, "n_frames", 1)
                if frames > 1 and data.frames == "refuse":
                    raise Unreadable(
                        "frames", f"{frames} frames in one file; store the one to use, or set data.frames: first"
                    )
                notes = ("first_frame",) if frames > 1 else ()
                image.seek(0)
                if _is_deep(image, head):
                    return _deep(image, stream, notes, data), image.format
                image.load()
                turned = ImageOps.exif_transpose(image)
                notes += ("turned",) if turned.size != image.size or image.getexif().get(274, 1) not in (0, 1) else ()
                plain, more = _plain(turned, data.background)
                return Picture(_pixels(plain), notes + more), image.format
    except UnidentifiedImageError:
        raise Unreadable("unreadable", f"no image format; begins with {head[:8]!r}") from None
    except Image.DecompressionBombError:
        raise Unreadable("too_large", "the header claims far more than data.max_pixels") from None
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error) as error:
        # all that Pillow raises for bad bytes
        code = "truncated" if isinstance(error, OSError | EOFError) else "broken"
        raise Unreadable(code, f"{error}; fetch it again") from None


def _is_deep(image: Image.Image, head: bytes) -> bool:
    """More than 8 bits a channel, also where Pillow would hand out 8 of 16 without a word."""
    if image.format == "PNG":
        return head[24] > 8
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (8,))
        return max(bits if isinstance(bits, tuple) else (bits,)) > 8
    return image.mode.startswith(("I", "F"))


def _deep(image: Image.Image, stream: io.IOBase, notes: tuple[str, ...], data: Data) -> Picture:
    stream.seek(0)
    if image.format == "TIFF":
        import tifffile

        with tifffile.TiffFile(stream) as file:
            raw = file.pages[0].asarray()
    elif image.mode.startswith(("I", "F")):
        image.load()
        raw = np.asarray(image)
    else:
        raw = _opencv(stream.read())
    if raw.ndim == 3 and raw.shape[2] in (2, 4):
        raw, notes = raw[..., : raw.shape[2] - 1], (*notes, "alpha_dropped")
    if raw.ndim not in (2, 3) or (raw.ndim == 3 and raw.shape[2] not in (1, 3)):
        raise Unreadable("layout", f"pixels of shape {raw.shape}; expected one or three channels")
    if raw.dtype.kind not in "uif":
        raise Unreadable("depth", f"pixels of type {raw.dtype}; convert it to 8 or 16 bits")
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        raise Unreadable("non_finite", "some pixels are NaN or infinite; mend or remove the file")
    return deep(raw, (*notes, "deep"), None, data)


def deep(raw: np.ndarray, notes: tuple[str, ...], tagged: tuple[float, float] | None, data: Data) -> Picture:
    """A picture of raw values (H, W) or (H, W, C) with the window that `data.deep` asks for; `tagged` is the file's own."""
    rule = data.deep
    window = tagged if rule.scale == "auto" else rule.window if rule.scale == "window" else None
    if rule.scale == "full":
        if raw.dtype.kind == "f":
            raise Unreadable(
                "range", "data.deep.scale is full, but the pixels are floats, which have no full range; use a window"
            )
        limits = np.iinfo(raw.dtype)
        window = (float(limits.min), float(limits.max))
    pixels = raw.reshape(*raw.shape[:2], -1).astype(np.float32)
    return Picture(pixels, notes, window)


def _opencv(data: bytes) -> np.ndarray:
    import cv2

    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None:
        raise Unreadable("broken", "OpenCV cannot read it; fetch it again")
    return raw if raw.ndim == 2 else raw[..., [2, 1, 0, 3][: raw.shape[2]]]


def _plain(image: Image.Image, background: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Any 8-bit mode as L or RGB; transparency is laid on the background."""
    if image.mode in ("L", "RGB"):
        return image, ()
    if image.mode == "1":
        return image.convert("L"), ("bilevel",)
    notes = (image.mode.lower(),) if image.mode in ("P", "CMYK") else ()
    grey = image.mode == "LA"
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image, notes = (
            Image.alpha_composite(Image.new("RGBA", rgba.size, (background,) * 3 + (255,)), rgba),
            (*notes, "alpha"),
        )
    return image.convert("L" if grey else "RGB"), notes


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, -1)


def _check_shape(pixels: np.ndarray, data: Data) -> None:
    """Raises Unreadable for a picture that is too small, too long, or of one value all over."""
    height, width = pixels.shape[:2]
    if min(height, width) < data.min_side:
        raise Unreadable("too_small", f"{width}x{height}; data.min_side asks for {data.min_side} pixels a side")
    if max(height, width) > data.max_aspect * min(height, width):
        raise Unreadable("aspect", f"{width}x{height} is longer than data.max_aspect allows; crop it")
    if pixels.min() == pixels.max():
        raise Unreadable("blank", f"every pixel is {pixels.flat[0]:g}; remove it, or find out why")
