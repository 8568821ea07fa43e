"""The verdict: arms are chosen on validation, then compared on the test split, paired by seed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.evaluation import exchange, guardrails, statistics
from pipeline.evaluation.outcomes import Outcomes, blind, too_small, untested
from pipeline.evaluation.words import classify, combine, counted
from pipeline.params import Arm, Evaluation

ENDS = ("difference", "ci_low", "ci_high")
NOBODY = "no arm of this profile has the role `candidate`, so there is nothing to judge"


def choose(
    validation: Outcomes, arms: Mapping[str, Arm], added: Mapping[str, int], block: Evaluation, seed: int
) -> dict[str, Any]:
    """The best control and the best candidate by their mean validation score over seeds; ties go to the first named.

    A candidate that had no synthetic row to learn from (`added` maps arms to their rows) stands back for those that had.
    `contenders` are the controls that validation cannot tell from the best one: a small validation split picks the
    best control almost by chance, so a gain or a loss has to hold against each of them. One too small to tell anything, or without
    a row of some class, keeps all.
    """
    scores = {a: validation.score(a, block.primary_metric) for a in arms}
    mean = {a: float(s.mean()) for a, s in scores.items()}
    candidates = [a for a in arms if arms[a].role == "candidate"]
    candidates = [a for a in candidates if added[a]] or candidates
    controls = [a for a in arms if arms[a].role == "control"]
    best = max(controls, key=lambda a: mean[a])
    ahead = dict(zip(controls, validation.compare([(best, a) for a in controls], block, seed), strict=True))
    lead = (1 - block.confidence) / 2
    small = too_small(validation) or len(np.unique(validation.y)) < len(validation.labels)
    return {
        "best_control": best,
        "chosen_arm": max(candidates, key=lambda a: mean[a], default=""),
        "contenders": [a for a in controls if a == best or small or np.quantile(ahead[a], lead) <= 0],
        "best_seed": {a: int(s.argmax()) for a, s in scores.items()},
        "validation_rows": len(validation.y),
        "validation_means": {a: round(m, 6) for a, m in mean.items()},
    }


def check_equal_compute(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError unless every arm trained for equal steps from equal initial weights with the same network."""
    first = next(iter(records))
    for key in ("settings", "seeds", "initial_weights", "policy"):
        for arm, record in records.items():
            if record[key] != records[first][key]:
                raise ValueError(
                    f"arms {first!r} and {arm!r} differ in {key}: {records[first][key]} and {record[key]}; "
                    "they cannot be compared. Run `dvc repro` so that all arms are trained alike"
                )


def decide(
    choices: dict[str, Any],
    test: Outcomes,
    arms: Mapping[str, Arm],
    added: Mapping[str, int],
    block: Evaluation,
    seed: int,
) -> dict[str, Any]:
    """The verdict as plain numbers and words: HELPS, NEUTRAL, HURTS or CANNOT_TELL, and why, overall and for each arm.

    `added` says how many synthetic rows each arm had to learn from. HELPS and HURTS need the whole interval on one side
    of zero and a sign-flip p of at most 1 - confidence, against every contender, HELPS with every guardrail whole too;
    NEUTRAL needs the whole interval within +-margin and enough test rows to see that much. The arm to judge was named
    beforehand: it carries the verdict, and its p stands as it is. The other arms are secondary: see `every_arm`.
    """
    arm, control = choices["chosen_arm"], choices["best_control"]
    base = {"primary_metric": block.primary_metric, "best_control": control, "chosen_arm": arm}
    base |= dict.fromkeys((*ENDS, "p_value", "p_both")) | {"synthetic_rows": added[arm] if arm else 0}
    base |= {"confidence": block.confidence, "margin": block.margin, "seeds": test.seeds}
    others = [control, *(c for c in choices["contenders"] if c != control)] if arm else []
    steps = exchange.knots(arms, added, choices)
    negative = [a for a in arms if arms[a].role == "negative"] if arm else []
    beside = dict.fromkeys([*others, *(a for _, a in steps), *negative])
    pairs = [(a, control) for a in arms if a != control] + [(arm, other) for other in beside if other != control]
    drawn = dict(zip(pairs, test.compare(pairs, block, seed), strict=True)) if pairs else {}
    found = {(a, b): ends(test, a, b, draws, block) for (a, b), draws in drawn.items()}
    base |= {"arms": every_arm(found, arms, added, choices, test, block)}
    base |= {"comparisons": [], "over_negative": {}, "guardrails": [], "exchange": None}
    base |= {"over_constant": over_constant(test, control, block, seed), "few_rows": blind(test, block)}
    if not arm:
        return pronounced(base, "CANNOT_TELL", NOBODY)
    comparisons = [{"control": other, **found[arm, other]} for other in others]
    small = too_small(test)
    sure = bool(added[arm]) and test.seeds > 1 and not small  # else nothing is, a loss neither
    rails = rails_of(test, arm, control, sure, block, seed)
    given = (choices["validation_rows"], test.seeds, added[arm], rails, block, base["few_rows"])
    word, reason = combine(comparisons, *given)
    word, reason = ("CANNOT_TELL", small) if small else (word, reason + untested(test))
    first = found[arm, control] | {
        "detectable": statistics.detectable(drawn[arm, control], block.confidence) if sure else None,
        "comparisons": comparisons,
        "over_negative": {a: found[arm, a] for a in negative},
        "guardrails": rails,
        "threshold_shift": guardrails.threshold_shift(rails),
        "exchange": exchange.rate(steps, {a: found[arm, a] for _, a in steps}, added[arm]) if sure else None,
        "single_models": single_models(test, arm, control, [choices["best_seed"][a] for a in (arm, control)]),
    }
    return pronounced(base | first, word, reason)


def rails_of(test: Outcomes, arm: str, control: str, sure: bool, block: Evaluation, seed: int) -> list[dict[str, Any]]:
    """The guardrails of an arm against a control; whether one is broken is None for all where nothing can be `sure`."""
    said, tempered = test.probabilities, (test.calibrated[arm], test.calibrated[control]) if test.calibrated else None
    rails = guardrails.check(said[arm], said[control], test.y, test.groups, test.labels, block, seed, tempered)
    return rails if sure else [rail | {"broken": None} for rail in rails]


def pronounced(found: dict[str, Any], word: str, reason: str) -> dict[str, Any]:
    """The verdict with this word, which is also that of the arm to judge wherever arms are listed."""
    own = {"verdict": word, "reason": reason}
    arm = found["chosen_arm"]
    return found | {"arms": {a: told | own if a == arm else told for a, told in found["arms"].items()}} | own


def over_splits(
    found: dict[str, Any], elsewhere: Sequence[Mapping[str, Any]], split: int, block: Evaluation
) -> dict[str, Any]:
    """The verdict with what the run said on other splits of the rows; HELPS, HURTS and NEUTRAL must hold in the mean over all.

    Out of the mean is a split that asks another question: no candidate could be trained there, it had no synthetic row, or
    a control failed.
    """
    keys, every = ("split", "best_control", "chosen_arm", *ENDS, "verdict"), [{"split": split, **found}, *elsewhere]
    judged = [s for s in every if s["difference"] is not None and s["synthetic_rows"] and not s["controls_failed"]]
    values = np.array([s["difference"] for s in judged])
    if not elsewhere or (not judged and found["difference"] is None):
        return found | {"repeats": None}
    ratio = float(np.mean([s["test_rows"] / s["train_rows"] for s in elsewhere]))
    mean, low, high = statistics.resampled_interval(values, ratio, block.confidence) if judged else (np.nan,) * 3
    lost = [s["split"] for s in every if s not in judged]
    told: dict[str, Any] = {"splits": [{k: s[k] for k in keys} for s in every], "left_out": lost}
    told |= {k: None if np.isnan(end) else end for k, end in zip(ENDS, (mean, low, high), strict=True)}
    within = -block.margin <= low and high <= block.margin
    if {"HELPS": low > 0, "HURTS": high < 0, "NEUTRAL": within}.get(found["verdict"], True):
        return found | {"repeats": told}
    others = [s for s in judged if s["split"] != split]
    doubt = (
        f"not surely in the mean over {counted(len(values), 'split')}" if others else "no other split could be judged"
    )
    word = "is neutral" if found["verdict"] == "NEUTRAL" else found["verdict"].lower()
    reason = f"on this split it {word}, but {doubt}"
    return pronounced(found | {"repeats": told}, "CANNOT_TELL", reason)


def incomplete(
    found: dict[str, Any], failed: Mapping[str, str], roles: Mapping[str, str], slowed: Collection[str] = ()
) -> dict[str, Any]:
    """The verdict with the arms that could not be trained, and why; it HELPS only if no control is among them.

    Nor if a control to beat was trained at half the learning rate from where it diverged: those are among the `slowed` arms.
    """
    controls, candidates = ([a for a in failed if roles[a] == role] for role in ("control", "candidate"))
    found = found | {"failed": dict(failed), "controls_failed": controls}
    if candidates and not found["chosen_arm"]:
        return pronounced(found, "CANNOT_TELL", f"no candidate could be trained: {', '.join(candidates)} failed")
    half = [c["control"] for c in found["comparisons"] if c["control"] in slowed]
    if found["verdict"] != "HELPS" or not controls + half:
        return found
    lost = ", ".join(controls) + " could not be trained" if controls else ""
    lost = lost or f"{', '.join(half)} diverged and went on at half the learning rate"
    return pronounced(found, "CANNOT_TELL", f"it is ahead of {found['best_control']}, but {lost}")


def ends(test: Outcomes, arm: str, other: str, draws: np.ndarray, block: Evaluation) -> dict[str, float]:
    """The mean paired difference of the primary metric, the ends of its interval, and p over seeds; and the larger of that
    and of the interval's own p, which knows that test rows are drawn, too."""
    paired = test.score(arm, block.primary_metric) - test.score(other, block.primary_metric)
    low, high = np.quantile(draws, [(1 - block.confidence) / 2, (1 + block.confidence) / 2])
    p, beyond = statistics.sign_flip(paired), min((draws <= 0).sum(), (draws >= 0).sum())
    return {
        "difference": float(paired.mean()),
        "ci_low": float(low),
        "ci_high": float(high),
        "p_value": p,
        "p_both": float(np.maximum(p, min(1.0, 2 * (beyond + 1) / (len(draws) + 1)))),
    }


def over_constant(test: Outcomes, arm: str, block: Evaluation, seed: int) -> dict[str, float]:
    """An arm against the best that one and the same answer to every row can do: difference, ends of its interval, and p."""
    said = test.probabilities[arm]
    same = {str(c): np.broadcast_to(answer, said.shape) for c, answer in enumerate(np.eye(len(test.labels)))}
    both = replace(test, probabilities={"": said, **same})
    best = max(same, key=lambda c: both.score(c, block.primary_metric)[0])
    (draws,) = both.compare([("", best)], block, seed)
    return ends(both, "", best, draws, block)


def every_arm(
    found: Mapping[tuple[str, str], dict[str, Any]],
    arms: Mapping[str, Arm],
    added: Mapping[str, int],
    choices: Mapping[str, Any],
    test: Outcomes,
    block: Evaluation,
) -> dict[str, dict[str, Any]]:
    """Each arm but the best control against it; those that are neither controls nor the one to judge have words of their own.

    These are secondary: p, the larger of that over seeds and the interval's own, is adjusted for their number (Holm), and
    neither contenders nor guardrails are asked. Arms of the same models count once. `found` has the difference and
    interval of pairs of arms.
    """
    control, small, few = choices["best_control"], too_small(test), blind(test, block)
    told = {a: dict(found[a, control]) for a in arms if a != control}
    others = [a for a in told if arms[a].role != "control" and a != choices["chosen_arm"]]
    said = test.probabilities
    same = {a: next(b for b in others if np.array_equal(said[a], said[b])) for a in others}
    first = [a for a in others if same[a] == a]
    adjusted = dict(zip(first, statistics.holm([told[a]["p_both"] for a in first]), strict=True))
    for a in others:
        p = adjusted[same[a]]
        word, reason = classify(told[a]["ci_low"], told[a]["ci_high"], p, test.seeds, added[a], block, len(first), few)
        if word == "HELPS":
            reason = (
                f"ahead of {control}; it was not chosen beforehand, and other controls and guardrails were not asked"
            )
        if small:
            word, reason = "CANNOT_TELL", small
        twin = next(b for b in (choices["chosen_arm"], *others) if b and np.array_equal(said[a], said[b]))
        if twin != a:
            reason += f" (the same models as of {twin})"
        told[a] |= {"p_holm": p, "verdict": word, "reason": reason}
    return told


def single_models(test: Outcomes, arm: str, control: str, seeds: Sequence[int]) -> dict[str, Any]:
    """McNemar's test of one model of each arm, those of the given seeds; of groups of rows, by which of the two has more right."""
    right = [test.predicted(a)[s] == test.y for a, s in zip((arm, control), seeds, strict=True)]
    ahead = np.bincount(np.unique(test.groups, return_inverse=True)[1], right[0] * 1.0 - right[1])
    gained, lost, p = statistics.mcnemar(ahead > 0, ahead < 0)
    return {"seeds": list(seeds), "only_arm_right": gained, "only_control_right": lost, "p_value": p}
