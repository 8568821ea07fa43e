"""One file per DVC stage: read, call the library, write. Run with `python -m stages <stage> <arguments as in dvc.yaml>`.

A `main` with an argument `unfinished` is given a folder that is kept if the stage is killed, for its next run to go on.
"""

from pathlib import Path
from typing import NewType

Output = NewType(
    "Output", Path
)  # an argument that a stage writes; it appears under its name only when the stage is done


def within(folder: Path | None, name: str) -> Path | None:
    """The place of this name in a folder, if there is a folder."""
    return None if folder is None else folder / name
