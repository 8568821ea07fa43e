"""Conditional variational autoencoder fitted with differential privacy.

Nothing but the sums of DP-SGD (_dpsgd.py) reaches the weights: no validation row or copy search chooses them, no moments of
latents are taken, no class is drawn more often, no loss is kept, and a fit that fails is not begun again. Taken as known are
the number of rows, the names of the classes, and the size and channels of the pictures.
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline import devices, weights
from pipeline.errors import Diverged
from pipeline.generators import _dpsgd, base
from pipeline.generators._blocks import noise
from pipeline.samples import Samples, to_pixels

log = logging.getLogger(__name__)


class Options(_dpsgd.Options):
    epochs: Literal["auto"] | Annotated[int, Field(gt=0, le=10**6)]  # passes over the rows
    width: Annotated[int, Field(ge=8, le=4096)]  # of the one hidden layer
    latent: Annotated[int, Field(ge=1, le=1024)]
    deviation: Annotated[float, Field(gt=0, le=10)]  # of a pixel from the decoder's, black being -1 and white 1


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


class Model(base.Generator):
    options: Options
    chunk: ClassVar[int | None] = 64  # always the same number of rows, so that a row's bits cannot depend on the call

    def ready(self) -> None:
        _dpsgd.accountant()

    def learns_from(self, real: Samples) -> Samples:
        """Without rows of a pool: they were labelled by networks that saw the others, so one row would touch many."""
        return real.take(np.flatnonzero((real.table["split"] != "unlabelled").to_numpy()))

    def steps(self, real: Samples) -> int:
        o, rows = self.options, len(self.learns_from(real))
        return min(5_000, 300 + rows // 4) if o.epochs == "auto" else o.epochs * math.ceil(rows / o.batch)

    def _fit(self, real: Samples, seed: int, report: Callable[[int, str], None]) -> list[dict[str, Any]]:
        devices.set_threads(self.compute)
        torch.manual_seed(seed)
        rows, steps = self.learns_from(real), self.steps(real)
        self.guarantee = _dpsgd.budget(self.options, len(rows), steps)
        log.info("differential privacy: epsilon %(epsilon).2f at delta %(delta).1e", self.guarantee)
        network = Network(self.shape, self.classes, self.options)
        fit = _dpsgd.Fit(network, self.options.latent, self.guarantee, self.options, rows, seed)
        fit.run(None if self.unfinished is None else self.unfinished / str(seed), report, devices.device(self.compute))
        network.load_state_dict(fit.averages.kept[-1].weights)
        self.decoder, every = network.decoder.cpu().eval(), np.arange(self.classes)
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
        self.decoder.load_state_dict(weights.read(folder / "weights.safetensors", load_file))
        self.decoder.eval()
