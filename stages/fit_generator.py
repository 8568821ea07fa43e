"""fit_generator: one conditional model fitted on all classes of train, and on what teachers labelled of a pool.

Scarcity decides only what is generated.
"""

import json
import logging
from contextlib import suppress
from pathlib import Path

import numpy as np

from pipeline import generators, ranks
from pipeline.errors import Diverged
from pipeline.generators.base import Judge, quiet
from pipeline.params import Params, borrowing
from pipeline.processes import Progress
from pipeline.samples import Samples, with_pool
from pipeline.seeds import derive
from stages import Output

log = logging.getLogger("stages")


def main(
    params: Params,
    name: str,
    plan: Path,
    train: Path,
    pool: Path,
    val: Path,
    baseline: Path,
    out: Output,
    unfinished: Path | None = None,
) -> None:
    block = borrowing(params.generators, name)
    if not ranks.first():
        model, rows = unfitted(params, name), with_pool(train, pool)
        with suppress(Diverged):  # of which the first rank tells
            model.fit(rows, derive(params.seed, "fit", name), quiet, None, unfinished)
        return
    curve: list[dict] = []
    out.mkdir(parents=True)
    if not drawn_from(plan, train):
        (out / "generator.json").write_text(json.dumps({"model": block.model, "options": block.options}, indent=1))
    else:
        model, rows = unfitted(params, name), with_pool(train, pool)
        judge = judging(params, rows, Samples.load(val), baseline) if model.uses_device else None
        try:
            with Progress(f"fit {name}", model.steps(rows)) as progress:
                curve = model.fit(rows, derive(params.seed, "fit", name), progress.step, judge, unfinished)
            model.save(out)
        except Diverged as error:  # the arms that do not need it go on, and those that do learn without its rows
            log.warning("warning: %s failed and will make no rows: %s", name, error)
            failed = {"status": "failed", "reason": str(error), "model": block.model, "options": block.options}
            (out / "generator.json").write_text(json.dumps(failed, indent=1))
    (out / "curve.json").write_text(json.dumps(curve))


def ranked(params: Params, values: dict[str, Path]) -> bool:
    """Whether several ranks help: to train a network."""
    return drawn_from(values["plan"], values["train"]) and unfitted(params, values["name"]).uses_device


def drawn_from(plan: Path, train: Path) -> bool:
    """Whether a row will be: the profile asks for the generator, and there is a scarce class to draw for."""
    return json.loads(plan.read_text())["wanted"] and len(Samples.load(train).scarce) > 0


def unfitted(params: Params, name: str) -> generators.Generator:
    """The generator, not yet fitted. Raises ValueError if its batches cannot be shared by the ranks alike."""
    model = generators.build(borrowing(params.generators, name), params.compute, name)
    world = ranks.here().world
    if world > 1 and model.options.batch % world:
        raise ValueError(
            f"generators.{name}.batch is {model.options.batch}, which {world} ranks cannot share alike; set a multiple of "
            f"{world}, or other compute.devices"
        )
    return model


def judging(params: Params, real: Samples, held: Samples, baseline: Path) -> Judge:
    """What tells a generator where to stop: distance to validation rows as the baseline sees them, and copies."""
    from pipeline import devices
    from pipeline.classifier import predict
    from pipeline.evaluation.fidelity import distances
    from pipeline.selection import copies

    devices.set_threads(params.compute)
    where, network = devices.device(params.compute), predict.load(baseline / "baseline")
    reference = predict.run(network, held.images, where)[1]
    groups = real.table["group"].to_numpy()
    rule = copies.told_by(real, params.selection.copy_false_alarms)

    def judge(images: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distance = distances(reference, held.y, predict.run(network, images, where)[1], y, len(real.classes))
        copied = np.zeros(len(y))
        if params.selection.copy_false_alarms:
            copied = rule.copied(copies.nearest(images, real.images, groups)[0]).astype(float)
        share = np.full(len(real.classes), np.nan)
        for c in np.unique(y):
            share[c] = copied[y == c].mean()
        return distance, share

    return judge
