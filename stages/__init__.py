"""One file per DVC stage: read, call the library, write. Run with `python -m stages <stage> <arguments as in dvc.yaml>`."""

from pathlib import Path
from typing import NewType

Output = NewType(
    "Output", Path
)  # an argument that a stage writes; it appears under its name only when the stage is done
