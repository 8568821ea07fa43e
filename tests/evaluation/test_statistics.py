"""Intervals and tests against scipy and by simulation. Run: python -m pytest tests/evaluation/test_statistics.py"""

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.scores import confusion, from_confusion
from pipeline.evaluation.statistics import bootstrap_difference, mean_interval, sign_flip


@pytest.mark.parametrize("count", [2, 6, 30])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_mean_interval_is_students(count, confidence):
    values = np.random.default_rng(count).normal(3, 2, count)
    expected = stats.t.interval(confidence, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values, confidence) == pytest.approx((values.mean(), *expected))


def test_one_value_has_a_mean_but_no_interval():
    mean, low, high = mean_interval(np.array([0.25]), 0.95)
    assert mean == 0.25 and np.isnan(low) and np.isnan(high)
    assert np.isnan(mean_interval(np.array([]), 0.95)).all()


def test_equal_values_have_an_interval_of_no_width():
    assert mean_interval(np.full(6, 0.5), 0.95) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("count", [2, 5, 6, 9])
def test_sign_flip_agrees_with_the_exact_permutation_test(count):
    d = np.random.default_rng(count).normal(0.4, 1, count)
    found = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(d) == pytest.approx(found.pvalue)


def test_one_pair_says_nothing():
    assert sign_flip(np.array([0.7])) == 1


def test_six_differences_of_one_sign_give_2_of_64():
    d = np.random.default_rng(0).uniform(0.01, 1, 6)
    assert sign_flip(d) == sign_flip(-d) == 2 / 64
    assert sign_flip(np.full(6, 0.1)) == 2 / 64  # rounding of equal sums must not lose one


def test_no_difference_gives_one():
    assert sign_flip(np.zeros(6)) == 1
    assert sign_flip(np.array([1.0, -1.0])) == 1


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_sign_flip_does_not_depend_on_the_unit(scale):
    d = np.array([0.3, 0.1, 0.2, -0.1, 0.2, 0.3])
    assert sign_flip(d * scale) == sign_flip(d)


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.5])
def test_many_pairs_are_sampled_and_agree_with_the_normal_limit(shift):
    d = np.random.default_rng(4).normal(shift, 1, 40)
    z = d.sum() / np.sqrt(np.square(d).sum())
    p = sign_flip(d)
    assert p == sign_flip(d), "the stream is fixed"
    assert p == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.01)
    assert p >= 1 / (2**16 + 1), "a sampled p is never zero"


def test_sampled_and_exact_p_agree():
    d = np.random.default_rng(5).normal(0.5, 1, 12)
    assert sign_flip(d, most=5) == pytest.approx(sign_flip(d), abs=0.01)


@pytest.mark.parametrize("most", [20, 3])
def test_a_missing_difference_is_never_significant(most):
    assert not sign_flip(np.array([0.1, np.nan, 0.2, 0.1, 0.3, 0.2]), most) <= 0.05


def predictions(rng, y, accuracy, seeds):
    """Predicted classes (S, N) of two-class rows, right with the given probability (S, N) or number."""
    return np.where(rng.random((seeds, len(y))) < accuracy, y, 1 - y)


def bootstrap(a, b, y, groups=None, metric="balanced_accuracy", resamples=400, seed=0):
    return bootstrap_difference(a, b, y, np.arange(len(y)) if groups is None else groups, 2, metric, resamples, seed)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "accuracy"])
def test_identical_arms_never_differ(metric):
    rng, y = np.random.default_rng(0), np.arange(40) % 2
    arm = predictions(rng, y, 0.7, 3)
    assert (bootstrap(arm, arm, y, metric=metric) == 0).all()


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "accuracy"])
def test_resampled_differences_lie_around_the_observed_one(metric):
    rng, y = np.random.default_rng(1), (np.arange(300) % 3 == 0).astype(int)
    a, b = predictions(rng, y, 0.8, 6), predictions(rng, y, 0.6, 6)
    score = [np.mean([from_confusion(metric, confusion(g, y, 2)) for g in arm]) for arm in (a, b)]
    draws = bootstrap(a, b, y, metric=metric, resamples=1000)
    assert draws.mean() == pytest.approx(score[0] - score[1], abs=4 * draws.std() / np.sqrt(1000) + 0.002)


def test_swapped_arms_give_the_opposite_differences():
    rng, y = np.random.default_rng(2), np.arange(60) % 2
    a, b = predictions(rng, y, 0.8, 4), predictions(rng, y, 0.6, 4)
    np.testing.assert_allclose(bootstrap(a, b, y), -bootstrap(b, a, y))


@pytest.mark.parametrize("resamples", [1, 100, 250])
def test_draws_depend_on_the_seed_alone(resamples):
    rng, y = np.random.default_rng(3), np.arange(60) % 2
    a, b = predictions(rng, y, 0.8, 4), predictions(rng, y, 0.6, 4)
    one, same, other = (bootstrap(a, b, y, resamples=resamples, seed=s) for s in (5, 5, 6))
    assert len(one) == resamples
    assert (one == same).all() and (one != other).any()


def test_rows_that_come_in_groups_widen_the_interval():
    """Ten copies of each row carry no more than one of them, once they are named as a group."""
    rng, y = np.random.default_rng(4), np.arange(40) % 2
    a, b = predictions(rng, y, 0.8, 6), predictions(rng, y, 0.6, 6)
    ten = [np.repeat(x, 10, axis=-1) for x in (a, b, y)]
    single, alone = bootstrap(a, b, y).std(), bootstrap(*ten).std()
    grouped = bootstrap(*ten, groups=np.repeat([f"patient {i}" for i in range(40)], 10)).std()
    assert grouped == pytest.approx(single, rel=0.15)
    assert grouped > 1.5 * alone


def test_both_rows_and_seeds_add_to_the_spread():
    y = np.arange(200) % 2
    rng = np.random.default_rng(5)
    same = np.repeat(predictions(rng, y, 0.7, 1), 6, axis=0)  # seeds that all agree: only rows vary
    level = np.where(np.arange(6)[:, None] % 2, 1.0, 0.4)  # seeds that differ much
    apart = predictions(rng, y, np.broadcast_to(level, (6, 200)), 6)
    right = np.repeat(y[None], 6, axis=0)
    rows_only, both = bootstrap(same, right, y).std(), bootstrap(apart, right, y).std()
    assert rows_only == pytest.approx(np.sqrt(0.7 * 0.3 / 200), rel=0.25)
    assert both > 2 * rows_only


def test_the_interval_covers_a_known_difference_about_as_often_as_it_says():
    """Row difficulties are shared by both arms and all seeds; arm a knows 8 points more than arm b."""
    rng, covered, runs = np.random.default_rng(6), 0, 200
    y = np.arange(150) % 2
    for run in range(runs):
        hard, wobble = rng.random(150), rng.normal(0, 0.02, (2, 6, 1))
        a, b = (np.where(hard < level + w, y, 1 - y) for level, w in zip((0.78, 0.70), wobble, strict=True))
        low, high = np.quantile(bootstrap(a, b, y, resamples=200, seed=run), [0.025, 0.975])
        covered += low <= 0.08 <= high
    assert 0.89 <= covered / runs <= 0.99, covered / runs


def test_no_difference_is_declared_one_about_as_rarely_as_it_says():
    rng, wrong, runs = np.random.default_rng(7), 0, 200
    y = np.arange(150) % 2
    for run in range(runs):
        hard, wobble = rng.random(150), rng.normal(0, 0.03, (2, 6, 1))
        a, b = (np.where(hard < 0.75 + w, y, 1 - y) for w in wobble)
        low, high = np.quantile(bootstrap(a, b, y, resamples=200, seed=run), [0.025, 0.975])
        p = sign_flip((a == y).mean(axis=1) - (b == y).mean(axis=1))
        wrong += (low > 0 or high < 0) and p <= 0.05
    assert wrong / runs <= 0.08, wrong / runs
