"""Views are a function of a row's own seed, drawn once. Run: python -m pytest tests/data/test_augment.py"""

import random
from typing import ClassVar

import numpy as np
import pytest

from pipeline.data import augment
from pipeline.data.augment import (
    Mirrored,
    Views,
    augmented,
    choose_flips,
    choose_policy,
    policy,
    randaugment,
    views_per_row,
    write_views,
)
from pipeline.data.sources.digits import read_digits
from pipeline.params.sections import Digits

POLICIES = ("none", "safe", "glyph", "texture")
BOTH = ("horizontal", "vertical")


def pictures(n: int, size: int = 12, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (13, 3), (32, 3), (4, 1)])
@pytest.mark.parametrize("strength", [0.0, 1.0, 3.0])
def test_every_policy_keeps_shape_and_type(name, size, channels, strength):
    image = pictures(1, size, channels)[0]
    views = augmented(image, policy(name, BOTH, strength), 5, 20)
    assert views.shape == (20, size, size, channels) and views.dtype == np.uint8
    assert np.array_equal(image, pictures(1, size, channels)[0])


@pytest.mark.parametrize("name", ["safe", "glyph", "texture"])
def test_views_depend_on_the_rows_own_seed_alone(name):
    image, pipeline = pictures(1)[0], policy(name, BOTH, 1.0)
    first = augmented(image, pipeline, 7, 6)
    augmented(pictures(1, seed=9)[0], pipeline, 8, 11)  # what the same pipeline did before leaves no trace
    assert np.array_equal(augmented(image, pipeline, 7, 6), first)
    assert np.array_equal(augmented(image, policy(name, BOTH, 1.0), 7, 6), first)
    assert np.array_equal(augmented(image, pipeline, 7, 3), first[:3])
    assert not np.array_equal(augmented(image, pipeline, 8, 6), first)


def test_views_do_not_depend_on_global_random_state():
    image, pipeline = pictures(1)[0], policy("texture", BOTH, 1.0)
    first = augmented(image, pipeline, 7, 6)
    random.seed(99)
    np.random.seed(99)
    assert np.array_equal(augmented(image, pipeline, 7, 6), first)


@pytest.mark.parametrize("name", ["safe", "glyph", "texture"])
def test_views_of_one_row_differ(name):
    views = augmented(pictures(1)[0], policy(name, (), 1.0), 3, 30)
    assert len(np.unique(views.reshape(30, -1), axis=0)) > 20


def test_seeds_up_to_the_largest_are_accepted():
    image, pipeline = pictures(1)[0], policy("glyph", (), 1.0)
    views = [augmented(image, pipeline, seed, 1) for seed in (0, 2**32, 2**63 - 1)]
    assert len({v.tobytes() for v in views}) == 3


@pytest.mark.parametrize(("name", "strength"), [("none", 1.0), ("glyph", 0.0), ("texture", 0.0)])
def test_no_policy_and_no_strength_change_nothing(name, strength):
    image = pictures(1)[0]
    assert (augmented(image, policy(name, (), strength), 1, 10) == image).all()


def test_no_policy_flips_only_as_allowed():
    image = pictures(1)[0]
    allowed = {image.tobytes(), image[:, ::-1].tobytes()}
    assert {v.tobytes() for v in augmented(image, policy("none", ("horizontal",), 1.0), 1, 40)} == allowed
    allowed |= {image[::-1].tobytes(), image[::-1, ::-1].tobytes()}
    assert {v.tobytes() for v in augmented(image, policy("none", BOTH, 1.0), 1, 80)} == allowed


@pytest.mark.parametrize("size", [8, 28])
def test_pictures_move_by_parts_of_a_pixel_too(size):
    """albumentations cuts a move down to whole pixels: of up to 0.64 px, at 8 px, nothing was left."""
    image = np.zeros((size, size, 1), np.uint8)
    image[size // 2 - 1 : size // 2 + 1, size // 2 - 1 : size // 2 + 1] = 255
    views = augmented(image, augment.moved(translate_percent=(-0.08, 0.08), p=1.0), 0, 2000)[..., 0].astype(float)
    places, mass = np.arange(size) - (size - 1) / 2, views.sum(axis=(1, 2))
    down, right = (views.sum(axis=2) @ places / mass, views.sum(axis=1) @ places / mass)
    for move in (down, right):
        assert abs(move.mean()) < 0.01 * size and move.std() == pytest.approx(0.08 * size / np.sqrt(3), rel=0.1)
        assert np.mean(np.abs(move) < 0.01 * size) < 0.25, "few do not move at all"
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.1
    glyphs = augmented(image, policy("glyph", (), 1.0), 0, 200)
    assert (
        np.std(glyphs[..., 0].astype(float).sum(axis=2) @ places / glyphs.astype(float).sum(axis=(1, 2, 3)))
        > 0.02 * size
    )


def test_two_transforms_of_one_row_do_not_fire_together():
    """Seeding each transform alike made all draws of a row equal: every view was flipped both ways or not at all."""
    image, pipeline = pictures(1)[0], policy("none", BOTH, 1.0)
    seen = [augmented(image, pipeline, seed, 2) for seed in range(400)]
    for place in (0, 1):
        across = np.array([v[place].tobytes() in (image[:, ::-1].tobytes(), image[::-1, ::-1].tobytes()) for v in seen])
        down = np.array([v[place].tobytes() in (image[::-1].tobytes(), image[::-1, ::-1].tobytes()) for v in seen])
        assert 0.4 < across.mean() < 0.6 and 0.4 < down.mean() < 0.6
        assert abs(np.corrcoef(across, down)[0, 1]) < 0.2
    first, second = (np.array([v[place].tobytes() == image.tobytes() for v in seen]) for place in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2


def test_magnitudes_of_two_transforms_are_not_correlated_across_rows():
    pipeline, drawn = policy("glyph", (), 1.0), []
    pipeline.save_applied_params = True
    for seed in range(300):
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        applied = dict(pipeline(image=pictures(1)[0])["applied_transforms"])
        if {"Affine", "RandomBrightnessContrast"} <= set(applied):
            drawn.append((applied["Affine"]["rotate"], applied["RandomBrightnessContrast"]["alpha"]))
    assert len(drawn) > 120 and (np.std(drawn, axis=0) > 0.01).all()
    assert abs(np.corrcoef(np.array(drawn).T)[0, 1]) < 0.25


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (8, 3), (32, 1), (32, 3)])
@pytest.mark.parametrize("magnitude", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("transforms", [1, 2, 10])
def test_randaugment_keeps_shape_and_type_at_every_magnitude(size, channels, magnitude, transforms):
    """At magnitudes below 0.125, eight bits were asked of the transform that keeps fewer: an error."""
    image = pictures(1, size, channels)[0]
    views = augmented(image, randaugment(BOTH, transforms, magnitude), 5, 30)
    assert views.shape == (30, size, size, channels) and views.dtype == np.uint8
    assert np.array_equal(image, pictures(1, size, channels)[0])


def test_strong_views_depend_on_the_rows_own_seed_alone():
    image, pipeline = pictures(1)[0], randaugment(BOTH, 2, 0.3)
    first = augmented(image, pipeline, 7, 20)
    augmented(pictures(1, seed=9)[0], pipeline, 8, 11)
    random.seed(99)
    np.random.seed(99)
    assert np.array_equal(augmented(image, pipeline, 7, 20), first)
    assert np.array_equal(augmented(image, randaugment(BOTH, 2, 0.3), 7, 20), first)
    assert np.array_equal(augmented(image, pipeline, 7, 5), first[:5])
    assert not np.array_equal(augmented(image, pipeline, 8, 20), first)
    assert len(np.unique(first.reshape(20, -1), axis=0)) > 12


@pytest.mark.parametrize("flips", [(), ("horizontal",), ("vertical",), BOTH])
def test_strong_views_flip_only_as_allowed(flips):
    """Brighter to the right and to the bottom: at no magnitude only a flip turns that round."""
    x, y = np.meshgrid(np.arange(12), np.arange(12))
    image = (40 + 5 * x + 9 * y).astype(np.uint8)[..., None]
    views = augmented(image, randaugment(flips, 1, 0.0), 2, 80).astype(float)
    turned = {
        "horizontal": views[:, :, :6].mean(axis=(1, 2, 3)) > views[:, :, 6:].mean(axis=(1, 2, 3)),
        "vertical": views[:, :6].mean(axis=(1, 2, 3)) > views[:, 6:].mean(axis=(1, 2, 3)),
    }
    for name, found in turned.items():
        assert 0.3 < found.mean() < 0.7 if name in flips else not found.any()


def test_strong_transforms_are_drawn_alike_often_and_in_any_order():
    pipeline, drawn = randaugment((), 2, 0.5), []
    pipeline.save_applied_params = True
    for seed in range(1500):
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        drawn.append([name for name, _ in pipeline(image=pictures(1)[0])["applied_transforms"]])
    assert {len(two) for two in drawn} <= {1, 2}
    twice = [two for two in drawn if set(two) == {"Equalize", "Solarize"}]
    assert {tuple(two) for two in twice} == {("Equalize", "Solarize"), ("Solarize", "Equalize")}
    solarised = np.mean([two.count("Solarize") for two in drawn])
    assert abs(solarised - 2 / 13) < 4 * np.sqrt(2 / 13 / 1500)


def test_a_larger_magnitude_changes_more():
    image = pictures(1, 32)[0].astype(float)
    moved = [
        np.abs(augmented(image.astype(np.uint8), randaugment((), 1, m), 3, 300) - image).mean() for m in (0, 0.3, 1)
    ]
    assert moved[0] < moved[1] < moved[2]


def test_auto_policy_is_glyph_up_to_16_pixels():
    assert [choose_policy("auto", s) for s in (8, 16, 17, 64)] == ["glyph", "glyph", "safe", "safe"]
    assert choose_policy("texture", 8) == "texture"


@pytest.mark.parametrize(
    ("asked", "flips"),
    [("none", ()), ("horizontal", ("horizontal",)), ("vertical", ("vertical",)), ("both", BOTH)],
)
def test_flips_asked_for_are_taken_as_they_are(asked, flips):
    assert choose_flips(asked, pictures(2), *[np.arange(2)] * 3, 0.0) == flips


def bars(axis: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images, rows, classes and groups: two classes that differ by where a bar lies along one axis.

    Either mirror image along the other axis is the same.
    """
    y = np.arange(n) % 2
    images = np.random.default_rng(0).normal(100, 15, (n, 10, 10, 1))
    for i, c in enumerate(y):
        place = slice(1, 4) if c else slice(6, 9)
        images[(i, place) if axis == 0 else (i, slice(None), place)] += 90
    return images.clip(0, 255).astype(np.uint8), np.arange(n), y, np.arange(n)


@pytest.mark.parametrize(("axis", "flips"), [(0, ("horizontal",)), (1, ("vertical",))])
def test_auto_allows_the_flip_that_keeps_the_classes_and_refuses_the_other(axis, flips):
    assert choose_flips("auto", *bars(axis), 0.03) == flips


def test_auto_refuses_flips_of_digits():
    source = read_digits(Digits(commonest=60, rarest=20, val_rows=10, test_rows=10), 0)
    rows = [i for i, split in enumerate(source.rows["split"]) if split == "train"]
    images = np.stack([source.load(source.refs[i]).pixels for i in rows])
    y = np.array([int(source.rows["label"][i]) for i in rows])
    assert choose_flips("auto", images, np.arange(len(y)), y, np.arange(len(y)), 0.03) == ()


def test_a_rule_that_knows_no_class_allows_the_horizontal_flip_alone():
    """It can lose nothing: lamps were turned upside down, where they look like glasses."""
    rng = np.random.default_rng(0)
    images, y = rng.integers(0, 256, (90, 12, 12, 3), dtype=np.uint8), np.arange(90) % 3
    assert choose_flips("auto", images, np.arange(90), y, np.arange(90), 0.03) == ("horizontal",)


def test_auto_allows_no_flip_where_it_cannot_be_tried():
    images, rows, y, groups = bars(0)
    assert choose_flips("auto", images, rows, np.zeros_like(y), groups, 0.03) == ()
    assert choose_flips("auto", images, rows, y, groups % 4, 0.03) == ()
    assert choose_flips("auto", images, rows[:3], np.array([0, 0, 1]), groups[:3], 0.03) == ()


def test_auto_allows_no_flip_where_the_rows_it_looks_at_are_too_few_for_each_class():
    """Of 50,000 classes of three rows, the 3,000 rows that are looked at hold no class three times."""
    n = 150_000
    images = np.broadcast_to(np.uint8(0), (n, 1, 1, 1))
    assert choose_flips("auto", images, np.arange(n), np.arange(n) // 3, np.arange(n), 0.03) == ()
    one = np.concatenate([np.zeros(10**6, int), np.arange(5)])  # groups, all but one of a single row
    y = np.arange(len(one)) % 2
    assert (
        choose_flips("auto", np.broadcast_to(np.uint8(0), (len(one), 1, 1, 1)), np.arange(len(one)), y, one, 0.03) == ()
    )


def test_flips_are_decided_for_classes_of_two_rows_each():
    images = bars(0, 6)[0]
    assert set(choose_flips("auto", images, np.arange(6), np.array([0, 0, 1, 1, 2, 2]), np.arange(6), 0.03)) <= set(
        BOTH
    )


class Recorded(np.ndarray):
    """Images that note how many rows each access copies."""

    copied: ClassVar[list[int]] = []

    def __getitem__(self, key: object) -> np.ndarray:
        if isinstance(key, np.ndarray):
            self.copied.append(len(key))
        return np.asarray(super().__getitem__(key))


def test_flips_are_decided_by_the_rows_named_and_no_more_than_a_chunk_is_copied():
    images, _, y, _ = bars(0, 4000)
    mixed = np.concatenate([255 - images.swapaxes(1, 2), images])  # the first half would say otherwise
    plain = augment._neighbour_accuracy(images, np.arange(4000), y, np.arange(4000))
    Recorded.copied.clear()
    found = augment._neighbour_accuracy(mixed.view(Recorded), 4000 + np.arange(4000), y, np.arange(4000))
    assert found == plain and sum(Recorded.copied) == 3000 and max(Recorded.copied) <= 256


@pytest.mark.parametrize("flips", [(), ("horizontal",), ("vertical",), BOTH])
def test_mirrored_pictures_are_every_way_round_in_turn(flips):
    pictures = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3), dtype=np.uint8)
    before, seen = pictures.copy(), Mirrored(pictures, flips)
    assert seen.shape == (5 * 2 ** len(flips), 6, 4, 3) and seen.ways == 2 ** len(flips)
    for i, picture in enumerate(pictures):
        ways = {picture.tobytes()}
        ways |= {p[:, ::-1].tobytes() for p in (picture,) if "horizontal" in flips}
        ways |= {p[::-1].tobytes() for p in (picture, picture[:, ::-1]) if flips == BOTH}
        ways |= {picture[::-1].tobytes()} if "vertical" in flips else set()
        found = seen[np.arange(i * seen.ways, (i + 1) * seen.ways)]
        assert found[0].tobytes() == picture.tobytes() and {f.tobytes() for f in found} == ways
    order = np.random.default_rng(1).permutation(len(seen.images) * seen.ways)
    assert (seen[order] == seen[np.sort(order)][order]).all() and (pictures == before).all()


def test_views_per_row_follow_the_class_within_bounds(shipped):
    block = shipped.augment.model_copy(update={"views_per_class": 100, "views_per_row": (4, 30)})
    y = np.array([0] * 50 + [1] * 10 + [2] * 2)
    counts = views_per_row(y, block)
    assert counts.shape == (62,)
    assert counts[:50].tolist() == [4] * 50 and counts[50:60].tolist() == [10] * 10 and counts[60:].tolist() == [30] * 2
    assert views_per_row(np.zeros(0, int), block).shape == (0,)


@pytest.fixture
def bank(tmp_path) -> tuple[np.ndarray, np.ndarray, Views]:
    images, counts = pictures(5), np.array([1, 4, 2, 1, 7])
    return images, counts, write_views(tmp_path / "views", images, counts, np.arange(5), policy("glyph", (), 1.0))


def test_the_first_view_of_a_row_is_the_row_itself(bank):
    images, counts, views = bank
    assert np.diff(views.start).tolist() == counts.tolist() and len(views.images) == counts.sum()
    assert np.array_equal(views.images[views.start[:-1]], images)


def test_a_rows_views_do_not_depend_on_the_other_rows(bank, tmp_path):
    images, counts, views = bank
    order = np.array([4, 0, 2])
    part = write_views(tmp_path / "part", images[order], counts[order], order, policy("glyph", (), 1.0))
    for place, row in enumerate(order):
        own = views.images[views.start[row] : views.start[row + 1]]
        assert np.array_equal(part.images[part.start[place] : part.start[place + 1]], own)


def test_views_are_written_to_disk_and_stay_there(bank, tmp_path):
    *_, views = bank
    assert isinstance(views.images, np.memmap)
    back = Views.load(tmp_path / "views")
    assert np.array_equal(back.images, views.images) and np.array_equal(back.start, views.start)
    assert isinstance(back.images, np.memmap)


def test_a_bank_of_no_rows_is_empty(tmp_path):
    views = write_views(tmp_path, pictures(0), np.zeros(0, int), np.zeros(0, int), policy("glyph", (), 1.0))
    assert views.images.shape == (0, 12, 12, 1) and views.start.tolist() == [0]


def slices(views: Views, rows: np.ndarray) -> list[np.ndarray]:
    return [views.images[views.start[row] : views.start[row + 1]] for row in rows]


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(found) == len(expected) and all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [4, 0, 2], [1], [3, 3, 1, 3], []])
def test_taking_rows_gives_exactly_their_views_in_order(bank, rows):
    *_, views = bank
    rows = np.array(rows, np.int64)
    part = views.take(rows)
    assert same(slices(part, np.arange(len(rows))), slices(views, rows))
    assert part.start[0] == 0 and part.start[-1] == len(part.images)
    assert part.images.dtype == np.uint8 and not isinstance(part.images, np.memmap)


def test_joining_banks_gives_the_views_of_all_rows_in_order(bank):
    *_, views = bank
    picks = [np.array(p, np.int64) for p in ([4, 0], [], [2], [1, 1])]
    whole = Views.joined([views.take(p) for p in picks])
    assert same(slices(whole, np.arange(5)), slices(views, np.concatenate(picks)))
    assert whole.start[-1] == len(whole.images) == np.diff(views.start)[np.concatenate(picks)].sum()


def test_a_bank_cut_in_two_and_joined_is_the_bank(bank):
    *_, views = bank
    whole = Views.joined([views.take(np.arange(2)), views.take(np.arange(2, 5))])
    assert np.array_equal(whole.images, views.images) and np.array_equal(whole.start, views.start)
