"""Families that need no network keep the real rows of each class and make new ones from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pipeline.generators.base import Generator
from pipeline.samples import Samples


class RowGenerator(Generator):
    """Keeps images uint8 (N, H, W, C) and labels (N,); a family writes `one(label, rng)`, one image."""

    def _fit(self, real: Samples, seed: int, report: Callable[[int, str], None]) -> list[dict]:
        self.images, self.y, self.flips = np.array(real.images), real.y, real.facts.flips
        self.prepare()
        return []

    def prepare(self) -> None:
        """What a family computes once from its rows."""

    def one(self, label: int, rng: np.random.Generator) -> np.ndarray:
        raise TypeError(f"{type(self).__module__} makes no rows")

    def _sample(self, labels: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        rows = [self.one(int(c), np.random.default_rng(int(s))) for c, s in zip(labels, seeds, strict=True)]
        return np.stack(rows) if rows else np.empty((0, *self.shape), np.uint8)

    def pick(self, label: int, rng: np.random.Generator) -> int:
        """The position of a random row of this class. Raises ValueError if there is none."""
        own = np.flatnonzero(self.y == label)
        if not len(own):
            raise ValueError(f"class index {label} has no real row to start from")
        return int(rng.choice(own))

    def _state(self) -> dict[str, Any]:
        return {"flips": list(self.flips)}

    def _save(self, folder: Path) -> None:
        np.savez(folder / "rows.npz", images=self.images, y=self.y)

    def _load(self, folder: Path, state: dict[str, Any]) -> None:
        file = folder / "rows.npz"
        try:
            with np.load(file, allow_pickle=False) as rows:
                self.images, self.y = rows["images"], rows["y"]
        except (BadZipFile, EOFError, KeyError, ValueError) as error:
            raise ValueError(f"{file} is damaged ({error}); delete it and run `dvc repro`") from None
        self.flips = tuple(state["flips"])
        self.prepare()
