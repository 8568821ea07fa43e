"""A folder with one folder of images per class, with or without train, val and test folders above them."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.data.sources.base import SPLITS, Source, listed, table
from pipeline.data.sources.decode import SUFFIXES, Files
from pipeline.params import Data


def accepts(path: Path) -> bool:
    return path.is_dir()


def read(root: Path, data: Data, scratch: Path) -> Source:
    top = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    split_of = {p: SPLITS.get(p.name.lower(), "") for p in top}
    parts = [("", root)] if not any(split_of.values()) else [(s, p) for p, s in split_of.items()]
    if any(split_of.values()) and not all(split_of.values()):
        odd = sorted(p.name for p, s in split_of.items() if not s)
        raise ValueError(
            f"data.source: {root.name} has split folders and also {odd}; expected either only "
            "train, val and test (with class folders in them) or only class folders"
        )
    rows = [row for split, part in parts for row in _classes(part, split, root)]
    if not rows:
        raise ValueError(
            f"data.source: no images found in the class folders of {root.name}, for it has none; expected one folder per "
            f"class with files ending in {', '.join(sorted(SUFFIXES))}"
        )
    label, split, path = (list(column) for column in zip(*rows, strict=True))
    return Source(tuple(sorted(set(label))), table(label=label, split=split, path=path), path, Files(root, data))


def _classes(part: Path, split: str, root: Path) -> Iterator[tuple[str, str, str]]:
    """(class, split, path) of every image below the class folders of one part."""
    folders = sorted(p for p in part.iterdir() if p.is_dir() and not p.name.startswith("."))
    loose = [f.name for f in sorted(part.iterdir()) if f.suffix.lower() in SUFFIXES and not f.is_dir()]
    if loose and folders:
        raise ValueError(
            f"data.source: {len(loose)} images lie beside the class folders of {part.name}, in no class "
            f"({loose[0]}, ...); move or remove them"
        )
    for folder in folders:
        files = list(image_files(folder, root))
        if not files:
            raise ValueError(
                f"data.source: no images found in the class folder {folder.relative_to(root)}; expected files "
                f"ending in {', '.join(sorted(SUFFIXES))}; remove the folder if it is no class"
            )
        yield from ((folder.name, split, file) for file in files)


def image_files(folder: Path, root: Path) -> Iterator[str]:
    """Paths, relative to the root, of everything below a folder that is named like an image. Links must not lead out."""
    inside, out = root.resolve(), []
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in SUFFIXES:
            if not file.resolve().is_relative_to(inside):
                out.append(str(file.relative_to(root)))
            yield str(file.relative_to(root))
    if out:
        raise ValueError(f"data.source: {listed(out)}: links out of the source's folder; copy the files instead")
