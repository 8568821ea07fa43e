"""Decision thresholds against brute force. Run: python -m pytest tests/evaluation/test_thresholds.py"""

import numpy as np
import pytest

from pipeline.evaluation.scores import confusion, from_confusion
from pipeline.evaluation.thresholds import STEPS, sensitivity, shifted, tune

PRIMARY = ("balanced_accuracy", "macro_f1", "accuracy")


def case(seed, rows=120, classes=3, ties=False):
    """Probabilities (N, K) that know a little of y (N,); with ties they are rounded."""
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, rows, p=np.arange(classes, 0, -1) / np.arange(classes + 1).sum())
    p = 0.75 * rng.dirichlet(np.ones(classes), rows) + 0.25 * np.eye(classes)[y]
    p = p.round(1) + 1e-9 if ties else p
    return p / p.sum(axis=1, keepdims=True), y


def score(metric, p, y, offset):
    return float(from_confusion(metric, confusion(shifted(p, offset), y, p.shape[1])))


def test_no_offset_is_the_likeliest_class():
    for seed in range(10):
        p, _ = case(seed, ties=seed % 2 == 1)
        assert (shifted(p, np.zeros(3)) == p.argmax(axis=1)).all()


def test_an_offset_is_added_to_the_log_probability():
    p = np.array([[0.6, 0.4], [0.9, 0.1]])
    assert shifted(p, np.array([0.0, np.log(2)])).tolist() == [1, 0]
    assert shifted(p, np.array([-np.log(10), 0.0])).tolist() == [1, 1]
    assert shifted(np.array([[1.0, 0.0]]), np.array([-3.0, 3.0])).tolist() == [0], "an impossible class stays so"


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metric", PRIMARY)
def test_tuned_thresholds_are_never_worse_on_the_rows_they_were_tuned_on(metric, ties):
    for seed in range(80):
        p, y = case(seed, rows=20 + seed, classes=2 + seed % 4, ties=ties)
        before, after = (score(metric, p, y, o) for o in (np.zeros(p.shape[1]), tune(p, y, metric)))
        assert after >= before - 1e-12, seed


@pytest.mark.parametrize("metric", PRIMARY)
def test_more_rounds_never_make_it_worse(metric):
    for seed in range(10):
        p, y = case(seed)
        values = [score(metric, p, y, tune(p, y, metric, rounds)) for rounds in range(4)]
        assert (np.diff(values) >= -1e-12).all()


@pytest.mark.parametrize("metric", PRIMARY)
def test_two_classes_reach_the_best_of_all_steps(metric):
    """Of two classes only the difference of the offsets counts, so one axis holds all that can be reached."""
    for seed in range(5):
        p, y = case(seed, classes=2)
        best = max(score(metric, p, y, np.array([step, 0.0])) for step in STEPS)
        assert score(metric, p, y, tune(p, y, metric)) >= best - 1e-12


@pytest.mark.parametrize("metric", PRIMARY)
def test_where_nothing_can_be_gained_nothing_is_shifted(metric):
    y = np.arange(30) % 3
    assert (tune(0.7 * np.eye(3)[y] + 0.1, y, metric) == 0).all(), "all right already"
    assert (tune(np.eye(3)[y], y, metric) == 0).all()
    assert (tune(np.eye(3)[(y + 1) % 3], y, metric) == 0).all(), "all wrong beyond any step"


def test_of_equally_good_steps_the_smallest_is_taken():
    """Class 1 is missed by log odds of 0.6, so any step from 0.75 on finds it without a loss for class 0."""
    p = np.array([[0.99, 0.01]] * 5 + [[1 / (1 + np.exp(-0.6)), 1 / (1 + np.exp(0.6))]] * 5)
    assert np.abs(tune(p, np.repeat([0, 1], 5), "accuracy")).tolist() == [0.75, 0]


def test_a_class_without_rows_keeps_its_threshold():
    p, y = case(0, classes=4)
    assert tune(p[y != 2], y[y != 2], "balanced_accuracy")[2] == 0


@pytest.mark.parametrize("planted", [[0.0, -2.0], [1.5, 0.0], [0.0, -1.5, 1.0]])
def test_a_planted_shift_of_the_priors_is_undone(planted):
    """Rows of equally frequent normal classes, judged by Bayes' rule under other priors."""
    planted = np.array(planted)
    rng, k = np.random.default_rng(0), len(planted)
    y = np.arange(6000) % k
    x = np.eye(k)[y] * 2 + rng.normal(0, 1, (6000, k))
    logits = 2 * x  # of equal priors, but for a constant
    p = np.exp(logits + planted) / np.exp(logits + planted).sum(axis=1, keepdims=True)
    offset = tune(p, y, "balanced_accuracy", rounds=4)
    assert np.diff(offset) == pytest.approx(-np.diff(planted), abs=0.51)
    bayes, biased = (score("balanced_accuracy", p, y, o) for o in (-planted, np.zeros(k)))
    assert score("balanced_accuracy", p, y, offset) > bayes - 0.005 > biased


def brute_force(score, positive, specificity):
    """The best share of positives over every threshold, also one above all scores."""
    negatives, found = score[~positive], []
    for threshold in [*np.unique(score), np.inf]:
        if (negatives < threshold).sum() >= specificity * len(negatives) - 1e-9:
            found.append((score[positive] >= threshold).mean())
    return max(found)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("specificity", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_sensitivity_agrees_with_every_threshold_tried(specificity, ties):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        positive = rng.random(60) < 0.3
        score = rng.normal(1.0 * positive, 1).round(1 if ties else 9)
        assert sensitivity(score, positive, specificity) == pytest.approx(brute_force(score, positive, specificity))


def test_sensitivity_of_a_perfect_a_blind_and_a_reversed_score():
    positive = np.arange(40) >= 20
    assert sensitivity(positive.astype(float), positive, 0.95) == 1
    assert sensitivity(np.zeros(40), positive, 0.95) == 0
    assert sensitivity(-np.arange(40.0), positive, 0.95) == 0
    one_negative_above = np.where(np.arange(40) == 0, 2.0, positive)
    assert sensitivity(one_negative_above, positive, 0.95) == 1, "19 of 20 negatives are exactly 95 %"


@pytest.mark.parametrize("positive", [True, False])
def test_sensitivity_needs_both_classes(positive):
    assert np.isnan(sensitivity(np.arange(5.0), np.full(5, positive), 0.95))
