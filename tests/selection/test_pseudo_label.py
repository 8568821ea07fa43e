"""What the teachers say of a row. Run: python -m pytest tests/selection/test_pseudo_label.py"""

import numpy as np
import pytest

from pipeline.selection.pseudo_label import band_distance, centre_distance, judge, neighbouring

TEACHERS, DIMS = 3, 6


def test_judge_takes_the_class_of_the_mean_probability():
    one = np.array([[0.9, 0.1, 0.0], [0.2, 0.2, 0.6]])
    two = np.array([[0.0, 0.6, 0.4], [0.2, 0.2, 0.6]])
    label, confidence = judge(np.stack([one, two]))
    assert label.tolist() == [0, 2]
    assert confidence == pytest.approx([0.45, 0.6])


def test_judge_of_one_teacher_is_that_teacher():
    p = np.random.default_rng(0).dirichlet(np.ones(5), 40)
    label, confidence = judge(p[None])
    assert (label == p.argmax(1)).all() and (confidence == p.max(1)).all()


def test_judge_of_no_rows():
    label, confidence = judge(np.empty((3, 0, 4)))
    assert len(label) == len(confidence) == 0


def held_out(mean_rows):
    """Out-of-fold probabilities (N, K) whose class means are the given rows, two rows each; and their labels."""
    mean = np.array(mean_rows)
    wobble = np.zeros_like(mean)
    wobble[:, 0], wobble[:, 1] = 0.01, -0.01
    return np.concatenate([mean + wobble, mean - wobble]), np.tile(np.arange(len(mean)), 2)


def test_neighbours_are_the_classes_a_class_is_most_taken_for():
    held, y = held_out([[0.5, 0.1, 0.4], [0.3, 0.6, 0.1], [0.1, 0.2, 0.7]])
    assert neighbouring(held, y, 1).tolist() == [[True, False, True], [True, True, False], [False, True, True]]


def test_no_neighbours_leave_each_class_its_own():
    held, y = held_out([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2], [0.5, 0.3, 0.2]])  # even where its own is not the likeliest
    assert (neighbouring(held, y, 0) == np.eye(3, dtype=bool)).all()


@pytest.mark.parametrize("classes", [2, 3, 5, 8])
@pytest.mark.parametrize("count", range(7))
def test_every_class_has_itself_and_that_many_neighbours_but_half_of_the_others_at_most(count, classes):
    rng = np.random.default_rng(count)
    near = neighbouring(rng.dirichlet(np.ones(classes), 60), rng.integers(0, classes, 60), count)
    assert near.diagonal().all()
    assert (near.sum(axis=1) == 1 + min(count, (classes - 1) // 2)).all()
    assert not near.all(axis=1).any(), "some class must be left that a row can be rejected for"


def test_ties_go_to_the_first_class_and_a_class_without_rows_ties_with_all():
    held, y = held_out([[0.4, 0.15, 0.15, 0.15, 0.15], [0.2, 0.2, 0.2, 0.2, 0.2]])
    near = neighbouring(held, y, 2)  # classes 2 to 4 have no rows
    assert near[0].tolist() == [True, True, True, False, False]
    assert near[3].tolist() == [True, True, False, True, False]


def world(rows=150, classes=3, extra=300, seed=0, collapse=1.0):
    """Gaussian classes as each teacher sees them; `collapse` < 1 pulls the rows a teacher saw to their class centre.

    Returns real (T, N, D), y, fold, fresh (T, M, D) from the same classes and their labels.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 10, (TEACHERS, classes, DIMS))
    y, labels = np.repeat(np.arange(classes), rows), np.repeat(np.arange(classes), extra)
    fold = np.tile(np.arange(TEACHERS), len(y) // TEACHERS)
    noise = rng.normal(0, 1, (TEACHERS, len(y), DIMS))
    noise = np.where((fold != np.arange(TEACHERS)[:, None])[..., None], collapse * noise, noise)
    return centres[:, y] + noise, y, fold, centres[:, labels] + rng.normal(0, 1, (TEACHERS, len(labels), DIMS)), labels


def test_about_95_percent_of_held_out_rows_lie_within_1():
    real, y, fold, fresh, labels = world()
    _, held = band_distance(real, y, fold, fresh, labels)
    assert np.mean(held < 1) == pytest.approx(0.95, abs=0.01)


def test_fresh_rows_of_the_same_classes_lie_as_far_as_held_out_ones():
    real, y, fold, fresh, labels = world()
    one, held = band_distance(real[:1], y, np.where(fold == 0, 0, 1), fresh[:1], labels)
    assert np.mean(one < 1) == pytest.approx(0.95, abs=0.03)
    assert np.median(one) == pytest.approx(np.nanmedian(held), rel=0.1)


@pytest.mark.parametrize("collapse", [0.5, 0.05])
def test_a_teacher_that_overfits_its_own_rows_does_not_make_fresh_ones_look_far(collapse):
    """The unit comes from rows a teacher never saw, so memorised rows cannot shrink it."""
    honest, _ = band_distance(*world(collapse=1.0))
    fitted, held = band_distance(*world(collapse=collapse))
    assert np.median(fitted) == pytest.approx(np.median(honest), rel=0.1)
    assert np.mean(held < 1) == pytest.approx(0.95, abs=0.01)


def test_distances_do_not_depend_on_the_scale_or_origin_of_the_features():
    real, y, fold, fresh, labels = world(rows=30, extra=20)
    plain = band_distance(real, y, fold, fresh, labels)
    scale, shift = np.array([1e-3, 7.0, 1e4])[:, None, None], np.array([0.0, -5.0, 100.0])[:, None, None]
    scaled = band_distance(real * scale + shift, y, fold, fresh * scale + shift, labels)
    for a, b in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_rows_of_another_class_lie_far_and_the_centre_lies_at_zero():
    real, y, fold, _, _ = world()
    centre = np.stack([[t[(fold != k) & (y == c)].mean(0) for c in range(3)] for k, t in enumerate(real)])
    own, _ = band_distance(real, y, fold, centre, np.arange(3))
    other, _ = band_distance(real, y, fold, centre, np.array([1, 2, 0]))
    assert own == pytest.approx([0, 0, 0], abs=1e-9)
    assert (other > 1.5).all()


def test_a_class_that_no_teacher_saw_has_no_distance():
    real, y, fold, fresh, labels = world(rows=30, extra=4)
    distance, held = band_distance(real, y, fold, fresh, np.where(labels == 2, 3, labels))
    assert np.isnan(distance[labels == 2]).all()
    assert np.isfinite(distance[labels != 2]).all() and np.isfinite(held).all()


def test_a_class_of_one_row_borrows_the_common_spread():
    real, y, fold, fresh, labels = world(rows=90, extra=90)
    keep = (y != 2) | (np.arange(len(y)) == np.flatnonzero(y == 2)[0])
    distance, held = band_distance(real[:, keep], y[keep], fold[keep], fresh, labels)
    assert np.isfinite(distance).all(), "two of three teachers saw the row"
    assert np.isnan(held[y[keep] == 2]).all(), "the third has no centre to measure it from"
    assert 0.3 < np.median(distance[labels == 2]) < 3


def test_a_set_where_every_class_has_one_row_gives_numbers_or_nan_but_no_error():
    real, y, fold = np.random.default_rng(0).normal(size=(3, 3, 4)), np.arange(3), np.arange(3)
    distance, held = band_distance(real, y, fold, real, y)
    assert distance.shape == held.shape == (3,)


def test_no_synthetic_rows():
    real, y, fold, _, _ = world(rows=30)
    distance, held = band_distance(real, y, fold, np.empty((TEACHERS, 0, DIMS)), np.zeros(0, np.int64))
    assert distance.shape == (0,) and np.isfinite(held).all()


def test_of_an_encoder_without_labels_1_is_as_far_as_95_percent_of_new_rows_too():
    real, y, _, fresh, labels = world(collapse=1.0)
    distance = centre_distance(real[0], y, fresh[0], labels)
    assert 0.91 < (distance <= 1).mean() < 0.98
    assert np.median(centre_distance(real[0], y, fresh[0], (labels + 1) % 3)) > 2, "of another class they lie far off"
    moved = centre_distance(3 * real[0] + 1, y, 3 * fresh[0] + 1, labels)
    assert np.allclose(moved, distance)


def test_a_class_of_one_row_has_a_distance_by_the_spread_of_the_others():
    real, y, _, fresh, labels = world()
    keep = (y != 2) | (np.cumsum(y == 2) == 1)
    distance = centre_distance(real[0][keep], y[keep], fresh[0], labels)
    assert np.isfinite(distance).all() and np.median(distance[labels == 2]) < 2
    assert len(centre_distance(real[0], y, np.empty((0, DIMS)), np.zeros(0, np.int64))) == 0
