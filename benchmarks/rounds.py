"""Variants timed against one another: processes of one thread, rounds in rotated order, ratios within a round.

CPU seconds, so that other load on the machine weighs little; garbage is not collected while time is taken.
"""

import contextlib
import multiprocessing as mp
import os
import platform
import statistics
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "GOMP_SPINCOUNT": "0",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "HF_HUB_OFFLINE": "1",
}
ROUNDS = 5
FLAGS = ("avx512_bf16", "amx_bf16")


class Process:
    """A process of its own that calls functions of modules, and keeps what they cache; `path` is importable there alone."""

    def __init__(self, path: Path | None = None) -> None:
        os.environ.update(ENVIRONMENT)  # torch reads them once, when it is imported: in the new process
        context = mp.get_context("spawn")
        self.line, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, path), daemon=True)
        self.process.start()
        other.close()

    def __call__(self, function: Callable[..., Any], *given: Any) -> Any:
        self.line.send((function, given))
        well, value = self.line.recv()
        if not well:
            raise RuntimeError(f"{function.__name__} failed in its process:\n{value}")
        return value

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.line.close()  # which ends it
        self.process.join()


def _serve(line: Connection, path: Path | None) -> None:
    import gc
    import sys

    if path is not None:
        sys.path.append(str(path))  # last, so that it replaces nothing
    gc.disable()
    with contextlib.suppress(EOFError):
        while True:
            function, given = line.recv()
            gc.collect()
            try:
                line.send((True, function(*given)))
            except Exception:
                line.send((False, traceback.format_exc()))


def measure(variants: Mapping[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """What each variant gives in each round, after one that does not count; the order turns by one from round to round."""
    names = list(variants)
    for run in variants.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in names}
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            found[name].append(variants[name]())
    return found


class Ratio(NamedTuple):
    """The median of ratios within a round, the least and the largest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, one: Sequence[float], other: Sequence[float]) -> "Ratio":
        each = [a / b for a, b in zip(one, other, strict=True)]
        return cls(statistics.median(each), min(each), max(each))

    def said(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def best(found: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """The fastest of these variants, by its median."""
    return max(names, key=lambda name: statistics.median(found[name]))


def machine() -> dict[str, Any]:
    """Processor, cores, instructions for bf16, versions and how much other programs ask for now."""
    from importlib.metadata import version

    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split(":", 1) for line in about.splitlines() if ":" in line)
    told = {k.strip(): v.strip() for k, v in lines.items()}
    return {
        "processor": told.get("model name", platform.processor() or platform.machine()),
        "family": f"{told.get('cpu family', '?')}/{told.get('model', '?')}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "bf16": [flag for flag in FLAGS if flag in told.get("flags", "").split()],
        "python": platform.python_version(),
        "torch": version("torch"),
        "load": [round(x, 1) for x in os.getloadavg()[:2]],
    }


def described(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """One line for a person."""
    return (
        f"{before['processor']} (family/model {before['family']}), {before['cores']} cores, bf16 instructions: "
        f"{', '.join(before['bf16']) or 'none'}; Python {before['python']}, torch {before['torch']}; load (1 and 5 minutes) "
        f"{before['load']} before, {after['load']} after"
    )


def foreign(before: Mapping[str, Any]) -> bool:
    """Whether other programs ask for so much of the machine that seconds by the clock say little: measured before the first
    process of ours."""
    return bool(before["load"][0] > 0.25 * before["cores"])
