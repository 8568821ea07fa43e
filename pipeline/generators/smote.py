"""SMOTE in pixel space (Chawla et al., 2002): a point between a row and one of its k nearest rows of the same class.

Written here because imbalanced-learn's SMOTE draws a whole batch from one stream, while a row here must depend on its
own seed alone; the tests compare it with imbalanced-learn.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from pipeline.generators import base
from pipeline.generators._rows import RowGenerator


class Options(base.Options):
    neighbours: Annotated[int, Field(ge=1)]  # k; a class of n rows uses at most n - 1, a class of one row is duplicated


class Model(RowGenerator):
    options: Options

    def prepare(self) -> None:
        self.near: dict[int, np.ndarray] = {}

    def find_near(self, label: int) -> None:
        """Notes for each row of the class which rows are nearest to it; for one alone, itself. It takes long for a common class."""
        from sklearn.neighbors import NearestNeighbors

        own = np.flatnonzero(self.y == label)
        flat = self.images[own].reshape(len(own), -1).astype(np.float32)
        k = min(self.options.neighbours, len(own) - 1)
        near = own[NearestNeighbors(n_neighbors=k).fit(flat).kneighbors(return_distance=False)] if k else own[:, None]
        self.near |= dict(zip(own.tolist(), near, strict=True))

    def one(self, label: int, rng: np.random.Generator) -> np.ndarray:
        row = self.pick(label, rng)
        if row not in self.near:
            self.find_near(label)
        other = rng.choice(self.near[row])
        a, b = self.images[row].astype(np.float64), self.images[other].astype(np.float64)
        return np.round(a + rng.random() * (b - a)).astype(np.uint8)
