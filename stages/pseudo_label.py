"""pseudo_label: the teachers judge every synthetic row; rules keep it or drop it with a reason; kept rows get their views."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline import ranks
from pipeline.params import Params, Selection, banded
from pipeline.samples import Samples, with_pool
from pipeline.selection import copies, pseudo_label, rules
from stages import Output
from stages.augment import write_banks

if TYPE_CHECKING:
    import torch

    from pipeline.classifier.model import Network

log = logging.getLogger("stages")
BATCH = 256  # rows that a network is asked about at a time


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
    real, made, seen = Samples.load(train), Samples.load(synthetic), with_pool(train, pool)
    if not ranks.first():
        look(params, real, seen, made, (baseline, encoder))
        return
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


def ranked(params: Params, values: dict[str, Path]) -> bool:
    """Whether several ranks help: where there are rows to judge."""
    return len(Samples.load(values["synthetic"])) > 0


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
    with np.load(models[0] / "judgement.npz", allow_pickle=False) as file:
        fold, held, seen = file["fold"], file["held"], file["features"]
    (probabilities, features), alone, (near, place) = look(params, real, fitted_on, made, models)
    judged, confidence = pseudo_label.judge(probabilities)
    distance, _ = pseudo_label.band_distance(seen, real.y, fold, features, made.y)
    other = pseudo_label.centre_distance(*alone, made.y)
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


Pair = tuple[np.ndarray, np.ndarray]


def look(
    params: Params, real: Samples, fitted_on: Samples, made: Samples, models: tuple[Path, Path]
) -> tuple[Pair, tuple[np.ndarray, np.ndarray, np.ndarray], Pair]:
    """What teachers and encoder see in the rows, and the nearest rows of those that the generator was fitted on.

    All that takes long; each rank does a part of it.
    """
    taught, alone = ask_teachers(params, models[0], made), ask_encoder(params, models[1], real, made)
    own, groups = ranks.span(len(made), copies.BLOCK), fitted_on.table["group"].to_numpy()
    found = copies.nearest(made.images[own], fitted_on.images, groups)
    near, place = (ranks.gathered(part, len(made), copies.BLOCK) for part in found)
    return taught, alone, (near, place)


def ask_teachers(params: Params, baseline: Path, made: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities (T, M, K) and features (T, M, D) of the synthetic rows."""
    from pipeline import devices
    from pipeline.classifier import predict

    devices.set_threads(params.compute)
    where = devices.device(params.compute)
    temperatures = json.loads((baseline / "teachers.json").read_text())["temperatures"]
    seen = [asked(predict.load(baseline / f"teacher{k}"), made.images, where) for k in range(len(temperatures))]
    return (
        np.stack([predict.probabilities(logits, t) for (logits, _), t in zip(seen, temperatures, strict=True)]),
        np.stack([features for _, features in seen]),
    )


def asked(network: "Network", images: np.ndarray, where: "torch.device") -> tuple[np.ndarray, np.ndarray]:
    """As predict.run, each rank being asked about a part of the rows in the same batches: on the first, about all."""
    from pipeline.classifier import predict

    said = predict.run(network, images[ranks.span(len(images), BATCH)], where, BATCH)
    logits, features = (ranks.gathered(part, len(images), BATCH) for part in said)
    return logits, features


def ask_encoder(
    params: Params, encoder: Path, real: Samples, made: Samples
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (N, D) of the real rows, their classes (N,) and features (M, D) of the synthetic rows."""
    from pipeline import devices
    from pipeline.classifier import predict

    network, where = predict.load(encoder / "encoder"), devices.device(params.compute)
    before, after = (asked(network, rows.images, where)[1] for rows in (real, made))
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
