"""From intervals and p values to words: HELPS, NEUTRAL, HURTS or CANNOT_TELL, and why."""

import math
from typing import Any

from pipeline.params import Evaluation

LEAST_SEEDS = 6  # fewer are exploratory, whatever the confidence asked for


def counted(n: object, what: str) -> str:
    """So many of them, in words: 1 row, 2 rows."""
    return f"{n} {what}{'' if str(n) == '1' else 's'}"


def combine(
    comparisons: list[dict[str, Any]],
    validation_rows: int,
    seeds: int,
    added: int,
    rails: list[dict[str, Any]],
    block: Evaluation,
    few: str = "",
) -> tuple[str, str]:
    """The word of the first comparison, the one with the best control; HELPS and HURTS only if all others agree.

    A gain must break no guardrail, and where there is no difference the broken ones are told. `few` as for `classify`.
    """
    words = [classify(c["ci_low"], c["ci_high"], c["p_value"], seeds, added, block, few=few) for c in comparisons]
    word, reason = words[0]
    doubtful = [c["control"] for c, (other, _) in zip(comparisons, words, strict=True) if other != word]
    control, worse = comparisons[0]["control"], ", ".join(rail["name"] for rail in rails if rail["broken"])
    if word in ("HELPS", "HURTS") and doubtful:
        place = (
            f"ahead of {control}, but not surely of" if word == "HELPS" else f"behind {control}, but not surely behind"
        )
        said = f"it is {place} {', '.join(doubtful)}"
        return "CANNOT_TELL", f"{said}, which {validation_rows} validation rows cannot tell from {control}"
    if word == "HELPS" and worse:
        return "CANNOT_TELL", f"it is ahead of {control}, but gets worse in {worse}"
    return word, f"{reason}, but it gets worse in {worse}" if word == "NEUTRAL" and worse else reason


def least_seeds(confidence: float, among: int = 1) -> int:
    """How many paired seeds it takes until the least sign-flip p there is, 2 / 2^n, makes one of `among` arms sure by Holm."""
    return max(LEAST_SEEDS, math.ceil(1 + math.log2(among / (1 - confidence)) - 1e-9))


def classify(
    low: float, high: float, p: float, seeds: int, added: int, block: Evaluation, among: int = 1, few: str = ""
) -> tuple[str, str]:
    """The word and the reason for an interval, a p value adjusted for `among` arms, and how much stood behind them.

    `few` says why the test split cannot tell a difference within the margin from none, if so.
    """
    if added == 0:
        return "CANNOT_TELL", "no synthetic row was added, so the arm learnt from real rows only"
    if seeds < (least := least_seeds(block.confidence)):
        return "CANNOT_TELL", f"exploratory: {counted(seeds, 'paired seed')}, and a verdict needs at least {least}"
    sure = p <= 1 - block.confidence + 1e-12
    if sure and low > 0:
        return "HELPS", "the whole interval lies above zero, and the seeds agree"
    if sure and high < 0:
        return "HURTS", "the whole interval lies below zero, and the seeds agree"
    if -block.margin <= low and high <= block.margin:
        within = f"the whole interval lies within {counted(f'{100 * block.margin:g}', 'point')} of zero"
        return ("CANNOT_TELL", f"{within}, but {few}") if few else ("NEUTRAL", within)
    if low <= 0 <= high:
        return "CANNOT_TELL", "the interval is too wide to tell a gain from a loss"
    if seeds < (needed := least_seeds(block.confidence, among)):
        return "CANNOT_TELL", (
            f"the interval lies on one side of zero, but {seeds} paired seeds cannot make any of {among} arms that were "
            f"not chosen beforehand sure; that takes at least {needed}"
        )
    doubt = f"p, of the seeds and of the interval, adjusted for {among} arms, does" if among > 1 else "the seeds do"
    return "CANNOT_TELL", f"the interval lies on one side of zero, but {doubt} not make it sure (p = {p:.3g})"
