"""Arms chosen on validation and the word at the end. Run: python -m pytest tests/evaluation/test_verdict.py"""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from pipeline.evaluation import guardrails
from pipeline.evaluation.outcomes import Outcomes
from pipeline.evaluation.statistics import detectable, holm, mcnemar, resampled_interval
from pipeline.evaluation.verdict import (
    check_equal_compute,
    choose,
    decide,
    incomplete,
    over_constant,
    over_splits,
    single_models,
)
from pipeline.evaluation.words import LEAST_SEEDS, classify, combine, least_seeds
from pipeline.params import Arm, load

SET = {
    "primary_metric": "balanced_accuracy",
    "confidence": 0.95,
    "bootstrap": 200,
    "margin": 0.01,
    "max_class_loss": 0.02,
}
BLOCK = load(Path(__file__).parents[2] / "params.yaml").evaluation.model_copy(update=SET)
SURE = 2 / 64
NAMES = ("ant", "bee", "cat")


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
    reason = classify(0.02, 0.05, 0.3, 6, 100, BLOCK)[1]
    assert "too wide" not in reason and "the seeds do not make it sure (p = 0.3)" in reason


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


def test_seeds_that_all_agree_are_not_said_to_disagree_when_p_is_adjusted():
    found, reason = classify(0.02, 0.05, 4 * SURE, 6, 100, BLOCK)
    assert found == "CANNOT_TELL" and "disagree" not in reason and "0.125" in reason


def arms(**roles):
    """Arms by name, of these roles; one may be given by all its keys instead."""
    rest = {"rows": "x", "also": "x", "use": "kept", "dose": "full", "recipe": "plain", "tuned": False, "quick": True}
    return {n: Arm(**(r if isinstance(r, dict) else {"role": r, **rest})) for n, r in roles.items()}


def said(y, share, seeds=6, sure=0.9):
    """Probabilities (S, N, 3): right in this share of the rows of each class, in the first ones. `share` may be a number,
    or one by class (3,), by seed (S, 1) or both (S, 3)."""
    share, guess = np.broadcast_to(share, (seeds, 3)), np.empty((seeds, len(y)), np.int64)
    for s, c in np.ndindex(seeds, 3):
        place = np.flatnonzero(y == c)
        guess[s, place] = np.where(np.arange(len(place)) < round(share[s, c] * len(place)), c, (c + 1) % 3)
    return (1 - sure) / 3 + sure * np.eye(3)[guess]


def outcomes(y, seeds=6, sure=(), **shares):
    """What every arm says of rows with these classes; `sure` maps arms to another confidence than 0.9."""
    arms = {name: said(y, share, seeds, dict(sure).get(name, 0.9)) for name, share in shares.items()}
    return Outcomes(arms, y, np.arange(len(y)), NAMES)


Y = np.arange(90) % 3


def chosen(named, added=None, y=Y, block=BLOCK, **shares):
    added = {name: 50 for name in named} | (added or {})
    return choose(outcomes(y, **shares), named, added, block, seed=0)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "accuracy"])
def test_the_score_of_an_arm_is_scikit_learns_of_each_seed(metric):
    y = np.repeat([0, 1, 2], [60, 30, 10])
    p = np.random.default_rng(0).dirichlet(np.ones(3), (4, 100)) + 0.4 * np.eye(3)[y]
    score = {
        "balanced_accuracy": metrics.balanced_accuracy_score,
        "accuracy": metrics.accuracy_score,
        "macro_f1": lambda y, guess: metrics.f1_score(y, guess, average="macro"),
    }[metric]
    seen = Outcomes({"a": p}, y, np.arange(100), NAMES)
    assert seen.seeds == 4 and (seen.predicted("a") == p.argmax(2)).all()
    assert seen.score("a", metric) == pytest.approx([score(y, one.argmax(1)) for one in p])


def test_the_best_of_each_role_is_chosen_by_the_primary_metric():
    named = arms(a="control", b="control", c="candidate", d="candidate")
    found = chosen(named, a=0.6, b=0.9, c=0.7, d=0.8)
    assert (found["best_control"], found["chosen_arm"]) == ("b", "d")
    assert found["validation_means"] == {"a": 0.6, "b": 0.9, "c": 0.7, "d": 0.8}
    assert found["validation_rows"] == 90


@pytest.mark.parametrize(("metric", "best"), [("balanced_accuracy", "bd"), ("macro_f1", "bd"), ("accuracy", "ac")])
def test_only_the_primary_metric_decides(metric, best):
    """Arms a and c know the common class, b and d the scarce ones."""
    named, y = arms(a="control", b="control", c="candidate", d="candidate"), np.repeat([0, 1, 2], [80, 10, 10])
    block = BLOCK.model_copy(update={"primary_metric": metric})
    common, scarce = [1.0, 0.3, 0.3], [0.8, 0.9, 0.9]
    if metric == "macro_f1":
        common, scarce = [0.9, 0.0, 0.0], [0.8, 0.9, 0.9]
    found = chosen(named, y=y, block=block, a=common, b=scarce, c=common, d=scarce)
    assert found["best_control"] + found["chosen_arm"] == best


@pytest.mark.parametrize("order", ["abcd", "dcba"])
def test_ties_go_to_the_first_named(order):
    roles = {"a": "control", "b": "control", "c": "candidate", "d": "candidate"}
    found = chosen(arms(**{n: roles[n] for n in order}), a=0.8, b=0.8, c=0.9, d=0.9)
    assert found["best_control"] == min("ab", key=order.index)
    assert found["chosen_arm"] == min("cd", key=order.index)


def test_without_candidates_no_arm_is_chosen():
    found = chosen(arms(a="control", b="control"), a=0.6, b=0.9)
    assert found["chosen_arm"] == "" and found["best_control"] == "b"


@pytest.mark.parametrize("role", ["negative", "oracle"])
def test_arms_that_are_only_shown_are_never_chosen_nor_the_best_control_nor_contenders(role):
    named = arms(wild=role, a="control", c="candidate")
    found = chosen(named, wild=1.0, a=0.7, c=0.6)
    assert (found["best_control"], found["chosen_arm"], found["contenders"]) == ("a", "c", ["a"])
    assert chosen(arms(wild=role, a="control"), wild=1.0, a=0.7)["chosen_arm"] == ""


def test_a_candidate_without_synthetic_rows_stands_back_for_one_that_has_some():
    named = arms(a="control", c="candidate", d="candidate")
    assert chosen(named, a=0.6, c=0.9, d=0.8, added={"c": 0})["chosen_arm"] == "d"
    assert chosen(named, a=0.6, c=0.9, d=0.8, added={"c": 0, "d": 0})["chosen_arm"] == "c"
    assert chosen(named, a=0.6, c=0.9, d=0.8, added={"a": 0})["best_control"] == "a"


def test_contenders_are_the_controls_that_validation_cannot_tell_from_the_best():
    named = arms(best="control", near="control", far="control", new="candidate")
    assert chosen(named, best=0.9, near=0.9, far=0.2, new=0.95)["contenders"] == ["best", "near"]
    assert chosen(named, best=0.9, near=[0.9, 0.9, 0.87], far=0.2, new=0.95)["contenders"] == ["best", "near"]


def test_the_best_seed_of_each_arm_is_the_one_with_the_highest_score():
    named = arms(a="control", c="candidate", wild="negative")
    a, c, wild = ([0.6, 0.7, 0.9, 0.8, 0.7, 0.6], [0.8, 0.9, 0.7, 0.9, 0.6, 0.6], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    found = chosen(named, **{n: np.array(s)[:, None] for n, s in (("a", a), ("c", c), ("wild", wild))})
    assert found["best_seed"] == {"a": 2, "c": 1, "wild": 5}, "of equal seeds the first"


def decided(shares, contenders=("a",), seeds=6, added=50, roles=None, sure=(), block=BLOCK, best_seed=None, test=None):
    """The verdict on arm `new` where every arm is right in its share of 900 test rows."""
    named = arms(**({name: "candidate" if name == "new" else "control" for name in shares} | (roles or {})))
    test = test or outcomes(np.arange(900) % 3, seeds, sure, **shares)
    choices = {"best_control": "a", "chosen_arm": "new", "contenders": list(contenders), "validation_rows": 90}
    choices["best_seed"] = best_seed or dict.fromkeys(shares, 0)
    rows = added if isinstance(added, dict) else dict.fromkeys(shares, added)
    return decide(choices, test, named, rows, block, seed=0)


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


def test_hurts_needs_every_contender_and_neutral_the_best_control():
    """The best on validation owes that to luck too, so an arm may be behind it and no worse than its equals."""
    found = decided({"a": 0.8, "b": 0.6, "new": 0.7}, contenders=["a", "b"])
    assert found["verdict"] == "CANNOT_TELL" and "behind a, but not surely behind b, which" in found["reason"]
    assert decided({"a": 0.8, "b": 0.8, "new": 0.7}, contenders=["a", "b"])["verdict"] == "HURTS"
    assert decided({"a": 0.7, "b": 0.6, "new": 0.7}, contenders=["a", "b"])["verdict"] == "NEUTRAL"


def test_the_judged_arm_is_compared_with_each_negative_arm():
    shares = {"a": 0.7, "new": 0.8, "mixed": 0.75}
    test = outcomes(np.arange(900) % 3, **shares)
    found = decided(shares, test=test, roles={"a": "control", "new": "candidate", "mixed": "negative"})
    own = test.score("new", "balanced_accuracy") - test.score("mixed", "balanced_accuracy")
    assert list(found["over_negative"]) == ["mixed"]
    assert found["over_negative"]["mixed"]["difference"] == pytest.approx(own.mean())
    assert decided({"a": 0.7, "new": 0.8})["over_negative"] == {}


@pytest.mark.parametrize(("metric", "constant"), [("balanced_accuracy", 1 / 3), ("accuracy", 0.6), ("macro_f1", 0.25)])
def test_the_best_control_is_held_against_one_and_the_same_answer(metric, constant):
    """Six in ten rows are of class 1: who always says so has 0.6 of all, one class of three, and its F1 of 0.75."""
    test = outcomes(np.repeat([0, 1, 2], [180, 540, 180]), a=0.7, new=0.8)
    block = BLOCK.model_copy(update={"primary_metric": metric})
    found = over_constant(test, "a", block, seed=3)
    own = test.score("a", metric).mean() - constant
    assert found["difference"] == pytest.approx(own) and found["ci_low"] < own < found["ci_high"]
    assert own > 0.05 and found["ci_low"] > 0 and found["p_value"] < 0.05


def test_a_control_that_knows_nothing_is_not_surely_above_a_constant():
    rng = np.random.default_rng(0)
    test = Outcomes({"a": rng.random((8, 300, 3))}, np.arange(300) % 3, np.arange(300), ("0", "1", "2"))
    found = decided({"a": 0.7, "new": 0.8})["over_constant"]
    assert found["ci_low"] > 0.2 and found["difference"] == pytest.approx(0.7 - 1 / 3, abs=0.05)
    assert over_constant(test, "a", BLOCK, seed=3)["ci_low"] <= 0


def test_the_first_comparison_is_with_the_best_control():
    found = decided({"a": 0.7, "b": 0.6, "new": 0.8}, contenders=["b", "a"])
    assert [c["control"] for c in found["comparisons"]] == ["a", "b"]
    own = {k: v for k, v in found["comparisons"][0].items() if k != "control"}
    assert {k: found[k] for k in ("difference", "ci_low", "ci_high", "p_value", "p_both")} == own


def test_an_arm_without_added_rows_is_not_judged():
    found = decided({"a": 0.7, "new": 0.8}, added=0)
    assert found["verdict"] == "CANNOT_TELL" and "no synthetic row" in found["reason"]


def test_fewer_than_six_seeds_are_exploratory():
    found = decided({"a": 0.7, "new": 0.8}, seeds=5)
    assert found["verdict"] == "CANNOT_TELL" and "exploratory" in found["reason"] and found["seeds"] == 5


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("arm", ["a", "new"])
@pytest.mark.parametrize("rows", [slice(None), slice(5)])
def test_a_seed_without_probabilities_cannot_make_an_arm_help(arm, rows):
    test = outcomes(np.arange(900) % 3, a=0.7, new=0.8)
    test.probabilities[arm][2, rows] = np.nan
    with suppress(ValueError):  # refusing is as good as not telling
        found = decided({"a": 0.7, "new": 0.8}, test=test)
        assert found["verdict"] == "CANNOT_TELL", found


def test_without_a_candidate_there_is_nothing_to_judge():
    choices = {"best_control": "a", "chosen_arm": "", "contenders": ["a"], "validation_rows": 90, "best_seed": {"a": 0}}
    found = decide(choices, outcomes(Y, a=0.7), arms(a="control"), {"a": 0}, BLOCK, seed=0)
    assert found["verdict"] == "CANNOT_TELL" and "candidate" in found["reason"]
    assert found["difference"] is None and found["comparisons"] == []
    assert found["guardrails"] == [] and found["arms"] == {} and found["seeds"] == 6


def test_the_same_seed_gives_the_same_verdict():
    shares = {"a": 0.7, "new": 0.72}
    assert decided(shares) == decided(shares)


def test_a_gain_with_ruined_calibration_cannot_be_told():
    found = decided({"a": 0.8, "new": 0.86}, sure={"a": 0.7, "new": 0.999})
    assert [rail["name"] for rail in found["guardrails"] if rail["broken"]] == ["ECE"]
    assert found["ci_low"] > 0 and found["p_value"] == SURE
    assert found["verdict"] == "CANNOT_TELL" and "ECE" in found["reason"] and "ahead of a" in found["reason"]
    assert decided({"a": 0.8, "new": 0.86})["verdict"] == "HELPS", "but for the calibration"


def test_a_gain_that_costs_a_class_its_recall_cannot_be_told():
    found = decided({"a": 0.6, "new": [0.9, 0.9, 0.5]})
    assert found["difference"] == pytest.approx(1 / 6) and found["ci_low"] > 0
    assert found["verdict"] == "CANNOT_TELL" and "recall of cat" in found["reason"]
    assert "recall of ant" not in found["reason"] and "recall of bee" not in found["reason"]
    tolerant = decided({"a": 0.6, "new": [0.9, 0.9, 0.5]}, block=BLOCK.model_copy(update={"max_class_loss": 0.2}))
    assert "recall" not in tolerant["reason"]


def test_guardrails_do_not_soften_a_loss_nor_spoil_a_tie():
    assert decided({"a": 0.8, "new": 0.7}, sure={"new": 0.999})["verdict"] == "HURTS"
    tie = decided({"a": 0.7, "new": 0.7}, sure={"a": 0.7, "new": 0.999})
    assert any(rail["broken"] for rail in tie["guardrails"]) and tie["verdict"] == "NEUTRAL"
    assert tie["reason"].endswith("of zero, but it gets worse in ECE")


def test_doubt_between_controls_is_named_before_a_broken_guardrail():
    gain = {"difference": 0.1, "ci_low": 0.05, "ci_high": 0.15, "p_value": SURE}
    tie = {"difference": 0.0, "ci_low": -0.05, "ci_high": 0.05, "p_value": 1.0}
    rails = [{"name": "ECE", "broken": True}, {"name": "AUPRC", "broken": False}]
    both, one = [{"control": "a", **gain}, {"control": "b", **tie}], [{"control": "a", **gain}]
    assert "not surely of b" in combine(both, 90, 6, 50, rails, BLOCK)[1]
    assert combine(one, 90, 6, 50, rails, BLOCK) == ("CANNOT_TELL", "it is ahead of a, but gets worse in ECE")
    assert combine(one, 90, 6, 50, rails[1:], BLOCK)[0] == "HELPS"


def test_the_guardrails_stand_in_the_verdict():
    shares = {"a": 0.7, "new": 0.8}
    test = outcomes(np.arange(900) % 3, **shares)
    rails = guardrails.check(*(test.probabilities[a] for a in ("new", "a")), test.y, test.groups, NAMES, BLOCK, 0)
    found = decided(shares)
    assert found["guardrails"] == rails and found["threshold_shift"] is guardrails.threshold_shift(rails)


def test_the_detectable_difference_is_that_of_the_resamples_against_the_best_control():
    shares = {"a": 0.7, "b": 0.5, "new": 0.8}
    draws = outcomes(np.arange(900) % 3, **shares).compare([("new", "a")], BLOCK, 0)[0]
    assert decided(shares, contenders=["a", "b"])["detectable"] == pytest.approx(detectable(draws, 0.95))


def test_comparisons_of_arms_have_the_sign_of_their_differences():
    seen = outcomes(Y, a=0.6, b=0.8, c=0.5)
    up, down, none = seen.compare([("a", "c"), ("a", "b"), ("a", "a")], BLOCK, 0)
    assert up.mean() == pytest.approx(0.1, abs=0.02) and down.mean() == pytest.approx(-0.2, abs=0.03)
    assert (none == 0).all() and len(up) == BLOCK.bootstrap


ROLES = {"a": "control", "b": "control", "new": "candidate", "other": "candidate", "wild": "negative"}


def uneven(seeds=8):
    """Shares by arm and seed that differ enough for p values of several sizes."""
    wobble = np.array([0.0, 0.02, -0.02, 0.01, -0.01, 0.03, -0.03, 0.02])[:seeds, None]
    return {"a": 0.6, "b": 0.62 + wobble, "new": 0.75 + wobble, "other": 0.61 + wobble, "wild": 0.4 - wobble}


def compared(seeds=8, **added):
    """The table of all arms against the best control, a."""
    rows = dict.fromkeys(ROLES, 50) | {"a": 0, "b": 0} | added
    return decided(uneven(seeds), seeds=seeds, roles=ROLES, added=rows)["arms"]


def test_every_arm_but_the_best_control_is_compared_with_it():
    found = compared()
    assert list(found) == ["b", "new", "other", "wild"]
    for name, share in uneven().items():
        if name != "a":
            one = found[name]
            assert one["difference"] == pytest.approx(np.mean(share) - 0.6, abs=0.003)
            assert one["ci_low"] <= one["difference"] <= one["ci_high"]


def test_arms_that_are_neither_controls_nor_chosen_are_adjusted_for_their_number():
    found = compared()
    assert set(found["b"]) == {"difference", "ci_low", "ci_high", "p_value", "p_both"}
    others = ["other", "wild"]
    assert [found[a]["p_holm"] for a in others] == holm([found[a]["p_both"] for a in others])
    assert all(found[a]["p_both"] >= found[a]["p_value"] for a in others)
    assert found["wild"]["p_holm"] == pytest.approx(2 * found["wild"]["p_both"]), "neither b nor new counts"
    assert "p_holm" not in found["new"], "it was named beforehand"
    assert [found[a]["verdict"] for a in ("new", *others)] == ["HELPS", "CANNOT_TELL", "HURTS"]


@pytest.mark.parametrize(
    ("new", "sure", "expected"),
    [(0.8, 0.9, "HELPS"), (0.6, 0.9, "HURTS"), (0.7, 0.9, "NEUTRAL"), (0.8, 0.999, "CANNOT_TELL")],
)
def test_the_word_of_the_chosen_arm_is_the_verdict_however_few_the_seeds(new, sure, expected):
    """With six seeds and three judged arms Holm could never say HELPS, whatever the verdict said."""
    shares = {"a": 0.7, "new": new, "other": 0.9, "wild": 0.3}
    found = decided(shares, roles={n: ROLES[n] for n in shares}, sure={"a": 0.7, "new": sure} if sure > 0.9 else {})
    assert found["verdict"] == expected
    assert {k: found["arms"]["new"][k] for k in ("verdict", "reason")} == {k: found[k] for k in ("verdict", "reason")}


def test_the_p_of_an_arm_that_was_not_chosen_knows_that_test_rows_are_drawn():
    """All eight seeds agree, so that their p is the least there is, on one answer more in three hundred."""
    roles = {n: ROLES[n] for n in ("a", "new", "other")}
    found = decided({"a": 0.7, "new": 0.7, "other": np.array([0.7 + 1 / 300, 0.7, 0.7])}, seeds=8, roles=roles)["arms"][
        "other"
    ]
    assert found["p_value"] == 2 / 2**8 and found["ci_low"] == pytest.approx(0, abs=1e-5)
    assert found["p_holm"] == found["p_both"] > 0.05 and found["verdict"] != "HELPS"


def test_arms_of_the_same_models_count_once_and_are_said_to_be_the_same():
    """The search found the dose that another arm has anyway, and Holm counted both."""
    shares = {"a": 0.7, "new": 0.75, "other": 0.8, "wild": 0.8}
    found = decided(shares, roles={n: ROLES[n] for n in shares})["arms"]
    assert found["other"]["p_holm"] == found["wild"]["p_holm"] == found["other"]["p_both"]
    assert found["wild"]["reason"] == found["other"]["reason"] + " (the same models as of other)"
    found = decided(shares | {"other": 0.75}, roles={n: ROLES[n] for n in shares})["arms"]
    assert found["other"]["reason"].endswith(" (the same models as of new)") and "same" not in found["wild"]["reason"]


def test_doubt_between_controls_and_doubt_of_other_splits_reach_the_table_of_arms():
    found = decided({"a": 0.7, "b": 0.8, "new": 0.8}, contenders=["a", "b"])
    assert "not surely of b" in found["arms"]["new"]["reason"] and found["arms"]["new"]["verdict"] == "CANNOT_TELL"
    found = decided({"a": 0.7, "new": 0.8}) | {"controls_failed": []}
    other = {
        "split": 1,
        "train_rows": 60,
        "test_rows": 20,
        "best_control": "a",
        "chosen_arm": "new",
        "verdict": "HURTS",
        "synthetic_rows": 30,
        "controls_failed": [],
    }
    again = over_splits(found, [other | {"difference": -0.2, "ci_low": -0.3, "ci_high": -0.1}], 0, BLOCK)
    assert found["arms"]["new"]["verdict"] == "HELPS", "what was given stays as it was"
    assert again["verdict"] == again["arms"]["new"]["verdict"] == "CANNOT_TELL"
    assert again["reason"] == again["arms"]["new"]["reason"]


def test_an_arm_that_was_not_chosen_may_help_but_is_said_not_to_have_been_asked_all():
    shares = {"a": 0.7, "new": 0.7, "other": 0.9}
    found = decided(shares, roles={n: ROLES[n] for n in shares})["arms"]["other"]
    assert found["verdict"] == "HELPS" and found["p_holm"] == SURE, "one arm needs no adjustment"
    assert "ahead of a" in found["reason"] and "guardrails were not asked" in found["reason"]


def test_seeds_that_cannot_make_one_of_several_arms_sure_are_counted():
    found = compared(seeds=6)["wild"]
    assert found["p_value"] == SURE and found["p_holm"] == pytest.approx(2 * SURE)
    assert found["verdict"] == "CANNOT_TELL" and "disagree" not in found["reason"]
    assert "6 paired seeds cannot make any of 2 arms" in found["reason"] and "at least 7" in found["reason"]


@pytest.mark.parametrize("among", [1, 2, 3, 8, 12, 100])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_seeds_asked_for_are_the_least_at_which_holm_can_be_sure(among, confidence):
    n = least_seeds(confidence, among)
    sure = [min(holm([2 / 2**seeds] * among)) <= 1 - confidence + 1e-12 for seeds in (n - 1, n)]
    assert sure[1] and (n == LEAST_SEEDS or not sure[0])


@pytest.mark.parametrize("without", [("new",), ("new", "other", "wild")])
def test_arms_without_added_rows_have_no_word_for_or_against(without):
    found = compared(**dict.fromkeys(without, 0))
    for arm in ("new", "other", "wild"):
        assert ("no synthetic row" in found[arm]["reason"]) is (arm in without)


def test_the_arm_named_beforehand_keeps_its_own_p_and_agrees_with_the_table():
    found = decided(uneven(), seeds=8, roles=ROLES)
    table = found["arms"]["new"]
    assert found["p_value"] == table["p_value"] and "p_holm" not in table
    assert (found["difference"], found["ci_low"], found["ci_high"]) == pytest.approx(
        (table["difference"], table["ci_low"], table["ci_high"])
    )


def test_single_models_are_those_of_the_given_seeds():
    rng, y = np.random.default_rng(0), np.arange(300) % 3
    a, new = (rng.dirichlet(np.ones(3), (6, 300)) + bonus * np.eye(3)[y] for bonus in (0.3, 0.5))
    test = Outcomes({"a": a, "new": new}, y, np.arange(300), NAMES)
    for seeds in ([0, 0], [4, 1]):
        right = (new[seeds[0]].argmax(1) == y, a[seeds[1]].argmax(1) == y)
        gained, lost, p = mcnemar(*right)
        expected = {"seeds": seeds, "only_arm_right": gained, "only_control_right": lost, "p_value": p}
        assert single_models(test, "new", "a", seeds) == expected
        assert gained - lost == right[0].sum() - right[1].sum()
    found = decided({"a": 0, "new": 0}, best_seed={"a": 1, "new": 4}, test=test)
    assert found["single_models"] == expected, "those chosen on validation, of the arm first"


def told(differences, word="HELPS", split=0, odd=None):
    """The verdict `word` with the first of these differences, those of other splits beside it; `odd` changes the last of them."""
    keys = {"best_control": "a", "chosen_arm": "new", "ci_low": 0.0, "ci_high": 0.1}
    keys |= {"synthetic_rows": 30, "controls_failed": []}
    first, *others = [{"difference": d, "verdict": word, **keys} for d in differences]
    elsewhere = [{"split": split + i, "train_rows": 60, "test_rows": 20, **one} for i, one in enumerate(others, 1)]
    if odd:
        elsewhere[-1] |= odd
    return over_splits({**first, "reason": "why", "arms": {}}, elsewhere, split, BLOCK)


@pytest.mark.parametrize(("word", "sign"), [("HELPS", 1), ("HURTS", -1)])
def test_a_word_that_holds_in_the_mean_over_splits_stands(word, sign):
    found = told([sign * d for d in (0.05, 0.06, 0.04, 0.05)], word, split=3)
    assert (found["verdict"], found["reason"]) == (word, "why")
    again = found["repeats"]
    assert [s["split"] for s in again["splits"]] == [3, 4, 5, 6] and again["difference"] == pytest.approx(sign * 0.05)
    expected = resampled_interval(np.array([s["difference"] for s in again["splits"]]), 20 / 60, BLOCK.confidence)
    assert (again["difference"], again["ci_low"], again["ci_high"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("word", "said", "sign"), [("HELPS", "helps", 1), ("HURTS", "hurts", -1), ("NEUTRAL", "is neutral", 1)]
)
def test_a_word_that_does_not_hold_over_splits_becomes_cannot_tell(word, said, sign):
    found = told([sign * d for d in (0.05, -0.04, 0.02)], word)
    assert found["verdict"] == "CANNOT_TELL"
    assert found["reason"] == f"on this split it {said}, but not surely in the mean over 3 splits"


def test_other_splits_make_no_word_bolder():
    found = told([0.05, 0.06, 0.05, 0.05], "CANNOT_TELL")
    assert (found["verdict"], found["reason"]) == ("CANNOT_TELL", "why") and found["repeats"]["ci_low"] > 0


def test_neutral_here_is_not_neutral_where_other_splits_gain():
    """Three points in the mean over splits were called not worth their cost."""
    found = told([0.0, *[0.034] * 10], "NEUTRAL")
    assert found["repeats"]["ci_low"] > 0 and found["verdict"] == "CANNOT_TELL"
    assert told([0.0, 0.001, -0.001, 0.001], "NEUTRAL")["verdict"] == "NEUTRAL"


def test_without_other_splits_nothing_is_said_of_them():
    for found in (told([0.05]), told([None, None], "CANNOT_TELL")):
        assert (found["reason"], found["repeats"]) == ("why", None)


def test_other_splits_are_told_of_though_no_candidate_could_be_trained_on_this_one():
    """Four whole runs left no table and no sentence."""
    found = told([None, 0.05, 0.04, 0.06], "CANNOT_TELL")
    assert (found["verdict"], found["reason"], found["repeats"]["left_out"]) == ("CANNOT_TELL", "why", [0])
    assert found["repeats"]["difference"] == pytest.approx(0.05) and len(found["repeats"]["splits"]) == 4


def test_a_split_on_which_every_candidate_diverged_is_left_out_of_the_mean():
    """Its difference is None, and the mean became NaN."""
    found, others = told([0.05, None, 0.06, 0.04], "HELPS"), told([0.05, 0.06, 0.04], "HELPS")
    assert found["verdict"] == "HELPS" and [s["difference"] for s in found["repeats"]["splits"]] == [
        0.05,
        None,
        0.06,
        0.04,
    ]
    ends = ("difference", "ci_low", "ci_high")
    assert [found["repeats"][k] for k in ends] == [others["repeats"][k] for k in ends]
    assert "mean over 2 splits" in told([0.05, None, -0.04], "HELPS")["reason"]
    assert found["repeats"]["left_out"] == [1]


@pytest.mark.parametrize("odd", [{"synthetic_rows": 0}, {"controls_failed": ["smote"]}])
def test_a_split_that_asks_another_question_is_left_out_of_the_mean(odd):
    """A generator that failed on other splits made its arm another control, whose loss was one of synthetic rows."""
    found, others = told([-0.05, -0.06, -0.04, 0.2], "HURTS", odd=odd), told([-0.05, -0.06, -0.04], "HURTS")
    assert (found["verdict"], found["repeats"]["left_out"]) == ("HURTS", [3]) and len(found["repeats"]["splits"]) == 4
    ends = ("difference", "ci_low", "ci_high")
    assert [found["repeats"][k] for k in ends] == [others["repeats"][k] for k in ends]
    assert told([-0.05, -0.06, -0.04, 0.2], "HURTS")["verdict"] == "CANNOT_TELL", "as it would be with the others"


@pytest.mark.parametrize("odd", [{"synthetic_rows": 0}, {"controls_failed": ["smote"]}])
def test_so_is_this_split_if_it_asks_another_question(odd):
    one = {"best_control": "a", "chosen_arm": "new", "ci_low": 0.0, "ci_high": 0.1, "verdict": "HURTS"}
    one |= {"synthetic_rows": 30, "controls_failed": [], "train_rows": 60, "test_rows": 20}
    others = [one | {"split": k, "difference": d} for k, d in ((1, -0.05), (2, -0.06), (3, -0.04))]
    found = over_splits(one | {"difference": 0.3, "reason": "why", "arms": {}} | odd, others, 0, BLOCK)
    assert found["repeats"]["left_out"] == [0] and found["repeats"]["difference"] == pytest.approx(-0.05)
    assert len(found["repeats"]["splits"]) == 4 and found["verdict"] == "HURTS"
    none = over_splits(one | {"difference": 0.3, "reason": "why", "arms": {}} | odd, [others[0] | odd], 0, BLOCK)
    assert (none["verdict"], none["repeats"]["difference"], none["repeats"]["left_out"]) == (
        "CANNOT_TELL",
        None,
        [0, 1],
    )


def test_where_no_other_split_could_be_judged_nothing_is_sure():
    found = told([0.05, None, None], "HELPS")
    assert found["verdict"] == "CANNOT_TELL"
    assert found["reason"] == "on this split it helps, but no other split could be judged"
    assert (found["repeats"]["difference"], found["repeats"]["ci_low"], found["repeats"]["ci_high"]) == (
        0.05,
        None,
        None,
    )
    assert told([0.0, None], "NEUTRAL")["verdict"] == "CANNOT_TELL"


RECORD = {"settings": {"steps": 10}, "seeds": [0, 1], "initial_weights": ["p", "q"], "policy": {"policy": "safe"}}


def test_arms_trained_alike_may_be_compared():
    check_equal_compute({"a": RECORD, "b": {**RECORD, "synthetic_rows": {"x": 5}}, "c": dict(RECORD)})


@pytest.mark.parametrize("key", list(RECORD))
def test_an_arm_trained_differently_is_refused_by_name(key):
    with pytest.raises(ValueError, match=rf"'a' and 'odd' differ in {key}"):
        check_equal_compute({"a": RECORD, "b": dict(RECORD), "odd": {**RECORD, key: "other"}})


@pytest.mark.parametrize("word", ["HELPS", "HURTS", "NEUTRAL", "CANNOT_TELL"])
def test_a_gain_needs_every_control_and_no_other_arm(word):
    found = {"verdict": word, "reason": "why", "chosen_arm": "new", "best_control": "a", "arms": {"new": {}}}
    found["comparisons"] = [{"control": "a"}, {"control": "b"}]
    why = {"smote": "the loss is nan", "old": "the loss is inf"}
    without = incomplete(found, why, {"smote": "control", "old": "candidate", "new": "candidate"})
    assert (without["failed"], without["controls_failed"]) == (why, ["smote"])
    if word == "HELPS":
        assert without["verdict"] == without["arms"]["new"]["verdict"] == "CANNOT_TELL"
        assert without["reason"] == "it is ahead of a, but smote could not be trained"
    else:
        assert (without["verdict"], without["reason"]) == (word, "why")
    beside = incomplete(found, {"old": why["old"]}, {"old": "candidate"})
    assert beside == found | {"failed": {"old": why["old"]}, "controls_failed": []}
    slow = incomplete(found, {}, {}, ["b", "c"])
    assert slow["verdict"] == ("CANNOT_TELL" if word == "HELPS" else word)
    if word == "HELPS":
        assert slow["reason"] == "it is ahead of a, but b diverged and went on at half the learning rate"
    assert incomplete(found, {}, {}, ["c"])["verdict"] == word, "of c nothing hangs"


def test_that_no_candidate_could_be_trained_is_said_so():
    """It was said that no arm has that role."""
    found = {"verdict": "CANNOT_TELL", "reason": "no arm", "chosen_arm": "", "best_control": "a", "arms": {}}
    found["comparisons"] = []
    without = incomplete(found, {"new": "nan", "old": "nan"}, {"new": "candidate", "old": "candidate", "a": "control"})
    assert without["reason"] == "no candidate could be trained: new, old failed"
    assert incomplete(found, {}, {"a": "control"})["reason"] == "no arm"


@pytest.mark.parametrize("doubt", [{"seeds": 1}, {"added": {"a": 0, "new": 0}}])
def test_no_guardrail_is_broken_where_nothing_can_be_sure(doubt):
    """It shut the gate on one seed in two, or for an arm that had no synthetic row."""
    assert any(rail["broken"] for rail in decided({"a": 0.9, "new": 0.6})["guardrails"])
    rails = decided({"a": 0.9, "new": 0.6}, **doubt)["guardrails"]
    assert rails and all(rail["broken"] is None for rail in rails)


def test_a_validation_split_too_small_to_tell_anything_keeps_every_control_as_a_contender():
    """One row of a class has no spread, so that controls were struck off the surer the fewer rows there were."""
    named = arms(a="control", b="control", new="candidate")
    assert chosen(named, a=0.2, b=0.9, new=0.9)["contenders"] == ["b"]
    few = np.repeat([0, 1, 2], [40, 40, 1])
    assert chosen(named, y=few, a=0.2, b=0.9, new=0.9)["contenders"] == ["a", "b"]
    none = np.repeat([0, 1], [40, 40])
    assert chosen(named, y=none, a=0.2, b=0.9, new=0.9)["contenders"] == ["a", "b"], "of the third it knows nothing"


def test_single_models_are_compared_by_groups_where_rows_stand_in_groups():
    """Ten pictures of a thing counted as ten: by rows chance gave p < 0.05 four times in ten."""
    rng, low = np.random.default_rng(0), []
    for _ in range(60):
        hit = np.repeat(rng.random((2, 40)) < 0.8, 10, axis=1)
        p = {a: np.where(right[:, None] == [True, False], 0.9, 0.1)[None] for a, right in zip("ab", hit, strict=True)}
        found = single_models(Outcomes(p, np.zeros(400, int), np.arange(400) // 10, ("x", "y")), "a", "b", [0, 0])
        assert found["only_arm_right"] == (hit[0] & ~hit[1])[::10].sum()
        low.append(found["p_value"] < 0.05)
    assert np.mean(low) < 0.1
