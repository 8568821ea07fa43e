"""Is a synthetic row a copy of a training row? Run: python -m pytest tests/selection/test_copies.py"""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from pipeline.selection import copies
from pipeline.selection.copies import floor, nearest, real_to_real


def pictures(count, seed=0, side=6, channels=1):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def all_distances(a, b):
    """Root-mean-square grey-level differences (N, M), in the plainest way."""
    return np.array([[np.sqrt(np.mean((x.astype(float) - z.astype(float)) ** 2)) for z in b] for x in a])


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_nearest_agrees_with_all_pairs(k, channels):
    rows, reference = pictures(20, 1, channels=channels), pictures(30, 2, channels=channels)
    table = all_distances(rows, reference)
    distance, position = nearest(rows, reference, k)
    assert distance.shape == position.shape == (20, k)
    np.testing.assert_allclose(distance, np.sort(table, axis=1)[:, :k], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(table, position, axis=1), distance, rtol=1e-5)


def test_nearest_of_no_rows():
    distance, position = nearest(pictures(0), pictures(5), 2)
    assert distance.shape == position.shape == (0, 2)


def test_nearest_measures_grey_levels_whatever_the_size():
    for side in (2, 16):
        dark, light = np.full((1, side, side, 1), 10, np.uint8), np.full((1, side, side, 1), 250, np.uint8)
        assert nearest(dark, light)[0][0, 0] == pytest.approx(240)  # and unsigned bytes do not wrap


def test_real_to_real_is_the_distance_to_the_nearest_other_row():
    images = pictures(25)
    table = all_distances(images, images)
    np.fill_diagonal(table, np.inf)
    np.testing.assert_allclose(real_to_real(images, np.arange(25)), table.min(axis=1), rtol=1e-5)


def test_real_to_real_looks_past_the_whole_of_its_own_group():
    rng = np.random.default_rng(0)
    base, groups = pictures(6), np.repeat(list("abcdef"), 4)
    images = np.clip(base[np.repeat(np.arange(6), 4)] + rng.integers(-2, 3, (24, 6, 6, 1)), 0, 255).astype(np.uint8)
    table = all_distances(images, images)
    table[groups[:, None] == groups] = np.inf
    np.testing.assert_allclose(real_to_real(images, groups), table.min(axis=1), rtol=1e-5)


def test_one_large_group_beside_a_single_row():
    images, groups = pictures(9), np.array(["a"] * 8 + ["b"])
    distance = real_to_real(images, groups)
    assert np.isfinite(distance).all()
    assert distance[8] == pytest.approx(distance[:8].min(), rel=1e-5)


def test_a_single_group_has_no_distance_and_the_floor_flags_nothing():
    images = pictures(5)
    assert np.isnan(real_to_real(images, np.zeros(5, int))).all()
    level = floor(images, np.zeros(5, int), 0.01)
    assert not (nearest(images, images)[0] < level).any()
    assert floor(images[:1], np.zeros(1, int), 0.01) == 0.0


def smooth(count, seed):
    """Pictures of one distribution: blends of six fixed patterns, plus grain; uint8 (N, 8, 8, 1)."""
    rng, patterns = np.random.default_rng(seed), np.random.default_rng(99).normal(0, 40, (6, 64))
    flat = 128 + rng.normal(0, 1, (count, 6)) @ patterns / 2 + rng.normal(0, 3, (count, 64))
    return np.clip(flat, 0, 255).astype(np.uint8).reshape(-1, 8, 8, 1)


def test_exact_and_nearly_exact_copies_fall_below_the_floor():
    train = smooth(400, 0)
    level = floor(train, np.arange(400), 0.01)
    noise = np.random.default_rng(1).integers(-2, 3, train.shape)
    nearly = np.clip(train.astype(int) + noise, 0, 255).astype(np.uint8)
    assert level > 0
    assert (nearest(train, train)[0] < level).all()
    assert (nearest(nearly, train)[0] < level).mean() > 0.99


@pytest.mark.parametrize("quantile", [0.01, 0.1])
def test_fresh_draws_are_flagged_at_about_the_quantile(quantile):
    train, fresh = smooth(1000, 0), smooth(3000, 1)
    flagged = (nearest(fresh, train)[0] < floor(train, np.arange(1000), quantile)).mean()
    assert 0.2 * quantile <= flagged <= 2.5 * quantile


def test_the_floor_rises_with_its_quantile():
    train = smooth(200, 0)
    levels = [floor(train, np.arange(200), q) for q in (0.0, 0.01, 0.1, 0.5, 1.0)]
    assert levels == sorted(levels)
    assert levels[0] == pytest.approx(real_to_real(train, np.arange(200)).min())


# In blocks


@pytest.mark.parametrize("block", [1, 7, 64])
def test_the_size_of_a_block_changes_nothing(monkeypatch, block):
    rows, reference, groups = pictures(23, 1), pictures(40, 2), np.repeat(np.arange(8), 5)
    reference[30:] = reference[:10]  # equally near: the first counts
    whole = nearest(rows, reference, 3), real_to_real(reference, groups)
    monkeypatch.setattr(copies, "BLOCK", block)
    parts = nearest(rows, reference, 3), real_to_real(reference, groups)
    assert np.array_equal(whole[0][0], parts[0][0]) and np.array_equal(whole[0][1], parts[0][1])
    assert np.array_equal(whole[1], parts[1])
    first = nearest(reference, reference)[1][:, 0]
    assert np.array_equal(first[30:], np.arange(10)) and np.array_equal(first[:30], np.arange(30))


@pytest.mark.parametrize("channels", [1, 3])
def test_distances_are_those_of_a_search_among_all_rows_at_once(channels):
    rows, reference, groups = pictures(200, 1, 12, channels), pictures(700, 2, 12, channels), np.arange(700) // 60
    flat = [x.reshape(len(x), -1).astype(np.float64) for x in (rows, reference)]
    near = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(flat[1])
    distance, position = near.kneighbors(flat[0])
    found = nearest(rows, reference, 2)
    np.testing.assert_allclose(found[0], distance / np.sqrt(flat[0].shape[1]), rtol=1e-9)
    assert np.array_equal(found[1], position)
    own, place = near.kneighbors(flat[1], 61)
    own[groups[place] == groups[:, None]] = np.inf
    np.testing.assert_allclose(real_to_real(reference, groups), own.min(axis=1) / np.sqrt(flat[0].shape[1]), rtol=1e-9)


def most_memory(search: Callable[[], object]) -> int:
    """Bytes that were held at once beyond what was held before."""
    tracemalloc.start()
    try:
        search()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_that_of_a_block_and_not_of_the_sets(monkeypatch, tmp_path):
    monkeypatch.setattr(copies, "BLOCK", 50)
    np.save(tmp_path / "images.npy", pictures(1600, side=32))
    images, groups = np.load(tmp_path / "images.npy", mmap_mode="r"), np.repeat([0, 1], [1200, 400])
    few = most_memory(lambda: nearest(images[:100], images[:400]))
    many = most_memory(lambda: nearest(images[:100], images))
    assert few < 2e6 and many < few + 1e5, f"{few:,} and {many:,} bytes for {images.nbytes:,} of pixels"
    small = most_memory(lambda: real_to_real(images[::4], groups[::4]))
    large = most_memory(lambda: real_to_real(images, groups))
    assert large < small + 1600 * 100, f"{small:,} and {large:,} bytes, the largest group having 1200 rows"


def test_pixels_of_a_block_are_bounded_however_large_a_picture_is(tmp_path):
    np.save(
        tmp_path / "images.npy",
        np.broadcast_to(pictures(8, side=512)[None], (5, 8, 512, 512, 1)).reshape(40, 512, 512, 1),
    )
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert most_memory(lambda: nearest(images, images)) < 3 * copies.BYTES < 8 * images.size


def test_comparisons_of_real_rows_grow_with_their_pairs_and_each_is_made_once(monkeypatch):
    made, plain = [], copies._squares
    monkeypatch.setattr(copies, "BLOCK", 16)
    monkeypatch.setattr(copies, "_squares", lambda a, b: made.append(len(a) * len(b)) or plain(a, b))
    counts = []
    for n in (160, 320):
        made.clear()
        real_to_real(pictures(n, side=4), np.repeat([0, 1], [n - 5, 5]))
        counts.append(sum(made))
    assert counts[0] < 0.6 * 160**2 and counts[1] < 4 * counts[0]
