"""Toy data made in code and shared by all tests; run them with: python -m pytest"""

# ruff: noqa: E402  (torch reads the environment once, when it is imported)

import os

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "GOMP_SPINCOUNT": "0",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "MPLBACKEND": "agg",
}.items():
    os.environ.setdefault(_name, _value)

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import params
from pipeline.samples import Facts, Samples, table

ROOT = Path(__file__).parents[1]
PLAIN = {
    "rows": "nothing",
    "also": "nothing",
    "use": "kept",
    "dose": "full",
    "recipe": "plain",
    "tuned": False,
    "quick": True,
}  # what an arm says besides its role


def toy_samples(
    counts: tuple[int, ...] = (12, 7, 3), size: int = 8, channels: int = 1, seed: int = 0, split: str = "train"
) -> Samples:
    """A class is a bright bar at a height of its own, plus noise; two neighbouring rows share a group."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    clean = np.full((len(y), size, size, channels), 60.0)
    for i, c in enumerate(y):
        clean[i, c * size // len(counts) : c * size // len(counts) + 2] = 190
    images = np.clip(clean + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    names = tuple("abcdefgh"[: len(counts)])
    frame = table(
        id=[f"{split}{i}" for i in range(len(y))],
        group=[f"{split}-group{i // 2}" for i in range(len(y))],
        label=[names[c] for c in y],
        split=[split] * len(y),
        origin=["real"] * len(y),
    )
    return Samples(frame, images, Facts(names, names[-1:]))


@pytest.fixture(scope="session")
def toy() -> Callable[..., Samples]:
    return toy_samples


@pytest.fixture(scope="session")
def shipped() -> params.Params:
    """The params.yaml that the project ships."""
    return params.load(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder that holds magnetic_tile/, pneumoniamnist/ and cifar10_lt/."""
    if not os.environ.get("REAL_DATA"):
        pytest.skip("REAL_DATA is not set")
    return Path(os.environ["REAL_DATA"]).resolve()


@pytest.fixture(scope="session")
def compute() -> params.Compute:
    return params.Compute(accelerator="cpu", precision="auto", processes="auto", threads=1, devices=1, num_nodes=1)
