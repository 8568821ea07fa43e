"""Every network is trained here: weight averaging, divergence, curves, progress (around lightning.Trainer)."""

import logging
import warnings
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.utils.data import DataLoader

from pipeline.data.loaders import Batches
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


class _Averaged(WeightAveraging):
    """Exponential moving average of the weights, which replaces them when training ends; short at first, then `decay`."""

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self.average, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def average(self, averaged: list[torch.Tensor], current: list[torch.Tensor], count: torch.Tensor) -> None:
        n = float(count)
        weight = 1 - min(self.decay, (1 + n) / (10 + n))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, weight)
        else:
            torch._foreach_copy_(averaged, current)


def fit(
    module: pl.LightningModule,
    batches: Batches,
    compute: Compute,
    seed: int,
    report: Report,
    ema: float | None = None,
    val: Iterable | None = None,
    val_points: int = 12,
) -> list[dict]:
    """Train `module` for all of `batches` on one device; its weights are then the averaged ones if `ema` is given.

    Returns the curve: a dict per point with `step` and `loss`, and those that the module put into its own `curve`.
    Raises Diverged at a loss that is no number.
    """
    set_threads(compute)
    seed_everything(seed)
    where = device(compute).type
    watch = _Watch(len(batches), report)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # its advice on loaders and devices does not apply here
    warnings.filterwarnings("ignore", module="lightning")
    trainer = pl.Trainer(
        accelerator=where,
        devices=1,
        precision=precision(compute),
        max_epochs=1,
        logger=False,
        callbacks=[watch] + ([_Averaged(ema)] if ema is not None else []),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=max(1, len(batches) // val_points) if val is not None else None,
        use_distributed_sampler=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None, shuffle=False, pin_memory=where == "cuda"), val)
    if trainer.received_sigterm:
        raise SystemExit(143)  # Lightning would return as if training had been completed
    module.eval()
    return watch.curve + getattr(module, "curve", [])
