"""Generators that copy are found, honest ones are not. Run: python -m pytest tests/evaluation/test_privacy.py"""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from pipeline.evaluation import privacy

DIMS = 6


def world(made: str, rows: int = 40, extra: int = 120, seed: int = 0) -> privacy.Distances:
    """Gaussian rows of train, as many held out, and synthetic ones that are made in a way."""
    rng = np.random.default_rng(seed)
    train, held, new = (rng.normal(size=(n, DIMS)) for n in (rows, rows, extra))
    picked = train[rng.integers(rows, size=extra)]
    fresh = {
        "new": new,
        "copies": picked,
        "near copies": picked + 0.1 * rng.normal(size=picked.shape),
        "held out": held[rng.integers(rows, size=extra)],
    }[made]
    groups = [np.array([f"{side}{i}" for i in range(rows)]) for side in ("t", "h")]
    return privacy.Distances(cdist(fresh, train), cdist(fresh, held), cdist(held, train), *groups)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("made", "low", "high"), [("new", 0.35, 0.65), ("copies", 1, 1), ("near copies", 0.98, 1), ("held out", 0, 0)]
)
def test_copies_are_nearer_to_training_rows_and_honest_rows_are_not(made, low, high, seed):
    found = privacy.closer([world(made, seed=seed)], 0, 0.95)
    assert low <= found["value"] <= high
    assert 0 <= found["ci_low"] <= found["value"] <= found["ci_high"] <= 1


def test_the_interval_of_honest_rows_holds_one_half_about_as_often_as_it_says():
    found = [privacy.closer([world("new", seed=s)], 0, 0.95) for s in range(60)]
    assert np.mean([f["ci_low"] <= 0.5 <= f["ci_high"] for f in found]) >= 0.85


def test_equal_distances_count_one_half():
    same = np.ones((5, 4))
    part = privacy.Distances(same, same, same[:4], np.arange(4), np.arange(4))
    assert privacy.closer([part], 0, 0.95) == {"value": 0.5, "ci_low": 0.5, "ci_high": 0.5}


def test_more_training_than_held_out_rows_do_not_look_like_copies():
    rng = np.random.default_rng(0)
    train, held, new = (rng.normal(size=(n, DIMS)) for n in (400, 20, 200))
    part = privacy.Distances(cdist(new, train), cdist(new, held), cdist(held, train), np.arange(400), np.arange(20))
    assert (part.train.min(axis=1) < part.held.min(axis=1)).mean() > 0.9, "without cutting, nearly all would be nearer"
    found = privacy.closer([part], 0, 0.95)
    assert found["ci_low"] <= 0.5 <= found["ci_high"]


def test_rows_of_one_group_count_once():
    """Forty pictures of two things are two groups: cut to the one held-out group, not to forty rows."""
    rng = np.random.default_rng(0)
    things, held, new = rng.normal(size=(2, DIMS)), rng.normal(size=(1, DIMS)), rng.normal(size=(300, DIMS))
    train = np.repeat(things, 20, axis=0) + 1e-3 * rng.normal(size=(40, DIMS))
    groups = np.repeat(["a", "b"], 20)
    part = privacy.Distances(cdist(new, train), cdist(new, held), cdist(held, train), groups, np.array(["c"]))
    alone = [(cdist(new, one[None])[:, 0] < part.held[:, 0]).mean() for one in things]
    assert privacy.closer([part], 0, 0.95)["value"] == pytest.approx(np.mean(alone), abs=0.05)


@pytest.mark.parametrize(("made", "low", "high"), [("new", 0.0, 0.04), ("copies", 1, 1), ("near copies", 0.9, 1)])
def test_rows_nearer_than_unseen_rows_are(made, low, high):
    part = world(made, rows=300)
    found = privacy.nearer_than_unseen(part.train.min(axis=1), part.between.min(axis=1), 0.95)
    assert low <= found["value"] <= high and found["ci_low"] <= found["value"] <= found["ci_high"]


def test_with_few_unseen_rows_one_in_a_hundred_cannot_be_told():
    part = world("copies", rows=privacy.LEAST_HELD - 1)
    found = privacy.nearer_than_unseen(part.train.min(axis=1), part.between.min(axis=1), 0.95)
    assert all(np.isnan(v) for v in found.values())


def scores(known, y=None) -> privacy.Scores:
    known = np.asarray(known, float)
    return privacy.Scores(known, np.zeros(len(known), int) if y is None else np.asarray(y), np.arange(len(known)))


def test_auc_is_that_of_scikit_learn_with_ties_too():
    rng = np.random.default_rng(0)
    train, held = rng.integers(0, 9, 70), rng.integers(0, 7, 50)
    expected = roc_auc_score(np.repeat([1, 0], [70, 50]), np.concatenate([train, held]))
    assert privacy.auc(scores(train), scores(held)) == pytest.approx(expected)


def test_classes_are_compared_with_themselves_alone():
    """Class 1 seems better known altogether: that tells no member."""
    train, held = scores([0, 1, 10, 11], [0, 0, 1, 1]), scores([0, 1, 10, 11, 10, 11], [0, 0, 1, 1, 1, 1])
    assert privacy.auc(train, held) == 0.5
    assert privacy.auc(scores([2.0, 3], [0, 2]), scores([1.0, 0], [0, 1])) == 1.0, "a class on one side says nothing"


@pytest.mark.parametrize("seed", range(3))
def test_members_that_are_known_are_told_and_others_are_not(seed):
    rng = np.random.default_rng(seed)
    y, none, held = np.repeat([0, 1], 150), rng.normal(size=300), rng.normal(size=300) + 5 * np.repeat([0, 1], 150)
    guess = privacy.membership(scores(none + 5 * y, y), scores(held, y), 0, 0.95)
    assert guess["auc"]["ci_low"] <= 0.5 <= guess["auc"]["ci_high"] and guess["tpr"]["value"] < 0.06
    told = privacy.membership(scores(none + 5 * y + 9, y), scores(held, y), 0, 0.95)
    assert told["auc"]["value"] > 0.999 and told["tpr"]["value"] > 0.99 and told["auc"]["ci_low"] > 0.99


def test_few_held_out_rows_give_an_auc_and_no_rate():
    found = privacy.membership(scores(np.arange(20)), scores(np.arange(20)), 0, 0.95)
    assert found["auc"]["value"] == 0.5 and np.isnan(found["tpr"]["value"]) and np.isnan(found["tpr"]["ci_low"])


def test_without_a_class_on_both_sides_nothing_is_known():
    found = privacy.membership(scores([1.0], [0]), scores([1.0], [1]), 0, 0.95)
    assert all(np.isnan(v) for one in found.values() for v in one.values())


def test_every_measure_comes_once_and_the_same_each_time():
    parts = {"a": world("copies"), "b": world("new", rows=30, seed=1)}
    one, two = ([*privacy.measures(parts, 3, 0.9)] for _ in range(2))
    assert repr(one) == repr(two)
    assert [(label, name) for label, name, _ in one] == [
        ("a", "closer"), ("b", "closer"), ("", "closer"), ("", "near"), ("", "auc"), ("", "tpr")
    ]  # fmt: skip
    assert one[0][2]["value"] == 1 and one[4][2]["value"] > 0.7
    assert not [*privacy.measures({}, 3, 0.9)]


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)


def test_a_moved_or_mirrored_picture_is_near_where_the_dataset_allows_it(pictures):
    flipped, upside_down = pictures[:, :, ::-1], pictures[:, ::-1]
    assert privacy.pixel_distances(pictures, pictures, ()).diagonal().max() == 0
    moved = np.pad(pictures, ((0, 0), (1, 0), (0, 0), (0, 0)), mode="edge")[:, :16]
    assert privacy.pixel_distances(moved, pictures, ()).diagonal().max() < 40, "but for the row that is lost"
    assert privacy.pixel_distances(flipped, pictures, ("horizontal",)).diagonal().max() == 0
    assert privacy.pixel_distances(flipped, pictures, ("vertical",)).diagonal().min() > 50
    assert privacy.pixel_distances(upside_down[:, :, ::-1], pictures, ("horizontal", "vertical")).diagonal().max() == 0


def test_the_distance_of_two_flat_pictures_is_that_of_their_greys():
    dark, light = np.full((1, 8, 8, 1), 10, np.uint8), np.full((2, 8, 8, 1), 250, np.uint8)
    assert np.allclose(privacy.pixel_distances(dark, light, ()), [[240, 240]])


@pytest.mark.parametrize(("classes", "held"), [(9, 15), (20, 5), (34, 3)])
def test_where_nothing_is_known_one_in_a_hundred_is_told_however_few_rows_a_class_has(classes, held):
    """Held-out rows were scaled by themselves, so a few of a class never lay far off, and honest generators seemed to leak."""
    rng, found = np.random.default_rng(0), []
    for _ in range(100):
        sides = [
            privacy.Scores(rng.normal(size=classes * n), np.repeat(np.arange(classes), n), np.arange(classes * n))
            for n in (30, held)
        ]
        found.append(privacy.rate(*sides))
    assert 0.004 < np.mean(found) < 0.016


def test_a_class_of_two_held_out_rows_has_no_scale():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(60), 2)
    one = privacy.Scores(rng.normal(size=120), y, np.arange(120))
    assert np.isnan(privacy.rate(one, one))


@pytest.mark.parametrize(("train_rows", "held_rows"), [(5, 5), (10, 2), (1, 5)])
def test_rows_of_honest_generators_lie_halfway_however_large_the_groups_of_a_side_are(train_rows, held_rows):
    """Groups of ten rows came nearer than groups of two, and thinned groups less near: copies passed for unseen."""
    rng, told = np.random.default_rng(1), []
    for _ in range(6):
        things = [rng.normal(size=(40, DIMS)) for _ in range(2)]
        train, held = (
            np.repeat(t, n, axis=0) + 0.5 * rng.normal(size=(40 * n, DIMS))
            for t, n in zip(things, (train_rows, held_rows), strict=True)
        )
        made = rng.normal(size=(150, DIMS)) + 0.5 * rng.normal(size=(150, DIMS))
        groups = [np.repeat(np.arange(40), n).astype(str) for n in (train_rows, held_rows)]
        part = privacy.Distances(cdist(made, train), cdist(made, held), cdist(held, train), *groups)
        told.append(privacy.closer([part], 0, 0.95)["value"])
    assert np.mean(told) == pytest.approx(0.5, abs=0.06)
