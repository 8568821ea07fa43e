"""Conditional variational autoencoder (Kingma and Welling, 2014; Sohn et al., 2015), sampled from a latent Gaussian per class.

The decoder's variance is its maximum-likelihood value (sigma-VAE: Rybkin et al., 2021), so the reconstruction and KL
terms balance at `kl_weight: 1`.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pipeline import devices
from pipeline.generators._blocks import Block, NetworkGenerator, NetworkOptions, Padded, fold, halvings
from pipeline.samples import Samples, to_network

FEWEST = 5  # a class of fewer rows is widened as one of so many


class Options(NetworkOptions):
    latent: Annotated[int, Field(ge=1, le=1024)]
    kl_weight: Annotated[float, Field(ge=0)]
    kl_warmup: Annotated[float, Field(ge=0, le=1)]  # share of training over which the KL weight rises from zero
    shrink: Annotated[float, Field(ge=0)]  # pseudo-rows that pull a class's latent Gaussian to that of all rows
    widen: Annotated[float, Field(ge=0)]  # ... which is sqrt(1 + widen / n) times as wide for a class of n rows


class Network(nn.Module):
    """q(z|x,y), p(x|z,y) and a Gaussian per class over z; `forward` draws images (N, C, H, W) in [-1, 1]."""

    prior_mean: torch.Tensor
    prior_std: torch.Tensor

    def __init__(self, side: tuple[int, int], channels: int, classes: int, o: Options) -> None:
        super().__init__()
        f, n = fold(side), halvings(side)
        widths = [o.width * 2 ** min(i, 2) for i in range(n + 1)]
        self.small = (widths[-1], side[0] // f >> n, side[1] // f >> n)
        cells = self.small[0] * self.small[1] * self.small[2]
        self.o = o
        self.embed = nn.Embedding(classes, 2 * o.width)
        self.stem = nn.Sequential(nn.PixelUnshuffle(f), nn.Conv2d(channels * f**2, widths[0], 3, padding=1))
        self.down = nn.ModuleList(Block(a, b, 2 * o.width) for a, b in itertools.pairwise(widths))
        self.to_latent = nn.Linear(cells, 2 * o.latent)
        self.from_latent = nn.Linear(o.latent + 2 * o.width, cells)
        self.up = nn.ModuleList(Block(b, a, 2 * o.width) for a, b in reversed(list(itertools.pairwise(widths))))
        last = nn.Conv2d(widths[0], channels * f**2, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(8, widths[0]), nn.SiLU(), last, nn.PixelShuffle(f))
        self.register_buffer("prior_mean", torch.zeros(classes, o.latent))
        self.register_buffer("prior_std", torch.ones(classes, o.latent))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"vae": list(self.parameters())}

    def encode(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance (N, Z) of q(z|x,y)."""
        condition, h = self.embed(y), self.stem(x)
        for block in self.down:
            h = F.avg_pool2d(block(h, condition), 2)
        return self.to_latent(h.flatten(1)).chunk(2, dim=1)

    def decode(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        condition = self.embed(y)
        h = self.from_latent(torch.cat([z, condition], dim=1)).view(-1, *self.small)
        for block in self.up:
            h = block(F.interpolate(h, scale_factor=2.0), condition)
        return torch.tanh(self.out(h))

    def losses(self, batch: tuple[torch.Tensor, ...], progress: float) -> Iterator[tuple[str, torch.Tensor]]:
        x, y, _ = batch
        mean, logvar = self.encode(x, y)
        logvar = logvar.clamp(-8, 8)
        x_hat = self.decode(mean + (0.5 * logvar).exp() * torch.randn_like(mean), y)
        pixels = x[0].numel()
        log_sigma = 0.5 * (x_hat - x).square().mean().clamp_min(1e-5).log()  # eq. 4 of sigma-VAE: the optimal variance
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=1).mean()
        self.monitors = {"KL, nats": kl.detach()}  # near 0: the code says nothing, and rows of a class are all alike
        warm = min(1.0, progress / self.o.kl_warmup) if self.o.kl_warmup else 1.0
        yield "vae", log_sigma + self.o.kl_weight * warm * kl / pixels

    @torch.no_grad()
    def fit_prior(self, images: np.ndarray | Padded, labels: np.ndarray) -> None:
        """Moments of the aggregate posterior of each class, shrunk towards those of all rows by `shrink` pseudo-rows.

        Of few rows they are too narrow for the next one: their mean is not that of the class, and the encoder has seen them.
        """
        y, where, parts = torch.from_numpy(labels), self.prior_mean.device, []
        for i in range(0, len(y), 64):
            told = self.encode(to_network(images[i : i + 64]).to(where), y[i : i + 64].to(where))
            parts.append([part.cpu() for part in told])
        mean, var = torch.cat([m for m, _ in parts]), torch.cat([v.clamp(-8, 8).exp() for _, v in parts])
        second = var + mean.square()
        for c in range(len(self.prior_mean)):
            own = y == c
            pull = self.o.shrink / (self.o.shrink + own.sum()) if self.o.shrink + own.sum() else 1.0
            first = (mean[own].mean(0) if own.any() else mean.mean(0)) * (1 - pull) + mean.mean(0) * pull
            square = (second[own].mean(0) if own.any() else second.mean(0)) * (1 - pull) + second.mean(0) * pull
            wider = 1 + self.o.widen / max(int(own.sum()) or len(y), FEWEST)
            self.prior_mean[c], self.prior_std[c] = first, ((square - first.square()).clamp_min(1e-4) * wider).sqrt()

    def forward(self, y: torch.Tensor, noise: Callable[..., torch.Tensor]) -> torch.Tensor:
        return self.decode(self.prior_mean[y] + self.prior_std[y] * noise(self.o.latent), y)


class Model(NetworkGenerator):
    options: Options
    mirrors: ClassVar[bool] = False  # a code would have to tell which way round a row is, and rows lay farther off

    def auto_steps(self, rows: int, side: int) -> int:
        return min(30_000, 1500 + rows)

    def build(self) -> Network:
        return Network(self.side, self.shape[2], self.classes, self.options)

    def finished(self, game: Network, real: Samples) -> Network:
        game.to(devices.device(self.compute)).fit_prior(self.padded(real.images), real.y)
        return game
