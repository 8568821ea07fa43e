"""Derived seeds are a fixed function of the seed and the names. Run: python -m pytest tests/test_seeds.py"""

import numpy as np
import pytest
import torch

from pipeline.seeds import derive


def test_the_same_on_every_machine_and_in_every_process():
    assert derive(0, "fit", "cvae") == 5718953222959674789
    assert derive(0) != derive(1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a",), ("a", "")),
        ((1, 23), (12, 3)),
        (("a", "b"), ("b", "a")),
        (("row", "NA", 1), ("row", "N", "A1")),
    ],
)
def test_other_names_give_other_seeds(one, other):
    assert derive(0, *one) != derive(0, *other)


def test_many_seeds_are_distinct_and_fill_their_range():
    seeds = np.array([derive(s, "row", i) for s in range(4) for i in range(2500)])
    assert len(set(seeds.tolist())) == len(seeds)
    assert seeds.min() >= 0 and seeds.max() < 2**63
    bits = (seeds[:, None] >> np.arange(63)) & 1
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.03


def test_the_largest_seeds_can_be_stored_and_used():
    assert np.int64(2**63 - 1) == 2**63 - 1
    torch.Generator().manual_seed(2**63 - 1)
    np.random.default_rng(2**63 - 1)
