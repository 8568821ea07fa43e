"""From rows of a source to uint8 squares in two parallel passes: look at every picture, then write those that are used.

Workers keep nothing but a chunk; small grey thumbnails and the squares go to files, so memory does not grow with the set.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from pipeline import processes
from pipeline.data.sources.base import Picture, Source, Unreadable
from pipeline.params.fields import Auto
from pipeline.samples import CHUNK, blocks, room

THUMB = 160  # longest side of a thumbnail
SAMPLE = 256  # pixel values kept of a deep picture, to find the range of all


@dataclass(frozen=True)
class Form:
    """What every picture becomes: a square of `size` and `channels`, by `fit`; `window` is black and white of deep pictures."""

    size: int
    channels: int
    fit: str
    window: tuple[float, float] | None


@dataclass(frozen=True)
class Thumbs:
    """Grey thumbnails in flat files: `where` int (N, 4) gives file, first byte, height and width of each.

    They are shown turned as `turns` int (N,) say, see `turned`, if there are any.
    """

    files: list[Path]
    where: np.ndarray
    turns: np.ndarray | None = None

    def __getitem__(self, i: int) -> np.ndarray:
        file, start, height, width = self.where[i]
        thumb = np.array(_mapped(self.files[file])[start : start + height * width]).reshape(height, width)
        return thumb if self.turns is None else np.ascontiguousarray(turned(thumb, self.turns[i]))

    def take(self, rows: np.ndarray | slice) -> "Thumbs":
        return Thumbs(self.files, self.where[rows], None if self.turns is None else self.turns[rows])

    def __add__(self, other: "Thumbs") -> "Thumbs":
        moved = other.where + np.array([len(self.files), 0, 0, 0])
        return Thumbs(self.files + other.files, np.concatenate([self.where, moved]))


def turned(x: np.ndarray, how: int) -> np.ndarray:
    """A picture (H, W) in one of its eight orientations: of `how`, 1 mirrors left to right, 2 upside down, 4 the diagonal first."""
    x = x.T if how & 4 else x
    x = x[::-1] if how & 2 else x
    return x[:, ::-1] if how & 1 else x


@lru_cache(maxsize=64)  # each holds a file descriptor
def _mapped(file: Path) -> np.ndarray:
    return np.memmap(file, np.uint8, "r")


@dataclass(frozen=True)
class Seen:
    """What the first pass found, a row per row of the source: `table` with a code where the picture cannot be used.

    Columns: code, remedy, height, width, grey, hash (of the pixels), notes, mean and spread (0 to 255).
    `samples` float (M, SAMPLE): pixel values of deep pictures without a window, which are the rows `sampled`, int (M,).
    """

    table: pd.DataFrame
    thumbs: Thumbs
    samples: np.ndarray
    sampled: np.ndarray


def look(source: Source, scratch: Path) -> Seen:
    """The first pass over all rows; thumbnails are written to the folder `scratch`."""
    n = len(source.refs)
    scratch.mkdir(exist_ok=True)
    chunks = [range(start, min(start + CHUNK, n)) for start in range(0, max(n, 1), CHUNK)]
    files = [scratch / f"{k}.bin" for k in range(len(chunks))]
    jobs = [(source.load, [source.refs[i] for i in rows], file) for rows, file in zip(chunks, files, strict=True)]
    parts = processes.parallel(look_at, jobs, processes.cores(), "look at pictures", n)
    where = np.concatenate([np.insert(w, 0, k, axis=1) for k, (_, w, _) in enumerate(parts)])
    table = pd.concat([t for t, _, _ in parts], ignore_index=True)
    sampled = [rows.start + place for rows, (_, _, s) in zip(chunks, parts, strict=True) for place in s]
    samples = np.array([values for _, _, s in parts for values in s.values()], np.float32).reshape(-1, SAMPLE)
    return Seen(table, Thumbs(files, where), samples, np.array(sampled, np.int64))


def look_at(
    load: Callable[..., Any], refs: Sequence[Any], file: Path, report: processes.Report
) -> tuple[pd.DataFrame, np.ndarray, dict[int, np.ndarray]]:
    """One chunk: its part of the table, where its thumbnails lie in `file`, and samples of deep pixels by place."""
    rows, where, samples = [], [], {}
    with file.open("wb") as out:
        for i, ref in enumerate(refs):
            report(1, "")
            try:
                picture = load(ref)
            except Unreadable as error:
                rows.append((error.code, error.remedy, 0, 0, True, "", "", np.nan, np.nan))
                where.append((0, 0, 0))
                continue
            pixels = picture.pixels
            shown = to_bytes(picture, None)  # by its own range: thumbnails and brightness are compared robustly
            small = thumbnail(shown)
            where.append((out.tell(), *small.shape))
            out.write(small.tobytes())
            grey = is_grey(pixels)
            pixels = pixels[..., :1] if grey else pixels  # the same picture, stored as grey or as colours
            digest = hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=8)
            digest.update(str((pixels.shape, str(pixels.dtype))).encode())
            if pixels.dtype != np.uint8 and picture.window is None:
                # At places of its own: what is bright may lie at one place in all pictures.
                rng = np.random.default_rng(int(digest.hexdigest(), 16))
                samples[i] = pixels.reshape(-1)[rng.integers(pixels.size, size=SAMPLE)]
            size = (pixels.shape[0], pixels.shape[1], grey, digest.hexdigest(), " ".join(picture.notes))
            rows.append(("", "", *size, float(shown.mean()), float(shown.std())))
    columns = ["code", "remedy", "height", "width", "grey", "hash", "notes", "mean", "spread"]
    kinds = {"height": int, "width": int, "grey": bool, "mean": float, "spread": float}
    return pd.DataFrame(rows, columns=columns).astype(kinds), np.array(where, np.int64).reshape(-1, 3), samples


def common_range(samples: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float] | None:
    """Black and white for deep pictures without a window, from the samples (M, SAMPLE) of training rows; None if there are none."""
    values = samples[np.isfinite(samples)]
    if not len(values):
        return None
    low, high = np.percentile(values, percentiles)
    if not low < high:
        raise ValueError(
            f"data.deep: percentiles {list(percentiles)} of the training pixels are both {low:g}; set a window"
        )
    return float(low), float(high)


def to_bytes(picture: Picture, window: tuple[float, float] | None) -> np.ndarray:
    """uint8 (H, W, C): deep pixels clipped to their window, else to this one or to the range of their own, and scaled."""
    if picture.pixels.dtype == np.uint8:
        return picture.pixels
    low, high = picture.window or window or map(float, np.percentile(picture.pixels, [0.5, 99.5]))
    return np.round((np.clip(picture.pixels, low, high) - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)


def is_grey(pixels: np.ndarray) -> bool:
    return pixels.shape[2] == 1 or bool((np.ptp(pixels, axis=2) == 0).all())


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Grey uint8 (h, w), at most THUMB pixels long; smaller pictures stay as they are."""
    image = to_image(pixels).convert("L")
    image.thumbnail((THUMB, THUMB), Image.Resampling.BOX)
    return np.asarray(image)


def to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def square(pixels: np.ndarray, size: int, channels: int, fit: str) -> np.ndarray:
    """uint8 (size, size, channels); `letterbox` pads with the picture's median colour, `crop` cuts the centre."""
    image = to_image(pixels).convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        if fit == "letterbox":
            longest = max(image.size)
            sides = [max(1, round(n / longest * size)) for n in image.size]  # ImageOps.pad would round 0.4 to 0
            image = image.resize(sides, Image.Resampling.BICUBIC)
            colour = tuple(int(v) for v in np.median(np.asarray(image).reshape(-1, channels), axis=0))
            image = ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, colour[0] if channels == 1 else colour)
        elif fit == "crop":
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        else:
            image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8).reshape(size, size, channels)


def choose_size(asked: int | Auto, short_sides: Sequence[int]) -> int:
    """The size asked for; `auto`: the median short side, at most 32, rounded down to a multiple of 4 (at least 8)."""
    return asked if asked != "auto" else max(8, int(min(32, np.median(short_sides))) // 4 * 4)


def write(source: Source, rows: np.ndarray, file: Path, form: Form) -> np.ndarray:
    """The second pass: squares of these rows of the source, uint8 (M, size, size, channels), memory-mapped from `file`."""
    room(file, np.uint8, (len(rows), form.size, form.size, form.channels)).flush()
    parts = blocks(rows, CHUNK)
    jobs = [(source.load, [source.refs[i] for i in rows[part]], file, part.start, form) for part in parts]
    if jobs:
        processes.parallel(write_chunk, jobs, processes.cores(), "write squares", len(rows))
    return np.load(file, mmap_mode="r", allow_pickle=False)


def write_chunk(
    load: Callable[..., Any], refs: Sequence[Any], file: Path, start: int, form: Form, report: processes.Report
) -> None:
    images = np.load(file, mmap_mode="r+", allow_pickle=False)
    for place, ref in enumerate(refs, start):
        try:
            picture = load(ref)
        except Unreadable as error:
            raise ValueError(f"{ref} was readable at first: {error.code}; the source changed, run again") from None
        images[place] = square(to_bytes(picture, form.window), form.size, form.channels, form.fit)
        report(1, "")
    images.flush()
