"""An unlabelled pool: a folder of images, in whatever folders below it, or a table with a path and perhaps a group column."""

import os
from pathlib import Path

from pipeline.data.sources import manifest
from pipeline.data.sources.base import Problem, Source, listed, table
from pipeline.data.sources.decode import Files
from pipeline.data.sources.folder import image_files
from pipeline.params import NO_POOL, Data, stands_for


def read(path: Path, data: Data) -> Source:
    """Rows without a label, none for NO_POOL. Raises ValueError if there is nothing to read."""
    problems: list[Problem] = []
    if stands_for(path, NO_POOL):
        return Source((), table(label=[]), [], Files(path.parent, data))
    if path.is_dir():
        root, paths = path, list(image_files(path, path, "data.unlabelled"))
        rows = table(label=[""] * len(paths), path=paths)
    elif manifest.accepts(path):
        root, frame = path.parent, manifest.load(path, "data.unlabelled")
        names, group = data.manifest, {}
        for name, needed in ((names.path, True), (names.group, False)):
            if (count := list(frame).count(name)) > 1 or needed > count:
                amiss = "has several columns called" if count else "lacks the column"
                raise ValueError(f"data.unlabelled: {path.name} {amiss} {name!r}; it has [{listed(frame)}]")
        manifest.check_paths(frame[names.path], path, "data.unlabelled")
        if names.group in frame:
            group = {"group": manifest.groups(frame[names.group], path.name, "data.unlabelled")}
        paths, lines = [os.path.normpath(p) for p in frame[names.path]], frame.index.astype(str)
        rows, problems = manifest.once(
            table(label=[""] * len(frame), path=paths, row=lines, **group), path.name, "data.unlabelled"
        )
    else:
        raise ValueError(
            f"data.unlabelled: {path} is no folder and no table; expected a folder of images, a .csv, .tsv or .parquet "
            "with a path column, or sets/none.yaml"
        )
    if not len(rows):
        raise ValueError(f"data.unlabelled: no images found in {path.name}")
    return Source(
        (), rows, rows["path"].tolist(), Files(root, data), problems, grouped=bool((rows["group"] != "").any())
    )
