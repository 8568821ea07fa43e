"""The verdict: arms are chosen on validation, then compared on the test split, paired by seed."""
from collections.abc import Mapping

import numpy as np
import pandas as pd

from pipeline.evaluation.statistics import bootstrap_difference, sign_flip
from pipeline.params import Arm, Evaluation

LEAST_SEEDS = 6   # the smallest number of pairs whose exact two-sided sign-flip test can fall below 0.05


def choose(validation: pd.DataFrame, arms: Mapping[str, Arm], metric: str) -> dict:
    """The best control and the best candidate by their mean validation score over seeds; ties go to the first named.

    `validation` has columns arm, seed, class, metric, value. Returns both names ("" if there is none) and all means.
    """
    rows = validation[(validation["metric"] == metric) & (validation["class"] == "")]
    mean = rows.groupby("arm")["value"].mean().to_dict()
    best = {role: max((a for a in arms if arms[a].role == role), key=lambda a: mean[a], default="") for role in ("control", "candidate")}
    return {"primary_metric": metric, "best_control": best["control"], "chosen_arm": best["candidate"],
            "validation_means": {a: round(float(mean[a]), 6) for a in arms}}


def check_equal_compute(records: Mapping[str, Mapping]) -> None:
    """Raises ValueError unless every arm trained for equal steps from equal initial weights with the same recipe."""
    first = next(iter(records))
    for key in ("settings", "seeds", "initial_weights", "policy"):
        for arm, record in records.items():
            if record[key] != records[first][key]:
                raise ValueError(f"arms {first!r} and {arm!r} differ in {key}: {records[first][key]} and {record[key]}; "
                                 "they cannot be compared. Run `dvc repro` so that all arms are trained alike")


def decide(choices: dict, predicted: Mapping[str, np.ndarray], scores: pd.DataFrame, y: np.ndarray, groups: np.ndarray,
           classes: int, added: int, block: Evaluation, seed: int) -> dict:
    """The verdict as plain numbers and words: HELPS, NEUTRAL, HURTS or CANNOT_TELL, and why.

    `predicted` maps arm names to class indices (S, N) on the test split; `added` is how many synthetic rows the chosen
    arm had to learn from. HELPS and HURTS need the whole interval on one side of zero and a sign-flip p of at most
    1 - confidence; NEUTRAL needs the whole interval within +-margin.
    """
    metric, arm, control = block.primary_metric, choices["chosen_arm"], choices["best_control"]
    base = {"primary_metric": metric, "best_control": control, "chosen_arm": arm, "difference": None, "ci_low": None,
            "ci_high": None, "p_value": None, "confidence": block.confidence, "margin": block.margin}
    if not arm:
        return base | {"verdict": "CANNOT_TELL", "reason": "no arm has the role `candidate`, so there is nothing to judge"}
    value = scores[(scores["metric"] == metric) & (scores["class"] == "")].pivot(index="seed", columns="arm", values="value")
    paired = (value[arm] - value[control]).to_numpy()
    draws = bootstrap_difference(predicted[arm], predicted[control], y, groups, classes, metric, block.bootstrap, seed)
    low, high = np.quantile(draws, [(1 - block.confidence) / 2, (1 + block.confidence) / 2])
    p = sign_flip(paired)
    word, reason = classify(float(low), float(high), p, len(paired), added, block)
    return base | {"difference": float(paired.mean()), "ci_low": float(low), "ci_high": float(high), "p_value": p,
                   "seeds": len(paired), "synthetic_rows": added, "verdict": word, "reason": reason}


def classify(low: float, high: float, p: float, seeds: int, added: int, block: Evaluation) -> tuple[str, str]:
    """The word and the reason for an interval, a p value, and how much stood behind them."""
    if added == 0:
        return "CANNOT_TELL", "no synthetic row was added, so the arm learnt from real rows only"
    if seeds < LEAST_SEEDS:
        return "CANNOT_TELL", f"exploratory: {seeds} paired seeds, and a verdict needs at least {LEAST_SEEDS}"
    sure = p <= 1 - block.confidence + 1e-12
    if sure and low > 0:
        return "HELPS", "the whole interval lies above zero, and the seeds agree"
    if sure and high < 0:
        return "HURTS", "the whole interval lies below zero, and the seeds agree"
    if -block.margin <= low and high <= block.margin:
        return "NEUTRAL", f"the whole interval lies within {block.margin:g} of zero"
    return "CANNOT_TELL", "the interval is too wide to tell a gain from a loss" if low <= 0 <= high else "the seeds disagree"
