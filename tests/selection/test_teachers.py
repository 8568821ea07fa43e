"""What the teachers say of a row. Run: python -m pytest tests/selection/test_teachers.py"""

import numpy as np
import pytest

from pipeline.selection.teachers import likeliest, neighbouring


def test_likeliest_takes_the_likeliest_class():
    label, confidence = likeliest(np.array([[0.45, 0.35, 0.2], [0.2, 0.2, 0.6], [0.5, 0.5, 0.0]]))
    assert label.tolist() == [0, 2, 0], "the first of equal ones"
    assert confidence == pytest.approx([0.45, 0.6, 0.5])


def test_likeliest_of_no_rows():
    label, confidence = likeliest(np.empty((0, 4)))
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
