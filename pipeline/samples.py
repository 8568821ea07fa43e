"""Samples, the one thing that travels: a table and uint8 images, row i of one being slice i of the other."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sized
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import torch

CHUNK = 256  # images that are copied at a time when a part of a set is written
COLUMNS = dict.fromkeys(("id", "group", "label", "split", "origin"), "str")
DEFAULTS = {
    "seed": -1,
    "judged": "",
    "confidence": np.nan,
    "distance": np.nan,
    "nearest": "",
    "copy_distance": np.nan,
    "keep": True,
    "reason": "",
    "weight": 1.0,
    "source_path": "",
}
COLUMNS |= {name: {int: "int64", float: "float64", bool: "bool", str: "str"}[type(v)] for name, v in DEFAULTS.items()}


@dataclass(frozen=True)
class Facts:
    """What every stage needs to know of a dataset: class names in label order, the scarce ones, allowed flips."""

    classes: tuple[str, ...]
    scarce: tuple[str, ...]
    flips: tuple[str, ...] = ()


@dataclass(frozen=True)
class Samples:
    """A table with the columns of COLUMNS, images uint8 (N, H, W, C) and the facts of their dataset.

    Raises ValueError when table and images disagree or a label is no class of the dataset.
    """

    table: pd.DataFrame
    images: np.ndarray
    facts: Facts

    def __post_init__(self) -> None:
        if len(self.table) != len(self.images):
            raise ValueError(f"a table of {len(self.table)} rows beside {len(self.images)} images")
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, H, W, C), got {self.images.dtype} {self.images.shape}")
        unknown = set(self.table["label"][self.table["split"] != "unlabelled"]) - set(self.facts.classes)
        if unknown:
            raise ValueError(f"labels {sorted(unknown)} are not among the classes {list(self.facts.classes)}")

    def __len__(self) -> int:
        return len(self.table)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.facts.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        return tuple(self.images.shape[1:])

    @property
    def y(self) -> np.ndarray:
        """Labels as class indices, int64 (N,); -1 for unlabelled rows."""
        return pd.Categorical(self.table["label"], categories=list(self.classes)).codes.astype(np.int64)

    @property
    def counts(self) -> np.ndarray:
        """Rows per class, int64 (K,), in label order."""
        return np.bincount(self.y, minlength=len(self.classes))

    @property
    def scarce(self) -> np.ndarray:
        """Indices of the scarce classes, in label order."""
        return np.array([i for i, name in enumerate(self.classes) if name in self.facts.scarce], dtype=np.int64)

    def take(self, rows: np.ndarray) -> "Samples":
        """The rows at these positions, or where a mask is true."""
        rows = places(rows)
        return replace(self, table=self.table.iloc[rows].reset_index(drop=True), images=self.images[rows])

    def with_columns(self, **columns: object) -> "Samples":
        return replace(self, table=table(**{**{c: self.table[c] for c in COLUMNS}, **columns}))

    def pictures(self) -> str:
        """A hash of which pictures these are, whatever size, channels and order they have here."""
        return hashlib.blake2b("\n".join(sorted(self.table["id"])).encode(), digest_size=16).hexdigest()

    def fingerprint(self) -> str:
        """A hash of labels, groups and pixels, to tell one dataset from another."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self.table[["id", "group", "label"]].to_csv(index=False).encode())
        for start in range(0, len(self), 4096):
            digest.update(np.ascontiguousarray(self.images[start : start + 4096]).tobytes())
        return digest.hexdigest()

    def save(self, folder: Path, rows: np.ndarray | None = None) -> None:
        """Write all rows, or those at these positions or where a mask is true, with no more than CHUNK of them in memory."""
        rows = np.arange(len(self)) if rows is None else places(rows)
        folder.mkdir(parents=True, exist_ok=True)
        self.table.iloc[rows].reset_index(drop=True).to_parquet(folder / "table.parquet", index=False)
        out = room(folder / "images.npy", np.uint8, (len(rows), *self.shape))
        for start in range(0, len(rows), CHUNK):
            out[start : start + CHUNK] = self.images[rows[start : start + CHUNK]]
        out.flush()
        (folder / "facts.json").write_text(json.dumps(asdict(self.facts), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Samples":
        """Read a folder written by `save`; the images stay on disk, memory-mapped read-only.

        Raises ValueError for one that another version of this project wrote.
        """
        facts = {k: tuple(v) for k, v in json.loads((folder / "facts.json").read_text()).items()}
        rows = pd.read_parquet(folder / "table.parquet")
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        if list(rows.columns) != list(COLUMNS) or set(facts) != {f.name for f in fields(Facts)}:
            raise ValueError(
                f"{folder} was written by another version of this project: it has {', '.join([*rows.columns, *facts])}; "
                f"expected {', '.join([*COLUMNS, *(f.name for f in fields(Facts))])}. Run make repro, which makes it anew"
            )
        return cls(rows, images, Facts(**facts))


def room(file: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.memmap:
    """An array in a new .npy file, memory-mapped to be written to, whose room on the disk is taken at once.

    For where a disk is full, a write to mapped memory ends the process without a word. Raises OSError with the bytes needed.
    """
    needed, free = math.prod(shape) * np.dtype(dtype).itemsize, shutil.disk_usage(file.parent).free
    if needed > free:
        raise OSError(
            f"{file} takes {needed:,} bytes, and {free:,} bytes of its disk are free; make room, then run again"
        )
    out = np.lib.format.open_memmap(file, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # not on a Mac
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
    return out


def spaced(count: int, most: int) -> np.ndarray:
    """At most so many of `count` positions, evenly spaced, int64 (M,)."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)


def blocks(rows: Sized, most: int) -> Iterator[slice]:
    """Slices of at most so many rows, that together are all of them."""
    return (slice(start, min(start + most, len(rows))) for start in range(0, len(rows), most))


def places(rows: np.ndarray) -> np.ndarray:
    """Positions, int64 (M,), from positions or from a mask."""
    return np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, dtype=np.int64)


def table(**columns: object) -> pd.DataFrame:
    """A table with every column of COLUMNS in order; those not given get their default."""
    assert not set(columns) - set(COLUMNS), sorted(set(columns) - set(COLUMNS))
    frame = pd.DataFrame({name: columns.get(name, DEFAULTS.get(name)) for name in COLUMNS}, index=None)
    return frame.astype(COLUMNS)


def concat(parts: Iterable[Samples]) -> Samples:
    parts = list(parts)
    frame = pd.concat([p.table for p in parts], ignore_index=True).astype(COLUMNS)
    return Samples(frame, np.concatenate([p.images for p in parts]), parts[0].facts)


def with_pool(train: Path, pool: Path) -> Samples:
    """What generators learn from: the training rows, and behind them those rows of the pool that the teachers labelled."""
    rows, more = Samples.load(train), Samples.load(pool)
    return concat([rows, more]) if len(more) else rows


def spread(images: np.ndarray, y: np.ndarray, real: Samples) -> np.ndarray:
    """How far images uint8 (N, H, W, C) of each class spread, as a part of how far its real rows do, float (K,).

    0 is one picture over and over. NaN for a class that has not two images, or whose real rows are all alike.
    """
    found = np.full(len(real.classes), np.nan)
    for c in np.unique(y):
        made, true = (_variance(x[own]) for x, own in ((images, y == c), (real.images, real.y == c)))
        if true > 0 and (y == c).sum() > 1:
            found[c] = np.sqrt(made / true)
    return found


def _variance(images: np.ndarray) -> float:
    """The variance of a pixel, in the mean over all pixels, with no more than CHUNK rows as floats in memory."""
    if not len(images):
        return 0.0
    mean = images.mean(axis=0, dtype=np.float64)
    parts = [np.square(images[i : i + CHUNK] - mean).sum() for i in range(0, len(images), CHUNK)]
    return float(sum(parts) / images.size)


def to_network(images: np.ndarray) -> "torch.Tensor":
    """uint8 (N, H, W, C) -> float32 (N, C, H, W) in [-1, 1]; the only way pixels reach a network."""
    import torch

    pixels = torch.from_numpy(np.require(images, requirements=("C", "W"))).permute(0, 3, 1, 2)  # W: copies a memory map
    return pixels.to(torch.float32).div_(127.5).sub_(1)


def to_pixels(tensor: "torch.Tensor") -> np.ndarray:
    """float (N, C, H, W) in [-1, 1] -> uint8 (N, H, W, C), clipped and rounded; undoes `to_network` exactly."""
    scaled = tensor.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return scaled.byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
