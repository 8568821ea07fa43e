"""Is a synthetic row a copy of a training row? Run: python -m pytest tests/selection/test_copies.py"""

import tracemalloc

import cv2
import numpy as np
import pytest

from pipeline.selection import copies
from pipeline.selection.copies import NEIGHBOURS, Rule, lower, nearest, ratios, rule

FALSE_ALARMS = 0.01


def pictures(count, seed=0, side=32, channels=1):
    """Smooth random fields, each a picture of its own: large shapes, small ones, and a little noise."""
    rng = np.random.default_rng(seed)
    out = np.empty((count, side, side, channels), np.uint8)
    for one in out:
        field = sum(
            cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), side / n) * side / n * 20 for n in (4, 8, 16)
        )
        shade = field[..., None] * rng.uniform(0.7, 1.3, channels) + rng.uniform(100, 150)
        one[:] = np.clip(shade + rng.normal(0, 2, shade.shape), 0, 255)
    return out


def moved(images, step, rng):
    side = images.shape[1]
    padded = np.pad(images, ((0, 0), (step, step), (step, step), (0, 0)), mode="edge")
    at = rng.integers(0, 2 * step + 1, (len(images), 2))
    return np.stack([p[a : a + side, b : b + side] for p, (a, b) in zip(padded, at, strict=True)])


def cropped(images, rng):
    """A part of 75 to 95 % of the sides, anywhere, enlarged again."""
    side, out = images.shape[1], np.empty_like(images)
    for i, image in enumerate(images):
        n = round(rng.uniform(0.75, 0.95) * side)
        top, left = rng.integers(0, side - n + 1, 2)
        part = cv2.resize(image[top : top + n, left : left + n], (side, side), interpolation=cv2.INTER_CUBIC)
        out[i] = part.reshape(image.shape)
    return out


def exposed(images, rng):
    n = (len(images), 1, 1, 1)
    return np.clip(images * rng.uniform(0.75, 1.25, n) + rng.uniform(-25, 25, n), 0, 255).astype(np.uint8)


CONTROLS = {
    "exact": lambda images, rng: images,
    "moved": lambda images, rng: moved(images, 2, rng),
    "exposed": exposed,
    "mirrored": lambda images, rng: images[:, :, ::-1],
    "upside down": lambda images, rng: images[:, ::-1],
    "noisy": lambda images, rng: np.clip(images + rng.normal(0, 5, images.shape), 0, 255).astype(np.uint8),
    "cropped": cropped,
}


@pytest.fixture(scope="module", params=[5, 50, 5000])
def known(request):
    """Training rows, each a group of its own, and what tells copies of them."""
    images = pictures(request.param, seed=1)
    groups = np.arange(len(images)).astype(str)
    return images, groups, rule(images, groups, np.zeros(len(images), bool), FALSE_ALARMS)


@pytest.mark.parametrize("kind", CONTROLS)
def test_copies_are_caught_however_they_were_changed(known, kind):
    images, groups, told = known
    rng = np.random.default_rng(2)
    some = images[rng.integers(0, len(images), 100)]
    made = np.ascontiguousarray(CONTROLS[kind](some, rng))
    assert told.copied(nearest(made, images, groups)[0]).mean() >= 0.99


def test_honest_rows_raise_few_false_alarms(known):
    images, groups, told = known
    assert told.copied(nearest(pictures(200, seed=3), images, groups)[0]).mean() <= 0.05


def test_honest_rows_of_a_scarce_class_that_is_more_alike_than_others_are_no_copies():
    """Though its rows lie nearer to one another than any of a varied class do; exact copies are still caught."""
    template = pictures(1, 20).astype(float)
    alike = [
        np.clip(template + 0.35 * (pictures(n, k) - 128.0), 0, 255).astype(np.uint8) for n, k in ((40, 21), (200, 22))
    ]
    images = np.concatenate([pictures(300, 23), alike[0]])
    groups, scarce = np.arange(340), np.arange(340) >= 300
    apart = rule(images, groups, scarce, FALSE_ALARMS)
    pooled = rule(images, groups, np.zeros(340, bool), FALSE_ALARMS)
    found = nearest(alike[1], images, groups)[0]
    assert apart.copied(found).mean() <= 0.05 and apart.distance < pooled.distance
    assert pooled.copied(found).mean() > 2 * apart.copied(found).mean()
    assert apart.copied(nearest(alike[0], images, groups)[0]).all()


@pytest.mark.parametrize("scarce", [3, 5])
def test_a_few_scarce_rows_like_all_others_hardly_change_the_bound(scarce):
    """A bound of their own would be low for how few they are, and let copies pass."""
    for seed in range(4):
        images = pictures(150, 30 + seed)
        some = np.arange(150) < scarce
        told, pooled = (rule(images, np.arange(150), s, FALSE_ALARMS) for s in (some, np.zeros(150, bool)))
        assert 0.6 * pooled.distance <= told.distance <= pooled.distance and told.ratio == pooled.ratio


@pytest.mark.parametrize("scarce", [0, 1, 2])
def test_too_few_scarce_rows_tell_nothing(scarce):
    images, none = pictures(60, 24), np.zeros(60, bool)
    some = np.arange(60) < scarce
    assert rule(images, np.arange(60), some, FALSE_ALARMS) == rule(images, np.arange(60), none, FALSE_ALARMS)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_is_nearest_to_the_row_that_it_was_made_of(channels):
    images = pictures(60, 4, channels=channels)
    rng = np.random.default_rng(0)
    for make in CONTROLS.values():
        distance, position = nearest(np.ascontiguousarray(make(images, rng)), images, np.arange(60))
        assert (position[:, 0] == np.arange(60)).mean() > 0.98
        assert (np.diff(distance, axis=1) >= 0).all() and (distance >= 0).all()


def test_an_exact_copy_is_as_near_as_can_be_and_a_negative_is_not():
    images = pictures(2, 5)
    assert nearest(images[:1], images[:1], np.zeros(1))[0][0, 0] == pytest.approx(0, abs=1e-4)
    assert nearest(255 - images[:1], images[:1], np.zeros(1))[0][0, 0] > 0.2


def test_of_a_group_the_nearest_row_alone_counts():
    images = pictures(8, 6)
    several = np.concatenate([images, exposed(images, np.random.default_rng(0))])
    groups = np.tile(np.arange(8), 2)
    position = nearest(images, several, groups)[1]
    assert all(len(set(groups[p])) == NEIGHBOURS for p in position)
    assert (groups[position[:, 0]] == np.arange(8)).all()


def test_rows_of_a_rows_own_group_do_not_count():
    images, groups = pictures(12, 7), np.repeat(np.arange(4), 3)
    position = nearest(images, images, groups, groups)[1]
    assert all(g not in groups[p[p >= 0]] for g, p in zip(groups, position, strict=True))
    assert (position >= 0).sum(axis=1).tolist() == [3] * 12, "three other groups"


def test_no_rows_have_no_neighbours_and_of_few_rows_some_are_missing():
    distance, position = nearest(pictures(0), pictures(5), np.arange(5))
    assert distance.shape == position.shape == (0, NEIGHBOURS)
    distance, position = nearest(pictures(3), pictures(1, 8), np.zeros(1))
    assert np.isfinite(distance).sum(axis=1).tolist() == [1] * 3 and (position[:, 1:] == -1).all()
    assert ratios(distance).tolist() == [1.0] * 3


def test_a_blank_row_is_no_copy_of_a_blank_row():
    blank = np.full((2, 16, 16, 1), 90, np.uint8)
    assert (nearest(blank, blank, np.arange(2))[0][:, 0] >= 1).all()


def test_a_faint_row_is_a_copy_of_itself():
    faint = (pictures(5) > 127).astype(np.uint8)  # two grey levels, one apart
    distance, place = nearest(faint, faint, np.arange(5))
    assert (distance[:, 0] == 0).all() and place[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert (distance[:, 1] == 2).all()


def test_where_no_false_alarm_is_allowed_nothing_is_a_copy():
    images = pictures(20, 9)
    told = rule(images, np.arange(20), np.ones(20, bool), 0.0)
    assert not told.copied(nearest(images, images, np.arange(20))[0]).any()


@pytest.mark.parametrize("count", [1, 2])
def test_of_one_or_two_rows_exact_copies_are_caught(count):
    images = pictures(count, 10)
    told = rule(images, np.arange(count), np.ones(count, bool), FALSE_ALARMS)
    assert told.copied(nearest(images, images, np.arange(count))[0]).all()
    assert not told.copied(nearest(pictures(20, 11), images, np.arange(count))[0]).any()


def test_either_of_the_two_bounds_makes_a_copy():
    distance = np.array(
        [[0.1, 0.2, 0.2, 0.2], [0.1, 0.5, 0.5, 0.5], [0.01, 0.011, 0.012, 0.013], [0.3, 0.4, np.inf, np.inf]]
    )
    assert Rule(0.02, 0.3).copied(distance).tolist() == [False, True, True, False]
    np.testing.assert_allclose(ratios(distance), [0.5, 0.2, 0.01 / 0.012, 0.75])


def test_the_lower_bound_is_the_quantile_of_many_values_and_holds_for_few():
    rng = np.random.default_rng(0)
    many = np.exp(rng.normal(size=5000))
    assert lower(many, 0.01) == np.quantile(many, 0.01)
    below = [np.exp(rng.normal()) < lower(np.exp(rng.normal(size=6)), 0.05) for _ in range(4000)]
    assert np.mean(below) == pytest.approx(0.05, abs=0.015)
    assert lower(np.array([0.3, 0.4]), 0.01) == 0.0


@pytest.mark.parametrize(("block", "rows_at_once"), [(1, 1), (7, 4), (3, 100), (100, 5)])
def test_the_size_of_a_block_changes_nothing(monkeypatch, block, rows_at_once):
    rows, reference, groups = pictures(9, 12), pictures(23, 13), np.arange(23) // 2
    given = (rows, reference, groups, np.arange(9))
    whole = nearest(*given)
    monkeypatch.setattr(copies, "BLOCK", block)
    monkeypatch.setattr(copies, "ROWS", rows_at_once)
    for one, other in zip(whole, nearest(*given), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_crops_of_the_reference_are_sketched_once_for_many_rows(monkeypatch):
    sketched, sketches = [], copies._sketches
    monkeypatch.setattr(copies, "BLOCK", 4)
    monkeypatch.setattr(copies, "ROWS", 8)
    monkeypatch.setattr(copies, "_sketches", lambda grey: sketched.append(len(grey)) or sketches(grey))
    nearest(pictures(16, 12), pictures(9, 13), np.arange(9))
    assert sketched == [4, 4, 1] * 2


def test_memory_is_that_of_a_block_and_not_of_the_sets(monkeypatch, tmp_path):
    monkeypatch.setattr(copies, "BLOCK", 64)
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.uint8, (2000, 24, 24, 1))
    rows[:] = np.random.default_rng(0).integers(0, 256, rows.shape, np.uint8)

    def peak(count):
        tracemalloc.start()
        nearest(rows[:4], rows[:count], np.arange(count))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(64)
    assert peak(2000) < 2 * peak(500)
