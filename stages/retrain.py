"""retrain: every paired seed of one arm: real rows and the synthetic rows the arm asks for, equal steps in every arm."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline import processes
from pipeline.data.augment import Views
from pipeline.data.loaders import Batches, Rows
from pipeline.params import Arm, Params, pick
from pipeline.samples import Samples
from pipeline.seeds import derive
from pipeline.selection.rules import first_rows, wanted
from stages import Output

if TYPE_CHECKING:
    from pipeline.classifier.model import Settings


def main(params: Params, name: str, train: Path, val: Path, views: Path, selected: Path, out: Output) -> None:
    processes.warm(__name__, "pipeline.classifier.train")
    from pipeline import devices
    from pipeline.classifier import model

    real = Samples.load(train)
    settings = model.settings(params.classifier, real.shape, len(real.classes), len(real))
    chosen = added_rows(params, name, real, Samples.load(selected))
    seeds = list(range(params.retraining.seeds))
    jobs = [(params, settings, name, number, chosen, train, val, views, selected, out) for number in seeds]
    done = processes.spread(
        train_seed,
        jobs,
        devices.workers(params.compute),
        f"retrain {name}",
        len(seeds) * settings.steps,
    )
    scores = [(name, number, *row) for number, result in zip(seeds, done, strict=True) for row in result["scores"]]
    pd.DataFrame(scores, columns=["arm", "seed", "class", "metric", "value"]).to_csv(
        out / "validation.csv", index=False
    )
    held = Samples.load(val)
    np.savez(
        out / "validation.npz",
        predicted=np.stack([r["predicted"] for r in done]).astype(np.int32),
        y=held.y,
        groups=np.unique(held.table["group"], return_inverse=True)[1],
        classes=len(real.classes),
    )
    curves = [
        {"arm": name, "seed": number, **point}
        for number, result in zip(seeds, done, strict=True)
        for point in result["curve"]
    ]
    pd.DataFrame(curves).to_csv(out / "curves.csv", index=False)
    labels = Samples.load(selected).take(chosen).table["label"].value_counts()
    record = {
        "settings": settings.model_dump(mode="json"),
        "seeds": seeds,
        "initial_weights": [r["initial"] for r in done],
        "policy": json.loads((views / "policy.json").read_text()),
        "arm": params.arms[name].model_dump(),
        "synthetic_rows": {c: int(labels.get(c, 0)) for c in real.classes},
    }
    (out / "record.json").write_text(json.dumps(record, indent=1))


def added_rows(params: Params, name: str, real: Samples, made: Samples) -> np.ndarray:
    """Positions of the synthetic rows this arm learns from: of those it may use, the first up to its dose in each class.

    An arm's dose is at most `generation.dose`, for which the rows were made and kept. None if its recipe uses none.
    """
    arm, cap = pick(params.arms, name, "arms"), params.generation.cap
    usable = made.table["keep"].to_numpy() if arm.use == "kept" else np.ones(len(made), bool)
    if not arm.share or not arm.weight or arm.real_only == 1:
        usable = np.zeros(len(made), bool)
    doses = [wanted(real.counts, real.scarce, dose, cap) for dose in (arm.dose, params.generation.dose)]
    return first_rows(made.y, usable, np.minimum(*doses))


def train_seed(
    params: Params,
    settings: "Settings",
    name: str,
    number: int,
    chosen: np.ndarray,
    train: Path,
    val: Path,
    views: Path,
    selected: Path,
    out: Path,
    report: Callable,
) -> dict:
    """Train and save one seed; initial weights and batch order depend on the seed's number alone, so arms are paired."""
    from pipeline import devices
    from pipeline.classifier import predict
    from pipeline.classifier.model import Network
    from pipeline.classifier.train import train as fit
    from pipeline.evaluation.scores import scores

    real, held, seed = Samples.load(train), Samples.load(val), derive(params.seed, "retrain", number)
    own = Rows(real.y, Views.load(views), real.table["weight"].to_numpy())
    batches = mix(params.arms[name], own, len(real.classes), settings, seed, selected, chosen)
    devices.seed_everything(seed)
    initial = Network(settings).state_dict().values()
    network, curve = fit(
        batches, held, settings, seed, params.compute, lambda count, note: report(count, f"seed {number}, {note}")
    )
    predict.save(network, settings, out / f"seed{number}")
    logits, _ = predict.run(network, held.images, devices.device(params.compute))
    return {
        "scores": scores(predict.probabilities(logits), held.y, real.classes),
        "predicted": logits.argmax(axis=1),
        "curve": curve,
        "initial": hashlib.blake2b(b"".join(v.numpy().tobytes() for v in initial), digest_size=8).hexdigest(),
    }


def mix(
    arm: Arm, real: Rows, classes: int, settings: "Settings", seed: int, selected: Path, chosen: np.ndarray
) -> Batches:
    """The batches of one arm: its real rows and the chosen ones of the synthetic rows, by the arm's recipe."""
    made = Samples.load(selected)
    rows = Rows(made.y, Views.load(selected / "views"), np.full(len(made), arm.weight)).take(chosen)
    return Batches(
        real,
        classes,
        settings.batch,
        settings.steps,
        seed,
        arm.balance,
        rows if len(chosen) else None,
        arm.share,
        arm.real_only,
    )
