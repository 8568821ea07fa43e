"""Python runs this at its start where this folder is on PYTHONPATH: notes how long loops take, a line each, in $LOOP_SECONDS.

So a whole run is measured from outside, its workers too, and the project itself knows nothing of it: benchmarks/whole.py.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

LOOPS = {
    "pipeline.training": ("training", "_Loop", "play"),
    "pipeline.generators.base": ("drawing rows", "Generator", "sample"),
    "pipeline.classifier.predict": ("classifying rows", "", "run"),
    "pipeline.evaluation.statistics": ("resampling test rows", "", "differences"),
}


def timed(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def instead(*args: Any, **kwargs: Any) -> Any:
        begun = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            with Path(os.environ["LOOP_SECONDS"], str(os.getpid())).open("a") as file:
                file.write(json.dumps([kind, time.monotonic() - begun]) + "\n")

    return instead


class Finder(MetaPathFinder):
    """Finds the modules of LOOPS, whose loop is then replaced as soon as they have run."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in LOOPS else None
        if spec is None or spec.loader is None:
            return None
        execute, (kind, owner, function) = spec.loader.exec_module, LOOPS[name]

        def then(module: ModuleType) -> None:
            execute(module)
            holder = getattr(module, owner) if owner else module
            setattr(holder, function, timed(getattr(holder, function), kind))

        spec.loader.exec_module = then  # type: ignore[method-assign]
        return spec


if "LOOP_SECONDS" in os.environ:
    sys.meta_path.insert(0, Finder())
