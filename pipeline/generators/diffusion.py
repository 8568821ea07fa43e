"""Class-conditional diffusion (EDM: Karras et al., Elucidating the Design Space, 2022) with a lean U-Net.

Symbols, equation and algorithm numbers are the paper's. Augmentations are shown to the network as a condition that is
zero when sampling, so they do not leak (EDM, appendix F.2).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pipeline import devices
from pipeline.generators._blocks import Block, NetworkGenerator, NetworkOptions, fold, halvings
from pipeline.params.fields import Pair
from pipeline.samples import to_network

SIGMA_DATA, SIGMA_MIN, SIGMA_MAX, RHO = 0.5, 0.002, 80.0, 7.0  # table 1

Level = Annotated[float, Field(ge=-5, le=5)]


class Options(NetworkOptions):
    depth: Annotated[int, Field(ge=1, le=8)]  # residual blocks per level
    dropout: Annotated[float, Field(ge=0, lt=1)]
    augment: Annotated[float, Field(ge=0, le=1)]  # probability of each augmentation in training
    noise: Annotated[tuple[Level, Annotated[float, Field(gt=0, le=5)]], Pair]  # ln(sigma): mean and deviation
    label_dropout: Annotated[float, Field(ge=0, lt=1)]  # share of training without a class: classes teach each other
    sampler_steps: Annotated[int, Field(ge=2, le=1000)]  # Heun steps; a step costs two network calls, the last one


class UNet(nn.Module):
    """F_theta: levels of half the side each, an embedding of noise level, class and augmentation; images (N, C, H, W) -> same.

    Two levels, and more for larger pictures, until the coarsest has at most 8 cells a side.
    """

    frequencies: torch.Tensor
    down: Any  # lists of blocks in a list, which torch's types do not tell
    up: Any

    def __init__(self, side: tuple[int, int], channels: int, classes: int, o: Options) -> None:
        super().__init__()
        f, w, e = fold(side), o.width, 4 * o.width
        coarser = sum(min(side) // f >> i > 8 for i in range(1, halvings(side)))
        widths = [w, 2 * w, *[2 * w] * coarser]
        self.fold, self.unfold = nn.PixelUnshuffle(f), nn.PixelShuffle(f)
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000), w)), persistent=False)
        self.level, self.label = nn.Linear(2 * w, e), nn.Embedding(classes + 1, e)
        self.shape, self.mix = nn.Linear(AUGMENTS, e, bias=False), nn.Linear(e, e)
        self.stem = nn.Conv2d(channels * f**2, w, 3, padding=1)

        def blocks(first: int, width: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width if i else first, width, e, o.dropout) for i in range(o.depth))

        self.down = nn.ModuleList(blocks(a, b) for a, b in itertools.pairwise([w, *widths]))
        self.middle = Block(2 * w, 2 * w, e, o.dropout)
        below = [*widths[1:], 2 * w]  # what comes from the level below, beside what went down
        self.up = nn.ModuleList(blocks(a + b, b) for a, b in zip(below[::-1], widths[::-1], strict=True))
        self.norm, self.out = nn.GroupNorm(8, w), nn.Conv2d(w, channels * f**2, 3, padding=1)
        for p in self.out.parameters():
            nn.init.zeros_(p)

    def forward(
        self, x: torch.Tensor, c_noise: torch.Tensor, y: torch.Tensor, shape: torch.Tensor | None
    ) -> torch.Tensor:
        angle = c_noise[:, None] * self.frequencies  # (N, w)
        e = self.level(torch.cat([angle.cos(), angle.sin()], dim=1)) + self.label(y)  # (N, e)
        e = F.silu(self.mix(F.silu(e if shape is None else e + self.shape(shape))))
        h, passed = self.stem(self.fold(x)), []
        for i, blocks in enumerate(self.down):
            h = F.avg_pool2d(h, 2) if i else h
            for block in blocks:
                h = block(h, e)
            passed.append(h)
        h = self.middle(h, e)
        for i, blocks in enumerate(self.up):
            h = torch.cat([F.interpolate(h, scale_factor=2.0) if i else h, passed.pop()], dim=1)
            for block in blocks:
                h = block(h, e)
        return self.unfold(self.out(F.silu(self.norm(h))))


class Denoiser(nn.Module):
    """D(x; sigma) of eq. 7 around the U-Net, its training loss and its sampler."""

    def __init__(self, net: UNet, classes: int, side: tuple[int, int], channels: int, o: Options) -> None:
        super().__init__()
        self.net, self.null, self.image, self.o = net, classes, (channels, *side), o

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"denoiser": list(self.parameters())}

    def denoise(
        self, x: torch.Tensor, sigma: torch.Tensor, y: torch.Tensor, shape: torch.Tensor | None = None
    ) -> torch.Tensor:
        s = sigma.view(-1, 1, 1, 1)
        total = (s**2 + SIGMA_DATA**2).sqrt()
        c_skip, c_out, c_in = SIGMA_DATA**2 / total**2, s * SIGMA_DATA / total, 1 / total  # table 1
        return c_skip * x + c_out * self.net(c_in * x, sigma.log() / 4, y, shape).float()

    def losses(self, batch: tuple[torch.Tensor, ...], progress: float) -> Iterator[tuple[str, torch.Tensor]]:
        x, y, _ = batch
        x, shape = augment(x, self.o.augment)
        mean, deviation = self.o.noise
        sigma = (torch.randn(len(x), device=x.device) * deviation + mean).exp()
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2  # lambda(sigma)
        y = torch.where(torch.rand(len(x), device=x.device) < self.o.label_dropout, self.null, y)
        noisy = x + torch.randn_like(x) * sigma.view(-1, 1, 1, 1)
        error = (self.denoise(noisy, sigma, y, shape) - x).square().mean(dim=(1, 2, 3))
        yield "denoiser", (weight * error).mean()

    def surprise(self, x: torch.Tensor, y: torch.Tensor, levels: int = 8) -> torch.Tensor:
        """The weighted error of denoising images (N, C, H, W) of classes y (N,), a mean over noise levels, (N,).

        Every image gets the same noise, at levels evenly spaced over the middle of those trained on.
        """
        total, noise = torch.zeros(len(x), device=x.device), torch.Generator().manual_seed(0)
        mean, deviation = self.o.noise
        for z in torch.linspace(-1.5, 1.5, levels):
            sigma = (z * deviation + mean).exp().to(x.device).expand(len(x))
            drawn = torch.randn(self.image, generator=noise).to(x.device)
            error = (self.denoise(x + drawn * sigma.view(-1, 1, 1, 1), sigma, y) - x).square().mean(dim=(1, 2, 3))
            total += error * (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        return total / levels

    def solve(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Algorithm 1, Heun's method, from x at the noise levels t[0] down to t[-1] = 0; t (S + 1, N)."""
        for i, (now, after) in enumerate(itertools.pairwise(t)):
            h = (after - now).view(-1, 1, 1, 1)
            d = (x - self.denoise(x, now, y)) / now.view(-1, 1, 1, 1)
            step = x + h * d
            if i < len(t) - 2:
                d = (d + (step - self.denoise(step, after, y)) / after.view(-1, 1, 1, 1)) / 2
                step = x + h * d
            x = step
        return x

    def forward(self, y: torch.Tensor, noise: Callable[..., torch.Tensor]) -> torch.Tensor:
        return self.denoised(None, torch.full((len(y),), SIGMA_MAX, device=y.device), y, noise)

    def denoised(
        self, x: torch.Tensor | None, start: torch.Tensor, y: torch.Tensor, noise: Callable[..., torch.Tensor]
    ) -> torch.Tensor:
        """Images of class y (N,) from noise of the levels `start` (N,), added to the images x if there are any."""
        drawn = noise(*self.image).contiguous(memory_format=torch.channels_last)  # faster on a CPU
        first = drawn * start.view(-1, 1, 1, 1)
        return self.solve(first if x is None else x + first, levels(start, self.o.sampler_steps), y)


def levels(start: torch.Tensor, steps: int) -> torch.Tensor:
    """Eq. 5: noise levels (S + 1, N) that fall from `start` (N,) to SIGMA_MIN, and a last one of zero."""
    i = torch.linspace(0, 1, steps, device=start.device).view(-1, 1)
    high, low = start ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return torch.cat([(high + i * (low - high)) ** RHO, torch.zeros_like(start)[None]])


AUGMENTS = 5  # numbers that describe an augmentation: shift, log-scale, rotation


def augment(x: torch.Tensor, probability: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Randomly moved images and what was done to each, (N, 5), all zero for an untouched one."""
    n = len(x)

    def draw(count: int) -> torch.Tensor:
        on = torch.rand(n, 1, device=x.device) < probability
        return torch.randn(n, count, device=x.device) * on

    shift, scale, turn = draw(2) * 0.125, draw(1) * 0.2 * math.log(2), draw(1) * 0.2
    shape = torch.cat([shift, scale, turn.cos() - 1, turn.sin()], dim=1)
    cos, sin, size = turn.cos(), turn.sin(), scale.exp()
    rows = torch.cat([cos, -sin, size * shift[:, :1]], dim=1), torch.cat([sin, cos, size * shift[:, 1:]], dim=1)
    theta = torch.stack(rows, dim=1) / size[:, :, None]
    with torch.autocast(x.device.type, enabled=False):  # in bf16 a place is off by up to a hundredth of the side
        grid = F.affine_grid(theta.float(), list(x.shape), align_corners=False)
        moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    touched = (shape != 0).any(dim=1)[:, None, None, None]  # asked on the device, which a GPU is not kept waiting for
    return torch.where(touched, moved, x), shape


class Model(NetworkGenerator):
    options: Options
    drawn: ClassVar[frozenset[str]] = frozenset({"sampler_steps"})

    def auto_steps(self, rows: int, side: int) -> int:
        return min(100_000, 300 * min(side, 32) + 2 * rows)

    @torch.inference_mode()
    def known(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Minus the loss of each row, by the weights that its class is drawn with (Carlini et al., 2023)."""
        where, padded, out = devices.device(self.compute), self.padded(images), np.empty(len(images))
        for i in np.unique(self.chosen[labels]):
            network, own = self.networks[i].to(where).eval(), np.flatnonzero(self.chosen[labels] == i)
            for rows in np.array_split(own, math.ceil(len(own) / (self.chunk or 1))):
                y = torch.from_numpy(labels[rows]).to(where)
                out[rows] = -network.surprise(to_network(padded[rows]).to(where), y).cpu().numpy()
        return out

    def build(self) -> Denoiser:
        net = UNet(self.side, self.shape[2], self.classes, self.options)
        return Denoiser(net, self.classes, self.side, self.shape[2], self.options)
