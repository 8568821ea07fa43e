"""Parquet as Hugging Face stores image sets: a column of {bytes, path} or plain bytes and a column of labels."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.data.sources.base import SPLITS, Picture, Source, listed, table
from pipeline.data.sources.decode import decode
from pipeline.data.sources.manifest import open_parquet
from pipeline.data.sources.npz import MOST_RATIO, SMALL
from pipeline.params import Data

IMAGES, LABELS = ("image", "img", "jpg", "png", "bytes"), ("label", "labels", "fine_label", "class")


def load(file: Path, data: Data, ref: tuple[int, int, str]) -> Picture:
    """An encoded image by its place in one file of all of them."""
    start, length, name = ref
    with file.open("rb") as stream:
        stream.seek(start)
        return decode(stream.read(length), name, data)


def parts(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".parquet" else []
    return sorted(f for f in [*path.glob("*.parquet"), *path.glob("data/*.parquet")] if f.is_file())


def accepts(path: Path) -> bool:
    """A Parquet file with a column of encoded images, or a folder with any Parquet file in it or in its data/."""
    files = parts(path)
    return bool(files) and (path.is_dir() or _of_images(_schema(files[0])))


def read(path: Path, data: Data, scratch: Path) -> Source:
    """Files called train-..., validation-... or test-... give the splits. Raises ValueError for columns that are missing."""
    files, labels, splits, groups, refs, names, known = parts(path), [], [], [], [], [], {}
    root = (path if path.is_dir() else path.parent).resolve()
    most = MOST_RATIO * max(sum(f.stat().st_size for f in files), SMALL)
    with (scratch / "images.bin").open("wb") as out:
        for file in files:
            if not file.resolve().is_relative_to(root):
                raise ValueError(
                    f"data.source: {file.name} is a link out of the source's folder; copy the file instead"
                )
            inner = file.relative_to(path if path.is_dir() else path.parent)
            image, label, known[inner] = _columns(file, data)
            group = _group_column(file, data)
            split = SPLITS.get(re.split(r"[-_. ]", file.stem)[0].lower(), "")
            for row, (picture, value, owner) in enumerate(_rows(file, image, label, group or label)):
                content = _bytes(picture, file.name, row)
                name = f"{inner.with_suffix('')}/{row}"
                refs.append((out.tell(), len(content), name))
                out.write(content)
                if out.tell() > most:
                    raise ValueError(
                        f"data.source: {file.name} unpacks to more than {most:,} bytes, {MOST_RATIO} times what {path.name} has"
                    )
                labels.append(_label(value, known[inner], file.name, row))
                splits.append(split)
                groups.append(_owner(owner, file.name, row) if group else "")
                names.append(name)
    if not labels:
        raise ValueError(f"data.source: {path.name} has no rows")
    if "" in splits and set(splits) != {""}:
        raise ValueError(
            f"data.source: some files of {path.name} are named after a split and some are not: {[f.name for f in files]}"
        )
    first, classes = next(iter(known.items()))
    for inner, others in known.items():
        if others != classes:
            raise ValueError(f"data.source: {first} and {inner} name their classes differently: {classes} and {others}")
    classes = classes or sorted(set(labels), key=lambda c: (len(c), c) if c.isdigit() else (0, c))
    if "" in groups and set(groups) != {""}:
        raise ValueError(
            f"data.source: some files of {path.name} have the column {data.manifest.group!r} and some have not"
        )
    frame = table(label=labels, split=splits, group=groups, path=names)
    there, by_place = set(labels), partial(load, scratch / "images.bin", data)
    return Source(tuple(c for c in classes if c in there), frame, refs, by_place, grouped="" not in groups)


def _schema(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"data.source: {file.name} cannot be read as Parquet: {error}") from None


def _rows(file: Path, *columns: str) -> Iterator[tuple[Any, ...]]:
    """These columns of each row, one unpacked at a time. Raises ValueError for a file that is broken or too large inside."""
    import pyarrow as pa

    try:
        opened, most = open_parquet(file)
        for batch in opened.iter_batches(most, columns=list(dict.fromkeys(columns))):
            yield from zip(*((cell.as_py() for cell in batch.column(c)) for c in columns), strict=True)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ValueError(f"data.source: {file.name} cannot be read as Parquet: {error}") from None


def _plain(kind: Any) -> bool:
    import pyarrow.types as t

    return t.is_binary(kind) or t.is_large_binary(kind) or t.is_binary_view(kind)


def _image_column(schema: Any) -> str | None:
    """The column of images: one that is named so, else the first of {bytes, path}, else the first of bytes."""
    import pyarrow.types as t

    pairs = [f.name for f in schema if t.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    found = pairs + [f.name for f in schema if _plain(f.type)]
    return next((n for n in IMAGES if n in found), found[0] if found else None)


def _of_images(schema: Any) -> bool:
    """Whether a file is no table of paths: bytes beside a column of these may be anything, unless they are named like images."""
    name, plain = _image_column(schema), [f.name for f in schema if _plain(f.type)]
    paths = "path" in schema.names and "path" not in plain
    return name is not None and not (paths and name in plain and name not in IMAGES)


def _columns(file: Path, data: Data) -> tuple[str, str, list[str]]:
    """The image column, the label column, and class names where the file's metadata gives them."""
    schema = _schema(file)
    image = _image_column(schema)
    asked = data.manifest.label
    wanted = (asked, *LABELS) if asked == "label" else (asked,)
    label = next((n for n in wanted if n in schema.names), None)
    if image is None or label is None:
        raise ValueError(
            f"data.source: {file.name} needs a column of image bytes and one of labels (data.manifest.label: {asked!r}); "
            f"it has [{listed(schema.names)}]"
        )
    if schema.names.count(image) + schema.names.count(label) > 2:
        raise ValueError(f"data.source: {file.name} has two columns of one name; it has [{listed(schema.names)}]")
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return image, label, [str(n) for n in features[label]["names"]]
    except (KeyError, TypeError, ValueError, RecursionError):
        return image, label, []  # most files carry no class names


def _group_column(file: Path, data: Data) -> str:
    """The column that says which rows belong together; empty where there is none. A column that params name must exist."""
    names, asked = _schema(file).names, data.manifest
    gone = [c for key in ("group", "split", "weight") if (c := getattr(asked, key)) != key and c not in names]
    if gone:
        raise ValueError(
            f"data.source: {file.name} lacks the columns {gone} of data.manifest; it has [{listed(names)}]"
        )
    if asked.split in names or asked.weight in names:
        raise ValueError(
            f"data.source: {file.name} has a column for split or weight, which is not read beside image bytes; name the "
            "files after their splits (train-..., test-...), or write a table of paths"
        )
    if names.count(asked.group) > 1:
        raise ValueError(f"data.source: {file.name} has two columns {asked.group!r}; it has [{listed(names)}]")
    return asked.group if asked.group in names else ""


def _owner(value: Any, name: str, row: int) -> str:
    if value is None or isinstance(value, list | dict | float | bytes) or not str(value).strip():
        raise ValueError(
            f"data.source: {name}, row {row}: no group, but {value!r}; expected text or a whole number that names the patient or "
            "object of the row"
        )
    return str(value).strip()


def _bytes(value: Any, name: str, row: int) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError(f"data.source: {name}, row {row}: the image is stored outside the file; embed its bytes")
    return content


def _label(value: Any, classes: list[str], name: str, row: int) -> str:
    if value is None or isinstance(value, list | dict | float | bytes) or not str(value).strip():
        raise ValueError(f"data.source: {name}, row {row}: expected one label, a whole number or text, got {value!r}")
    if classes and isinstance(value, int):
        if not 0 <= value < len(classes):
            raise ValueError(f"data.source: {name}, row {row}: label {value} is none of the {len(classes)} classes")
        return classes[value]
    return str(value)
