"""Every network is trained here: weight averaging, divergence, curves, progress (around lightning.Trainer)."""

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from pipeline.data.loaders import Batches, Pairs
from pipeline.devices import device, precision, seed_everything, set_threads
from pipeline.params import Compute
from pipeline.processes import Report


class Diverged(ArithmeticError):
    """A loss became NaN or infinite."""


class Adversaries(pl.LightningModule):
    """Trains a network that states its own objective, with one AdamW per player; a plain network is a game of one.

    `network.players()` maps names to parameter lists; `network.losses(batch, progress)` yields (name, loss) in turn,
    each computed after the player before has moved; `progress` runs from 0 to 1. The learning rate rises over the
    first 5 % of the steps and falls to zero over the last 30 %.
    """

    def __init__(
        self, network: torch.nn.Module, steps: int, lr: float, betas: tuple[float, float], clip: float
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.steps, self.lr, self.betas, self.clip = network, steps, lr, betas, clip

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        players = self.network.players()
        self.names = list(players)
        return [torch.optim.AdamW(p, self.lr, self.betas, weight_decay=0.0, fused=True) for p in players.values()]

    def training_step(self, batch: tuple[torch.Tensor, ...], step: int) -> torch.Tensor:
        optimisers = self.optimizers()
        optimisers = dict(zip(self.names, optimisers if isinstance(optimisers, list) else [optimisers], strict=True))
        progress, total = step / self.steps, 0.0
        for name, loss in self.network.losses(batch, progress):
            optimiser = optimisers[name]
            for group in optimiser.param_groups:
                group["lr"] = self.lr * min(1.0, (step + 1) / (0.05 * self.steps), (1 - progress) / 0.3)
            optimiser.zero_grad()
            self.manual_backward(loss)
            torch.nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], self.clip)
            optimiser.step()
            total = total + loss.detach()
        return total


class _Watch(pl.Callback):
    """Keeps the loss curve, stops soon after the first loss that is no number, and reports progress."""

    def __init__(self, steps: int, report: Report, points: int = 40) -> None:
        self.steps, self.every, self.report = steps, max(1, steps // points), report
        self.sum, self.since, self.curve = 0.0, 0, []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.sum, self.since = self.sum + loss.detach(), self.since + 1
        if self.since == self.every or step + 1 == self.steps:
            mean = float(self.sum) / self.since  # the only wait for the device
            if not np.isfinite(mean):
                name = type(module).__name__
                raise Diverged(f"the loss of {name} is {mean} by step {step + 1}; lower its learning rate (lr)")
            self.curve.append({"step": step + 1, "loss": mean})
            self.report(self.since, f"loss {mean:.3f}")
            self.sum, self.since = 0.0, 0


@dataclass(frozen=True)
class Snapshot:
    """Weights after so many steps, averaged with this decay; on the CPU."""

    step: int
    decay: float
    weights: dict[str, torch.Tensor]


class Averages(pl.Callback):
    """Exponential moving averages of a network's weights, one per decay (0: the weights themselves), kept at some steps.

    An average is short at first: after n steps its decay is (1 + n) / (10 + n) or, once that is larger, its own.
    """

    def __init__(self, decays: Sequence[float], at: Sequence[int]) -> None:
        self.decays, self.at = list(decays), set(at)
        self.kept: list[Snapshot] = []

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        state = module.network.state_dict()  # shares memory with the weights that are trained
        self.live = {k: t for k, t in state.items() if t.is_floating_point()}
        self.counts = {k: t for k, t in state.items() if not t.is_floating_point()}
        self.means = [[t.clone() for t in self.live.values()] for _ in self.decays]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        for decay, mean in zip(self.decays, self.means, strict=True):
            torch._foreach_lerp_(mean, list(self.live.values()), 1 - min(decay, (1 + step) / (10 + step)))
            if step + 1 in self.at:
                weights = dict(zip(self.live, mean, strict=True)) | self.counts
                self.kept.append(Snapshot(step + 1, decay, {k: t.to("cpu", copy=True) for k, t in weights.items()}))


def by_channel(batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The batch with its images in memory channel by channel: bf16 convolutions of a CPU are then almost twice as fast."""
    return (
        batch[0].clone(memory_format=torch.contiguous_format),
        *batch[1:],
    )  # of one channel, contiguous() copies none


def fit(
    module: pl.LightningModule,
    batches: Batches | Pairs,
    compute: Compute,
    seed: int,
    report: Report,
    averages: Averages | None = None,
    val: Iterable | None = None,
    val_points: int = 12,
) -> list[dict]:
    """Train `module` for all of `batches` on one device; `averages` keeps averaged weights of its network on the way.

    Returns the curve: a dict per point with `step` and `loss`, and those that the module put into its own `curve`.
    Raises Diverged at a loss that is no number.
    """
    set_threads(compute)
    seed_everything(seed)
    where, exact = device(compute).type, precision(compute, batches.side)
    watch = _Watch(len(batches), report)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # its advice on loaders and devices does not apply here
    warnings.filterwarnings("ignore", module="lightning")
    trainer = pl.Trainer(
        accelerator=where,
        devices=1,
        precision=exact,
        max_epochs=1,
        logger=False,
        callbacks=[watch] + ([averages] if averages is not None else []),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=max(1, len(batches) // val_points) if val is not None else None,
        use_distributed_sampler=False,
    )
    order = by_channel if (where, exact) == ("cpu", "bf16-mixed") else None
    loader = DataLoader(batches, batch_size=None, shuffle=False, pin_memory=where == "cuda", collate_fn=order)
    trainer.fit(module, loader, val)
    if trainer.received_sigterm:
        raise SystemExit(143)  # Lightning would return as if training had been completed
    module.eval()
    return watch.curve + getattr(module, "curve", [])
