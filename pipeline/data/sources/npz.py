"""MedMNIST layout: one .npz with {train,val,test}_images uint8 (N, H, W) or (N, H, W, 3) and {...}_labels (N,) or (N, 1)."""

import errno
import shutil
import zipfile
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from pipeline.data.sources.base import Picture, Source, check_shape, table
from pipeline.params import Data

NAMES = ("train", "val", "test")
MOST_RATIO = 200  # an array that packs better is a bomb, or empty ...
SMALL = 1 << 20  # ... but up to MOST_RATIO * SMALL bytes are fine
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # what the disk is to blame for, and not the file


@lru_cache(maxsize=6)
def _mapped(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)


def load(files: Mapping[str, Path], data: Data, ref: tuple[str, int]) -> Picture:
    """Row i of the array of one split; arrays stay on disk, memory-mapped, and are opened once in each process."""
    split, row = ref
    pixels = np.array(_mapped(files[split])[row])
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    check_shape(pixels, data)
    return Picture(pixels)


def accepts(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".npz"


def read(path: Path, data: Data, scratch: Path) -> Source:
    """The archive is unpacked to `scratch`, array by array. Raises ValueError that says what the archive lacks."""
    try:
        files = unpack(path, scratch)
        arrays = {k: np.load(f, mmap_mode="r", allow_pickle=False) for k, f in files.items()}
    except Exception as error:  # zipfile, its decompressors and NumPy raise whatever the bytes lead them to
        if isinstance(error, OSError) and error.errno in DISK:
            raise
        raise ValueError(
            f"data.source: {path.name} cannot be read as an .npz archive of plain arrays, without pickled objects: {error}"
        ) from None
    splits = check(arrays, path.name)
    labels = {s: np.array(arrays[f"{s}_labels"]).reshape(-1) for s in splits}
    return source(labels, {s: files[f"{s}_images"] for s in splits}, data)


def source(labels: Mapping[str, np.ndarray], images: Mapping[str, Path], data: Data) -> Source:
    """Rows from whole numbers (N,) and a .npy file of images for each split; a class is called by its number."""
    refs = [(s, i) for s, y in labels.items() for i in range(len(y))]
    frame = table(
        label=[str(c) for y in labels.values() for c in y],
        split=[s for s, _ in refs],
        path=[f"{s}/{i}" for s, i in refs],
    )
    classes = sorted({int(c) for y in labels.values() for c in np.unique(y)})
    return Source(tuple(map(str, classes)), frame, refs, partial(load, images, data))


def unpack(path: Path, scratch: Path) -> dict[str, Path]:
    """Arrays of images and labels as .npy files in `scratch`. Raises ValueError for one that claims to be too large."""
    out = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            key = member.filename.removesuffix(".npy")
            if key not in [f"{s}_{kind}" for s in NAMES for kind in ("images", "labels")]:
                continue
            if member.file_size > MOST_RATIO * max(min(member.compress_size, path.stat().st_size), SMALL):
                raise ValueError(f"{member.filename} claims {member.file_size:,} bytes from {member.compress_size:,}")
            _check_header(archive, member)
            out[key] = scratch / f"{key}.npy"
            with archive.open(member) as packed, out[key].open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
    return out


def _check_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raises ValueError unless the array's header describes as many bytes as the archive holds, and no objects."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds pickled objects")
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if size != member.file_size - file.tell():
            raise ValueError(
                f"{member.filename} describes {size:,} bytes, but holds {member.file_size - file.tell():,}"
            )


def check(arrays: Mapping[str, np.ndarray], name: str) -> list[str]:
    """The splits there are. Raises ValueError for arrays that are missing or do not fit one another."""
    splits = [s for s in NAMES if f"{s}_images" in arrays and f"{s}_labels" in arrays]
    if "train" not in splits:
        raise ValueError(
            f"data.source: {name} needs train_images and train_labels (and may have val_*, test_*); "
            f"it has {sorted(arrays) or 'none of them'}"
        )
    for s in NAMES:
        here, gone = (f"{s}_images", f"{s}_labels") if f"{s}_images" in arrays else (f"{s}_labels", f"{s}_images")
        if here in arrays and gone not in arrays:
            raise ValueError(f"data.source: {name} has {here} without {gone}")
    for s in splits:
        images, labels = arrays[f"{s}_images"], arrays[f"{s}_labels"]
        kind = images.ndim > 2 and images.shape[3:] in ((), (1,), (3,))
        if images.dtype != np.uint8 or not kind or 0 in images.shape[1:]:
            raise ValueError(
                f"data.source: {name}: {s}_images must be uint8 (N, H, W) or (N, H, W, 3), got {images.dtype} {images.shape}"
            )
        _check_labels(labels, s, name)
        if len(images) != len(labels):
            raise ValueError(f"data.source: {name} has {len(images)} {s}_images beside {len(labels)} {s}_labels")
    if not len(arrays["train_labels"]):
        raise ValueError(f"data.source: {name} has no training rows")
    return splits


def _check_labels(y: np.ndarray, split: str, name: str) -> None:
    if y.ndim != 1 and y.shape[1:] != (1,):
        kind = "multi-label " if y.ndim == 2 and y.shape[1] else ""
        raise ValueError(
            f"data.source: {name} has {kind}{split}_labels {y.shape}; expected one label a row, (N,) or (N, 1)"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"data.source: {split}_labels of {name} must be integers, got {y.dtype}")
