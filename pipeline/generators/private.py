"""Conditional variational autoencoder fitted with differential privacy, by DP-SGD (Abadi et al., 2016).

Each step takes every row with the same probability, clips the gradient of each row by itself, adds them up and adds
Gaussian noise; opacus says how much noise the steps need together for the epsilon that was asked for. Whatever is computed
of rows, their classes included, goes through these sums: no validation row or copy search chooses weights, no moments of
latents are taken, no class is drawn more often, no loss is kept, and a fit that fails is not begun again. Taken as known are
the number of rows, the names of the classes, and the size and channels of the pictures.
"""

import logging
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.func import functional_call, grad, vmap

from pipeline import checkpoints, devices
from pipeline.errors import Diverged
from pipeline.generators import base
from pipeline.generators._blocks import noise
from pipeline.samples import Samples, to_network, to_pixels

ORDERS = [
    *map(float, range(2, 64)),
    2.5,
    3.5,
    80.0,
    128.0,
    256.0,
    512.0,
]  # Rényi orders: each gives a bound, few are slow
NUMBERS = 2**24  # of the gradients of single rows that are held at a time
log = logging.getLogger(__name__)


class Options(base.Options):
    epsilon: Annotated[float, Field(gt=0, le=1000)]
    delta: Literal["auto"] | Annotated[float, Field(gt=0, lt=1)]  # auto: 1 / (10 n) for n rows
    secret: bool  # noise from the operating system instead of from the seed: nobody can draw it again
    clip: Annotated[float, Field(gt=0, le=1e6)]  # the longest that the gradient of a row may be
    epochs: Literal["auto"] | Annotated[int, Field(gt=0, le=10**6)]  # passes over the rows
    batch: Annotated[int, Field(gt=1, le=100_000)]  # rows of a step, on average
    lr: Annotated[float, Field(gt=0, le=10)]
    average: Annotated[float, Field(ge=0, lt=1)]  # length of the average of the weights, as a share of all steps
    width: Annotated[int, Field(ge=8, le=4096)]  # of the one hidden layer
    latent: Annotated[int, Field(ge=1, le=1024)]
    deviation: Annotated[float, Field(gt=0, le=10)]  # of a pixel from the decoder's, black being -1 and white 1


class Randomness(Protocol):
    """The part of numpy's generators that is used here."""

    def random(self, size: int) -> np.ndarray: ...

    def standard_normal(self, size: int) -> np.ndarray: ...


class Secret:
    """Numbers from the operating system's source for keys."""

    def random(self, size: int) -> np.ndarray:
        return (np.frombuffer(os.urandom(8 * size), np.uint64) >> np.uint64(11)) * 2.0**-53

    def standard_normal(self, size: int) -> np.ndarray:
        """By the method of Box and Muller."""
        radius, angle = np.sqrt(-2 * np.log1p(-self.random(size))), 2 * np.pi * self.random(size)
        return radius * np.cos(angle)


def one_hot(y: torch.Tensor, classes: int) -> torch.Tensor:
    """As torch's own, which vmap does not know, in floats."""
    return (y[:, None] == torch.arange(classes, device=y.device)).float()


class Decoder(nn.Module):
    """p(x|z,y); `forward` draws images (N, C, H, W) in [-1, 1], for z ~ N(0, I) in every class."""

    def __init__(self, shape: tuple[int, int, int], classes: int, o: Options) -> None:
        super().__init__()
        self.shape, self.classes, self.o = (shape[2], *shape[:2]), classes, o
        self.hidden = nn.Linear(o.latent + classes, o.width)
        self.out = nn.Linear(o.width + classes, math.prod(shape))  # a picture of each class is what it learns first

    def decode(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        label = one_hot(y, self.classes)
        h = F.silu(self.hidden(torch.cat([z, label], dim=1)))
        return torch.tanh(self.out(torch.cat([h, label], dim=1))).unflatten(1, self.shape)

    def forward(self, y: torch.Tensor, noise: Callable[..., torch.Tensor]) -> torch.Tensor:
        return self.decode(noise(self.o.latent), y)


class Network(nn.Module):
    """The decoder and q(z|x,y); `forward` gives the loss of each row (N,), which depends on no other row."""

    def __init__(self, shape: tuple[int, int, int], classes: int, o: Options) -> None:
        super().__init__()
        self.decoder, self.classes, self.o = Decoder(shape, classes, o), classes, o
        self.hidden = nn.Linear(math.prod(shape) + classes, o.width)
        self.to_latent = nn.Linear(o.width, 2 * o.latent)

    def forward(self, x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        seen = torch.cat([x.flatten(1), one_hot(y, self.classes)], dim=1)
        mean, logvar = self.to_latent(F.silu(self.hidden(seen))).chunk(2, dim=1)
        logvar = logvar.clamp(-8, 8)
        x_hat = self.decoder.decode(mean + (0.5 * logvar).exp() * noise, y)
        error = 0.5 * ((x_hat - x) / self.o.deviation).square().flatten(1).sum(dim=1)
        return error + 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=1)


def clipped_sum(network: nn.Module, rows: tuple[torch.Tensor, ...], clip: float) -> list[torch.Tensor]:
    """Each row's gradient, shortened to `clip` where it is longer, added up over the rows; one tensor per parameter.

    A gradient that is no number counts as zero, so that no row adds more than `clip` whatever it holds.
    """
    weights = {name: p.detach() for name, p in network.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], *row: torch.Tensor) -> torch.Tensor:
        return functional_call(network, weights, tuple(part[None] for part in row))[0]

    total = [torch.zeros_like(w) for w in weights.values()]
    for piece in zip(*(part.split(max(1, NUMBERS // sum(t.numel() for t in total))) for part in rows), strict=True):
        if len(piece[0]):
            found = vmap(grad(loss), (None, *(0 for _ in rows)))(weights, *piece)
            length = torch.stack([found[name].flatten(1).norm(dim=1) for name in weights]).norm(dim=0)
            keep = length.isfinite()
            scale = torch.where(keep, clip / length.clamp_min(clip), 0.0)
            for part, name in zip(total, weights, strict=True):
                part += torch.tensordot(scale, found[name].nan_to_num(0.0, 0.0, 0.0), dims=1)
    return total


def accountant() -> Any:
    """opacus' functions on privacy budgets. Raises ValueError if it is not installed."""
    try:
        from opacus import accountants
        from opacus.accountants import utils
    except ModuleNotFoundError as error:
        raise ValueError(
            f"a generator of the family private needs opacus ({error}); install what requirements.lock holds with `make "
            "setup`, or opacus alone with `pip install opacus`, or set `role: skip` for the arms that learn from it"
        ) from None
    return accountants, utils


def budget(o: Options, rows: int, steps: int) -> dict[str, Any]:
    """What is promised, and with how much noise in each step it is kept. Raises ValueError for what cannot be kept."""
    accountants, utils = accountant()
    delta, share = 1 / (10 * rows) if o.delta == "auto" else o.delta, min(1.0, o.batch / rows)
    if delta * rows >= 1 and rows > 1:
        raise ValueError(f"delta {delta:g} lets one of {rows} rows be published as it is; set delta below 1 / {rows}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of orders that are too few: the bound holds all the same
        multiplier = utils.get_noise_multiplier(
            target_epsilon=o.epsilon, target_delta=delta, sample_rate=share, steps=steps,
            epsilon_tolerance=o.epsilon / 1000, alphas=ORDERS,
        )  # fmt: skip
        spent = accountants.RDPAccountant()
        spent.history = [(multiplier, share, steps)]
        epsilon = spent.get_epsilon(delta, ORDERS)
    return {
        "epsilon": float(epsilon), "delta": delta, "noise_multiplier": multiplier, "clip": o.clip, "steps": steps,
        "sample_rate": share, "rows": rows, "secret": o.secret,
    }  # fmt: skip


class Fit:
    """A training that can be cut short after any step, and goes on to the same end; its randomness is of (seed, step) alone."""

    def __init__(self, network: Network, promise: dict[str, Any], o: Options, rows: Samples, seed: int) -> None:
        self.network, self.promise, self.o, self.rows, self.seed = network, promise, o, rows, seed
        self.steps, self.step = promise["steps"], 0
        self.decay = max(0.0, 1 - 1 / (o.average * self.steps)) if o.average else 0.0

    def run(self, file: Path | None, report: Callable[[int, str], None], where: torch.device) -> None:
        """All steps that are left."""
        self.network.to(where)
        self.optimiser = torch.optim.Adam(self.network.parameters(), self.o.lr)
        self.mean = [p.detach().clone() for p in self.network.parameters()]
        self.restore(None if file is None else checkpoints.read(file))
        report(self.step, "")
        written = monotonic()
        while self.step < self.steps:
            self.take(where)
            self.step += 1
            report(1, "")
            if file is not None and monotonic() - written >= checkpoints.SECONDS:
                checkpoints.write(file, self.state())
                written = monotonic()

    def take(self, where: torch.device) -> None:
        o, parameters, n = self.o, list(self.network.parameters()), len(self.rows)
        rng: Randomness = Secret() if o.secret else np.random.default_rng([self.seed, self.step])
        drawn = rng.standard_normal(sum(p.numel() for p in parameters))
        chosen = np.flatnonzero(rng.random(n) < self.promise["sample_rate"])
        latent = rng.standard_normal(len(chosen) * o.latent).reshape(len(chosen), o.latent)
        x, y = to_network(self.rows.images[chosen]), torch.from_numpy(self.rows.y[chosen])
        rows = (x.to(where), y.to(where), torch.from_numpy(latent).float().to(where))
        noises = torch.from_numpy(drawn).float().to(where).split([p.numel() for p in parameters])
        for p, total, added in zip(parameters, clipped_sum(self.network, rows, o.clip), noises, strict=True):
            noised = total + self.promise["noise_multiplier"] * o.clip * added.view_as(p)
            p.grad = noised / (self.promise["sample_rate"] * n)
        rate = min(1.0, (self.step + 1) / (0.05 * self.steps), (1 - self.step / self.steps) / 0.3)
        for group in self.optimiser.param_groups:
            group["lr"] = o.lr * rate
        self.optimiser.step()
        with torch.no_grad():
            for mean, p in zip(self.mean, parameters, strict=True):
                mean.lerp_(p, 1 - min(self.decay, (1 + self.step) / (10 + self.step)))

    def averaged(self) -> Network:
        with torch.no_grad():
            for p, mean in zip(self.network.parameters(), self.mean, strict=True):
                p.copy_(mean)
        return self.network

    def about(self) -> dict[str, Any]:
        return {"promise": self.promise, "seed": self.seed, "torch": torch.__version__}

    def state(self) -> checkpoints.State:
        """Noised numbers only."""
        now = {"network": self.network.state_dict(), "mean": self.mean, "optimiser": self.optimiser.state_dict()}
        return {"about": self.about(), "step": self.step} | checkpoints.copied(now)

    def restore(self, state: checkpoints.State | None) -> None:
        if state is not None and state["about"] == self.about():
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.mean = [known.to(p) for known, p in zip(state["mean"], self.network.parameters(), strict=True)]
            self.step = state["step"]


def own(real: Samples) -> Samples:
    """Without rows of a pool: they were labelled by networks that saw the others, so one row would touch many."""
    return real.take(np.flatnonzero((real.table["split"] != "unlabelled").to_numpy()))


class Model(base.Generator):
    options: Options
    chunk: ClassVar[int | None] = 64  # always the same number of rows, so that a row's bits cannot depend on the call

    def ready(self) -> None:
        accountant()

    def steps(self, real: Samples) -> int:
        o, rows = self.options, len(own(real))
        return min(5_000, 300 + rows // 4) if o.epochs == "auto" else o.epochs * math.ceil(rows / o.batch)

    def _fit(self, real: Samples, seed: int, report: Callable[[int, str], None]) -> list[dict[str, Any]]:
        devices.set_threads(self.compute)
        devices.seed_everything(seed)
        rows, steps = own(real), self.steps(real)
        self.guarantee = budget(self.options, len(rows), steps)
        log.info("differential privacy: epsilon %(epsilon).2f at delta %(delta).1e", self.guarantee)
        fit = Fit(Network(self.shape, self.classes, self.options), self.guarantee, self.options, rows, seed)
        fit.run(None if self.unfinished is None else self.unfinished / str(seed), report, devices.device(self.compute))
        decoder = fit.averaged().decoder.cpu()
        assert isinstance(decoder, Decoder)
        self.decoder, every = decoder.eval(), np.arange(self.classes)
        with torch.inference_mode():
            drawn = self.decoder(torch.from_numpy(every), lambda *shape: noise(every, shape))
        if not torch.isfinite(drawn).all():  # asked of the weights, which no loss of a row has a say in
            raise Diverged(f"after {steps} steps pixels are no numbers; lower its learning rate (lr)")
        return []  # a curve of losses would tell of rows

    @torch.inference_mode()
    def _sample(self, labels: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        return to_pixels(self.decoder(torch.from_numpy(labels), lambda *shape: noise(seeds, shape)))

    def _state(self) -> dict[str, Any]:
        parameters = sum(p.numel() for p in self.decoder.parameters())
        return {"steps": self.guarantee["steps"], "parameters": parameters, "guarantee": self.guarantee}

    def _save(self, folder: Path) -> None:
        save_file(self.decoder.state_dict(), folder / "weights.safetensors", base.MARK)

    def _load(self, folder: Path, state: dict[str, Any], real: Samples) -> None:
        self.guarantee, self.decoder = state["guarantee"], Decoder(self.shape, self.classes, self.options)
        file = folder / "weights.safetensors"
        try:
            self.decoder.load_state_dict(load_file(file))
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}); delete it and run `dvc repro`") from None
        self.decoder.eval()
