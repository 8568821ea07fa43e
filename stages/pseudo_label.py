"""pseudo_label: the teachers judge every synthetic row; rules keep it or drop it with a reason; kept rows get their views."""

import json
import logging
from pathlib import Path

import numpy as np

from pipeline.params import Params, banded
from pipeline.samples import Samples, with_pool
from pipeline.selection import copies, pseudo_label, rules
from stages import Output
from stages.augment import write_banks

log = logging.getLogger("stages")


def main(
    params: Params, name: str, train: Path, pool: Path, synthetic: Path, baseline: Path, search: Path, out: Output
) -> None:
    params = banded(params, json.loads(search.read_text()))
    real, made = Samples.load(train), Samples.load(synthetic)
    seen = with_pool(train, pool)
    rule = copies.rule(seen.images, seen.table["group"].to_numpy(), params.selection.copy_false_alarms)
    goal = rules.wanted(real.counts, real.scarce, params.generation.dose, params.generation.cap)
    rows = judge(params, real, seen, made, baseline, rule, goal) if len(made) else made
    rows.save(out)
    write_banks(out / "views", rows, params)
    account = summarise(rows, goal, rule, params.selection.too_few)
    (out / "summary.json").write_text(json.dumps(account, indent=1))
    log.info("%d generated, %d kept", len(rows), int(rows.table["keep"].sum()))
    for warning in account["warnings"]:
        log.warning("warning: %s", warning)


def judge(
    params: Params,
    real: Samples,
    fitted_on: Samples,
    made: Samples,
    baseline: Path,
    rule: copies.Rule,
    goal: np.ndarray,
) -> Samples:
    """The rows with what the teachers say of them and whether they are kept or why not.

    Copies are looked for among all rows that the generator was fitted on.
    """
    with np.load(baseline / "judgement.npz", allow_pickle=False) as file:
        fold, held, seen = file["fold"], file["held"], file["features"]
    probabilities, features = ask_teachers(params, baseline, made)
    judged, confidence = pseudo_label.judge(probabilities)
    distance, _ = pseudo_label.band_distance(seen, real.y, fold, features, made.y)
    near, place = copies.nearest(made.images, fitted_on.images, fitted_on.table["group"].to_numpy())
    neighbours = pseudo_label.neighbouring(held, real.y, params.selection.neighbours)
    why = rules.reasons(made.y, judged, confidence, distance, rule.copied(near), neighbours, params.selection)
    why = rules.fill(made.y, why, goal)
    labels = [real.classes[j] for j in judged]
    likest = fitted_on.table["id"].to_numpy()[place[:, 0]]
    said = {"judged": labels, "confidence": confidence, "distance": distance, "keep": why == "", "reason": why}
    return made.with_columns(**said, nearest=likest, copy_distance=near[:, 0])


def ask_teachers(params: Params, baseline: Path, made: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities (T, M, K) and features (T, M, D) of the synthetic rows."""
    from pipeline import devices
    from pipeline.classifier import predict

    devices.set_threads(params.compute)
    where = devices.device(params.compute)
    temperatures = json.loads((baseline / "teachers.json").read_text())["temperatures"]
    seen = [predict.run(predict.load(baseline / f"teacher{k}"), made.images, where) for k in range(len(temperatures))]
    return (
        np.stack([predict.probabilities(logits, t) for (logits, _), t in zip(seen, temperatures, strict=True)]),
        np.stack([features for _, features in seen]),
    )


def summarise(rows: Samples, goal: np.ndarray, rule: copies.Rule, too_few: float) -> dict:
    """Per class: rows aimed for, generated, kept, and dropped by each rule; and a warning where too few are left."""
    classes, warnings = {}, []
    for c, label in enumerate(rows.classes):
        own = rows.table[rows.y == c]
        if not len(own):
            continue
        kept = int(own["keep"].sum())
        classes[label] = {
            "wanted": int(goal[c]),
            "generated": len(own),
            "kept": kept,
            "agreed": int((own["judged"] == label).sum()),
            "dropped": {r: int((own["reason"] == r).sum()) for r in rules.REASONS},
        }
        if kept < too_few * goal[c]:
            warnings.append(f"class {label}: {kept} of the {goal[c]} rows aimed for passed the rules")
    return {"copy_rule": rule._asdict(), "classes": classes, "warnings": warnings}
