"""Class-conditional autoregressive transformer over the discrete codes of a small autoencoder (VQ-VAE: van den Oord et al., 2017).

Codes are rounded numbers, not entries of a codebook (finite scalar quantisation, FSQ: Mentzer et al., 2023), so none can
fall out of use. Augmented rows are shown with what was done to them, which is zero when sampling (distribution
augmentation: Jun et al., 2020). Top-p sampling: Holtzman et al., 2020.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pipeline.generators._blocks import Block, NetworkGenerator, NetworkOptions, fold

HEAD = 32  # channels of an attention head


class Options(NetworkOptions):
    grid: Annotated[int, Field(ge=2, le=16)]  # most cells a side; a cell is 1, 2, 4, ... pixels wide and high
    code: Annotated[int, Field(ge=1, le=16)]  # d: numbers in the code of a cell
    levels: Annotated[int, Field(ge=2, le=64)]  # L: values that each of them can take
    settle: Annotated[float, Field(ge=0, le=0.9)]  # share of training for the codes alone; then they stay and are learnt
    hidden: Annotated[int, Field(ge=HEAD, le=4096, multiple_of=HEAD)]  # channels of the transformer
    depth: Annotated[int, Field(ge=1, le=24)]  # layers of the transformer
    dropout: Annotated[float, Field(ge=0, lt=1)]
    jitter: Annotated[float, Field(ge=0, le=1)]  # share of the codes read in training that are off by one level
    augment: Annotated[float, Field(ge=0, le=1)]  # probability of each augmentation in training
    ema: Annotated[float, Field(ge=0, lt=1)]
    temperature: Annotated[float, Field(gt=0, le=10)]  # below 1 prefers likely codes
    top_p: Annotated[float, Field(gt=0, le=1)]  # only the likeliest levels of this mass are drawn


def quantise(z: torch.Tensor, levels: int) -> torch.Tensor:
    """Codes 0 to L-1 as floats; the gradient is that of the bounded z before it was rounded (straight through)."""
    bounded = (levels - 1) * z.float().sigmoid()
    return bounded + (bounded.round() - bounded).detach()


def jittered(codes: torch.Tensor, levels: int, share: float) -> torch.Tensor:
    """Codes of which this share is one level higher or lower: what is read then forgives small mistakes in sampling."""
    off = (torch.rand(codes.shape, device=codes.device) < share) * (2 * torch.randint_like(codes, 2) - 1)
    return (codes + off).clamp(0, levels - 1)


class Autoencoder(nn.Module):
    """Images (N, C, H, W) in [-1, 1] to codes (N, T, d) in raster order, and back."""

    def __init__(self, side: tuple[int, int], cell: int, channels: int, classes: int, o: Options) -> None:
        super().__init__()
        f, e = fold(side), 2 * o.width
        widths = [o.width * 2 ** min(i, 2) for i in range(int(math.log2(cell // f)) + 1)]
        self.o, self.cells = o, (side[0] // cell, side[1] // cell)
        self.label = nn.Embedding(classes, e)
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
        condition, values = self.label(y), 2 * codes / (self.o.levels - 1) - 1
        h = self.from_code(values.transpose(1, 2).unflatten(2, self.cells))
        h = self.coarse[1](h, condition)
        for block in self.up:
            h = block(F.interpolate(h, scale_factor=2.0), condition)
        return torch.tanh(self.out(h))


class Layer(nn.Module):
    """Causal self-attention and a feed-forward part (N, T, e); with `past`, of one place that sees all places before."""

    def __init__(self, e: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.qkv, self.mix, self.dropout = nn.LayerNorm(e), nn.Linear(e, 3 * e), nn.Linear(e, e), dropout
        self.feed = nn.Sequential(nn.LayerNorm(e), nn.Linear(e, 4 * e), nn.GELU(), nn.Linear(4 * e, e))

    def forward(self, h: torch.Tensor, past: list[torch.Tensor] | None = None) -> torch.Tensor:
        qkv = self.qkv(self.norm(h)).unflatten(2, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)  # (3, N, heads, T, HEAD)
        if past is not None:
            past.append(qkv[1:])
        q, (k, v) = qkv[0], qkv[1:] if past is None else torch.cat(past, dim=3)
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=self.rate, is_causal=past is None)
        h = h + F.dropout(self.mix(seen.transpose(1, 2).flatten(2)), self.rate)
        return h + F.dropout(self.feed(h), self.rate)

    @property
    def rate(self) -> float:
        return self.dropout if self.training else 0.0


class Prior(nn.Module):
    """p(codes | y), cell by cell in raster order and within a cell number by number."""

    def __init__(self, cells: tuple[int, int], classes: int, o: Options) -> None:
        super().__init__()
        e, self.cells, self.o = o.hidden, cells, o
        self.label, self.move = nn.Embedding(classes, e), nn.Linear(6, e, bias=False)
        self.read, self.within = (nn.Embedding(o.code * o.levels, e) for _ in range(2))
        self.row, self.column, self.number = (nn.Parameter(0.1 * torch.randn(n, e)) for n in (*cells, o.code))
        self.layers = nn.ModuleList(Layer(e, o.dropout) for _ in range(o.depth))
        self.norm = nn.LayerNorm(e)
        self.head = nn.Sequential(nn.LayerNorm(e), nn.Linear(e, e), nn.GELU(), nn.Linear(e, o.levels))
        self.register_buffer("offset", torch.arange(o.code) * o.levels, persistent=False)

    @property
    def place(self) -> torch.Tensor:
        return (self.row[:, None] + self.column).flatten(0, 1)  # (T, e)

    def forward(self, codes: torch.Tensor, y: torch.Tensor, move: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Logits (N, T, d, L) for `codes` (N, T, d) where the places before hold what was `read`."""
        start = (self.label(y) + self.move(move))[:, None]
        before = self.read(read[:, :-1] + self.offset).sum(dim=2)  # (N, T-1, e)
        h = torch.cat([torch.zeros_like(start), before], dim=1) + self.place + start
        for layer in self.layers:
            h = layer(h)
        known = self.within(codes + self.offset)[:, :, :-1]  # (N, T, d-1, e)
        known = torch.stack([known[:, :, :j].sum(dim=2) for j in range(self.o.code)], dim=2)  # only numbers before
        return self.head(self.norm(h)[:, :, None] + known + self.number)

    def draw(self, y: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Codes (N, T, d) from as many uniform numbers; keys and values of the places before are kept."""
        place, past = self.place, [[] for _ in self.layers]
        codes, start = torch.zeros(u.shape, dtype=torch.long, device=u.device), self.label(y)
        h = torch.zeros_like(start)
        for t in range(u.shape[1]):
            h = (h + place[t] + start)[:, None]
            for layer, kept in zip(self.layers, past, strict=True):
                h = layer(h, kept)
            known = self.norm(h)[:, 0]
            for j in range(self.o.code):
                codes[:, t, j] = pick(self.head(known + self.number[j]), u[:, t, j], self.o.temperature, self.o.top_p)
                known = known + self.within(codes[:, t, j] + self.offset[j])
            h = self.read(codes[:, t] + self.offset).sum(dim=1)  # (N, e)
        return codes


def pick(logits: torch.Tensor, u: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """The level (N,) at which the cumulative probability, of the likeliest levels alone, passes u in [0, 1]."""
    p = (logits / temperature).softmax(dim=1)
    likelier = (p[:, None] > p[:, :, None]).to(p.dtype)  # (N, L, L)
    p = p * ((likelier * p[:, None]).sum(dim=2) < top_p)
    up_to = p @ torch.ones(2 * p.shape[1:], device=p.device).triu()  # as cumsum, which is not deterministic on CUDA
    return (up_to <= u[:, None].clamp(max=1 - 1e-6) * up_to[:, -1:]).sum(dim=1)


class Network(nn.Module):
    """The game: the autoencoder moves alone until its codes are settled, then its decoder and the prior move in turn."""

    def __init__(
        self, side: tuple[int, int], cell: int, channels: int, classes: int, flips: tuple[str, ...], o: Options
    ) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(side, cell, channels, classes, o)
        self.prior = Prior(self.autoencoder.cells, classes, o)
        self.flips, self.o = flips, o

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"autoencoder": list(self.autoencoder.parameters()), "prior": list(self.prior.parameters())}

    def losses(self, batch: tuple[torch.Tensor, ...], progress: float) -> Iterator[tuple[str, torch.Tensor]]:
        x, y, _ = batch
        x, move = augment(x, self.o.augment, self.flips)
        settled = progress >= self.o.settle
        with torch.set_grad_enabled(not settled):
            codes = self.autoencoder.encode(x, y)
        read = jittered(codes, self.o.levels, self.o.jitter)
        yield "autoencoder", F.l1_loss(self.autoencoder.decode(read, y), x)
        if settled:
            codes, read = codes.round().long(), read.round().long()
            yield "prior", F.cross_entropy(self.prior(codes, y, move, read).flatten(0, 2), codes.flatten())

    def forward(self, y: torch.Tensor, noise: Callable[..., torch.Tensor]) -> torch.Tensor:
        t = math.prod(self.autoencoder.cells)
        u = torch.special.ndtr(noise(t, self.o.code))  # (N, T, d), uniform
        return self.autoencoder.decode(self.prior.draw(y, u).float(), y)


def augment(x: torch.Tensor, probability: float, flips: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images some of which are flipped, turned, resized or shifted, and the affine map (N, 6) of each less the identity."""
    n = len(x)

    def draw(count: int, size: float) -> torch.Tensor:
        return torch.randn(n, count, device=x.device) * size * (torch.rand(n, 1, device=x.device) < probability)

    chance = torch.tensor([probability * (kind in flips) for kind in ("horizontal", "vertical")], device=x.device)
    sign = 1 - 2 * (torch.rand(n, 2, device=x.device) < chance).float()
    turn, size, shift = draw(1, 0.2), draw(1, 0.14).exp(), draw(2, 0.125)
    square = torch.cat([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], dim=1).view(n, 2, 2)
    theta = torch.cat([square * sign[:, None] * size[:, :, None], shift[:, :, None]], dim=2)  # (N, 2, 3)
    move = (theta - torch.eye(2, 3, device=x.device)).flatten(1)
    moved = (move != 0).any(dim=1)
    if moved.any():
        grid = F.affine_grid(theta[moved], list(x[moved].shape), align_corners=False)
        x = x.clone()
        x[moved] = F.grid_sample(x[moved], grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return x, move


class Model(NetworkGenerator):
    def auto_steps(self, rows: int) -> int:
        return min(40_000, 3000 + rows)

    @property
    def multiple(self) -> int:
        """Pixels a side of a cell: the smallest power of two with which the grid is large enough."""
        return 2 ** max(1, math.ceil(math.log2(max(self.shape[:2]) / self.options.grid)))

    def build(self) -> Network:
        return Network(self.side, self.multiple, self.shape[2], self.classes, self.flips, self.options)
