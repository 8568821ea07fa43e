"""Arms chosen on validation and the word at the end. Run: python -m pytest tests/evaluation/test_verdict.py"""

from contextlib import suppress

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.verdict import LEAST_SEEDS, check_equal_compute, choose, classify, decide
from pipeline.params import Arm, Evaluation

BLOCK = Evaluation(primary_metric="balanced_accuracy", confidence=0.95, bootstrap=200, margin=0.01)
SURE = 2 / 64


def word(low, high, p=SURE, seeds=6, added=100, block=BLOCK):
    return classify(low, high, p, seeds, added, block)[0]


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.02, 0.05, SURE, "HELPS"),
        (-0.05, -0.02, SURE, "HURTS"),
        (-0.005, 0.008, 0.5, "NEUTRAL"),
        (-0.05, 0.05, 0.5, "CANNOT_TELL"),
        (0.02, 0.05, 0.0625, "CANNOT_TELL"),  # the interval says so, the seeds do not
        (-0.05, -0.02, 0.0625, "CANNOT_TELL"),
        (-0.001, 0.05, SURE, "CANNOT_TELL"),  # the seeds say so, the interval does not
        (0.002, 0.005, SURE, "HELPS"),  # small, but sure
        (0.002, 0.005, 0.5, "NEUTRAL"),
    ],
)
def test_each_word(low, high, p, expected):
    assert word(low, high, p) == expected


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.0, 0.05, SURE, "CANNOT_TELL"),
        (np.nextafter(0, 1), 0.05, SURE, "HELPS"),
        (-0.05, 0.0, SURE, "CANNOT_TELL"),
        (0.02, 0.05, 0.05, "HELPS"),
        (0.02, 0.05, 0.0501, "CANNOT_TELL"),
        (-0.01, 0.01, 1.0, "NEUTRAL"),
        (-0.0101, 0.01, 1.0, "CANNOT_TELL"),
        (0.0, 0.0, 1.0, "NEUTRAL"),
        (np.nan, np.nan, 1.0, "CANNOT_TELL"),
    ],
)
def test_values_on_a_bound(low, high, p, expected):
    assert word(low, high, p) == expected


def test_helps_and_hurts_mirror_each_other():
    rng = np.random.default_rng(0)
    mirror = {"HELPS": "HURTS", "HURTS": "HELPS"}
    for _ in range(300):
        low, high = np.sort(rng.normal(0, 0.02, 2))
        p = rng.choice([SURE, 0.5])
        found = word(low, high, p)
        assert word(-high, -low, p) == mirror.get(found, found)


def test_the_two_ways_not_to_tell_are_told_apart():
    assert "too wide" in classify(-0.05, 0.05, 0.5, 6, 100, BLOCK)[1]
    assert "seeds disagree" in classify(0.02, 0.05, 0.3, 6, 100, BLOCK)[1]


@pytest.mark.parametrize("seeds", range(1, LEAST_SEEDS))
def test_too_few_seeds_give_no_verdict(seeds):
    found, reason = classify(0.02, 0.05, 2 / 2**seeds, seeds, 100, BLOCK)
    assert found == "CANNOT_TELL" and str(seeds) in reason and str(LEAST_SEEDS) in reason


def test_the_least_number_of_seeds_is_the_first_that_can_be_sure():
    assert 2 / 2**LEAST_SEEDS <= 0.05 < 2 / 2 ** (LEAST_SEEDS - 1)


def test_seeds_that_all_agree_are_not_said_to_disagree():
    """At 99 % confidence even six seeds of one sign cannot be sure; the reason has to name that."""
    strict = BLOCK.model_copy(update={"confidence": 0.99})
    found, reason = classify(0.02, 0.05, SURE, 6, 100, strict)
    assert found == "CANNOT_TELL" and "disagree" not in reason, reason


@pytest.mark.parametrize("seeds", [1, 6])
def test_without_added_rows_nothing_can_be_told(seeds):
    found, reason = classify(0.02, 0.05, SURE, seeds, 0, BLOCK)
    assert found == "CANNOT_TELL" and "no synthetic row" in reason


def arm(role):
    return Arm(role=role, rows="x", use="kept", dose="full", balance=1.0, share=0.5, weight=1.0, real_only=0.1)


def arms(**roles):
    return {name: arm(role) for name, role in roles.items()}


def predictions(y, seeds=6, **shares):
    """Predicted classes (S, N) by arm: each is right in its first share of the rows of each class."""
    place = np.zeros(len(y))
    for c in np.unique(y):
        place[y == c] = np.linspace(0, 1, (y == c).sum(), endpoint=False)
    return {name: np.tile(np.where(place < share, y, (y + 1) % 3), (seeds, 1)) for name, share in shares.items()}


def tidy(**values):
    """Scores of every arm and seed in the tidy form, with rows of other metrics and classes among them."""
    rows = [
        (name, seed, label, metric, value if metric == BLOCK.primary_metric and not label else 1 - value)
        for name, per_seed in values.items()
        for seed, value in enumerate(per_seed)
        for label, metric in (("", "balanced_accuracy"), ("", "accuracy"), ("zero", "recall"))
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "class", "metric", "value"])


Y = np.arange(90) % 3
ROWS = np.arange(90)


def chosen(named, added=None, **values):
    scores = tidy(**{name: [v] * 6 for name, v in values.items()})
    added = {name: 50 for name in named} | (added or {})
    return choose(scores, predictions(Y, **values), Y, ROWS, 3, named, added, BLOCK, seed=0)


def test_the_best_of_each_role_is_chosen_by_the_primary_metric():
    named = arms(a="control", b="control", c="candidate", d="candidate")
    found = chosen(named, a=0.6, b=0.9, c=0.7, d=0.8)
    assert (found["best_control"], found["chosen_arm"]) == ("b", "d")
    assert found["validation_means"] == {"a": 0.6, "b": 0.9, "c": 0.7, "d": 0.8}
    assert found["validation_rows"] == 90 and found["primary_metric"] == "balanced_accuracy"


@pytest.mark.parametrize("order", ["abcd", "dcba"])
def test_ties_go_to_the_first_named(order):
    roles = {"a": "control", "b": "control", "c": "candidate", "d": "candidate"}
    found = chosen(arms(**{n: roles[n] for n in order}), a=0.8, b=0.8, c=0.9, d=0.9)
    assert found["best_control"] == min("ab", key=order.index)
    assert found["chosen_arm"] == min("cd", key=order.index)


def test_without_candidates_no_arm_is_chosen():
    found = chosen(arms(a="control", b="control"), a=0.6, b=0.9)
    assert found["chosen_arm"] == "" and found["best_control"] == "b"


def test_a_candidate_without_synthetic_rows_stands_back_for_one_that_has_some():
    named = arms(a="control", c="candidate", d="candidate")
    assert chosen(named, a=0.6, c=0.9, d=0.8, added={"c": 0})["chosen_arm"] == "d"
    assert chosen(named, a=0.6, c=0.9, d=0.8, added={"c": 0, "d": 0})["chosen_arm"] == "c"
    assert chosen(named, a=0.6, c=0.9, d=0.8, added={"a": 0})["best_control"] == "a"


def test_contenders_are_the_controls_that_validation_cannot_tell_from_the_best():
    named = arms(best="control", near="control", far="control", new="candidate")
    assert chosen(named, best=0.9, near=0.9, far=0.2, new=0.95)["contenders"] == ["best", "near"]
    assert chosen(named, best=0.9, near=0.88, far=0.2, new=0.95)["contenders"] == ["best", "near"]


def decided(shares, contenders=("a",), seeds=6, added=50, **values):
    """The verdict on arm `new` where every arm is right in its share of 900 test rows; `values` replace scores."""
    y = np.arange(900) % 3
    choices = {"best_control": "a", "chosen_arm": "new", "contenders": list(contenders), "validation_rows": 90}
    scores = tidy(**({name: [share] * seeds for name, share in shares.items()} | values))
    return decide(choices, predictions(y, seeds, **shares), scores, y, np.arange(900), 3, added, BLOCK, seed=0)


def test_a_clear_gain_helps_and_a_clear_loss_hurts():
    gain, loss = decided({"a": 0.7, "new": 0.8}), decided({"a": 0.8, "new": 0.7})
    assert (gain["verdict"], loss["verdict"]) == ("HELPS", "HURTS")
    assert gain["difference"] == pytest.approx(0.1) and loss["difference"] == pytest.approx(-0.1)
    assert gain["ci_low"] <= 0.1 <= gain["ci_high"]
    assert gain["p_value"] == 2 / 64
    assert gain["seeds"] == 6 and gain["synthetic_rows"] == 50


def test_equal_arms_are_neutral():
    assert decided({"a": 0.7, "new": 0.7})["verdict"] == "NEUTRAL"


def test_helps_needs_every_contender():
    found = decided({"a": 0.7, "b": 0.8, "new": 0.8}, contenders=["a", "b"])
    assert found["verdict"] == "CANNOT_TELL"
    assert "a" in found["reason"] and "not surely of b" in found["reason"]
    assert [c["control"] for c in found["comparisons"]] == ["a", "b"]
    assert decided({"a": 0.7, "b": 0.7, "new": 0.8}, contenders=["b", "a"])["verdict"] == "HELPS"


def test_hurts_and_neutral_are_against_the_best_control():
    assert decided({"a": 0.8, "b": 0.6, "new": 0.7}, contenders=["a", "b"])["verdict"] == "HURTS"
    assert decided({"a": 0.7, "b": 0.6, "new": 0.7}, contenders=["a", "b"])["verdict"] == "NEUTRAL"


def test_the_first_comparison_is_with_the_best_control():
    found = decided({"a": 0.7, "b": 0.6, "new": 0.8}, contenders=["b", "a"])
    assert [c["control"] for c in found["comparisons"]] == ["a", "b"]
    assert {k: found[k] for k in ("difference", "ci_low", "ci_high", "p_value")} == {
        k: v for k, v in found["comparisons"][0].items() if k != "control"
    }


def test_an_arm_without_added_rows_is_not_judged():
    found = decided({"a": 0.7, "new": 0.8}, added=0)
    assert found["verdict"] == "CANNOT_TELL" and "no synthetic row" in found["reason"]


def test_fewer_than_six_seeds_are_exploratory():
    found = decided({"a": 0.7, "new": 0.8}, seeds=5)
    assert found["verdict"] == "CANNOT_TELL" and "exploratory" in found["reason"] and found["seeds"] == 5


def test_a_seed_without_a_score_cannot_make_an_arm_help():
    with suppress(ValueError):  # refusing is as good as not telling
        found = decided({"a": 0.7, "new": 0.8}, new=[0.8, 0.8, np.nan, 0.8, 0.8, 0.8])
        assert found["verdict"] == "CANNOT_TELL", found


def test_without_a_candidate_there_is_nothing_to_judge():
    choices = {"best_control": "a", "chosen_arm": "", "contenders": ["a"], "validation_rows": 90}
    found = decide(choices, {}, tidy(a=[0.7] * 6), Y, ROWS, 3, 0, BLOCK, seed=0)
    assert found["verdict"] == "CANNOT_TELL" and "candidate" in found["reason"]
    assert found["difference"] is None and found["comparisons"] == []


def test_the_same_seed_gives_the_same_verdict():
    shares = {"a": 0.7, "new": 0.72}
    assert decided(shares) == decided(shares)


RECORD = {"settings": {"steps": 10}, "seeds": [0, 1], "initial_weights": ["p", "q"], "policy": {"policy": "safe"}}


def test_arms_trained_alike_may_be_compared():
    check_equal_compute({"a": RECORD, "b": {**RECORD, "synthetic_rows": {"x": 5}}, "c": dict(RECORD)})


@pytest.mark.parametrize("key", list(RECORD))
def test_an_arm_trained_differently_is_refused_by_name(key):
    with pytest.raises(ValueError, match=rf"'a' and 'odd' differ in {key}"):
        check_equal_compute({"a": RECORD, "b": dict(RECORD), "odd": {**RECORD, key: "other"}})
