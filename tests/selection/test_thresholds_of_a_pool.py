"""Which rows of a pool are sure enough. Run: python -m pytest tests/selection/test_thresholds_of_a_pool.py"""

import numpy as np
import pytest

from pipeline.selection.teachers import pseudo_labels, thresholds


def of_two(confidence, judged):
    """Probabilities (N, 2) of rows judged to be of a class so surely."""
    rows = np.empty((len(confidence), 2))
    rows[np.arange(len(confidence)), judged] = confidence
    rows[np.arange(len(confidence)), 1 - np.asarray(judged)] = 1 - np.asarray(confidence)
    return rows


def test_the_threshold_is_the_lowest_confidence_at_which_enough_are_right():
    held = of_two([0.99, 0.95, 0.9, 0.85, 0.8, 0.75], [0] * 6)
    y = np.array([0, 0, 1, 0, 0, 1])  # of those from 0.80 on, 4 of 5 are right
    assert thresholds(held, y, 0.8, 0.5)[0] == 0.8
    assert thresholds(held, y, 0.9, 0.5)[0] == 0.95
    assert thresholds(held, y, 0.6, 0.5)[0] == 0.75
    assert thresholds(held, y, 0.8, 0.82)[0] == 0.95, "of those from 0.85 on, 3 of 4 are right"


def test_a_class_that_nothing_is_judged_to_be_or_that_is_never_right_has_none():
    held = of_two([0.9, 0.8], [0, 0])
    assert np.isinf(thresholds(held, np.array([0, 0]), 0.9, 0.5)[1])
    assert np.isinf(thresholds(held, np.array([1, 1]), 0.9, 0.5)).all()
    assert np.isinf(thresholds(np.empty((0, 3)), np.empty(0, int), 0.9, 0.5)).all()


def test_rows_of_equal_confidence_stand_together():
    held = of_two([0.9, 0.9, 0.9, 0.7], [0] * 4)
    for y in ([0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]):
        assert thresholds(held, np.array(y), 0.7, 0.5)[0] == 0.7
        assert np.isinf(thresholds(held, np.array(y), 0.8, 0.5)[0])


@pytest.mark.parametrize("seed", range(5))
def test_above_the_threshold_so_many_are_right_and_below_the_next_row_they_are_not(seed):
    rng = np.random.default_rng(seed)
    held = rng.dirichlet(np.ones(3) * 0.5, 400)
    y = np.array([rng.choice(3, p=p) for p in held])
    found = thresholds(held, y, 0.85, 0.5)
    judged, confidence, sure = pseudo_labels(held, found)
    for c in range(3):
        assert (y[sure & (judged == c)] == c).mean() >= 0.85
        lower = [t for t in confidence[(judged == c) & ~sure] if t >= 0.5]
        assert all((y[(judged == c) & (confidence >= t)] == c).mean() < 0.85 for t in lower)


def test_a_row_is_sure_by_the_threshold_of_the_class_it_is_judged_to_be():
    judged, confidence, sure = pseudo_labels(of_two([0.9, 0.9, 0.6], [0, 1, 0]), np.array([0.8, 0.95]))
    assert judged.tolist() == [0, 1, 0] and confidence.tolist() == [0.9, 0.9, 0.6]
    assert sure.tolist() == [True, False, False]
    assert not pseudo_labels(of_two([1.0], [0]), np.array([np.inf, 0.5]))[2].any()
