"""A batch is a pure function of (seed, step), and arms are paired. Run: python -m pytest tests/data/test_loaders.py"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.data.augment import Views
from pipeline.data.loaders import Batches, Rows
from pipeline.samples import to_pixels


def rows(counts: tuple[int, ...], views: int = 3, weight: float = 1.0, first: int = 0) -> Rows:
    """Rows whose pixels tell them apart: pixel 0 is the row's number, pixel 1 the view, the last its class."""
    y = np.repeat(np.arange(len(counts)), counts)
    y = y[np.random.default_rng(0).permutation(len(y))]
    images = np.zeros((len(y) * views, 2, 2, 1), np.uint8)
    images[:, 0, 0, 0] = first + np.repeat(np.arange(len(y)), views)
    images[:, 0, 1, 0] = np.tile(np.arange(views), len(y))
    images[:, 1, 1, 0] = np.repeat(y, views)
    return Rows(y, Views(images, np.arange(len(y) + 1) * views), np.full(len(y), weight))


def batches(**changes: object) -> Batches:
    plain = Batches(real=rows((40, 12, 3)), classes=3, batch=32, steps=60, seed=5)
    return replace(plain, **changes)


def mixed(**changes: object) -> Batches:
    made = rows((0, 20, 30), weight=0.3, first=100)
    return batches(**{"synthetic": made, "balance": 0.0, "share": 0.5, **changes})


def told(batch: tuple[torch.Tensor, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row number, view and class that the pixels of a batch tell."""
    pixels = to_pixels(batch[0])[..., 0]
    return pixels[:, 0, 0].astype(int), pixels[:, 0, 1].astype(int), pixels[:, 1, 1].astype(int)


def test_a_step_depends_on_seed_and_step_alone():
    one, other = mixed(), mixed()
    forward = [one[step] for step in range(60)]
    for step in reversed(range(60)):
        assert all(torch.equal(a, b) for a, b in zip(forward[step], other[step], strict=True))
    assert not torch.equal(forward[0][0], forward[1][0])
    assert not torch.equal(forward[0][0], mixed(seed=6)[0][0])


def test_shapes_types_and_length():
    x, y, weight = mixed()[3]
    assert x.shape == (32, 1, 2, 2) and x.dtype == torch.float32 and x.abs().max() <= 1
    assert y.shape == (32,) and y.dtype == torch.int64 and weight.shape == (32,) and weight.dtype == torch.float32
    assert len(mixed()) == 60


def test_images_labels_and_weights_belong_together():
    data = mixed()
    for step in range(60):
        number, _, shown = told(data[step])
        _, y, weight = data[step]
        assert (shown == y.numpy()).all()
        assert np.allclose(weight.numpy(), np.where(number >= 100, 0.3, 1.0) * data.scale[y.numpy()])
        real = number < 100
        assert (data.real.y[number[real]] == shown[real]).all()
        assert (data.synthetic.y[number[~real] - 100] == shown[~real]).all()


@pytest.mark.parametrize("weight", [0.1, 0.3, 1.0, 4.0])
def test_a_class_weighs_as_much_in_the_loss_as_without_synthetic_rows(weight):
    data = mixed(synthetic=rows((0, 20, 3), weight=weight, first=100), steps=4000, batch=256, share=0.9)
    sums = np.zeros((2, 3))
    for step in range(400):
        for part, arm in enumerate((data, replace(data, synthetic=None))):
            _, y, w = arm[step]
            sums[part] += np.bincount(y, w, minlength=3)
    assert np.allclose(sums[0] / sums[1], 1, atol=0.02)


def test_a_synthetic_row_weighs_its_share_of_a_real_row_of_its_class():
    data = mixed()
    for step in range(60):
        number, _, shown = told(data[step])
        weight = data[step][2].numpy()
        for c in np.unique(shown):
            real, made = weight[(shown == c) & (number < 100)], weight[(shown == c) & (number >= 100)]
            assert np.ptp(real) == 0 if len(real) else True
            assert np.allclose(made, 0.3 * real[0]) if len(real) else True


def test_rows_of_weight_zero_leave_the_class_to_its_real_rows():
    data = mixed(synthetic=rows((0, 20, 30), weight=0.0, first=100), share=1.0)
    assert np.isfinite(data.scale).all() and data.scale[0] == 1 and (data.scale[1:] > 1).all()


def test_arms_with_equal_class_shares_see_the_same_real_rows_where_neither_swaps():
    arms = [mixed(), mixed(synthetic=rows((5, 9, 2), first=100)), mixed(synthetic=None), mixed(share=0.2)]
    swaps = 0
    for step in range(60):
        drawn = [arm.draw(step) for arm in arms]
        for c, row, swap, view in drawn[1:]:
            first = drawn[0]
            both = ~swap & ~first[2]
            assert (c == first[0]).all()
            assert (row[both] == first[1][both]).all() and (view[both] == first[3][both]).all()
            swaps += swap.sum()
    assert swaps > 0


def test_arms_swap_in_rows_of_the_class_they_replace():
    data = mixed()
    for step in range(60):
        c, row, swap, _ = data.draw(step)
        assert (data.synthetic.y[row[swap]] == c[swap]).all() and (data.real.y[row[~swap]] == c[~swap]).all()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_synthetic_rows_never_exceed_the_share_of_a_batch(share):
    data = mixed(share=share, synthetic=rows((200, 200, 200)))
    swaps = np.array([data.draw(step)[2].sum() for step in range(60)])
    assert swaps.max() <= int(share * 32)
    assert swaps.sum() > 0 or share == 0.0


def test_synthetic_rows_never_exceed_the_share_of_a_class():
    data = mixed(share=0.25, synthetic=rows((0, 0, 200)), batch=128)
    drawn = [data.draw(step) for step in range(60)]
    c, swap = (np.concatenate([d[k] for d in drawn]) for k in (0, 2))
    assert not swap[c < 2].any()
    assert abs(swap[c == 2].mean() - 0.25) < 0.03


def test_a_few_synthetic_rows_are_no_larger_a_part_than_they_are():
    data = mixed(share=0.5, synthetic=rows((10, 0, 0)), batch=128)  # 10 beside 40 real rows: a fifth
    drawn = [data.draw(step) for step in range(60)]
    c, swap = (np.concatenate([d[k] for d in drawn]) for k in (0, 2))
    assert abs(swap[c == 0].mean() - 0.2) < 0.03


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("added", [(0, 0, 0), (0, 20, 30)])
def test_classes_come_as_often_as_rows_to_the_power_of_balance(balance, added):
    data = batches(balance=balance, synthetic=rows(added) if sum(added) else None, steps=400)
    drawn = np.concatenate([data.draw(step)[0] for step in range(400)])
    mass = (np.array([40, 12, 3]) + added) ** balance
    expected = mass / mass.sum()
    seen = np.bincount(drawn, minlength=3) / len(drawn)
    assert (np.abs(seen - expected) < 4 * np.sqrt(expected * (1 - expected) / len(drawn))).all()


def share(balance: float, added: tuple[int, ...] = (0, 0, 0)) -> np.ndarray:
    """The closed form for the classes of `batches`."""
    mass = (np.array([40, 12, 3]) + added) ** balance
    return mass / mass.sum()


@pytest.mark.parametrize("added", [(0, 0, 0), (0, 20, 30)])
def test_shares_go_evenly_from_the_first_balance_to_the_second(added):
    data = batches(balance=(1.0, 0.0), steps=61, synthetic=rows(added) if sum(added) else None)
    first, last = share(1.0, added), share(0.0, added)
    for step, expected in ((0, first), (15, 0.75 * first + 0.25 * last), (30, (first + last) / 2), (60, last)):
        np.testing.assert_allclose(data.class_share(step), expected, rtol=1e-13)
        np.testing.assert_allclose(np.diff(data.ladder(step), prepend=0), expected, rtol=1e-12)


def test_classes_are_drawn_with_the_shares_of_their_step():
    """Every step is drawn at its own share: early batches as rows come, late ones with equal classes."""
    data = batches(balance=(1.0, 0.0), steps=4, batch=40_000)
    for step in range(4):
        seen = np.bincount(data.draw(step)[0], minlength=3) / 40_000
        assert np.abs(seen - data.class_share(step)).max() < 0.01


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_a_number_is_a_course_that_stays_where_it_is(balance):
    number, course = mixed(balance=balance), mixed(balance=(balance, balance))
    for step in range(60):
        assert all(torch.equal(a, b) for a, b in zip(number[step], course[step], strict=True))


def test_a_step_of_a_course_depends_on_seed_and_step_alone():
    one, other = mixed(balance=(1.0, 0.0)), mixed(balance=(1.0, 0.0))
    forward = [one[step] for step in range(60)]
    for step in reversed(range(60)):
        assert all(torch.equal(a, b) for a, b in zip(forward[step], other[step], strict=True))


@pytest.mark.parametrize("steps", [2, 7, 60])
def test_the_mean_share_is_that_of_all_steps(steps):
    data = mixed(balance=(1.0, 0.25), steps=steps)
    np.testing.assert_allclose(data.mean_share, np.mean([data.class_share(s) for s in range(steps)], axis=0))
    assert np.isclose(data.mean_share.sum(), 1)


def test_a_course_of_one_step_is_its_first():
    assert np.allclose(batches(balance=(1.0, 0.0), steps=1).class_share(0), share(1.0))


def test_a_class_without_real_rows_is_drawn_at_no_step_of_a_course():
    data = Batches(rows((20, 0, 5, 0)), 4, 64, 20, 1, (1.0, 0.0), rows((0, 50, 5, 50)))
    assert set(np.concatenate([data.draw(step)[0] for step in range(20)])) == {0, 2}
    assert data.mean_share[[1, 3]].tolist() == [0, 0] and np.isclose(data.mean_share.sum(), 1)


def test_all_rows_and_views_are_used_and_equally_often():
    data = batches(balance=1.0, steps=400)
    number, view, _ = (np.concatenate(part) for part in zip(*(told(data[s]) for s in range(400)), strict=True))
    for seen, kinds in ((number, 55), (view, 3)):
        counts = np.bincount(seen, minlength=kinds)
        assert len(counts) == kinds and np.abs(counts - len(seen) / kinds).max() < 5 * np.sqrt(len(seen) / kinds)


def test_a_class_without_real_rows_is_never_drawn():
    data = Batches(rows((20, 0, 5, 0)), 4, 64, 20, 1, 0.5, rows((0, 50, 5, 50)))
    drawn = np.concatenate([data.draw(step)[0] for step in range(20)])
    assert set(drawn) == {0, 2} and np.isclose(data.class_share(7).sum(), 1)


def test_one_row_in_a_batch_of_many():
    number, _, _ = told(Batches(rows((1,), views=1), 1, 16, 2, 0)[0])
    assert (number == 0).all()


def test_taking_rows_maps_the_bank_and_leaves_it_whole():
    whole = rows((40, 12, 3))
    mask = whole.y == 1
    for part in (whole.take(mask), whole.take(np.flatnonzero(mask)), whole.take(np.arange(55)).take(mask)):
        assert part.views is whole.views and (part.y == 1).all() and len(part.weight) == 12
        number, _, shown = told(Batches(part, 3, 256, 1, 0)[0])
        assert set(number) == set(np.flatnonzero(mask)) and (shown == 1).all()


def test_taking_twice_is_taking_once():
    whole = rows((40, 12, 3))
    twice = whole.take(np.arange(10, 50)).take(np.array([3, 1, 30]))
    assert twice.place.tolist() == [13, 11, 40] and twice.y.tolist() == whole.y[[13, 11, 40]].tolist()


def test_other_labels_leave_pictures_weights_and_places_as_they_are():
    part = rows((40, 12, 3), weight=0.3).take(np.arange(5, 50))
    mixed_up = np.random.default_rng(1).permutation(part.y)
    other = replace(part, y=mixed_up)
    assert other.y is mixed_up and other.views is part.views and (other.weight == part.weight).all()
    number, _, shown = told(Batches(other, 3, 256, 1, 0)[0])
    label = Batches(other, 3, 256, 1, 0)[0][1].numpy()
    assert (label == mixed_up[number - 5]).all() and (shown != label).any()


def test_synthetic_rows_may_be_taken_from_a_larger_bank():
    made = rows((0, 20, 30), first=100)
    chosen = np.flatnonzero(made.y == 2)[:7]
    data = mixed(synthetic=made.take(chosen))
    number = np.concatenate([told(data[step])[0] for step in range(60)])
    assert set(number[number >= 100] - 100) == set(chosen)


def test_plain_rows_are_their_own_only_view(toy):
    real = toy()
    data = Batches(Rows.plain(real.images, real.y), 3, 64, 5, 0)
    _, row, _, view = data.draw(2)
    assert (row == view).all() and np.array_equal(to_pixels(data[2][0]), real.images[row])
    assert (data[2][2] == 1).all()
