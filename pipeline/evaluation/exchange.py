"""The exchange rate: how many real rows the synthetic ones are worth, read off arms that add real rows which were set aside."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pipeline.params import HELDBACK, POOL, Arm

Knot = tuple[int, str]  # real rows added, and the arm that added them


def knots(arms: Mapping[str, Arm], added: Mapping[str, int], choices: Mapping[str, Any]) -> list[Knot]:
    """The arms that add real rows, least first, behind one with their recipe that adds none, else the best control.

    None if no row was set aside for such an arm, or if the arm to judge had no synthetic row, or rows of the pool beside them.
    """
    real = [a for a in arms if arms[a].role == "oracle" and (arms[a].rows, arms[a].also) == (HELDBACK, "nothing")]
    real = [a for a in real if added[a]]
    arm = choices["chosen_arm"]
    if not real or not added.get(arm) or arms[arm].also == POOL:
        return []
    recipe, plain = arms[real[0]].recipe, [a for a in arms if arms[a].role == "control" and arms[a].also != POOL]
    alike = [a for a in plain if not added[a] and arms[a].recipe == recipe]
    zero = (alike or [choices["best_control"]])[0]
    return [(0, zero), *sorted((added[a], a) for a in real if arms[a].recipe == recipe)]


def rate(steps: Sequence[Knot], found: Mapping[str, Mapping[str, float]], synthetic: int) -> dict[str, Any] | None:
    """The real rows that do as well as `synthetic` rows of the arm to judge, and the ends of an interval of them.

    `found` holds by arm of `steps` the difference of the arm to judge to it, and its interval. Between the arms all
    three are joined by straight lines. The estimate is where the difference comes down to zero, and the interval holds
    every number of rows at which the interval of the difference holds zero (a test inverted, as by Fieller, 1954).
    None stands for more rows than any arm added.
    """
    if not steps:
        return None
    rows = [n for n, _ in steps]
    low, mean, high = ([found[a][k] for _, a in steps] for k in ("ci_low", "difference", "ci_high"))
    backwards = crossing(rows[::-1], [-v for v in high[::-1]])  # the last number of rows at which it is not below zero
    return {
        "synthetic_rows": synthetic,
        "real_rows": crossing(rows, mean),
        "ci_low": crossing(rows, low),
        "ci_high": None if high[-1] >= 0 else backwards if backwards is not None else 0.0,
        "most_real_rows": rows[-1],
        "arms": [a for _, a in steps],
    }


def crossing(rows: Sequence[float], values: Sequence[float]) -> float | None:
    """The first place on the way along `rows` at which `values`, joined by straight lines, are zero or less; None if nowhere."""
    if values[0] <= 0:
        return float(rows[0])
    for (m, above), (n, below) in pairwise(zip(rows, values, strict=True)):
        if below <= 0:
            return float(m + (n - m) * above / (above - below))
    return None
