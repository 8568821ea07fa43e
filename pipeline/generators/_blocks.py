"""What the neural families share: fitting, fixed-size sampling, per-row noise, saving, and a conditioned residual block."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline import devices
from pipeline.data.loaders import Batches, Rows
from pipeline.generators import base
from pipeline.samples import Samples, to_pixels


class NetworkOptions(base.Options):
    epochs: Literal["auto"] | Annotated[int, Field(gt=0, le=10**6)]  # passes over train; auto: by the family
    batch: Annotated[int, Field(gt=1, le=100_000)]
    lr: Annotated[float, Field(gt=0, le=10)]
    width: Annotated[int, Field(ge=8, le=4096, multiple_of=8)]  # channels at the first level
    balance: Annotated[float, Field(ge=0, le=1)]  # share of a class in a batch = rows^balance


class NetworkGenerator(base.Generator):
    """A family writes `build()`, a network whose `forward(labels, noise)` gives images (N, C, H, W) in [-1, 1].

    What is trained, `game()`, has `players` and `losses` (see training.Adversaries); it is the same network unless a
    family trains another beside it.
    """

    chunk: ClassVar[int | None] = 64  # always the same number of rows, so that a row's bits cannot depend on the call
    uses_device: ClassVar[bool] = True
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)
    ema: ClassVar[float | None] = None
    multiple: ClassVar[int] = 4  # sides are padded to a multiple of this, and cropped again

    @abstractmethod
    def build(self) -> nn.Module: ...

    def game(self) -> nn.Module:
        return self.build()

    @abstractmethod
    def auto_steps(self, rows: int) -> int:
        """Optimiser steps when `epochs` is auto."""

    def finish(self, real: Samples) -> None:
        """What a family computes after training."""

    def steps(self, real: Samples) -> int:
        o = self.options
        return self.auto_steps(len(real)) if o.epochs == "auto" else o.epochs * math.ceil(len(real) / o.batch)

    @property
    def side(self) -> tuple[int, int]:
        return tuple(math.ceil(n / self.multiple) * self.multiple for n in self.shape[:2])

    def _fit(self, real: Samples, seed: int, report: Callable[[int, str], None]) -> list[dict]:
        from pipeline import training  # brings Lightning, which sampling does not need

        devices.set_threads(self.compute)
        devices.seed_everything(seed)
        self.flips, self.trained_steps = real.facts.flips, self.steps(real)
        self.network, o = self.game(), self.options
        images = real.images if self.side == self.shape[:2] else Padded(real.images, self.side)
        batches = Batches(Rows.plain(images, real.y), self.classes, o.batch, self.trained_steps, seed, o.balance)
        module = training.Adversaries(self.network, self.trained_steps, o.lr, self.betas, clip=1.0)
        curve = training.fit(module, batches, self.compute, seed, report, ema=getattr(o, "ema", self.ema))
        self.network.cpu().eval()
        self.finish(real)
        return curve

    @torch.inference_mode()
    def _sample(self, labels: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        where = devices.device(self.compute)
        self.network.to(where).eval()
        images = self.network(torch.from_numpy(labels).to(where), lambda *shape: noise(seeds, shape).to(where))
        return to_pixels(images)[:, : self.shape[0], : self.shape[1]]

    def _state(self) -> dict[str, Any]:
        return {
            "flips": list(self.flips),
            "steps": self.trained_steps,
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }

    def _save(self, folder: Path) -> None:
        save_file(
            {k: v.contiguous().cpu() for k, v in self.network.state_dict().items()}, folder / "weights.safetensors"
        )

    def _load(self, folder: Path, state: dict[str, Any]) -> None:
        self.flips, self.trained_steps = tuple(state["flips"]), state["steps"]
        self.network = self.build()
        file = folder / "weights.safetensors"
        try:
            weights = load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}); delete it and run `dvc repro`") from None
        self.network.load_state_dict(weights)
        self.network.eval()


@dataclass(frozen=True)
class Padded:
    """Images (N, H, W, C) that are grown to `side` by their last row and column as they are read: a batch, not all."""

    images: np.ndarray
    side: tuple[int, int]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.images), *self.side, self.images.shape[3])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        part = self.images[rows]
        grow = [(0, s - n) for s, n in zip(self.side, part.shape[1:3], strict=True)]
        return np.pad(part, [(0, 0), *grow, (0, 0)], mode="edge")


def fold(side: tuple[int, int]) -> int:
    """How many pixels a side are folded into channels: 2 above 16 px, which makes a network four times cheaper."""
    return 2 if min(side) > 16 else 1


def halvings(side: tuple[int, int]) -> int:
    """How often a folded side halves before it would be odd or fall below 4, at most four times."""
    n, small = 0, [s // fold(side) for s in side]
    while n < 4 and all(s % 2 ** (n + 1) == 0 and s >> (n + 1) >= 4 for s in small):
        n += 1
    return n


def noise(seeds: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal numbers (N, *shape), row i drawn from a stream of its own seeded with seeds[i], on the CPU."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds])


class Block(nn.Module):
    """Residual block whose second normalisation is scaled and shifted by a condition (N, E); images (N, C, H, W)."""

    def __init__(self, inner: int, outer: int, condition: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inner), nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, outer, affine=False), nn.Conv2d(outer, outer, 3, padding=1)
        self.affine, self.dropout = nn.Linear(condition, 2 * outer), nn.Dropout(dropout)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()
        nn.init.zeros_(self.conv2.weight)  # a block starts as its skip connection
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.affine(condition)[:, :, None, None].chunk(2, dim=1)
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h) * (1 + scale) + shift)))
