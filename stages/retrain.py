"""retrain: every paired seed of one arm: real rows and the synthetic rows the arm asks for, equal steps in every arm."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline import csvs, processes
from pipeline.errors import Diverged
from pipeline.params import HELDBACK, POOL, Arm, Params, Recipe, pick
from pipeline.samples import Samples
from pipeline.seeds import derive
from pipeline.selection.rules import first_rows, shared, wanted
from stages import Output, within
from stages._learn import Real, learn, synthetic_rows, titled

if TYPE_CHECKING:
    from pipeline.classifier.model import Settings

log = logging.getLogger("stages")


def main(
    params: Params,
    name: str,
    plan: Path,
    train: Path,
    val: Path,
    views: Path,
    selected: Path,
    also: Path,
    search: Path,
    out: Output,
    unfinished: Path | None = None,
) -> None:
    arm, recipe = settle(params, pick(params.arms, name, "arms"), json.loads(search.read_text()))
    out.mkdir(parents=True)
    record = {"arm": arm.model_dump(mode="json")}
    if json.loads(plan.read_text())["wanted"]:
        source = Real(train, val, views, also if arm.also == POOL else None)
        folders = [selected, also][: len(arm.generators)]
        try:
            record |= learnt(params, name, arm, recipe, source, folders, out, unfinished)
        except Diverged as error:  # the other arms go on
            log.warning("warning: arm %s failed and will not be compared: %s", name, error)
            record |= {"status": "failed", "reason": str(error)}
            for file in out.iterdir():  # of seeds that went well
                file.unlink()
    (out / "record.json").write_text(json.dumps(record, indent=1))


def learnt(
    params: Params,
    name: str,
    arm: Arm,
    recipe: Recipe,
    source: Real,
    folders: Sequence[Path],
    out: Path,
    unfinished: Path | None,
) -> dict[str, Any]:
    """What there is to say of an arm, once the models of all seeds, and what they say of validation rows, are in `out`."""
    processes.warm(__name__, "pipeline.classifier.train")
    from pipeline import devices
    from pipeline.classifier import model

    real = Samples.load(source.train)
    settings = model.settings(params.classifier, real.shape, len(real.classes), len(real))
    made = [Samples.load(folder) for folder in folders]
    chosen = added_rows(params, arm, recipe, real, made)
    added = np.concatenate([rows.y[own] for rows, own in zip(made, chosen, strict=True)])
    counts, seeds = np.bincount(added, minlength=len(real.classes)), list(range(params.retraining.seeds))
    parts = list(zip(folders, chosen, strict=True))
    jobs = [
        (params, settings, name, recipe, number, parts, source, out, within(unfinished, f"seed{number}"))
        for number in seeds
    ]
    workers, steps = devices.workers(params.compute), len(seeds) * settings.steps
    done = processes.parallel(train_seed, jobs, workers, f"retrain {name}", steps)
    write_results(name, done, Samples.load(source.val), out)
    return {
        "settings": settings.model_dump(mode="json"),
        "seeds": seeds,
        "initial_weights": [r["initial"] for r in done],
        "slowed": [number for number, r in zip(seeds, done, strict=True) if r["slowed"]],
        "micro_batches": [r["micro_batches"] for r in done],
        "policy": json.loads((source.views / "policy.json").read_text()),
        "recipe": recipe.model_dump(mode="json"),
        "real_rows": dict(zip(real.classes, real.counts.tolist(), strict=True)),
        "synthetic_rows": dict(zip(real.classes, counts.tolist(), strict=True)),
        "pool_rows": len(Samples.load(source.pool)) if source.pool else 0,
        "machine": devices.describe(params.compute, settings.size),
    }


def settle(params: Params, arm: Arm, found: dict) -> tuple[Arm, Recipe]:
    """The arm and its recipe, with what the search found for its generator if it is a tuned one without a pool, a recipe's name too.

    A dose that was found is for arms that fill their classes; those of another one stand for that one.
    """
    recipe = params.recipes[arm.recipe]
    if arm.generators == [HELDBACK]:  # real rows, so drawn as all real rows are
        recipe = recipe.model_copy(update={"share": 1.0, "weight": 1.0})
    if not arm.tuned or arm.also == POOL:
        return arm, recipe
    used = {k: v for k, v in found.items() if k in Recipe.model_fields}
    dose = found.get("dose", arm.dose) if arm.dose in ("double", "full") else arm.dose
    named = {"dose": dose, "recipe": found.get("recipe", arm.recipe)}
    return arm.model_copy(update=named), Recipe(**(recipe.model_dump() | used))


def write_results(name: str, done: list[dict], held: Samples, out: Path) -> None:
    """What the arm's seeds say of the validation rows `held`, and how they learnt."""
    said, groups = np.stack([r["probabilities"] for r in done]), np.unique(held.table["group"], return_inverse=True)[1]
    np.savez(out / "validation.npz", probabilities=said, y=held.y, groups=groups)
    curves = [{"arm": name, "seed": number, **point} for number, result in enumerate(done) for point in result["curve"]]
    csvs.write(pd.DataFrame(curves), out / "curves.csv")


def added_rows(params: Params, arm: Arm, recipe: Recipe, real: Samples, made: Sequence[Samples]) -> list[np.ndarray]:
    """Positions of the rows this arm learns from, of each generator: of those it may use, the first up to its dose.

    An arm's dose is at most `generation.dose`, for which the rows were made and kept. None if its recipe uses none.
    """
    cap = params.generation.cap
    usable = [np.ones(len(m), bool) if arm.use == "all" else m.table["keep"].to_numpy() for m in made]
    if not recipe.share or not recipe.weight:
        usable = [np.zeros_like(u) for u in usable]
    goal = np.minimum(*(wanted(real.counts, real.scarce, dose, cap) for dose in (arm.dose, params.generation.dose)))
    there = [np.bincount(m.y[u], minlength=len(goal)) for m, u in zip(made, usable, strict=True)]
    return [first_rows(m.y, u, n) for m, u, n in zip(made, usable, shared(goal, there), strict=True)]


def train_seed(
    params: Params,
    settings: "Settings",
    name: str,
    recipe: Recipe,
    number: int,
    parts: list[tuple[Path, np.ndarray]],
    source: Real,
    out: Path,
    kept: Path | None,
    report: Callable,
) -> dict:
    """Train and save one seed; initial weights and batch order depend on the seed's number alone, so arms are paired."""
    from pipeline import devices
    from pipeline.classifier import predict

    held, seed = Samples.load(source.val), derive(params.seed, "retrain", number)
    order = derive(params.seed, "shuffle", name) if params.arms[name].use == "shuffled" else None
    made = synthetic_rows(recipe, parts)
    if made is not None and order is not None:
        made = replace(made, y=mixed_up(made.y, len(held.classes), np.random.default_rng(order)))
    told = partial(titled, report, f"seed {number}")
    network, curve = learn(params, settings, recipe, seed, made, source, told, kept)
    probabilities = predict.probabilities(predict.run(network, held.images, devices.device(params.compute))[0])
    predict.save(network, settings, out / f"seed{number}")
    return {
        "probabilities": probabilities,
        "curve": curve,
        "initial": network.initial,
        "slowed": network.slowed,
        "micro_batches": network.micro_batches,
    }


def mixed_up(y: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """The labels (N,) in another order; where all are one class, that says nothing, and they become any class."""
    return rng.permutation(y) if len(np.unique(y)) > 1 else rng.integers(0, classes, len(y))
