"""Autoregressive transformer over the discrete codes of a small autoencoder (VQ-VAE: van den Oord et al., 2017).

Codes are rounded numbers without a codebook (finite scalar quantisation: Mentzer et al., 2023), so none falls out of use.
Augmented rows come with what was done to them, which is zero in sampling (distribution augmentation: Jun et al., 2020).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.generators._blocks import Block, NetworkGenerator, NetworkOptions, fold
from pipeline.generators.diffusion import AUGMENTS, augment


class Options(NetworkOptions):
    grid: Annotated[int, Field(ge=2, le=16)]  # most cells a side; a cell is 2, 4, ... pixels wide and high
    code: Annotated[int, Field(ge=1, le=16)]  # d: numbers in the code of a cell
    levels: Annotated[int, Field(ge=2, le=64)]  # L: values that each of them can take
    settle: Annotated[float, Field(ge=0, le=0.9)]  # share of training after which codes stay and are learnt
    hidden: Annotated[int, Field(ge=32, le=4096, multiple_of=32)]  # channels of the transformer, 32 in a head
    depth: Annotated[int, Field(ge=1, le=24)]  # layers of the transformer
    dropout: Annotated[float, Field(ge=0, lt=1)]
    jitter: Annotated[float, Field(ge=0, le=1)]  # share of the codes read in training that are off by one level
    augment: Annotated[float, Field(ge=0, le=1)]  # probability of each augmentation in training


def quantise(z: torch.Tensor, levels: int) -> torch.Tensor:
    """Codes 0 to L-1 as floats; the gradient is that of the bounded z before it was rounded (straight through)."""
    z = (levels - 1) * z.float().sigmoid()
    return z + (z.round() - z).detach()


def jittered(codes: torch.Tensor, levels: int, share: float) -> torch.Tensor:
    """Codes of which this share is off by one level; whoever reads such ones learns to forgive mistakes in sampling."""
    off = (torch.rand(codes.shape, device=codes.device) < share) * (2 * torch.randint_like(codes, 2) - 1)
    return (codes + off).clamp(0, levels - 1)


class Autoencoder(nn.Module):
    """Images (N, C, H, W) in [-1, 1] to codes (N, T, d) in raster order, and back."""

    def __init__(self, side: tuple[int, int], cell: int, channels: int, classes: int, o: Options) -> None:
        super().__init__()
        f, e = fold(side), 2 * o.width
        widths = [o.width * 2 ** min(i, 2) for i in range(int(math.log2(cell // f)) + 1)]
        self.o, self.cells = o, (side[0] // cell, side[1] // cell)
        self.label, self.target = (nn.Embedding(classes, e) for _ in range(2))  # of the encoder, and of the decoder
        self.stem = nn.Sequential(nn.PixelUnshuffle(f), nn.Conv2d(channels * f**2, widths[0], 3, padding=1))
        self.down = nn.ModuleList(Block(a, b, e) for a, b in itertools.pairwise(widths))
        self.coarse = nn.ModuleList(Block(widths[-1], widths[-1], e) for _ in range(2))  # last encoder, first decoder
        self.to_code = nn.Sequential(nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], o.code, 1))
        self.from_code = nn.Conv2d(o.code, widths[-1], 3, padding=1)
        self.up = nn.ModuleList(Block(b, a, e) for a, b in reversed(list(itertools.pairwise(widths))))
        last = nn.Conv2d(widths[0], channels * f**2, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(8, widths[0]), nn.SiLU(), last, nn.PixelShuffle(f))

    def encode(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        condition, h = self.label(y), self.stem(x)
        for block in self.down:
            h = F.avg_pool2d(block(h, condition), 2)
        z = self.to_code(self.coarse[0](h, condition))  # (N, d, H/cell, W/cell)
        return quantise(z.flatten(2).transpose(1, 2), self.o.levels)

    def decode(self, codes: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        condition, values = self.target(y), 2 * codes / (self.o.levels - 1) - 1  # in [-1, 1]
        h = self.coarse[1](self.from_code(values.transpose(1, 2).unflatten(2, self.cells)), condition)
        for block in self.up:
            h = block(F.interpolate(h, scale_factor=2.0), condition)
        return torch.tanh(self.out(h))


class Layer(nn.Module):
    """Causal self-attention and a feed-forward part (N, T, e); with `past`, of one place that sees all places before."""

    def __init__(self, e: int, p: float) -> None:
        super().__init__()
        self.norm, self.qkv, self.mix, self.drop = nn.LayerNorm(e), nn.Linear(e, 3 * e), nn.Linear(e, e), nn.Dropout(p)
        self.feed = nn.Sequential(nn.LayerNorm(e), nn.Linear(e, 4 * e), nn.GELU(), nn.Linear(4 * e, e))

    def forward(self, h: torch.Tensor, past: list[torch.Tensor] | None = None) -> torch.Tensor:
        qkv = self.qkv(self.norm(h)).unflatten(2, (3, -1, 32)).permute(2, 0, 3, 1, 4)  # (3, N, heads, T, 32)
        if past is not None:
            past.append(qkv[1:])
        q, (k, v) = qkv[0], qkv[1:] if past is None else torch.cat(past, dim=3)
        with sdpa_kernel(SDPBackend.MATH) if q.is_cuda else nullcontext():  # others there give other bits each time
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)  # (N, heads, T, 32)
        h = h + self.drop(self.mix(seen.transpose(1, 2).flatten(2)))
        return h + self.drop(self.feed(h))


class Prior(nn.Module):
    """p(codes | y), cell by cell in raster order and within a cell number by number."""

    offset: torch.Tensor
    place: nn.Parameter
    number: nn.Parameter

    def __init__(self, cells: tuple[int, int], classes: int, o: Options) -> None:
        super().__init__()
        e, self.cells, self.o = o.hidden, cells, o
        self.label = nn.Embedding(classes, e)
        self.move = nn.Linear(AUGMENTS, e, bias=False)  # no bias: no move adds nothing
        self.read, self.within = (nn.Embedding(o.code * o.levels, e) for _ in range(2))
        self.place, self.number = (nn.Parameter(0.1 * torch.randn(n, e)) for n in (math.prod(cells), o.code))
        self.layers, self.norm = nn.ModuleList(Layer(e, o.dropout) for _ in range(o.depth)), nn.LayerNorm(e)
        self.head = nn.Sequential(nn.LayerNorm(e), nn.Linear(e, e), nn.GELU(), nn.Linear(e, o.levels))
        self.register_buffer("offset", torch.arange(o.code) * o.levels, persistent=False)

    def forward(self, codes: torch.Tensor, y: torch.Tensor, move: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Logits (N, T, d, L) for `codes` (N, T, d) where the places before hold what was `read`."""
        start = (self.label(y) + self.move(move))[:, None]
        before = self.read(read[:, :-1] + self.offset).sum(dim=2)  # (N, T-1, e)
        h = torch.cat([torch.zeros_like(start), before], dim=1) + self.place + start
        for layer in self.layers:
            h = layer(h)
        own = self.within(codes + self.offset)  # (N, T, d, e), of which a number sees those before
        known = torch.stack([own[:, :, :j].sum(dim=2) for j in range(self.o.code)], dim=2)
        return self.head(self.norm(h)[:, :, None] + known + self.number)

    def draw(self, y: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Codes (N, T, d) from as many uniform numbers; keys and values of the places before are kept."""
        codes = torch.zeros(u.shape, dtype=torch.long, device=u.device)
        past: list[list[torch.Tensor]] = [[] for _ in self.layers]
        start, before = self.label(y), torch.zeros((), device=u.device)
        for t in range(u.shape[1]):
            h = (before + self.place[t] + start)[:, None]
            for layer, kept in zip(self.layers, past, strict=True):
                h = layer(h, kept)
            known = self.norm(h)[:, 0]
            for j in range(self.o.code):
                codes[:, t, j] = pick(self.head(known + self.number[j]), u[:, t, j])
                known = known + self.within(codes[:, t, j] + self.offset[j])
            before = self.read(codes[:, t] + self.offset).sum(dim=1)  # (N, e)
        return codes


def pick(logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The level (N,) at which the cumulative probability passes u in [0, 1]."""
    p = logits.softmax(dim=1)
    up_to = p @ torch.ones(2 * p.shape[1:], device=p.device).triu()  # as cumsum, which is not deterministic on CUDA
    return (up_to <= u[:, None].clamp(max=1 - 1e-6) * up_to[:, -1:]).sum(dim=1)


class Network(nn.Module):
    """The game: the autoencoder moves alone until its codes are settled, then its decoder and the prior move in turn."""

    def __init__(self, autoencoder: Autoencoder, prior: Prior, o: Options) -> None:
        super().__init__()
        self.autoencoder, self.prior, self.o = autoencoder, prior, o

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"autoencoder": list(self.autoencoder.parameters()), "prior": list(self.prior.parameters())}

    def losses(self, batch: tuple[torch.Tensor, ...], progress: float) -> Iterator[tuple[str, torch.Tensor]]:
        x, y, _ = batch
        x, move = augment(x, self.o.augment)
        settled = progress >= self.o.settle
        with torch.set_grad_enabled(not settled):
            codes = self.autoencoder.encode(x, y)
        read = jittered(codes, self.o.levels, self.o.jitter)
        yield "autoencoder", F.l1_loss(self.autoencoder.decode(read, y), x)
        if settled:
            codes, read = codes.round().long(), read.round().long()
            yield "prior", F.cross_entropy(self.prior(codes, y, move, read).flatten(0, 2).float(), codes.flatten())

    def forward(self, y: torch.Tensor, noise: Callable[..., torch.Tensor]) -> torch.Tensor:
        u = torch.special.ndtr(noise(len(self.prior.place), self.o.code))  # (N, T, d), uniform
        return self.autoencoder.decode(self.prior.draw(y, u).float(), y)


class Model(NetworkGenerator):
    options: Options

    def auto_steps(self, rows: int, side: int) -> int:
        return min(40_000, 2000 + rows)

    @property
    def begin(self) -> float:
        return self.options.settle

    @property
    def multiple(self) -> int:
        """Pixels a side of a cell: the smallest power of two, from 2 on, with which the grid is large enough."""
        return 2 ** max(1, math.ceil(math.log2(max(self.shape[:2]) / self.options.grid)))

    def build(self) -> Network:
        autoencoder = Autoencoder(self.side, self.multiple, self.shape[2], self.classes, self.options)
        return Network(autoencoder, Prior(autoencoder.cells, self.classes, self.options), self.options)
