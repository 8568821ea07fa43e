"""evaluate: the only stage that reads the test split. Arms are chosen from validation first; then every model is scored."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import csvs, processes
from pipeline.evaluation import thresholds, verdict
from pipeline.evaluation.openings import note, settings_hash
from pipeline.evaluation.outcomes import Outcomes
from pipeline.evaluation.scores import confusion, ece, from_confusion, reliability, scores
from pipeline.params import Evaluation, Params
from pipeline.samples import Samples
from pipeline.seeds import derive
from stages import Output, trained

log = logging.getLogger("stages")


def main(params: Params, test: Path, models: Path, repeats: Path, openings: Path, out: Output) -> None:
    processes.warm(__name__, "pipeline.classifier.predict")
    from pipeline import devices

    out.mkdir(parents=True)
    settings, roles = settings_hash(params), {name: arm.role for name, arm in params.arms.items()}
    left_out = [n for n in params.left_out if roles[n] == "control"]  # of this profile, not of those that failed
    params, failed = trained(params, models)
    arms, block = params.compared, params.evaluation
    records = {name: json.loads((models / name / "record.json").read_text()) for name in arms}
    verdict.check_equal_compute(records)
    added = {name: sum(record["synthetic_rows"].values()) for name, record in records.items()}
    held = outcomes_of_validation(models, list(arms), tuple(next(iter(records.values()))["synthetic_rows"]))
    choices = verdict.choose(held, arms, added, block, derive(params.seed, "bootstrap", "validation"))
    (out / "choices.json").write_text(json.dumps(choices, indent=1))
    log.info("chosen on validation: %s against %s", choices["chosen_arm"] or "no candidate", choices["best_control"])

    rows = Samples.load(test)
    note(openings, rows.pictures(), settings)  # before a figure is known: a look that failed counts too
    jobs = [(params, test, models / name) for name in arms]
    done = processes.parallel(
        score_arm, jobs, devices.workers(params.compute), "evaluate", len(arms) * params.retraining.seeds
    )
    found = [(name, *row) for name, (*_, scored) in zip(arms, done, strict=True) for row in scored]
    csvs.write(pd.DataFrame(found, columns=["arm", "seed", "class", "metric", "value"]), out / "scores.csv")
    said, tempered = ({name: told[k] for name, told in zip(arms, done, strict=True)} for k in (0, 1))
    seen = Outcomes(said, rows.y, rows.table["group"].to_numpy(), rows.classes, tempered, rows.facts.scarce)
    np.savez(out / "predictions.npz", y=rows.y, **{f"arm_{a}": seen.predicted(a).astype(np.int32) for a in arms})
    bins = [(name, *one) for name in arms for one in reliability(said[name], rows.y)]
    csvs.write(pd.DataFrame(bins, columns=["arm", "confidence", "accuracy", "share"]), out / "reliability.csv")
    result = verdict.decide(choices, seen, arms, added, block, derive(params.seed, "bootstrap"))
    result = verdict.incomplete(result, failed, roles, [name for name, record in records.items() if record["slowed"]])
    result = verdict.over_splits(result, json.loads(repeats.read_text()), params.data.split, block)
    result["test"] = {"rows": len(rows), "fingerprint": rows.pictures(), "settings": settings}
    result["controls"] = sum(roles[name] == "control" for name in arms)
    result["controls_left_out"] = left_out
    (out / "verdict.json").write_text(json.dumps(result, indent=1))
    log.info("%s: %s", result["verdict"], result["reason"])


def outcomes_of_validation(models: Path, arms: list[str], labels: tuple[str, ...]) -> Outcomes:
    """What every arm says of the validation rows, as `retrain` wrote it."""
    said = {}
    for name in arms:
        with np.load(models / name / "validation.npz", allow_pickle=False) as file:
            said[name], y, groups = file["probabilities"], file["y"], file["groups"]
    return Outcomes(said, y, groups, labels)


def score_arm(
    params: Params, test: Path, folder: Path, report: Callable
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str, str, float]]]:
    """Probabilities float (S, N, K) of the test split, of every seed of one arm, as they are and after a temperature.

    And scores: seed, class, metric, value. The temperature of each seed is fitted on validation.
    """
    from pipeline import devices
    from pipeline.classifier import predict

    devices.set_threads(params.compute)
    rows, said, tempered, found = Samples.load(test), [], [], []
    with np.load(folder / "validation.npz", allow_pickle=False) as file:
        held, y = file["probabilities"], file["y"]
    learnt = json.loads((folder / "record.json").read_text())["real_rows"]
    scarcer = min(range(len(rows.classes)), key=lambda c: (learnt[rows.classes[c]], -c))
    for seed in range(params.retraining.seeds):
        network = predict.load(folder / f"seed{seed}")
        said.append(predict.probabilities(predict.run(network, rows.images, devices.device(params.compute))[0]))
        warmth = predict.fit_temperature(np.log(np.maximum(held[seed], 1e-12)), y)
        tempered.append(predict.probabilities(np.log(np.maximum(said[-1], 1e-12)), warmth))
        found += [(seed, *row) for row in scores(said[-1], rows.y, rows.classes)]
        found.append((seed, "", "tempered_ece", ece(tempered[-1], rows.y)))
        others = beside(said[-1], rows, held[seed], y, params.evaluation, scarcer)
        found += [(seed, "", name, value) for name, value in others]
        report(1, folder.name)
    return np.stack(said), np.stack(tempered), found


def beside(
    probabilities: np.ndarray, rows: Samples, held: np.ndarray, y: np.ndarray, block: Evaluation, scarcer: int
) -> list[tuple[str, float]]:
    """The primary metric with thresholds tuned on validation, and of two classes the sensitivity at a fixed specificity.

    For the class `scarcer` (of equal ones the second), which has fewer training rows.
    """
    guess = thresholds.shifted(probabilities, thresholds.tune(held, y, block.primary_metric))
    tuned = from_confusion(block.primary_metric, confusion(guess, rows.y, len(rows.classes)))
    found = [(f"tuned_{block.primary_metric}", float(tuned))]
    if len(rows.classes) == 2:
        hit = thresholds.sensitivity(probabilities[:, scarcer], rows.y == scarcer, block.specificity)
        found.append(("sensitivity", hit))
    return found
