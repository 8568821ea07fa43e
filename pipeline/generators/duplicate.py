"""The count-matched control: exact copies of real rows, as many as another generator would add."""

import numpy as np

from pipeline.generators import base
from pipeline.generators._rows import RowGenerator


class Options(base.Options):
    pass


class Model(RowGenerator):
    def one(self, label: int, rng: np.random.Generator) -> np.ndarray:
        return self.images[self.pick(label, rng)]
