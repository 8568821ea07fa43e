"""generate: synthetic rows for the scarce classes, each from a seed of its own."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline import generators, processes, ranks
from pipeline.generators.base import failure, quiet
from pipeline.params import Params, borrowing, guided
from pipeline.samples import Samples, table, with_pool
from pipeline.seeds import derive
from pipeline.selection.rules import drawn, wanted
from stages import Output


def main(
    params: Params, name: str, plan: Path, train: Path, pool: Path, model: Path, search: Path, out: Output
) -> None:
    params = guided(params, name, json.loads(search.read_text()))
    rows = Samples.load(train)
    goal = wanted(rows.counts, rows.scarce, params.generation.dose, params.generation.cap)
    many = np.zeros(len(goal), int)
    if json.loads(plan.read_text())["wanted"] and not failure(model):
        generator = generators.build(borrowing(params.generators, name), params.compute, name)
        many = drawn(goal, params.generation.oversupply) * generator.makes_rows
    made = ask(params, name, (train, pool), model, many, "row")
    if ranks.first():
        made.save(out)


def ranked(params: Params, values: dict[str, Path]) -> bool:
    """Whether several ranks help: to draw from a network."""
    wanted = json.loads(values["plan"].read_text())["wanted"] and not failure(values["model"])
    generator = generators.build(borrowing(params.generators, values["name"]), params.compute, values["name"])
    return wanted and generator.uses_device


def ask(
    params: Params, name: str, fitted_on: tuple[Path, Path], model: Path, many: np.ndarray, purpose: str
) -> Samples:
    """So many rows of each class, int (K,), each from a seed of its own for this purpose.

    `fitted_on`: the folders of the training rows and of those of the pool that the generator learnt from.
    """
    rows, y = Samples.load(fitted_on[0]), np.repeat(np.arange(len(many)), many)
    each = [(label, i) for label, n in zip(rows.classes, many, strict=True) for i in range(n)]
    seeds = np.array([derive(params.seed, purpose, name, *one) for one in each], np.int64)
    images = draw(params, name, fitted_on, model, y, seeds) if len(y) else rows.images[:0]
    ids = [f"{name}-{c}-{s}" for c, s in zip(y, seeds, strict=True)]
    frame = table(id=ids, group=ids, label=[rows.classes[c] for c in y], split="synthetic", origin=name, seed=seeds)
    return Samples(frame, images, rows.facts)


def draw(
    params: Params, name: str, fitted_on: tuple[Path, Path], model: Path, y: np.ndarray, seeds: np.ndarray
) -> np.ndarray:
    """Images of all rows; a slow model on the CPU is asked in parallel processes or by all ranks, which changes no row."""
    generator = generators.build(borrowing(params.generators, name), params.compute, name)
    chunk = generator.chunk or 1
    if ranks.here().world > 1:
        own = ranks.span(len(y), chunk)
        part = draw_part(params, name, fitted_on, model, y[own], seeds[own], quiet)
        return ranks.gathered(part, len(y), chunk)
    parts = workers(params) if generator.uses_device and len(y) > 2 * chunk else 1
    if parts == 1:
        with processes.Progress(f"generate {name}", len(y)) as progress:
            return draw_part(params, name, fitted_on, model, y, seeds, progress.step)
    size = math.ceil(math.ceil(len(y) / chunk) / parts) * chunk  # whole chunks, for one that is not full takes as long
    jobs = [(params, name, fitted_on, model, y[i : i + size], seeds[i : i + size]) for i in range(0, len(y), size)]
    return np.concatenate(processes.parallel(draw_part, jobs, parts, f"generate {name}", len(y)))


def workers(params: Params) -> int:
    from pipeline import devices

    return devices.workers(params.compute) if devices.device(params.compute).type == "cpu" else 1


def draw_part(
    params: Params,
    name: str,
    fitted_on: tuple[Path, Path],
    model: Path,
    y: np.ndarray,
    seeds: np.ndarray,
    report: Callable,
) -> np.ndarray:
    generator = generators.build(borrowing(params.generators, name), params.compute, name)
    if generator.uses_device:
        from pipeline import devices

        devices.set_threads(params.compute)
    return generator.load(model, with_pool(*fitted_on)).sample(y, seeds, report)
