"""A table of images, .csv, .tsv or .parquet: a path and a label each, and perhaps a group, a split and a weight."""

import os
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.data.sources.base import SPLITS, Problem, Source, listed
from pipeline.data.sources.base import table as rows_table
from pipeline.data.sources.decode import Files
from pipeline.params import Data

USUAL = {"path": "path", "label": "label", "group": "group", "split": "split", "weight": "weight"}


def accepts(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".parquet")


def read(path: Path, data: Data, scratch: Path) -> Source:
    """Paths are relative to the table's folder. Raises ValueError that names rows, at most 20 of them."""
    return source(load(path), path, data)


def load(path: Path) -> pd.DataFrame:
    """The table as text, byte for byte: a class may be called NA or 001."""
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path).astype(object).where(lambda t: t.notna(), "").astype(str)
        separator = "\t" if path.suffix.lower() == ".tsv" else _separator(path)
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise ValueError(f"data.source: {path.name} cannot be read as a table: {error}") from None


def _separator(path: Path) -> str:
    """A comma, or a semicolon where the header has more of those."""
    with path.open(encoding="utf-8-sig") as file:
        head = file.readline()
    return max(",;\t", key=head.count)


def source(frame: pd.DataFrame, path: Path, data: Data) -> Source:
    names = _columns(frame, path.name, data)
    text = {key: frame[column].astype(str) for key, column in names.items()}
    labels, classes = _labels(text["label"], path.name, data)
    columns = {"label": labels, "path": text["path"].tolist()}
    if "split" in text:
        columns["split"] = _splits(text["split"], path.name)
    if "group" in text:
        columns["group"] = _groups(text["group"], path.name)
    if "weight" in text:
        columns["weight"] = _weights(text["weight"], path.name)
    check_paths(text["path"], path)
    rows, problems = _once(rows_table(**columns), path.name)
    load = Files(path.parent, data)
    return Source(classes, rows, rows["path"].tolist(), load, problems, grouped="group" in text)


def _columns(frame: pd.DataFrame, name: str, data: Data) -> dict[str, str]:
    """Which column holds what. A name that params changed must exist, also for the columns that may be missing."""
    asked = data.manifest.model_dump()
    gone = [f"{key} ({column!r})" for key, column in asked.items() if column not in frame]
    needed = [
        g for g in gone if g.split(" ")[0] in ("path", "label") or asked[g.split(" ")[0]] != USUAL[g.split(" ")[0]]
    ]
    if needed:
        raise ValueError(
            f"data.source: {name} lacks the columns for {', '.join(needed)}; it has {list(frame)}. "
            "Name them under data.manifest"
        )
    if not len(frame):
        raise ValueError(f"data.source: {name} has no rows")
    return {key: column for key, column in asked.items() if column in frame}


def _lines(where: np.ndarray) -> str:
    """Row numbers as an editor counts them, the header being line 1."""
    return listed([int(i) + 2 for i in np.flatnonzero(where)]).replace("'", "")


def _labels(text: pd.Series, name: str, data: Data) -> tuple[list[str], tuple[str, ...]]:
    """Labels as they stand and the classes. A second spelling of a class is an error, never a class of its own."""
    counts, wrong = text.value_counts(), []
    order = sorted(counts.index, key=lambda label: (label != label.strip(), -counts[label], label))
    known = list(dict.fromkeys(order)) if data.classes == "auto" else list(data.classes)
    first: dict[str, str] = {}
    for label in known:
        first.setdefault(label.strip().casefold(), label.strip())
    for label in sorted(counts.index):
        meant = first.get(label.strip().casefold()) or next(iter(get_close_matches(label, known, 1)), "")
        if not label.strip():
            wrong.append(f"lines {_lines(text == label)}: no label")
        elif label not in (known if data.classes != "auto" else [meant]):
            hint = f"; did you mean {meant!r}?" if meant else f"; data.classes has {known}"
            wrong.append(f"lines {_lines(text == label)}: label {label!r}{hint}")
    if wrong:
        raise ValueError(f"data.source: {name} has labels that cannot stand:\n  " + "\n  ".join(wrong[:20]))
    return text.tolist(), tuple(sorted(known) if data.classes == "auto" else known)


def _splits(text: pd.Series, name: str) -> list[str]:
    split = text.str.strip().str.lower().map(SPLITS)
    if split.isna().any():
        raise ValueError(
            f"data.source: {name}, lines {_lines(split.isna().to_numpy())}: no split, or one of another name than "
            f"{', '.join(SPLITS)}; fill the column, or drop it to have splits cut"
        )
    return split.tolist()


def _groups(text: pd.Series, name: str) -> list[str]:
    if (text.str.strip() == "").any():
        raise ValueError(
            f"data.source: {name}, lines {_lines((text.str.strip() == '').to_numpy())}: no group. Name the patient or object "
            "of each row; a row that belongs to nothing else gets a name of its own"
        )
    return text.tolist()


def _weights(text: pd.Series, name: str) -> list[float]:
    weight = pd.to_numeric(text, errors="coerce").to_numpy(float)
    bad = ~np.isfinite(weight) | (weight < 0)
    if bad.any():
        raise ValueError(f"data.source: {name}, lines {_lines(bad)}: a weight must be a number of at least 0")
    return weight.tolist()


def check_paths(text: pd.Series, path: Path) -> None:
    """Raises ValueError for every path that leads out of the table's folder; such a row is never skipped."""
    root, out, seen = path.parent.resolve(), [], {}
    for i, name in enumerate(text):
        folder = os.path.dirname(name)
        if folder not in seen:
            seen[folder] = _inside(Path(folder), path.parent, root)
        if not (seen[folder] and name and _inside(Path(name), path.parent, root)):
            out.append(f"line {i + 2}: {name!r}")
    if out:
        raise ValueError(
            f"data.source: {path.name} has paths that leave its folder, which is never followed: "
            f"{'; '.join(out[:20])}{f' and {len(out) - 20} more' if len(out) > 20 else ''}"
        )


def _inside(name: Path, folder: Path, root: Path) -> bool:
    text = str(name)
    if name.is_absolute() or ".." in name.parts or text.startswith(("~", "file:")) or "\\" in text or "\0" in text:
        return False
    return (folder / name).resolve().is_relative_to(root)


def _once(rows: pd.DataFrame, name: str) -> tuple[pd.DataFrame, list[Problem]]:
    """Every path once: repeated rows go to the quarantine list, a path with two labels is an error."""
    labels = rows.groupby("path")["label"].nunique()
    two = sorted(labels.index[labels > 1])
    if two:
        raise ValueError(f"data.source: {name} gives two labels to one path: {listed(two)}")
    again = rows["path"].duplicated()
    problems = [Problem(p, "repeated", "the same path stands twice in the table") for p in rows["path"][again]]
    return rows[~again].reset_index(drop=True), problems
