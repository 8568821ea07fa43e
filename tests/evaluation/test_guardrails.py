"""What a gain must not cost. Run: python -m pytest tests/evaluation/test_guardrails.py"""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from pipeline.evaluation.guardrails import DRAWS, check, nothing, threshold_shift, together
from pipeline.evaluation.scores import ece
from pipeline.evaluation.statistics import differences, resamples
from pipeline.params import load

SET = {
    "primary_metric": "balanced_accuracy",
    "confidence": 0.95,
    "bootstrap": 300,
    "margin": 0.01,
    "max_class_loss": 0.02,
}
BLOCK = load(Path(__file__).parents[2] / "params.yaml").evaluation.model_copy(update=SET)
NAMES = ("ant", "bee", "cat")
ALL = ["macro F1", "AUPRC", "ECE", "recall of ant", "recall of bee", "recall of cat"]


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def case(seed=0, rows=600, classes=3, seeds=6, noise=1.0):
    """Calibrated probabilities (S, N, K) by Bayes' rule from noisy views of y (N,); row difficulty is shared by seeds."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    x = 2.5 * np.eye(classes)[y] + noise * rng.normal(0, 1, (rows, classes))
    return softmax(2.5 / noise**2 * x + rng.normal(0, 0.1, (seeds, rows, classes))), y


def checked(arm, control, y, block=BLOCK, groups=None, seed=0):
    """The guardrails by name."""
    groups = np.arange(len(y)) if groups is None else groups
    return {rail["name"]: rail for rail in check(arm, control, y, groups, NAMES[: arm.shape[2]], block, seed)}


def test_a_class_of_few_rows_makes_no_other_one_less_sure_and_is_not_made_surer_by_others():
    """All were widened as a mean over classes is: one of 6 rows among many by 1 %, where it takes 31."""
    y = np.repeat([0, 1, 2], [6, 300, 300])
    arm, control = (np.random.default_rng(s).dirichlet(np.ones(3), (1, len(y))) for s in (0, 1))
    rails = checked(arm, control, y)
    for c, few in ((0, True), (1, False)):
        right = [p[:, y == c].argmax(axis=2) == c for p in (arm, control)]
        pair = tuple(lambda rows, hit=hit: rows @ hit.T / rows.sum(axis=1, keepdims=True) for hit in right)
        n = int((y == c).sum())
        drawn = differences([pair], resamples(np.zeros(n, int), np.arange(n), 4000, 1), 1)[0]
        rail = rails[f"recall of {NAMES[c]}"]
        wider = (rail["ci_high"] - rail["ci_low"]) / np.ptp(np.quantile(drawn, [0.025, 0.975]))
        expected = stats.t.ppf(0.975, n - 1) / stats.norm.ppf(0.975)
        assert wider == pytest.approx(expected, rel=0.15) and (expected > 1.3) == few


def broken(rails):
    return [name for name, rail in rails.items() if rail["broken"]]


def flipped(p, y, lost, among=None):
    """The same, but that these shares of the rows of each class, surely right before, are taken for the next class."""
    p = p.copy()
    for c, share in enumerate(lost):
        rows = np.flatnonzero(y == c)
        rows = rows[: round(share * len(rows))]
        p[:, rows] = 0.9 * np.eye(p.shape[2])[(c + 1) % p.shape[2]] + 0.1 / p.shape[2]
    return p


def sure(y, seeds=6, classes=3):
    """Probabilities of a model that has every row right with 0.93."""
    return np.tile(0.9 * np.eye(classes)[y] + 0.1 / classes, (seeds, 1, 1))


def test_an_arm_breaks_nothing_against_itself():
    p, y = case()
    rails = checked(p, p, y)
    assert list(rails) == ALL and broken(rails) == []
    assert all(r["difference"] == r["ci_low"] == r["ci_high"] == 0 for r in rails.values())


def test_arms_of_equal_quality_break_nothing():
    p, y = case()
    other = softmax(np.log(p) + np.random.default_rng(1).normal(0, 0.1, p.shape))
    assert broken(checked(p, other, y)) == []


def test_differences_agree_with_scikit_learn():
    (arm, y), control = case(noise=1.3), case(noise=1.0)[0]
    rails = checked(arm, control, y)

    def difference(score):
        return pytest.approx(np.mean([score(a) - score(b) for a, b in zip(arm, control, strict=True)]))

    def average_precision(p):
        return np.mean([metrics.average_precision_score(y == c, p[:, c]) for c in range(3)])

    assert rails["macro F1"]["difference"] == difference(lambda p: metrics.f1_score(y, p.argmax(1), average="macro"))
    assert rails["AUPRC"]["difference"] == difference(average_precision)
    assert rails["ECE"]["difference"] == difference(lambda p: ece(p, y))
    for c, name in enumerate(NAMES):
        recall = difference(lambda p, c=c: (p.argmax(1)[y == c] == c).mean())
        assert rails[f"recall of {name}"]["difference"] == recall


def test_intervals_hold_the_difference_and_mirror_when_arms_are_swapped():
    arm, y = case(noise=1.3)
    control = case()[0]
    one, two = checked(arm, control, y), checked(control, arm, y)
    for name, rail in one.items():
        assert rail["ci_low"] < rail["ci_high"]
        assert rail["difference"] == pytest.approx(-two[name]["difference"])
        wide = rail["ci_high"] - rail["ci_low"]
        assert rail["ci_low"] == pytest.approx(-two[name]["ci_high"], abs=0.15 * wide)
        if name != "ECE":  # a resampled ECE is too high, the more so the better calibrated a model is
            assert rail["ci_low"] <= rail["difference"] <= rail["ci_high"]


@pytest.mark.parametrize("lost", range(3))
def test_a_class_that_is_surely_lost_breaks_its_own_recall_and_no_other(lost):
    y = np.arange(600) % 3
    share = [0.15 if c == lost else 0.0 for c in range(3)]
    rails = checked(flipped(sure(y), y, share), sure(y), y)
    recalls = [name for name in broken(rails) if name.startswith("recall")]
    assert recalls == [f"recall of {NAMES[lost]}"]
    assert rails[recalls[0]]["difference"] == pytest.approx(-0.15)
    assert rails[recalls[0]]["ci_high"] < -BLOCK.max_class_loss


def test_a_class_that_only_some_seeds_lose_is_not_surely_lost():
    y = np.arange(600) % 3
    arm = sure(y)
    arm[:2] = flipped(sure(y), y, [0.0, 0.3, 0.0])[:2]
    rails = checked(arm, sure(y), y)
    assert rails["recall of bee"]["difference"] == pytest.approx(-0.1) and not rails["recall of bee"]["broken"]


def test_a_sure_loss_may_be_as_large_as_allowed():
    """Of 4,000 rows 1.5 % are lost in every seed: surely some, surely less than 2 %."""
    y = np.repeat([0, 1], [4000, 100])
    arm, control = flipped(sure(y, 3, 2), y, [0.015, 0.0]), sure(y, 3, 2)
    loss = checked(arm, control, y)["recall of ant"]
    assert loss["difference"] == pytest.approx(-0.015) and loss["ci_high"] < 0 and not loss["broken"]
    strict = BLOCK.model_copy(update={"max_class_loss": 0.005})
    assert checked(arm, control, y, strict)["recall of ant"]["broken"]


def test_gains_break_nothing():
    y = np.arange(600) % 3
    worse = flipped(sure(y), y, [0.3, 0.3, 0.3])
    rails = checked(sure(y), worse, y)
    assert broken(rails) == [] and rails["AUPRC"]["ci_low"] > 0 and rails["ECE"]["ci_high"] < 0


def test_ruined_calibration_breaks_calibration_alone():
    """Sharper probabilities of two classes keep every decision and every ranking."""
    p, y = case(classes=2, noise=2.0)
    sharper = p**6 / (p**6).sum(axis=2, keepdims=True)
    rails = checked(sharper, p, y)
    assert broken(rails) == ["ECE"]
    assert rails["ECE"]["difference"] == pytest.approx(
        np.mean([ece(a, y) - ece(b, y) for a, b in zip(sharper, p, strict=True)])
    )
    assert broken(checked(p, sharper, y)) == []


def test_a_worse_ranking_that_keeps_every_decision_breaks_auprc():
    """Confidences that say nothing: each row keeps its likeliest class, how likely is drawn anew."""
    p, y = case(classes=2, noise=1.5)
    top = np.random.default_rng(0).uniform(0.51, 0.99, (*p.shape[:2], 1))
    blind = np.where(p == p.max(axis=2, keepdims=True), top, 1 - top)
    rails = checked(blind, p, y)
    assert rails["AUPRC"]["broken"] and not rails["macro F1"]["broken"]
    assert not any(rail["broken"] for name, rail in rails.items() if name.startswith("recall"))


def test_macro_f1_is_shown_but_never_breaks():
    y = np.arange(600) % 3
    rails = checked(flipped(sure(y), y, [0.4, 0.4, 0.4]), sure(y), y)
    assert rails["macro F1"]["ci_high"] < -0.2 and not rails["macro F1"]["broken"]


def test_only_classes_with_rows_have_a_recall():
    p, y = case()
    assert list(checked(p[:, y != 1], p[:, y != 1], y[y != 1])) == [n for n in ALL if n != "recall of bee"]


def test_the_recalls_of_both_are_those_of_scikit_learn_with_intervals_around_them():
    (arm, y), (control, _) = case(1, rows=90), case(2, rows=90)
    rails = checked(arm, control, y)
    for c, name in enumerate(NAMES):
        for who, p in (("arm", arm), ("control", control)):
            mean, low, high = rails[f"recall of {name}"][who]
            expected = np.mean([metrics.recall_score(y, one.argmax(1), average=None)[c] for one in p])
            assert mean == pytest.approx(expected) and low < mean < high
            assert high - low == pytest.approx(2 * 1.96 * np.sqrt(mean * (1 - mean) / 30), rel=0.5), "they carry rows"
    assert "arm" not in rails["AUPRC"]


def test_rows_of_a_group_do_not_make_a_loss_sure():
    """One patient of six lost is a sixth of the rows, but a single patient."""
    y, patient = np.repeat([0, 1], 120), np.repeat(np.arange(12), 20)
    arm, control = flipped(sure(y, 6, 2), y, [1 / 6, 0.0]), sure(y, 6, 2)
    assert checked(arm, control, y)["recall of ant"]["broken"]
    assert not checked(arm, control, y, groups=patient)["recall of ant"]["broken"]


def test_the_seed_and_at_most_so_many_draws_make_the_intervals():
    (arm, y), control = case(rows=150, noise=1.3), case(rows=150)[0]
    most, more = (BLOCK.model_copy(update={"bootstrap": n}) for n in (DRAWS, 10 * DRAWS))
    assert checked(arm, control, y, most) == checked(arm, control, y, more) != checked(arm, control, y, most, seed=1)


@pytest.mark.parametrize(
    ("f1_low", "auprc_broken", "expected"),
    [(0.01, True, True), (0.01, False, False), (-0.01, True, False), (0.0, True, False), (-0.01, False, False)],
)
def test_a_threshold_shift_is_a_sure_gain_in_f1_with_a_sure_loss_in_auprc(f1_low, auprc_broken, expected):
    rails = [{"ci_low": f1_low, "broken": False}, {"ci_low": -0.02, "broken": auprc_broken}]
    assert threshold_shift(rails) is expected


def test_a_model_that_ranks_worse_but_finds_the_rare_class_is_a_threshold_shift():
    y = np.repeat([0, 1], [400, 100])
    rng = np.random.default_rng(2)
    x = np.array([0.0, 2.0])[y] + rng.normal(0, 1, 500)
    dull = x + rng.normal(0, 1, 500)
    control, arm = (np.tile(1 / (1 + np.exp(-np.stack([-z, z], axis=1))), (6, 1, 1)) for z in (x - 3.2, dull - 1.5))
    rails = check(arm, control, y, np.arange(500), NAMES[:2], BLOCK, 0)
    assert threshold_shift(rails) is True
    assert threshold_shift(check(control, arm, y, np.arange(500), NAMES[:2], BLOCK, 0)) is False


def test_calibration_is_judged_after_a_temperature_where_there_is_one():
    """An arm that is right more often but as cautious as before breaks the guardrail, until both are tempered."""
    y = np.arange(600) % 3
    control, arm = flipped(sure(y), y, [0.3] * 3), flipped(sure(y), y, [0.02] * 3)
    cautious = [0.6 * p + 0.4 / 3 for p in (arm, control)]
    fitted = []
    for p in cautious:
        hit = (p.argmax(axis=2) == y).mean()
        fitted.append(np.where(p == p.max(axis=2, keepdims=True), hit, (1 - hit) / 2))
    names = NAMES[:3]
    plain = check(*cautious, y, np.arange(600), names, BLOCK, 0)
    tempered = check(*cautious, y, np.arange(600), names, BLOCK, 0, tuple(fitted))
    assert next(r for r in plain if r["name"] == "ECE")["broken"]
    assert not next(r for r in tempered if r["name"] == "ECE")["broken"]
    assert [r for r in plain if r["name"] != "ECE"] == [r for r in tempered if r["name"] != "ECE"]


@pytest.mark.parametrize("tail", [0.025, 0.05])
def test_the_end_for_all_classes_together_is_a_quantile_for_one_and_farther_out_for_many(tail):
    draws = np.random.default_rng(0).normal([0.0, 1.0, -2.0], [1.0, 0.5, 3.0], (20_000, 3))
    one = together(draws[:, :1], tail)
    assert one == pytest.approx(np.quantile(draws[:, :1], 1 - tail, axis=0), abs=1e-9)
    ends = together(draws, tail)
    above = (draws > ends).any(axis=1).mean()
    assert above == pytest.approx(tail, abs=0.002) and (ends > np.quantile(draws, 1 - tail, axis=0)).all()
    assert together(np.zeros((50, 2)), tail) == pytest.approx([0, 0])


def test_chance_breaks_the_recall_of_some_class_no_more_often_where_there_are_many():
    """Of thirty classes of ten rows one in five pairs of equal arms broke one."""
    found = []
    for seed in range(30):
        rng, y = np.random.default_rng(seed), np.repeat(np.arange(30), 10)
        right = 1.5 * np.eye(30)[y] + rng.normal(0, 0.6, (len(y), 30))
        arm, control = (softmax(2 * right + rng.normal(0, 0.8, (6, len(y), 30))) for _ in range(2))
        rails = check(arm, control, y, np.arange(len(y)), [str(c) for c in range(30)], BLOCK, seed)
        found.append(any(rail["broken"] for rail in rails if rail["name"].startswith("recall")))
    assert sum(found) <= 3


def test_chance_breaks_no_more_recalls_of_many_classes_where_trainings_differ_more_than_rows():
    """Each seed is lucky with other classes, but all were drawn lucky together, so ten classes were held to the bound of one."""
    broken = 0
    for seed in range(120):
        seen = np.random.default_rng(seed).normal(-BLOCK.max_class_loss, 0.02, (8, 10))  # as much as is allowed
        pair = (lambda rows, seen=seen: np.broadcast_to(seen, (len(rows), *seen.shape)), nothing)
        (draws,) = differences([pair], iter([np.ones((500, 4))]), seed)
        broken += bool((together(draws, 0.025) + BLOCK.max_class_loss < 0).any())
    assert broken <= 10


def test_an_interval_of_calibration_lies_around_what_was_measured():
    """Few rows a bin raise an ECE by chance, and resampled ones once more: whole intervals lay above the difference."""
    y, groups, rng = np.zeros(200, int), np.arange(200), np.random.default_rng(0)
    u = rng.random(200)

    def calibrated(low):  # right with the probability that it says
        sure = np.clip(rng.uniform(low, 1, 200) + rng.normal(0, 0.01, (8, 200)), 0.501, 0.999)
        return np.where((u < sure)[..., None], np.stack([sure, 1 - sure], 2), np.stack([1 - sure, sure], 2))

    rail = next(
        r for r in check(calibrated(0.6), calibrated(0.94), y, groups, ["a", "b"], BLOCK, 0) if r["name"] == "ECE"
    )
    assert rail["difference"] == pytest.approx((rail["ci_low"] + rail["ci_high"]) / 2, abs=0.01)
