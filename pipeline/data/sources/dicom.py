"""DICOM files: rescale slope and intercept applied, MONOCHROME1 inverted, one frame, no tag but the window kept."""

import io
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.data.sources.base import Picture, Unreadable, deep
from pipeline.params import Data


def accepts(head: bytes, name: str) -> bool:
    """Without the usual preamble a file must be named like DICOM and begin with one of its first groups of tags."""
    groups = (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")
    return head[128:132] == b"DICM" or (name.lower().endswith((".dcm", ".dicom")) and head[:2] in groups)


def decode(stream: BinaryIO, data: Data) -> Picture:
    """Pixels of one image, float32 in the units of the rescaled values, or uint8 RGB. Raises Unreadable."""
    import pydicom

    try:
        check_syntax(stream)
        file = pydicom.dcmread(stream, force=True)
        check(file, data)
        return picture(file, data)
    except Unreadable:
        raise
    except Exception as error:  # pydicom and its plugins raise whatever the bytes lead them to
        raise Unreadable("broken", f"{type(error).__name__}: {error}; fetch it again") from None


def check_syntax(stream: BinaryIO) -> None:
    """A deflated file is not opened, for pydicom would inflate all of it, whatever its size."""
    from pydicom.filereader import _read_file_meta_info, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    read_preamble(stream, True)
    if _read_file_meta_info(stream).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise Unreadable("codec", f"compressed as {DeflatedExplicitVRLittleEndian.name}; store it uncompressed")
    stream.seek(0)


def check(file: Any, data: Data) -> None:
    if "PixelData" not in file or "Rows" not in file:
        raise Unreadable("no_pixels", "the DICOM file holds no image; remove it")
    if int(file.Rows) * int(file.Columns) > data.max_pixels:
        raise Unreadable("too_large", f"{file.Columns}x{file.Rows} is above data.max_pixels")
    if frames(file) > 1 and data.frames == "refuse":
        raise Unreadable(
            "frames", f"{file.NumberOfFrames} frames in one file; store the one to use, or set data.frames: first"
        )
    syntax = file.file_meta.get("TransferSyntaxUID") if hasattr(file, "file_meta") else None
    if syntax is None:
        from pydicom.uid import ImplicitVRLittleEndian

        file.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    elif syntax.is_compressed and not (decodable(syntax) and within_reach(syntax, int(file.BitsStored))):
        raise Unreadable(
            "codec",
            f"{file.BitsStored} bits compressed as {syntax.name}, for which no decoder is installed; store it uncompressed",
        )
    elif syntax.is_compressed:
        for table in file.dir("ExtendedOffsetTable"):
            delattr(file, table)  # it could lead the decoder to another frame than the one that is looked at here
        check_frame(file)


def frames(file: Any) -> int:
    """How many there are; a tag without a value, or none, stands for one."""
    return int(file.get("NumberOfFrames", 1) or 1)


def check_frame(file: Any) -> None:
    """A decoder unpacks what the compressed frame itself claims to be, whatever the tags say: both must agree."""
    from pydicom.encaps import get_frame

    frame = get_frame(file.PixelData, 0, number_of_frames=frames(file))
    check_boxes(frame)
    try:
        with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
            width, height = image.size
    except UnidentifiedImageError:
        return  # of another codec, whose decoder looks for itself
    except Image.DecompressionBombError:
        raise Unreadable("too_large", f"its frame claims far more than its tags, {file.Columns}x{file.Rows}") from None
    if (width, height) != (file.Columns, file.Rows):
        raise Unreadable(
            "broken", f"its frame is {width}x{height}, its tags say {file.Columns}x{file.Rows}; fetch it again"
        )


def check_boxes(frame: bytes) -> None:
    """pydicom goes from box to box of a JP2 header by their lengths, and would do so for ever where one has none."""
    place = 12
    while frame.startswith(b"\0\0\0\x0cjP  ") and place < len(frame) and frame[place + 4 : place + 8] != b"jp2c":
        length = int.from_bytes(frame[place : place + 4], "big")
        if length < 8:
            raise Unreadable("broken", f"a box of its JPEG 2000 header has the length {length}; fetch it again")
        place += length


def decodable(syntax: Any) -> bool:
    from pydicom.pixels import get_decoder

    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:  # pydicom's word for a syntax that it has never heard of
        return False


def within_reach(syntax: Any, bits: int) -> bool:
    """Whether a decoder that is installed takes so many bits: Pillow, which comes along, does not take all."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGExtended12Bit

    most = {JPEGExtended12Bit: 8, JPEG2000: 16, JPEG2000Lossless: 16}.get(syntax, 32)
    return bits <= most or get_decoder(syntax).available_plugins != ("pillow",)


def picture(file: Any, data: Data) -> Picture:
    from pydicom.pixels import pixel_array

    raw = pixel_array(file, index=0)
    kind = str(file.get("PhotometricInterpretation", "MONOCHROME2"))
    notes = ("dicom", "first_frame") if frames(file) > 1 else ("dicom",)
    if raw.ndim == 3:
        if raw.dtype != np.uint8 or raw.shape[2] != 3:
            raise Unreadable("layout", f"colour pixels {raw.dtype} {raw.shape}; expected 8-bit RGB")
        return Picture(raw, notes)  # pydicom has made RGB of it
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unreadable("layout", f"pixels are {kind}; convert it to MONOCHROME2 or RGB")
    slope, intercept = (
        float(said(file, "PixelValueTransformationSequence", tag) or usual)
        for tag, usual in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    low, high = sorted(value * slope + intercept for value in stored_range(file))
    shown = deep(raw * slope + intercept, notes, window(file), data, (low, high))
    if kind == "MONOCHROME1":
        turned = (low + high - shown.window[1], low + high - shown.window[0]) if shown.window else None
        shown = Picture((low + high - shown.pixels).astype(np.float32), (*notes, "inverted"), turned)
    return shown


def said(file: Any, group: str, tag: str) -> Any:
    """A tag of the file; of an enhanced one, which has it in a group of the first frame or of all, that one's."""
    if tag in file:
        return file.get(tag)
    for several in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for frame in list(file.get(several) or ())[:1]:
            for one in list(frame.get(group) or ())[:1]:
                if tag in one:
                    return one.get(tag)
    return None


def stored_range(file: Any) -> tuple[int, int]:
    """The least and the greatest value that the file's type can store."""
    bits, signed = int(file.BitsStored), bool(file.PixelRepresentation)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def window(file: Any) -> tuple[float, float] | None:
    """The file's own black and white; None where it gives none, or one that means nothing."""
    centre, width = (np.atleast_1d(said(file, "FrameVOILUTSequence", tag)) for tag in ("WindowCenter", "WindowWidth"))
    if not (centre.size and width.size) or centre[0] is None or width[0] is None:
        return None
    black, white = float(centre[0]) - float(width[0]) / 2, float(centre[0]) + float(width[0]) / 2
    return (black, white) if np.isfinite([black, white]).all() and black < white else None
