"""Resamples of rows and seeds: references, closed forms, coverage. Run: python -m pytest tests/evaluation/test_resamples.py"""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from pipeline.evaluation.scores import confusion, ece, from_confusion
from pipeline.evaluation.statistics import by_auprc, by_confusion, by_ece, differences, resamples, sign_flip


def predictions(rng, y, accuracy, seeds):
    """Predicted classes (S, N) of two-class rows, right with the given probability (S, N) or number."""
    return np.where(rng.random((seeds, len(y))) < accuracy, y, 1 - y)


def bootstrap(a, b, y, groups=None, metric="balanced_accuracy", count=400, seed=0):
    """Resampled mean paired differences (R,) of the metric of predicted classes a and b (S, N)."""
    groups = np.arange(len(y)) if groups is None else groups
    pair = tuple(by_confusion(arm, y, y.max() + 1, metric) for arm in (a, b))
    return differences([pair], resamples(y, groups, count, seed), seed)[0]


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
    draws = bootstrap(a, b, y, metric=metric, count=1000)
    assert draws.mean() == pytest.approx(score[0] - score[1], abs=4 * draws.std() / np.sqrt(1000) + 0.002)


def test_swapped_arms_give_the_opposite_differences():
    rng, y = np.random.default_rng(2), np.arange(60) % 2
    a, b = predictions(rng, y, 0.8, 4), predictions(rng, y, 0.6, 4)
    one, other = bootstrap(a, b, y, count=4000), -bootstrap(b, a, y, count=4000)
    assert one.mean() == pytest.approx(other.mean(), abs=0.05 * one.std())
    assert np.quantile(one, [0.025, 0.975]) == pytest.approx(np.quantile(other, [0.025, 0.975]), abs=0.15 * one.std())


@pytest.mark.parametrize("count", [1, 100, 250])
def test_draws_depend_on_the_seed_alone(count):
    rng, y = np.random.default_rng(3), np.arange(60) % 2
    a, b = predictions(rng, y, 0.8, 4), predictions(rng, y, 0.6, 4)
    one, same, other = (bootstrap(a, b, y, count=count, seed=s) for s in (5, 5, 6))
    assert len(one) == count
    assert (one == same).all() and (one != other).any()


def test_rows_that_come_in_groups_widen_the_interval():
    """Ten copies of each row carry no more than one of them, once they are named as a group."""
    rng, y = np.random.default_rng(4), np.arange(40) % 2
    a, b = (np.repeat(predictions(rng, y, level, 1), 6, axis=0) for level in (0.8, 0.6))  # seeds that all agree
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
        low, high = np.quantile(bootstrap(a, b, y, count=200, seed=run), [0.025, 0.975])
        covered += low <= 0.08 <= high
    assert 0.89 <= covered / runs <= 0.99, covered / runs


def test_no_difference_is_declared_one_about_as_rarely_as_it_says():
    rng, wrong, runs = np.random.default_rng(7), 0, 200
    y = np.arange(150) % 2
    for run in range(runs):
        hard, wobble = rng.random(150), rng.normal(0, 0.03, (2, 6, 1))
        a, b = (np.where(hard < 0.75 + w, y, 1 - y) for w in wobble)
        low, high = np.quantile(bootstrap(a, b, y, count=200, seed=run), [0.025, 0.975])
        p = sign_flip((a == y).mean(axis=1) - (b == y).mean(axis=1))
        wrong += (low > 0 or high < 0) and p <= 0.05
    assert wrong / runs <= 0.08, wrong / runs


def drawn(y, groups=None, count=300, chunk=100, seed=0):
    """All weights of rows (R, N)."""
    groups = np.arange(len(y)) if groups is None else groups
    return np.concatenate(list(resamples(y, groups, count, seed, chunk)))


@pytest.mark.parametrize(("count", "chunk"), [(1, 100), (100, 100), (250, 100), (7, 3)])
def test_all_resamples_come_in_chunks_of_bounded_size(count, chunk):
    parts = list(resamples(np.arange(12) % 3, np.arange(12), count, 0, chunk))
    assert [len(rows) for rows in parts] == [chunk] * (count // chunk) + [count % chunk] * (count % chunk > 0)
    assert all(rows.shape == (len(rows), 12) for rows in parts)


def test_a_group_has_one_weight_and_all_but_one_of_a_class_are_drawn():
    rng = np.random.default_rng(8)
    sizes = rng.integers(1, 5, 30)  # rows of each of 30 groups
    of_group = np.repeat(rng.permutation(np.arange(30) % 3), sizes)
    names = np.repeat([f"patient {i}" for i in rng.permutation(30)], sizes)
    order = rng.permutation(len(names))
    y, names = of_group[order], names[order]
    rows = drawn(y, names)
    _, first, place = np.unique(names, return_index=True, return_inverse=True)
    assert (rows == rows[:, first][:, place]).all(), "rows of a group share their weight"
    times = rows[:, first] * 9 / 10
    assert (times >= 0).all() and times == pytest.approx(times.round())
    for c in range(3):
        assert times[:, y[first] == c].sum(axis=1) == pytest.approx(np.full(300, 9)), c


def test_weights_of_single_rows_sum_to_the_rows_of_each_class():
    y = np.repeat([0, 1, 2], [50, 7, 1])
    rows = drawn(y)
    for c, n in enumerate([50, 7, 1]):
        assert rows[:, y == c].sum(axis=1) == pytest.approx(np.full(300, n))
    assert (rows[:, y == 2] == 1).all(), "a single row has nothing to be drawn against"


def test_a_group_of_several_classes_is_drawn_with_those_of_its_rarest():
    """Patients with many nevi, five of them with one melanoma: no resample is without one, whichever row comes last."""
    y = np.array([0] * 80 + [1] * 5)
    patients = np.concatenate([np.arange(80) // 4, np.arange(5)])
    order = np.random.default_rng(0).permutation(85)
    for rows in (drawn(y, patients)[:, order], drawn(y[order], patients[order])):
        assert rows[:, y[order] == 1].sum(axis=1) == pytest.approx(np.full(300, 5))
    assert drawn(y, patients)[:, order] == pytest.approx(drawn(y[order], patients[order]))


def test_weights_of_a_class_are_multinomial():
    """Mean 1, variance 1, covariance -1/(n - 1); and a row of one class says nothing of one of another."""
    y = np.repeat([0, 1], [5, 8])
    cov = np.cov(drawn(y, count=20_000), rowvar=False)
    expected = np.zeros((13, 13))
    for c, n in ((0, 5), (1, 8)):
        expected[np.ix_(y == c, y == c)] = -1 / (n - 1)
    np.fill_diagonal(expected, 1)
    assert cov == pytest.approx(expected, abs=0.04)


def constant(values):
    """A pair of statistics that differ by these values (S,), or (S, K), however the rows are weighed."""
    return (lambda rows: np.broadcast_to(values, (len(rows), *values.shape))), (
        lambda rows: np.zeros((len(rows), *values.shape))
    )


@pytest.mark.parametrize("seeds", [2, 6, 20])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_where_only_the_seeds_vary_the_interval_is_students(seeds, confidence):
    values = np.random.default_rng(seeds).normal(0.3, 0.05, seeds)
    draws = differences([constant(values)], resamples(np.arange(2), np.arange(2), 40_000, 0), 0)[0]
    expected = stats.t.interval(confidence, seeds - 1, loc=values.mean(), scale=stats.sem(values))
    found = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    half = (expected[1] - expected[0]) / 2
    assert found == pytest.approx(expected, abs=(0.12 if seeds == 2 else 0.04) * half)  # a Cauchy quantile varies more


@pytest.mark.parametrize("value", [0.1, 0.0, -1 / 3])
def test_seeds_and_rows_that_all_agree_leave_no_interval(value):
    draws = differences([constant(np.full(6, value))], resamples(np.arange(2), np.arange(2), 200, 0), 0)[0]
    assert draws == pytest.approx(np.full(200, value)) and draws.std() < 1e-12


def test_a_difference_of_rounding_alone_is_none():
    draws = differences([constant(np.full(6, 0.1 + 0.2 - 0.3))], resamples(np.arange(2), np.arange(2), 200, 0), 0)[0]
    assert 0.1 + 0.2 != 0.3 and (draws == 0).all()


def test_one_seed_has_the_interval_of_its_rows():
    y, a, b = three_classes(14)
    f = [by_confusion(arm, y, 3, "accuracy") for arm in (a, b)]
    plain = np.concatenate([f[0](rows) - f[1](rows) for rows in resamples(y, np.arange(100), 300, 0)])[:, 0]
    assert bootstrap(a, b, y, metric="accuracy", count=300) == pytest.approx(plain)


@pytest.mark.parametrize(
    ("common", "own", "seed"), [(1.0, 0.0, 0.05), (1.0, 1.0, 0.0), (0.3, 1.0, 0.1), (0.0, 1.0, 0.0)]
)
def test_the_spread_over_rows_and_seeds_has_a_closed_form(common, own, seed):
    """Of values that every row adds to: the variance of the mean over seeds when rows are resampled, less the part that
    is each seed's own, plus that of Student's distribution around the mean of the seeds."""
    rng, n, s = np.random.default_rng(3), 400, 12
    value = common * rng.normal(0, 1, (n, 1)) + own * rng.normal(0, 1, (n, s)) + rng.normal(0, seed, s)
    pair = (lambda rows: rows @ value / n), (lambda rows: np.zeros((len(rows), s)))
    draws = differences([pair], resamples(np.zeros(n, np.int64), np.arange(n), 10_000, 0), 0)[0]
    rows = value.mean(axis=1).var(ddof=1) / n
    luck = (value - value.mean(axis=1, keepdims=True)).var(axis=0, ddof=1).mean() / n / (s - 1)
    seeds = stats.sem(value.mean(axis=0)) ** 2 * (s - 1) / (s - 3)
    assert draws.std() == pytest.approx(np.sqrt(max(rows - luck, 0) + seeds), rel=0.05)
    assert draws.mean() == pytest.approx(value.mean(), abs=4 * draws.std() / 100)


def test_where_rows_cannot_matter_the_interval_of_predictions_is_students():
    """In each seed arm a has some of 20 classes wholly right and the others wholly wrong."""
    y, right = np.repeat(np.arange(20), 2), np.array([9, 14, 11, 10, 12, 13, 8, 12])
    a = np.where(y < right[:, None], y, (y + 1) % 20)
    b = np.tile(np.where(y < 6, y, (y + 1) % 20), (8, 1))
    paired = right / 20 - 6 / 20
    expected = stats.t.interval(0.95, 7, loc=paired.mean(), scale=stats.sem(paired))
    found = np.quantile(bootstrap(a, b, y, count=4000), [0.025, 0.975])
    assert found == pytest.approx(expected, abs=0.06 * (expected[1] - expected[0]) / 2)


def test_luck_of_each_seed_with_the_rows_is_not_counted_twice():
    """Answers that are drawn anew by every seed for every row: the seeds are replicates, and the interval is Student's."""
    rng, y, runs = np.random.default_rng(12), np.arange(300) % 3, 60
    wide = []
    for run in range(runs):
        a, b = (np.where(rng.random((6, 300)) < 0.8, y, (y + 1) % 3) for _ in range(2))
        paired = np.array([np.mean([((g[y == c] == c) * 1.0).mean() for c in range(3)]) for g in a]) - np.array(
            [np.mean([((g[y == c] == c) * 1.0).mean() for c in range(3)]) for g in b]
        )
        low, high = np.quantile(bootstrap(a, b, y, count=400, seed=run), [0.025, 0.975])
        wide.append((high - low) / 2 / (stats.t.ppf(0.975, 5) * stats.sem(paired)))
    assert np.mean(wide) == pytest.approx(1.05, abs=0.12)


def test_several_values_at_once_are_each_what_they_are_alone():
    (y, a, b), one = three_classes(13, seeds=5), [1, 2]
    ask = tuple(by_confusion(np.roll(g, k, axis=1), y, 3, "recall") for g, k in ((a, 0), (b, 3)))
    both = differences([ask], resamples(y, np.arange(100), 200, 0), 0)[0]
    assert both.shape == (200, 3)
    for c in one:
        alone = tuple((lambda rows, f=f, c=c: f(rows)[..., c]) for f in ask)
        np.testing.assert_allclose(differences([alone], resamples(y, np.arange(100), 200, 0), 0)[0], both[:, c])


def three_classes(seed, rows=(60, 30, 10), seeds=1):
    """True classes (N,) and what two arms say of them, int (S, N), the same in all seeds."""
    rng, y = np.random.default_rng(seed), np.repeat([0, 1, 2], rows)
    arms = [np.where(rng.random(len(y)) < level, y, rng.integers(0, 3, len(y))) for level in (0.8, 0.5)]
    return y, *(np.tile(arm, (seeds, 1)) for arm in arms)


def test_where_only_rows_vary_seeds_that_agree_count_as_one():
    (y, *many), (_, *single) = three_classes(9, seeds=40), three_classes(9)
    np.testing.assert_allclose(bootstrap(*many, y, count=100), bootstrap(*single, y, count=100))


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "accuracy"])
def test_where_only_rows_vary_it_is_the_plain_bootstrap(metric):
    """Rows drawn one by one within each class, and scored by scikit-learn."""
    y, a, b = three_classes(10, seeds=40)
    score = {
        "balanced_accuracy": metrics.balanced_accuracy_score,
        "accuracy": metrics.accuracy_score,
        "macro_f1": lambda t, p: metrics.f1_score(t, p, average="macro", zero_division=0),
    }[metric]
    rng, plain = np.random.default_rng(0), []
    for _ in range(300):
        rows = np.concatenate([rng.choice(np.flatnonzero(y == c), (y == c).sum()) for c in range(3)])
        plain.append(score(y[rows], a[0, rows]) - score(y[rows], b[0, rows]))
    draws = bootstrap(a, b, y, metric=metric, count=1000)
    assert draws.std() == pytest.approx(np.std(plain), rel=0.1)
    assert draws.mean() == pytest.approx(np.mean(plain), abs=0.25 * np.std(plain))
    assert np.quantile(draws, [0.05, 0.95]) == pytest.approx(np.quantile(plain, [0.05, 0.95]), abs=0.3 * np.std(plain))


def test_the_spread_over_rows_has_a_closed_form_for_balanced_accuracy():
    """The root of the sum over classes of variance / rows, divided by the number of classes."""
    y, a, b = three_classes(11)
    gain = (a == y).astype(float) - (b == y)
    expected = np.sqrt(sum(gain[0, y == c].var(ddof=1) / (y == c).sum() for c in range(3))) / 3
    assert bootstrap(a, b, y, count=10_000).std() == pytest.approx(expected, rel=0.03)


def sklearn_scores(y, guess):
    """Balanced accuracy, macro F1, accuracy, and recall by class."""
    return {
        "balanced_accuracy": metrics.balanced_accuracy_score(y, guess),
        "macro_f1": metrics.f1_score(y, guess, labels=np.unique(y), average="macro", zero_division=0),
        "accuracy": metrics.accuracy_score(y, guess),
        "recall": metrics.recall_score(y, guess, labels=np.arange(4), average=None, zero_division=0),
    }


def case(seed, rows=80, classes=4, seeds=3):
    """Probabilities (S, N, K) without ties that know a little of y (N,), and integer weights (R, N) of the rows."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(rows) % classes)
    p = 0.7 * rng.dirichlet(np.ones(classes), (seeds, rows)) + 0.3 * np.eye(classes)[y]
    return p, y, rng.integers(0, 4, (5, rows))


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "accuracy", "recall"])
def test_scores_of_weighted_rows_are_scikit_learns_of_repeated_rows(metric):
    for seed in range(3):
        p, y, weight = case(seed)
        guess = p.argmax(axis=2)
        found = by_confusion(guess, y, 4, metric)
        whole, many = found(np.ones((1, 80))), found(weight.astype(float))
        assert whole.shape[:2] == (1, 3) and many.shape[:2] == (5, 3)
        for s in range(3):
            assert whole[0, s] == pytest.approx(sklearn_scores(y, guess[s])[metric])
            for r, w in enumerate(weight):
                assert many[r, s] == pytest.approx(sklearn_scores(np.repeat(y, w), np.repeat(guess[s], w))[metric])


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_of_weighted_rows_is_scikit_learns(ties):
    for seed in range(3):
        p, y, weight = case(seed)
        p = p.round(1) if ties else p
        many = by_auprc(p, y)(np.concatenate([np.ones((1, 80)), weight]))
        for r, w in enumerate([np.ones(80), *weight]):
            for s, one in enumerate(p):
                expected = [metrics.average_precision_score(y == c, one[:, c], sample_weight=w) for c in range(4)]
                assert many[r, s] == pytest.approx(np.mean(expected))


def test_average_precision_does_not_depend_on_the_order_of_rows_that_tie():
    """A model that says the same of every row ranks nothing: its average precision is the share of each class."""
    y = np.repeat([0, 1, 2], [50, 30, 20])
    p = np.full((1, 100, 3), 1 / 3)
    assert by_auprc(p, y)(np.ones((1, 100)))[0, 0] == pytest.approx(1 / 3)
    assert by_auprc(p, y[::-1])(np.ones((1, 100)))[0, 0] == pytest.approx(1 / 3)


def test_average_precision_leaves_out_a_class_without_rows():
    p, y, _ = case(4)
    kept = y != 2
    expected = [metrics.average_precision_score(y[kept] == c, p[0, kept, c]) for c in (0, 1, 3)]
    assert by_auprc(p[:, kept], y[kept])(np.ones((1, kept.sum())))[0, 0] == pytest.approx(np.mean(expected))


def test_calibration_error_of_weighted_rows_is_that_of_repeated_rows():
    for seed in range(3):
        p, y, weight = case(seed)
        found = by_ece(p, y)
        whole, many = found(np.ones((1, 80))), found(weight.astype(float))
        for s, one in enumerate(p):
            assert whole[0, s] == pytest.approx(ece(one, y))
            for r, w in enumerate(weight):
                assert many[r, s] == pytest.approx(ece(np.repeat(one, w, axis=0), np.repeat(y, w)))


def test_all_pairs_are_compared_on_the_same_draws():
    p, y, _ = case(5, seeds=6)
    guess = p.argmax(axis=2)
    a, b, c = (by_confusion(np.roll(guess, shift, axis=1), y, 4, "balanced_accuracy") for shift in (0, 1, 2))
    recall = tuple(by_confusion(np.roll(guess, shift, axis=1), y, 4, "recall") for shift in (0, 1))
    ask = [(a, b), (b, c), (a, c), recall]
    together = differences(ask, resamples(y, np.arange(80), 150, 3), 3)
    for pair, found in zip(ask, together, strict=True):
        (alone,) = differences([pair], resamples(y, np.arange(80), 150, 3), 3)
        np.testing.assert_array_equal(found, alone)
    assert together[3].shape == (150, 4)
    assert together[3].mean() == pytest.approx(together[0].mean(), abs=0.02)


def null_arms(rng, y, groups, seeds=6):
    """Predicted classes (S, N) of two arms of one distribution: row difficulty and its draw are shared by both arms and by
    the rows of a group, each arm differs from it by row, and each training by its luck."""
    of_group = groups.max() + 1
    shared, wrong = (rng.normal(0, 1.5, of_group) + rng.logistic(0, 1, of_group))[groups], (y + 1) % 3
    for _ in range(2):
        odds = 1.2 + shared + rng.normal(0, 0.5, of_group)[groups] + rng.normal(0, 0.4, (seeds, 1))
        yield np.where(odds > 0, y, wrong)


@pytest.mark.parametrize("together", [1, 2])
def test_the_interval_covers_no_difference_about_as_often_as_it_says(together):
    """Of 200 rows in three classes, alone or two to a group."""
    rng, runs = np.random.default_rng(together), 300
    y = np.repeat([0, 1, 2], [100, 60, 40])
    groups, covered = np.arange(200) // together, 0
    for run in range(runs):
        draws = bootstrap(*null_arms(rng, y, groups), y, groups=groups, count=200, seed=run)
        low, high = np.quantile(draws, [0.025, 0.975])
        covered += low <= 0 <= high
    assert 0.92 <= covered / runs <= 0.98, covered / runs
