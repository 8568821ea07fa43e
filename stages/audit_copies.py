"""audit_copies: are synthetic rows nearer to training rows than unseen rows allow, and do training rows give themselves away?

The same is asked of real rows that nobody trained on: what comes of them is what comes of learning nothing by heart.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import csvs, generators, processes
from pipeline.data.splits import folds
from pipeline.evaluation import privacy
from pipeline.params import Params, borrowing
from pipeline.samples import Samples, spaced, with_pool
from pipeline.seeds import derive
from stages import Output

COLUMNS = ["generator", "class", "space", "measure", "value", "ci_low", "ci_high", "made", "train", "held"]
UNSEEN = "unseen rows"  # stands where others have the name of a generator, which has no space in it
MADE, REAL = 300, 600  # most rows of a class that are compared: synthetic ones, and real ones on either side
Between = Callable[[np.ndarray, np.ndarray], np.ndarray]


def main(
    params: Params,
    train: Path,
    pool: Path,
    val: Path,
    selected: Path,
    models: Path,
    baseline: Path,
    encoder: Path,
    out: Output,
) -> None:
    from pipeline import devices

    names = [name for name in params.generators if len(Samples.load(selected / name))]
    held = Samples.load(val)
    if names and held.table["group"].nunique() > 1 < held.counts.max():
        names = [UNSEEN, *names]
    jobs = [(params, name, (train, pool), val, selected / name, models, baseline, encoder) for name in names]
    told = processes.parallel(audit, jobs, devices.workers(params.compute), "audit copies", len(jobs)) if jobs else []
    csvs.write(pd.DataFrame([line for lines in told for line in lines], columns=COLUMNS), out)


def audit(
    params: Params,
    name: str,
    fitted_on: tuple[Path, Path],
    val: Path,
    selected: Path,
    models: Path,
    baseline: Path,
    encoder: Path,
    report: Callable,
) -> list[tuple]:
    """Every measure of one generator, a line of COLUMNS each: of all scarce classes together ("") and one by one."""
    from pipeline import devices

    devices.set_threads(params.compute)
    seed, confidence, lines = derive(params.seed, "audit", name), params.evaluation.confidence, []
    learnt, held = with_pool(*fitted_on), Samples.load(val)
    if name == UNSEEN:
        made, held = halves(held, seed)
    else:
        made = Samples.load(selected)
        learnt = generators.build(borrowing(params.generators, name), params.compute, name).learns_from(learnt)
    sides = [some(made, MADE), some(learnt, REAL), some(held, REAL)]
    classes = [c for c in sides[0].scarce if all((side.y == c).any() for side in sides)]
    for space, described, between in spaces(params, sides, baseline, encoder):
        parts = {sides[0].classes[c]: distances(c, sides, described, between) for c in classes}
        for label, measure, found in privacy.measures(parts, seed, confidence):
            rows = [parts[label]] if label else list(parts.values())
            lines.append((name, label, space, measure, *found.values(), *np.sum([p.rows for p in rows], axis=0)))
    if name != UNSEEN:
        lines += by_model(params, name, models, fitted_on, sides, classes)
    report(1, name)
    return lines


def halves(rows: Samples, seed: int) -> tuple[Samples, Samples]:
    """Two halves of the rows at random, groups whole."""
    half = folds(rows.y, rows.table["group"].to_numpy(), 2, seed)
    return rows.take(half == 0), rows.take(half == 1)


def some(samples: Samples, most: int) -> Samples:
    """At most so many rows of each scarce class, evenly spaced."""
    rows = [np.flatnonzero(samples.y == c) for c in samples.scarce]
    chosen = [own[spaced(len(own), most)] for own in rows]
    return samples.take(np.concatenate([np.empty(0, np.int64), *chosen]))


def spaces(
    params: Params, sides: list[Samples], baseline: Path, encoder: Path
) -> Iterator[tuple[str, list[np.ndarray], Between]]:
    """Where distances are measured: name, what is said there of the rows of each side, and the distance of two of these."""
    from scipy.spatial.distance import cdist

    from pipeline import devices
    from pipeline.classifier import predict

    yield "pixels", [side.images for side in sides], partial(privacy.pixel_distances, flips=sides[0].facts.flips)
    for space, stem in (("baseline", baseline / "baseline"), ("encoder", encoder / "encoder")):
        network, where = predict.load(stem), devices.device(params.compute)
        yield space, [predict.run(network, side.images, where)[1] for side in sides], cdist


def distances(c: int, sides: list[Samples], described: list[np.ndarray], between: Between) -> privacy.Distances:
    """Of the rows of one class."""
    made, train, held = (said[side.y == c] for said, side in zip(described, sides, strict=True))
    groups = [side.table["group"].to_numpy()[side.y == c] for side in sides[1:]]
    return privacy.Distances(between(made, train), between(made, held), between(held, train), *groups)


def by_model(
    params: Params, name: str, models: Path, fitted_on: tuple[Path, Path], sides: list[Samples], classes: list[int]
) -> list[tuple]:
    """Membership by what the fitted model itself says of real rows, where its family can tell; not for a borrowed model."""
    if params.generators[name].model != name or not classes:
        return []
    generator = generators.build(borrowing(params.generators, name), params.compute, name)
    generator.load(models / name, with_pool(*fitted_on))
    scores = []
    for side in sides[1:]:
        rows = side.take(np.isin(side.y, classes))
        known = generator.known(rows.images, rows.y)
        if known is None:
            return []
        scores.append(privacy.Scores(known, rows.y, rows.table["group"].to_numpy()))
    found = privacy.membership(*scores, derive(params.seed, "audit", name), params.evaluation.confidence)
    counts = (0, *(len(s.known) for s in scores))
    return [(name, "", "model", measure, *values.values(), *counts) for measure, values in found.items()]
