"""What every format gives: rows as a table, and a way to load the picture of one row in any process."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.params import Data

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SPLIT_FOLDER = re.compile(rf"({'|'.join(SPLITS)})(?:[-_. ]?(?:set|data|images))?")  # train, or training_set
COLUMNS = {"label": "", "split": "", "group": "", "weight": 1.0, "path": "", "row": ""}
REPEATED = "repeated"  # the code of a row that stands there twice: its picture is used, so it is no loss
SHOWN = 20  # lines of a long list that an error shows


class Unreadable(Exception):
    """One image that cannot be used: a short code and what to do about it."""

    def __init__(self, code: str, remedy: str) -> None:
        super().__init__(code, remedy)
        self.code, self.remedy = code, remedy


class Problem(NamedTuple):
    """One row or file of the source that is left out; `row` is its line in the table, empty where there is none."""

    file: str
    row: str
    code: str
    remedy: str

    def said(self) -> str:
        return f"{f'line {self.row}: ' if self.row else ''}{self.file!r}: {self.code}, {self.remedy}"


class Refusal(ValueError):
    """Something a user has to mend; `files` are texts that lie beside the error's details, by name."""

    def __init__(self, text: str, files: Mapping[str, str]) -> None:
        super().__init__(text)
        self.files = files


class Picture(NamedTuple):
    """Pixels (H, W, C), C 1 or 3: uint8, or float32 where the file is deeper; `window` then says what is black and white.

    Without a window the range is taken from the training rows. `notes` name what was done: alpha, palette, ...
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class Source:
    """Rows before decoding: `rows` has the columns of COLUMNS, and `load(refs[i])` is the picture of row i.

    `load` and `refs` travel to other processes; `load` raises Unreadable. Split, group: "" where the source does not
    say. Paths are relative to the source's root, `row` is the line of the table, if there is one.
    """

    classes: tuple[str, ...]
    rows: pd.DataFrame
    refs: list[Any]
    load: Callable[[Any], Picture]
    problems: list[Problem] = field(default_factory=list)
    grouped: bool = False  # whether the source says which rows belong together
    skipped: dict[str, int] = field(default_factory=dict)  # files that are not named like images, by their ending

    def __post_init__(self) -> None:
        assert len(self.rows) == len(self.refs) and set(self.rows) == set(COLUMNS), list(self.rows)


def table(**columns: Iterable[Any]) -> pd.DataFrame:
    """The rows of a source; columns that are not given get their default."""
    length = len(list(columns["label"]))
    return pd.DataFrame({name: columns.get(name, [default] * length) for name, default in COLUMNS.items()})


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names for an error message, the first `most` of them, and of a long one its beginning."""
    names = list(names)
    return ", ".join(f"{n!r:.500}" for n in names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def refusal(text: str, lines: Iterable[str], files: Mapping[str, str] = MappingProxyType({})) -> Refusal:
    """An error that shows the first SHOWN lines below its text; all of them stand in its note, for the details file."""
    lines = list(lines)
    more = f"\n  ... and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    error = Refusal("\n  ".join([text, *lines[:SHOWN]]) + more, files)
    error.add_note("\n".join(["All of them:", *lines]))
    return error


def deep(
    raw: np.ndarray,
    notes: tuple[str, ...],
    tagged: tuple[float, float] | None,
    data: Data,
    full: tuple[float, float] | None = None,
) -> Picture:
    """A picture of raw values (H, W) or (H, W, C) with the window that `data.deep` asks for.

    `tagged` is the file's own window, `full` the range of its type where that is not the range of the array's type.
    """
    rule = data.deep
    window = tagged if rule.scale == "auto" else rule.window if rule.scale == "window" else None
    if rule.scale == "full":
        if full is None and raw.dtype.kind == "f":
            raise Unreadable(
                "range", "data.deep.scale is full, but the pixels are floats, which have no full range; use a window"
            )
        window = full or (float(np.iinfo(raw.dtype).min), float(np.iinfo(raw.dtype).max))
    with np.errstate(over="ignore"):
        pixels = raw.reshape(*raw.shape[:2], -1).astype(np.float32)
    if not np.isfinite(pixels).all():
        raise Unreadable("non_finite", "some pixels are NaN or infinite; mend or remove the file")
    return Picture(pixels, notes, window)


def check_shape(pixels: np.ndarray, data: Data, clear: bool = False) -> None:
    """Raises Unreadable for a picture that is too small, too long, or of one colour all over; `clear`: over data.background."""
    height, width = pixels.shape[:2]
    if min(height, width) < data.min_side:
        raise Unreadable("too_small", f"{width}x{height}; data.min_side asks for {data.min_side} pixels a side")
    if max(height, width) > data.max_aspect * min(height, width):
        raise Unreadable("aspect", f"{width}x{height} is longer than data.max_aspect allows; crop it")
    if (pixels == pixels[0, 0]).all():
        value = ", ".join(f"{v:g}" for v in pixels[0, 0])
        way = (
            "its shape may have the colour it is laid on: set data.background"
            if clear
            else "remove it, or find out why"
        )
        raise Unreadable("blank", f"every pixel is {value}; {way}")
