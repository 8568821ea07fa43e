"""train_baseline: a classifier on all real rows, whose features measure later on, and K cross-fitted teachers."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import processes
from pipeline.data import splits
from pipeline.params import Params
from pipeline.samples import Samples
from pipeline.seeds import derive
from stages import Output, within
from stages._learn import Real, learn, titled

if TYPE_CHECKING:
    from pipeline.classifier.model import Settings


def main(params: Params, train: Path, val: Path, views: Path, out: Output, unfinished: Path | None = None) -> None:
    processes.warm(__name__, "pipeline.classifier.train")
    from pipeline import devices
    from pipeline.classifier import model

    rows = Samples.load(train)
    settings = model.settings(params.classifier, rows.shape, len(rows.classes), len(rows))
    fold = splits.folds(rows.y, rows.table["group"].to_numpy(), params.teachers.folds, derive(params.seed, "folds"))
    members = [("baseline", np.ones(len(rows), bool))] + [
        (f"teacher{k}", fold != k) for k in range(params.teachers.folds)
    ]
    source, workers, steps = Real(train, val, views), devices.workers(params.compute), len(members) * settings.steps
    jobs = [(params, settings, name, mask, source, out, within(unfinished, name)) for name, mask in members]
    done = processes.parallel(train_one, jobs, workers, "baseline and teachers", steps)
    learnt = {name: one for (name, _), one in zip(members, done, strict=True)}
    (out / "curves.json").write_text(json.dumps({name: one["curve"] for name, one in learnt.items()}))
    said = held_out(params, rows, Samples.load(val), fold, out)
    said |= {key: {name: one[key] for name, one in learnt.items()} for key in ("slowed", "micro_batches")}
    (out / "teachers.json").write_text(json.dumps(said, indent=1))


def train_one(
    params: Params,
    settings: "Settings",
    name: str,
    mask: np.ndarray,
    source: Real,
    out: Path,
    kept: Path | None,
    report: Callable,
) -> dict[str, Any]:
    """Train on the real rows where `mask` is true and save under `name`; returns its curve and what it could not do as asked."""
    from pipeline.classifier import predict

    recipe, seed = params.recipes[params.teachers.recipe], derive(params.seed, "baseline", name)
    told = partial(titled, report, name)
    network, curve = learn(params, settings, recipe, seed, None, source, told, kept, mask)
    predict.save(network, settings, out / name)
    return {"curve": curve, "slowed": network.slowed, "micro_batches": network.micro_batches}


def held_out(params: Params, rows: Samples, val: Samples, fold: np.ndarray, out: Path) -> dict[str, Any]:
    """How sure the teachers are, at temperatures fitted on validation, of rows that they never saw, and how often right.

    Writes each real row's probabilities from the teacher that never saw it.
    """
    from pipeline import devices
    from pipeline.classifier import predict
    from pipeline.evaluation.scores import ece, reliability

    devices.set_threads(params.compute)
    where, temperatures = devices.device(params.compute), []
    held = np.empty((len(rows), len(rows.classes)))
    for k in range(params.teachers.folds):
        teacher = predict.load(out / f"teacher{k}")
        temperatures.append(predict.fit_temperature(predict.run(teacher, val.images, where)[0], val.y))
        logits = predict.run(teacher, rows.images[fold == k], where)[0]
        held[fold == k] = predict.probabilities(logits, temperatures[k])
    np.save(out / "held.npy", held)
    return {
        "temperatures": temperatures,
        "held_out_accuracy": float((held.argmax(1) == rows.y).mean()),
        "held_out_ece": ece(held, rows.y),
        "reliability": reliability(held[None], rows.y),
    }
