"""A copy of this project in a folder of its own, with other params: what the measurements run on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]


def copy(folder: Path, change: Callable[[dict], None]) -> Path:
    """The project without results; `change` edits its params."""
    for name in ("pipeline", "stages", "sets", "dvc.yaml", "params.yaml", ".dvcignore"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    change(params)
    yaml.dump(params, folder / "params.yaml")
    run(folder, sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet")
    return folder


def whole(folder: Path, change: Callable[[dict], None]) -> None:
    """The same as `folder`, which after a kill is there in full or not at all."""
    half = folder.with_name(f"{folder.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    copy(half, change).rename(folder)


def prepare(folder: Path) -> Path:
    """Runs the stage alone, by the command that the graph has for it, and returns the folder of its outputs."""
    words = YAML(typ="safe").load(folder / "dvc.yaml")["stages"]["prepare"]["cmd"].split()
    run(folder, sys.executable, *words[1:])
    return folder / "data" / "real"


def run(folder: Path, *command: str, **more: str) -> None:
    """A command, in the folder, with this project's packages; `more` stands in its environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", **more}, check=True)
