"""Every score against scikit-learn or a closed form. Run: python -m pytest tests/evaluation/test_scores.py"""

import numpy as np
import pytest
from sklearn import metrics

from pipeline.evaluation.scores import confusion, ece, from_confusion, nll, reliability, scores

PRIMARY = ("balanced_accuracy", "macro_f1", "accuracy")


def random_case(seed, rows=200, classes=5):
    """Probabilities (N, K) that know a little of the labels (N,)."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(rows) % classes)
    return 0.7 * rng.dirichlet(np.ones(classes), rows) + 0.3 * np.eye(classes)[y], y


def as_dict(p, y, names=None):
    names = names or tuple(f"c{i}" for i in range(p.shape[1]))
    rows = scores(p, y, names)
    assert len({(c, m) for c, m, _ in rows}) == len(rows), "one value per class and metric"
    return {(c, m): v for c, m, v in rows}


def macro_reference(p, y):
    """What scikit-learn gives for the macro rows, over the classes present in y."""
    guess, here = p.argmax(1), np.unique(y)
    rank = [(metrics.roc_auc_score(y == c, p[:, c]), metrics.average_precision_score(y == c, p[:, c])) for c in here]
    macro = {"labels": here, "average": "macro", "zero_division": 0}
    return {
        "balanced_accuracy": metrics.recall_score(y, guess, **macro),
        "macro_precision": metrics.precision_score(y, guess, **macro),
        "macro_f1": metrics.f1_score(y, guess, **macro),
        "macro_auroc": np.mean([a for a, _ in rank]),
        "macro_auprc": np.mean([b for _, b in rank]),
        "accuracy": metrics.accuracy_score(y, guess),
        "nll": metrics.log_loss(y, p, labels=np.arange(p.shape[1])),
    }


@pytest.mark.parametrize("seed", range(3))
def test_macro_scores_agree_with_scikit_learn(seed):
    p, y = random_case(seed)
    found = as_dict(p, y)
    for name, value in macro_reference(p, y).items():
        assert found["", name] == pytest.approx(value), name
    assert found["", "balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, p.argmax(1)))
    assert found["", "macro_auroc"] == pytest.approx(metrics.roc_auc_score(y, p, multi_class="ovr"))


@pytest.mark.parametrize("seed", range(3))
def test_class_scores_agree_with_scikit_learn(seed):
    p, y = random_case(seed)
    found, guess = as_dict(p, y), p.argmax(1)
    every = {"labels": np.arange(5), "average": None, "zero_division": 0}
    expected = {
        "recall": metrics.recall_score(y, guess, **every),
        "precision": metrics.precision_score(y, guess, **every),
        "f1": metrics.f1_score(y, guess, **every),
        "auroc": [metrics.roc_auc_score(y == c, p[:, c]) for c in range(5)],
        "auprc": [metrics.average_precision_score(y == c, p[:, c]) for c in range(5)],
    }
    for name, values in expected.items():
        assert [found[f"c{c}", name] for c in range(5)] == pytest.approx(list(values)), name


def test_a_class_without_rows_has_nan_and_is_left_out_of_every_mean():
    p, y = random_case(3)
    p, y = p[y != 2], y[y != 2]
    assert (p.argmax(1) == 2).any(), "it is predicted, though never true"
    found = as_dict(p, y)
    assert all(np.isnan(found["c2", m]) for m in ("recall", "precision", "f1", "auroc", "auprc"))
    for name, value in macro_reference(p, y).items():
        assert found["", name] == pytest.approx(value), name


def test_a_single_class_has_accuracies_but_no_ranking():
    p = random_case(4)[0]
    found = as_dict(p, np.ones(len(p), np.int64))
    assert found["", "balanced_accuracy"] == found["", "accuracy"] == (p.argmax(1) == 1).mean()
    assert np.isnan(found["", "macro_auroc"]) and np.isnan(found["c1", "auroc"])


def test_two_classes_share_one_auroc():
    p, y = random_case(5, classes=2)
    found = as_dict(p, y)
    assert found["c0", "auroc"] == pytest.approx(found["c1", "auroc"])
    assert found["", "macro_auroc"] == pytest.approx(metrics.roc_auc_score(y, p[:, 1]))


def test_a_perfect_model_has_perfect_scores():
    y = np.arange(12) % 4
    found = as_dict(np.eye(4)[y], y)
    low = {("", "nll"), ("", "ece")}
    assert all(v == (0 if key in low else 1) for key, v in found.items()), found


def test_scores_do_not_depend_on_the_order_of_rows():
    p, y = random_case(6)
    order = np.random.default_rng(0).permutation(len(y))
    one, two = as_dict(p, y), as_dict(p[order], y[order])
    assert one.keys() == two.keys() and all(one[k] == pytest.approx(two[k]) for k in one)


def test_nll_of_an_impossible_class_is_bounded():
    assert nll(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-12))


@pytest.mark.parametrize("confidence", [0.55, 0.8, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_ece_of_a_constant_confidence_is_its_distance_to_the_accuracy(confidence, share):
    p = np.tile([confidence, 1 - confidence], (40, 1))
    y = (np.arange(40) >= 40 * share).astype(np.int64)
    assert ece(p, y) == pytest.approx(abs(confidence - share))


def test_ece_weighs_bins_by_their_rows():
    p = np.repeat([[0.6, 0.4], [0.9, 0.1]], [30, 10], axis=0)
    y = np.zeros(40, np.int64)  # all right: gaps of 0.4 and 0.1
    assert ece(p, y) == pytest.approx(0.75 * 0.4 + 0.25 * 0.1)


def test_ece_does_not_let_errors_of_different_bins_cancel():
    p = np.repeat([[0.6, 0.4], [0.9, 0.1]], 10, axis=0)
    y = np.array([0] * 9 + [1] + [0] * 6 + [1] * 4)  # 0.6 is right in 9 of 10, 0.9 in 6 of 10
    assert ece(p, y) == pytest.approx(0.3)


def test_confusion_agrees_with_scikit_learn():
    p, y = random_case(7)
    table = confusion(p.argmax(1), y, 6)  # class 5 occurs nowhere
    assert (table == metrics.confusion_matrix(y, p.argmax(1), labels=np.arange(6))).all()


@pytest.mark.parametrize("metric", PRIMARY)
def test_metrics_from_a_confusion_equal_those_from_probabilities(metric):
    for seed in range(5):
        p, y = random_case(seed)
        if seed % 2:
            p, y = p[y != 1], y[y != 1]
        value = float(from_confusion(metric, confusion(p.argmax(1), y, 5)))
        assert value == pytest.approx(macro_reference(p, y)[metric])
        assert value == pytest.approx(as_dict(p, y)["", metric])


@pytest.mark.parametrize("metric", PRIMARY)
def test_confusions_are_scored_one_by_one_over_any_leading_dimensions(metric):
    stack = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 4))
    stack[0, 0, 1] = 0  # a class without true rows
    value = from_confusion(metric, stack)
    assert value.shape == (2, 3)
    one_by_one = [float(from_confusion(metric, stack[i, j])) for i in range(2) for j in range(3)]
    assert value.ravel() == pytest.approx(one_by_one)


def test_weighted_tables_score_like_repeated_rows():
    p, y = random_case(8, rows=50)
    weight = np.random.default_rng(0).integers(0, 4, 50)
    rows = np.repeat(np.arange(50), weight)
    table = np.zeros((5, 5))
    np.add.at(table, (y, p.argmax(1)), weight)
    for metric in PRIMARY:
        repeated = from_confusion(metric, confusion(p.argmax(1)[rows], y[rows], 5))
        assert from_confusion(metric, table) == pytest.approx(repeated)


def test_recall_by_class_agrees_with_scikit_learn():
    for seed in range(3):
        p, y = random_case(seed)
        guess = p.argmax(1)
        expected = metrics.recall_score(y, guess, labels=np.arange(5), average=None)
        assert from_confusion("recall", confusion(guess, y, 5)) == pytest.approx(expected)


def test_the_mean_recall_is_the_balanced_accuracy_over_any_leading_dimensions():
    stack = np.random.default_rng(0).integers(1, 9, (2, 3, 4, 4))
    recall = from_confusion("recall", stack)
    assert recall.shape == (2, 3, 4)
    assert recall.mean(axis=-1) == pytest.approx(from_confusion("balanced_accuracy", stack))


def test_a_class_without_rows_has_the_recall_zero():
    assert from_confusion("recall", np.array([[3, 1, 0], [0, 0, 0], [1, 0, 1]])).tolist() == [0.75, 0, 0.5]


def seeds_case(seeds=3):
    """Probabilities (S, N, K) of several models, and y (N,)."""
    y = random_case(0)[1]
    rng = np.random.default_rng(9)
    return 0.7 * rng.dirichlet(np.ones(5), (seeds, len(y))) + 0.3 * np.eye(5)[y], y


@pytest.mark.parametrize("bins", [1, 4, 10])
def test_reliability_agrees_with_a_direct_count_over_all_seeds(bins):
    p, y = seeds_case()
    rows = [(one[i].max(), one[i].argmax() == y[i]) for one in p for i in range(len(y))]
    expected = []
    for b in range(bins):
        inside = [r for r in rows if b / bins <= r[0] < (b + 1) / bins]
        if inside:
            sure, hit = zip(*inside, strict=True)
            expected.append((sum(sure) / len(inside), sum(hit) / len(inside), len(inside) / len(rows)))
    found = reliability(p, y, bins)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other)


def test_shares_of_reliability_sum_to_one_and_its_gaps_to_the_ece():
    p, y = seeds_case()
    assert sum(share for _, _, share in reliability(p, y)) == pytest.approx(1)
    assert sum(share * accuracy for _, accuracy, share in reliability(p, y)) == pytest.approx((p.argmax(2) == y).mean())
    gaps = [share * abs(confidence - accuracy) for confidence, accuracy, share in reliability(p[:1], y, 15)]
    assert sum(gaps) == pytest.approx(ece(p[0], y))


def test_reliability_of_full_confidence_is_one_bin():
    y = np.arange(12) % 4
    assert reliability(np.eye(4)[[y, y]], y) == [(1.0, 1.0, 1.0)]
