"""Image to image: real rows, half drowned in noise and denoised towards a class (SDEdit: Meng et al., 2022).

A row of the class itself gives a variation of it; one of another class is carried over to this one, as class-to-class
oversampling does with CycleGAN (Zhu et al., 2017), without a second network.
"""

from typing import Annotated, ClassVar

import numpy as np
import torch

from pipeline.generators import diffusion
from pipeline.generators._blocks import noise
from pipeline.params.fields import Pair, Rising, Share
from pipeline.samples import Samples, to_network


class Options(diffusion.Options):
    strength: Annotated[tuple[Share, Share], Pair, Rising]  # of the noise, drawn between; 0: none, 1: nothing is left
    across: Share  # share of rows that start from another class


class Model(diffusion.Model):
    options: Options
    drawn: ClassVar[frozenset[str]] = diffusion.Model.drawn | {"strength", "across"}

    def start_from(self, real: Samples) -> None:
        self.images, self.y = real.images, real.y

    def draw(
        self, network: diffusion.Denoiser, labels: np.ndarray, seeds: np.ndarray, where: torch.device
    ) -> torch.Tensor:
        rngs = [np.random.default_rng([int(seed), 1]) for seed in seeds]  # apart from the stream of the noise
        rows = [self.source(int(c), rng) for c, rng in zip(labels, rngs, strict=True)]
        low, high = self.options.strength
        strength = torch.tensor([low + (high - low) * rng.random() for rng in rngs], dtype=torch.float32)
        x = to_network(self.padded(self.images)[np.array(rows)]).to(where)
        y = torch.from_numpy(labels).to(where)
        return network.denoised(x, level(strength).to(where), y, lambda *shape: noise(seeds, shape).to(where))

    def source(self, label: int, rng: np.random.Generator) -> int:
        """The row to start from. Raises ValueError for a class without rows in a set without others."""
        own, others = np.flatnonzero(self.y == label), np.flatnonzero(self.y != label)
        if not len(own):
            own, others = others, others[:0]
        return int(rng.choice(others if len(others) and rng.random() < self.options.across else own))


def level(strength: torch.Tensor) -> torch.Tensor:
    """The noise level that lies this far, from 0 to 1, along the schedule of eq. 5 from the least to the largest."""
    low, high = diffusion.SIGMA_MIN ** (1 / diffusion.RHO), diffusion.SIGMA_MAX ** (1 / diffusion.RHO)
    return (low + strength * (high - low)) ** diffusion.RHO
