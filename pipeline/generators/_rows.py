"""Families that need no network draw row by row; most make new rows from the real ones of each class, handed again on loading."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.generators.base import Generator
from pipeline.samples import Samples


class RowByRow(Generator):
    """A family writes `one(label, rng)`, an image uint8 (H, W, C)."""

    @abstractmethod
    def one(self, label: int, rng: np.random.Generator) -> np.ndarray: ...

    def _sample(self, labels: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        rows = [self.one(int(c), np.random.default_rng(int(s))) for c, s in zip(labels, seeds, strict=True)]
        return np.stack(rows) if rows else np.empty((0, *self.shape), np.uint8)


class RowGenerator(RowByRow):
    """Has the real rows' images uint8 (N, H, W, C), labels (N,) and flips."""

    def _fit(self, real: Samples, seed: int, report: Callable[[int, str], None]) -> list[dict[str, Any]]:
        self.start_from(real)
        return []

    def start_from(self, real: Samples) -> None:
        self.images, self.y, self.flips = real.images, real.y, real.facts.flips
        self.prepare()

    def prepare(self) -> None:
        """What a family computes once from its rows."""

    def pick(self, label: int, rng: np.random.Generator) -> int:
        """The position of a random row of this class. Raises ValueError if there is none."""
        own = np.flatnonzero(self.y == label)
        if not len(own):
            raise ValueError(f"class index {label} has no real row to start from")
        return int(rng.choice(own))

    def _save(self, folder: Path) -> None:
        pass

    def _load(self, folder: Path, state: dict[str, Any], real: Samples) -> None:
        self.start_from(real)
