"""The verdict: arms are chosen on validation, then compared on the test split, paired by seed."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from pipeline.evaluation.statistics import bootstrap_difference, sign_flip
from pipeline.params import Arm, Evaluation

LEAST_SEEDS = 6  # fewer are exploratory, whatever the confidence asked for


def choose(
    validation: pd.DataFrame,
    predicted: Mapping[str, np.ndarray],
    y: np.ndarray,
    groups: np.ndarray,
    classes: int,
    arms: Mapping[str, Arm],
    added: Mapping[str, int],
    block: Evaluation,
    seed: int,
) -> dict:
    """The best control and the best candidate by their mean validation score over seeds; ties go to the first named.

    A candidate that had no synthetic row to learn from (`added` maps arms to their rows) stands back for those that had.

    `validation` has columns arm, seed, class, metric, value; `predicted` maps arms to class indices (S, N) of the
    validation rows. `contenders` are the controls that validation cannot tell from the best one: a small validation
    split picks the best control almost by chance, so a gain has to hold against each of them.
    """
    rows = validation[(validation["metric"] == block.primary_metric) & (validation["class"] == "")]
    mean = rows.groupby("arm")["value"].mean().to_dict()
    candidates = [a for a in arms if arms[a].role == "candidate"]
    candidates = [a for a in candidates if added[a]] or candidates
    control = max((a for a in arms if arms[a].role == "control"), key=lambda a: mean[a])
    contenders = []
    for arm in (a for a in arms if arms[a].role == "control"):
        draws = bootstrap_difference(
            predicted[arm], predicted[control], y, groups, classes, block.primary_metric, block.bootstrap, seed
        )
        if arm == control or np.quantile(draws, (1 + block.confidence) / 2) >= 0:
            contenders.append(arm)
    return {
        "primary_metric": block.primary_metric,
        "best_control": control,
        "chosen_arm": max(candidates, key=lambda a: mean[a], default=""),
        "contenders": contenders,
        "validation_rows": len(y),
        "validation_means": {a: round(float(mean[a]), 6) for a in arms},
    }


def check_equal_compute(records: Mapping[str, Mapping]) -> None:
    """Raises ValueError unless every arm trained for equal steps from equal initial weights with the same recipe."""
    first = next(iter(records))
    for key in ("settings", "seeds", "initial_weights", "policy"):
        for arm, record in records.items():
            if record[key] != records[first][key]:
                raise ValueError(
                    f"arms {first!r} and {arm!r} differ in {key}: {records[first][key]} and {record[key]}; "
                    "they cannot be compared. Run `dvc repro` so that all arms are trained alike"
                )


def decide(
    choices: dict,
    predicted: Mapping[str, np.ndarray],
    scores: pd.DataFrame,
    y: np.ndarray,
    groups: np.ndarray,
    classes: int,
    added: int,
    block: Evaluation,
    seed: int,
) -> dict:
    """The verdict as plain numbers and words: HELPS, NEUTRAL, HURTS or CANNOT_TELL, and why.

    `predicted` maps arm names to class indices (S, N) on the test split; `added` is how many synthetic rows the chosen
    arm had to learn from. HELPS and HURTS need the whole interval on one side of zero and a sign-flip p of at most
    1 - confidence, HELPS against every contender; NEUTRAL needs the whole interval within +-margin.
    """
    metric, arm, control = block.primary_metric, choices["chosen_arm"], choices["best_control"]
    base = {"primary_metric": metric, "best_control": control, "chosen_arm": arm}
    base |= dict.fromkeys(("difference", "ci_low", "ci_high", "p_value"))
    base |= {"confidence": block.confidence, "margin": block.margin}
    if not arm:
        reason = "no arm has the role `candidate`, so there is nothing to judge"
        return base | {"verdict": "CANNOT_TELL", "reason": reason, "comparisons": []}
    rows = scores[(scores["metric"] == metric) & (scores["class"] == "")]
    value = rows.pivot(index="seed", columns="arm", values="value")
    comparisons = []
    for other in [control, *(c for c in choices["contenders"] if c != control)]:
        paired = (value[arm] - value[other]).to_numpy()
        if not np.isfinite(paired).all():
            raise ValueError(
                f"{metric} of arm {arm!r} or {other!r} is missing for some seed; run `dvc repro --force evaluate`"
            )
        draws = bootstrap_difference(
            predicted[arm], predicted[other], y, groups, classes, metric, block.bootstrap, seed
        )
        low, high = np.quantile(draws, [(1 - block.confidence) / 2, (1 + block.confidence) / 2])
        ends = {"difference": float(paired.mean()), "ci_low": float(low), "ci_high": float(high)}
        comparisons.append({"control": other, **ends, "p_value": sign_flip(paired)})
    word, reason = combine(comparisons, choices["validation_rows"], len(value), added, block)
    first = {k: v for k, v in comparisons[0].items() if k != "control"} | {"seeds": len(value), "synthetic_rows": added}
    return base | first | {"verdict": word, "reason": reason, "comparisons": comparisons}


def combine(
    comparisons: list[dict], validation_rows: int, seeds: int, added: int, block: Evaluation
) -> tuple[str, str]:
    """The word of the first comparison, the one with the best control; HELPS only if all the others say so too."""
    words = [classify(c["ci_low"], c["ci_high"], c["p_value"], seeds, added, block) for c in comparisons]
    doubtful = [c["control"] for c, (word, _) in zip(comparisons, words, strict=True) if word != "HELPS"]
    if words[0][0] != "HELPS" or not doubtful:
        return words[0]
    control = comparisons[0]["control"]
    return "CANNOT_TELL", (
        f"it is ahead of {control}, but not surely of {', '.join(doubtful)}, "
        f"which {validation_rows} validation rows cannot tell from {control}"
    )


def classify(low: float, high: float, p: float, seeds: int, added: int, block: Evaluation) -> tuple[str, str]:
    """The word and the reason for an interval, a p value, and how much stood behind them."""
    if added == 0:
        return "CANNOT_TELL", "no synthetic row was added, so the arm learnt from real rows only"
    least = max(LEAST_SEEDS, math.ceil(1 - math.log2(1 - block.confidence) - 1e-9))  # 2 / 2^n must reach 1 - confidence
    if seeds < least:
        return "CANNOT_TELL", f"exploratory: {seeds} paired seeds, and a verdict needs at least {least}"
    sure = p <= 1 - block.confidence + 1e-12
    if sure and low > 0:
        return "HELPS", "the whole interval lies above zero, and the seeds agree"
    if sure and high < 0:
        return "HURTS", "the whole interval lies below zero, and the seeds agree"
    if -block.margin <= low and high <= block.margin:
        return "NEUTRAL", f"the whole interval lies within {block.margin:g} of zero"
    return (
        "CANNOT_TELL",
        "the interval is too wide to tell a gain from a loss" if low <= 0 <= high else "the seeds disagree",
    )
