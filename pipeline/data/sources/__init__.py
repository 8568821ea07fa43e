"""Formats in. A format is one file here: `accepts(path)` knows it by its look, `read(path, data, scratch)` lists its rows."""

from dataclasses import replace
from pathlib import Path

from pipeline.data.sources import digits, folder, idx, manifest, named, npz, parquet
from pipeline.data.sources.base import Source
from pipeline.params import EMBEDDED, Data, stands_for
from pipeline.params.sections import Digits

FORMATS = (named, npz, idx, parquet, manifest, folder)  # asked in this order


def read(data: Data, block: Digits, seed: int, scratch: Path) -> Source:
    """Open what `data.source` names; `scratch` is an empty folder for unpacked archives, needed as long as the source is.

    Raises ValueError that lists what was expected, or the labels that are none of data.classes.
    """
    path = locate(data.source, "data.source")
    check_manifest(path, data)
    check_apart(path, Path(data.unlabelled), data)
    source = digits.read_digits(block, seed) if stands_for(path, EMBEDDED) else open_source(path, data, scratch)
    _, classes = manifest.check_labels(source.rows.set_index("path")["label"], path.name, data, "rows")
    return source if data.classes == "auto" else replace(source, classes=classes)


def open_source(path: Path, data: Data, scratch: Path) -> Source:
    if path.is_dir() and data.manifest.file != "none":
        inside, path = path.resolve(), path / data.manifest.file
        if not manifest.accepts(path) or not path.resolve().is_relative_to(inside):
            raise ValueError(
                f"data.manifest.file: {path} is no .csv, .tsv or .parquet file inside the source's folder; "
                "set it to none to read class folders"
            )
    kind = next(kind for kind in FORMATS if kind.accepts(path))
    renamed = [key for key in manifest.USUAL if getattr(data.manifest, key) != key]
    if renamed and kind not in (manifest, parquet):
        raise ValueError(
            f"data.manifest: {', '.join(renamed)} would name columns of a table, but {path.name} is read without one, so this "
            "would be passed over; name a table (data.manifest.file), or leave these keys as shipped"
        )
    return kind.read(path, data, scratch)


def check_manifest(path: Path, data: Data) -> None:
    """Raises ValueError for a table that is named and would be passed over, its groups and splits with it."""
    if data.manifest.file not in ("none", path.name) and not path.is_dir():
        raise ValueError(
            f"data.manifest.file: {data.manifest.file!r} is looked for in a source that is a folder, and data.source is "
            f"{path.name}: name the folder, or set it to none"
        )


def check_apart(path: Path, pool: Path, data: Data) -> None:
    """Raises ValueError for a pool inside a source of class folders, whose pictures would be those of a class."""
    folders = data.manifest.file == "none" and next((k for k in FORMATS if k.accepts(path)), None) is folder
    if folders and pool.is_dir() and pool.resolve().is_relative_to(path.resolve()):
        raise ValueError(
            f"data.unlabelled: {str(pool)!r} lies in data.source, so its pictures would also be read as those of a class; "
            "move it out of that folder"
        )


def locate(source: str, key: str) -> Path:
    """The path that a params key names. Raises ValueError unless one of the formats accepts it."""
    path = Path(source)
    if any(kind.accepts(path) for kind in FORMATS):
        return path
    found = "is of no format that can be read" if path.exists() else "does not exist"
    raise ValueError(
        f"{key}: {source!r} {found}; expected a named set (sets/digits.yaml, ...), a folder with one folder of images per "
        "class, a table (.csv, .tsv, .parquet) of paths and labels, a .npz in MedMNIST layout, a folder of IDX files, "
        "or Parquet with image bytes. docs/data.md shows each"
    )
