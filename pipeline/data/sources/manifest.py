"""A table of images, .csv, .tsv or .parquet: a path and a label each, and perhaps a group, a split and a weight."""

import csv
import os
import unicodedata
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.sources import pages
from pipeline.data.sources.base import REPEATED, SPLITS, Problem, Source, listed
from pipeline.data.sources.base import table as rows_table
from pipeline.data.sources.decode import Files
from pipeline.data.sources.npz import MOST_RATIO, SMALL
from pipeline.params import Data

USUAL = ("path", "label", "group", "split", "weight")

TEXTS = ("string", "large_string", "binary", "large_binary")  # types of Arrow that a dictionary can stand for


def accepts(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".parquet")


def read(path: Path, data: Data, scratch: Path) -> Source:
    """Paths are relative to the table's folder. Raises ValueError that names rows, at most 20 of them."""
    return source(load(path), path, data)


def load(path: Path, key: str = "data.source") -> pd.DataFrame:
    """The table as text, byte for byte: a class may be called NA or 001. The index counts lines, the header being the first.

    Raises ValueError that begins with the params key which named the table.
    """
    try:
        return _stored(path) if path.suffix.lower() == ".parquet" else _written(path)
    except (ValueError, OSError, csv.Error) as error:  # those of Arrow and of Unicode are ValueErrors too
        remedy = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise ValueError(f"{key}: {path.name} cannot be read as a table: {error}{remedy}") from None


def _stored(path: Path) -> pd.DataFrame:
    import pyarrow as pa

    try:
        file, _ = open_parquet(path)
        flat = [f.name for f in file.schema_arrow if not pa.types.is_nested(f.type)]
        whole = file.read(None if len(flat) == len(file.schema_arrow) else flat)
        if expanded(whole) > _most(path):
            raise ValueError(f"its text is {expanded(whole):,} bytes from {path.stat().st_size:,}")
        columns = [c.cast(c.type.value_type) if pa.types.is_dictionary(c.type) else c for c in whole.columns]
        table = pa.table(columns, whole.column_names).to_pandas(ignore_metadata=True, integer_object_nulls=True)
        frame = table.astype(object).where(table.notna(), "").astype(str)
    except pa.ArrowException as error:
        raise ValueError(error) from None
    return frame.set_axis(range(2, len(frame) + 2))


def open_parquet(path: Path) -> tuple[Any, int]:
    """A Parquet file, not yet read, and how many rows to read at once. Raises ValueError for one far larger than it is.

    Texts and bytes stay in their dictionaries, for one that many rows share is there once in the file.
    """
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    about, kinds = file.metadata, [file.schema.column(i) for i in range(file.metadata.num_columns)]
    size, largest = pages.unpacked(path, about.num_columns)
    size += about.num_rows * sum(max(8, kind.length) for kind in kinds)
    if size > _most(path):
        raise ValueError(f"it claims {size:,} bytes from {path.stat().st_size:,}")
    texts = {f.name for f in file.schema_arrow if str(f.type) in TEXTS}
    shared = [i for i, kind in enumerate(kinds) if kind.path in texts]  # numbers, for two columns may have one name
    return pq.ParquetFile(path, read_dictionary=shared), max(1, min(100, _most(path) // max(largest, 1)))


def _most(path: Path) -> int:
    return MOST_RATIO * max(path.stat().st_size, SMALL)


def expanded(table: Any) -> int:
    """Bytes of the texts of a table whose columns are dictionaries, once they stand in every row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chunks = [c for column in table.columns if pa.types.is_dictionary(column.type) for c in column.chunks]
    return sum(pc.sum(pc.binary_length(c.dictionary).take(c.indices).cast(pa.int64())).as_py() or 0 for c in chunks)


def _written(path: Path) -> pd.DataFrame:
    """Blank lines are passed over; a value may hold line breaks."""
    rows, lines, start = [], [], 1
    with path.open(encoding="utf-8-sig", newline="") as file:
        separator = "\t" if path.suffix.lower() == ".tsv" else _separator(file.readline())
        file.seek(0)
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            for row in reader:
                if row:
                    rows.append(row)
                    lines.append(start)
                start = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"line {start}: {error}") from None
    if not rows:
        raise ValueError("it is empty")
    header, rows, lines = rows[0], rows[1:], lines[1:]
    odd = [f"line {i} has {len(row)}" for row, i in zip(rows, lines, strict=True) if len(row) != len(header)]
    if odd:
        raise ValueError(
            f"the header has {len(header)} columns, [{listed(header)}], but {', '.join(odd[:20])}"
            f"{f' and so have {len(odd) - 20} more' if len(odd) > 20 else ''}"
        )
    return pd.DataFrame(rows, index=lines, columns=header, dtype=str)


def _separator(head: str) -> str:
    """A comma, or a semicolon or a tab where the header has more of those."""
    return max(",;\t", key=head.count)


def source(frame: pd.DataFrame, path: Path, data: Data) -> Source:
    names = _columns(frame, path.name, data)
    text = {key: frame[column].astype(str) for key, column in names.items()}
    check_paths(text["path"], path)
    labels, classes = check_labels(text["label"], path.name, data)
    paths, lines = [os.path.normpath(p) for p in text["path"]], frame.index.astype(str).tolist()
    others: dict[str, Callable[[pd.Series, str], list[Any]]] = {"split": _splits, "group": groups, "weight": _weights}
    more = {key: read(text[key], path.name) for key, read in others.items() if key in text}
    rows, problems = once(rows_table(label=labels, path=paths, row=lines, **more), path.name)
    load = Files(path.parent, data)
    return Source(classes, rows, rows["path"].tolist(), load, problems, grouped="group" in text)


def _columns(frame: pd.DataFrame, name: str, data: Data) -> dict[str, str]:
    """Which column holds what. A name that params changed must exist, also for the columns that may be missing."""
    asked = {key: getattr(data.manifest, key) for key in USUAL}
    needed = [key for key in asked if key in ("path", "label") or asked[key] != key]
    gone = [f"{key} ({asked[key]!r})" for key in needed if asked[key] not in frame]
    if gone:
        raise ValueError(
            f"data.source: {name} lacks the columns for {', '.join(gone)}; it has [{listed(frame)}]. "
            "Name them under data.manifest"
        )
    twice = [column for column in asked.values() if list(frame).count(column) > 1]
    if twice:
        raise ValueError(f"data.source: {name} has several columns called {listed(twice)}; it has [{listed(frame)}]")
    like = {column.strip().casefold(): column for column in frame}
    for key, column in asked.items():
        if column not in frame and (other := like.get(column.casefold())):
            raise ValueError(
                f"data.source: {name} has the column {other!r}, and {column!r} is looked for (data.manifest.{key}); name it there, "
                "or call it otherwise if it is something else"
            )
    if not len(frame):
        raise ValueError(f"data.source: {name} has no rows")
    return {key: column for key, column in asked.items() if column in frame}


def _lines(where: pd.Series) -> str:
    """The line numbers for which `where` is true."""
    return listed(str(line) for line in where.index[where]).replace("'", "")


def spelling(label: str) -> str:
    """What two labels have in common that differ in case, spaces or the encoding of accents alone."""
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def check_labels(text: pd.Series, name: str, data: Data, rows: str = "lines") -> tuple[list[str], tuple[str, ...]]:
    """Labels as they stand and the classes. A second spelling of a class is an error, never a class of its own.

    The index of `text` says where each label stands; `rows` is what the message calls such places.
    """
    counts, auto = text.value_counts(), data.classes == "auto"
    order = sorted(counts.index, key=lambda label: (label != label.strip(), -counts[label], label))
    known = order if auto else list(data.classes)
    first: dict[str, str] = {}
    for label in known:
        first.setdefault(spelling(label), label.strip())
    right = set(first.values()) if auto else set(known)
    wrong = [label for label in sorted(counts.index) if label not in right or not label.strip()]
    if wrong:
        said = "".join(f"\n  {rows} {_amiss(label, text, known, first)}" for label in wrong[:20])
        more = f"\n  and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        way = "two classes of like names must be listed there" if auto else f"it lists {known}"
        raise ValueError(f"data.source: {name} has labels that cannot stand (data.classes: {way}):{said}{more}")
    return text.tolist(), tuple(sorted(known) if auto else known)


def _amiss(label: str, text: pd.Series, known: list[str], first: dict[str, str]) -> str:
    if not label.strip():
        return f"{_lines(text == label)}: no label"
    meant = first.get(spelling(label)) or next(iter(get_close_matches(label, known, 1)), "")
    return f"{_lines(text == label)}: label {label!r}{f'; did you mean {meant!r}?' if meant else ''}"


def _splits(text: pd.Series, name: str) -> list[str]:
    split = text.str.strip().str.lower().map(SPLITS)
    if split.isna().any():
        raise ValueError(
            f"data.source: {name}, lines {_lines(split.isna())}: no split, or one of another name than "
            f"{', '.join(SPLITS)}; fill the column, or drop it to have splits cut"
        )
    return split.tolist()


def groups(text: pd.Series, name: str, key: str = "data.source") -> list[str]:
    group = text.str.strip()
    if (group == "").any():
        raise ValueError(
            f"{key}: {name}, lines {_lines(group == '')}: no group. Name the patient or object of each row; "
            "a row that belongs to nothing else gets a name of its own"
        )
    return group.tolist()


def _weights(text: pd.Series, name: str) -> list[float]:
    weight = pd.to_numeric(text, errors="coerce").astype(float)
    bad = ~np.isfinite(weight) | (weight <= 0)
    if bad.any():
        raise ValueError(
            f"data.source: {name}, lines {_lines(bad)}: a weight must be a number above 0; leave out a row that is to count "
            "for nothing, which generators would learn from all the same"
        )
    return weight.tolist()


def check_paths(text: pd.Series, path: Path, key: str = "data.source") -> None:
    """Raises ValueError for every path that leads out of the table's folder; such a row is never skipped."""
    blank = text.str.strip() == ""
    root, out, inside = os.path.realpath(path.parent), [], {}
    for line, name in text[~blank].items():
        folder = os.path.dirname(name)
        if folder not in inside:
            inside[folder] = _inside(folder, path.parent, root)
        if not (inside[folder] and _inside(name, path.parent, root, linked=False)):
            out.append(f"line {line}: {name!r}")
    if out:
        raise ValueError(
            f"{key}: {path.name} has paths that leave its folder, which is never followed: {'; '.join(out[:20])}"
            f"{f' and {len(out) - 20} more' if len(out) > 20 else ''}. Write paths relative to that folder, with /, "
            "and copy what links lead to"
        )
    if blank.any():
        raise ValueError(f"{key}: {path.name}, lines {_lines(blank)}: no path")


def _inside(name: str, folder: Path, root: str, linked: bool = True) -> bool:
    """Whether a path stays below `root`; not `linked` says that only its last part can be a link that leads out."""
    if name.startswith(("/", "~")) or name.lower().startswith("file:") or "\\" in name or "\0" in name:
        return False
    whole = os.path.join(folder, name)
    if ".." in name.split("/"):
        return False
    return not (linked or os.path.islink(whole)) or Path(os.path.realpath(whole)).is_relative_to(root)


def once(rows: pd.DataFrame, name: str, source: str = "data.source") -> tuple[pd.DataFrame, list[Problem]]:
    """Every path once: repeated rows go to the quarantine list, rows that say different things of one path are an error."""
    for key in ("label", "split", "group", "weight"):
        values = rows.groupby("path")[key].nunique()
        two = sorted(values.index[values > 1])
        if two:
            raise ValueError(f"{source}: {name} gives two {key}s to one path: {listed(two)}")
    again = rows["path"].duplicated()
    twice = rows.loc[again, ["path", "row"]].itertuples(index=False)
    problems = [Problem(r.path, r.row, REPEATED, "the same path stands twice in the table") for r in twice]
    return rows[~again].reset_index(drop=True), problems
