"""evaluate: the only stage that reads the test split. Arms are chosen from validation first; then every model is scored."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import processes
from pipeline.evaluation import verdict
from pipeline.evaluation.scores import scores
from pipeline.params import Params
from pipeline.samples import Samples
from pipeline.seeds import derive
from stages import Output

log = logging.getLogger("stages")


def main(params: Params, test: Path, models: Path, out: Output) -> None:
    processes.warm(__name__, "pipeline.classifier.predict")
    from pipeline import devices

    out.mkdir(parents=True)
    records = {name: json.loads((models / name / "record.json").read_text()) for name in params.arms}
    verdict.check_equal_compute(records)
    validation = pd.concat([read_scores(models / name / "validation.csv") for name in params.arms], ignore_index=True)
    added = {name: sum(record["synthetic_rows"].values()) for name, record in records.items()}
    choices = verdict.choose(
        validation,
        *validation_predictions(models, params),
        params.arms,
        added,
        params.evaluation,
        derive(params.seed, "bootstrap", "validation"),
    )
    (out / "choices.json").write_text(json.dumps(choices, indent=1))
    validation.to_csv(out / "validation.csv", index=False)
    log.info("chosen on validation: %s against %s", choices["chosen_arm"] or "no candidate", choices["best_control"])

    rows, steps = Samples.load(test), len(params.arms) * params.retraining.seeds
    jobs = [(params, test, models / name) for name in params.arms]
    done = processes.spread(score_arm, jobs, devices.workers(params.compute), "evaluate", steps)
    predicted = {name: guess for name, (guess, _) in zip(params.arms, done, strict=True)}
    found = [(name, *row) for name, (_, scored) in zip(params.arms, done, strict=True) for row in scored]
    frame = pd.DataFrame(found, columns=["arm", "seed", "class", "metric", "value"])
    frame.to_csv(out / "scores.csv", index=False)
    np.savez(out / "predictions.npz", y=rows.y, **{f"arm_{name}": p for name, p in predicted.items()})
    groups, seed = rows.table["group"].to_numpy(), derive(params.seed, "bootstrap")
    learnt = added.get(choices["chosen_arm"], 0)
    result = verdict.decide(
        choices, predicted, frame, rows.y, groups, len(rows.classes), learnt, params.evaluation, seed
    )
    result["test"] = {"rows": len(rows), "fingerprint": rows.fingerprint()}
    (out / "verdict.json").write_text(json.dumps(result, indent=1))
    log.info("%s: %s", result["verdict"], result["reason"])


def validation_predictions(models: Path, params: Params) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, int]:
    """Predicted classes (S, N) by arm, true classes (N,), groups (N,) and the number of classes."""
    predicted = {}
    for name in params.arms:
        with np.load(models / name / "validation.npz", allow_pickle=False) as file:
            predicted[name], y, groups, classes = file["predicted"], file["y"], file["groups"], int(file["classes"])
    return predicted, y, groups, classes


def read_scores(path: Path) -> pd.DataFrame:
    """Tidy scores; a class may be called NA, and the class of a macro row is the empty text."""
    return pd.read_csv(path, dtype={"arm": str, "class": str}, keep_default_na=False, na_values={"value": ["", "nan"]})


def score_arm(
    params: Params, test: Path, folder: Path, report: Callable
) -> tuple[np.ndarray, list[tuple[int, str, str, float]]]:
    """Predicted classes of the test split int (S, N), of every seed of one arm, and scores: seed, class, metric, value."""
    from pipeline import devices
    from pipeline.classifier import predict

    devices.set_threads(params.compute)
    rows, guesses, found = Samples.load(test), [], []
    for seed in range(params.retraining.seeds):
        network = predict.load(folder / f"seed{seed}")
        probabilities = predict.probabilities(predict.run(network, rows.images, devices.device(params.compute))[0])
        guesses.append(probabilities.argmax(axis=1).astype(np.int32))
        found += [(seed, *row) for row in scores(probabilities, rows.y, rows.classes)]
        report(1, folder.name)
    return np.stack(guesses), found
