"""Conditional GAN for few rows: hinge loss, spectral normalisation, projection critic, augmentation on both sides.

Hinge and spectral normalisation: Miyato et al., 2018. Projection: Miyato and Koyama, 2018. Differentiable augmentation:
Zhao et al., 2020. The ramp from unconditional to conditional: Shahbazi et al., Collapse by Conditioning, 2022.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from pipeline.generators._blocks import Block, NetworkGenerator, NetworkOptions, fold, halvings
from pipeline.params.fields import Pair, Rising, Share
from pipeline.samples import Samples


class Options(NetworkOptions):
    latent: Annotated[int, Field(ge=1, le=1024)]
    ramp: Annotated[tuple[Share, Share], Pair, Rising]  # shares of training
    augment: list[Literal["colour", "translation", "cutout"]]
    diversity: Annotated[float, Field(ge=0)]  # weight of the mode-seeking term


class Maker(nn.Module):
    """G(z, y): images (N, C, H, W) in [-1, 1]; `strength` scales what the class contributes."""

    def __init__(self, side: tuple[int, int], channels: int, classes: int, o: Options) -> None:
        super().__init__()
        f, n = fold(side), halvings(side)
        widths = [o.width * 2 ** min(i, 2) for i in range(n, -1, -1)]
        self.small, self.latent = (widths[0], side[0] // f >> n, side[1] // f >> n), o.latent
        self.embed = nn.Embedding(classes, o.latent)
        self.start = nn.Linear(2 * o.latent, widths[0] * self.small[1] * self.small[2])
        self.first = Block(widths[0], widths[0], 2 * o.latent)
        self.up = nn.ModuleList(Block(a, b, 2 * o.latent) for a, b in itertools.pairwise(widths))
        last = nn.Conv2d(widths[-1], channels * f**2, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(8, widths[-1]), nn.SiLU(), last, nn.PixelShuffle(f))

    def make(self, z: torch.Tensor, y: torch.Tensor, strength: float) -> torch.Tensor:
        condition = torch.cat([z, self.embed(y) * strength], dim=1)
        h = self.first(self.start(condition).view(-1, *self.small), condition)
        for block in self.up:
            h = block(F.interpolate(h, scale_factor=2.0), condition)
        return torch.tanh(self.out(h))

    def forward(self, y: torch.Tensor, noise: Callable[..., torch.Tensor]) -> torch.Tensor:
        return self.make(noise(self.latent), y, 1.0)


class Critic(nn.Module):
    """D(x, y) = psi(phi(x)) + strength * <v_y, phi(x)>, every layer spectrally normalised; -> (N,)."""

    down: Any  # lists of three layers in a list, which torch's types do not tell

    def __init__(self, side: tuple[int, int], channels: int, classes: int, o: Options) -> None:
        super().__init__()
        f, n = fold(side), halvings(side)
        widths = [o.width * 2 ** min(i, 2) for i in range(n + 1)]

        def conv(inner: int, outer: int, size: int = 3) -> nn.Module:
            return spectral_norm(nn.Conv2d(inner, outer, size, padding=size // 2))

        self.stem = nn.Sequential(nn.PixelUnshuffle(f), conv(channels * f**2, widths[0]))
        layers = ([conv(a, b), conv(b, b), conv(a, b, 1)] for a, b in itertools.pairwise(widths))
        self.down = nn.ModuleList(map(nn.ModuleList, layers))
        self.last = conv(widths[-1] + 1, widths[-1])
        self.psi, self.embed = spectral_norm(nn.Linear(widths[-1], 1)), spectral_norm(nn.Embedding(classes, widths[-1]))

    def forward(self, x: torch.Tensor, y: torch.Tensor, strength: float) -> torch.Tensor:
        h = self.stem(x)
        for one, two, skip in self.down:
            h = F.avg_pool2d(skip(h) + two(F.leaky_relu(one(F.leaky_relu(h, 0.2)), 0.2)), 2)
        seen = torch.cat([F.leaky_relu(h, 0.2), deviation(h)], dim=1)
        phi = F.leaky_relu(h + self.last(seen), 0.2).sum(dim=(2, 3))
        return self.psi(phi)[:, 0] + strength * (self.embed(y) * phi).sum(dim=1)


def deviation(h: torch.Tensor, group: int = 4) -> torch.Tensor:
    """One more channel (N, 1, H, W): how much the features differ within groups of neighbours (Karras et al., 2018)."""
    n, _, height, width = h.shape
    group = group if n % group == 0 else n
    grouped = h.view(n // group, group, *h.shape[1:])
    variance = (grouped - grouped.mean(dim=1, keepdim=True)).square().mean(dim=1)
    each = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return each.repeat_interleave(group).view(n, 1, 1, 1).expand(n, 1, height, width)


def sameness(fake: torch.Tensor, real: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How much less neighbours of one class differ among the fakes than among real rows; zero once they differ as much.

    The mode-seeking idea of Mao et al., 2019, with the real rows as the measure of how far to seek.
    """
    pair = (y[1:] == y[:-1]).to(fake.dtype)
    made, true = (((x[1:] - x[:-1]).abs().mean(dim=(1, 2, 3)) * pair).sum() for x in (fake, real))
    return F.relu(true / (made + 0.01 * true + 1e-6) - 1)


class Game(nn.Module):
    """The game: the critic moves, then the maker, on differentiably augmented images."""

    def __init__(self, maker: Maker, critic: Critic, o: Options) -> None:
        super().__init__()
        self.maker, self.critic, self.o = maker, critic, o

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"critic": list(self.critic.parameters()), "maker": list(self.maker.parameters())}

    def losses(self, batch: tuple[torch.Tensor, ...], progress: float) -> Iterator[tuple[str, torch.Tensor]]:
        order = batch[1].argsort(stable=True)  # neighbours are then of one class, whose variety the critic can see
        x, y = batch[0][order], batch[1][order]
        start, end = self.o.ramp
        strength = min(1.0, max(0.0, (progress - start) / (end - start)))
        fake = self.maker.make(torch.randn(len(x), self.o.latent, device=x.device), y, strength)
        self.critic.requires_grad_(True)
        with parametrize.cached():  # the spectral norms are the same for both
            on_real, on_fake = (self.critic(augment(z, self.o.augment), y, strength) for z in (x, fake.detach()))
        right = torch.cat([on_real.detach() > 0, on_fake.detach() < 0]).float().mean()
        self.monitors = {"critic right": right}  # 0.5: it cannot tell them; near 1: the maker learns nothing from it
        yield "critic", F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        self.critic.requires_grad_(False)
        yield (
            "maker",
            -self.critic(augment(fake, self.o.augment), y, strength).mean() + self.o.diversity * sameness(fake, x, y),
        )


def augment(x: torch.Tensor, kinds: Sequence[str]) -> torch.Tensor:
    """DiffAugment: random colour, shift by up to an eighth and a cut-out of half the side, each drawn per image."""
    n, _, height, width = x.shape

    def draw(low: float, high: float) -> torch.Tensor:
        return torch.rand(n, 1, 1, 1, device=x.device) * (high - low) + low

    if "colour" in kinds:
        x = x + draw(-0.5, 0.5)
        grey = x.mean(dim=1, keepdim=True)
        x = (x - grey) * draw(0, 2) + grey if x.shape[1] > 1 else x
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = (x - mean) * draw(0.5, 1.5) + mean
    rows = torch.arange(height, device=x.device).view(1, 1, height, 1)
    cols = torch.arange(width, device=x.device).view(1, 1, 1, width)
    if "translation" in kinds:
        dy, dx = (draw(-s / 8, s / 8).round().long() for s in (height, width))
        r, c = rows + dy, cols + dx
        inside = ((r >= 0) & (r < height) & (c >= 0) & (c < width)).to(x.dtype)
        flat = (r.clamp(0, height - 1) * width + c.clamp(0, width - 1)).expand(n, x.shape[1], height, width)
        x = x.flatten(2).gather(2, flat.flatten(2)).view_as(x) * inside
    if "cutout" in kinds:
        top, left = (draw(-s / 4, s * 3 / 4).round() for s in (height, width))
        hole = (rows >= top) & (rows < top + height // 2) & (cols >= left) & (cols < left + width // 2)
        x = x * (~hole).to(x.dtype)
    return x


class Model(NetworkGenerator):
    options: Options
    betas: ClassVar[tuple[float, float]] = (0.0, 0.99)

    @property
    def begin(self) -> float:
        return self.options.ramp[1]

    def auto_steps(self, rows: int, side: int) -> int:
        return min(60_000, round(1500 * max(1, min(side, 32) / 8)) + rows)

    def build(self) -> Maker:
        return Maker(self.side, self.shape[2], self.classes, self.options)

    def game(self) -> Game:
        return Game(self.build(), Critic(self.side, self.shape[2], self.classes, self.options), self.options)

    def finished(self, game: Game, real: Samples) -> Maker:
        return game.maker  # the critic is of no use once the game is over
