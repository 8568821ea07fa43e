"""A folder with one folder of images per class, with or without train, val and test folders above them."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.sources.base import SPLIT_FOLDER, SPLITS, Source, listed, table
from pipeline.data.sources.decode import SUFFIXES, Files
from pipeline.params import Data

LINKS = ": links out of the source's folder, or to a folder; copy the files instead"


def accepts(path: Path) -> bool:
    return path.is_dir()


def read(root: Path, data: Data, scratch: Path) -> Source:
    named = {p: SPLIT_FOLDER.fullmatch(p.name.lower()) for p in _folders(root)}
    split_of = {p: SPLITS[said[1]] if said else "" for p, said in named.items()}
    parts = [("", root)] if not any(split_of.values()) else [(s, p) for p, s in split_of.items()]
    if any(split_of.values()) and not all(split_of.values()):
        odd = sorted(p.name for p, s in split_of.items() if not s)
        raise ValueError(
            f"data.source: {root.name} has split folders and also {odd}; expected either only "
            "train, val and test (with class folders in them) or only class folders"
        )
    for part in dict.fromkeys([root, *(p for _, p in parts)]):
        _check_loose(part, root)
        _check_order(part, root)
    rows = [row for split, part in parts for row in _classes(part, split, root)]
    if not rows:
        raise ValueError(
            f"data.source: no images found in the class folders of {root.name}, for it has none; expected one folder per "
            f"class with files ending in {', '.join(sorted(SUFFIXES))}"
        )
    label, split, path = (list(column) for column in zip(*rows, strict=True))
    rows = table(label=label, split=split, path=path)
    return Source(tuple(sorted(set(label))), rows, path, Files(root, data), skipped=skipped(root))


def skipped(root: Path) -> dict[str, int]:
    """How many files below the folders of the root are not named like images, by their ending; hidden ones left out."""
    count: Counter[str] = Counter()
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith(".")]
        if folder != str(root):
            endings = [Path(f).suffix.lower() for f in files if not f.startswith(".")]
            count.update(e or "none" for e in endings if e not in SUFFIXES)
    return dict(sorted(count.items()))


def _folders(part: Path) -> list[Path]:
    """Raises ValueError for links to folders."""
    found = sorted(p for p in part.iterdir() if p.is_dir() and not p.name.startswith("."))
    linked = [p.name for p in found if p.is_symlink()]
    if linked:
        raise ValueError(f"data.source: {listed(linked)}{LINKS}")
    return found


def _check_loose(part: Path, root: Path) -> None:
    """Raises ValueError for images in no class folder, and for a split folder without class folders."""
    loose = [
        f.name
        for f in sorted(part.iterdir())
        if f.suffix.lower() in SUFFIXES and not f.name.startswith(".") and not f.is_dir()
    ]
    if loose and (part != root or _folders(part)):
        raise ValueError(
            f"data.source: {len(loose)} images lie beside the class folders of {part.name}, in no class "
            f"({listed(loose, 1)}); move or remove them"
        )
    if part != root and not _folders(part):
        raise ValueError(f"data.source: the split folder {part.name} has no class folders; fill it, or remove it")


def _check_order(part: Path, root: Path) -> None:
    """Raises ValueError for split folders in a class folder, whose splits nobody would notice."""
    for folder in _folders(part):
        if part == root and SPLIT_FOLDER.fullmatch(folder.name.lower()):
            continue
        if inside := sorted(p.name for p in folder.iterdir() if p.is_dir() and SPLIT_FOLDER.fullmatch(p.name.lower())):
            raise ValueError(
                f"data.source: the class folder {folder.name} has split folders in it ({listed(inside)}); expected them above "
                f"the class folders: {inside[0]}/{folder.name}. If they are no splits, rename them"
            )


def _classes(part: Path, split: str, root: Path) -> Iterator[tuple[str, str, str]]:
    """(class, split, path) of every image below the class folders of one part."""
    for folder in _folders(part):
        files = list(image_files(folder, root))
        if not files:
            tables = any(folder.glob("*.parquet"))
            way = (
                f"for its Parquet files set data.source to {folder}"
                if tables
                else "remove the folder if it is no class"
            )
            raise ValueError(
                f"data.source: no images found in the class folder {folder.relative_to(root)}; expected files "
                f"ending in {', '.join(sorted(SUFFIXES))}; {way}"
            )
        yield from ((folder.name, split, file) for file in files)


def _closed(error: OSError) -> None:
    raise ValueError(f"the folder {error.filename} cannot be read ({error.strerror}); mend its permissions")


def image_files(folder: Path, root: Path, key: str = "data.source") -> Iterator[str]:
    """Paths, relative to the root, of everything below a folder that is named like an image, hidden names left out.

    Raises ValueError for links that lead out of the root or to a folder, for names that are no UTF-8, and for folders
    that may not be read.
    """
    for _ in os.walk(folder, onerror=_closed):  # which rglob would pass over without a word
        pass
    inside, out, odd = os.path.realpath(root), [], []
    for file in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue
        name, linked = str(file.relative_to(root)), file.is_symlink() and file.is_dir()
        if linked or file.suffix.lower() in SUFFIXES:
            if linked or not Path(os.path.realpath(file)).is_relative_to(inside):
                out.append(name)
            if name != name.encode(errors="replace").decode():
                odd.append(name)
            yield name
    if out:
        raise ValueError(f"{key}: {listed(out)}{LINKS}")
    if odd:
        raise ValueError(f"{key}: {listed(odd)}: names that are no UTF-8; rename the files or their folders")
