"""Which rows are pictures of the set at all. Run: python -m pytest tests/selection/test_spectra.py"""

import cv2
import numpy as np
import pytest

from pipeline.params import load
from pipeline.samples import spaced
from pipeline.selection import spectra

LIMIT = load().selection.unlike


def textures(count: int, side: int, channels: int, seed: int) -> np.ndarray:
    """Pictures of blobs of several sizes on a slope, uint8 (count, side, side, channels)."""
    rng = np.random.default_rng(seed)
    out = np.empty((count, side, side, channels))
    for i in range(count):
        coarse, fine = (cv2.GaussianBlur(rng.normal(size=(side, side, channels)), (0, 0), s) for s in (side / 8, 1.0))
        slope = np.linspace(-1, 1, side)[:, None] * rng.normal()
        picture = (
            coarse.reshape(side, side, channels) / coarse.std() + 0.5 * fine.reshape(side, side, channels) / fine.std()
        )
        out[i] = 120 + rng.normal(0, 15) + rng.uniform(25, 40) * (picture + 0.5 * slope[..., None])
    return out.clip(0, 255).astype(np.uint8)


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images = np.random.default_rng(0).permutation((load_digits().images * 255 / 16).astype(np.uint8)[..., None])
    return images[:300], images[300:]


def far(rows: np.ndarray, real: np.ndarray) -> float:
    """The share of rows that the rule of params.yaml drops, every real row being a group."""
    return float(np.mean(spectra.distance(rows, real, np.arange(len(real)).astype(str)) > LIMIT))


SETS = {
    "20 grey 32": (textures(20, 32, 1, 0), textures(300, 32, 1, 1)),
    "50 colour 32": (textures(50, 32, 3, 2), textures(300, 32, 3, 3)),
    "2500 grey 28": (textures(2500, 28, 1, 4), textures(300, 28, 1, 5)),
    "digits": digits(),
}


@pytest.fixture(params=SETS)
def sets(request) -> tuple[np.ndarray, np.ndarray]:
    return SETS[request.param]


def test_unseen_real_rows_pass_but_for_a_few(sets):
    real, unseen = sets
    assert far(unseen, real) <= 0.05


@pytest.mark.parametrize("kind", ["noise", "blank", "black", "shuffled pixels", "half noise", "stripes"])
def test_what_is_no_picture_of_the_set_is_caught(sets, kind):
    real, unseen = sets
    rng, shape = np.random.default_rng(6), unseen.shape
    noise = rng.integers(0, 256, shape)
    shuffled = np.stack([rng.permutation(x.reshape(-1, shape[3])).reshape(shape[1:]) for x in unseen])
    rows = {
        "noise": noise,
        "blank": np.full(shape, real.mean()),
        "black": np.zeros(shape),
        "shuffled pixels": shuffled,
        "half noise": (unseen.astype(int) + noise) // 2,
        "stripes": np.broadcast_to(np.arange(shape[2])[:, None] % 2 * 255, shape),
    }[kind].astype(np.uint8)
    assert far(rows, real) >= 0.95


def test_1_is_as_far_as_95_percent_of_real_rows_lie_from_those_of_other_groups():
    real = textures(400, 16, 1, 0)
    groups = np.arange(400) // 2  # of each group the second row is nearly the first
    real[1::2] = np.clip(real[::2].astype(int) + 1, 0, 255)
    apart = [
        spectra.distance(real[[i]], np.delete(real, [i, i ^ 1], 0), np.delete(groups, [i, i ^ 1]))[0]
        for i in range(100)
    ]
    assert np.mean(np.array(apart) <= 1) == pytest.approx(0.95, abs=0.05)
    assert spectra.distance(real, real, groups) == pytest.approx(0, abs=1e-6), "its own row is the nearest"


def test_rows_without_another_group_have_no_distance_and_no_rows_none():
    real = textures(4, 16, 3, 0)
    assert np.isnan(spectra.distance(real, real, np.zeros(4))).all()
    assert spectra.distance(real[:0], real, np.arange(4)).shape == (0,)


def test_pictures_that_are_all_alike_do_not_divide_by_nothing():
    real = np.full((6, 8, 8, 1), 90, np.uint8)
    assert spectra.distance(real, real, np.arange(6)).tolist() == [0.0] * 6
    assert (spectra.distance(textures(3, 8, 1, 0), real, np.arange(6)) > 10).all()


@pytest.mark.parametrize("block", [1, 7, 10_000])
def test_blocks_change_nothing(monkeypatch, block):
    rows, real, groups = textures(9, 12, 3, 1), textures(20, 12, 3, 0), np.arange(20) // 3
    whole = spectra.distance(rows, real, groups)
    monkeypatch.setattr(spectra, "BLOCK", block)
    np.testing.assert_allclose(spectra.distance(rows, real, groups), whole, rtol=1e-9)


@pytest.mark.parametrize("side", [4, 5, 8, 13, 32])
def test_described_by_mean_spread_and_the_power_of_rings_that_adds_up(side):
    """Parseval: the power of all frequencies but the mean's is the variance of the pixels."""
    rows = textures(3, side, 2, 0)
    told = spectra.described(rows)
    assert told.shape[0] == 3 and told.shape[1] % 2 == 0 and np.isfinite(told).all()
    each = told.reshape(3, 2, -1)
    np.testing.assert_allclose(each[..., 0], rows.mean(axis=(1, 2)) / 255)
    np.testing.assert_allclose(each[..., 1], rows.std(axis=(1, 2)) / 255)
    wave = np.tile([0, 255], (1, 8, 4))[..., None].astype(np.uint8)  # the finest there is, along a line
    finest = spectra.described(wave)[0, 2:]
    assert finest.argmax() in (len(finest) - 2, len(finest) - 1) and finest.max() > finest.min() + 2


def test_of_many_real_rows_some_stand_for_all(monkeypatch):
    real, unseen, groups = textures(600, 12, 1, 0), textures(200, 12, 1, 1), np.arange(600)
    monkeypatch.setattr(spectra, "KNOWN", 300)
    distance = spectra.distance(unseen, real, groups)
    assert np.array_equal(distance, spectra.distance(unseen, real[spaced(600, 300)], np.arange(300)))
    assert np.mean(distance <= 1) == pytest.approx(0.95, abs=0.05), "in units of how far as many real rows lie"


def test_what_a_network_sees_is_measured_in_the_same_unit_whatever_its_scale():
    known, rows = (np.random.default_rng(seed).normal(size=(400, 8)) for seed in (0, 1))
    groups = np.arange(400)
    distance = spectra.relative(rows, known, groups)
    assert np.mean(distance <= 1) == pytest.approx(0.95, abs=0.04)
    np.testing.assert_allclose(spectra.relative(70 * rows, 70 * known, groups), distance, rtol=1e-6)
    assert np.isnan(spectra.relative(rows, known, np.zeros(400))).all()
