"""Test splits too small to tell anything, however clear they look. Run: python -m pytest tests/evaluation/test_small_test.py"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.outcomes import LEAST_GROUPS, LEAST_OF_CLASS, Outcomes, blind, too_small
from pipeline.evaluation.statistics import breadth, by_confusion, differences, resamples
from pipeline.evaluation.verdict import decide
from pipeline.params import Arm, Evaluation
from tests.conftest import PLAIN

BLOCK = Evaluation(
    primary_metric="balanced_accuracy",
    confidence=0.95,
    bootstrap=200,
    repeats=1,
    margin=0.01,
    max_class_loss=0.02,
    specificity=0.95,
)


def perfect_against_half_blind(y, groups):
    """An arm that is right everywhere, and a control that never sees class 1."""
    right = np.tile(np.eye(2)[y], (6, 1, 1)) * 0.8 + 0.1
    blind = np.tile(np.eye(2)[np.zeros_like(y)], (6, 1, 1)) * 0.8 + 0.1
    return Outcomes({"control": blind, "arm": right}, y, groups, ("a", "b"))


def verdict(y, groups):
    arms = {n: Arm(role=r, **PLAIN) for n, r in (("control", "control"), ("arm", "candidate"))}
    choices = {"chosen_arm": "arm", "best_control": "control", "contenders": ["control"], "validation_rows": 50}
    choices["best_seed"] = {"arm": 0, "control": 0}
    return decide(choices, perfect_against_half_blind(y, groups), arms, {"arm": 9, "control": 0}, BLOCK, 0)


@pytest.mark.parametrize("rows", [1, 2, 5, LEAST_GROUPS // 2 - 1])
def test_a_handful_of_rows_cannot_tell_even_when_every_one_agrees(rows):
    y = np.repeat([0, 1], rows)
    found = verdict(y, np.arange(2 * rows))
    assert found["verdict"] == "CANNOT_TELL" and f"only {2 * rows} independent" in found["reason"]
    assert found["arms"]["arm"]["verdict"] == "CANNOT_TELL" and found["difference"] == 0.5


def test_enough_rows_can_tell():
    y = np.repeat([0, 1], LEAST_GROUPS)
    assert verdict(y, np.arange(len(y)))["verdict"] == "HELPS"


def test_many_pictures_of_few_things_are_few():
    y = np.repeat([0, 1], 100)
    assert "only 20 independent" in verdict(y, np.arange(200) // 10)["reason"]


@pytest.mark.parametrize("patients", [1, 2, LEAST_OF_CLASS - 1])
def test_a_class_that_few_patients_stand_for_cannot_be_judged(patients):
    y, groups = np.repeat([0, 1], [60, 9]), np.concatenate([np.arange(60), 99 + np.arange(9) % patients])
    found = verdict(y, groups)
    assert "fewer than 5 independent test rows or groups stand for b" in found["reason"]
    assert not any(rail["broken"] for rail in found["guardrails"])
    assert too_small(perfect_against_half_blind(np.repeat([0, 1], 40), np.arange(80))) == ""


@pytest.mark.parametrize(("held", "scarce", "says"), [
    ([0, 0], (), "all rows of the test split are of one class, a"),
    ([0, 1], ("c",), "no scarce class has a test row (c)"),
    ([0, 1], ("b", "c"), ""),
    ([0, 1], (), ""),
])  # fmt: skip
def test_a_test_split_without_what_is_to_be_helped_cannot_tell(held, scarce, says):
    """With the rare class in train alone, the recall of the common one said whether generation helps."""
    test = perfect_against_half_blind(np.repeat(held, 40), np.arange(80))
    found = too_small(replace(test, labels=("a", "b", "c"), scarce=scarce))
    assert found.startswith(says) and bool(found) == bool(says)


def test_arms_that_agree_on_few_rows_of_a_class_are_not_said_to_be_neutral():
    """Of ten rows, arms that differ on a tenth of all agree on every third such test split, whose interval had no width there."""
    y = np.repeat([0, 1], [300, 10])
    said = np.tile(np.eye(2)[y], (6, 1, 1)) * 0.8 + 0.1
    arms = {n: Arm(role=r, **PLAIN) for n, r in (("control", "control"), ("arm", "candidate"), ("too", "candidate"))}
    choices = {"chosen_arm": "arm", "best_control": "control", "contenders": ["control"], "validation_rows": 50}
    choices["best_seed"] = {"arm": 0, "control": 0}
    for many, margin, word in (
        (10, 0.01, "CANNOT_TELL"),
        (184, 0.01, "CANNOT_TELL"),
        (185, 0.01, "NEUTRAL"),
        (10, 0.2, "NEUTRAL"),
    ):
        y = np.repeat([0, 1], [300, many])
        said = np.tile(np.eye(2)[y], (6, 1, 1)) * 0.8 + 0.1
        test = Outcomes(
            {"control": said, "arm": said, "too": said + 1e-6}, y, np.arange(len(y)), ("a", "b"), scarce=("b", "c")
        )
        block = BLOCK.model_copy(update={"margin": margin})
        found = decide(choices, test, arms, {"arm": 9, "control": 0, "too": 9}, block, 0)
        assert found["verdict"] == found["arms"]["too"]["verdict"] == word
        assert (found["ci_low"], found["ci_high"]) == (0, 0)
        said_why = f"but of b ({many}) there are too few test rows or groups; it takes 185" in found["reason"]
        assert said_why == (word == "CANNOT_TELL") == (blind(test, block) != "")
        assert found["reason"].endswith("; no test row is of c, so nothing is known of that")


def test_what_is_blind_to_a_margin_depends_on_what_the_metric_is_a_mean_of():
    """One row in 310 is a third of a point of accuracy; of ten classes each has a tenth of balanced accuracy."""
    test = perfect_against_half_blind(np.repeat([0, 1], [380, 10]), np.arange(390))
    assert blind(test, BLOCK) and not blind(test, BLOCK.model_copy(update={"primary_metric": "accuracy"}))
    y = np.repeat(np.arange(10), 40)
    test = Outcomes({}, y, np.arange(400), tuple("0123456789"))
    assert not blind(test, BLOCK) and blind(replace(test, groups=np.arange(400) // 2), BLOCK)
    assert "evaluation.margin is 0" in blind(test, BLOCK.model_copy(update={"margin": 0.0}))


@pytest.mark.parametrize("sizes", [(12, 12), (100, 5), (40, 9, 3)])
def test_the_breadth_is_welchs(sizes):
    """Against scipy's degrees of freedom for two classes, and the formula for more."""
    y = np.repeat(np.arange(len(sizes)), sizes)
    v = [1 / n for n in sizes]
    freedom = sum(v) ** 2 / sum(x**2 / (n - 1) for x, n in zip(v, sizes, strict=True))
    if len(sizes) == 2:
        equal = [np.resize([-1.0, 1.0], n) for n in sizes]
        spread = [x / x.std(ddof=1) for x in equal]
        assert stats.ttest_ind(*spread, equal_var=False).df == pytest.approx(freedom)
    expected = stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975)
    assert breadth(y, np.arange(len(y)), 0.95) == pytest.approx(expected) and expected > 1


def test_accuracy_is_as_sure_as_all_its_rows_together_make_it():
    """Five rows of one class among a thousand widened it by 41 %."""
    y = np.repeat([0, 1], [1000, 5])
    guess = np.random.default_rng(0).random((2, 1, len(y), 1))
    test = Outcomes(
        {n: np.concatenate([g, 1 - g], axis=2) for n, g in zip("ab", guess, strict=True)}, y, np.arange(1005), "ab"
    )
    wide = {}
    for metric in ("accuracy", "balanced_accuracy"):
        block = BLOCK.model_copy(update={"primary_metric": metric})
        (draws,) = test.compare([("a", "b")], block, 0)
        ask = [by_confusion(test.predicted(n), y, 2, metric) for n in "ab"]
        plain = differences([tuple(ask)], resamples(y, test.groups, block.bootstrap, 0), 0)[0]
        wide[metric] = np.ptp(draws) / np.ptp(plain)
    assert wide["accuracy"] == pytest.approx(1, abs=0.01) and wide["balanced_accuracy"] > 1.3


def test_the_breadth_counts_groups_and_leaves_out_classes_of_one():
    y = np.repeat([0, 1, 2], [20, 20, 4])
    groups = np.concatenate([np.arange(20), 100 + np.arange(20), np.full(4, 999)])
    assert breadth(y, groups, 0.95) == pytest.approx(breadth(y[:40], groups[:40], 0.95))
    assert breadth(y[:40], groups[:40] // 2, 0.95) > breadth(y[:40], groups[:40], 0.95)
    assert breadth(np.zeros(3, int), np.zeros(3, int), 0.95) == 1
