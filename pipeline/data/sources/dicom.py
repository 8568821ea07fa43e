"""DICOM files: rescale slope and intercept applied, MONOCHROME1 turned round, one frame, no tag but the window kept."""

from typing import Any, BinaryIO

import numpy as np

from pipeline.data.sources.base import Picture, Unreadable
from pipeline.params import Data


def accepts(head: bytes, name: str) -> bool:
    return head[128:132] == b"DICM" or name.lower().endswith((".dcm", ".dicom"))


def decode(stream: BinaryIO, data: Data) -> Picture:
    """Pixels of one image, float32 in the units of the rescaled values, or uint8 RGB. Raises Unreadable."""
    import pydicom

    try:
        file = pydicom.dcmread(stream, force=True)
        check(file, data)
        return picture(file, data)
    except Unreadable:
        raise
    except Exception as error:  # pydicom and its plugins raise whatever the bytes lead them to
        raise Unreadable("broken", f"{type(error).__name__}: {error}; fetch it again") from None


def check(file: Any, data: Data) -> None:
    if "PixelData" not in file or "Rows" not in file:
        raise Unreadable("no_pixels", "the DICOM file holds no image; remove it")
    if int(file.Rows) * int(file.Columns) > data.max_pixels:
        raise Unreadable("too_large", f"{file.Columns}x{file.Rows} is above data.max_pixels")
    if int(file.get("NumberOfFrames", 1) or 1) > 1:
        raise Unreadable("frames", f"{file.NumberOfFrames} frames in one file; store the one to use")
    syntax = file.file_meta.get("TransferSyntaxUID") if hasattr(file, "file_meta") else None
    if syntax is None:
        from pydicom.uid import ImplicitVRLittleEndian

        file.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    elif syntax.is_compressed and not decodable(syntax):
        raise Unreadable(
            "codec", f"compressed as {syntax.name}, for which no decoder is installed; store it uncompressed"
        )


def decodable(syntax: Any) -> bool:
    from pydicom.pixels import get_decoder

    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def picture(file: Any, data: Data) -> Picture:
    from pipeline.data.sources.decode import deep

    raw = file.pixel_array
    kind = str(file.get("PhotometricInterpretation", "MONOCHROME2"))
    if raw.ndim == 3:
        if raw.dtype != np.uint8 or raw.shape[2] != 3:
            raise Unreadable("layout", f"colour pixels {raw.dtype} {raw.shape}; expected 8-bit RGB")
        if kind.startswith("YBR"):
            from pydicom.pixels import convert_color_space

            raw = convert_color_space(raw, kind, "RGB")
        return Picture(raw)
    values = raw.astype(np.float64) * float(file.get("RescaleSlope", 1) or 1) + float(
        file.get("RescaleIntercept", 0) or 0
    )
    window = None
    if file.get("WindowCenter") is not None and file.get("WindowWidth") is not None:
        centre, width = (float(np.atleast_1d(file[tag].value)[0]) for tag in ("WindowCenter", "WindowWidth"))
        window = (centre - width / 2, centre + width / 2)
    notes: tuple[str, ...] = ("dicom",)
    if kind == "MONOCHROME1":
        values, window = -values, (-window[1], -window[0]) if window else None
        notes += ("inverted",)
    return deep(values, notes, window, data)
