"""Training with differential privacy: DP-SGD (Abadi et al., 2016), with the noise that opacus' accountant asks for.

Each step takes every row with the same probability, clips the gradient of each row by itself, adds them up and adds
Gaussian noise. Whatever is computed of rows, their classes included, goes through these sums.
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.func import functional_call, grad, vmap

from pipeline import checkpoints
from pipeline.averages import Averages
from pipeline.generators import base
from pipeline.samples import Samples, to_network

ORDERS = [2.5, 3.5, *map(float, range(2, 64)), 80.0, 128.0, 256.0, 512.0]  # of Rényi: each gives a bound, few are slow
NUMBERS = 2**24  # of the gradients of single rows that are held at a time


class Options(base.Options):
    epsilon: Annotated[float, Field(gt=0, le=1000)]
    delta: Literal["auto"] | Annotated[float, Field(gt=0, lt=1)]  # auto: 1 / (10 n) for n rows
    secret: bool  # noise from the operating system instead of from the seed: nobody can draw it again
    clip: Annotated[float, Field(gt=0, le=1e6)]  # the longest that the gradient of a row may be
    batch: Annotated[int, Field(gt=1, le=100_000)]  # rows of a step, on average
    lr: Annotated[float, Field(gt=0, le=10)]
    average: Annotated[float, Field(ge=0, lt=1)]  # length of the average of the weights, as a share of all steps


class Secret:
    """The part of numpy's generators that is used here, with numbers from the operating system's source for keys."""

    def random(self, size: int) -> np.ndarray:
        return (np.frombuffer(os.urandom(8 * size), np.uint64) >> np.uint64(11)) * 2.0**-53

    def standard_normal(self, size: int) -> np.ndarray:
        """By the method of Box and Muller."""
        radius, angle = np.sqrt(-2 * np.log1p(-self.random(size))), 2 * np.pi * self.random(size)
        return radius * np.cos(angle)


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
        try:
            multiplier = utils.get_noise_multiplier(
                target_epsilon=o.epsilon, target_delta=delta, sample_rate=share, steps=steps,
                epsilon_tolerance=o.epsilon / 1000, alphas=ORDERS,
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(
                f"epsilon {o.epsilon:g} at delta {delta:.1e} cannot be kept in {steps} steps of {100 * share:.3g} % of "
                f"{rows} rows ({error}); raise epsilon, or lower epochs or batch"
            ) from None
        spent = accountants.RDPAccountant()
        spent.history = [(multiplier, share, steps)]
        epsilon = spent.get_epsilon(delta, ORDERS)
    return {
        "epsilon": float(epsilon), "delta": delta, "noise_multiplier": multiplier, "clip": o.clip, "steps": steps,
        "sample_rate": share, "rows": rows, "secret": o.secret,
    }  # fmt: skip


class Fit:
    """A training that can be cut short after any step, and goes on to the same end; its randomness is of (seed, step) alone.

    `network(x, y, noise)` gives the loss of each row (N,), for `latent` standard normal numbers a row, float (N, latent).
    """

    def __init__(
        self, network: nn.Module, latent: int, promise: dict[str, Any], o: Options, rows: Samples, seed: int
    ) -> None:
        self.network, self.latent, self.promise, self.o, self.rows, self.seed = network, latent, promise, o, rows, seed
        self.steps, self.step = promise["steps"], 0
        self.averages = Averages([max(0.0, 1 - 1 / (o.average * self.steps)) if o.average else 0.0], [self.steps])

    def run(self, file: Path | None, report: Callable[[int, str], None], where: torch.device) -> None:
        """All steps that are left."""
        self.network.to(where)
        self.optimiser = torch.optim.Adam(self.network.parameters(), self.o.lr)
        self.averages.begin(self.network)
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
        rng: Secret | np.random.Generator = Secret() if o.secret else np.random.default_rng([self.seed, self.step])
        drawn = rng.standard_normal(sum(p.numel() for p in parameters))
        chosen = np.flatnonzero(rng.random(n) < self.promise["sample_rate"])
        latent = rng.standard_normal(len(chosen) * self.latent).reshape(len(chosen), self.latent)
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
        self.averages.after(self.step)

    def about(self) -> dict[str, Any]:
        return {"promise": self.promise, "seed": self.seed, "torch": torch.__version__}

    def state(self) -> checkpoints.State:
        """Noised numbers only."""
        now = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}
        return {"about": self.about(), "step": self.step, "averages": self.averages.state()} | checkpoints.copied(now)

    def restore(self, state: checkpoints.State | None) -> None:
        if state is not None and state["about"] == self.about():
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.averages.restore(state["averages"])
            self.step = state["step"]
