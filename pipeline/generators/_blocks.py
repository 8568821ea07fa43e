"""What the neural families share: fitting, fixed-size sampling, per-row noise, saving, and a conditioned residual block."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline import devices, ranks, weights
from pipeline.averages import Averages, Snapshot
from pipeline.data.augment import Mirrored
from pipeline.data.loaders import Batches, Rows
from pipeline.generators import base
from pipeline.params.fields import Share
from pipeline.samples import Samples, spread, to_pixels

ALIKE = 0.2  # of the spread of real rows; with less, samples are one picture, and the fit starts again. As selection.alike is
# shipped, but apart from it: what is selected must not ask for other fits


class NetworkOptions(base.Options):
    epochs: Literal["auto"] | Annotated[int, Field(gt=0, le=10**6)]  # passes over train; auto: by the family
    batch: Annotated[int, Field(gt=1, le=100_000)]
    lr: Annotated[float, Field(gt=0, le=10)]
    width: Annotated[int, Field(ge=8, le=4096, multiple_of=8)]  # channels at the first level
    balance: Annotated[float, Field(ge=0, le=1)]  # share of a class in a batch = rows^balance
    ema: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1)]  # lengths, in shares of steps
    snapshots: Annotated[int, Field(ge=1, le=100)]  # points of training at which each of these averages may be chosen
    max_copies: Share  # a point at which more of the samples are copies is not chosen while another is left


class NetworkGenerator(base.Generator):
    """A family writes `build()`, a network whose `forward(labels, noise)` gives images (N, C, H, W) in [-1, 1].

    What is trained, `game()`, has `players` and `losses` (see training.Adversaries); it is the same network unless a
    family trains another beside it. Averages of the weights are kept on the way; a judge chooses among them by class.
    """

    options: NetworkOptions
    chunk: ClassVar[int | None] = 64  # always the same number of rows, so that a row's bits cannot depend on the call
    uses_device: ClassVar[bool] = True
    mirrors: ClassVar[bool] = True  # learns from rows mirrored as often as not, where augmentation may mirror them
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)

    @abstractmethod
    def build(self) -> nn.Module: ...

    def game(self) -> nn.Module:
        return self.build()

    @abstractmethod
    def auto_steps(self, rows: int, side: int) -> int:
        """Optimiser steps when `epochs` is auto, for so many rows of so many pixels a side."""

    def finished(self, game: Any, real: Samples) -> nn.Module:
        """The network to sample from, once its game is over; the game is what the family's `game()` gives."""
        return game

    def start_from(self, real: Samples) -> None:
        """What a family takes from the rows it is asked to vary, before fitting and after loading: most take nothing."""

    def steps(self, real: Samples) -> int:
        if self.options.epochs == "auto":
            return self.auto_steps(len(real), real.shape[0])
        return self.options.epochs * math.ceil(len(real) / self.options.batch)

    @property
    def begin(self) -> float:
        """The share of training until which the classes are not learnt yet: no weights of that part are chosen."""
        return 0.0

    @property
    def multiple(self) -> int:
        """Sides are padded to a multiple of this, and cropped again: the larger, the more often they can be halved."""
        return 4 * 2 ** max(0, math.ceil(math.log2(max(self.shape[:2]) / 32)))

    @property
    def side(self) -> tuple[int, int]:
        height, width = (math.ceil(n / self.multiple) * self.multiple for n in self.shape[:2])
        return height, width

    def padded(self, images: Any) -> Any:
        """Images, an array or what is indexed like one, of the network's side."""
        return images if self.side == self.shape[:2] else Padded(images, self.side)

    def _fit(self, real: Samples, seed: int, report: Callable[[int, str], None]) -> list[dict[str, Any]]:
        self.restarts, self.slowed, self.micro_batches = 0, False, 1
        self.start_from(real)
        curve = self.train(real, seed, report)
        alike = bool(self.judge) and self.variety(real, seed) < ALIKE
        if ranks.told(alike):  # the first rank alone has a judge
            report(0, "its rows are all alike: once more from the start")
            self.restarts, curve = 1, self.train(real, seed ^ 1, report)
        return curve

    def train(self, real: Samples, seed: int, report: Callable[[int, str], None]) -> list[dict[str, Any]]:
        """Plays the game once and keeps the networks to draw from; returns the curve."""
        from pipeline import training  # brings Lightning, which sampling does not need

        devices.set_threads(self.compute)
        torch.manual_seed(seed)
        steps = self.steps(real)
        game, o = self.game(), self.options
        images = Mirrored(real.images, real.facts.flips if self.mirrors else ())
        rows = Rows.plain(self.padded(images), real.y, images.ways)
        batches = Batches(rows, self.classes, o.batch, steps, seed, o.balance)
        decays = [max(0.0, 1 - 1 / (share * steps)) if share else 0.0 for share in o.ema]
        averages = Averages(decays, moments(steps, o.snapshots if self.judge else 1, self.begin))
        module = training.Adversaries(game, steps, o.lr, self.betas, clip=1.0)
        kept = self.unfinished / str(seed) if self.unfinished is not None else None
        curve = training.fit(module, batches, self.compute, seed, report, averages, kept=kept)
        self.slowed, self.micro_batches = bool(module.slowed), int(module.micro_batches)
        self.choose(averages.kept, real, seed)
        return curve

    def choose(self, kept: Sequence[Snapshot], real: Samples, seed: int) -> None:
        """Keeps for each class the weights whose samples lie nearest to held-out rows, without too many copies.

        Without a judge, and for classes that it cannot judge, the last weights of the longest average.
        """
        self.networks: list[nn.Module] = []
        self.points: list[dict[str, Any]] = [{"step": s.step, "ema": s.decay} for s in kept]
        last = max(range(len(kept)), key=lambda i: (kept[i].step, kept[i].decay))
        distance, copies = np.full((2, len(kept), self.classes), np.nan)
        for i, snapshot in enumerate(kept):
            game = self.game()
            game.load_state_dict(snapshot.weights)
            self.networks.append(self.finished(game.eval(), real))
            if self.judge and len(kept) > 1:
                self.chosen = np.full(self.classes, i)
                distance[i], copies[i] = self.judge(*self.trial(real, seed))
        chosen = best(distance, copies, self.options.max_copies, last)
        used, self.chosen = np.unique(chosen, return_inverse=True)
        self.networks = [self.networks[i] for i in used]
        self.points = [
            point
            | {"classes": np.flatnonzero(chosen == i).tolist()}
            | {"distance": numbers(distance[i]), "copies": numbers(copies[i])}
            for i, point in enumerate(self.points)
        ]

    def trial(self, real: Samples, seed: int, rows: int = 128) -> tuple[np.ndarray, np.ndarray]:
        """About so many images, as many of each scarce class but no fewer than 8, and their class indices."""
        y = np.repeat(real.scarce, max(8, rows // max(len(real.scarce), 1)))
        return self.sample(y, np.random.default_rng(seed).integers(2**63, size=len(y))), y

    def variety(self, real: Samples, seed: int) -> float:
        """How far samples of a scarce class spread, as a part of how far its real rows do; the least of these classes."""
        parts = spread(*self.trial(real, seed), real)
        return float(np.nanmin(parts)) if np.isfinite(parts).any() else 1.0

    @torch.inference_mode()
    def _sample(self, labels: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        where, out = devices.device(self.compute), np.empty((len(labels), *self.shape), np.uint8)
        for i in np.unique(self.chosen[labels]):
            images = self.draw(self.networks[i].to(where).eval(), labels, seeds, where)
            own = self.chosen[labels] == i
            out[own] = to_pixels(images)[own, : self.shape[0], : self.shape[1]]
        return out

    def draw(self, network: Any, labels: np.ndarray, seeds: np.ndarray, where: torch.device) -> torch.Tensor:
        return network(torch.from_numpy(labels).to(where), lambda *shape: noise(seeds, shape).to(where))

    def _state(self) -> dict[str, Any]:
        parameters = sum(p.numel() for p in self.networks[0].parameters())
        return {
            "steps": self.points[-1]["step"],
            "parameters": parameters,
            "restarts": self.restarts,
            "slowed": self.slowed,
            "micro_batches": self.micro_batches,
            "chosen": self.chosen.tolist(),
            "points": self.points,
        }

    def _save(self, folder: Path) -> None:
        states = [network.state_dict() for network in self.networks]
        arrays = {f"{i}.{k}": v.contiguous().cpu() for i, state in enumerate(states) for k, v in state.items()}
        save_file(arrays, folder / "weights.safetensors", base.MARK)

    def _load(self, folder: Path, state: dict[str, Any], real: Samples) -> None:
        self.chosen, self.points, self.restarts = np.array(state["chosen"]), state["points"], state["restarts"]
        self.slowed, self.micro_batches = state["slowed"], state["micro_batches"]
        self.start_from(real)
        arrays = weights.read(folder / "weights.safetensors", load_file)
        self.networks = []
        for i in range(self.chosen.max() + 1):
            network, start = self.build(), f"{i}."
            network.load_state_dict({k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)})
            self.networks.append(network.eval())


def moments(steps: int, count: int, begin: float) -> list[int]:
    """So many steps, evenly spaced after the share `begin` of all of them, of which the last is the last of all."""
    return sorted({max(1, round(steps * (1 - (1 - begin) * i / count))) for i in range(count)})


def best(distance: np.ndarray, copies: np.ndarray, most: float, last: int) -> np.ndarray:
    """For each class the point (a row of both) of least distance among those with at most a share `most` of copies.

    Where all have more, those with the fewest; `last` where no distance is known. int (K,).
    """
    chosen = np.full(distance.shape[1], last)
    for c in np.flatnonzero(np.isfinite(distance).all(axis=0)):
        fit = copies[:, c] <= max(most, copies[:, c].min())
        chosen[c] = np.where(fit, distance[:, c], np.inf).argmin()
    return chosen


def numbers(values: np.ndarray) -> list[float | None]:
    """For JSON, which has no NaN."""
    return [float(v) if np.isfinite(v) else None for v in values]


@dataclass(frozen=True)
class Padded:
    """Images (N, H, W, C) that are grown to `side` by their last row and column as they are read: a batch, not all."""

    images: Any  # an array, or what is indexed like one
    side: tuple[int, int]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.images), *self.side, self.images.shape[3])

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
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
        for p in self.conv2.parameters():
            nn.init.zeros_(p)  # a block starts as its skip connection

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.affine(condition)[:, :, None, None].chunk(2, dim=1)
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h) * (1 + scale) + shift)))
