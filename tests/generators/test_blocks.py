"""Sides that no network takes are padded a batch at a time. Run: python -m pytest tests/generators/test_blocks.py"""

import tracemalloc

import numpy as np
import pytest

from pipeline.data.loaders import Batches, Rows
from pipeline.generators._blocks import Padded


def pictures(n: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(10, 10), (9, 12), (12, 7), (12, 12)])
def test_rows_are_padded_as_if_all_had_been(height, width):
    images = pictures(20, height, width)
    whole = np.pad(images, [(0, 0), (0, 12 - height), (0, -width % 4), (0, 0)], mode="edge")
    padded, rows = Padded(images, whole.shape[1:3]), np.array([3, 3, 19, 0])
    assert padded.shape == whole.shape and len(padded) == 20
    assert np.array_equal(padded[rows], whole[rows])
    y = np.arange(20) % 2
    one, other = (Batches(Rows.plain(x, y), 2, 8, 5, 0) for x in (padded, whole))
    assert all((a == b).all() for step in range(5) for a, b in zip(one[step], other[step], strict=True))


def test_no_more_than_a_batch_is_copied():
    images, rows = pictures(2000, 30, 30), np.arange(64)
    padded = Padded(images, (32, 32))
    tracemalloc.start()
    padded[rows]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * 64 * 32 * 32 * 3
