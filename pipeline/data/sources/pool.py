"""An unlabelled pool: a folder of images, in whatever folders below it, or a table with a path column."""

import os
from pathlib import Path

from pipeline.data.sources import manifest
from pipeline.data.sources.base import Source, listed, table
from pipeline.data.sources.decode import Files
from pipeline.data.sources.folder import image_files
from pipeline.params import NO_POOL, Data, stands_for


def read(path: Path, data: Data) -> Source:
    """Rows without a label, none for NO_POOL. Raises ValueError if there is nothing to read."""
    if stands_for(path, NO_POOL):
        return Source((), table(label=[]), [], Files(path.parent, data))
    if path.is_dir():
        root, paths = path, dict.fromkeys(image_files(path, path, "data.unlabelled"), "")
    elif manifest.accepts(path):
        root, frame = path.parent, manifest.load(path, "data.unlabelled")
        if list(frame).count(data.manifest.path) != 1:
            amiss = "has several columns called" if data.manifest.path in frame else "lacks the column"
            raise ValueError(f"data.unlabelled: {path.name} {amiss} {data.manifest.path!r}; it has [{listed(frame)}]")
        manifest.check_paths(frame[data.manifest.path], path, "data.unlabelled")
        paths = {}
        for name, row in zip(frame[data.manifest.path], frame.index.astype(str), strict=True):
            paths.setdefault(os.path.normpath(name), row)
    else:
        raise ValueError(
            f"data.unlabelled: {path} is no folder and no table; expected a folder of images, a .csv, .tsv or .parquet "
            "with a path column, or sets/none.yaml"
        )
    if not paths:
        raise ValueError(f"data.unlabelled: no images found in {path.name}")
    rows = table(label=[""] * len(paths), path=list(paths), row=list(paths.values()))
    return Source((), rows, list(paths), Files(root, data))
