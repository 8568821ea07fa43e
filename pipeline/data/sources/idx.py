"""IDX files as MNIST and Fashion-MNIST come, gzipped or not: a folder with train- and t10k-images-idx3-ubyte, and labels."""

import gzip
import io
import math
import struct
import zlib
from itertools import product
from pathlib import Path

import numpy as np

from pipeline.data.sources import npz
from pipeline.data.sources.base import Source
from pipeline.data.sources.npz import DISK, MOST_RATIO, SMALL
from pipeline.params import Data

PARTS = {"train": "train", "t10k": "test"}


def find(folder: Path) -> dict[tuple[str, str], Path]:
    """(split, images or labels) -> file, for the four names that are usual, with - or . before idx."""
    out = {}
    for prefix, split in PARTS.items():
        for kind, number in (("images", 3), ("labels", 1)):
            names = [f"{prefix}-{kind}{dot}idx{number}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
            found = [folder / name for name in names if (folder / name).is_file()]
            if found:
                out[split, kind] = found[0]
    return out


def accepts(path: Path) -> bool:
    return path.is_dir() and bool(find(path))


def read(path: Path, data: Data, scratch: Path) -> Source:
    """Raises ValueError for a missing part, a link out of the folder, or a file whose header and length disagree."""
    files = find(path)
    for file in files.values():
        if not file.resolve().is_relative_to(path.resolve()):
            raise ValueError(f"data.source: {file.name} is a link out of the source's folder; copy the file instead")
    splits: list[str] = [s for s in ("train", "test") if s == "train" or s in {split for split, _ in files}]
    for split, kind in product(splits, ("images", "labels")):
        if (split, kind) not in files:
            raise ValueError(
                f"data.source: {path.name} lacks the IDX {kind} of {split}; it has {sorted(f.name for f in files.values())}"
            )
    arrays = {
        key: unpack(file, 3 if key[1] == "images" else 1, scratch / f"{key[0]}_{key[1]}.npy")
        for key, file in files.items()
    }
    labels = {s: np.array(np.load(arrays[s, "labels"], allow_pickle=False)) for s in splits}
    for s in splits:
        count = len(np.load(arrays[s, "images"], mmap_mode="r", allow_pickle=False))
        if count != len(labels[s]):
            raise ValueError(f"data.source: {path.name} has {count} images beside {len(labels[s])} labels in {s}")
    return npz.source(labels, {s: arrays[s, "images"] for s in splits}, data)


def unpack(file: Path, dimensions: int, out: Path) -> Path:
    """One IDX file of unsigned bytes as .npy, as many bytes as its header describes and not one more."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream, out.open("wb") as plain:
            shape, packed = _shape(stream, dimensions), file.stat().st_size
            left = size = math.prod(shape)
            if size > (MOST_RATIO * max(packed, SMALL) if file.suffix == ".gz" else packed):
                raise ValueError(f"its header claims {size:,} bytes from {packed:,}")
            np.lib.format.write_array_header_1_0(plain, {"descr": "|u1", "fortran_order": False, "shape": shape})
            while part := stream.read(min(1 << 20, left)):
                left -= plain.write(part)
            if left or stream.read(1):
                raise ValueError(
                    f"its header describes {size:,} bytes, but it holds {f'{size - left:,}' if left else 'more'}"
                )
    except (ValueError, OSError, EOFError, struct.error, zlib.error) as error:
        if isinstance(error, OSError) and error.errno in DISK:
            raise
        raise ValueError(f"data.source: {file.name} cannot be read as an IDX file: {error}") from None
    return out


def _shape(stream: io.BufferedIOBase, dimensions: int) -> tuple[int, ...]:
    magic = stream.read(4)
    if magic != bytes((0, 0, 8, dimensions)):
        raise ValueError(f"begins with {magic!r}; expected unsigned bytes in {dimensions} dimension(s)")
    shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
    if 0 in shape:
        raise ValueError(f"its header describes no data, shape {shape}")
    return shape
