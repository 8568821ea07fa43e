"""Every .csv that is written: no name of a class or file in it is a formula to a spreadsheet, and `read` gives it back."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")  # a class may be called -1


def write(frame: pd.DataFrame, path: Path) -> None:
    path.write_text(text(frame), encoding="utf-8", newline="")


def text(frame: pd.DataFrame) -> str:
    """The table as .csv without its index; an apostrophe stands before what a spreadsheet would compute."""
    safe = frame.assign(**{c: [_guarded(v) for v in frame[c]] for c in frame if frame[c].dtype.kind not in "iufb"})
    broken = any("\r" in str(v) for c in safe if safe[c].dtype.kind not in "iufb" for v in safe[c])
    return safe.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC if broken else csv.QUOTE_MINIMAL, lineterminator="\n")


def read(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """What `write` wrote: columns of `names` as text, byte for byte (a class may be called NA), gaps in others as NaN."""
    gaps = {c: ["", "nan"] for c in pd.read_csv(path, nrows=0) if c not in names}
    frame = pd.read_csv(path, dtype=dict.fromkeys(names, str), keep_default_na=False, na_values=gaps)
    return frame.assign(**{c: [_bare(v) for v in frame[c]] for c in names if c in frame})


def _guarded(value: Any) -> Any:
    danger = isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value)
    return f"'{value}" if danger else value


def _bare(value: str) -> str:
    return value[1:] if value.startswith("'") and FORMULA.match(value) else value
