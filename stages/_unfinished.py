"""Where a stage that is killed finds its work again: a folder named after all that determines what it comes to."""

import hashlib
import json
import platform
import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from pipeline.params import Params

ROOT = Path(__file__).parents[1]
NEEDED = ("torch", "lightning", "numpy", "safetensors")  # what computes the numbers
LATER = {"evaluation": True, "gate": True, "report": True, "compute": {"processes"}}  # no network depends on these


def folder(
    home: Path, stage: str, params: Params, values: dict[str, Path | str], outputs: Iterable[str], clear: bool = True
) -> Path:
    """The folder in `home` for these params, this code, these versions and the content of these inputs; not made yet.

    What lies in `home` for others is removed, if `clear`: they are not what this stage is asked for now.
    """
    inputs = {name: value for name, value in values.items() if name not in outputs}
    facts = {
        "stage": stage,
        "params": params.model_dump(mode="json", exclude=LATER),
        "code": {part: content(ROOT / part, "*.py") for part in ("pipeline", "stages")},
        "inputs": {name: content(v) if isinstance(v, Path) else v for name, v in inputs.items()},
        "versions": [platform.python_version(), *map(version, NEEDED)],
    }
    mine = home / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    for other in home.glob("*"):
        if clear and other != mine:
            shutil.rmtree(other)
    return mine


def content(path: Path, pattern: str = "*") -> list[tuple[str, str]] | str:
    """Names and hashes of all files in a folder, or the hash of a file; empty if there is nothing."""
    if path.is_dir():
        files = sorted(f for f in path.rglob(pattern) if f.is_file())
        return [(f.relative_to(path).as_posix(), digest(f)) for f in files]
    return digest(path) if path.exists() else ""


def digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
