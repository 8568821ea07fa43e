"""What of a whole run is spent in loops, in stages and around them: a run of a copy, from its start to its end."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import project
from pipeline import imports

TRAINING = ("lightning", "pytorch_lightning")
LIGHT = ("prepare", "report", "evaluate")  # stages that must start without a training library


def intervals(folder: Path) -> dict[str, tuple[float, float]]:
    """When each stage began and ended by the clock, as it noted itself; imports of the program before it are not in it."""
    noted = [json.loads(f.read_text()) for f in sorted(folder.glob("*.json"))]
    return {n["stage"]: (n["ended"] - n["seconds"], n["ended"]) for n in noted}


def last_run(found: Mapping[str, tuple[float, float]], pause: float = 120.0) -> dict[str, tuple[float, float]]:
    """The stages of the last run alone: those after the last pause of so many seconds."""
    kept: dict[str, tuple[float, float]] = {}
    for name, (begun, ended) in sorted(found.items(), key=lambda item: -item[1][1]):
        if kept and min(b for b, _ in kept.values()) - ended > pause:
            break
        kept[name] = (begun, ended)
    return kept


def busy(found: Sequence[tuple[float, float]]) -> float:
    """Seconds in which at least one of them was running."""
    total, until = 0.0, float("-inf")
    for begun, ended in sorted(found):
        total += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return total


def account(folder: Path) -> dict[str, float]:
    """Seconds of the last run by the clock, of all stages added up, and with no stage at work (dvc and starting Python)."""
    found = list(last_run(intervals(folder)).values())
    if not found:
        raise ValueError(f"{folder} holds no times; run `make repro` first")
    clock = max(e for _, e in found) - min(b for b, _ in found)
    return {
        "stages": len(found),
        "clock": clock,
        "added": sum(e - b for b, e in found),
        "between": clock - busy(found),
    }


def fresh(folder: Path) -> float:
    """A run as `make repro` does it once the packages are there, in a copy of the project; its seconds.

    Below .work are the times of its stages, and in .work/loops those of its loops.
    """
    project.copy(folder, lambda params: None)
    for name in ("Makefile", "requirements.lock", "requirements-torch.txt"):
        shutil.copy(project.ROOT / name, folder / name)
    (folder / ".work" / "loops").mkdir(parents=True)
    more = {"PYTHONPATH": str(Path(__file__).parent / "timed"), "LOOP_SECONDS": str(folder / ".work" / "loops")}
    begun = time.monotonic()
    project.run(folder, "make", "--no-print-directory", "side-by-side", **more)
    project.run(folder, "dvc", "repro", "--quiet", **more)
    return time.monotonic() - begun


def loops(folder: Path) -> dict[str, float]:
    """Seconds in loops of each kind, added up over all processes."""
    lines = [json.loads(line) for file in sorted(folder.iterdir()) for line in file.read_text().splitlines()]
    return {kind: sum(s for k, s in lines if k == kind) for kind in dict.fromkeys(k for k, _ in lines)}


def nothing_to_do(root: Path, times: int = 3) -> list[float]:
    """Seconds that `dvc repro` takes to find that nothing has changed. Raises ValueError if something has."""
    dvc = [sys.executable, "-m", "dvc"]
    if subprocess.run([*dvc, "status", "--quiet"], cwd=root).returncode:
        raise ValueError("the run is not finished or not up to date (`dvc status` says why); run `make repro` first")
    found = []
    for _ in range(times):
        begun = time.monotonic()
        subprocess.run([*dvc, "repro", "--quiet"], cwd=root, check=True)
        found.append(time.monotonic() - begun)
    return found


def training_imports(root: Path, stage: str) -> list[str]:
    """The files that a stage may come to run, in functions too, and that import Lightning."""
    files = imports.reached([Path("stages") / f"{stage}.py"], {}, root)
    code = sorted(f for f in files if f.suffix == ".py")
    return [f.as_posix() for f in code if _imports((root / f).read_text(encoding="utf-8"))]


def _imports(source: str) -> bool:
    import ast

    return any(name.split(".")[0] in TRAINING for name in imports.imported(ast.parse(source)))
