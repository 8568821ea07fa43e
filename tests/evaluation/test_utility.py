"""What the search compares by, against direct sums. Run: python -m pytest tests/evaluation/test_utility.py"""

import numpy as np
import pytest

from pipeline.evaluation.utility import balance, gain, likelihood

Y = np.repeat([0, 1, 2], [30, 8, 2])


def said(seed: int, seeds: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(3), (seeds, len(Y)))


def by_class(values: np.ndarray) -> float:
    return float(np.mean([values[c == Y].mean() for c in range(3)]))


def test_weights_make_a_mean_over_rows_one_over_classes():
    values = np.random.default_rng(0).normal(size=len(Y))
    assert (values * balance(Y)).mean() == pytest.approx(by_class(values)) and balance(Y).mean() == pytest.approx(1)
    assert np.allclose(balance(Y + 3), balance(Y)), "classes without rows do not count"


def test_likelihood_is_the_mean_of_classes_and_trainings():
    p = said(1, 2)
    logs = [by_class(np.log(one[np.arange(len(Y)), Y])) for one in p]
    assert likelihood(p, Y).mean() == pytest.approx(np.mean(logs))


def test_a_gain_has_the_standard_error_of_a_weighted_mean_of_independent_rows():
    a, b = said(1), said(2)
    found = gain(a, b, Y, np.arange(len(Y)))
    change = likelihood(a, Y) - likelihood(b, Y)
    assert found["gain"] == pytest.approx(change.mean())
    assert found["standard_error"] == pytest.approx(change.std(ddof=1) / np.sqrt(len(Y)))
    hits = [by_class(np.mean([one.argmax(1) == Y for one in p], axis=0)) for p in (a, b)]
    assert found["correct"] == pytest.approx(hits[0] - hits[1])
    more = ((a[0].argmax(1) == Y).astype(float) - (b[0].argmax(1) == Y)) * balance(Y)
    assert found["correct_error"] == pytest.approx(more.std(ddof=1) / np.sqrt(len(Y))) and more.any()


def test_trainings_that_differ_make_a_gain_less_sure():
    """A classifier that is luckier on all rows moves the mean, and rows alone do not tell."""
    a, b, rows = said(1, 4), said(2, 4), np.arange(len(Y))
    found, own = gain(a, b, Y, rows), [gain(a[i : i + 1], b[i : i + 1], Y, rows)["gain"] for i in range(4)]
    change = likelihood(a, Y) - likelihood(b, Y)
    assert found["gain"] == pytest.approx(np.mean(own))
    errors = change.std(ddof=1) / np.sqrt(len(Y)), np.std(own, ddof=1) / 2
    assert found["standard_error"] == pytest.approx(np.hypot(*errors)) and found["standard_error"] > max(errors)


def test_what_a_seed_does_to_all_generators_alike_counts_once():
    """Trainings of three generators with the same two seeds are no six independent ones."""
    a, b, rows = said(1, 2), said(2, 2), np.arange(len(Y))
    one, thrice = gain(a, b, Y, rows), gain(np.tile(a, (3, 1, 1)), np.tile(b, (3, 1, 1)), Y, rows, 3)
    assert thrice == pytest.approx(one)
    assert gain(np.tile(a, (3, 1, 1)), np.tile(b, (3, 1, 1)), Y, rows)["standard_error"] < one["standard_error"]


def test_rows_of_one_group_count_as_one():
    """The same rows twice over are no more evidence, if their groups say so."""
    a, b, groups = said(1), said(2), np.arange(len(Y))
    once = gain(a, b, Y, groups)
    twice = gain(np.tile(a, (1, 2, 1)), np.tile(b, (1, 2, 1)), np.tile(Y, 2), np.tile(groups, 2))
    assert twice["gain"] == pytest.approx(once["gain"])
    assert twice["standard_error"] == pytest.approx(once["standard_error"])
    more = gain(np.tile(a, (1, 2, 1)), np.tile(b, (1, 2, 1)), np.tile(Y, 2), np.arange(2 * len(Y)))
    assert more["standard_error"] < 0.75 * once["standard_error"]


def test_nothing_gained_is_zero_with_no_error():
    found = gain(said(1), said(1), Y, np.arange(len(Y)))
    assert found == {"gain": 0.0, "standard_error": 0.0, "correct": 0.0, "correct_error": 0.0}
