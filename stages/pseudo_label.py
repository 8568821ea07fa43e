"""pseudo_label: the teachers judge every synthetic row; rules keep it or drop it with a reason; kept rows get their views."""

import json
import logging
from pathlib import Path

import numpy as np

from pipeline.params import Params, Selection, banded
from pipeline.samples import Samples, with_pool
from pipeline.selection import copies, pseudo_label, rules
from stages import Output
from stages.augment import write_banks

log = logging.getLogger("stages")


def main(
    params: Params,
    name: str,
    train: Path,
    pool: Path,
    synthetic: Path,
    baseline: Path,
    encoder: Path,
    search: Path,
    out: Output,
) -> None:
    params = banded(params, json.loads(search.read_text()))
    real, made = Samples.load(train), Samples.load(synthetic)
    seen = with_pool(train, pool)
    rule = copies.rule(seen.images, seen.table["group"].to_numpy(), params.selection.copy_false_alarms)
    goal = rules.wanted(real.counts, real.scarce, params.generation.dose, params.generation.cap)
    rows = judge(params, real, seen, made, (baseline, encoder), rule, goal) if len(made) else made
    rows.save(out)
    write_banks(out / "views", rows, params)
    account = summarise(rows, goal, rule, params.selection)
    (out / "summary.json").write_text(json.dumps(account, indent=1))
    if account["refused"]:
        (out / "NOT_SHAREABLE.txt").write_text(f"Neither these rows nor the weights of {name}: {account['refused']}\n")
    log.info("%d generated, %d kept", len(rows), int(rows.table["keep"].sum()))
    for warning in account["warnings"]:
        log.warning("warning: %s", warning)


def judge(
    params: Params,
    real: Samples,
    fitted_on: Samples,
    made: Samples,
    models: tuple[Path, Path],
    rule: copies.Rule,
    goal: np.ndarray,
) -> Samples:
    """The rows with what the teachers say of them and whether they are kept or why not.

    Copies are looked for among all rows that the generator was fitted on. `models`: the folders of baseline and encoder.
    """
    baseline, encoder = models
    with np.load(baseline / "judgement.npz", allow_pickle=False) as file:
        fold, held, seen = file["fold"], file["held"], file["features"]
    probabilities, features = ask_teachers(params, baseline, made)
    judged, confidence = pseudo_label.judge(probabilities)
    distance, _ = pseudo_label.band_distance(seen, real.y, fold, features, made.y)
    other = pseudo_label.centre_distance(*ask_encoder(params, encoder, real, made), made.y)
    near, place = copies.nearest(made.images, fitted_on.images, fitted_on.table["group"].to_numpy())
    neighbours = pseudo_label.neighbouring(held, real.y, params.selection.neighbours)
    copied = rule.copied(near)
    why = rules.reasons(made.y, judged, confidence, distance, other, copied, neighbours, params.selection)
    why = rules.fill(made.y, rules.refuse(why, copied, params.selection.max_copy_share), goal)
    labels = [real.classes[j] for j in judged]
    likest = fitted_on.table["id"].to_numpy()[place[:, 0]]
    said = {
        "judged": labels,
        "confidence": confidence,
        "distance": distance,
        "other_distance": other,
        "keep": why == "",
        "reason": why,
    }
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


def ask_encoder(
    params: Params, encoder: Path, real: Samples, made: Samples
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (N, D) of the real rows, their classes (N,) and features (M, D) of the synthetic rows."""
    from pipeline import devices
    from pipeline.classifier import predict

    network, where = predict.load(encoder / "encoder"), devices.device(params.compute)
    before, after = (predict.run(network, rows.images, where)[1] for rows in (real, made))
    return before, real.y, after


def summarise(rows: Samples, goal: np.ndarray, rule: copies.Rule, block: Selection) -> dict:
    """Per class: rows aimed for, generated, kept, and dropped by each rule; and a warning where too few are left."""
    classes, refused = {}, refusal(rows, block.max_copy_share)
    warnings = [refused] if refused else []
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
            "disputed": int(rules.disputed(own["distance"], own["other_distance"], block).sum()),
            "dropped": {r: int((own["reason"] == r).sum()) for r in rules.REASONS},
        }
        if kept < block.too_few * goal[c] and not refused:
            warnings.append(f"class {label}: {kept} of the {goal[c]} rows aimed for passed the rules")
    return {"copy_rule": rule._asdict(), "classes": classes, "refused": refused, "warnings": warnings}


def refusal(rows: Samples, most: float) -> str:
    """Why no row of the generator may be used or shared, in words; empty if they may."""
    copied = (rows.table["reason"] == "copy").to_numpy()
    if not len(rows) or copied.mean() <= most:
        return ""
    return (
        f"{copied.sum()} of {len(rows)} rows are copies of training rows or nearly so, more than "
        "selection.max_copy_share: none passes selection, and neither rows nor weights are to be shared"
    )
