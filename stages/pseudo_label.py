"""pseudo_label: the teachers judge every synthetic row; rules keep it or drop it with a reason; kept rows get their views."""

import json
import logging
import math
from pathlib import Path

import numpy as np

from pipeline import processes, ranks
from pipeline.params import Params, Selection
from pipeline.samples import Samples, spread, with_pool
from pipeline.selection import copies, rules, spectra, teachers
from stages import Output
from stages.augment import write_banks

log = logging.getLogger("stages")
BATCH = 256  # rows that a network is asked about at a time


def main(params: Params, name: str, train: Path, pool: Path, synthetic: Path, baseline: Path, out: Output) -> None:
    real, made, seen = Samples.load(train), Samples.load(synthetic), with_pool(train, pool)
    if not ranks.first():
        look(params, (train, pool), made, baseline)
        return
    rule = copies.told_by(seen, params.selection.copy_false_alarms)
    goal = rules.wanted(real.counts, real.scarce, params.generation.dose, params.generation.cap)
    rows = judge(params, (train, pool), made, baseline, rule, goal) if len(made) else made
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
    params: Params, fitted_on: tuple[Path, Path], made: Samples, baseline: Path, rule: copies.Rule, goal: np.ndarray
) -> Samples:
    """The rows with what the teachers say of them and whether they are kept or why not.

    Copies, and what they are like, are looked for among all rows that the generator was fitted on: `fitted_on` is the
    folders of the training rows and of those of the pool.
    """
    probabilities, (near, place) = look(params, fitted_on, made, baseline)
    real, seen = Samples.load(fitted_on[0]), with_pool(*fitted_on)
    judged, confidence = teachers.likeliest(probabilities.mean(axis=0))
    held = np.load(baseline / "held.npy", allow_pickle=False)
    neighbours = teachers.neighbouring(held, real.y, params.selection.neighbours)
    distance = spectra.distance(made.images, seen.images, seen.table["group"].to_numpy())
    spreads, copied = spread(made.images, made.y, real), rule.copied(near)
    why = rules.reasons(made.y, judged, confidence, distance, spreads, copied, neighbours, params.selection)
    why = rules.fill(made.y, rules.refuse(why, params.selection.max_copy_share), goal)
    labels = [real.classes[j] for j in judged]
    likest = seen.table["id"].to_numpy()[place[:, 0]]
    said = {"judged": labels, "confidence": confidence, "distance": distance, "keep": why == "", "reason": why}
    return made.with_columns(**said, nearest=likest, copy_distance=near[:, 0])


def look(
    params: Params, fitted_on: tuple[Path, Path], made: Samples, baseline: Path
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """What teachers see in the rows, and the nearest rows of those that the generator was fitted on; as the two return it.

    All that takes long; each rank does a part of it, the search for copies by all its cores.
    """
    probabilities = ask_teachers(params, baseline, made)
    images = made.images[ranks.span(len(made), copies.BLOCK)]
    most = max(1, processes.cores() // ranks.here().beside)
    size = math.ceil(math.ceil(len(images) / copies.BLOCK) / most) * copies.BLOCK
    jobs = [(images[i : i + size], *fitted_on) for i in range(0, len(images), max(size, 1))]
    if len(jobs) > 1:
        parts = processes.parallel(nearest, jobs, most, "look for copies", len(images))
    else:
        with processes.Progress("look for copies", len(images)) as progress:
            parts = [nearest(images, *fitted_on, report=progress.step)]
    near, place = (np.concatenate(side) for side in zip(*parts, strict=True))
    near, place = (ranks.gathered(side, len(made), copies.BLOCK) for side in (near, place))
    return probabilities, (near, place)


def nearest(images: np.ndarray, train: Path, pool: Path, report: processes.Report) -> tuple[np.ndarray, np.ndarray]:
    """As `copies.nearest` among the rows of these folders."""
    seen = with_pool(train, pool)
    return copies.nearest(images, seen.images, seen.table["group"].to_numpy(), report=report)


def ask_teachers(params: Params, baseline: Path, made: Samples) -> np.ndarray:
    """Calibrated probabilities (T, M, K) of the synthetic rows, each rank asking about a part of them in the same batches."""
    from pipeline import devices
    from pipeline.classifier import predict

    devices.set_threads(params.compute)
    where, own = devices.device(params.compute), ranks.span(len(made), BATCH)
    said = []
    for k, temperature in enumerate(json.loads((baseline / "teachers.json").read_text())["temperatures"]):
        logits = predict.run(predict.load(baseline / f"teacher{k}"), made.images[own], where, BATCH)[0]
        said.append(predict.probabilities(ranks.gathered(logits, len(made), BATCH), temperature))
    return np.stack(said)


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
            "dropped": {r: int((own["reason"] == r).sum()) for r in rules.REASONS},
        }
        if kept < block.too_few * goal[c] and not refused:
            why = rules.most_dropped(own["reason"].to_numpy())
            warnings.append(f"class {label}: {kept} of the {goal[c]} rows aimed for passed the rules; {why}")
    return {"copy_rule": rule._asdict(), "classes": classes, "refused": refused, "warnings": warnings}


def refusal(rows: Samples, most: float) -> str:
    """Why no row of the generator may be used or shared, in words; empty if they may."""
    why = rows.table["reason"].to_numpy()
    if not rules.refused(why, most):
        return ""
    return (
        f"{(why == 'copy').sum()} of {len(rows)} rows are copies of training rows or nearly so, more than "
        "selection.max_copy_share: none passes selection, and neither rows nor weights are to be shared"
    )
