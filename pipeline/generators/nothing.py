"""The empty control: no rows are added."""

from typing import ClassVar

import numpy as np

from pipeline.generators import base
from pipeline.generators._rows import RowGenerator


class Options(base.Options):
    pass


class Model(RowGenerator):
    makes_rows: ClassVar[bool] = False

    def one(self, label: int, rng: np.random.Generator) -> np.ndarray:
        raise TypeError("the empty control makes no rows")
