"""Distances between feature sets against direct formulas. Run: python -m pytest tests/evaluation/test_fidelity.py"""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from pipeline.evaluation.fidelity import (
    compare,
    deviation,
    distances,
    diversity,
    frechet,
    kernel_distance,
    manifold,
    transfer,
)


def cloud(rows, dims=5, seed=0, shift=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    return shift + scale * rng.normal(size=(rows, dims)) @ rng.normal(size=(dims, dims))


def frechet_by_sqrtm(a, b):
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)


@pytest.mark.parametrize("dims", [2, 5, 16])
def test_frechet_agrees_with_the_matrix_square_root(dims):
    a, b = cloud(80, dims, 1), cloud(60, dims, 2, shift=0.5)
    assert frechet(a, b) == pytest.approx(frechet_by_sqrtm(a, b), rel=1e-6)


def test_frechet_of_one_dimension_has_a_closed_form():
    a, b = np.random.default_rng(0).normal(1, 2, (500, 1)), np.random.default_rng(1).normal(-1, 0.5, (300, 1))
    assert frechet(a, b) == pytest.approx((a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2)


def test_frechet_of_a_shifted_set_is_the_squared_shift():
    a = cloud(50, 4)
    assert frechet(a, a + np.array([3.0, 0, 4.0, 0])) == pytest.approx(25)


@pytest.mark.parametrize("rows", [200, 10])  # ten rows in sixteen dimensions: a covariance without an inverse
def test_frechet_of_identical_sets_is_zero_and_it_is_symmetric(rows):
    a, b = cloud(rows, 16, 1), cloud(rows, 16, 2)
    assert frechet(a, a) == pytest.approx(0, abs=1e-4 * np.trace(np.cov(a, rowvar=False)))
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-5)
    assert frechet(a, b) > 0


def test_kernel_distance_agrees_with_a_double_loop():
    a, b = cloud(9, 3, 1), cloud(7, 3, 2)

    def mean(x, z, same):
        pairs = [(i, j) for i in range(len(x)) for j in range(len(z)) if not (same and i == j)]
        return np.mean([(np.dot(x[i], z[j]) / 3 + 1) ** 3 for i, j in pairs])

    expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    assert kernel_distance(a, b) == pytest.approx(expected)
    assert kernel_distance(b, a) == pytest.approx(expected)


def test_kernel_distance_of_equal_distributions_scatters_around_zero():
    rng = np.random.default_rng(0)
    same = [kernel_distance(rng.normal(size=(50, 3)), rng.normal(size=(50, 3))) for _ in range(100)]
    assert min(same) < 0 < max(same)
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(100)
    assert kernel_distance(rng.normal(size=(50, 3)), rng.normal(2, 1, (50, 3))) > max(same)


def test_identical_sets_share_one_manifold():
    a = cloud(60)
    found = manifold(a, a, 3)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert found["density"] > 1 / 3  # every row lies at least in its own ball


def test_far_sets_share_nothing():
    a = cloud(60)
    assert set(manifold(a, a + 1e4, 3).values()) == {0.0}


def test_precision_and_recall_swap_with_the_sets():
    a, b = cloud(60, seed=1), cloud(40, seed=2, scale=0.5)
    assert manifold(a, b, 3)["precision"] == manifold(b, a, 3)["recall"]


def test_a_collapsed_set_is_precise_but_covers_little():
    a = cloud(100)
    found = manifold(a, np.repeat(a[:1], 100, axis=0), 3)
    assert found["precision"] == 1
    assert found["recall"] <= 0.05 and found["coverage"] <= 0.2


@pytest.mark.parametrize("k", [1, 3])
def test_manifold_agrees_with_its_definitions(k):
    real, fake = cloud(30, 3, 1), cloud(20, 3, 2)
    radius = [[np.sort(np.delete(row, i))[k - 1] for i, row in enumerate(cdist(x, x))] for x in (real, fake)]
    inside = [[np.linalg.norm(f - r) <= radius[0][i] for i, r in enumerate(real)] for f in fake]
    back = [[np.linalg.norm(f - r) <= radius[1][j] for j, f in enumerate(fake)] for r in real]
    found = manifold(real, fake, k)
    assert found["precision"] == pytest.approx(np.mean([any(row) for row in inside]))
    assert found["recall"] == pytest.approx(np.mean([any(row) for row in back]))
    assert found["density"] == pytest.approx(np.sum(inside) / (k * len(fake)))
    assert found["coverage"] == pytest.approx(np.mean(np.any(inside, axis=0)))


@pytest.mark.parametrize(("rows", "k", "least"), [(9, 3, 10), (3, 3, 2), (1, 1, 2), (0, 1, 0)])
def test_too_few_rows_on_either_side_have_no_values(rows, k, least):
    few, enough = np.zeros((rows, 4)), cloud(50, 4)
    for pair in ((few, enough), (enough, few)):
        found = compare(*pair, k, least)
        assert set(found) == {"frechet", "kernel", "precision", "recall", "density", "coverage", "diversity"}
        assert np.isnan(list(found.values())).all()


def test_just_enough_rows_have_values():
    assert np.isfinite(list(compare(cloud(10, seed=1), cloud(10, seed=2), 3, 10).values())).all()


def test_compare_collects_every_measure_in_double_precision():
    a, b = (cloud(40, seed=s).astype(np.float32) for s in (1, 2))
    wide = a.astype(np.float64), b.astype(np.float64)
    expected = {"frechet": frechet(*wide), "kernel": kernel_distance(*wide), **manifold(*wide, 3)}
    expected["diversity"] = diversity(*wide)
    assert compare(a, b, 3, 10) == pytest.approx(expected)


def test_of_large_sets_that_are_sorted_by_class_all_classes_are_compared():
    """The first thousand rows, those of the first class alone, had a Fréchet distance of 120 for the same distribution."""
    real, fake = (np.concatenate([cloud(600, 3, seed) + 9 * c for c in range(4)]) for seed in (1, 1))
    fake = fake + np.random.default_rng(5).normal(0, 0.1, fake.shape)
    found, alike = compare(real, fake, 3, 10), compare(real[::3], fake[::3], 3, 10, most=10_000)
    assert found["coverage"] > 0.9 and found["diversity"] == pytest.approx(1, abs=0.05)
    assert found["frechet"] == pytest.approx(alike["frechet"], abs=0.5)
    assert deviation(real, np.arange(len(real)), fake, 3, 10, 0)["diversity"] < 0.05


def test_distances_by_class_are_pulled_to_their_mean_by_pseudo_rows():
    real, y = cloud(60), np.repeat([0, 1, 2], [40, 15, 5])
    fake, labels = cloud(90, seed=3, shift=0.4), np.repeat([0, 1, 2], 30)
    unit = np.sqrt(np.square(real).mean())
    own = np.array([kernel_distance(real[y == c] / unit, fake[labels == c] / unit) for c in range(3)])
    counts = np.array([30, 15, 5])  # of the rows of either side, whichever are fewer
    common = (own * counts).sum() / 50
    found = distances(real, y, fake, labels, 4, rows=10.0)
    assert np.allclose(found[:3], (own * counts + 10 * common) / (counts + 10)) and np.isnan(found[3])
    assert np.allclose(distances(real, y, fake, labels, 3, rows=0.0), own)
    assert np.allclose(distances(real * 7, y, fake * 7, labels, 3), found[:3])


def test_a_class_with_one_real_row_has_the_distance_of_the_others():
    real, y = cloud(31), np.repeat([0, 1], [30, 1])
    fake, labels = cloud(40, seed=3, shift=0.4), np.repeat([0, 1], 20)
    found = distances(real, y, fake, labels, 2)
    assert found[1] == pytest.approx(found[0])
    assert np.isnan(distances(real[30:], y[30:], fake, labels, 2)).all()


def test_diversity_is_the_ratio_of_mean_distances_of_pairs():
    a, b = cloud(12, seed=1), cloud(9, seed=2)
    mean = [np.mean([np.linalg.norm(x[i] - x[j]) for i in range(len(x)) for j in range(i)]) for x in (a, b)]
    assert diversity(a, b) == pytest.approx(mean[1] / mean[0])
    assert diversity(a, np.repeat(b[:1], 5, axis=0)) == 0 and diversity(a, a + 3) == pytest.approx(1)
    assert np.isfinite(diversity(np.ones((4, 2)), b[:, :2]))


def test_the_spread_is_that_of_other_rows():
    """Beside the standard deviation of the values of 60 fresh pairs of sets."""
    fresh = [compare(cloud_of(s), cloud_of(1000 + s, shift=0.5), 3, 10) for s in range(60)]
    told = [deviation(cloud_of(s), np.arange(120), cloud_of(1000 + s, shift=0.5), 3, 10, 0) for s in range(5)]
    for name in ("frechet", "precision", "coverage", "diversity"):
        true, said = np.std([one[name] for one in fresh], ddof=1), np.mean([one[name] for one in told])
        assert 0.4 < said / true < 2.5, name


def cloud_of(seed, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (120, 4))


def test_without_enough_rows_there_is_no_spread_and_equal_seeds_give_equal_ones():
    assert np.isnan(list(deviation(cloud(19), np.arange(19), cloud(30), 3, 10, 0).values())).all()
    one, two, other = (deviation(cloud(40), np.arange(40), cloud(30, seed=1), 3, 10, seed) for seed in (4, 4, 5))
    assert one == two != other


def test_what_rows_teach_is_balanced_accuracy_on_the_others():
    rng = np.random.default_rng(0)
    y, labels = np.repeat([0, 1, 2], [90, 20, 8]), np.repeat([0, 1, 2], 40)
    train, test = (rng.normal(0, 0.3, (len(c), 2)) + 3 * np.eye(3)[c][:, :2] for c in (y, labels))
    alone = np.arange(120)
    value, error = transfer(train, y, test, labels, alone)
    assert value > 0.97 and error < 0.02
    wrong, _ = transfer(train, (y + 1) % 3, test, labels, alone)
    assert wrong < 0.1
    guess, error = transfer(rng.normal(size=(118, 2)), y, rng.normal(size=(120, 2)), labels, alone)
    assert 0.15 < guess < 0.55 and 0.02 < error < 0.06
    assert np.isnan(transfer(train[:90], y[:90], test, labels, alone)).all()


def test_rows_of_one_group_tell_as_much_as_one():
    """Four pictures of each of 30 things: the spread is that of 30 rows, twice that of 120."""
    things = [np.random.default_rng(s).normal(0, 1, (30, 4)) for s in range(8)]
    groups, one, two = np.repeat(np.arange(30), 4), [], []
    for s, thing in enumerate(things):
        real, fake = thing.repeat(4, axis=0) + np.random.default_rng(9).normal(0, 0.01, (120, 4)), cloud_of(100 + s)
        one.append(deviation(real, np.arange(120), fake, 3, 10, 0)["recall"])
        two.append(deviation(real, groups, fake, 3, 10, 0)["recall"])
    assert np.mean(two) > 1.2 * np.mean(one)
    rng = np.random.default_rng(0)
    y, labels = np.repeat([0, 1], 50), np.repeat([0, 1], 60)
    train, test = rng.normal(y[:, None], 1, (100, 2)), rng.normal(labels[:, None], 1, (120, 2))
    whole, alone = transfer(train, y, test, labels, np.arange(120))
    again, together = transfer(train, y, test.repeat(4, axis=0), labels.repeat(4), np.arange(120).repeat(4))
    assert whole == again and together == pytest.approx(alone)
    right, left = (whole, alone), transfer(train, y, test.repeat(4, axis=0), labels.repeat(4), np.arange(480))
    assert left[0] == right[0] and left[1] == pytest.approx(alone / 2)
