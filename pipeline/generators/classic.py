"""The classical control: strongly augmented real rows, by the project's one augmentation policy."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.data.augment import augmented, choose_policy, policy
from pipeline.generators import base
from pipeline.generators._rows import RowGenerator


class Options(base.Options):
    policy: Literal["auto", "safe", "glyph", "texture"]  # as under augment
    strength: Annotated[float, Field(gt=0, le=3)]  # scales the policy's magnitudes; 1 is what every arm trains with


class Model(RowGenerator):
    options: Options
    drawn: ClassVar[frozenset[str]] = frozenset({"policy", "strength"})

    def prepare(self) -> None:
        self.policy = policy(choose_policy(self.options.policy, self.shape[0]), self.flips, self.options.strength)

    def one(self, label: int, rng: np.random.Generator) -> np.ndarray:
        image = np.ascontiguousarray(self.images[self.pick(label, rng)])
        return augmented(image, self.policy, int(rng.integers(2**63)), 1)[0]
