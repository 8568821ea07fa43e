"""What synthetic rows are worth in real ones. Run: python -m pytest tests/evaluation/test_exchange.py"""

import numpy as np
import pytest

from pipeline.evaluation.exchange import crossing, knots, rate
from pipeline.params import Arm
from tests.conftest import PLAIN
from tests.evaluation.test_verdict import BLOCK, decided, outcomes

SHAPES = {
    "a": {"role": "control"},
    "balanced": {"role": "control", "recipe": "balanced"},
    "new": {"role": "candidate", "rows": "cvae", "recipe": "synthetic"},
    "more": {"role": "oracle", "rows": "heldback", "recipe": "balanced"},
    "some": {"role": "oracle", "rows": "heldback", "recipe": "balanced"},
}
ADDED = {"a": 0, "balanced": 0, "new": 50, "more": 40, "some": 10}
CHOSEN = {"chosen_arm": "new", "best_control": "a"}


def named(**change):
    return {name: Arm(**(PLAIN | shape | change.get(name, {}))) for name, shape in SHAPES.items()}


def test_the_arms_with_real_rows_stand_behind_the_control_of_their_recipe():
    assert knots(named(), ADDED, CHOSEN) == [(0, "balanced"), (10, "some"), (40, "more")]
    other = named(balanced={"recipe": "mixup"})
    assert knots(other, ADDED, CHOSEN)[0] == (0, "a"), "else behind the best control"
    assert knots(named(some={"recipe": "plain"}), ADDED, CHOSEN) == [(0, "balanced"), (40, "more")]
    assert knots(named(balanced={"also": "pool"}), ADDED, CHOSEN)[0] == (0, "a"), "and behind none that adds the pool"


@pytest.mark.parametrize(
    ("change", "added", "choices"),
    [
        ({"more": {"rows": "cvae"}, "some": {"role": "candidate"}}, {}, {}),
        ({"more": {"also": "cvae"}, "some": {"also": "cvae"}}, {}, {}),
        ({}, {"more": 0, "some": 0}, {}),
        ({}, {"new": 0}, {}),
        ({"new": {"also": "pool"}}, {}, {}),
        ({}, {}, {"chosen_arm": ""}),
    ],
)
def test_without_rows_to_exchange_there_is_no_rate(change, added, choices):
    assert knots(named(**change), ADDED | added, CHOSEN | choices) == []
    assert rate([], {}, 50) is None


def test_the_first_zero_lies_between_its_neighbours():
    assert crossing([0, 10, 40], [0.02, 0.01, -0.02]) == 20
    assert crossing([0, 10, 40], [0.02, -0.02, 0.01]) == 5, "the least number of rows"
    assert crossing([0, 10], [-0.01, 0.5]) == 0 and crossing([0, 10], [0.02, 0.0]) == 10
    assert crossing([0, 10, 10], [0.02, 0.01, 0.0]) == 10, "two arms may have added as many"
    assert crossing([0, 10], [0.02, 0.01]) is None


def ends(*values, half=0.0):
    return {a: {"difference": v, "ci_low": v - half, "ci_high": v + half} for a, v in zip("zsm", values, strict=True)}


STEPS = [(0, "z"), (10, "s"), (40, "m")]


@pytest.mark.parametrize(
    ("values", "half", "expected"),
    [
        ((0.04, 0.02, -0.04), 0.0, (20, 20, 20)),
        ((0.04, 0.02, -0.04), 0.01, (20, 15, 25)),
        ((0.04, 0.02, -0.04), 0.05, (20, 0, None)),
        ((0.04, 0.02, 0.01), 0.01, (None, 40, None)),
        ((0.04, 0.03, 0.02), 0.01, (None, None, None)),
        ((-0.02, -0.03, -0.04), 0.01, (0, 0, 0)),
        ((-0.02, -0.03, -0.04), 0.025, (0, 0, 5)),
    ],
)
def test_the_interval_holds_the_rows_whose_arms_cannot_be_told_from_the_judged_one(values, half, expected):
    found = rate(STEPS, ends(*values, half=half), 50)
    assert [found[k] for k in ("real_rows", "ci_low", "ci_high")] == pytest.approx(list(expected), abs=1e-9)
    assert found["synthetic_rows"] == 50 and found["most_real_rows"] == 40


def test_the_verdict_holds_the_rate_from_its_own_resamples():
    """The oracles gain 10 points with 10 rows and 20 with 40, the judged arm 15: that is 25 rows."""
    shares = {"a": 0.6, "balanced": 0.6, "new": 0.75, "more": 0.8, "some": 0.7}
    shapes = {n: arm.model_dump() for n, arm in named().items()}
    test = outcomes(np.arange(900) % 3, **shares)
    found = decided(shares, roles=shapes, added=ADDED, test=test)
    assert found["verdict"] == "HELPS" and found["exchange"]["real_rows"] == pytest.approx(25, abs=1)
    assert found["exchange"]["arms"] == ["balanced", "some", "more"]
    pairs = [("new", a) for a in found["exchange"]["arms"]]
    drawn = [np.quantile(d, [0.025, 0.975]) for d in test.compare(pairs, BLOCK, 0)]
    low = np.interp(0, [drawn[2][0], drawn[1][0]], [40, 10])
    high = np.interp(0, [drawn[2][1], drawn[1][1]], [40, 10])
    assert (found["exchange"]["ci_low"], found["exchange"]["ci_high"]) == pytest.approx((low, high))
    assert 10 < low < 25 < high < 40
    plain = decided({"a": 0.6, "new": 0.75})
    assert plain["exchange"] is None
