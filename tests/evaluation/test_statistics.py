"""Intervals and tests against scipy and by simulation. Run: python -m pytest tests/evaluation/test_statistics.py"""

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.statistics import detectable, holm, mcnemar, mean_interval, resampled_interval, sign_flip


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


@pytest.mark.parametrize("count", [2, 10])
@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_the_interval_over_splits_is_the_corrected_resampled_t(count, ratio):
    values = np.random.default_rng(count).normal(0.01, 0.02, count)
    mean, low, high = resampled_interval(values, ratio, 0.9)
    spread = values.std(ddof=1) * np.sqrt(1 / count + ratio)
    assert (low, high) == pytest.approx(stats.t.interval(0.9, count - 1, loc=values.mean(), scale=spread))
    assert mean == pytest.approx(values.mean())
    if not ratio:
        assert (mean, low, high) == pytest.approx(mean_interval(values, 0.9)), "as for independent values"


def test_the_interval_over_splits_holds_the_truth_where_that_over_independent_values_does_not():
    """The gain of a rule on random splits of 60 rows, two thirds to learn from: the splits share rows, so they err alike."""
    rng, held = np.random.default_rng(0), {"corrected": 0, "plain": 0}
    for _ in range(300):
        gains = rng.normal(0.0, 1.0, 60)  # of each row; their true mean is zero
        seen = np.array([gains[rng.permutation(60)[:20]].mean() for _ in range(10)])
        for name, (_, low, high) in {
            "corrected": resampled_interval(seen, 0.5, 0.95),
            "plain": mean_interval(seen, 0.95),
        }.items():
            held[name] += low <= 0 <= high
    assert held["corrected"] >= 0.93 * 300 > 0.75 * 300 > held["plain"]


def test_one_split_has_no_interval():
    mean, low, high = resampled_interval(np.array([0.02]), 0.5, 0.95)
    assert mean == 0.02 and np.isnan(low) and np.isnan(high)


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


def brute_force_holm(p):
    """The definition: the adjusted p of a hypothesis is the smallest level at which stepping down rejects it."""

    def rejected(level):
        order, found = sorted(range(len(p)), key=lambda i: p[i]), set()
        for step, i in enumerate(order):
            if p[i] * (len(p) - step) > level:
                break
            found.add(i)
        return found

    levels = sorted({min(1.0, value * m) for value in p for m in range(1, len(p) + 1)} | {1.0})
    return [next((level for level in levels if i in rejected(level)), 1.0) for i in range(len(p))]


def test_holm_of_an_example_by_hand():
    """Sorted: 4 x 0.01, 3 x 0.015, then 2 x 0.03, and 1 x 0.04 is raised to the one before."""
    assert holm([0.03, 0.01, 0.04, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_holm_agrees_with_its_definition(count):
    for seed in range(20):
        p = np.random.default_rng(seed).uniform(0, 0.4, count).round(2)  # rounding makes ties
        assert holm(p) == pytest.approx(brute_force_holm(p.tolist()))


def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni():
    p = np.random.default_rng(0).uniform(0, 0.3, 20)
    found = np.array(holm(p))
    assert (np.diff(found[np.argsort(p)]) >= 0).all()
    assert (found >= p).all() and (found <= np.minimum(20 * p, 1)).all()


def test_holm_leaves_missing_values_missing_and_does_not_count_them():
    found = holm([0.03, np.nan, 0.02, np.nan])
    assert np.isnan([found[1], found[3]]).all()
    assert [found[0], found[2]] == pytest.approx(holm([0.03, 0.02])) == [0.04, 0.04]
    assert holm([]) == [] and np.isnan(holm([np.nan])).all()


def test_holm_bounds_the_chance_of_any_false_finding():
    rng = np.random.default_rng(1)
    false = np.mean([min(holm(rng.uniform(0, 1, 7))) <= 0.05 for _ in range(4000)])
    assert false == pytest.approx(0.05, abs=0.012)


def test_mcnemar_of_an_example_by_hand():
    """Five rows that only the first has right, one that only the second has: 2 x (1 + 6) of 2^6."""
    a = np.array([1, 1, 1, 1, 1, 0, 1, 1, 0], bool)
    b = np.array([0, 0, 0, 0, 0, 1, 1, 1, 0], bool)
    assert mcnemar(a, b) == (5, 1, pytest.approx(14 / 64))


@pytest.mark.parametrize("seed", range(4))
def test_mcnemar_is_the_sign_test_of_the_discordant_rows(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(150) < 0.8, rng.random(150) < 0.7
    first, second, p = mcnemar(a, b)
    assert first == sum(x and not y for x, y in zip(a, b, strict=True))
    assert second == sum(y and not x for x, y in zip(a, b, strict=True))
    assert p == pytest.approx(stats.binomtest(first, first + second, 0.5).pvalue)
    assert p == pytest.approx(min(1, 2 * stats.binom.cdf(min(first, second), first + second, 0.5)))
    assert mcnemar(b, a) == (second, first, pytest.approx(p))


def test_models_that_never_disagree_do_not_differ():
    a = np.arange(20) % 3 > 0
    assert mcnemar(a, a) == (0, 0, 1.0)


@pytest.mark.parametrize(("confidence", "power"), [(0.95, 0.8), (0.95, 0.9), (0.9, 0.8), (0.99, 0.5)])
def test_the_detectable_difference_of_normal_draws_has_a_closed_form(confidence, power):
    draws = 0.03 * stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000) + 0.4
    expected = 0.03 * (stats.norm.isf((1 - confidence) / 2) - stats.norm.isf(power))
    assert detectable(draws, confidence, power) == pytest.approx(expected, rel=2e-3)


def test_a_difference_of_the_detectable_size_is_found_in_four_of_five_trials():
    rng, rows, scale = np.random.default_rng(2), 400, 1.3
    true = detectable(rng.normal(0, scale / np.sqrt(rows), 50_000), 0.95)
    estimates = rng.normal(true, scale, (2000, rows)).mean(axis=1)
    draws = estimates[:, None] + rng.normal(0, scale / np.sqrt(rows), (2000, 1000))
    low, high = np.quantile(draws, [0.025, 0.975], axis=1)
    assert ((low > 0) | (high < 0)).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("seeds", "power"), [(6, 0.84), (12, 0.82), (40, 0.805)])
def test_it_is_found_about_as_often_where_only_the_seeds_vary(seeds, power):
    """Student's draws of a mean over seeds: the power of the t test is that of the noncentral distribution."""
    free = seeds - 1
    size = detectable(stats.t.ppf((np.arange(20_000) + 0.5) / 20_000, free), 0.95)  # in standard errors of the mean
    assert stats.nct.sf(stats.t.ppf(0.975, free), free, size) == pytest.approx(power, abs=0.01)


def test_two_seeds_have_a_detectable_difference_too_although_its_draws_have_no_variance():
    found = [detectable(0.02 * np.random.default_rng(s).standard_t(1, 2000), 0.95) for s in range(20)]
    assert found == pytest.approx([0.02 * 12.7 * 1.43] * 20, rel=0.4)
